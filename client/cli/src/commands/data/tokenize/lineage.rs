//! Where a tokenized version came from: the tokenizer, what was read, and the command.
//!
//! Must never be longer than a version's lineage may be, however many inputs were named.

use gigastore_formats::manifest::dataset::Lineage;
use gigastore_ingest::encode::Encoder;

use super::Tokenize;
use crate::commands::data::command_line;

/// Bytes of the names of inputs: a quarter of what a lineage may have.
const SOURCES_BYTES: usize = 256 << 10;

impl Tokenize {
    /// Returns where the version comes from.
    pub(super) fn lineage(&self, encoder: &Encoder) -> Lineage {
        Lineage {
            tokenizer: Some(encoder.digest()),
            tokenizer_file: Some(self.tokenizer.display().to_string()),
            sources: within(&self.inputs),
            command: command_line(),
        }
    }
}

/// Returns as many texts as a lineage has room for, and how many more there were.
fn within(texts: &[String]) -> Vec<String> {
    let mut room = SOURCES_BYTES;
    let fits = |text: &&String| {
        room = room.saturating_sub(text.len() + 1);
        room > 0
    };
    let mut kept: Vec<String> = texts.iter().take_while(fits).cloned().collect();
    if kept.len() < texts.len() {
        kept.push(format!("… and {} more", texts.len() - kept.len()));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_sources_is_cut() {
        let one = ["a".repeat(100_000), "b".repeat(100_000), "c".repeat(100_000)];
        let kept = within(&one);
        assert_eq!((kept.len(), kept[2].as_str()), (3, "… and 1 more"));
        assert_eq!(within(&one[..2]), one[..2]);
    }
}
