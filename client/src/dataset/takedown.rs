//! Takedown: a version in which some documents are empty, and every other document is where it was.
//!
//! Only the files that hold them are written anew, in a folder of the caller's, one after the other: the same schema,
//! row groups and rows, and of the empty rows nothing that could hold content (see `blank.rs`). Planned lengths stay,
//! so that orders and cursors of earlier versions hold. Must never commit a file of which a row moved.

mod blank;
mod error;
mod find;
mod leaf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gigastore_formats::manifest::dataset::{FileRow, Removed};
use gigastore_formats::name::{Name, Selector, Target};
use gigastore_formats::wire::{CommitInfo, Committed, Fault};

use self::blank::Blanking;
use super::commit::{Draft, Place};
use super::push::RewriteError;
use super::push::look::Looked;
use super::push::room::Room;
use super::push::send::{Sending, send};
use super::push::validate::validate;
use super::read::Dataset;
use super::rows::{self, ID_COLUMNS};
use super::versions::descended;
use crate::store::Store;
use crate::transfer::progress::Progress;
use crate::transfer::source::{SourceFile, SourceLook};
use crate::transfer::write::Writer;

pub use error::TakedownError;

/// What is taken down.
#[derive(Clone, Debug)]
pub struct TakedownSpec {
    /// The dataset; always its newest version.
    pub from: Target,
    /// Ids of documents, or `FILE:ROW` with a path of the version and a row from 0.
    pub documents: BTreeSet<String>,
    /// The column with the ids: `id` or `doc_id`, the first that a file has, where none is named.
    pub id_column: Option<String>,
    /// Whether ids that no document has are no error.
    pub ignore_missing: bool,
    /// A tag to set in the same record.
    pub tag: Option<Name>,
    /// A folder with room for two copies of the largest file.
    pub staging: PathBuf,
    /// What the version remembers of how it was made.
    pub command: String,
}

/// What was taken down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakenDown {
    /// The version; the newest one where nothing was left to do.
    pub committed: Committed,
    /// Files that were written anew.
    pub files: usize,
    /// Documents that are empty now, and were not before.
    pub documents: u64,
    /// The tokens that they had.
    pub tokens: u64,
    /// Documents that were taken down before.
    pub already: u64,
    /// What no document was found for.
    pub missing: Vec<String>,
}

impl Store {
    /// Takes documents down: commits a version of the newest one in which their rows are empty.
    pub async fn take_down(&self, spec: &TakedownSpec, progress: &Progress) -> Result<TakenDown, TakedownError> {
        let place = Place { project: spec.from.project.clone(), name: spec.from.name.clone(), tag: spec.tag.clone() };
        let newest = self.newest(&place).await?;
        let newest = newest.ok_or_else(|| TakedownError::Absent { target: spec.from.to_string() })?;
        let (hits, missing) = find::find(&newest, spec).await?;
        if !missing.is_empty() && !spec.ignore_missing {
            return Err(TakedownError::Missing { target: spec.from.to_string(), documents: missing });
        }
        let writer = self.writer(&place.project, progress).await?;
        let room = Room::new(&spec.staging, &*self.ambient)
            .map_err(|source| TakedownError::Rewrite { path: spec.staging.display().to_string(), source })?;
        let mut changed: BTreeMap<String, FileRow> = BTreeMap::new();
        let (mut documents, mut tokens, mut already) = (0, 0, 0);
        for (number, (path, rows)) in hits.into_iter().enumerate() {
            let row = newest.row(&path)?;
            let before: BTreeSet<u64> = row.removed.iter().map(|removed| removed.row).collect();
            let new: BTreeSet<u64> = rows.difference(&before).copied().collect();
            already += (rows.len() - new.len()) as u64;
            if new.is_empty() {
                continue;
            }
            let local = [room.file(2 * number), room.file(2 * number + 1)];
            let after = rewrite(&writer, &newest, row, (spec, &new), &local).await?;
            local.iter().for_each(|path| drop(std::fs::remove_file(path)));
            let gone = after.removed.iter().filter(|removed| new.contains(&removed.row));
            tokens += gone.map(|removed| removed.tokens).sum::<u64>();
            documents += new.len() as u64;
            changed.insert(path, after);
        }
        let base = newest.info().commit.number;
        let draft = |newest: Option<&Dataset>| drafted(spec, newest, base, &changed);
        let committed = match changed.is_empty() {
            true => Committed { info: self.tagged(spec, &newest).await?, existed: true },
            false => self.commit_draft(&place, writer.epoch, draft).await?,
        };
        Ok(TakenDown { committed, files: changed.len(), documents, tokens, already, missing })
    }

    /// Sets the tag, if one was asked for, on a version that is there.
    async fn tagged(&self, spec: &TakedownSpec, version: &Dataset) -> Result<CommitInfo, Fault> {
        let Some(tag) = &spec.tag else { return Ok(version.info().clone()) };
        let number = Selector::Number(version.info().commit.number);
        self.set_tag(&Target { selector: Some(number), ..spec.from.clone() }, tag).await
    }
}

fn drafted(
    spec: &TakedownSpec,
    newest: Option<&Dataset>,
    base: u64,
    changed: &BTreeMap<String, FileRow>,
) -> Result<Draft, TakedownError> {
    let moved = |actual| TakedownError::Moved { target: spec.from.to_string(), expected: base, actual };
    let newest = newest.ok_or_else(|| moved(0))?;
    // A version that was pushed meanwhile may hold documents that nobody looked for.
    if newest.info().commit.number != base {
        return Err(moved(newest.info().commit.number));
    }
    let row = |row: &FileRow| changed.get(&row.path).unwrap_or(row).clone();
    let rows = newest.files().iter().map(row).collect();
    Ok(Draft { lineage: Some(descended(newest, &spec.command)), ..Draft::like(newest, rows) })
}

/// Fetches a file, writes it anew without the content of `rows`, and sends it.
async fn rewrite(
    writer: &Writer,
    newest: &Dataset,
    row: &FileRow,
    (spec, rows): (&TakedownSpec, &BTreeSet<u64>),
    [from, to]: &[PathBuf; 2],
) -> Result<FileRow, TakedownError> {
    let store = &writer.store;
    newest.fetch(&row.path, from, false, &writer.progress).await?;
    let column = newest.meta().tokens.as_ref().map(|tokens| tokens.column.clone());
    let look = |path: &Path| SourceLook::at(path).map_err(|source| TakedownError::Send(Box::new(source.into())));
    let looked = |look| Looked::of(writer, row.path.clone(), look, column.clone());
    let before = looked(look(from)?).await?;
    let id = spec.id_column.clone().or_else(|| id_of(&before));
    let (wanted, target) = (rows.clone(), to.clone());
    let (local, tokens) = (from.clone(), before.tokens.as_ref().ok().filter(|_| column.is_some()).cloned());
    let job = move || {
        let source = SourceFile::open(&local).map_err(|error| RewriteError::Damaged(error.to_string()))?;
        let blanking = Blanking { source: &source, tokens: tokens.as_ref(), id: id.as_deref(), rows: &wanted };
        rows::guarded(|| blanking.write(&target))
    };
    let lengths = store.ambient.computed(job).await;
    let lengths = lengths.map_err(|source| TakedownError::Rewrite { path: row.path.clone(), source })?;
    let after = looked(look(to)?).await?;
    let removed: Vec<Removed> = rows.iter().zip(lengths).map(|(row, tokens)| Removed { row: *row, tokens }).collect();
    let mut all = [row.removed.clone(), removed].concat();
    all.sort_unstable();
    check(writer, row, &after, &all).await?;
    let (facts, tokens) = (after.facts, Default::default());
    let sending = Sending { path: row.path.clone(), look: after.look, facts, tokens, known: None };
    let sent = send(writer, sending).await?.row;
    Ok(FileRow { tokens: row.tokens.clone(), lengths: row.lengths.clone(), removed: all, ..sent })
}

fn id_of(file: &Looked) -> Option<String> {
    let there = |name: &&str| file.facts.columns.iter().any(|(path, _)| path == name);
    ID_COLUMNS.into_iter().find(there).map(str::to_owned)
}

/// Checks what was written: the schema, the rows of every row group, and the tokens that are left.
async fn check(writer: &Writer, before: &FileRow, after: &Looked, removed: &[Removed]) -> Result<(), TakedownError> {
    let differs = |what| TakedownError::Differs { path: before.path.clone(), what };
    let rows =
        |groups: &[gigastore_formats::table::RowGroup]| groups.iter().map(|group| group.rows).collect::<Vec<_>>();
    if after.facts.schema != before.schema {
        return Err(differs("schema"));
    }
    if rows(&after.facts.row_groups) != rows(&before.row_groups) {
        return Err(differs("rows of its row groups"));
    }
    let (false, Ok(tokens)) = (before.tokens.is_empty(), &after.tokens) else { return Ok(()) };
    let found = validate(writer, after, tokens, None).await?;
    let mut first = 0;
    for ((planned, left), group) in before.tokens.iter().zip(&found.tokens).zip(&before.row_groups) {
        let inside = removed.iter().filter(|removed| (first..first + group.rows).contains(&removed.row));
        let gone: u64 = inside.map(|removed| removed.tokens).sum();
        if planned.checked_sub(gone) != Some(*left) {
            return Err(differs("tokens of its row groups"));
        }
        first += group.rows;
    }
    Ok(())
}

fn io(path: &Path, source: std::io::Error) -> RewriteError {
    RewriteError::Io { path: path.display().to_string(), source }
}
