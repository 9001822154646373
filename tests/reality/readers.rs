//! Those who restore what was saved, while everybody dies: what they get is right, or they get nothing.

use std::time::{Duration, Instant};

use gigastore_tests::model::XorShift;

use crate::place::run_or_kill;
use crate::run::read_safetensors;
use crate::writers::said;
use crate::{WRITERS, Yard};

/// Restores the newest step of one run after another, and compares.
pub(crate) fn read(yard: &Yard, reader: u64) {
    let mut chance = yard.chance(reader);
    let folder = tempfile::tempdir().unwrap();
    for turn in 0.. {
        if Instant::now() >= yard.until {
            return;
        }
        let out = folder.path().join(turn.to_string());
        if !restore(yard, &mut chance, &out) {
            // Nothing is there yet.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Restores; says whether there was anything.
fn restore(yard: &Yard, chance: &mut XorShift, out: &std::path::Path) -> bool {
    let target = format!("p/run-{}", chance.below(WRITERS));
    let arguments = ["-q", "--format", "json", "ckpt", "restore", &target, "--out", out.to_str().unwrap()];
    let store = yard.servers.urls(chance.next_u64());
    let Some(output) = run_or_kill(yard.place.command(&store, &arguments), None) else { return false };
    match output.status.code() {
        Some(0) => {
            let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let target = said["target"].as_str().unwrap_or_else(|| panic!("no target in {said}"));
            let (run, step) = target.strip_prefix("p/").unwrap().split_once('@').unwrap();
            let model = yard.deeds.models().join(format!("{run}-{step}.safetensors"));
            if !same(&out.join("model.safetensors"), &model) {
                yard.report(format!("{target} was restored as something else than {}", model.display()));
            }
            std::fs::remove_dir_all(out).unwrap();
            true
        }
        // Not there yet, or out of reach.
        Some(4 | 5) => false,
        _ => {
            yard.report(format!("{arguments:?} ended with {}: {}", output.status, said(&output)));
            false
        }
    }
}

/// Compares the tensors of two safetensors files.
fn same(a: &std::path::Path, b: &std::path::Path) -> bool {
    read_safetensors(a) == read_safetensors(b)
}
