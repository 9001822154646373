//! What services keep of a store that is slow: read once for all, in memory and on a disk that they share.

use std::net::SocketAddr;
use std::path::Path as Folder;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::TryStreamExt;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transport::http::Http;
use gigastore_engine::store::OpenMode;
use gigastore_formats::digest::Digest;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_server::Limits;
use gigastore_tests::faulty::{FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::{Size, Tensor, XorShift, transformer};
use gigastore_tests::opened::{engine, open, save, serve};
use gigastore_tests::raw::ask;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::served::spec;
use crate::weather::restored;

/// Clients at once.
const CLIENTS: usize = 16;

/// What a block of the cache holds at most.
const BLOCK: usize = 2 << 20;

/// A store that is filled, and then slow and counted.
struct Slow {
    inner: Arc<dyn ObjectStore>,
    counted: FaultyStore,
    tensors: Vec<Tensor>,
}

impl Slow {
    async fn new() -> Self {
        Self::of(transformer(1, Size::SMALL), 2, Duration::from_millis(10)).await
    }

    /// What so many ranks saved, in a store that takes `call` for a request, and 100 MB/s for its bytes.
    async fn of(tensors: Vec<Tensor>, ranks: u32, call: Duration) -> Self {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let quick = open(Arc::clone(&inner), OpenMode::Create).await.unwrap();
        save(&quick, spec("p", "run", 1, ranks), &tensors).await.unwrap();
        let wait = ThrottleConfig {
            wait_get_per_call: call,
            wait_get_per_byte: Duration::from_nanos(10),
            ..ThrottleConfig::default()
        };
        let counted = FaultyStore::new(Arc::new(ThrottledStore::new(Arc::clone(&inner), wait)));
        Self { inner, counted, tensors }
    }

    async fn serve(&self, limits: Limits) -> SocketAddr {
        let engine = engine(Arc::new(self.counted.clone()), OpenMode::Existing).await.unwrap();
        serve(engine, None, limits).await.unwrap().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Bytes of all packs and manifests.
    async fn unique(&self) -> u64 {
        let all: Vec<_> = self.inner.list(None).try_collect().await.unwrap();
        let content = |path: &Path| path.as_ref().contains("/packs/") || path.as_ref().contains("/manifests/");
        all.iter().filter(|meta| content(&meta.location)).map(|meta| meta.size).sum()
    }

    /// Reads of packs so far.
    fn pack_reads(&self) -> usize {
        self.counted.log().iter().filter(|read| read.op == Op::Get && read.path.contains("/packs/")).count()
    }

    async fn restore(&self, address: SocketAddr, clients: usize) {
        let client = || async {
            let http = Http::new(&format!("http://{address}"), None, SystemAmbient::shared()).unwrap();
            let store = Store::over(Arc::new(http), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES);
            restored(&store, &self.tensors).await.unwrap();
        };
        join_all((0..clients).map(|_| client())).await;
    }
}

fn on_disk(folder: &Folder, memory: u64) -> Limits {
    Limits { cache: memory, cache_folder: Some(folder.to_owned()), ..Limits::default() }
}

async fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = ask(address, "GET", "/metrics", &[], b"").await.unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_at_once_read_a_slow_store_once() {
    for (memory, on_a_disk) in [(64 << 20, false), (0, true), (4 << 20, true)] {
        let (slow, folder) = (Slow::new().await, tempfile::tempdir().unwrap());
        let limits = match on_a_disk {
            true => on_disk(folder.path(), memory),
            false => Limits { cache: memory, ..Limits::default() },
        };
        let address = slow.serve(limits).await;
        slow.restore(address, CLIENTS).await;
        let (read, unique) = (slow.counted.bytes_got(), slow.unique().await);
        println!("{memory} bytes of memory, disk: {on_a_disk}: {read} of {unique} bytes");
        assert!(read * 100 <= unique * 105, "{read} bytes of the store for {unique} that there are");
        let hits = metric(address, "gigastore_cache_hits_total{tier=\"memory\"}").await;
        assert!(hits > 0);
        if on_a_disk {
            assert_eq!(metric(address, "gigastore_cache_errors_total{tier=\"disk\"}").await, 0);
            assert_eq!(metric(address, "gigastore_cache_damaged_total{tier=\"disk\"}").await, 0);
            assert!(metric(address, "gigastore_cache_misses_total{tier=\"disk\"}").await > 0);
            assert!(metric(address, "gigastore_cache_bytes{tier=\"disk\"}").await > unique / 2);
        } else {
            let text = ask(address, "GET", "/metrics", &[], b"").await.unwrap().text();
            assert!(!text.contains("tier=\"disk\""), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_service_read_another_of_the_same_disk_has() {
    let (slow, folder) = (Slow::new().await, tempfile::tempdir().unwrap());
    let first = slow.serve(on_disk(folder.path(), 0)).await;
    slow.restore(first, 1).await;
    let reads = slow.pack_reads();
    assert!(reads > 0);
    let second = slow.serve(on_disk(folder.path(), 64 << 20)).await;
    slow.restore(second, CLIENTS).await;
    assert_eq!(slow.pack_reads(), reads, "what is on the disk was read from the store");
    assert!(metric(second, "gigastore_cache_hits_total{tier=\"disk\"}").await > 0);
    // Both at once, on one that is empty: each block is read by one of them, or by both.
    let (slow, folder) = (Slow::new().await, tempfile::tempdir().unwrap());
    let (first, second) = (slow.serve(on_disk(folder.path(), 0)).await, slow.serve(on_disk(folder.path(), 0)).await);
    tokio::join!(slow.restore(first, 4), slow.restore(second, 4));
    assert!(slow.counted.bytes_got() <= 2 * slow.unique().await * 105 / 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_afresh_has_both_tiers_read_again() {
    let (slow, folder) = (Slow::new().await, tempfile::tempdir().unwrap());
    let content = XorShift::new(5).bytes(BLOCK + 1000);
    let name = format!("{}.0", Digest::of(&content));
    let key = Path::from(format!("projects/p/blobs/{}/{name}.parquet", &name[..2]));
    slow.inner.put(&key, content.clone().into()).await.unwrap();
    let target = format!("/v1/projects/p/blobs/{name}");
    let get = async |address, headers: &[(&str, &str)]| {
        let answer = ask(address, "GET", &target, headers, b"").await.unwrap();
        assert!(answer.whole && answer.body.len() == content.len(), "{answer:?}");
        answer.body == content
    };
    let first = slow.serve(on_disk(folder.path(), 64 << 20)).await;
    // The first block comes damaged, whatever its order, and is kept so.
    slow.counted.set_plan(Box::new(|operation| match operation.op {
        Op::Get if operation.path.contains("/blobs/") => Verdict::Flip(700),
        _ => Verdict::Pass,
    }));
    assert!(!get(first, &[]).await);
    slow.counted.set_plan(plan::pass());
    assert!(!get(first, &[]).await, "nothing was kept");
    // Blocks are written in the background.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while metric(first, "gigastore_cache_bytes{tier=\"disk\"}").await < content.len() as u64 {
        assert!(std::time::Instant::now() < until, "nothing comes to the disk");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = slow.serve(on_disk(folder.path(), 0)).await;
    assert!(!get(second, &[]).await, "nothing was kept on the disk");
    assert!(get(first, &[("Cache-Control", "no-cache")]).await);
    assert!(get(first, &[]).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(get(second, &[]).await, "the disk still has what was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_slices_share_a_block_is_made_of_a_store_that_was_not_read_before() {
    // Of the first three the rows say all; the header of the fourth lies in the block that these wait for.
    let lens = [("a", 1000), ("b", 70_000), ("c", 200_000), ("d", 700_000), ("e", 10), ("f", 1_500_000)];
    let tensor = |(name, len): (&str, usize)| Tensor {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: vec![len as u64],
        data: XorShift::new(len as u64).bytes(len),
    };
    let slow = Slow::of(lens.into_iter().map(tensor).collect(), 1, Duration::from_millis(10)).await;
    let content: Vec<u8> = slow.tensors.iter().flat_map(|tensor| tensor.data.to_vec()).collect();
    for cache in [0, 64 << 20] {
        let address = slow.serve(Limits { cache, ..Limits::default() }).await;
        let target = "/v1/projects/p/checkpoints/run/1/files/model.safetensors";
        let asked = tokio::time::timeout(Duration::from_secs(30), ask(address, "GET", target, &[], b""));
        let answer = asked.await.expect("the answer hangs").unwrap();
        assert!(answer.whole && answer.body.ends_with(&content), "cache of {cache}: {answer:?}");
    }
}
