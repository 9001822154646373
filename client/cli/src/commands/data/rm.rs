//! `gigastore data rm`
//!
//! Must never report documents as taken down of which the content is in the new version.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use gigastore_client::dataset::takedown::TakedownSpec;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::{Name, Target};
use serde_json::json;

use super::command_line;
use super::push::newest_only;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, with_progress, would};

/// Take documents down: commit a version in which their rows are empty
///
/// Row numbers, planned lengths, the order and every cursor stay valid. Of an empty row the id and
/// plain numbers stay; texts, bytes and lists, the tokens among them, are gone. Only the files that
/// hold such documents are written anew, without the metadata that other programs put into their
/// footers (all but ARROW:schema and gigastore.*). Earlier versions keep them until they are
/// dropped.
///
/// Copies lie in --staging while they are worked on. What a killed command left there goes with
/// the next data rm, or data push --rewrite, of the same folder.
///
/// The file has one document a line: an id as in the column id or doc_id (or --id-column), or
/// FILE:ROW, with rows from 0.
///
/// Example:
///
///   gigastore data rm --documents ids.txt --from demo/corpus
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Rm {
    /// A file of ids, or FILE:ROW, one a line
    #[arg(long, value_name = "FILE")]
    documents: PathBuf,
    /// The dataset: PROJECT/DATASET
    #[arg(long, value_name = "PROJECT/DATASET")]
    from: Target,
    /// The column with the ids
    #[arg(long, value_name = "NAME")]
    id_column: Option<String>,
    /// Go on where documents are not found
    #[arg(long)]
    ignore_missing: bool,
    /// A folder with room for two copies of the largest file; the system's for temporary files unless given
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
}

impl Rm {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        newest_only("--from", &self.from)?;
        let name = self.documents.display();
        let text = std::fs::read_to_string(&self.documents)
            .map_err(|error| Failure::local(&format!("{name} can't be read"), &error))?;
        let documents: BTreeSet<String> = text
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        if documents.is_empty() {
            return Err(Failure::usage(format!("{name} names no document: expected an id, or FILE:ROW, a line")));
        }
        if globals.dry_run {
            would(globals.format, &format!("take {} documents of {} down", documents.len(), self.from));
            return Ok(());
        }
        let spec = TakedownSpec {
            from: self.from.clone(),
            documents,
            id_column: self.id_column,
            ignore_missing: self.ignore_missing,
            tag: self.tag,
            staging: self.staging.unwrap_or_else(std::env::temp_dir),
            command: command_line(),
        };
        let store = globals.open().await?;
        let progress = Progress::default();
        let work = store.take_down(&spec, &progress);
        let done = with_progress(globals.quiet, "taking down", &progress, work).await?;
        let version = done.committed.info.commit.number;
        if globals.json() {
            say_json(&json!({
                "dataset": self.from.to_string(), "version": version, "files": done.files,
                "documents": done.documents, "tokens": done.tokens, "already": done.already, "missing": done.missing,
            }));
            return Ok(());
        }
        if !done.missing.is_empty() && !globals.quiet {
            note(&format_args!("{} documents were not found", done.missing.len()));
        }
        say(&format_args!(
            "{}@{version}: {} documents of {} tokens taken down in {} files; {} were before",
            self.from, done.documents, done.tokens, done.files, done.already
        ));
        Ok(())
    }
}
