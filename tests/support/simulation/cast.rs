//! Participants: processes in which some users at once go through their scripts, each operation through errors and
//! deaths until it is acknowledged or refused for good.
//!
//! Must never repeat an operation under another identity: a save has its attempt, a tag its transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::collect::CollectRequest;
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::record::{SaveBegin, TxnId};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Committed, Fault, FaultCode, with_causes};

use super::bucket::Bucket;
use super::ledger::{Ended, Ledger, Told};
use super::line::{Death, Line};
use super::script::{Files, Work, name, project, tensors};
use super::weather::Weather;
use super::world::{NOBODY, World};
use crate::opened::slices;

/// Bytes in flight of one participant: far more than all of its data.
const BUDGET: u64 = 16 << 20;

/// Bytes that packs aim at: a checkpoint of some KiB has several.
const PACK_BYTES: u64 = 1500;

/// How long a rank waits for the other.
const DEADLINE: Duration = Duration::from_secs(20);

/// Tries of one operation in one life; more mean that it never ends.
const TRIES: u32 = 1000;

/// Conflicts of one operation until its user gives up: most come from fences and drops, and go away by trying again.
const CONFLICTS: u32 = 40;

/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_secs(5);

/// A participant: a process with a name, and the scripts of its users.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name, in the trace.
    pub who: String,
    /// What each of its users does, one after another.
    pub scripts: Vec<Vec<Work>>,
    /// Where it dies for sure, in its first life.
    pub death: Option<Death>,
}

impl Role {
    /// Returns the names of its users.
    fn users(&self) -> impl Iterator<Item = (String, &Vec<Work>)> {
        self.scripts.iter().enumerate().map(|(i, script)| (format!("{}/{i}", self.who), script))
    }
}

/// Everything a participant is put into.
#[derive(Clone)]
pub struct Stage {
    /// The world.
    pub world: World,
    /// What is stored.
    pub bucket: Bucket,
    /// What goes wrong.
    pub weather: Weather,
    /// From then on nothing does.
    pub calm_after: Duration,
    /// What participants were told.
    pub ledger: Ledger,
    /// What pushers push.
    pub files: Files,
    /// Steps that somebody drops at some time.
    pub dropped: BTreeSet<(&'static str, u64)>,
}

/// Why an operation ended without effect, or without an answer.
struct Failed {
    code: FaultCode,
    text: String,
    /// Another checkpoint is live at the step.
    taken: bool,
}

impl<E: Coded> From<E> for Failed {
    fn from(error: E) -> Self {
        let text = with_causes(&error);
        // Only that refusal says so; the client has compared the bytes by then.
        let taken = text.contains("exists with other content");
        Self { code: error.code(), text, taken }
    }
}

impl Stage {
    /// Puts a participant in: it lives, dies and lives again until its scripts have ended. Returns its lines so far.
    pub fn enter(&self, role: Role) -> Arc<Mutex<Vec<Line>>> {
        let (stage, lines) = (self.clone(), Arc::<Mutex<Vec<Line>>>::default());
        let kept = Arc::clone(&lines);
        let direct = async move {
            let mut death = role.death;
            while !stage.has_ended(&role) {
                let owner = stage.world.born();
                let Stage { world, bucket, weather, calm_after, .. } = &stage;
                let line = Line::new(bucket, world, owner, &role.who, *weather, *calm_after, death.take());
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
                let (sender, receiver) = oneshot::channel();
                let life = live(stage.clone(), line, world.ambient(owner), role.clone());
                world.spawn(owner, async move {
                    life.await;
                    // The director waits for it.
                    let _ = sender.send(());
                });
                // An error is a death: its end of the channel is gone.
                if receiver.await.is_err() {
                    world.note(format_args!("{} is dead", role.who));
                    world.sleep(world.some_time(PAUSE * 4)).await;
                }
                world.kill(owner);
            }
        };
        self.world.spawn(NOBODY, direct);
        lines
    }

    /// Tells whether a role's scripts have ended.
    pub fn has_ended(&self, role: &Role) -> bool {
        role.users().all(|(who, script)| self.ledger.ended(&who) >= script.len())
    }
}

/// One life of a participant: the store is opened, and all users go on where they were.
async fn live(stage: Stage, line: Line, ambient: Arc<dyn Ambient>, role: Role) {
    let engine = loop {
        let (line, ambient) = (Arc::new(line.clone()), Arc::clone(&ambient));
        match Engine::with_store(line, "sim:///".to_owned(), OpenMode::Create, ambient).await {
            Ok(engine) => break engine,
            Err(error) => {
                stage.world.note(format_args!("{} can't open the store: {error}", role.who));
                stage.world.sleep(stage.world.some_time(PAUSE)).await;
            }
        }
    };
    let store = Store::over(Arc::new(engine.clone()), ambient, BUDGET);
    let users = role.users().map(|(who, script)| {
        let user = User { stage: stage.clone(), engine: engine.clone(), store: store.clone(), who };
        let script = script.clone();
        async move { user.go_on(&script).await }
    });
    futures::future::join_all(users).await;
}

/// One user in one life of a process.
struct User {
    stage: Stage,
    engine: Engine,
    store: Store,
    who: String,
}

/// What a user makes of an error.
enum Next {
    Again,
    Ends(Ended),
    Wrong,
}

impl User {
    async fn go_on(&self, script: &[Work]) {
        let (world, ledger, who) = (&self.stage.world, &self.stage.ledger, &self.who);
        while let Some(work) = script.get(ledger.ended(who)) {
            let (mut tries, mut conflicts) = (0, 0);
            // What an earlier try or life sent may be under way.
            let mut unsure = ledger.begin(who);
            let ended = loop {
                tries += 1;
                if tries > TRIES {
                    ledger.report(format!("{who} never came to an end with {work:?}"));
                    break Ended::GivenUp;
                }
                let failed = match self.attempt(work).await {
                    Ok(ended) => break ended,
                    Err(failed) => failed,
                };
                world.note(format_args!("{who} hears {:?} of {work:?}: {}", failed.code, failed.text));
                unsure |= failed.code == FaultCode::CommitStateUnknown;
                conflicts += u32::from(failed.code == FaultCode::Conflict);
                match self.next(work, &failed, conflicts, unsure) {
                    Next::Again => world.sleep(world.some_time(PAUSE)).await,
                    Next::Ends(ended) => break ended,
                    Next::Wrong => {
                        ledger.report(format!("{who} hears {:?} of {work:?}: {}", failed.code, failed.text));
                        break Ended::GivenUp;
                    }
                }
            };
            world.note(format_args!("{who} is told {ended:?} of {work:?}"));
            let txn = match work {
                Work::Save { run, step, attempt, .. } => Some(SaveBegin::id(&project(), &name(run), *step, attempt)),
                Work::Tag { .. } | Work::Keep { .. } => Some(self.txn(work)),
                Work::Push { .. } | Work::Restore { .. } | Work::Collect { .. } => None,
            };
            ledger.tell(Told { who: who.clone(), work: work.clone(), txn, ended });
        }
    }

    /// Decides what a user does about an error.
    fn next(&self, work: &Work, failed: &Failed, conflicts: u32, unsure: bool) -> Next {
        let refused = if unsure { Ended::GivenUp } else { Ended::Refused };
        let dropped = |run: &str, step: u64| self.stage.dropped.iter().any(|(of, at)| *of == run && *at == step);
        match (failed.code, work) {
            // What is live there was there before this was proposed, or this would have been live.
            (FaultCode::Conflict, Work::Save { .. }) if failed.taken => Next::Ends(Ended::Refused),
            (FaultCode::Conflict, Work::Keep { .. }) if conflicts >= 3 => Next::Ends(refused),
            (FaultCode::Conflict, _) if conflicts >= CONFLICTS => Next::Ends(Ended::GivenUp),
            // The commit is in the log, and its end too.
            (FaultCode::Gone, Work::Save { .. } | Work::Tag { .. } | Work::Push { .. }) => Next::Ends(Ended::Took),
            (FaultCode::Gone | FaultCode::Lost, Work::Restore { run, step }) if dropped(run, *step) => {
                Next::Ends(Ended::GivenUp)
            }
            // A body that came damaged looks like damage; whether it lasts is what the checker finds out.
            (
                FaultCode::Conflict
                | FaultCode::Unavailable
                | FaultCode::CommitStateUnknown
                | FaultCode::Integrity
                | FaultCode::NewerFormat
                | FaultCode::MissingRanks
                | FaultCode::InProgress,
                _,
            ) => Next::Again,
            // A step that nobody has saved yet, or that somebody has dropped.
            (FaultCode::NotFound, Work::Tag { name, number, .. } | Work::Keep { name, number, .. }) => {
                let gone = self.stage.ledger.was_dropped(name, *number);
                if gone { Next::Ends(refused) } else { Next::Again }
            }
            (FaultCode::NotFound, Work::Restore { .. } | Work::Collect { .. }) => Next::Again,
            _ => Next::Wrong,
        }
    }

    /// The transaction of an operation that has no better identity: who asks, and for what.
    fn txn(&self, work: &Work) -> TxnId {
        TxnId::derive(&[self.who.as_bytes(), format!("{work:?}").as_bytes()])
    }

    async fn attempt(&self, work: &Work) -> Result<Ended, Failed> {
        let (store, engine) = (&self.store, &self.engine);
        match work {
            Work::Save { .. } => save(store, work).await,
            Work::Push { dataset, file } => {
                let spec = PushSpec { append: true, ..PushSpec::new(project(), name(dataset)) };
                let file = self.stage.files.path(*file);
                let pushed = store.push(&spec, &[file], &Progress::default()).await?;
                Ok(done(&pushed.committed))
            }
            Work::Tag { name: of, tag, number } => {
                let set = engine.set_tag(&project(), self.txn(work), &name(of), &name(tag), *number).await;
                set.map(|_| Ended::Took).map_err(|error| Fault::from(&error).into())
            }
            Work::Keep { verb, name: of, number } => {
                let kept = engine.keep(&project(), self.txn(work), *verb, &name(of), *number).await;
                kept.map(|_| Ended::Took).map_err(|error| Fault::from(&error).into())
            }
            Work::Collect { grace, save_timeout, .. } => {
                let request = CollectRequest {
                    grace_ms: grace.as_millis() as u64,
                    save_timeout_ms: save_timeout.as_millis() as u64,
                    ..CollectRequest::new(project(), self.txn(work))
                };
                let report = engine.collect(&request).await.map_err(|error| Fault::from(&error))?;
                self.stage.world.note(format_args!("{} collected: {report:?}", self.who));
                Ok(Ended::Took)
            }
            Work::Restore { run, step } => self.restore(run, *step).await,
        }
    }

    /// Restores what somebody was told is there. It must come back as it was, at once and for ever, or be dropped.
    async fn restore(&self, run: &str, step: u64) -> Result<Ended, Failed> {
        let ledger = &self.stage.ledger;
        if !ledger.knows(run, step) {
            return Err(Failed { code: FaultCode::NotFound, text: "not told yet".to_owned(), taken: false });
        }
        let target = Target { project: project(), name: name(run), selector: Some(Selector::Number(step)) };
        let checkpoint = match self.store.checkpoint(&target).await {
            Err(error) if error.code() == FaultCode::NotFound => {
                if !self.stage.dropped.iter().any(|(of, at)| *of == run && *at == step) {
                    ledger.report(format!("{run}@{step} was acknowledged and is not found"));
                }
                return Ok(Ended::GivenUp);
            }
            found => found?,
        };
        let content = checkpoint.meta().metadata.get("content").and_then(|text| text.parse().ok()).unwrap_or(0);
        for tensor in tensors(step, content) {
            let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await?;
            if bytes != tensor.data {
                ledger.report(format!("{run}@{step} {} came back with other bytes", tensor.name));
            }
        }
        Ok(Ended::Took)
    }
}

fn done(committed: &Committed) -> Ended {
    let commit = &committed.info.commit;
    Ended::Done { number: commit.number, content: commit.content, existed: committed.existed }
}

async fn save(store: &Store, work: &Work) -> Result<Ended, Failed> {
    let Work::Save { run, step, rank: (rank, world_size), attempt, content } = work else {
        return Err(Failed { code: FaultCode::Invalid, text: "no save".to_owned(), taken: false });
    };
    let spec = SaveSpec {
        attempt: Some((*attempt).to_owned()),
        pack_bytes: PACK_BYTES,
        deadline: DEADLINE,
        metadata: BTreeMap::from([("content".to_owned(), content.to_string())]),
        ..SaveSpec::new(project(), name(run), *step, *world_size)
    };
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank(*rank, slices(&tensors(*step, *content), *rank, *world_size)).await?;
    Ok(done(&save.finish().await?))
}
