//! The values of a page, turned to tokens: copied, narrowed or looked up.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/Encodings.md>. Must never return a token that the
//! column's declared type or the buffer can't hold, or, but where it is left as it lies, that is not in the dictionary.

use super::delta::delta_values;
use super::pages::PageFault;
use super::runs::{Run, Runs, RunsEnded, unpack};
use super::stored::SHORTEST_RUN;

const PLAIN: i32 = 0;
const PLAIN_DICTIONARY: i32 = 2;
const DELTA_BINARY_PACKED: i32 = 5;
const RLE_DICTIONARY: i32 = 8;
const BYTE_STREAM_SPLIT: i32 = 9;

/// Tokens that are copied, and then looked at, at a time: 8,192, which are at most 64 KiB where they are read and where
/// they are written, and stay in the second-level cache.
const BLOCK: usize = 8192;

/// A token in memory.
pub(super) trait Token: Copy + 'static {
    /// The greatest one.
    const MAX: u32;

    /// Keeps the low bits.
    fn cut(value: u64) -> Self;

    /// Returns the token of two bytes.
    fn of_u16(value: u16) -> Self;

    fn into_u32(self) -> u32;
}

impl Token for u16 {
    const MAX: u32 = u16::MAX as u32;

    fn cut(value: u64) -> Self {
        value as Self
    }

    fn of_u16(value: u16) -> Self {
        value
    }

    fn into_u32(self) -> u32 {
        self.into()
    }
}

impl Token for u32 {
    const MAX: u32 = Self::MAX;

    fn cut(value: u64) -> Self {
        value as Self
    }

    fn of_u16(value: u16) -> Self {
        value.into()
    }

    fn into_u32(self) -> u32 {
        self
    }
}

/// The values of a page.
pub(super) struct Values<'a, T> {
    pub(super) encoding: i32,
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
    pub(super) kind: ValueKind,
    pub(super) dictionary: Option<&'a Dictionary<T>>,
}

/// Where the values of pages go, one after the other.
pub(super) trait Sink<T> {
    /// Returns how many values went there.
    fn len(&self) -> usize;

    /// Appends the values of a page.
    fn values(&mut self, page: Values<'_, T>) -> Result<(), ValueFault>;
}

/// Why values are not taken.
#[derive(Debug)]
pub(super) enum ValueFault {
    /// The value at this position of the page can't be a token; its bits, as they are stored.
    Value(usize, u64),
    Page(PageFault),
}

/// How the values of a column are stored, and what they may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueKind {
    /// Bytes of a value: four or eight.
    pub(super) stored: usize,
    /// Greatest value: one less than a power of two.
    pub(super) limit: u32,
}

/// The entries of a dictionary page.
pub(super) struct Dictionary<T> {
    entries: Vec<T>,
    /// Entry `i` is `i`, for all of them, so that indices are the tokens.
    identity: bool,
    /// The entries as they are stored, where some are over the limit.
    refused: Option<Vec<u64>>,
    limit: u32,
}

impl From<PageFault> for ValueFault {
    fn from(fault: PageFault) -> Self {
        Self::Page(fault)
    }
}

impl From<RunsEnded> for ValueFault {
    fn from(_: RunsEnded) -> Self {
        short()
    }
}

pub(super) fn short() -> ValueFault {
    ValueFault::Page(PageFault::Values("they end before the page has as many as it says"))
}

impl<T: Token> Dictionary<T> {
    /// Reads a dictionary page of `count` entries.
    pub(super) fn read(encoding: i32, bytes: &[u8], count: usize, kind: ValueKind) -> Result<Self, PageFault> {
        if encoding != PLAIN && encoding != PLAIN_DICTIONARY {
            return Err(PageFault::Unused { what: "encoding of a dictionary", actual: encoding.into() });
        }
        let (expected, actual) = (count * kind.stored, bytes.len());
        if expected != actual {
            return Err(PageFault::Unfolded { expected, actual });
        }
        let mut entries = Vec::with_capacity(count);
        let refused = match plain(bytes, count, kind, &mut entries) {
            Ok(()) => None,
            Err(ValueFault::Value(..)) => Some(raw(bytes, kind.stored).collect()),
            Err(ValueFault::Page(fault)) => return Err(fault),
        };
        let identity = refused.is_none() && entries.iter().zip(0..).all(|(entry, i): (&T, u32)| entry.into_u32() == i);
        Ok(Self { entries, identity, refused, limit: kind.limit })
    }

    fn values(&self, bytes: &[u8], count: usize, into: &mut Vec<T>) -> Result<(), ValueFault> {
        let Some((width, rest)) = bytes.split_first() else { return if count == 0 { Ok(()) } else { Err(short()) } };
        let width = u32::from(*width);
        if width > 32 {
            return Err(PageFault::Values("indices are of more than 32 bits").into());
        }
        let (first, beyond) = (into.len(), || PageFault::Values("an index is beyond the dictionary").into());
        let mut runs = Runs::new(rest, width, count);
        while let Some(run) = runs.next_run()? {
            match run {
                Run::Same { value, len } => {
                    let entry = self.entry(value.into(), into.len() - first)?;
                    into.resize(into.len() + len, entry);
                }
                Run::Packed { bytes, len } if width == 16 && self.identity => {
                    if !identical(&bytes[..2 * len], self.entries.len(), into) {
                        return Err(beyond());
                    }
                }
                Run::Packed { bytes, len } if self.refused.is_none() => {
                    let entries = self.entries.as_slice();
                    unpack(bytes, width, len, |index| {
                        into.push(*entries.get(index as usize).ok_or_else(beyond)?);
                        Ok::<(), ValueFault>(())
                    })?;
                }
                // Slower, and names the value that is refused.
                Run::Packed { bytes, len } => unpack(bytes, width, len, |index| {
                    into.push(self.entry(index, into.len() - first)?);
                    Ok::<(), ValueFault>(())
                })?,
            }
        }
        Ok(())
    }

    /// Returns the greatest token of two bytes that it has, where it has any.
    pub(super) fn greatest(&self) -> Option<u16> {
        self.entries.len().checked_sub(1).map(|last| u16::try_from(last).unwrap_or(u16::MAX))
    }

    /// Returns the indices of a page as they lie in it, where they are tokens of two bytes in long runs. They may be
    /// beyond the dictionary.
    pub(super) fn flat<'b>(
        &self,
        encoding: i32,
        bytes: &'b [u8],
        count: usize,
    ) -> Result<Option<Vec<&'b [u8]>>, ValueFault> {
        let indices = encoding == PLAIN_DICTIONARY || encoding == RLE_DICTIONARY;
        let Some((16, rest)) = bytes.split_first().filter(|_| indices && self.identity) else { return Ok(None) };
        let (mut found, mut left) = (Vec::new(), count);
        let mut runs = Runs::new(rest, 16, count);
        while let Some(run) = runs.next_run()? {
            let Run::Packed { bytes, len } = run else { return Ok(None) };
            left -= len;
            if len < SHORTEST_RUN && left > 0 {
                return Ok(None);
            }
            found.push(&bytes[..2 * len]);
        }
        Ok(Some(found))
    }

    /// Returns the entry that the value at a position of the page names.
    fn entry(&self, index: u64, position: usize) -> Result<T, ValueFault> {
        let index = index as usize;
        let stored = self.refused.as_ref().and_then(|stored| stored.get(index).copied());
        if let Some(stored) = stored.filter(|stored| *stored > self.limit.into()) {
            return Err(ValueFault::Value(position, stored));
        }
        let beyond = PageFault::Values("an index is beyond the dictionary");
        self.entries.get(index).copied().ok_or(beyond.into())
    }
}

/// Copies indices that are tokens; returns false where one is not below `entries`.
fn identical<T: Token>(bytes: &[u8], entries: usize, into: &mut Vec<T>) -> bool {
    let words = bytes.as_chunks::<2>().0;
    let copy = |block: &[[u8; 2]], into: &mut Vec<T>| {
        into.extend(block.iter().map(|word| T::of_u16(u16::from_le_bytes(*word))));
    };
    let Some(last) = entries.checked_sub(1) else { return words.is_empty() };
    let Ok(last) = u16::try_from(last) else {
        copy(words, into);
        return true;
    };
    let mut over = 0;
    for block in words.chunks(BLOCK) {
        copy(block, into);
        over |= block.iter().fold(0, |over, word| over | u16::from_le_bytes(*word).saturating_sub(last));
    }
    over == 0
}

impl<T: Token> Sink<T> for Vec<T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn values(&mut self, page: Values<'_, T>) -> Result<(), ValueFault> {
        let Values { encoding, bytes, count, kind, dictionary } = page;
        match encoding {
            PLAIN => plain(bytes, count, kind, self),
            PLAIN_DICTIONARY | RLE_DICTIONARY => {
                let missing = PageFault::Dictionary("its values are in a dictionary, which is missing before it");
                dictionary.ok_or(missing)?.values(bytes, count, self)
            }
            DELTA_BINARY_PACKED => {
                let first = self.len();
                delta_values(bytes, count, kind.stored, |value| {
                    self.push(checked(value, self.len() - first, kind)?);
                    Ok(())
                })
            }
            BYTE_STREAM_SPLIT => {
                let planes = bytes.get(..count * kind.stored).ok_or_else(short)?;
                for i in 0..count {
                    let byte = |plane: usize| u64::from(planes[plane * count + i]) << (8 * plane);
                    self.push(checked((0..kind.stored).map(byte).sum(), i, kind)?);
                }
                Ok(())
            }
            actual => Err(PageFault::Unused { what: "encoding", actual: actual.into() }.into()),
        }
    }
}

fn checked<T: Token>(value: u64, position: usize, kind: ValueKind) -> Result<T, ValueFault> {
    if value > kind.limit.into() { Err(ValueFault::Value(position, value)) } else { Ok(T::cut(value)) }
}

fn raw(bytes: &[u8], stored: usize) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(stored).map(|value| value.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Narrows values. Limits are one less than a power of two, so that the bits of all values together tell whether one of
/// them is over it.
fn plain<T: Token>(bytes: &[u8], count: usize, kind: ValueKind, into: &mut Vec<T>) -> Result<(), ValueFault> {
    let bytes = bytes.get(..count * kind.stored).ok_or_else(short)?;
    let limit = u64::from(kind.limit);
    debug_assert!((limit + 1).is_power_of_two());
    let mut bits = 0u64;
    if kind.stored == 4 {
        for block in bytes.as_chunks::<4>().0.chunks(BLOCK) {
            into.extend(block.iter().map(|word| T::cut(u32::from_le_bytes(*word).into())));
            bits |= u64::from(block.iter().fold(0, |bits, word| bits | u32::from_le_bytes(*word)));
        }
    } else {
        for block in bytes.as_chunks::<8>().0.chunks(BLOCK) {
            into.extend(block.iter().map(|word| T::cut(u64::from_le_bytes(*word))));
            bits |= block.iter().fold(0, |bits, word| bits | u64::from_le_bytes(*word));
        }
    }
    if bits <= limit {
        return Ok(());
    }
    let refused = raw(bytes, kind.stored).enumerate().find(|(_, value)| *value > limit);
    refused.map_or(Ok(()), |(position, value)| Err(ValueFault::Value(position, value)))
}
