//! The version that a push makes of the newest one, which may be another one by then than the push looked at.
//!
//! Must never bring back a document that was taken down meanwhile, and never put files together that were not compared.

use std::collections::{BTreeMap, BTreeSet};

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{FileRow, Lineage, TokenColumn};

use super::error::PushError;
use super::{PushSpec, alike};
use crate::dataset::commit::Draft;
use crate::dataset::read::Dataset;

/// Makes the version that `rows` give on top of the newest one. `seen` are the files of the version that was the newest
/// one when they were looked at.
pub(super) fn draft(
    spec: &PushSpec,
    seen: &[FileRow],
    newest: Option<&Dataset>,
    rows: &BTreeMap<String, FileRow>,
    column: &Option<TokenColumn>,
) -> Result<Draft, PushError> {
    let there = newest.map(Dataset::files).unwrap_or_default();
    not_taken_down(seen, there, rows)?;
    let mut all: BTreeMap<String, FileRow> = match spec.keeps() {
        true => there.iter().map(|row| (row.path.clone(), row.clone())).collect(),
        false => BTreeMap::new(),
    };
    let taken = |row: &&FileRow| all.get(&row.path).is_some_and(|there| there.blob.digest != row.blob.digest);
    if !spec.replace
        && let Some(row) = rows.values().find(taken)
    {
        return Err(PushError::Taken { path: row.path.clone() });
    }
    let kept = all.keys().any(|path| !rows.contains_key(path));
    let before = newest.map(Dataset::meta).filter(|_| kept);
    let (mut tokens, mut lineage) = (column.clone(), spec.lineage.clone());
    if let Some(before) = before {
        tokens = alike::joined(before, tokens, (&first(all.keys()), &first(rows.keys())))?;
        lineage = inherited(lineage, before.lineage.as_ref())?;
        compared(seen, all.values(), rows)?;
    }
    all.extend(rows.clone());
    Ok(Draft { metadata: spec.metadata.clone(), tokens, lineage, rows: all.into_values().collect() })
}

/// Refuses files of which documents were taken down since they were looked at: what is pushed may have them still.
fn not_taken_down(seen: &[FileRow], there: &[FileRow], rows: &BTreeMap<String, FileRow>) -> Result<(), PushError> {
    let seen: BTreeMap<&str, &FileRow> = seen.iter().map(|row| (row.path.as_str(), row)).collect();
    let same = |a: &FileRow, b: &FileRow| a.blob.digest == b.blob.digest && a.removed == b.removed;
    for row in there.iter().filter(|row| !row.removed.is_empty()) {
        let known = seen.get(row.path.as_str()).is_some_and(|seen| same(seen, row));
        if !known && rows.get(&row.path).is_some_and(|pushed| !same(pushed, row)) {
            return Err(PushError::TakenDown { path: row.path.clone() });
        }
    }
    Ok(())
}

/// Refuses files that stay beside those that are pushed, and of which neither the schema nor an equal one was compared
/// with theirs.
fn compared<'r>(
    seen: &[FileRow],
    mut kept: impl Iterator<Item = &'r FileRow>,
    rows: &BTreeMap<String, FileRow>,
) -> Result<(), PushError> {
    let stays = |row: &&FileRow| !rows.contains_key(&row.path);
    let known: BTreeSet<Digest> = seen.iter().filter(stays).chain(rows.values()).map(|row| row.schema).collect();
    match kept.find(|row| stays(row) && !known.contains(&row.schema)) {
        Some(row) => Err(PushError::Meanwhile { first: row.path.clone(), second: first(rows.keys()) }),
        None => Ok(()),
    }
}

fn first<'a>(mut paths: impl Iterator<Item = &'a String>) -> String {
    paths.next().cloned().unwrap_or_default()
}

/// Files that are appended have the tokenizer of those before them, or none that is known.
fn inherited(lineage: Option<Lineage>, before: Option<&Lineage>) -> Result<Option<Lineage>, PushError> {
    let Some(before) = before else { return Ok(lineage) };
    let mut lineage = lineage.unwrap_or_default();
    match (before.tokenizer, lineage.tokenizer) {
        (Some(expected), Some(actual)) if expected != actual => {
            return Err(PushError::KeptTokenizer { expected, actual });
        }
        (Some(_), None) => {
            lineage.tokenizer = before.tokenizer;
            lineage.tokenizer_file.clone_from(&before.tokenizer_file);
        }
        _ => {}
    }
    Ok(Some(lineage))
}

#[cfg(test)]
mod tests {
    use gigastore_formats::manifest::dataset::Removed;
    use gigastore_formats::object::Stored;
    use gigastore_formats::verified::GroupTree;

    use super::*;

    fn row(path: &str, content: &[u8], schema: &str, removed: &[u64]) -> FileRow {
        let tree = GroupTree::of(content);
        FileRow {
            path: path.to_owned(),
            blob: Stored { digest: tree.root(), epoch: 0 },
            bytes: tree.len(),
            rows: 9,
            schema: Digest::of(schema.as_bytes()),
            row_groups: Vec::new(),
            tree,
            tokens: Vec::new(),
            lengths: Vec::new(),
            removed: removed.iter().map(|row| Removed { row: *row, tokens: 1 }).collect(),
        }
    }

    fn pushed(rows: &[FileRow]) -> BTreeMap<String, FileRow> {
        rows.iter().map(|row| (row.path.clone(), row.clone())).collect()
    }

    #[test]
    fn a_takedown_meanwhile_is_not_undone() {
        let (whole, blank) = (row("a", b"whole", "s", &[]), row("a", b"blank", "s", &[3]));
        let more = row("a", b"blanker", "s", &[3, 4]);
        let rows = pushed(std::slice::from_ref(&whole));
        let undone = |seen: &[FileRow], there: &[FileRow]| {
            let found = not_taken_down(seen, there, &rows);
            matches!(found, Err(PushError::TakenDown { path }) if path == "a")
        };
        let (whole, blank, more) = ([whole], [blank], [more]);
        assert!(undone(&whole, &blank) && undone(&blank, &more) && undone(&[], &blank));
        assert!(!undone(&whole, &whole) && !undone(&blank, &whole), "nothing was taken down meanwhile");
        assert!(!undone(&blank, &blank), "the push has warned of it");
        not_taken_down(&whole, &more, &pushed(&more)).unwrap();
        not_taken_down(&whole, &blank, &pushed(&[row("b", b"whole", "s", &[])])).unwrap();
    }

    #[test]
    fn files_of_another_schema_that_came_meanwhile_are_refused() {
        let (a, b, c) = (row("a", b"1", "s", &[]), row("b", b"2", "s", &[]), row("c", b"3", "other", &[]));
        let rows = pushed(std::slice::from_ref(&b));
        let error = compared(std::slice::from_ref(&a), [&a, &c].into_iter(), &rows).unwrap_err();
        assert!(matches!(error, PushError::Meanwhile { first, second } if first == "c" && second == "b"));
        compared(&[], [&a, &b].into_iter(), &rows).unwrap();
        compared(&[a.clone(), c.clone()], [&a, &c].into_iter(), &rows).unwrap();
        let replaced = row("b", b"4", "other", &[]);
        assert!(compared(&[a.clone(), replaced], [&a, &c].into_iter(), &rows).is_err(), "it was not compared");
    }
}
