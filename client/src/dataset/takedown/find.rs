//! Which rows of which files hold documents, by their ids or places.
//!
//! Ids are read column by column, from ranges that are verified. Must never hold more than the ids asked for.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::Array;
use gigastore_formats::manifest::dataset::{FileRow, MAX_REMOVED_ROWS};

use super::{TakedownError, TakedownSpec};
use crate::dataset::push::rewrite::text;
use crate::dataset::read::Dataset;
use crate::dataset::rows::{self, ID_COLUMNS};

/// Rows by the path of their file.
pub(super) type Hits = BTreeMap<String, BTreeSet<u64>>;

/// Finds documents in a version; returns also what was not found.
pub(super) async fn find(dataset: &Dataset, spec: &TakedownSpec) -> Result<(Hits, Vec<String>), TakedownError> {
    let mut hits = Hits::new();
    let (mut ids, mut missing) = (BTreeSet::new(), Vec::new());
    for document in &spec.documents {
        match place(dataset, document) {
            Some((row, number)) if number < row.rows => {
                hits.entry(row.path.clone()).or_default().insert(number);
            }
            Some(_) => missing.push(document.clone()),
            None => {
                ids.insert(document.as_str());
            }
        }
    }
    let mut found: BTreeSet<String> = BTreeSet::new();
    if !ids.is_empty() {
        for row in dataset.files() {
            let rows = by_id(dataset, row, spec, &ids, &mut found).await?;
            if !rows.is_empty() {
                hits.entry(row.path.clone()).or_default().extend(rows);
            }
        }
    }
    missing.extend(ids.into_iter().filter(|id| !found.contains(*id)).map(str::to_owned));
    for (path, rows) in &hits {
        let before = dataset.row(path)?.removed.iter().filter(|removed| !rows.contains(&removed.row)).count();
        let actual = before + rows.len();
        if actual > MAX_REMOVED_ROWS {
            return Err(TakedownError::TooMany { path: path.clone(), actual });
        }
    }
    Ok((hits, missing))
}

/// Understands `FILE:ROW`, where the version has such a file.
fn place<'d>(dataset: &'d Dataset, document: &str) -> Option<(&'d FileRow, u64)> {
    let (path, row) = document.rsplit_once(':')?;
    Some((dataset.row(path).ok()?, row.parse().ok()?))
}

/// Returns the rows of one file whose ids are wanted.
async fn by_id(
    dataset: &Dataset,
    row: &FileRow,
    spec: &TakedownSpec,
    ids: &BTreeSet<&str>,
    found: &mut BTreeSet<String>,
) -> Result<BTreeSet<u64>, TakedownError> {
    let metadata = rows::metadata(dataset, row).await?;
    let named: Vec<&str> = spec.id_column.as_deref().map_or(ID_COLUMNS.to_vec(), |name| vec![name]);
    let column = rows::first_column(metadata.file_metadata().schema_descr(), &named);
    let column =
        column.ok_or_else(|| TakedownError::NoIdColumn { path: row.path.clone(), expected: named.join(", ") })?;
    let mut rows = BTreeSet::new();
    rows::column(dataset, row, metadata, (column, None), |first, values| {
        for i in 0..values.len() {
            if let Some(id) = text(values, i, column)?.filter(|id| ids.contains(id.as_str())) {
                rows.insert(first + i as u64);
                found.insert(id);
            }
        }
        Ok(true)
    })
    .await?;
    Ok(rows)
}
