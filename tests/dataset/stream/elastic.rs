//! Ranks, workers and batch sizes come and go; samples stay.

use gigastore_client::dataset::stream::{Last, StreamError, StreamSource};
use gigastore_formats::order::{Cursor, CursorError, Long, Packing, Seen, Unit};

use super::made::{Made, SMALL, Samples, Shape, of_rank, options, read, take};

const PACKINGS: [Packing; 4] = [
    Packing::Documents,
    Packing::Concat { seq_len: 32 },
    Packing::FirstFit { seq_len: 32, long: Long::Split },
    Packing::FirstFit { seq_len: 32, long: Long::Truncate },
];

#[tokio::test]
async fn every_document_comes_once_whatever_the_packing() {
    let made = Made::new().await;
    let documents = made.push("d", 1, SMALL).await;
    let all: usize = documents.iter().map(Vec::len).sum();
    for packing in PACKINGS {
        let (samples, seen) = read(&made.store, &options("d", packing, 3), 1, 1).await;
        assert!(samples.keys().copied().eq(0..samples.len() as i64));
        assert_eq!(seen.samples, samples.len() as u64);
        match packing {
            Packing::Documents => {
                let mut there: Vec<_> = samples.into_values().collect();
                let mut expected = documents.clone();
                there.sort();
                expected.sort();
                assert_eq!(there, expected);
            }
            Packing::FirstFit { seq_len, long: Long::Truncate } => {
                let cut = documents.iter().map(|document| document.len().min(seq_len as usize)).sum::<usize>();
                assert_eq!(seen.tokens, cut as u64);
            }
            _ => {
                assert_eq!((seen.tokens, seen.missing), (all as u64, 0));
                // The empty ones are nowhere.
                assert_eq!(seen.documents, documents.iter().filter(|document| !document.is_empty()).count() as u64);
            }
        }
    }
}

#[tokio::test]
async fn samples_do_not_depend_on_ranks_workers_or_batches() {
    let made = Made::new().await;
    made.push("d", 2, SMALL).await;
    for packing in PACKINGS {
        let expected = read(&made.store, &options("d", packing, 4), 1, 1).await;
        for world_size in 1..=17 {
            let found = read(&made.store, &options("d", packing, 2), world_size, 1).await;
            assert_eq!(found, expected, "{packing:?}, {world_size} ranks");
        }
        for workers in 2..=4 {
            let found = read(&made.store, &options("d", packing, 3), 3, workers).await;
            assert_eq!(found, expected, "{packing:?}, {workers} workers");
        }
    }
}

#[tokio::test]
async fn every_cursor_goes_on_as_if_nothing_had_been() {
    let made = Made::new().await;
    made.push("d", 3, SMALL).await;
    made.push("e", 4, Shape { documents: 15, ..SMALL }).await;
    for packing in PACKINGS {
        let mut mixed = options("d", packing, 5);
        mixed.unit = Unit::Tokens;
        mixed.sources.push(StreamSource { target: "p/e".parse().unwrap(), weight: 0.25, epochs: Some(3) });
        let (expected, seen) = read(&made.store, &mixed, 1, 1).await;
        let steps = expected.len().div_ceil(5) as u64;
        for step in 0..=steps {
            let mut samples = Samples::new();
            let mut stream = made.store.stream(mixed.clone()).await.unwrap();
            take(&mut stream, step, &mut samples).await;
            let cursor = Cursor::parse(stream.cursor().json().as_bytes()).unwrap();
            let mut again = mixed.clone();
            (again.cursor, again.share.batch_size) = (Some(cursor), 7);
            let mut stream = made.store.stream(again).await.unwrap();
            take(&mut stream, u64::MAX, &mut samples).await;
            assert_eq!(samples, expected, "{packing:?}, step {step}");
            assert_eq!(stream.cursor().seen, seen);
        }
    }
}

#[tokio::test]
async fn six_ranks_go_on_as_five_and_as_eight() {
    let made = Made::new().await;
    made.push("d", 5, SMALL).await;
    for packing in PACKINGS {
        let whole = options("d", packing, 2);
        let (expected, seen) = read(&made.store, &whole, 1, 1).await;
        let (mut samples, mut cursor): (_, Option<Cursor>) = (Samples::new(), None);
        for (world_size, batches) in [(6, 2), (5, 1), (8, u64::MAX)] {
            let mut cursors = Vec::new();
            for rank in 0..world_size {
                let mut mine = of_rank(&whole, rank, world_size, (0, 1));
                // What was seen before is counted by one rank only.
                let seen = |cursor: &Cursor| if rank == 0 { cursor.seen } else { Seen::default() };
                mine.cursor = cursor.as_ref().map(|cursor| Cursor { seen: seen(cursor), ..cursor.clone() });
                let mut stream = made.store.stream(mine).await.unwrap();
                take(&mut stream, batches, &mut samples).await;
                cursors.push(stream.cursor());
            }
            cursor = Cursor::join(&cursors).unwrap();
        }
        assert_eq!(samples, expected, "{packing:?}");
        assert_eq!(cursor.unwrap().seen, seen);
    }
}

#[tokio::test]
async fn bytes_are_read_once_where_ranks_divide_the_lanes() {
    let made = Made::new().await;
    let shape = Shape { files: 8, documents: 4000, longest: 1000, group_tokens: 30_000 };
    made.push("d", 6, shape).await;
    let dataset = made.store.dataset(&"p/d".parse().unwrap()).await.unwrap();
    let bytes: u64 = dataset.files().iter().map(|file| file.bytes).sum();
    for packing in [Packing::Concat { seq_len: 512 }, Packing::FirstFit { seq_len: 512, long: Long::Split }] {
        for world_size in [1, 2, 4, 8] {
            let mut options = options("d", packing, 4);
            options.order.lanes = 8;
            let before = made.faults.bytes_got();
            for rank in 0..world_size {
                let options = of_rank(&options, rank, world_size, (0, 1));
                let mut stream = made.reopen().await.stream(options).await.unwrap();
                take(&mut stream, u64::MAX, &mut Samples::new()).await;
            }
            let ratio = (made.faults.bytes_got() - before) as f64 / bytes as f64;
            assert!(ratio <= 1.1, "{packing:?}, {world_size} ranks: {ratio}");
        }
    }
}

#[tokio::test]
async fn weights_hold_at_every_prefix_and_can_be_changed() {
    let made = Made::new().await;
    made.push("d", 7, SMALL).await;
    made.push("e", 8, SMALL).await;
    let mut mixed = options("d", Packing::Concat { seq_len: 32 }, 1);
    mixed.sources[0] = StreamSource { weight: 3.0, epochs: None, ..mixed.sources[0].clone() };
    mixed.sources.push(StreamSource { target: "p/e".parse().unwrap(), weight: 1.0, epochs: None });
    mixed.budget = Some(32 * 400);
    let mut stream = made.store.stream(mixed.clone()).await.unwrap();
    let mut counts = [0.0, 0.0];
    for step in 1..=200u64 {
        let batch = stream.next().await.unwrap().unwrap();
        counts[batch.sources[0] as usize] += batch.seen.tokens as f64;
        let off = counts[0] - 0.75 * (counts[0] + counts[1]);
        assert!(off.abs() <= 64.0, "step {step}: {counts:?}");
    }
    stream.set_weights(&[0.0, 1.0]).unwrap();
    for _ in 0..50 {
        assert_eq!(stream.next().await.unwrap().unwrap().sources, [1]);
    }
    // The budget is of all tokens, and the ledger of each dataset exact.
    let mut rest = 0;
    while let Some(batch) = stream.next().await.unwrap() {
        rest += batch.seen.tokens;
    }
    let cursor = stream.cursor();
    assert!(rest > 0 && (32 * 400..32 * 401).contains(&cursor.counted), "{}", cursor.counted);
    assert_eq!(cursor.seen.tokens, cursor.counted);
    assert_eq!(cursor.sources[0].counted as f64, counts[0]);
    assert_eq!(cursor.sources.iter().map(|source| source.counted).sum::<u64>(), cursor.counted);
}

#[tokio::test]
async fn the_last_samples_are_padded_or_left_out() {
    let made = Made::new().await;
    made.push("d", 9, SMALL).await;
    let mut options = options("d", Packing::Concat { seq_len: 32 }, 7);
    let (all, _) = read(&made.store, &options, 3, 1).await;
    options.last = Last::Drop;
    let (whole, _) = read(&made.store, &options, 3, 1).await;
    assert!(!all.len().is_multiple_of(21));
    assert_eq!(whole.len(), all.len() / 21 * 21);
    assert!(whole.iter().all(|(position, sample)| all[position] == *sample));
}

#[tokio::test]
async fn cursors_of_other_streams_are_refused() {
    let made = Made::new().await;
    made.push("d", 10, SMALL).await;
    made.push("e", 11, SMALL).await;
    let packing = Packing::Concat { seq_len: 32 };
    let cursor = made.store.stream(options("d", packing, 1)).await.unwrap().cursor();
    let refused = async |name, packing, seed| {
        let mut options = options(name, packing, 1);
        options.order.seed = Some(seed);
        options.cursor = Some(cursor.clone());
        match made.store.stream(options).await {
            Err(StreamError::Cursor(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused("e", packing, 11).await, CursorError::Order { .. }));
    assert!(matches!(refused("d", Packing::Documents, 11).await, CursorError::Spec { .. } | CursorError::Unit { .. }));
    assert!(matches!(refused("d", packing, 12).await, CursorError::Spec { .. }));
}
