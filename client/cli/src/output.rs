//! What people and programs read: tables, sizes, JSON, notes, progress.
//!
//! Must never panic on a closed pipe, and never put anything but data on stdout.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::moment::Moment;
use gigastore_formats::wire::VerifyProgress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Pause between two lines of progress where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Pause between two moves of a bar.
const BAR_EVERY: Duration = Duration::from_millis(100);

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Human,
    /// One JSON document.
    Json,
}

/// Prints a line of data.
pub(crate) fn say(line: &dyn Display) {
    print(|stdout| writeln!(stdout, "{line}"));
}

/// Prints bytes of data; tells whether anybody takes more.
pub(crate) fn say_bytes(bytes: &[u8]) -> bool {
    print(|stdout| stdout.write_all(bytes));
    !ENDED.load(Ordering::Relaxed)
}

/// Tells whether some of the data could not be printed though somebody waited for it: a disk that is full.
pub(crate) fn lost_data() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Whether stdout takes no more.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Whether that was a failure.
static LOST: AtomicBool = AtomicBool::new(false);

/// Forgets what became of an earlier command of this process.
pub(crate) fn begin() {
    ENDED.store(false, Ordering::Relaxed);
    LOST.store(false, Ordering::Relaxed);
}

/// Writes to stdout, as long as it takes anything. The command goes on in any case, so that its work is done and its
/// exit code is that of its work; a reader that is gone has what it wanted.
fn print(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
    if ENDED.load(Ordering::Relaxed) {
        return;
    }
    let mut stdout = io::stdout().lock();
    let Err(error) = write(&mut stdout).and_then(|()| stdout.flush()) else { return };
    ENDED.store(true, Ordering::Relaxed);
    if error.kind() != io::ErrorKind::BrokenPipe {
        LOST.store(true, Ordering::Relaxed);
        note(&format_args!("error: stdout could not be written: {error}"));
    }
}

/// Says what a command would do, where it was told to change nothing.
pub(crate) fn would(format: Format, what: &str) {
    match format {
        Format::Human => say(&format_args!("would {what}")),
        Format::Json => say_json(&json!({ "would": what })),
    }
}

/// Says that a project of the store is passed over.
pub(crate) fn nothing_committed(project: &dyn Display) {
    note(&format_args!("{project}: nothing is committed (a first save that was not finished?); passed over"));
}

/// Prints a line for people on stderr.
pub(crate) fn note(line: &dyn Display) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints one JSON document.
pub(crate) fn say_json(document: &Value) {
    say(&format_args!("{document:#}"));
}

/// Prints rows below a header, columns aligned: numbers and sizes to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    for line in lines(header, rows) {
        say(&line);
    }
}

fn lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|cell| cell.chars().count())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let right = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()) || cell == "-")
    };
    let rights: Vec<bool> = (0..header.len()).map(right).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(i, cell)| match rights[i] {
            true => format!("{cell:>width$}", width = widths[i]),
            false => format!("{cell:<width$}", width = widths[i]),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(header.to_vec());
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(body).collect()
}

/// A size with three significant digits, decimal units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A moment as `2026-11-24 03:15:00Z`, from milliseconds since 1970.
pub(crate) fn moment(ms: u64) -> String {
    Moment::of_ms(ms).to_string()
}

/// Runs `work` while its progress is shown: a bar on a terminal, else a line every ten seconds.
pub(crate) async fn with_progress<T>(quiet: bool, what: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    let snapshot = || {
        let now = progress.snapshot();
        (now.done, now.total)
    };
    shown(quiet, what, snapshot, work).await
}

/// How far a verification or scrub is, as it tells.
#[derive(Default)]
pub(crate) struct Followed(Mutex<VerifyProgress>);

impl Followed {
    pub(crate) fn tell(&self, now: VerifyProgress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Returns done and total bytes.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (now.bytes_done, now.bytes)
    }
}

/// Like [`with_progress`], with done and total bytes from `snapshot`.
pub(crate) async fn shown<T>(
    quiet: bool,
    what: &str,
    snapshot: impl Fn() -> (u64, u64),
    work: impl Future<Output = T>,
) -> T {
    let show = |bar: &ProgressBar, terminal: bool| {
        let (done, total) = snapshot();
        bar.set_length(total);
        bar.set_position(done);
        if !terminal {
            note(&format_args!("{what}: {} of {}", size(done), size(total)));
        }
    };
    watched(quiet, || bar(what), show, work).await
}

/// Runs `work` while a line about it is told: again and again in place on a terminal, else every ten seconds.
#[cfg(feature = "tokenize")]
pub(crate) async fn told<T>(quiet: bool, line: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let style = || ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let show = |bar: &ProgressBar, terminal: bool| if terminal { bar.set_message(line()) } else { note(&line()) };
    // A rate is that since the first call.
    line();
    watched(quiet, || ProgressBar::no_length().with_style(style()), show, work).await
}

/// Runs `work` and has it shown from time to time: with a bar on a terminal, and without one elsewhere.
async fn watched<T>(
    quiet: bool,
    bar: impl FnOnce() -> ProgressBar,
    show: impl Fn(&ProgressBar, bool),
    work: impl Future<Output = T>,
) -> T {
    if quiet {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    let terminal = io::stderr().is_terminal();
    let (bar, every) = if terminal { (bar(), BAR_EVERY) } else { (ProgressBar::hidden(), LINE_EVERY) };
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            () = tokio::time::sleep(every) => show(&bar, terminal),
        }
    }
}

fn bar(what: &str) -> ProgressBar {
    let style = "{msg} {bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style).with_message(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (90_868_376, "90.9 MB"), (999_600, "1.00 MB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "18.4 EB");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["bcd".to_owned(), "7".to_owned()]];
        assert_eq!(lines(&["name", "n"], &rows), ["name   n", "a     10", "bcd    7"]);
    }
}
