//! `gigastore data ls`
//!
//! Must never list what is not committed.

use clap::Args;
use gigastore_formats::record::Sort;
use serde_json::json;

use crate::commands::ls::{project_and_name, unknown};
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, say_json, size, table};

/// List datasets and their versions
///
/// Example:
///
///   gigastore data ls demo
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ls {
    /// PROJECT or PROJECT/DATASET
    #[arg(value_name = "PROJECT[/DATASET]")]
    what: String,
}

impl Ls {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let (project, only) = project_and_name(&self.what)?;
        let info = globals.open().await?.project(&project).await?;
        let datasets: Vec<_> = info.names.iter().filter(|name| name.sort == Sort::Dataset).collect();
        if let Some(only) = only.as_ref().filter(|only| datasets.iter().all(|name| name.name != **only)) {
            let known: Vec<String> = datasets.iter().map(|name| name.name.to_string()).collect();
            return Err(unknown("dataset", only, &known));
        }
        let wanted = datasets.into_iter().filter(|name| only.as_ref().is_none_or(|only| *only == name.name));
        let versions: Vec<_> = wanted.flat_map(|name| &name.live).collect();
        if globals.json() {
            let list: Vec<_> = versions
                .iter()
                .map(|info| json!({
                    "dataset": info.commit.name, "version": info.commit.number, "files": info.commit.items,
                    "bytes": info.commit.bytes, "content": info.commit.content, "time_ms": info.time, "tags": info.tags,
                }))
                .collect();
            say_json(&json!(list));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = versions
            .iter()
            .map(|info| {
                let (name, number) = (info.commit.name.to_string(), info.commit.number.to_string());
                let (files, bytes) = (info.commit.items.to_string(), size(info.commit.bytes));
                vec![name, number, files, bytes, moment(info.time), info.tags.join(" "), info.commit.content.short()]
            })
            .collect();
        table(&["dataset", "version", "files", "size", "committed", "tags", "content"], &rows);
        Ok(())
    }
}
