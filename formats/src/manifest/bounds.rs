//! How much one column of a row group may hold, by its kind: what the writer of manifests could have written at most.
//!
//! A page of a few bytes can say that it unfolds to gigabytes, and a few bytes of runs can stand for as many values; so
//! both are bounded by the rows that the row group has, and the bytes also by those that are there. Must never refuse
//! what the writer makes.

use arrow_schema::{DataType, Field};

use super::row::Row;
use super::writer::{DICTIONARY_BYTES, ROW_GROUP_WEIGHT, WRITE_BATCH};
use crate::limits::MAX_TENSOR_NAME_BYTES;

/// Bytes of a text: 2 KiB. The longest, a name or path, has 1,024 and a length of four.
const TEXT_BYTES: u64 = 2 << 10;

/// Bytes of a number: eight, and as many again for the levels of lists and missing values, which take two at most.
const NUMBER_BYTES: u64 = 16;

/// Memory that one entry of a list of records costs while it is decoded: three numbers with their levels are 36 bytes,
/// in buffers that grow twofold.
pub(super) const RECORD_WEIGHT: u64 = 64;

/// Memory that one entry of a list of numbers costs while it is decoded, in the same way.
pub(super) const NUMBER_WEIGHT: u64 = 32;

/// Bytes that any column may have whatever its rows are: 1 MiB, for a dictionary, for page headers, and for rows that
/// repeat each other (4,096 digests are 280 KiB, and shrink to nothing where they are the same).
const FREE_BYTES: u64 = 1 << 20;

/// How often a byte of a column can unfold, beyond [`FREE_BYTES`], for each row: eight. Numbers that count up keep one
/// byte of their eight, and rows that repeat one before them keep next to none.
const UNFOLD_FACTOR: u64 = 8;

/// Bytes of a dictionary of texts: what is written at most, 385 KiB, as the writer looks only after every batch how
/// long it is, and the longest texts have 1,024 bytes and a length of four. All rows that are decoded at a time could
/// name its longest text, so that this times their number bounds the memory of a text column.
const DICTIONARY_TEXT_BYTES: u64 = (DICTIONARY_BYTES + WRITE_BATCH * (MAX_TENSOR_NAME_BYTES + 4)) as u64;

/// What one column of a row group may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ColumnBounds {
    /// Values, those of lists one by one.
    pub(super) values: u64,
    /// Bytes when it is not compressed.
    pub(super) bytes: u64,
    /// Bytes of its dictionary.
    pub(super) dictionary: u64,
}

impl ColumnBounds {
    /// Returns the bounds of a leaf of `field` in a row group of `rows` rows, whose chunk has `stored` bytes.
    pub(super) fn of<R: Row>(field: &Field, rows: u64, stored: u64) -> Self {
        let (values, bytes) = match field.data_type() {
            DataType::Utf8 => (rows, rows * TEXT_BYTES),
            // The writer closes a row group at this weight, unless one row alone is over it.
            DataType::Binary if rows == 1 => (rows, R::BLOB_BYTES),
            DataType::Binary => (rows, R::BLOB_BYTES.saturating_mul(rows).min(ROW_GROUP_WEIGHT)),
            DataType::List(_) => {
                let values = (rows * R::list_values(field.name())).min(rows + ROW_GROUP_WEIGHT / RECORD_WEIGHT);
                (values, values * NUMBER_BYTES)
            }
            _ => (rows, rows * NUMBER_BYTES),
        };
        let unfolded = stored.saturating_mul(UNFOLD_FACTOR).saturating_mul(rows);
        let bytes = FREE_BYTES + bytes.min(unfolded);
        // Numbers take as much when they are looked up as when they are written out; texts can be named again and
        // again.
        let dictionary = match field.data_type() {
            DataType::Utf8 | DataType::Binary => DICTIONARY_TEXT_BYTES,
            _ => bytes,
        };
        Self { values, bytes, dictionary }
    }
}
