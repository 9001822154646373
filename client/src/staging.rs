//! Files on their way into a folder of the user: complete before they have their final names.
//!
//! They are written under a hidden staging folder inside the destination (the same file system, so that renaming is
//! atomic) and moved when all are complete and on disk: all of them, or after a failure none. Dropped before that, the
//! staging folder goes away. Must never replace a file unless told to.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::hex;
use gigastore_formats::name::{NameError, check_path};

/// Files being written.
#[derive(Debug)]
pub(crate) struct Staging {
    out: PathBuf,
    folder: PathBuf,
    overwrite: bool,
    files: Vec<(String, Arc<File>)>,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file of that name is there.
    #[error("{path} exists: choose another folder, or pass --overwrite")]
    Exists {
        /// The file.
        path: String,
    },
    /// A file is where a folder is needed, or the other way round.
    #[error("{path} is {actual}, and {expected} of that name is to be written: remove it, or choose another folder")]
    InTheWay {
        /// What is in the way.
        path: String,
        /// What is needed there.
        expected: &'static str,
        /// What is there.
        actual: &'static str,
    },
    /// The path is not one inside the destination.
    #[error("a stored path can't be a local file: {0}")]
    Path(#[from] NameError),
    /// The system refused.
    #[error("{path} can't be written ({source}); nothing is left under its final name")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused, and did so again when files that had their names already were to be taken back.
    #[error("{path} can't be written ({source}), and these could not be taken back: {left}; remove them by hand")]
    Left {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
        /// The files that are there without the others.
        left: String,
    },
}

/// A file that has its final name, and how to undo that.
struct Moved {
    last: PathBuf,
    /// Where the file is that was there before.
    replaced: Option<PathBuf>,
}

impl Staging {
    /// Starts in the folder `out`, which is made where it is not there.
    pub(crate) fn new(out: &Path, overwrite: bool, ambient: &Arc<dyn Ambient>) -> Result<Self, StagingError> {
        let folder = out.join(format!(".gigastore-{}", hex(&ambient.random().to_le_bytes())));
        fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
        Ok(Self { out: out.to_owned(), folder, overwrite, files: Vec::new() })
    }

    /// Creates a file of `len` bytes that will be `name` below the destination.
    pub(crate) fn create(&mut self, name: &str, len: u64) -> Result<Arc<File>, StagingError> {
        check_path(name)?;
        self.check_free(name)?;
        let path = self.folder.join("new").join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|file| {
            file.set_len(len)?;
            Ok(Arc::new(file))
        });
        let file = file.map_err(|source| failed(&path, source))?;
        self.files.push((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    /// Writes bytes of a created file.
    pub(crate) fn write(&self, file: &File, name: &str, bytes: &[u8], at: u64) -> Result<(), StagingError> {
        file.write_all_at(bytes, at).map_err(|source| failed(&self.out.join(name), source))
    }

    /// Ends writing: every file is put on disk, then each gets its final name. Cancelled before the names, it leaves
    /// nothing.
    pub(crate) async fn finish(self, ambient: &dyn Ambient) -> Result<Vec<PathBuf>, StagingError> {
        let files: Vec<(PathBuf, Arc<File>)> =
            self.files.iter().map(|(name, file)| (self.out.join(name), Arc::clone(file))).collect();
        let sync = move || files.iter().try_for_each(|(path, file)| file.sync_all().map_err(|e| failed(path, e)));
        ambient.computed(sync).await?;
        self.publish()
    }

    /// Gives each file its final name; after a failure none has one.
    fn publish(self) -> Result<Vec<PathBuf>, StagingError> {
        for (name, _) in &self.files {
            self.check_free(name)?;
        }
        let mut moved = Vec::with_capacity(self.files.len());
        match self.move_all(&mut moved) {
            Ok(()) => Ok(moved.into_iter().map(|one| one.last).collect()),
            Err(error) => Err(taken_back(moved, error)),
        }
    }

    fn move_all(&self, moved: &mut Vec<Moved>) -> Result<(), StagingError> {
        let mut folders = BTreeSet::from([self.out.clone()]);
        let old = self.folder.join("old");
        fs::create_dir(&old).map_err(|source| failed(&old, source))?;
        for (i, (name, _)) in self.files.iter().enumerate() {
            let last = self.out.join(name);
            let parent = last.parent().unwrap_or(&self.out);
            fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
            folders.extend(parent.ancestors().take_while(|folder| *folder != self.out).map(Path::to_owned));
            let replaced = if last.exists() { Some(kept(&last, old.join(i.to_string()))?) } else { None };
            let renamed = fs::rename(self.folder.join("new").join(name), &last);
            let is_moved = renamed.is_ok() || replaced.is_some();
            if is_moved {
                moved.push(Moved { last: last.clone(), replaced });
            }
            renamed.map_err(|source| failed(&last, source))?;
        }
        // A name is on disk when its folder is.
        let sync = |folder: &PathBuf| File::open(folder).and_then(|opened| opened.sync_all());
        folders.iter().try_for_each(|folder| sync(folder).map_err(|source| failed(folder, source)))
    }

    /// Checks that nothing is in the way of a file of this name.
    fn check_free(&self, name: &str) -> Result<(), StagingError> {
        let last = self.out.join(name);
        let in_the_way = |path: &Path, expected, actual| {
            Err(StagingError::InTheWay { path: path.display().to_string(), expected, actual })
        };
        let mut parents = last.ancestors().skip(1).take_while(|parent| *parent != self.out);
        if let Some(parent) = parents.find(|parent| parent.exists() && !parent.is_dir()) {
            return in_the_way(parent, "a folder", "a file");
        }
        match fs::symlink_metadata(&last) {
            Ok(_) if last.is_dir() => in_the_way(&last, "a file", "a folder"),
            Ok(_) if !self.overwrite => Err(StagingError::Exists { path: last.display().to_string() }),
            _ => Ok(()),
        }
    }
}

/// Keeps the file `last` under another name, so that it can be put back.
fn kept(last: &Path, old: PathBuf) -> Result<PathBuf, StagingError> {
    // A second link leaves the old file in place until the new one takes its name; not every file system has links.
    let kept = fs::hard_link(last, &old).or_else(|_| fs::rename(last, &old));
    kept.map(|()| old).map_err(|source| failed(last, source))
}

/// Takes back what has its final name, and says of the error what is left.
fn taken_back(moved: Vec<Moved>, error: StagingError) -> StagingError {
    let mut left = Vec::new();
    for Moved { last, replaced } in moved.into_iter().rev() {
        let undone = match replaced {
            Some(old) => fs::rename(old, &last),
            None => fs::remove_file(&last),
        };
        if undone.is_err() {
            left.push(last.display().to_string());
        }
    }
    match error {
        StagingError::Io { path, source } if !left.is_empty() => {
            StagingError::Left { path, source, left: left.join(", ") }
        }
        error => error,
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What can't be removed is hidden, says whose it is, and is not worth failing for.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn failed(path: &Path, source: io::Error) -> StagingError {
    StagingError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use gigastore_formats::ambient::{Job, Task};

    use super::*;
    use crate::ambient::SystemAmbient;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn staged(out: &Path, overwrite: bool, files: &[&str]) -> Staging {
        let mut staging = Staging::new(out, overwrite, &SystemAmbient::shared()).unwrap();
        for name in files {
            let file = staging.create(name, 3).unwrap();
            staging.write(&file, name, b"new", 0).unwrap();
        }
        staging
    }

    async fn finish(staging: Staging) -> Result<Vec<PathBuf>, StagingError> {
        staging.finish(&*SystemAmbient::shared()).await
    }

    #[tokio::test]
    async fn files_appear_complete_or_not_at_all() {
        let out = tempfile::tempdir().unwrap();
        let staging = staged(out.path(), false, &["a/b"]);
        assert!(!out.path().join("a/b").exists());
        assert_eq!(finish(staging).await.unwrap(), [out.path().join("a/b")]);
        assert_eq!(fs::read(out.path().join("a/b")).unwrap(), b"new");
        assert_eq!(names(out.path()), ["a"]);

        let mut staging = staged(out.path(), false, &[]);
        assert!(matches!(staging.create("a/b", 3), Err(StagingError::Exists { .. })));
        assert!(staging.create("../x", 3).is_err());
        staging.create("c", 3).unwrap();
        drop(staging);
        assert_eq!(names(out.path()), ["a"]);
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_seen_before_the_first_name() {
        let out = tempfile::tempdir().unwrap();
        let staging = staged(out.path(), true, &["a", "b/c", "d"]);
        fs::write(out.path().join("b"), b"a file").unwrap();
        let error = finish(staging).await.unwrap_err().to_string();
        assert!(error.contains("/b is a file, and a folder of that name"), "{error}");
        assert_eq!(names(out.path()), ["b"]);

        let staging = staged(out.path(), true, &["a", "d"]);
        fs::create_dir(out.path().join("d")).unwrap();
        let error = finish(staging).await.unwrap_err().to_string();
        assert!(error.contains("/d is a folder, and a file of that name"), "{error}");
        assert_eq!(names(out.path()), ["b", "d"]);
        assert!(staged(out.path(), true, &[]).create("b/c", 1).is_err(), "seen before a byte is written");
    }

    #[tokio::test]
    async fn a_failure_between_takes_back_what_was_renamed() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("a"), b"old").unwrap();
        let staging = staged(out.path(), true, &["a", "b", "c", "d"]);
        fs::remove_file(staging.folder.join("new/c")).unwrap();
        let error = finish(staging).await.unwrap_err();
        assert!(matches!(&error, StagingError::Io { path, .. } if path.ends_with("/c")), "{error}");
        assert_eq!(names(out.path()), ["a"]);
        assert_eq!(fs::read(out.path().join("a")).unwrap(), b"old");
        finish(staged(out.path(), true, &["a", "b"])).await.unwrap();
        assert_eq!(fs::read(out.path().join("a")).unwrap(), b"new");
        assert_eq!(names(out.path()), ["a", "b"]);
    }

    /// An ambient whose threads are busy for ever.
    #[derive(Debug, Default)]
    struct Busy(Mutex<Vec<Waiting>>);

    struct Waiting(#[expect(dead_code, reason = "held, never run")] Job);

    impl std::fmt::Debug for Waiting {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a job")
        }
    }

    impl Ambient for Busy {
        fn wall_ms(&self) -> u64 {
            0
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn random(&self) -> u64 {
            0
        }
        fn sleep(&self, _: Duration) -> Task<()> {
            Box::pin(std::future::pending())
        }
        fn spawn(&self, _: Task<()>) {}
        fn compute(&self, job: Job) {
            self.0.lock().unwrap().push(Waiting(job));
        }
    }

    #[tokio::test]
    async fn a_finish_that_is_dropped_leaves_nothing() {
        let out = tempfile::tempdir().unwrap();
        let busy = Busy::default();
        let mut finishing = Box::pin(staged(out.path(), false, &["a"]).finish(&busy));
        assert!(futures::poll!(&mut finishing).is_pending(), "another thread puts the files on disk");
        drop(finishing);
        assert_eq!(names(out.path()), Vec::<String>::new());
    }
}
