//! Files of a checkpoint or dataset against a list of their BLAKE3 digests that somebody else keeps: what `b3sum`
//! prints for the same files.
//!
//! Must never take a digest from the store for the one that is compared: the bytes are read, verified and hashed.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::Target;
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::Sort;
use gigastore_formats::verified::StreamHasher;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::checkpoint::files::FileError;
use crate::checkpoint::open::{Checkpoint, OpenError};
use crate::dataset::read::{Dataset, DatasetError};
use crate::error::Coded;
use crate::store::Store;
use crate::transfer::progress::Progress;

/// Bytes of a file that tensors make which are put together at once: as a service sends it.
const PIECE_BYTES: u64 = 8 << 20;

/// Digests by path, as `b3sum` prints them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sums(BTreeMap<String, Digest>);

/// What a comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SumsReport {
    /// Files whose bytes have the digest of the list.
    pub same: Vec<String>,
    /// Files of the list that have other bytes or are not there.
    pub different: Vec<Difference>,
    /// Files that the list does not name.
    pub unlisted: Vec<String>,
    /// Bytes read and hashed.
    pub bytes: u64,
}

/// A file that is not what the list says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its path.
    pub path: String,
    /// The digest in the list.
    pub expected: Digest,
    /// The digest of its bytes; `None` where there is no such file.
    pub actual: Option<Digest>,
}

/// Why files could not be compared with a list.
#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    /// A line is not one that `b3sum` prints.
    #[error(
        "line {line} of the list is not one of b3sum: expected 64 hex digits, two spaces and a path, found {text:?}"
    )]
    Line {
        /// The line, from 1.
        line: usize,
        /// What stands there, shortened.
        text: String,
    },
    /// A path stands there twice, with two digests.
    #[error("line {line} of the list gives {path:?} another digest than a line before it")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The path.
        path: String,
    },
    /// There is no line.
    #[error("the list names no file")]
    Empty,
    /// The checkpoint can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file of a checkpoint can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A dataset can't be opened, or a file of it not be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Sums {
    /// Reads what `b3sum` prints: a line a file, of its digest, two spaces and its path. A line that starts with a
    /// backslash has `\n` and `\\` in its path for a line feed and a backslash.
    pub fn parse(text: &str) -> Result<Self, SumsError> {
        let mut sums = BTreeMap::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let refused = || SumsError::Line { line: i + 1, text: line.chars().take(120).collect() };
            let (escaped, plain) = line.strip_prefix('\\').map_or((false, line), |plain| (true, plain));
            let (digest, path) = plain.split_once("  ").ok_or_else(refused)?;
            let digest: Digest = digest.parse().map_err(|_| refused())?;
            let path = if escaped { unescaped(path).ok_or_else(refused)? } else { path.to_owned() };
            let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
            if path.is_empty() {
                return Err(refused());
            }
            if sums.insert(path.clone(), digest).is_some_and(|before| before != digest) {
                return Err(SumsError::Twice { line: i + 1, path });
            }
        }
        if sums.is_empty() { Err(SumsError::Empty) } else { Ok(Self(sums)) }
    }
}

fn unescaped(text: &str) -> Option<String> {
    let (mut plain, mut left) = (String::new(), text.chars());
    while let Some(character) = left.next() {
        plain.push(match character {
            '\\' => match left.next()? {
                'n' => '\n',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

impl Store {
    /// Reads the files of a checkpoint or dataset version that `sums` names, each byte verified, and compares their
    /// digests. Paths are those under `…/files/` of a service, and of what a restore or `data get` writes.
    pub async fn compare_sums(
        &self,
        target: &Target,
        sums: &Sums,
        progress: &Progress,
    ) -> Result<SumsReport, SumsError> {
        let info = self.resolve(target).await?;
        let mut report = SumsReport::default();
        let (checkpoint, dataset) = match info.commit.sort {
            Sort::Checkpoint => (Some(self.checkpoint(target).await?), None),
            Sort::Dataset => (None, Some(self.dataset(target).await?)),
        };
        for (path, expected) in &sums.0 {
            let hashed = match (&checkpoint, &dataset) {
                (Some(checkpoint), _) => hashed_file(checkpoint, path, progress).await?,
                (None, Some(dataset)) => hashed_blob(dataset, path, progress).await?,
                (None, None) => None,
            };
            report.bytes += hashed.map_or(0, |(_, bytes)| bytes);
            match hashed {
                Some((actual, _)) if actual == *expected => report.same.push(path.clone()),
                other => {
                    let actual = other.map(|(actual, _)| actual);
                    report.different.push(Difference { path: path.clone(), expected: *expected, actual });
                }
            }
        }
        let paths: Vec<String> = match (&checkpoint, &dataset) {
            (Some(checkpoint), _) => checkpoint.files().into_iter().map(|file| file.path).collect(),
            (None, dataset) => dataset.iter().flat_map(Dataset::files).map(|row| row.path.clone()).collect(),
        };
        report.unlisted = paths.into_iter().filter(|path| !sums.0.contains_key(path)).collect();
        Ok(report)
    }
}

/// Hashes a file of a checkpoint; `None` where there is none.
async fn hashed_file(
    checkpoint: &Checkpoint,
    path: &str,
    progress: &Progress,
) -> Result<Option<(Digest, u64)>, SumsError> {
    let len = match checkpoint.file_len(path) {
        Ok(len) => len,
        Err(error) if error.code() == FaultCode::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut hasher = StreamHasher::default();
    let whole = ByteRange::new(0, len).expect("0 is the smallest number");
    for range in whole.cut(PIECE_BYTES) {
        let piece = checkpoint.read_file(path, Some(range), progress).await?;
        hasher = hashed(&checkpoint.store, hasher, piece).await;
    }
    Ok(Some((hasher.finish().root(), len)))
}

/// Hashes a file of a dataset version; `None` where there is none.
async fn hashed_blob(dataset: &Dataset, path: &str, progress: &Progress) -> Result<Option<(Digest, u64)>, SumsError> {
    let mut pieces = match dataset.pieces(path, None, progress) {
        Ok(pieces) => std::pin::pin!(pieces),
        Err(DatasetError::Unknown { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (mut hasher, mut len) = (StreamHasher::default(), 0);
    while let Some(piece) = pieces.try_next().await? {
        len += piece.len() as u64;
        hasher = hashed(dataset.store(), hasher, piece).await;
    }
    Ok(Some((hasher.finish().root(), len)))
}

async fn hashed(store: &Store, mut hasher: StreamHasher, piece: Bytes) -> StreamHasher {
    let hash = move || {
        hasher.update(&piece);
        hasher
    };
    store.ambient.computed(hash).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_b3sum_are_read_and_others_are_refused() {
        let digest = Digest::of(b"x");
        let text = format!("{digest}  a b.parquet\n\n{digest}  ./model.safetensors\n\\{digest}  odd\\nname\\\\\n");
        let names: Vec<String> = Sums::parse(&text).unwrap().0.into_keys().collect();
        assert_eq!(names, ["a b.parquet", "model.safetensors", "odd\nname\\"]);
        let other = Digest::of(b"y");
        for (text, part) in [
            (format!("{digest} one-space"), "line 1"),
            (format!("{digest}  a\nabc  b"), "line 2"),
            (format!("{digest}  "), "line 1"),
            (format!("\\{digest}  a\\x"), "line 1"),
            (format!("{digest}  a\n{other}  ./a"), "another digest"),
            ("\n".to_owned(), "no file"),
        ] {
            let error = Sums::parse(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
