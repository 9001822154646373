//! The first documents of a version: ids, lengths and tokens.
//!
//! Must never read more row groups than the documents asked for lie in.

use std::collections::BTreeMap;

use gigastore_formats::table::tokens::Documents;

use super::index::IndexedDataset;
use super::read::DatasetError;

/// A document of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// Path of its file.
    pub path: String,
    /// Its row in the file, from 0.
    pub row: u64,
    /// Its id, where the file has a column `id` or `doc_id`.
    pub id: Option<String>,
    /// Its tokens, as the file has it.
    pub length: u64,
    /// Its planned length; another one only where it was taken down.
    pub planned: u64,
    /// Whether it was taken down.
    pub taken_down: bool,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

impl IndexedDataset {
    /// Reads the first `count` documents of the version, file after file, from file number `first_file` on.
    pub async fn head(&self, first_file: usize, count: usize) -> Result<Vec<Document>, DatasetError> {
        let mut found: Vec<Document> = Vec::new();
        for file in first_file..self.index().files.len() {
            let (tokens, row) = (self.token_file(file).await?, self.file(file).await?);
            let removed: BTreeMap<u64, u64> = row.removed.iter().map(|removed| (removed.row, removed.tokens)).collect();
            let (first, mut number) = (found.len(), 0);
            for group in 0..tokens.groups() {
                if found.len() >= count {
                    break;
                }
                let bytes = self.read_ranges(&row, &[tokens.tokens_range(group)]).await?;
                let column = tokens.clone();
                let decode = move || {
                    let mut documents = Documents::new(column.width());
                    bytes.iter().try_for_each(|chunk| column.read_tokens(group, chunk, &mut documents))?;
                    Ok(documents)
                };
                let unsound = |source| DatasetError::Tokens { path: row.path.clone(), source };
                let documents = self.bound.store.ambient.computed(decode).await.map_err(unsound)?;
                for i in 0..documents.len().min(count - found.len()) {
                    let tokens: Vec<u32> =
                        documents.document(i).map(|slice| slice.iter().collect()).unwrap_or_default();
                    let planned = removed.get(&number).copied();
                    found.push(Document {
                        path: row.path.clone(),
                        row: number,
                        id: None,
                        length: tokens.len() as u64,
                        planned: planned.unwrap_or(tokens.len() as u64),
                        taken_down: planned.is_some(),
                        tokens,
                    });
                    number += 1;
                }
            }
            let rows: Vec<u64> = (0..number).collect();
            let mut ids = self.ids(file, &rows).await?;
            for document in &mut found[first..] {
                document.id = ids.remove(&document.row);
            }
            if found.len() >= count {
                break;
            }
        }
        Ok(found)
    }
}
