//! The check of a whole pack whose bytes pass by: on upload before it is accepted, and in scrubbing.
//!
//! Must never keep more than one frame and the group it decodes to, and must never panic, whatever the bytes.

use super::codec::{CodecError, decode_group};
use super::header::{PackEntry, PackHeader};
use super::slice::Coding;
use crate::digest::Digest;
use crate::range::ByteRange;
use crate::verified::{GroupMismatch, StreamCheck};

/// Checks the bytes after a pack's header: raw slices group by group, coded ones frame by frame, pads for zeros.
pub struct PackCheck {
    header: PackHeader,
    /// All places of slices and pads, in the order of the object.
    places: Vec<Place>,
    /// The place that is being checked.
    index: usize,
    state: State,
    /// Bytes of the object that were taken, the header included.
    position: u64,
    /// The first damage; every later call returns it again.
    damage: Option<PackDamage>,
}

#[derive(Clone, Copy)]
struct Place {
    range: ByteRange,
    /// Position of the entry; `None` for a pad.
    entry: Option<usize>,
}

enum State {
    /// At the start of a place.
    Start,
    Pad,
    Raw(StreamCheck),
    Coded(CodedCheck),
}

/// Where a pack is damaged, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pack {pack} is damaged in {range}{}: {fault}", of_slice(slice.as_deref()))]
pub struct PackDamage {
    /// The pack's name.
    pub pack: Digest,
    /// The slice, as name and box; `None` for a pad, or where the object is too short or too long.
    pub slice: Option<Box<str>>,
    /// The bytes of the object that are not what they should be: a group, a frame, a slice, or what is missing.
    pub range: ByteRange,
    /// What is wrong with them.
    #[source]
    pub fault: Box<PackFault>,
}

/// How bytes of a pack differ from what its header says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackFault {
    /// A group has another digest. For a coded slice, of the bytes that its frame decodes to.
    #[error("group {index} of the slice should have BLAKE3 value {expected}, but has {actual}")]
    Group {
        /// Which group of the slice.
        index: u64,
        /// The value in the header.
        expected: Digest,
        /// The value of the bytes.
        actual: Digest,
    },
    /// A frame can't be decoded to its group.
    #[error("frame {index} of the slice: {source}")]
    Frame {
        /// Which frame of the slice.
        index: u64,
        /// What is wrong.
        source: CodecError,
    },
    /// The frames of a slice decode to what they should, but are others than those the header says.
    #[error("stored bytes should have BLAKE3 {expected}, but have {actual}")]
    Stored {
        /// The digest in the header.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// A pad holds something.
    #[error("pad should be zero, but byte {position} of the object is {found:#04x}")]
    Pad {
        /// Position in the object.
        position: u64,
        /// The byte.
        found: u8,
    },
    /// The object ends too early.
    #[error("the object should have {expected} bytes, but ends after {actual}")]
    Short {
        /// Bytes of the object by its header.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// The object goes on past its end.
    #[error("the object should have {expected} bytes, but goes on")]
    Long {
        /// Bytes of the object by its header.
        expected: u64,
    },
}

/// A fault and the bytes of the object that it is in.
type Found = (ByteRange, PackFault);

impl PackCheck {
    /// Starts at the first byte after the header.
    pub fn new(header: PackHeader) -> Self {
        let slices = header.entries().iter().enumerate().map(|(i, e)| Place { range: e.stored, entry: Some(i) });
        let pads = header.pads().iter().map(|range| Place { range: *range, entry: None });
        let mut places: Vec<Place> = slices.chain(pads).collect();
        places.sort_by_key(|place| (place.range, place.entry));
        let position = header.header_len();
        Self { header, places, index: 0, state: State::Start, position, damage: None }
    }

    /// Takes the next bytes; fails at the end of the first group, frame or pad that is damaged, and at once when more
    /// bytes come than the pack has. After a failure every call fails with the same damage.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), PackDamage> {
        while !bytes.is_empty() {
            self.start_place()?;
            let Some(place) = self.places.get(self.index).copied() else {
                let expected = self.header.object_len();
                let end = expected.saturating_add(bytes.len() as u64);
                let more = ByteRange::new(expected, end).expect("an end after the start");
                return Err(self.fail(None, (more, PackFault::Long { expected })));
            };
            let room = usize::try_from(place.range.end() - self.position).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            self.take(place, piece).map_err(|found| self.fail(place.entry, found))?;
            self.position += piece.len() as u64;
            if self.position == place.range.end() {
                self.end_place(place)?;
            }
            bytes = rest;
        }
        self.damage.clone().map_or(Ok(()), Err)
    }

    /// Ends the object; fails where bytes are missing.
    pub fn finish(mut self) -> Result<(), PackDamage> {
        self.start_place()?;
        let (expected, actual) = (self.header.object_len(), self.position);
        match self.places.get(self.index) {
            None => Ok(()),
            Some(place) => {
                let missing = ByteRange::new(actual, expected).unwrap_or(place.range);
                Err(self.fail(None, (missing, PackFault::Short { expected, actual })))
            }
        }
    }

    /// Gets ready for the place at the position, and checks places without bytes on the way to it.
    fn start_place(&mut self) -> Result<(), PackDamage> {
        if let Some(damage) = &self.damage {
            return Err(damage.clone());
        }
        while let (State::Start, Some(place)) = (&self.state, self.places.get(self.index).copied()) {
            self.state = match place.entry.map(|i| &self.header.entries()[i]) {
                None => State::Pad,
                Some(entry) => match &entry.slice.coding {
                    Coding::Raw => State::Raw(StreamCheck::new(entry.slice.tree.clone())),
                    Coding::ZstdPlanes { .. } => State::Coded(CodedCheck::default()),
                },
            };
            if place.range.is_empty() {
                self.end_place(place)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, place: Place, piece: &[u8]) -> Result<(), Found> {
        let entry = place.entry.map(|i| &self.header.entries()[i]);
        match (&mut self.state, entry) {
            (State::Raw(check), Some(entry)) => check.update(piece).map_err(|mismatch| in_object(entry, mismatch)),
            (State::Coded(check), Some(entry)) => check.update(entry, piece),
            _ => match piece.iter().position(|byte| *byte != 0) {
                None => Ok(()),
                Some(at) => {
                    let position = self.position + at as u64;
                    Err((place.range, PackFault::Pad { position, found: piece[at] }))
                }
            },
        }
    }

    fn end_place(&mut self, place: Place) -> Result<(), PackDamage> {
        let state = std::mem::replace(&mut self.state, State::Start);
        self.index += 1;
        let entry = place.entry.map(|i| &self.header.entries()[i]);
        let ended = match (state, entry) {
            (State::Raw(check), Some(entry)) => check.finish().map_err(|mismatch| in_object(entry, mismatch)),
            (State::Coded(check), Some(entry)) => check.finish(entry),
            _ => Ok(()),
        };
        ended.map_err(|found| self.fail(place.entry, found))
    }

    fn fail(&mut self, entry: Option<usize>, (range, fault): Found) -> PackDamage {
        let slice = entry.map(|i| self.header.entries()[i].slice.slice.to_string().into_boxed_str());
        let damage = PackDamage { pack: self.header.name(), slice, range, fault: Box::new(fault) };
        self.damage = Some(damage.clone());
        damage
    }
}

/// The check of one coded slice.
#[derive(Default)]
struct CodedCheck {
    /// Hashes all stored bytes.
    stored: blake3::Hasher,
    /// The frame that is being taken.
    index: u64,
    /// What came of it so far, where it did not come in one piece.
    partial: Vec<u8>,
}

impl CodedCheck {
    fn update(&mut self, entry: &PackEntry, mut piece: &[u8]) -> Result<(), Found> {
        self.stored.update(piece);
        let Coding::ZstdPlanes { frames, .. } = &entry.slice.coding else { return Ok(()) };
        // A piece ends with the slice's place at the latest, which is as long as all frames.
        while self.index < frames.count() {
            let len = entry.stored_groups(self.index..self.index + 1).len() as usize;
            let missing = len - self.partial.len();
            if piece.len() < missing {
                self.partial.extend_from_slice(piece);
                return Ok(());
            }
            let (rest_of_frame, rest) = piece.split_at(missing);
            if self.partial.is_empty() {
                self.check_frame(entry, rest_of_frame)?;
            } else {
                self.partial.extend_from_slice(rest_of_frame);
                let frame = std::mem::take(&mut self.partial);
                self.check_frame(entry, &frame)?;
            }
            self.index += 1;
            piece = rest;
        }
        Ok(())
    }

    fn check_frame(&self, entry: &PackEntry, frame: &[u8]) -> Result<(), Found> {
        let (slice, index) = (&entry.slice, self.index);
        let range = entry.stored_groups(index..index + 1);
        let len = slice.tree.group_range(index).len();
        let group = decode_group(frame, slice.slice.dtype(), len)
            .map_err(|source| (range, PackFault::Frame { index, source }))?;
        slice.tree.check_group(index, &group).map_err(|mismatch| (range, of_group(mismatch)))
    }

    fn finish(self, entry: &PackEntry) -> Result<(), Found> {
        let actual = Digest::from(self.stored.finalize());
        match entry.slice.coding {
            Coding::ZstdPlanes { stored: expected, .. } if expected != actual => {
                Err((entry.stored, PackFault::Stored { expected, actual }))
            }
            _ => Ok(()),
        }
    }
}

/// A mismatch of a raw slice, its group's place counted from the start of the object.
fn in_object(entry: &PackEntry, mismatch: GroupMismatch) -> Found {
    let range = ByteRange::with_len(entry.stored.start() + mismatch.range.start(), mismatch.range.len());
    (range.unwrap_or(entry.stored), of_group(mismatch))
}

fn of_group(mismatch: GroupMismatch) -> PackFault {
    PackFault::Group { index: mismatch.index, expected: mismatch.expected, actual: mismatch.actual }
}

fn of_slice(slice: Option<&str>) -> String {
    slice.map(|name| format!(" of slice {name:?}")).unwrap_or_default()
}

#[cfg(test)]
#[path = "verify_test.rs"]
mod tests;
