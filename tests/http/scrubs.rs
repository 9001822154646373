//! Scrubs through a service, and those that it does by itself: what is damaged is marked, told, and put right from the
//! replica that the service was started with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::mirror::{MirrorSpec, mirror};
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenMode as Engines, StoreUrl};
use gigastore_formats::wire::{FaultCode, ScrubRequest};
use gigastore_server::Limits;

use crate::served::{Served, Setup};

/// Longer than a scrub of a small store takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn request() -> ScrubRequest {
    ScrubRequest { project: "p".parse().unwrap(), rate: None, dry_run: false }
}

/// The packs of the store.
fn packs(store: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(store.join("projects/p/packs")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A copy of project `p` of a service, in a folder of its own.
async fn copy(served: &Served) -> (Engine, Store) {
    let folder = served.folder.path().join("copy");
    fs::create_dir(&folder).unwrap();
    let url = StoreUrl::of_folder(&folder).unwrap();
    let engine = Engine::open(&url, Engines::Create, [], SystemAmbient::shared()).await.unwrap();
    let store = Store::open(&url.to_string(), OpenMode::Existing).await.unwrap();
    let project = "p".parse().unwrap();
    let spec = MirrorSpec { to: "p".parse().unwrap(), project, name: None, selector: None };
    let report = mirror(&served.store(None), &store, &spec, &Progress::default()).await.unwrap();
    assert!(report.damaged.is_empty() && report.mirrored.len() == 2, "{report:?}");
    (engine, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_scrubs_through_a_service_and_sees_what_is_marked() {
    let served = Served::new().await;
    served.fill(None).await;
    let store = served.store(None);
    assert!(store.scrub(&request(), None, &|_| {}).await.unwrap().findings.is_empty());
    let damaged = packs(&served.store_folder());
    damaged.iter().for_each(|path| flip(path));
    let report = store.scrub(&request(), None, &|_| {}).await.unwrap();
    assert_eq!(report.coverage.damaged, damaged.len() as u64, "{report:?}");
    let marks = store.damaged(&"p".parse().unwrap()).await.unwrap();
    assert_eq!(marks.len(), damaged.len());
    // A marked object is read on: what is sound in it is served.
    let pack = format!("/v1/projects/p/packs/{}", marks[0].object);
    assert_eq!(served.ask("GET", &pack, &[("Range", "bytes=0-7")], b"").await.status, 206);
    assert_eq!(served.metric("gigastore_damaged_objects{project=\"p\"}").await, damaged.len() as u64);
    let fault = store.scrub(&request(), Some("file:///etc"), &|_| {}).await.unwrap_err();
    assert!(fault.code == FaultCode::Invalid && fault.message.contains("--scrub-replica"), "{fault:?}");
    let other = ScrubRequest { project: "q".parse().unwrap(), ..request() };
    assert_eq!(store.scrub(&other, None, &|_| {}).await.unwrap_err().code, FaultCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_puts_right_what_its_replica_has_and_tells_how_far_it_is() {
    let first = Served::new().await;
    first.fill(None).await;
    let (replica, _) = copy(&first).await;
    let folder = first.store_folder();
    let before: Vec<(PathBuf, Vec<u8>)> =
        packs(&folder).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    before.iter().for_each(|(path, _)| flip(path));
    let limits = Limits { scrub_rate: Some(1 << 40), replica: Some(replica), ..Limits::default() };
    let (address, engine) = Served::another(&folder, None, limits, false).await;
    let served = Served { address, engine, folder: tempfile::tempdir().unwrap() };
    let started = Instant::now();
    while served.metric("gigastore_repaired_objects_total").await < before.len() as u64 {
        assert!(started.elapsed() < PATIENCE, "not repaired in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (path, bytes) in &before {
        assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
    }
    assert!(served.metric("gigastore_scrubbed_bytes_total").await > 0);
    let of = |name: &str| format!("gigastore_{name}{{project=\"p\"}}");
    while served.metric(&of("scrub_verified_objects")).await == 0 {
        assert!(started.elapsed() < PATIENCE, "no coverage in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(served.metric(&of("scrub_verified_objects")).await, served.metric(&of("scrub_objects")).await);
    assert_eq!(served.metric(&of("damaged_objects")).await, 0);
    assert!(served.metric(&of("scrub_completed_timestamp_seconds")).await > 1_700_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_goes_through_services_on_both_sides() {
    let (first, second) = (Served::new().await, Served::with(Setup::default()).await);
    first.fill(None).await;
    let (from, to) = (first.store(None), second.store(None));
    let project = "p".parse().unwrap();
    let spec = MirrorSpec { to: "q".parse().unwrap(), project, name: None, selector: None };
    let report = mirror(&from, &to, &spec, &Progress::default()).await.unwrap();
    assert_eq!((report.mirrored.len(), report.damaged.len()), (2, 0), "{report:?}");
    for (mine, theirs) in [("p/run@best", "q/run@best"), ("p/data@1", "q/data@1")] {
        let (mine, theirs) =
            (from.resolve(&mine.parse().unwrap()).await.unwrap(), to.resolve(&theirs.parse().unwrap()).await.unwrap());
        assert_eq!(mine.commit.content, theirs.commit.content);
    }
    let again = mirror(&from, &to, &spec, &Progress::default()).await.unwrap();
    assert!(again.mirrored.iter().all(|one| one.existed && one.objects == 0), "{again:?}");
}
