//! A store in a folder, by itself or behind a service, and files for it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, Float32Array, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields};
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::dataset::{PushError, PushSpec, Pushed};
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_formats::table::tokens::{TokenFileSpec, TokenFileWriter, TokenWidth};
use gigastore_server::Limits;
use gigastore_tests::opened::serve;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

/// A folder with a store.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Desk {
    pub(crate) async fn in_a_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/store", folder.path().display());
        let store = Store::open(&url, OpenMode::Create).await.unwrap();
        Self { folder, store }
    }

    pub(crate) async fn served() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/store", folder.path().display()).parse().unwrap();
        let mode = gigastore_engine::store::OpenMode::Create;
        let engine = Engine::open(&url, mode, [], SystemAmbient::shared()).await.unwrap();
        let store = Store::connect(&serve(engine, None, Limits::default()).await.unwrap(), None).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn spec(&self) -> PushSpec {
        PushSpec::new("p".parse().unwrap(), "data".parse().unwrap())
    }

    pub(crate) async fn push(&self, spec: &PushSpec, files: &[&str]) -> Result<Pushed, PushError> {
        let files: Vec<PathBuf> = files.iter().map(|name| self.path(name)).collect();
        self.store.push(spec, &files, &Progress::default()).await
    }

    /// Pushes what must be refused, with an error of all of `parts`; nothing may be committed.
    pub(crate) async fn refused(&self, spec: &PushSpec, files: &[&str], parts: &[&str]) {
        let before = self.versions().await;
        let error = self.push(spec, files).await.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert_eq!(self.versions().await, before);
    }

    async fn versions(&self) -> usize {
        let project = self.store.project(&"p".parse().unwrap()).await;
        project.map_or(0, |info| info.names.iter().map(|name| name.live.len()).sum())
    }

    /// Writes a file of our layout; document `i` has the id `name-i`.
    pub(crate) fn ours(&self, name: &str, documents: &[Vec<u32>], row_group_tokens: u64) {
        let spec = TokenFileSpec { row_group_tokens, ..TokenFileSpec::new(TokenWidth::U16) };
        let mut writer = TokenFileWriter::new(File::create(self.path(name)).unwrap(), spec).unwrap();
        for (i, document) in documents.iter().enumerate() {
            writer.push(&format!("{name}-{i}"), document.as_slice()).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Writes batches as another program would.
    pub(crate) fn foreign(&self, name: &str, batches: &[RecordBatch], group_rows: usize) {
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_max_row_group_row_count(Some(group_rows))
            .set_key_value_metadata(Some(vec![KeyValue::new("examples".to_owned(), "secret-2. secret-11.".to_owned())]))
            .build();
        let file = File::create(self.path(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.close().unwrap();
    }
}

/// A column of lists of integers; documents may be missing.
pub(crate) fn lists(documents: &[Option<Vec<Option<i32>>>]) -> ArrayRef {
    let mut builder = ListBuilder::new(Int32Builder::new());
    for document in documents {
        match document {
            Some(tokens) => {
                tokens.iter().for_each(|token| builder.values().append_option(*token));
                builder.append(true);
            }
            None => builder.append(false),
        }
    }
    Arc::new(builder.finish())
}

/// Documents as other tools keep them: an id, text, tokens, labels, spans with names, and a score. Document `i` has the
/// text `secret-i`, three times as many tokens as `i`, and some values missing.
pub(crate) fn rich(first: usize, count: usize) -> RecordBatch {
    let rows = || first..first + count;
    let tokens: Vec<_> = rows().map(|i| Some((0..i as i32 * 3).map(|t| Some(t + 1000 * i as i32)).collect())).collect();
    let text = |i: usize| (i % 5 != 3).then(|| format!("secret-{i}."));
    let span = Fields::from(vec![Field::new("name", DataType::Utf8, true), Field::new("at", DataType::Int32, true)]);
    let mut spans = ListBuilder::new(StructBuilder::from_fields(span, 0));
    for i in rows() {
        for at in 0..i % 3 {
            let one = spans.values();
            one.field_builder::<StringBuilder>(0).unwrap().append_value(format!("secret-{i}-{at}."));
            one.field_builder::<Int32Builder>(1).unwrap().append_value(at as i32 + 77);
            one.append(true);
        }
        spans.append(i % 4 != 1);
    }
    RecordBatch::try_from_iter_with_nullable([
        ("doc_id", Arc::new(StringArray::from_iter_values(rows().map(|i| format!("doc-{i}")))) as ArrayRef, false),
        ("text", Arc::new(rows().map(text).collect::<StringArray>()), true),
        ("tokens", lists(&tokens), true),
        ("labels", lists(&tokens), true),
        ("spans", Arc::new(spans.finish()), true),
        ("score", Arc::new(Float32Array::from_iter_values(rows().map(|i| i as f32 / 7.0))), false),
        ("year", Arc::new(rows().map(|i| (i % 2 == 0).then_some(1990 + i as i32)).collect::<Int32Array>()), true),
    ])
    .unwrap()
}

/// Makes a test of each case on a store in a folder, and on one behind a service.
macro_rules! on_both {
    ($($case:ident)*) => {
        mod in_a_folder {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::desk::Desk::in_a_folder().await).await;
            })*
        }
        mod served {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::desk::Desk::served().await).await;
            })*
        }
    };
}

pub(crate) use on_both;
