//! Files that nobody wrote: damaged ones, and pages that say what is not so.

use bytes::Bytes;
use parquet::file::metadata::{
    FileMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use proptest::prelude::*;

use super::chunk::{ChunkFault, ChunkReader};
use super::columns::Integers;
use super::file::ChunkFacts;
use super::levels::LevelsError;
use super::stored::Storing;
use super::*;
use crate::range::ByteRange;

/// Documents of one small file of our own, and the file.
fn small(compression: TokenCompression, width: TokenWidth) -> (Vec<Vec<u32>>, Bytes) {
    let rows: Vec<Vec<u32>> = (0..7u32).map(|row| (0..row * 5).map(|i| (i * 7 + row) % 40).collect()).collect();
    let spec = TokenFileSpec { compression, row_group_tokens: 60, ..TokenFileSpec::new(width) };
    let mut writer = TokenFileWriter::new(Vec::new(), spec).unwrap();
    for (i, row) in rows.iter().enumerate() {
        writer.push(&i.to_string(), row.as_slice()).unwrap();
    }
    (rows, writer.finish().unwrap().0.into())
}

/// Reads a file that may be damaged: it is refused, or gives as many rows as it says, in memory that its bytes explain.
/// Tokens that are left where they lie are the same, or one is seen to be none.
fn read(file: &Bytes) -> Result<Documents, TokenError> {
    let copied = copy(file);
    match super::tests::keep(file) {
        Ok(Some(kept)) => {
            let (found, sound) = super::tests::kept_lists(&kept);
            match &copied {
                Ok(documents) => assert_eq!((found, sound), (super::tests::lists(documents), true)),
                Err(error) => assert!(!sound, "{error}"),
            }
        }
        Ok(None) => {}
        Err(error) => assert!(copied.is_err(), "{error}"),
    }
    copied
}

fn copy(file: &Bytes) -> Result<Documents, TokenError> {
    let found = TokenFile::of(file, None)?;
    let mut documents = Documents::new(found.width());
    for group in 0..found.groups() {
        let range = found.tokens_range(group);
        let chunk = file.slice(range.start() as usize..range.end() as usize);
        let before = (documents.tokens.len(), documents.len());
        match found.read_tokens(group, &chunk, &mut documents) {
            Ok(()) => assert_eq!((documents.len() - before.1) as u64, found.rows(group)),
            Err(error) => {
                assert_eq!((documents.tokens.len(), documents.len()), before);
                return Err(error);
            }
        }
        let _ = found.counts_range(group).map(|range| {
            let chunk = file.slice(range.start() as usize..range.end() as usize);
            found.read_counts(group, &chunk, &mut Vec::new())
        });
    }
    Ok(documents)
}

const KINDS: [(TokenCompression, TokenWidth); 5] = [
    (TokenCompression::None, TokenWidth::U16),
    (TokenCompression::None, TokenWidth::U32),
    (TokenCompression::Lz4, TokenWidth::U16),
    (TokenCompression::Zstd(1), TokenWidth::U16),
    (TokenCompression::Zstd(3), TokenWidth::U32),
];

#[test]
fn files_with_a_changed_byte_or_a_cut_are_refused_or_read() {
    for (compression, width) in KINDS {
        let (rows, file) = small(compression, width);
        assert_eq!(super::tests::lists(&read(&file).unwrap()), rows);
        for len in 0..file.len() {
            assert!(read(&file.slice(..len)).is_err(), "cut at {len}");
        }
        for at in 0..file.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 0xff] {
                let mut bytes = file.to_vec();
                bytes[at] ^= change;
                let _ = read(&bytes.into());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn files_with_many_changes_are_refused_or_read(
        kind in 0..KINDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let (compression, width) = KINDS[kind];
        let mut bytes = small(compression, width).1.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes.into());
    }

    #[test]
    fn pages_of_any_bytes_are_refused_or_read(
        body in prop::collection::vec(any::<u8>(), 0..80),
        encoding in prop::sample::select(vec![0, 2, 5, 8, 9]),
        values in 0..200i64,
        rows in 0..20u64,
        lens in (0..20i64, 0..20i64),
        dictionary in any::<bool>(),
        second in any::<bool>(),
    ) {
        let body_len = body.len() as i64;
        let mut chunk = Vec::new();
        if dictionary {
            chunk.extend(page(2, body_len / 4 * 4, &[body_len / 4, 0], &body[..body.len() / 4 * 4]));
        }
        chunk.extend(if second {
            page(3, body_len, &[values, 0, rows as i64, encoding, lens.0, lens.1], &body)
        } else {
            page(0, body_len, &[values, encoding, 3, 3], &body)
        });
        let _ = decode(&chunk, values as u64, rows, 1, 0);
    }
}

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

/// A page of a kind whose header says these numbers, followed by `body`.
fn page(kind: i64, unfolded: i64, numbers: &[i64], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [kind, unfolded, body.len() as i64] {
        bytes.push(0x15);
        bytes.extend(zigzag(number));
    }
    // The fields of data pages are the 5th, of dictionaries the 7th, of data pages of version 2 the 8th.
    bytes.push(match kind {
        0 => 0x2c,
        2 => 0x4c,
        _ => 0x5c,
    });
    for number in numbers {
        bytes.push(0x15);
        bytes.extend(zigzag(*number));
    }
    bytes.extend([0, 0]);
    bytes.extend(body);
    bytes
}

/// A column of lists of 32 bits whose values have the definition level `definition`, and a chunk of it.
fn lists_of(chunk: &[u8], values: u64, definition: u32, codec: i64) -> (Integers, ChunkFacts) {
    let column = Integers {
        position: 0,
        path: "tokens".to_owned(),
        stored: 4,
        max: u32::MAX,
        unsigned: true,
        definition,
        empty: Some(definition - 1),
        lists: 1,
    };
    let range = ByteRange::new(0, chunk.len() as u64).unwrap();
    (column, ChunkFacts { range, codec, values })
}

/// Decodes a chunk of lists of 32 bits whose values have the definition level `definition`.
fn decode(
    chunk: &[u8],
    values: u64,
    rows: u64,
    definition: u32,
    codec: i64,
) -> Result<(Vec<u16>, Vec<u32>), ChunkFault> {
    let (column, facts) = lists_of(chunk, values, definition, codec);
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    ChunkReader::new(&column, facts, rows, chunk).read(&mut tokens, &mut ends)?;
    assert!(tokens.capacity() <= chunk.len() * 4 + 2 * tokens.len() + 16, "{}", tokens.capacity());
    Ok((tokens, ends))
}

/// Levels of a page of version 1: their length, then one run of each.
fn levels(repetition: &[u8], definition: &[u8]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    [with_length(repetition), with_length(definition)].concat()
}

fn plain(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A page of version 1 of as many values as `values` says.
fn data(values: i64, encoding: i64, body: &[u8]) -> Vec<u8> {
    page(0, body.len() as i64, &[values, encoding, 3, 3], body)
}

fn fault(result: Result<(Vec<u16>, Vec<u32>), ChunkFault>) -> String {
    match result {
        Err(ChunkFault::Page { source, .. }) => source.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn levels_that_do_not_fit_are_refused() {
    // Runs: twice the length, then the level; 0x03 begins one group of eight packed levels.
    let three = |repetition: &[u8], definition: &[u8]| {
        let body = [levels(repetition, definition), plain(&[7, 8, 9])].concat();
        decode(&data(3, 0, &body), 3, 1, 1, 0)
    };
    assert_eq!(three(&[0x03, 0b110], &[0x06, 1]).unwrap(), (vec![7, 8, 9], vec![3]));
    assert_eq!(three(&[0x02, 0, 0x04, 1], &[0x03, 0b111]).unwrap(), (vec![7, 8, 9], vec![3]));
    // The first value goes on with a row (as in ARROW-GH-45185).
    assert!(fault(three(&[0x06, 1], &[0x06, 1])).contains(&LevelsError::NoStart.to_string()));
    // Fewer levels than values (as in ARROW-RS-GH-6229-LEVELS and ARROW-GH-41321).
    assert!(fault(three(&[0x02, 0, 0x02, 1], &[0x06, 1])).contains(&LevelsError::Ended.to_string()));
    assert!(fault(three(&[0x03, 0b110], &[0x04, 1])).contains(&LevelsError::Ended.to_string()));
    assert!(fault(three(&[0x03, 0b110], &[])).contains(&LevelsError::Ended.to_string()));
    assert!(fault(three(&[0x03, 0b000], &[0x06, 1])).contains(&LevelsError::Rows(1).to_string()));
    assert!(fault(three(&[0x06, 0], &[0x06, 1])).contains(&LevelsError::Rows(1).to_string()));
    assert!(fault(three(&[0x03, 0b110], &[0x06, 2])).contains("end before"));
    // An empty list that has values.
    assert!(fault(three(&[0x03, 0b110], &[0x03, 0b110])).contains(&LevelsError::Empty.to_string()));
    assert!(fault(three(&[0x03, 0b110], &[0x03, 0b101])).contains(&LevelsError::Empty.to_string()));
    let long = [&u32::MAX.to_le_bytes()[..], &[0; 20]].concat();
    assert!(fault(decode(&data(3, 0, &long), 3, 1, 1, 0)).contains(&LevelsError::Length.to_string()));
}

#[test]
fn an_empty_list_ends_with_its_page() {
    let first = data(1, 0, &levels(&[0x02, 0], &[0x02, 0]));
    let second = |repetition| data(1, 0, &[levels(&[0x02, repetition], &[0x02, 1]), plain(&[5])].concat());
    assert_eq!(decode(&[first.clone(), second(0)].concat(), 2, 2, 1, 0).unwrap(), (vec![5], vec![0, 1]));
    assert!(fault(decode(&[first, second(1)].concat(), 2, 2, 1, 0)).contains(&LevelsError::Empty.to_string()));
    // A row that goes on in another page is no new one.
    assert_eq!(decode(&[second(0), second(1)].concat(), 2, 1, 1, 0).unwrap(), (vec![5, 5], vec![2]));
}

#[test]
fn pages_that_say_too_much_are_refused_before_they_take_memory() {
    let body = [levels(&[0x02, 0], &[0x02, 1]), plain(&[7])].concat();
    let says = |values, unfolded, codec| fault(decode(&page(0, unfolded, &[values, 0, 3, 3], &body), 1, 1, 1, codec));
    assert!(says(2, body.len() as i64, 0).contains("number of values is 2, expected 0..=1"));
    assert!(says(-1, body.len() as i64, 0).contains("number of values is -1"));
    assert!(says(1, i64::from(i32::MAX), 6).contains("uncompressed length is 2147483647, expected 0..=65552"));
    assert!(says(1, 5, 0).contains("unfolds to"));
    for codec in [1, 6, 7] {
        let text = says(1, 60_000, codec);
        assert!(text.contains("does not decompress") || text.contains("unfolds to"), "{text}");
    }
    for codec in [2, 3, 4, 5, 8, 99] {
        assert!(says(1, body.len() as i64, codec).contains(&format!("codec is {codec}")));
    }
    // A negative number of dictionary entries (as in ARROW-RS-GH-6229-DICTHEADER), and more than bytes.
    assert!(fault(decode(&page(2, 4, &[-1, 0], &[0; 4]), 1, 1, 1, 0)).contains("number of values is -1"));
    assert!(fault(decode(&page(2, 4, &[1 << 20, 0], &[0; 4]), 1, 1, 1, 0)).contains("unfolds to 4 bytes"));
    let long = page(0, 8, &[1, 0, 3, 3], &[0; 8]);
    assert!(fault(decode(&long[..long.len() - 1], 1, 1, 1, 0)).contains("its length"));
    assert!(fault(decode(&[], 1, 1, 1, 0)).contains("the chunk ends after 0 values"));
}

#[test]
fn dictionaries_are_looked_up_within_their_entries() {
    let entries = |values: &[u32]| page(2, 4 * values.len() as i64, &[values.len() as i64, 0], &plain(values));
    let indices = |bytes: &[u8]| {
        let body = [levels(&[0x02, 0, 0x0e, 1], &[0x10, 1]), bytes.to_vec()].concat();
        data(8, 8, &body)
    };
    let words = |last: u8| [[16, 3].to_vec(), vec![0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 2, 0, 0, 0, last, 0]].concat();
    let read = |entries: Vec<u8>, indices: Vec<u8>| decode(&[entries, indices].concat(), 8, 1, 1, 0);
    let identity = read(entries(&[0, 1, 2]), indices(&words(2))).unwrap();
    assert_eq!(identity.0, [0, 1, 2, 0, 1, 2, 0, 2]);
    assert_eq!(read(entries(&[0, 1, 7]), indices(&words(2))).unwrap().0, [0, 1, 7, 0, 1, 7, 0, 7]);
    for dictionary in [[0, 1, 2], [5, 6, 7]] {
        assert!(fault(read(entries(&dictionary), indices(&words(3)))).contains("beyond the dictionary"));
    }
    // An entry that is no token counts only where it is used.
    assert_eq!(read(entries(&[5, 6, 7, 1 << 20]), indices(&words(2))).unwrap().0.len(), 8);
    let used = read(entries(&[5, 6, 7, 1 << 20]), indices(&words(3)));
    assert!(matches!(used, Err(ChunkFault::Value { row: 0, actual: 1_048_576, limit: 65_535 })));
    // Indices of no bits are all 0, as one entry needs none (ARROW-GH-43605).
    assert_eq!(read(entries(&[9]), indices(&[0, 0x10])).unwrap().0, [9; 8]);
    assert!(fault(read(Vec::new(), indices(&words(2)))).contains("missing"));
    assert!(fault(read(entries(&[]), indices(&words(0)))).contains("beyond"));
    assert!(fault(read(entries(&[1]), indices(&[33, 0x10]))).contains("more than 32 bits"));
    assert!(fault(read([entries(&[1]), entries(&[1])].concat(), indices(&words(0)))).contains("second dictionary"));
}

/// The same file with a footer that says other numbers of the token column's values, and of rows, in its one row group.
fn with_claims(file: &Bytes, values: i64, rows: i64) -> Bytes {
    let old = ParquetMetaDataReader::new().parse_and_finish(file).unwrap();
    let group = old.row_group(0);
    let mut columns = group.columns().to_vec();
    columns[2] = columns[2].clone().into_builder().set_num_values(values).build().unwrap();
    let schema = old.file_metadata().schema_descr_ptr();
    let group = RowGroupMetaData::builder(schema.clone()).set_num_rows(rows).set_column_metadata(columns);
    let facts = FileMetaData::new(2, rows, None, None, schema, None);
    let mut footer = Vec::new();
    let metadata = ParquetMetaData::new(facts, vec![group.build().unwrap()]);
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish().unwrap();
    let end =
        file.len() - 8 - u32::from_le_bytes(*file.last_chunk::<8>().unwrap().first_chunk::<4>().unwrap()) as usize;
    [&file[..end], &footer].concat().into()
}

#[test]
fn what_a_footer_claims_is_bounded_and_checked() {
    let mut writer = TokenFileWriter::new(Vec::new(), TokenFileSpec::new(TokenWidth::U16)).unwrap();
    writer.push("a", [1u32, 2, 3].as_slice()).unwrap();
    writer.push("b", [4u32].as_slice()).unwrap();
    let file: Bytes = writer.finish().unwrap().0.into();
    assert_eq!(read(&with_claims(&file, 4, 2)).unwrap().ends, [3, 4]);
    let refused = |values, rows| read(&with_claims(&file, values, rows)).unwrap_err();
    assert!(matches!(refused(1 << 60, 2), TokenError::TooLarge { what: "values", .. }));
    assert!(matches!(refused(1 << 60, 1 << 60), TokenError::TooLarge { what: "rows", .. }));
    assert!(matches!(refused(4, 5), TokenError::Rows { expected: 5, actual: 4, .. }));
    assert!(matches!(refused(4, 3), TokenError::Rows { expected: 3, actual: 2, .. }));
    assert!(refused(4, 1).to_string().contains("more rows than the 1"));
    assert!(refused(5, 2).to_string().contains("the chunk ends after 4 values, the footer says 5"));
    assert!(refused(3, 2).to_string().contains("number of values is 4, expected 0..=3"));
    // As much as may be claimed takes no more memory than the chunk explains.
    let claimed = TokenFile::of(&with_claims(&file, 1 << 28, 1 << 24), None).unwrap();
    let range = claimed.tokens_range(0);
    let chunk = file.slice(range.start() as usize..range.end() as usize);
    let mut documents = Documents::new(TokenWidth::U16);
    claimed.read_tokens(0, &chunk, &mut documents).unwrap_err();
    let TokenBuffer::U16(tokens) = &documents.tokens else { unreachable!("it was made so") };
    assert!(tokens.capacity() <= 4 * chunk.len() && documents.ends.capacity() < 100);
}

#[test]
fn a_few_bytes_of_runs_are_bounded_by_the_rows_and_tokens_that_the_file_says() {
    // 2^20 empty documents in one run: as many ends as rows, and not one more.
    let run = |len: u32, level: u8| [varint(len * 2), vec![level]].concat();
    let count = 1 << 20;
    let body = levels(&run(count, 0), &run(count, 0));
    let (tokens, ends) = decode(&data(count.into(), 0, &body), count.into(), count.into(), 1, 0).unwrap();
    assert_eq!((tokens.len(), ends.len()), (0, 1 << 20));
    assert!(fault(decode(&data(count.into(), 0, &body), count.into(), 5, 1, 0)).contains("more rows than the 5"));
}

fn varint(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Leaves the tokens of a chunk of lists, not compressed, where they lie.
fn store(chunk: Vec<u8>, values: u64, rows: u64) -> (StoredTokens, Vec<u32>, bool) {
    let chunk = Bytes::from(chunk);
    let (column, facts) = lists_of(&chunk, values, 1, 0);
    let (mut stored, mut ends) = (StoredTokens::default(), Vec::new());
    let mut storing = Storing::new(&chunk, &mut stored);
    ChunkReader::new(&column, facts, rows, &chunk).read_into(&mut storing, &mut ends).unwrap();
    let flat = storing.is_flat();
    (stored, ends, flat)
}

#[test]
fn tokens_lie_in_as_many_runs_as_the_pages_have() {
    let token = |i: usize| (i * 7 % 3000) as u32;
    let packed = |from: usize, len: usize| {
        let words = (from..from + len).flat_map(|i| (token(i) as u16).to_le_bytes());
        [varint(((len / 8) << 1 | 1) as u32), words.collect()].concat()
    };
    // All of a page are in one row, or one row goes on from page to page.
    let page_of = |count: usize, first: bool, runs: &[Vec<u8>]| {
        let run = |level: u8, len: usize| [varint((len << 1) as u32), vec![level]].concat();
        let repetition = if first { [run(0, 1), run(1, count - 1)].concat() } else { run(1, count) };
        let body = [levels(&repetition, &run(1, count)), vec![16], runs.concat()].concat();
        data(count as i64, 8, &body)
    };
    let dictionary = page(2, 12_000, &[3000, 0], &plain(&(0..3000).collect::<Vec<_>>()));
    let pages = |short: usize| {
        let first = page_of(2048 + short, true, &[packed(0, 1024), packed(1024, short), packed(1024 + short, 1024)]);
        let second = page_of(16, false, &[packed(2048 + short, 16)]);
        [dictionary.clone(), first, second].concat()
    };

    let (mut stored, ends, flat) = store(pages(1024), 3088, 1);
    assert!(flat && ends == [3088]);
    let found = |stored: &StoredTokens, start, end| -> (Vec<u32>, usize) {
        let pieces: Vec<_> = stored.pieces(start, end).collect();
        assert!(pieces.iter().all(|piece| piece.greatest == 2999 && !piece.words.is_empty()));
        let words = pieces.iter().flat_map(|piece| piece.words.iter().map(|word| u16::from_le_bytes(*word).into()));
        (words.collect(), pieces.len())
    };
    for (start, end, runs) in [(0, 3088, 4), (1000, 1030, 2), (1024, 2048, 1), (3071, 3088, 2), (5, 5, 0), (0, 0, 0)] {
        assert_eq!(found(&stored, start, end), ((start..end).map(token).collect(), runs), "{start}..{end}");
    }
    stored.truncate(1500);
    assert_eq!((stored.len(), found(&stored, 0, 1500).0), (1500, (0..1500).map(token).collect()));

    // A short run that others follow: they are counted, and copied by whoever needs them.
    let (stored, ends, flat) = store(pages(8), 2072, 1);
    assert_eq!((flat, stored.len(), ends), (false, 2072, vec![2072]));
}
