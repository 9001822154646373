//! What the formats cost on one core: hashing beside plain BLAKE3, headers, plans, boxes, manifests, codecs.
//!
//! Must never touch a disk: that is what `transfer.rs` measures.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::{CheckpointMeta, read_checkpoint, write_checkpoint};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::codec::{decode_group, encode_group};
use gigastore_formats::pack::{Coding, PackHeader, PackSlice, plan_packs};
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::tensor::boxes::{CopyPlan, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};
use gigastore_formats::verified::{GroupSize, GroupTree};

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
    group.bench_function("group tree, 1 MiB groups", |b| {
        b.iter(|| GroupTree::of(GroupSize::Tensor, black_box(&content)));
    });
    let tree = GroupTree::of(GroupSize::Tensor, &content);
    group.bench_function("check of a range", |b| b.iter(|| tree.check_range(0, black_box(&content))));
    group.finish();
}

fn packs(c: &mut Criterion) {
    let ids = ids(SLICES);
    let content = random(2048);
    let slices = || {
        let tree = GroupTree::of(GroupSize::Tensor, &content);
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
    c.bench_function("coalesce 100,000 ranges", |b| b.iter(|| coalesce(black_box(&ranges), 4096, 8 << 20)));
    let saved = TensorBox::new(vec![0, 0], vec![4096, 8192]).expect("a sound box");
    let wanted = TensorBox::new(vec![0, 2048], vec![4096, 2048]).expect("a sound box");
    c.bench_function("4,096 runs of a column box", |b| {
        b.iter(|| {
            let plan = CopyPlan::new(Dtype::BF16, &saved, &wanted).expect("sound boxes").expect("they meet");
            (0..plan.runs()).map(|i| plan.run(i).len).sum::<u64>()
        });
    });
}

fn manifests(c: &mut Criterion) {
    let rows: Vec<SliceRow<Place<Stored>>> = ids(100_000)
        .into_iter()
        .enumerate()
        .map(|(i, slice)| {
            let blake3 = Digest::of(&i.to_le_bytes());
            let pack = Stored { digest: blake3, epoch: 0 };
            let place = Place { pack, header_len: 4096, offset: 4096, stored_len: slice.bytes(), codec: Codec::Raw };
            SliceRow { slice, blake3, place }
        })
        .collect();
    let meta = CheckpointMeta {
        run: "run".parse().expect("a sound name"),
        step: 1,
        world_size: 8,
        parent: None,
        metadata: Default::default(),
    };
    let manifest = Bytes::from(write_checkpoint(&meta, &rows).expect("a sound manifest"));
    let mut group = c.benchmark_group("manifest of 100,000 slices");
    group.sample_size(10).throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("write", |b| b.iter(|| write_checkpoint(&meta, black_box(&rows))));
    group.bench_function("read", |b| b.iter(|| read_checkpoint(black_box(&manifest))));
    group.finish();
}

fn codec(c: &mut Criterion) {
    // Like trained weights: an exponent of few values beside a mantissa of noise.
    let group: Vec<u8> = random(MIB).chunks(2).flat_map(|pair| [pair[0], 0x3c | (pair[1] & 3)]).collect();
    let frame = encode_group(Dtype::BF16, &group);
    let mut bench = c.benchmark_group("codec, 1 MiB of bf16");
    bench.throughput(Throughput::Bytes(group.len() as u64));
    bench.bench_function("encode", |b| b.iter(|| encode_group(Dtype::BF16, black_box(&group))));
    bench.bench_function("decode", |b| b.iter(|| decode_group(black_box(&frame), Dtype::BF16, group.len() as u64)));
    bench.finish();
}

criterion_group!(benches, hashing, packs, ranges, manifests, codec);
criterion_main!(benches);
