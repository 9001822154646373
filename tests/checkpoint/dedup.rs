//! Content that the run's latest checkpoint has is referred to, not sent.

use gigastore_client::checkpoint::diff::{Change, diff};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::save;

use crate::world::{check, fresh, spec, tensor};

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
