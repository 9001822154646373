//! What the world outside gives: time, chance, waiting, threads for computation. Only the interface.
//!
//! The engine and the client take these from here and from nowhere else, so that a deterministic simulation can own
//! them.
//! Must never hold an implementation: the real one is the client's, the simulated one the tests'.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::time::Duration;

/// A future that owns what it needs.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A computation: hashing, coding, parsing.
pub type Job = Box<dyn FnOnce() + Send>;

/// Bytes that are hashed where they are: 32 KiB, some 20 µs.
const FEW_BYTES: usize = 32 << 10;

/// Time, chance, waiting and threads.
pub trait Ambient: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970. For people; nothing may depend on its order.
    fn wall_ms(&self) -> u64;

    /// Time since some fixed moment; never goes backwards. For deadlines.
    fn monotonic(&self) -> Duration;

    /// A random number.
    fn random(&self) -> u64;

    /// Waits.
    fn sleep(&self, time: Duration) -> Task<()>;

    /// Runs a task in the background.
    fn spawn(&self, task: Task<()>);

    /// Runs a computation on the pool of threads kept for them, as soon as one is free.
    fn compute(&self, job: Job);

    /// Runs a job that spends its time waiting, for a disk or a socket, on a thread that no computation waits for.
    /// Where there are no such threads, as here, that is one of those kept for computations.
    fn wait(&self, job: Job) {
        self.compute(job);
    }

    /// Runs `work` on up to `threads` threads at once, the caller's among them, and returns when all have returned: for
    /// work that a caller stands still for, and that threads share by taking pieces of it from one list. Here the
    /// caller does all of it.
    fn together(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        let _ = threads;
        work();
    }
}

impl dyn Ambient {
    /// Runs `job` on the pool and waits for what it returns.
    ///
    /// # Panics
    /// Where `job` panics: the panic is the caller's then.
    pub async fn computed<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (job, returned) = returning(job);
        self.compute(job);
        returned.await
    }

    /// Runs `job`, which hashes or copies `bytes` bytes: on the pool as `computed` does, or here where they are so few
    /// that to hand them over would take as long.
    pub async fn computed_over<T: Send + 'static>(&self, bytes: usize, job: impl FnOnce() -> T + Send + 'static) -> T {
        if bytes <= FEW_BYTES { job() } else { self.computed(job).await }
    }

    /// Runs `job`, which waits for a disk or a socket, and waits for what it returns.
    ///
    /// # Panics
    /// Where `job` panics: the panic is the caller's then.
    pub async fn waited<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (job, returned) = returning(job);
        self.wait(job);
        returned.await
    }

    /// Draws 32 random bytes.
    pub fn random_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for piece in bytes.chunks_exact_mut(8) {
            piece.copy_from_slice(&self.random().to_le_bytes());
        }
        bytes
    }
}

/// Makes a job of a function, and a future of what it returns. A panic is the future's; a job that is never run, as the
/// process ends, leaves it waiting.
fn returning<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> (Job, impl Future<Output = T>) {
    let (sender, receiver) = futures_channel::oneshot::channel();
    let job = Box::new(move || {
        // A receiver that is gone belongs to a caller that was cancelled: nobody wants the value.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(job)));
    });
    let returned = async {
        match receiver.await {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => std::future::pending().await,
        }
    };
    (job, returned)
}
