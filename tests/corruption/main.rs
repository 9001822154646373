//! Damage of every kind to every kind of stored object: seen by whoever reads it and by `verify`, or harmless; never
//! wrong data, never a panic.
//!
//! | file | what it does |
//! |---|---|
//! | `damage.rs` | what can happen to the bytes of an object |
//! | `scene.rs` | one object of a small store, who reads it, and what they may say |
//! | `checkpoints.rs`, `datasets.rs`, `logs.rs`, `saves.rs` | the scenes |
//! | `inline.rs` | an ambient that computes where it is asked to |
//! | `blocks.rs` | the files of a cache on a disk |
//! | `whole.rs` | a store of everything, each object cut, zeroed, deleted and swapped with each other one |

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod blocks;
mod checkpoints;
mod damage;
mod datasets;
mod inline;
mod logs;
mod saves;
mod scene;
mod whole;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::damage::Damage;
use crate::scene::Scene;

/// Cases that must be run in all: a scene that has shrunk shows here.
const LEAST_CASES: usize = 100_000;

/// Cases that a thread takes at once.
const CHUNK: usize = 64;

/// Violations that a failure prints.
const PRINTED: usize = 20;

#[test]
fn a_hundred_thousand_damaged_objects_are_seen_or_harmless() {
    let runtime = inline::runtime();
    let scenes: Vec<Scene> = runtime.block_on(async {
        let mut scenes = checkpoints::scenes().await;
        scenes.extend(datasets::scenes().await);
        scenes.extend(logs::scenes().await);
        scenes.extend(saves::scenes().await);
        scenes
    });
    runtime.block_on(async {
        for scene in &scenes {
            scene.check_sound().await;
        }
    });
    let work: Vec<(&Scene, Vec<Damage>)> = scenes
        .iter()
        .flat_map(|scene| {
            let damages = scene.damages();
            damages.chunks(CHUNK).map(|chunk| (scene, chunk.to_vec())).collect::<Vec<_>>()
        })
        .collect();
    let (next, violations) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let runtime = inline::runtime();
                while let Some((scene, damages)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for damage in damages {
                        if let Err(violation) = runtime.block_on(scene.attack(damage)) {
                            violations.lock().unwrap().push(violation);
                        }
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (scene, damages) in &work {
        *counts.entry(scene.kind).or_default() += damages.len();
    }
    let blocks = blocks::attack();
    counts.insert("cache entry", blocks);
    let cases: usize = counts.values().sum();
    for (kind, cases) in &counts {
        println!("{cases:>8}  {kind}");
    }
    println!("{cases:>8}  cases, {} violations", violations.len());
    let first = violations.iter().take(PRINTED).cloned().collect::<Vec<_>>().join("\n");
    assert!(violations.is_empty(), "{} violations:\n{first}", violations.len());
    assert!(cases >= LEAST_CASES, "only {cases} cases");
}
