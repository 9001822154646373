//! Where the frames of a coded slice lie.
//!
//! Must never sum up all frames before one to find it: a slice has up to 16,384, and readers ask for each.

/// The frames of one slice, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frames {
    /// Where each ends, counted from the start of the first.
    ends: Vec<u64>,
}

impl Frames {
    /// Adds a frame of `len` bytes. One after 2^64 bytes has none: no slice with such frames passes for one.
    pub fn push(&mut self, len: u64) {
        self.ends.push(self.bytes().saturating_add(len));
    }

    /// Returns the number of frames.
    pub fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Returns the bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Returns where frame `index` starts, counted from the first: the end of all for one that is not there.
    pub fn start(&self, index: u64) -> u64 {
        let before = usize::try_from(index).map_or(self.ends.len(), |index| index.min(self.ends.len()));
        before.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// Returns the bytes of each.
    pub fn lens(&self) -> impl Iterator<Item = u64> {
        (0..self.count()).map(|index| self.start(index + 1) - self.start(index))
    }
}

impl FromIterator<u64> for Frames {
    fn from_iter<I: IntoIterator<Item = u64>>(lens: I) -> Self {
        let mut frames = Self::default();
        lens.into_iter().for_each(|len| frames.push(len));
        frames
    }
}
