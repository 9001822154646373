//! What must be true at the end, of the bucket and of what participants were told.
//!
//! Reads the bucket with a fold of its own, none of the engine's. Must never believe anybody but the bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::record::{Action, Commit, Record, Sort, TxnId};
use object_store::path::Path;
use object_store::ObjectStoreExt as _;

use super::bucket::{Bucket, is_record};
use super::cast::{Ended, Told, Work};

/// What the log says, by a fold that is as plain as can be.
#[derive(Default, Debug)]
pub struct Read {
    /// Records.
    pub records: u64,
    /// The epoch.
    pub epoch: u64,
    /// Live commits: name and number, and the transaction of each.
    pub live: BTreeMap<(String, u64), (TxnId, Commit)>,
    /// How often each transaction stands in the log, and whether it took effect.
    pub txns: BTreeMap<TxnId, (u32, bool)>,
    tags: BTreeMap<(String, String), u64>,
    pins: BTreeSet<(String, u64)>,
    newest: BTreeMap<String, u64>,
}

impl Read {
    /// Reads the log of project `p` from its first record.
    pub async fn log(bucket: &Bucket) -> Result<Self, String> {
        let (mut read, mut prev) = (Self::default(), Record::origin());
        loop {
            let seq = read.records + 1;
            let found = bucket.get(&Path::from(format!("projects/p/log/{seq:020}.json"))).await;
            let bytes = match found {
                Ok(found) => found.bytes().await.map_err(|error| error.to_string())?,
                Err(object_store::Error::NotFound { .. }) => return Ok(read),
                Err(error) => return Err(error.to_string()),
            };
            let (record, digest) = Record::unseal(&bytes, seq, prev).map_err(|error| error.to_string())?;
            read.records = seq;
            prev = digest;
            for entry in &record.entries {
                let (count, _) = read.txns.entry(entry.txn).or_default();
                *count += 1;
                if *count == 1 {
                    let took = read.take(entry.txn, &entry.action);
                    read.txns.insert(entry.txn, (1, took));
                }
            }
        }
    }

    fn take(&mut self, txn: TxnId, action: &Action) -> bool {
        let at = |name: &gigastore_formats::name::Name, number: &u64| (name.to_string(), *number);
        match action {
            Action::Commit(commit) => {
                let key = at(&commit.name, &commit.number);
                let next = self.newest.get(&key.0).map_or(1, |newest| newest + 1);
                if self.live.contains_key(&key) || commit.sort == Sort::Dataset && key.1 != next {
                    return false;
                }
                // The highest ever of a dataset, the last committed of a run.
                self.newest.insert(key.0.clone(), key.1);
                self.live.insert(key, (txn, Commit::clone(commit)));
                true
            }
            Action::Tag { name, tag, number } => {
                let takes = self.live.contains_key(&at(name, number));
                if takes {
                    self.tags.insert((name.to_string(), tag.to_string()), *number);
                }
                takes
            }
            Action::Pin { name, number } => {
                let takes = self.live.contains_key(&at(name, number));
                if takes {
                    self.pins.insert(at(name, number));
                }
                takes
            }
            Action::Unpin { name, number } => self.pins.remove(&at(name, number)),
            Action::Drop { name, number } => {
                let key = at(name, number);
                let tagged = self.tags.iter().any(|((of, _), to)| *of == key.0 && *to == key.1);
                let takes = self.live.contains_key(&key) && !self.pins.contains(&key) && !tagged;
                if takes {
                    self.live.remove(&key);
                }
                takes
            }
            Action::Policy { .. } => true,
            Action::Fence { epoch } => {
                let takes = *epoch == self.epoch + 1;
                if takes {
                    self.epoch = *epoch;
                }
                takes
            }
        }
    }

    fn effects(&self, txn: TxnId) -> u32 {
        self.txns.get(&txn).map_or(0, |(_, took)| u32::from(*took))
    }
}

/// Returns everything that is not as it must be.
pub async fn check(bucket: &Bucket, told: &[Told]) -> Vec<String> {
    let read = match Read::log(bucket).await {
        Ok(read) => read,
        Err(error) => return vec![format!("the log can't be read: {error}")],
    };
    let mut wrong = Vec::new();
    for (txn, (count, _)) in &read.txns {
        if *count > 1 {
            wrong.push(format!("transaction {txn} stands in the log {count} times"));
        }
    }
    for told in told {
        check_told(&read, told, &mut wrong);
    }
    check_history(bucket, &mut wrong);
    check_bytes(bucket, &mut wrong).await;
    wrong
}

/// Compares what somebody was told with the log.
fn check_told(read: &Read, told: &Told, wrong: &mut Vec<String>) {
    let effects = told.txn.map(|txn| read.effects(txn));
    match (&told.work, &told.ended) {
        (Work::Restore { .. }, _) => {}
        (Work::Save { run, step, .. }, Ended::Done { content, existed, .. }) => {
            let live = read.live.get(&((*run).to_owned(), *step));
            match live {
                None => wrong.push(format!("{told:?}, and no such step is live")),
                Some((_, commit)) if commit.content != *content => {
                    wrong.push(format!("{told:?}, and the live step has content {}", commit.content));
                }
                Some((txn, _)) if !existed && Some(*txn) != told.txn => {
                    wrong.push(format!("{told:?}, and the live step is of transaction {txn}"));
                }
                Some(_) => {}
            }
        }
        (Work::Push { dataset, .. }, Ended::Done { number, content, .. }) => {
            let live = read.live.get(&((*dataset).to_owned(), *number));
            if live.is_none_or(|(_, commit)| commit.content != *content) {
                wrong.push(format!("{told:?}, and no such version is live"));
            }
        }
        (Work::Tag { .. }, Ended::Done { .. }) | (Work::Save { .. }, Ended::DroppedSince) => {
            if effects != Some(1) {
                wrong.push(format!("{told:?}, and it took effect {effects:?} times"));
            }
        }
        (_, Ended::Refused | Ended::DroppedSince) => {
            if effects.unwrap_or(0) != 0 {
                wrong.push(format!("{told:?}, and it took effect {effects:?} times"));
            }
        }
    }
}

/// Tells whether objects of a path may change: caches say that they may.
fn is_cache(path: &str) -> bool {
    path.contains("/log/folded/") || path.contains("/scrub/")
}

/// Nothing that was stored changed, and nothing went away that nobody may delete.
fn check_history(bucket: &Bucket, wrong: &mut Vec<String>) {
    let mut contents: BTreeMap<String, Digest> = BTreeMap::new();
    for change in bucket.history().into_iter().filter(|change| !is_cache(&change.path)) {
        let Some(digest) = change.put else {
            if is_record(&change.path) {
                wrong.push(format!("{} was deleted", change.path));
            }
            continue;
        };
        let before = contents.insert(change.path.clone(), digest);
        let again = before.is_some() && is_record(&change.path);
        if again || before.is_some_and(|before| before != digest) {
            wrong.push(format!("{} was put twice, at last with {digest}", change.path));
        }
    }
}

/// Every object that is named by its content has it.
async fn check_bytes(bucket: &Bucket, wrong: &mut Vec<String>) {
    let paths: BTreeSet<String> = bucket.history().into_iter().map(|change| change.path).collect();
    for path in paths {
        let Ok(found) = bucket.get(&Path::from(path.as_str())).await else { continue };
        let Ok(bytes) = found.bytes().await else {
            wrong.push(format!("{path} can't be read"));
            continue;
        };
        let named = path.rsplit('/').next().and_then(|name| name.get(..64)?.parse::<Digest>().ok());
        if let Some(expected) = named.filter(|_| !path.contains("/saves/"))
            && hashed(&path, &bytes) != Some(expected)
        {
            wrong.push(format!("{path} does not hold what its name says"));
        }
    }
}

/// Returns the digest that names an object: of a pack that of its header, which holds those of the rest.
fn hashed(path: &str, bytes: &Bytes) -> Option<Digest> {
    if !path.contains("/packs/") {
        return Some(Digest::of(bytes));
    }
    let len = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    Some(Digest::of(bytes.get(..8 + usize::try_from(len).ok()?)?))
}
