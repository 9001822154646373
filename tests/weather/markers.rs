//! Stores that are not ours to use: of a newer format, damaged, or another program's.

use std::fs;
use std::path::Path;

use gigastore_client::Coded;
use gigastore_client::store::{OpenMode, Store};
use gigastore_formats::sealed::seal;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::model::{Size, transformer};
use serde_json::json;

async fn open(folder: &Path, mode: OpenMode) -> Result<Store, gigastore_formats::wire::Fault> {
    Store::open(&format!("file://{}", folder.display()), mode).await
}

fn files(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_marker_that_is_not_ours_is_refused_and_left_alone() {
    let sealed = |value| seal(&value).0;
    let ours = sealed(json!({ "format": "gigastore", "version": 1 }));
    let cut = ours[..ours.len() - 5].to_vec();
    let cases: [(&str, Vec<u8>, FaultCode, &str); 6] = [
        (
            "newer",
            sealed(json!({ "format": "gigastore", "version": 2 })),
            FaultCode::NewerFormat,
            "use a newer gigastore",
        ),
        (
            "newer still",
            sealed(json!({ "format": "gigastore", "version": 9, "more": [1] })),
            FaultCode::NewerFormat,
            "version 9",
        ),
        ("foreign", sealed(json!({ "format": "other", "version": 1 })), FaultCode::Invalid, "another program"),
        ("cut", cut, FaultCode::Integrity, "damaged"),
        ("empty", Vec::new(), FaultCode::Integrity, "damaged"),
        ("not JSON", b"hello\nworld\n".to_vec(), FaultCode::Integrity, "damaged"),
    ];
    for (what, marker, code, text) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gigastore.json");
        fs::write(&path, &marker).unwrap();
        for mode in [OpenMode::Existing, OpenMode::Create] {
            let fault = open(folder.path(), mode).await.unwrap_err();
            assert_eq!(fault.code, code, "{what}: {fault}");
            assert!(fault.message.contains(text) && fault.message.contains("file://"), "{what}: {fault}");
        }
        assert_eq!(fs::read(&path).unwrap(), marker, "{what}");
        assert_eq!(files(folder.path()), ["gigastore.json"], "{what}");
    }
}

#[tokio::test]
async fn a_folder_of_something_else_is_not_a_store_and_is_not_made_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let fault = open(folder.path(), OpenMode::Existing).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound, "{fault}");
    assert_eq!(files(folder.path()), ["thesis.tex"]);
    let file = open(&folder.path().join("thesis.tex"), OpenMode::Create).await.unwrap_err();
    assert!(file.message.contains("thesis.tex"), "{file}");
    let absent = folder.path().join("nowhere");
    assert_eq!(open(&absent, OpenMode::Existing).await.unwrap_err().code, FaultCode::NotFound);
    assert!(!absent.exists(), "a reader made a folder");
    for text in ["file://relative/dir", "ftp://host/x", "file:///a/../b?x=1#y", "nonsense", "", "s3://"] {
        let fault = Store::open(text, OpenMode::Existing).await.unwrap_err();
        assert!(matches!(fault.code, FaultCode::Invalid | FaultCode::NotFound), "{text:?}: {:?} {fault}", fault.code);
    }
}

#[tokio::test]
async fn a_record_or_manifest_of_a_newer_kind_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OpenMode::Create).await.unwrap();
    let spec = gigastore_client::checkpoint::SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), 1, 1);
    gigastore_tests::opened::save(&store, spec, &transformer(1, Size::TINY)).await.unwrap();
    let log = folder.path().join("projects/p/log");
    let first = fs::read(log.join("00000000000000000001.json")).unwrap();
    let digest: gigastore_formats::digest::Digest = {
        let (_, digest) =
            gigastore_formats::record::Record::unseal(&first, 1, gigastore_formats::record::Record::origin()).unwrap();
        digest
    };
    let newer =
        json!({ "seq": 2, "prev": digest, "entries": [{ "txn": digest, "time": 1, "kind": "teleport", "to": 7 }] });
    let path = log.join("00000000000000000002.json");
    fs::write(&path, seal(&newer).0).unwrap();
    let store = open(folder.path(), OpenMode::Existing).await.unwrap();
    let fault = store.resolve(&"p/run@1".parse().unwrap()).await.unwrap_err();
    assert!(fault.message.contains("00000000000000000002.json"), "{fault}");
    assert!(fault.message.contains("teleport") || fault.message.contains("newer"), "{fault}");
    fs::remove_file(&path).unwrap();
    let store = open(folder.path(), OpenMode::Existing).await.unwrap();
    assert!(store.checkpoint(&"p/run@1".parse().unwrap()).await.map_err(|error| error.code()).is_ok());
}
