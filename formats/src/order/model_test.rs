//! The specification of the order once more, word for word, in plain vectors and without a thought of speed; and the
//! random datasets that both are tried on.
//!
//! Must never call what it is compared with: keys, draws, dealing, windows and packing are written anew.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// The documents' lengths of a row group.
pub(super) type Group = Vec<u32>;

/// A dataset: files with their row groups.
#[derive(Clone, Debug)]
pub(super) struct Files(pub(super) Vec<(String, Vec<Group>)>);

/// A sample, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ModelSample {
    pub(super) epoch: u64,
    pub(super) lane: u32,
    pub(super) window: u32,
    pub(super) item: u32,
    pub(super) groups: Vec<u32>,
    pub(super) segments: Vec<Segment>,
}

impl Files {
    pub(super) fn groups(&self) -> Vec<&Group> {
        self.0.iter().flat_map(|(_, groups)| groups).collect()
    }

    pub(super) fn table(&self) -> GroupTable {
        let files = self.0.iter().map(|(path, groups)| (path.as_str(), groups.len()));
        let rows = self.groups().iter().map(|group| group.len() as u64).collect();
        let tokens = self.groups().iter().map(|group| total(group)).collect();
        GroupTable::new(files, rows, tokens).unwrap()
    }

    pub(super) fn order(&self, spec: &OrderSpec) -> Arc<SourceOrder> {
        SourceOrder::new(self.table(), spec.clone()).unwrap()
    }

    /// The lengths of all documents of some row groups.
    pub(super) fn lengths(&self, groups: &[u32]) -> Vec<u32> {
        let all = self.groups();
        groups.iter().flat_map(|group| all[*group as usize].clone()).collect()
    }

    fn id(&self) -> [u8; 32] {
        let mut material = Vec::new();
        for (path, groups) in &self.0 {
            material.extend((path.len() as u32).to_le_bytes());
            material.extend(path.as_bytes());
            material.extend((groups.len() as u64).to_le_bytes());
            for group in groups {
                material.extend((group.len() as u64).to_le_bytes());
                material.extend(total(group).to_le_bytes());
            }
        }
        blake3::derive_key("gigastore 2026-11 dataset order id, algorithm 1", &material)
    }

    /// The samples of an epoch as the specification says.
    pub(super) fn epoch(&self, spec: &OrderSpec, epoch: u64) -> Vec<ModelSample> {
        let all = self.groups();
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        if let Some(seed) = spec.seed {
            order = permutation(&self.id(), [seed, epoch, 1, 0, 0], order.len());
        }
        order.retain(|group| !all[*group as usize].is_empty());
        let mut dealt = vec![Vec::new(); spec.lanes as usize];
        let mut loads = vec![0; spec.lanes as usize];
        for group in order {
            let least = *loads.iter().min().unwrap();
            let lane = loads.iter().position(|load| *load == least).unwrap();
            loads[lane] += all[group as usize].len() as u64 + total(all[group as usize]);
            dealt[lane].push(group);
        }
        let mut lanes = Vec::new();
        for (number, groups) in dealt.iter().enumerate() {
            let (mut windows, mut first) = (Vec::new(), number % spec.window as usize + 1);
            let mut rest = groups.as_slice();
            while !rest.is_empty() {
                let (window, others) = rest.split_at(first.min(rest.len()));
                windows.push(window.to_vec());
                (rest, first) = (others, spec.window as usize);
            }
            let mut samples = Vec::new();
            for (window, groups) in windows.into_iter().enumerate() {
                let lengths = self.lengths(&groups);
                let mut documents: Vec<u32> = (0..lengths.len() as u32).collect();
                if let Some(seed) = spec.seed {
                    documents =
                        permutation(&self.id(), [seed, epoch, 2, number as u64, window as u64], documents.len());
                }
                for (item, segments) in pack(spec.packing, &documents, &lengths).into_iter().enumerate() {
                    let (window, item, groups) = (window as u32, item as u32, groups.clone());
                    samples.push(ModelSample { epoch, lane: 0, window, item, groups, segments });
                }
            }
            let tokens: u64 = groups.iter().map(|group| total(all[*group as usize])).sum();
            let known = !matches!(spec.packing, Packing::FirstFit { .. });
            lanes.push((if known { samples.len() as u64 } else { tokens }, samples));
        }
        // Stable: equals stay in the order of dealing.
        lanes.sort_by_key(|(most, _)| u64::MAX - most);
        let rounds = lanes.iter().map(|(_, samples)| samples.len()).max().unwrap();
        let mut stream = Vec::new();
        for round in 0..rounds {
            for (lane, (_, samples)) in lanes.iter().enumerate() {
                if let Some(sample) = samples.get(round) {
                    stream.push(ModelSample { lane: lane as u32, ..sample.clone() });
                }
            }
        }
        stream
    }
}

/// The samples of a window.
pub(super) fn pack(packing: Packing, order: &[u32], lengths: &[u32]) -> Vec<Vec<Segment>> {
    let all = order.iter().map(|document| Segment { document: *document, start: 0, len: lengths[*document as usize] });
    match packing {
        Packing::Documents => all.map(|document| vec![document]).collect(),
        Packing::Concat { seq_len } => {
            let tokens: Vec<(u32, u32)> =
                all.flat_map(|it| (0..it.len).map(move |token| (it.document, token))).collect();
            tokens.chunks(seq_len as usize).map(runs).collect()
        }
        Packing::FirstFit { seq_len, long } => {
            let mut samples: Vec<Vec<Segment>> = Vec::new();
            for document in all {
                let len = if long == Long::Truncate { document.len.min(seq_len) } else { document.len };
                for start in (0..len).step_by(seq_len as usize) {
                    let piece = Segment { start, len: seq_len.min(len - start), ..document };
                    let room = |sample: &&mut Vec<Segment>| {
                        sample.iter().map(|segment| segment.len).sum::<u32>() + piece.len <= seq_len
                    };
                    match samples.iter_mut().find(room) {
                        Some(sample) => sample.push(piece),
                        None => samples.push(vec![piece]),
                    }
                }
            }
            samples
        }
    }
}

/// Tokens one after the other, as pieces of documents.
fn runs(tokens: &[(u32, u32)]) -> Vec<Segment> {
    let mut runs: Vec<Segment> = Vec::new();
    for (document, token) in tokens {
        match runs.last_mut() {
            Some(run) if run.document == *document => run.len += 1,
            _ => runs.push(Segment { document: *document, start: *token, len: 1 }),
        }
    }
    runs
}

fn permutation(id: &[u8; 32], numbers: [u64; 5], n: usize) -> Vec<u32> {
    let mut hasher = blake3::Hasher::new_derive_key("gigastore 2026-11 dataset order, algorithm 1");
    hasher.update(id);
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    let mut output = hasher.finalize_xof();
    let mut below = |n: u128| {
        loop {
            let mut draw = [0; 8];
            output.fill(&mut draw);
            let product = u128::from(u64::from_le_bytes(draw)) * n;
            if product % (1 << 64) >= ((1 << 64) - n) % n {
                return (product >> 64) as usize;
            }
        }
    };
    let mut places: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        places.swap(i, below(i as u128 + 1));
    }
    places
}

fn total(lengths: &[u32]) -> u64 {
    lengths.iter().map(|len| u64::from(*len)).sum()
}

/// Datasets of 1 to 9 files and up to `groups` row groups: uneven ones, tiny, empty, of empty documents, and a few with
/// a document that is much longer than the others.
pub(super) fn files(groups: usize) -> impl Strategy<Value = Files> {
    let group = prop_oneof![
        4 => prop::collection::vec(0u32..12, 0..8),
        1 => Just(Vec::new()),
        1 => prop::collection::vec(Just(0u32), 1..4),
        1 => prop::collection::vec(1u32..4, 1..2),
        1 => prop::collection::vec(0u32..90, 1..3),
    ];
    (prop::collection::vec(group, 0..=groups), prop::collection::vec(any::<Index>(), 0..9)).prop_map(
        |(groups, cuts)| {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(groups.len() + 1)).collect();
            ends.extend([0, groups.len()]);
            ends.sort_unstable();
            let file = |(i, ends): (usize, &[usize])| (format!("part-{i}.parquet"), groups[ends[0]..ends[1]].to_vec());
            Files(ends.windows(2).enumerate().map(file).collect())
        },
    )
}

/// Packings of sequences from 1 token to more than most documents have.
pub(super) fn packing() -> impl Strategy<Value = Packing> {
    (0..4, 1u32..40).prop_map(|(mode, seq_len)| match mode {
        0 => Packing::Documents,
        1 => Packing::Concat { seq_len },
        2 => Packing::FirstFit { seq_len, long: Long::Split },
        _ => Packing::FirstFit { seq_len, long: Long::Truncate },
    })
}

/// Specifications with 1 to 17 lanes and windows of 1 to 5 row groups.
pub(super) fn spec() -> impl Strategy<Value = OrderSpec> {
    (prop::option::weighted(0.9, any::<u64>()), 1u32..=17, 1u32..=5, packing()).prop_map(
        |(seed, lanes, window, packing)| OrderSpec { seed, lanes: seed.map_or(1, |_| lanes), window, packing },
    )
}
