//! Checkpoint manifests: one row per slice, sorted, with a digest of the content that does not depend on places.
//!
//! Must never hold two rows of one slice, nor a row whose box, bytes and digest could not belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::head::{Format, Head, Meta, check_user_metadata, check_world};
use super::reader::{RowsReader, read_rows};
use super::writer::write_rows;
use super::{Cursors, ManifestError, MetaError, Step, check_cursors};
use crate::digest::Digest;
use crate::limits::MAX_MANIFEST_BYTES;
use crate::name::Name;
use crate::object::Stored;
use crate::range::ByteRange;
use crate::tensor::slice::{Place, SliceId, SliceRow};

const FORMAT: Format = Format { name: "checkpoint-1", limit: MAX_MANIFEST_BYTES };

/// What a checkpoint is, beside its slices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The run.
    pub run: Name,
    /// The step of the run.
    pub step: u64,
    /// Ranks that saved it.
    pub world_size: u32,
    /// The step it was continued from, where the trainer said so.
    pub parent: Option<u64>,
    /// What the user wrote down.
    pub metadata: BTreeMap<String, String>,
    /// Where the data streams were, by their names, with what all ranks together had seen; missing where none was read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: Cursors,
}

/// A row of a checkpoint manifest.
pub type CheckpointRow = SliceRow<Place<Stored>>;

/// A checkpoint manifest, or the part of it that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// What it is.
    pub meta: CheckpointMeta,
    /// Digest of the whole content (of all slices, whatever was asked for).
    pub content: Digest,
    /// The rows that were asked for, sorted by [`SliceId::order`].
    pub rows: Vec<CheckpointRow>,
}

/// Which rows are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// All of them; the content digest is computed again and compared.
    All,
    /// Those of the tensors and files with these names; row groups that can't hold them are not read.
    Names(BTreeSet<String>),
}

/// Writes a manifest; refuses rows that are not strictly sorted. The same input gives the same bytes.
pub fn write_checkpoint(meta: &CheckpointMeta, rows: &[CheckpointRow]) -> Result<Vec<u8>, ManifestError> {
    write_rows(&Head::new(FORMAT, meta, content_of(rows))?, rows)
}

/// Reads a whole manifest in memory.
pub fn read_checkpoint(manifest: &Bytes) -> Result<Checkpoint, ManifestError> {
    let (head, rows) = read_rows::<CheckpointRow>(FORMAT, manifest)?;
    let content = head.check_content(content_of(&rows))?;
    Ok(Checkpoint { meta: head.meta()?, content, rows })
}

/// Returns the digest of a checkpoint's content, wherever the bytes lie: BLAKE3 over one line a slice, in the order of
/// [`SliceId::order`]: kind, name, element type, shape such as `[4,6]`, box and BLAKE3, separated by tabs.
///
/// The lines have one reading, because a name has no control characters.
pub fn content_digest<'a>(slices: impl IntoIterator<Item = (&'a SliceId, &'a Digest)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut line = String::new();
    for (slice, digest) in slices {
        line.clear();
        let _ = write!(line, "{}\t{}\t{}\t[", slice.kind().as_str(), slice.name(), slice.dtype());
        for (d, size) in slice.global_shape().iter().enumerate() {
            let comma = if d == 0 { "" } else { "," };
            let _ = write!(line, "{comma}{size}");
        }
        let _ = writeln!(line, "]\t{}\t{digest}", slice.area());
        hasher.update(line.as_bytes());
    }
    hasher.finalize().into()
}

/// Returns the digest of the content of rows.
pub(super) fn content_of<L>(rows: &[SliceRow<L>]) -> Digest {
    content_digest(rows.iter().map(|row| (&row.slice, &row.blake3)))
}

/// Reads a checkpoint manifest, asking for byte ranges; used like [`FooterReader`](crate::table::FooterReader).
#[derive(Debug)]
pub struct CheckpointReader {
    rows: RowsReader<CheckpointRow>,
    all: bool,
}

impl CheckpointReader {
    /// Starts on a manifest of `file_len` bytes.
    pub fn new(file_len: u64, selection: Selection) -> Result<Self, ManifestError> {
        let wanted = match selection {
            Selection::All => None,
            Selection::Names(names) => Some(names),
        };
        let all = wanted.is_none();
        Ok(Self { rows: RowsReader::new(FORMAT, file_len, wanted)?, all })
    }

    /// Goes on with what was given so far.
    pub fn step(&mut self) -> Result<Step<Checkpoint>, ManifestError> {
        let (head, rows) = match self.rows.step()? {
            Step::Need(ranges) => return Ok(Step::Need(ranges)),
            Step::Done(done) => done,
        };
        let content = if self.all { head.check_content(content_of(&rows))? } else { head.content()? };
        Ok(Step::Done(Checkpoint { meta: head.meta()?, content, rows }))
    }

    /// Takes the bytes of one range of the manifest.
    pub fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), ManifestError> {
        self.rows.give(range, bytes)
    }
}

impl Meta for CheckpointMeta {
    fn check(&self) -> Result<(), MetaError> {
        check_world(0, self.world_size)?;
        check_user_metadata(&self.metadata)?;
        check_cursors(&self.cursors)
    }
}

#[cfg(test)]
#[path = "checkpoint_test.rs"]
mod tests;
