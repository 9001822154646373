//! A store tried out: can it be written, does it refuse a second creation, how fast is it, what time has it.
//!
//! Must never touch anything but an object of its own, which it deletes.

use bytes::Bytes;
use gigastore_formats::digest::hex;
use gigastore_formats::wire::Probe;

use crate::engine::Engine;
use crate::store::{Created, StoreError, keys};

/// Why a store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Creation is not conditional: commits could overwrite each other.
    #[error("{key} could be created twice: this store has no conditional put, so that commits on it are not safe")]
    Overwritten {
        /// The object.
        key: String,
    },
    /// What was written is not what is read.
    #[error("{key} came back with other bytes: expected {expected} bytes as written, actual {actual}")]
    Different {
        /// The object.
        key: String,
        /// Bytes written.
        expected: u64,
        /// Bytes read.
        actual: u64,
    },
}

impl Engine {
    /// Creates an object of `bytes` bytes, tries to create it again, reads it and deletes it.
    pub async fn probe(&self, bytes: usize) -> Result<Probe, ProbeError> {
        let key = keys::probe(&hex(&self.ambient.random_bytes()[..16]));
        let content = Bytes::from(vec![0x5a; bytes]);
        let probed = self.probe_object(&key, content).await;
        let deleted = self.objects.delete_cache(&key).await;
        let probe = probed?;
        deleted?;
        Ok(probe)
    }

    async fn probe_object(&self, key: &str, content: Bytes) -> Result<Probe, ProbeError> {
        let now = || self.ambient.monotonic();
        let started = now();
        self.objects.create(key, vec![content.clone()]).await?;
        let write = now().saturating_sub(started);
        let modified = self.objects.modified_ms(key).await?;
        let skew_ms =
            modified.map(|there| there.saturating_sub(i64::try_from(self.ambient.wall_ms()).unwrap_or(i64::MAX)));
        if let Created::New = self.objects.create(key, vec![content.clone()]).await? {
            return Err(ProbeError::Overwritten { key: key.to_owned() });
        }
        let started = now();
        let read = self.objects.get(key, content.len() as u64).await?;
        if read != content {
            let (expected, actual) = (content.len() as u64, read.len() as u64);
            return Err(ProbeError::Different { key: key.to_owned(), expected, actual });
        }
        let (write_us, read_us) = (write.as_micros() as u64, now().saturating_sub(started).as_micros() as u64);
        Ok(Probe { bytes: content.len() as u64, write_us, read_us, skew_ms })
    }
}
