//! Collectors, several at once, one on the bucket itself and others through services: fences as fast as they can, with
//! a grace that is next to none, and killed like everybody else.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Yard;
use crate::place::run_or_kill;
use crate::writers::said;

/// Collects until it is time to stop, and once more when it is calm.
pub(crate) fn collect(yard: &Yard, collector: u64) {
    let mut chance = yard.chance(collector);
    loop {
        let last = yard.calm.load(Ordering::SeqCst) || Instant::now() >= yard.until;
        let store = if collector.is_multiple_of(2) {
            yard.place.url().to_owned()
        } else {
            yard.servers.urls(chance.next_u64())
        };
        let command = yard.place.command(&store, &["-q", "--format", "json", "gc", "p", "--grace", "1s"]);
        match run_or_kill(command, yard.doom(&mut chance)) {
            None => drop(yard.kills.fetch_add(1, Ordering::Relaxed)),
            Some(output) => match output.status.code() {
                Some(0) => drop(yard.collections.fetch_add(1, Ordering::Relaxed)),
                // Nothing to collect yet, out of reach, or a save that is open keeps it from going on.
                Some(4 | 5 | 8) => {}
                _ => yard.report(format!("a collection ended with {}: {}", output.status, said(&output))),
            },
        }
        if last {
            return;
        }
        std::thread::sleep(Duration::from_millis(100 + chance.below(500)));
    }
}
