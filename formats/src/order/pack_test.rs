//! Tests of packing: against naive packing, and that no token is lost or comes twice.

use proptest::prelude::*;

use super::super::model::{pack, packing};
use super::*;

/// Documents' lengths, and an order of them.
fn documents() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    let length = prop_oneof![6 => 0u32..20, 1 => 0u32..200, 1 => Just(0u32)];
    prop::collection::vec(length, 0..120).prop_flat_map(|lengths| {
        let order = Just((0..lengths.len() as u32).collect::<Vec<_>>()).prop_shuffle();
        (order, Just(lengths))
    })
}

fn samples(plan: &WindowPlan) -> Vec<Vec<Segment>> {
    (0..plan.items()).map(|item| plan.segments(item).to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_are_the_naive_ones((order, lengths) in documents(), packing in packing()) {
        let plan = WindowPlan::new(packing, &order, &lengths);
        prop_assert_eq!(samples(&plan), pack(packing, &order, &lengths));
    }

    #[test]
    fn every_token_is_in_one_sample_and_no_sample_is_too_long((order, lengths) in documents(), packing in packing()) {
        let plan = WindowPlan::new(packing, &order, &lengths);
        let mut seen: Vec<Vec<u32>> = lengths.iter().map(|len| vec![0; *len as usize]).collect();
        for (sample, size) in samples(&plan).iter().zip(plan.sizes()) {
            prop_assert!(!sample.is_empty());
            prop_assert_eq!(sample.iter().map(|segment| segment.len).sum::<u32>(), size.tokens);
            prop_assert_eq!(sample.iter().filter(|segment| segment.start == 0).count(), size.documents as usize);
            prop_assert!(packing.seq_len().is_none_or(|seq_len| (1..=seq_len).contains(&size.tokens)));
            for Segment { document, start, len } in sample {
                prop_assert!(*len > 0 || packing == Packing::Documents);
                let tokens = &mut seen[*document as usize][*start as usize..(start + len) as usize];
                tokens.iter_mut().for_each(|times| *times += 1);
            }
        }
        for (tokens, len) in seen.iter().zip(&lengths) {
            let kept = match packing {
                Packing::FirstFit { seq_len, long: Long::Truncate } => *len.min(&seq_len),
                _ => *len,
            };
            let (first, rest) = tokens.split_at(kept as usize);
            prop_assert!(first.iter().all(|times| *times == 1) && rest.iter().all(|times| *times == 0));
        }
        prop_assert_eq!(plan.items() as usize, plan.sizes().len());
        if packing == Packing::Documents {
            prop_assert_eq!(samples(&plan).iter().map(|sample| sample[0].document).collect::<Vec<_>>(), order);
        }
    }

    #[test]
    fn with_first_fit_no_earlier_sample_had_room((order, lengths) in documents(), seq_len in 1u32..60) {
        let plan = WindowPlan::new(Packing::FirstFit { seq_len, long: Long::Split }, &order, &lengths);
        // In the order in which pieces were placed: documents in their order, each from its first token.
        let mut placed: Vec<(usize, u32, usize, u32)> = Vec::new();
        for (sample, segments) in samples(&plan).iter().enumerate() {
            for segment in segments {
                let nth = order.iter().position(|document| *document == segment.document).unwrap();
                placed.push((nth, segment.start, sample, segment.len));
            }
        }
        placed.sort_unstable();
        let mut used = vec![0; plan.items() as usize];
        let mut begun = 0;
        for (_, _, sample, len) in placed {
            prop_assert!(used[..sample].iter().all(|used| used + len > seq_len));
            prop_assert!(sample <= begun, "samples are numbered as they are begun");
            begun = begun.max(sample + 1);
            used[sample] += len;
        }
    }
}

#[test]
fn known_answers() {
    let plan = |packing| {
        let plan = WindowPlan::new(packing, &[2, 0, 3, 1], &[5, 11, 2, 0]);
        let pieces = |sample: Vec<Segment>| sample.iter().map(|it| (it.document, it.start, it.len)).collect::<Vec<_>>();
        samples(&plan).into_iter().map(pieces).collect::<Vec<_>>()
    };
    assert_eq!(plan(Packing::Documents), [[(2, 0, 2)], [(0, 0, 5)], [(3, 0, 0)], [(1, 0, 11)]]);
    let cut = plan(Packing::Concat { seq_len: 4 });
    assert_eq!(cut[..2], [[(2, 0, 2), (0, 0, 2)], [(0, 2, 3), (1, 0, 1)]]);
    assert_eq!(cut[2..], [[(1, 1, 4)], [(1, 5, 4)], [(1, 9, 2)]]);
    let split = plan(Packing::FirstFit { seq_len: 4, long: Long::Split });
    assert_eq!(split[0], [(2, 0, 2), (0, 4, 1)]);
    assert_eq!(split[1..], [[(0, 0, 4)], [(1, 0, 4)], [(1, 4, 4)], [(1, 8, 3)]]);
    let truncated = plan(Packing::FirstFit { seq_len: 4, long: Long::Truncate });
    assert_eq!(truncated, [[(2, 0, 2)], [(0, 0, 4)], [(1, 0, 4)]]);
}
