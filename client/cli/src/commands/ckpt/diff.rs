//! `gigastore ckpt diff`
//!
//! Must never read tensor data: digests decide.

use clap::Args;
use gigastore_client::checkpoint::diff::{Change, diff};
use gigastore_formats::name::Target;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, table};

/// Show which tensors changed between two checkpoints, and how many bytes they share
///
/// Example:
///
///   gigastore ckpt diff demo/minilm@100 demo/minilm@200
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Diff {
    /// The first checkpoint
    first: Target,
    /// The second
    second: Target,
}

impl Diff {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let (first, second) = (store.checkpoint(&self.first).await?, store.checkpoint(&self.second).await?);
        let found = diff(&first, &second);
        if globals.json() {
            let changes: Vec<_> = found
                .changes
                .iter()
                .map(|(name, bytes, change)| json!({ "name": name, "bytes": bytes, "change": word(*change) }))
                .collect();
            say_json(&json!({
                "first": self.first.to_string(), "second": self.second.to_string(), "changes": changes,
                "same": found.same, "same_bytes": found.same_bytes,
                "stored_bytes": found.stored_bytes, "shared_stored_bytes": found.shared_stored_bytes,
            }));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = found
            .changes
            .iter()
            .map(|(name, bytes, change)| vec![word(*change).to_owned(), name.clone(), size(*bytes)])
            .collect();
        if rows.is_empty() {
            say(&format_args!("{} and {} hold the same", self.first, self.second));
        } else {
            table(&["change", "tensor", "size"], &rows);
        }
        say(&format_args!("same: {} tensors and files, {}", found.same, size(found.same_bytes)));
        let (shared, stored) = (size(found.shared_stored_bytes), size(found.stored_bytes));
        say(&format_args!("shared in the store: {shared} of {stored}"));
        Ok(())
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Reshaped => "type or shape",
        Change::Changed => "changed",
        Change::Resharded => "other boxes",
    }
}
