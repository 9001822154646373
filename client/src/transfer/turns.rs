//! Turns of the packs of one rank: how many are hashed, and how many are sent, while others wait.
//!
//! Must never let all of them do the same at once: the processors would stand still while they are sent, and the disk or
//! the network while they are hashed.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Packs of one rank that are hashed at once: two, so that no core waits for the last group of one.
const PACKS_HASHED: usize = 2;

/// Packs of one rank that are sent at once. Those that are hashed and wait for their turn keep the disk or the network
/// at work where the others end together, as they do where they share it: a save would go in waves otherwise.
const PACKS_SENT: usize = 8;

/// Turns to hash, and to send.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    pub(crate) hash: Arc<Semaphore>,
    pub(crate) send: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { hash: Arc::new(Semaphore::new(PACKS_HASHED)), send: Arc::new(Semaphore::new(PACKS_SENT)) }
    }
}
