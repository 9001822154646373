//! Parts: what one rank of an open save reports: its slices, and where it put the bytes.
//!
//! Must never name epochs: a pack is named by its digest until the save is committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::checkpoint::content_of;
use super::head::{Format, Head, Meta, check_user_metadata, check_world};
use super::reader::read_rows;
use super::timeline::check_spans;
use super::writer::write_rows;
use super::{Cursors, ManifestError, MetaError, check_cursors};
use crate::digest::Digest;
use crate::limits::MAX_PART_BYTES;
use crate::tensor::slice::{Place, SliceRow};
use crate::timeline::RankTimeline;

const FORMAT: Format = Format { name: "part-1", limit: MAX_PART_BYTES };

/// What a part is, beside its slices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartMeta {
    /// The rank.
    pub rank: u32,
    /// Ranks of the save.
    pub world_size: u32,
    /// Steps of the run whose packs the rows refer to.
    pub bases: Vec<u64>,
    /// Content digest of an existing checkpoint that these slices were found equal to.
    pub compared_to: Option<Digest>,
    /// What the user wrote down.
    pub metadata: BTreeMap<String, String>,
    /// Where this rank's data streams are, by their names; missing where it reads none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: Cursors,
    /// What this rank's phases took; missing in parts of clients that do not say. Two parts may say the same content
    /// with different times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<RankTimeline>,
}

impl PartMeta {
    /// Returns what a rank's part is that says nothing else.
    pub fn of_rank(rank: u32, world_size: u32) -> Self {
        Self {
            rank,
            world_size,
            bases: Vec::new(),
            compared_to: None,
            metadata: BTreeMap::new(),
            cursors: Cursors::new(),
            timeline: None,
        }
    }
}

/// A row of a part; without a place where another rank uploads the same bytes or the store has them already.
pub type PartRow = SliceRow<Option<Place<Digest>>>;

/// One rank's part of a save.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is.
    pub meta: PartMeta,
    /// Digest of its content, as [`content_digest`](super::checkpoint::content_digest) computes it.
    pub content: Digest,
    /// Its slices, sorted.
    pub rows: Vec<PartRow>,
}

/// Writes a part; refuses rows that are not strictly sorted. The same input gives the same bytes.
pub fn write_part(meta: &PartMeta, rows: &[PartRow]) -> Result<Vec<u8>, ManifestError> {
    write_rows(&Head::new(FORMAT, meta, content_of(rows))?, rows)
}

/// Reads a part.
pub fn read_part(part: &Bytes) -> Result<Part, ManifestError> {
    let (head, rows) = read_rows::<PartRow>(FORMAT, part)?;
    let content = head.check_content(content_of(&rows))?;
    Ok(Part { meta: head.meta()?, content, rows })
}

impl Meta for PartMeta {
    fn check(&self) -> Result<(), MetaError> {
        check_world(self.rank, self.world_size)?;
        check_user_metadata(&self.metadata)?;
        check_cursors(&self.cursors)?;
        self.timeline.as_ref().map_or(Ok(()), |timeline| check_spans(&timeline.spans))
    }
}

#[cfg(test)]
#[path = "part_test.rs"]
mod tests;
