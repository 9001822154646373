//! From local files to files that are ready to be sent: looked at, written anew where that was asked for, found to
//! belong together, and read whole.
//!
//! Must never hand on a file that was not validated.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::dataset::{FileRow, TokenColumn};

use super::error::{PushError, PushWarning};
use super::look::{Given, Looked};
use super::rewrite::{RewriteError, rewrite};
use super::room::Room;
use super::send::Sending;
use super::validate::{FileTokens, LARGE_GROUP_BYTES, large_groups, validate};
use super::{FILES_IN_FLIGHT, PushSpec, alike};
use crate::dataset::read::Dataset;
use crate::dataset::rows;
use crate::store::Store;
use crate::transfer::source::SourceLook;
use crate::transfer::write::Writer;

/// Files that were found to belong together.
pub(super) struct Ready {
    pub(super) known: Vec<FileRow>,
    pub(super) sending: Vec<Sending>,
    pub(super) column: Option<TokenColumn>,
    pub(super) rewritten: usize,
    pub(super) warnings: Vec<PushWarning>,
    /// Holds rewritten files until they are sent.
    pub(super) room: Option<Room>,
}

impl Store {
    /// Looks at files, and reads the tokens of those that are new.
    pub(super) async fn ready(
        &self,
        writer: &Writer,
        spec: &PushSpec,
        newest: Option<&Dataset>,
        named: BTreeMap<String, PathBuf>,
    ) -> Result<Ready, PushError> {
        // Looked at, and opened only when it is its turn: a process may have fewer open files than a dataset has.
        let mut seen = Vec::with_capacity(named.len());
        for (path, local) in named {
            let look = SourceLook::at(&local)?;
            writer.progress.plan(look.len());
            seen.push((path, look));
        }
        let given = futures::stream::iter(seen).map(|(path, look)| Given::of(writer, spec, newest, path, look));
        let mut given: Vec<Given> = given.buffered(FILES_IN_FLIGHT).try_collect().await?;
        let mut warnings = brought_back(&given, newest);
        let kept = kept(spec, &given, newest);
        let mut column = alike::token_column(spec, &given, newest, &kept)?;
        let vocab_size = spec.vocab_size.or(column.as_ref().and_then(|column| column.vocab_size));
        let mut room = None;
        let mut rewritten = 0;
        if let (Some(below), Some(column)) = (&spec.rewrite, &mut column) {
            room = Some(Room::new(below, &*self.ambient).map_err(|source| in_folder(below, source))?);
            rewritten = rewrite_all(writer, &mut given, column, vocab_size, room.as_ref()).await?;
        }
        let column_ref = column.as_ref();
        alike::check_columns(&given, newest, &kept).await?;
        let (mut known, mut new) = (Vec::new(), Vec::new());
        for file in given {
            match file {
                Given::Known(row) => {
                    writer.progress.done(row.bytes);
                    known.push(row);
                }
                Given::New(file) => new.push(file),
            }
        }
        let checks = futures::stream::iter(new).map(|file| async move {
            let Some(tokens) = file.tokens.as_ref().ok().filter(|_| column_ref.is_some()) else {
                return Ok((file, FileTokens::default(), None));
            };
            writer.progress.plan(file.look.len());
            let found = validate(writer, &file, tokens, vocab_size).await?;
            let warning = large_groups(&file, tokens, &found);
            Ok::<_, PushError>((file, found, warning))
        });
        let mut checks = checks.buffered(FILES_IN_FLIGHT);
        let mut sending = Vec::new();
        while let Some((file, tokens, warning)) = checks.try_next().await? {
            warnings.extend(warning);
            let there = newest.and_then(|dataset| dataset.find(&file.path));
            let Looked { path, look, facts, .. } = file;
            sending.push(Sending { path, look, facts, tokens, known: there.map(|row| row.blob) });
        }
        drop(checks);
        Ok(Ready { known, sending, column, rewritten, warnings, room })
    }
}

/// Returns the files of the newest version that stay, or are given again.
fn kept<'d>(spec: &PushSpec, given: &[Given], newest: Option<&'d Dataset>) -> Vec<&'d FileRow> {
    let is_known: BTreeMap<&str, bool> = given
        .iter()
        .map(|file| match file {
            Given::Known(row) => (row.path.as_str(), true),
            Given::New(file) => (file.path.as_str(), false),
        })
        .collect();
    let rows = newest.map(Dataset::files).unwrap_or_default().iter();
    rows.filter(|row| is_known.get(row.path.as_str()).copied().unwrap_or(spec.keeps())).collect()
}

/// Warns of files that replace ones of which documents were taken down.
fn brought_back(given: &[Given], newest: Option<&Dataset>) -> Vec<PushWarning> {
    let new = given.iter().filter_map(|file| match file {
        Given::New(file) => Some(file.path.as_str()),
        Given::Known(_) => None,
    });
    let row = |path: &str| newest?.find(path).filter(|row| !row.removed.is_empty());
    new.filter_map(|path| row(path).map(|row| (path.to_owned(), row.removed.len())))
        .map(|(path, documents)| PushWarning::BroughtBack { path, documents })
        .collect()
}

fn in_folder(folder: &std::path::Path, source: RewriteError) -> PushError {
    PushError::Rewrite { path: folder.display().to_string(), source }
}

/// Writes files anew that are not of our layout, or whose row groups are too large; returns how many.
async fn rewrite_all(
    writer: &Writer,
    given: &mut [Given],
    column: &mut TokenColumn,
    vocab_size: Option<u32>,
    room: Option<&Room>,
) -> Result<usize, PushError> {
    let Some(room) = room else { return Ok(0) };
    let width = column.width;
    let foreign = given.iter_mut().enumerate().filter_map(|(number, file)| match file {
        Given::New(file) if !is_ours(file) => Some((number, file)),
        _ => None,
    });
    let rewrites = foreign.map(|(number, file)| async move {
        let Ok(tokens) = file.tokens.clone() else { return Ok(0) };
        let (from, to) = (file.look.path().to_owned(), room.file(number));
        let (name, local, opened) = (file.path.clone(), from.clone(), file.look.open()?);
        let written = to.clone();
        let job = move || rows::guarded(|| rewrite(&from, &name, &tokens, (width, vocab_size), &written));
        let done = writer.store.ambient.computed(job).await;
        done.map_err(|source| PushError::Rewrite { path: local.display().to_string(), source })?;
        opened.check_unchanged()?;
        let look = SourceLook::at(&to)?;
        *file = Looked::of(writer, file.path.clone(), look, Some("tokens".to_owned())).await?;
        Ok::<_, PushError>(1)
    });
    let rewrites: Vec<_> = rewrites.collect();
    let counts: Vec<usize> = futures::stream::iter(rewrites).buffered(FILES_IN_FLIGHT).try_collect().await?;
    let rewritten = counts.into_iter().sum();
    if rewritten > 0 {
        let is_new = |file: &&Given| matches!(file, Given::New(_));
        if let Some(Given::New(file)) = given.iter().find(is_new)
            && let Ok(tokens) = &file.tokens
        {
            column.column = tokens.column().to_owned();
            column.counts |= given.iter().all(|file| matches!(file, Given::New(_)));
        }
    }
    Ok(rewritten)
}

/// Tells whether a file has our columns, and row groups of a size that readers like.
fn is_ours(file: &Looked) -> bool {
    let Ok(tokens) = &file.tokens else { return false };
    let width = tokens.width().bytes() as u64;
    let small = (0..tokens.groups()).all(|group| tokens.most_tokens(group).saturating_mul(width) <= LARGE_GROUP_BYTES);
    let columns: Vec<&str> = file.facts.columns.iter().map(|(path, _)| path.as_str()).collect();
    let counted = (0..tokens.groups()).all(|group| tokens.counts_range(group).is_some());
    small && counted && columns == ["id", "n_tokens", "tokens.list.element"]
}
