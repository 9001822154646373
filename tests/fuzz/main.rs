//! Every parser on bytes like those it takes, for some seconds each: what CI and any newcomer run. `cargo xtask fuzz
//! TARGET` lets a fuzzer find its way by the code that is reached, from the same seeds.
//!
//! `GIGASTORE_FUZZ_SECONDS` is for how long, `GIGASTORE_FUZZ_SEED` which cases.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gigastore_formats::digest::Digest;
use gigastore_tests::hostile::{mutated, seeds, target};
use gigastore_tests::memory::own_kib;
use gigastore_tests::model::XorShift;

/// How long each target gets.
const SECONDS: u64 = 5;

/// Threads that a target waits for its service with.
const HTTP_THREADS: u64 = 12;

/// Memory that this process may have had at most: no parser takes more than a small multiple of 64 KiB of input, and
/// some decode one row group, 256 MiB at most.
const MOST_KIB: u64 = 1 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Gives a target its seeds, and then what is like them.
fn fuzz(name: &str, threads: u64) {
    let (target, seeds) = (target(name).unwrap(), seeds(name).unwrap());
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let taken = seeds.iter().filter(|seed| (target.run)(seed)).count();
    // The others once broke it, or show how it refuses.
    assert!(taken * 2 > seeds.len(), "{name}: only {taken} of {} seeds are taken", seeds.len());
    let until = Instant::now() + Duration::from_secs(setting("GIGASTORE_FUZZ_SECONDS", SECONDS));
    let first = setting("GIGASTORE_FUZZ_SEED", 1);
    let cases: u64 = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let (mut random, mut cases) = (XorShift::new(first * 1000 + thread), 0u64);
            while Instant::now() < until {
                let bytes = mutated(&mut random, &seeds);
                if catch_unwind(|| (target.run)(&bytes)).is_err() {
                    panic!("{name} broke on {}; keep it in tests/fuzz/seeds/{name}", kept(name, &bytes).display());
                }
                cases += 1;
            }
            cases
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let most = own_kib("VmHWM");
    println!(
        "{name}: {} seeds, {taken} taken, {cases} cases, memory of at most {} MiB, 0 violations",
        seeds.len(),
        most >> 10
    );
    assert!(cases > 100, "{name}: only {cases} cases");
    assert!(most < MOST_KIB, "{name}: {} MiB", most >> 10);
}

/// Writes an input that broke a target where it can be picked up.
fn kept(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("gigastore-fuzz-{name}-{}", Digest::of(bytes).short()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn pack_header() {
    fuzz("pack_header", 1);
}

#[test]
fn pack_frames() {
    fuzz("pack_frames", 1);
}

#[test]
fn safetensors() {
    fuzz("safetensors", 1);
}

#[test]
fn manifests() {
    fuzz("manifests", 1);
}

#[test]
fn token_pages() {
    fuzz("token_pages", 1);
}

#[test]
fn records() {
    fuzz("records", 1);
}

#[test]
fn cursors() {
    fuzz("cursors", 1);
}

#[test]
fn names() {
    fuzz("names", 1);
}

#[test]
fn http() {
    fuzz("http", HTTP_THREADS);
}

#[test]
fn every_target_has_a_program_and_seeds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in gigastore_tests::hostile::TARGETS {
        assert!(folder.join(format!("programs/{}.rs", target.name)).is_file(), "{}", target.name);
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        assert!(!seeds(target.name).unwrap().is_empty(), "{}", target.name);
    }
}
