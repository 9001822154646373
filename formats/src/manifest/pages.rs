//! A look at the pages of a column chunk before the decoder gets them: kinds, encodings, and how much they unfold to.
//!
//! A decoder reserves what a page header says, and a page of a few bytes can unfold to gigabytes. Must never let pass
//! what a manifest does not need: other page kinds, other encodings, header fields that are not known here.

use super::PageError;
use super::bounds::ColumnBounds;
use crate::table::Compact;

/// Numbers of Parquet's enumerations that occur in manifests.
const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;
const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const RLE_DICTIONARY: i64 = 8;
const UNCOMPRESSED: i64 = 0;
const ZSTD: i64 = 6;

/// What a column chunk is, and may unfold to.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageLimits {
    /// Number of the chunk's codec.
    pub(super) codec: i64,
    /// Values that its row group says it has.
    pub(super) values: u64,
    /// What its column may hold.
    pub(super) bounds: ColumnBounds,
}

#[derive(Default)]
struct Header {
    kind: Option<i32>,
    uncompressed: i32,
    compressed: i32,
    data: Option<Values>,
    dictionary: Option<Values>,
}

#[derive(Default)]
struct Values {
    count: i32,
    encoding: i32,
    levels: [i32; 2],
}

/// Goes over the page headers of `chunk`; returns the position of the first data page after the dictionary.
pub(super) fn check_pages(chunk: &[u8], limits: PageLimits) -> Result<usize, PageError> {
    one_of("codec", limits.codec, &[UNCOMPRESSED, ZSTD])?;
    let mut reader = Compact::new(chunk);
    let (mut values, mut bytes, mut data_start) = (0, 0, 0);
    while !reader.rest().is_empty() {
        let first = reader.rest().len() == chunk.len();
        let header = read_header(&mut reader)?;
        let compressed = bound("page length", header.compressed, reader.rest().len() as u64)?;
        let uncompressed = bound("uncompressed page length", header.uncompressed, limits.bounds.bytes - bytes)?;
        if limits.codec == UNCOMPRESSED && compressed != uncompressed {
            return Err(PageError::Bound { what: "page length", limit: compressed, actual: header.uncompressed });
        }
        bytes += uncompressed;
        reader = Compact::new(&reader.rest()[compressed as usize..]);
        match (header.kind, &header.data, &header.dictionary) {
            (Some(DATA_PAGE), Some(page), None) => {
                one_of("encoding", page.encoding.into(), &[PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY])?;
                one_of("encoding of definition levels", page.levels[0].into(), &[RLE])?;
                one_of("encoding of repetition levels", page.levels[1].into(), &[RLE])?;
                values += bound("values of a page", page.count, limits.values - values)?;
            }
            (Some(DICTIONARY_PAGE), None, Some(page)) if first => {
                one_of("encoding of a dictionary", page.encoding.into(), &[PLAIN, PLAIN_DICTIONARY])?;
                let len = bound("dictionary length", header.uncompressed, limits.bounds.dictionary)?;
                // Numbers take eight bytes, texts at least four for their length.
                bound("values of a dictionary", page.count, len / 4)?;
                data_start = chunk.len() - reader.rest().len();
            }
            (kind, _, _) => return Err(PageError::Unused { what: "page kind", actual: kind.unwrap_or(-1).into() }),
        }
    }
    if values != limits.values {
        return Err(PageError::Values { expected: limits.values, actual: values });
    }
    Ok(data_start)
}

fn read_header(reader: &mut Compact<'_>) -> Result<Header, PageError> {
    let (mut header, mut last) = (Header::default(), 0);
    reader.fields(|id, wire, reader| -> Result<(), PageError> {
        // Said twice, one thing could be checked here and another one decoded.
        if std::mem::replace(&mut last, id) >= id {
            return Err(PageError::Unused { what: "repeated page header field", actual: id.into() });
        }
        match id {
            1 => header.kind = Some(reader.int32(wire)?),
            2 => header.uncompressed = reader.int32(wire)?,
            3 => header.compressed = reader.int32(wire)?,
            4 => drop(reader.int32(wire)?),
            5 => {
                wire.structure()?;
                header.data = Some(read_values(reader, true)?);
            }
            7 => {
                wire.structure()?;
                header.dictionary = Some(read_values(reader, false)?);
            }
            other => return Err(PageError::Unused { what: "page header field", actual: other.into() }),
        }
        Ok(())
    })?;
    Ok(header)
}

fn read_values(reader: &mut Compact<'_>, data: bool) -> Result<Values, PageError> {
    let (mut values, mut last) = (Values::default(), 0);
    reader.fields(|id, wire, reader| -> Result<(), PageError> {
        if std::mem::replace(&mut last, id) >= id {
            return Err(PageError::Unused { what: "repeated page header field", actual: id.into() });
        }
        match (id, data) {
            (1, _) => values.count = reader.int32(wire)?,
            (2, _) => values.encoding = reader.int32(wire)?,
            (3 | 4, true) => values.levels[id as usize - 3] = reader.int32(wire)?,
            (3, false) => drop(wire.truth()?),
            _ => return Err(PageError::Unused { what: "page header field", actual: id.into() }),
        }
        Ok(())
    })?;
    Ok(values)
}

fn one_of(what: &'static str, actual: i64, used: &[i64]) -> Result<(), PageError> {
    if used.contains(&actual) { Ok(()) } else { Err(PageError::Unused { what, actual }) }
}

fn bound(what: &'static str, actual: i32, limit: u64) -> Result<u64, PageError> {
    u64::try_from(actual).ok().filter(|n| *n <= limit).ok_or(PageError::Bound { what, limit, actual })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ThriftError;

    const BOUNDS: ColumnBounds = ColumnBounds { values: 100, bytes: 2 << 20, dictionary: 1 << 20 };

    fn zigzag(number: i64) -> Vec<u8> {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        let mut bytes = Vec::new();
        while rest >= 128 {
            bytes.push(rest as u8 | 128);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    /// A page whose header says these numbers, followed by `body`.
    fn page(kind: i64, sizes: [i64; 2], values: [i64; 2], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [kind, sizes[0], sizes[1]] {
            bytes.push(0x15);
            bytes.extend(zigzag(number));
        }
        // Field 5 holds the values of a data page, field 7 those of a dictionary.
        bytes.push(if kind == i64::from(DATA_PAGE) { 0x2c } else { 0x4c });
        let levels: &[i64] = if kind == i64::from(DATA_PAGE) { &[RLE, RLE] } else { &[] };
        for number in values.iter().chain(levels) {
            bytes.push(0x15);
            bytes.extend(zigzag(*number));
        }
        bytes.extend([0, 0]);
        bytes.extend(body);
        bytes
    }

    fn check(chunk: &[u8], values: u64) -> Result<usize, PageError> {
        check_pages(chunk, PageLimits { codec: ZSTD, values, bounds: BOUNDS })
    }

    #[test]
    fn pages_within_their_bounds_pass() {
        let dictionary = page(2, [100, 3], [10, PLAIN], b"abc");
        let data = page(0, [1 << 20, 2], [7, RLE_DICTIONARY], b"de");
        let more = page(0, [1 << 20, 0], [3, PLAIN], b"");
        assert_eq!(check(&data, 7), Ok(0));
        assert_eq!(check(&[dictionary.clone(), data.clone()].concat(), 7), Ok(dictionary.len()));
        assert_eq!(check(&[data.clone(), more.clone()].concat(), 10), Ok(0));
        assert_eq!(check(b"", 0), Ok(0));
        let bound = |result| matches!(result, Err(PageError::Bound { .. }));
        assert!(bound(check(&[data.clone(), more.clone(), page(0, [1, 0], [0, PLAIN], b"")].concat(), 10)));
        assert!(bound(check(&data, 6)));
        assert_eq!(check(&data, 8), Err(PageError::Values { expected: 8, actual: 7 }));
        assert!(matches!(check(&[data, dictionary].concat(), 7), Err(PageError::Unused { what: "page kind", .. })));
    }

    #[test]
    fn pages_that_would_unfold_too_far_are_refused() {
        let bound = |result| matches!(result, Err(PageError::Bound { .. }));
        assert!(bound(check(&page(0, [i32::MAX.into(), 1], [1, PLAIN], b"a"), 1)));
        assert!(bound(check(&page(0, [10, 1], [i32::MAX.into(), PLAIN], b"a"), 1)));
        assert!(bound(check(&page(0, [10, 2], [1, PLAIN], b"a"), 1)));
        assert!(bound(check(&page(0, [-1, 1], [1, PLAIN], b"a"), 1)));
        assert!(bound(check(&page(2, [(1 << 20) + 1, 1], [1, PLAIN], b"a"), 0)));
        assert!(bound(check(&page(2, [100, 1], [26, PLAIN], b"a"), 0)));
        assert_eq!(check(&page(0, [1 << 40, 1], [1, PLAIN], b"a"), 1), Err(PageError::Thrift(ThriftError::Number)));
        for encoding in [1, 4, 5, 6, 7, 9] {
            assert!(matches!(check(&page(0, [1, 1], [1, encoding], b"a"), 1), Err(PageError::Unused { .. })));
        }
        for kind in [1, 3, 4] {
            assert!(matches!(check(&page(kind, [1, 1], [1, PLAIN], b"a"), 1), Err(PageError::Unused { .. })));
        }
        let limits = PageLimits { codec: 1, values: 0, bounds: BOUNDS };
        assert_eq!(check_pages(b"", limits), Err(PageError::Unused { what: "codec", actual: 1 }));
        let limits = PageLimits { codec: UNCOMPRESSED, values: 1, bounds: BOUNDS };
        assert!(bound(check_pages(&page(0, [2, 1], [1, PLAIN], b"a"), limits)));
    }
}
