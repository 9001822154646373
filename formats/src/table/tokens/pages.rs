//! The pages of a column chunk: a walk over their headers, which believes none of their numbers.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>. Must never return a
//! page that says to unfold to more than its values could take.

use super::levels::LevelsError;
use crate::table::{Compact, ThriftError};

const DATA_PAGE: i32 = 0;
const INDEX_PAGE: i32 = 1;
const DICTIONARY_PAGE: i32 = 2;
const DATA_PAGE_V2: i32 = 3;

/// Bytes that a page may unfold to whatever its values are: 64 KiB, for the headers of encodings, and for blocks that
/// are padded.
const FREE_PAGE_BYTES: u64 = 64 << 10;

/// Bytes that a page may unfold to for each value: sixteen. A value takes eight at most, and the run that says one
/// level two, of which there are two levels; what is left is for encodings with headers of their own.
const BYTES_A_VALUE: u64 = 16;

/// Bytes that any page may unfold to: 1.25 GiB. The longest document that is read, of [`MAX_ROW_GROUP_TOKENS`], takes
/// 1 GiB of four bytes each.
///
/// [`MAX_ROW_GROUP_TOKENS`]: crate::limits::MAX_ROW_GROUP_TOKENS
const MAX_PAGE_BYTES: u64 = 5 << 28;

/// Entries of a dictionary: 2^22, sixteen times the largest vocabulary of a public model.
const MAX_DICTIONARY: u64 = 1 << 22;

/// Why a page is not read.
#[derive(Debug, thiserror::Error)]
pub enum PageFault {
    /// Its header is not Thrift of the form that Parquet has.
    #[error("its header: {0}")]
    Thrift(#[from] ThriftError),
    /// Something that its kind of header has is missing.
    #[error("its header has no {0}")]
    Missing(&'static str),
    /// A number is over what the bytes or other numbers allow.
    #[error("{what} is {actual}, expected 0..={limit}")]
    Bound {
        /// Which number.
        what: &'static str,
        /// Greatest value that it may have.
        limit: u64,
        /// The number.
        actual: i64,
    },
    /// A dictionary stands where none can, or is missing where one is used.
    #[error("{0}")]
    Dictionary(&'static str),
    /// Something that is not read from token columns; other tools can write the file anew without it.
    #[error("its {what} is {actual}, which is not read; write the file again, for example with pyarrow")]
    Unused {
        /// Of what.
        what: &'static str,
        /// The number in Parquet's enumeration of it.
        actual: i64,
    },
    /// It does not unfold to what it says.
    #[error("it does not decompress as {codec}: {source}")]
    Compressed {
        /// The codec.
        codec: &'static str,
        /// What the codec's library says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It unfolds to another length than it says.
    #[error("it unfolds to {actual} bytes, and says {expected}")]
    Unfolded {
        /// Bytes that it says.
        expected: usize,
        /// Bytes that there are.
        actual: usize,
    },
    /// Its levels do not make sense.
    #[error("its levels: {0}")]
    Levels(LevelsError),
    /// Its values are fewer than it says, or are encoded in a way that no writer does.
    #[error("its values: {0}")]
    Values(&'static str),
    /// The pages of a chunk have not as many values as the footer says.
    #[error("the chunk ends after {actual} values, the footer says {expected}")]
    Chunk {
        /// Values as the footer says.
        expected: u64,
        /// Values that there are.
        actual: u64,
    },
}

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageKind {
    Dictionary,
    /// Levels, each with its length, and values, compressed together.
    V1,
    /// Levels of these lengths (repetition, definition), then values, which alone are compressed.
    V2 {
        levels: [usize; 2],
        compressed: bool,
    },
}

/// One page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) kind: PageKind,
    /// Values, those that are only levels counted.
    pub(super) values: usize,
    pub(super) encoding: i32,
    /// Bytes that it unfolds to.
    pub(super) unfolded: usize,
    pub(super) body: &'a [u8],
}

/// Goes over the pages of a chunk.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    reader: Compact<'a>,
    expected: u64,
    values: u64,
    number: usize,
}

#[derive(Default)]
struct Header {
    kind: Option<i32>,
    unfolded: Option<i32>,
    stored: Option<i32>,
    fields: Option<Fields>,
}

/// Fields of the header of one kind of page.
struct Fields {
    kind: i32,
    values: Option<i32>,
    encoding: Option<i32>,
    levels: [Option<i32>; 2],
    compressed: bool,
}

impl<'a> Pages<'a> {
    /// Starts on a chunk whose footer says that it has `expected` values.
    pub(super) fn new(chunk: &'a [u8], expected: u64) -> Self {
        Self { reader: Compact::new(chunk), expected, values: 0, number: 0 }
    }

    /// Returns how many pages were gone over.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Returns the next page that has data; none where the chunk ends with all its values read.
    pub(super) fn next_page(&mut self) -> Result<Option<Page<'a>>, PageFault> {
        loop {
            if self.reader.rest().is_empty() {
                let (expected, actual) = (self.expected, self.values);
                return if expected == actual { Ok(None) } else { Err(PageFault::Chunk { expected, actual }) };
            }
            let header = read_header(&mut self.reader)?;
            let rest = self.reader.rest();
            let stored = header.stored.ok_or(PageFault::Missing("length"))?;
            let stored = bound("its length", stored, rest.len() as u64)? as usize;
            let (body, rest) = rest.split_at(stored);
            self.reader = Compact::new(rest);
            self.number += 1;
            if header.kind != Some(INDEX_PAGE) {
                return self.page(&header, body).map(Some);
            }
        }
    }

    fn page(&mut self, header: &Header, body: &'a [u8]) -> Result<Page<'a>, PageFault> {
        let kind = header.kind.ok_or(PageFault::Missing("kind"))?;
        let fields = header.fields.as_ref().filter(|fields| fields.kind == kind);
        let fields = fields.ok_or(PageFault::Missing("part for its kind of page"))?;
        let unfolded = header.unfolded.ok_or(PageFault::Missing("uncompressed length"))?;
        let values = fields.values.ok_or(PageFault::Missing("number of values"))?;
        let encoding = fields.encoding.ok_or(PageFault::Missing("encoding"))?;
        let most = if kind == DICTIONARY_PAGE { MAX_DICTIONARY } else { self.expected - self.values };
        let values = bound("its number of values", values, most)?;
        let limit = (FREE_PAGE_BYTES + BYTES_A_VALUE * values).min(MAX_PAGE_BYTES);
        let unfolded = bound("its uncompressed length", unfolded, limit)? as usize;
        let kind = match kind {
            DICTIONARY_PAGE => PageKind::Dictionary,
            DATA_PAGE => PageKind::V1,
            _ => {
                let len = body.len().min(unfolded) as u64;
                let missing = PageFault::Missing("lengths of levels");
                let [Some(repetition), Some(definition)] = fields.levels else { return Err(missing) };
                let repetition = bound("the length of its repetition levels", repetition, len)?;
                let definition = bound("the length of its definition levels", definition, len - repetition)?;
                PageKind::V2 { levels: [repetition as usize, definition as usize], compressed: fields.compressed }
            }
        };
        if kind != PageKind::Dictionary {
            self.values += values;
        }
        Ok(Page { kind, values: values as usize, encoding, unfolded, body })
    }
}

fn bound(what: &'static str, actual: i32, limit: u64) -> Result<u64, PageFault> {
    let refuse = PageFault::Bound { what, limit, actual: actual.into() };
    u64::try_from(actual).ok().filter(|number| *number <= limit).ok_or(refuse)
}

fn read_header(reader: &mut Compact<'_>) -> Result<Header, PageFault> {
    let mut header = Header::default();
    reader.fields(|id, wire, reader| -> Result<(), PageFault> {
        match id {
            1 => header.kind = Some(reader.int32(wire)?),
            2 => header.unfolded = Some(reader.int32(wire)?),
            3 => header.stored = Some(reader.int32(wire)?),
            5 | 7 | 8 => {
                wire.structure()?;
                let kind = [DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2][[5, 7, 8].partition_point(|known| *known < id)];
                header.fields = Some(read_fields(reader, kind)?);
            }
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    match header.kind {
        Some(DATA_PAGE | INDEX_PAGE | DICTIONARY_PAGE | DATA_PAGE_V2) | None => Ok(header),
        Some(actual) => Err(PageFault::Unused { what: "kind", actual: actual.into() }),
    }
}

/// Encoding of levels that is read: runs.
const RLE: i32 = 3;

fn read_fields(reader: &mut Compact<'_>, kind: i32) -> Result<Fields, PageFault> {
    let mut fields = Fields { kind, values: None, encoding: None, levels: [None; 2], compressed: true };
    reader.fields(|id, wire, reader| -> Result<(), PageFault> {
        match (kind, id) {
            (_, 1) => fields.values = Some(reader.int32(wire)?),
            (DATA_PAGE | DICTIONARY_PAGE, 2) | (DATA_PAGE_V2, 4) => fields.encoding = Some(reader.int32(wire)?),
            (DATA_PAGE, 3 | 4) => {
                let actual = reader.int32(wire)?;
                if actual != RLE {
                    return Err(PageFault::Unused { what: "encoding of levels", actual: actual.into() });
                }
            }
            (DATA_PAGE_V2, 5) => fields.levels[1] = Some(reader.int32(wire)?),
            (DATA_PAGE_V2, 6) => fields.levels[0] = Some(reader.int32(wire)?),
            (DATA_PAGE_V2, 7) => fields.compressed = wire.truth()?,
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    Ok(fields)
}
