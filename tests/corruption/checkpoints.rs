//! Packs, raw and coded; manifests, lists of packs and timelines of checkpoints; and the marker of their store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gigastore_client::Coded;
use gigastore_client::checkpoint::{Compression, SaveSpec, Wanted};
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::record::Index;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::model::{Tensor, XorShift};
use gigastore_tests::opened::save;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::inline;
use crate::scene::{Must, Reader, Scene, contents, named, others};

/// Tensors of a few bytes each: of several types, with pads between them, a scalar and an empty one.
pub(crate) fn tensors(seed: u64) -> Vec<Tensor> {
    let mut random = XorShift::new(seed);
    let shapes: [(&str, Dtype, &[u64]); 5] = [
        ("bias", Dtype::U8, &[7]),
        ("empty", Dtype::BF16, &[0, 4]),
        ("scale", Dtype::F32, &[]),
        ("steps", Dtype::I64, &[2]),
        ("weight", Dtype::BF16, &[8, 12]),
    ];
    let tensor = |(name, dtype, shape): (&str, Dtype, &[u64])| {
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: random.bytes(bytes as usize) }
    };
    shapes.map(tensor).to_vec()
}

/// One tensor that gets much shorter by coding.
fn even(seed: u8) -> Vec<Tensor> {
    let data = (0..4096u32).flat_map(|i| [0, seed, (i / 64) as u8, 0x3f]).collect::<Vec<u8>>();
    vec![Tensor { name: "even".to_owned(), dtype: Dtype::F32, shape: vec![4096], data: data.into() }]
}

pub(crate) fn spec(run: &str, ranks: u32) -> SaveSpec {
    let attempt = Some("job".to_owned());
    SaveSpec { attempt, ..SaveSpec::new("p".parse().unwrap(), run.parse().unwrap(), 1, ranks) }
}

/// Opens a store that does not exist yet.
pub(crate) async fn create() -> (Arc<InMemory>, Store) {
    let objects = Arc::new(InMemory::new());
    let (store, ambient) = (Arc::<InMemory>::clone(&objects), inline::ambient());
    let engine = Engine::with_store(store, "test:///".to_owned(), OpenMode::Create, ambient).await.unwrap();
    (objects, Store::over(Arc::new(engine), inline::ambient(), DEFAULT_BUDGET_BYTES))
}

/// Where the bytes of a tensor go.
type Buffer = Arc<BufferSink<Vec<u8>>>;

/// Reads a whole checkpoint, by the store's plan and by its manifest, and what is kept beside it.
pub(crate) struct WholeCheckpoint {
    pub(crate) target: &'static str,
    pub(crate) tensors: Vec<Tensor>,
}

impl WholeCheckpoint {
    fn wanted(&self) -> (Vec<Wanted>, Vec<Buffer>) {
        let sinks: Vec<_> = self.tensors.iter().map(|tensor| BufferSink::new(vec![0; tensor.data.len()])).collect();
        let wanted = self.tensors.iter().zip(&sinks).map(|(tensor, sink)| Wanted {
            kind: SliceKind::Tensor,
            name: tensor.name.clone(),
            area: None,
            sink: Arc::<BufferSink<_>>::clone(sink),
        });
        (wanted.collect(), sinks)
    }

    fn check(&self, sinks: Vec<Buffer>) {
        for (tensor, sink) in self.tensors.iter().zip(sinks) {
            assert_eq!(Bytes::from(sink.into_inner().unwrap()), tensor.data, "wrong data of {}", tensor.name);
        }
    }
}

#[async_trait]
impl Reader for WholeCheckpoint {
    async fn read(&self, _: &Engine, store: &Store) -> Result<(), FaultCode> {
        let target = self.target.parse().unwrap();
        let (wanted, sinks) = self.wanted();
        let planned = store.restore(&target, wanted, &Progress::default()).await.map_err(|error| error.code());
        if planned.is_ok() {
            self.check(sinks);
        }
        let checkpoint = store.checkpoint(&target).await.map_err(|error| error.code())?;
        let (wanted, sinks) = self.wanted();
        checkpoint.read(wanted, &Progress::default()).await.map_err(|error| error.code())?;
        self.check(sinks);
        planned.map(|_| ())
    }
}

/// Reads the list of packs, or the timeline, and compares it with what it was.
struct Beside {
    target: &'static str,
    right: String,
    timeline: bool,
}

impl Beside {
    async fn text(store: &Store, target: &str, timeline: bool) -> Result<String, FaultCode> {
        let target = target.parse().unwrap();
        Ok(match timeline {
            true => format!("{:?}", store.timeline(&target).await.map_err(|error| error.code())?),
            false => format!("{:?}", store.packs(&target).await.map_err(|error| error.code())?),
        })
    }
}

#[async_trait]
impl Reader for Beside {
    async fn read(&self, _: &Engine, store: &Store) -> Result<(), FaultCode> {
        assert_eq!(Self::text(store, self.target, self.timeline).await?, self.right, "another text was read");
        Ok(())
    }
}

pub(crate) async fn scenes() -> Vec<Scene> {
    let (objects, store) = create().await;
    save(&store, spec("run", 2), &tensors(1)).await.unwrap();
    // The same shapes and other numbers: objects of equal lengths that are found in each other's places.
    let (twins, twin) = create().await;
    save(&twin, spec("run", 2), &tensors(2)).await.unwrap();
    let all = Arc::new(contents(&objects).await);
    let strangers = contents(&twins).await;
    let whole = || WholeCheckpoint { target: "p/run@1", tensors: tensors(1) };
    let scene = |kind, key: Path, reader: Arc<dyn Reader>| {
        let folder = key.as_ref().split('/').nth(2).unwrap_or("gigastore.json").to_owned();
        let mut other = others(&named(&strangers, &folder), &key);
        other.extend(others(&all, &key));
        let (objects, must, stride, needed) = (Arc::clone(&all), Must::Found, 1, true);
        Scene { kind, objects, key, others: other, reader, must, stride, needed }
    };
    let commit = store.resolve(&"p/run@1".parse().unwrap()).await.unwrap().commit;
    let key = |index: &Index| Path::from(format!("projects/p/{}", index.object.key(ObjectKind::Manifest)));
    let mut found: Vec<Scene> =
        named(&all, "/packs/").into_iter().map(|(pack, _)| scene("raw pack", pack, Arc::new(whole()))).collect();
    found.push(scene("checkpoint manifest", key(&commit.manifest), Arc::new(whole())));
    for (kind, index, timeline) in [("list of packs", &commit.packs, false), ("timeline", &commit.timeline, true)] {
        let right = Beside::text(&store, "p/run@1", timeline).await.unwrap();
        let reader = Beside { target: "p/run@1", right, timeline };
        found.push(scene(kind, key(index.as_ref().unwrap()), Arc::new(reader)));
    }
    let mut marker = scene("marker", Path::from("gigastore.json"), Arc::new(whole()));
    // Markers of two stores are the same, and an absent one is no store.
    marker.must = Must::Refused;
    found.push(marker);
    found.extend(coded().await);
    found
}

async fn coded() -> Vec<Scene> {
    let (objects, store) = create().await;
    let compress = |run| SaveSpec { compress: Compression::Always, ..spec(run, 1) };
    save(&store, compress("run"), &even(3)).await.unwrap();
    save(&store, compress("twin"), &even(4)).await.unwrap();
    let all = Arc::new(contents(&objects).await);
    let pack = store.packs(&"p/run@1".parse().unwrap()).await.unwrap()[0].pack;
    let key = Path::from(format!("projects/p/{}", pack.key(ObjectKind::Pack)));
    let reader = Arc::new(WholeCheckpoint { target: "p/run@1", tensors: even(3) });
    let others = others(&all, &key);
    vec![Scene { kind: "coded pack", objects: all, key, others, reader, must: Must::Found, stride: 1, needed: true }]
}
