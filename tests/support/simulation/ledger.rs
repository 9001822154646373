//! What participants were told, and what must never have been: written down outside of them, as users would remember it.
//!
//! Must never be changed by a death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::digest::Digest;
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::Verb;

use super::script::Work;

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
    /// It took effect, and nothing more is known of it.
    Took,
    /// It has no effect, and never will.
    Refused,
    /// Its user gave up. It took effect once at most.
    GivenUp,
}

/// What all participants were told, and what must never have been.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Page>>);

#[derive(Default)]
struct Page {
    told: Vec<Told>,
    wrong: Vec<String>,
    /// How many operations of each user have ended.
    ended: BTreeMap<String, usize>,
    /// Operations that a user has begun, in this life or another.
    begun: BTreeSet<(String, usize)>,
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

    pub(super) fn ended(&self, who: &str) -> usize {
        self.page().ended.get(who).copied().unwrap_or_default()
    }

    pub(super) fn tell(&self, told: Told) {
        let mut page = self.page();
        *page.ended.entry(told.who.clone()).or_default() += 1;
        page.told.push(told);
    }

    /// Takes note that a user begins its next operation; tells whether it had begun it in another life.
    pub(super) fn begin(&self, who: &str) -> bool {
        let n = self.ended(who);
        !self.page().begun.insert((who.to_owned(), n))
    }

    /// Tells whether somebody was told that a step or version is dropped.
    pub(super) fn was_dropped(&self, name: &str, number: u64) -> bool {
        self.page().told.iter().any(|told| match (&told.work, &told.ended) {
            (Work::Keep { verb: Verb::Drop, name: of, number: at }, Ended::Took) => *of == name && *at == number,
            _ => false,
        })
    }

    /// Tells whether a save of a step is acknowledged.
    pub(super) fn knows(&self, run: &str, step: u64) -> bool {
        self.page().told.iter().any(|told| match (&told.work, &told.ended) {
            (Work::Save { run: of, step: at, .. }, Ended::Done { .. }) => *of == run && *at == step,
            _ => false,
        })
    }
}
