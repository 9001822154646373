//! Where the data streams of a checkpoint were, one line each.
//!
//! Must never say more was seen than the ranks counted.

use gigastore_formats::order::{Cursor, SourceCursor};

/// Width of the words before values of `ckpt show`.
const WIDTH: usize = 11;

/// Returns the line of one stream.
pub(super) fn line(name: &str, cursor: &Cursor) -> String {
    let source = |one: &SourceCursor| format!("{} epoch {}", one.dataset, one.epoch);
    let sources: Vec<String> = cursor.sources.iter().map(source).collect();
    let seen = &cursor.seen;
    let counted = if seen.samples == cursor.samples { String::new() } else { format!(" ({} counted)", seen.samples) };
    let missing = if seen.missing == 0 { String::new() } else { format!(", {} missing", seen.missing) };
    format!(
        "  {name:WIDTH$} {}, {} samples{counted}, {} tokens seen{missing}, digest {}",
        sources.join(", "),
        cursor.samples,
        seen.tokens,
        seen.digest.short()
    )
}
