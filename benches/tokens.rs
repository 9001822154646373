//! What tokens cost to decode on one core, and to store: every layout that was thought of, beside copying them.
//!
//! The tokens are real ones, made beforehand by `peers/real_tokens.py`. Must never read a file while it measures.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{FixedSizeBinaryBuilder, ListBuilder, PrimitiveBuilder};
use arrow_array::types::{ArrowPrimitiveType, UInt16Type, UInt32Type};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gigastore_formats::table::tokens::{
    Documents, TokenCompression, TokenFile, TokenFileSpec, TokenFileWriter, TokenWidth,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

/// Tokens that are measured: those of one row group as it is written by default.
const TOKENS: usize = 8 << 20;

/// Tokens of a sequence in the layout of fixed sizes.
const SEQUENCE: usize = 2048;

/// Rows that the parquet crate's reader gives at a time: its default.
const BATCH_ROWS: usize = 1024;

/// Documents, one after the other.
struct Texts {
    tokens: Vec<u16>,
    ends: Vec<usize>,
}

impl Texts {
    /// Reads the prepared file; documents come again until there are enough.
    fn prepared() -> Self {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-data/tokens.bin");
        let path = std::env::var_os("GIGASTORE_BENCH_TOKENS").map_or(default, PathBuf::from);
        let how = "make it as the section on tokens of benches/RESULTS.md says";
        let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {how}", path.display()));
        let count = |at: usize| u32::from_le_bytes(file[4 * at..4 * at + 4].try_into().expect("four bytes")) as usize;
        let mut at = 4 * (1 + count(0));
        let mut texts = Vec::new();
        for i in 0..count(0) {
            let bytes = &file[at..at + 2 * count(i + 1)];
            at += bytes.len();
            texts.push(bytes.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)).collect::<Vec<u16>>());
        }
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        for text in texts.iter().cycle() {
            if tokens.len() + text.len() > TOKENS {
                break;
            }
            tokens.extend_from_slice(text);
            ends.push(tokens.len());
        }
        Self { tokens, ends }
    }

    fn documents(&self) -> impl Iterator<Item = &[u16]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.tokens[start..*end])
    }

    /// Lists as other programs write them: of nullable values, or not.
    fn lists<T: ArrowPrimitiveType>(&self, nullable: bool) -> ArrayRef
    where
        T::Native: From<u16>,
    {
        let mut lists = ListBuilder::new(PrimitiveBuilder::<T>::new());
        if !nullable {
            lists = lists.with_field(Field::new("element", T::DATA_TYPE, false));
        }
        for document in self.documents() {
            document.iter().for_each(|token| lists.values().append_value(T::Native::from(*token)));
            lists.append(true);
        }
        Arc::new(lists.finish())
    }

    fn binary(&self) -> ArrayRef {
        let bytes: Vec<Vec<u8>> =
            self.documents().map(|tokens| tokens.iter().flat_map(|token| token.to_le_bytes()).collect()).collect();
        Arc::new(BinaryArray::from_iter_values(bytes))
    }

    fn sequences(&self) -> ArrayRef {
        let mut sequences = FixedSizeBinaryBuilder::new(2 * SEQUENCE as i32);
        for tokens in self.tokens.chunks_exact(SEQUENCE) {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            sequences.append_value(bytes).expect("all are as long");
        }
        Arc::new(sequences.finish())
    }
}

const CODECS: [(&str, TokenCompression); 4] = [
    ("none", TokenCompression::None),
    ("lz4", TokenCompression::Lz4),
    ("zstd 1", TokenCompression::Zstd(1)),
    ("zstd 3", TokenCompression::Zstd(3)),
];

fn codec(compression: TokenCompression) -> Compression {
    match compression {
        TokenCompression::None => Compression::UNCOMPRESSED,
        TokenCompression::Lz4 => Compression::LZ4_RAW,
        TokenCompression::Zstd(level) => Compression::ZSTD(ZstdLevel::try_new(level).expect("a sound level")),
    }
}

/// A file of our own.
fn ours(texts: &Texts, width: TokenWidth, compression: TokenCompression) -> Bytes {
    let spec = TokenFileSpec { compression, ..TokenFileSpec::new(width) };
    let mut writer = TokenFileWriter::new(Vec::new(), spec).expect("a sound spec");
    texts.documents().for_each(|document| writer.push("", document).expect("sound tokens"));
    writer.finish().expect("memory takes it").0.into()
}

/// A file that the parquet crate writes.
fn foreign(column: &ArrayRef, compression: TokenCompression, dictionary: bool, version: WriterVersion) -> Bytes {
    let nullable = matches!(column.data_type(), DataType::List(field) if field.is_nullable());
    let schema = Arc::new(Schema::new(vec![Field::new("tokens", column.data_type().clone(), nullable)]));
    let mut properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(codec(compression))
        .set_dictionary_enabled(dictionary)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None);
    if !dictionary {
        properties = properties.set_encoding(parquet::basic::Encoding::PLAIN);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.build())).expect("a schema");
    writer.write(&RecordBatch::try_new(schema, vec![column.clone()]).expect("one column")).expect("memory takes it");
    writer.into_inner().expect("memory takes it").into()
}

/// Reads the last column with the parquet crate; returns its rows.
fn read_elsewhere(file: &Bytes, metadata: &ArrowReaderMetadata) -> usize {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
    let last = builder.parquet_schema().num_columns() - 1;
    let mask = parquet::arrow::ProjectionMask::leaves(builder.parquet_schema(), [last]);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().expect("a sound file");
    reader.map(|batch| black_box(batch.expect("a sound file")).num_rows()).sum()
}

/// The ways to read one file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Both,
    Parquet,
}

fn layouts(c: &mut Criterion) {
    let texts = Texts::prepared();
    let tokens = texts.tokens.len() as u64;
    eprintln!("{tokens} tokens of {} documents", texts.ends.len());
    let mut group = c.benchmark_group("limit");
    group.throughput(Throughput::Elements(tokens));
    let mut copy = Vec::with_capacity(texts.tokens.len());
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&texts.tokens));
            black_box(&mut copy);
        });
    });
    group.finish();
    let (narrow, wide) = (texts.lists::<UInt16Type>(false), texts.lists::<UInt32Type>(false));
    let nullable = texts.lists::<UInt16Type>(true);
    let (binary, sequences) = (texts.binary(), texts.sequences());
    let (v1, v2) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    for (name, compression) in CODECS {
        let files = [
            ("ours, list<u16>, identity dictionary", ours(&texts, TokenWidth::U16, compression), By::Both),
            ("ours, list<u32>, PLAIN", ours(&texts, TokenWidth::U32, compression), By::Both),
            ("list<u16>, PLAIN", foreign(&narrow, compression, false, v2), By::Both),
            ("list<u16>, dictionary", foreign(&narrow, compression, true, v2), By::Both),
            ("list<u32>, PLAIN", foreign(&wide, compression, false, v2), By::Both),
            ("list<u32>, dictionary", foreign(&wide, compression, true, v2), By::Both),
            ("list<u16> nullable, dictionary, V1", foreign(&nullable, compression, true, v1), By::Both),
            ("BINARY", foreign(&binary, compression, false, v1), By::Parquet),
            ("FIXED_LEN_BYTE_ARRAY", foreign(&sequences, compression, false, v1), By::Parquet),
        ];
        let mut group = c.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Elements(tokens));
        for (layout, file, by) in &files {
            eprintln!("{name}, {layout}: {:.3} bytes a token", file.len() as f64 / tokens as f64);
            let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).expect("a sound file");
            group.bench_function(format!("{layout}, by parquet"), |b| b.iter(|| read_elsewhere(file, &metadata)));
            if *by == By::Both {
                let found = TokenFile::of(file, None).expect("a sound file");
                let mut documents = Documents::new(TokenWidth::U16);
                group.bench_function(format!("{layout}, by ours"), |b| {
                    b.iter(|| {
                        documents.clear();
                        for number in 0..found.groups() {
                            let range = found.tokens_range(number);
                            let chunk = file.slice(range.start() as usize..range.end() as usize);
                            found.read_tokens(number, &chunk, &mut documents).expect("a sound file");
                        }
                        assert_eq!(documents.ends.last().copied(), Some(tokens as u32));
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = layouts
}
criterion_main!(benches);
