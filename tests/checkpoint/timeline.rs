//! What the phases of a save took is recorded with the checkpoint: who tells it, who measures it, and that it decides
//! nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};

use gigastore_client::checkpoint::asynchronous::{AsyncSaver, Busy, Staging, StateLayout};
use gigastore_client::checkpoint::{CheckpointSave, Compression, SaveSpec, Slice};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::source::{SliceData, SourceFile};
use gigastore_engine::store::OpenMode;
use gigastore_formats::manifest::part::{PartMeta, read_part, write_part};
use gigastore_formats::manifest::timeline::Timeline;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::record::Commit;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::timeline::{Phase, Span};
use gigastore_formats::wire::{Depth, SaveRequest, VerifyRequest};
use gigastore_server::Limits;
use gigastore_tests::faulty::{FaultyStore, Op, Verdict};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{engine, open, save, serve, slices};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::world::{check, check_sound, counted, fresh, spec, tensor, whole};

fn model() -> Vec<Tensor> {
    transformer(1, Size::SMALL)
}

async fn timeline(store: &Store, target: &str) -> Timeline {
    store.timeline(&target.parse().unwrap()).await.unwrap().expect("it was recorded")
}

async fn commit(store: &Store, target: &str) -> Commit {
    store.resolve(&target.parse().unwrap()).await.unwrap().commit
}

fn spans(timeline: &Timeline, rank: u32) -> Vec<Span> {
    timeline.spans.iter().filter(|row| row.rank == rank).map(|row| row.span).collect()
}

fn phases(spans: &[Span]) -> Vec<Phase> {
    spans.iter().map(|span| span.phase).collect()
}

/// Checks what holds of any rank's spans: each lies inside the total.
fn check_inside(spans: &[Span]) {
    let total = spans[0];
    assert_eq!(total.phase, Phase::Total);
    for span in &spans[1..] {
        assert!(span.end_us() <= total.wall_us && span.busy_us > 0 && span.count > 0, "{span:?} of {total:?}");
    }
}

#[tokio::test]
async fn every_rank_tells_its_phases_and_the_committer_its_own() {
    let (store, tensors) = (fresh().await, model());
    save(&store, spec(1, 3), &tensors).await.unwrap();
    let timeline = timeline(&store, "p/run@1").await;
    let meta = &timeline.meta;
    assert_eq!((meta.run.as_str(), meta.step, meta.world_size), ("run", 1, 3));
    assert_eq!(phases(&meta.committer), [Phase::Join, Phase::Commit]);
    assert!(meta.committer.iter().all(|span| span.wall_us >= span.busy_us && span.bytes > 0), "{meta:?}");
    assert_eq!(meta.committer[1].begin_us, meta.committer[0].end_us());
    let mut hashed = 0;
    for rank in 0..3 {
        let spans = spans(&timeline, rank);
        assert_eq!(phases(&spans), [Phase::Total, Phase::Plan, Phase::Hash, Phase::Exists, Phase::Upload]);
        check_inside(&spans);
        assert_eq!(spans[0].retries, None, "what the store's own client sends again is not known");
        hashed += spans[2].bytes;
    }
    assert_eq!(hashed, tensors.iter().map(|tensor| tensor.data.len() as u64).sum::<u64>());
    let mut coded = spec(2, 1);
    (coded.compress, coded.dedup) = (Compression::Always, false);
    save(&store, coded, &tensors).await.unwrap();
    let second = self::timeline(&store, "p/run@2").await;
    assert!(phases(&spans(&second, 0)).contains(&Phase::Code));
    check_sound(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staging_is_a_phase_whether_it_is_from_memory_or_from_a_file() {
    let (store, weights) = (fresh().await, tensor("w", Dtype::F32, &[512, 64]));
    let slice = whole(&weights);
    let staging = Staging { state_bytes: weights.data.len() as u64, states: 1 };
    let saver = AsyncSaver::new(store.clone(), 0, staging);
    let layout = StateLayout::new([(slice.id.clone(), vec![])]);
    saver.save(spec(1, 1), &layout, &[&weights.data], Busy::Wait).await.unwrap();
    saver.wait().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("w"), &weights.data).unwrap();
    let file = SourceFile::open(&folder.path().join("w")).unwrap();
    let data = SliceData::File(file.region(0, file.len()));
    let save = store.begin_save(SaveSpec { dedup: false, ..spec(2, 1) }, Progress::default()).await.unwrap();
    save.rank(0, vec![Slice { data, ..slice }]).await.unwrap();
    save.finish().await.unwrap();
    for target in ["p/run@1", "p/run@2"] {
        let spans = spans(&timeline(&store, target).await, 0);
        check_inside(&spans);
        let staged = spans.iter().find(|span| span.phase == Phase::Stage).unwrap();
        assert_eq!((staged.bytes, staged.count), (weights.data.len() as u64, 1), "{target}");
    }
}

#[tokio::test]
async fn two_committers_of_one_save_write_one_manifest_and_the_record_names_one_timeline() {
    let (below, tensors) = (Arc::new(InMemory::new()), model());
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(open(Arc::<InMemory>::clone(&below), OpenMode::Create).await.unwrap());
    }
    let job = SaveSpec { attempt: Some("job".to_owned()), ..spec(1, 2) };
    let saves = others.iter().map(|store| store.begin_save(job.clone(), Progress::default()));
    let saves = futures::future::try_join_all(saves).await.unwrap();
    for rank in 0..2 {
        saves[rank as usize].rank(rank, slices(&tensors, rank, 2)).await.unwrap();
    }
    let done = futures::future::try_join_all(saves.iter().map(CheckpointSave::finish)).await.unwrap();
    let commit = commit(&others[0], "p/run@1").await;
    assert!(done.iter().all(|done| done.info.commit == commit && !done.existed), "{done:?}");
    let stored: BTreeSet<String> = objects(&below, "manifests").await;
    for index in commit.indexes() {
        assert!(stored.contains(&format!("projects/p/{}", index.object.key(ObjectKind::Manifest))), "{stored:?}");
    }
    // Whoever came too late left at most a timeline that nothing refers to, never another manifest or list of packs.
    assert!((3..=2 + 4).contains(&stored.len()), "{stored:?}");
    assert_eq!(objects(&below, "log").await.len(), 1);
    assert_eq!(timeline(&others[3], "p/run@1").await.spans.len(), 2 * 5);
    check(&others[0], "p/run@1", &tensors).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committer_that_finds_its_own_save_committed_meanwhile_says_so() {
    let (below, tensors) = (Arc::new(InMemory::new()), model());
    let late = Arc::new(FaultyStore::new(Arc::<InMemory>::clone(&below)));
    let (first, second) = (
        open(Arc::<InMemory>::clone(&below), OpenMode::Create).await.unwrap(),
        open(Arc::<FaultyStore>::clone(&late), OpenMode::Create).await.unwrap(),
    );
    let job = SaveSpec { attempt: Some("job".to_owned()), ..spec(1, 1) };
    let saves = [&first, &second].map(|store| store.begin_save(job.clone(), Progress::default()));
    let saves = futures::future::try_join_all(saves).await.unwrap();
    saves[0].rank(0, slices(&tensors, 0, 1)).await.unwrap();
    // The second has seen the log without the commit, and reads the part when the first has committed.
    let ((reads, reading), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let held = Mutex::new(Some((reads, gone)));
    late.set_plan(Box::new(move |operation| {
        let part = operation.op == Op::Get && operation.path.contains("/parts/");
        let first = part.then(|| held.lock().unwrap().take()).flatten();
        if let Some((reads, gone)) = first {
            reads.send(()).unwrap();
            gone.recv().unwrap();
        }
        Verdict::Pass
    }));
    let [earlier, later] = <[_; 2]>::try_from(saves).ok().unwrap();
    let later = tokio::spawn(async move { later.finish().await });
    tokio::task::spawn_blocking(move || reading.recv().unwrap()).await.unwrap();
    let committed = earlier.finish().await.unwrap();
    go.send(()).unwrap();
    let same = later.await.unwrap().unwrap();
    assert_eq!((&same.info, same.existed), (&committed.info, false));
    assert!(!committed.existed);
}

async fn objects(below: &InMemory, kind: &str) -> BTreeSet<String> {
    use futures::TryStreamExt;
    let all = below.list(Some(&Path::from(format!("projects/p/{kind}"))));
    all.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_rank_run_again_tells_other_times_of_the_same_content() {
    let (store, tensors) = (fresh().await, model());
    let save = store.begin_save(spec(1, 1), Progress::default()).await.unwrap();
    save.rank(0, slices(&tensors, 0, 1)).await.unwrap();
    save.rank(0, slices(&tensors, 0, 1)).await.unwrap();
    save.finish().await.unwrap();
    check_inside(&spans(&timeline(&store, "p/run@1").await, 0));
    check(&store, "p/run@1", &tensors).await;
}

#[tokio::test]
async fn ranks_of_older_clients_have_no_times_and_the_content_digest_has_none_either() {
    let (below, tensors) = (Arc::new(InMemory::new()), model());
    let store = open(Arc::<InMemory>::clone(&below), OpenMode::Create).await.unwrap();
    save(&store, SaveSpec { attempt: Some("new".to_owned()), ..spec(1, 1) }, &tensors).await.unwrap();
    // The part of the same rank as an older client wrote it, for a save of its own.
    let key = objects(&below, "saves").await.into_iter().find(|key| key.contains("/parts/")).unwrap();
    let part = read_part(&below.get(&Path::from(key)).await.unwrap().bytes().await.unwrap()).unwrap();
    assert!(part.meta.timeline.is_some());
    let older = write_part(&PartMeta { timeline: None, ..part.meta }, &part.rows).unwrap();
    let request = SaveRequest {
        project: "p".parse().unwrap(),
        run: "older".parse().unwrap(),
        step: 1,
        attempt: "old".to_owned(),
        world_size: 1,
    };
    let engine = engine(Arc::<InMemory>::clone(&below) as Arc<dyn ObjectStore>, OpenMode::Existing).await.unwrap();
    let session = engine.begin_save(&request).await.unwrap();
    engine.put_part(&request.project, session.save, 0, older.into()).await.unwrap();
    // What an older client asks: without how long it has waited.
    let finish = serde_json::json!({ "save": request, "tag": null, "deadline_ms": 1000 });
    engine.finish_save(&serde_json::from_value(finish).unwrap()).await.unwrap();
    let silent = timeline(&store, "p/older@1").await;
    assert_eq!((silent.spans.len(), phases(&silent.meta.committer)), (0, vec![Phase::Join, Phase::Commit]));
    assert_eq!(commit(&store, "p/run@1").await.content, commit(&store, "p/older@1").await.content);
    check_sound(&store).await;
}

#[tokio::test]
async fn a_damaged_timeline_is_found_and_keeps_no_checkpoint_from_being_read() {
    let ((store, below), tensors) = (counted().await, model());
    save(&store, spec(1, 1), &tensors).await.unwrap();
    let index = commit(&store, "p/run@1").await.timeline.unwrap();
    let key = Path::from(format!("projects/p/{}", index.object.key(ObjectKind::Manifest)));
    let mut bytes = below.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[40] ^= 1;
    below.put(&key, bytes.into()).await.unwrap();
    let error = store.timeline(&"p/run@1".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("integrity failure"), "{error}");
    let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Quick };
    for lost in [false, true] {
        let findings = store.verify(&request, &|_| {}).await.unwrap().findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(key.as_ref().ends_with(&findings[0].object) || findings[0].object == key.as_ref(), "{findings:?}");
        assert_eq!(findings[0].affects, ["the timeline of run@1"]);
        let read = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
        assert_eq!(read.tensors().len(), tensors.len());
        if !lost {
            below.delete(&key).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_service_it_is_the_same_and_retries_are_known() {
    let (below, tensors) = (Arc::new(InMemory::new()), model());
    let engine = engine(Arc::<InMemory>::clone(&below) as Arc<dyn ObjectStore>, OpenMode::Create).await.unwrap();
    let url = serve(engine, None, Limits::default()).await.unwrap();
    let store = Store::connect(&url, None).unwrap();
    save(&store, spec(1, 2), &tensors).await.unwrap();
    let there = timeline(&store, "p/run@1").await;
    let here = timeline(&open(below, OpenMode::Existing).await.unwrap(), "p/run@1").await;
    assert_eq!(there, here);
    assert_eq!(spans(&there, 1)[0].retries, Some(0));
}
