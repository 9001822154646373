//! Ready-made plans: which operations of a faulty store fail, and how.
//!
//! Must never look at anything but operations, so that a run repeats exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Op, Operation, Verdict};

/// Decides what happens to each operation of a store.
pub type Plan = Box<dyn Fn(&Operation) -> Verdict + Send + Sync>;

/// Returns the plan under which nothing fails.
pub fn pass() -> Plan {
    Box::new(|_| Verdict::Pass)
}

/// Returns the plan that applies `verdict` to operation number `n` (from 1) alone.
pub fn at(n: u64, verdict: Verdict) -> Plan {
    Box::new(move |operation| if operation.n == n { verdict } else { Verdict::Pass })
}

/// Returns the plan that applies `verdict` to operation number `n` and all after it: a store that goes down.
pub fn starting_at(n: u64, verdict: Verdict) -> Plan {
    Box::new(move |operation| if operation.n >= n { verdict } else { Verdict::Pass })
}

/// Returns the plan that applies `verdict` to the first `times` operations of kind `op` whose path has `part` in it.
pub fn on(op: Op, part: &str, times: u64, verdict: Verdict) -> Plan {
    let part = part.to_owned();
    let seen = AtomicU64::new(0);
    Box::new(move |operation| {
        let meant = operation.op == op && operation.path.contains(&part);
        if meant && seen.fetch_add(1, Ordering::SeqCst) < times { verdict } else { Verdict::Pass }
    })
}
