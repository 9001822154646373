//! Where operations get their number and their verdict, and where they are written down.
//!
//! Must never hold its lock while a plan or a store works: a plan may be slow, and a store may wait.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::Result;

use super::{Op, Operation, Plan, Verdict};

/// The numbers, the log and the plan of one store.
pub(super) struct Desk {
    plan: Mutex<Arc<Plan>>,
    log: Mutex<Vec<Operation>>,
    pub(super) bytes_put: AtomicU64,
    pub(super) bytes_got: AtomicU64,
}

/// An operation that has its number and verdict.
pub(super) struct Turn {
    desk: Arc<Desk>,
    path: String,
    n: u64,
    pub(super) verdict: Verdict,
}

impl Desk {
    /// Returns a desk with nothing on it.
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan: Mutex::new(Arc::new(plan)),
            log: Mutex::default(),
            bytes_put: AtomicU64::new(0),
            bytes_got: AtomicU64::new(0),
        }
    }

    /// Puts another plan in force.
    pub(super) fn set_plan(&self, plan: Plan) {
        *lock(&self.plan) = Arc::new(plan);
    }

    /// Returns what was asked so far.
    pub(super) fn log(&self) -> Vec<Operation> {
        lock(&self.log).clone()
    }

    /// Numbers an operation, asks the plan, writes both down.
    pub(super) fn turn(self: &Arc<Self>, op: Op, path: &str, bytes: u64) -> Turn {
        let mut operation = Operation { n: 0, op, path: path.to_owned(), bytes, range: None, verdict: Verdict::Pass };
        {
            let mut log = lock(&self.log);
            operation.n = log.len() as u64 + 1;
            log.push(operation.clone());
        }
        let plan = Arc::clone(&lock(&self.plan));
        let verdict = plan(&operation);
        let turn = Turn { desk: Arc::clone(self), path: operation.path, n: operation.n, verdict };
        turn.note(|noted| noted.verdict = verdict);
        turn
    }
}

impl Turn {
    /// Does the work as the verdict says.
    pub(super) async fn around<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.verdict {
            Verdict::FailBefore(failure) => Err(failure.error(&self.path)),
            Verdict::FailAfter(failure) => {
                // Whatever came of it, the reply is lost.
                let _ = work.await;
                Err(failure.error(&self.path))
            }
            Verdict::Kill => kill_this_process(),
            Verdict::KillAfter => {
                let _ = work.await;
                kill_this_process()
            }
            Verdict::Pass | Verdict::Truncate(_) | Verdict::Flip(_) => work.await,
        }
    }

    /// Writes down which bytes a read was answered with.
    pub(super) fn answered(&self, range: Range<u64>) {
        self.note(|noted| {
            noted.bytes = range.end - range.start;
            noted.range = Some(range);
        });
    }

    /// Counts bytes that reached the store.
    pub(super) fn put(&self, bytes: u64) {
        self.desk.bytes_put.fetch_add(bytes, Ordering::SeqCst);
    }

    fn note(&self, change: impl FnOnce(&mut Operation)) {
        if let Some(noted) = lock(&self.desk.log).get_mut(self.n as usize - 1) {
            change(noted);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends this process as a power cut would: no destructor, no flush, no handler.
pub(super) fn kill_this_process() -> ! {
    let killer = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    // Only reached while the signal is on its way, or if there is no `kill`: then abort, the next best.
    match killer {
        Ok(status) if status.success() => loop {
            std::thread::park();
        },
        _ => std::process::abort(),
    }
}
