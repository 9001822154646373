//! A Parquet footer: which bytes hold it, and its numbers, each checked against the length of the file.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>. Must never return a
//! range that does not lie between the file's magic and its footer.

use bytes::Bytes;

use super::given::{Given, GivenError, Step};
use super::schema::{Schema, read_schema};
use super::thrift::{Compact, ThriftError, Wire};
use crate::range::ByteRange;

/// Bytes that are asked for at the end of a file before its footer's length is known: 64 KiB, which holds the footer of
/// most files, so that they need one read.
const TAIL_BYTES: u64 = 64 << 10;

const MAGIC: &[u8; 4] = b"PAR1";
const ENCRYPTED_MAGIC: &[u8; 4] = b"PARE";
const MAGIC_LEN: u64 = 4;
/// The footer's length (32 bits) and the magic.
const END_LEN: u64 = 8;

/// Why bytes are not a Parquet file whose footer can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// The bytes given are not of the file.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// The file does not start and end as Parquet does.
    #[error("not a Parquet file: {at} it has {actual:02x?}, expected `PAR1`")]
    Magic {
        /// Where.
        at: &'static str,
        /// What is there instead.
        actual: Vec<u8>,
    },
    /// The file is shorter than any Parquet file.
    #[error("not a Parquet file: it has {file} bytes, expected at least {}", MAGIC_LEN + END_LEN)]
    Short {
        /// Bytes of the file.
        file: u64,
    },
    /// The footer, or a column, is encrypted.
    #[error("the Parquet file is encrypted; store it decrypted, or as an opaque file of a checkpoint")]
    Encrypted,
    /// The footer does not fit the file or is over the limit.
    #[error("Parquet footer of {actual} bytes does not fit a file of {file} bytes (limit {limit})")]
    Length {
        /// Bytes that the footer says it has.
        actual: u64,
        /// Bytes of the file.
        file: u64,
        /// Most bytes of a footer.
        limit: u64,
    },
    /// The footer is not Thrift of the form that Parquet has.
    #[error("Parquet footer: {0}")]
    Thrift(#[from] ThriftError),
    /// The footer says something twice; which of the two holds is anyone's guess.
    #[error("Parquet footer has its {0} twice")]
    Repeated(&'static str),
    /// Something that every footer has is missing.
    #[error("Parquet footer has no {0}")]
    Missing(&'static str),
    /// A number that can't be negative is.
    #[error("Parquet footer: {what} is {actual}")]
    Negative {
        /// Which number.
        what: &'static str,
        /// The number.
        actual: i64,
    },
    /// The schema is not a tree of known elements.
    #[error("Parquet schema: {reason}")]
    Schema {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A row group has not as many columns as the schema.
    #[error("row group {group} has {actual} columns, the schema has {expected}")]
    Columns {
        /// The row group.
        group: usize,
        /// Leaves of the schema.
        expected: usize,
        /// Columns of the row group.
        actual: usize,
    },
    /// A column chunk does not lie between the magic and the footer, or lies in another file.
    #[error("row group {group}, column {column}: its bytes {start} + {len} do not lie within 4..{end}")]
    Outside {
        /// The row group.
        group: usize,
        /// The column.
        column: usize,
        /// First byte of the chunk.
        start: u64,
        /// Bytes of the chunk.
        len: u64,
        /// First byte of the footer.
        end: u64,
    },
    /// A column chunk is in another file.
    #[error("row group {group}, column {column} lies in another file; only whole Parquet files can be stored")]
    OtherFile {
        /// The row group.
        group: usize,
        /// The column.
        column: usize,
    },
    /// The row groups have not as many rows as the file.
    #[error("Parquet footer says {expected} rows, its row groups have {actual}")]
    Rows {
        /// Rows of the file.
        expected: u64,
        /// Rows of the row groups.
        actual: u64,
    },
    /// The file has more row groups than its kind may have.
    #[error("more than {limit} row groups")]
    TooManyGroups {
        /// Most row groups.
        limit: usize,
    },
}

/// What a footer says beside its row groups.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) schema: Schema,
    pub(crate) rows: u64,
    /// Key-value metadata, as much as was asked for.
    pub(crate) pairs: Vec<(&'a str, &'a str)>,
}

/// One row group.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) rows: u64,
    pub(crate) chunks: Vec<Chunk<'a>>,
}

/// One column chunk: where it lies, and what its row group says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) range: ByteRange,
    /// Number of the compression codec.
    pub(crate) codec: i64,
    pub(crate) values: u64,
    /// Least and greatest value, where it has statistics.
    pub(crate) bounds: Option<(&'a [u8], &'a [u8])>,
}

/// Finds the footer among the bytes given, and the position where it starts.
pub(crate) fn find_footer(given: &Given, limit: u64) -> Result<Step<(Bytes, u64)>, FooterError> {
    let file = given.object();
    if file < MAGIC_LEN + END_LEN {
        return Err(FooterError::Short { file });
    }
    let (first, end) = (at(0, MAGIC_LEN), at(file - END_LEN, END_LEN));
    let (Some(first), Some(end)) = (given.get(first), given.get(end)) else {
        let whole = vec![at(0, file)];
        let both = vec![first, at(file.saturating_sub(TAIL_BYTES), file.min(TAIL_BYTES))];
        return Ok(Step::Need(if file <= TAIL_BYTES { whole } else { given.missing(&both) }));
    };
    check_magic("at the start", &first)?;
    let (len, magic) = end.split_at(4);
    check_magic("at the end", magic)?;
    let len = u64::from(u32::from_le_bytes(len.try_into().expect("split at 4")));
    if len > limit || len > file - MAGIC_LEN - END_LEN {
        return Err(FooterError::Length { actual: len, file, limit });
    }
    let footer = at(file - END_LEN - len, len);
    Ok(match given.get(footer) {
        Some(bytes) => Step::Done((bytes, footer.start())),
        None => Step::Need(vec![footer]),
    })
}

fn at(start: u64, len: u64) -> ByteRange {
    ByteRange::with_len(start, len).expect("within the length of a file")
}

fn check_magic(at: &'static str, actual: &[u8]) -> Result<(), FooterError> {
    match actual {
        actual if actual == MAGIC => Ok(()),
        actual if actual == ENCRYPTED_MAGIC => Err(FooterError::Encrypted),
        _ => Err(FooterError::Magic { at, actual: actual.to_vec() }),
    }
}

/// Reads a footer that starts at `start` of its file, calling `each` with every row group in order. Of the key-value
/// metadata only the first value of each of `keys` is kept: a pair takes one byte of a footer and many of memory.
pub(crate) fn read_footer<'a>(
    footer: &'a [u8],
    start: u64,
    keys: &[&str],
    mut each: impl FnMut(&Schema, Group<'a>) -> Result<(), FooterError>,
) -> Result<Head<'a>, FooterError> {
    let (mut schema, mut rows, mut pairs) = (None, None, None);
    let mut group_rows: Option<u64> = None;
    Compact::new(footer).fields(|id, wire, reader| -> Result<(), FooterError> {
        match id {
            // Row groups are read against the schema before them: another one after that would fit none of them.
            2 if schema.is_some() => return Err(FooterError::Repeated("schema")),
            3 if rows.is_some() => return Err(FooterError::Repeated("number of rows")),
            4 if group_rows.is_some() => return Err(FooterError::Repeated("list of row groups")),
            5 if pairs.is_some() => return Err(FooterError::Repeated("key-value metadata")),
            2 => schema = Some(read_schema(reader, wire)?),
            3 => rows = Some(positive("number of rows", reader.integer(wire)?)?),
            4 => {
                let schema = schema.as_ref().ok_or(FooterError::Missing("schema before its row groups"))?;
                let (element, count) = reader.list(wire)?;
                let mut sum = 0u64;
                for number in 0..count {
                    element.structure()?;
                    let group = read_group(reader, number, start, schema.leaves.len())?;
                    sum = sum.saturating_add(group.rows);
                    each(schema, group)?;
                }
                group_rows = Some(sum);
            }
            5 => pairs = Some(read_pairs(reader, wire, keys)?),
            8 => return Err(FooterError::Encrypted),
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    let schema = schema.ok_or(FooterError::Missing("schema"))?;
    let expected = rows.ok_or(FooterError::Missing("number of rows"))?;
    let actual = group_rows.ok_or(FooterError::Missing("list of row groups"))?;
    if expected != actual {
        return Err(FooterError::Rows { expected, actual });
    }
    Ok(Head { schema, rows: expected, pairs: pairs.unwrap_or_default() })
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

fn read_pairs<'a>(reader: &mut Compact<'a>, wire: Wire, keys: &[&str]) -> Result<Pairs<'a>, FooterError> {
    let (element, count) = reader.list(wire)?;
    let mut pairs = Pairs::new();
    for _ in 0..count {
        element.structure()?;
        let (mut key, mut value) = ("", "");
        reader.fields(|id, wire, reader| match id {
            1 => reader.text(wire).map(|text| key = text),
            2 => reader.text(wire).map(|text| value = text),
            _ => reader.skip(wire),
        })?;
        if keys.contains(&key) && pairs.iter().all(|(other, _)| *other != key) {
            pairs.push((key, value));
        }
    }
    Ok(pairs)
}

fn read_group<'a>(reader: &mut Compact<'a>, group: usize, end: u64, columns: usize) -> Result<Group<'a>, FooterError> {
    let (mut rows, mut chunks) = (None, None);
    reader.fields(|id, wire, reader| -> Result<(), FooterError> {
        match id {
            1 => {
                let (element, count) = reader.list(wire)?;
                if count != columns {
                    return Err(FooterError::Columns { group, expected: columns, actual: count });
                }
                let mut list = Vec::with_capacity(count);
                for column in 0..count {
                    element.structure()?;
                    list.push(read_chunk(reader, Position { group, column, end })?);
                }
                chunks = Some(list);
            }
            3 => rows = Some(positive("rows of a row group", reader.integer(wire)?)?),
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    let rows = rows.ok_or(FooterError::Missing("rows of a row group"))?;
    Ok(Group { rows, chunks: chunks.ok_or(FooterError::Missing("columns of a row group"))? })
}

/// Which column chunk, and where the data of its file end.
#[derive(Clone, Copy)]
struct Position {
    group: usize,
    column: usize,
    end: u64,
}

fn read_chunk<'a>(reader: &mut Compact<'a>, position: Position) -> Result<Chunk<'a>, FooterError> {
    let Position { group, column, .. } = position;
    let mut chunk = None;
    reader.fields(|id, wire, reader| -> Result<(), FooterError> {
        match id {
            1 if !reader.bytes(wire)?.is_empty() => return Err(FooterError::OtherFile { group, column }),
            1 => {}
            3 => {
                wire.structure()?;
                chunk = Some(read_chunk_facts(reader, position)?);
            }
            8 | 9 => return Err(FooterError::Encrypted),
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    chunk.ok_or(FooterError::Missing("metadata of a column"))
}

fn read_chunk_facts<'a>(reader: &mut Compact<'a>, position: Position) -> Result<Chunk<'a>, FooterError> {
    let (mut codec, mut values, mut len) = (None, None, None);
    let (mut data, mut dictionary, mut bounds) = (None, None, None);
    reader.fields(|id, wire, reader| -> Result<(), FooterError> {
        match id {
            4 => codec = Some(reader.integer(wire)?),
            5 => values = Some(positive("values of a column", reader.integer(wire)?)?),
            7 => len = Some(positive("bytes of a column", reader.integer(wire)?)?),
            9 => data = Some(positive("offset of a column", reader.integer(wire)?)?),
            11 => dictionary = Some(positive("offset of a dictionary", reader.integer(wire)?)?),
            12 => bounds = read_bounds(reader, wire)?,
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    let missing = || FooterError::Missing("codec, sizes or offset of a column");
    let (data, len) = (data.ok_or_else(missing)?, len.ok_or_else(missing)?);
    // Some writers put 0 where there is no dictionary.
    let start = dictionary.filter(|offset| (1..data).contains(offset)).unwrap_or(data);
    let Position { group, column, end } = position;
    let range = ByteRange::with_len(start, len).ok().filter(|range| start >= MAGIC_LEN && range.end() <= end);
    let range = range.ok_or(FooterError::Outside { group, column, start, len, end })?;
    Ok(Chunk { range, codec: codec.ok_or_else(missing)?, values: values.ok_or_else(missing)?, bounds })
}

type Bounds<'a> = Option<(&'a [u8], &'a [u8])>;

fn read_bounds<'a>(reader: &mut Compact<'a>, wire: Wire) -> Result<Bounds<'a>, ThriftError> {
    wire.structure()?;
    let (mut least, mut greatest) = (None, None);
    reader.fields(|id, wire, reader| match id {
        5 => reader.bytes(wire).map(|bytes| greatest = Some(bytes)),
        6 => reader.bytes(wire).map(|bytes| least = Some(bytes)),
        _ => reader.skip(wire),
    })?;
    Ok(least.zip(greatest))
}

fn positive(what: &'static str, actual: i64) -> Result<u64, FooterError> {
    u64::try_from(actual).map_err(|_| FooterError::Negative { what, actual })
}
