//! Who reads what of whom: processes of one directory, and readers of one process.

use std::time::Duration;

use futures::future::join_all;
use gigastore_cache::{BLOCK_BYTES, Cache, Directory};
use gigastore_client::ambient::SystemAmbient;

use crate::desk::{ROOMY, Source, disk, files, open};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_read_the_others_find() {
    let folder = tempfile::tempdir().unwrap();
    // Two blocks and a part of one.
    let source = Source::new(1, 5_000_000);
    let first = open(folder.path(), ROOMY);
    let len = source.content.len() as u64;
    for (start, end) in [(0, 10), (BLOCK_BYTES - 1, BLOCK_BYTES + 1), (len - 1, len), (7, 7), (len, len), (0, len)] {
        source.read(&first, start, end).await;
    }
    assert_eq!(source.asked(), len, "each block once");
    first.settled().await;
    assert_eq!(files(folder.path()).len(), 3);
    let second = open(folder.path(), ROOMY);
    source.read_all(&second).await;
    assert_eq!(source.asked(), len);
    assert_eq!((disk(&second).hits, disk(&second).misses, disk(&second).errors), (3, 0, 0));
    // Another project keeps its content to itself, and another kind of object has other bytes.
    let mut other = source.clone();
    other.object.project = "q".parse().unwrap();
    other.read_all(&second).await;
    assert_eq!(source.asked(), 2 * len);
    // An object that was uploaded again is the same.
    let mut again = source.clone();
    again.object.stored.epoch = 7;
    again.read_all(&second).await;
    assert_eq!(source.asked(), 2 * len);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_at_once_read_each_block_once() {
    let folder = tempfile::tempdir().unwrap();
    for memory in [0, 64 << 20] {
        let source = Source { delay: Duration::from_millis(200), ..Source::of_blocks(memory + 1, 4) };
        let directory = Directory::open(folder.path(), ROOMY, SystemAmbient::shared());
        let cache = Cache::new(memory, Some(directory));
        join_all((0..16).map(|_| source.read_all(&cache))).await;
        assert_eq!(source.asked(), 4 * BLOCK_BYTES);
        cache.settled().await;
        join_all((0..16).map(|_| source.read_all(&cache))).await;
        assert_eq!(source.asked(), 4 * BLOCK_BYTES);
        let (first, second) = cache.counts();
        assert_eq!(first.misses, if memory > 0 { 4 } else { first.misses });
        assert_eq!(first.hits + first.misses, 2 * 16 * 4);
        assert_eq!(second.unwrap().damaged, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), ROOMY);
    let slow = Source { delay: Duration::from_secs(60), ..Source::of_blocks(1, 1) };
    let gave_up = tokio::time::timeout(Duration::from_millis(50), slow.read_all(&cache)).await;
    assert!(gave_up.is_err());
    let quick = Source { delay: Duration::ZERO, ..slow.clone() };
    tokio::time::timeout(Duration::from_secs(20), quick.read_all(&cache)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_read_from_the_store_and_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path(), ROOMY, SystemAmbient::shared());
    let cache = Cache::new(ROOMY, Some(directory));
    let source = Source::of_blocks(1, 3);
    let all = gigastore_formats::range::ByteRange::new(0, 3 * BLOCK_BYTES).unwrap();
    for round in 1..=30 {
        // Forgotten at once, while the blocks are on their way to the disk, or later, when they are there.
        source.read_all(&cache).await;
        assert_eq!(source.asked(), round * 3 * BLOCK_BYTES);
        if round % 3 == 0 {
            cache.settled().await;
        } else if round % 3 == 1 {
            tokio::time::sleep(Duration::from_millis(round)).await;
        }
        assert!(cache.forget(&source.object, all).await);
        cache.settled().await;
        assert!(files(folder.path()).is_empty(), "round {round}: {:?}", files(folder.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_and_directory_ranges_pass_as_they_are() {
    let cache = Cache::new(0, None);
    let source = Source::of_blocks(1, 2);
    source.read(&cache, 5, 10).await;
    source.read(&cache, 5, 10).await;
    assert_eq!(source.asked(), 10);
    let range = gigastore_formats::range::ByteRange::new(0, 1).unwrap();
    assert!(!cache.forget(&source.object, range).await);
    assert!(cache.counts().1.is_none());
}
