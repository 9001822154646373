//! How a try fails, and how long is waited before the next: growing pauses, for as long as there is hope.
//!
//! Must never give a call up while its bytes move, nor try for ever.

use std::time::Duration;

use gigastore_formats::wire::Fault;

use super::remote::Remote;

/// How long a call is sent away by a service that answers, but is busy, before it is given up.
const BUSY_PATIENCE: Duration = Duration::from_secs(600);

/// Tries of one call: one that makes some progress each time and never ends is given up too.
const MAX_TRIES: u32 = 100;

/// Tries of one call at least, however long each takes: what was damaged on its way is sent once more, and who stalled
/// may have stood still themselves.
const LEAST_TRIES: u32 = 3;

/// Pauses between tries: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a call waits for a service.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// How long one try may make no progress before it is made again.
    pub stall: Duration,
    /// How long a call may make no progress before it is given up: longer than a service takes to be restarted. The
    /// try that is under way then has its `stall` beyond it, and three are made in any case.
    pub patience: Duration,
}

impl Default for Deadlines {
    /// 40 s for a try, 60 s for a call.
    fn default() -> Self {
        Self { stall: Duration::from_secs(40), patience: Duration::from_secs(60) }
    }
}

/// How a try ended without an answer that counts.
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// What the service asked to wait.
    pub(super) after: Option<Duration>,
    pub(super) retry: bool,
    /// The service answered that it is busy.
    pub(super) busy: bool,
    /// When bytes of the call last moved.
    pub(super) moved: Option<Duration>,
    /// They moved too slowly to count.
    pub(super) slow: bool,
}

impl Failed {
    /// What no other try can change.
    pub(super) fn final_with(fault: Fault) -> Self {
        Self { fault, after: None, retry: false, busy: false, moved: None, slow: false }
    }

    /// What another try may change.
    pub(super) fn passing(fault: Fault) -> Self {
        Self { retry: true, ..Self::final_with(fault) }
    }
}

/// The pauses of one call.
pub(super) struct Pause<'r> {
    remote: &'r Remote,
    /// When the call began, and when something of it last moved.
    began: Duration,
    moved: Duration,
    tries: u32,
    next: Duration,
}

impl<'r> Pause<'r> {
    pub(super) fn new(remote: &'r Remote) -> Self {
        let now = remote.ambient.monotonic();
        Self { remote, began: now, moved: now, tries: 0, next: FIRST_PAUSE }
    }

    /// Waits before another try; the fault, where there is to be none.
    pub(super) async fn after(&mut self, failed: Failed) -> Result<(), Fault> {
        let ambient = &self.remote.ambient;
        let now = ambient.monotonic();
        self.tries += 1;
        if failed.moved.is_some_and(|moved| moved > self.moved) {
            (self.moved, self.next) = (failed.moved.unwrap_or(now), FIRST_PAUSE);
        }
        let patience = if failed.busy {
            // A service that answers is alive: what it does for others moves.
            self.moved = now;
            now.saturating_sub(self.began) < BUSY_PATIENCE
        } else {
            now.saturating_sub(self.moved) < self.remote.deadlines.patience
        };
        if !failed.retry {
            return Err(failed.fault);
        }
        if (!patience && self.tries >= LEAST_TRIES) || self.tries >= MAX_TRIES {
            let tried = format!("{} tries in {} s", self.tries, now.saturating_sub(self.began).as_secs());
            return Err(Fault { message: format!("{} ({tried})", failed.fault.message), ..failed.fault });
        }
        self.remote.retried();
        let affordable = self.remote.spend();
        let pause = if affordable { self.next } else { LONGEST_PAUSE };
        // Those who were sent away together must not come back together.
        let jitter = Duration::from_millis(ambient.random() % (pause.as_millis() as u64 + 1));
        ambient.sleep(failed.after.unwrap_or_default().max(pause / 2) + jitter).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
