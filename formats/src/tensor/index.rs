//! `model.safetensors.index.json`: which file of a model, cut into several safetensors files, has which tensor.
//!
//! Indexes come from anywhere: must never name a file that is not beside the index.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::header::{Pairs, distinct, shortened};
use crate::name::{NameError, check_path};

/// Which file of a model has which tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Why bytes are not the index of a model.
#[derive(Debug, thiserror::Error)]
pub enum ShardIndexError {
    /// The JSON is not well-formed, or has no `weight_map` of texts.
    #[error("index of shards is not of the expected form: {0}")]
    Json(#[source] serde_json::Error),
    /// A tensor stands there twice.
    #[error("index of shards has tensor {tensor:?} twice")]
    Duplicate {
        /// The tensor, shortened.
        tensor: String,
    },
    /// The file of a tensor is not a plain name beside the index.
    #[error("index of shards puts tensor {tensor:?} into a file that is not beside it: {source}")]
    File {
        /// The tensor, shortened.
        tensor: String,
        /// What is wrong.
        source: NameError,
    },
}

impl ShardIndex {
    /// Parses an index; what it says beside `weight_map` is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ShardIndexError> {
        let found: FoundIndex = serde_json::from_slice(bytes).map_err(ShardIndexError::Json)?;
        let weight_map = distinct(found.weight_map.0).map_err(|tensor| ShardIndexError::Duplicate { tensor })?;
        for (tensor, file) in &weight_map {
            let refuse = |source| ShardIndexError::File { tensor: shortened(tensor), source };
            check_path(file).map_err(refuse)?;
            if file.contains('/') {
                let reason = "it names a folder";
                return Err(refuse(NameError::Path { text: shortened(file), reason }));
            }
        }
        Ok(Self { weight_map })
    }

    /// Returns the file of each tensor, by the tensor's name.
    pub fn weight_map(&self) -> &BTreeMap<String, String> {
        &self.weight_map
    }

    /// Returns the distinct files.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Returns the index of tensors of so many bytes in all, given by name and file: as model hubs write it.
pub fn write_index<'t>(total_size: u64, weight_map: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<u8> {
    let weight_map = weight_map.into_iter().collect();
    let index = WrittenIndex { metadata: WrittenTotal { total_size }, weight_map };
    let mut bytes = serde_json::to_vec_pretty(&index).expect("names and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

#[derive(Deserialize)]
struct FoundIndex {
    weight_map: Pairs,
}

#[derive(Serialize)]
struct WrittenIndex<'t> {
    metadata: WrittenTotal,
    weight_map: BTreeMap<&'t str, &'t str>,
}

#[derive(Serialize)]
struct WrittenTotal {
    total_size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_shards_names_plain_files() {
        let index = ShardIndex::parse(
            concat!(
                r#"{"metadata":{"total_size":10,"x":[{}]},"weight_map":"#,
                r#"{"b":"m-2.safetensors","a":"m-1.safetensors","c":"m-1.safetensors"}}"#,
            )
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(index.files().into_iter().collect::<Vec<_>>(), ["m-1.safetensors", "m-2.safetensors"]);
        assert_eq!(index.weight_map()["c"], "m-1.safetensors");
        let written = write_index(10, [("b", "m-2.safetensors"), ("a", "m-1.safetensors"), ("c", "m-1.safetensors")]);
        assert_eq!(ShardIndex::parse(&written).unwrap(), index);
        for file in ["../m", "/m", "d/m", "", ".", "..", "a\\\\b", "a\\u0000"] {
            let json = format!(r#"{{"weight_map":{{"a":"{file}"}}}}"#);
            assert!(matches!(ShardIndex::parse(json.as_bytes()), Err(ShardIndexError::File { .. })), "{file:?}");
        }
        let twice = br#"{"weight_map":{"a":"m","a":"n"}}"#;
        assert!(matches!(ShardIndex::parse(twice), Err(ShardIndexError::Duplicate { tensor }) if tensor == "a"));
        let deep = format!("{{\"metadata\":{}", "[".repeat(400_000));
        for json in [&b"{}"[..], b"{\"weight_map\":[]}", b"{\"weight_map\":{\"a\":1}}", b"\xff", b"", deep.as_bytes()] {
            assert!(matches!(ShardIndex::parse(json), Err(ShardIndexError::Json(_))));
        }
    }
}
