//! Which column of a file holds its tokens, and which one their counts.
//!
//! Must never guess between two.

use super::buffer::TokenWidth;
use super::error::TokenError;
use crate::table::{Leaf, Schema};

/// Names by which the token column is found among several lists of integers: ours, and that of tokenizers' output.
const TOKEN_NAMES: [&str; 2] = ["tokens", "input_ids"];

/// Name of the column that holds each document's number of tokens.
pub(super) const COUNTS_NAME: &str = "n_tokens";

/// Parquet's physical types that hold integers.
const INT32: i64 = 1;
const INT64: i64 = 2;

/// A leaf column of integers: how they are stored, and which of them can be tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Integers {
    /// Position among the leaves of the file.
    pub(super) position: usize,
    pub(super) path: String,
    /// Bytes of a value: four or eight.
    pub(super) stored: usize,
    /// Greatest value that the declared type and a token can have; one less than a power of two.
    pub(super) max: u32,
    /// Its stored bits mean no negative number.
    pub(super) unsigned: bool,
    /// Greatest definition level: that of a value.
    pub(super) definition: u32,
    /// Definition level of an empty list, where the values are in lists.
    pub(super) empty: Option<u32>,
    /// How many lists are around the values.
    pub(super) lists: i16,
}

impl Integers {
    fn of(position: usize, leaf: &Leaf) -> Option<Self> {
        let kind = leaf.text.split(' ').nth(1)?;
        let max = match kind {
            "int8" => i8::MAX as u32,
            "uint8" => u8::MAX.into(),
            "int16" => i16::MAX as u32,
            "uint16" => u16::MAX.into(),
            "int32" if leaf.physical == INT32 => i32::MAX as u32,
            "uint32" if leaf.physical == INT32 => u32::MAX,
            "int64" | "uint64" if leaf.physical == INT64 => u32::MAX,
            _ => return None,
        };
        let stored = match leaf.physical {
            INT32 => 4,
            INT64 => 8,
            _ => return None,
        };
        let definition = u32::try_from(leaf.definition).ok()?;
        let empty = u32::try_from(leaf.repeated_at).ok().and_then(|level| level.checked_sub(1));
        let (path, unsigned) = (leaf.path.clone(), kind.starts_with('u'));
        Some(Self { position, path, stored, max, unsigned, definition, empty, lists: leaf.repetition })
    }

    /// Returns the narrowest width that the declared type says.
    pub(super) const fn width(&self) -> TokenWidth {
        if self.max <= TokenWidth::U16.max() { TokenWidth::U16 } else { TokenWidth::U32 }
    }
}

fn is_within(leaf: &Leaf, name: &str) -> bool {
    leaf.path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Finds the token column: the one `wanted` by its dotted path or the name of its outermost element, or else the only
/// list of integers, or else the only one of a usual name.
pub(super) fn find_tokens(schema: &Schema, wanted: Option<&str>) -> Result<Integers, TokenError> {
    let leaves = || schema.leaves.iter().enumerate();
    let lists: Vec<Integers> =
        leaves().filter_map(|(i, leaf)| Integers::of(i, leaf)).filter(|found| found.lists == 1).collect();
    let paths = || lists.iter().map(|found| found.path.clone()).collect::<Vec<_>>();
    let Some(name) = wanted else {
        let usual = |found: &&Integers| TOKEN_NAMES.iter().any(|name| is_within(&schema.leaves[found.position], name));
        return match (lists.as_slice(), lists.iter().filter(usual).collect::<Vec<_>>().as_slice()) {
            ([only], _) => Ok(only.clone()),
            (_, [only]) => Ok((*only).clone()),
            ([], _) => Err(TokenError::Missing { wanted: "of one list of integers".to_owned(), lists: Vec::new() }),
            _ => Err(TokenError::Several { lists: paths() }),
        };
    };
    let within: Vec<_> = leaves().filter(|(_, leaf)| is_within(leaf, name)).collect();
    match within.as_slice() {
        [] => Err(TokenError::Missing { wanted: name.to_owned(), lists: paths() }),
        [(position, leaf)] => Integers::of(*position, leaf).filter(|found| found.lists == 1).ok_or_else(|| {
            let (column, actual) = (leaf.path.clone(), leaf.text.clone());
            TokenError::Type { column, actual, lists: leaf.repetition }
        }),
        [..] => Err(TokenError::Several { lists: within.iter().map(|(_, leaf)| leaf.path.clone()).collect() }),
    }
}

/// Finds the column of counts: a required integer of our name.
pub(super) fn find_counts(schema: &Schema) -> Option<Integers> {
    let (position, leaf) = schema.leaves.iter().enumerate().find(|(_, leaf)| leaf.path == COUNTS_NAME)?;
    Integers::of(position, leaf).filter(|found| found.definition == 0)
}
