//! A checkpoint of a million rows: one small tensor out of it, and what one rank of a training job needs.
//!
//! Must never measure what was read before, where bytes count; must always, where time counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::Wanted;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_client::transport::Transport;
use gigastore_client::transport::http::Http;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode as Engines;
use gigastore_formats::plan::{Area, PlanBox, PlanRequest};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_tests::rows::ManyRows;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::median;
use crate::served::Served;
use crate::state::TARGET;
use crate::stores::{Limited, Pace};
use crate::{Plan, Res};

const KIB: f64 = 1024.0;

/// The rank whose boxes are planned.
const RANK: u32 = 33;

/// `plan.*`: bytes where nothing was read before, milliseconds where everything was.
pub(crate) async fn plan(plan: &Plan) -> Res<()> {
    let many = if plan.quick { ManyRows { tensors: 2000, ranks: 50 } } else { ManyRows::MILLION };
    let folder = plan.folder()?;
    let url = format!("file://{}", folder.path().display());
    let engine = Engine::open(&url.parse()?, Engines::Create, [], SystemAmbient::shared()).await?;
    many.commit(&engine, &"bench".parse()?, &"run".parse()?, 1).await?;
    drop(engine);
    let note = format!("{} rows", many.rows());

    let counted = Limited::folder(folder.path(), Pace::default())?;
    let store = Store::over(Arc::new(counted.engine().await?), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES);
    counted.take_read();
    one_tensor(&many, &store).await?;
    let mib = counted.take_read() as f64 / KIB / KIB;
    plan.report("plan.one_tensor.embedded.bytes", &note, |row, note| row.of(mib, note))?;
    let ms = warm(plan, &many, &Store::open(&url, OpenMode::Existing).await?).await?;
    plan.report("plan.one_tensor.embedded.ms", &note, |row, note| row.of(ms, note))?;

    let service = Served::service(&url, 0, None)?;
    let ms = warm(plan, &many, &service.store()?).await?;
    plan.report("plan.one_tensor.service.ms", &note, |row, note| row.of(ms, note))?;
    let (relay, answers) = relay(service.at.trim_start_matches("http://").to_owned()).await?;
    one_tensor(&many, &Store::connect(&format!("http://{relay}"), None)?).await?;
    let kib = answers.load(Ordering::Relaxed) as f64 / KIB;
    plan.report("plan.one_tensor.service.bytes", &note, |row, note| row.of(kib, note))?;
    one_rank(plan, &many, &service, &note).await?;
    Ok(folder.close()?)
}

/// Returns the milliseconds that one tensor takes once everything is warm.
async fn warm(plan: &Plan, many: &ManyRows, store: &Store) -> Res<f64> {
    one_tensor(many, store).await?;
    let mut times = Vec::new();
    for _ in 0..plan.runs() {
        times.push(one_tensor(many, store).await?);
    }
    Ok(median(&times))
}

/// Restores the whole tensor in the middle of the manifest; returns the milliseconds.
async fn one_tensor(many: &ManyRows, store: &Store) -> Res<f64> {
    let content = many.content(many.tensors, 0);
    restored(store, vec![(many.whole_name(), None, content)]).await
}

/// `plan.fsdp_rank.ms`: a box in each of 2,000 tensors.
async fn one_rank(plan: &Plan, many: &ManyRows, service: &Served, note: &str) -> Res<()> {
    let area = many.area(RANK);
    let boxes = (0..many.tensors).map(|tensor| {
        let (kind, name) = (SliceKind::Tensor, many.name(tensor));
        PlanBox { kind, name, area: Some(Area::from(&area)) }
    });
    let (request, target) = (PlanRequest { boxes: boxes.collect() }, TARGET.parse()?);
    let http = Http::new(&service.at, None, SystemAmbient::shared())?;
    let (mut plans, mut restores) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs() {
        let started = Instant::now();
        let answer = http.plan(&target, &request).await?;
        plans.push(started.elapsed().as_secs_f64() * 1e3);
        if answer.slices.len() as u64 != many.tensors {
            return Err(format!("{} slices were planned, expected {}", answer.slices.len(), many.tensors).into());
        }
        let wanted =
            (0..many.tensors).map(|tensor| (many.name(tensor), Some(area.clone()), many.content(tensor, RANK)));
        restores.push(restored(&service.store()?, wanted.collect()).await?);
    }
    let note = format!("{note}, {} boxes; with their bytes restored: {:.0} ms", many.tensors, median(&restores));
    let ms = median(&plans);
    plan.report("plan.fsdp_rank.ms", &note, |row, note| row.of(ms, note))
}

type Piece = (String, Option<gigastore_formats::tensor::boxes::TensorBox>, Bytes);

/// Restores boxes, each with the bytes that it should have; returns the milliseconds.
async fn restored(store: &Store, pieces: Vec<Piece>) -> Res<f64> {
    let mut expected = Vec::with_capacity(pieces.len());
    let wanted = pieces.into_iter().map(|(name, area, content)| {
        let sink = BufferSink::new(vec![0; content.len()]);
        expected.push((Arc::<BufferSink<_>>::clone(&sink), content));
        Wanted { kind: SliceKind::Tensor, name, area, sink }
    });
    let wanted = wanted.collect();
    let started = Instant::now();
    store.restore(&TARGET.parse()?, wanted, &Progress::default()).await?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let right =
        |(sink, content): (Arc<BufferSink<Vec<u8>>>, Bytes)| sink.into_inner().is_some_and(|got| got == content);
    if expected.into_iter().all(right) { Ok(ms) } else { Err("a box came back with other bytes".into()) }
}

/// Passes connections on to a service, and counts the bytes of its answers.
async fn relay(service: String) -> Res<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (address, answers) = (listener.local_addr()?.to_string(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&answers);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&service).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pump(from_client, to_server, Arc::default()));
            tokio::spawn(pump(from_server, to_client, Arc::clone(&counted)));
        }
    });
    Ok((address, answers))
}

/// Passes bytes on until either side ends, which the other then sees as its end too.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
