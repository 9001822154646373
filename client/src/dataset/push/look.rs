//! A look at the files of a push: their footers, and whether the newest version has them already.
//!
//! Must never read data pages, and never take a file for one of the newest version by less than its digest.

use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::manifest::dataset::{FileRow, TokenColumn};
use gigastore_formats::range::ByteRange;
use gigastore_formats::table::tokens::{TokenError, TokenFile};
use gigastore_formats::table::{Footer, FooterError, ParquetFacts};

use super::error::PushError;
use super::{PushSpec, TokenChoice};
use crate::dataset::read::Dataset;
use crate::transfer::source::{SliceData, SourceError, SourceFile, SourceLook};
use crate::transfer::write::Writer;

/// A file of a push.
#[derive(Debug)]
pub(super) enum Given {
    /// The newest version has it, and all that is to be known of it.
    Known(FileRow),
    /// It is to be looked into.
    New(Looked),
}

/// A file whose footer was read.
#[derive(Debug)]
pub(in crate::dataset) struct Looked {
    /// Path within the dataset.
    pub(in crate::dataset) path: String,
    /// The local file.
    pub(in crate::dataset) look: SourceLook,
    pub(in crate::dataset) facts: ParquetFacts,
    /// Its token column, or why there is none.
    pub(in crate::dataset) tokens: Result<TokenFile, Arc<TokenError>>,
}

impl Looked {
    /// Reads the footer of a file.
    pub(in crate::dataset) async fn of(
        writer: &Writer,
        path: String,
        look: SourceLook,
        column: Option<String>,
    ) -> Result<Self, PushError> {
        let job = move || {
            let file = look.open()?;
            let footer = footer(&file)?;
            let facts = footer.facts().map_err(|source| unsound(&file, source))?;
            let tokens = footer.tokens(column.as_deref()).map_err(Arc::new);
            Ok(Self { path, look, facts, tokens })
        };
        writer.store.ambient.waited(job).await
    }

    /// Tells whether it has nothing that could hold tokens.
    pub(in crate::dataset) fn is_plain(&self) -> bool {
        let missing = self.tokens.as_ref().map_err(|error| &**error);
        matches!(missing, Err(TokenError::Missing { lists, .. }) if lists.is_empty())
    }
}

impl Given {
    /// Finds a file in the newest version, or reads its footer. `known` is the token column of the newest version
    /// where what was checked for it holds for this push too.
    pub(super) async fn of(
        writer: &Writer,
        spec: &PushSpec,
        newest: Option<&Dataset>,
        path: String,
        look: SourceLook,
    ) -> Result<Self, PushError> {
        let there = newest.filter(|dataset| holds(spec, dataset.meta().tokens.as_ref()));
        let there = there.and_then(|dataset| dataset.find(&path));
        if let Some(row) = there.filter(|row| row.bytes == look.len()) {
            let file = look.open()?;
            let data = SliceData::File(file.region(0, file.len()));
            let tree = writer.tree(&data).await?;
            file.check_unchanged()?;
            if tree.root() == row.blob.digest {
                return Ok(Self::Known(row.clone()));
            }
        }
        let column = match &spec.tokens {
            TokenChoice::Column(name) => Some(name.clone()),
            TokenChoice::Find | TokenChoice::None => None,
        };
        Looked::of(writer, path, look, column).await.map(Self::New)
    }
}

/// Tells whether what the newest version knows of its files is all that a push wants to know.
fn holds(spec: &PushSpec, known: Option<&TokenColumn>) -> bool {
    let Some(known) = known else { return spec.tokens == TokenChoice::None };
    let column = match &spec.tokens {
        TokenChoice::None => return false,
        TokenChoice::Find => true,
        TokenChoice::Column(name) => {
            known.column.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
    };
    column && spec.vocab_size.is_none_or(|wanted| known.vocab_size.is_some_and(|known| known <= wanted))
}

/// Finds a file's footer.
pub(super) fn footer(file: &SourceFile) -> Result<Footer, PushError> {
    Footer::read(file.len(), |source| unsound(file, source), |range| Ok(read(file, range)?))
}

/// Says which file's footer is not sound.
pub(super) fn unsound(file: &SourceFile, source: FooterError) -> PushError {
    PushError::Parquet { path: file.path().display().to_string(), source }
}

/// Reads a range of a local file.
pub(super) fn read(file: &SourceFile, range: ByteRange) -> Result<Bytes, SourceError> {
    let mut bytes = vec![0; range.len() as usize];
    file.read_at(range.start(), &mut bytes)?;
    Ok(bytes.into())
}
