//! Tests of cursors: what ranks saw adds up, and what is not of the same place is told in words.

use proptest::prelude::*;

use super::super::{OrderSpec, Packing, SampleHasher};
use super::*;
use crate::digest::Digest;

fn cursor() -> Cursor {
    let source = |dataset: &str| SourceCursor {
        dataset: dataset.to_owned(),
        order: Digest::of(dataset.as_bytes()).into(),
        spec: OrderSpec { seed: Some(7), lanes: 2, window: 4, packing: Packing::Documents },
        weight: Weight::of(&[1.0, 1.0]).unwrap()[0],
        weighed: 50,
        samples: 50,
        counted: 50,
        epoch: 1,
        next: 1,
        lanes: vec![(3, 14), (3, 15)],
    };
    Cursor {
        format: CURSOR_FORMAT.to_owned(),
        algorithm: ALGORITHM,
        samples: 100,
        unit: Unit::Samples,
        counted: 100,
        sources: vec![source("demo/web@3"), source("demo/code@1")],
        seen: Seen::default(),
    }
}

/// What was seen of the samples at some positions.
fn seen(positions: impl IntoIterator<Item = u64>) -> Seen {
    let (mut all, mut hasher) = (Seen::default(), SampleHasher::default());
    for position in positions {
        let digest = hasher.digest(position, 0, 2, [(2, true)].into_iter(), b"abcd");
        all.add(&Seen { digest, samples: 1, tokens: 2, documents: position % 2, missing: position % 3 });
    }
    all
}

proptest! {
    #[test]
    fn what_ranks_saw_adds_up_however_samples_were_dealt(
        ranks in 1usize..9,
        dealt in prop::collection::vec(0usize..9, 100),
    ) {
        let of = |rank| (0..100u64).filter(move |position| dealt[*position as usize] % ranks == rank);
        let all: Vec<Cursor> = (0..ranks).map(|rank| Cursor { seen: seen(of.clone()(rank)), ..cursor() }).collect();
        let joined = Cursor::join(&all).unwrap().unwrap();
        prop_assert_eq!(&joined, &Cursor { seen: seen(0..100), ..cursor() });
        let backwards: Vec<Cursor> = all.into_iter().rev().collect();
        prop_assert_eq!(Cursor::join(&backwards).unwrap().unwrap(), joined);
    }
}

#[test]
fn no_cursors_join_to_none() {
    assert_eq!(Cursor::join(&[]).unwrap(), None);
}

#[test]
fn cursors_of_other_places_are_told_apart_in_words() {
    type Change = fn(&mut Cursor);
    let cases: [(Change, &str, &str); 12] = [
        (|other| other.format = "x".to_owned(), "gigastore-cursor-1", "x of algorithm"),
        (|other| other.algorithm = 2, "algorithm 1", "algorithm 2"),
        (|other| other.samples = 116, "100 samples", "116 samples"),
        (|other| other.counted = 99, "100 counted as samples", "99 counted as samples"),
        (|other| other.unit = Unit::Tokens, "100 counted as samples", "100 counted as tokens"),
        (|other| drop(other.sources.pop()), "2 datasets", "1 datasets"),
        (|other| other.sources[0].dataset = "demo/web@4".to_owned(), "demo/web@3", "demo/web@4"),
        (|other| other.sources[1].spec.seed = Some(8), "demo/code@1 by seed 7", "demo/code@1 by seed 8"),
        (|other| other.sources[1].weighed = 0, "50 counted since", "0 counted since"),
        (|other| other.sources[1].epoch = 2, "epoch 1", "epoch 2"),
        (|other| other.sources[1].lanes.truncate(1), "2 lanes", "1 lanes"),
        (|other| other.sources[1].lanes[1].1 = 16, "lane 1: window 3, sample 15", "lane 1: window 3, sample 16"),
    ];
    let first = cursor();
    for (change, here, there) in cases {
        let mut other = Cursor { seen: seen(0..9), ..cursor() };
        assert_eq!(first.difference(&other), None, "what was seen is no place");
        change(&mut other);
        let Err(error @ CursorError::Apart { first: 0, second: 2, .. }) = Cursor::join(&[cursor(), cursor(), other])
        else {
            panic!("{there} was joined")
        };
        let text = error.to_string();
        assert!(text.contains(here) && text.contains(there) && text.contains("rank 2"), "{text}");
    }
}
