//! How many bytes one process may hold in flight: the only bound on concurrency of large transfers.
//!
//! Must never let one request wait for ever: a request larger than the whole budget takes all of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit: 64 KiB, so that a budget of terabytes still fits the semaphore's counter.
const UNIT_BYTES: u64 = 64 << 10;

/// A shared budget of bytes in flight.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
pub struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Returns a budget of `bytes`, at least one unit of 64 KiB.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        Self { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Returns all bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// Waits until `bytes` are free and takes them; the whole budget where it is smaller.
    pub async fn take(&self, bytes: u64) -> Taken {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.units);
        let permit = Arc::clone(&self.permits).acquire_many_owned(units).await;
        Taken { _permit: permit.expect("the semaphore is never closed") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_bounds_and_never_blocks_a_large_request_for_ever() {
        let budget = Budget::new(1 << 20);
        let most = budget.take(1 << 40).await;
        assert_eq!(budget.permits.available_permits(), 0);
        drop(most);
        let _small = budget.take(1).await;
        assert_eq!(budget.permits.available_permits(), 15);
    }
}
