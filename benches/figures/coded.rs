//! Compression of real weights: where the store is slow, and where it is not.
//!
//! Must never take generated numbers for weights: how they compress is what is measured.

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::Compression;
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, OpenMode, Store};
use gigastore_formats::tensor::dtype::Dtype;
use std::sync::Arc;

use crate::clock::Pairs;
use crate::state::State;
use crate::stores::{Limited, Pace};
use crate::{Plan, Res, setting};

/// What the slow store takes, in bytes a second.
const STORE_SPEED: f64 = 200e6;

/// `coded.*`: a compressed save beside a raw one of the same bytes, each into a store that is new.
pub(crate) async fn coded(plan: &Plan) -> Res<()> {
    let weights = weights(plan.bytes())?;
    if plan.wants("coded.save") {
        let mut pairs = Pairs::default();
        for run in 0..plan.runs() {
            eprintln!("bench: coded.save, run {}", run + 1);
            pairs.push(to_slow(&weights, Compression::Off).await?, to_slow(&weights, Compression::Auto).await?);
        }
        let note = "MiniLM's weights cut to bf16, again and again under other names; a store that takes 0.2 GB/s";
        pairs.report(plan, "coded.save", weights.bytes(), note)?;
    }
    if plan.wants("coded.elsewhere") {
        let noise = State::transformer(plan.bytes())?;
        let (mut of_weights, mut of_noise) = (Pairs::default(), Pairs::default());
        for run in 0..plan.runs() {
            eprintln!("bench: coded.elsewhere, run {}", run + 1);
            for (state, pairs) in [(&weights, &mut of_weights), (&noise, &mut of_noise)] {
                pairs.push(
                    to_files(plan, state, Compression::Off).await?,
                    to_files(plan, state, Compression::Auto).await?,
                );
            }
        }
        let (worse, state) =
            if of_weights.ratio() < of_noise.ratio() { (&of_weights, &weights) } else { (&of_noise, &noise) };
        let (weights, noise) = (of_weights.ratio(), of_noise.ratio());
        let note = format!("file store, the worse of real weights ({weights:.2}) and noise ({noise:.2})");
        worse.report(plan, "coded.elsewhere", state.bytes(), &note)?;
    }
    Ok(())
}

async fn to_slow(state: &State, compress: Compression) -> Res<f64> {
    let objects = Limited::memory(Pace { writes: Some(STORE_SPEED), ..Pace::default() });
    let store = Store::over(Arc::new(objects.engine().await?), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES);
    state.save(&[store], compress).await
}

async fn to_files(plan: &Plan, state: &State, compress: Compression) -> Res<f64> {
    let folder = plan.folder()?;
    let store = Store::open(&format!("file://{}", folder.path().display()), OpenMode::Create).await?;
    plan.fill_memory()?;
    let seconds = state.save(&[store], compress).await?;
    folder.close()?;
    Ok(seconds)
}

/// Returns a real model's weights as bf16 (the upper half of each f32), repeated until there are about `bytes`.
fn weights(bytes: u64) -> Res<State> {
    let folder = setting("GIGASTORE_BENCH_MODEL")?;
    let model = LocalModel::open(&folder.join("model.safetensors"))?;
    let (mut shapes, mut once) = (Vec::new(), Vec::new());
    for tensor in model.tensors().iter().filter(|tensor| tensor.dtype == Dtype::F32) {
        shapes.push((tensor.name.as_str(), tensor.shape.clone()));
        once.extend(tensor.data.to_vec()?.chunks_exact(4).flat_map(|number| [number[2], number[3]]));
    }
    let copies = (bytes / once.len().max(1) as u64).max(1);
    let all = (0..copies).flat_map(|copy| {
        shapes.iter().map(move |(name, shape)| (format!("{copy:03}.{name}"), Dtype::BF16, shape.clone()))
    });
    State::of(all.collect(), once.repeat(copies as usize).into())
}
