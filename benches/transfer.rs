//! Durable save and verified restore of a transformer's state, in process and through a service, each as a ratio to the
//! limit of the same run.
//!
//! Prints one table. GIGASTORE_BENCH_MIB (512) sets the bytes of the state, GIGASTORE_BENCH_RUNS (5) the runs whose
//! median counts, GIGASTORE_BENCH_DIR where the files lie (the system's folder for temporary files). Must never
//! measure a save that found its bytes in the store: each run saves into a fresh one.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use gigastore_benches::{durable_writes, hashed_reads};
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::restore::Wanted;
use gigastore_client::checkpoint::{SaveSpec, Slice};
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_client::transfer::source::SliceData;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode as Engines;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{SliceId, SliceKind};
use gigastore_server::{Config, Limits, Server};
use tokio::sync::oneshot;

/// Bytes of the files of the limits: those of a pack.
const PART_BYTES: usize = 64 << 20;

type Res<T> = Result<T, Box<dyn Error>>;

struct Tensor {
    id: SliceId,
    data: Bytes,
}

/// Seconds of each path in each run.
#[derive(Default)]
struct Times {
    save_limit: Vec<f64>,
    save: Vec<f64>,
    restore_limit: Vec<f64>,
    restore: Vec<f64>,
    served_save: Vec<f64>,
    served_restore: Vec<f64>,
}

fn main() -> Res<()> {
    // `cargo test --benches` starts benches too, to see that they build; nothing is to be measured then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let number = |name: &str, default: u64| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let (mib, runs) = (number("GIGASTORE_BENCH_MIB", 512)?, number("GIGASTORE_BENCH_RUNS", 5)?);
    let folder = std::env::var_os("GIGASTORE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let state = state(mib << 20)?;
    let bytes: u64 = state.iter().map(|tensor| tensor.id.bytes()).sum();
    let mut buffers: Vec<Vec<u8>> = state.iter().map(|tensor| vec![0; tensor.data.len()]).collect();
    let mut times = Times::default();
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        runtime.block_on(measure(&folder, &state, &mut buffers, &mut times))?;
    }
    let gb = bytes as f64 / 1e9;
    println!("{} tensors, {gb:.2} GB, median of {runs} runs", state.len());
    println!("{:34} {:>7} {:>7} {:>7}", "path", "seconds", "GB/s", "ratio");
    let rows = [
        ("limit: 8 MiB writes, fsync", &times.save_limit, &times.save_limit),
        ("durable save, file store", &times.save, &times.save_limit),
        ("the same through a service", &times.served_save, &times.save_limit),
        ("limit: 2 x pread + BLAKE3, warm", &times.restore_limit, &times.restore_limit),
        ("verified restore, warm", &times.restore, &times.restore_limit),
        ("the same through a service", &times.served_restore, &times.restore_limit),
    ];
    for (name, seconds, limit) in rows {
        // Each run is compared with the limit right before it: what else the machine does hits both.
        let ratio = median(seconds.iter().zip(limit).map(|(ours, limit)| limit / ours).collect());
        let seconds = median(seconds.clone());
        println!("{name:34} {seconds:7.2} {:7.2} {ratio:7.2}", gb / seconds);
    }
    Ok(())
}

/// One run: limit, save, limit, restore, in folders of their own that are removed again.
async fn measure(folder: &Path, state: &[Tensor], buffers: &mut Vec<Vec<u8>>, times: &mut Times) -> Res<()> {
    let folder = tempfile::tempdir_in(folder)?;
    let whole: Vec<u8> = state.iter().flat_map(|tensor| tensor.data.iter().copied()).collect();
    let parts: Vec<&[u8]> = whole.chunks(PART_BYTES).collect();
    let started = Instant::now();
    let paths = durable_writes(folder.path(), &parts)?;
    times.save_limit.push(started.elapsed().as_secs_f64());
    drop(whole);

    let url = format!("file://{}", folder.path().join("store").display());
    let store = Store::open(&url, OpenMode::Create).await?;
    times.save.push(save(&store, state).await?);

    let started = Instant::now();
    hashed_reads(&paths)?;
    times.restore_limit.push(started.elapsed().as_secs_f64());
    times.restore.push(restore(&store, state, buffers).await?);
    drop(store);

    let url = format!("file://{}", folder.path().join("served").display());
    let (served, stop) = serve(&url).await?;
    times.served_save.push(save(&served, state).await?);
    times.served_restore.push(restore(&served, state, buffers).await?);
    // The service may be gone already; then there is nothing to stop.
    let _ = stop.send(());
    Ok(())
}

/// Serves a store on a port of this machine, in this process.
async fn serve(url: &str) -> Res<(Store, oneshot::Sender<()>)> {
    let ambient = SystemAmbient::shared();
    let engine = Engine::open(&url.parse()?, Engines::Create, [], Arc::clone(&ambient)).await?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (tokens, tls, disk, limits) = (None, None, None, Limits::default());
    let server =
        Server::bind(Config { engine, ambient, listen, tokens, tls, behind_proxy: false, disk, limits }).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let store = Store::connect(&server.url(), None)?;
    tokio::spawn(server.run(async move {
        // The sender that goes away stops it too.
        let _ = stopped.await;
    }));
    Ok((store, stop))
}

/// Saves the state as one rank; returns the seconds.
async fn save(store: &Store, state: &[Tensor]) -> Res<f64> {
    let slices = state.iter().map(|tensor| Slice {
        id: tensor.id.clone(),
        data: SliceData::Memory(tensor.data.clone()),
        replicas: Vec::new(),
    });
    let slices: Vec<Slice> = slices.collect();
    let started = Instant::now();
    let spec = SaveSpec::new("bench".parse()?, "run".parse()?, 1, 1);
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank(0, slices).await?;
    save.finish().await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Restores the state into buffers that are kept; returns the seconds.
async fn restore(store: &Store, state: &[Tensor], buffers: &mut Vec<Vec<u8>>) -> Res<f64> {
    let sinks: Vec<_> = buffers.drain(..).map(BufferSink::new).collect();
    let wanted = state.iter().zip(&sinks).map(|(tensor, sink)| {
        let (name, sink) = (tensor.id.name().to_owned(), sink.clone());
        Wanted { kind: SliceKind::Tensor, name, area: None, sink }
    });
    let wanted: Vec<Wanted> = wanted.collect();
    let started = Instant::now();
    let checkpoint = store.checkpoint(&"bench/run@1".parse()?).await?;
    checkpoint.read(wanted, &Progress::default()).await?;
    let seconds = started.elapsed().as_secs_f64();
    for (sink, tensor) in sinks.into_iter().zip(state) {
        let mut buffer = sink.into_inner().ok_or("a restore that is done holds a sink")?;
        if buffer != tensor.data {
            return Err(format!("{} came back with other bytes", tensor.id).into());
        }
        // What the next restore does not write must not look right.
        buffer.fill(0);
        buffers.push(buffer);
    }
    Ok(seconds)
}

/// About `bytes` of bf16 weights and f32 optimizer state: an embedding of an eighth, layers, and norms of 4 KiB.
fn state(bytes: u64) -> Res<Vec<Tensor>> {
    const LAYERS: u64 = 24;
    let mut shapes = vec![("embed.weight".to_owned(), Dtype::BF16, bytes / 8)];
    let layer = (bytes - bytes / 8) / LAYERS;
    for i in 0..LAYERS {
        for (name, dtype, share) in
            [("q", Dtype::BF16, 8), ("k", Dtype::BF16, 8), ("v", Dtype::BF16, 8), ("up", Dtype::BF16, 4)]
        {
            shapes.push((format!("layers.{i}.{name}.weight"), dtype, layer / share));
        }
        shapes.push((format!("optimizer.{i}.master"), Dtype::F32, layer * 3 / 8));
        shapes.push((format!("layers.{i}.norm.weight"), Dtype::F32, 4096));
    }
    let mut random = blake3::Hasher::new().finalize_xof();
    let tensors = shapes.into_iter().map(|(name, dtype, bytes)| {
        let shape = [(bytes / 4096).max(1), 4096 / dtype.bytes_of(1).ok_or("elements of whole bytes")?];
        let id = SliceId::tensor(&name, dtype, &shape, TensorBox::whole(&shape)?)?;
        let mut data = vec![0; id.bytes() as usize];
        random.fill(&mut data);
        Ok(Tensor { id, data: data.into() })
    });
    tensors.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
