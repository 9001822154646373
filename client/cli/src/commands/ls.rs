//! `gigastore ls`
//!
//! Must never list what is not committed.

use clap::Args;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::Sort;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, table};

/// List projects, or the runs and datasets of one
///
/// Example:
///
///   gigastore ls demo
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ls {
    /// The project
    project: Option<ProjectName>,
}

impl Ls {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let Some(project) = self.project else {
            let projects = store.projects().await?;
            if globals.json() {
                say_json(&json!(projects));
            } else {
                projects.iter().for_each(|project| say(project));
            }
            return Ok(());
        };
        let info = store.project(&project).await?;
        if globals.json() {
            say_json(&json!(info));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = info
            .names
            .iter()
            .map(|name| {
                let sort = if name.sort == Sort::Checkpoint { "run" } else { "dataset" };
                let latest = name.live.iter().max_by_key(|info| info.seq);
                let (number, bytes) = latest.map_or(("-".to_owned(), "-".to_owned()), |info| {
                    (info.commit.number.to_string(), size(info.commit.bytes))
                });
                vec![name.name.to_string(), sort.to_owned(), name.live.len().to_string(), number, bytes]
            })
            .collect();
        table(&["name", "kind", "live", "latest", "size"], &rows);
        Ok(())
    }
}

/// Parses PROJECT or PROJECT/NAME.
pub(crate) fn project_and_name(text: &str) -> Result<(ProjectName, Option<Name>), Failure> {
    let usage = |error: gigastore_formats::name::NameError| Failure::usage(error.to_string());
    let plain = text.strip_prefix("gigastore://").unwrap_or(text);
    match plain.split_once('/') {
        Some((project, name)) => Ok((project.parse().map_err(usage)?, Some(name.parse().map_err(usage)?))),
        None => Ok((plain.parse().map_err(usage)?, None)),
    }
}

/// A name that is not there, with near ones.
pub(crate) fn unknown(what: &str, name: &Name, known: &[String]) -> Failure {
    Failure::not_found(format!("no {what} \"{name}\"")).near(name.as_str(), known)
}
