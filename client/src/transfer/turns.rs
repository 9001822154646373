//! Turns of the packs of one store's saves: how many are hashed, and how many are sent, while others wait.
//!
//! Must never let all of them do the same at once: the processors would stand still while they are sent, and the disk
//! or the network while they are hashed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::ambient::cores;

/// Packs that are hashed at once, at least: two, so that no core waits for the last group of one.
const PACKS_HASHED: usize = 2;

/// Cores of each pack that is hashed: four, as one of the default size has work for eight.
const CORES_A_PACK: usize = 4;

/// Packs that are sent at once. Those that are hashed and wait for their turn keep the disk or the network at work
/// where the others end together, as they do where they share it: a save would go in waves otherwise.
const PACKS_SENT: usize = 8;

/// Turns to hash, and to send.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    pub(crate) hash: Arc<Semaphore>,
    pub(crate) send: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let hashed = (cores() / CORES_A_PACK).max(PACKS_HASHED);
        Self { hash: Arc::new(Semaphore::new(hashed)), send: Arc::new(Semaphore::new(PACKS_SENT)) }
    }
}
