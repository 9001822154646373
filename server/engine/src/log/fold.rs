//! Whether an entry takes effect: a pure function of the records before it.
//!
//! Must never look at a clock, at the store or at who asks: every reader of the log comes to the same state.

use std::sync::Arc;

use gigastore_formats::collect::Fence;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::Name;
use gigastore_formats::record::{Action, Commit, Entry, Record, Sort};

use super::state::{Live, Named, Outcome, State, VoidReason};

impl State {
    /// Folds the next record, whose digest is `digest`. The caller has checked its number and chain.
    pub(super) fn fold(&mut self, record: &Record, digest: Digest) {
        self.seq = record.seq;
        self.head = digest;
        for entry in &record.entries {
            // A transaction that was seen before has no second effect, and its outcome stays the first one's.
            if self.txns.contains_key(&entry.txn) {
                continue;
            }
            let outcome = match self.apply(entry) {
                Ok(()) => Outcome::Took(record.seq),
                Err(reason) => Outcome::Void(record.seq, reason),
            };
            self.txns.insert(entry.txn, outcome);
        }
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), VoidReason> {
        match &entry.action {
            Action::Commit(commit) => self.commit(commit, entry.time),
            Action::Tag { tag, .. } if Name::new_tag(tag.as_str()).is_err() => Err(VoidReason::NotATag),
            Action::Tag { name, tag, number } => {
                self.target(name, *number)?.tags.insert(tag.clone(), *number);
                Ok(())
            }
            Action::Pin { name, number } => {
                self.target(name, *number)?.pins.insert(*number);
                Ok(())
            }
            Action::Unpin { name, number } => {
                self.target(name, *number)?.pins.remove(number);
                Ok(())
            }
            Action::Drop { name, number } => self.drop_target(name, *number),
            Action::Policy { name, policy } => {
                self.names.get_mut(name).ok_or(VoidReason::NotLive)?.policy = Some(policy.clone());
                Ok(())
            }
            Action::Fence { epoch } if *epoch == self.epoch + 1 => {
                self.epoch = *epoch;
                self.fences.push(Fence { epoch: *epoch, seq: self.seq, time: entry.time });
                Ok(())
            }
            Action::Fence { .. } => Err(VoidReason::NotNextEpoch),
        }
    }

    fn commit(&mut self, commit: &Commit, time: u64) -> Result<(), VoidReason> {
        check_commit(self, commit)?;
        let named = self.names.entry(commit.name.clone()).or_insert_with(|| Named::new(commit.sort));
        named.highest = named.highest.max(commit.number);
        named.live.insert(commit.number, Arc::new(Live { commit: commit.clone(), seq: self.seq, time }));
        Ok(())
    }

    fn drop_target(&mut self, name: &Name, number: u64) -> Result<(), VoidReason> {
        let named = self.target(name, number)?;
        if named.pins.contains(&number) {
            return Err(VoidReason::Pinned);
        }
        if named.tags.values().any(|at| *at == number) {
            return Err(VoidReason::Tagged);
        }
        let newest = named.latest().is_some_and(|latest| latest.commit.number == number);
        if named.sort == Sort::Checkpoint && newest {
            return Err(VoidReason::Newest);
        }
        named.live.remove(&number);
        Ok(())
    }

    fn target(&mut self, name: &Name, number: u64) -> Result<&mut Named, VoidReason> {
        let named = self.names.get_mut(name).ok_or(VoidReason::NotLive)?;
        if named.live.contains_key(&number) { Ok(named) } else { Err(VoidReason::NotLive) }
    }
}

/// Says whether `commit` would take effect after `state`.
pub(super) fn check_commit(state: &State, commit: &Commit) -> Result<(), VoidReason> {
    let Some(named) = state.names.get(&commit.name) else {
        let first = commit.sort == Sort::Checkpoint || commit.number == 1;
        return if first { Ok(()) } else { Err(VoidReason::NotNext) };
    };
    if named.sort != commit.sort {
        return Err(VoidReason::WrongSort);
    }
    if named.live.contains_key(&commit.number) {
        return Err(VoidReason::Taken);
    }
    if commit.sort == Sort::Dataset && commit.number != named.highest + 1 {
        return Err(VoidReason::NotNext);
    }
    Ok(())
}

#[cfg(test)]
#[path = "fold_test.rs"]
mod tests;
