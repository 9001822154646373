//! Who does what, and the rules that can be broken on purpose.
//!
//! Must never be changed by what happens: a scenario is fixed for a whole search.

/// A rule left out or broken. Each has to be found out by an invariant, or that invariant is worth nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// "Exists" is taken for one's own record, without a look at what the slot holds.
    NoReadBack,
    /// A slot found empty after a doubtful answer is taken for the end of the matter: the operation has "failed".
    GivesUpInDoubt,
    /// Records passed are not searched for one's own transactions.
    NoSearch,
    /// Uploads are not looked at before they are referred to.
    NoExistenceCheck,
    /// After another record took the slot, keys are not tried for usability again.
    NoUsabilityCheck,
    /// What a fence would condemn is deleted before the fence stands in the log.
    DeleteBeforeFence,
    /// What has to be uploaded again gets the name it had.
    SameKeyAgain,
    /// A process that was restarted gives its operation another transaction.
    FreshTransaction,
    /// A pin of a dropped target counts.
    PinOfDroppedTakes,
    /// A drop deletes what the commit referred to.
    DropDeletes,
    /// Epoch of the fence, reachability of the log as the collector saw it before.
    TwoPrefixes,
    /// A second commit of one name counts.
    NameTakenTwice,
    /// A void entry is acknowledged.
    VoidAcknowledged,
    /// Garbage is condemned a fence too late.
    CondemnedLate,
    /// Keys that have become unusable are waited for instead of made anew.
    NeverAnew,
    /// A commit shares a record with a drop, which may take away what keeps its keys usable.
    CommitBesideDrop,
}

impl Mutation {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NoReadBack,
        Self::GivesUpInDoubt,
        Self::NoSearch,
        Self::NoExistenceCheck,
        Self::NoUsabilityCheck,
        Self::DeleteBeforeFence,
        Self::SameKeyAgain,
        Self::FreshTransaction,
        Self::PinOfDroppedTakes,
        Self::DropDeletes,
        Self::TwoPrefixes,
        Self::NameTakenTwice,
        Self::VoidAcknowledged,
        Self::CondemnedLate,
        Self::NeverAnew,
        Self::CommitBesideDrop,
    ];
}

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// A checkpoint is saved: its data, which others may have too, and its own manifest.
    Save {
        /// Under which name.
        name: u8,
        /// The content of its data.
        data: u8,
        /// The content of its manifest.
        manifest: u8,
    },
    /// A checkpoint is pinned once it is live.
    Pin(u8),
    /// A checkpoint is dropped once it is live.
    Drop(u8),
}

/// An operation of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// Who does it.
    pub process: u8,
    /// What it is.
    pub work: Work,
}

/// Everything that is fixed for a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// The operations.
    pub ops: &'static [Op],
    /// How many writers there are.
    pub writers: u8,
    /// How many collectors.
    pub collectors: u8,
    /// The last epoch that fences raise the project to.
    pub last_epoch: u8,
    /// Creations on their way to one slot at most.
    pub in_flight: u8,
    /// Whether somebody reads.
    pub reader: bool,
    /// The rule that is broken.
    pub broken: Option<Mutation>,
    /// The invariants that are looked at: bits of [`invariant`](crate::invariant).
    pub watched: u16,
}

const fn save(process: u8, name: u8, data: u8, manifest: u8) -> Op {
    Op { process, work: Work::Save { name, data, manifest } }
}

const fn pin(process: u8, name: u8) -> Op {
    Op { process, work: Work::Pin(name) }
}

const fn drop(process: u8, name: u8) -> Op {
    Op { process, work: Work::Drop(name) }
}

impl Scenario {
    const fn of(ops: &'static [Op]) -> Self {
        Self {
            ops,
            writers: 2,
            collectors: 1,
            last_epoch: 2,
            in_flight: 3,
            reader: false,
            broken: None,
            watched: u16::MAX,
        }
    }

    /// Two writers save checkpoints that share their data, and the first drops its own.
    pub const fn shared() -> Self {
        Self::of(const { &[save(0, 0, 0, 1), save(1, 1, 0, 2), drop(0, 0)] })
    }

    /// Two writers save the same step with the same data in other words, and the second drops what is there.
    pub const fn one_name() -> Self {
        Self::of(const { &[save(0, 0, 0, 1), save(1, 0, 0, 2), drop(1, 0)] })
    }

    /// A checkpoint is pinned and dropped by one process, which may put both in one record.
    pub const fn pinned() -> Self {
        Self::of(const { &[save(0, 0, 0, 1), pin(1, 0), drop(1, 0)] })
    }

    /// The same, beside another save that shares its data.
    pub const fn pinned_and_shared() -> Self {
        Self::of(const { &[save(0, 0, 0, 1), pin(1, 0), drop(1, 0), save(1, 1, 0, 2)] })
    }

    /// Three writers, two collectors and a reader: too many states for every change, so for a soak.
    pub const fn soak() -> Self {
        let ops = const { &[save(0, 0, 0, 1), save(1, 1, 0, 2), save(2, 1, 0, 3), pin(2, 0), drop(1, 0)] };
        Self { writers: 3, collectors: 2, in_flight: 5, reader: true, ..Self::of(ops) }
    }

    /// Returns this scenario with a rule broken, of which only `watched` invariants may tell.
    pub const fn breaking(self, broken: Mutation, watched: u16) -> Self {
        Self { broken: Some(broken), watched, ..self }
    }

    /// Tells whether states may be told apart by what their logs add up to. Not where a rule is broken that makes
    /// somebody look at single records, nor where a reader holds on to a commit that was dropped.
    pub(crate) fn folds_logs(&self) -> bool {
        self.broken.is_none() && !self.reader
    }

    /// Tells whether this rule is the broken one.
    pub fn breaks(&self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }
}
