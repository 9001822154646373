//! A restore reads the groups it needs, each once, and says clearly what it can't give.

use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::checkpoint::Wanted;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::{FaultyStore, Op};

use crate::world::{counted, cut, fresh, save_all, spec, tensor, whole};

const MIB: u64 = 1 << 20;

/// Bytes of packs that were read since the log had `before` operations, and whether any byte was read twice.
fn pack_reads(below: &FaultyStore, before: usize) -> (u64, bool) {
    let log = below.log();
    let reads = log[before..].iter().filter(|read| read.op == Op::Get && read.path.contains("/packs/"));
    let mut spans: Vec<(&str, u64, u64)> = reads
        .filter_map(|read| read.range.as_ref().map(|range| (read.path.as_str(), range.start, range.end)))
        .collect();
    spans.sort_unstable();
    let twice = spans.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[1].1 < pair[0].2);
    (spans.iter().map(|(_, start, end)| end - start).sum(), twice)
}

fn sink(len: usize) -> Arc<BufferSink<Vec<u8>>> {
    BufferSink::new(vec![0; len])
}

fn wanted(name: &str, area: Option<TensorBox>, sink: &Arc<BufferSink<Vec<u8>>>) -> Wanted {
    Wanted { kind: SliceKind::Tensor, name: name.to_owned(), area, sink: Arc::<BufferSink<_>>::clone(sink) }
}

#[tokio::test]
async fn a_box_costs_the_groups_it_touches() {
    let (store, below) = counted().await;
    let large = tensor("large", Dtype::F32, &[4096, 1024]);
    let small = tensor("small", Dtype::F32, &[16]);
    save_all(&store, spec(1, 1), vec![vec![whole(&large), whole(&small)]]).await.unwrap();
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();

    let before = below.log().len();
    assert_eq!(checkpoint.read_whole(SliceKind::Tensor, "small").await.unwrap(), small.data);
    let (bytes, _) = pack_reads(&below, before);
    assert!(bytes < 16 << 10, "{bytes} bytes for a tensor of 64");

    // Rows 300..310 lie in the fifth group of 256 KiB (64 rows each).
    let area = TensorBox::new(vec![300, 0], vec![10, 1024]).unwrap();
    let (before, into) = (below.log().len(), sink(10 * 4096));
    checkpoint.read(vec![wanted("large", Some(area.clone()), &into)], &Progress::default()).await.unwrap();
    assert_eq!(into.into_inner().unwrap(), cut(&large, &area));
    let (bytes, _) = pack_reads(&below, before);
    let group = 256 << 10;
    assert!((group..group + (64 << 10)).contains(&bytes), "{bytes} bytes for ten rows of one group");
}

#[tokio::test]
async fn each_byte_is_fetched_once_however_many_boxes_need_it() {
    let (store, below) = counted().await;
    let tensors: Vec<_> = (0..6).map(|i| tensor(&format!("t{i}"), Dtype::BF16, &[1024, 1024])).collect();
    save_all(&store, spec(1, 1), vec![tensors.iter().map(whole).collect()]).await.unwrap();
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    let before = below.log().len();
    let (mut all, mut sinks) = (Vec::new(), Vec::new());
    for tensor in &tensors {
        for columns in [(0, 300), (200, 600), (500, 1024), (0, 1024)] {
            let area = TensorBox::new(vec![0, columns.0], vec![1024, columns.1 - columns.0]).unwrap();
            let into = sink(area.bytes(tensor.dtype).unwrap() as usize);
            all.push(wanted(&tensor.name, Some(area.clone()), &into));
            sinks.push((tensor, area, into));
        }
    }
    checkpoint.read(all, &Progress::default()).await.unwrap();
    for (tensor, area, into) in sinks {
        assert_eq!(into.into_inner().unwrap(), cut(tensor, &area), "{} {area}", tensor.name);
    }
    let (bytes, twice) = pack_reads(&below, before);
    assert!(!twice, "a byte was fetched twice");
    assert!(bytes < 6 * 2 * MIB + (256 << 10), "{bytes} bytes of 12 MiB");
}

#[tokio::test]
async fn one_tensor_of_many_does_not_read_the_whole_manifest() {
    let (store, below) = counted().await;
    let tensors: Vec<_> = (0..40_000).map(|i| tensor(&format!("layer.{i:05}.bias"), Dtype::U8, &[16])).collect();
    save_all(&store, spec(1, 1), vec![tensors.iter().map(whole).collect()]).await.unwrap();
    let manifest = store.resolve(&"p/run@1".parse().unwrap()).await.unwrap().commit.manifest.len;
    let before = below.log().len();
    let selection = ["layer.17321.bias".to_owned()].into_iter().collect();
    let selection = gigastore_formats::manifest::checkpoint::Selection::Names(selection);
    let checkpoint = store.checkpoint_of(&"p/run@1".parse().unwrap(), selection).await.unwrap();
    assert_eq!(checkpoint.read_whole(SliceKind::Tensor, "layer.17321.bias").await.unwrap(), tensors[17_321].data);
    let log = below.log();
    let reads = log[before..].iter().filter(|read| read.op == Op::Get && read.path.contains("/manifests/"));
    let bytes: u64 = reads.map(|read| read.bytes).sum();
    // The footer and one row group lie in two groups of 256 KiB each at most; one more may be read as a gap.
    assert!(bytes <= 5 * (256 << 10) && bytes < manifest, "{bytes} of the manifest's {manifest} bytes");
}

#[tokio::test]
async fn what_cannot_be_given_is_said_before_a_byte_is_read() {
    let store = fresh().await;
    let weights = tensor("layer.weight", Dtype::F32, &[8, 4]);
    save_all(&store, spec(1, 1), vec![vec![whole(&weights)]]).await.unwrap();
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    let outside = TensorBox::new(vec![6, 0], vec![4, 4]).unwrap();
    let flat = TensorBox::new(vec![0], vec![8]).unwrap();
    let cases = [
        (wanted("layer.wieght", None, &sink(128)), FaultCode::NotFound, "layer.wieght"),
        (wanted("layer.weight", None, &sink(127)), FaultCode::Invalid, "127 bytes, expected 128"),
        (wanted("layer.weight", Some(outside), &sink(64)), FaultCode::Invalid, "layer.weight"),
        (wanted("layer.weight", Some(flat), &sink(32)), FaultCode::Invalid, "layer.weight"),
    ];
    for (one, code, part) in cases {
        let error = checkpoint.read(vec![one], &Progress::default()).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
        if code == FaultCode::NotFound {
            assert_eq!(error.known(), ["layer.weight"]);
        }
    }
}
