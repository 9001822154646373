//! One save in the background, for whoever waits for that one and no other.
//!
//! Must never tell of another save, nor leave a failure that it told to be told again.

use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::{FutureExt, Shared};
use gigastore_formats::wire::Committed;

use super::AsyncSaveError;
use super::ledger::Ledger;

/// What became of a save.
pub(super) type Outcome = Result<Committed, AsyncSaveError>;

/// A save under way, or done. Clones are of the same save.
#[derive(Clone)]
pub struct PendingSave {
    ledger: Arc<Ledger>,
    outcome: Shared<oneshot::Receiver<Outcome>>,
    target: String,
}

impl PendingSave {
    /// Returns the save, and what its outcome is given to.
    pub(super) fn new(ledger: Arc<Ledger>, target: String) -> (Self, oneshot::Sender<Outcome>) {
        let (sender, outcome) = oneshot::channel();
        (Self { ledger, outcome: outcome.shared(), target }, sender)
    }

    /// Waits until it is done, and returns what was committed. A failure is told here each time it is asked for, and by
    /// nobody else any more.
    pub async fn wait(&self) -> Result<Committed, AsyncSaveError> {
        let cut_off = || AsyncSaveError::CutOff { target: self.target.clone() };
        let outcome = self.outcome.clone().await.unwrap_or_else(|_| Err(cut_off()));
        if let Err(error) = &outcome {
            self.ledger.told(error);
        }
        outcome
    }
}
