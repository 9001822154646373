//! Lengths of time as they are typed: `90s`, `15m`, `6h`, `30d`.
//!
//! Must never guess a unit.

use std::time::Duration;

/// The units, and their seconds.
const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 7 * 86_400)];

/// Reads a length of time; an error says what is expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("{text:?} is not a length of time: expected a number and s, m, h, d or w, such as 90s or 6h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let (number, unit) = text.split_at(split);
    let seconds = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds).ok_or_else(refuse)?;
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number.checked_mul(seconds).filter(|seconds| *seconds < u64::MAX / 1000).map(Duration::from_secs).ok_or_else(refuse)
}

/// Prints a length of time in its largest whole unit.
pub(crate) fn shown(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let unit = UNITS.iter().rev().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    let (name, unit) = unit.unwrap_or(&UNITS[0]);
    format!("{}{name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for text in ["0s", "90s", "15m", "6h", "30d", "2w"] {
            assert_eq!(shown(duration(text).unwrap().as_millis() as u64), text);
        }
        for text in ["", "s", "1", "-1s", "1.5h", "1y", "18446744073709551615w", "1 h"] {
            assert!(duration(text).is_err(), "{text:?} was taken");
        }
    }
}
