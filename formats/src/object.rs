//! Names of stored objects: what kind, which digest, uploaded in which epoch.
//!
//! Must never know where the store is: the engine puts the project's prefix in front.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// The kinds of content-named objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// Many tensor slices, a safetensors file named by the digest of its header.
    Pack,
    /// One dataset file, exactly the user's Parquet file, named by the digest of its bytes.
    Blob,
    /// The index of a checkpoint or dataset version, Parquet, named by the digest of its bytes.
    Manifest,
}

impl ObjectKind {
    /// All kinds; manifests last, as they say what the others are of.
    pub const ALL: [Self; 3] = [Self::Pack, Self::Blob, Self::Manifest];
}

/// One upload of one content: `<digest>.<epoch>`. A name has one content for ever and is never uploaded twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stored {
    /// The content's digest (of a pack: of its header).
    pub digest: Digest,
    /// The project's epoch at the upload; garbage is told from live objects by it.
    pub epoch: u64,
}

/// Why a text is not the name of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a stored object: {text:?} (expected <64 hex digits>.<epoch>)")]
pub struct StoredError {
    text: String,
}

impl Stored {
    /// Returns the object's key below its project, such as `packs/ab/ab….0.safetensors`.
    pub fn key(&self, kind: ObjectKind) -> String {
        match kind {
            ObjectKind::Pack => format!("packs/{}/{self}.safetensors", self.fan_out()),
            ObjectKind::Blob => format!("blobs/{}/{self}.parquet", self.fan_out()),
            ObjectKind::Manifest => format!("manifests/{self}.parquet"),
        }
    }

    /// The first two hex digits: 256 folders, so that no local folder grows to millions of entries.
    fn fan_out(&self) -> String {
        crate::digest::hex(&self.digest.as_bytes()[..1])
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.digest, self.epoch)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Stored {
    type Err = StoredError;

    fn from_str(text: &str) -> Result<Self, StoredError> {
        let parsed = text.split_once('.').and_then(|(digest, epoch)| {
            let canonical = epoch == "0" || (!epoch.starts_with('0') && epoch.bytes().all(|b| b.is_ascii_digit()));
            canonical.then_some(())?;
            Some(Self { digest: digest.parse().ok()?, epoch: epoch.parse().ok()? })
        });
        parsed.ok_or_else(|| StoredError { text: text.chars().take(120).collect() })
    }
}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_have_one_form() {
        let stored = Stored { digest: Digest::of(b""), epoch: 12 };
        assert_eq!(stored.to_string().parse(), Ok(stored));
        let hash = stored.digest;
        for text in
            [format!("{hash}"), format!("{hash}."), format!("{hash}.01"), format!("{hash}.+1"), format!("{hash}.1.2")]
        {
            assert!(text.parse::<Stored>().is_err(), "{text} was taken for a name");
        }
        assert_eq!(stored.key(ObjectKind::Pack), format!("packs/af/{hash}.12.safetensors"));
    }
}
