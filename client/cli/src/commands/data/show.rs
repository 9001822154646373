//! `gigastore data show`
//!
//! Must never read a file of the dataset: the manifest says it all.

use clap::Args;
use gigastore_formats::name::Target;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, say, say_json, size, table};

/// Show the files of a dataset version: bytes, rows, row groups, and the digest that b3sum prints
///
/// Example:
///
///   gigastore data show demo/corpus@3
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Show {
    /// What to show; without @… the latest
    target: Target,
}

impl Show {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let dataset = globals.open().await?.dataset(&self.target).await?;
        let info = dataset.info();
        if globals.json() {
            let files: Vec<_> = dataset
                .files()
                .iter()
                .map(|row| {
                    json!({
                        "path": row.path, "bytes": row.bytes, "rows": row.rows, "blake3": row.blob.digest,
                        "schema": row.schema, "row_groups": row.row_groups,
                    })
                })
                .collect();
            say_json(&json!({
                "dataset": info.commit.name, "version": info.commit.number, "content": info.commit.content,
                "bytes": info.commit.bytes, "tags": info.tags, "parent": dataset.meta().parent, "files": files,
            }));
            return Ok(());
        }
        say(&format_args!("{}/{}@{}", self.target.project, info.commit.name, info.commit.number));
        say(&format_args!("  committed   {} in log record {}", moment(info.time), info.seq));
        say(&format_args!("  size        {} in {} files", size(info.commit.bytes), info.commit.items));
        say(&format_args!("  content     {}", info.commit.content));
        say(&"");
        let rows: Vec<Vec<String>> = dataset
            .files()
            .iter()
            .map(|row| {
                let groups = row.row_groups.len().to_string();
                vec![row.path.clone(), size(row.bytes), row.rows.to_string(), groups, row.blob.digest.to_string()]
            })
            .collect();
        table(&["file", "size", "rows", "row groups", "blake3"], &rows);
        Ok(())
    }
}
