//! Token files as they are written here and elsewhere, read back.

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt32Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;

/// Documents of a file: ids and tokens.
type Texts = Vec<(String, Vec<u32>)>;

fn write(spec: TokenFileSpec, texts: &Texts) -> (Bytes, TokenFileFacts) {
    let mut writer = TokenFileWriter::new(Vec::new(), spec).unwrap();
    for (id, tokens) in texts {
        writer.push(id, tokens.as_slice()).unwrap();
    }
    let (bytes, facts) = writer.finish().unwrap();
    (bytes.into(), facts)
}

fn part(file: &Bytes, range: crate::range::ByteRange) -> Bytes {
    file.slice(range.start() as usize..range.end() as usize)
}

/// Reads all row groups into one.
pub(super) fn read(file: &Bytes, column: Option<&str>, width: TokenWidth) -> Result<Documents, TokenError> {
    let found = TokenFile::of(file, column)?;
    let mut documents = Documents::new(width);
    for group in 0..found.groups() {
        found.read_tokens(group, &part(file, found.tokens_range(group)), &mut documents)?;
    }
    Ok(documents)
}

/// Reads all row groups into one, with their tokens where they lie; none where one of them can't be read so.
pub(super) fn keep(file: &Bytes) -> Result<Option<Documents<StoredTokens>>, TokenError> {
    let found = TokenFile::of(file, None)?;
    let mut documents = Documents::<StoredTokens>::default();
    for group in 0..found.groups() {
        let before = (documents.tokens.len(), documents.len());
        let kept = found.keep_tokens(group, &part(file, found.tokens_range(group)), &mut documents);
        if !matches!(kept, Ok(true)) {
            assert_eq!((documents.tokens.len(), documents.len()), before);
            return kept.map(|_| None);
        }
    }
    Ok(Some(documents))
}

/// The tokens of documents that lie where they were read, and whether each is in its dictionary.
pub(super) fn kept_lists(documents: &Documents<StoredTokens>) -> (Vec<Vec<u32>>, bool) {
    let mut sound = true;
    let starts = [0].into_iter().chain(documents.ends.iter().copied());
    let lists = starts.zip(&documents.ends).map(|(start, end)| {
        let pieces = documents.tokens.pieces(start as usize, *end as usize);
        let tokens = pieces.flat_map(|piece| piece.words.iter().map(move |word| (*word, piece.greatest)));
        let tokens = tokens.map(|(word, greatest)| {
            let token = u16::from_le_bytes(word);
            sound &= token <= greatest;
            u32::from(token)
        });
        tokens.collect()
    });
    (lists.collect(), sound)
}

pub(super) fn lists(documents: &Documents) -> Vec<Vec<u32>> {
    (0..documents.len()).map(|i| documents.document(i).unwrap().iter().collect()).collect()
}

/// The same file as the parquet crate reads it.
fn read_elsewhere(file: &Bytes) -> Texts {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    let mut texts = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let ids = batch.column(0).as_string::<i32>().clone();
        let counts = batch.column(1).as_primitive::<UInt32Type>().clone();
        let tokens = batch.column(2).as_list::<i32>();
        for row in 0..batch.num_rows() {
            let list = tokens.value(row);
            let list: Vec<u32> = match list.as_primitive_opt::<UInt16Type>() {
                Some(list) => list.values().iter().copied().map(u32::from).collect(),
                None => list.as_primitive::<UInt32Type>().values().to_vec(),
            };
            assert_eq!(counts.value(row) as usize, list.len());
            texts.push((ids.value(row).to_owned(), list));
        }
    }
    texts
}

fn any_spec() -> impl Strategy<Value = TokenFileSpec> {
    let compression = prop_oneof![
        Just(TokenCompression::None),
        Just(TokenCompression::Lz4),
        (1..5i32).prop_map(TokenCompression::Zstd)
    ];
    let width = prop_oneof![Just(TokenWidth::U16), Just(TokenWidth::U32)];
    let metadata = prop::collection::btree_map("[a-z]{1,4}", ".{0,8}", 0..3);
    (width, prop_oneof![1..50u64, Just(8 << 20)], compression, metadata).prop_map(
        |(width, row_group_tokens, compression, metadata)| TokenFileSpec {
            row_group_tokens,
            compression,
            metadata,
            ..TokenFileSpec::new(width)
        },
    )
}

fn any_texts() -> impl Strategy<Value = Texts> {
    let len = prop_oneof![Just(0usize), 1..4usize, 1..300usize];
    let token = prop_oneof![0..50u32, Just(u32::from(u16::MAX)), 0..1u32 << 16];
    let tokens = len.prop_flat_map(move |len| prop::collection::vec(token.clone(), len));
    prop::collection::vec(("[a-zä/]{0,12}", tokens), 0..40)
}

proptest! {
    #[test]
    fn what_is_written_is_read_here_and_elsewhere(spec in any_spec(), texts in any_texts()) {
        let width = spec.width;
        let (limit, flat) = (spec.row_group_tokens, matches!(spec.compression, TokenCompression::None));
        let (file, facts) = write(spec.clone(), &texts);
        prop_assert_eq!(&write(spec, &texts).0, &file);
        prop_assert_eq!(&read_elsewhere(&file), &texts);
        let expected: Vec<Vec<u32>> = texts.iter().map(|(_, tokens)| tokens.clone()).collect();
        for into in [width, TokenWidth::U32] {
            let documents = read(&file, None, into).unwrap();
            prop_assert_eq!(&lists(&documents), &expected);
        }
        let kept = keep(&file).unwrap();
        if width == TokenWidth::U16 && flat && expected.iter().all(|tokens| !tokens.is_empty()) {
            prop_assert!(kept.is_some());
        }
        if let Some(kept) = kept {
            prop_assert_eq!(kept_lists(&kept), (expected.clone(), true));
        }
        let found = TokenFile::of(&file, Some("tokens")).unwrap();
        prop_assert_eq!(found.column(), "tokens.list.element");
        prop_assert_eq!(found.width(), width);
        prop_assert_eq!(facts.rows, texts.len() as u64);
        prop_assert_eq!(facts.groups.len(), found.groups());
        let mut counts = Vec::new();
        for (group, (rows, tokens)) in facts.groups.iter().enumerate() {
            prop_assert!(*tokens <= limit || *rows == 1);
            prop_assert_eq!(found.rows(group), *rows);
            let chunk = part(&file, found.counts_range(group).unwrap());
            found.read_counts(group, &chunk, &mut counts).unwrap();
        }
        let lens: Vec<u32> = expected.iter().map(|tokens| tokens.len() as u32).collect();
        prop_assert_eq!(counts, lens);
    }
}

#[test]
fn documents_that_do_not_fit_are_refused_and_leave_the_file_as_it_was() {
    let spec = TokenFileSpec { vocab_size: Some(100), ..TokenFileSpec::new(TokenWidth::U16) };
    let mut writer = TokenFileWriter::new(Vec::new(), spec).unwrap();
    writer.push("a", [99u32].as_slice()).unwrap();
    let refused = writer.push("b", [5u16, 100].as_slice()).unwrap_err();
    assert!(matches!(refused, TokenWriteError::Token { row: 1, actual: 100, limit: 99, .. }), "{refused}");
    let refused = writer.push(&"i".repeat(crate::limits::MAX_DOCUMENT_ID_BYTES + 1), [5u16].as_slice()).unwrap_err();
    assert!(matches!(refused, TokenWriteError::Id { row: 1, .. }), "{refused}");
    writer.push("c", [7u16].as_slice()).unwrap();
    assert_eq!((writer.rows(), writer.tokens()), (2, 2));
    let (file, facts) = writer.finish().unwrap();
    assert_eq!(facts, TokenFileFacts { rows: 2, tokens: 2, groups: vec![(2, 2)] });
    assert_eq!(lists(&read(&file.into(), None, TokenWidth::U16).unwrap()), [[99], [7]]);

    let mut narrow = TokenFileWriter::new(Vec::new(), TokenFileSpec::new(TokenWidth::U16)).unwrap();
    let refused = narrow.push("a", [65_536u32].as_slice()).unwrap_err();
    assert!(matches!(refused, TokenWriteError::Token { row: 0, limit: 65_535, .. }), "{refused}");
}

#[test]
fn settings_out_of_their_bounds_are_refused() {
    let spec = TokenFileSpec::new(TokenWidth::U16);
    let refused = |spec| TokenFileWriter::new(Vec::new(), spec).err().unwrap().to_string();
    let compression = TokenCompression::Zstd(23);
    assert_eq!(refused(TokenFileSpec { compression, ..spec.clone() }), "zstd level is 23, expected 1..=22");
    assert!(refused(TokenFileSpec { row_group_tokens: 0, ..spec.clone() }).contains("expected 1..=2^28"));
    assert!(refused(TokenFileSpec { row_group_tokens: u64::MAX, ..spec.clone() }).contains("expected 1..=2^28"));
    assert!(refused(TokenFileSpec { vocab_size: Some(0), ..spec }).contains("vocabulary size is 0"));
}

#[test]
fn pages_are_whole_documents_and_are_in_the_offset_index() {
    // Three pages of 1 MiB of two-byte tokens, the second of one document that is longer than a page.
    let texts: Texts = [400_000, 100_000, 900_000, 3].iter().map(|len| (String::new(), vec![9; *len])).collect();
    let spec = TokenFileSpec { compression: TokenCompression::None, ..TokenFileSpec::new(TokenWidth::U16) };
    let file = write(spec, &texts).0;
    let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
        .with_offset_index_policy(parquet::file::metadata::PageIndexPolicy::Required);
    let reader = parquet::arrow::arrow_reader::ArrowReaderMetadata::load(&file, options).unwrap();
    let index = reader.metadata().offset_index().unwrap();
    let pages = index[0][2].page_locations();
    assert_eq!(pages.iter().map(|page| page.first_row_index).collect::<Vec<_>>(), [0, 2, 3]);
    let found = TokenFile::of(&file, None).unwrap();
    let range = found.tokens_range(0);
    let sizes: i64 = pages.iter().map(|page| i64::from(page.compressed_page_size)).sum();
    assert_eq!(pages[0].offset + sizes, range.end() as i64);
    assert!(pages.iter().all(|page| page.offset >= range.start() as i64));
    assert_eq!(read_elsewhere(&file), texts);
}
