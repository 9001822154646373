//! Versions of datasets with very many row groups, made from little content: files share their bytes, so that a million
//! row groups take 2 MiB of store. What they say of rows and tokens is drawn; the bytes are noise and no Parquet.
//!
//! Must never commit what an engine would not.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use gigastore_engine::{CommitError, Engine, UploadError};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, TokenColumn, write_dataset};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::Stored;
use gigastore_formats::record::TxnId;
use gigastore_formats::table::RowGroup;
use gigastore_formats::table::tokens::TokenWidth;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Committed, DatasetRequest};

use crate::model::XorShift;

/// Bytes of each file.
pub const FILE_BYTES: usize = 2 << 20;

/// Bytes of a row group, as the files say.
const GROUP_BYTES: u64 = 2000;

/// Fewest rows of a row group, and one more than are added to them.
const ROWS: (u64, u64) = (8000, 1000);

/// Tokens of a document, and one more than are added to all of a row group: 700 to 900 tokens a document.
const TOKENS: (u64, u64) = (700, 1_600_000);

const SEED: u64 = 5;

/// A version of `files` files, each of `groups` row groups: at most 1,000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManyGroups {
    /// Files.
    pub files: u64,
    /// Row groups of a file.
    pub groups: u64,
}

/// Why the version could not be committed.
#[derive(Debug, thiserror::Error)]
pub enum ManyGroupsError {
    /// The bytes of the files could not be stored.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The manifest could not be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The version could not be committed.
    #[error(transparent)]
    Commit(#[from] Arc<CommitError>),
}

impl ManyGroups {
    /// A million row groups, in a thousand files.
    pub const MILLION: Self = Self { files: 1000, groups: 1000 };

    /// Returns the number of row groups.
    pub fn row_groups(&self) -> u64 {
        self.files * self.groups
    }

    /// Returns the content of each file.
    pub fn content() -> Bytes {
        XorShift::new(SEED).bytes(FILE_BYTES)
    }

    /// Commits the version as the next one of a dataset.
    pub async fn commit(
        &self,
        engine: &Engine,
        project: &ProjectName,
        name: &Name,
    ) -> Result<Committed, ManyGroupsError> {
        let content = Self::content();
        let tree = GroupTree::of(&content);
        let blob = engine.put_blob(project, 0, tree.clone(), stream::iter([Ok(content)]).boxed()).await?;
        let mut random = XorShift::new(SEED);
        let rows: Vec<FileRow> = (0..self.files).map(|number| self.file(&mut random, number, blob, &tree)).collect();
        let column = "tokens.list.element".into();
        let tokens = TokenColumn { column, width: TokenWidth::U16, vocab_size: Some(50_257), counts: true };
        let meta = DatasetMeta {
            name: name.clone(),
            version: 1,
            parent: None,
            metadata: Default::default(),
            tokens: Some(tokens),
            lineage: None,
        };
        let manifest = Bytes::from(write_dataset(&meta, &rows)?);
        let txn = TxnId::derive(&[b"many row groups"]);
        let request = DatasetRequest { project: project.clone(), txn, epoch: 0, tag: None };
        Ok(engine.commit_dataset(&request, manifest).await?)
    }

    fn file(&self, random: &mut XorShift, number: u64, blob: Stored, tree: &GroupTree) -> FileRow {
        let drawn = random.bytes(self.groups as usize * 4);
        let drawn: Vec<u64> = drawn.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect();
        let group = |(index, drawn): (u64, &u64)| RowGroup {
            offset: 4 + index * GROUP_BYTES,
            len: GROUP_BYTES,
            rows: ROWS.0 + drawn % ROWS.1,
        };
        let row_groups: Vec<RowGroup> = (0..).zip(&drawn).map(group).collect();
        let rows: u64 = row_groups.iter().map(|group| group.rows).sum();
        let tokens = row_groups.iter().zip(&drawn).map(|(group, drawn)| group.rows * TOKENS.0 + drawn % TOKENS.1);
        FileRow {
            path: format!("train/part-{number:05}.parquet"),
            blob,
            bytes: tree.len(),
            rows,
            schema: Digest::of(b"schema"),
            tokens: tokens.collect(),
            row_groups,
            tree: tree.clone(),
            // As if all documents had 512 to 1,023 tokens.
            lengths: [vec![0; 10], vec![rows]].concat(),
            removed: Vec::new(),
        }
    }
}
