//! Moments as dates of the civil calendar, in UTC.
//!
//! Must never ask what time it is.

use std::fmt;

/// A moment by its parts, from milliseconds since 1970 (the civil-from-days rule of H. Hinnant).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    year: u64,
    month: u64,
    day: u64,
    millis: u64,
}

impl Moment {
    /// Returns the moment so many milliseconds after the start of 1970.
    pub fn of_ms(ms: u64) -> Self {
        let (days, millis) = (ms / 86_400_000, ms % 86_400_000);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
        let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
        Self { year: year_of_era + era * 400 + u64::from(month <= 2), month, day, millis }
    }

    /// Returns it as `2026-11-24T03:15:00.000Z` (RFC 3339).
    pub fn rfc3339(&self) -> String {
        let text = self.to_string().replace(' ', "T");
        format!("{}.{:03}Z", text.trim_end_matches('Z'), self.millis % 1000)
    }
}

impl fmt::Display for Moment {
    /// Prints `2026-11-24 03:15:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, millis } = self;
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ms: u64) -> String {
        Moment::of_ms(ms).to_string()
    }

    #[test]
    fn moments_are_civil_dates() {
        assert_eq!(text(0), "1970-01-01 00:00:00Z");
        assert_eq!(text(951_827_696_000), "2000-02-29 12:34:56Z");
        assert_eq!(text(1_795_487_400_000), "2026-11-24 02:30:00Z");
    }
}
