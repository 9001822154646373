//! Which local files a push is of, and what each is called in the dataset.
//!
//! Must never give two files one path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gigastore_formats::name::check_path;

use super::error::PushError;
use crate::transfer::source::SourceError;

/// Gives each file its path in the dataset: its name, or for a folder the path below it.
pub(super) fn name_files(files: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, PushError> {
    let mut named: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        for (path, local) in expand(file)? {
            check_path(&path)?;
            if let Some(first) = named.insert(path.clone(), local.clone()) {
                let (first, second) = (first.display().to_string(), local.display().to_string());
                return Err(PushError::SamePath { path, first, second });
            }
        }
    }
    if named.is_empty() { Err(PushError::NoFiles) } else { Ok(named) }
}

fn expand(file: &Path) -> Result<Vec<(String, PathBuf)>, PushError> {
    if !file.is_dir() {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(name, file.to_owned())]);
    }
    let unreadable = |path: &Path, source| SourceError::Io { path: path.display().to_string(), source };
    let (mut found, mut folders) = (BTreeSet::new(), vec![file.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|source| unreadable(&folder, source))? {
            let entry = entry.map_err(|source| unreadable(&folder, source))?;
            let path = entry.path();
            if entry.file_type().map_err(|source| unreadable(&path, source))?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "parquet") {
                found.insert(path);
            }
        }
    }
    let below = |path: PathBuf| {
        let parts = path.strip_prefix(file).unwrap_or(&path).iter().map(|part| part.to_string_lossy().into_owned());
        (parts.collect::<Vec<_>>().join("/"), path)
    };
    Ok(found.into_iter().map(below).collect())
}
