//! Pack lists: the distinct packs of a checkpoint, for collection and for sums of sizes.
//!
//! Must never be believed over the manifest: it is derived from it.

use arrow_array::{Array, ArrayRef};
use arrow_schema::Field;
use bytes::Bytes;

use super::columns::{Columns, number, number_array, text, text_array};
use super::head::{Format, Head};
use super::reader::read_rows;
use super::row::{Row, WrittenRow};
use super::writer::write_rows;
use super::{ManifestError, RowError};
use crate::limits::{MAX_MANIFEST_BYTES, MAX_PACK_HEADER_BYTES};
use crate::object::Stored;

const FORMAT: Format = Format { name: "packs-1", limit: MAX_MANIFEST_BYTES };

/// One pack that a checkpoint refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// The pack.
    pub pack: Stored,
    /// Bytes of its header, length prefix included.
    pub header_len: u64,
    /// Bytes of the whole object.
    pub bytes: u64,
    /// Slices of the checkpoint that lie in it.
    pub slices: u64,
    /// Stored bytes that the checkpoint refers to.
    pub used: u64,
}

/// Writes a pack list; refuses rows that are not strictly sorted by pack. The same rows give the same bytes.
pub fn write_packs(rows: &[PackRow]) -> Result<Vec<u8>, ManifestError> {
    let rows: Vec<NamedPack> = rows.iter().map(|pack| NamedPack::new(*pack)).collect();
    write_rows(&Head::bare(FORMAT), &rows)
}

/// Reads a pack list.
pub fn read_packs(list: &Bytes) -> Result<Vec<PackRow>, ManifestError> {
    let (_, rows) = read_rows::<NamedPack>(FORMAT, list)?;
    Ok(rows.into_iter().map(|row| row.pack).collect())
}

/// A row with the text that it is stored under.
#[derive(Clone)]
struct NamedPack {
    pack: PackRow,
    name: String,
}

impl NamedPack {
    fn new(pack: PackRow) -> Self {
        Self { pack, name: pack.pack.to_string() }
    }
}

impl Row for NamedPack {
    const LIST_VALUES: u64 = 1;
    const BLOB_BYTES: u64 = 0;
    const FOUND_BY: &'static str = "pack";

    fn fields() -> Vec<Field> {
        vec![text("pack"), number("header_len"), number("bytes"), number("slices"), number("used")]
    }

    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let packs = columns.texts("pack")?;
        let (header_lens, bytes) = (columns.numbers("header_len")?, columns.numbers("bytes")?);
        let (slices, used) = (columns.numbers("slices")?, columns.numbers("used")?);
        (0..packs.len()).try_for_each(|i| {
            let row = |pack| PackRow {
                pack,
                header_len: header_lens.value(i),
                bytes: bytes.value(i),
                slices: slices.value(i),
                used: used.value(i),
            };
            each(packs.value(i).parse().map(|pack| Self::new(row(pack))).map_err(RowError::from))
        })
    }

    fn check(&self) -> Result<(), RowError> {
        let PackRow { header_len, bytes, .. } = self.pack;
        let place = RowError::Place { header_len, offset: header_len, stored_len: bytes.saturating_sub(header_len) };
        if header_len <= bytes && header_len <= MAX_PACK_HEADER_BYTES { Ok(()) } else { Err(place) }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn label(&self) -> String {
        self.name.clone()
    }

    fn is_before(&self, next: &Self) -> bool {
        self.pack.pack < next.pack.pack
    }
}

impl WrittenRow for NamedPack {
    const DISTINCT: &'static [&'static str] = &["pack"];

    fn arrays(rows: &[Self]) -> Vec<ArrayRef> {
        let numbers = |of: fn(&PackRow) -> u64| number_array(rows.iter().map(|row| Some(of(&row.pack))));
        vec![
            text_array(rows.iter().map(|row| Some(&row.name))),
            numbers(|pack| pack.header_len),
            numbers(|pack| pack.bytes),
            numbers(|pack| pack.slices),
            numbers(|pack| pack.used),
        ]
    }

    fn weight(&self) -> u64 {
        256
    }
}

#[cfg(test)]
#[path = "packs_test.rs"]
mod tests;
