//! One file into the store, if it is not there.
//!
//! Must never commit to bytes other than those that were hashed.

use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::table::ParquetFacts;

use super::error::PushError;
use super::validate::FileTokens;
use crate::transfer::source::{SliceData, SourceLook};
use crate::transfer::write::Writer;

/// A local file that is in the store.
#[derive(Debug)]
pub(in crate::dataset) struct Checked {
    pub(in crate::dataset) row: FileRow,
    pub(in crate::dataset) sent: bool,
}

/// A file that is to be sent, and what its row will say.
#[derive(Debug)]
pub(in crate::dataset) struct Sending {
    pub(in crate::dataset) path: String,
    pub(in crate::dataset) look: SourceLook,
    pub(in crate::dataset) facts: ParquetFacts,
    pub(in crate::dataset) tokens: FileTokens,
    /// Objects that a version has, and that may be this file.
    pub(in crate::dataset) known: Option<Stored>,
}

/// Hashes and sends one file.
pub(in crate::dataset) async fn send(writer: &Writer, file: Sending) -> Result<Checked, PushError> {
    let Sending { path, look, facts, tokens, known } = file;
    let source = look.open()?;
    let data = SliceData::File(source.region(0, source.len()));
    let tree = writer.tree(&data).await?;
    let (bytes, digest) = (tree.len(), tree.root());
    let transport = &writer.store.transport;
    let epochs = [Some(writer.epoch), writer.epoch.checked_sub(1)];
    let known = known.filter(|known| known.digest == digest);
    let usable = epochs.into_iter().flatten().map(|epoch| Stored { digest, epoch });
    let candidates: Vec<Stored> = known.into_iter().chain(usable).collect();
    let lengths = transport.lengths(&writer.project, ObjectKind::Blob, &candidates).await.map_err(PushError::Store)?;
    let there = candidates.iter().zip(lengths).find(|(_, len)| *len == Some(bytes)).map(|(blob, _)| *blob);
    let (blob, sent) = match there {
        Some(blob) => (blob, false),
        None => (writer.blob(tree.clone(), data.clone()).await?, true),
    };
    source.check_unchanged()?;
    writer.progress.done(bytes);
    let ParquetFacts { rows, row_groups, schema, .. } = facts;
    let FileTokens { tokens, lengths } = tokens;
    let row = FileRow { path, blob, bytes, rows, schema, row_groups, tree, tokens, lengths, removed: Vec::new() };
    Ok(Checked { row, sent })
}
