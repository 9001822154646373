//! Parquet's hybrid of runs and bit-packed values, by which levels and dictionary indices are written.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/Encodings.md#RLE>. Must never return more values than
//! were asked for, and never read past the bytes.

/// Values that are written together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run<'a> {
    /// One value, this many times.
    Same { value: u32, len: usize },
    /// This many values of the width of the runs, one after the other from the lowest bit on.
    Packed { bytes: &'a [u8], len: usize },
}

/// Goes over the runs that make a number of values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs<'a> {
    rest: &'a [u8],
    width: u32,
    left: usize,
}

/// The bytes end before their values do, or hold a number that none can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunsEnded;

impl<'a> Runs<'a> {
    /// Starts on `values` values of `width` bits, at most 32.
    pub(super) fn new(bytes: &'a [u8], width: u32, values: usize) -> Self {
        Self { rest: bytes, width, left: values }
    }

    /// Returns the next run; none where all values were read.
    pub(super) fn next_run(&mut self) -> Result<Option<Run<'a>>, RunsEnded> {
        if self.left == 0 {
            return Ok(None);
        }
        let head = self.varint()?;
        let (len, packed) = ((head >> 1) as usize, head & 1 == 1);
        if !packed {
            let (value, rest) = self.rest.split_at_checked(self.width.div_ceil(8) as usize).ok_or(RunsEnded)?;
            self.rest = rest;
            let value = value.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            if value >> self.width != 0 {
                return Err(RunsEnded);
            }
            let len = len.min(self.left);
            self.left -= len;
            return Ok(Some(Run::Same { value: value as u32, len }));
        }
        // The last group may be cut where its values end.
        let values = len.saturating_mul(8);
        let stored = len.saturating_mul(self.width as usize).min(self.rest.len());
        let len = values.min(self.left);
        if (stored as u64) * 8 < len as u64 * u64::from(self.width) {
            return Err(RunsEnded);
        }
        let (bytes, rest) = self.rest.split_at(stored);
        (self.rest, self.left) = (rest, self.left - len);
        Ok(Some(Run::Packed { bytes, len }))
    }

    fn varint(&mut self) -> Result<u32, RunsEnded> {
        let mut number = 0u32;
        for shift in (0..32).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(RunsEnded)?;
            self.rest = rest;
            let bits = u32::from(byte & 127);
            if shift == 28 && bits > 15 {
                return Err(RunsEnded);
            }
            number |= bits << shift;
            if *byte < 128 {
                return Ok(number);
            }
        }
        Err(RunsEnded)
    }
}

/// Calls `each` with `values` values of `width` bits, at most 57, that are packed from the lowest bit on; there are
/// bytes for all of them.
pub(super) fn unpack<E>(
    bytes: &[u8],
    width: u32,
    values: usize,
    mut each: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    let mask = (1u64 << width) - 1;
    let at = |value: usize| (value * width as usize / 8, (value * width as usize % 8) as u32);
    // Eight bytes are read for each value while there are as many.
    let whole = if width == 0 { values } else { (bytes.len().saturating_sub(7) * 8 / width as usize).min(values) };
    for value in 0..whole {
        let (byte, bit) = at(value);
        let Some(word) = bytes.get(byte..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        each(u64::from_le_bytes(*word) >> bit & mask)?;
    }
    for value in whole..values {
        let (byte, bit) = at(value);
        let rest = bytes.get(byte..).unwrap_or_default();
        let mut word = [0; 8];
        let len = rest.len().min(8);
        word[..len].copy_from_slice(&rest[..len]);
        each(u64::from_le_bytes(word) >> bit & mask)?;
    }
    Ok(())
}
