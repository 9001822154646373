//! `gigastore data tokenize`
//!
//! Must never commit a version of which an input was not read to its end.

mod lineage;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use gigastore_client::dataset::{PushSpec, Pushed, TokenChoice};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::{Name, Target};
use gigastore_formats::table::tokens::TokenWidth;
use gigastore_ingest::encode::{Bos, Encoder, Ends, Eos};
use gigastore_ingest::input::{Format, Found, Reading, Split, find};
use gigastore_ingest::run::{Counters, PART_BYTES, RunSpec, Snapshot, Tokenized, run};
use gigastore_ingest::work::Work;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, table, told, with_progress, would};

/// Tokenize text, JSONL or Parquet, and push it as a version of a dataset
///
/// Inputs are files, folders, globs (quoted) or - for stdin, packed with gzip or zstd or not. The
/// ending of a name says what is in it (.txt .text .md, .jsonl .ndjson .json, .parquet; of folders
/// and globs other files are passed over), --input-format says it for all.
///
/// Every document becomes a row: id, n_tokens, tokens. Its id is --id-field, else the first 16
/// bytes of the BLAKE3 of its text, in hex. Tokens are u16 where the vocabulary fits, else u32.
/// What the tokenizer says of truncation and padding is not done.
///
/// What is finished stays in the work folder, which takes as many bytes as the dataset: after a
/// kill the same command goes on there. The same inputs give the same files.
///
/// Examples:
///
///   gigastore data tokenize books/ --tokenizer tokenizer.json --to demo/books
///
///   gigastore data tokenize 'c4/*.json.gz' --id-field url --tokenizer t.json --to demo/c4
///
///   zcat dump.gz | gigastore data tokenize - --input-format text --split blank-lines …
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tokenize {
    /// Files, folders, globs, or - for stdin
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// The tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Where to: PROJECT/DATASET
    #[arg(long, value_name = "PROJECT/DATASET")]
    to: Target,
    /// What every input is, whatever its name
    #[arg(long, value_enum)]
    input_format: Option<InputFormat>,
    /// What a document of text is: a file, a line, or what stands between blank lines
    #[arg(long, value_enum, default_value = "file")]
    split: SplitAt,
    /// The field or column of the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// The field or column of the document's id: strings or integers
    #[arg(long, value_name = "NAME")]
    id_field: Option<String>,
    /// The token before each document: none, or a token of the vocabulary
    #[arg(long, value_name = "TOKEN", default_value = "none")]
    bos: String,
    /// The token after each document: none, a token, or auto: eos_token of a tokenizer_config.json beside the
    /// tokenizer, else its only special token with the name of an end of text (such as <|endoftext|> or </s>)
    #[arg(long, value_name = "TOKEN", default_value = "auto")]
    eos: String,
    /// Let the tokenizer's post-processor add its special tokens, as for a model's input; --eos auto is none then
    #[arg(long)]
    special_tokens: bool,
    /// Pass over documents that can't be read, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Keep the files of the newest version; needs a --prefix of its own
    #[arg(long)]
    append: bool,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
    /// What the names of the dataset's files begin with
    #[arg(long, value_name = "NAME", default_value = "part")]
    prefix: String,
    /// MiB of tokens in a file, before compression
    #[arg(long, value_name = "MIB", default_value_t = PART_BYTES >> 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 14))]
    part_mib: u64,
    /// Where finished parts wait for the push [default: a folder for this target below $XDG_CACHE_HOME/gigastore or
    /// ~/.cache/gigastore]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Forget an unfinished run in the work folder
    #[arg(long)]
    restart: bool,
    /// Threads that tokenize [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// What inputs are.
#[derive(Clone, Copy, ValueEnum)]
enum InputFormat {
    Text,
    Jsonl,
    Parquet,
}

/// How text is split.
#[derive(Clone, Copy, ValueEnum)]
enum SplitAt {
    File,
    Lines,
    BlankLines,
}

impl Tokenize {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        self.check()?;
        let reading = self.reading();
        let found = find(&self.inputs, &reading)?;
        let encoder = Arc::new(Encoder::open(&self.tokenizer, &self.ends())?);
        if globals.dry_run {
            let bytes = found.inputs.iter().map(gigastore_ingest::input::Input::bytes).sum();
            let what = format!(
                "tokenize {} inputs, {}, to {}: {}",
                found.inputs.len(),
                size(bytes),
                self.to,
                described(&encoder)
            );
            would(globals.format, &what);
            return Ok(());
        }
        let store = globals.create().await?;
        let spec = RunSpec {
            inputs: found.inputs.clone(),
            reading,
            encoder: Arc::clone(&encoder),
            threads: self.threads(),
            part_bytes: self.part_mib << 20,
            prefix: self.prefix.clone(),
        };
        let folder = self.work_folder(globals.url()?)?;
        let mut work = Work::open(&folder, &spec.plan(), self.restart)?;
        // A run with finished parts may have been killed after its commit, and the files are its own: the push knows
        // them, and refuses others of the same names.
        if self.append && work.finished().is_empty() {
            if let Err(failure) = self.check_prefix(&store).await {
                // A plan with this prefix would be in the way of the next.
                work.remove()?;
                return Err(failure);
            }
        }
        if !globals.quiet && !work.finished().is_empty() {
            let n = work.finished().len();
            note(&format_args!("going on after {n} finished parts in {}", folder.display()));
        }
        let counters = Counters::default();
        let (line, seen) = (line_of(&found, &counters), counters.clone());
        let job = tokio::task::spawn_blocking(move || (run(&spec, &mut work, &seen), work));
        let ended = told(globals.quiet, line, job).await;
        let (done, work) = ended.map_err(|error| Failure::local("the tokenizer ended early", &error))?;
        let done = done?;
        let progress = Progress::default();
        let parts = [work.parts()];
        let spec = self.push_spec(&encoder);
        let pushed = with_progress(globals.quiet, "pushing", &progress, store.push(&spec, &parts, &progress)).await?;
        work.remove()?;
        self.report(globals, &found, &encoder, &done, &pushed);
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        if self.to.selector.is_some() {
            return Err(Failure::usage(format!("--to {}: versions are numbered by the store, leave out @…", self.to)));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.chars().all(allowed) || self.prefix.starts_with('.') {
            let text = format!("--prefix {:?}: expected 1 to 64 of A-Z, a-z, 0-9, -, _ and .", self.prefix);
            return Err(Failure::usage(text));
        }
        if self.append && self.prefix == "part" {
            return Err(Failure::usage("--append: files of the newest version may have the same names: pass --prefix"));
        }
        Ok(())
    }

    /// Checks that no file of the newest version has a name that a part will have.
    async fn check_prefix(&self, store: &gigastore_client::store::Store) -> Result<(), Failure> {
        let newest = match store.dataset(&self.to).await.map_err(Failure::from) {
            Ok(newest) => newest,
            Err(failure) if failure.is_not_found() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let is_part = |path: &str| {
            let rest = path.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('-'));
            rest.and_then(|rest| rest.strip_suffix(".parquet")).is_some_and(|n| n.parse::<u64>().is_ok())
        };
        match newest.files().iter().find(|file| is_part(&file.path)) {
            Some(file) => Err(Failure::usage(format!("{} has {} already: pass another --prefix", self.to, file.path))),
            None => Ok(()),
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            format: self.input_format.map(|format| match format {
                InputFormat::Text => Format::Text,
                InputFormat::Jsonl => Format::Jsonl,
                InputFormat::Parquet => Format::Parquet,
            }),
            split: match self.split {
                SplitAt::File => Split::File,
                SplitAt::Lines => Split::Lines,
                SplitAt::BlankLines => Split::BlankLines,
            },
            text_field: self.text_field.clone(),
            id_field: self.id_field.clone(),
            skip_bad: self.skip_bad,
        }
    }

    fn ends(&self) -> Ends {
        let bos = if self.bos == "none" { Bos::None } else { Bos::Token(self.bos.clone()) };
        let eos = match self.eos.as_str() {
            "none" => Eos::None,
            "auto" => Eos::Auto,
            token => Eos::Token(token.to_owned()),
        };
        Ends { bos, eos, special_tokens: self.special_tokens }
    }

    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        self.threads.map_or_else(cores, usize::from)
    }

    /// Returns the folder that this target's unfinished run has.
    fn work_folder(&self, url: &str) -> Result<PathBuf, Failure> {
        if let Some(work) = &self.work {
            return Ok(work.clone());
        }
        let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
        let cache = cache.ok_or_else(|| Failure::usage("neither XDG_CACHE_HOME nor HOME is set: pass --work DIR"))?;
        let key = Digest::of(format!("{url}\n{}", self.to).as_bytes()).to_string();
        Ok(cache.join("gigastore/tokenize").join(&key[..32]))
    }

    fn push_spec(&self, encoder: &Encoder) -> PushSpec {
        PushSpec {
            append: self.append,
            tag: self.tag.clone(),
            tokens: TokenChoice::Column("tokens".to_owned()),
            vocab_size: Some(encoder.vocab_size()),
            lineage: Some(self.lineage(encoder)),
            ..PushSpec::new(self.to.project.clone(), self.to.name.clone())
        }
    }

    fn report(&self, globals: &Globals, found: &Found, encoder: &Encoder, done: &Tokenized, pushed: &Pushed) {
        let info = &pushed.committed.info;
        let counts = &done.counts;
        let skipped = &counts.skipped;
        if globals.json() {
            let token = |token: Option<(&str, u32)>| token.map(|(token, id)| json!({ "token": token, "id": id }));
            say_json(&json!({
                "dataset": self.to.to_string(), "version": info.commit.number, "existed": pushed.committed.existed,
                "content": info.commit.content, "inputs": found.inputs.len(), "passed_over": found.passed_over,
                "documents": counts.documents, "tokens": counts.tokens, "text_bytes": counts.text_bytes,
                "skipped": skipped.documents, "skipped_first": skipped.first,
                "tokenizer": encoder.digest(), "vocab_size": encoder.vocab_size(), "width": encoder.width(),
                "bos": token(encoder.bos()), "eos": token(encoder.eos()), "files": pushed.files,
                "files_before": done.parts_before, "files_sent": pushed.files_sent, "bytes": pushed.bytes,
                "bytes_sent": pushed.bytes_sent,
            }));
            return;
        }
        let verb = if pushed.committed.existed { "has the same files already" } else { "pushed" };
        say(&format_args!("{}@{} {verb}", self.to, info.commit.number));
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let per_document = counts.tokens / counts.documents.max(1);
        table(
            &["", ""],
            &[
                row("inputs", format!("{} ({} passed over)", found.inputs.len(), found.passed_over)),
                row("documents", format!("{} ({} skipped)", counts.documents, skipped.documents)),
                row("text", size(counts.text_bytes)),
                row("tokens", format!("{} ({per_document} a document)", counts.tokens)),
                row("files", format!("{}, {}; {} sent", pushed.files, size(pushed.bytes), pushed.files_sent)),
                row("tokenizer", described(encoder)),
            ],
        );
        if !globals.quiet {
            skipped.first.iter().for_each(|bad| note(&format_args!("skipped {bad}")));
            if skipped.documents > skipped.first.len() as u64 {
                note(&format_args!("skipped {} more", skipped.documents - skipped.first.len() as u64));
            }
        }
    }
}

fn described(encoder: &Encoder) -> String {
    let token = |token: Option<(&str, u32)>| token.map_or("none".to_owned(), |(token, id)| format!("{token} ({id})"));
    let width = match encoder.width() {
        TokenWidth::U16 => "u16",
        TokenWidth::U32 => "u32",
    };
    let (bos, eos, digest) = (token(encoder.bos()), token(encoder.eos()), encoder.digest());
    format!("{} tokens as {width}, bos {bos}, eos {eos}, BLAKE3 {digest}", encoder.vocab_size())
}

/// Returns what is told while the work goes on: rates are of this run, counts of all that is done.
fn line_of(found: &Found, counters: &Counters) -> impl Fn() -> String + use<> {
    let (begun, counters) = (Instant::now(), counters.clone());
    let total: u64 = found.inputs.iter().map(gigastore_ingest::input::Input::bytes).sum();
    let first = std::cell::OnceCell::new();
    move || {
        let now = counters.snapshot();
        let first: &Snapshot = first.get_or_init(|| now);
        let rate = (now.tokens - first.tokens) as f64 / begun.elapsed().as_secs_f64();
        let part = (now.read.min(total) * 100).checked_div(total).map(|part| format!(", {part} % read"));
        let part = part.unwrap_or_default();
        let skipped = if now.skipped > 0 { format!(", {} skipped", now.skipped) } else { String::new() };
        format!(
            "tokenizing: {} documents, {} of text, {} tokens, {rate:.0} tokens/s{part}{skipped}",
            now.documents,
            size(now.text_bytes),
            now.tokens
        )
    }
}
