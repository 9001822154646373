//! `gigastore data push`
//!
//! Must never commit a version of which a file was not checked.

use std::path::PathBuf;

use clap::Args;
use gigastore_client::dataset::PushSpec;
use gigastore_client::dataset::push::{Preview, preview};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::{Name, Target};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, with_progress, would};

/// Push Parquet files as a new version of a dataset
///
/// A version is exactly the files given (--append: also those of the newest version). A folder
/// stands for the .parquet files below it. Files that are in the store are not sent again; where
/// nothing changed no version is made.
///
/// Example:
///
///   gigastore data push part-*.parquet --to demo/corpus
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// Parquet files, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to: PROJECT/DATASET
    #[arg(long, value_name = "PROJECT/DATASET")]
    to: Target,
    /// Keep the files of the newest version
    #[arg(long)]
    append: bool,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
}

impl Push {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        if self.to.selector.is_some() {
            return Err(Failure::usage(format!("--to {}: versions are numbered by the store, leave out @…", self.to)));
        }
        if globals.dry_run {
            let Preview { files, bytes, rows } = preview(&self.files)?;
            would(globals.format, &format!("push {files} files, {}, {rows} rows to {}", size(bytes), self.to));
            return Ok(());
        }
        let store = globals.create().await?;
        let spec = PushSpec {
            project: self.to.project.clone(),
            name: self.to.name.clone(),
            append: self.append,
            metadata: std::collections::BTreeMap::new(),
            tag: self.tag,
        };
        let progress = Progress::default();
        let push = store.push(&spec, &self.files, &progress);
        let pushed = with_progress(globals.quiet, "pushing", &progress, push).await?;
        let info = &pushed.committed.info;
        if globals.json() {
            say_json(&json!({
                "dataset": self.to.to_string(), "version": info.commit.number, "existed": pushed.committed.existed,
                "files": pushed.files, "files_sent": pushed.files_sent, "bytes": pushed.bytes,
                "bytes_sent": pushed.bytes_sent, "content": info.commit.content,
            }));
            return Ok(());
        }
        let verb = if pushed.committed.existed { "has the same files already:" } else { "pushed:" };
        let (files, sent) = (pushed.files, pushed.files_sent);
        let (bytes, bytes_sent) = (size(pushed.bytes), size(pushed.bytes_sent));
        say(&format_args!(
            "{}@{} {verb} {files} files, {bytes}; {sent} sent, {bytes_sent}",
            self.to, info.commit.number
        ));
        Ok(())
    }
}
