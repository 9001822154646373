//! The state of a project at an earlier record: what a fence condemned is decided there and nowhere else.
//!
//! Must never return the state of another record than the one asked for.

use std::sync::Arc;

use super::state::State;
use super::view::{FOLD_EVERY, FOLDED_KEPT, Log, LogError, READ_AHEAD};
use crate::store::{StoreError, keys};

impl Log {
    /// Returns the state after record `seq`, which stands in the log: from the newest folded state before it, or from
    /// the first record. With `keep`, and where that was far, the state is kept for the next collector.
    pub(crate) async fn state_at(&self, seq: u64, keep: bool) -> Result<Arc<State>, LogError> {
        let seen = self.seen();
        if seen.seq == seq {
            return Ok(seen);
        }
        let mut state = self.load_folded(seq).await?.unwrap_or_else(State::origin);
        let began = state.seq;
        while state.seq < seq {
            let ahead = (seq - state.seq).min(READ_AHEAD);
            let (records, more) = self.read_ahead(state.seq, state.head, ahead).await;
            records.iter().for_each(|(record, digest)| state.fold(record, *digest));
            if !more? {
                let key = keys::record(&self.project, state.seq + 1);
                return Err(self.store_error(StoreError::NotFound { key }));
            }
        }
        let state = Arc::new(state);
        if keep && seq - began >= FOLD_EVERY {
            self.keep_at(&state).await;
        }
        Ok(state)
    }

    /// Deletes the folded states before record `seq`, but for the newest ones.
    pub(crate) async fn forget_before(&self, seq: u64) {
        let keys = self.folded_keys().await.unwrap_or_default();
        self.forget(keys.iter().skip(FOLDED_KEPT).filter(|(folded, _)| *folded < seq)).await;
    }
}
