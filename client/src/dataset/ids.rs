//! The ids of documents: a column of texts or integers that most datasets have.
//!
//! Read by the Parquet library from checked bytes of a file whose footer our own parser has taken. Must never fail
//! where a file has no ids.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::Array;

use super::index::IndexedDataset;
use super::push::RewriteError;
use super::push::rewrite::text;
use super::read::DatasetError;
use super::rows::{self, ID_COLUMNS};

impl IndexedDataset {
    /// Returns the ids of some rows of file number `file`, as far as it has a column `id` or `doc_id` of texts or
    /// integers.
    pub async fn ids(&self, file: usize, rows: &[u64]) -> Result<BTreeMap<u64, String>, DatasetError> {
        // Our own parser first: it bounds what a hostile footer can make the library do.
        self.token_file(file).await?;
        let row = self.file(file).await?;
        let metadata = rows::metadata(self, &row).await?;
        let column = rows::first_column(metadata.file_metadata().schema_descr(), &ID_COLUMNS);
        let Some(column) = column else { return Ok(BTreeMap::new()) };
        let wanted: BTreeSet<u64> = rows.iter().copied().collect();
        let mut found = BTreeMap::new();
        rows::column(self, &row, metadata, (column, Some(&wanted)), |first, values| {
            let end = first + values.len() as u64;
            for row in wanted.range(first..end) {
                match text(values, (row - first) as usize, column) {
                    Ok(id) => found.extend(id.map(|id| (*row, id))),
                    // Numbers that are no integers, say: the column is called so, and holds no ids.
                    Err(RewriteError::Column { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            Ok(wanted.range(end..).next().is_some())
        })
        .await?;
        Ok(found)
    }
}
