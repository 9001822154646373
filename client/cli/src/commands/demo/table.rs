//! The demo's table.
//!
//! Must never round a rate up.

use super::Step;
use crate::output::{size, table};

/// Prints step, bytes, seconds and GB/s.
pub(super) fn print(steps: &[Step]) {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|Step(what, bytes, seconds)| {
            let rate = (*bytes as f64 / seconds.max(1e-9) / 1e7).floor() / 100.0;
            vec![(*what).to_owned(), size(*bytes), format!("{seconds:.3}"), format!("{rate:.2}")]
        })
        .collect();
    table(&["step", "bytes", "seconds", "GB/s"], &rows);
}
