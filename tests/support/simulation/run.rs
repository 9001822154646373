//! Whole runs: of everything that a seed makes, and of one participant that dies at one operation.
//!
//! Must never let one run know of another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::collect::{CollectRequest, FenceFate};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::Verb;
use gigastore_formats::wire::{Depth, VerifyRequest, with_causes};

use super::bucket::{Bucket, Flaw};
use super::cast::{Role, Stage};
use super::checker;
use super::ledger::Ledger;
use super::line::{Death, Line};
use super::script::{Files, Work, project};
use super::weather::{LATEST, Weather};
use super::world::{NOBODY, World};

/// Virtual time after which nothing goes wrong any more, and all must come to an end.
const CALM_AFTER: Duration = Duration::from_secs(150);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every operation on the store and everything that participants were told, in order, with the time.
    pub trace: String,
    /// What must not have been; empty where all is well.
    pub wrong: Vec<String>,
    /// Operations on the store.
    pub operations: u64,
    /// Deaths.
    pub deaths: u64,
    /// Operations that their callers know the end of.
    pub told: u64,
}

fn push(file: u32) -> Work {
    Work::Push { dataset: "data", file }
}

fn save(run: &'static str, step: u64, rank: (u32, u32), attempt: &'static str, content: u64) -> Work {
    Work::Save { run, step, rank, attempt, content }
}

fn keep(verb: Verb, name: &'static str, number: u64) -> Work {
    Work::Keep { verb, name, number }
}

fn collect(n: u32, grace: Duration, save_timeout: Duration) -> Work {
    Work::Collect { n, grace, save_timeout }
}

fn role(who: &str, scripts: Vec<Vec<Work>>) -> Role {
    Role { who: who.to_owned(), scripts, death: None }
}

/// The participants of a seed: two processes with a rank each of one run, a rival each at another, a pusher each of one
/// dataset, and who tags, pins and drops; one that reads what is acknowledged; and two that collect.
fn cast(world: &World) -> Vec<Role> {
    let rank = |rank| (0..4).map(|step| save("a", step, (rank, 2), "job", 0)).collect();
    let rival = |attempt, content| (0..3).map(|step| save("b", step, (0, 1), attempt, content * (step % 2))).collect();
    let tag = |tag, number| Work::Tag { name: "a", tag, number };
    let restore = |run, step| Work::Restore { run, step };
    let grace = Duration::from_secs([0, 20, 300][world.below(3) as usize]);
    // A save that counts as abandoned at once: then only epochs keep its objects.
    let save_timeout = Duration::from_millis([1, 60_000, 86_400_000][world.below(3) as usize]);
    let collections = |n| (0..n).map(|n| collect(n, grace, save_timeout)).collect();
    let tagger = vec![tag("good", 1), tag("good", 2), tag("best", 1)];
    let dropper = vec![keep(Verb::Drop, "a", 0), keep(Verb::Drop, "b", 0), keep(Verb::Drop, "data", 1)];
    let pinner = vec![keep(Verb::Pin, "a", 0), keep(Verb::Pin, "b", 1)];
    let reader = vec![restore("b", 0), restore("a", 0), restore("a", 1), restore("b", 2), restore("a", 3)];
    vec![
        role("one", vec![rank(0), rival("first", 1), vec![push(0), push(1)], tagger]),
        role("two", vec![rank(1), rival("second", 2), vec![push(2), push(0)], dropper, pinner]),
        role("three", vec![reader, collections(4)]),
        role("four", vec![collections(6)]),
    ]
}

/// Runs what a seed makes.
pub fn seed(seed: u64, files: &Files) -> Outcome {
    flawed_seed(seed, files, None)
}

/// Runs what a seed makes on a store with a flaw.
pub fn flawed_seed(seed: u64, files: &Files, flaw: Option<Flaw>) -> Outcome {
    let world = World::new(seed);
    let weather = Weather::of(&world);
    let roles = cast(&world);
    run(&world, &Bucket::new(&world, flaw), files, weather, roles)
}

/// What dies at one of its operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dying {
    /// A save by one process.
    Save,
    /// One rank of two, while the other goes on.
    Rank,
    /// A push of a dataset's second version.
    Push,
    /// A tag.
    Tag,
    /// Collections, after a drop that leaves garbage.
    Collection,
}

impl Dying {
    fn roles(self, death: Option<Death>) -> Vec<Role> {
        let one = |step| save("a", step, (0, 1), "job", 0);
        let now = Duration::ZERO;
        let (mut dying, others) = match self {
            Self::Save => (role("dying", vec![vec![one(1), one(2)]]), vec![]),
            Self::Rank => {
                let rank = |rank| vec![vec![save("a", 1, (rank, 2), "job", 0)]];
                (role("dying", rank(0)), vec![role("other", rank(1))])
            }
            Self::Push => (role("dying", vec![vec![push(0), push(1)]]), vec![]),
            Self::Tag => {
                let tag = Work::Tag { name: "a", tag: "good", number: 1 };
                (role("dying", vec![vec![one(1), tag]]), vec![])
            }
            Self::Collection => {
                let script = vec![
                    one(1),
                    one(2),
                    keep(Verb::Drop, "a", 1),
                    collect(0, now, now),
                    collect(1, now, now),
                    collect(2, now, now),
                ];
                (role("dying", vec![script]), vec![])
            }
        };
        dying.death = death;
        std::iter::once(dying).chain(others).collect()
    }

    /// Runs it with a death, or without: then all its operations are counted.
    pub fn run(self, seed: u64, files: &Files, death: Option<Death>) -> Outcome {
        let world = World::new(seed);
        run(&world, &Bucket::new(&world, None), files, Weather::fair(), self.roles(death))
    }
}

/// Runs roles to their end, and checks.
fn run(world: &World, bucket: &Bucket, files: &Files, weather: Weather, roles: Vec<Role>) -> Outcome {
    let (world, ledger) = (world.clone(), Ledger::default());
    let works = || roles.iter().flat_map(|role| role.scripts.iter().flatten());
    let dropped = works().filter_map(|work| match work {
        Work::Keep { verb: Verb::Drop, name, number } => Some((*name, *number)),
        _ => None,
    });
    let stage = Stage {
        world: world.clone(),
        bucket: bucket.clone(),
        weather,
        calm_after: CALM_AFTER,
        ledger: ledger.clone(),
        files: files.clone(),
        dropped: dropped.collect(),
    };
    let lines: Vec<Arc<Mutex<Vec<Line>>>> = roles.iter().map(|role| stage.enter(role.clone())).collect();
    let mut wrong = Vec::new();
    match world.run_until(|| roles.iter().all(|role| stage.has_ended(role))) {
        Ok(()) => wrong.extend(check(&world, bucket, &ledger)),
        Err(stuck) => wrong.push(stuck.to_string()),
    }
    wrong.extend(ledger.wrong());
    let lines: Vec<Line> =
        lines.iter().flat_map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
    let trace = world.trace();
    let deaths = trace.lines().filter(|line| line.ends_with("is dead")).count() as u64;
    world.end();
    let operations = lines.iter().map(Line::operations).sum();
    Outcome { trace, wrong, operations, deaths, told: ledger.told().len() as u64 }
}

/// Checks bucket and acknowledgements, by the checker and by the engine's own verification of every byte.
fn check(world: &World, bucket: &Bucket, ledger: &Ledger) -> Vec<String> {
    let found: Arc<Mutex<Vec<String>>> = Arc::default();
    let (done, told) = (Arc::new(AtomicBool::new(false)), ledger.told());
    let (result, over, ambient) = (Arc::clone(&found), bucket.clone(), world.ambient(NOBODY));
    let ended = Arc::clone(&done);
    world.spawn(NOBODY, async move {
        // What is still under way may land before, while and after this looks.
        let mut wrong = checker::check(&over, &told, false).await;
        match Engine::with_store(Arc::new(over.clone()), "sim:///".to_owned(), OpenMode::Existing, ambient).await {
            Ok(engine) => {
                let request = VerifyRequest { project: project(), name: None, number: None, depth: Depth::Full };
                match engine.verify(&request, &|_| {}).await {
                    Ok(report) => wrong.extend(report.findings.iter().map(|finding| format!("{finding:?}"))),
                    Err(error) => wrong.push(error.to_string()),
                }
                // Now nothing is under way any more.
                engine.ambient().sleep(LATEST * 3).await;
                wrong.extend(collect_twice(&engine).await);
                wrong.extend(checker::check(&over, &told, true).await);
            }
            Err(error) => wrong.push(error.to_string()),
        }
        result.lock().unwrap_or_else(PoisonError::into_inner).extend(wrong);
        ended.store(true, Ordering::SeqCst);
    });
    match world.run_until(|| done.load(Ordering::SeqCst)) {
        Ok(()) => found.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        Err(stuck) => vec![format!("the check is stuck: {stuck}")],
    }
}

/// Collects twice without any grace; what that does not delete is needed.
async fn collect_twice(engine: &Engine) -> Option<String> {
    for n in 0..2u8 {
        let request = CollectRequest {
            grace_ms: 0,
            save_timeout_ms: 0,
            ..CollectRequest::new(project(), TxnId::derive(&[b"last", &[n]]))
        };
        match engine.collect(&request).await {
            Ok(report) if matches!(report.fence, FenceFate::Raised(_)) => {}
            Ok(report) => return Some(format!("a collection alone raised no fence: {report:?}")),
            Err(error) => return Some(with_causes(&error)),
        }
    }
    None
}
