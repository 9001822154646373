//! The records of a log from a number on: what a follower has not seen yet.
//!
//! Must never skip a record, nor give one that does not follow from the one before it.

use std::time::Duration;

use gigastore_formats::limits::MAX_RECORD_BYTES;
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::{Record, RecordError};
use gigastore_formats::sealed::unseal;

use crate::engine::Engine;
use crate::log::{LogError, read_record};
use crate::store::keys;

/// Records given at once: 16, some 30 KiB as they usually are, and at most 128 MiB by their limit.
const RECORDS_AT_ONCE: u64 = 16;

/// Pause between two looks at the log for a follower that waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Engine {
    /// Returns the records after number `after`, oldest first; waits up to `wait` for the first, and returns none where
    /// none came.
    pub async fn records(&self, project: &ProjectName, after: u64, wait: Duration) -> Result<Vec<Record>, LogError> {
        let started = self.ambient.monotonic();
        loop {
            let records = self.records_now(project, after).await?;
            if !records.is_empty() || self.ambient.monotonic().saturating_sub(started) >= wait {
                return Ok(records);
            }
            self.ambient.sleep(LOOK_EVERY).await;
        }
    }

    async fn records_now(&self, project: &ProjectName, after: u64) -> Result<Vec<Record>, LogError> {
        let tail = self.state(project).await?.seq;
        if after >= tail {
            return Ok(Vec::new());
        }
        let mut prev = Record::origin();
        if after > 0 {
            let key = keys::record(project, after);
            let bytes = self.record_bytes(project, &key).await?;
            let damaged = |source: RecordError| LogError::Damaged { key, source };
            prev = unseal::<Record>(&bytes, MAX_RECORD_BYTES).map_err(|error| damaged(error.into()))?.1;
        }
        let mut records = Vec::new();
        for seq in after + 1..=tail.min(after.saturating_add(RECORDS_AT_ONCE)) {
            let bytes = self.record_bytes(project, &keys::record(project, seq)).await?;
            let (record, digest) = read_record(project, &bytes, seq, prev)?;
            records.push(record);
            prev = digest;
        }
        Ok(records)
    }

    async fn record_bytes(&self, project: &ProjectName, key: &str) -> Result<bytes::Bytes, LogError> {
        let refused = |source| LogError::Store { project: project.clone(), source };
        self.objects.get(key, MAX_RECORD_BYTES).await.map_err(refused)
    }
}
