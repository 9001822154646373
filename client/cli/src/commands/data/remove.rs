//! `gigastore data remove`
//!
//! Must never touch a version that is there.

use clap::Args;
use gigastore_formats::name::{Name, Target};
use serde_json::json;

use super::command_line;
use super::push::newest_only;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, would};

/// Commit a version of a dataset without some of its files
///
/// Earlier versions keep them. What remains keeps its order only if no file is removed: for single
/// documents see `gigastore data rm`.
///
/// Example:
///
///   gigastore data remove part-7.parquet crawl/2019 --from demo/corpus
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Remove {
    /// Files of the newest version, or folders of them
    #[arg(required = true)]
    paths: Vec<String>,
    /// The dataset: PROJECT/DATASET
    #[arg(long, value_name = "PROJECT/DATASET")]
    from: Target,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
}

impl Remove {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        newest_only("--from", &self.from)?;
        if globals.dry_run {
            would(globals.format, &format!("remove {} from {}", self.paths.join(", "), self.from));
            return Ok(());
        }
        let store = globals.open().await?;
        let committed = store.remove_files(&self.from, &self.paths, self.tag, command_line()).await?;
        let commit = &committed.info.commit;
        if globals.json() {
            say_json(&json!({
                "dataset": self.from.to_string(), "version": commit.number, "files": commit.items,
                "bytes": commit.bytes, "content": commit.content,
            }));
            return Ok(());
        }
        say(&format_args!("{}@{}: {} files are left", self.from, commit.number, commit.items));
        Ok(())
    }
}
