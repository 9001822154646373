//! What must be true at the end, of the bucket and of what participants were told.
//!
//! Reads the bucket with a fold of its own, none of the engine's. Must never believe anybody but the bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::read_checkpoint;
use gigastore_formats::manifest::dataset::read_dataset;
use gigastore_formats::manifest::packs::read_packs;
use gigastore_formats::name::Name;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Commit, Record, Sort, TxnId};
use gigastore_formats::retention::Verb;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::bucket::{Bucket, is_record};
use super::ledger::{Ended, Told};
use super::script::Work;

/// A commit that took effect.
#[derive(Debug)]
struct Committed {
    txn: TxnId,
    commit: Commit,
    seq: u64,
    live: bool,
}

/// What a fence condemned: keys of this epoch and below, but for those that are kept.
#[derive(Debug)]
struct Condemned {
    seq: u64,
    newest: Option<u64>,
    kept: BTreeSet<String>,
}

/// What the log says, by a fold that is as plain as can be.
#[derive(Default, Debug)]
struct Read {
    records: u64,
    epoch: u64,
    commits: BTreeMap<(String, u64), Vec<Committed>>,
    /// How often each transaction stands in the log, and whether it took effect.
    txns: BTreeMap<TxnId, (u32, bool)>,
    tags: BTreeMap<(String, String), u64>,
    pins: BTreeSet<(String, u64)>,
    highest: BTreeMap<String, u64>,
    fences: Vec<Condemned>,
}

impl Read {
    /// Reads the log of project `p` from its first record.
    async fn log(bucket: &Bucket) -> Result<Self, String> {
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
                let count = read.txns.get(&entry.txn).map_or(0, |(count, _)| *count);
                let took = match read.txns.get(&entry.txn) {
                    Some((_, took)) => *took,
                    None => read.take(bucket, entry.txn, &entry.action)?,
                };
                read.txns.insert(entry.txn, (count + 1, took));
            }
        }
    }

    fn live(&self, name: &str, number: u64) -> Option<&Committed> {
        self.commits.get(&(name.to_owned(), number))?.iter().find(|commit| commit.live)
    }

    fn all_live(&self) -> impl Iterator<Item = &Committed> {
        self.commits.values().flatten().filter(|commit| commit.live)
    }

    fn effects(&self, txn: TxnId) -> u32 {
        self.txns.get(&txn).map_or(0, |(_, took)| u32::from(*took))
    }

    fn take(&mut self, bucket: &Bucket, txn: TxnId, action: &Action) -> Result<bool, String> {
        let is_live = |name: &Name, number: &u64| self.live(name.as_str(), *number).is_some();
        Ok(match action {
            Action::Commit(commit) => {
                let name = commit.name.to_string();
                let next = self.highest.get(&name).map_or(1, |highest| highest + 1);
                if is_live(&commit.name, &commit.number) || commit.sort == Sort::Dataset && commit.number != next {
                    return Ok(false);
                }
                let highest = self.highest.entry(name.clone()).or_default();
                *highest = commit.number.max(*highest);
                let committed = Committed { txn, commit: Commit::clone(commit), seq: self.records, live: true };
                self.commits.entry((name, commit.number)).or_default().push(committed);
                true
            }
            Action::Tag { name, tag, number } => {
                let takes = is_live(name, number);
                if takes {
                    self.tags.insert((name.to_string(), tag.to_string()), *number);
                }
                takes
            }
            Action::Pin { name, number } => is_live(name, number) && self.pins.insert((name.to_string(), *number)),
            Action::Unpin { name, number } => self.pins.remove(&(name.to_string(), *number)),
            Action::Drop { name, number } => self.drop(name, *number),
            Action::Policy { .. } => true,
            Action::Fence { epoch } => {
                let takes = *epoch == self.epoch + 1;
                if takes {
                    self.epoch = *epoch;
                    let kept = self.kept(bucket)?;
                    self.fences.push(Condemned { seq: self.records, newest: epoch.checked_sub(2), kept });
                }
                takes
            }
        })
    }

    fn drop(&mut self, name: &Name, number: u64) -> bool {
        let key = (name.to_string(), number);
        let tagged = self.tags.iter().any(|((of, _), at)| *of == key.0 && *at == number);
        let of_run = self.all_live().filter(|live| live.commit.name == *name && live.commit.sort == Sort::Checkpoint);
        let newest = of_run.map(|live| (live.seq, live.commit.number)).max();
        if self.pins.contains(&key) || tagged || newest.is_some_and(|(_, newest)| newest == number) {
            return false;
        }
        let live = self.commits.get_mut(&key).and_then(|commits| commits.iter_mut().find(|commit| commit.live));
        live.map(|commit| commit.live = false).is_some()
    }

    /// Returns the paths of everything that live commits refer to, as manifests say that were ever stored.
    fn kept(&self, bucket: &Bucket) -> Result<BTreeSet<String>, String> {
        let mut kept = BTreeSet::new();
        for live in self.all_live() {
            let commit = &live.commit;
            kept.extend(commit.indexes().map(|index| path_of(ObjectKind::Manifest, &index.object)));
            let manifest = stored(bucket, &commit.manifest.object)?;
            match commit.sort {
                Sort::Checkpoint => {
                    let rows = read_checkpoint(&manifest).map_err(|error| error.to_string())?.rows;
                    kept.extend(rows.iter().map(|row| path_of(ObjectKind::Pack, &row.place.pack)));
                    let packs = commit.packs.as_ref().ok_or("a checkpoint without a list of packs")?;
                    let packs = read_packs(&stored(bucket, &packs.object)?).map_err(|error| error.to_string())?;
                    kept.extend(packs.iter().map(|row| path_of(ObjectKind::Pack, &row.pack)));
                }
                Sort::Dataset => {
                    let rows = read_dataset(&manifest).map_err(|error| error.to_string())?.rows;
                    kept.extend(rows.iter().map(|row| path_of(ObjectKind::Blob, &row.blob)));
                }
            }
        }
        Ok(kept)
    }
}

fn path_of(kind: ObjectKind, object: &Stored) -> String {
    format!("projects/p/{}", object.key(kind))
}

fn stored(bucket: &Bucket, object: &Stored) -> Result<Bytes, String> {
    let path = path_of(ObjectKind::Manifest, object);
    bucket.ever_stored(&path).ok_or_else(|| format!("{path} is referred to and was never stored"))
}

/// Returns everything that is not as it must be. `collected`: nothing of two epochs ago may be left but what is needed.
pub async fn check(bucket: &Bucket, told: &[Told], collected: bool) -> Vec<String> {
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
    check_history(&read, bucket, &mut wrong);
    check_bytes(bucket, &mut wrong).await;
    match read.kept(bucket) {
        Ok(kept) => check_kept(&read, bucket, &kept, collected, &mut wrong),
        Err(error) => wrong.push(error),
    }
    wrong
}

/// Compares what somebody was told with the log.
fn check_told(read: &Read, told: &Told, wrong: &mut Vec<String>) {
    let effects = told.txn.map(|txn| read.effects(txn));
    let committed = |name: &str, number: u64, content: &Digest, existed: bool| {
        let commits = read.commits.get(&(name.to_owned(), number));
        let mut commits = commits.into_iter().flatten().filter(|committed| committed.commit.content == *content);
        commits.any(|committed| existed || told.txn.is_none_or(|txn| txn == committed.txn))
    };
    let holds = match (&told.work, &told.ended) {
        (Work::Restore { .. } | Work::Collect { .. }, _) => true,
        (Work::Save { run, step, .. }, Ended::Done { content, existed, .. }) => {
            committed(run, *step, content, *existed)
        }
        (Work::Push { dataset, .. }, Ended::Done { number, content, existed }) => {
            committed(dataset, *number, content, *existed)
        }
        (Work::Keep { verb: Verb::Pin, name, number }, Ended::Took) => {
            effects == Some(1) && read.live(name, *number).is_some()
        }
        // What it found equal was dropped before it could say so.
        (Work::Save { run, step, .. }, Ended::Took) if effects == Some(0) => {
            let commits = read.commits.get(&((*run).to_owned(), *step));
            commits.into_iter().flatten().any(|commit| !commit.live)
        }
        (Work::Push { .. }, _) | (_, Ended::GivenUp) => true,
        (_, Ended::Done { .. } | Ended::Took) => effects == Some(1),
        (_, Ended::Refused) => effects == Some(0),
    };
    if !holds {
        wrong.push(format!("{told:?}, and the log says otherwise: {effects:?} effects"));
    }
}

/// Tells whether objects of a path may change: caches say that they may.
fn is_cache(path: &str) -> bool {
    path.contains("/log/folded/") || path.contains("/scrub/")
}

/// Nothing that was stored changed, and nothing went away but what a fence in the log had condemned.
fn check_history(read: &Read, bucket: &Bucket, wrong: &mut Vec<String>) {
    let mut contents: BTreeMap<String, Digest> = BTreeMap::new();
    for change in bucket.history().into_iter().filter(|change| !is_cache(&change.path)) {
        let Some(digest) = change.put else {
            let path = &change.path;
            let condemned = |fence: &Condemned| {
                let old = epoch_of(path).zip(fence.newest).is_some_and(|(epoch, newest)| epoch <= newest);
                fence.seq <= change.records && old && !fence.kept.contains(path)
            };
            if is_record(path) || is_object(path) && !read.fences.iter().any(condemned) {
                wrong.push(format!("{path} was deleted at record {}", change.records));
            }
            continue;
        };
        let before = contents.insert(change.path.clone(), digest);
        let again = before.is_some() && is_record(&change.path);
        // A save that counts as abandoned may be announced again, in another epoch.
        let announcement = change.path.contains("/saves/");
        if again || !announcement && before.is_some_and(|before| before != digest) {
            wrong.push(format!("{} was put twice, at last with {digest}", change.path));
        }
    }
    for ((name, _), number) in &read.tags {
        if read.live(name, *number).is_none() {
            wrong.push(format!("a tag of {name} points at {number}, which is not live"));
        }
    }
}

/// What live commits refer to is there, and after two collections nothing of before them is but that.
fn check_kept(read: &Read, bucket: &Bucket, kept: &BTreeSet<String>, collected: bool, wrong: &mut Vec<String>) {
    let there = bucket.paths();
    wrong.extend(kept.difference(&there).map(|path| format!("{path} is needed and not there")));
    let is_old = |path: &String| epoch_of(path).is_some_and(|epoch| epoch + 2 <= read.epoch);
    if collected {
        let garbage = there.iter().filter(|path| is_object(path) && is_old(path) && !kept.contains(*path));
        wrong.extend(garbage.map(|path| format!("{path} is garbage after two collections")));
    }
}

fn is_object(path: &str) -> bool {
    ["/packs/", "/blobs/", "/manifests/"].iter().any(|kind| path.contains(kind))
}

/// The epoch in the name of an object.
fn epoch_of(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.split('.').nth(1)?.parse().ok()
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
