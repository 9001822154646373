//! The records of a log that is made anew: commits first, then what a folded state knew of them, then the fences that
//! raise the epoch to what it was.
//!
//! A fence condemns what no commit before it refers to: so commits stand before all fences. Pure. Must never make other
//! records of the same findings: a rebuild that was interrupted goes on with the same.

use std::collections::BTreeMap;

use gigastore_formats::limits::{MAX_RECORD_BYTES, MAX_RECORD_ENTRIES};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::{Action, Commit, Entry, Sort, TxnId};
use gigastore_formats::sealed::seal;

use super::look::Found;
use crate::log::State;

/// Bytes of the entries of one record: half of the limit, as an entry is counted without the record around it.
const ENTRIES_BYTES: usize = (MAX_RECORD_BYTES / 2) as usize;

/// Returns the entries of each record, made at the moment `now`. The fences have that time, and not one of before: what
/// was left out is condemned by them, and collectors give it the readers' grace, in which it can be repaired.
pub(super) fn records(
    project: &ProjectName,
    chosen: &BTreeMap<(Name, u64), Found>,
    folded: Option<&State>,
    epoch: u64,
    now: u64,
) -> Vec<Vec<Entry>> {
    let mut units: Vec<Vec<Entry>> = Vec::new();
    let mut last: Option<&Name> = None;
    let mut next = 1;
    for ((name, number), found) in chosen {
        if last != Some(name) {
            (last, next) = (Some(name), 1);
        }
        if found.commit.sort == Sort::Dataset {
            // Versions are numbered without holes. One that is gone is committed and dropped in the same breath.
            units.extend((next..*number).map(|missing| gap(project, &found.commit, missing, found.time)));
            next = number + 1;
        }
        units.push(vec![entry(project, found.time, Action::Commit(Box::new(found.commit.clone())))]);
    }
    for (name, named) in folded.iter().flat_map(|state| &state.names) {
        let is_there = |number: &u64| chosen.contains_key(&(name.clone(), *number));
        let time = named.live.values().map(|live| live.time).max().unwrap_or_default();
        let tags = named.tags.iter().filter(|(_, number)| is_there(number)).map(|(tag, number)| Action::Tag {
            name: name.clone(),
            tag: tag.clone(),
            number: *number,
        });
        let pins = named.pins.iter().filter(|number| is_there(number));
        let pins = pins.map(|number| Action::Pin { name: name.clone(), number: *number });
        let policy = named.policy.iter().filter(|_| chosen.keys().any(|(known, _)| known == name));
        let policy = policy.map(|policy| Action::Policy { name: name.clone(), policy: policy.clone() });
        units.extend(tags.chain(pins).chain(policy).map(|action| vec![entry(project, time, action)]));
    }
    units.extend((1..=epoch).map(|epoch| vec![entry(project, now, Action::Fence { epoch })]));
    packed(units)
}

/// Stands for a version whose manifest is gone: a version that is dropped where it is committed.
fn gap(project: &ProjectName, next: &Commit, number: u64, time: u64) -> Vec<Entry> {
    let commit = Commit { number, ..next.clone() };
    let drop = Action::Drop { name: next.name.clone(), number };
    vec![entry(project, time, Action::Commit(Box::new(commit))), entry(project, time, drop)]
}

/// An entry whose transaction is a function of what it does.
fn entry(project: &ProjectName, time: u64, action: Action) -> Entry {
    let (_, digest) = seal(&action);
    let txn = TxnId::derive(&[b"rebuild", project.as_str().as_bytes(), digest.as_bytes()]);
    Entry { txn, time, action }
}

/// Puts units, none of which may be cut, into records.
fn packed(units: Vec<Vec<Entry>>) -> Vec<Vec<Entry>> {
    let mut records: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = usize::MAX;
    for unit in units {
        let len: usize = unit.iter().map(|entry| seal(&entry.action).0.len()).sum();
        match records.last_mut() {
            Some(record) if bytes + len <= ENTRIES_BYTES && record.len() + unit.len() <= MAX_RECORD_ENTRIES => {
                bytes += len;
                record.extend(unit);
            }
            _ => {
                bytes = len;
                records.push(unit);
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use gigastore_formats::digest::Digest;
    use gigastore_formats::object::Stored;
    use gigastore_formats::record::Index;
    use gigastore_formats::verified::GroupTree;

    use super::*;

    fn found(sort: Sort, name: &str, number: u64) -> ((Name, u64), Found) {
        let name: Name = name.parse().unwrap();
        let tree = GroupTree::of(name.as_str().as_bytes());
        let manifest = Index::new(Stored { digest: tree.root(), epoch: 2 }, &tree);
        let content = Digest::of(&number.to_le_bytes());
        let (packs, timeline) = (None, None);
        let commit = Commit {
            sort,
            name: name.clone(),
            number,
            manifest,
            packs,
            timeline,
            content,
            bytes: 1,
            items: 1,
            world_size: 1,
        };
        ((name, number), Found { key: String::new(), commit, packs: None, time: number })
    }

    #[test]
    fn versions_have_no_holes_and_fences_come_last() {
        let chosen = [found(Sort::Dataset, "data", 3), found(Sort::Checkpoint, "run", 7)].into_iter().collect();
        let project: ProjectName = "p".parse().unwrap();
        let made = records(&project, &chosen, None, 2, 9);
        assert_eq!(made.len(), 1);
        let kinds: Vec<String> = made[0]
            .iter()
            .map(|entry| match &entry.action {
                Action::Commit(commit) => format!("{}@{}", commit.name, commit.number),
                Action::Drop { name, number } => format!("drop {name}@{number}"),
                Action::Fence { epoch } => format!("fence {epoch}"),
                other => format!("{other:?}"),
            })
            .collect();
        let expected = ["data@1", "drop data@1", "data@2", "drop data@2", "data@3", "run@7", "fence 1", "fence 2"];
        assert_eq!(kinds, expected);
        assert_eq!(records(&project, &chosen, None, 2, 9), made, "the same findings make the same records");
    }

    #[test]
    fn records_are_bounded() {
        let chosen = (0..3000).map(|step| found(Sort::Checkpoint, "run", step)).collect();
        let made = records(&"p".parse().unwrap(), &chosen, None, 0, 9);
        assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), [1024, 1024, 952]);
    }
}
