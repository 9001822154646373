//! The real world: system clock, system randomness, tokio's timers and tasks, one pool of threads for hashing.
//!
//! The only place of the client that asks for any of these. Must never run a computation on a thread that serves
//! sockets.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use gigastore_formats::ambient::{Ambient, Job, Task};
use tokio::runtime::Handle;

/// Time, chance and threads of this machine. Needs a tokio runtime around it.
pub struct SystemAmbient {
    started: Instant,
    pool: Sender<Job>,
}

impl Default for SystemAmbient {
    /// Returns an ambient with a pool of its own, which has one thread a core.
    fn default() -> Self {
        Self::with_threads(cores())
    }
}

impl SystemAmbient {
    /// Returns the ambient of this process. Its threads are not there in a process that was forked off: that one needs
    /// an ambient of its own.
    pub fn shared() -> Arc<dyn Ambient> {
        static SHARED: OnceLock<Arc<SystemAmbient>> = OnceLock::new();
        Arc::<SystemAmbient>::clone(SHARED.get_or_init(Arc::default))
    }

    fn with_threads(threads: usize) -> Self {
        let (pool, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for i in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            let work = move || work(&jobs);
            // Where not even one thread can be had, nothing of this process will work; say so at once.
            thread::Builder::new().name(format!("gigastore-{i}")).spawn(work).expect("a thread can be started");
        }
        Self { started: Instant::now(), pool }
    }
}

/// Takes jobs until the pool is gone. A job that panics ends with its own message; the thread goes on with the next.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // The panic reaches the job's caller as a dropped channel; the message was printed by the hook.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

impl fmt::Debug for SystemAmbient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemAmbient").finish_non_exhaustive()
    }
}

impl Ambient for SystemAmbient {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong anyway, and times are for people only.
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self) -> u64 {
        // The standard library seeds every RandomState from the system; hashing with it draws a number. A process that
        // was forked off has its parent's seed: its own number tells the two apart.
        let mut drawn = RandomState::new().build_hasher();
        drawn.write_u32(std::process::id());
        drawn.finish()
    }

    fn sleep(&self, time: Duration) -> Task<()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: Task<()>) {
        Handle::current().spawn(task);
    }

    fn compute(&self, job: Job) {
        self.pool.send(job).expect("the pool's threads live as long as this");
    }

    /// On tokio's threads for that, of which there are 512 at most.
    fn wait(&self, job: Job) {
        match Handle::try_current() {
            // Whoever wants the job's value has another way to it.
            Ok(runtime) => drop(runtime.spawn_blocking(job)),
            // The runtime is ending, and with it whoever would wait for this thread.
            Err(_) => job(),
        }
    }

    /// Starts threads of its own, some 30 µs each: those of the pool may be in the middle of hashing, and nobody who
    /// stands still should wait for that.
    fn together(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            for i in 1..threads.min(cores()) {
                let named = thread::Builder::new().name(format!("gigastore-copy-{i}"));
                // Where no more threads can be had, those that there are do the work.
                if named.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
}

/// Returns how many threads can work at once here.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn work_is_shared_and_all_done_on_return() {
        let (left, done) = (AtomicUsize::new(100), AtomicUsize::new(0));
        let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let work = || {
            while take() {
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        SystemAmbient::shared().together(8, &work);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}
