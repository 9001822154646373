//! Any save sharding and any restore sharding: what comes back is what was saved.

use std::sync::Arc;

use gigastore_client::checkpoint::{Compression, Slice, Wanted};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_tests::model::Tensor;
use proptest::prelude::*;

use crate::world::{check, cut, fresh, save_all, slice, spec, tensor, whole};

/// A tensor and how it is cut, on the way in and on the way out.
#[derive(Clone, Debug)]
struct Cut {
    dtype: Dtype,
    shape: Vec<u64>,
    /// For each dimension, where it is cut, as shares of 256.
    saved: Vec<Vec<u8>>,
    wanted: Vec<Vec<u8>>,
    /// Every rank holds all boxes.
    replicated: bool,
}

/// A box that is asked for, where it goes, and what must arrive.
type Asked = (Wanted, Arc<BufferSink<Vec<u8>>>, Vec<u8>);

/// Elements that make whole bytes of every type.
const ALIGNED: u64 = 4;

fn cuts() -> impl Strategy<Value = Cut> {
    let dtype = prop::sample::select(Dtype::ALL);
    let dims = prop::collection::vec(
        (0..9u64, prop::collection::vec(any::<u8>(), 0..3), prop::collection::vec(any::<u8>(), 0..3)),
        0..4,
    );
    (dtype, dims, prop::bool::weighted(0.2)).prop_map(|(dtype, dims, replicated)| {
        let mut cut = Cut { dtype, shape: Vec::new(), saved: Vec::new(), wanted: Vec::new(), replicated };
        for (size, saved, wanted) in dims {
            cut.shape.push(size);
            cut.saved.push(saved);
            cut.wanted.push(wanted);
        }
        // Sub-byte elements are cut only where they make whole bytes: the innermost dimension is a multiple.
        if dtype.bits() < 8 {
            match cut.shape.last_mut() {
                Some(last) => *last *= ALIGNED,
                None => cut.dtype = Dtype::U8,
            }
        }
        cut
    })
}

/// The grid of boxes between the cuts.
fn grid(cut: &Cut, cuts: &[Vec<u8>]) -> Vec<TensorBox> {
    let mut boxes = vec![(Vec::new(), Vec::new())];
    for (d, size) in cut.shape.iter().enumerate() {
        let unit = if cut.dtype.bits() < 8 && d + 1 == cut.shape.len() { ALIGNED } else { 1 };
        let mut borders: Vec<u64> = cuts[d].iter().map(|share| size / unit * u64::from(*share) / 256 * unit).collect();
        borders.extend([0, *size]);
        borders.sort_unstable();
        borders.dedup();
        let sides: Vec<(u64, u64)> = match borders[..] {
            [only] => vec![(only, 0)],
            _ => borders.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect(),
        };
        let with = |(offsets, sizes): &(Vec<u64>, Vec<u64>), (offset, size): (u64, u64)| {
            ([&offsets[..], &[offset]].concat(), [&sizes[..], &[size]].concat())
        };
        boxes = boxes.iter().flat_map(|one| sides.iter().map(move |side| with(one, *side))).collect();
    }
    boxes.into_iter().map(|(offsets, sizes)| TensorBox::new(offsets, sizes).unwrap()).collect()
}

/// Deals the boxes of all tensors over the ranks.
fn deal(tensors: &[(Tensor, Cut)], ranks: u32) -> Vec<Vec<Slice>> {
    let everyone: Vec<u32> = (0..ranks).collect();
    let mut dealt = vec![Vec::new(); ranks as usize];
    let mut next = 0;
    for (tensor, cut) in tensors {
        for area in grid(cut, &cut.saved) {
            if cut.replicated {
                for rank in &everyone {
                    dealt[*rank as usize].push(slice(tensor, area.clone(), &everyone));
                }
            } else {
                dealt[next % ranks as usize].push(slice(tensor, area, &[]));
                next += 1;
            }
        }
    }
    dealt
}

async fn round_trip(cuts: Vec<Cut>, saving: u32, restoring: u32, compress: Compression, pack_bytes: u64) {
    let named = cuts.into_iter().enumerate().map(|(i, cut)| (tensor(&format!("t{i}"), cut.dtype, &cut.shape), cut));
    let tensors: Vec<(Tensor, Cut)> = named.collect();
    let store = fresh().await;
    let mut how = spec(1, saving);
    (how.compress, how.pack_bytes) = (compress, pack_bytes);
    save_all(&store, how, deal(&tensors, saving)).await.unwrap();
    let all: Vec<Tensor> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    check(&store, "p/run@1", &all).await;

    let checkpoint = store.checkpoint(&"p/run@latest".parse().unwrap()).await.unwrap();
    let mut wanted: Vec<Vec<Asked>> = Vec::new();
    wanted.resize_with(restoring as usize, Vec::new);
    for (tensor, how) in &tensors {
        for (i, area) in grid(how, &how.wanted).into_iter().enumerate() {
            let expected = cut(tensor, &area);
            // Filled with what is not expected, so that a byte that was not written shows.
            let sink = BufferSink::new(expected.iter().map(|byte| !byte).collect::<Vec<u8>>());
            let (kind, name) = (SliceKind::Tensor, tensor.name.clone());
            let one = Wanted { kind, name, area: Some(area), sink: Arc::<BufferSink<_>>::clone(&sink) };
            wanted[i % restoring as usize].push((one, sink, expected));
        }
    }
    for rank in wanted {
        let boxes = rank.iter().map(|(wanted, ..)| wanted.clone()).collect();
        checkpoint.read(boxes, &Progress::default()).await.unwrap();
        for (wanted, sink, expected) in rank {
            let what = format!("{} {:?}", wanted.name, wanted.area);
            drop(wanted);
            assert_eq!(sink.into_inner().unwrap(), expected, "{what}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn any_save_sharding_and_any_restore_sharding(
        cuts in prop::collection::vec(cuts(), 1..8),
        saving in 1..6u32,
        restoring in 1..6u32,
        compress in prop::sample::select(vec![Compression::Off, Compression::Auto, Compression::Always]),
        pack_bytes in prop::sample::select(vec![1u64, 300, 64 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round_trip(cuts, saving, restoring, compress, pack_bytes));
    }
}

#[tokio::test]
async fn every_element_type_comes_back_raw_and_compressed() {
    // Two groups and a bit of compressible bytes, and a scalar where the type allows one.
    for compress in [Compression::Off, Compression::Auto, Compression::Always] {
        let mut tensors = Vec::new();
        for dtype in Dtype::ALL {
            let mut large = tensor(&format!("{dtype}.large"), *dtype, &[2056, 4096 / dtype.bits()]);
            large.data = large.data.iter().map(|byte| byte & 3).collect::<Vec<u8>>().into();
            tensors.push(large);
            let scalar: &[u64] = if dtype.bits() < 8 { &[8] } else { &[] };
            tensors.push(tensor(&format!("{dtype}.small"), *dtype, scalar));
        }
        let store = fresh().await;
        let mut how = spec(1, 1);
        how.compress = compress;
        save_all(&store, how, vec![tensors.iter().map(whole).collect()]).await.unwrap();
        check(&store, "p/run@1", &tensors).await;
    }
}
