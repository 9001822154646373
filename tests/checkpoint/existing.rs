//! A step that is there already: the same content is success and sends nothing, other content is a conflict.

use gigastore_client::Coded;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::Op;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::save;

use crate::world::{check, check_sound, counted, fresh, rows, save_all, spec, tensor, whole};

#[tokio::test]
async fn the_same_content_is_success_and_nothing_is_sent() {
    let (store, below) = counted().await;
    let tensors = transformer(1, Size::TINY);
    let (first, _) = save(&store, spec(5, 4), &tensors).await.unwrap();
    assert!(!first.existed);
    for ranks in [4, 1, 3, 7] {
        let packs = || below.log().iter().filter(|done| done.op == Op::Create && done.path.contains("/packs/")).count();
        let before = packs();
        let (again, moved) = save(&store, spec(5, ranks), &tensors).await.unwrap();
        assert!(again.existed, "{ranks} ranks");
        assert_eq!((again.info.seq, again.info.commit.content), (first.info.seq, first.info.commit.content));
        assert_eq!((moved.moved, packs()), (0, before), "{ranks} ranks sent bytes");
    }
    check(&store, "p/run@5", &tensors).await;
}

#[tokio::test]
async fn the_same_content_in_other_boxes_is_compared_byte_by_byte() {
    let store = fresh().await;
    let mut weights = tensor("w", Dtype::F32, &[64, 32]);
    save_all(&store, spec(1, 2), vec![vec![rows(&weights, 0, 10)], vec![rows(&weights, 10, 64)]]).await.unwrap();
    let again = save_all(&store, spec(1, 1), vec![vec![whole(&weights)]]).await.unwrap();
    assert!(again.existed);
    let mut bytes = weights.data.to_vec();
    bytes[5000] ^= 1;
    weights.data = bytes.into();
    let error = save_all(&store, spec(1, 1), vec![vec![whole(&weights)]]).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict);
    for part in ["p/run@1", "w[0:64,0:32]", "BLAKE3"] {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test]
async fn other_content_is_a_conflict_that_names_it_and_changes_nothing() {
    let store = fresh().await;
    let tensors = transformer(1, Size::TINY);
    save(&store, spec(5, 2), &tensors).await.unwrap();
    let changed = transformer(2, Size::TINY);
    let fewer = tensors[1..].to_vec();
    let more = [&tensors[..], &[tensor("new", Dtype::U8, &[3])]].concat();
    let mut reshaped = tensors.clone();
    let reshape = reshaped.iter_mut().find(|tensor| tensor.name == "model.embed.weight").unwrap();
    reshape.shape.reverse();
    let cases: [(&str, Vec<Tensor>, &str); 4] = [
        ("other bytes", changed, "BLAKE3"),
        ("a tensor less", fewer, &tensors[0].name),
        ("a tensor more", more, "new"),
        ("another shape", reshaped, "model.embed.weight"),
    ];
    for (what, other, named) in cases {
        for ranks in [2, 3] {
            let error = save(&store, spec(5, ranks), &other).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.code(), FaultCode::Conflict, "{what}: {text}");
            assert!(text.contains("run@5") && text.contains("other content"), "{what}: {text}");
            assert!(text.contains(named) || named == "BLAKE3", "{what}: {text}");
        }
    }
    check(&store, "p/run@5", &tensors).await;
}

#[tokio::test]
async fn an_existing_step_takes_a_new_tag() {
    let store = fresh().await;
    let tensors = transformer(1, Size::TINY);
    save(&store, spec(5, 2), &tensors).await.unwrap();
    let mut tagged = spec(5, 3);
    tagged.tag = Some("best".parse().unwrap());
    let (again, _) = save(&store, tagged, &tensors).await.unwrap();
    assert!(again.existed && again.info.tags.iter().any(|tag| tag == "best"), "{:?}", again.info.tags);
    check(&store, "p/run@best", &tensors).await;
}

#[tokio::test]
async fn of_racing_saves_the_second_succeeds_where_the_content_is_the_same() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[64, 32]);
    let mut other = weights.clone();
    other.data = tensor("other", Dtype::F32, &[64, 32]).data;
    // All three begin while the step is free.
    let begin = |ranks| store.begin_save(spec(1, ranks), Progress::default());
    let (first, second, third) = (begin(1).await.unwrap(), begin(2).await.unwrap(), begin(1).await.unwrap());
    first.rank(0, vec![whole(&weights)]).await.unwrap();
    second.rank(0, vec![rows(&weights, 0, 10)]).await.unwrap();
    second.rank(1, vec![rows(&weights, 10, 64)]).await.unwrap();
    third.rank(0, vec![whole(&other)]).await.unwrap();
    let committed = first.finish().await.unwrap();
    assert!(!committed.existed);
    let again = second.finish().await.unwrap();
    assert!(again.existed);
    assert_eq!(again.info.seq, committed.info.seq);
    let error = third.finish().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    assert!(error.to_string().contains("w[0:64,0:32]"), "{error}");
    check(&store, "p/run@1", &[weights]).await;
}

#[tokio::test]
async fn racing_saves_of_separate_processes_meet_again() {
    let store = fresh().await;
    let weights = tensor("w", Dtype::F32, &[64, 32]);
    let mut job = spec(1, 2);
    job.attempt = Some("job".to_owned());
    let begin = || store.begin_save(job.clone(), Progress::default());
    let (zero, one) = (begin().await.unwrap(), begin().await.unwrap());
    zero.rank(0, vec![rows(&weights, 0, 10)]).await.unwrap();
    one.rank(1, vec![rows(&weights, 10, 64)]).await.unwrap();
    save_all(&store, spec(1, 1), vec![vec![whole(&weights)]]).await.unwrap();
    let (zero, one) = futures::join!(zero.finish(), one.finish());
    assert!(zero.unwrap().existed && one.unwrap().existed);
    check_sound(&store).await;
}
