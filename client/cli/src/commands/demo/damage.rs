//! A byte of the demo's own store, flipped and put back.
//!
//! Must never touch a store that the demo did not make, nor leave the byte flipped.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::name::Target;
use gigastore_formats::object::ObjectKind;

use crate::failure::Failure;

/// A flipped byte; it is put back when this is dropped.
pub(super) struct Flipped {
    path: PathBuf,
    object: String,
    position: u64,
    original: u8,
    back: bool,
}

impl Flipped {
    /// Flips the lowest bit of the byte in the middle of a stored slice.
    pub(super) fn new(store: &Path, target: &Target, row: &CheckpointRow) -> Result<Self, Failure> {
        let object = format!("projects/{}/{}", target.project, row.place.pack.key(ObjectKind::Pack));
        let position = row.place.offset + row.place.stored_len / 2;
        let path = store.join(&object);
        let mut byte = [0];
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let flipped = file.and_then(|file| {
            file.read_exact_at(&mut byte, position)?;
            file.write_all_at(&[byte[0] ^ 1], position)
        });
        flipped.map_err(|error| Failure::local("the demo's byte can't be flipped", &error))?;
        Ok(Self { path, object, position, original: byte[0], back: false })
    }

    pub(super) fn object(&self) -> &str {
        &self.object
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Puts the byte back.
    pub(super) fn put_back(mut self) -> Result<(), Failure> {
        self.back = true;
        self.write().map_err(|error| Failure::local("the demo's byte can't be put back", &error))
    }

    fn write(&self) -> std::io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(&[self.original], self.position)
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        if !self.back {
            // On the way out of another failure, which is the one to report.
            let _ = self.write();
        }
    }
}
