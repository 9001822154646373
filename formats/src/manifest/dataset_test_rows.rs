//! Rows for the tests of dataset manifests. Must never change: fixtures were written from them.

use super::dataset::{DatasetMeta, FileRow, Lineage, Removed, TokenColumn};
use super::samples::{digest, note};
use crate::limits::GROUP_BYTES;
use crate::object::Stored;
use crate::table::RowGroup;
use crate::table::tokens::TokenWidth;
use crate::verified::GroupTree;

pub(super) fn meta() -> DatasetMeta {
    DatasetMeta {
        name: "web-text".parse().unwrap(),
        version: 3,
        parent: Some(2),
        metadata: note("source", "crawl"),
        tokens: None,
        lineage: None,
    }
}

/// What a version of a dataset of tokens says of itself.
pub(super) fn token_meta() -> DatasetMeta {
    let tokens = TokenColumn {
        column: "tokens.list.element".into(),
        width: TokenWidth::U16,
        vocab_size: Some(50_257),
        counts: true,
    };
    let lineage = Lineage {
        tokenizer: Some(digest(2)),
        tokenizer_file: Some("tokenizer.json".into()),
        sources: vec!["a.jsonl".into(), "b.jsonl.zst".into()],
        command: "gigastore data push".into(),
    };
    DatasetMeta { tokens: Some(tokens), lineage: Some(lineage), ..meta() }
}

/// A file of `groups` verified groups and as many row groups.
pub(super) fn file(path: &str, groups: u64) -> FileRow {
    let content = vec![7; (groups * GROUP_BYTES) as usize / 2 * 2];
    let tree = GroupTree::of(&content);
    let row_groups = (0..groups).map(|i| RowGroup { offset: 4 + i * 1000, len: 1000, rows: 10 + i }).collect();
    FileRow {
        path: path.to_owned(),
        blob: Stored { digest: tree.root(), epoch: 5 },
        bytes: tree.len(),
        rows: (0..groups).map(|i| 10 + i).sum(),
        schema: digest(1),
        row_groups,
        tree,
        tokens: Vec::new(),
        lengths: Vec::new(),
        removed: Vec::new(),
    }
}

/// A file of documents of five tokens, two of which were taken down where there are so many.
pub(super) fn token_file(path: &str, groups: u64) -> FileRow {
    let file = file(path, groups);
    let tokens = file.row_groups.iter().map(|group| 5 * group.rows).collect();
    let lengths = if file.rows == 0 { Vec::new() } else { vec![0, 0, 0, file.rows] };
    let removed = [3, 9].map(|row| Removed { row, tokens: 5 }).into_iter().filter(|removed| removed.row < file.rows);
    FileRow { tokens, lengths, removed: removed.collect(), ..file }
}
