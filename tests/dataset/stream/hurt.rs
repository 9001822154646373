//! Stores that are slow, fail or have damaged files: batches are late or refused, never others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use gigastore_client::Coded as _;
use gigastore_client::dataset::stream::{Batch, OnDamage, StreamError};
use gigastore_engine::store::OpenMode;
use gigastore_formats::manifest::dataset::{DatasetMeta, write_dataset};
use gigastore_formats::order::{Long, Packing, Unit};
use gigastore_formats::record::TxnId;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{DatasetRequest, FaultCode};
use gigastore_tests::faulty::plan::pass;
use gigastore_tests::faulty::{Failure, Op, Operation, Verdict};
use gigastore_tests::model::XorShift;
use gigastore_tests::opened;
use object_store::ObjectStoreExt as _;

use super::made::{Made, SMALL, Samples, options, read, take};

/// Puts the samples of a batch, of 32 tokens each, to those that came before.
fn put(batch: &Batch, samples: &mut Samples) {
    for (tokens, position) in batch.tokens.chunks(32).zip(&batch.positions).filter(|(_, position)| **position >= 0) {
        assert!(samples.insert(*position, tokens.to_vec()).is_none());
    }
}

#[tokio::test]
async fn a_failing_store_delays_and_nothing_else() {
    let made = Made::new().await;
    made.push("d", 21, SMALL).await;
    for packing in [Packing::Concat { seq_len: 32 }, Packing::FirstFit { seq_len: 32, long: Long::Split }] {
        let options = options("d", packing, 3);
        let expected = read(&made.store, &options, 1, 1).await;
        let store = made.reopen().await;
        let mut stream = store.stream(options).await.unwrap();
        let (mut samples, mut failures) = (Samples::new(), 0);
        // A third of all reads fail, in no pattern that tries could fall into step with.
        let failing = |operation: &Operation| match (operation.op, XorShift::new(operation.n).below(3)) {
            (Op::Get, 0) => Verdict::FailBefore(Failure::Unavailable),
            _ => Verdict::Pass,
        };
        made.faults.set_plan(Box::new(failing));
        loop {
            match stream.next().await {
                Ok(None) => break,
                Ok(Some(batch)) => put(&batch, &mut samples),
                Err(error) => {
                    failures += 1;
                    assert!(failures < 1000, "{error}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        made.faults.set_plan(pass());
        assert_eq!(samples, expected.0);
        assert_eq!(stream.cursor().seen, expected.1);
    }
}

#[tokio::test]
async fn a_damaged_row_group_is_an_error_that_names_it_and_is_gone_once_it_is_mended() {
    let made = Made::new().await;
    made.push("d", 22, SMALL).await;
    let options = options("d", Packing::Concat { seq_len: 32 }, 2);
    let expected = read(&made.store, &options, 1, 1).await;

    let dataset = made.store.dataset(&"p/d".parse().unwrap()).await.unwrap();
    let file = &dataset.files()[1];
    let key = object_store::path::Path::from(format!(
        "projects/p/{}",
        file.blob.key(gigastore_formats::object::ObjectKind::Blob)
    ));
    let sound = made.faults.get(&key).await.unwrap().bytes().await.unwrap();
    let mut damaged = sound.to_vec();
    damaged[file.row_groups[2].offset as usize + 20] ^= 1;
    made.faults.put(&key, damaged.into()).await.unwrap();

    let mut stream = made.reopen().await.stream(options.clone()).await.unwrap();
    let mut samples = Samples::new();
    let mut error = None;
    while error.is_none() {
        match stream.next().await {
            Ok(Some(batch)) => put(&batch, &mut samples),
            Ok(None) => panic!("the damage was not found"),
            Err(found) => error = Some(found),
        }
    }
    let text = error.unwrap().to_string();
    assert!(text.contains("d-001.parquet"), "{text}");
    let cursor = stream.cursor();
    assert_eq!(cursor.samples, samples.len() as u64);

    let mut skipping = options.clone();
    skipping.damage = OnDamage::Skip;
    let (skipped, seen) = read(&made.reopen().await, &skipping, 1, 1).await;
    assert!(seen.missing > 0 && seen.missing + seen.tokens == expected.1.tokens, "{seen:?}");
    assert_eq!(skipped.len(), expected.0.len());

    // Whoever plans, from the counts or from the tokens, on whichever rank: the same samples.
    for packing in [Packing::FirstFit { seq_len: 32, long: Long::Split }, Packing::Documents] {
        let mut skipping = super::made::options("d", packing, 2);
        (skipping.damage, skipping.unit) = (OnDamage::Skip, Unit::Tokens);
        let alone = read(&made.reopen().await, &skipping, 1, 1).await;
        assert!(alone.1.missing > 0);
        for (ranks, workers) in [(3, 1), (4, 1), (2, 2)] {
            assert_eq!(
                read(&made.reopen().await, &skipping, ranks, workers).await,
                alone,
                "{packing:?}, {ranks} ranks"
            );
        }
    }

    made.faults.put(&key, sound.into()).await.unwrap();
    take(&mut stream, u64::MAX, &mut samples).await;
    assert_eq!(samples, expected.0);
    assert_eq!(stream.cursor().seen, expected.1);
    assert!(matches!(
        made.store.stream(super::made::options("nothing", Packing::Documents, 1)).await,
        Err(StreamError::Dataset(_))
    ));
}

/// Commits `p/d` anew with another first file, as nobody who pushes can: a token of it is not in its dictionary.
/// Returns the row that has it.
async fn commit_a_foreign_token(made: &Made, documents: &[Vec<u16>]) -> u64 {
    let row = documents.iter().position(|document| document.len() > 20).unwrap();
    let dataset = made.store.dataset(&"p/d".parse().unwrap()).await.unwrap();
    let sound = dataset.read(&dataset.files()[0].path, None, &Default::default()).await.unwrap();
    let tokens: Vec<u8> = documents[row].iter().flat_map(|token| token.to_le_bytes()).collect();
    let at = sound.windows(tokens.len()).position(|bytes| bytes == tokens).unwrap();
    let mut content = sound.to_vec();
    content[at + 20..at + 22].fill(0xff);
    let content = Bytes::from(content);

    let engine = opened::engine(Arc::new(made.faults.clone()), OpenMode::Existing).await.unwrap();
    let (project, tree) = ("p".parse().unwrap(), GroupTree::of(&content));
    let pieces = futures::stream::iter([Ok(content)]).boxed();
    let mut files = dataset.files().to_vec();
    files[0].blob = engine.put_blob(&project, 0, tree.clone(), pieces).await.unwrap();
    files[0].tree = tree;
    let meta = DatasetMeta { version: 2, parent: Some(1), ..dataset.meta().clone() };
    let request = DatasetRequest { project, txn: TxnId::derive(&[b"foreign"]), epoch: 0, tag: None };
    engine.commit_dataset(&request, write_dataset(&meta, &files).unwrap().into()).await.unwrap();
    row as u64
}

#[tokio::test]
async fn a_token_that_its_dictionary_does_not_have_is_never_in_a_batch() {
    let made = Made::new().await;
    let documents = made.push_long("d", 3).await;
    let row = commit_a_foreign_token(&made, &documents).await;
    let options = options("d", Packing::Concat { seq_len: 2048 }, 2);
    let mut stream = made.reopen().await.stream(options.clone()).await.unwrap();
    let mut taken = 0;
    let error = loop {
        match stream.next().await {
            Ok(Some(batch)) => {
                assert!(!batch.tokens.contains(&0xffff));
                taken += 1;
            }
            Ok(None) => panic!("it was not found"),
            Err(error) => break error,
        }
    };
    let StreamError::Beyond { path, row: found, actual: 0xffff, .. } = &error else { panic!("{error}") };
    assert_eq!((path.as_str(), *found, error.code()), ("d.parquet", row, FaultCode::Integrity));
    // The stream stays before it, however often it is asked.
    assert_eq!(stream.next().await.unwrap_err().to_string(), error.to_string());
    assert_eq!((stream.place().step(), stream.cursor().samples), (taken, 2 * taken));

    let mut skipping = options;
    skipping.damage = OnDamage::Skip;
    let (samples, seen) = read(&made.reopen().await, &skipping, 1, 1).await;
    let index = made.reopen().await.dataset_index(&"p/d".parse().unwrap()).await.unwrap();
    assert_eq!(seen.missing, index.index().tokens[0], "its row group, and no other");
    assert!(samples.values().all(|tokens| !tokens.contains(&0xffff)));
}

/// Where damage is to be skipped, tokens are looked at before, and copied.
#[tokio::test]
async fn tokens_that_are_left_where_they_lie_are_those_that_are_copied() {
    let made = Made::new().await;
    let documents = made.push_long("d", 5).await;
    let packings =
        [Packing::Concat { seq_len: 2048 }, Packing::FirstFit { seq_len: 4096, long: Long::Split }, Packing::Documents];
    for packing in packings {
        let options = options("d", packing, 4);
        let mut skipping = options.clone();
        skipping.damage = OnDamage::Skip;
        let copied = read(&made.reopen().await, &skipping, 1, 1).await;
        assert_eq!(read(&made.reopen().await, &options, 1, 1).await, copied, "{packing:?}");
        let tokens = documents.iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!((copied.1.missing, copied.1.tokens), (0, tokens));
    }
}

/// As by Ctrl-C, again and again: a wait for a batch is dropped where it stands.
#[tokio::test]
async fn waits_that_are_given_up_lose_nothing() {
    let made = Made::new().await;
    made.push("d", 24, SMALL).await;
    let options = options("d", Packing::Concat { seq_len: 32 }, 3);
    let expected = read(&made.store, &options, 1, 1).await;
    let mut stream = made.reopen().await.stream(options).await.unwrap();
    let (mut samples, mut given_up, mut turn) = (Samples::new(), 0, 0);
    loop {
        turn += 1;
        let taken = if turn % 3 == 0 { stream.try_next() } else { stream.next().now_or_never() };
        let Some(taken) = taken else {
            given_up += 1;
            tokio::task::yield_now().await;
            continue;
        };
        let Some(batch) = taken.unwrap() else { break };
        put(&batch, &mut samples);
    }
    assert!(given_up > 0);
    assert_eq!((samples, stream.cursor().seen), expected);
}
