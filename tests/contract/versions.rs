//! Packs of version 1, which are not written any more: read, refused where they are damaged, put right, and referred to
//! by new saves like others.

use std::fs::File;
use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::{Compression, SaveSpec, Wanted};
use gigastore_client::mirror::{MirrorSpec, mirror};
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenMode, StoreUrl};
use gigastore_formats::limits::{GROUP_BYTES, PACK_1_GROUP_BYTES};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, FaultCode};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::old::save_old;
use gigastore_tests::opened::save;

use crate::scrub::{Desk, header_len, project};

const BOTH: [Compression; 2] = [Compression::Off, Compression::Always];

fn spec(run: &str, step: u64, compress: Compression) -> SaveSpec {
    SaveSpec { compress, ..SaveSpec::new(project(), run.parse().unwrap(), step, 1) }
}

/// Tensors of many groups, of one group of version 1 that is several now, and of less than one.
fn tensors() -> Vec<Tensor> {
    let mut tensors = transformer(3, Size::SMALL);
    let between =
        tensors.iter().filter(|tensor| (GROUP_BYTES..PACK_1_GROUP_BYTES).contains(&(tensor.data.len() as u64)));
    assert!(between.count() > 0 && tensors.iter().any(|tensor| tensor.data.len() as u64 > PACK_1_GROUP_BYTES));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Reads each tensor of a checkpoint, and the middle rows of those that have rows.
async fn check_reads(store: &Store, target: &str, tensors: &[Tensor]) {
    let checkpoint = store.checkpoint(&target.parse().unwrap()).await.unwrap();
    for Tensor { name, dtype, shape, data } in tensors {
        assert!(checkpoint.read_whole(SliceKind::Tensor, name).await.unwrap() == *data, "{name}");
        if shape.len() != 2 || data.is_empty() {
            continue;
        }
        let (first, rows) = (shape[0] / 3, shape[0].div_ceil(4));
        let area = TensorBox::new(vec![first, 0], vec![rows, shape[1]]).unwrap();
        let row = area.bytes(*dtype).unwrap() as usize / rows as usize;
        let sink = BufferSink::new(vec![0; row * rows as usize]);
        let to = Arc::<BufferSink<_>>::clone(&sink);
        let wanted = Wanted { kind: SliceKind::Tensor, name: name.clone(), area: Some(area), sink: to };
        checkpoint.read(vec![wanted], &Progress::default()).await.unwrap();
        let expected = &data[first as usize * row..][..rows as usize * row];
        assert!(sink.into_inner().unwrap() == expected, "rows of {name}");
    }
}

#[tokio::test]
async fn what_older_clients_saved_is_read_verified_and_put_right() {
    for compress in BOTH {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, spec("a", 1, compress), &tensors).await.unwrap();
        let before = desk.objects().await;
        let key = desk.keys("/packs/").await.remove(0);
        check_reads(&desk.store, "p/a@1", &tensors).await;
        assert!(desk.verify(Depth::Full).await.findings.is_empty());
        // The header alone: its version, too, is found again.
        desk.check_header_is_made_anew(&key, &before).await;
        // A byte that nobody else has.
        let len = header_len(&before[&key]);
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
async fn packs_of_both_versions_put_each_other_right_whatever_their_codecs() {
    for (before, now) in BOTH.into_iter().flat_map(|before| BOTH.map(|now| (before, now))) {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, spec("a", 1, before), &tensors).await.unwrap();
        let old = desk.keys("/packs/").await.remove(0);
        desk.save("b", 1, now, &tensors).await;
        let new = desk.keys("/packs/").await.into_iter().find(|key| *key != old).unwrap();
        check_reads(&desk.store, "p/b@1", &tensors).await;
        let objects = desk.objects().await;
        for key in [&old, &new] {
            let len = header_len(&objects[key]);
            let data = objects[key].len() - len;
            for damaged in [vec![len + data / 2], vec![9, len + data / 3], vec![100, len, objects[key].len() - 1]] {
                for at in &damaged {
                    desk.flip(key, *at).await;
                }
                let report = desk.scrub(None).await;
                assert!(report.findings.is_empty(), "{before:?}, {now:?}, {damaged:?}: {:?}", report.findings);
                assert!(desk.objects().await == objects, "{before:?}, {now:?}, {damaged:?} of {key}");
            }
        }
    }
}

#[tokio::test]
async fn an_old_pack_is_put_right_from_a_replica() {
    for compress in BOTH {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, spec("a", 1, compress), &tensors).await.unwrap();
        let (before, twin) = (desk.objects().await, desk.twin().await);
        let key = desk.keys("/packs/").await.remove(0);
        let (len, all) = (header_len(&before[&key]), before[&key].len());
        for damaged in [vec![len], vec![len + (all - len) / 2, all - 1], vec![20, len + (all - len) / 3]] {
            for at in &damaged {
                desk.flip(&key, *at).await;
            }
            assert!(!desk.scrub(None).await.findings.is_empty(), "nobody else in this store has {damaged:?}");
            let report = desk.scrub(Some(&twin)).await;
            assert!(report.findings.is_empty(), "{damaged:?}: {:?}", report.findings);
            assert!(desk.objects().await == before, "{damaged:?}, {compress:?}");
        }
    }
}

#[tokio::test]
async fn an_old_save_is_mirrored_as_it_is() {
    for compress in BOTH {
        let (desk, other, tensors) = (Desk::new().await, Desk::new().await, tensors());
        save_old(&desk.engine, spec("a", 1, compress), &tensors).await.unwrap();
        desk.save("a", 2, compress, &tensors[1..]).await;
        let what = MirrorSpec { project: project(), name: None, selector: None, to: project() };
        let report = mirror(&desk.store, &other.store, &what, &Progress::default()).await.unwrap();
        assert_eq!(report.mirrored.len(), 2);
        for (target, tensors) in [("p/a@1", &tensors[..]), ("p/a@2", &tensors[1..])] {
            check_reads(&other.store, target, tensors).await;
        }
        assert!(other.verify(Depth::Full).await.findings.is_empty());
    }
}

#[tokio::test]
async fn an_old_save_made_again_is_the_same_and_other_content_a_conflict() {
    for compress in BOTH {
        let (desk, tensors) = (Desk::new().await, tensors());
        save_old(&desk.engine, spec("a", 1, compress), &tensors).await.unwrap();
        let before = desk.objects().await.into_keys().filter(|key| key.contains("/packs/")).count();
        // The same boxes, whose digests are compared; and others, whose bytes are.
        for ranks in [1, 3] {
            let again = SaveSpec { world_size: ranks, ..spec("a", 1, compress) };
            assert!(save(&desk.store, again, &tensors).await.unwrap().0.existed, "{ranks} ranks");
            let mut other = tensors.clone();
            let longest = other.iter_mut().max_by_key(|tensor| tensor.data.len()).unwrap();
            let mut bytes = longest.data.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            longest.data = bytes.into();
            let again = SaveSpec { world_size: ranks, ..spec("a", 1, compress) };
            let error = save(&desk.store, again, &other).await.unwrap_err();
            assert_eq!(error.code(), FaultCode::Conflict, "{ranks} ranks: {error}");
        }
        assert_eq!(desk.keys("/packs/").await.len(), before);
    }
}

#[tokio::test]
async fn old_packs_in_a_folder_are_read_from_memory_and_from_the_disk() {
    for compress in BOTH {
        let (folder, tensors) = (tempfile::tempdir().unwrap(), tensors());
        let url = StoreUrl::of_folder(folder.path()).unwrap();
        let engine = Engine::open(&url, OpenMode::Create, [], SystemAmbient::shared()).await.unwrap();
        let store = || Store::over(Arc::new(engine.clone()), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES);
        save_old(&engine, spec("a", 1, compress), &tensors).await.unwrap();
        save(&store(), SaveSpec { dedup: false, ..spec("b", 1, compress) }, &tensors).await.unwrap();
        let mut packs = 0;
        let mut cold = || {
            for fan_out in std::fs::read_dir(folder.path().join("projects/p/packs")).unwrap() {
                for pack in std::fs::read_dir(fan_out.unwrap().path()).unwrap() {
                    let file = File::open(pack.unwrap().path()).unwrap();
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    packs += 1;
                }
            }
        };
        for target in ["p/a@1", "p/b@1"] {
            check_reads(&store(), target, &tensors).await;
            cold();
            check_reads(&store(), target, &tensors).await;
        }
        assert!(packs >= 4, "{packs}: at least two, twice");
    }
}

#[tokio::test]
async fn new_saves_refer_to_what_an_old_pack_has() {
    let (desk, tensors) = (Desk::new().await, tensors());
    save_old(&desk.engine, spec("a", 1, Compression::Off), &tensors).await.unwrap();
    let packs = desk.keys("/packs/").await;
    let mut next = tensors.clone();
    let changed = next.iter_mut().find(|tensor| !tensor.data.is_empty()).unwrap();
    changed.data = changed.data.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    desk.save("a", 2, Compression::Off, &next).await;
    check_reads(&desk.store, "p/a@2", &next).await;
    let more = desk.keys("/packs/").await.len() - packs.len();
    assert!(more <= 1, "{more} packs for one changed tensor");
    assert!(desk.verify(Depth::Full).await.findings.is_empty());
}
