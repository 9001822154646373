//! How much memory a process has, as the system counts it.
//!
//! Must never say 0 where it does not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Returns a field of `/proc/PID/status` in KiB, such as `RssAnon` (memory that is no file's) or `VmHWM` (the most that
/// it had); `None` where there is no such process or field.
pub fn status_kib(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The same of this process.
///
/// # Panics
/// Where the system does not say it.
pub fn own_kib(field: &str) -> u64 {
    status_kib(std::process::id(), field).unwrap_or_else(|| panic!("no {field} in /proc/self/status"))
}

/// Looks at the memory of a process again and again, until it is asked.
#[derive(Debug)]
pub struct Watch {
    done: Arc<AtomicBool>,
    watcher: JoinHandle<u64>,
}

impl Watch {
    /// Begins to look at a field of a process, every 50 ms.
    pub fn of(process: u32, field: &'static str) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let watcher = std::thread::spawn(move || {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(status_kib(process, field).unwrap_or(0));
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        Self { done, watcher }
    }

    /// Ends, and returns the most that was seen, in KiB.
    ///
    /// # Panics
    /// Where nothing was seen.
    pub fn peak_kib(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        let peak = self.watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(peak > 0, "the process was gone, or the system does not tell");
        peak
    }
}
