//! Reads of objects, whole and in part, their lengths, and what is below a folder.

use bytes::{Bytes, BytesMut};
use futures::stream::TryStreamExt;
use gigastore_formats::range::ByteRange;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectStoreExt};

use super::super::StoreError;
use super::super::folder::{self, Found};
use super::{Objects, folder_error};

/// Pieces of an answer below this length are gathered until they have [`GATHERED_BYTES`].
const SHORT_BYTES: usize = 64 << 10;
const GATHERED_BYTES: usize = 512 << 10;

impl Objects {
    /// Reads a whole object of at most `limit` bytes; a longer one is refused before its body is read.
    pub(crate) async fn get(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        if let Some(path) = self.path(key) {
            // The object store would have it opened by one thread and read by another.
            let read = self.ambient.waited(move || folder::read(&path, limit)).await;
            return match read.map_err(|error| StoreError::sort(key, folder_error(error)))? {
                Found::Whole(bytes) => Ok(bytes),
                Found::Longer(actual) => Err(StoreError::TooLong { key: key.to_owned(), limit, actual }),
                Found::Nothing => Err(StoreError::NotFound { key: key.to_owned() }),
            };
        }
        let sort = |source| StoreError::sort(key, source);
        let found = self.store.get_opts(&Path::from(key), GetOptions::default()).await.map_err(sort)?;
        let actual = found.meta.size;
        if actual > limit {
            return Err(StoreError::TooLong { key: key.to_owned(), limit, actual });
        }
        let bytes = found.bytes().await.map_err(sort)?;
        let all = ByteRange::with_len(0, actual).expect("an object ends before 2^64");
        self.check_len(key, all, actual, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Reads `range` of an object; fails where the object ends before it.
    pub(crate) async fn get_range(&self, key: &str, range: ByteRange) -> Result<Bytes, StoreError> {
        Ok(self.get_range_and_len(key, range).await?.0)
    }

    /// Reads `range` of an object and says how long the object is: one request for both.
    pub(crate) async fn get_range_and_len(&self, key: &str, range: ByteRange) -> Result<(Bytes, u64), StoreError> {
        if range.is_empty() {
            let len = self.len(key).await?.ok_or_else(|| StoreError::NotFound { key: key.to_owned() })?;
            return Ok((Bytes::new(), len));
        }
        let found = self.ask(key, range).await?;
        let len = found.meta.size;
        let bytes = found.bytes().await.map_err(|source| StoreError::sort(key, source))?;
        self.check_len(key, range, len, bytes.len() as u64)?;
        Ok((bytes, len))
    }

    /// Reads `range` of an object as [`get_range`](Self::get_range) does, in the pieces that it comes in: to put them
    /// together costs more than the copy to where they belong.
    pub(crate) async fn get_pieces(&self, key: &str, range: ByteRange) -> Result<Vec<Bytes>, StoreError> {
        // A file comes in pieces of some KiB.
        if range.is_empty() || self.folder.is_some() {
            return Ok(vec![self.get_range(key, range).await?]);
        }
        let found = self.ask(key, range).await?;
        let len = found.meta.size;
        let (mut pieces, mut short) = (Vec::new(), BytesMut::new());
        let mut coming = found.into_stream();
        while let Some(piece) = coming.try_next().await.map_err(|source| StoreError::sort(key, source))? {
            // A short piece may hold twice its memory.
            if piece.len() < SHORT_BYTES {
                short.reserve(if short.is_empty() { GATHERED_BYTES } else { piece.len() });
                short.extend_from_slice(&piece);
            }
            if !short.is_empty() && (piece.len() >= SHORT_BYTES || short.len() >= GATHERED_BYTES) {
                pieces.push(short.split().freeze());
            }
            if piece.len() >= SHORT_BYTES {
                pieces.push(piece);
            }
        }
        pieces.push(short.freeze());
        self.check_len(key, range, len, pieces.iter().map(|piece| piece.len() as u64).sum())?;
        Ok(pieces)
    }

    async fn ask(&self, key: &str, range: ByteRange) -> Result<GetResult, StoreError> {
        let bounded = GetRange::Bounded(range.start()..range.end());
        let options = GetOptions { range: Some(bounded), ..GetOptions::default() };
        match self.store.get_opts(&Path::from(key), options).await {
            Ok(found) => Ok(found),
            Err(source) => Err(self.past_the_end(key, range, source).await),
        }
    }

    /// Returns an object's length; `None` where there is none.
    pub(crate) async fn len(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.store.head(&Path::from(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::sort(key, source)),
        }
    }

    /// Returns the store's time of an object's last change, in milliseconds since 1970; `None` where it is not there.
    pub(crate) async fn modified_ms(&self, key: &str) -> Result<Option<i64>, StoreError> {
        match self.store.head(&Path::from(key)).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_millis())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::sort(key, source)),
        }
    }

    /// Lists the keys below `folder` with their lengths, in no order.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let found = self.store.list(Some(&Path::from(folder)));
        let found = found.map_ok(|meta| (meta.location.to_string(), meta.size));
        found.try_collect().await.map_err(|source| StoreError::sort(folder, source))
    }

    /// Lists the folders directly below `folder`, by name, sorted.
    pub(crate) async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let found = self.store.list_with_delimiter(Some(&Path::from(folder))).await;
        let found = found.map_err(|source| StoreError::sort(folder, source))?;
        let mut names: Vec<String> =
            found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Tells a range past the end from other errors: stores answer it in many ways.
    async fn past_the_end(&self, key: &str, wanted: ByteRange, source: Error) -> StoreError {
        let error = StoreError::sort(key, source);
        match (&error, self.len(key).await) {
            (StoreError::Unavailable { .. }, Ok(Some(actual))) if actual < wanted.end() => {
                StoreError::Short { key: key.to_owned(), wanted, actual }
            }
            _ => error,
        }
    }

    /// Checks that an object of `len` bytes gave all of `wanted`.
    fn check_len(&self, key: &str, wanted: ByteRange, len: u64, given: u64) -> Result<(), StoreError> {
        let actual = len.min(wanted.start() + given);
        match len >= wanted.end() && given == wanted.len() {
            true => Ok(()),
            false => Err(StoreError::Short { key: key.to_owned(), wanted, actual }),
        }
    }
}
