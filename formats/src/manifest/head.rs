//! What a manifest says of itself, in the key-value metadata of its Parquet file.
//!
//! Must never take a manifest of one kind for another.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::MetaError;
use super::{ManifestError, RowError};
use crate::digest::Digest;
use crate::limits::{MAX_USER_METADATA_BYTES, MAX_WORLD_SIZE};

const FORMAT: &str = "gigastore.format";
const META: &str = "gigastore.meta";
const CONTENT: &str = "gigastore.content";

/// The keys that are read; a manifest may have others.
pub(super) const KEYS: [&str; 3] = [FORMAT, META, CONTENT];

/// Bytes of what a manifest says of itself, as JSON: 12 MiB. User metadata of 1 MiB has six times as much where each of
/// its bytes is escaped; cursors have 4 MiB as JSON; names, numbers and bases have the rest.
const MAX_META_BYTES: usize = 12 << 20;

/// A kind of manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    /// Its name and version, which is stored.
    pub(super) name: &'static str,
    /// Most bytes of it.
    pub(super) limit: u64,
}

/// What a manifest says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    format: Format,
    meta: Option<String>,
    content: Option<Digest>,
}

/// What the user is told of a kind of manifest, stored as JSON.
pub(super) trait Meta: Serialize + DeserializeOwned {
    /// Checks its bounds.
    fn check(&self) -> Result<(), MetaError>;
}

impl Format {
    /// Checks the bytes of a manifest of this kind.
    pub(super) fn check_len(&self, actual: u64) -> Result<(), ManifestError> {
        let Self { name: format, limit } = *self;
        if actual > limit { Err(ManifestError::TooLong { format, limit, actual }) } else { Ok(()) }
    }
}

impl Head {
    /// Makes the head of a manifest without anything but a format.
    pub(super) fn bare(format: Format) -> Self {
        Self { format, meta: None, content: None }
    }

    /// Makes the head of a manifest that is about to be written, and whose content has a digest of its own.
    pub(super) fn new<M: Meta>(format: Format, meta: &M, content: Digest) -> Result<Self, ManifestError> {
        Ok(Self { content: Some(content), ..Self::described(format, meta)? })
    }

    /// Makes the head of a manifest that is about to be written.
    pub(super) fn described<M: Meta>(format: Format, meta: &M) -> Result<Self, ManifestError> {
        meta.check()?;
        let json = serde_json::to_string(meta).map_err(|error| missing(META, Some(error)))?;
        check_json(&json)?;
        Ok(Self { format, meta: Some(json), content: None })
    }

    /// Returns the pairs that are stored.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let format = Some((FORMAT, self.format.name.to_owned()));
        let meta = self.meta.clone().map(|json| (META, json));
        let content = self.content.map(|digest| (CONTENT, digest.to_string()));
        [format, meta, content].into_iter().flatten().collect()
    }

    /// Takes the pairs of a manifest, which must be of `format`.
    pub(super) fn from_pairs(format: Format, pairs: &[(&str, &str)]) -> Result<Self, ManifestError> {
        let find = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let actual = find(FORMAT);
        if actual != Some(format.name) {
            let actual = actual.map(|text| text.chars().take(80).collect());
            return Err(ManifestError::Format { expected: format.name, actual });
        }
        let content = find(CONTENT).map(|text| text.parse().map_err(|_| missing(CONTENT, None))).transpose()?;
        Ok(Self { format, meta: find(META).map(str::to_owned), content })
    }

    /// Returns what the manifest says it is.
    pub(super) fn meta<M: Meta>(&self) -> Result<M, ManifestError> {
        let json = self.meta.as_deref().ok_or_else(|| missing(META, None))?;
        check_json(json)?;
        let meta: M = serde_json::from_str(json).map_err(|error| missing(META, Some(error)))?;
        meta.check()?;
        Ok(meta)
    }

    /// Returns the digest that the manifest says its content has.
    pub(super) fn content(&self) -> Result<Digest, ManifestError> {
        self.content.ok_or_else(|| missing(CONTENT, None))
    }

    /// Checks that the content has the digest that the manifest says.
    pub(super) fn check_content(&self, actual: Digest) -> Result<Digest, ManifestError> {
        let expected = self.content()?;
        if expected == actual { Ok(actual) } else { Err(ManifestError::Content { expected, actual }) }
    }

    /// Checks the bytes of the manifest.
    pub(super) fn check_len(&self, actual: u64) -> Result<(), ManifestError> {
        self.format.check_len(actual)
    }
}

fn check_json(json: &str) -> Result<(), MetaError> {
    let (limit, actual) = (MAX_META_BYTES, json.len());
    if actual > limit { Err(MetaError::Long { limit, actual }) } else { Ok(()) }
}

/// Checks the bytes of user metadata.
pub(super) fn check_user_metadata(metadata: &BTreeMap<String, String>) -> Result<(), MetaError> {
    let actual = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if actual > MAX_USER_METADATA_BYTES { Err(MetaError::UserMetadata { actual }) } else { Ok(()) }
}

/// Checks a rank of a world.
pub(super) fn check_world(rank: u32, world_size: u32) -> Result<(), MetaError> {
    let legal = rank < world_size && world_size <= MAX_WORLD_SIZE;
    if legal { Ok(()) } else { Err(MetaError::World { rank, world_size }) }
}

/// Checks that a number is what the rest of its row implies.
pub(super) fn check_number(what: &'static str, expected: u64, actual: u64) -> Result<(), RowError> {
    if expected == actual { Ok(()) } else { Err(RowError::Number { what, expected, actual }) }
}

fn missing(key: &'static str, source: Option<serde_json::Error>) -> ManifestError {
    ManifestError::Meta { key, source }
}
