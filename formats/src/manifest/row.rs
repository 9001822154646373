//! What the rows of every kind of manifest have in common.
//!
//! Must never know which kind there are.

use arrow_array::ArrayRef;
use arrow_schema::Field;

use super::columns::Columns;
use super::{ManifestError, RowError};

/// Rows of a row group, and of what is decoded at a time at most: 4,096. With about 1 KiB a row, one of a million
/// slices is found by reading a few MiB.
pub(super) const ROW_GROUP_ROWS: usize = 4096;

/// A row of a manifest, or some columns of one, as it is read.
pub(super) trait Row: Clone {
    /// Values that a list of one row may have; 1 where there are no lists.
    const LIST_VALUES: u64;
    /// Bytes that a column of bytes may have in one row; 0 where there is none.
    const BLOB_BYTES: u64;
    /// The text column that rows are found by: the one with statistics and a page index.
    const FOUND_BY: &'static str;
    /// Columns that a manifest of this version may lack, because older programs did not write them.
    const OPTIONAL: &'static [&'static str] = &[];

    /// The columns.
    fn fields() -> Vec<Field>;

    /// Returns how many values the list `column` of one row may have.
    fn list_values(_column: &str) -> u64 {
        Self::LIST_VALUES
    }

    /// Reads all rows of a batch, calling `each` with every one in order.
    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError>;

    /// Checks what can be wrong with a row that has all its values.
    fn check(&self) -> Result<(), RowError>;

    /// Returns the value of the column that rows are found by.
    fn name(&self) -> &str;

    /// Names it in an error.
    fn label(&self) -> String;

    /// Tells whether it comes strictly before `next`.
    fn is_before(&self, next: &Self) -> bool;
}

/// A row of a manifest as it is written.
pub(super) trait WrittenRow: Row {
    /// Leaves, dotted, whose values hardly repeat, such as digests, so that a dictionary would only be built and
    /// dropped.
    const DISTINCT: &'static [&'static str];

    /// Returns the values of [`fields`](Row::fields), in their order.
    fn arrays(rows: &[Self]) -> Vec<ArrayRef>;

    /// Returns about how many bytes it takes in memory while it is decoded, never too few.
    fn weight(&self) -> u64;

    /// Returns those of [`OPTIONAL`](Row::OPTIONAL) that no row has a value for: they are left out, so that rows that
    /// an older program could have written have the columns that it gave them.
    fn unused(_rows: &[Self]) -> Vec<&'static str> {
        Vec::new()
    }
}

/// What rows are gathered in as they are read.
pub(super) trait Gather<R>: Default {
    /// Takes the next row.
    fn take(&mut self, row: R) -> Result<(), ManifestError>;
}

impl<R> Gather<R> for Vec<R> {
    fn take(&mut self, row: R) -> Result<(), ManifestError> {
        self.push(row);
        Ok(())
    }
}
