//! Token columns as other programs write them: read as the parquet crate reads them, or refused by name.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, PrimitiveBuilder};
use arrow_array::types::{ArrowPrimitiveType, Int16Type, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StructArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use proptest::prelude::*;

use super::tests::{lists, read};
use super::*;

type Lists = Vec<Option<Vec<Option<u32>>>>;

fn array<T: ArrowPrimitiveType>(rows: &Lists, nullable: bool) -> ArrayRef
where
    T::Native: TryFrom<u32>,
{
    let mut builder = ListBuilder::new(PrimitiveBuilder::<T>::new());
    if !nullable {
        builder = builder.with_field(Field::new("element", T::DATA_TYPE, false));
    }
    for row in rows {
        for token in row.iter().flatten() {
            builder.values().append_option(token.map(|token| T::Native::try_from(token).ok().unwrap()));
        }
        builder.append(row.is_some());
    }
    Arc::new(builder.finish())
}

fn file(columns: Vec<(&str, ArrayRef, bool)>, properties: WriterPropertiesBuilder) -> Bytes {
    let fields = columns.iter().map(|(name, array, nullable)| Field::new(*name, array.data_type().clone(), *nullable));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array, _)| array).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn some(rows: &[Vec<u32>]) -> Lists {
    rows.iter().map(|row| Some(row.iter().copied().map(Some).collect())).collect()
}

/// The kinds of columns that are read.
fn column(kind: usize, rows: &Lists, nullable: bool) -> ArrayRef {
    match kind {
        0 => array::<UInt16Type>(rows, nullable),
        1 => array::<UInt32Type>(rows, nullable),
        2 => array::<Int32Type>(rows, nullable),
        3 => array::<Int64Type>(rows, nullable),
        4 => array::<UInt64Type>(rows, nullable),
        _ => array::<Int16Type>(rows, nullable),
    }
}

fn any_properties() -> impl Strategy<Value = WriterPropertiesBuilder> {
    let encoding = prop::sample::select(vec![
        None,
        Some(Encoding::PLAIN),
        Some(Encoding::DELTA_BINARY_PACKED),
        Some(Encoding::BYTE_STREAM_SPLIT),
    ]);
    let codec = prop::sample::select(vec![
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ]);
    let version = prop::sample::select(vec![WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0]);
    let sizes = (1..40usize, prop::sample::select(vec![16usize, 200, 1 << 20]), 1..100usize, any::<bool>());
    (encoding, codec, version, sizes).prop_map(|(encoding, codec, version, (rows, dictionary, batch, page_index))| {
        let mut properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(codec)
            .set_max_row_group_row_count(Some(rows))
            .set_dictionary_page_size_limit(dictionary)
            .set_data_page_size_limit(64)
            .set_write_batch_size(batch)
            .set_offset_index_disabled(page_index);
        if let Some(encoding) = encoding {
            properties = properties.set_dictionary_enabled(false).set_encoding(encoding);
        }
        properties
    })
}

fn any_rows() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let token = prop_oneof![4 => 0..20u32, 1 => 0..1u32 << 15, 1 => Just(7)];
    let len = prop_oneof![Just(0usize), 0..3usize, 0..200usize];
    prop::collection::vec(len.prop_flat_map(move |len| prop::collection::vec(token.clone(), len)), 0..60)
}

proptest! {
    #[test]
    fn lists_of_integers_are_read_however_they_are_written(
        rows in any_rows(),
        kind in 0..6usize,
        nullable in any::<[bool; 2]>(),
        inside in any::<bool>(),
        properties in any_properties(),
    ) {
        let lists_of = column(kind, &some(&rows), nullable[0]);
        let counts: ArrayRef = Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.len() as u32)));
        let field = Arc::new(Field::new("tokens", lists_of.data_type().clone(), nullable[1]));
        let column = if inside && !rows.is_empty() {
            Arc::new(StructArray::from(vec![(field, lists_of)])) as ArrayRef
        } else {
            lists_of
        };
        let bytes = file(vec![("n_tokens", counts, false), ("text", column, nullable[1])], properties);
        let found = TokenFile::of(&bytes, None).unwrap();
        prop_assert_eq!(found.width() == TokenWidth::U16, kind == 0 || kind == 5);
        for width in [TokenWidth::U16, TokenWidth::U32] {
            prop_assert_eq!(&lists(&read(&bytes, None, width).unwrap()), &rows);
        }
        let mut counts = Vec::new();
        for group in 0..found.groups() {
            let range = found.counts_range(group).unwrap();
            let chunk = bytes.slice(range.start() as usize..range.end() as usize);
            found.read_counts(group, &chunk, &mut counts).unwrap();
        }
        prop_assert_eq!(counts, rows.iter().map(|row| row.len() as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_null_is_refused_by_its_row(
        rows in any_rows(),
        at in any::<prop::sample::Index>(),
        within in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        properties in any_properties(),
    ) {
        prop_assume!(!rows.is_empty());
        let row = at.index(rows.len());
        let mut with_null = some(&rows);
        let tokens = with_null[row].as_mut().unwrap();
        tokens.insert(within.index(tokens.len() + 1), None);
        if whole {
            with_null[row] = None;
        }
        let bytes = file(vec![("tokens", column(0, &with_null, true), true)], properties);
        let mut documents = Documents::new(TokenWidth::U16);
        let found = TokenFile::of(&bytes, None).unwrap();
        let read = (0..found.groups()).try_for_each(|group| {
            let range = found.tokens_range(group);
            let before = documents.clone();
            let chunk = bytes.slice(range.start() as usize..range.end() as usize);
            found.read_tokens(group, &chunk, &mut documents).inspect_err(|_| assert_eq!(documents, before))
        });
        prop_assert!(
            matches!(&read, Err(TokenError::Null { row: actual, .. }) if *actual == row as u64),
            "row {row}: {read:?}"
        );
    }
}

#[test]
fn a_value_that_is_no_token_is_refused_by_its_row() {
    let mut builder = ListBuilder::new(Int64Builder::new());
    for row in [vec![1, 2], vec![], vec![3], vec![4, 1 << 32], vec![5]] {
        builder.values().append_slice(&row);
        builder.append(true);
    }
    let array: ArrayRef = Arc::new(builder.finish());
    for dictionary in [true, false] {
        let properties = WriterProperties::builder().set_dictionary_enabled(dictionary);
        let bytes = file(vec![("tokens", array.clone(), true)], properties);
        let error = read(&bytes, None, TokenWidth::U32).unwrap_err();
        let expected =
            "row 3 (row group 0): column tokens.list.element has the value 4294967296, expected 0..=4294967295";
        assert_eq!(error.to_string().replace(".item", ".element"), expected);
    }
    let narrow = file(vec![("tokens", column(1, &some(&[vec![1], vec![65_536]]), false), false)], Default::default());
    let error = read(&narrow, None, TokenWidth::U16).unwrap_err();
    assert!(matches!(error, TokenError::Value { row: 1, actual: 65_536, limit: 65_535, .. }), "{error}");
    let mut builder = ListBuilder::new(PrimitiveBuilder::<Int32Type>::new());
    builder.values().append_slice(&[-5]);
    builder.append(true);
    let negative = file(vec![("tokens", Arc::new(builder.finish()), true)], Default::default());
    let error = read(&negative, None, TokenWidth::U32).unwrap_err();
    assert!(matches!(error, TokenError::Value { row: 0, actual: -5, .. }), "{error}");
}

#[test]
fn the_column_is_found_or_asked_for() {
    let tokens = || column(0, &some(&[vec![1, 2]]), false);
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let two = |names: [&'static str; 2]| {
        let columns = vec![(names[0], tokens(), false), ("n", number.clone(), false), (names[1], tokens(), true)];
        file(columns, Default::default())
    };
    let found = |bytes: &Bytes, column| TokenFile::of(bytes, column).map(|found| found.column().to_owned());
    assert_eq!(found(&two(["mask", "input_ids"]), None).unwrap(), "input_ids.list.element");
    assert!(
        matches!(found(&two(["tokens", "input_ids"]), None), Err(TokenError::Several { lists }) if lists.len() == 2)
    );
    assert!(matches!(found(&two(["a", "b"]), None), Err(TokenError::Several { .. })));
    assert_eq!(found(&two(["a", "b"]), Some("b")).unwrap(), "b.list.element");
    assert_eq!(found(&two(["a", "b"]), Some("a.list.element")).unwrap(), "a.list.element");
    assert!(matches!(found(&two(["a", "b"]), Some("n")), Err(TokenError::Type { lists: 0, .. })));
    assert!(matches!(found(&two(["a", "b"]), Some("c")), Err(TokenError::Missing { lists, .. }) if lists.len() == 2));
    let none = file(vec![("n", number.clone(), false)], Default::default());
    assert!(matches!(found(&none, None), Err(TokenError::Missing { .. })));
    let text = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
    let schema = Arc::new(Schema::new(vec![Field::new("tokens", text, true)]));
    let texts = ArrowWriter::try_new(Vec::new(), schema, None).unwrap().into_inner().unwrap().into();
    assert!(matches!(found(&texts, Some("tokens")), Err(TokenError::Type { lists: 1, .. })));
}

#[test]
fn what_is_not_there_can_not_be_read() {
    let rows = some(&[vec![1, 2, 3]]);
    let bytes = file(vec![("tokens", column(1, &rows, false), false)], Default::default());
    let found = TokenFile::of(&bytes, None).unwrap();
    let range = found.tokens_range(0);
    let chunk = bytes.slice(range.start() as usize..range.end() as usize);
    let mut documents = Documents::new(TokenWidth::U32);
    let short = found.read_tokens(0, &chunk.slice(1..), &mut documents);
    assert!(matches!(short, Err(TokenError::Given { .. })));
    assert!(matches!(found.read_tokens(1, &chunk, &mut documents), Err(TokenError::Group { group: 1, groups: 1 })));
    assert!(matches!(found.read_counts(0, &chunk, &mut Vec::new()), Err(TokenError::NoCounts)));
    assert_eq!(found.counts_range(0), None);
}
