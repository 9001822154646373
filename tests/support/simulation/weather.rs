//! What goes wrong on the way to a store, and how often.
//!
//! Must never draw from anything but the world's chance.

use std::time::Duration;

use crate::faulty::{Failure, Op, Plan, Verdict};

use super::world::World;

/// How many of a thousand operations meet each fault, and how long things take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// The request never arrives, and the answer is an error.
    pub fail_before: u64,
    /// The request is done, and the answer is an error.
    pub fail_after: u64,
    /// A creation is answered "exists": half of them were not done (S3's 409), half were.
    pub exists: u64,
    /// A body ends early as if complete, or has a flipped bit.
    pub bodies: u64,
    /// The caller hears of a timeout, and the request is done up to two minutes later.
    pub late: u64,
    /// The request is done a second time, up to two minutes later.
    pub twice: u64,
    /// A listing lacks what was put in the last half minute.
    pub stale: u64,
    /// The participant dies; half before the effect of the operation, half after it.
    pub dies: u64,
    /// The longest way there, and the longest way back.
    pub way: Duration,
    /// Share of time, in thousandths, in which nine of ten operations are refused.
    pub storm: u64,
}

/// How long a storm or the time between two lasts.
const STORM_SLOT: Duration = Duration::from_secs(20);

/// The longest that a request or its repetition is under way: longer than anybody waits for an answer.
pub const LATEST: Duration = Duration::from_secs(120);

/// How stale a listing is.
pub const STALE: Duration = Duration::from_secs(30);

impl Weather {
    /// Returns the weather in which nothing goes wrong, and everything takes some time.
    pub const fn fair() -> Self {
        Self {
            fail_before: 0,
            fail_after: 0,
            exists: 0,
            bodies: 0,
            late: 0,
            twice: 0,
            stale: 0,
            dies: 0,
            way: Duration::from_millis(40),
            storm: 0,
        }
    }

    /// Returns a weather of a seed: each fault is absent, rare or frequent, so that runs differ in kind too.
    pub fn of(world: &World) -> Self {
        let some = |rare: u64, frequent: u64| [0, rare, rare, frequent][world.below(4) as usize];
        Self {
            fail_before: some(10, 80),
            fail_after: some(10, 80),
            exists: some(20, 200),
            bodies: some(5, 30),
            late: some(5, 40),
            twice: some(10, 100),
            stale: some(50, 300),
            dies: some(2, 8),
            way: Duration::from_millis([5, 40, 400][world.below(3) as usize]),
            storm: some(50, 200),
        }
    }

    /// Returns the plan of a participant's store: what is answered instead of the truth.
    pub fn plan(self, world: &World, calm_after: Duration) -> Plan {
        let world = world.clone();
        let salt = world.below(u64::MAX);
        Box::new(move |operation| {
            let now = world.now();
            if now >= calm_after {
                return Verdict::Pass;
            }
            let slot = now.as_secs() / STORM_SLOT.as_secs();
            let stormy = super::world::Chance::new(salt ^ slot).below(1000) < self.storm;
            if stormy && world.below(10) > 0 {
                return Verdict::FailBefore(Failure::Unavailable);
            }
            let drawn = world.below(1000);
            let failure = [Failure::Unavailable, Failure::TIMED_OUT][world.below(2) as usize];
            let (before, after) = (self.fail_before, self.fail_before + self.fail_after);
            match operation.op {
                _ if drawn < before => Verdict::FailBefore(failure),
                _ if drawn < after => Verdict::FailAfter(failure),
                Op::Create if drawn < after + self.exists / 2 => Verdict::FailBefore(Failure::AlreadyExists),
                Op::Create if drawn < after + self.exists => Verdict::FailAfter(Failure::AlreadyExists),
                Op::Get if drawn < after + self.bodies / 2 => Verdict::Truncate(world.below(64)),
                Op::Get if drawn < after + self.bodies => Verdict::Flip(world.below(64)),
                _ => Verdict::Pass,
            }
        })
    }

    /// Draws whether something happens that does to `of` in a thousand.
    pub fn happens(world: &World, of: u64) -> bool {
        of > 0 && world.below(1000) < of
    }
}
