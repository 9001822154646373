//! Participants: each has a script, and goes on with each operation of it, through errors and deaths, until it is
//! acknowledged or refused for good.
//!
//! What a participant was told is written down outside of it, as a user would remember it. Must never repeat an
//! operation under another identity: a save has its attempt, a tag its transaction.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt as _};
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_engine::store::{Objects, OpenMode};
use gigastore_formats::digest::Digest;
use gigastore_formats::name::{Name, ProjectName, Selector, Target};
use gigastore_formats::record::{SaveBegin, TxnId};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Fault, FaultCode};

use super::bucket::Bucket;
use super::line::{Death, Line};
use super::weather::Weather;
use super::world::{NOBODY, World};
use crate::model::Tensor;
use crate::opened::slices;

/// Bytes in flight of one participant: far more than all of its data.
const BUDGET: u64 = 16 << 20;

/// Bytes that packs aim at: a checkpoint of some KiB has several.
const PACK_BYTES: u64 = 1500;

/// Tries of one operation; more mean that it never ends.
const TRIES: u32 = 400;

/// Conflicts of one operation until it is taken for refused: what a conflict with fences or drops comes to is found out
/// by trying again.
const CONFLICTS: u32 = 4;

/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_secs(5);

/// Returns the project that all participants work on.
pub fn project() -> ProjectName {
    "p".parse().expect("a sound name")
}

fn name(text: &str) -> Name {
    text.parse().expect("a sound name")
}

/// One operation of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// One rank of a save.
    Save {
        /// The run.
        run: &'static str,
        /// The step.
        step: u64,
        /// Which rank, of how many.
        rank: (u32, u32),
        /// The attempt; two of one step are rivals.
        attempt: &'static str,
        /// What the tensors are made from: others, other content.
        content: u64,
    },
    /// A dataset gets one more file.
    Push {
        /// The dataset.
        dataset: &'static str,
        /// The file.
        file: PathBuf,
    },
    /// A tag is set.
    Tag {
        /// The run or dataset.
        name: &'static str,
        /// The tag.
        tag: &'static str,
        /// The step or version.
        number: u64,
    },
    /// A step that was acknowledged to anyone is restored and compared.
    Restore {
        /// The run.
        run: &'static str,
        /// The step.
        step: u64,
    },
}

/// What somebody was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Who.
    pub who: String,
    /// Of what.
    pub work: Work,
    /// The transaction, where the caller knows it.
    pub txn: Option<TxnId>,
    /// What became of it.
    pub ended: Ended,
}

/// What became of an operation, as its caller was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It took effect. `existed`: what was asked for was there before; `number` and `content` are those of the commit.
    Done {
        /// Step or version.
        number: u64,
        /// Content digest.
        content: Digest,
        /// Whether it was there before.
        existed: bool,
    },
    /// It took effect, and was dropped since.
    DroppedSince,
    /// It has no effect.
    Refused,
}

/// What all participants were told, and what must never have been.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Page>>);

#[derive(Default)]
struct Page {
    told: Vec<Told>,
    wrong: Vec<String>,
    /// How many operations of each script have ended.
    ended: BTreeMap<String, usize>,
}

impl Ledger {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was told.
    pub fn told(&self) -> Vec<Told> {
        self.page().told.clone()
    }

    /// Returns what went wrong.
    pub fn wrong(&self) -> Vec<String> {
        self.page().wrong.clone()
    }

    /// Writes down that something is wrong.
    pub fn report(&self, what: String) {
        self.page().wrong.push(what);
    }

    fn ended(&self, who: &str) -> usize {
        self.page().ended.get(who).copied().unwrap_or_default()
    }

    fn tell(&self, told: Told) {
        let mut page = self.page();
        *page.ended.entry(told.who.clone()).or_default() += 1;
        page.told.push(told);
    }

    /// Tells whether a save of a step is acknowledged.
    fn knows(&self, run: &str, step: u64) -> bool {
        self.page().told.iter().any(|told| match (&told.work, &told.ended) {
            (Work::Save { run: of, step: at, .. }, Ended::Done { .. }) => *of == run && *at == step,
            _ => false,
        })
    }
}

/// A participant: a name and a script.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name, in the trace.
    pub who: String,
    /// What it does, one after another.
    pub script: Vec<Work>,
    /// Where it dies for sure, in its first life.
    pub death: Option<Death>,
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
}

/// Why an operation ended without effect, or without an answer.
struct Failed {
    code: FaultCode,
    text: String,
}

impl<E: Coded> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { code: error.code(), text: error.to_string() }
    }
}

impl Stage {
    /// Puts a participant in: it lives, dies and lives again until its script has ended. Returns its lines so far.
    pub fn enter(&self, role: Role) -> Arc<Mutex<Vec<Line>>> {
        let (stage, lines) = (self.clone(), Arc::<Mutex<Vec<Line>>>::default());
        let kept = Arc::clone(&lines);
        let direct = async move {
            let mut death = role.death;
            while stage.ledger.ended(&role.who) < role.script.len() {
                let owner = stage.world.born();
                let Stage { world, bucket, weather, calm_after, .. } = &stage;
                let line = Line::new(bucket, world, owner, &role.who, *weather, *calm_after, death.take());
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
                let (sender, receiver) = oneshot::channel();
                let life = Life { stage: stage.clone(), line, owner: world.ambient(owner), role: role.clone() };
                world.spawn(owner, async move {
                    life.live().await;
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

    /// Tells whether a role's script has ended.
    pub fn has_ended(&self, role: &Role) -> bool {
        self.ledger.ended(&role.who) >= role.script.len()
    }
}

/// One life of a participant.
struct Life {
    stage: Stage,
    line: Line,
    owner: Arc<dyn gigastore_formats::ambient::Ambient>,
    role: Role,
}

impl Life {
    async fn live(self) {
        let (world, ledger, who) = (&self.stage.world, &self.stage.ledger, &self.role.who);
        let mut opened: Option<(Engine, Store)> = None;
        while let Some(work) = self.role.script.get(ledger.ended(who)).cloned() {
            let (mut tries, mut conflicts) = (0, 0);
            loop {
                tries += 1;
                if tries > TRIES {
                    ledger.report(format!("{who} never came to an end with {work:?}"));
                    self.tell(&work, Ended::Refused);
                    break;
                }
                // Now and then as another process would: nothing is remembered.
                if tries % 5 == 0 {
                    opened = None;
                }
                let failed = match self.attempt(&mut opened, &work).await {
                    Ok(ended) => {
                        world.note(format_args!("{who} is told {ended:?} of {work:?}"));
                        self.tell(&work, ended);
                        break;
                    }
                    Err(failed) => failed,
                };
                world.note(format_args!("{who} hears {:?} of {work:?}: {}", failed.code, failed.text));
                match failed.code {
                    FaultCode::Gone if matches!(work, Work::Save { .. } | Work::Push { .. }) => {
                        self.tell(&work, Ended::DroppedSince);
                        break;
                    }
                    FaultCode::Conflict => {
                        conflicts += 1;
                        if conflicts >= CONFLICTS {
                            self.tell(&work, Ended::Refused);
                            break;
                        }
                    }
                    // A body that came damaged looks like this too; whether it lasts is what the checker finds out.
                    FaultCode::Unavailable
                    | FaultCode::CommitStateUnknown
                    | FaultCode::Integrity
                    | FaultCode::NewerFormat
                    | FaultCode::MissingRanks
                    | FaultCode::InProgress => {}
                    FaultCode::NotFound if matches!(work, Work::Tag { .. } | Work::Restore { .. }) => {}
                    other => {
                        ledger.report(format!("{who} hears {other:?} of {work:?}: {}", failed.text));
                        self.tell(&work, Ended::Refused);
                        break;
                    }
                }
                world.sleep(world.some_time(PAUSE)).await;
            }
        }
    }

    fn tell(&self, work: &Work, ended: Ended) {
        let txn = match work {
            Work::Save { run, step, attempt, .. } => Some(SaveBegin::id(&project(), &name(run), *step, attempt)),
            Work::Tag { .. } => Some(self.txn(work)),
            Work::Push { .. } | Work::Restore { .. } => None,
        };
        self.stage.ledger.tell(Told { who: self.role.who.clone(), work: work.clone(), txn, ended });
    }

    /// The transaction of an operation that has no better identity: who asks, and for what.
    fn txn(&self, work: &Work) -> TxnId {
        TxnId::derive(&[self.role.who.as_bytes(), format!("{work:?}").as_bytes()])
    }

    async fn attempt(&self, opened: &mut Option<(Engine, Store)>, work: &Work) -> Result<Ended, Failed> {
        let (engine, store) = match opened {
            Some(opened) => opened,
            None => {
                let objects = Objects::with_store(Arc::new(self.line.clone()), "sim:///".to_owned(), OpenMode::Create);
                let objects = objects.await.map_err(|error| Fault::from(&error))?;
                let engine = Engine::over(objects, Arc::clone(&self.owner));
                let store = Store::over(Arc::new(engine.clone()), Arc::clone(&self.owner), BUDGET);
                opened.insert((engine, store))
            }
        };
        match work {
            Work::Save { .. } => save(store, work).await,
            Work::Push { dataset, file } => {
                let spec = PushSpec { append: true, ..PushSpec::new(project(), name(dataset)) };
                let pushed = store.push(&spec, std::slice::from_ref(file), &Progress::default()).await?;
                Ok(done(&pushed.committed))
            }
            Work::Tag { name: of, tag, number } => {
                let set = engine.set_tag(&project(), self.txn(work), &name(of), &name(tag), *number).await;
                let info = set.map_err(|error| Fault::from(&error))?;
                Ok(Ended::Done { number: info.commit.number, content: info.commit.content, existed: false })
            }
            Work::Restore { run, step } => self.restore(store, run, *step).await,
        }
    }

    /// Restores what somebody was told is there. It must come back as it was, at once and for ever.
    fn restore<'l>(&'l self, store: &'l Store, run: &'l str, step: u64) -> BoxFuture<'l, Result<Ended, Failed>> {
        async move {
            if !self.stage.ledger.knows(run, step) {
                return Err(Failed { code: FaultCode::NotFound, text: "not told yet".to_owned() });
            }
            let target = Target { project: project(), name: name(run), selector: Some(Selector::Number(step)) };
            let checkpoint = match store.checkpoint(&target).await {
                Err(error) if error.code() == FaultCode::NotFound => {
                    self.stage.ledger.report(format!("{run}@{step} was acknowledged and is not found"));
                    return Ok(Ended::Refused);
                }
                found => found?,
            };
            let content: u64 = checkpoint.meta().metadata.get("content").and_then(|text| text.parse().ok()).unwrap_or(0);
            for tensor in tensors(step, content) {
                let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await?;
                if bytes != tensor.data {
                    self.stage.ledger.report(format!("{run}@{step} {} came back with other bytes", tensor.name));
                }
            }
            let commit = &checkpoint.info().commit;
            Ok(Ended::Done { number: step, content: commit.content, existed: true })
        }
        .boxed()
    }
}

fn done(committed: &gigastore_formats::wire::Committed) -> Ended {
    let commit = &committed.info.commit;
    Ended::Done { number: commit.number, content: commit.content, existed: committed.existed }
}

async fn save(store: &Store, work: &Work) -> Result<Ended, Failed> {
    let Work::Save { run, step, rank: (rank, world_size), attempt, content } = work else {
        return Err(Failed { code: FaultCode::Invalid, text: "no save".to_owned() });
    };
    let spec = SaveSpec {
        attempt: Some((*attempt).to_owned()),
        pack_bytes: PACK_BYTES,
        metadata: BTreeMap::from([("content".to_owned(), content.to_string())]),
        ..SaveSpec::new(project(), name(run), *step, *world_size)
    };
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank(*rank, slices(&tensors(*step, *content), *rank, *world_size)).await?;
    Ok(done(&save.finish().await?))
}

/// Returns the tensors of a step: one that no step changes, one that every second step changes, one that each changes.
pub fn tensors(step: u64, content: u64) -> Vec<Tensor> {
    let tensor = |name: &str, of: u64, elements: u64| {
        let mut chance = super::world::Chance::new(of ^ content << 32);
        let data: Vec<u8> = (0..elements).map(|_| chance.draw() as u8).collect();
        Tensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![elements], data: Bytes::from(data) }
    };
    vec![tensor("always", 1 << 16, 2000), tensor("each", 3 << 16 | step, 700), tensor("second", 2 << 16 | step / 2, 1200)]
}
