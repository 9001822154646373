//! Files that are written for the user: whole under their final names, or not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::checkpoint::export::{ExportError, ExportSpec, Exported};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::{open, save};
use object_store::local::LocalFileSystem;

/// A store in a folder, with one checkpoint in several packs.
async fn saved(folder: &Path) -> Store {
    fs::create_dir(folder.join("store")).unwrap();
    let below = LocalFileSystem::new_with_prefix(folder.join("store")).unwrap();
    let store = open(Arc::new(below), OpenMode::Create).await.unwrap();
    let spec = SaveSpec { pack_bytes: 1 << 20, ..SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), 1, 1) };
    save(&store, spec, &transformer(1, Size::SMALL)).await.unwrap();
    store
}

async fn export(store: &Store, out: &Path, overwrite: bool) -> Result<Exported, ExportError> {
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    let spec = ExportSpec { overwrite, ..ExportSpec::default() };
    checkpoint.export(out, &spec, &Progress::default()).await
}

/// Names in a folder, hidden ones too.
fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn largest_pack(store: &Path) -> PathBuf {
    let (mut folders, mut packs) = (vec![store.join("projects/p/packs")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { packs.push(path) }
        }
    }
    packs.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test]
async fn damage_met_in_the_middle_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = saved(folder.path()).await;
    let pack = largest_pack(&folder.path().join("store"));
    let sound = fs::read(&pack).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&pack, damaged).unwrap();
    let out = folder.path().join("out");
    let error = export(&store, &out, false).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Integrity, "{error}");
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(error.to_string().contains(&name) && error.to_string().contains("model."), "{error}");
    assert!(files(&out).is_empty(), "{:?}", files(&out));
    fs::remove_file(&pack).unwrap();
    let error = export(&store, &out, false).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Lost, "{error}");
    assert!(files(&out).is_empty());
    fs::write(&pack, sound).unwrap();
    export(&store, &out, false).await.unwrap();
    assert_eq!(files(&out), ["model.safetensors"]);
}

#[tokio::test]
async fn files_that_are_there_stay_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let store = saved(folder.path()).await;
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("model.safetensors"), "mine").unwrap();
    let error = export(&store, &out, false).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), b"mine");
    assert_eq!(files(&out), ["model.safetensors"]);
    export(&store, &out, true).await.unwrap();
    assert!(fs::metadata(out.join("model.safetensors")).unwrap().len() > 1 << 20);
    assert_eq!(files(&out), ["model.safetensors"]);
}

#[tokio::test]
async fn a_destination_that_is_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = saved(folder.path()).await;
    let out = folder.path().join("out");
    fs::write(&out, "a file").unwrap();
    let error = export(&store, &out, true).await.unwrap_err();
    assert!(error.to_string().contains("out"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"a file");
}

/// A limit on the length of files (`ulimit -f`) is the full disk that needs no privileges: writes beyond it fail.
#[test]
fn a_disk_without_room_leaves_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let save_below = |kib: u32| {
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec {} . 0 1 1 job", env!("CARGO_BIN_EXE_saver"));
        Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap()
    };
    // Packs have up to 16 KiB.
    let full = save_below(8);
    let text = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(!full.status.success() && text.contains("the store is full"), "{text}");
    assert!(files(&folder.path().join("projects/p/log")).is_empty(), "a commit is visible");
    let roomy = save_below(64);
    assert!(roomy.status.success(), "{}", String::from_utf8_lossy(&roomy.stderr));
    assert_eq!(files(&folder.path().join("projects/p/log")), ["00000000000000000001.json"]);
}
