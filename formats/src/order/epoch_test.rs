//! Tests of epochs: every document once, lanes of equal loads, places that are where steps lead.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::model::{self, Files};
use super::super::{SpecError, share::assign};
use super::*;

/// What each document of each row group is seen of in an epoch: how often each token, or how often at all.
fn seen(files: &Files, samples: &[model::ModelSample]) -> BTreeMap<(u32, u32), Vec<(u32, u32)>> {
    let all = files.groups();
    let mut seen: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for sample in samples {
        let rows = |group: u32| (0..all[group as usize].len() as u32).map(move |row| (group, row));
        let documents: Vec<(u32, u32)> = sample.groups.iter().copied().flat_map(rows).collect();
        for segment in &sample.segments {
            seen.entry(documents[segment.document as usize]).or_default().push((segment.start, segment.len));
        }
    }
    seen
}

/// The samples of an epoch with their places, lane after lane and window after window.
fn samples_of(files: &Files, spec: &OrderSpec, epoch: &Epoch) -> Vec<model::ModelSample> {
    let table = files.table();
    let mut samples = Vec::new();
    for lane in 0..epoch.lanes() {
        for window in 0..epoch.windows(lane) {
            let groups = epoch.groups(lane, window).to_vec();
            let order = epoch.documents(&table, lane, window);
            let plan = super::super::WindowPlan::new(spec.packing, &order, &files.lengths(&groups));
            assert!(epoch.items(lane, window).is_none_or(|items| items == plan.items()));
            let tokens: u64 = files.lengths(&groups).iter().map(|len| u64::from(*len)).sum();
            assert_eq!(epoch.tokens(&table, lane, window), tokens);
            samples.extend((0..plan.items()).map(|item| model::ModelSample {
                epoch: epoch.number(),
                lane,
                window,
                item,
                groups: groups.clone(),
                segments: plan.segments(item).to_vec(),
            }));
        }
    }
    samples
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn epochs_are_those_of_the_specification(files in model::files(60), spec in model::spec(), number in 0u64..4) {
        let epoch = Epoch::new(&files.table(), &spec, number);
        let mut expected = files.epoch(&spec, number);
        prop_assert!(epoch.samples().is_none_or(|samples| samples == expected.len() as u64));
        prop_assert_eq!(epoch.samples().is_none(), matches!(spec.packing, Packing::FirstFit { .. }));
        expected.sort_by_key(|sample| (sample.lane, sample.window, sample.item));
        prop_assert_eq!(samples_of(&files, &spec, &epoch), expected);
    }

    #[test]
    fn every_document_comes_once(files in model::files(60), spec in model::spec(), number in any::<u64>()) {
        let epoch = Epoch::new(&files.table(), &spec, number);
        let mut seen = seen(&files, &samples_of(&files, &spec, &epoch));
        for (group, documents) in files.groups().into_iter().enumerate() {
            for (row, len) in documents.iter().enumerate() {
                let mut pieces = seen.remove(&(group as u32, row as u32)).unwrap_or_default();
                pieces.sort_unstable();
                let whole = match spec.packing {
                    Packing::FirstFit { seq_len, long: super::super::Long::Truncate } => *len.min(&seq_len),
                    _ => *len,
                };
                if spec.packing == Packing::Documents {
                    prop_assert_eq!(pieces, [(0, *len)]);
                    continue;
                }
                // Each piece begins where the one before it ends, from the first token to the last.
                let mut end = 0;
                for (start, len) in pieces {
                    prop_assert!(start == end && len > 0);
                    end += len;
                }
                prop_assert_eq!(end, whole);
            }
        }
        prop_assert!(seen.is_empty());
    }

    #[test]
    fn loads_of_lanes_differ_by_one_row_group_at_most(files in model::files(60), spec in model::spec()) {
        let table = files.table();
        let epoch = Epoch::new(&table, &spec, 0);
        let load = |group: u32| table.rows(group) + table.tokens(group);
        let lane = |lane: &Lane| lane.groups.iter().map(|group| load(*group)).sum::<u64>();
        let loads: Vec<u64> = epoch.lanes.iter().map(lane).collect();
        let largest = (0..table.groups() as u32).map(load).max().unwrap_or(0);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= largest);
        for (number, lane) in epoch.lanes.iter().enumerate() {
            let windows: Vec<_> = (0..epoch.windows(number as u32)).map(|it| epoch.groups(number as u32, it)).collect();
            prop_assert_eq!(windows.concat(), lane.groups.clone());
            prop_assert!(windows.iter().all(|groups| !groups.is_empty() && groups.len() <= spec.window as usize));
        }
    }

    #[test]
    fn places_are_found_where_steps_lead(files in model::files(30), spec in model::spec()) {
        let epoch = Epoch::new(&files.table(), &spec, 1);
        let stream = files.epoch(&spec, 1);
        let Some(samples) = epoch.samples() else {
            prop_assert_eq!(epoch.places_after(0), None);
            return Ok(());
        };
        for after in 0..=samples {
            let (places, next) = epoch.places_after(after).unwrap();
            let rest = &stream[after as usize..];
            for (lane, place) in (0..).zip(&places) {
                let first = rest.iter().find(|sample| sample.lane == lane);
                let (window, item) = first.map_or((epoch.windows(lane), 0), |sample| (sample.window, sample.item));
                prop_assert_eq!(*place, LanePlace { window, item });
            }
            prop_assert_eq!(next, rest.first().map_or(0, |sample| sample.lane));
            prop_assert_eq!(epoch.samples_before(&places), Some(after));
        }
        prop_assert_eq!(epoch.places_after(samples + 1), None);
        prop_assert_eq!(epoch.places_after(u64::MAX), None);
    }

    #[test]
    fn ranks_get_equal_shares_and_every_sample_once(
        (files, spec) in (model::files(60), model::spec()),
        world in 1u32..=17,
        batch in 1u32..=5,
    ) {
        let lanes: Vec<u32> = files.epoch(&spec, 0).iter().map(|sample| sample.lane).collect();
        for global in lanes.chunks((world * batch) as usize) {
            let ranks = assign(global, world, batch);
            prop_assert_eq!(ranks.len(), global.len());
            let of = |rank| ranks.iter().filter(|it| **it == rank).count() as u32;
            prop_assert!((0..world).all(|rank| of(rank) <= batch));
            if global.len() as u32 == world * batch {
                prop_assert!((0..world).all(|rank| of(rank) == batch));
            }
            // As many as have room at home are there.
            for home in 0..world {
                let own = || global.iter().zip(&ranks).filter(|(lane, _)| **lane % world == home);
                let at_home = own().filter(|(_, rank)| **rank == home).count() as u32;
                prop_assert_eq!(at_home, batch.min(own().count() as u32));
            }
        }
        // Where the world size divides the lanes, and none has ended: no sample is elsewhere.
        let whole = lanes.chunks(spec.lanes as usize).take_while(|round| round.len() == spec.lanes as usize);
        let whole = whole.take_while(|round| round.iter().enumerate().all(|(number, lane)| *lane == number as u32));
        let whole = &lanes[..whole.count() * spec.lanes as usize];
        if spec.lanes.is_multiple_of(world) {
            for global in whole.chunks_exact((world * batch) as usize) {
                prop_assert!(assign(global, world, batch).iter().zip(global).all(|(rank, lane)| *rank == lane % world));
            }
        }
    }

    #[test]
    fn ids_name_paths_rows_and_tokens(files in model::files(20), at in any::<prop::sample::Index>()) {
        let id = files.table().id();
        prop_assert_eq!(files.table().id(), id);
        let mut other = files.clone();
        other.0[at.index(files.0.len())].0.push('x');
        prop_assert_ne!(other.table().id(), id);
        let with_rows = |(_, groups): &(String, Vec<model::Group>)| groups.iter().any(|group| !group.is_empty());
        if let Some(file) = files.0.iter().position(with_rows) {
            let group = files.0[file].1.iter().position(|group| !group.is_empty()).unwrap();
            let mut other = files.clone();
            other.0[file].1[group][0] += 1;
            prop_assert_ne!(other.table().id(), id);
            let mut other = files.clone();
            other.0[file].1[group].push(0);
            prop_assert_ne!(other.table().id(), id);
        }
        // A row group more, though an empty one, and the same row groups in other files.
        let mut other = files.clone();
        other.0[at.index(files.0.len())].1.push(Vec::new());
        prop_assert_ne!(other.table().id(), id);
        if let Some(moved) = files.0.iter().position(|(_, groups)| !groups.is_empty()) && moved > 0 {
            let mut other = files.clone();
            let group = other.0[moved].1.remove(0);
            other.0[moved - 1].1.push(group);
            prop_assert_ne!(other.table().id(), id);
        }
    }
}

#[test]
fn tables_that_are_none_are_refused() {
    let table = |files: &[(&'static str, usize)], rows: &[u64], tokens: &[u64]| {
        GroupTable::new(files.iter().copied(), rows.to_vec(), tokens.to_vec())
    };
    let unsorted = SpecError::Unsorted { path: "a".into(), before: "b".into() };
    assert_eq!(table(&[("b", 1), ("a", 1)], &[1, 1], &[1, 1]), Err(unsorted));
    table(&[("a", 1), ("a", 1)], &[1, 1], &[1, 1]).unwrap_err();
    for (groups, rows, tokens) in [(3, 2, 2), (1, 2, 2), (2, 2, 1), (2, 1, 2), (usize::MAX, 2, 2)] {
        let refused = table(&[("a", groups), ("b", 0)], &vec![1; rows], &vec![1; tokens]);
        assert_eq!(refused, Err(SpecError::Numbers { groups, rows, tokens }));
    }
    table(&[("a", usize::MAX), ("b", usize::MAX)], &[1], &[1]).unwrap_err();
    assert_eq!(table(&[("a", 2)], &[0, 0], &[0, 9]), Err(SpecError::NoRows { group: 1, tokens: 9 }));
}

#[test]
fn specifications_that_are_none_are_refused() {
    let table =
        |rows: &[u64], tokens: &[u64]| GroupTable::new([("a", rows.len())], rows.to_vec(), tokens.to_vec()).unwrap();
    let spec = OrderSpec { seed: Some(1), lanes: 4, window: 2, packing: Packing::Concat { seq_len: 8 } };
    let small = table(&[1, 2], &[3, 4]);
    spec.check(&small).unwrap();
    let number = |what, limit, actual| Err(SpecError::Number { what, limit, actual });
    assert_eq!(OrderSpec { lanes: 0, ..spec.clone() }.check(&small), number("lanes", 1 << 16, 0));
    assert_eq!(OrderSpec { lanes: 65_537, ..spec.clone() }.check(&small), number("lanes", 1 << 16, 65_537));
    assert_eq!(OrderSpec { window: 0, ..spec.clone() }.check(&small), number("window", 1 << 12, 0));
    let endless = Packing::Concat { seq_len: u32::MAX };
    assert_eq!(OrderSpec { packing: endless, ..spec.clone() }.check(&small), number("seq_len", 1 << 24, u32::MAX));
    let lanes = Err(SpecError::SequentialLanes { actual: 4 });
    assert_eq!(OrderSpec { seed: None, ..spec.clone() }.check(&small), lanes);
    let half = 1 << 31;
    let wide = |what| Err(SpecError::Window { window: 2, what, actual: 1 << 32 });
    assert_eq!(spec.check(&table(&[half, 1], &[0, 0])), wide("rows"));
    assert_eq!(spec.check(&table(&[1, 1], &[half, 0])), wide("tokens"));
    spec.check(&table(&[1, 1], &[half - 1, 0])).unwrap();
    spec.check(&table(&[1], &[u64::from(u32::MAX)])).unwrap();
    assert!(matches!(spec.check(&table(&[1, 1], &[u64::MAX, 0])), Err(SpecError::Window { actual: u64::MAX, .. })));
}
