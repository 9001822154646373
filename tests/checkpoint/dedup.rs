//! Content that the run's latest checkpoint has is referred to, not sent.

use gigastore_client::checkpoint::diff::{Change, diff};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_tests::faulty::FaultyStore;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{save, slices};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::world::{check, counted, fresh, spec, tensor};

fn tensors() -> Vec<Tensor> {
    (0..20).map(|i| tensor(&format!("layer.{i:02}"), Dtype::F32, &[64, 64])).collect()
}

#[tokio::test]
async fn only_what_changed_is_sent_and_the_rest_is_shared() {
    let store = fresh().await;
    let mut tensors = tensors();
    let (_, first) = save(&store, spec(1, 2), &tensors).await.unwrap();
    assert!(first.moved >= 20 * 64 * 64 * 4);
    let (_, same) = save(&store, spec(2, 2), &tensors).await.unwrap();
    assert_eq!(same.moved, 0, "an unchanged step sends nothing");
    tensors[7].data = tensor("other", Dtype::F32, &[64, 64]).data;
    let (_, changed) = save(&store, spec(3, 2), &tensors).await.unwrap();
    let one = 64 * 64 * 4;
    assert!((one..one + 8192).contains(&changed.moved), "{} bytes for one tensor of {one}", changed.moved);
    check(&store, "p/run@3", &tensors).await;

    let open = async |target: &str| store.checkpoint(&target.parse().unwrap()).await.unwrap();
    let found = diff(&open("p/run@1").await, &open("p/run@3").await);
    let changes: Vec<(&str, u64, Change)> =
        found.changes.iter().map(|(name, bytes, change)| (name.as_str(), *bytes, *change)).collect();
    assert_eq!(changes, [("layer.07", one, Change::Changed)]);
    assert_eq!((found.same, found.same_bytes, found.shared_stored_bytes), (19, 19 * one, 19 * one));

    let packs = store.packs(&"p/run@3".parse().unwrap()).await.unwrap();
    let old = store.packs(&"p/run@1".parse().unwrap()).await.unwrap();
    let shared = packs.iter().filter(|row| old.iter().any(|other| other.pack == row.pack)).count();
    assert_eq!((shared, packs.len()), (old.len(), old.len() + 1), "step 3 points into the packs of step 1");
}

#[tokio::test]
async fn without_dedup_a_changed_pack_is_sent_whole() {
    let store = fresh().await;
    let mut tensors = tensors();
    save(&store, spec(1, 1), &tensors).await.unwrap();
    tensors[7].data = tensor("other", Dtype::F32, &[64, 64]).data;
    let mut all = spec(2, 1);
    all.dedup = false;
    let (_, sent) = save(&store, all, &tensors).await.unwrap();
    assert!(sent.moved >= 20 * 64 * 64 * 4, "{} bytes", sent.moved);
    check(&store, "p/run@2", &tensors).await;
}

#[tokio::test]
async fn the_same_bytes_under_another_name_are_sent_once() {
    let store = fresh().await;
    let tensors = tensors();
    save(&store, spec(1, 1), &tensors).await.unwrap();
    let mut other = spec(1, 1);
    other.run = "fork".parse().unwrap();
    let (_, sent) = save(&store, other, &tensors).await.unwrap();
    assert_eq!(sent.moved, 0, "another run of the same packs finds them by name");
    check(&store, "p/fork@1", &tensors).await;
}

/// Saves step 2; returns what the caller was told. All of it must be readable.
async fn save_second(store: &Store, tensors: &[Tensor]) -> Vec<String> {
    let begun = store.begin_save(spec(2, 2), Progress::default()).await.unwrap();
    for rank in 0..2 {
        begun.rank(rank, slices(tensors, rank, 2)).await.unwrap();
    }
    begun.finish().await.unwrap();
    let second = store.checkpoint(&"p/run@2".parse().unwrap()).await.unwrap();
    for tensor in tensors {
        assert_eq!(second.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap(), tensor.data, "{}", tensor.name);
    }
    begun.notes()
}

async fn flip(below: &FaultyStore, key: &str) {
    let path = Path::from(format!("projects/p/{key}"));
    let mut bytes = below.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    below.put(&path, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_latest_checkpoint_does_not_keep_the_next_one_away() {
    let (store, below) = counted().await;
    save(&store, spec(1, 2), &tensors()).await.unwrap();
    let commit = store.resolve(&"p/run@1".parse().unwrap()).await.unwrap().commit;
    flip(&below, &commit.manifest.object.key(ObjectKind::Manifest)).await;
    let notes = save_second(&store, &tensors()).await;
    assert!(notes.len() == 1 && notes[0].contains("p/run@1") && notes[0].contains("integrity failure"), "{notes:?}");
}

#[tokio::test]
async fn a_damaged_list_of_packs_does_not_keep_the_next_checkpoint_away() {
    let (store, below) = counted().await;
    let mut tensors = tensors();
    save(&store, spec(1, 2), &tensors).await.unwrap();
    let commit = store.resolve(&"p/run@1".parse().unwrap()).await.unwrap().commit;
    flip(&below, &commit.packs.unwrap().object.key(ObjectKind::Manifest)).await;
    tensors[7].data = tensor("other", Dtype::F32, &[64, 64]).data;
    assert_eq!(save_second(&store, &tensors).await, Vec::<String>::new());
}

#[tokio::test]
async fn slices_of_a_lost_pack_are_sent_again() {
    let (store, below) = counted().await;
    save(&store, spec(1, 2), &tensors()).await.unwrap();
    let packs = store.packs(&"p/run@1".parse().unwrap()).await.unwrap();
    let key = packs[0].pack.key(ObjectKind::Pack);
    below.delete(&Path::from(format!("projects/p/{key}"))).await.unwrap();
    let notes = save_second(&store, &tensors()).await;
    assert!(notes.iter().any(|note| note.contains("sent again") && note.contains(&key)), "{notes:?}");
    check(&store, "p/run@1", &tensors()).await;
}
