//! Tests of footers: real files, and hostile ones that must neither panic nor allocate without bound.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;

use super::*;

/// A table of most shapes that schemas have: plain, optional, logical types, a list, a structure.
fn table(rows: i64) -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..rows {
        tags.append_value([Some(format!("tag-{row}")), None]);
    }
    let score: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|row| (row % 3 != 0).then_some(row))));
    let times = TimestampMicrosecondArray::from_iter_values(0..rows).with_timezone("UTC");
    let prices = Decimal128Array::from_iter_values((0..rows).map(i128::from)).with_precision_and_scale(20, 2).unwrap();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef, false),
        ("text", Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row {row}")))), true),
        ("at", Arc::new(times), true),
        ("price", Arc::new(prices), true),
        ("tags", Arc::new(tags.finish()), true),
        (
            "meta",
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("score", DataType::Int64, true)), score)])),
            false,
        ),
    ])
    .unwrap()
}

fn write(batch: &RecordBatch, group_rows: usize) -> Bytes {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

/// Serves a reader from `file` and returns what it read and the bytes it asked for.
fn serve(file: &Bytes) -> (Result<ParquetFacts, FooterError>, u64) {
    let mut reader = FooterReader::new(file.len() as u64);
    let mut asked = 0;
    loop {
        match reader.step() {
            Ok(Step::Done(footer)) => return (footer.facts(), asked),
            Err(error) => return (Err(error), asked),
            Ok(Step::Need(ranges)) => {
                assert!(!ranges.is_empty());
                for range in ranges {
                    asked += range.len();
                    reader.give(range, file.slice(range.start() as usize..range.end() as usize)).unwrap();
                }
            }
        }
    }
}

#[test]
fn facts_are_those_that_another_reader_finds() {
    let file = write(&table(1000), 300);
    let facts = ParquetFacts::of(&file).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    assert_eq!((facts.rows, facts.row_groups.len()), (1000, 4));
    for (group, theirs) in facts.row_groups.iter().zip(metadata.row_groups()) {
        let chunks: Vec<_> = theirs.columns().iter().map(ColumnChunkMetaData::byte_range).collect();
        let start = chunks.iter().map(|(start, _)| *start).min().unwrap();
        let end = chunks.iter().map(|(start, len)| start + len).max().unwrap();
        assert_eq!(*group, RowGroup { offset: start, len: end - start, rows: theirs.num_rows() as u64 });
    }
    let theirs = metadata.file_metadata().schema_descr().columns();
    let paths: Vec<String> = theirs.iter().map(|column| column.path().string()).collect();
    assert_eq!(facts.columns.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), paths);
    let types: Vec<&str> = facts.columns.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        types,
        [
            "required int64",
            "optional string",
            "optional timestamp(us,utc)",
            "optional decimal(20,2)",
            "optional string",
            "optional int64"
        ]
    );
}

#[test]
fn the_fingerprint_is_of_the_schema_alone() {
    let facts = |batch: &RecordBatch, rows| ParquetFacts::of(&write(batch, rows)).unwrap();
    let schema = facts(&table(10), 5).schema;
    assert_eq!(facts(&table(1000), 100).schema, schema);
    // A change of it makes all fingerprints of existing manifests foreign: version 2, then.
    assert_eq!(schema.to_string(), "fa104d28a607b9e095d3860c795ff81df25d32cb4ea700c257557916385b1017");
    for (from, to) in [("id", "ID"), ("text", "t\next")] {
        let schema_of = table(1).schema();
        let fields = schema_of.fields().iter().map(|field| {
            if field.name() == from { field.as_ref().clone().with_name(to) } else { field.as_ref().clone() }
        });
        let renamed =
            RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), table(1).columns().to_vec());
        assert_ne!(facts(&renamed.unwrap(), 5).schema, schema);
    }
    assert_ne!(facts(&table(1).project(&[0, 1, 2, 3, 4]).unwrap(), 5).schema, schema);
}

#[test]
fn a_reader_asks_for_the_magic_and_the_end_only() {
    let file = write(&table(50_000), 10_000);
    let (facts, asked) = serve(&file);
    assert_eq!(facts.unwrap(), ParquetFacts::of(&file).unwrap());
    assert!(asked <= (64 << 10) + 4 && file.len() > 300_000, "{asked} of {}", file.len());
    // A footer that is longer than the end that is asked for at first.
    let file = write(&table(2_000), 4);
    let (facts, asked) = serve(&file);
    assert_eq!(facts.unwrap().row_groups.len(), 500);
    assert!(asked < file.len() as u64);
}

#[test]
fn damaged_files_are_refused_or_read_within_their_bounds() {
    let file = write(&table(20), 10);
    let footer = file.len() - 8 - u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap()) as usize;
    for len in 0..file.len() {
        assert!(serve(&file.slice(..len)).0.is_err(), "cut at {len}");
    }
    for at in (0..4).chain(footer..file.len()) {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut bytes = file.to_vec();
            bytes[at] ^= mask;
            if let Ok(facts) = ParquetFacts::of(&bytes.into()) {
                assert_eq!(facts.rows, facts.row_groups.iter().map(|group| group.rows).sum::<u64>());
                assert!(
                    facts.row_groups.iter().all(|group| group.offset >= 4 && group.offset + group.len <= footer as u64)
                );
            }
        }
    }
}

/// A file whose footer is `footer`.
fn with_footer(footer: &[u8]) -> Bytes {
    let len = (footer.len() as u32).to_le_bytes();
    [b"PAR1".as_slice(), footer, &len, b"PAR1"].concat().into()
}

/// A footer of one list of schema elements, the list's head and elements as given.
fn with_schema(count: u32, elements: &[u8]) -> Bytes {
    let mut footer = vec![0x29, 0xfc];
    let mut rest = count;
    while rest >= 128 {
        footer.push(rest as u8 | 128);
        rest >>= 7;
    }
    footer.push(rest as u8);
    footer.extend_from_slice(elements);
    with_footer(&footer)
}

#[test]
fn hostile_footers_take_neither_stack_nor_memory() {
    // A group with one child: fields 3 (repetition), 4 (name), 5 (one child).
    let group = [0x35, 0, 0x18, 1, b'g', 0x15, 2, 0];
    let deep = with_schema(1_000_000, &group.repeat(1_000_000));
    assert_eq!(ParquetFacts::of(&deep), Err(FooterError::Schema { reason: "nested deeper than 64" }));
    // A root with 2^31 - 1 children.
    let many = with_schema(1, &[0x48, 1, b'r', 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0]);
    assert_eq!(ParquetFacts::of(&many), Err(FooterError::Schema { reason: "elements are missing" }));
    // 2^31 - 1 elements, or row groups, in a few bytes.
    let long = with_schema(0x7fff_ffff, &[0]);
    assert!(matches!(ParquetFacts::of(&long), Err(FooterError::Thrift(_))));
    let negative = with_schema(1, &[0x48, 1, b'r', 0x15, 1, 0]);
    assert_eq!(ParquetFacts::of(&negative), Err(FooterError::Schema { reason: "a negative number of children" }));
    // No schema, no rows.
    assert_eq!(ParquetFacts::of(&with_footer(&[0])), Err(FooterError::Missing("schema")));
    assert!(matches!(ParquetFacts::of(&with_footer(b"")), Err(FooterError::Thrift(_))));
}

#[test]
fn footers_of_a_byte_a_thing_are_bounded() {
    // A leaf: fields 1 (a physical type), 3 (repetition), 4 (an empty name).
    let leaf = [0x15, 4, 0x25, 0, 0x18, 0, 0];
    let root = |children: u32| {
        let mut root = vec![0x48, 1, b'r', 0x15];
        let mut rest = 2 * children;
        while rest >= 128 {
            root.push(rest as u8 | 128);
            rest >>= 7;
        }
        root.extend([rest as u8, 0]);
        root
    };
    let wide = |leaves: u32| with_schema(leaves + 1, &[root(leaves), leaf.repeat(leaves as usize)].concat());
    let refused = |reason| Err(FooterError::Schema { reason });
    assert_eq!(ParquetFacts::of(&wide(65_537)), refused("it has more than 65,536 columns"));
    let empty = [root(300_000), [0x35, 0, 0x18, 0, 0].repeat(300_000)].concat();
    assert_eq!(ParquetFacts::of(&with_schema(300_001, &empty)), refused("it has more than 262,144 elements"));
    let name = [[0x18, 0x81, 0x80, 0x04].as_slice(), &[b'n'; 65_537]].concat();
    let named = [root(1), [0x15, 4, 0x25, 0].to_vec(), name, vec![0]].concat();
    assert_eq!(ParquetFacts::of(&with_schema(2, &named)), refused("a name is over 64 KiB"));

    // A schema without columns, no rows, then row groups of 5 bytes or pairs of one.
    let start = [0x29, 0x1c, 0x48, 1, b'r', 0, 0x16, 0];
    let list = |count: u32, element: &[u8]| {
        let mut list = vec![0x19, 0xfc];
        list.extend([count as u8 | 128, (count >> 7) as u8 | 128, (count >> 14) as u8]);
        list.extend(element.repeat(count as usize));
        list
    };
    let groups = |count| with_footer(&[&start, list(count, &[0x19, 0x0c, 0x26, 0, 0]).as_slice(), &[0]].concat());
    assert_eq!(ParquetFacts::of(&groups(65_536)).unwrap().row_groups.len(), 65_536);
    assert_eq!(ParquetFacts::of(&groups(65_537)), Err(FooterError::TooManyGroups { limit: 65_536 }));
    let pairs = [&start, list(0, &[]).as_slice(), &list(2_000_000, &[0]), &[0]].concat();
    let mut kept = usize::MAX;
    let head = read_footer(&pairs, 1 << 30, &[""], |_, _| Ok(())).inspect(|head| kept = head.pairs.len());
    assert_eq!((head.map(|head| head.rows), kept), (Ok(0), 1), "of equal keys only the first is kept");
}

#[test]
fn files_that_are_something_else_are_told_apart() {
    let file = write(&table(3), 3);
    let mut encrypted = file.to_vec();
    let len = encrypted.len();
    encrypted[len - 1] = b'E';
    assert_eq!(ParquetFacts::of(&encrypted.into()), Err(FooterError::Encrypted));
    assert!(matches!(ParquetFacts::of(&Bytes::from_static(b"id,text\n1,hello\n")), Err(FooterError::Magic { .. })));
    assert!(matches!(ParquetFacts::of(&Bytes::new()), Err(FooterError::Short { file: 0 })));
    let mut long = file.to_vec();
    long[len - 8..len - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(ParquetFacts::of(&long.into()), Err(FooterError::Length { .. })));
    let mut reader = FooterReader::new(100);
    let range = ByteRange::new(90, 101).unwrap();
    assert!(matches!(reader.give(range, Bytes::from(vec![0; 11])), Err(FooterError::Given(_))));
    assert!(reader.give(ByteRange::new(0, 4).unwrap(), Bytes::from_static(b"PAR")).is_err());
}

#[test]
fn a_table_without_rows_or_row_groups_is_a_table() {
    let facts = ParquetFacts::of(&write(&table(0), 5)).unwrap();
    assert_eq!((facts.rows, facts.row_groups.len(), facts.columns.len()), (0, 0, 6));
}
