//! Rates as people write them: `50MB/s`.
//!
//! Must never take a rate of nothing: what would wait for ever is a mistake.

/// Reads bytes a second: a number, with a unit of bytes where it has one, and `/s` after it or not.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("k", 1000),
        ("M", 1_000_000),
        ("B", 1),
    ];
    let refuse = || format!("{text:?} is not a rate: expected bytes a second, such as 50MB/s");
    let plain = text.trim().strip_suffix("/s").unwrap_or(text.trim());
    let found = UNITS.iter().find_map(|(unit, each)| Some((plain.strip_suffix(unit)?, *each)));
    let (number, each) = found.unwrap_or((plain, 1));
    let number: f64 = number.trim().parse().map_err(|_| refuse())?;
    let bytes = number * each as f64;
    // Beyond this a rate is no bound, and below it no rate.
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_nonsense_is_refused() {
        for (text, bytes) in
            [("50MB/s", 50_000_000), ("1.5GB/s", 1_500_000_000), ("8MiB", 8 << 20), ("900", 900), ("2 kB/s", 2000)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-5MB/s", "fast", "MB/s", "0.1", "NaN", "inf", "5 parsecs"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
