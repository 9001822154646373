//! DELTA_BINARY_PACKED, which some writers use for every integer.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/Encodings.md#delta-encoding-delta_binary_packed--5>.
//! Must never return more values than were asked for, and never reserve memory.

use super::pages::PageFault;
use super::values::{ValueFault, short};

/// Values of a block: 2^20 at most, far over the 128 that writers use.
const MAX_BLOCK: u64 = 1 << 20;

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ValueFault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ValueFault> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(PageFault::Values("a number takes more than 64 bits").into())
    }

    fn zigzag(&mut self) -> Result<u64, ValueFault> {
        let number = self.varint()?;
        Ok((number >> 1) ^ (number & 1).wrapping_neg())
    }
}

/// Calls `each` with the bits of `count` values that are stored in four or eight bytes elsewhere.
pub(super) fn delta_values(
    bytes: &[u8],
    count: usize,
    stored: usize,
    mut each: impl FnMut(u64) -> Result<(), ValueFault>,
) -> Result<(), ValueFault> {
    let mut bytes = Bytes { rest: bytes };
    let refuse = |what| Err(PageFault::Values(what).into());
    let (block, parts, total) = (bytes.varint()?, bytes.varint()?, bytes.varint()?);
    let mut value = bytes.zigzag()?;
    if total != count as u64 {
        return if total < count as u64 { Err(short()) } else { refuse("there are more than the page says") };
    }
    if block > MAX_BLOCK || parts == 0 || !block.is_multiple_of(parts) || !(block / parts).is_multiple_of(8) {
        return refuse("blocks are not cut as the encoding says");
    }
    let part = (block / parts) as usize;
    let mask = u64::MAX >> (64 - 8 * stored);
    let mut left = count;
    if left > 0 {
        each(value & mask)?;
        left -= 1;
    }
    while left > 0 && part > 0 {
        let least = bytes.zigzag()?;
        for width in bytes.take(parts as usize)? {
            let width = u32::from(*width);
            // The widths of parts after the last value mean nothing.
            let values = part.min(left);
            if values == 0 {
                break;
            }
            if width as usize > 8 * stored {
                return refuse("deltas are wider than values");
            }
            // The last part may be cut where its values end.
            let whole = part * width as usize / 8;
            let packed = bytes.take(whole.min(bytes.rest.len()))?;
            if packed.len() * 8 < values * width as usize {
                return Err(short());
            }
            for i in 0..values {
                value = value.wrapping_add(least).wrapping_add(bits(packed, i * width as usize, width));
                each(value & mask)?;
            }
            left -= values;
        }
    }
    if left > 0 { refuse("blocks have no values") } else { Ok(()) }
}

/// Returns `width` bits, at most 64, from the bit `at` on; bytes that are not there are zero.
fn bits(packed: &[u8], at: usize, width: u32) -> u64 {
    let rest = packed.get(at / 8..).unwrap_or_default();
    let mut word = [0; 16];
    let len = rest.len().min(9);
    word[..len].copy_from_slice(&rest[..len]);
    let mask = u128::from(u64::MAX).checked_shr(64 - width).unwrap_or(0);
    (u128::from_le_bytes(word) >> (at % 8) & mask) as u64
}
