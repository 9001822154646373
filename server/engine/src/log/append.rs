//! The one way into the log: create the next slot, read back on any doubt, and search every record passed for one's own
//! transaction.
//!
//! Why no step may be left out: an answer may be lost though the record landed (so: read back), a store may answer
//! "exists" to our own success (so: compare transactions, not answers), and preconditions may break while another
//! record takes the slot (so: propose anew for each slot). Must never try another slot while one is unresolved.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use gigastore_formats::limits::MAX_RECORD_BYTES;
use gigastore_formats::record::{Entry, Record, TxnId};

use super::queue::{Answer, Propose, Waiting};
use super::state::{State, VoidReason};
use super::view::{Log, LogError};
use crate::store::{Created, StoreError, keys};

/// How long an append keeps asking about a slot whose fate is unknown: a minute rides out a failover of a store.
const DOUBT_LIMIT: Duration = Duration::from_secs(60);

/// First pause between two questions about a slot; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause between two questions.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A transaction that took effect.
#[derive(Clone, Debug)]
pub(crate) struct Appended {
    /// The state at or after its record.
    pub(crate) state: Arc<State>,
    /// Its record.
    pub(crate) seq: u64,
}

/// An entry that stands in the log without effect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("log record {seq} holds this operation, but it has no effect: {reason}")]
pub struct Void {
    /// The record.
    pub seq: u64,
    /// Why it has none.
    pub reason: VoidReason,
}

/// Why nothing was appended, or why it is not known. `E` is the caller's own refusal.
#[derive(Debug, thiserror::Error)]
pub enum AppendError<E: std::error::Error + 'static> {
    /// The caller's preconditions do not hold at the tail of the log.
    #[error(transparent)]
    Refused(E),
    /// It stands in the log and has no effect.
    #[error(transparent)]
    Void(#[from] Void),
    /// The log could not be read.
    #[error(transparent)]
    Log(Arc<LogError>),
    /// The store refused the record.
    #[error("log record {seq} could not be written")]
    Store {
        /// The record's number.
        seq: u64,
        /// Why.
        #[source]
        source: Arc<StoreError>,
    },
    /// The store went silent with the record perhaps written. Nothing was deleted; the same operation run again finds
    /// out.
    #[error(
        "it is not known whether log record {seq} was written: the store gave no answer to rely on in {seconds} s; \
         run the same again to find out (it takes effect once at most)"
    )]
    StateUnknown {
        /// The record's number.
        seq: u64,
        /// How long it was asked.
        seconds: u64,
        /// The last answer.
        #[source]
        source: Arc<StoreError>,
    },
}

impl<E: std::error::Error + 'static> From<Failed> for AppendError<E> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Log(source) => Self::Log(source),
            Failed::Store { seq, source } => Self::Store { seq, source },
            Failed::StateUnknown { seq, seconds, source } => Self::StateUnknown { seq, seconds, source },
        }
    }
}

impl<E: std::error::Error + 'static> From<LogError> for AppendError<E> {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

/// Why a slot was not filled, for all who wait for it.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    Log(Arc<LogError>),
    Store { seq: u64, source: Arc<StoreError> },
    StateUnknown { seq: u64, seconds: u64, source: Arc<StoreError> },
}

impl Log {
    /// Appends the entries that `propose` makes for the state at the tail, the first of which is of transaction `txn`.
    ///
    /// `propose` is called again for each slot that another writer took, and may be where the record is full. Answers
    /// at once where `txn` took effect before. What waits in this process for one log shares records.
    ///
    /// # Panics
    /// Where a `propose` panics: those who wait beside it do too.
    pub(crate) async fn append<E: std::error::Error + Send + 'static>(
        self: &Arc<Self>,
        txn: TxnId,
        mut propose: impl FnMut(&State) -> Result<Vec<Entry>, E> + Send + 'static,
    ) -> Result<Appended, AppendError<E>> {
        let refusal = Arc::new(Mutex::new(None));
        let refused = Arc::clone(&refusal);
        let propose: Propose = Box::new(move |state| match propose(state) {
            Ok(entries) => Some(entries),
            Err(refusal) => {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                None
            }
        });
        let (answer, answered) = oneshot::channel();
        self.enqueue(Waiting { txn, propose, answer });
        match answered.await.expect("the writer of the log panicked; its message stands above") {
            Answer::Took { state, seq, first } => {
                if first {
                    self.keep_folded().await;
                }
                Ok(Appended { state, seq })
            }
            Answer::Void(void) => Err(void.into()),
            Answer::Refused => {
                let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(AppendError::Refused(refusal.expect("who refuses says why")))
            }
            Answer::Failed(failed) => Err(failed.into()),
        }
    }

    /// Tries to make `record` the one of its slot; returns when the slot is filled: true where it was by this call,
    /// false where by another or where that is not known.
    pub(super) async fn fill_slot(&self, record: &Record) -> Result<bool, Failed> {
        let (bytes, digest) = record.seal();
        let bytes = Bytes::from(bytes);
        let (key, seq) = (keys::record(&self.project, record.seq), record.seq);
        let started = self.ambient.monotonic();
        let (mut pause, mut in_flight) = (FIRST_PAUSE, false);
        loop {
            let mut doubt = match self.objects.create_or_doubt(&key, bytes.clone()).await {
                Ok(Created::New) => {
                    self.advance(record, digest).await;
                    return Ok(true);
                }
                Ok(Created::Exists(_)) => return Ok(false),
                Err(doubt) => doubt,
            };
            match self.objects.get(&key, MAX_RECORD_BYTES).await {
                Ok(_) => return Ok(false),
                // The store has said no, and nothing is there: an answer, unless an earlier try may still land.
                Err(StoreError::NotFound { .. }) if !doubt.is_retryable() && !in_flight => {
                    return Err(Failed::Store { seq, source: Arc::new(doubt) });
                }
                Err(StoreError::NotFound { .. }) => in_flight |= doubt.is_retryable(),
                Err(unread) => doubt = unread,
            }
            let waited = self.ambient.monotonic().saturating_sub(started);
            if waited > DOUBT_LIMIT || !doubt.is_retryable() {
                return Err(Failed::StateUnknown { seq, seconds: waited.as_secs(), source: Arc::new(doubt) });
            }
            let jitter = self.ambient.random() % (pause.as_millis() as u64 + 1);
            self.ambient.sleep(pause / 2 + Duration::from_millis(jitter)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
