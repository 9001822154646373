//! The bucket that all share, and a copy of it as files, read without the engine.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::TryStreamExt;
use gigastore_tests::prepared;
use gigastore_tests::weed::{BUCKET, Ports, Weed};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};

/// Longer than any command may take here.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store that is empty at first.
pub(crate) struct Place {
    url: String,
    settings: Vec<(String, String)>,
    folder: Option<tempfile::TempDir>,
    _weed: Option<Weed>,
}

/// The objects of a bucket as files.
pub(crate) struct Copy {
    path: PathBuf,
    made: Option<tempfile::TempDir>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Place {
    pub(crate) fn new_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        Self { url, settings: Vec::new(), folder: Some(folder), _weed: None }
    }

    /// A new store in the bucket that the environment names, or in one of a server on this machine.
    pub(crate) fn bucket() -> Self {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        if let Ok(url) = std::env::var("GIGASTORE_REALITY_STORE") {
            let settings = std::env::vars().filter(|(key, _)| key.starts_with("AWS_")).collect();
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
            let (process, place) = (std::process::id(), PLACES.fetch_add(1, Ordering::Relaxed));
            let url = format!("{}/{since}-{process}-{place}", url.trim_end_matches('/'));
            return Self { url, settings, folder: None, _weed: None };
        }
        let python = prepared::python().unwrap_or_else(|error| panic!("{error}"));
        let (server, folder) = (Command::new(python.with_file_name("weed")), tempfile::tempdir().unwrap());
        let weed = Weed::start(server, folder, &Ports::free().unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let (url, settings) = (format!("s3://{BUCKET}/store"), weed.settings());
        Self { url, settings, folder: None, _weed: Some(weed) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns a command against `store`, the bucket's own URL or those of services.
    pub(crate) fn command(&self, store: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gigastore"));
        command.args(arguments).env("GIGASTORE_STORE", store).envs(self.settings.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Returns the objects as files.
    pub(crate) fn folder(&self) -> Copy {
        match &self.folder {
            Some(folder) => Copy { path: folder.path().to_owned(), made: None },
            None => {
                let made = tempfile::tempdir().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.fetch(made.path()));
                Copy { path: made.path().to_owned(), made: Some(made) }
            }
        }
    }

    /// Returns the settings of the bucket.
    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Returns a client of the bucket, and where in it the store is.
    pub(crate) fn s3(&self) -> (AmazonS3, &str) {
        let builder = AmazonS3Builder::new().with_url(&self.url);
        let builder =
            self.settings.iter().fold(builder, |builder, (key, value)| match key.to_ascii_lowercase().parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
        (builder.build().unwrap(), self.url.splitn(4, '/').nth(3).unwrap_or_default())
    }

    async fn fetch(&self, into: &Path) {
        let (s3, prefix) = self.s3();
        let store = PrefixStore::new(s3, prefix);
        let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
        for object in objects {
            let path = into.join(object.location.as_ref());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, store.get(&object.location).await.unwrap().bytes().await.unwrap()).unwrap();
        }
    }
}

impl Copy {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the files where they are, for whoever looks into a failure.
    pub(crate) fn keep(&self, at: &Path) {
        let copied = Command::new("cp").arg("-r").arg(&self.path).arg(at).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} could not be kept", self.path.display());
        let _ = &self.made;
    }

    /// Returns the keys of all objects.
    pub(crate) fn keys(&self) -> Vec<String> {
        let (mut folders, mut found) = (vec![self.path.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&self.path).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }
}

/// Runs a command to its end, or kills it after some time; `None` where it was killed.
pub(crate) fn run_or_kill(mut command: Command, doom: Option<Duration>) -> Option<Output> {
    let (mut child, began) = (command.spawn().unwrap(), Instant::now());
    while child.try_wait().unwrap().is_none() {
        if doom.is_some_and(|doom| began.elapsed() >= doom) {
            kill(&mut child);
            return None;
        }
        if began.elapsed() > PATIENCE {
            kill(&mut child);
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().unwrap())
}

/// Ends a process as a power cut would.
pub(crate) fn kill(child: &mut Child) {
    // It may have ended a moment ago.
    let _ = child.kill();
    child.wait().unwrap();
}
