//! Listing with ages, and deletion: for collections and sweeps, which know that nobody needs what they name.
//!
//! Must never decide what is deleted.

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::time::UNIX_EPOCH;

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use gigastore_formats::collect::Tally;
use object_store::path::Path;
use object_store::{Error, ObjectStore};

use super::StoreError;
use super::objects::{Objects, folder_error};

/// An object as a listing shows it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) len: u64,
    /// The store's time of its last change, in milliseconds since 1970.
    pub(crate) modified_ms: u64,
}

/// Objects whose deletion is asked for together: 1,000, the most that one request of S3 takes.
pub(crate) const DELETED_AT_ONCE: usize = 1000;

impl Objects {
    /// Lists the objects below `folder`, in no order, as they come.
    pub(crate) fn listed(&self, folder: &str) -> BoxStream<'static, Result<Listed, StoreError>> {
        let below = folder.to_owned();
        let found = self.store.list(Some(&Path::from(folder)));
        let found = found.map_ok(|meta| Listed {
            key: meta.location.to_string(),
            len: meta.size,
            modified_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or_default(),
        });
        found.map_err(move |source| StoreError::sort(&below, source)).boxed()
    }

    /// Deletes objects; one that is not there is deleted already. After an error some may be deleted and others not.
    pub(crate) async fn delete_all(&self, keys: Vec<String>) -> Result<(), StoreError> {
        let Some(first) = keys.first().cloned() else { return Ok(()) };
        let paths = futures::stream::iter(keys.into_iter().map(|key| Ok(Path::from(key)))).boxed();
        let mut deleted = self.store.delete_stream(paths);
        let mut failed = None;
        // To the end: what can be deleted is.
        while let Some(done) = deleted.next().await {
            match done {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(source) => failed = failed.or(Some(StoreError::sort(&first, source))),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Deletes (`dry_run`: only counts) the unfinished files below `folder` that nobody has written to since
    /// `before_ms`, milliseconds since 1970. Only a store in a folder has such; no listing shows them.
    pub(crate) async fn delete_staged(&self, folder: &str, before_ms: u64, dry_run: bool) -> Result<Tally, StoreError> {
        let Some(path) = self.path(folder) else { return Ok(Tally::default()) };
        let sweep = move || {
            let mut tally = Tally::default();
            sweep_staged(path, before_ms, dry_run, &mut tally).map(|()| tally)
        };
        self.ambient.waited(sweep).await.map_err(|error| StoreError::sort(folder, folder_error(error)))
    }
}

fn sweep_staged(top: PathBuf, before_ms: u64, dry_run: bool, tally: &mut Tally) -> io::Result<()> {
    let mut folders = vec![top];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Others may delete it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(named(error, &folder)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| named(error, &folder))?;
            let path = entry.path();
            // A link is not followed: what it leads to is not this store's.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && is_staged(&path) {
                // Gone meanwhile: its writer lives.
                let Ok(meta) = entry.metadata() else { continue };
                let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let modified_ms = modified.map_or(0, |time| time.as_millis() as u64);
                if modified_ms >= before_ms || (!dry_run && !removed(&path)?) {
                    continue;
                }
                tally.add(meta.len());
            }
        }
    }
    Ok(())
}

/// Removes a file; tells whether it was there.
fn removed(path: &FilePath) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(named(error, path)),
    }
}

/// Whether a file has the name of an unfinished one, `OBJECT#NUMBER`: no key has a `#`.
fn is_staged(path: &FilePath) -> bool {
    let number = path.file_name().and_then(|name| name.to_str()?.rsplit_once('#'));
    number.is_some_and(|(object, n)| !object.is_empty() && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn named(error: io::Error, path: &FilePath) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_files_of_old_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("packs/5e");
        std::fs::create_dir_all(&inner).unwrap();
        for name in ["x", "x#1", "y#12", "y#", "#3", "y#a"] {
            std::fs::write(inner.join(name), b"half").unwrap();
        }
        let sweep = |before, dry| {
            let mut tally = Tally::default();
            sweep_staged(folder.path().to_owned(), before, dry, &mut tally).unwrap();
            tally
        };
        assert_eq!(sweep(0, false), Tally::default(), "all were written a moment ago");
        let two = Tally { count: 2, bytes: 8 };
        assert_eq!(sweep(u64::MAX, true), two);
        assert_eq!(sweep(u64::MAX, false), two);
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 4);
        assert_eq!(sweep(u64::MAX, false), Tally::default());
        sweep_staged(folder.path().join("nowhere"), u64::MAX, false, &mut Tally::default()).unwrap();
    }
}
