//! Retention: the policies of runs and datasets, and the drops that they lead to.
//!
//! A policy acts by entries of the log alone, which a pin or a tag that came first makes void. Must never drop the
//! newest step that verifies, nor look at a clock.

use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Commit, Entry, Sort, TxnId};
use gigastore_formats::retention::{
    Candidate, NamePolicy, Policy, PolicyError, RetainReport, RetainRequest, Retained, UnusablePolicy, Verb,
};
use gigastore_formats::wire::with_causes;

use crate::engine::Engine;
use crate::keep::{KeepRefusal, action, check};
use crate::log::{AppendError, LogError, Named, Outcome, State};
use crate::read::ReadError;
use crate::store::StoreError;

/// Drops that are put into one record: 512, half of what one may have.
const DROPS_AT_ONCE: usize = 512;

/// Times that a run is looked at anew, as what was to be kept of it was dropped by others meanwhile: 3, more than
/// people and policies that meet by chance.
const LOOKS: usize = 3;

/// Why a policy is not set.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PolicyRefusal {
    /// There is no such run or dataset.
    #[error("no run or dataset {:?}: a policy is set once something was committed", name.as_str())]
    NotFound {
        /// What was asked for.
        name: Name,
        /// What there is.
        known: Vec<String>,
    },
}

/// Why retention stopped. What was dropped before it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum RetainError {
    /// A policy that is not stored was to be applied.
    #[error("a policy is only tried in a dry run: set it, and retain then")]
    NotStored,
    /// A stored policy can't be used; nothing of its run or dataset was dropped.
    #[error("the policy of {name} can't be used")]
    Policy {
        /// The run or dataset.
        name: Name,
        /// What is wrong with it.
        #[source]
        source: PolicyError,
    },
    /// The drops could not be appended.
    #[error(transparent)]
    Append(#[from] AppendError<KeepRefusal>),
    /// There is no such thing, or it could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Sets what retention keeps of a run or dataset; `None` takes the policy away.
    pub async fn set_policy(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        policy: Option<&Policy>,
    ) -> Result<(), AppendError<PolicyRefusal>> {
        if self.state(project).await?.seq == 0 {
            return Err(AppendError::Refused(PolicyRefusal::NotFound { name: name.clone(), known: Vec::new() }));
        }
        let time = self.ambient.wall_ms();
        let (name, text) = (name.clone(), policy.map(Policy::to_text).unwrap_or_default());
        let propose = move |state: &State| {
            if !state.names.contains_key(&name) {
                let known = state.names.keys().map(Name::to_string).collect();
                return Err(PolicyRefusal::NotFound { name: name.clone(), known });
            }
            Ok(vec![Entry { txn, time, action: Action::Policy { name: name.clone(), policy: text.clone() } }])
        };
        self.log(project).append(txn, propose).await.map(drop)
    }

    /// Lists the policies of a project.
    pub async fn policies(&self, project: &ProjectName) -> Result<Vec<NamePolicy>, RetainError> {
        let state = self.state(project).await?;
        if state.seq == 0 {
            self.project(project).await?;
        }
        let mut policies = Vec::new();
        for (name, named) in &state.names {
            if let Some(policy) = stored(name, named)? {
                policies.push(NamePolicy { name: name.clone(), policy });
            }
        }
        Ok(policies)
    }

    /// Drops what the policies of a project do not keep.
    pub async fn retain(&self, request: &RetainRequest) -> Result<RetainReport, RetainError> {
        let project = &request.project;
        if request.policy.is_some() && !request.dry_run {
            return Err(RetainError::NotStored);
        }
        let state = self.state(project).await?;
        match &request.name {
            // Refuses with what there is.
            Some(name) => drop(self.named(&state, project, name).await?),
            None if state.seq == 0 => drop(self.project(project).await?),
            None => {}
        }
        let mut report = RetainReport::default();
        let names = state.names.iter().filter(|(name, _)| request.name.as_ref().is_none_or(|only| only == *name));
        for (name, named) in names {
            let policy = match (request.policy, stored(name, named)) {
                (Some(policy), _) | (None, Ok(Some(policy))) => policy,
                (None, Ok(None)) => continue,
                // The others have theirs all the same.
                (None, Err(error)) => {
                    report.unusable.push(UnusablePolicy { name: name.clone(), problem: with_causes(&error) });
                    continue;
                }
            };
            report.names.push(self.retain_of(request, name, policy).await?);
        }
        Ok(report)
    }

    async fn retain_of(&self, request: &RetainRequest, name: &Name, policy: Policy) -> Result<Retained, RetainError> {
        let project = &request.project;
        let mut retained = Retained {
            name: name.clone(),
            policy,
            dropped: Vec::new(),
            live: 0,
            newest_sound: None,
            damaged: Vec::new(),
        };
        for _ in 0..LOOKS {
            let state = self.state(project).await?;
            let Some(named) = state.names.get(name) else { break };
            retained.live = named.live.len() as u64;
            (retained.newest_sound, retained.damaged) = (None, Vec::new());
            let mut drops = policy.drops(&candidates(named));
            if drops.is_empty() {
                break;
            }
            let sound = self.find_sound(project, named, &mut retained).await?;
            // Where none is, whatever can still be saved of them is kept.
            let Some(sound) = sound else { break };
            drops.retain(|number| *number != sound.number);
            if request.dry_run {
                retained.live -= drops.len() as u64;
                retained.dropped = drops;
                break;
            }
            let mut stands = true;
            for numbers in drops.chunks(DROPS_AT_ONCE) {
                let dropped = self.drop_all(request, name, sound, numbers.to_vec()).await?;
                stands = dropped.is_some();
                retained.live -= dropped.as_ref().map_or(0, Vec::len) as u64;
                retained.dropped.extend(dropped.unwrap_or_default());
                if !stands {
                    break;
                }
            }
            if stands {
                break;
            }
        }
        Ok(retained)
    }

    /// Finds the newest step or version that verifies: manifests are read and hashed, and every pack or file is there
    /// with its length.
    async fn find_sound(
        &self,
        project: &ProjectName,
        named: &Named,
        retained: &mut Retained,
    ) -> Result<Option<Sound>, RetainError> {
        let mut lives: Vec<_> = named.live.values().collect();
        lives.sort_unstable_by_key(|live| std::cmp::Reverse((live.seq, live.commit.number)));
        for live in lives {
            if self.is_sound(project, &live.commit).await? {
                retained.newest_sound = Some(live.commit.number);
                return Ok(Some(Sound { number: live.commit.number, seq: live.seq }));
            }
            retained.damaged.push(live.commit.number);
        }
        Ok(None)
    }

    async fn is_sound(&self, project: &ProjectName, commit: &Commit) -> Result<bool, RetainError> {
        let (kind, expected) = match self.holds(project, commit).await {
            Ok(found) => found,
            // Not damage of this one: nothing can be said.
            Err(error @ (ReadError::Store(_) | ReadError::Log(_) | ReadError::NotFound { .. })) => {
                return Err(error.into());
            }
            Err(_) => return Ok(false),
        };
        let objects: Vec<Stored> = expected.iter().map(|(object, _)| *object).collect();
        let lengths = self.lengths(project, kind, &objects).await?;
        Ok(expected.iter().zip(lengths).all(|((_, expected), actual)| actual == Some(*expected)))
    }

    /// Reads what a commit consists of: packs or files, with their lengths.
    async fn holds(
        &self,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<(ObjectKind, Vec<(Stored, u64)>), ReadError> {
        match commit.sort {
            Sort::Checkpoint => {
                self.manifest(project, commit, &commit.manifest).await?;
                let packs = self.packs_of(project, commit).await?;
                Ok((ObjectKind::Pack, packs.into_iter().map(|row| (row.pack, row.bytes)).collect()))
            }
            Sort::Dataset => {
                let rows = self.dataset(project, commit).await?.rows;
                Ok((ObjectKind::Blob, rows.into_iter().map(|row| (row.blob, row.bytes)).collect()))
            }
        }
    }

    /// Drops steps or versions in one record, while `sound` is there; returns those that were: a pin, a tag or another
    /// drop may come first. `None` where `sound` was dropped meanwhile, and so nothing else.
    async fn drop_all(
        &self,
        request: &RetainRequest,
        name: &Name,
        sound: Sound,
        mut numbers: Vec<u64>,
    ) -> Result<Option<Vec<u64>>, RetainError> {
        let id = request.txn;
        let txn = move |name: &Name, number: u64| {
            TxnId::derive(&[b"retain", id.0.as_bytes(), name.as_str().as_bytes(), &number.to_le_bytes()])
        };
        let time = self.ambient.wall_ms();
        while let Some(first) = numbers.first().copied() {
            let (of, all) = (name.clone(), numbers.clone());
            let propose = move |state: &State| {
                if !sound.is_live(state, &of) {
                    let known = Vec::new();
                    return Err(KeepRefusal::NotLive { name: of.clone(), number: sound.number, known });
                }
                check(state, Verb::Drop, &of, first)?;
                let dropped = all.iter().filter(|number| check(state, Verb::Drop, &of, **number).is_ok());
                let entry =
                    |number: &u64| Entry { txn: txn(&of, *number), time, action: action(Verb::Drop, &of, *number) };
                Ok(dropped.map(entry).collect())
            };
            match self.log(&request.project).append(txn(name, first), propose).await {
                Ok(appended) => {
                    let took =
                        |number: &u64| matches!(appended.state.outcome(txn(name, *number)), Some(Outcome::Took(_)));
                    numbers.retain(took);
                    return Ok(Some(numbers));
                }
                // What is to be kept is never among what is to be dropped.
                Err(AppendError::Refused(KeepRefusal::NotLive { number, .. })) if number == sound.number => {
                    return Ok(None);
                }
                Err(AppendError::Refused(_)) => drop(numbers.remove(0)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(numbers))
    }
}

/// The commit that is kept because it verifies: what goes, goes only while this one is there.
#[derive(Clone, Copy)]
struct Sound {
    number: u64,
    seq: u64,
}

impl Sound {
    fn is_live(self, state: &State, name: &Name) -> bool {
        state.live(name, self.number).is_some_and(|live| live.seq == self.seq)
    }
}

/// Reads the policy of a run or dataset.
fn stored(name: &Name, named: &Named) -> Result<Option<Policy>, RetainError> {
    let broken = |source| RetainError::Policy { name: name.clone(), source };
    let text = named.policy.as_deref().filter(|text| !text.is_empty());
    text.map(Policy::of_text).transpose().map_err(broken)
}

fn candidates(named: &Named) -> Vec<Candidate> {
    let candidate = |(number, live): (&u64, &std::sync::Arc<crate::log::Live>)| Candidate {
        number: *number,
        seq: live.seq,
        time: live.time,
        held: named.pins.contains(number) || named.tags.values().any(|at| at == number),
    };
    named.live.iter().map(candidate).collect()
}
