//! What a footer says of the token column, and the way from the bytes of a column chunk to tokens.
//!
//! Must never trust a number of the file: each is checked against the bytes, and what is reserved against both.

use std::sync::Arc;

use bytes::Bytes;

use super::buffer::{Documents, TokenBuffer, TokenList, TokenWidth};
use super::chunk::{ChunkFault, ChunkReader};
use super::columns::{Integers, find_counts, find_tokens};
use super::error::TokenError;
use super::stored::{StoredTokens, Storing};
use crate::limits::{MAX_FILE_ROW_GROUPS, MAX_ROW_GROUP_DOCUMENTS, MAX_ROW_GROUP_TOKENS};
use crate::range::ByteRange;
use crate::table::{Chunk, Footer, FooterError, Group, Schema, read_footer};

/// A Parquet file with a column of tokens: where its row groups have them. Clones are cheap.
#[derive(Clone, Debug)]
pub struct TokenFile {
    facts: Arc<Facts>,
}

#[derive(Debug)]
struct Facts {
    tokens: Integers,
    counts: Option<Integers>,
    groups: Vec<GroupFacts>,
}

#[derive(Clone, Copy, Debug)]
struct GroupFacts {
    first_row: u64,
    rows: u64,
    tokens: ChunkFacts,
    counts: Option<ChunkFacts>,
}

/// What a footer says of one column chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkFacts {
    pub(super) range: ByteRange,
    pub(super) codec: i64,
    pub(super) values: u64,
}

impl TokenFile {
    /// Reads the footer of a whole file in memory.
    pub fn of(file: &Bytes, column: Option<&str>) -> Result<Self, TokenError> {
        Footer::of(file)?.tokens(column)
    }

    pub(crate) fn parse(footer: &[u8], start: u64, column: Option<&str>) -> Result<Self, TokenError> {
        let mut columns: Option<(Integers, Option<Integers>)> = None;
        // The footer's reader has an error of its own; what is wrong with the columns is kept aside.
        let mut refused = None;
        let (mut groups, mut first_row) = (Vec::new(), 0u64);
        let head = read_footer(footer, start, &[], |schema, group| {
            if groups.len() == MAX_FILE_ROW_GROUPS {
                return Err(FooterError::TooManyGroups { limit: MAX_FILE_ROW_GROUPS });
            }
            if columns.is_none() && refused.is_none() {
                match find_columns(schema, column) {
                    Ok(found) => columns = Some(found),
                    Err(error) => refused = Some(error),
                }
            }
            if let Some((tokens, counts)) = &columns {
                groups.push(GroupFacts::of(groups.len(), first_row, &group, tokens, counts.as_ref())?);
            }
            first_row = first_row.saturating_add(group.rows);
            Ok(())
        })?;
        let (tokens, counts) = match (columns, refused) {
            (Some(found), _) => found,
            (None, Some(error)) => return Err(error),
            (None, None) => find_columns(&head.schema, column)?,
        };
        Ok(Self { facts: Arc::new(Facts { tokens, counts, groups }) })
    }

    /// Returns the dotted path of the token column.
    pub fn column(&self) -> &str {
        &self.facts.tokens.path
    }

    /// Returns the narrowest width that holds every value of the column's declared type: two bytes for integers of at
    /// most 16 bits, four for all others. Values of 64 bits are read too, as long as they are tokens of 32.
    pub fn width(&self) -> TokenWidth {
        self.facts.tokens.width()
    }

    /// Returns the number of row groups.
    pub fn groups(&self) -> usize {
        self.facts.groups.len()
    }

    /// Returns the rows of a row group: its documents.
    ///
    /// # Panics
    ///
    /// Panics where there is no such row group, as the other questions about one do.
    pub fn rows(&self, group: usize) -> u64 {
        self.facts.groups[group].rows
    }

    /// Returns how many tokens a row group has at most: every empty document counts as one.
    pub fn most_tokens(&self, group: usize) -> u64 {
        self.facts.groups[group].tokens.values
    }

    /// Returns the bytes of a row group's token column, its dictionary included.
    pub fn tokens_range(&self, group: usize) -> ByteRange {
        self.facts.groups[group].tokens.range
    }

    /// Returns the bytes of a row group's counts, where the file has a required integer column `n_tokens`.
    pub fn counts_range(&self, group: usize) -> Option<ByteRange> {
        self.facts.groups[group].counts.map(|chunk| chunk.range)
    }

    /// Appends the documents of a row group whose token column's bytes are `chunk`. What the file declares wider than
    /// `into` holds is read as long as every value fits. Reserves memory in proportion to `chunk` and to the values
    /// that the pages really hold; on an error `into` is as before.
    pub fn read_tokens(&self, group: usize, chunk: &Bytes, into: &mut Documents) -> Result<(), TokenError> {
        let (facts, column) = (self.group(group)?, &self.facts.tokens);
        let mut reader = self.chunk(group, column, facts, facts.tokens, chunk)?;
        let (before, documents) = (into.tokens.len(), into.ends.len());
        room(group, before, facts)?;
        let read = match &mut into.tokens {
            TokenBuffer::U16(tokens) => reader.read(tokens, &mut into.ends),
            TokenBuffer::U32(tokens) => reader.read(tokens, &mut into.ends),
        };
        let read = read.map_err(|fault| located(group, facts, column, fault));
        let read = read.and_then(|()| check_rows(group, facts, column, into.ends.len() - documents));
        if read.is_err() {
            into.tokens.truncate(before);
            into.ends.truncate(documents);
        }
        read
    }

    /// Appends the documents of a row group as [`read_tokens`](Self::read_tokens) does, with their tokens where they
    /// lie in `chunk`. Returns false, with `into` as before, where they can't be left there: only tokens of two bytes
    /// can, which are not compressed and written as our files have them.
    pub fn keep_tokens(
        &self,
        group: usize,
        chunk: &Bytes,
        into: &mut Documents<StoredTokens>,
    ) -> Result<bool, TokenError> {
        let (facts, column) = (self.group(group)?, &self.facts.tokens);
        let mut reader = self.chunk(group, column, facts, facts.tokens, chunk)?;
        if reader.is_compressed() || self.width() != TokenWidth::U16 {
            return Ok(false);
        }
        let (before, documents) = (into.tokens.len(), into.ends.len());
        room(group, before, facts)?;
        let mut storing = Storing::new(chunk, &mut into.tokens);
        let read = reader.read_into(&mut storing, &mut into.ends);
        let flat = storing.is_flat();
        let read = read.map_err(|fault| located(group, facts, column, fault));
        let read = read.and_then(|()| check_rows(group, facts, column, into.ends.len() - documents));
        if read.is_err() || !flat {
            into.tokens.truncate(before);
            into.ends.truncate(documents);
        }
        read.map(|()| flat)
    }

    /// Appends the counts of a row group's documents from the bytes of their column. On an error `into` is as before.
    pub fn read_counts(&self, group: usize, chunk: &Bytes, into: &mut Vec<u32>) -> Result<(), TokenError> {
        let facts = self.group(group)?;
        let (column, chunk_facts) = self.facts.counts.as_ref().zip(facts.counts).ok_or(TokenError::NoCounts)?;
        let mut reader = self.chunk(group, column, facts, chunk_facts, chunk)?;
        let before = into.len();
        let read = reader.read(into, &mut Vec::new()).map_err(|fault| located(group, facts, column, fault));
        let read = read.and_then(|()| check_rows(group, facts, column, into.len() - before));
        if read.is_err() {
            into.truncate(before);
        }
        read
    }

    fn group(&self, group: usize) -> Result<&GroupFacts, TokenError> {
        let groups = self.groups();
        self.facts.groups.get(group).ok_or(TokenError::Group { group, groups })
    }

    fn chunk<'a>(
        &self,
        group: usize,
        column: &'a Integers,
        facts: &GroupFacts,
        chunk: ChunkFacts,
        bytes: &'a Bytes,
    ) -> Result<ChunkReader<'a>, TokenError> {
        let (expected, actual) = (chunk.range.len(), bytes.len() as u64);
        if expected != actual {
            return Err(TokenError::Given { group, expected, actual });
        }
        let bounds = [("rows", facts.rows, MAX_ROW_GROUP_DOCUMENTS), ("values", chunk.values, MAX_ROW_GROUP_TOKENS)];
        for (what, actual, limit) in bounds {
            if actual > limit {
                return Err(TokenError::TooLarge { group, what, actual, limit });
            }
        }
        // Every row of lists has a value, or a level that says that it is empty; every other row has one value.
        if facts.rows > chunk.values || (column.lists == 0 && facts.rows < chunk.values) {
            let column = column.path.clone();
            return Err(TokenError::Rows { group, column, expected: facts.rows, actual: chunk.values });
        }
        Ok(ChunkReader::new(column, chunk, facts.rows, bytes))
    }
}

fn find_columns(schema: &Schema, column: Option<&str>) -> Result<(Integers, Option<Integers>), TokenError> {
    Ok((find_tokens(schema, column)?, find_counts(schema)))
}

/// Refuses more tokens than 32 bits count.
fn room(group: usize, before: usize, facts: &GroupFacts) -> Result<(), TokenError> {
    let more = facts.tokens.values;
    if before as u64 + more > u32::MAX.into() { Err(TokenError::TooMany { group, before, more }) } else { Ok(()) }
}

fn check_rows(group: usize, facts: &GroupFacts, column: &Integers, actual: usize) -> Result<(), TokenError> {
    let (expected, actual) = (facts.rows, actual as u64);
    if expected == actual {
        return Ok(());
    }
    Err(TokenError::Rows { group, column: column.path.clone(), expected, actual })
}

fn located(group: usize, facts: &GroupFacts, column: &Integers, fault: ChunkFault) -> TokenError {
    let column = column.path.clone();
    let row = |row: u64| facts.first_row.saturating_add(row);
    match fault {
        ChunkFault::Null { row: at } => TokenError::Null { row: row(at), group, column },
        ChunkFault::Value { row: at, actual, limit } => {
            TokenError::Value { row: row(at), group, column, actual, limit }
        }
        ChunkFault::Page { page, source } => TokenError::Page { group, column, page, source },
    }
}

impl GroupFacts {
    fn of(
        number: usize,
        first_row: u64,
        group: &Group<'_>,
        tokens: &Integers,
        counts: Option<&Integers>,
    ) -> Result<Self, FooterError> {
        let chunk = |column: &Integers| {
            let (expected, actual) = (column.position + 1, group.chunks.len());
            let found = group.chunks.get(column.position);
            let Chunk { range, codec, values, .. } =
                *found.ok_or(FooterError::Columns { group: number, expected, actual })?;
            Ok::<_, FooterError>(ChunkFacts { range, codec, values })
        };
        let (tokens, counts) = (chunk(tokens)?, counts.map(chunk).transpose()?);
        Ok(Self { first_row, rows: group.rows, tokens, counts })
    }
}
