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

/// A row of a manifest.
pub(super) trait Row: Clone {
    /// Values that a list of one row may have; 1 where there are no lists.
    const LIST_VALUES: u64;
    /// Bytes that a column of bytes may have in one row; 0 where there is none.
    const BLOB_BYTES: u64;
    /// The text column that rows are found by: the one with statistics and a page index.
    const FOUND_BY: &'static str;
    /// Columns whose values hardly repeat, such as digests, so that a dictionary would only be built and dropped.
    const DISTINCT: &'static [&'static str];

    /// The columns.
    fn fields() -> Vec<Field>;

    /// Returns the values of [`fields`](Self::fields), in their order.
    fn arrays(rows: &[Self]) -> Vec<ArrayRef>;

    /// Reads all rows of a batch, calling `each` with every one in order.
    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError>;

    /// Checks what can be wrong with a row that has all its values.
    fn check(&self) -> Result<(), RowError>;

    /// Returns about how many bytes it takes in memory while it is decoded, never too few.
    fn weight(&self) -> u64;

    /// Returns the value of the column that rows are found by.
    fn name(&self) -> &str;

    /// Names it in an error.
    fn label(&self) -> String;

    /// Tells whether it comes strictly before `next`.
    fn is_before(&self, next: &Self) -> bool;
}
