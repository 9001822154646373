//! Stores of the client over any object store, and whole saves in one call.
//!
//! Must never hide an error: everything that can fail is returned.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::save::SaveError;
use gigastore_client::checkpoint::shard::shard;
use gigastore_client::checkpoint::{SaveSpec, Slice};
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transfer::progress::{Progress, Snapshot};
use gigastore_client::transfer::source::SliceData;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenError, OpenMode};
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::wire::Committed;
use gigastore_server::{Config, Limits, Server, StartError};
use object_store::ObjectStore;

use crate::model::Tensor;

/// Opens an engine of its own over `store`, as another process would.
pub async fn engine(store: Arc<dyn ObjectStore>, mode: OpenMode) -> Result<Engine, OpenError> {
    Engine::with_store(store, "test:///".to_owned(), mode, SystemAmbient::shared()).await
}

/// Serves `engine` on a port of this machine that is free, with `limits`, for as long as the runtime lives; returns its
/// URL.
pub async fn serve(engine: Engine, tokens: Option<PathBuf>, limits: Limits) -> Result<String, StartError> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (ambient, tls, disk) = (SystemAmbient::shared(), None, None);
    let config = Config { engine, ambient, listen, tokens, tls, behind_proxy: false, disk, limits };
    let server = Server::bind(config).await?;
    let url = server.url();
    tokio::spawn(server.run(std::future::pending()));
    Ok(url)
}

/// Opens a client's store over `store`, as another process would.
pub async fn open(store: Arc<dyn ObjectStore>, mode: OpenMode) -> Result<Store, OpenError> {
    Ok(Store::over(Arc::new(engine(store, mode).await?), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES))
}

/// Returns the slices that `rank` of `world_size` has of `tensors`, sharded along dimension 0.
pub fn slices(tensors: &[Tensor], rank: u32, world_size: u32) -> Vec<Slice> {
    let mut slices = Vec::new();
    for tensor in tensors {
        let area = shard(&tensor.name, tensor.dtype, &tensor.shape, rank, world_size).expect("a sound tensor");
        let Some(area) = area else { continue };
        let rows = area.offsets().first().copied().unwrap_or(0);
        let before = rows * tensor.shape.iter().skip(1).product::<u64>();
        let start = tensor.dtype.bytes_of(before).expect("shards start at whole bytes") as usize;
        let id = SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area).expect("a sound slice");
        let data = SliceData::Memory(tensor.data.slice(start..start + id.bytes() as usize));
        slices.push(Slice { id, data, replicas: Vec::new() });
    }
    slices
}

/// Saves `tensors` as all ranks of `spec` in this process; returns what was committed, and what was moved.
pub async fn save(store: &Store, spec: SaveSpec, tensors: &[Tensor]) -> Result<(Committed, Snapshot), SaveError> {
    let progress = Progress::default();
    let world_size = spec.world_size;
    let save = store.begin_save(spec, progress.clone()).await?;
    for rank in 0..world_size {
        save.rank(rank, slices(tensors, rank, world_size)).await?;
    }
    Ok((save.finish().await?, progress.snapshot()))
}
