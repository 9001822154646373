//! Ranks that disagree, overlap, leave holes or stay away: each is named, nothing is visible, and a right save follows.

use std::time::Duration;

use gigastore_client::Coded;
use gigastore_client::checkpoint::save::SaveError;
use gigastore_client::checkpoint::{SaveSpec, Slice};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::FaultCode;

use crate::world::{check, fresh, rows, save_all, slice, spec, tensor, whole};

/// The code, what each rank has, and what the text names.
type Case<'a> = (FaultCode, Vec<Vec<Slice>>, &'a [&'a str]);

/// Saves what must be refused, and checks the refusal: its code, what its text names, and that nothing is visible.
async fn refused(store: &Store, spec: SaveSpec, ranks: Vec<Vec<Slice>>, code: FaultCode, named: &[&str]) -> SaveError {
    let error = save_all(store, spec, ranks).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    for part in named {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let hidden = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap_err();
    assert_eq!(hidden.code(), FaultCode::NotFound, "{hidden}");
    error
}

#[tokio::test]
async fn disagreeing_ranks_are_both_named_and_a_right_save_follows() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[8, 4]);
    let taller = tensor("w", Dtype::F32, &[9, 4]);
    let wider = tensor("w", Dtype::F64, &[8, 4]);
    let mut other = weights.clone();
    other.data = tensor("x", Dtype::F32, &[8, 4]).data;
    let held_by_both =
        |tensor| slice(tensor, gigastore_formats::tensor::boxes::TensorBox::whole(&[8, 4]).unwrap(), &[0, 1]);
    let (half, rest) = (|| rows(&weights, 0, 4), || rows(&weights, 4, 8));
    let (differ, lack) = (FaultCode::Conflict, FaultCode::Invalid);
    let cases: Vec<Case<'_>> = vec![
        (
            differ,
            vec![vec![half()], vec![rows(&taller, 4, 9)]],
            &["ranks 0 and 1", "global shape", "w", "[8, 4]", "[9, 4]"],
        ),
        (differ, vec![vec![half()], vec![rows(&wider, 4, 8)]], &["ranks 0 and 1", "element type", "w", "F32", "F64"]),
        (differ, vec![vec![half()], vec![rows(&weights, 3, 8)]], &["rank 0", "rank 1", "overlap", "w"]),
        (lack, vec![vec![half()], vec![rows(&weights, 5, 8)]], &["no rank saved all of tensor w", "[8, 4]"]),
        (lack, vec![vec![half()], vec![]], &["no rank saved all of tensor w"]),
        (lack, vec![vec![], vec![]], &["at least one"]),
        (
            differ,
            vec![vec![held_by_both(&weights)], vec![held_by_both(&other)]],
            &["ranks 0 and 1", "content (BLAKE3)", "w"],
        ),
    ];
    for (code, ranks, named) in cases {
        refused(&store, spec(1, 2), ranks, code, named).await;
    }
    save_all(&store, spec(1, 2), vec![vec![half()], vec![rest()]]).await.unwrap();
    check(&store, "p/run@1", std::slice::from_ref(&weights)).await;
}

#[tokio::test]
async fn metadata_that_differs_names_key_and_ranks() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[8, 4]);
    let of_rank = |lr: &str| {
        let mut spec = spec(1, 2);
        spec.attempt = Some("job".to_owned());
        spec.metadata.insert("lr".to_owned(), lr.to_owned());
        spec
    };
    let first = store.begin_save(of_rank("0.1"), Progress::default()).await.unwrap();
    let second = store.begin_save(of_rank("0.2"), Progress::default()).await.unwrap();
    first.rank(0, vec![rows(&weights, 0, 4)]).await.unwrap();
    second.rank(1, vec![rows(&weights, 4, 8)]).await.unwrap();
    let error = first.finish().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict);
    for part in ["ranks 0 and 1", "metadata", "lr", "0.1", "0.2"] {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test]
async fn missing_ranks_are_named_and_may_come_later() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[8, 4]);
    let mut late = spec(1, 4);
    late.deadline = Duration::from_millis(150);
    late.attempt = Some("job".to_owned());
    let save = store.begin_save(late, Progress::default()).await.unwrap();
    for rank in [0, 2] {
        save.rank(rank, vec![rows(&weights, u64::from(rank) * 2, u64::from(rank) * 2 + 2)]).await.unwrap();
    }
    let error = save.finish().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::MissingRanks);
    assert!(error.to_string().contains("1, 3"), "{error}");
    for rank in [1, 3] {
        save.rank(rank, vec![rows(&weights, u64::from(rank) * 2, u64::from(rank) * 2 + 2)]).await.unwrap();
    }
    save.finish().await.unwrap();
    check(&store, "p/run@1", &[weights]).await;
}

#[tokio::test]
async fn two_different_parts_of_one_rank_are_a_conflict_that_names_it() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[8, 4]);
    let mut job = spec(1, 2);
    job.attempt = Some("job".to_owned());
    let save = store.begin_save(job, Progress::default()).await.unwrap();
    save.rank(1, vec![rows(&weights, 4, 8)]).await.unwrap();
    save.rank(1, vec![rows(&weights, 4, 8)]).await.unwrap();
    save.rank(0, vec![rows(&weights, 0, 4)]).await.unwrap();
    let other = tensor("w2", Dtype::F32, &[8, 4]);
    // A part is refused where it is delivered, or else where parts are joined.
    let error = match save.rank(0, vec![whole(&other)]).await {
        Ok(()) => save.finish().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    assert!(error.to_string().contains("rank 0"), "{error}");
}

#[tokio::test]
async fn an_older_attempt_cannot_mix_into_a_newer_one() {
    let store = fresh().await;
    let (old, new) = (tensor("w", Dtype::F32, &[8, 4]), {
        let mut new = tensor("w", Dtype::F32, &[8, 4]);
        new.data = tensor("new", Dtype::F32, &[8, 4]).data;
        new
    });
    let attempt = |name: &str| {
        let mut spec = spec(1, 2);
        (spec.attempt, spec.deadline) = (Some(name.to_owned()), Duration::from_millis(100));
        spec
    };
    let zombie = store.begin_save(attempt("restart-0"), Progress::default()).await.unwrap();
    zombie.rank(0, vec![rows(&old, 0, 4)]).await.unwrap();
    let save = store.begin_save(attempt("restart-1"), Progress::default()).await.unwrap();
    save.rank(1, vec![rows(&new, 4, 8)]).await.unwrap();
    let error = save.finish().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::MissingRanks, "the zombie's rank 0 is not ours: {error}");
    save.rank(0, vec![rows(&new, 0, 4)]).await.unwrap();
    save.finish().await.unwrap();
    zombie.rank(1, vec![rows(&old, 4, 8)]).await.unwrap();
    let error = zombie.finish().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    check(&store, "p/run@1", &[new]).await;
}

#[tokio::test]
async fn a_rank_that_is_not_of_this_world_is_refused() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[8, 4]);
    let save = store.begin_save(spec(1, 2), Progress::default()).await.unwrap();
    let error = save.rank(2, vec![whole(&weights)]).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Invalid, "{error}");
    let twice = save.rank(0, vec![whole(&weights), whole(&weights)]).await.unwrap_err();
    assert!(twice.to_string().contains("rank 0 gave slice w[0:8,0:4] twice"), "{twice}");
    let mut other = spec(1, 3);
    other.attempt = Some("job".to_owned());
    let mut first = spec(1, 2);
    first.attempt = Some("job".to_owned());
    store.begin_save(first, Progress::default()).await.unwrap();
    let error = store.begin_save(other, Progress::default()).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "one attempt, two sizes of the world: {error}");
}
