//! safetensors headers.
//!
//! ```text
//! 8 bytes  N, little-endian
//! N bytes  {"__metadata__":{…},"wte.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},…}, then spaces
//! the data, one tensor after the other, without holes
//! ```
//! The format is that of <https://github.com/huggingface/safetensors>. Headers come from anywhere: must never allocate
//! more than in proportion to the bytes given, and must never return an entry that was not checked against its shape
//! and its neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::Utf8Error;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, TensorBox};
use crate::tensor::dtype::{Dtype, DtypeError};

/// Bytes of the length in front of the JSON.
pub const PREFIX_BYTES: usize = 8;

/// The key of the JSON whose value is not a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// One tensor of a safetensors file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// The element type.
    pub dtype: Dtype,
    /// The number of elements in each dimension.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the data.
    pub data: ByteRange,
}

/// The header of a safetensors file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SafetensorsHeader {
    /// The tensors in the order of their data; names are distinct.
    pub tensors: Vec<(String, TensorInfo)>,
    /// The texts of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of the header, length prefix included: where the data starts.
    pub header_len: u64,
}

/// Why bytes are not the header of a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The header is longer than allowed.
    #[error("safetensors header of {actual} bytes is over the limit of {limit}")]
    TooLong {
        /// Most bytes, length prefix included.
        limit: u64,
        /// Bytes that the length prefix announces, itself included.
        actual: u64,
    },
    /// The length prefix does not fit the bytes given.
    #[error("safetensors header should have {expected} bytes by its length prefix, but has {actual}")]
    Length {
        /// Bytes that the length prefix announces, itself included; [`PREFIX_BYTES`] where even the prefix is cut.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// The JSON is not text.
    #[error("safetensors header is not UTF-8: {0}")]
    NotUtf8(#[source] Utf8Error),
    /// The JSON does not start as the format demands: most likely this is not a safetensors file.
    #[error("not a safetensors file: expected a header that starts with '{{', found {found:?}")]
    Start {
        /// The first character of the JSON, if any.
        found: Option<char>,
    },
    /// The JSON is not well-formed, too deep, or not of the expected form.
    #[error("safetensors header is not of the expected form: {0}")]
    Json(#[source] serde_json::Error),
    /// A name stands there twice.
    #[error("safetensors header has {name:?} twice")]
    Duplicate {
        /// The name of the tensor or of the metadata, shortened.
        name: String,
    },
    /// A tensor has an element type that is not known.
    #[error("tensor {name:?}: {source}")]
    Dtype {
        /// The tensor, shortened.
        name: String,
        /// What was found.
        source: DtypeError,
    },
    /// A tensor has too many dimensions, too many elements, or elements that do not fill whole bytes.
    #[error("shape of tensor {name:?}: {source}")]
    Shape {
        /// The tensor, shortened.
        name: String,
        /// What is wrong.
        source: BoxError,
    },
    /// The data of a tensor is not as long as its shape and type make it.
    #[error("tensor {name:?} of this shape and type has {expected} bytes, but its data_offsets are {start} to {end}")]
    Size {
        /// The tensor, shortened.
        name: String,
        /// Bytes by shape and type.
        expected: u64,
        /// First offset given.
        start: u64,
        /// Second offset given.
        end: u64,
    },
    /// There is a hole before a tensor, or it overlaps the one before it.
    #[error(
        "data of tensor {name:?} should start at {expected}, where the data before it ends, but starts at {actual}"
    )]
    Place {
        /// The tensor, shortened.
        name: String,
        /// Where the data before it ends; 0 for the first.
        expected: u64,
        /// Where it starts.
        actual: u64,
    },
    /// The data would end past 2^64.
    #[error("safetensors header describes data that ends past 2^64 bytes")]
    Overflow,
    /// The file is cut, or bytes follow its data.
    #[error("safetensors file should have {expected} bytes by its header, but has {actual}")]
    FileLength {
        /// Bytes of header and data.
        expected: u64,
        /// Bytes of the file.
        actual: u64,
    },
}

/// Returns the bytes of the header that starts with `prefix`, the prefix included, checked against `limit`.
pub fn header_len(prefix: [u8; PREFIX_BYTES], limit: u64) -> Result<u64, HeaderError> {
    let actual = u64::from_le_bytes(prefix).saturating_add(PREFIX_BYTES as u64);
    if actual > limit { Err(HeaderError::TooLong { limit, actual }) } else { Ok(actual) }
}

impl SafetensorsHeader {
    /// Parses a whole header, length prefix and JSON, of at most `limit` bytes.
    pub fn parse(header: &[u8], limit: u64) -> Result<Self, HeaderError> {
        let actual = header.len() as u64;
        let cut = HeaderError::Length { expected: PREFIX_BYTES as u64, actual };
        let (prefix, json) = header.split_first_chunk().ok_or(cut)?;
        let expected = header_len(*prefix, limit)?;
        if expected != actual {
            return Err(HeaderError::Length { expected, actual });
        }
        let text = std::str::from_utf8(json).map_err(HeaderError::NotUtf8)?;
        if !text.starts_with('{') {
            return Err(HeaderError::Start { found: text.chars().next() });
        }
        let found: FoundHeader = serde_json::from_str(text).map_err(HeaderError::Json)?;
        if found.metadata.len() > 1 {
            return Err(HeaderError::Duplicate { name: METADATA_KEY.to_owned() });
        }
        let metadata = found.metadata.into_iter().flatten().flat_map(|pairs| pairs.0);
        let metadata = distinct(metadata).map_err(|name| HeaderError::Duplicate { name })?;
        let mut tensors = Vec::with_capacity(found.tensors.len());
        for (name, info) in found.tensors {
            let info = info.checked(&name)?;
            tensors.push((name, info));
        }
        check_layout(&mut tensors, expected)?;
        let mut names = BTreeSet::new();
        if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(HeaderError::Duplicate { name: shortened(name) });
        }
        Ok(Self { tensors, metadata, header_len: expected })
    }

    /// Returns the bytes of the data.
    pub fn data_len(&self) -> u64 {
        self.tensors.last().map_or(0, |(_, info)| info.data.end())
    }

    /// Checks that a file of `actual` bytes is neither cut nor followed by bytes that no tensor has.
    pub fn check_file_len(&self, actual: u64) -> Result<(), HeaderError> {
        let expected = self.header_len.checked_add(self.data_len()).ok_or(HeaderError::Overflow)?;
        if expected == actual { Ok(()) } else { Err(HeaderError::FileLength { expected, actual }) }
    }
}

/// Returns the header of tensors as [`write_entries`] does.
pub fn write_header(metadata: &BTreeMap<String, String>, tensors: &[(String, TensorInfo)], align: u64) -> Vec<u8> {
    let entries = tensors.iter().map(|(name, info)| (name.as_str(), info.dtype, &*info.shape, info.data));
    write_entries(metadata, entries, align, u64::MAX).expect("no header in memory passes 2^64 bytes")
}

/// Returns the header, length prefix included, of tensors in the order given, as name, element type, shape and data;
/// the same arguments make the same bytes.
///
/// The JSON is filled up with spaces, so that the header's length, where the data starts, is a multiple of `align`.
/// `None`, as soon as that is seen, where it passes `most` bytes.
pub fn write_entries<'t>(
    metadata: &BTreeMap<String, String>,
    tensors: impl IntoIterator<Item = (&'t str, Dtype, &'t [u64], ByteRange)>,
    align: u64,
    most: u64,
) -> Option<Vec<u8>> {
    let mut bytes = vec![0; PREFIX_BYTES];
    bytes.push(b'{');
    if !metadata.is_empty() {
        write_pair(&mut bytes, METADATA_KEY, metadata);
    }
    for (name, dtype, shape, data) in tensors {
        write_pair(&mut bytes, name, &WrittenInfo { dtype, shape, data_offsets: [data.start(), data.end()] });
        if bytes.len() as u64 > most {
            return None;
        }
    }
    bytes.push(b'}');
    let align = usize::try_from(align).unwrap_or(1).max(1);
    bytes.resize(bytes.len().next_multiple_of(align), b' ');
    bytes.shrink_to_fit();
    let json_len = (bytes.len() - PREFIX_BYTES) as u64;
    bytes[..PREFIX_BYTES].copy_from_slice(&json_len.to_le_bytes());
    (bytes.len() as u64 <= most).then_some(bytes)
}

fn write_pair<T: Serialize>(bytes: &mut Vec<u8>, key: &str, value: &T) {
    if bytes.last() != Some(&b'{') {
        bytes.push(b',');
    }
    serde_json::to_writer(&mut *bytes, key).expect("text is JSON, and a Vec takes all bytes");
    bytes.push(b':');
    serde_json::to_writer(bytes, value).expect("texts and numbers are JSON, and a Vec takes all bytes");
}

/// Brings the tensors into the order of their data, and checks that they fill it.
fn check_layout(tensors: &mut [(String, TensorInfo)], header_len: u64) -> Result<(), HeaderError> {
    tensors.sort_by_key(|(_, info)| info.data);
    let mut expected = 0;
    for (name, info) in &*tensors {
        if info.data.start() != expected {
            return Err(HeaderError::Place { name: shortened(name), expected, actual: info.data.start() });
        }
        expected = info.data.end();
    }
    header_len.checked_add(expected).map(|_| ()).ok_or(HeaderError::Overflow)
}

/// The JSON as it stands, repeated names included.
struct FoundHeader {
    tensors: Vec<(String, FoundInfo)>,
    metadata: Vec<Option<Pairs>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FoundInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Serialize)]
struct WrittenInfo<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

impl FoundInfo {
    fn checked(self, name: &str) -> Result<TensorInfo, HeaderError> {
        let dtype: Dtype = self.dtype.parse().map_err(|source| HeaderError::Dtype { name: shortened(name), source })?;
        let expected = TensorBox::whole(&self.shape)
            .and_then(|area| area.bytes(dtype))
            .map_err(|source| HeaderError::Shape { name: shortened(name), source })?;
        let (start, end) = self.data_offsets;
        match ByteRange::new(start, end) {
            Ok(data) if data.len() == expected => Ok(TensorInfo { dtype, shape: self.shape, data }),
            _ => Err(HeaderError::Size { name: shortened(name), expected, start, end }),
        }
    }
}

impl<'de> Deserialize<'de> for FoundHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = FoundHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FoundHeader, A::Error> {
                let mut found = FoundHeader { tensors: Vec::new(), metadata: Vec::new() };
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA_KEY {
                        found.metadata.push(map.next_value()?);
                    } else {
                        found.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// An object's pairs as they stand: a map would silently keep the last of two equal keys.
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// Collects pairs; fails with the first key, shortened, that comes twice.
pub(super) fn distinct(pairs: impl IntoIterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, String> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.contains_key(&key) {
            return Err(shortened(&key));
        }
        map.insert(key, value);
    }
    Ok(map)
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
#[path = "header_test.rs"]
mod tests;
