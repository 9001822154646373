//! Pins and drops: what people decide about the life of a step or version.
//!
//! Must never delete anything: a drop is an entry of the log, and a collector finds what nothing needs any more.

use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::{Action, Entry, Sort, TxnId};
use gigastore_formats::retention::{Done, Verb};

use crate::engine::Engine;
use crate::log::{AppendError, State};

/// Why a pin or drop does not stand at the tail of the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeepRefusal {
    /// There is no such step or version.
    #[error("no live step or version {number} of {name}")]
    NotLive {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
        /// Those that are live, the newest first.
        known: Vec<u64>,
    },
    /// It is pinned.
    #[error("{name}@{number} is pinned, and is not dropped: `gigastore unpin {name}@{number}` first")]
    Pinned {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Tags point at it.
    #[error("{name}@{number} is tagged {tag}, and is not dropped: point the tag at another one first")]
    Tagged {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
        /// One of its tags.
        tag: Name,
    },
    /// It is the newest step of its run.
    #[error("{name}@{number} is the newest step of its run, the one that latest means, and is never dropped")]
    Newest {
        /// The run.
        name: Name,
        /// The step.
        number: u64,
    },
}

/// Numbers that an error lists for the caller to suggest from.
const NUMBERS_LISTED: usize = 1000;

impl Engine {
    /// Pins, unpins or drops a live step or version. The operation `txn` has one effect, however often it is asked for.
    pub async fn keep(
        &self,
        project: &ProjectName,
        txn: TxnId,
        verb: Verb,
        name: &Name,
        number: u64,
    ) -> Result<Done, AppendError<KeepRefusal>> {
        // A project that is not there is not kept in mind either.
        let state = self.state(project).await?;
        if state.seq == 0 {
            return Err(AppendError::Refused(KeepRefusal::NotLive { name: name.clone(), number, known: Vec::new() }));
        }
        let time = self.ambient.wall_ms();
        let of = name.clone();
        let propose = move |state: &State| {
            check(state, verb, &of, number)?;
            Ok(vec![Entry { txn, time, action: action(verb, &of, number) }])
        };
        let seq = self.log(project).append(txn, propose).await?.seq;
        Ok(Done { name: name.clone(), number, verb, seq })
    }
}

/// Returns what `verb` writes into the log.
pub(crate) fn action(verb: Verb, name: &Name, number: u64) -> Action {
    let name = name.clone();
    match verb {
        Verb::Pin => Action::Pin { name, number },
        Verb::Unpin => Action::Unpin { name, number },
        Verb::Drop => Action::Drop { name, number },
    }
}

/// Says whether `verb` would take effect after `state`.
pub(crate) fn check(state: &State, verb: Verb, name: &Name, number: u64) -> Result<(), KeepRefusal> {
    let named = state.names.get(name);
    let Some(named) = named.filter(|named| named.live.contains_key(&number)) else {
        let known = named.map(|named| named.live.keys().rev().copied().take(NUMBERS_LISTED).collect());
        return Err(KeepRefusal::NotLive { name: name.clone(), number, known: known.unwrap_or_default() });
    };
    if verb != Verb::Drop {
        return Ok(());
    }
    if named.pins.contains(&number) {
        return Err(KeepRefusal::Pinned { name: name.clone(), number });
    }
    if let Some((tag, _)) = named.tags.iter().find(|(_, at)| **at == number) {
        return Err(KeepRefusal::Tagged { name: name.clone(), number, tag: tag.clone() });
    }
    if named.sort == Sort::Checkpoint && named.latest().is_some_and(|latest| latest.commit.number == number) {
        return Err(KeepRefusal::Newest { name: name.clone(), number });
    }
    Ok(())
}
