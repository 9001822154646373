//! Decoded manifests that are kept: a rank that wants a row of each of 2,000 tensors need not read a manifest of a
//! million.
//!
//! Must never keep a manifest that was not checked against its commit record.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use gigastore_engine::Engine;
use gigastore_formats::manifest::checkpoint::Checkpoint;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::Stored;
use gigastore_formats::record::Commit;
use gigastore_formats::wire::Fault;

use crate::metrics::Metrics;

/// Rows that are kept in all: 200,000 of some 300 bytes are 60 MB. A longer manifest is read for each plan.
const ROWS_KEPT: usize = 200_000;

type Key = (ProjectName, Stored);

/// Decoded manifests, the last used at the back.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    kept: Mutex<VecDeque<(Key, Arc<Checkpoint>)>>,
    /// Held while a manifest is read, so that many ranks that ask at once read it once.
    reading: tokio::sync::Mutex<()>,
}

impl Manifests {
    /// Returns the decoded manifest of a checkpoint.
    pub(crate) async fn checkpoint(
        &self,
        engine: &Engine,
        metrics: &Metrics,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<Checkpoint>, Fault> {
        let key = (project.clone(), commit.manifest.object);
        if let Some(found) = self.find(&key) {
            metrics.manifests_kept.inc();
            return Ok(found);
        }
        let _reading = self.reading.lock().await;
        if let Some(found) = self.find(&key) {
            metrics.manifests_kept.inc();
            return Ok(found);
        }
        metrics.manifests_read.inc();
        let read = engine.checkpoint(project, commit).await.map_err(|error| Fault::from(&error))?;
        let checkpoint = Arc::new(read);
        self.keep(key, Arc::clone(&checkpoint));
        Ok(checkpoint)
    }

    fn find(&self, key: &Key) -> Option<Arc<Checkpoint>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(other, _)| other == key)?;
        let entry = kept.remove(at)?;
        let found = Arc::clone(&entry.1);
        kept.push_back(entry);
        Some(found)
    }

    fn keep(&self, key: Key, checkpoint: Arc<Checkpoint>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((key, checkpoint));
        while kept.iter().map(|(_, checkpoint)| checkpoint.rows.len()).sum::<usize>() > ROWS_KEPT {
            kept.pop_front();
        }
    }
}
