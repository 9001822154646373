//! Where a tokenized version came from: the tokenizer, what was read, and the command that does it again.
//!
//! Must never be longer than a version's lineage may be, however many inputs were named.

use std::fmt::Write;

use clap::ValueEnum;
use gigastore_formats::manifest::dataset::Lineage;
use gigastore_ingest::encode::Encoder;

use super::Tokenize;

/// Bytes of the names of inputs: a quarter of what a lineage may have, which holds them twice.
const SOURCES_BYTES: usize = 256 << 10;

impl Tokenize {
    /// Returns where the version comes from.
    pub(super) fn lineage(&self, encoder: &Encoder) -> Lineage {
        Lineage {
            tokenizer: Some(encoder.digest()),
            tokenizer_file: Some(self.tokenizer.display().to_string()),
            sources: within(&self.inputs),
            command: self.command(encoder),
        }
    }

    /// Writes the command down as it could be given again.
    fn command(&self, encoder: &Encoder) -> String {
        let mut command = "gigastore data tokenize".to_owned();
        let mut add = |option: &str, value: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@+,".contains(c);
            let quoted = if !value.is_empty() && value.chars().all(plain) {
                value.to_owned()
            } else {
                format!("'{}'", value.replace('\'', r"'\''"))
            };
            // Writing to a string can't fail.
            let _ = write!(command, " {option}{quoted}");
        };
        within(&self.inputs).iter().for_each(|input| add("", input));
        add("--tokenizer ", &self.tokenizer.display().to_string());
        add("--to ", &self.to.to_string());
        let format = self.input_format.and_then(|format| Some(format.to_possible_value()?.get_name().to_owned()));
        let split = self.split.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        format.iter().for_each(|format| add("--input-format ", format));
        add("--split ", &split);
        add("--text-field ", &self.text_field);
        self.id_field.iter().for_each(|field| add("--id-field ", field));
        add("--bos ", &self.bos);
        // As it was decided, so that it does not depend on files that lie beside the tokenizer.
        add("--eos ", encoder.eos().map_or("none", |(token, _)| token));
        let flags =
            [(self.special_tokens, "--special-tokens"), (self.skip_bad, "--skip-bad"), (self.append, "--append")];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, flag)| add("", flag));
        add("--prefix ", &self.prefix);
        add("--part-mib ", &self.part_mib.to_string());
        command
    }
}

/// Returns as many texts as a lineage has room for, and how many more there were.
fn within(texts: &[String]) -> Vec<String> {
    let mut room = LINEAGE_BYTES;
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
