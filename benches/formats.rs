//! What the formats cost on one core: hashing beside plain BLAKE3, headers, plans, boxes, manifests, codecs.
//!
//! Must never touch a disk while it measures: that is what `figures/` does.

use std::hint::black_box;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::manifest::Step;
use gigastore_formats::manifest::checkpoint::{
    Checkpoint, CheckpointMeta, CheckpointReader, CheckpointRow, Selection, read_checkpoint, write_checkpoint,
};
use gigastore_formats::object::Stored;
use gigastore_formats::order::{
    GroupTable, Long, Next, OrderSpec, Packing, Sampler, SourceOrder, SourceSpec, StreamSpec, Unit,
};
use gigastore_formats::pack::codec::{decode_group, encode_group};
use gigastore_formats::pack::{Coding, PackHeader, PackSlice, plan_packs};
use gigastore_formats::plan::{Area, PlanBox, PlanRequest, PlannedSlice, Planner};
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::tensor::boxes::{CopyPlan, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::header::SafetensorsHeader;
use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceKind, SliceRow};
use gigastore_formats::verified::{GroupTree, StreamHasher};
use gigastore_tests::model::{Size, safetensors, transformer};
use gigastore_tests::prepared;

const MIB: usize = 1 << 20;

/// Slices of a full pack.
const SLICES: u64 = 4096;

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn ids(count: u64) -> Vec<SliceId> {
    let id = |i| {
        let whole = TensorBox::whole(&[16, 64]).expect("a sound shape");
        SliceId::tensor(&format!("model.layers.{i:06}.weight"), Dtype::BF16, &[16, 64], whole).expect("a sound slice")
    };
    (0..count).map(id).collect()
}

/// The group tree must cost what plain BLAKE3 costs: both are here, over the same bytes.
fn hashing(c: &mut Criterion) {
    let content = random(16 * MIB);
    let mut group = c.benchmark_group("hash 16 MiB");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("limit: blake3::hash", |b| b.iter(|| blake3::hash(black_box(&content))));
    group.bench_function("group tree", |b| {
        b.iter(|| GroupTree::of(black_box(&content)));
    });
    let tree = GroupTree::of(&content);
    group.bench_function("check of a range", |b| b.iter(|| tree.check_range(0, black_box(&content))));
    group.finish();
}

fn packs(c: &mut Criterion) {
    let ids = ids(SLICES);
    let content = random(2048);
    let slices = || {
        let tree = GroupTree::of(&content);
        let slice = |id: &SliceId| PackSlice { slice: id.clone(), tree: tree.clone(), coding: Coding::Raw };
        ids.iter().map(slice).collect::<Vec<_>>()
    };
    let (header, bytes) = PackHeader::build(slices()).expect("a sound pack");
    let mut group = c.benchmark_group("pack of 4,096 slices");
    group.throughput(Throughput::Elements(SLICES));
    group.bench_function("plan", |b| b.iter(|| plan_packs(black_box(&ids), 64 << 20)));
    group.bench_function("parse and check the header", |b| b.iter(|| PackHeader::parse(header.name(), &bytes)));
    group.finish();
}

fn ranges(c: &mut Criterion) {
    let ranges: Vec<ByteRange> =
        (0..100_000).map(|i| ByteRange::new(i * 8192, i * 8192 + 4096).expect("start before end")).collect();
    let mut group = c.benchmark_group("ranges");
    group.throughput(Throughput::Elements(ranges.len() as u64));
    group.bench_function("coalesce 100,000", |b| b.iter(|| coalesce(black_box(&ranges), 4096, 8 << 20)));
    let saved = TensorBox::new(vec![0, 0], vec![4096, 8192]).expect("a sound box");
    let wanted = TensorBox::new(vec![0, 2048], vec![4096, 2048]).expect("a sound box");
    group.throughput(Throughput::Elements(4096));
    group.bench_function("4,096 runs of a column box", |b| {
        b.iter(|| {
            let plan = CopyPlan::new(Dtype::BF16, &saved, &wanted).expect("sound boxes").expect("they meet");
            (0..plan.runs()).map(|i| plan.run(i).len).sum::<u64>()
        });
    });
    group.finish();
}

/// Rows of a large checkpoint, their tensors, and the ranks that have one of each.
const ROWS: u64 = 1_000_000;
const TENSORS: u64 = 2000;
const RANKS: u64 = ROWS / TENSORS;

/// Most bytes that are read of a manifest of [`ROWS`] rows to find one tensor.
const MOST_READ: u64 = 16 << 20;

/// Box of a rank in every sharded tensor: 4 KiB of BF16.
const ROW_SHAPE: [u64; 2] = [2, 1024];

fn name(tensor: u64) -> String {
    format!("model.layers.{tensor:06}.weight")
}

/// Rows as `ranks` ranks save them, each with a pack of its own.
fn rows(tensors: u64, ranks: u64) -> Vec<CheckpointRow> {
    let shape = [ROW_SHAPE[0] * ranks, ROW_SHAPE[1]];
    let row = |i: u64| {
        let (tensor, rank) = (i / ranks, i % ranks);
        let area = TensorBox::new(vec![rank * ROW_SHAPE[0], 0], ROW_SHAPE.into()).expect("a sound box");
        let slice = SliceId::tensor(&name(tensor), Dtype::BF16, &shape, area).expect("a sound slice");
        let blake3 = Digest::of(&i.to_le_bytes());
        let pack = Stored { digest: Digest::of(&(i % RANKS).to_le_bytes()), epoch: 0 };
        let (header_len, stored_len) = (1 << 20, slice.bytes());
        let place = Place { pack, header_len, offset: header_len + tensor * stored_len, stored_len, codec: Codec::Raw };
        SliceRow { slice, blake3, place }
    };
    (0..tensors * ranks).map(row).collect()
}

fn meta() -> CheckpointMeta {
    let (run, metadata) = ("run".parse().expect("a sound name"), Default::default());
    CheckpointMeta { run, step: 1, world_size: RANKS as u32, parent: None, metadata, cursors: Default::default() }
}

fn manifests(c: &mut Criterion) {
    let rows = rows(100_000, 1);
    let meta = meta();
    let manifest = Bytes::from(write_checkpoint(&meta, &rows).expect("a sound manifest"));
    let mut group = c.benchmark_group("manifest of 100,000 slices");
    group.sample_size(10).throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("write", |b| b.iter(|| write_checkpoint(&meta, black_box(&rows))));
    group.bench_function("read", |b| b.iter(|| read_checkpoint(black_box(&manifest))));
    group.finish();
}

/// Reads the rows of one tensor, as a client without a service does; returns them, and the bytes that were read.
fn select(manifest: &Bytes, name: &str) -> (Checkpoint, u64) {
    let len = manifest.len() as u64;
    let mut reader = CheckpointReader::new(len, Selection::Names([name.to_owned()].into())).expect("a sound manifest");
    let mut read = 0;
    loop {
        let ranges = match reader.step().expect("a sound manifest") {
            Step::Done(found) => return (found, read),
            Step::Need(ranges) => ranges,
        };
        for range in ranges {
            let (start, end) =
                (range.start() / GROUP_BYTES * GROUP_BYTES, (range.end().div_ceil(GROUP_BYTES) * GROUP_BYTES).min(len));
            read += end - start;
            // What a client reads it checks.
            black_box(blake3::hash(&manifest[start as usize..end as usize]));
            let bytes = manifest.slice(range.start() as usize..range.end() as usize);
            reader.give(range, bytes).expect("it was asked for");
        }
    }
}

/// A million rows: of 2,000 tensors in 500 slices each, and of a million small tensors.
fn a_million_rows(c: &mut Criterion) {
    let rank = |tensor| {
        let area = Area { global_offsets: vec![RANKS / 2 * ROW_SHAPE[0], 0], sizes: ROW_SHAPE.into() };
        PlanBox { kind: SliceKind::Tensor, name: name(tensor), area: Some(area) }
    };
    let whole = |tensor| PlanBox { kind: SliceKind::Tensor, name: name(tensor), area: None };
    let one_rank = PlanRequest { boxes: (0..TENSORS).map(rank).collect() };
    let spread = PlanRequest { boxes: (0..TENSORS).map(|i| whole(i * RANKS)).collect() };
    let kinds = [("2,000 tensors of 500 ranks", TENSORS, RANKS, one_rank), ("1,000,000 tensors", ROWS, 1, spread)];
    for (kind, tensors, ranks, request) in kinds {
        let (kept_rows, kept_manifest, kept_planner) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let rows = || kept_rows.get_or_init(|| rows(tensors, ranks));
        let manifest = || {
            let write = || Bytes::from(write_checkpoint(&meta(), rows()).expect("a sound manifest"));
            kept_manifest.get_or_init(write)
        };
        let planner = || {
            let checkpoint = || Checkpoint { meta: meta(), content: Digest::of(b"content"), rows: rows().clone() };
            kept_planner.get_or_init(|| Planner::new(checkpoint()))
        };
        let mut group = c.benchmark_group(format!("a million rows, {kind}"));
        group.sample_size(10).throughput(Throughput::Elements(ranks));
        group.bench_function("one tensor, selected in the manifest", |b| {
            let (manifest, name) = (manifest(), name(tensors / 2));
            let (found, read) = select(manifest, &name);
            eprintln!("{read} of {} bytes are read for {} rows", manifest.len(), found.rows.len());
            assert!(found.rows.len() as u64 == ranks && read <= MOST_READ);
            b.iter(|| select(manifest, &name));
        });
        group.throughput(Throughput::Elements(request.boxes.len() as u64));
        group.bench_function("2,000 boxes, planned", |b| {
            let planner = planner();
            b.iter(|| planner.plan(black_box(&request)).expect("sound boxes"));
        });
        group.bench_function("2,000 boxes, the question as JSON and back", |b| {
            b.iter(|| serde_json::from_slice::<PlanRequest>(&serde_json::to_vec(&request).expect("it has a form")));
        });
        group.bench_function("2,000 boxes, the answer as JSON and back", |b| {
            let planned = planner().plan(&request).expect("sound boxes");
            eprintln!("the answer has {} bytes", serde_json::to_vec(&planned).expect("it has a form").len());
            b.iter(|| {
                let answer = serde_json::to_vec(black_box(&planned)).expect("it has a form");
                let slices: Vec<PlannedSlice> = serde_json::from_slice(&answer).expect("it was written here");
                slices.into_iter().map(PlannedSlice::row).collect::<Result<Vec<_>, _>>()
            });
        });
        group.finish();
    }
}

fn headers(c: &mut Criterion) {
    let file = safetensors(&transformer(1, Size { layers: 50, width: 2, vocabulary: 2 }), &[("format", "pt")]);
    let len = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize + 8;
    let mut group = c.benchmark_group("safetensors header of 507 tensors");
    group.throughput(Throughput::Bytes(len as u64));
    group.bench_function("parse", |b| b.iter(|| SafetensorsHeader::parse(black_box(&file[..len]), 1 << 20)));
    group.finish();
}

/// Groups of real weights: F32, and BF16 by truncation. `None` where they were not prepared.
fn weights() -> Option<[(Dtype, Vec<u8>); 2]> {
    let folder = match prepared::model() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("codecs are measured on made weights alone: {error}");
            return None;
        }
    };
    let file = std::fs::read(folder.join("model.safetensors")).expect("the prepared model can be read");
    // The middle of the file is in the middle of its layers.
    let start = file.len() / 2 / 4 * 4;
    let singles = file[start..start + 16 * MIB].to_vec();
    let halves = singles.as_chunks::<4>().0.iter().flat_map(|single| [single[2], single[3]]).collect();
    Some([(Dtype::BF16, halves), (Dtype::F32, singles)])
}

/// Every codec that was ever thought of stands here beside the one that is used.
fn codec(c: &mut Criterion) {
    // Like trained weights: an exponent of few values beside a mantissa of noise.
    let made: Vec<u8> = random(8 * MIB).chunks(2).flat_map(|pair| [pair[0], 0x3c | (pair[1] & 3)]).collect();
    let real = weights().into_iter().flatten().map(|(dtype, content)| (format!("real {dtype}"), dtype, content));
    for (what, dtype, content) in std::iter::once(("made BF16".to_owned(), Dtype::BF16, made)).chain(real) {
        let groups: Vec<&[u8]> = content.chunks(GROUP_BYTES as usize).collect();
        let mut bench = c.benchmark_group(format!("codec, {what}"));
        bench.throughput(Throughput::Bytes(content.len() as u64));
        let frames: Vec<Vec<u8>> = groups.iter().map(|group| encode_group(dtype, group)).collect();
        eprintln!("{:.2} % are left", percent(&frames, &content));
        bench.bench_function("limit: blake3::hash", |b| {
            b.iter(|| groups.iter().map(|group| blake3::hash(group)).for_each(|hash| _ = black_box(hash)));
        });
        bench.bench_function("encode", |b| {
            b.iter(|| groups.iter().for_each(|group| drop(black_box(encode_group(dtype, group)))));
        });
        bench.bench_function("encode and hash what is stored", |b| {
            b.iter(|| {
                let mut hasher = StreamHasher::default();
                groups.iter().for_each(|group| hasher.update(&encode_group(dtype, group)));
                hasher.finish()
            });
        });
        bench.bench_function("decode", |b| {
            b.iter(|| {
                for (frame, group) in frames.iter().zip(&groups) {
                    black_box(decode_group(frame, dtype, group.len() as u64)).expect("it was encoded here");
                }
            });
        });
        let width = (dtype.bits() / 8) as usize;
        let planes: Vec<Vec<u8>> = groups.iter().map(|group| split(width, group)).collect();
        for level in [1, -1] {
            let compress = |planes: &Vec<u8>| zstd::bulk::compress(planes, level).expect("it has room");
            let frames: Vec<Vec<u8>> = planes.iter().map(compress).collect();
            eprintln!("zstd level {level} over all planes: {:.2} % are left", percent(&frames, &content));
            bench.bench_function(format!("other: zstd level {level} over all planes, without the split"), |b| {
                b.iter(|| planes.iter().for_each(|planes| drop(black_box(compress(planes)))));
            });
        }
        bench.finish();
    }
}

/// Row groups of the dataset that is put in order: 16 TB of tokens in row groups of 16 MiB.
const GROUPS: usize = 1_000_000;

/// The row groups of a dataset, 100 a file, no two neighbours alike.
fn groups(count: usize) -> (Vec<(String, usize)>, Vec<u64>, Vec<u64>) {
    let files = (0..count.div_ceil(100)).map(|i| (format!("texts/part-{i:06}.parquet"), (count - i * 100).min(100)));
    let rows = (0..count as u64).map(|i| 7_000 + i * 7_919 % 2_000).collect();
    let tokens = (0..count as u64).map(|i| 8_000_000 + i * 104_729 % 400_000).collect();
    (files.collect(), rows, tokens)
}

fn ordered(count: usize, lanes: u32, packing: Packing) -> Arc<SourceOrder> {
    let (files, rows, tokens) = groups(count);
    let files = files.iter().map(|(path, groups)| (path.as_str(), *groups));
    let table = GroupTable::new(files, rows, tokens).expect("a sound table");
    SourceOrder::new(table, OrderSpec { seed: Some(7), lanes, window: 4, packing }).expect("a sound specification")
}

/// What a stream costs before it has its first sample, and what each step costs.
fn order(c: &mut Criterion) {
    let mut group = c.benchmark_group("order of 1,000,000 row groups, 64 lanes");
    group.sample_size(10).throughput(Throughput::Elements(GROUPS as u64));
    let (files, rows, tokens) = groups(GROUPS);
    group.bench_function("table with its id", |b| {
        let files = || files.iter().map(|(path, groups)| (path.as_str(), *groups));
        b.iter(|| GroupTable::new(files(), rows.clone(), tokens.clone()).expect("a sound table"));
    });
    let first_fit = Packing::FirstFit { seq_len: 2048, long: Long::Split };
    for (name, packing) in [("concatenated", Packing::Concat { seq_len: 2048 }), ("first fit", first_fit)] {
        let order = ordered(GROUPS, 64, packing);
        let mut epoch = 0;
        group.bench_function(format!("one epoch, {name}"), |b| {
            b.iter(|| {
                epoch += 1;
                order.epoch(epoch)
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("order, one sample after the other");
    group.throughput(Throughput::Elements(1));
    for lanes in [64, 1024] {
        let order = ordered(4 * lanes as usize, lanes, Packing::Concat { seq_len: 2048 });
        let source = SourceSpec { dataset: "texts".into(), order, weight: 1.0, epochs: None };
        let spec = Arc::new(StreamSpec { sources: vec![source], unit: Unit::Tokens, budget: None });
        let mut sampler = Sampler::new(&spec).expect("a sound weight");
        group.bench_function(format!("{lanes} lanes, whole epochs"), |b| {
            b.iter(|| assert!(matches!(sampler.step(), Next::Sample(..))));
        });
    }
    group.finish();
}

fn percent(frames: &[Vec<u8>], content: &[u8]) -> f64 {
    frames.iter().map(Vec::len).sum::<usize>() as f64 / content.len() as f64 * 100.0
}

fn split(width: usize, group: &[u8]) -> Vec<u8> {
    (0..width).flat_map(|plane| group.iter().skip(plane).step_by(width).copied()).collect()
}

criterion_group!(benches, hashing, packs, headers, ranges, manifests, a_million_rows, order, codec);
criterion_main!(benches);
