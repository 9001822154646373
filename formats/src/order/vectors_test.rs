//! The vectors of algorithm 1, which another program computed from the specification: `tests/compat/order.py`.
//!
//! What they say never changes. A test that fails here means that every cursor in the world would mean other samples.

use std::sync::Arc;

use serde::Deserialize;

use super::*;
use crate::digest::{hex, unhex};

const VECTORS: &str = include_str!("../../../tests/compat/order-1.json");

type DocumentPiece = (u32, u32, u32);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    algorithm: u32,
    cases: Vec<Case>,
    streams: Vec<Stream>,
    shares: Vec<Share>,
    seen: Digests,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    files: Vec<File>,
    spec: OrderSpec,
    order_id: OrderId,
    epochs: Vec<EpochCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    groups: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochCase {
    epoch: u64,
    windows: Vec<Window>,
    /// Lane, window, number in the window, and pieces: document, first token, tokens.
    samples: Vec<(u32, u32, u32, Vec<DocumentPiece>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    lane: u32,
    window: u32,
    groups: Vec<u32>,
    documents: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stream {
    cases: Vec<String>,
    unit: Unit,
    weights: Vec<f64>,
    changed_at: u64,
    changed_to: Vec<f64>,
    epochs: Vec<Option<u64>>,
    budget: u64,
    /// Source, epoch, lane, window, number in the window, count.
    samples: Vec<(u32, u64, u32, u32, u32, u32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    lanes: Vec<u32>,
    world: u32,
    share: u32,
    ranks: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Digests {
    samples: Vec<Digested>,
    sum: SeenDigest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Digested {
    position: u64,
    source: u32,
    width: u32,
    pieces: Vec<Piece>,
    tokens: String,
    digest: SeenDigest,
}

impl Case {
    fn order(&self) -> Arc<SourceOrder> {
        let groups: Vec<_> = self.files.iter().flat_map(|file| &file.groups).collect();
        let rows = groups.iter().map(|group| group.len() as u64).collect();
        let tokens = groups.iter().map(|group| group.iter().map(|len| u64::from(*len)).sum()).collect();
        let files = self.files.iter().map(|file| (file.path.as_str(), file.groups.len()));
        SourceOrder::new(GroupTable::new(files, rows, tokens).unwrap(), self.spec.clone()).unwrap()
    }

    /// The samples of a window.
    fn plan(&self, order: &SourceOrder, epoch: u64, lane: u32, window: u32) -> WindowPlan {
        let epoch = order.epoch(epoch);
        let all: Vec<_> = self.files.iter().flat_map(|file| &file.groups).collect();
        let lengths: Vec<u32> = epoch.groups(lane, window).iter().flat_map(|it| all[*it as usize].clone()).collect();
        WindowPlan::new(self.spec.packing, &epoch.documents(order.table(), lane, window), &lengths)
    }
}

fn vectors() -> Vectors {
    serde_json::from_str(VECTORS).unwrap()
}

/// Takes the next sample; `cases` are the sources of the stream.
fn step(sampler: &mut Sampler, cases: &[&Case]) -> Option<Sample> {
    loop {
        match sampler.step() {
            Next::Sample(_, sample) => return Some(sample),
            Next::End => return None,
            Next::Need(key) => {
                let order = Arc::clone(&sampler.spec().sources[key.source as usize].order);
                let plan = cases[key.source as usize].plan(&order, key.epoch, key.lane, key.window);
                assert!(sampler.give(key, plan.sizes().into()));
            }
        }
    }
}

#[test]
fn orders_are_those_of_the_vectors() {
    let vectors = vectors();
    assert_eq!((vectors.algorithm, vectors.cases.len()), (ALGORITHM, 13));
    for case in &vectors.cases {
        let order = case.order();
        assert_eq!(order.table().id(), case.order_id, "{}", case.name);
        for expected in &case.epochs {
            let epoch = order.epoch(expected.epoch);
            let windows: u32 = (0..epoch.lanes()).map(|lane| epoch.windows(lane)).sum();
            assert_eq!(windows as usize, expected.windows.len(), "{}", case.name);
            for Window { lane, window, groups, documents } in &expected.windows {
                assert_eq!(epoch.groups(*lane, *window), groups, "{}: lane {lane}, window {window}", case.name);
                assert_eq!(&epoch.documents(order.table(), *lane, *window), documents, "{}", case.name);
            }
        }
    }
}

#[test]
fn samples_are_those_of_the_vectors() {
    for case in &vectors().cases {
        let order = case.order();
        for expected in &case.epochs {
            let mut walk = walk::Walk::start(0, &order, expected.epoch, Unit::Tokens);
            for (lane, window, item, pieces) in &expected.samples {
                let plan = case.plan(&order, expected.epoch, *lane, *window);
                if let walk::Next::Need(key) = walk.peek() {
                    assert!(walk.give(key, plan.sizes().into()));
                }
                let walk::Next::Sample(sample) = walk.peek() else { panic!("{}: no more samples", case.name) };
                let at = (sample.window.lane, sample.window.window, sample.item);
                assert_eq!(at, (*lane, *window, *item), "{}", case.name);
                let segments = plan.segments(*item).iter().map(|it| (it.document, it.start, it.len));
                assert_eq!(&segments.collect::<Vec<_>>(), pieces, "{}", case.name);
                assert_eq!(sample.count, pieces.iter().map(|(_, _, len)| len).sum::<u32>(), "{}", case.name);
                walk.pass();
            }
            assert_eq!(walk.peek(), walk::Next::Over, "{}", case.name);
        }
    }
}

#[test]
fn streams_are_those_of_the_vectors() {
    let vectors = vectors();
    for stream in &vectors.streams {
        let of = |name: &String| vectors.cases.iter().find(|case| case.name == *name).unwrap();
        let cases: Vec<&Case> = stream.cases.iter().map(of).collect();
        let source = |(number, case): (usize, &&Case)| SourceSpec {
            dataset: case.name.clone(),
            order: case.order(),
            weight: stream.weights[number],
            epochs: stream.epochs[number],
        };
        let sources = cases.iter().enumerate().map(source).collect();
        let spec = Arc::new(StreamSpec { sources, unit: stream.unit, budget: Some(stream.budget) });
        let mut sampler = Sampler::new(&spec).unwrap();
        for (position, expected) in stream.samples.iter().enumerate() {
            if position as u64 == stream.changed_at {
                sampler.set_weights(&stream.changed_to).unwrap();
            }
            let Sample { window: WindowKey { source, epoch, lane, window }, item, count } =
                step(&mut sampler, &cases).unwrap();
            assert_eq!((source, epoch, lane, window, item, count), *expected, "sample {position}");
        }
        assert_eq!(step(&mut sampler, &cases), None);
    }
}

#[test]
fn shares_and_digests_are_those_of_the_vectors() {
    let vectors = vectors();
    for Share { lanes, world, share, ranks } in vectors.shares {
        assert_eq!(assign(&lanes, world, share), ranks);
    }
    let (mut hasher, mut sum) = (SampleHasher::default(), SeenDigest::default());
    for Digested { position, source, width, pieces, tokens, digest } in vectors.seen.samples {
        let bytes = unhex(&tokens).unwrap();
        let found = hasher.digest(position, source, width, pieces.into_iter(), &bytes);
        assert_eq!(found, digest, "{}", hex(&bytes));
        sum.add(&found);
    }
    assert_eq!(sum, vectors.seen.sum);
}
