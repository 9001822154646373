//! Bad weather between a client and a service: whatever happens on the way, a restore is right, or it ends in time with
//! an error that names the object and the range. Never a wrong byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gigastore_client::Coded;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transport::http::{Deadlines, Http};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_server::Limits;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::save;

use crate::proxy::{Misdeed, Proxy};
use crate::served::{Served, Setup, spec};

/// How long a client here waits for a service.
pub(crate) const DEADLINES: Deadlines = Deadlines { stall: Duration::from_secs(1), patience: Duration::from_secs(3) };

/// Longer than any call may take: its patience, the try that is under way then, the longest pause before it, and as
/// much again for a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Restores p/run@1 tensor by tensor and compares; the kind of the error and its words where it can't be read.
///
/// # Panics
/// On a wrong byte.
pub(crate) async fn restored(store: &Store, tensors: &[Tensor]) -> Result<(), String> {
    restored_of(store, "p/run@1", tensors).await
}

/// As [`restored`], of any target.
///
/// # Panics
/// On a wrong byte.
pub(crate) async fn restored_of(store: &Store, target: &str, tensors: &[Tensor]) -> Result<(), String> {
    let checkpoint = store.checkpoint(&target.parse().unwrap()).await.map_err(|error| words(&error))?;
    for tensor in tensors {
        let read = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.map_err(|error| words(&error))?;
        assert!(read == tensor.data, "wrong bytes of {}", tensor.name);
    }
    Ok(())
}

fn words<E: Coded>(error: &E) -> String {
    let (mut text, mut cause) = (format!("{:?}: {error}", error.code()), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn client(address: SocketAddr) -> Store {
    client_of(&[address], None, DEADLINES)
}

/// A client of a service's endpoints.
pub(crate) fn client_of(endpoints: &[SocketAddr], token: Option<&str>, deadlines: Deadlines) -> Store {
    let urls: Vec<String> = endpoints.iter().map(|address| format!("http://{address}")).collect();
    let http = Http::new(&urls.join(","), token.map(str::to_owned), SystemAmbient::shared()).unwrap();
    Store::over(Arc::new(http.with_deadlines(deadlines)), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES)
}

/// A service with a checkpoint, and a proxy before it.
pub(crate) struct Road {
    pub(crate) served: Served,
    pub(crate) proxy: Proxy,
    pub(crate) tensors: Vec<Tensor>,
}

impl Road {
    pub(crate) async fn new(limits: Limits) -> Self {
        let served = Served::with(Setup { limits, ..Setup::default() }).await;
        let tensors = transformer(1, Size::SMALL);
        save(&served.store(None), spec("p", "run", 1, 2), &tensors).await.unwrap();
        let proxy = Proxy::before(served.address).await;
        Self { served, proxy, tensors }
    }

    async fn restore(&self) -> Result<(), String> {
        self.restore_with(&client(self.proxy.address)).await
    }

    async fn restore_with(&self, store: &Store) -> Result<(), String> {
        tokio::time::timeout(SOON, restored(store, &self.tensors)).await.expect("a restore hangs")
    }

    /// Requests for packs that wanted nothing that is kept.
    fn asked_afresh(&self) -> usize {
        let afresh = |value: &str| value.to_lowercase().contains("no-cache");
        let asked = self.proxy.asked();
        let packs = asked.iter().filter(|asked| asked.method == "GET" && asked.target.contains("/packs/"));
        packs.filter(|asked| asked.header("cache-control").is_some_and(afresh)).count()
    }
}

/// Checks that an error says which object and which bytes of it.
fn check_names(error: &str, case: &str) {
    let named = |part: &str| error.contains(part);
    assert!(named("packs/") && named(".safetensors"), "{case}: no object in: {error}");
    assert!(named("bytes "), "{case}: no range in: {error}");
}

const PASSING: [Misdeed; 15] = [
    Misdeed::Reset(0),
    Misdeed::Reset(1),
    Misdeed::Reset(50_000),
    Misdeed::Close(0),
    Misdeed::Close(1),
    Misdeed::Close(65_000),
    Misdeed::Stall(0),
    Misdeed::Stall(60_000),
    Misdeed::Silence,
    Misdeed::Slow(Duration::from_millis(5)),
    Misdeed::Drip(Duration::from_millis(100)),
    Misdeed::Longer(1),
    Misdeed::Longer(100_000),
    Misdeed::Shorter(1),
    Misdeed::Shorter(60_000),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_costs_time_and_nothing_else() {
    let road = Road::new(Limits::default()).await;
    road.restore().await.unwrap();
    for misdeed in PASSING {
        road.proxy.spoil(2, misdeed);
        assert_eq!(road.restore().await, Ok(()), "{misdeed:?}");
    }
    road.served.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_ends_in_time_and_says_where() {
    let road = Road::new(Limits::default()).await;
    let drip = Misdeed::Drip(Duration::from_millis(100));
    for misdeed in [Misdeed::Reset(0), Misdeed::Close(0), Misdeed::Stall(0), Misdeed::Silence, drip] {
        road.proxy.spoil(usize::MAX, misdeed);
        let started = Instant::now();
        let error = road.restore().await.unwrap_err();
        println!("{misdeed:?}, {:.1?}: {error}", started.elapsed());
        check_names(&error, &format!("{misdeed:?}"));
    }
    // What moves a little at each try is not given up before its end, and comes to it.
    for misdeed in [Misdeed::Reset(400_000), Misdeed::Close(300_000)] {
        road.proxy.spoil(usize::MAX, misdeed);
        let patient = Deadlines { stall: Duration::from_secs(5), patience: Duration::from_secs(60) };
        let (store, before) = (client_of(&[road.proxy.address], None, patient), road.proxy.asked().len());
        let ended = tokio::time::timeout(Duration::from_secs(240), restored(&store, &road.tensors)).await;
        assert_eq!(ended.expect("a restore hangs"), Ok(()), "{misdeed:?}");
        // Each try begins where the one before left off.
        let asked = road.proxy.asked().split_off(before);
        let ranges = asked.iter().filter(|one| one.target.contains("/packs/")).filter_map(|one| {
            let (start, end) = one.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
            Some((one.target.clone(), end.parse::<u64>().ok()?, start.parse::<u64>().ok()?))
        });
        let mut starts = std::collections::BTreeMap::<_, Vec<u64>>::new();
        ranges.for_each(|(target, end, start)| starts.entry((target, end)).or_default().push(start));
        let resumed = starts.values().filter(|starts| starts.len() > 2 && starts.first() < starts.last());
        assert!(resumed.count() > 0, "{misdeed:?}: {starts:?}");
        assert!(starts.values().all(|starts| starts.is_sorted()), "{misdeed:?}: {starts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_other_bytes_than_asked_for_is_not_taken() {
    let road = Road::new(Limits::default()).await;
    for misdeed in [Misdeed::OtherRange, Misdeed::NoRange] {
        for times in [1, usize::MAX] {
            road.proxy.spoil(times, misdeed);
            match road.restore().await {
                // Asked for again.
                Ok(()) => assert_eq!(times, 1, "{misdeed:?} was taken"),
                Err(error) => check_names(&error, &format!("{misdeed:?}, {times} times")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_is_read_once_more_and_then_an_error() {
    let road = Road::new(Limits::default()).await;
    for at in [0, 1000, usize::MAX] {
        let before = road.asked_afresh();
        road.proxy.spoil(1, Misdeed::Flip(at));
        let store = client(road.proxy.address);
        let ended = road.restore_with(&store).await;
        assert_eq!((ended, store.refetched()), (Ok(()), 1), "byte {at} flipped once");
        let again = road.asked_afresh() - before;
        assert!((1..=2).contains(&again), "byte {at} flipped once: asked afresh {again} times");
    }
    road.proxy.spoil(usize::MAX, Misdeed::Flip(1000));
    let error = road.restore().await.unwrap_err();
    assert!(error.starts_with("Integrity: integrity failure"), "{error}");
    check_names(&error, "flipped each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_file_that_is_cut_while_it_is_served_gives_no_wrong_byte() {
    for cache in [0, 4 << 20] {
        let road = Road::new(Limits { cache, ..Limits::default() }).await;
        let packs: Vec<_> = road.served.files().into_keys().filter(|path| is_pack(path)).collect();
        let sound: Vec<_> = packs.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let done = Arc::new(AtomicBool::new(false));
        let cutting = {
            let (packs, sound, done) = (packs.clone(), sound.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut cuts = 0;
                while !done.load(Ordering::Relaxed) {
                    for (path, bytes) in packs.iter().zip(&sound) {
                        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                        file.set_len(bytes.len() as u64 * (cuts % 10) / 10).unwrap();
                        std::thread::sleep(Duration::from_millis(2));
                        std::fs::write(path, bytes).unwrap();
                        std::thread::sleep(Duration::from_millis(100 + 150 * (cuts % 5)));
                        cuts += 1;
                    }
                }
                cuts
            })
        };
        let (mut right, mut refused) = (0, 0);
        for _ in 0..15 {
            match road.restore().await {
                Ok(()) => right += 1,
                Err(error) => {
                    refused += 1;
                    assert!(error.contains("packs/") && error.contains(".safetensors"), "{error}");
                }
            }
            road.served.check_alive().await;
        }
        done.store(true, Ordering::Relaxed);
        println!("cache {cache}: right {right}, refused {refused}, cut {} times", cutting.join().unwrap());
        // Whatever was kept meanwhile, it is right again when the files are.
        assert_eq!(road.restore().await, Ok(()), "cache {cache}");
        // A file that stays cut is said to be.
        let file = std::fs::OpenOptions::new().write(true).open(&packs[0]).unwrap();
        file.set_len(sound[0].len() as u64 / 2).unwrap();
        let fresh = Served::another(&road.served.store_folder(), None, Limits::default(), false).await;
        let error = restored(&client(fresh.0), &road.tensors).await.unwrap_err();
        check_names(&error, "a file that stays cut");
        assert!(error.starts_with("Integrity"), "{error}");
    }
}

fn is_pack(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|kind| kind == "safetensors")
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_are_evicted_cut_and_flipped_under_a_service_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Room for three blocks of the four that there are.
    let limits = Limits {
        cache_folder: Some(folder.path().to_owned()),
        cache_disk: 4 * ((2 << 20) + 4096),
        ..Limits::default()
    };
    let road = Road::new(limits).await;
    let done = Arc::new(AtomicBool::new(false));
    let vandal = {
        let (path, done) = (folder.path().to_owned(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut turn = 0u64;
            while !done.load(Ordering::Relaxed) {
                for file in blocks(&path) {
                    turn += 1;
                    // It may be gone by now.
                    let Ok(opened) = std::fs::OpenOptions::new().write(true).open(&file) else { continue };
                    let len = opened.metadata().map_or(0, |meta| meta.len());
                    let _ = match turn % 2 {
                        0 => opened.set_len(len * (turn % 7) / 7),
                        _ => std::os::unix::fs::FileExt::write_all_at(&opened, b"flip", len / 2),
                    };
                }
                std::thread::sleep(Duration::from_millis(4));
            }
        })
    };
    for _ in 0..10 {
        let clients = (0..4).map(|_| road.restore());
        for ended in futures::future::join_all(clients).await {
            assert_eq!(ended, Ok(()));
        }
    }
    done.store(true, Ordering::Relaxed);
    vandal.join().unwrap();
    assert!(road.served.metric("gigastore_cache_evictions_total{tier=\"disk\"}").await > 0);
    assert!(road.served.metric("gigastore_cache_damaged_total{tier=\"disk\"}").await > 0);
}

/// The files of a cache's blocks.
fn blocks(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let shelves = std::fs::read_dir(folder.join("v1")).into_iter().flatten().flatten();
    let shelves = shelves.filter(|shelf| shelf.file_name() != "staging");
    shelves
        .flat_map(|shelf| std::fs::read_dir(shelf.path()).into_iter().flatten().flatten())
        .map(|f| f.path())
        .collect()
}
