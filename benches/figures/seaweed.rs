//! A checkpoint in a real S3 server, beside raw requests and beside what PyTorch's users have for it.
//!
//! Must never compare a run with a peer's run on another server: each run has a server of its own, for all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use gigastore_benches::{CONNECTIONS, gets, puts};
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::Compression;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_tests::weed::{BUCKET, Ports, Weed};

use crate::clock::Pairs;
use crate::peer::{Peer, write_state};
use crate::served::{REMOTE_CACHE_BYTES, Served, weed};
use crate::state::{Buffers, State};
use crate::stores::Plain;
use crate::{Plan, Res};

/// Where the checkpoint lies.
const URL: &str = "s3://gigastore/store";

/// Everything that is measured of one server, in seconds beside the limit.
#[derive(Default)]
struct Measured {
    save: Pairs,
    embedded: Pairs,
    service: Pairs,
    peer_save: Pairs,
    peer_load: Pairs,
    plain_put: Pairs,
    plain_get: Pairs,
    raw: Vec<f64>,
}

/// `seaweed.*`, and the peers that speak S3.
pub(crate) async fn seaweed(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let mut buffers = state.buffers();
    let (files, ports) = (plan.folder()?, Ports::free()?);
    write_state(&state, files.path())?;
    let mut measured = Measured::default();
    for run in 0..plan.runs() {
        eprintln!("bench: seaweed, run {}", run + 1);
        let weed = weed(plan, &ports)?;
        one_run(plan, &state, files.path(), &weed, &mut buffers, &mut measured).await?;
    }
    files.close()?;
    let bytes = state.bytes();
    let raw = "raw GETs of the same bytes on 4 connections";
    let note = format!("limit: s3torchconnector's DCP reader; {raw}: {:.2} GB/s", measured.raw_speed(bytes));
    measured.embedded.report(plan, "seaweed.restore.embedded", bytes, &note)?;
    let note = format!("{note}; the service has a cache of 512 MiB in memory and more in a folder, warm");
    measured.service.report(plan, "seaweed.restore.service", bytes, &note)?;
    measured.save.report(plan, "seaweed.save", bytes, "limit: raw PUTs on 4 connections")?;
    measured.peer_save.report(plan, "peers.s3torchconnector.save", bytes, "limit: raw PUTs on 4 connections")?;
    measured.peer_load.report(plan, "peers.s3torchconnector.load", bytes, &format!("limit: {raw}"))?;
    measured.plain_put.report(plan, "peers.object_store.put", bytes, "limit: raw PUTs on 4 connections")?;
    measured.plain_get.report(plan, "peers.object_store.get", bytes, &format!("limit: {raw}"))?;
    let speed = measured.raw_speed(bytes);
    plan.report("peers.http.get", raw, |row, note| row.of(speed, note))
}

impl Measured {
    fn raw_speed(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e9 / crate::clock::median(&self.raw)
    }
}

async fn one_run(
    plan: &Plan,
    state: &State,
    files: &Path,
    weed: &Weed,
    buffers: &mut Buffers,
    measured: &mut Measured,
) -> Res<()> {
    // Saves, each beside raw PUTs of the same bytes.
    let parts: Vec<Bytes> = state.parts().into_iter().map(|part| state.memory.slice_ref(part)).collect();
    let raw: Vec<(String, Bytes)> =
        parts.iter().enumerate().map(|(i, part)| (format!("/{BUCKET}/raw/{i}"), part.clone())).collect();
    // A server makes its volumes when the first bytes come, which is nobody's to wait for.
    let first: Vec<(String, Bytes)> =
        raw.iter().take(CONNECTIONS).map(|(path, part)| (format!("{path}.first"), part.clone())).collect();
    puts(weed.address, &first).await.map_err(|error| error.to_string())?;
    let started = Instant::now();
    puts(weed.address, &raw).await.map_err(|error| error.to_string())?;
    let raw_put = started.elapsed().as_secs_f64();
    let store = embedded(weed).await?;
    measured.save.push(raw_put, state.save(std::slice::from_ref(&store), Compression::Off).await?);
    let mut settings = weed.settings();
    settings.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://{}", weed.address)));
    let mut peer = Peer::start("dcp_s3", files, &format!("s3://{BUCKET}/peer"), &settings)?;
    measured.peer_save.push(raw_put, peer.seconds("save")?);
    let plain = Plain::bucket(BUCKET, &weed.settings())?;
    let started = Instant::now();
    plain.put("plain", &parts).await?;
    measured.plain_put.push(raw_put, started.elapsed().as_secs_f64());

    // Loads. The raw ones read what the raw PUTs left, each connection its own share.
    let paths: Vec<String> = raw.iter().map(|(path, _)| path.clone()).collect();
    let share = |i: usize| parts.iter().skip(i).step_by(CONNECTIONS).map(Bytes::len).sum::<usize>();
    let kept = (0..CONNECTIONS.min(parts.len())).map(|i| vec![1; share(i)]).collect();
    let started = Instant::now();
    drop(gets(weed.address, &paths, kept).await.map_err(|error| error.to_string())?);
    let raw_get = started.elapsed().as_secs_f64();
    measured.raw.push(raw_get);
    let mut kept: Vec<Vec<u8>> = parts.iter().map(|part| vec![1; part.len()]).collect();
    let started = Instant::now();
    plain.get("plain", &mut kept).await?;
    measured.plain_get.push(raw_get, started.elapsed().as_secs_f64());
    drop(kept);
    let peer_load = peer.seconds("load")?;
    drop(peer);
    measured.peer_load.push(raw_get, peer_load);
    // A client that has read nothing yet.
    measured.embedded.push(peer_load, state.restore(&embedded(weed).await?, buffers).await?.seconds);
    let cache = plan.folder()?;
    let service = Served::service(URL, REMOTE_CACHE_BYTES, Some((cache.path(), weed.settings())))?;
    // The first restore warms the cache.
    state.restore(&service.store()?, buffers).await?;
    measured.service.push(peer_load, state.restore(&service.store()?, buffers).await?.seconds);
    drop(service);
    Ok(cache.close()?)
}

/// Opens the store in the bucket, in this process.
async fn embedded(weed: &Weed) -> Res<Store> {
    let ambient = SystemAmbient::shared();
    let engine = Engine::open(&URL.parse()?, OpenMode::Create, weed.settings(), Arc::clone(&ambient)).await?;
    Ok(Store::over(Arc::new(engine), ambient, DEFAULT_BUDGET_BYTES))
}
