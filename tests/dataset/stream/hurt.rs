//! Stores that are slow, fail or have damaged files: batches are late or refused, never others.

use std::time::Duration;

use gigastore_client::dataset::stream::{OnDamage, StreamError};
use gigastore_formats::order::{Long, Packing, Unit};
use gigastore_tests::faulty::plan::pass;
use gigastore_tests::faulty::{Failure, Op, Operation, Verdict};
use gigastore_tests::model::XorShift;
use object_store::ObjectStoreExt as _;

use super::made::{Made, SMALL, Samples, options, read, take};

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
                Ok(Some(batch)) => {
                    for (row, position) in batch.positions.iter().enumerate().filter(|(_, position)| **position >= 0) {
                        let tokens = batch.tokens[row * 32..(row + 1) * 32].to_vec();
                        assert!(samples.insert(*position, tokens).is_none());
                    }
                }
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
            Ok(Some(batch)) => {
                for (row, position) in batch.positions.iter().enumerate().filter(|(_, position)| **position >= 0) {
                    samples.insert(*position, batch.tokens[row * 32..(row + 1) * 32].to_vec());
                }
            }
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
