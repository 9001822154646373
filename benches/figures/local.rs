//! Saves and restores on the disk of this machine, in process and through a service.
//!
//! Must never compare a run with the limit of another.

use std::path::Path;
use std::time::Instant;

use gigastore_benches::{
    CONNECTIONS, DIRECT_THREADS, PIECE_BYTES, direct_reads, durable_writes, forget, gets, hashed_reads,
};
use gigastore_client::checkpoint::Compression;
use gigastore_client::store::{OpenMode, Store};

use crate::clock::{Pairs, median, timed};
use crate::served::Served;
use crate::state::{Buffers, State, packs};
use crate::{Plan, Res};

/// `save.file` and `save.service.*`: each durable, into a store that is new, beside writes of the same bytes.
pub(crate) async fn save(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let rows = [("save.file", 0), ("save.service.1ranks", 1), ("save.service.4ranks", 4), ("save.service.16ranks", 16)];
    let mut rows: Vec<(&str, usize, Pairs)> = rows
        .into_iter()
        .filter(|(name, _)| plan.wants(name))
        .map(|(name, ranks)| (name, ranks, Pairs::default()))
        .collect();
    for run in 0..plan.runs() {
        for (name, ranks, pairs) in &mut rows {
            eprintln!("bench: {name}, run {}", run + 1);
            let folder = plan.folder()?;
            plan.fill_memory()?;
            let limit = timed(|| durable_writes(folder.path(), &state.parts()))?;
            folder.close()?;
            let folder = plan.folder()?;
            let url = format!("file://{}", folder.path().display());
            plan.fill_memory()?;
            let ours = match ranks {
                0 => state.save(&[Store::open(&url, OpenMode::Create).await?], Compression::Off).await?,
                _ => {
                    let service = Served::service(&url, 0, None)?;
                    let stores = (0..*ranks).map(|_| service.store()).collect::<Res<Vec<_>>>()?;
                    state.save(&stores, Compression::Off).await?
                }
            };
            folder.close()?;
            pairs.push(limit, ours);
        }
    }
    rows.iter().try_for_each(|(name, _, pairs)| pairs.report(plan, name, state.bytes(), ""))
}

/// `restore.file.*` and `restore.service.*`: all of one checkpoint into buffers that are kept.
pub(crate) async fn restore(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let mut buffers = state.buffers();
    let folder = plan.folder()?;
    let url = format!("file://{}", folder.path().display());
    let store = Store::open(&url, OpenMode::Create).await?;
    state.save(std::slice::from_ref(&store), Compression::Off).await?;
    if plan.wants("restore.file.warm") || plan.wants("restore.file.cold") {
        from_files(plan, &state, &store, folder.path(), &mut buffers).await?;
    }
    if plan.wants("restore.service.warm") || plan.wants("restore.service.cpu") {
        from_service(plan, &state, &url, &mut buffers).await?;
    }
    Ok(folder.close()?)
}

async fn from_files(plan: &Plan, state: &State, store: &Store, folder: &Path, buffers: &mut Buffers) -> Res<()> {
    let packs = packs(folder)?;
    let (mut warm, mut cold) = (Pairs::default(), Pairs::default());
    // What was just written is warm; one restore more, and the client is too.
    state.restore(store, buffers).await?;
    for run in 0..plan.runs() {
        eprintln!("bench: restore.file, run {}", run + 1);
        if plan.wants("restore.file.warm") {
            // A cold restore leaves nothing warm.
            hashed_reads(&packs)?;
            let limit = timed(|| hashed_reads(&packs))?;
            warm.push(limit, state.restore(store, buffers).await?.seconds);
        }
        if plan.wants("restore.file.cold") {
            forget(&packs)?;
            let mut limit = f64::INFINITY;
            for threads in DIRECT_THREADS {
                limit = limit.min(timed(|| direct_reads(&packs, threads))?);
            }
            forget(&packs)?;
            cold.push(limit, state.restore(store, buffers).await?.seconds);
        }
    }
    warm.report(plan, "restore.file.warm", state.bytes(), "")?;
    cold.report(plan, "restore.file.cold", state.bytes(), &format!("limit: the best of {DIRECT_THREADS:?} threads"))
}

async fn from_service(plan: &Plan, state: &State, url: &str, buffers: &mut Buffers) -> Res<()> {
    let (service, limit) = (Served::service(url, 0, None)?, Served::bodies()?);
    let store = service.store()?;
    state.restore(&store, buffers).await?;
    // The limit moves as many bytes, in whole bodies.
    let share = (state.bytes() as usize / CONNECTIONS / PIECE_BYTES).max(1) * PIECE_BYTES;
    let mut kept = vec![vec![1; share]; CONNECTIONS];
    let (mut warm, mut core_seconds) = (Pairs::default(), Vec::new());
    let gb = state.bytes() as f64 / 1e9;
    for run in 0..plan.runs() {
        eprintln!("bench: restore.service, run {}", run + 1);
        let started = Instant::now();
        kept = gets(limit.at.parse()?, &Served::paths(), kept).await.map_err(|error| error.to_string())?;
        let scale = state.bytes() as f64 / (share * CONNECTIONS) as f64;
        let seconds = started.elapsed().as_secs_f64() * scale;
        let before = service.processor_seconds()?;
        let ours = state.restore(&store, buffers).await?;
        core_seconds.push((service.processor_seconds()? - before + ours.core_seconds) / gb);
        warm.push(seconds, ours.seconds);
    }
    warm.report(plan, "restore.service.warm", state.bytes(), "goal 0.85; service and limit each a process of its own")?;
    if plan.wants("restore.service.cpu") {
        let value = median(&core_seconds);
        plan.report("restore.service.cpu", "client and service together", |row, note| row.of(value, note))?;
    }
    Ok(())
}
