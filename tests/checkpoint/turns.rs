//! Many packs at once where there is room for few: memory of all kinds, several ranks, saves that are given up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::Slice;
use gigastore_client::checkpoint::save::{CheckpointSave, SaveError};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::source::{SliceData, SourceFile};
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::engine;
use object_store::memory::InMemory;
use tokio::time::timeout;

use crate::world::{check, spec, tensor, whole};

const RANKS: u32 = 3;

/// More than the packs of all ranks that are worked on at once.
const TENSORS: u64 = 60;

/// Returns tensors of one step, which no other step has.
fn tensors(step: u64) -> Vec<Tensor> {
    (0..TENSORS).map(|i| tensor(&format!("{step}.{i}"), Dtype::U8, &[1 + i * i * 37])).collect()
}

/// Returns what each rank has of them: in memory of ours, in memory of others, in files.
fn shares(tensors: &[Tensor], folder: &Path) -> Vec<Vec<Slice>> {
    let mut shares = vec![Vec::new(); RANKS as usize];
    for (i, tensor) in tensors.iter().enumerate() {
        let data = match i % 4 {
            0 => SliceData::Memory(tensor.data.clone()),
            1 | 2 => SliceData::Shared(tensor.data.clone()),
            _ => {
                let path = folder.join(&tensor.name);
                std::fs::write(&path, &tensor.data).unwrap();
                SliceData::File(SourceFile::open(&path).unwrap().region(0, tensor.data.len() as u64))
            }
        };
        shares[i % RANKS as usize].push(Slice { data, ..whole(tensor) });
    }
    shares
}

/// Saves what all ranks have, at the same time.
async fn save_ranks(save: &CheckpointSave, tensors: &[Tensor], folder: &Path) -> Result<(), SaveError> {
    let ranks = shares(tensors, folder).into_iter().zip(0..);
    try_join_all(ranks.map(|(slices, rank)| save.rank(rank, slices))).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_pass_one_after_the_other_where_there_is_no_room_for_two() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(Arc::new(InMemory::new()), OpenMode::Create).await.unwrap();
    // The least that a budget has: each pack takes all of it.
    let store = Store::over(Arc::new(engine), SystemAmbient::shared(), 1);
    for (step, pack_bytes) in [(1, 1), (2, 100_000), (3, 64 << 20)] {
        let tensors = tensors(step);
        let mut how = spec(step, RANKS);
        how.pack_bytes = pack_bytes;
        // Given up at any moment, a save keeps no turn and no memory.
        for given_up in 0..8 {
            let save = store.begin_save(how.clone(), Progress::default()).await.unwrap();
            let ranks = save_ranks(&save, &tensors, folder.path());
            let _ = timeout(Duration::from_micros(given_up * 300), ranks).await;
        }
        let save = store.begin_save(how, Progress::default()).await.unwrap();
        let ranks = save_ranks(&save, &tensors, folder.path());
        timeout(Duration::from_secs(120), ranks).await.expect("the packs wait for each other").unwrap();
        save.finish().await.unwrap();
        check(&store, &format!("p/run@{step}"), &tensors).await;
    }
}
