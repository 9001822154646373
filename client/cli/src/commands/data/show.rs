//! `gigastore data show`
//!
//! Must never read a file of the dataset: the manifest says it all.

use clap::Args;
use gigastore_client::dataset::versions::FileSums;
use gigastore_formats::manifest::dataset::{DatasetMeta, TokenColumn, add_lengths};
use gigastore_formats::name::Target;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, say, say_json, size, table};

/// Length of the longest bar: 40 characters, so that a line fits a terminal of 80.
const BAR_CHARS: usize = 40;

/// Show a dataset version: documents, tokens, their lengths, where they came from, and its files with
/// the digest that b3sum prints
///
/// Example:
///
///   gigastore data show demo/corpus@3
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Show {
    /// What to show; without @… the latest
    target: Target,
}

impl Show {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let dataset = globals.open().await?.dataset(&self.target).await?;
        let info = dataset.info();
        let sums = FileSums::of_all(dataset.files());
        let mut lengths = Vec::new();
        dataset.files().iter().for_each(|row| add_lengths(&mut lengths, &row.lengths));
        if globals.json() {
            let files: Vec<_> = dataset
                .files()
                .iter()
                .map(|row| {
                    json!({
                        "path": row.path, "bytes": row.bytes, "rows": row.rows, "blake3": row.blob.digest,
                        "schema": row.schema, "row_groups": row.row_groups, "tokens": row.tokens,
                        "lengths": row.lengths, "removed": row.removed,
                    })
                })
                .collect();
            say_json(&json!({
                "dataset": info.commit.name, "version": info.commit.number, "content": info.commit.content,
                "bytes": info.commit.bytes, "tags": info.tags, "parent": dataset.meta().parent, "files": files,
                "documents": sums.documents, "tokens": sums.tokens, "taken_down": sums.taken_down, "lengths": lengths,
                "token_column": dataset.meta().tokens, "lineage": dataset.meta().lineage,
            }));
            return Ok(());
        }
        say(&format_args!("{}/{}@{}", self.target.project, info.commit.name, info.commit.number));
        say(&format_args!("  committed   {} in log record {}", moment(info.time), info.seq));
        say(&format_args!("  size        {} in {} files", size(info.commit.bytes), info.commit.items));
        say(&format_args!("  content     {}", info.commit.content));
        describe(dataset.meta(), &sums);
        if !lengths.is_empty() {
            say(&"");
            bars(&lengths).iter().for_each(|line| say(line));
        }
        say(&"");
        let rows: Vec<Vec<String>> = dataset
            .files()
            .iter()
            .map(|row| {
                let groups = row.row_groups.len().to_string();
                let tokens = if row.tokens.is_empty() { "-".to_owned() } else { FileSums::of(row).tokens.to_string() };
                let digest = row.blob.digest.to_string();
                vec![row.path.clone(), size(row.bytes), row.rows.to_string(), tokens, groups, digest]
            })
            .collect();
        table(&["file", "size", "rows", "tokens", "row groups", "blake3"], &rows);
        Ok(())
    }
}

/// Says what the manifest says of tokens and lineage.
fn describe(meta: &DatasetMeta, sums: &FileSums) {
    let taken_down = match sums.taken_down {
        0 => String::new(),
        count => format!(", {count} of them taken down"),
    };
    say(&format_args!("  documents   {}{taken_down}", sums.documents));
    if let Some(TokenColumn { column, width, vocab_size, .. }) = &meta.tokens {
        let vocabulary = vocab_size.map_or_else(String::new, |size| format!(", of a vocabulary of {size}"));
        let bytes = width.bytes();
        say(&format_args!("  tokens      {} in {column}, {bytes} bytes each{vocabulary}", sums.tokens));
    }
    let Some(lineage) = &meta.lineage else { return };
    if let Some(digest) = &lineage.tokenizer {
        let file = lineage.tokenizer_file.as_deref().unwrap_or("a file without a name");
        say(&format_args!("  tokenizer   {file}, blake3 {digest}"));
    }
    if let Some((first, more)) = lineage.sources.split_first() {
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        say(&format_args!("  sources     {first}{more}"));
    }
    if !lineage.command.is_empty() {
        say(&format_args!("  command     {}", lineage.command));
    }
}

/// Draws how many documents have which length, a line for each power of two that occurs or lies between.
fn bars(lengths: &[u64]) -> Vec<String> {
    let most = lengths.iter().copied().max().unwrap_or_default().max(1);
    let first = lengths.iter().position(|count| *count > 0).unwrap_or_default();
    let range = |bucket: usize| match bucket {
        0 => "0".to_owned(),
        1 => "1".to_owned(),
        64 => format!("{}..", 1u64 << 63),
        bucket => format!("{}..{}", 1u64 << (bucket - 1), 1u64 << bucket),
    };
    let shown: Vec<(String, u64)> =
        lengths.iter().enumerate().skip(first).map(|(bucket, count)| (range(bucket), *count)).collect();
    let width = shown.iter().map(|(range, _)| range.len()).max().unwrap_or_default();
    let digits = most.to_string().len();
    let line = |(range, count): (String, u64)| {
        // Whatever there is can be seen.
        let len = (u128::from(count) * BAR_CHARS as u128).div_ceil(u128::from(most)) as usize;
        format!("  {range:>width$} tokens  {count:>digits$}  {}", "#".repeat(len)).trim_end().to_owned()
    };
    shown.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_that_occurs_has_a_bar() {
        let bars = bars(&[0, 1, 0, 100, 1000]);
        assert_eq!(bars[0], "      1 tokens     1  #");
        assert_eq!(bars[1], "   2..4 tokens     0");
        assert_eq!(bars[2], format!("   4..8 tokens   100  {}", "#".repeat(4)));
        assert_eq!(bars[3], format!("  8..16 tokens  1000  {}", "#".repeat(40)));
        assert_eq!(super::bars(&[5]), [format!("  0 tokens  5  {}", "#".repeat(40))]);
    }
}
