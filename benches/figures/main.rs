//! Every figure of Gigastore beside the limit of the same run, by
//! `cargo xtask bench [NAME…] [--quick] [--filled] [--list]`.
//!
//! Each group of rows is measured by a process of its own, which prints a line of JSON for each row; this program
//! prints them on, then the table on stderr. It fails where a target is missed or a row is absent. Must never measure
//! a save that found its bytes in the store, and never believe a restore whose bytes it did not compare.

mod clock;
mod coded;
mod corpus;
mod data;
mod local;
mod log;
mod memory;
mod peer;
mod python;
mod row;
mod rows;
mod seaweed;
mod served;
mod slow;
mod stall;
mod state;
mod stores;
mod table;
mod tokenize;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use gigastore_formats::wire::with_causes;
use row::{Figure, ROWS, Row};

type Res<T> = Result<T, Box<dyn Error>>;

/// What is measured, and how thoroughly.
pub(crate) struct Plan {
    quick: bool,
    /// Names of rows, or what they begin with; none means all.
    names: Vec<String>,
    /// Where files lie while they are measured.
    folder: PathBuf,
    /// Whether saves find free memory filled.
    memory: Option<memory::Memory>,
}

impl Plan {
    /// Bytes of the working set.
    pub(crate) fn bytes(&self) -> u64 {
        if self.quick { 256 << 20 } else { 2 << 30 }
    }

    /// Tokens of the corpus, in millions.
    pub(crate) fn million_tokens(&self) -> u64 {
        if self.quick { 20 } else { 200 }
    }

    /// Runs whose median counts.
    pub(crate) fn runs(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    /// Returns a new folder for files that are measured, removed when it is dropped.
    pub(crate) fn folder(&self) -> Res<tempfile::TempDir> {
        std::fs::create_dir_all(&self.folder)?;
        Ok(tempfile::tempdir_in(&self.folder)?)
    }

    /// Fills free memory, where that is asked for, before something is saved and timed.
    pub(crate) fn fill_memory(&self) -> Res<()> {
        self.memory.as_ref().map_or(Ok(()), |memory| memory.fill(&self.folder))
    }

    /// Returns a folder that stays for the next bench.
    pub(crate) fn kept(&self, name: &str) -> Res<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Tells whether a row is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|begin| name.starts_with(begin.as_str()))
    }

    /// Tells whether a row that begins so is asked for.
    pub(crate) fn wants_any(&self, begin: &str) -> bool {
        ROWS.iter().any(|row| row.name.starts_with(begin) && self.wants(row.name))
    }

    /// Prints the figure of a row, where it is asked for, made by `figure` with a note that begins as this plan
    /// demands.
    pub(crate) fn report(&self, name: &str, note: &str, figure: impl FnOnce(&Row, String) -> Figure) -> Res<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let row = row::named(name).ok_or_else(|| format!("there is no row {name}"))?;
        let runs = self.runs();
        let size = match row.group {
            "data" => format!("{} M tokens", self.million_tokens()),
            "log" => "few records".to_owned(),
            _ => format!("{} MiB", self.bytes() >> 20),
        };
        let note = if self.memory.as_ref().is_some_and(memory::Memory::has_filled) {
            &format!("free memory filled; {note}")
        } else {
            note
        };
        let how = if self.quick { format!("quick: {size}, {runs} runs") } else { format!("median of {runs} runs") };
        let note = if note.is_empty() { how } else { format!("{how}; {note}") };
        println!("{}", serde_json::to_string(&figure(row, note))?);
        Ok(())
    }

    fn parse(arguments: &[String]) -> Res<Self> {
        let known = |argument: &&String| {
            !matches!(argument.as_str(), "--quick" | "--filled" | "--bench") && argument.starts_with("--")
        };
        if let Some(argument) = arguments.iter().find(known) {
            return Err(format!("{argument} is no option; there are --quick, --filled and --list").into());
        }
        let names = arguments.iter().filter(|argument| !argument.starts_with("--")).cloned().collect();
        let folder = std::env::var_os("GIGASTORE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let given = |option| arguments.iter().any(|argument| argument == option);
        let memory = given("--filled").then(memory::Memory::default);
        Ok(Self { quick: given("--quick"), names, folder, memory })
    }
}

/// Returns the path that a variable names.
pub(crate) fn setting(variable: &str) -> Res<PathBuf> {
    let value = std::env::var_os(variable).map(PathBuf::from);
    value.ok_or_else(|| format!("{variable} is not set: `cargo xtask bench` sets it").into())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.iter().position(|argument| argument == "--role");
    let done = match role.map(|at| &arguments[at + 1..]) {
        Some([role, rest @ ..]) => served::play(role, rest, |group, names| measure(group, &Plan::parse(names)?)),
        // `cargo test --benches` starts benches too, to see that they build; nothing is to be measured then.
        _ if !arguments.iter().any(|argument| argument == "--bench") => Ok(()),
        _ if arguments.iter().any(|argument| argument == "--list") => {
            table::list();
            Ok(())
        }
        _ => match Plan::parse(&arguments).and_then(|plan| drive(&plan)) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs the groups of the rows that are wanted, each in a process of its own; tells whether all is as it should be.
fn drive(plan: &Plan) -> Res<bool> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| plan.wants(row.name)).collect();
    for name in &plan.names {
        if !rows.iter().any(|row| row.name.starts_with(name.as_str())) {
            return Err(format!("no row is named {name} or begins with it; see --list").into());
        }
    }
    let mut groups: Vec<&str> = Vec::new();
    for row in &rows {
        if !groups.contains(&row.group) {
            groups.push(row.group);
        }
    }
    let mut figures: Vec<Figure> = Vec::new();
    for group in groups {
        eprintln!("bench: {group}");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", "measure", group]).args(&plan.names);
        command.args(plan.quick.then_some("--quick")).args(plan.memory.is_some().then_some("--filled"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?).lines();
        for line in lines {
            let line = line?;
            figures.push(serde_json::from_str(&line).map_err(|error| format!("{group} printed {line:?}: {error}"))?);
            println!("{line}");
        }
        let status = child.wait()?;
        if !status.success() {
            eprintln!("bench: {group} did not end well: {status}; its rows that are not printed are absent");
        }
    }
    Ok(table::show(&rows, &figures))
}

/// Measures one group in this process.
fn measure(group: &str, plan: &Plan) -> Res<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match group {
        "save" => runtime.block_on(local::save(plan)),
        "restore" => runtime.block_on(local::restore(plan)),
        "fanout" => runtime.block_on(slow::fanout(plan)),
        "adaptive" => runtime.block_on(slow::adaptive(plan)),
        "seaweed" => runtime.block_on(seaweed::seaweed(plan)),
        "plan" => runtime.block_on(rows::plan(plan)),
        "log" => runtime.block_on(log::log(plan)),
        "async" => runtime.block_on(stall::stall(plan)),
        "coded" => runtime.block_on(coded::coded(plan)),
        "python" => runtime.block_on(python::python(plan)),
        "peers" => runtime.block_on(peer::peers(plan)),
        "data" => runtime.block_on(data::data(plan)),
        _ => Err(format!("there is no group {group}").into()),
    }
}
