//! How much a directory holds, what goes first, and what is not the cache's to remove.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use gigastore_cache::{BLOCK_BYTES, Cache, Directory};
use gigastore_client::ambient::SystemAmbient;

use crate::desk::{ROOMY, Source, disk, files, open, size};

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_go_first_and_the_bound_holds() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 16 * (BLOCK_BYTES + 4096);
    let cache = open(folder.path(), limit);
    let favourite = Source::of_blocks(1, 1);
    let others: Vec<Source> = (2..42).map(|seed| Source::of_blocks(seed, 1)).collect();
    for other in &others {
        // Times of files have steps of a few milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(12)).await;
        favourite.read_all(&cache).await;
        other.read_all(&cache).await;
        cache.settled().await;
        assert!(size(folder.path()) <= limit, "{} bytes", size(folder.path()));
    }
    assert_eq!(favourite.asked(), BLOCK_BYTES, "what is used all the time stays");
    assert!(size(folder.path()) > limit * 3 / 4);
    let counts = disk(&cache);
    assert!(counts.evictions >= 40 - 16 && counts.bytes <= limit && counts.errors == 0, "{counts:?}");
    let (old, new) = (&others[0], &others[39]);
    new.read_all(&cache).await;
    old.read_all(&cache).await;
    assert_eq!((old.asked(), new.asked()), (2 * BLOCK_BYTES, BLOCK_BYTES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_goes_while_it_is_read_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    // Three blocks of room for eight that are read all the time: every read meets one that just goes.
    let limit = 4 * (BLOCK_BYTES + 4096);
    let caches = [open(folder.path(), limit), open(folder.path(), limit)];
    let source = Source::of_blocks(1, 8);
    for _ in 0..12 {
        futures::future::join_all(caches.iter().map(|cache| source.read_all(cache))).await;
    }
    for cache in &caches {
        cache.settled().await;
        let counts = disk(cache);
        assert!(counts.evictions > 0 && counts.damaged == 0 && counts.errors == 0, "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_room_for_a_block_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), BLOCK_BYTES);
    let source = Source::of_blocks(1, 2);
    source.read_all(&cache).await;
    cache.settled().await;
    assert_eq!((files(folder.path()).len(), disk(&cache).skipped, disk(&cache).errors), (0, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_caches_stays_and_what_a_kill_left_goes() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    let foreign = ["notes.txt", "v1/read me", "v1/ab/notes.txt", "v1/cd/0123", "v1/other/file", "v0/ab/file"];
    for path in foreign {
        fs::create_dir_all(of(path).parent().unwrap()).unwrap();
        fs::write(of(path), vec![1; 1 << 20]).unwrap();
    }
    fs::create_dir_all(of("v1/staging")).unwrap();
    fs::write(of("v1/staging/00000000000000aa"), "left by a kill").unwrap();
    fs::write(of("v1/staging/00000000000000bb"), "being written").unwrap();
    let living = File::open(of("v1/staging/00000000000000bb")).unwrap();
    living.lock().unwrap();
    let cache = open(folder.path(), 4 * (BLOCK_BYTES + 4096));
    for seed in 1..9 {
        Source::of_blocks(seed, 1).read_all(&cache).await;
        cache.settled().await;
    }
    assert!(!of("v1/staging/00000000000000aa").exists());
    assert!(of("v1/staging/00000000000000bb").exists());
    for path in foreign {
        assert_eq!(fs::read(of(path)).unwrap().len(), 1 << 20, "{path}");
    }
    drop(living);
    let again = open(folder.path(), ROOMY);
    Source::of_blocks(20, 1).read_all(&again).await;
    again.settled().await;
    assert!(!of("v1/staging/00000000000000bb").exists());
    assert_eq!(disk(&cache).errors + disk(&again).errors, 0);
}

/// Processes that write at once, and what each reads: together twice the limit.
const PROCESSES: u64 = 3;
const BLOCKS: u64 = 90;
const LIMIT: u64 = 260 << 20;

/// Runs in child processes.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_reads_a_lot() {
    let Some(folder) = std::env::var_os("CACHE_CHILD_FOLDER").map(PathBuf::from) else { return };
    let number: u64 = std::env::var("CACHE_CHILD_NUMBER").unwrap().parse().unwrap();
    let directory = Directory::open(&folder, LIMIT, SystemAmbient::shared());
    let cache = Cache::new(0, Some(Arc::clone(&directory)));
    // One object that all of them read, and one of its own.
    let (shared, own) = (Source::of_blocks(1, 10), Source::of_blocks(100 + number, BLOCKS));
    for block in 0..BLOCKS {
        let start = block * BLOCK_BYTES;
        own.read(&cache, start, start + BLOCK_BYTES).await;
        let start = block % 10 * BLOCK_BYTES;
        shared.read(&cache, start, start + BLOCK_BYTES).await;
        if block % 20 == 0 {
            cache.settled().await;
        }
    }
    cache.settled().await;
    let counts = disk(&cache);
    assert_eq!((counts.errors, counts.damaged), (0, 0), "{counts:?}: {:?}", directory.trouble());
}

#[test]
fn processes_that_write_and_evict_at_once_stay_below_the_bound_together() {
    let folder = tempfile::tempdir().unwrap();
    let child = |number: u64| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "room::child_that_reads_a_lot"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        child.env("CACHE_CHILD_FOLDER", folder.path()).env("CACHE_CHILD_NUMBER", number.to_string());
        child.spawn().unwrap()
    };
    let mut children: Vec<_> = (0..PROCESSES).map(child).collect();
    let mut most = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        most = most.max(size(folder.path()));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    println!("at most {} of {} MiB", most >> 20, LIMIT >> 20);
    assert!(most > LIMIT / 2 && most <= LIMIT, "{most} of {LIMIT} bytes");
    check_clean(folder.path());
}

/// Checks that nothing but whole blocks is left.
fn check_clean(folder: &Path) {
    for file in files(folder) {
        let len = file.metadata().unwrap().len();
        assert_eq!(len, BLOCK_BYTES + 80, "{}", file.display());
    }
}
