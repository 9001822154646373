//! Saves, datasets, tags and listings: every step may be repeated, and says what is wrong with what can't be.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gigastore_client::Coded;
use gigastore_client::checkpoint::{SaveSpec, Wanted};
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, FaultCode, VerifyRequest};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{save, slices};

use crate::places::{Place, on_every_place};

on_every_place! {
    every_step_of_a_save_may_be_repeated
    many_clients_save_one_checkpoint_together
    tags_point_at_what_is_live
    datasets_get_numbers_and_the_same_files_get_none
    a_listing_has_everything
    a_sound_store_verifies_at_every_depth
    boxes_are_restored_by_a_plan_of_the_store
    who_waits_for_a_save_that_is_given_up_is_told
}

fn spec(run: &str, step: u64, ranks: u32) -> SaveSpec {
    SaveSpec {
        attempt: Some("job".to_owned()),
        ..SaveSpec::new("p".parse().unwrap(), run.parse().unwrap(), step, ranks)
    }
}

async fn check(store: &Store, target: &str, tensors: &[Tensor]) {
    let checkpoint = store.checkpoint(&target.parse().unwrap()).await.unwrap();
    for tensor in tensors {
        let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap();
        assert_eq!(bytes, tensor.data, "{target}: {}", tensor.name);
    }
}

async fn every_step_of_a_save_may_be_repeated(place: &dyn Place) {
    let tensors = transformer(1, Size::TINY);
    for _ in 0..3 {
        let save = place.store().await.begin_save(spec("run", 1, 2), Progress::default()).await.unwrap();
        for rank in [1, 0, 1] {
            save.rank(rank, slices(&tensors, rank, 2)).await.unwrap();
        }
        for _ in 0..2 {
            assert_eq!(save.finish().await.unwrap().info.seq, 1);
        }
    }
    let store = place.store().await;
    let info = store.project(&"p".parse().unwrap()).await.unwrap();
    assert_eq!((info.seq, info.names[0].live.len()), (1, 1), "one record");
    check(&store, "p/run@1", &tensors).await;
}

async fn many_clients_save_one_checkpoint_together(place: &dyn Place) {
    const RANKS: u32 = 8;
    let tensors = transformer(1, Size::TINY);
    let ranks = (0..RANKS).map(|rank| {
        let tensors = &tensors;
        async move {
            let save = place.store().await.begin_save(spec("run", 1, RANKS), Progress::default()).await.unwrap();
            save.rank(rank, slices(tensors, rank, RANKS)).await.unwrap();
            save.finish().await.unwrap()
        }
    });
    let finished = futures::future::join_all(ranks).await;
    assert!(finished.iter().all(|done| done.info == finished[0].info), "all saw the same commit");
    check(&place.store().await, "p/run@latest", &tensors).await;
}

async fn tags_point_at_what_is_live(place: &dyn Place) {
    let store = place.store().await;
    let tensors = transformer(1, Size::TINY);
    for step in [1, 2] {
        save(&store, spec("run", step, 1), &tensors).await.unwrap();
    }
    let step_of = async |target: &str| store.resolve(&target.parse().unwrap()).await.map(|info| info.commit.number);
    let best = "best".parse().unwrap();
    for step in [1, 2, 1] {
        store.set_tag(&format!("p/run@{step}").parse().unwrap(), &best).await.unwrap();
        assert_eq!(step_of("p/run@best").await.unwrap(), step);
    }
    assert_eq!(step_of("p/run@latest").await.unwrap(), 2, "only commits move latest");
    let absent = store.set_tag(&"p/run@9".parse().unwrap(), &best).await.unwrap_err();
    assert_eq!(absent.code, FaultCode::NotFound, "{absent}");
    for (target, known) in [("p/run@bets", "best"), ("p/rum@1", "run"), ("q/run@1", "p"), ("p/run@3", "2")] {
        let error = step_of(target).await.unwrap_err();
        assert_eq!(error.code, FaultCode::NotFound, "{target}: {error}");
        assert!(error.known.iter().any(|name| name == known), "{target}: {:?}", error.known);
    }
}

async fn datasets_get_numbers_and_the_same_files_get_none(place: &dyn Place) {
    let store = place.store().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let first = file("a.parquet", include_bytes!("../../formats/fixtures/packs-1.parquet"));
    let second = file("b.parquet", include_bytes!("../../formats/fixtures/timeline-1.parquet"));
    let push = async |append: bool, files: &[PathBuf]| {
        let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
        let spec = PushSpec { append, ..PushSpec::new(project, name) };
        let pushed = store.push(&spec, files, &Progress::default()).await.unwrap();
        (pushed.committed.info.commit.number, pushed.committed.existed)
    };
    assert_eq!(push(false, std::slice::from_ref(&first)).await, (1, false));
    assert_eq!(push(false, std::slice::from_ref(&first)).await, (1, true), "the same files");
    assert_eq!(push(true, std::slice::from_ref(&second)).await, (2, false));
    assert_eq!(push(false, &[first.clone(), second.clone()]).await, (2, true), "the same two files");
    assert_eq!(push(false, std::slice::from_ref(&second)).await, (3, false));
    let expected = std::fs::read(&second).unwrap();
    for version in ["2", "3", "latest"] {
        let dataset = store.dataset(&format!("p/data@{version}").parse().unwrap()).await.unwrap();
        let range = ByteRange::new(100, 300).unwrap();
        let read = dataset.read("b.parquet", Some(range), &Progress::default()).await.unwrap();
        assert_eq!(read, expected[100..300], "version {version}");
    }
    for step in [1, 9] {
        let conflict = save(&store, spec("data", step, 1), &transformer(1, Size::TINY)).await.unwrap_err();
        assert_eq!(conflict.code(), FaultCode::Conflict, "a run under a dataset's name: {conflict}");
    }
    save(&store, spec("run", 1, 1), &transformer(1, Size::TINY)).await.unwrap();
    let (project, name) = ("p".parse().unwrap(), "run".parse().unwrap());
    let spec = PushSpec::new(project, name);
    let conflict = store.push(&spec, &[first], &Progress::default()).await.unwrap_err();
    assert_eq!(conflict.code(), FaultCode::Conflict, "a dataset under a run's name: {conflict}");
}

async fn a_listing_has_everything(place: &dyn Place) {
    let store = place.store().await;
    let tensors = transformer(1, Size::TINY);
    for (run, step) in [("b", 7), ("a", 1), ("b", 3)] {
        save(&store, spec(run, step, 1), &tensors).await.unwrap();
    }
    assert_eq!(store.projects().await.unwrap(), ["p".parse().unwrap()]);
    let info = store.project(&"p".parse().unwrap()).await.unwrap();
    let names: Vec<(String, Vec<u64>)> = info
        .names
        .iter()
        .map(|name| (name.name.to_string(), name.live.iter().map(|live| live.commit.number).collect()))
        .collect();
    assert_eq!(names, [("a".to_owned(), vec![1]), ("b".to_owned(), vec![3, 7])]);
    assert_eq!(store.resolve(&"p/b".parse().unwrap()).await.unwrap().commit.number, 3, "latest is the last committed");
    let error = store.project(&"q".parse().unwrap()).await.unwrap_err();
    assert_eq!((error.code, &error.known[..]), (FaultCode::NotFound, &["p".to_owned()][..]));
}

async fn a_sound_store_verifies_at_every_depth(place: &dyn Place) {
    let store = place.store().await;
    for step in 1..4 {
        save(&store, spec("run", step, 2), &transformer(step, Size::TINY)).await.unwrap();
    }
    for (depth, reads_all) in [(Depth::Quick, false), (Depth::Sample(0.001), false), (Depth::Full, true)] {
        let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth };
        let seen = AtomicU64::new(0);
        let report = store.verify(&request, &|now| seen.store(now.objects_done, Ordering::SeqCst)).await.unwrap();
        assert_eq!(report.findings, [], "{depth:?}");
        assert_eq!((report.records, report.commits), (3, 3));
        assert_eq!(report.bytes_by_length == 0, reads_all, "{depth:?}: {report:?}");
        assert!(seen.into_inner() > 0, "no progress was reported");
    }
}

async fn boxes_are_restored_by_a_plan_of_the_store(place: &dyn Place) {
    let store = place.store().await;
    let tensors = transformer(7, Size::TINY);
    save(&store, spec("run", 5, 3), &tensors).await.unwrap();
    let target = "p/run".parse().unwrap();
    let mut wanted = Vec::new();
    let mut expected = Vec::new();
    for tensor in tensors.iter().filter(|tensor| !tensor.shape.is_empty()) {
        let row = tensor.dtype.bytes_of(tensor.shape.iter().skip(1).product()).unwrap() as usize;
        let rows = tensor.shape[0];
        // The last rows, and none: an empty box of a tensor is one too.
        for (first, count) in [(rows / 2, rows - rows / 2), (0, 0)] {
            let (mut offsets, mut sizes) = (vec![0; tensor.shape.len()], tensor.shape.clone());
            (offsets[0], sizes[0]) = (first, count);
            let bytes = &tensor.data[first as usize * row..(first + count) as usize * row];
            let sink = BufferSink::new(vec![0u8; bytes.len()]);
            let area = Some(TensorBox::new(offsets, sizes).unwrap());
            let (kind, name) = (SliceKind::Tensor, tensor.name.clone());
            wanted.push(Wanted { kind, name, area, sink: Arc::<BufferSink<_>>::clone(&sink) });
            expected.push((tensor.name.clone(), bytes.to_vec(), sink));
        }
    }
    let info = store.restore(&target, wanted, &Progress::default()).await.unwrap();
    assert_eq!(info.commit.number, 5);
    for (name, bytes, sink) in expected {
        assert_eq!(sink.into_inner().unwrap(), bytes, "{name}");
    }
    let sink = BufferSink::new(vec![0u8; 4]);
    let unknown = Wanted { kind: SliceKind::Tensor, name: "nothing".to_owned(), area: None, sink };
    let error = store.restore(&target, vec![unknown], &Progress::default()).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::NotFound, "{error}");
}

async fn who_waits_for_a_save_that_is_given_up_is_told(place: &dyn Place) {
    let (waiting, giving_up) = (place.store().await, place.store().await);
    let wait = waiting.begin_save(spec("run", 1, 2), Progress::default()).await.unwrap();
    let tensors = transformer(1, Size::TINY);
    wait.rank(0, slices(&tensors, 0, 2)).await.unwrap();
    let give_up = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let save = giving_up.begin_save(spec("run", 1, 2), Progress::default()).await.unwrap();
        save.abort().await.unwrap();
        save.abort().await.unwrap();
    };
    let started = Instant::now();
    let (finished, ()) = tokio::join!(wait.finish(), give_up);
    let error = finished.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    assert!(error.to_string().contains("aborted"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "it waited for its deadline");
    // Another attempt is another save, and what is committed can't be given up.
    let again = SaveSpec { attempt: Some("again".to_owned()), ..spec("run", 1, 1) };
    save(&waiting, again.clone(), &tensors).await.unwrap();
    let late = waiting.begin_save(again, Progress::default()).await.unwrap();
    assert_eq!(late.abort().await.unwrap_err().code(), FaultCode::Conflict);
}
