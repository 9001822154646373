//! Commits on stores that fail or hold more than expected: what is committed is said to be, once; what is damaged is
//! named with everything that needs it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_engine::{Engine, PackBody};
use gigastore_formats::manifest::part::{PartMeta, write_part};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::record::TxnId;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{Place, SliceId, SliceRow};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Depth, Fault, FaultCode, Finding, FinishRequest, SaveRequest, VerifyRequest};
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{engine, open, save, slices};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::epochs::fence;

type Below = Arc<dyn ObjectStore>;

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn spec(step: u64, ranks: u32, attempt: &str) -> SaveSpec {
    let attempt = Some(attempt.to_owned());
    SaveSpec { attempt, ..SaveSpec::new(project(), "run".parse().unwrap(), step, ranks) }
}

fn tensor(name: &str, seed: u8) -> Tensor {
    let data: Vec<u8> = (0..4096u32).map(|i| (i >> 4) as u8 ^ seed).collect();
    Tensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![4096], data: data.into() }
}

/// Runs to its end what is to happen in the middle of an operation of a store. Needs a runtime of several threads.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

async fn seq(store: &Store) -> u64 {
    store.project(&project()).await.unwrap().seq
}

#[tokio::test]
async fn a_save_is_committed_though_its_end_can_not_be_written() {
    let below = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let store = open(Arc::clone(&below) as Below, OpenMode::Create).await.unwrap();
    below.set_plan(plan::on(Op::Create, "/ended.json", 1, Verdict::FailBefore(Failure::STORAGE_FULL)));
    save(&store, spec(1, 1, "job"), &[tensor("w", 1)]).await.unwrap();
    assert_eq!(seq(&store).await, 1);
}

#[tokio::test]
async fn all_ranks_of_an_existing_step_set_its_tag_once() {
    let store = open(Arc::new(InMemory::new()), OpenMode::Create).await.unwrap();
    let tensors = [tensor("w", 1)];
    save(&store, spec(1, 2, "first"), &tensors).await.unwrap();
    let again = SaveSpec { tag: Some("best".parse().unwrap()), ..spec(1, 2, "second") };
    let again = store.begin_save(again, Progress::default()).await.unwrap();
    for rank in 0..2 {
        again.rank(rank, slices(&tensors, rank, 2)).await.unwrap();
    }
    for _ in 0..3 {
        assert!(again.finish().await.unwrap().existed);
    }
    assert_eq!(seq(&store).await, 2, "one record for the checkpoint, one for the tag");
}

#[tokio::test]
async fn what_means_something_else_is_no_tag() {
    let below: Below = Arc::new(InMemory::new());
    let (store, engine) = (open(below.clone(), OpenMode::Create).await.unwrap(), engine(below, OpenMode::Create).await);
    save(&store, spec(1, 1, "job"), &[tensor("w", 1)]).await.unwrap();
    for tag in ["latest", "7"] {
        let (run, tag): (Name, Name) = ("run".parse().unwrap(), tag.parse().unwrap());
        let refused =
            engine.as_ref().unwrap().set_tag(&project(), TxnId::derive(&[b"t"]), &run, &tag, 1).await.unwrap_err();
        assert_eq!(Fault::from(&refused).code, FaultCode::Invalid, "{refused}");
        let tagged = SaveSpec { tag: Some(tag), ..spec(2, 1, "job") };
        let refused = save(&store, tagged, &[tensor("w", 2)]).await.unwrap_err();
        assert_eq!(refused.code(), FaultCode::Invalid, "{refused}");
    }
    assert_eq!(seq(&store).await, 1);
}

#[tokio::test]
async fn a_rank_may_find_its_content_in_another_place_when_it_is_run_again() {
    let store = open(Arc::new(InMemory::new()), OpenMode::Create).await.unwrap();
    let (first, second) = (tensor("a", 1), tensor("b", 2));
    save(&store, spec(1, 1, "job"), std::slice::from_ref(&first)).await.unwrap();
    let open_save = store.begin_save(spec(2, 1, "job"), Progress::default()).await.unwrap();
    open_save.rank(0, slices(std::slice::from_ref(&first), 0, 1)).await.unwrap();
    let other = SaveSpec { dedup: false, ..spec(3, 1, "job") };
    save(&store, other, &[first.clone(), second]).await.unwrap();
    open_save.rank(0, slices(std::slice::from_ref(&first), 0, 1)).await.unwrap();
    assert!(!open_save.finish().await.unwrap().existed);
    assert_eq!(store.resolve(&"p/run@2".parse().unwrap()).await.unwrap().commit.items, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_its_base_has_lost_is_kept_by_nobody() {
    let inner: Below = Arc::new(InMemory::new());
    let below = Arc::new(FaultyStore::new(Arc::clone(&inner)));
    let store = open(Arc::clone(&below) as Below, OpenMode::Create).await.unwrap();
    let tensors = [tensor("w", 1)];
    save(&store, spec(1, 1, "job"), &tensors).await.unwrap();
    for _ in 0..2 {
        fence(&*inner).await;
    }
    // The pack is lost in the epoch that the base names, and there in one that the next fence condemns.
    let objects: Vec<_> = inner.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    let old = objects.into_iter().find(|key| key.as_ref().contains("/packs/")).unwrap();
    inner.rename(&old, &Path::from(old.as_ref().replace(".0.safetensors", ".1.safetensors"))).await.unwrap();
    let fenced = AtomicBool::new(false);
    let log = Arc::clone(&inner);
    below.set_plan(Box::new(move |operation| {
        // A collector comes by when the packs were found and nothing is committed yet.
        let meant = operation.op == Op::Create && operation.path.contains("/manifests/");
        if meant && !fenced.swap(true, Ordering::SeqCst) {
            at_once(fence(&*log));
        }
        Verdict::Pass
    }));
    // A part that names the base; our own client looks whether the base still has its packs, another may not.
    let target = "p/run@1".parse().unwrap();
    let row = store.checkpoint(&target).await.unwrap().rows()[0].clone();
    let Place { pack, header_len, offset, stored_len, codec } = row.place;
    let place = Some(Place { pack: pack.digest, header_len, offset, stored_len, codec });
    let meta = PartMeta { bases: vec![1], ..PartMeta::of_rank(0, 1) };
    let part = write_part(&meta, &[SliceRow { slice: row.slice, blake3: row.blake3, place }]).unwrap();
    let engine = engine(Arc::clone(&below) as Below, OpenMode::Existing).await.unwrap();
    let (run, attempt) = ("run".parse().unwrap(), "job".to_owned());
    let request = SaveRequest { project: project(), run, step: 2, attempt, world_size: 1 };
    let session = engine.begin_save(&request).await.unwrap();
    engine.put_part(&project(), session.save, 0, part.into()).await.unwrap();
    let finish = FinishRequest { save: request, tag: None, deadline_ms: 0, waited_ms: 0 };
    let refused = Fault::from(&*engine.finish_save(&finish).await.unwrap_err());
    assert_eq!(refused.code, FaultCode::Conflict, "{refused}");
    assert!(refused.message.contains("epoch 1"), "{refused}");
}

#[tokio::test]
async fn a_cache_that_can_not_be_read_is_passed_over() {
    let inner: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&inner), OpenMode::Create).await.unwrap();
    save(&store, spec(1, 1, "job"), &[tensor("w", 1)]).await.unwrap();
    for i in 0..70 {
        store.set_tag(&"p/run@1".parse().unwrap(), &format!("t{i}").parse().unwrap()).await.unwrap();
    }
    let below = FaultyStore::with_plan(
        inner,
        plan::on(Op::Get, "/folded/", u64::MAX, Verdict::FailBefore(Failure::PermissionDenied)),
    );
    let reader = open(Arc::new(below), OpenMode::Existing).await.unwrap();
    assert_eq!(seq(&reader).await, 71);
}

/// A pack of one tensor of 20 MiB: its name, its header and the bytes after it.
fn large_pack() -> (Stored, Bytes, Bytes) {
    const LEN: u64 = 20 << 20;
    let data: Vec<u8> = (0..LEN).map(|i| (i >> 10) as u8).collect();
    let slice = SliceId::tensor("w", Dtype::U8, &[LEN], TensorBox::whole(&[LEN]).unwrap()).unwrap();
    let tree = GroupTree::of(&data);
    let (header, bytes) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
    let start = (header.entries()[0].stored.start() - header.header_len()) as usize;
    let mut body = vec![0; (header.object_len() - header.header_len()) as usize];
    body[start..].copy_from_slice(&data);
    (Stored { digest: header.name(), epoch: 0 }, bytes, body.into())
}

async fn put(engine: &Engine, pack: &(Stored, Bytes, Bytes)) {
    let (name, header, body) = pack.clone();
    engine.put_pack(&project(), name, header, PackBody::Whole(vec![body])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_pack_goes_up_in_parts_and_never_over_another() {
    let inner: Below = Arc::new(InMemory::new());
    let below = Arc::new(FaultyStore::new(Arc::clone(&inner)));
    let engine = engine(Arc::clone(&below) as Below, OpenMode::Create).await.unwrap();
    let creates = below.count(Op::Create);
    let pack = large_pack();
    put(&engine, &pack).await;
    assert_eq!((below.count(Op::Part), below.count(Op::Complete), below.count(Op::Create)), (3, 1, creates));
    put(&engine, &pack).await;
    assert_eq!(below.count(Op::Part), 3, "nothing is sent twice");
    let key = Path::from(format!("projects/p/{}", pack.0.key(gigastore_formats::object::ObjectKind::Pack)));
    let whole = [&pack.1[..], &pack.2[..]].concat();
    assert_eq!(inner.get(&key).await.unwrap().bytes().await.unwrap(), whole);

    // Another writer is done while the parts are on their way: from an engine that does not know the store yet.
    inner.delete(&key).await.unwrap();
    let another = |during: Op| {
        let (other, at, whole) = (Arc::clone(&inner), key.clone(), whole.clone());
        below.set_plan(Box::new(move |operation| {
            if operation.op == during {
                at_once(other.put(&at, whole.clone().into())).unwrap();
            }
            Verdict::Pass
        }));
    };
    let new = self::engine(Arc::clone(&below) as Below, OpenMode::Existing).await.unwrap();
    another(Op::Part);
    put(&new, &pack).await;
    assert_eq!((below.count(Op::Complete), below.count(Op::Abort)), (1, 1), "what is there stays");

    // One that knows the store as fast sends it whole, and only where there is none.
    inner.delete(&key).await.unwrap();
    let (parts, creates) = (below.count(Op::Part), below.count(Op::Create));
    another(Op::Create);
    put(&engine, &pack).await;
    put(&engine, &pack).await;
    assert_eq!((below.count(Op::Part), below.count(Op::Create)), (parts, creates + 1), "sent once, in one request");
    assert_eq!(inner.get(&key).await.unwrap().bytes().await.unwrap(), whole);
}

async fn flip(below: &dyn ObjectStore, part: &str, at: impl Fn(usize) -> usize) {
    let objects: Vec<_> = below.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    let key = objects.into_iter().find(|key| key.as_ref().contains(part)).unwrap();
    let mut bytes = below.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    below.put(&key, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_object_names_every_row_that_needs_it() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    for step in [1, 2] {
        save(&store, spec(step, 1, "job"), &[tensor("a", 1), tensor("b", 2)]).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = ["x.parquet", "y.parquet"].map(|name| folder.path().join(name)).into();
    for file in &files {
        std::fs::write(file, include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    }
    let name = "data".parse().unwrap();
    let push = PushSpec::new(project(), name);
    store.push(&push, &files, &Progress::default()).await.unwrap();
    // The pack ends with tensor b, which both steps share.
    flip(&*below, "/packs/", |len| len - 1).await;
    flip(&*below, "/blobs/", |len| len / 2).await;
    let request = VerifyRequest { project: project(), name: None, number: None, depth: Depth::Full };
    let findings = store.verify(&request, &|_| {}).await.unwrap().findings;
    let of = |part: &str| -> Vec<&Finding> { findings.iter().filter(|found| found.object.contains(part)).collect() };
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert_eq!(of("/packs/")[0].affects, ["run@1 b[0:4096]", "run@2 b[0:4096]"]);
    assert_eq!(of("/blobs/")[0].affects, ["data@1 x.parquet", "data@1 y.parquet"]);
}
