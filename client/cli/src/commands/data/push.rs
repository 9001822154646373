//! `gigastore data push`
//!
//! Must never commit a version of which a file was not checked.

use std::path::PathBuf;

use clap::Args;
use gigastore_client::dataset::push::{Preview, PushWarning, preview};
use gigastore_client::dataset::{PushSpec, Pushed, TokenChoice};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::manifest::dataset::Lineage;
use gigastore_formats::name::{Name, Target};
use serde_json::{Value, json};

use super::command_line;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, with_progress, would};

/// Sources that a version names: 1,000; a shell may have made many more of one pattern, which the command line has.
const MOST_SOURCES: usize = 1000;

/// Push Parquet files as a new version of a dataset
///
/// A version is exactly the files given (--append, --replace: also those of the newest version). A
/// folder stands for the .parquet files below it. Files that the newest version has are neither
/// read again nor sent; where nothing changed no version is made.
///
/// The token column is the only list of integers, or the only one named tokens or input_ids. Of
/// every new file all tokens, counts (n_tokens) and ids (id or doc_id) are read before anything is
/// committed: no nulls, no token past the vocabulary. Other columns are hashed and not decoded; all
/// files must have the same ones. Files without any list of integers make a plain table, of which
/// footers alone are read.
///
/// --rewrite writes files of another layout, or with row groups over 64 MiB, anew (columns id,
/// n_tokens, tokens; ids are those of a column id or doc_id, else FILE:ROW) into --staging, a
/// folder with room for all of them, and pushes those.
///
/// Examples:
///
///   gigastore data push part-*.parquet --to demo/corpus --vocab-size 50257
///
///   gigastore data push new/ --to demo/corpus --append --tokens-column input_ids
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// Parquet files, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to: PROJECT/DATASET
    #[arg(long, value_name = "PROJECT/DATASET")]
    to: Target,
    /// Keep the files of the newest version; another file of the same path is an error
    #[arg(long)]
    append: bool,
    /// Keep the files of the newest version, but replace those of the same paths
    #[arg(long, conflicts_with = "append")]
    replace: bool,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
    /// The column with the tokens: its name, or the dotted path of its values
    #[arg(long, value_name = "NAME")]
    tokens_column: Option<String>,
    /// Push a table without tokens
    #[arg(long, conflicts_with_all = ["tokens_column", "vocab_size", "rewrite"])]
    no_tokens: bool,
    /// Tokens of the vocabulary: every token must be below
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: Option<u32>,
    /// Write files of another layout, or with too large row groups, anew
    #[arg(long)]
    rewrite: bool,
    /// Where files are written anew; the system's folder for temporary files unless given
    #[arg(long, value_name = "DIR", requires = "rewrite")]
    staging: Option<PathBuf>,
}

impl Push {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        newest_only("--to", &self.to)?;
        if globals.dry_run {
            let Preview { files, bytes, rows } = preview(&self.files)?;
            would(globals.format, &format!("push {files} files, {}, {rows} rows to {}", size(bytes), self.to));
            return Ok(());
        }
        let store = globals.create().await?;
        let spec = self.spec();
        let progress = Progress::default();
        let push = store.push(&spec, &self.files, &progress);
        let pushed = with_progress(globals.quiet, "pushing", &progress, push).await?;
        if globals.json() {
            say_json(&self.json(&pushed));
            return Ok(());
        }
        for warning in pushed.warnings.iter().filter(|_| !globals.quiet) {
            note(&format_args!("warning: {warning}"));
        }
        let info = &pushed.committed.info;
        let verb = if pushed.committed.existed { "has the same files already:" } else { "pushed:" };
        let (files, sent) = (pushed.files, pushed.files_sent);
        let (bytes, bytes_sent) = (size(pushed.bytes), size(pushed.bytes_sent));
        let tokens = match &pushed.column {
            Some(_) => format!("; {} documents, {} tokens", pushed.documents, pushed.tokens),
            None => String::new(),
        };
        say(&format_args!(
            "{}@{} {verb} {files} files, {bytes}; {sent} sent, {bytes_sent}{tokens}",
            self.to, info.commit.number
        ));
        Ok(())
    }

    fn spec(&self) -> PushSpec {
        let tokens = match (&self.tokens_column, self.no_tokens) {
            (_, true) => TokenChoice::None,
            (Some(name), _) => TokenChoice::Column(name.clone()),
            (None, _) => TokenChoice::Find,
        };
        let mut sources: Vec<String> =
            self.files.iter().take(MOST_SOURCES).map(|file| file.display().to_string()).collect();
        if let Some(more) = self.files.len().checked_sub(MOST_SOURCES).filter(|more| *more > 0) {
            sources.push(format!("… and {more} more"));
        }
        PushSpec {
            append: self.append,
            replace: self.replace,
            tag: self.tag.clone(),
            tokens,
            vocab_size: self.vocab_size,
            rewrite: self.rewrite.then(|| self.staging.clone().unwrap_or_else(std::env::temp_dir)),
            lineage: Some(Lineage { sources, command: command_line(), ..Lineage::default() }),
            ..PushSpec::new(self.to.project.clone(), self.to.name.clone())
        }
    }

    fn json(&self, pushed: &Pushed) -> Value {
        let info = &pushed.committed.info;
        let warnings: Vec<Value> = pushed.warnings.iter().map(warning_json).collect();
        json!({
            "dataset": self.to.to_string(), "version": info.commit.number, "existed": pushed.committed.existed,
            "files": pushed.files, "files_known": pushed.files_known, "files_rewritten": pushed.files_rewritten,
            "files_sent": pushed.files_sent, "bytes": pushed.bytes, "bytes_sent": pushed.bytes_sent,
            "content": info.commit.content, "documents": pushed.documents, "tokens": pushed.tokens,
            "token_column": pushed.column, "warnings": warnings,
        })
    }
}

/// Refuses a target that names a version.
pub(super) fn newest_only(option: &str, target: &Target) -> Result<(), Failure> {
    match target.selector {
        Some(_) => {
            let text = format!("{option} {target}: versions are numbered by the store, leave out @…");
            Err(Failure::usage(text))
        }
        None => Ok(()),
    }
}

fn warning_json(warning: &PushWarning) -> Value {
    match warning {
        PushWarning::LargeRowGroups { path, groups, bytes, tokens } => json!({
            "kind": "large_row_groups", "path": path, "row_groups": groups, "bytes": bytes, "tokens": tokens,
            "message": warning.to_string(),
        }),
        PushWarning::BroughtBack { path, documents } => json!({
            "kind": "brought_back", "path": path, "documents": documents, "message": warning.to_string(),
        }),
    }
}
