//! Reads the tokens of files whole before anything is committed: no nulls, no token past the vocabulary, counts that
//! are right; and their ids, which must be readable. Other columns are not decoded. Sums up what the manifest says of
//! them.
//!
//! Row groups are read in parallel, as many as the budget of bytes in flight holds. Must never pass over a row.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::dataset::{add_lengths, count_length};
use gigastore_formats::table::tokens::{Documents, TokenError, TokenFile, TokenList};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::error::{PushError, PushWarning};
use super::look::{Looked, read};
use super::rewrite::RewriteError;
use crate::dataset::rows;
use crate::transfer::source::SourceFile;
use crate::transfer::write::Writer;

/// Row groups of one file that are read at once; the budget bounds their bytes.
const GROUPS_IN_FLIGHT: usize = 4;

/// Bytes of a row group, stored or as tokens in memory, above which a push warns: 64 MiB. A reader holds several row
/// groups for each of its lanes.
pub(super) const LARGE_GROUP_BYTES: u64 = 64 << 20;

/// What the tokens of a file are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::dataset) struct FileTokens {
    /// Tokens of each row group.
    pub(in crate::dataset) tokens: Vec<u64>,
    /// Histogram of the lengths of its documents.
    pub(in crate::dataset) lengths: Vec<u64>,
}

/// Reads all tokens of a file.
pub(in crate::dataset) async fn validate(
    writer: &Writer,
    file: &Looked,
    tokens: &TokenFile,
    vocab_size: Option<u32>,
) -> Result<FileTokens, PushError> {
    let source = file.look.open()?;
    let groups = (0..tokens.groups()).map(|number| {
        let (file, source) = (tokens.clone(), Arc::clone(&source));
        async move {
            let memory = file.tokens_range(number).len()
                + file.counts_range(number).map_or(0, |range| range.len())
                + file.most_tokens(number).saturating_mul(file.width().bytes() as u64)
                + file.rows(number).saturating_mul(8);
            let _taken = writer.store.budget.take(memory).await;
            let job = Group { file, source, number, vocab_size };
            writer.store.ambient.computed(move || job.read()).await
        }
    });
    let mut groups = futures::stream::iter(groups).buffered(GROUPS_IN_FLIGHT);
    let (mut found, mut number, mut done) = (FileTokens::default(), 0, 0);
    while let Some(group) = groups.try_next().await? {
        found.tokens.extend(group.tokens);
        add_lengths(&mut found.lengths, &group.lengths);
        let bytes = file.facts.row_groups.get(number).map_or(0, |group| group.len);
        let bytes = bytes.min(file.look.len() - done);
        writer.progress.done(bytes);
        (number, done) = (number + 1, done + bytes);
    }
    let path = file.look.path().to_owned();
    let ids = writer.store.ambient.computed(move || read_ids(&path)).await;
    ids.map_err(|source| PushError::Ids { path: file.look.path().display().to_string(), source })?;
    writer.progress.done(file.look.len() - done);
    source.check_unchanged()?;
    Ok(found)
}

/// Reads the ids of a file, where it has some, as those who ask for them will: a page and some thousand ids at a time.
fn read_ids(path: &Path) -> Result<(), RewriteError> {
    let io = |source| RewriteError::Io { path: path.display().to_string(), source };
    let source = File::open(path).map_err(io)?;
    rows::guarded(|| -> Result<(), RewriteError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(source)?;
        let Some(id) = rows::first_column(builder.parquet_schema(), &rows::ID_COLUMNS) else { return Ok(()) };
        let mask = ProjectionMask::columns(builder.parquet_schema(), [id]);
        let mut batches = builder.with_projection(mask).with_batch_size(rows::BATCH_ROWS).build()?;
        Ok(batches.try_for_each(|batch| batch.map(drop))?)
    })
}

/// Warns of row groups that are too large.
pub(super) fn large_groups(file: &Looked, tokens: &TokenFile, found: &FileTokens) -> Option<PushWarning> {
    let width = tokens.width().bytes() as u64;
    let sizes = file.facts.row_groups.iter().zip(&found.tokens).map(|(group, tokens)| (group.len, *tokens));
    let large: Vec<(u64, u64)> = sizes
        .map(|(len, tokens)| (len.max(tokens.saturating_mul(width)), tokens))
        .filter(|(bytes, _)| *bytes > LARGE_GROUP_BYTES)
        .collect();
    let (bytes, tokens) = large.iter().max().copied()?;
    Some(PushWarning::LargeRowGroups { path: file.path.clone(), groups: large.len(), bytes, tokens })
}

/// One row group of a file.
struct Group {
    file: TokenFile,
    source: Arc<SourceFile>,
    number: usize,
    vocab_size: Option<u32>,
}

impl Group {
    fn read(&self) -> Result<FileTokens, PushError> {
        let Self { file, source, number, .. } = self;
        let unsound = |source| self.unsound(source);
        let mut documents = Documents::new(file.width());
        let chunk = read(source, file.tokens_range(*number))?;
        file.read_tokens(*number, &chunk, &mut documents).map_err(unsound)?;
        drop(chunk);
        self.check_vocabulary(&documents)?;
        if let Some(range) = file.counts_range(*number) {
            let (chunk, mut counts) = (read(source, range)?, Vec::new());
            file.read_counts(*number, &chunk, &mut counts).map_err(unsound)?;
            let differs = documents.lengths(0).zip(&counts).position(|(actual, expected)| actual != *expected);
            if let Some(at) = differs {
                let (path, row) = (self.path(), self.first_row() + at as u64);
                let actual = documents.lengths(at).next().unwrap_or_default();
                return Err(PushError::Count { path, row, expected: counts[at], actual });
            }
        }
        let mut histogram = Vec::new();
        documents.lengths(0).for_each(|tokens| count_length(&mut histogram, tokens.into()));
        Ok(FileTokens { tokens: vec![documents.tokens.len() as u64], lengths: histogram })
    }

    fn check_vocabulary(&self, documents: &Documents) -> Result<(), PushError> {
        let Some(vocab_size) = self.vocab_size else { return Ok(()) };
        let tokens = documents.tokens.as_slice();
        if tokens.greatest().is_none_or(|greatest| greatest < vocab_size) {
            return Ok(());
        }
        match tokens.iter().enumerate().find(|(_, token)| *token >= vocab_size) {
            Some((at, token)) => {
                let document = documents.ends.partition_point(|end| *end as usize <= at);
                let (path, row) = (self.path(), self.first_row() + document as u64);
                Err(PushError::Vocabulary { path, row, token, vocab_size })
            }
            None => Ok(()),
        }
    }

    fn first_row(&self) -> u64 {
        (0..self.number).map(|number| self.file.rows(number)).sum()
    }

    fn path(&self) -> String {
        self.source.path().display().to_string()
    }

    fn unsound(&self, source: TokenError) -> PushError {
        PushError::Tokens { path: self.path(), source: Arc::new(source) }
    }
}
