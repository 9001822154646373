//! Objects: made once, never overwritten, read exactly; what does not match its name leaves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use gigastore_client::transport::{PackBytes, Pieces, Transport};
use gigastore_engine::store::OpenMode;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::FaultCode;

use crate::places::{Place, on_every_place};

on_every_place! {
    a_store_is_made_only_when_asked_and_found_again
    a_pack_is_stored_once_and_read_exactly
    a_pack_that_does_not_match_leaves_nothing
    a_file_that_does_not_match_leaves_nothing
    racing_writers_of_one_object_all_succeed
}

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn pieces(content: &[u8], piece: usize) -> Pieces {
    let pieces: Vec<Bytes> = content.chunks(piece.max(1)).map(Bytes::copy_from_slice).collect();
    Pieces::new(move || futures::stream::iter(pieces.clone()).map(Ok).boxed())
}

/// A pack of one tensor of three groups: its name, its header, the bytes after the header.
fn pack() -> (Stored, Bytes, Vec<u8>) {
    let data: Vec<u8> = (0..(5u64 << 19)).map(|i| ((i * 31) >> 7) as u8).collect();
    let whole = TensorBox::whole(&[5 << 17]).unwrap();
    let slice = SliceId::tensor("w", Dtype::F32, &[5 << 17], whole).unwrap();
    let tree = GroupTree::of(&data);
    let (header, bytes) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
    let mut body = vec![0; (header.object_len() - header.header_len()) as usize];
    let start = (header.entries()[0].stored.start() - header.header_len()) as usize;
    body[start..start + data.len()].copy_from_slice(&data);
    (Stored { digest: header.name(), epoch: 0 }, bytes, body)
}

async fn length(store: &dyn Transport, kind: ObjectKind, object: Stored) -> Option<u64> {
    store.lengths(&project(), kind, &[object]).await.unwrap()[0]
}

async fn a_store_is_made_only_when_asked_and_found_again(place: &dyn Place) {
    let absent = place.try_open(OpenMode::Existing).await.unwrap_err();
    assert_eq!(absent.code, FaultCode::NotFound, "{absent}");
    assert_eq!(place.try_open(OpenMode::Existing).await.unwrap_err().code, FaultCode::NotFound, "looking made it");
    let made = join_all((0..16).map(|_| place.try_open(OpenMode::Create))).await;
    assert!(made.iter().all(Result::is_ok), "racing creators: {made:?}");
    let found = place.try_open(OpenMode::Existing).await.unwrap();
    assert!(found.projects().await.unwrap().is_empty());
}

async fn a_pack_is_stored_once_and_read_exactly(place: &dyn Place) {
    let store = place.transport().await;
    let (name, header, body) = pack();
    let whole = [&header[..], &body].concat();
    assert_eq!(length(&*store, ObjectKind::Pack, name).await, None);
    for _ in 0..2 {
        let bytes = PackBytes::Reread(pieces(&body, 100_000));
        store.put_pack(&project(), name, header.clone(), bytes).await.unwrap();
    }
    store.put_pack(&project(), name, header.clone(), PackBytes::Hashed(vec![body.into()])).await.unwrap();
    let len = whole.len() as u64;
    assert_eq!(length(&*place.transport().await, ObjectKind::Pack, name).await, Some(len));
    for (start, end) in [(0, len), (0, 1), (len - 1, len), (4095, 4097), (1 << 20, (1 << 20) + 77)] {
        let range = ByteRange::new(start, end).unwrap();
        let read = store.read(&project(), ObjectKind::Pack, &name, range, false).await.unwrap();
        assert_eq!(read, whole[start as usize..end as usize], "{range}");
    }
    for (start, end) in [(len - 1, len + 1), (len + 5, len + 6), (0, len + 1)] {
        let range = ByteRange::new(start, end).unwrap();
        let error = store.read(&project(), ObjectKind::Pack, &name, range, false).await.unwrap_err();
        assert!(matches!(error.code, FaultCode::Integrity | FaultCode::Invalid), "{range}: {error}");
        assert!(error.message.contains(&len.to_string()), "{error} does not say that there are {len} bytes");
    }
    let other = Stored { epoch: 1, ..name };
    let error =
        store.read(&project(), ObjectKind::Pack, &other, ByteRange::new(0, 1).unwrap(), false).await.unwrap_err();
    assert_eq!(error.code, FaultCode::Lost, "{error}");
    assert!(error.object.is_some_and(|object| object.contains(&name.digest.to_string())));
}

async fn a_pack_that_does_not_match_leaves_nothing(place: &dyn Place) {
    let store = place.transport().await;
    let (name, header, body) = pack();
    let mut flipped = body.clone();
    flipped[2 << 20] ^= 1;
    let mut renamed = header.to_vec();
    renamed[20] ^= 1;
    let longer = [&body[..], b"x"].concat();
    let cases: [(&str, Bytes, PackBytes); 6] = [
        ("a flipped byte", header.clone(), PackBytes::Reread(pieces(&flipped, 1 << 16))),
        ("a byte too few", header.clone(), PackBytes::Reread(pieces(&body[..body.len() - 1], 1 << 16))),
        ("a byte too many", header.clone(), PackBytes::Reread(pieces(&longer, 1 << 16))),
        ("no bytes", header.clone(), PackBytes::Reread(pieces(&[], 1))),
        ("another header", renamed.into(), PackBytes::Reread(pieces(&body, 1 << 16))),
        ("whole, too short", header.clone(), PackBytes::Hashed(vec![body[1..].to_vec().into()])),
    ];
    for (what, header, bytes) in cases {
        let error = store.put_pack(&project(), name, header, bytes).await.unwrap_err();
        assert_eq!(error.code, FaultCode::BadUpload, "{what}: {error}");
        assert_eq!(length(&*store, ObjectKind::Pack, name).await, None, "{what} left something");
    }
    let some = Bytes::copy_from_slice(&body[..70_000]);
    let broken =
        Pieces::new(move || futures::stream::iter([Ok(some.clone()), Err("the file went away".into())]).boxed());
    let error = store.put_pack(&project(), name, header.clone(), PackBytes::Reread(broken)).await.unwrap_err();
    assert!(error.message.contains("the file went away"), "{error}");
    assert_eq!(length(&*store, ObjectKind::Pack, name).await, None);
    store.put_pack(&project(), name, header, PackBytes::Reread(pieces(&body, 1 << 16))).await.unwrap();
}

async fn a_file_that_does_not_match_leaves_nothing(place: &dyn Place) {
    let store = place.transport().await;
    let content: Vec<u8> = (0..700_000u32).map(|i| (i >> 3) as u8).collect();
    let tree = GroupTree::of(&content);
    let name = Stored { digest: tree.root(), epoch: 0 };
    let mut flipped = content.clone();
    flipped[300_000] ^= 0x80;
    for (what, bytes) in [("flipped", &flipped[..]), ("short", &content[1..]), ("empty", &[])] {
        let error = store.put_blob(&project(), 0, tree.clone(), pieces(bytes, 50_000)).await.unwrap_err();
        assert_eq!(error.code, FaultCode::BadUpload, "{what}: {error}");
        assert_eq!(length(&*store, ObjectKind::Blob, name).await, None, "{what} left something");
    }
    for _ in 0..2 {
        let stored = store.put_blob(&project(), 0, tree.clone(), pieces(&content, 50_000)).await.unwrap();
        assert_eq!(stored, name);
    }
    let range = ByteRange::new(262_143, 524_289).unwrap();
    let read = store.read(&project(), ObjectKind::Blob, &name, range, false).await.unwrap();
    assert_eq!(read, content[262_143..524_289]);
}

async fn racing_writers_of_one_object_all_succeed(place: &dyn Place) {
    let (name, header, body) = pack();
    let mut writers: Vec<Arc<dyn Transport>> = Vec::new();
    for _ in 0..8 {
        writers.push(place.transport().await);
    }
    let puts = writers.iter().map(|store| async {
        store.put_pack(&project(), name, header.clone(), PackBytes::Reread(pieces(&body, 1 << 18))).await
    });
    let done = join_all(puts).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let whole = ByteRange::new(0, (header.len() + body.len()) as u64).unwrap();
    let read = join_all(
        writers
            .iter()
            .map(|store| async { store.read(&project(), ObjectKind::Pack, &name, whole, false).await.unwrap() }),
    );
    let read: BTreeSet<Bytes> = read.await.into_iter().collect();
    assert_eq!(read.into_iter().collect::<Vec<_>>(), [[&header[..], &body].concat()]);
}
