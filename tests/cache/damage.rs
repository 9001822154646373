//! Whatever happens to the files of a directory: a miss, never an error, never wrong bytes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gigastore_cache::BLOCK_BYTES;

use crate::desk::{ROOMY, Source, disk, files, open};

/// What is done to one file, of which there is another one.
type Harm = (&'static str, fn(&Path, &Path));

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

const HARMS: &[Harm] = &[
    ("a bit of its magic", |path, _| change(path, |bytes| bytes[0] ^= 1)),
    ("a bit of its name", |path, _| change(path, |bytes| bytes[20] ^= 1)),
    ("a bit of its length", |path, _| change(path, |bytes| bytes[41] ^= 1)),
    ("a bit of its seal", |path, _| change(path, |bytes| bytes[60] ^= 1)),
    ("its first bit", |path, _| change(path, |bytes| bytes[80] ^= 1)),
    ("a bit in the middle", |path, _| change(path, |bytes| bytes[1 << 20] ^= 0x80)),
    ("its last bit", |path, _| change(path, |bytes| *bytes.last_mut().unwrap() ^= 1)),
    ("cut by a byte", |path, _| change(path, |bytes| bytes.truncate(bytes.len() - 1))),
    ("cut in the middle", |path, _| change(path, |bytes| bytes.truncate(1 << 20))),
    ("cut in its head", |path, _| change(path, |bytes| bytes.truncate(40))),
    ("empty", |path, _| change(path, Vec::clear)),
    ("longer", |path, _| change(path, |bytes| bytes.push(0))),
    ("zeros", |path, _| change(path, |bytes| bytes.fill(0))),
    ("zeros from a page on, as after a power cut", |path, _| change(path, |bytes| bytes[4096..].fill(0))),
    ("a head alone, and a hole", |path, _| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(80).unwrap();
        file.set_len(80 + BLOCK_BYTES).unwrap();
    }),
    ("another block", |path, other| assert!(fs::copy(other, path).is_ok())),
    ("another program's", |path, _| fs::write(path, "hello").unwrap()),
    ("a link to another block", |path, other| {
        fs::remove_file(path).unwrap();
        symlink(other, path).unwrap();
    }),
    ("a link to nothing", |path, _| {
        fs::remove_file(path).unwrap();
        symlink("nowhere", path).unwrap();
    }),
    ("a pipe", |path, _| pipe(path)),
    ("gone", |path, _| fs::remove_file(path).unwrap()),
    ("gone with its folder", |path, _| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_it_should_be_is_a_miss_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (source, other) = (Source::of_blocks(1, 1), Source::of_blocks(2, 1));
    let before = open(folder.path(), ROOMY);
    other.read_all(&before).await;
    before.settled().await;
    let theirs = files(folder.path()).pop().unwrap();
    for (what, harm) in HARMS {
        let writer = open(folder.path(), ROOMY);
        source.read_all(&writer).await;
        writer.settled().await;
        let ours = files(folder.path()).into_iter().find(|path| *path != theirs).unwrap();
        let asked = source.asked();
        harm(&ours, &theirs);
        let cache = open(folder.path(), ROOMY);
        source.read_all(&cache).await;
        assert_eq!(source.asked(), asked + BLOCK_BYTES, "{what}: it was taken for the block");
        cache.settled().await;
        source.read_all(&cache).await;
        assert_eq!(source.asked(), asked + BLOCK_BYTES, "{what}: it was not replaced");
        let counts = disk(&cache);
        assert_eq!((counts.misses, counts.hits, counts.errors), (1, 1, 0), "{what}: {counts:?}");
        assert!(ours.is_file(), "{what}");
        other.read_all(&cache).await;
        assert_eq!(other.asked(), BLOCK_BYTES, "{what}: the other block suffered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_the_place_of_a_file_costs_the_block_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::of_blocks(1, 1);
    let cache = open(folder.path(), ROOMY);
    source.read_all(&cache).await;
    cache.settled().await;
    let path = files(folder.path()).pop().unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    for round in 2..4 {
        source.read_all(&cache).await;
        cache.settled().await;
        assert_eq!(source.asked(), round * BLOCK_BYTES);
    }
    assert!(disk(&cache).errors > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_can_not_be_used_is_passed_by() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    File::create(&occupied).unwrap();
    let below = occupied.join("below");
    let source = Source::of_blocks(1, 2);
    for path in [&occupied, &below] {
        let directory =
            gigastore_cache::Directory::open(path, ROOMY, gigastore_client::ambient::SystemAmbient::shared());
        let trouble = directory.trouble().unwrap();
        assert!(trouble.contains(path.to_str().unwrap()), "{trouble}");
        let cache = gigastore_cache::Cache::new(0, Some(directory));
        let asked = source.asked();
        for round in 1..=3 {
            source.read_all(&cache).await;
            cache.settled().await;
            assert_eq!(source.asked(), asked + round * 2 * BLOCK_BYTES);
        }
        let counts = disk(&cache);
        assert!(counts.errors > 0 && counts.hits == 0, "{counts:?}");
    }
    // Blocks can be read, and no new ones written: the staging folder is what fails, for root too.
    let path = folder.path().join("cache");
    let cache = open(&path, ROOMY);
    source.read(&cache, 0, BLOCK_BYTES).await;
    cache.settled().await;
    let staging = path.join("v1/staging");
    fs::remove_dir(&staging).unwrap();
    File::create(&staging).unwrap();
    let cache = open(&path, ROOMY);
    let asked = source.asked();
    for round in 1..=3 {
        source.read_all(&cache).await;
        cache.settled().await;
        assert_eq!(source.asked(), asked + round * BLOCK_BYTES, "the second block alone");
    }
    let counts = disk(&cache);
    assert!(counts.errors > 0 && counts.skipped > 0 && counts.hits == 3, "{counts:?}");
    fs::remove_file(&staging).unwrap();
    let cache = open(&path, ROOMY);
    source.read_all(&cache).await;
    cache.settled().await;
    assert_eq!(files(&path).len(), 2, "it is used again when it can be");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_cut_flipped_and_removed_while_they_are_read_never_give_wrong_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::of_blocks(3, 6);
    let path = folder.path().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let vandal = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            let mut turn = 0usize;
            while !done.load(Ordering::Relaxed) {
                for file in files(&path) {
                    turn += 1;
                    let len = 80 + (turn * 77_777) as u64 % BLOCK_BYTES;
                    // Any of them may be gone by now.
                    match turn % 4 {
                        0 => drop(fs::remove_file(&file)),
                        1 => drop(OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(len))),
                        2 => drop(fs::read(&file).and_then(|mut bytes| {
                            let at = len as usize % bytes.len().max(1);
                            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 4);
                            fs::write(&file, bytes)
                        })),
                        _ => drop(fs::remove_dir_all(file.parent().unwrap())),
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            turn
        })
    };
    let caches = [open(folder.path(), ROOMY), open(folder.path(), ROOMY)];
    for _ in 0..60 {
        // Each read checks its bytes.
        futures::future::join_all(caches.iter().map(|cache| source.read_all(cache))).await;
        caches[0].settled().await;
    }
    done.store(true, Ordering::Relaxed);
    let turns = vandal.join().unwrap();
    let counts = [disk(&caches[0]), disk(&caches[1])];
    assert!(turns > 20 && counts[0].hits + counts[1].hits > 0, "{turns} times, {counts:?}");
}
