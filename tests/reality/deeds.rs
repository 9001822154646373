//! What writers are about to do and what they are told is done, a line of JSON each, and the files that they saved.
//!
//! Must never hold back a line: who is told something has it in the file before anything else happens.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use gigastore_tests::model::{Tensor, safetensors};
use serde_json::{Value, json};

use crate::place::Copy;

pub(crate) struct Deeds {
    folder: tempfile::TempDir,
    file: Mutex<File>,
    saved: AtomicU64,
}

impl Deeds {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("models")).unwrap();
        let file = OpenOptions::new().create_new(true).append(true).open(folder.path().join("deeds")).unwrap();
        Self { folder, file: Mutex::new(file), saved: AtomicU64::new(0) }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("deeds")
    }

    /// Where the services say what went wrong.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// Returns how many saves were acknowledged.
    pub(crate) fn saved(&self) -> u64 {
        self.saved.load(Ordering::SeqCst)
    }

    /// Writes a model to be saved; returns its file.
    pub(crate) fn model(&self, name: &str, tensors: &[Tensor]) -> PathBuf {
        let path = self.models().join(name);
        std::fs::write(&path, safetensors(tensors, &[])).unwrap();
        path
    }

    /// Notes that a save was acknowledged.
    pub(crate) fn saved_as(&self, run: &str, step: u64, file: &Path) {
        let file = file.file_name().unwrap().to_str().unwrap();
        self.write(&json!({ "what": "saved", "run": run, "step": step, "file": file }));
        self.saved.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that something else is about to be done to a step, or was acknowledged.
    pub(crate) fn note(&self, what: &str, run: &str, step: u64, tag: &str) {
        self.write(&json!({ "what": what, "run": run, "step": step, "tag": tag }));
    }

    fn write(&self, line: &Value) {
        self.file.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Keeps all of it and the bucket for whoever looks into a failure; says where.
    pub(crate) fn keep(&self, bucket: &Copy) -> String {
        let kept = std::env::temp_dir().join(format!("gigastore-reality-{}", std::process::id()));
        let copied = std::process::Command::new("cp").arg("-r").arg(self.folder.path()).arg(&kept).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} could not be kept", kept.display());
        bucket.keep(&kept.join("bucket"));
        kept.display().to_string()
    }
}
