//! A step that is there already: the same content is success and sends nothing, other content is a conflict.

use gigastore_client::Coded;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::Op;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::save;

use crate::world::{check, counted, fresh, rows, save_all, spec, tensor, whole};

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
    for part in ["p/run@1", "w[0:64,0:32]", "different in"] {
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
