//! What a dataset says of its tokens: their column, the lengths of its documents, documents that were taken down, and
//! where all of it came from.
//!
//! Must never let planned numbers disagree with each other: the order of a dataset follows from them.

use serde::{Deserialize, Serialize};

use super::head::check_number;
use super::{MetaError, RowError};
use crate::digest::Digest;
use crate::table::tokens::TokenWidth;

/// Buckets of a histogram of lengths: 65, one for no tokens and one for each power of two of 64 bits.
pub const LENGTH_BUCKETS: usize = 65;

/// Documents of one file that can be taken down: 2^20. The row group of a manifest in which one file stands alone holds
/// as many records (`ROW_GROUP_WEIGHT` of
/// `RECORD_WEIGHT` bytes each); a file that loses more is pushed anew.
pub const MAX_REMOVED_ROWS: usize = 1 << 20;

/// Bytes of all texts of a lineage: 1 MiB, as much as of user metadata; a longer list of sources belongs in a file.
pub const MAX_LINEAGE_BYTES: usize = 1 << 20;

/// The token column of a dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenColumn {
    /// Dotted path of the leaf, such as `tokens.list.element`.
    pub column: String,
    /// The narrowest width that the declared types of all files have.
    pub width: TokenWidth,
    /// Tokens of the vocabulary, where it was said: every token is below it.
    pub vocab_size: Option<u32>,
    /// Whether every file has a required column of the lengths of its documents, `n_tokens`.
    pub counts: bool,
}

/// Where a version came from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// Digest of the tokenizer's file.
    pub tokenizer: Option<Digest>,
    /// Name of the tokenizer's file, as it was given.
    pub tokenizer_file: Option<String>,
    /// What was read, as it was given.
    pub sources: Vec<String>,
    /// The command that made the version.
    pub command: String,
}

/// A document that was taken down: its row is empty, and holds its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// The row, from 0, in its file.
    pub row: u64,
    /// The tokens that it had: its planned length.
    pub tokens: u64,
}

/// Returns the bucket of documents of `tokens` tokens: 0 for none, `k` for `2^(k-1)..2^k`.
pub fn length_bucket(tokens: u64) -> usize {
    (u64::BITS - tokens.leading_zeros()) as usize
}

/// Counts a document of `tokens` tokens in a histogram, which ends with its last bucket that is not empty.
pub fn count_length(lengths: &mut Vec<u64>, tokens: u64) {
    let bucket = length_bucket(tokens);
    if lengths.len() <= bucket {
        lengths.resize(bucket + 1, 0);
    }
    lengths[bucket] += 1;
}

/// Adds a histogram to another one.
pub fn add_lengths(lengths: &mut Vec<u64>, more: &[u64]) {
    if lengths.len() < more.len() {
        lengths.resize(more.len(), 0);
    }
    for (sum, count) in lengths.iter_mut().zip(more) {
        *sum = sum.saturating_add(*count);
    }
}

impl TokenColumn {
    /// Checks that the vocabulary is not empty.
    pub(super) fn check(&self) -> Result<(), MetaError> {
        if self.vocab_size == Some(0) { Err(MetaError::Vocabulary) } else { Ok(()) }
    }
}

impl Lineage {
    /// Checks its bounds.
    pub(super) fn check(&self) -> Result<(), MetaError> {
        let texts = self.sources.iter().chain(&self.tokenizer_file).chain([&self.command]);
        let actual = texts.map(String::len).sum();
        if actual > MAX_LINEAGE_BYTES { Err(MetaError::Lineage { actual }) } else { Ok(()) }
    }
}

/// What a file's row says of its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileTokens<'a> {
    pub(super) rows: u64,
    pub(super) row_groups: usize,
    pub(super) tokens: &'a [u64],
    pub(super) lengths: &'a [u64],
    pub(super) removed: &'a [Removed],
}

impl FileTokens<'_> {
    /// Checks that a file either says nothing of tokens, or all of it, and that it holds together.
    pub(super) fn check(&self) -> Result<(), RowError> {
        let Self { rows, row_groups, tokens, lengths, removed } = *self;
        if tokens.is_empty() && row_groups > 0 {
            check_number("buckets of lengths in a file without token counts", 0, lengths.len() as u64)?;
        } else {
            check_number("row groups with token counts", row_groups as u64, tokens.len() as u64)?;
            self.check_lengths()?;
        }
        if removed.len() > MAX_REMOVED_ROWS {
            return Err(RowError::Removed { actual: removed.len() });
        }
        let disordered = removed.windows(2).find(|pair| pair[0].row >= pair[1].row);
        let outside = removed.last().filter(|last| last.row >= rows);
        if let Some(removed) = disordered.map(|pair| pair[1]).as_ref().or(outside) {
            return Err(RowError::RemovedRow { row: removed.row, rows });
        }
        let (planned, gone) = (sum(tokens), removed.iter().map(|removed| u128::from(removed.tokens)).sum::<u128>());
        let rest = planned.checked_sub(gone);
        rest.map(drop).ok_or(RowError::Lengths { documents: rows, tokens: planned })
    }

    /// Checks that so many documents of these lengths can have so many tokens.
    fn check_lengths(&self) -> Result<(), RowError> {
        if self.lengths.len() > LENGTH_BUCKETS {
            return Err(RowError::Buckets { actual: self.lengths.len() });
        }
        let (mut documents, mut least, mut most) = (0u128, 0u128, 0u128);
        for (bucket, count) in self.lengths.iter().enumerate() {
            let (first, end) = if bucket == 0 { (0, 1) } else { (1u128 << (bucket - 1), 1u128 << bucket) };
            documents += u128::from(*count);
            // 2^64 documents of 2^64 tokens are just past what fits.
            least = least.saturating_add(u128::from(*count).saturating_mul(first));
            most = most.saturating_add(u128::from(*count).saturating_mul(end - 1));
        }
        let tokens = sum(self.tokens);
        if documents != u128::from(self.rows) || !(least..=most).contains(&tokens) {
            return Err(RowError::Lengths { documents: self.rows, tokens });
        }
        Ok(())
    }
}

fn sum(numbers: &[u64]) -> u128 {
    numbers.iter().map(|number| u128::from(*number)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let buckets = [0, 1, 2, 3, 4, 7, 8, u64::MAX].map(length_bucket);
        assert_eq!(buckets, [0, 1, 2, 2, 3, 3, 4, 64]);
        let mut lengths = Vec::new();
        [5, 0, 4, 1].iter().for_each(|tokens| count_length(&mut lengths, *tokens));
        assert_eq!(lengths, [1, 1, 0, 2]);
        add_lengths(&mut lengths, &[1, 0, 0, 0, 3]);
        assert_eq!(lengths, [2, 1, 0, 2, 3]);
    }

    #[test]
    fn numbers_that_do_not_hold_together_are_refused() {
        let check = |rows, row_groups, tokens: &[u64], lengths: &[u64], removed: &[(u64, u64)]| {
            let removed: Vec<_> = removed.iter().map(|(row, tokens)| Removed { row: *row, tokens: *tokens }).collect();
            FileTokens { rows, row_groups, tokens, lengths, removed: &removed }.check()
        };
        assert_eq!(check(3, 2, &[], &[], &[]), Ok(()));
        assert_eq!(check(0, 0, &[], &[], &[]), Ok(()));
        assert_eq!(check(3, 2, &[7, 0], &[1, 0, 0, 2], &[]), Err(RowError::Lengths { documents: 3, tokens: 7 }));
        assert_eq!(check(3, 2, &[8, 0], &[1, 0, 0, 2], &[]), Ok(()));
        assert_eq!(check(3, 2, &[8, 0], &[1, 0, 0, 2], &[(0, 4), (2, 4)]), Ok(()));
        assert!(check(3, 2, &[15, 0], &[1, 0, 0, 2], &[]).is_err());
        assert!(check(3, 2, &[8], &[1, 0, 0, 2], &[]).is_err());
        assert!(check(3, 2, &[8, 0], &[0, 0, 0, 2], &[]).is_err());
        assert!(check(3, 2, &[], &[1, 0, 0, 2], &[]).is_err());
        assert!(check(3, 2, &[8, 0], &[1, 0, 0, 2], &[(0, 4), (2, 5)]).is_err());
        assert!(check(3, 2, &[8, 0], &[1, 0, 0, 2], &[(1, 4), (1, 4)]).is_err());
        assert!(check(3, 2, &[8, 0], &[1, 0, 0, 2], &[(3, 0)]).is_err());
        assert!(check(u64::MAX, 1, &[u64::MAX; 1], &[0; 66], &[]).is_err());
        assert!(check(u64::MAX, 1, &[u64::MAX; 1], &[vec![0; 64], vec![u64::MAX]].concat(), &[]).is_err());
    }
}
