//! Stores that are full, read-only, closed or away, from any operation on: the error says which, nothing is half
//! visible, and the same call succeeds once the weather is better.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, Fault, FaultCode, VerifyRequest};
use gigastore_tests::faulty::plan::{pass, starting_at};
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Plan, Verdict};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{open, save};
use object_store::ObjectStore;
use object_store::memory::InMemory;

const SIZE: Size = Size { layers: 1, width: 4, vocabulary: 8 };

/// What may go wrong with every operation, and what it must come out as.
const WEATHER: [(Failure, FaultCode); 5] = [
    (Failure::STORAGE_FULL, FaultCode::StoreFull),
    (Failure::READ_ONLY, FaultCode::ReadOnly),
    (Failure::LOCAL_PERMISSION_DENIED, FaultCode::Denied),
    (Failure::PermissionDenied, FaultCode::Denied),
    (Failure::Unavailable, FaultCode::Unavailable),
];

/// A store in memory, the faults between, and what a fault-free user sees of it.
struct World {
    below: Arc<InMemory>,
    faulty: Arc<FaultyStore>,
    tensors: Vec<Tensor>,
    table: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let below = Arc::new(InMemory::new());
        let faulty = Arc::new(FaultyStore::new(Arc::<InMemory>::clone(&below)));
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("t.parquet");
        std::fs::write(&table, include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
        Self { below, faulty, tensors: transformer(1, SIZE), table, _folder: folder }
    }

    async fn open(&self) -> Result<Store, Fault> {
        let store: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&self.faulty);
        open(store, OpenMode::Create).await.map_err(|error| Fault::from(&error))
    }

    /// Saves a checkpoint and pushes a file, as a user would in one go.
    async fn write(&self) -> Result<(), Fault> {
        let store = self.open().await?;
        let spec = SaveSpec {
            attempt: Some("job".to_owned()),
            ..SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), 1, 2)
        };
        save(&store, spec, &self.tensors).await.map_err(|error| described(&error))?;
        let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
        let spec = PushSpec::new(project, name);
        let files = std::slice::from_ref(&self.table);
        store.push(&spec, files, &Progress::default()).await.map_err(|error| described(&error))?;
        Ok(())
    }

    /// Reads and verifies all of it; panics on wrong data.
    async fn read(&self) -> Result<(), Fault> {
        let store = self.open().await?;
        let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.map_err(|error| described(&error))?;
        for tensor in &self.tensors {
            let read = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await;
            assert_eq!(read.map_err(|error| described(&error))?, tensor.data, "{}", tensor.name);
        }
        let dataset = store.dataset(&"p/data@1".parse().unwrap()).await.map_err(|error| described(&error))?;
        let bytes = dataset.read("t.parquet", None, &Progress::default()).await.map_err(|error| described(&error))?;
        assert_eq!(bytes, std::fs::read(&self.table).unwrap());
        let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
        match store.verify(&request, &|_| {}).await?.findings.first() {
            None => Ok(()),
            Some(finding) => Err(Fault::new(FaultCode::Integrity, &Text(finding.problem.clone()))),
        }
    }

    /// Whoever looks at the store now sees the whole checkpoint, or none.
    async fn check_nothing_half_visible(&self, what: &str) {
        self.faulty.set_plan(pass());
        let store = self.open().await.unwrap();
        match store.checkpoint(&"p/run@1".parse().unwrap()).await {
            Err(error) => assert_eq!(error.code(), FaultCode::NotFound, "{what}: {error}"),
            Ok(checkpoint) => {
                for tensor in &self.tensors {
                    let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap();
                    assert_eq!(bytes, tensor.data, "{what}: {}", tensor.name);
                }
            }
        }
    }
}

/// The fault that an error of the client is, as a command would print it.
fn described(error: &dyn Coded) -> Fault {
    let text = Fault::new(error.code(), &Text(error.to_string()));
    error.fault().cloned().unwrap_or(text)
}

#[derive(Debug)]
struct Text(String);

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Text {}

/// Counts the operations of `work` on a store where all goes well.
async fn operations(prepared: bool) -> u64 {
    let world = World::new();
    if prepared {
        world.write().await.unwrap();
    }
    let before = world.faulty.log().len();
    if prepared {
        world.read().await.unwrap();
    } else {
        world.write().await.unwrap();
    }
    (world.faulty.log().len() - before) as u64
}

#[tokio::test]
async fn a_store_that_goes_bad_during_a_write_says_so_and_the_write_goes_on_later() {
    let count = operations(false).await;
    assert!(count > 20, "{count} operations are too few for a save and a push");
    let mut codes = BTreeSet::new();
    for (failure, code) in WEATHER {
        for n in 1..=count {
            let world = World::new();
            let what = format!("{failure:?} from operation {n} on");
            let bad = Verdict::FailBefore(failure);
            let plan: Plan = Box::new(move |operation| {
                let reads = matches!(operation.op, Op::Get | Op::Head | Op::List);
                let spared = match code {
                    // Such stores still answer reads.
                    FaultCode::StoreFull | FaultCode::ReadOnly => reads,
                    // A log that answers nothing is asked again for a minute: that is another test's.
                    FaultCode::Unavailable => operation.path.contains("/log/0"),
                    _ => false,
                };
                if operation.n >= n && !spared { bad } else { Verdict::Pass }
            });
            world.faulty.set_plan(plan);
            if let Err(fault) = world.write().await {
                // Where the read-back of a record is denied as well, nobody can know.
                let unknown = code == FaultCode::Denied && fault.code == FaultCode::CommitStateUnknown;
                assert!(fault.code == code || unknown, "{what}: {:?} {fault}", fault.code);
                assert!(
                    fault.message.contains("gigastore.json") || fault.message.contains("projects"),
                    "{what}: {fault}"
                );
                codes.insert(format!("{code:?}"));
            }
            world.check_nothing_half_visible(&what).await;
            world.write().await.unwrap_or_else(|fault| panic!("{what}, then good again: {fault}"));
            world.read().await.unwrap_or_else(|fault| panic!("{what}, then read: {fault}"));
        }
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["Denied", "ReadOnly", "StoreFull", "Unavailable"]);
}

#[tokio::test]
async fn a_store_that_goes_bad_during_a_read_says_so() {
    let count = operations(true).await;
    let world = World::new();
    world.write().await.unwrap();
    for (failure, code) in
        [(Failure::PermissionDenied, FaultCode::Denied), (Failure::TIMED_OUT, FaultCode::Unavailable)]
    {
        for n in 1..=count {
            let first = world.faulty.log().len() as u64;
            world.faulty.set_plan(starting_at(first + n, Verdict::FailBefore(failure)));
            match world.read().await {
                Ok(()) => assert!(n > count / 2, "operation {n} of {count} was not needed"),
                Err(fault) => assert_eq!(fault.code, code, "{failure:?} from operation {n} on: {fault}"),
            }
            world.faulty.set_plan(pass());
        }
        world.read().await.unwrap();
    }
}

#[tokio::test]
async fn a_body_that_is_cut_or_flipped_on_its_way_is_never_taken() {
    let world = World::new();
    world.write().await.unwrap();
    let count = operations(true).await;
    for bad in [Verdict::Truncate(0), Verdict::Truncate(7), Verdict::Flip(0), Verdict::Flip(63)] {
        let mut refused = 0;
        for n in 1..=count {
            let first = world.faulty.log().len() as u64;
            world.faulty.set_plan(gigastore_tests::faulty::plan::at(first + n, bad));
            // Wrong data panics in `read`; a cut or flip that touches nothing that is read passes.
            if let Err(fault) = world.read().await {
                let known = [FaultCode::Integrity, FaultCode::Unavailable, FaultCode::NewerFormat, FaultCode::Invalid];
                assert!(known.contains(&fault.code), "{bad:?} at {n}: {:?} {fault}", fault.code);
                // A manifest that is flipped once is right when it is read once more.
                let path = world.faulty.log()[(first + n - 1) as usize].path.clone();
                let manifest = matches!(bad, Verdict::Flip(_)) && path.contains("/manifests/");
                assert!(!manifest, "{bad:?} of {path}: {fault}");
                refused += 1;
            }
            world.faulty.set_plan(pass());
        }
        assert!(refused > 5, "{bad:?}: only {refused} of {count} were seen");
    }
    world.read().await.unwrap();
}

#[tokio::test]
async fn a_log_that_stays_silent_is_a_commit_of_unknown_state() {
    let world = World::new();
    world.faulty.set_plan(Box::new(|operation| {
        let record = operation.op == Op::Create && operation.path.contains("/log/0");
        let reading = operation.op == Op::Get && operation.path.contains("/log/0");
        match (record, reading) {
            (true, _) => Verdict::FailAfter(Failure::TIMED_OUT),
            // The reads before the record exists are answered.
            (_, true) if operation.n > 20 => Verdict::FailBefore(Failure::TIMED_OUT),
            _ => Verdict::Pass,
        }
    }));
    let fault = world.write().await.unwrap_err();
    let unknown = matches!(fault.code, FaultCode::CommitStateUnknown | FaultCode::Unavailable);
    assert!(unknown, "{:?}: {fault}", fault.code);
    world.check_nothing_half_visible("a silent log").await;
    world.write().await.unwrap();
    world.read().await.unwrap();
    let below: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&world.below);
    let info = open(below, OpenMode::Existing).await.unwrap().project(&"p".parse().unwrap()).await.unwrap();
    assert_eq!(info.seq, 2, "one record for the checkpoint, one for the dataset");
}

#[tokio::test]
async fn one_object_that_cannot_be_read_does_not_hide_what_else_is_wrong() {
    let world = World::new();
    world.write().await.unwrap();
    let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
    for failure in [Failure::TIMED_OUT, Failure::LOCAL_PERMISSION_DENIED, Failure::PermissionDenied] {
        for part in ["/packs/", "/blobs/", "/manifests/", "/log/0"] {
            world.faulty.set_plan(Box::new(move |operation| {
                let reads = matches!(operation.op, Op::Get | Op::Head);
                match reads && operation.path.contains(part) {
                    true => Verdict::FailBefore(failure),
                    false => Verdict::Pass,
                }
            }));
            let store = self::open(Arc::<FaultyStore>::clone(&world.faulty), OpenMode::Existing).await.unwrap();
            let report = store.verify(&request, &|_| {}).await.unwrap_or_else(|fault| panic!("{part}: {fault}"));
            assert!(!report.findings.is_empty(), "{part}");
            for finding in &report.findings {
                assert!(finding.is_unreadable() && finding.object.contains(&part[..5]), "{part}: {finding:?}");
                assert!(finding.problem.starts_with("could not be read: ") && !finding.affects.is_empty());
            }
            if part == "/packs/" {
                assert!(report.commits == 2 && report.objects > 3, "the rest was looked at: {report:?}");
            }
            // Where the marker can't be read either, the store is away.
            world.faulty.set_plan(Box::new(move |operation| match operation.path.contains(part) {
                true => Verdict::FailBefore(failure),
                false if operation.path.contains("gigastore.json") => Verdict::FailBefore(failure),
                false => Verdict::Pass,
            }));
            let fault = store.verify(&request, &|_| {}).await.unwrap_err();
            assert!(matches!(fault.code, FaultCode::Unavailable | FaultCode::Denied), "{part}: {fault}");
            world.faulty.set_plan(pass());
        }
    }
}
