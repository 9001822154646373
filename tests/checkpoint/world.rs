//! What all these tests start from: tensors, boxes of them with their bytes, and a store that counts.

use std::sync::Arc;

use gigastore_client::checkpoint::save::SaveError;
use gigastore_client::checkpoint::{SaveSpec, Slice};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::source::SliceData;
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::boxes::{CopyPlan, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{SliceId, SliceKind};
use gigastore_formats::wire::{Committed, Depth, VerifyRequest};
use gigastore_tests::faulty::FaultyStore;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::open;
use object_store::memory::InMemory;

/// Returns a tensor with bytes that tell places apart.
pub(crate) fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Tensor {
    let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
    let mut state = name.bytes().fold(1u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let data: Vec<u8> = (0..bytes)
        .map(|_| {
            // The generator of Numerical Recipes; its upper bits are good enough to tell places apart.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: data.into() }
}

/// Returns the bytes that `area` has of a tensor, cut out element by element.
pub(crate) fn cut(tensor: &Tensor, area: &TensorBox) -> Vec<u8> {
    let whole = TensorBox::whole(&tensor.shape).unwrap();
    let mut bytes = vec![0; area.bytes(tensor.dtype).unwrap() as usize];
    if let Some(plan) = CopyPlan::new(tensor.dtype, &whole, area).unwrap() {
        for run in (0..plan.runs()).map(|i| plan.run(i)) {
            let (from, to, len) = (run.from as usize, run.to as usize, run.len as usize);
            bytes[to..to + len].copy_from_slice(&tensor.data[from..from + len]);
        }
    }
    bytes
}

/// Returns the slice `area` of a tensor, held by `replicas` (none: by one rank alone).
pub(crate) fn slice(tensor: &Tensor, area: TensorBox, replicas: &[u32]) -> Slice {
    let data = SliceData::Memory(cut(tensor, &area).into());
    let id = SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area).unwrap();
    Slice { id, data, replicas: replicas.to_vec() }
}

/// Returns all of a tensor as one slice.
pub(crate) fn whole(tensor: &Tensor) -> Slice {
    slice(tensor, TensorBox::whole(&tensor.shape).unwrap(), &[])
}

/// Returns rows `start..end` of a tensor as a slice.
pub(crate) fn rows(tensor: &Tensor, start: u64, end: u64) -> Slice {
    let (mut offsets, mut sizes) = (vec![0; tensor.shape.len()], tensor.shape.clone());
    offsets[0] = start;
    sizes[0] = end - start;
    slice(tensor, TensorBox::new(offsets, sizes).unwrap(), &[])
}

/// Returns the spec of a save of run `p/run`.
pub(crate) fn spec(step: u64, ranks: u32) -> SaveSpec {
    SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), step, ranks)
}

/// Returns a store in memory, and the counter below it.
pub(crate) async fn counted() -> (Store, Arc<FaultyStore>) {
    let below = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    (open(Arc::<FaultyStore>::clone(&below), OpenMode::Create).await.unwrap(), below)
}

/// Returns a store in memory.
pub(crate) async fn fresh() -> Store {
    counted().await.0
}

/// Saves what each rank has, all in this process.
pub(crate) async fn save_all(store: &Store, spec: SaveSpec, ranks: Vec<Vec<Slice>>) -> Result<Committed, SaveError> {
    let save = store.begin_save(spec, Progress::default()).await?;
    for (rank, slices) in ranks.into_iter().enumerate() {
        save.rank(rank as u32, slices).await?;
    }
    save.finish().await
}

/// Checks that `target` holds exactly these tensors, and that everything in the store is sound.
pub(crate) async fn check(store: &Store, target: &str, tensors: &[Tensor]) {
    let checkpoint = store.checkpoint(&target.parse().unwrap()).await.unwrap();
    assert_eq!(checkpoint.tensors().len(), tensors.len(), "{target}");
    for tensor in tensors {
        let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap();
        assert_eq!(bytes, tensor.data, "{target}: {}", tensor.name);
    }
    check_sound(store).await;
}

/// Checks that full verification of the project finds nothing.
pub(crate) async fn check_sound(store: &Store) {
    let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
    assert_eq!(store.verify(&request, &|_| {}).await.unwrap().findings, []);
}
