//! Tests of streams: against a naive one, resumed at every position, found by number, and with cursors that lie.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::super::model::{self, Files, ModelSample};
use super::super::{ItemSize, Long, OrderSpec, Packing, WindowPlan};
use super::*;

/// A source of a random stream.
#[derive(Clone, Debug)]
struct Given {
    files: Files,
    spec: OrderSpec,
    weight: f64,
    epochs: Option<u64>,
}

/// A random stream, and other weights that it gets after some samples.
#[derive(Clone, Debug)]
struct Run {
    given: Vec<Given>,
    unit: Unit,
    budget: Option<u64>,
    changed_at: u64,
    weights: Vec<f64>,
}

/// Samples of a random stream that are looked at.
const MOST: usize = 120;

fn units() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Tokens), Just(Unit::Documents), Just(Unit::Samples)]
}

fn given(groups: usize) -> impl Strategy<Value = Given> {
    let weight = prop_oneof![1 => Just(0.0), 6 => 0.01f64..5.0];
    let epochs = prop::option::of(0u64..4);
    (model::files(groups), model::spec(), weight, epochs).prop_map(|(files, spec, weight, epochs)| Given {
        files,
        spec,
        weight,
        epochs,
    })
}

fn runs(sources: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Run> {
    let given = prop::collection::vec(given(9), sources);
    let weights = prop::collection::vec(0.0f64..5.0, 3);
    (given, units(), prop::option::weighted(0.3, 0u64..400), 0u64..60, weights).prop_map(
        |(mut given, unit, budget, changed_at, mut weights)| {
            given[0].weight += 0.5;
            weights.truncate(given.len());
            weights[0] += 0.1;
            Run { given, unit, budget, changed_at, weights }
        },
    )
}

impl Run {
    /// Everything made anew, as another process would.
    fn spec(&self) -> Arc<StreamSpec> {
        let source = |(number, given): (usize, &Given)| SourceSpec {
            dataset: format!("texts/{number}"),
            order: given.files.order(&given.spec),
            weight: given.weight,
            epochs: given.epochs,
        };
        let sources = self.given.iter().enumerate().map(source).collect();
        Arc::new(StreamSpec { sources, unit: self.unit, budget: self.budget })
    }

    fn sizes(&self, spec: &StreamSpec, key: WindowKey) -> Arc<[ItemSize]> {
        let order = &spec.sources[key.source as usize].order;
        let epoch = order.epoch(key.epoch);
        let lengths = self.given[key.source as usize].files.lengths(epoch.groups(key.lane, key.window));
        let documents = epoch.documents(order.table(), key.lane, key.window);
        WindowPlan::new(order.spec().packing, &documents, &lengths).sizes().into()
    }

    /// Steps to the next sample; weights change where they are to.
    fn step(&self, sampler: &mut Sampler) -> Option<(u64, Sample)> {
        if sampler.samples() == self.changed_at {
            sampler.set_weights(&self.weights).unwrap();
        }
        loop {
            match sampler.step() {
                Next::Sample(position, sample) => return Some((position, sample)),
                Next::End => return None,
                Next::Need(key) => {
                    assert_eq!(sampler.step(), Next::Need(key), "it stays where it is");
                    assert!(sampler.give(key, self.sizes(&sampler.spec, key)));
                }
            }
        }
    }

    fn count(&self, sample: &ModelSample) -> u64 {
        match self.unit {
            Unit::Samples => 1,
            Unit::Tokens => sample.segments.iter().map(|segment| u64::from(segment.len)).sum(),
            Unit::Documents => sample.segments.iter().filter(|segment| segment.start == 0).count() as u64,
        }
    }

    /// The first samples of the stream, with their sources, as the specification says.
    fn model(&self) -> Vec<(usize, ModelSample)> {
        let mut sources: Vec<_> = self.given.iter().map(|given| (0u64, given.files.epoch(&given.spec, 0), 0)).collect();
        let mut weights = Weight::of(&self.given.iter().map(|given| given.weight).collect::<Vec<_>>()).unwrap();
        let mut counted = vec![0u64; sources.len()];
        let mut total = 0;
        let mut stream = Vec::new();
        while stream.len() < MOST && self.budget.is_none_or(|budget| total < budget) {
            if stream.len() as u64 == self.changed_at {
                weights = Weight::of(&self.weights).unwrap();
                counted.fill(0);
            }
            // The next sample of each source that has one.
            let mut best: Option<usize> = None;
            for (number, (epoch, samples, at)) in sources.iter_mut().enumerate() {
                let given = &self.given[number];
                if *at == samples.len() && !samples.is_empty() && given.epochs.is_none_or(|epochs| *epoch + 1 < epochs)
                {
                    (*epoch, *at) = (*epoch + 1, 0);
                    *samples = given.files.epoch(&given.spec, *epoch);
                }
                if *at == samples.len() || weights[number].is_zero() || given.epochs == Some(0) {
                    continue;
                }
                let times = |a: usize, b: usize| u128::from(counted[a]) * u128::from(weights[b].number());
                if best.is_none_or(|best| times(number, best) < times(best, number)) {
                    best = Some(number);
                }
            }
            let Some(number) = best else { break };
            let (_, samples, at) = &mut sources[number];
            let sample = samples[*at].clone();
            *at += 1;
            counted[number] += self.count(&sample);
            total += self.count(&sample);
            stream.push((number, sample));
        }
        stream
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn streams_are_those_of_the_specification(run in runs(1..=3)) {
        let mut sampler = Sampler::new(&run.spec()).unwrap();
        let mut ledger = vec![(0, 0); run.given.len()];
        let expected = run.model();
        for (number, (source, sample)) in expected.iter().enumerate() {
            let (position, got) = run.step(&mut sampler).unwrap();
            let ModelSample { epoch, lane, window, item, .. } = *sample;
            let window = WindowKey { source: *source as u32, epoch, lane, window };
            prop_assert_eq!(position, number as u64);
            prop_assert_eq!(got, Sample { window, item, count: run.count(sample) as u32 });
            let order = &sampler.spec().sources[*source].order;
            prop_assert_eq!(order.epoch(epoch).groups(lane, window.window).to_vec(), sample.groups.clone());
            ledger[*source].0 += 1;
            ledger[*source].1 += run.count(sample);
            let (total, each) = sampler.counted();
            prop_assert_eq!(total, each.iter().sum::<u64>());
            prop_assert_eq!(&each, &ledger.iter().map(|(_, counted)| *counted).collect::<Vec<_>>());
            let cursor = sampler.cursor(Seen::default());
            prop_assert_eq!((cursor.samples, cursor.counted), (number as u64 + 1, total));
            let sources: Vec<_> = cursor.sources.iter().map(|source| (source.samples, source.counted)).collect();
            prop_assert_eq!(&sources, &ledger);
        }
        if expected.len() < MOST {
            prop_assert_eq!(run.step(&mut sampler), None);
            prop_assert_eq!(run.step(&mut sampler), None);
        }
    }

    #[test]
    fn every_cursor_goes_on_as_if_nothing_had_been(run in runs(1..=3)) {
        // Cursors before each sample: where it was asked for, and where sizes were given for it.
        let mut sampler = Sampler::new(&run.spec()).unwrap();
        let (mut samples, mut cursors) = (Vec::new(), Vec::new());
        for position in 0..MOST {
            cursors.push((position, sampler.cursor(Seen::default()).json()));
            if position as u64 != run.changed_at && let Next::Need(_) = sampler.clone().step() {
                let mut asked = sampler.clone();
                asked.step();
                cursors.push((position, asked.cursor(Seen::default()).json()));
            }
            let Some(sample) = run.step(&mut sampler) else { break };
            samples.push(sample);
        }
        let ended = samples.len() < MOST;
        let last = sampler.cursor(Seen::default());
        let spec = run.spec();
        for (position, json) in cursors {
            let mut resumed = Sampler::resume(&spec, &Cursor::parse(json.as_bytes()).unwrap()).unwrap();
            for sample in &samples[position..] {
                prop_assert_eq!(run.step(&mut resumed), Some(*sample));
            }
            if ended {
                prop_assert_eq!(run.step(&mut resumed), None);
            }
            prop_assert_eq!(resumed.cursor(Seen::default()), last.clone());
        }
    }

    #[test]
    fn a_number_of_samples_is_found_as_by_steps(run in runs(1..=1)) {
        let run = Run { changed_at: u64::MAX, ..run };
        let spec = run.spec();
        let known = match (run.unit, run.given[0].spec.packing) {
            (_, Packing::FirstFit { .. }) => false,
            (Unit::Samples, _) | (Unit::Tokens, Packing::Concat { .. }) => true,
            (unit, packing) => unit == Unit::Documents && packing == Packing::Documents,
        };
        let mut sampler = Sampler::new(&spec).unwrap();
        let two = 2 * run.given[0].files.epoch(&run.given[0].spec, 0).len() as u64 + 3;
        for samples in 0..two {
            let found = Sampler::seek(&spec, samples);
            if !known && samples > 0 {
                prop_assert!(found.is_none());
                continue;
            }
            let mut found = found.unwrap();
            prop_assert_eq!(found.cursor(Seen::default()), sampler.cursor(Seen::default()));
            let next = run.step(&mut sampler);
            prop_assert_eq!(run.step(&mut found), next);
            if next.is_none() {
                prop_assert!(Sampler::seek(&spec, samples + 1).is_none());
                prop_assert!(Sampler::seek(&spec, u64::MAX).is_none());
                break;
            }
        }
    }

    #[test]
    fn weights_are_kept_at_any_prefix(run in runs(3..=3)) {
        let mut run = Run { budget: None, ..run };
        for given in &mut run.given {
            given.epochs = None;
            given.files.0.push(("z".to_owned(), vec![vec![3, 1]]));
        }
        let mut sampler = Sampler::new(&run.spec()).unwrap();
        let (mut counted, mut most) = ([0u128; 3], 0u128);
        for _ in 0..MOST {
            let (_, sample) = run.step(&mut sampler).unwrap();
            if sampler.samples() == run.changed_at + 1 {
                (counted, most) = ([0; 3], 0);
            }
            let count = u128::from(sample.count);
            counted[sample.window.source as usize] += count;
            most = most.max(count);
            let weights = sampler.weights();
            let whole: u128 = weights.iter().map(|weight| u128::from(weight.number())).sum();
            let total: u128 = counted.iter().sum();
            for (weight, counted) in weights.iter().zip(counted) {
                let weight = u128::from(weight.number());
                // One sample of its own too many, or one of each source too many, of which this is its part.
                prop_assert!(counted * whole <= weight * total + most * whole);
                prop_assert!(counted * whole + 3 * most * weight >= weight * total);
            }
        }
    }

    #[test]
    fn cursors_that_lie_are_refused_or_harmless(
        run in runs(1..=3),
        steps in 0usize..MOST,
        lies in prop::collection::vec((any::<Index>(), 0usize..7, any::<u64>()), 1..3),
    ) {
        let mut sampler = Sampler::new(&run.spec()).unwrap();
        for _ in 0..steps {
            run.step(&mut sampler);
        }
        let mut cursor: Value = serde_json::from_str(&sampler.cursor(Seen::default()).json()).unwrap();
        for (at, kind, random) in lies {
            let mut numbers = Vec::new();
            leaves(&mut cursor, &mut numbers);
            let number = numbers.swap_remove(at.index(numbers.len()));
            let was = number.as_u64().unwrap_or(0);
            *number = [
                json!(0), json!(was.wrapping_add(1)), json!(was.wrapping_sub(1)), json!(u32::MAX), json!(u64::MAX),
                json!(random), json!(random % 100),
            ][kind].clone();
        }
        let Ok(cursor) = Cursor::parse(cursor.to_string().as_bytes()) else { return Ok(()) };
        let Ok(mut resumed) = Sampler::resume(&run.spec(), &cursor) else { return Ok(()) };
        for _ in 0..MOST {
            match resumed.step() {
                Next::Need(key) if !resumed.give(key, run.sizes(&resumed.spec, key)) => break,
                Next::End => break,
                _ => {}
            }
        }
    }
}

/// All numbers of a document.
fn leaves<'a>(value: &'a mut Value, into: &mut Vec<&'a mut Value>) {
    match value {
        Value::Number(_) => into.push(value),
        Value::Array(values) => values.iter_mut().for_each(|value| leaves(value, into)),
        Value::Object(values) => values.values_mut().for_each(|value| leaves(value, into)),
        _ => {}
    }
}

/// A stream of 6 documents of 4 tokens each in 2 lanes, each lane with windows of 1 row group and one document.
fn small(packing: Packing, epochs: Option<u64>) -> Run {
    let files = Files(vec![("a".to_owned(), vec![vec![4]; 6])]);
    let spec = OrderSpec { seed: Some(3), lanes: 2, window: 1, packing };
    let given = vec![Given { files, spec, weight: 1.0, epochs }];
    Run { given, unit: Unit::Samples, budget: None, changed_at: u64::MAX, weights: Vec::new() }
}

/// What the stream says to its cursor after `steps` samples when `lie` was told about it.
fn told(run: &Run, steps: usize, lie: impl Fn(&mut Value)) -> Result<Sampler, CursorError> {
    let mut sampler = Sampler::new(&run.spec()).unwrap();
    for _ in 0..steps {
        run.step(&mut sampler).unwrap();
    }
    let mut cursor: Value = serde_json::from_str(&sampler.cursor(Seen::default()).json()).unwrap();
    lie(&mut cursor);
    Sampler::resume(&run.spec(), &Cursor::parse(cursor.to_string().as_bytes())?)
}

#[test]
fn cursors_of_something_else_are_refused_by_name() {
    let run = small(Packing::Concat { seq_len: 2 }, None);
    let refused = |lie: &dyn Fn(&mut Value)| told(&run, 5, lie).unwrap_err();
    told(&run, 5, |_| {}).unwrap();
    let other = refused(&|cursor| cursor["format"] = json!("gigastore-cursor-2"));
    assert_eq!(other, CursorError::Format { actual: "gigastore-cursor-2".into() });
    // Also where the other version has other fields.
    assert!(matches!(Cursor::parse(br#"{"format":"x","algorithm":1,"more":0}"#), Err(CursorError::Format { .. })));
    assert_eq!(refused(&|cursor| cursor["algorithm"] = json!(2)), CursorError::Algorithm { actual: 2 });
    assert!(matches!(refused(&|cursor| cursor["more"] = json!(2)), CursorError::Json(_)));
    assert!(matches!(refused(&|cursor| cursor["samples"] = json!(-1)), CursorError::Json(_)));
    assert!(matches!(refused(&|cursor| cursor["unit"] = json!("tokens")), CursorError::Unit { .. }));
    let more = refused(&|cursor| {
        let source = cursor["sources"][0].clone();
        cursor["sources"].as_array_mut().unwrap().push(json!(source));
        (cursor["samples"], cursor["counted"]) = (json!(10), json!(10));
    });
    assert_eq!(more, CursorError::Sources { expected: 1, actual: 2 });
    let files = refused(&|cursor| cursor["sources"][0]["order"] = json!("00".repeat(32)));
    assert!(matches!(files, CursorError::Order { .. }));
    for (part, other) in [("seed", json!(4)), ("window", json!(2)), ("packing", json!({"mode": "documents"}))] {
        let refusal = refused(&|cursor| cursor["sources"][0]["spec"][part] = other.clone());
        assert!(matches!(refusal, CursorError::Spec { .. }), "{refusal}");
    }
    // A cursor that was not parsed from bytes is looked at as well.
    let mut cursor = Sampler::new(&run.spec()).unwrap().cursor(Seen::default());
    cursor.algorithm = 9;
    assert_eq!(Sampler::resume(&run.spec(), &cursor).unwrap_err(), CursorError::Algorithm { actual: 9 });
}

#[test]
fn numbers_that_lie_are_named() {
    let run = small(Packing::Concat { seq_len: 2 }, None);
    let number = |lie: &dyn Fn(&mut Value), steps| match told(&run, steps, lie).unwrap_err() {
        CursorError::Number { what, .. } => what,
        other => panic!("{other}"),
    };
    let source = |name: &'static str, value: u64| move |cursor: &mut Value| cursor["sources"][0][name] = json!(value);
    assert_eq!(number(&source("epoch", u64::MAX), 5), "epoch");
    assert_eq!(number(&source("samples", 6), 5), "samples");
    assert_eq!(number(&source("counted", 4), 5), "weighed");
    assert_eq!(number(&source("weighed", u64::MAX), 5), "weighed");
    assert_eq!(number(&source("weight", 1_000_001), 5), "weight");
    assert_eq!(number(&source("weight", 0), 5), "sum of weights");
    assert_eq!(number(&|cursor| cursor["samples"] = json!(4), 5), "samples");
    assert_eq!(number(&|cursor| cursor["counted"] = json!(u64::MAX), 5), "counted");
    let all = |names: &'static [&'static str], value: u64| {
        move |cursor: &mut Value| {
            for name in names {
                cursor["sources"][0][*name] = json!(value);
                if cursor.get(*name).is_some() {
                    cursor[*name] = json!(value);
                }
            }
        }
    };
    assert_eq!(number(&all(&["samples", "counted", "weighed"], u64::MAX), 5), "samples");
    // All together, but not those of the place: 5 samples into the first epoch; 12 samples an epoch.
    assert_eq!(number(&all(&["samples", "counted", "weighed"], 6), 5), "samples");
    assert_eq!(number(&all(&["samples", "counted", "weighed"], 16), 17), "samples");
    assert_eq!(number(&all(&["counted", "weighed"], 6), 5), "counted");
    // An epoch that no counter belies is made like any other, and no one is made on the way to it.
    let far = told(&run, 5, |cursor| {
        all(&["samples", "counted", "weighed"], 1 << 62)(cursor);
        cursor["sources"][0]["epoch"] = json!(1u64 << 58);
    });
    let mut far = far.unwrap();
    (0..30).for_each(|_| assert!(run.step(&mut far).is_some()));
    assert_eq!(number(&|cursor| cursor["sources"][0]["lanes"] = json!([[0, 0]]), 5), "number of lanes");
}

#[test]
fn places_that_lie_are_named() {
    for packing in [Packing::Concat { seq_len: 2 }, Packing::FirstFit { seq_len: 2, long: Long::Split }] {
        let run = small(packing, Some(1));
        let refused = |lanes: Value, next: u32| {
            let lie = |cursor: &mut Value| {
                cursor["sources"][0]["lanes"] = lanes.clone();
                cursor["sources"][0]["next"] = json!(next);
            };
            told(&run, 5, lie).err()
        };
        // After 5 samples: two windows of two samples each, taken in turn.
        assert_eq!(refused(json!([[1, 1], [1, 0]]), 1), None);
        let place = |lane, window, item| Some(CursorError::Lane { dataset: "texts/0".into(), lane, window, item });
        assert_eq!(refused(json!([[4, 0], [1, 0]]), 1), place(0, 4, 0));
        assert_eq!(refused(json!([[1, 1], [3, 1]]), 1), place(1, 3, 1));
        assert_eq!(refused(json!([[1, 1], [u32::MAX, u32::MAX]]), 1), place(1, u32::MAX, u32::MAX));
        assert_eq!(refused(json!([[1, 9], [1, 0]]), 1), place(0, 1, 9));
        let rounds = Some(CursorError::Rounds { dataset: "texts/0".into() });
        assert_eq!(refused(json!([[1, 1], [1, 0]]), u32::MAX), rounds);
        assert_eq!(refused(json!([[1, 1], [1, 0]]), 2), rounds);
        if packing.seq_len().is_some_and(|_| matches!(packing, Packing::Concat { .. })) {
            assert_eq!(refused(json!([[1, 1], [1, 0]]), 0), rounds);
            assert_eq!(refused(json!([[2, 1], [1, 0]]), 1), rounds);
        } else {
            // Of a window of 4 tokens it is known only when lengths are that there are 2 samples.
            let mut lying = told(&run, 5, |cursor| cursor["sources"][0]["lanes"] = json!([[1, 1], [1, 3]])).unwrap();
            let Next::Need(key) = lying.step() else { panic!("lengths are needed") };
            assert!(!lying.give(key, run.sizes(&lying.spec, key)));
        }
    }
}

#[test]
fn a_stream_goes_on_with_more_epochs_and_ends_with_fewer() {
    let run = small(Packing::Documents, Some(1));
    let mut sampler = Sampler::new(&run.spec()).unwrap();
    (0..6).for_each(|_| assert!(run.step(&mut sampler).is_some()));
    assert_eq!(run.step(&mut sampler), None);
    let end = sampler.cursor(Seen::default());
    let longer = small(Packing::Documents, Some(2));
    let mut resumed = Sampler::resume(&longer.spec(), &end).unwrap();
    let mut epochs = BTreeMap::new();
    while let Some((_, sample)) = longer.step(&mut resumed) {
        *epochs.entry(sample.window.epoch).or_insert(0) += 1;
    }
    assert_eq!(epochs, BTreeMap::from([(1, 6)]));
    let late = resumed.cursor(Seen::default());
    assert_eq!(Sampler::resume(&run.spec(), &late).unwrap().step(), Next::End);
}

#[test]
fn other_weights_are_as_many_as_sources() {
    let run = small(Packing::Documents, None);
    let mut sampler = Sampler::new(&run.spec()).unwrap();
    assert_eq!(sampler.set_weights(&[1.0, 2.0]), Err(WeightError::Count { expected: 1, actual: 2 }));
    assert_eq!(sampler.set_weights(&[0.0]), Err(WeightError::Zero));
    let none = Arc::new(StreamSpec { sources: Vec::new(), unit: Unit::Tokens, budget: None });
    assert_eq!(Sampler::new(&none).unwrap_err(), WeightError::Zero);
}

#[test]
fn far_positions_are_refused_at_once() {
    let run = small(Packing::Documents, None);
    assert!(Sampler::seek(&run.spec(), u64::MAX).is_none());
    assert!(Sampler::seek(&run.spec(), 6 * MOST_SEEK_EPOCHS + 1).is_none());
    assert_eq!(Sampler::seek(&run.spec(), 6 * 100).unwrap().samples(), 600);
}
