//! One object of a small store, who reads it, and what they may say when it is damaged.
//!
//! Each case has a store of its own, so that none sees what another left.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::wire::{Depth, Fault, FaultCode, VerifyRequest};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::damage::{Damage, Other, damages};
use crate::inline;

/// Whoever reads an object.
#[async_trait]
pub(crate) trait Reader: Send + Sync {
    /// Reads all that the object is for, in a store where it may be damaged, as a process does that has seen nothing of
    /// the store before; panics on anything that is not as it was written.
    async fn read(&self, engine: &Engine, store: &Store) -> Result<(), FaultCode>;
}

/// What must come of damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Must {
    /// `verify` says so; readers that touch it do too, or read what is right.
    Found,
    /// Readers say so: `verify` does not look at it.
    Refused,
    /// Nothing: what it says is known from elsewhere.
    Harmless,
}

/// One object, and what is done with it.
pub(crate) struct Scene {
    pub(crate) kind: &'static str,
    pub(crate) objects: Arc<Vec<(Path, Bytes)>>,
    pub(crate) key: Path,
    pub(crate) others: Vec<Arc<Other>>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) must: Must,
    /// Every so manieth byte is damaged.
    pub(crate) stride: usize,
    /// Whether its absence is damage.
    pub(crate) needed: bool,
}

impl Scene {
    fn bytes(&self) -> &Bytes {
        &self.objects.iter().find(|(key, _)| *key == self.key).unwrap().1
    }

    /// Returns all that is done to the object.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        damages(self.bytes(), &self.others, self.stride, self.needed)
    }

    /// Checks that nothing is said of the undamaged store.
    pub(crate) async fn check_sound(&self) {
        let (engine, store) = open(self.store(None).await).await.unwrap();
        let what = format!("{} {}", self.kind, self.key);
        if self.must == Must::Found {
            assert_eq!(verified(&store).await, Ok(false), "{what}: verify finds something in a sound store");
        }
        assert_eq!(self.reader.read(&engine, &store).await, Ok(()), "{what}: a sound store can't be read");
    }

    /// Looks at a store in which the object is damaged; says what was not as it must be.
    pub(crate) async fn attack(&self, damage: &Damage) -> Result<(), String> {
        let looked = AssertUnwindSafe(self.look(damage)).catch_unwind().await;
        let problem = match looked {
            Ok(problem) => problem,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
                Some(format!("panic: {text}"))
            }
        };
        problem.map_or(Ok(()), |problem| Err(format!("{} {}, {damage}: {problem}", self.kind, self.key)))
    }

    async fn look(&self, damage: &Damage) -> Option<String> {
        let objects = self.store(Some(damage)).await;
        let (read, found) = match open(objects).await {
            Ok((engine, store)) => {
                let found = match self.must {
                    Must::Found => verified(&store).await,
                    Must::Refused | Must::Harmless => Ok(false),
                };
                (self.reader.read(&engine, &store).await, found)
            }
            Err(code) => (Err(code), Ok(true)),
        };
        if let Err(code) = read.and(found.map(|_| ()))
            && !is_of_damage(code)
        {
            return Some(format!("damage came out as {code:?}"));
        }
        let right = match self.must {
            Must::Found => found != Ok(false),
            Must::Refused => read.is_err(),
            Must::Harmless => read.is_ok(),
        };
        (!right).then(|| format!("must be {:?}, but reading gave {read:?} and verify {found:?}", self.must))
    }

    async fn store(&self, damage: Option<&Damage>) -> Arc<InMemory> {
        let store = Arc::new(InMemory::new());
        for (key, bytes) in self.objects.iter() {
            let damaged = damage.filter(|_| *key == self.key).map(|damage| damage.of(bytes));
            if let Some(bytes) = damaged.unwrap_or_else(|| Some(bytes.clone())) {
                store.put(key, bytes.into()).await.unwrap();
            }
        }
        store
    }
}

/// Kinds of faults by which damage may be told.
fn is_of_damage(code: FaultCode) -> bool {
    use FaultCode::{Conflict, Integrity, Invalid, Lost, MissingRanks, NewerFormat, NotFound};
    matches!(code, Integrity | Lost | NotFound | NewerFormat | Invalid | Conflict | MissingRanks)
}

/// Opens a store as a process does that has seen nothing of it before.
pub(crate) async fn open(store: Arc<InMemory>) -> Result<(Engine, Store), FaultCode> {
    let engine = Engine::with_store(store, "test:///".to_owned(), OpenMode::Existing, inline::ambient()).await;
    let engine = engine.map_err(|error| Fault::from(&error).code)?;
    let store = Store::over(Arc::new(engine.clone()), inline::ambient(), DEFAULT_BUDGET_BYTES);
    Ok((engine, store))
}

/// Tells whether a full verification finds anything.
async fn verified(store: &Store) -> Result<bool, FaultCode> {
    let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
    let report = store.verify(&request, &|_| {}).await.map_err(|fault| fault.code)?;
    Ok(!report.findings.is_empty())
}

/// Returns every object of a store, by key.
pub(crate) async fn contents(store: &InMemory) -> Vec<(Path, Bytes)> {
    let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    let mut found = Vec::new();
    for key in listed {
        let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
        found.push((key, bytes));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Returns the objects whose keys have `part` in them.
pub(crate) fn named(objects: &[(Path, Bytes)], part: &str) -> Vec<(Path, Bytes)> {
    objects.iter().filter(|(key, _)| key.as_ref().contains(part)).cloned().collect()
}

/// Returns objects as what may be found in the place of another.
pub(crate) fn others(objects: &[(Path, Bytes)], but: &Path) -> Vec<Arc<Other>> {
    let others = objects.iter().filter(|(key, _)| key != but);
    others.map(|(key, bytes)| Arc::new(Other { key: key.to_string(), bytes: bytes.clone() })).collect()
}
