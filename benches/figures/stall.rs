//! How long a trainer stands still while its state is saved in the background.
//!
//! Must never count what waits for an earlier save: each is committed before the next begins.

use gigastore_benches::copies;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::checkpoint::asynchronous::{AsyncSaver, Busy, Outcome, Staging, StateLayout};
use gigastore_client::store::{OpenMode, Store};
use std::time::Instant;

use crate::clock::{Pairs, timed};
use crate::state::State;
use crate::{Plan, Res};

/// `async.stall`: the call that hands the state over, beside one copy of it.
pub(crate) async fn stall(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let tensors: Vec<&[u8]> = state.tensors.iter().map(|tensor| tensor.data.as_ref()).collect();
    let layout = StateLayout::new(state.tensors.iter().map(|tensor| (tensor.id.clone(), Vec::new())));
    let folder = plan.folder()?;
    let store = Store::open(&format!("file://{}", folder.path().display()), OpenMode::Create).await?;
    let saver = AsyncSaver::new(store, 0, Staging { state_bytes: state.bytes(), states: 1 });
    saver.reserve().await?;
    let mut staging = vec![1; state.memory.len()];
    let mut pairs = Pairs::default();
    for step in 1..=plan.runs() as u64 {
        eprintln!("bench: async.stall, run {step}");
        let limit = timed(|| {
            copies(&tensors, &mut staging);
            Res::Ok(())
        })?;
        let spec = SaveSpec::new("bench".parse()?, "run".parse()?, step, 1);
        let started = Instant::now();
        let outcome = saver.save(spec, &layout, &tensors, Busy::Wait).await?;
        pairs.push(limit, started.elapsed().as_secs_f64());
        if !matches!(outcome, Outcome::Staged(_)) {
            return Err(format!("step {step} was not staged: {outcome:?}").into());
        }
        saver.wait().await?;
    }
    folder.close()?;
    pairs.report_milliseconds(plan, "async.stall", "limit: one copy into staging that is used again")
}
