//! Parquet files that are broken or change: refused before anything of them is visible, without memory for what they
//! claim.

use std::fs;
use std::path::{Path, PathBuf};

use gigastore_client::Coded;
use gigastore_client::dataset::PushSpec;
use gigastore_client::dataset::push::PushError;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::opened::open;
use object_store::memory::InMemory;

const TABLE: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");

async fn fresh() -> Store {
    open(std::sync::Arc::new(InMemory::new()), OpenMode::Create).await.unwrap()
}

async fn push(store: &Store, files: &[PathBuf]) -> Result<u64, PushError> {
    let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
    let spec = PushSpec::new(project, name);
    store.push(&spec, files, &Progress::default()).await.map(|pushed| pushed.committed.info.commit.number)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn files_that_are_no_parquet_are_named_and_nothing_is_pushed() {
    let (store, folder) = (fresh().await, tempfile::tempdir().unwrap());
    let good = write(folder.path(), "good.parquet", TABLE);
    let mut longer = TABLE.to_vec();
    longer.extend_from_slice(b"more");
    let mut lying = TABLE.to_vec();
    let at = lying.len() - 8;
    lying[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&str, Vec<u8>); 7] = [
        ("empty", Vec::new()),
        ("text", b"date,flights\n2026-11-24,17\n".to_vec()),
        ("short", TABLE[..11].to_vec()),
        ("cut", TABLE[..TABLE.len() - 1].to_vec()),
        ("headless", TABLE[1..].to_vec()),
        ("longer", longer),
        ("lying", lying),
    ];
    for (name, bytes) in cases {
        let bad = write(folder.path(), &format!("{name}.parquet"), &bytes);
        let error = push(&store, &[good.clone(), bad]).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Invalid, "{name}: {error}");
        assert!(error.to_string().contains(&format!("{name}.parquet")), "{name}: {error}");
        let hidden = store.dataset(&"p/data".parse().unwrap()).await.map(|_| ()).unwrap_err();
        assert_eq!(hidden.code(), FaultCode::NotFound, "{name} left a version");
    }
    let absent = push(&store, &[folder.path().join("absent.parquet")]).await.unwrap_err();
    assert!(absent.code() == FaultCode::NotFound && absent.to_string().contains("absent.parquet"), "{absent}");
    assert_eq!(push(&store, &[]).await.unwrap_err().code(), FaultCode::Invalid);
    assert_eq!(push(&store, &[good]).await.unwrap(), 1);
}

#[tokio::test]
async fn every_flipped_byte_of_a_footer_is_refused_or_taken_as_it_is() {
    let (store, folder) = (fresh().await, tempfile::tempdir().unwrap());
    let footer = u32::from_le_bytes(*TABLE[TABLE.len() - 8..].first_chunk().unwrap()) as usize;
    let (mut refused, mut taken) = (0, 0);
    for at in TABLE.len() - 8 - footer..TABLE.len() {
        let mut flipped = TABLE.to_vec();
        flipped[at] ^= [0x01, 0x40, 0xff][at % 3];
        let path = write(folder.path(), "t.parquet", &flipped);
        match push(&store, std::slice::from_ref(&path)).await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error.code(), FaultCode::Invalid, "byte {at}: {error}");
                assert!(error.to_string().contains("t.parquet"), "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > footer / 8, "{refused} refused, {taken} taken of a footer of {footer}");
}

#[tokio::test]
async fn two_files_of_one_path_are_refused_with_both_names() {
    let (store, folder) = (fresh().await, tempfile::tempdir().unwrap());
    let (a, b) = (write(folder.path(), "a/t.parquet", TABLE), write(folder.path(), "b/t.parquet", TABLE));
    let error = push(&store, &[a.clone(), b.clone()]).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Invalid, "{error}");
    for part in [a.display().to_string(), b.display().to_string(), "t.parquet".to_owned()] {
        assert!(error.to_string().contains(&part), "{part:?} is not in: {error}");
    }
}
