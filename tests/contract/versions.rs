//! Packs of version 1, which are not written any more: read, refused where they are damaged, put right, and referred to
//! by new saves like others.

use bytes::Bytes;
use gigastore_client::checkpoint::{Compression, Wanted};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_engine::{Engine, PackBody};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::{GROUP_BYTES, PACK_1_GROUP_BYTES};
use gigastore_formats::manifest::part::{PartMeta, PartRow, write_part};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::codec::encode_group;
use gigastore_formats::pack::{Coding, PackHeader, PackSlice, PackVersion};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{Place, SliceId, SliceKind, SliceRow};
use gigastore_formats::verified::StreamHasher;
use gigastore_formats::wire::{Depth, FinishRequest, SaveRequest};
use gigastore_tests::model::{Size, Tensor, transformer};

use crate::scrub::{Desk, header_len, project};

/// Tensors of many groups, of one group of version 1 that is several now, and of less than one.
fn tensors() -> Vec<Tensor> {
    let mut tensors = transformer(3, Size::SMALL);
    let between =
        tensors.iter().filter(|tensor| (GROUP_BYTES..PACK_1_GROUP_BYTES).contains(&(tensor.data.len() as u64)));
    assert!(between.count() > 0 && tensors.iter().any(|tensor| tensor.data.len() as u64 > PACK_1_GROUP_BYTES));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Returns a slice as packs of version 1 have it, and its stored bytes.
fn old_slice(tensor: &Tensor, compress: Compression) -> (PackSlice, Bytes) {
    let area = TensorBox::whole(&tensor.shape).unwrap();
    let slice = SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area).unwrap();
    let mut hasher = StreamHasher::in_groups(PACK_1_GROUP_BYTES);
    hasher.update(&tensor.data);
    let tree = hasher.finish();
    if compress == Compression::Off || tensor.data.is_empty() {
        return (PackSlice { slice, tree, coding: Coding::Raw }, tensor.data.clone());
    }
    let groups = tensor.data.chunks(PACK_1_GROUP_BYTES as usize);
    let frames: Vec<Vec<u8>> = groups.map(|group| encode_group(tensor.dtype, group)).collect();
    let (stored, lens) = (frames.concat(), frames.iter().map(|frame| frame.len() as u64).collect());
    let coding = Coding::ZstdPlanes { stored: Digest::of(&stored), frames: lens };
    (PackSlice { slice, tree, coding }, stored.into())
}

/// Commits `a@1` with all tensors in one pack of version 1, as clients did.
async fn save_old(engine: &Engine, tensors: &[Tensor], compress: Compression) {
    let (run, attempt) = ("a".parse().unwrap(), "old".to_owned());
    let save = SaveRequest { project: project(), run, step: 1, world_size: 1, attempt };
    let session = engine.begin_save(&save).await.unwrap();
    let slices: Vec<_> = tensors.iter().map(|tensor| old_slice(tensor, compress)).collect();
    let all = slices.iter().map(|(slice, _)| slice.clone()).collect();
    let (header, head) = PackHeader::build_as(PackVersion::One, all).unwrap();
    let mut body = vec![0; (header.object_len() - header.header_len()) as usize];
    for entry in header.entries() {
        let (_, stored) = slices.iter().find(|(slice, _)| slice.slice == entry.slice.slice).unwrap();
        body[(entry.stored.start() - header.header_len()) as usize..][..stored.len()].copy_from_slice(stored);
    }
    let pack = Stored { digest: header.name(), epoch: session.epoch };
    engine.put_pack(&project(), pack, head, PackBody::Whole(vec![body.into()])).await.unwrap();
    let row = |entry: &gigastore_formats::pack::PackEntry| {
        let (offset, stored_len) = (entry.stored.start(), entry.stored.len());
        let codec = entry.slice.coding.codec();
        let place = Place { pack: header.name(), header_len: header.header_len(), offset, stored_len, codec };
        SliceRow { slice: entry.slice.slice.clone(), blake3: entry.slice.tree.root(), place: Some(place) }
    };
    let rows: Vec<PartRow> = header.entries().iter().map(row).collect();
    let meta = PartMeta {
        rank: 0,
        world_size: 1,
        bases: Vec::new(),
        compared_to: None,
        metadata: Default::default(),
        cursors: Default::default(),
        timeline: None,
    };
    engine.put_part(&project(), session.save, 0, write_part(&meta, &rows).unwrap().into()).await.unwrap();
    let finish = FinishRequest { save, deadline_ms: 0, waited_ms: 0, tag: None };
    engine.finish_save(&finish).await.unwrap();
}

/// Reads each tensor of a checkpoint, and the middle rows of those that have rows.
async fn check_reads(desk: &Desk, target: &str, tensors: &[Tensor]) {
    let checkpoint = desk.store.checkpoint(&target.parse().unwrap()).await.unwrap();
    for Tensor { name, dtype, shape, data } in tensors {
        assert!(checkpoint.read_whole(SliceKind::Tensor, name).await.unwrap() == *data, "{name}");
        if shape.len() != 2 || data.is_empty() {
            continue;
        }
        let (first, rows) = (shape[0] / 3, shape[0].div_ceil(4));
        let area = TensorBox::new(vec![first, 0], vec![rows, shape[1]]).unwrap();
        let row = area.bytes(*dtype).unwrap() as usize / rows as usize;
        let sink = BufferSink::new(vec![0; row * rows as usize]);
        let to = std::sync::Arc::<BufferSink<_>>::clone(&sink);
        let wanted = Wanted { kind: SliceKind::Tensor, name: name.clone(), area: Some(area), sink: to };
        checkpoint.read(vec![wanted], &Progress::default()).await.unwrap();
        let expected = &data[first as usize * row..][..rows as usize * row];
        assert!(sink.into_inner().unwrap() == expected, "rows of {name}");
    }
}

#[tokio::test]
async fn what_older_clients_saved_is_read_verified_and_put_right() {
    for compress in [Compression::Off, Compression::Always] {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, &tensors, compress).await;
        let before = desk.objects().await;
        let key = desk.keys("/packs/").await.remove(0);
        check_reads(&desk, "p/a@1", &tensors).await;
        assert!(desk.verify(Depth::Full).await.findings.is_empty());
        // The header alone: its version, too, is found again.
        let len = header_len(&before[&key]);
        for at in [0, 9, len / 2, len - 1] {
            desk.flip(&key, at).await;
            let report = desk.scrub(None).await;
            assert!(report.findings.is_empty(), "{:?}", report.findings);
            assert_eq!(report.repaired[0].from, ["manifest rows and data"]);
            assert!(desk.objects().await == before, "byte {at}");
        }
        // A byte that nobody else has.
        desk.flip(&key, len + (before[&key].len() - len) / 2).await;
        let read = async |tensor: &Tensor| {
            let checkpoint = desk.store.checkpoint(&"p/a@1".parse().unwrap()).await.unwrap();
            checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await
        };
        let mut refused = 0;
        for tensor in &tensors {
            match read(tensor).await {
                Ok(data) => assert!(data == tensor.data, "{}", tensor.name),
                Err(error) => {
                    assert!(format!("{error:?}").contains("Damaged"), "{error:?}");
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 1);
        assert_eq!(desk.verify(Depth::Full).await.findings.len(), 1);
    }
}

#[tokio::test]
async fn packs_of_both_versions_put_each_other_right() {
    for compress in [Compression::Off, Compression::Always] {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, &tensors, compress).await;
        let old = desk.keys("/packs/").await.remove(0);
        desk.save("b", 1, compress, &tensors).await;
        let new = desk.keys("/packs/").await.into_iter().find(|key| *key != old).unwrap();
        check_reads(&desk, "p/b@1", &tensors).await;
        let before = desk.objects().await;
        for key in [&old, &new] {
            let len = header_len(&before[key]);
            let data = before[key].len() - len;
            for damaged in [vec![len + data / 2], vec![9, len + data / 3], vec![100, len, before[key].len() - 1]] {
                for at in &damaged {
                    desk.flip(key, *at).await;
                }
                let report = desk.scrub(None).await;
                assert!(report.findings.is_empty(), "{damaged:?}: {:?}", report.findings);
                assert!(desk.objects().await == before, "{damaged:?} of {key}");
            }
        }
    }
}

#[tokio::test]
async fn new_saves_refer_to_what_an_old_pack_has() {
    let (desk, tensors) = (Desk::new().await, tensors());
    save_old(&desk.engine, &tensors, Compression::Off).await;
    let packs = desk.keys("/packs/").await;
    let mut next = tensors.clone();
    next[0] = Tensor { data: next[0].data.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into(), ..next[0].clone() };
    assert!(!next[0].data.is_empty() || next[0].dtype != Dtype::U8);
    desk.save("a", 2, Compression::Off, &next).await;
    check_reads(&desk, "p/a@2", &next).await;
    let more = desk.keys("/packs/").await.len() - packs.len();
    assert!(more <= 1, "{more} packs for one changed tensor");
    assert!(desk.verify(Depth::Full).await.findings.is_empty());
}
