//! Entries, records, and the fold: which entries take effect, and which keys each fence condemns.
//!
//! Must never look at anything but the records.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::scenario::Mutation;

/// Operations of a scenario at most: a transaction has three bits for its operation.
pub const MAX_OPS: usize = 8;

/// Entries of a record at most: two show all that a group can do to each other.
pub const GROUP: usize = 2;

/// Epochs that keys can tell apart.
const EPOCHS: u8 = 4;

/// A set of keys; bit `4 x content + epoch` is the object of that content that was uploaded in that epoch.
pub type Keys = u16;

/// The keys of epochs below 0, 1, 2, 3 and 4.
const BELOW: [Keys; 5] = [0, 0x1111, 0x3333, 0x7777, 0xffff];

/// Returns the key of `content` in `epoch`.
pub fn key(content: u8, epoch: u8) -> Keys {
    1 << (content * EPOCHS + epoch)
}

/// Returns the keys of epochs below `epoch`.
pub fn below(epoch: u8) -> Keys {
    BELOW[usize::from(epoch)]
}

/// Returns the keys that are usable in `epoch` though no commit keeps them.
pub fn usable(epoch: u8) -> Keys {
    below(epoch + 1) & !below(epoch.saturating_sub(1))
}

/// Returns the keys that a fence which raises the project to `epoch` condemns where no commit keeps them: those whose
/// epoch is two below it, or older.
pub fn expired(epoch: u8) -> Keys {
    below(epoch.saturating_sub(1))
}

/// What an entry does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Makes a checkpoint of these keys visible under a name.
    Commit {
        /// Its name: run and step.
        name: u8,
        /// All that it refers to, its own manifest too.
        keys: Keys,
    },
    /// Keeps a checkpoint from being dropped.
    Pin {
        /// Its name.
        name: u8,
    },
    /// Takes a checkpoint away.
    Drop {
        /// Its name.
        name: u8,
    },
    /// Raises the epoch.
    Fence {
        /// To what.
        epoch: u8,
    },
}

/// An entry in 32 bits: keys (16), transaction (6), kind (3), name or epoch (3). 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Entry(pub(crate) u32);

impl Entry {
    /// Packs an entry.
    pub fn new(txn: u8, act: Act) -> Self {
        let (kind, argument, keys) = match act {
            Act::Commit { name, keys } => (1, name, keys),
            Act::Pin { name } => (2, name, 0),
            Act::Drop { name } => (3, name, 0),
            Act::Fence { epoch } => (4, epoch, 0),
        };
        Self(u32::from(keys) | u32::from(txn) << 16 | kind << 22 | u32::from(argument) << 25)
    }

    /// Returns its transaction.
    pub fn txn(self) -> u8 {
        (self.0 >> 16) as u8 & 0x3f
    }

    /// Returns what it does; `None` for no entry.
    pub fn act(self) -> Option<Act> {
        let argument = (self.0 >> 25) as u8 & 7;
        match self.0 >> 22 & 7 {
            1 => Some(Act::Commit { name: argument, keys: self.0 as Keys }),
            2 => Some(Act::Pin { name: argument }),
            3 => Some(Act::Drop { name: argument }),
            4 => Some(Act::Fence { epoch: argument }),
            _ => None,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.act() {
            Some(act) => write!(f, "{act:?} of {}", self.txn()),
            None => f.write_str("-"),
        }
    }
}

/// A record of one or two entries.
pub type Record = [Entry; GROUP];

/// A live commit.
#[derive(Clone, Copy, Default, Debug)]
pub struct Live {
    /// Its transaction.
    pub txn: u8,
    /// Its name.
    pub name: u8,
    /// Its keys.
    pub keys: Keys,
}

/// What a log adds up to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Folded {
    /// The epoch.
    pub epoch: u8,
    live: [Live; MAX_OPS],
    lives: u8,
    /// Pinned names, a bit each.
    pub pins: u8,
    /// Names that ever had a commit, a bit each.
    pub named: u8,
    /// Transactions that took effect, a bit each.
    pub took: u64,
    /// Transactions without effect, a bit each.
    pub void: u64,
    /// How often each operation took effect: once for each of its transactions that did.
    pub effects: [u8; MAX_OPS],
    /// Keys that some fence condemned.
    pub condemned: Keys,
    /// Keys that commits kept at the newest fence.
    pub kept_at_fence: Keys,
    /// Whether a commit took effect with a key that was not usable.
    pub unusable: bool,
}

impl Hash for Folded {
    fn hash<H: Hasher>(&self, to: &mut H) {
        // The order of live commits says when each came, which decides nothing.
        let mut live = [0u32; MAX_OPS];
        let packed = |live: &Live| u32::from(live.keys) | u32::from(live.txn) << 16 | u32::from(live.name) << 24;
        self.live().iter().zip(&mut live).for_each(|(live, to)| *to = packed(live) + 1);
        live.sort_unstable();
        live.chunks_exact(2).for_each(|two| to.write_u64(u64::from(two[0]) | u64::from(two[1]) << 32));
        to.write_u64(self.took);
        to.write_u64(self.void);
        let keys = u64::from(self.condemned) | u64::from(self.kept_at_fence) << 16;
        let bits = [self.epoch, self.pins, self.named, u8::from(self.unusable)];
        to.write_u64(keys | u64::from(u32::from_le_bytes(bits)) << 32);
    }
}

impl Folded {
    /// Folds records.
    pub fn of(records: &[Record], broken: Option<Mutation>) -> Self {
        let mut folded = Self::default();
        for entry in records.iter().flatten() {
            folded.fold(*entry, broken);
        }
        folded
    }

    /// Returns the live commits.
    pub fn live(&self) -> &[Live] {
        &self.live[..usize::from(self.lives)]
    }

    /// Returns the keys that live commits keep.
    pub fn kept(&self) -> Keys {
        self.live().iter().fold(0, |keys, live| keys | live.keys)
    }

    /// Tells whether a commit of this name is live.
    pub fn is_live(&self, name: u8) -> bool {
        self.live().iter().any(|live| live.name == name)
    }

    /// Tells whether all of `keys` are usable after these records.
    pub fn is_usable(&self, keys: Keys) -> bool {
        keys & !(usable(self.epoch) | self.kept()) == 0
    }

    /// Tells whether a record has this transaction.
    pub fn has(&self, txn: u8) -> bool {
        (self.took | self.void) >> txn & 1 == 1
    }

    fn fold(&mut self, entry: Entry, broken: Option<Mutation>) {
        let Some(act) = entry.act() else { return };
        if self.has(entry.txn()) {
            return;
        }
        let takes = match act {
            Act::Commit { name, .. } => !self.is_live(name) || broken == Some(Mutation::NameTakenTwice),
            Act::Pin { name } => self.is_live(name) || broken == Some(Mutation::PinOfDroppedTakes),
            Act::Drop { name } => self.is_live(name) && self.pins >> name & 1 == 0,
            Act::Fence { epoch } => epoch == self.epoch + 1,
        };
        if !takes {
            self.void |= 1 << entry.txn();
            return;
        }
        self.took |= 1 << entry.txn();
        if !matches!(act, Act::Fence { .. }) {
            self.effects[usize::from(entry.txn()) % MAX_OPS] += 1;
        }
        self.apply(entry.txn(), act);
    }

    fn apply(&mut self, txn: u8, act: Act) {
        match act {
            Act::Commit { name, keys } => {
                self.unusable |= !self.is_usable(keys);
                self.live[usize::from(self.lives)] = Live { txn, name, keys };
                self.lives += 1;
                self.named |= 1 << name;
            }
            Act::Pin { name } => self.pins |= 1 << name,
            Act::Drop { name } => {
                let mut stay = 0;
                for at in 0..usize::from(self.lives) {
                    if self.live[at].name != name {
                        self.live[stay] = self.live[at];
                        stay += 1;
                    }
                }
                self.lives = stay as u8;
            }
            Act::Fence { epoch } => {
                self.epoch = epoch;
                self.kept_at_fence = self.kept();
                self.condemned |= expired(epoch) & !self.kept_at_fence;
            }
        }
    }
}
