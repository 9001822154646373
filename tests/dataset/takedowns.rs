//! Takedown: the content of documents is gone, everything else is where it was.

use std::collections::BTreeSet;
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array, ArrayRef};
use gigastore_client::dataset::takedown::{TakedownError, TakedownSpec, TakenDown};
use gigastore_client::dataset::versions::compare;
use gigastore_client::dataset::{Dataset, PushSpec, TokenChoice};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::manifest::dataset::Removed;
use gigastore_formats::name::{Name, Target};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::desk::{Desk, on_both, rich};

fn target(version: u64) -> Target {
    format!("p/data@{version}").parse().unwrap()
}

async fn take_down(desk: &Desk, documents: &[&str], ignore_missing: bool) -> Result<TakenDown, TakedownError> {
    let spec = spec(desk, documents, ignore_missing);
    desk.store.take_down(&spec, &Progress::default()).await
}

fn tagged(desk: &Desk, document: &str) -> TakedownSpec {
    TakedownSpec { tag: Some(Name::new_tag("clean").unwrap()), ..spec(desk, &[document], false) }
}

fn spec(desk: &Desk, documents: &[&str], ignore_missing: bool) -> TakedownSpec {
    TakedownSpec {
        from: "p/data".parse().unwrap(),
        documents: documents.iter().map(|document| (*document).to_owned()).collect::<BTreeSet<_>>(),
        id_column: None,
        ignore_missing,
        tag: None,
        staging: desk.path("staging"),
        command: "test".into(),
    }
}

async fn fetched(desk: &Desk, dataset: &Dataset, path: &str) -> (Vec<u8>, RecordBatch) {
    let to: PathBuf = desk.path(&format!("fetched-{}-{path}", dataset.info().commit.number));
    dataset.fetch(path, &to, true, &Progress::default()).await.unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&to).unwrap()).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.with_batch_size(1000).build().unwrap().map(Result::unwrap).collect();
    (std::fs::read(&to).unwrap(), arrow_select(&schema, &batches))
}

/// All rows in one batch; files here have fewer than a batch holds.
fn arrow_select(schema: &arrow_schema::SchemaRef, batches: &[RecordBatch]) -> RecordBatch {
    assert!(batches.len() <= 1, "{} batches", batches.len());
    batches.first().cloned().unwrap_or_else(|| RecordBatch::new_empty(schema.clone()))
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn only_the_content_of_the_documents_goes(desk: Desk) {
    desk.foreign("a.parquet", &[rich(0, 30)], 8);
    desk.foreign("b.parquet", &[rich(30, 10)], 8);
    desk.foreign("c.parquet", &[rich(0, 0)], 8);
    let named = PushSpec { tokens: TokenChoice::Column("tokens".into()), ..desk.spec() };
    desk.push(&named, &["a.parquet", "b.parquet", "c.parquet"]).await.unwrap();
    let done = take_down(&desk, &["doc-2", "doc-11", "doc-13", "a.parquet:12"], false).await.unwrap();
    assert_eq!((done.files, done.documents, done.tokens, done.already), (1, 4, 3 * (2 + 11 + 12 + 13), 0));

    let (before, after) =
        (desk.store.dataset(&target(1)).await.unwrap(), desk.store.dataset(&target(2)).await.unwrap());
    let removed = [2, 11, 12, 13].map(|row| Removed { row, tokens: 3 * row });
    let (old, new) = (&before.files()[0], &after.files()[0]);
    assert_eq!(new.removed, removed);
    assert_eq!((&new.tokens, &new.lengths, new.rows, new.schema), (&old.tokens, &old.lengths, old.rows, old.schema));
    assert_eq!(before.files()[1..], after.files()[1..]);
    let diff = compare(before.files(), after.files());
    assert_eq!((diff.same, diff.changes.len(), diff.after.taken_down), (2, 1, 4));
    assert_eq!((diff.before.documents, diff.before.tokens), (diff.after.documents, diff.after.tokens));
    let index = |version| {
        let store = desk.store.clone();
        async move { store.dataset_index(&target(version)).await.unwrap() }
    };
    let (old, new) = (index(1).await, index(2).await);
    assert_eq!((&old.index().rows, &old.index().tokens), (&new.index().rows, &new.index().tokens));
    assert_eq!(new.file(0).await.unwrap().removed, removed);

    let ((old_bytes, old), (bytes, new)) =
        (fetched(&desk, &before, "a.parquet").await, fetched(&desk, &after, "a.parquet").await);
    assert_eq!(old.schema(), new.schema());
    check_rows(&old, &new, &removed.map(|removed| removed.row as usize));
    for row in 0..30 {
        let text = format!("secret-{row}.");
        assert_eq!(holds(&bytes, &text), holds(&old_bytes, &text) && !removed.iter().any(|r| r.row == row), "{text}");
    }
    assert!(holds(&old_bytes, "secret-11-1.") && !holds(&bytes, "secret-11-1."));

    let again = take_down(&desk, &["doc-11", "doc-5", "b.parquet:0"], false).await.unwrap();
    assert_eq!((again.files, again.documents, again.already), (2, 2, 1));
    let rows: Vec<u64> =
        desk.store.dataset(&target(3)).await.unwrap().files()[0].removed.iter().map(|r| r.row).collect();
    assert_eq!(rows, [2, 5, 11, 12, 13]);
    let nothing = desk.store.take_down(&tagged(&desk, "doc-11"), &Progress::default()).await.unwrap();
    let clean = desk.store.resolve(&"p/data@clean".parse().unwrap()).await.unwrap();
    assert_eq!(clean.commit.number, 3, "the tag is set though nothing was left to do");
    assert_eq!((nothing.documents, nothing.already, nothing.committed.info.commit.number), (0, 1, 3));
    assert_eq!(std::fs::read_dir(desk.path("staging")).unwrap().count(), 0, "nothing is left behind");
}

/// Checks rows of [`rich`]: those that are gone keep id and plain numbers, the others everything.
fn check_rows(old: &RecordBatch, new: &RecordBatch, gone: &[usize]) {
    assert_eq!(old.num_rows(), new.num_rows());
    let column = |batch: &RecordBatch, name: &str| -> ArrayRef { batch.column_by_name(name).unwrap().clone() };
    for name in ["doc_id", "score", "year"] {
        assert_eq!(&column(old, name), &column(new, name), "{name}");
    }
    assert!(column(new, "score").as_primitive_opt::<Float32Type>().is_some());
    for name in ["text", "tokens", "labels", "spans"] {
        let (old, new) = (column(old, name), column(new, name));
        for row in 0..old.len() {
            if !gone.contains(&row) {
                assert_eq!(old.slice(row, 1).to_data(), new.slice(row, 1).to_data(), "{name} of row {row}");
            } else if let Some(lists) = new.as_list_opt::<i32>() {
                assert_eq!((lists.is_null(row), lists.value(row).len()), (old.is_null(row), 0), "{name} of row {row}");
            } else {
                let texts = new.as_string::<i32>();
                assert_eq!((texts.is_null(row), texts.value(row)), (old.is_null(row), ""), "{name} of row {row}");
            }
        }
    }
}

async fn files_of_our_layout_stay_so(desk: Desk) {
    let documents: Vec<Vec<u32>> = (0..40).map(|i| vec![i; i as usize]).collect();
    desk.ours("a.parquet", &documents, 100);
    desk.push(&desk.spec(), &["a.parquet"]).await.unwrap();
    let done = take_down(&desk, &["a.parquet-0", "a.parquet-7", "a.parquet:39"], false).await.unwrap();
    assert_eq!((done.documents, done.tokens), (3, 7 + 39));
    let (before, after) =
        (desk.store.dataset(&target(1)).await.unwrap(), desk.store.dataset(&target(2)).await.unwrap());
    let head = desk.store.dataset_index(&target(2)).await.unwrap().head(0, 100).await.unwrap();
    assert_eq!(head.len(), 40);
    for (i, document) in head.iter().enumerate() {
        let gone = [0, 7, 39].contains(&i);
        assert_eq!(document.id.as_deref(), Some(format!("a.parquet-{i}").as_str()));
        assert_eq!((document.taken_down, document.planned), (gone, i as u64));
        assert_eq!(document.tokens, if gone { Vec::new() } else { documents[i].clone() });
    }
    let (_, new) = fetched(&desk, &after, "a.parquet").await;
    let counts = new.column_by_name("n_tokens").unwrap();
    let counts = arrow_cast(counts);
    let expected: Vec<i64> = (0..40).map(|i| if [0, 7, 39].contains(&i) { 0 } else { i }).collect();
    assert_eq!(counts, expected);
    // Row groups without such documents are the same bytes.
    let groups = |dataset: &Dataset| dataset.files()[0].row_groups.clone();
    let (old, new) = (groups(&before), groups(&after));
    assert!(old.len() > 4 && old.len() == new.len());
    assert_eq!(old[2].len, new[2].len);
}

fn arrow_cast(column: &ArrayRef) -> Vec<i64> {
    match column.as_primitive_opt::<Int32Type>() {
        Some(numbers) => numbers.values().iter().map(|n| i64::from(*n)).collect(),
        None => {
            column.as_primitive::<arrow_array::types::UInt32Type>().values().iter().map(|n| i64::from(*n)).collect()
        }
    }
}

async fn what_is_not_there_is_named(desk: Desk) {
    desk.ours("a.parquet", &[vec![1], vec![2]], 100);
    desk.push(&desk.spec(), &["a.parquet"]).await.unwrap();
    let error = take_down(&desk, &["a.parquet-1", "nobody", "a.parquet:2"], false).await.unwrap_err().to_string();
    assert!(error.contains("nobody") && error.contains("a.parquet:2") && !error.contains("a.parquet-1"), "{error}");
    assert!(desk.store.dataset(&target(2)).await.is_err());
    let done = take_down(&desk, &["a.parquet-1", "nobody"], true).await.unwrap();
    assert_eq!((done.documents, done.missing), (1, vec!["nobody".to_owned()]));
}

async fn files_are_removed(desk: Desk) {
    std::fs::create_dir_all(desk.path("corpus/old")).unwrap();
    for name in ["corpus/a.parquet", "corpus/old/b.parquet", "corpus/old/c.parquet"] {
        desk.ours(name, &[vec![1]], 100);
    }
    desk.push(&desk.spec(), &["corpus"]).await.unwrap();
    let dataset: Target = "p/data".parse().unwrap();
    let remove = |paths: &[&str]| {
        let (store, dataset) = (desk.store.clone(), dataset.clone());
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        async move { store.remove_files(&dataset, &paths, None, "test".into()).await }
    };
    let error = remove(&["a.parquet", "ol"]).await.unwrap_err().to_string();
    assert!(error.contains("no file \"ol\""), "{error}");
    let error = remove(&["a.parquet", "old"]).await.unwrap_err().to_string();
    assert!(error.contains("no files left"), "{error}");
    assert_eq!(remove(&["old"]).await.unwrap().info.commit.items, 1);
    let (one, two) = (desk.store.dataset(&target(1)).await.unwrap(), desk.store.dataset(&target(2)).await.unwrap());
    assert_eq!(two.meta().tokens, one.meta().tokens);
    let diff = compare(one.files(), two.files());
    assert_eq!((diff.same, diff.changes.len(), diff.after.tokens), (1, 2, 1));
    assert!(diff.changes.iter().all(|file| file.after.is_none()));
}

on_both! {
    only_the_content_of_the_documents_goes
    files_of_our_layout_stay_so
    what_is_not_there_is_named
    files_are_removed
}
