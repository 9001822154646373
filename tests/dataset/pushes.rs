//! Pushes of Parquet files with tokens: what is refused before anything is committed, what is warned of, what is known
//! of the tokens afterwards, and what is not sent again.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray,
    StringViewArray,
};
use gigastore_client::dataset::PushSpec;
use gigastore_client::dataset::TokenChoice;
use gigastore_client::dataset::push::PushWarning;
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{Lineage, TokenColumn};
use gigastore_formats::table::tokens::TokenWidth;

use crate::desk::{Desk, lists, on_both, rich};

fn target() -> gigastore_formats::name::Target {
    "p/data".parse().unwrap()
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn tokens_only(documents: &[Option<Vec<Option<i32>>>]) -> RecordBatch {
    table(vec![("input_ids", lists(documents))])
}

fn some(tokens: &[i32]) -> Option<Vec<Option<i32>>> {
    Some(tokens.iter().copied().map(Some).collect())
}

async fn tokens_are_counted_and_known_files_stay(desk: Desk) {
    desk.ours("a.parquet", &[vec![1, 2, 3], vec![], vec![7; 9], vec![4]], 4);
    desk.ours("b.parquet", &[], 4);
    let spec = PushSpec { vocab_size: Some(8), ..desk.spec() };
    let pushed = desk.push(&spec, &["a.parquet", "b.parquet"]).await.unwrap();
    assert_eq!((pushed.files_sent, pushed.documents, pushed.tokens), (2, 4, 13));
    let column =
        TokenColumn { column: "tokens.list.element".into(), width: TokenWidth::U16, vocab_size: Some(8), counts: true };
    assert_eq!((pushed.column, pushed.warnings), (Some(column.clone()), vec![]));
    let dataset = desk.store.dataset(&target()).await.unwrap();
    let a = &dataset.files()[0];
    assert_eq!((a.tokens.as_slice(), a.lengths.as_slice()), (&[3, 9, 1][..], &[1, 1, 1, 0, 1][..]));
    assert_eq!(dataset.files()[1].tokens, [0u64; 0]);
    assert_eq!(dataset.meta().tokens, Some(column.clone()));

    let again = desk.push(&spec, &["a.parquet", "b.parquet"]).await.unwrap();
    assert_eq!((again.files_known, again.files_sent, again.committed.existed), (2, 0, true));
    desk.ours("c.parquet", &[vec![5]], 4);
    let append = PushSpec { append: true, ..desk.spec() };
    let more = desk.push(&append, &["a.parquet", "c.parquet"]).await.unwrap();
    assert_eq!((more.files_known, more.files_sent, more.column), (1, 1, Some(column)));
    // The vocabulary of what is there holds for what comes.
    desk.ours("d.parquet", &[vec![8]], 4);
    desk.refused(&append, &["d.parquet"], &["d.parquet, row 0: token 8 is not in a vocabulary of 8"]).await;
    let narrower = PushSpec { vocab_size: Some(7), ..append.clone() };
    desk.refused(&narrower, &["d.parquet"], &["vocabulary of 8 tokens, not of 7"]).await;
    let wider = PushSpec { vocab_size: Some(9), ..append };
    let wider = desk.push(&wider, &["d.parquet"]).await.unwrap();
    assert_eq!(wider.column.unwrap().vocab_size, Some(9));
}

async fn bad_files_commit_nothing(desk: Desk) {
    let (spec, vocabulary) = (desk.spec(), PushSpec { vocab_size: Some(100), ..desk.spec() });
    desk.ours("good.parquet", &[vec![1, 2]], 100);
    let documents: Vec<_> = (0..10).map(|i| some(&[i, 2 * i])).collect();
    let with = |row: usize, document| {
        let mut documents = documents.clone();
        documents[row] = document;
        tokens_only(&documents)
    };
    desk.foreign("over.parquet", &[with(7, some(&[3, 100]))], 4);
    desk.refused(&vocabulary, &["over.parquet"], &["over.parquet, row 7: token 100 is not in"]).await;
    desk.foreign("null.parquet", &[with(5, None)], 4);
    desk.refused(&spec, &["null.parquet"], &["null.parquet", "row 5", "null"]).await;
    desk.foreign("hole.parquet", &[with(6, Some(vec![Some(1), None]))], 4);
    desk.refused(&spec, &["hole.parquet"], &["hole.parquet", "row 6", "null"]).await;
    desk.foreign("negative.parquet", &[with(9, some(&[-1]))], 4);
    desk.refused(&spec, &["negative.parquet"], &["negative.parquet", "row 9", "-1"]).await;
    desk.foreign("mixed.parquet", &[tokens_only(&documents)], 4);
    desk.refused(&spec, &["good.parquet", "mixed.parquet"], &["good.parquet", "mixed.parquet", "input_ids"]).await;
    desk.foreign("plain.parquet", &[table(vec![("n", Arc::new(Int32Array::from(vec![1])))])], 4);
    desk.refused(&spec, &["good.parquet", "plain.parquet"], &["good.parquet", "plain.parquet", "none"]).await;
    let counts: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let counted = table(vec![("n_tokens", counts), ("tokens", lists(&[some(&[5]), some(&[5])]))]);
    desk.foreign("counts.parquet", &[counted], 4);
    desk.refused(&spec, &["counts.parquet"], &["counts.parquet, row 1: n_tokens is 2", "1 tokens"]).await;
    let two = table(vec![("a", lists(&documents)), ("b", lists(&documents))]);
    desk.foreign("two.parquet", &[two], 4);
    desk.refused(&spec, &["two.parquet"], &["two.parquet", "several columns", "--no-tokens"]).await;
    let named = PushSpec { tokens: TokenChoice::Column("b".into()), ..desk.spec() };
    desk.refused(&PushSpec { tokens: TokenChoice::Column("c".into()), ..named.clone() }, &["two.parquet"], &["c"])
        .await;
    assert_eq!(desk.push(&named, &["two.parquet"]).await.unwrap().column.unwrap().column, "b.list.item");
}

async fn files_of_one_version_have_the_same_columns(desk: Desk) {
    let ids = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let one = |first: (&'static str, ArrayRef)| table(vec![first, ("tokens", lists(&[some(&[1])]))]);
    desk.foreign("a.parquet", &[one(("id", ids("x")))], 4);
    desk.foreign("b.parquet", &[one(("id", numbers))], 4);
    desk.foreign("c.parquet", &[one(("name", ids("y")))], 4);
    let spec = desk.spec();
    desk.refused(&spec, &["a.parquet", "b.parquet"], &["a.parquet", "b.parquet", "column id is string"]).await;
    desk.push(&spec, &["a.parquet"]).await.unwrap();
    let append = PushSpec { append: true, ..spec };
    desk.refused(&append, &["c.parquet"], &["a.parquet", "c.parquet", "column name"]).await;
    // So have the files of a table without tokens.
    let plain = PushSpec { tokens: TokenChoice::None, ..desk.spec() };
    desk.refused(&plain, &["a.parquet", "c.parquet"], &["a.parquet", "c.parquet", "column id"]).await;
    let pushed = desk.push(&plain, &["a.parquet"]).await.unwrap();
    assert_eq!((pushed.column, pushed.tokens, pushed.documents), (None, 0, 1));
    desk.refused(&PushSpec { append: true, ..plain }, &["b.parquet"], &["a.parquet", "b.parquet", "column id"]).await;
    // What is known of the same files is a version of its own.
    assert!(!desk.push(&desk.spec(), &["a.parquet"]).await.unwrap().committed.existed);
    assert!(desk.store.dataset(&target()).await.unwrap().meta().tokens.is_some());
}

async fn ids_are_read_whatever_their_type(desk: Desk) {
    let two = |ids: ArrayRef| table(vec![("doc_id", ids), ("tokens", lists(&[some(&[1]), some(&[2, 3])]))]);
    let ids: [(ArrayRef, [Option<&str>; 2]); 5] = [
        (Arc::new(LargeStringArray::from(vec!["x", "y"])), [Some("x"), Some("y")]),
        (Arc::new(StringViewArray::from(vec![Some("x"), None])), [Some("x"), None]),
        (Arc::new(BinaryArray::from_vec(vec![b"x", b"y"])), [Some("x"), Some("y")]),
        (Arc::new(Int64Array::from(vec![-1, 7])), [Some("-1"), Some("7")]),
        (Arc::new(Float64Array::from(vec![0.5, 7.0])), [None, None]),
    ];
    for (ids, expected) in ids {
        let kind = ids.data_type().to_string();
        desk.foreign(
            "a.parquet",
            &[RecordBatch::try_from_iter_with_nullable(
                two(ids).columns().iter().zip(["doc_id", "tokens"]).map(|(column, name)| (name, column.clone(), true)),
            )
            .unwrap()],
            1,
        );
        desk.push(&desk.spec(), &["a.parquet"]).await.unwrap();
        let head = desk.store.dataset_index(&target()).await.unwrap().head(0, 9).await.unwrap();
        assert_eq!(head.iter().map(|document| document.id.as_deref()).collect::<Vec<_>>(), expected, "{kind}");
    }
    // No text of the dictionary page is UTF-8 any more; tokens and footer are as they were.
    desk.foreign("hurt.parquet", &[two(Arc::new(StringArray::from(vec!["an-id-of-x", "an-id-of-y"])))], 4);
    let mut bytes = std::fs::read(desk.path("hurt.parquet")).unwrap();
    let at = bytes.windows(10).position(|window| window == b"an-id-of-x").unwrap();
    bytes[at..at + 10].fill(0xff);
    std::fs::write(desk.path("hurt.parquet"), bytes).unwrap();
    desk.refused(&desk.spec(), &["hurt.parquet"], &["hurt.parquet: its ids can't be read"]).await;
}

async fn a_path_is_replaced_only_when_told(desk: Desk) {
    desk.ours("a.parquet", &[vec![1]], 100);
    desk.ours("b.parquet", &[vec![2]], 100);
    desk.push(&desk.spec(), &["a.parquet", "b.parquet"]).await.unwrap();
    desk.ours("a.parquet", &[vec![3, 4]], 100);
    let append = PushSpec { append: true, ..desk.spec() };
    desk.refused(&append, &["a.parquet"], &["another file \"a.parquet\"", "--replace"]).await;
    let replace = PushSpec { replace: true, ..desk.spec() };
    desk.push(&replace, &["a.parquet"]).await.unwrap();
    let dataset = desk.store.dataset(&target()).await.unwrap();
    let tokens: Vec<u64> = dataset.files().iter().map(|row| row.tokens.iter().sum()).collect();
    assert_eq!(tokens, [2, 1]);
}

async fn tokenizers_do_not_mix(desk: Desk) {
    let made_with = |text: &str| {
        let tokenizer = (!text.is_empty()).then(|| Digest::of(text.as_bytes()));
        Some(Lineage { tokenizer, command: "test".into(), ..Lineage::default() })
    };
    desk.ours("a.parquet", &[vec![1]], 100);
    desk.ours("b.parquet", &[vec![2]], 100);
    desk.push(&PushSpec { lineage: made_with("one"), ..desk.spec() }, &["a.parquet"]).await.unwrap();
    let append = |text| PushSpec { append: true, lineage: made_with(text), ..desk.spec() };
    desk.refused(&append("two"), &["b.parquet"], &["tokens of two tokenizers do not mix"]).await;
    desk.push(&append(""), &["b.parquet"]).await.unwrap();
    let lineage = desk.store.dataset(&target()).await.unwrap().meta().lineage.clone().unwrap();
    assert_eq!((lineage.tokenizer, lineage.command.as_str()), (Some(Digest::of(b"one")), "test"));
}

async fn large_row_groups_are_warned_of_and_rewritten(desk: Desk) {
    // 17 million tokens of four bytes in one row group.
    let documents: Vec<_> = (0..1000).map(|i| some(&vec![i % 50; 17_000])).collect();
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("id-{i}"))));
    desk.foreign("large.parquet", &[table(vec![("doc_id", ids), ("input_ids", lists(&documents))])], 2000);
    let spec = PushSpec { vocab_size: Some(50), ..desk.spec() };
    let pushed = desk.push(&spec, &["large.parquet"]).await.unwrap();
    let [PushWarning::LargeRowGroups { groups: 1, tokens: 17_000_000, .. }] = pushed.warnings.as_slice() else {
        panic!("{:?}", pushed.warnings);
    };
    let staging = desk.path("staging");
    let rewrite = PushSpec { rewrite: Some(staging.clone()), ..spec };
    let pushed = desk.push(&rewrite, &["large.parquet"]).await.unwrap();
    assert_eq!((pushed.files_known, pushed.files_rewritten), (1, 0), "what is there stays");
    let other = PushSpec { name: "other".parse().unwrap(), ..rewrite };
    let pushed = desk.push(&other, &["large.parquet"]).await.unwrap();
    assert_eq!((pushed.files_rewritten, pushed.tokens, pushed.warnings.len()), (1, 17_000_000, 0));
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0, "nothing is left behind");
    let column = pushed.column.unwrap();
    assert_eq!((column.column.as_str(), column.width, column.counts), ("tokens.list.element", TokenWidth::U16, true));
    let dataset = desk.store.dataset_index(&"p/other".parse().unwrap()).await.unwrap();
    assert_eq!(dataset.index().tokens.iter().sum::<u64>(), 17_000_000);
    assert!(dataset.index().tokens.len() > 1);
    let head = dataset.head(0, 900).await.unwrap();
    assert_eq!((head.len(), head[899].id.as_deref()), (900, Some("id-899")));
    assert!(head.iter().enumerate().all(|(i, document)| document.tokens == vec![i as u32 % 50; 17_000]));
}

async fn foreign_files_are_pushed_as_they_are(desk: Desk) {
    desk.foreign("rich.parquet", &[rich(0, 30)], 8);
    let named = PushSpec { tokens: TokenChoice::Column("tokens".into()), ..desk.spec() };
    let pushed = desk.push(&named, &["rich.parquet"]).await.unwrap();
    assert_eq!(pushed.tokens, (0..30).map(|i| 3 * i).sum::<u64>());
    let dataset = desk.store.dataset(&target()).await.unwrap();
    assert_eq!(dataset.files()[0].tokens, [84, 276, 468, 477]);
    assert_eq!(dataset.files()[0].blob.digest, Digest::of(&std::fs::read(desk.path("rich.parquet")).unwrap()));
}

on_both! {
    tokens_are_counted_and_known_files_stay
    bad_files_commit_nothing
    files_of_one_version_have_the_same_columns
    ids_are_read_whatever_their_type
    a_path_is_replaced_only_when_told
    tokenizers_do_not_mix
    large_row_groups_are_warned_of_and_rewritten
    foreign_files_are_pushed_as_they_are
}
