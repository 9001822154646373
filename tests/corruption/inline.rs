//! Time and chance of this machine, and computations done where they are asked for: a case is over in less time than
//! it takes to wake another thread.
//!
//! Must never be used where a computation may wait for another one.

use std::sync::Arc;
use std::time::Duration;

use gigastore_client::ambient::SystemAmbient;
use gigastore_formats::ambient::{Ambient, Job, Task};
use tokio::runtime::{Builder, Runtime};

#[derive(Debug)]
struct Inline(Arc<dyn Ambient>);

/// Returns the ambient.
pub(crate) fn ambient() -> Arc<dyn Ambient> {
    Arc::new(Inline(SystemAmbient::shared()))
}

/// Returns a runtime for one thread.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

impl Ambient for Inline {
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn sleep(&self, time: Duration) -> Task<()> {
        self.0.sleep(time)
    }

    fn spawn(&self, task: Task<()>) {
        self.0.spawn(task);
    }

    fn compute(&self, job: Job) {
        job();
    }
}
