//! `gigastore ckpt ls`
//!
//! Must never list what is not committed.

use clap::Args;
use gigastore_formats::name::Name;
use gigastore_formats::record::Sort;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, say_json, size, table};

/// List checkpoints, newest last
///
/// Examples:
///
///   gigastore ckpt ls demo            (all runs of a project)
///
///   gigastore ckpt ls demo/minilm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ls {
    /// PROJECT or PROJECT/RUN
    #[arg(value_name = "PROJECT[/RUN]")]
    what: String,
}

impl Ls {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let (project, run) = super::super::ls::project_and_name(&self.what)?;
        let store = globals.open().await?;
        let info = store.project(&project).await?;
        let known: Vec<String> =
            info.names.iter().filter(|name| name.sort == Sort::Checkpoint).map(|name| name.name.to_string()).collect();
        if let Some(run) = run.as_ref().filter(|run| !known.contains(&run.to_string())) {
            return Err(super::super::ls::unknown("run", run, &known));
        }
        let wanted = |name: &Name| run.as_ref().is_none_or(|run| run == name);
        let commits = info.names.iter().filter(|name| name.sort == Sort::Checkpoint && wanted(&name.name));
        let commits: Vec<_> = commits.flat_map(|name| &name.live).collect();
        if globals.json() {
            let list: Vec<_> = commits.iter().map(|info| json!({
                "run": info.commit.name, "step": info.commit.number, "bytes": info.commit.bytes,
                "slices": info.commit.items, "world_size": info.commit.world_size, "content": info.commit.content,
                "seq": info.seq, "time_ms": info.time, "tags": info.tags, "pinned": info.pinned,
            })).collect();
            say_json(&json!(list));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = commits
            .iter()
            .map(|info| {
                vec![
                    info.commit.name.to_string(),
                    info.commit.number.to_string(),
                    size(info.commit.bytes),
                    info.commit.items.to_string(),
                    info.commit.world_size.to_string(),
                    moment(info.time),
                    info.tags.join(" "),
                    info.commit.content.short(),
                ]
            })
            .collect();
        table(&["run", "step", "size", "slices", "ranks", "committed", "tags", "content"], &rows);
        Ok(())
    }
}
