//! `gigastore data diff`
//!
//! Must never read a file of the dataset: the manifests say it all.

use clap::Args;
use gigastore_client::dataset::versions::{FileChange, FileSums, compare};
use gigastore_formats::name::Target;
use serde_json::{Value, json};

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, table};

/// Compare two dataset versions: files added, removed and changed, documents and tokens
///
/// Example:
///
///   gigastore data diff demo/corpus@1 demo/corpus@2
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Diff {
    /// The first version
    before: Target,
    /// The second version
    after: Target,
}

impl Diff {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let (before, after) = (store.dataset(&self.before).await?, store.dataset(&self.after).await?);
        let diff = compare(before.files(), after.files());
        if globals.json() {
            let of = |kind| diff.changes.iter().filter(move |file| kind_of(file) == kind).map(file_json);
            let of = |kind| of(kind).collect::<Vec<_>>();
            say_json(&json!({
                "added": of("added"), "removed": of("removed"), "changed": of("changed"), "same": diff.same,
                "before": sums_json(&diff.before), "after": sums_json(&diff.after),
            }));
            return Ok(());
        }
        let name = |target: &Target, number: u64| format!("{}/{}@{number}", target.project, target.name);
        let names = [name(&self.before, before.info().commit.number), name(&self.after, after.info().commit.number)];
        say(&format_args!("{} to {}", names[0], names[1]));
        for (what, of) in [
            ("documents", (|sums| sums.documents) as fn(&FileSums) -> u64),
            ("tokens", |sums| sums.tokens),
            ("taken down", |sums| sums.taken_down),
        ] {
            let (a, b) = (of(&diff.before), of(&diff.after));
            say(&format_args!("  {what:<11} {a} to {b} ({:+})", i128::from(b) - i128::from(a)));
        }
        say(&format_args!("  {:<11} {} the same, {} differ", "files", diff.same, diff.changes.len()));
        if diff.changes.is_empty() {
            return Ok(());
        }
        say(&"");
        let number = |sums: Option<FileSums>, of: fn(FileSums) -> u64| {
            sums.map_or_else(|| "-".to_owned(), |sums| of(sums).to_string())
        };
        let row = |file: &FileChange| {
            let sums = file.after.or(file.before).unwrap_or_default();
            let both = |of: fn(FileSums) -> u64| [number(file.before, of), number(file.after, of)];
            let [documents, then_documents] = both(|sums| sums.documents);
            let [tokens, then_tokens] = both(|sums| sums.tokens);
            let kind = kind_of(file).to_owned();
            vec![kind, file.path.clone(), size(sums.bytes), documents, then_documents, tokens, then_tokens]
        };
        let rows: Vec<Vec<String>> = diff.changes.iter().map(row).collect();
        table(&["", "file", "size", "documents", "then", "tokens", "then"], &rows);
        Ok(())
    }
}

fn kind_of(file: &FileChange) -> &'static str {
    match (&file.before, &file.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    }
}

fn file_json(file: &FileChange) -> Value {
    json!({
        "path": file.path, "before": file.before.as_ref().map(sums_json), "after": file.after.as_ref().map(sums_json),
    })
}

fn sums_json(sums: &FileSums) -> Value {
    let FileSums { bytes, documents, tokens, taken_down } = sums;
    json!({ "bytes": bytes, "documents": documents, "tokens": tokens, "taken_down": taken_down })
}
