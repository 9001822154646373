//! Local Parquet files become a version of a dataset.
//!
//! Footers are read first, then the tokens of every new file, whole; then what the store lacks is sent, and the version
//! committed. What the newest version has already is neither read again nor sent. Must never commit a version of which
//! a file is not in the store, or was not validated.

mod alike;
mod draft;
mod error;
mod files;
pub(in crate::dataset) mod look;
mod ready;
pub(in crate::dataset) mod rewrite;
pub(in crate::dataset) mod room;
pub(in crate::dataset) mod send;
pub(in crate::dataset) mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::limits::PACK_TARGET_BYTES;
use gigastore_formats::manifest::dataset::{FileRow, Lineage, TokenColumn};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::wire::Committed;

use self::draft::draft;
use self::files::name_files;
use self::look::{footer, unsound};
use self::ready::Ready;
use self::send::{Checked, send};
use super::commit::Place;
use super::read::Dataset;
use crate::store::Store;
use crate::transfer::buffer::BufferPool;
use crate::transfer::coding::{Compression, Compressor};
use crate::transfer::phases::Phases;
use crate::transfer::progress::Progress;
use crate::transfer::source::SourceFile;
use crate::transfer::write::Writer;

pub use error::{PushError, PushWarning};
pub use rewrite::RewriteError;

/// Files worked on at once; the budget bounds their bytes.
const FILES_IN_FLIGHT: usize = 4;

/// What is pushed, and where.
#[derive(Clone, Debug)]
pub struct PushSpec {
    /// The project.
    pub project: ProjectName,
    /// The dataset.
    pub name: Name,
    /// Whether the files of the newest version are kept. Another file of the same path is refused.
    pub append: bool,
    /// Whether the files of the newest version are kept, but for those of the same paths.
    pub replace: bool,
    /// User metadata of the version.
    pub metadata: BTreeMap<String, String>,
    /// A tag to set in the same record.
    pub tag: Option<Name>,
    /// Which column holds the tokens.
    pub tokens: TokenChoice,
    /// Tokens of the vocabulary: all tokens must be below it.
    pub vocab_size: Option<u32>,
    /// A folder below which files are written anew in our layout, where they have another one or row groups that are
    /// too large; there must be room for all of them at once. None: files are pushed as they are.
    pub rewrite: Option<PathBuf>,
    /// Where the files came from.
    pub lineage: Option<Lineage>,
}

/// Which column holds the tokens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum TokenChoice {
    /// The only list of integers, or the only one named `tokens` or `input_ids`; where no file has any, the dataset is
    /// a table without tokens.
    #[default]
    Find,
    /// This one: a dotted path, or the name of its outermost element.
    Column(String),
    /// None: a table without tokens.
    None,
}

/// What was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The version.
    pub committed: Committed,
    /// Files given.
    pub files: usize,
    /// Files that the newest version had already.
    pub files_known: usize,
    /// Files that were written anew.
    pub files_rewritten: usize,
    /// Files that were not in the store.
    pub files_sent: usize,
    /// Bytes of the files given.
    pub bytes: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Documents of the files given.
    pub documents: u64,
    /// Planned tokens of the files given.
    pub tokens: u64,
    /// The token column of the version.
    pub column: Option<TokenColumn>,
    /// What is not as it should be, and no error.
    pub warnings: Vec<PushWarning>,
}

/// What a push would make a version of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

/// Looks at files as a push does: each must be a sound Parquet file with a name of its own. Reads no data of them.
pub fn preview(files: &[PathBuf]) -> Result<Preview, PushError> {
    let mut preview = Preview::default();
    for local in name_files(files)?.values() {
        let file = SourceFile::open(local)?;
        preview.files += 1;
        preview.bytes += file.len();
        preview.rows += footer(&file)?.facts().map_err(|source| unsound(&file, source))?.rows;
    }
    Ok(preview)
}

impl PushSpec {
    /// Pushes exactly the files given, whose token column is found.
    pub fn new(project: ProjectName, name: Name) -> Self {
        Self {
            project,
            name,
            append: false,
            replace: false,
            metadata: BTreeMap::new(),
            tag: None,
            tokens: TokenChoice::Find,
            vocab_size: None,
            rewrite: None,
            lineage: None,
        }
    }

    fn keeps(&self) -> bool {
        self.append || self.replace
    }

    fn place(&self) -> Place {
        Place { project: self.project.clone(), name: self.name.clone(), tag: self.tag.clone() }
    }
}

impl Store {
    /// Pushes files as a new version: exactly these, or with [`append`](PushSpec::append) also those of the newest one.
    /// A folder stands for the `.parquet` files below it. Where nothing changed no version is made.
    pub async fn push(&self, spec: &PushSpec, files: &[PathBuf], progress: &Progress) -> Result<Pushed, PushError> {
        let named = name_files(files)?;
        let writer = self.writer(&spec.project, progress).await?;
        let newest = self.newest(&spec.place()).await?;
        let ready = self.ready(&writer, spec, newest.as_ref(), named).await?;
        let Ready { known, sending, column, rewritten, warnings, room: _room } = ready;
        let checked: Vec<Checked> = futures::stream::iter(sending)
            .map(|file| send(&writer, file))
            .buffered(FILES_IN_FLIGHT)
            .try_collect()
            .await?;
        let (files_known, sent) = (known.len(), || checked.iter().filter(|file| file.sent));
        let (files_sent, bytes_sent) = (sent().count(), sent().map(|file| file.row.bytes).sum());
        let rows: BTreeMap<String, FileRow> = known
            .into_iter()
            .chain(checked.into_iter().map(|file| file.row))
            .map(|row| (row.path.clone(), row))
            .collect();
        let seen = newest.as_ref().map(Dataset::files).unwrap_or_default();
        let sum = |of: fn(&FileRow) -> u64| rows.values().map(of).sum();
        let mut pushed = Pushed {
            committed: self
                .commit_draft(&spec.place(), writer.epoch, |newest| draft(spec, seen, newest, &rows, &column))
                .await?,
            files: rows.len(),
            files_known,
            files_rewritten: rewritten,
            files_sent,
            bytes: sum(|row| row.bytes),
            bytes_sent,
            documents: sum(|row| row.rows),
            tokens: sum(|row| row.tokens.iter().sum()),
            column: column.clone(),
            warnings,
        };
        pushed.warnings.sort_by(|a, b| a.path().cmp(b.path()));
        Ok(pushed)
    }

    /// Returns what objects of a project are written with.
    pub(super) async fn writer(
        &self,
        project: &ProjectName,
        progress: &Progress,
    ) -> Result<Writer, gigastore_formats::wire::Fault> {
        Ok(Writer {
            phases: Phases::begin(&self.ambient),
            store: self.clone(),
            project: project.clone(),
            epoch: self.epoch(project).await?,
            pack_bytes: PACK_TARGET_BYTES,
            compressor: Compressor::new(Compression::Off, &self.ambient),
            pool: BufferPool::default(),
            groups: BufferPool::default(),
            progress: progress.clone(),
        })
    }
}
