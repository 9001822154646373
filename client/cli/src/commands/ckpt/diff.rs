//! `gigastore ckpt diff`
//!
//! Must never read tensor data: digests decide.

use clap::Args;
use gigastore_client::checkpoint::Checkpoint;
use gigastore_client::checkpoint::diff::{Change, DataDiff, Diff as Compared, diff};
use gigastore_formats::name::Target;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, table};

/// Show which tensors changed between two checkpoints, and how many bytes they share
///
/// Where both know how far they were in their data, also whether they had seen the same: the
/// digests of what was seen are equal where the same tokens were at the same positions.
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
                "streams": streams(&first, &second, &found),
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
        for (name, data) in &found.streams {
            say(&format_args!("{name}: {}", self.sentence(*data)));
        }
        Ok(())
    }

    fn sentence(&self, data: DataDiff) -> String {
        let Self { first, second } = self;
        match data {
            DataDiff::Same(samples) => format!("the same data was seen, {samples} samples (the digests are equal)"),
            DataDiff::Differs(samples) => {
                format!("other data was seen after the same number of samples, {samples} (the digests differ)")
            }
            DataDiff::Apart(a, b) => {
                format!("{first} is at {a} samples, {second} at {b}: what was seen can't be compared")
            }
            DataDiff::Added => format!("only {second} has a cursor"),
            DataDiff::Removed => format!("only {first} has a cursor"),
        }
    }
}

/// Returns what each has seen of each data stream.
fn streams(first: &Checkpoint, second: &Checkpoint, found: &Compared) -> serde_json::Value {
    let one = |(name, data): (&String, &DataDiff)| {
        let seen = |checkpoint: &Checkpoint| checkpoint.cursors().get(name).map(|cursor| cursor.seen);
        json!({ "name": name, "seen": data.as_str(), "first": seen(first), "second": seen(second) })
    };
    found.streams.iter().map(one).collect()
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
