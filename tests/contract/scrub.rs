//! Scrubs: every kind of damage is found and marked, what can be had elsewhere is put right byte for byte, and nothing
//! that does not verify is ever written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gigastore_client::checkpoint::{Compression, SaveSpec};
use gigastore_client::store::Store;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::collect::CollectRequest;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::sealed::seal;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Depth, ScrubReport, ScrubRequest, VerifyReport, VerifyRequest};
use gigastore_tests::model::{Size, Tensor, XorShift, transformer};
use gigastore_tests::opened::{engine, open, save};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::epochs;

pub(crate) fn project() -> ProjectName {
    "p".parse().unwrap()
}

/// A store in memory, and an engine and a client on it.
pub(crate) struct Desk {
    below: Arc<InMemory>,
    pub(crate) engine: Engine,
    pub(crate) store: Store,
}

impl Desk {
    async fn over(below: Arc<InMemory>) -> Self {
        let shared = || Arc::<InMemory>::clone(&below) as Arc<dyn ObjectStore>;
        let engine = engine(shared(), OpenMode::Create).await.unwrap();
        let store = open(shared(), OpenMode::Create).await.unwrap();
        Self { below, engine, store }
    }

    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(InMemory::new())).await
    }

    /// Copies every object into another store.
    pub(crate) async fn twin(&self) -> Self {
        let twin = Arc::new(InMemory::new());
        for (key, bytes) in self.objects().await {
            twin.put(&Path::from(key), bytes.into()).await.unwrap();
        }
        Self::over(twin).await
    }

    pub(crate) async fn save(&self, run: &str, step: u64, compress: Compression, tensors: &[Tensor]) {
        let mut spec = SaveSpec::new(project(), run.parse().unwrap(), step, 1);
        spec.compress = compress;
        save(&self.store, spec, tensors).await.unwrap();
    }

    /// All objects, but for what scrubs write themselves.
    pub(crate) async fn objects(&self) -> BTreeMap<String, Bytes> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.below.list(None).try_collect().await.unwrap();
        let mut found = BTreeMap::new();
        for meta in listed.into_iter().filter(|meta| !meta.location.as_ref().contains("/scrub/")) {
            let bytes = self.below.get(&meta.location).await.unwrap().bytes().await.unwrap();
            found.insert(meta.location.to_string(), bytes);
        }
        found
    }

    pub(crate) async fn keys(&self, part: &str) -> Vec<String> {
        self.objects().await.into_keys().filter(|key| key.contains(part)).collect()
    }

    async fn bytes(&self, key: &str) -> Vec<u8> {
        self.below.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.below.put(&Path::from(key), bytes.into()).await.unwrap();
    }

    pub(crate) async fn flip(&self, key: &str, at: usize) {
        let mut bytes = self.bytes(key).await;
        bytes[at] ^= 0x10;
        self.put(key, bytes).await;
    }

    pub(crate) async fn scrub(&self, replica: Option<&Desk>) -> ScrubReport {
        let request = ScrubRequest { project: project(), rate: None, dry_run: false };
        self.engine.scrub(&request, replica.map(|desk| &desk.engine), &|_| {}).await.unwrap()
    }

    /// Damages the header of a pack here and there; each time it is made anew, so that all is as `before`.
    pub(crate) async fn check_header_is_made_anew(&self, key: &str, before: &BTreeMap<String, Bytes>) {
        let len = header_len(&before[key]);
        for at in [0, 9, len / 2, len - 1] {
            self.flip(key, at).await;
            let report = self.scrub(None).await;
            assert!(report.findings.is_empty(), "{:?}", report.findings);
            assert_eq!(report.repaired[0].from, ["manifest rows and data"]);
            assert!(self.objects().await == *before, "{key} at {at}");
        }
    }

    pub(crate) async fn verify(&self, depth: Depth) -> VerifyReport {
        let request = VerifyRequest { project: project(), name: None, number: None, depth };
        self.engine.verify(&request, &|_| {}).await.unwrap()
    }
}

/// Length of a pack's header.
pub(crate) fn header_len(pack: &[u8]) -> usize {
    8 + u64::from_le_bytes(*pack.first_chunk().unwrap()) as usize
}

/// Two runs that have the same tensors in packs of their own: the second one has another tensor beside them.
async fn two_runs(compress: Compression) -> (Desk, Vec<Tensor>) {
    let desk = Desk::new().await;
    let mut tensors = transformer(3, Size::TINY);
    desk.save("a", 1, compress, &tensors).await;
    let more = Tensor { name: "a.more".into(), dtype: Dtype::U8, shape: vec![64], data: XorShift::new(9).bytes(64) };
    tensors.push(more.clone());
    tensors.push(Tensor { name: "z.more".to_owned(), ..more });
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    desk.save("b", 1, compress, &tensors).await;
    assert_eq!(desk.keys("/packs/").await.len(), 2);
    (desk, tensors)
}

#[tokio::test]
async fn a_sound_project_stays_as_it_is() {
    let (desk, _) = two_runs(Compression::Off).await;
    let before = desk.objects().await;
    let report = desk.scrub(None).await;
    assert!(report.findings.is_empty() && report.repaired.is_empty(), "{report:?}");
    assert_eq!((report.objects, report.before, report.commits), (2, 0, 2));
    assert!(report.bytes_read > 0 && report.coverage.completed.is_some());
    assert_eq!((report.coverage.objects, report.coverage.verified, report.coverage.damaged), (2, 2, 0));
    assert_eq!(desk.objects().await, before);
}

#[tokio::test]
async fn a_damaged_slice_comes_from_another_pack_whatever_its_codec() {
    for compress in [Compression::Off, Compression::Always] {
        let (desk, _) = two_runs(compress).await;
        let before = desk.objects().await;
        for key in desk.keys("/packs/").await {
            let bytes = before[&key].clone();
            // The slices of the tensors that only one run has are in one pack only: look for one that both have.
            let mut repaired = 0;
            for at in (header_len(&bytes)..bytes.len()).step_by(bytes.len() / 7) {
                desk.flip(&key, at).await;
                let report = desk.scrub(None).await;
                if report.findings.is_empty() {
                    repaired += 1;
                } else {
                    desk.put(&key, bytes.to_vec()).await;
                    assert!(desk.scrub(None).await.findings.is_empty());
                }
                assert_eq!(desk.objects().await, before, "{key} at {at}, {compress:?}");
            }
            assert!(repaired >= 4, "{repaired} of 7 places of {key}, {compress:?}");
        }
    }
}

#[tokio::test]
async fn a_header_is_made_anew_from_rows_and_data() {
    for compress in [Compression::Off, Compression::Always] {
        let (desk, _) = two_runs(compress).await;
        let before = desk.objects().await;
        for key in desk.keys("/packs/").await {
            desk.check_header_is_made_anew(&key, &before).await;
        }
    }
}

#[tokio::test]
async fn what_a_second_store_has_is_had_from_there() {
    let (desk, _) = two_runs(Compression::Off).await;
    let twin = desk.twin().await;
    let before = desk.objects().await;
    let kinds = ["/packs/", "/manifests/"];
    let mut damaged = 0;
    for kind in kinds {
        for key in desk.keys(kind).await {
            let bytes = before[&key].to_vec();
            match damaged % 4 {
                0 => desk.flip(&key, bytes.len() / 2).await,
                1 => desk.put(&key, bytes[..bytes.len() / 3].to_vec()).await,
                2 => desk.put(&key, vec![0; bytes.len()]).await,
                _ => desk.below.delete(&Path::from(key.as_str())).await.unwrap(),
            }
            damaged += 1;
        }
    }
    let request = ScrubRequest { project: project(), rate: None, dry_run: true };
    let hurt = desk.objects().await;
    desk.engine.scrub(&request, Some(&twin.engine), &|_| {}).await.unwrap();
    assert_eq!(desk.objects().await, hurt, "a dry run writes nothing");
    let report = desk.scrub(Some(&twin)).await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert_eq!((report.repaired.len(), report.coverage.damaged), (damaged, 0));
    assert!(desk.objects().await == before, "every object is what it was");
    assert!(desk.verify(Depth::Full).await.findings.is_empty());
}

#[tokio::test]
async fn copies_that_do_not_verify_are_never_written() {
    let desk = Desk::new().await;
    let tensors = transformer(3, Size::TINY);
    desk.save("a", 1, Compression::Off, &tensors).await;
    let twin = desk.twin().await;
    for key in desk.keys("/packs/").await {
        let len = header_len(&desk.bytes(&key).await);
        for at in [len + 64, 8] {
            desk.flip(&key, at).await;
            twin.flip(&key, at).await;
        }
    }
    let hurt = desk.objects().await;
    let report = desk.scrub(Some(&twin)).await;
    assert_eq!(report.repaired, []);
    assert!(report.findings.iter().all(|finding| finding.problem.contains("not repaired: ")), "{report:#?}");
    let left: BTreeMap<_, _> = desk.objects().await.into_iter().filter(|(key, _)| !key.contains("/damaged/")).collect();
    assert_eq!(left, hurt);
    assert_eq!((desk.keys("/damaged/packs/").await.len(), report.coverage.damaged), (1, 1));
}

#[tokio::test]
async fn nothing_new_refers_to_a_marked_object_and_its_content_sent_again_puts_it_right() {
    let desk = Desk::new().await;
    let tensors = transformer(3, Size::TINY);
    desk.save("a", 1, Compression::Off, &tensors).await;
    let before = desk.objects().await;
    let key = desk.keys("/packs/").await.remove(0);
    let at = header_len(&before[&key]) + 100;
    desk.flip(&key, at).await;
    assert!(desk.verify(Depth::Quick).await.findings.is_empty(), "its length is right");
    assert!(!desk.scrub(None).await.findings.is_empty());
    let marks = desk.engine.damaged(&project()).await.unwrap();
    assert_eq!(marks.len(), 1);
    let findings = desk.verify(Depth::Quick).await.findings;
    assert!(findings.len() == 1 && findings[0].problem.contains("marked as damaged since 20"), "{findings:?}");
    let object = marks[0].object;
    assert_eq!(desk.engine.lengths(&project(), ObjectKind::Pack, &[object]).await.unwrap(), [None]);
    let len = desk.engine.len_of(&project(), ObjectKind::Pack, &object).await.unwrap();
    assert_eq!(len, Some(before[&key].len() as u64), "it serves what is sound in it");
    // Another process, which has seen no mark yet; the same slices in the same packs.
    let other = Desk::over(Arc::clone(&desk.below)).await;
    other.save("b", 1, Compression::Off, &tensors).await;
    assert_eq!(other.bytes(&key).await, before[&key]);
    assert_eq!(other.keys("/damaged/").await, Vec::<String>::new());
    assert!(other.verify(Depth::Full).await.findings.is_empty());
}

#[tokio::test]
async fn a_step_that_would_refer_to_a_marked_pack_sends_it_again() {
    let desk = Desk::new().await;
    let tensors = transformer(3, Size::TINY);
    desk.save("a", 1, Compression::Off, &tensors).await;
    let key = desk.keys("/packs/").await.remove(0);
    let sound = desk.bytes(&key).await;
    desk.flip(&key, header_len(&sound) + 100).await;
    assert!(!desk.scrub(None).await.findings.is_empty());
    epochs::fence(&*desk.below).await;
    epochs::fence(&*desk.below).await;
    let other = Desk::over(Arc::clone(&desk.below)).await;
    other.save("a", 2, Compression::Off, &tensors).await;
    // The pack went up under the new epoch, and the old one is repaired from it.
    let report = other.scrub(None).await;
    assert_eq!((report.findings.len(), report.repaired.len()), (0, 1), "{report:#?}");
    assert_eq!(other.bytes(&key).await, sound);
}

#[tokio::test]
async fn a_pass_goes_on_where_it_was_and_marks_come_first() {
    let (desk, _) = two_runs(Compression::Off).await;
    let keys = desk.keys("/packs/").await;
    let name = |key: &str| key.rsplit('/').next().unwrap().strip_suffix(".safetensors").unwrap().to_owned();
    let now = 32_000_000_000_000_u64;
    let packs: BTreeMap<String, u64> = keys[..1].iter().map(|key| (name(key), now)).collect();
    let times = serde_json::json!({
        "began": now - 1, "objects": 2, "packs": packs, "blobs": {},
    });
    desk.put("projects/p/scrub/times.json", seal(&times).0).await;
    let report = desk.scrub(None).await;
    assert_eq!((report.objects, report.before), (1, 1), "an interrupted pass goes on");
    let report = desk.scrub(None).await;
    assert_eq!(report.objects + report.before, 2);
    // What can't be read is as good as missing.
    desk.put("projects/p/scrub/times.json", b"{}".to_vec()).await;
    assert_eq!(desk.scrub(None).await.objects, 2);
}

#[tokio::test]
async fn a_scrub_keeps_to_its_rate() {
    let desk = Desk::new().await;
    desk.save("a", 1, Compression::Off, &transformer(3, Size::TINY)).await;
    let stored: usize = desk.keys("/packs/").await.len();
    assert!(stored > 0);
    let bytes: u64 = desk.scrub(None).await.bytes_read;
    let request = ScrubRequest { project: project(), rate: Some(2 * bytes), dry_run: false };
    let started = Instant::now();
    let report = desk.engine.scrub(&request, None, &|_| {}).await.unwrap();
    let took = started.elapsed();
    assert_eq!(report.bytes_read, bytes);
    assert!(took >= Duration::from_millis(450), "{bytes} bytes at twice that a second took {took:?}");
}

#[tokio::test]
async fn an_object_of_many_parts_is_put_right_at_once() {
    let desk = Desk::new().await;
    let bytes = 17 << 20;
    let data = XorShift::new(4).bytes(bytes);
    let long = Tensor { name: "long".into(), dtype: Dtype::U8, shape: vec![bytes as u64], data };
    desk.save("a", 1, Compression::Off, &[long]).await;
    let twin = desk.twin().await;
    let key = desk.keys("/packs/").await.remove(0);
    let before = desk.bytes(&key).await;
    for at in [header_len(&before), before.len() / 2, before.len() - 1] {
        desk.flip(&key, at).await;
    }
    let report = desk.scrub(Some(&twin)).await;
    assert_eq!((report.findings.len(), report.repaired.len()), (0, 1), "{report:#?}");
    assert_eq!(report.repaired[0].bytes, 3 * GROUP_BYTES, "three groups were damaged");
    assert!(desk.bytes(&key).await == before);
    // Damage in the replica, where it is the only copy: nothing of the object is touched.
    twin.flip(&key, before.len() / 2).await;
    desk.flip(&key, before.len() / 2).await;
    let hurt = desk.bytes(&key).await;
    assert_eq!(desk.scrub(Some(&twin)).await.findings.len(), 1);
    assert!(desk.bytes(&key).await == hurt);
}

#[tokio::test]
async fn what_is_dropped_and_collected_meanwhile_is_no_damage_and_does_not_come_back() {
    let desk = Desk::new().await;
    for step in 1..=8 {
        // Nothing that two steps share.
        let data = XorShift::new(step).bytes(9000);
        let tensor = Tensor { name: "w".into(), dtype: Dtype::U8, shape: vec![9000], data };
        desk.save("a", step, Compression::Off, &[tensor]).await;
    }
    let twin = desk.twin().await;
    let bytes: u64 = desk.scrub(None).await.bytes_read;
    let request = ScrubRequest { project: project(), rate: Some(bytes), dry_run: false };
    let scrub = desk.engine.scrub(&request, Some(&twin.engine), &|_| {});
    let collect = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for step in 1..=7 {
            desk.store.drop_commit(&format!("p/a@{step}").parse().unwrap()).await.unwrap();
        }
        for _ in 0..2 {
            let request = CollectRequest::new(project(), desk.store.new_txn("fence"));
            desk.store.collect(&CollectRequest { grace_ms: 0, ..request }).await.unwrap();
        }
        assert_eq!(desk.keys("/packs/").await.len(), 1);
    };
    let (report, ()) = tokio::join!(scrub, collect);
    let report = report.unwrap();
    assert_eq!((report.findings.len(), report.repaired.len()), (0, 0), "{report:#?}");
    assert_eq!(desk.keys("/packs/").await.len(), 1, "nothing comes back");
    assert_eq!(desk.keys("/damaged/").await, Vec::<String>::new());
}
