//! Training jobs: each saves step after step, through services or on the bucket itself, as one process or as two ranks;
//! tags what it saved, drops what it does not need, and competes with all others for some steps. Whoever is killed
//! comes again as the same attempt.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::time::Instant;

use gigastore_formats::tensor::dtype::Dtype;
use gigastore_tests::model::{Tensor, XorShift};

use crate::Yard;
use crate::place::run_or_kill;

/// Elements of each tensor: rows that two ranks share.
const SHAPE: [u64; 2] = [16, 64];

/// Tensors that no step changes, which are not sent again, and those that each does.
const FROZEN: u64 = 3;
const TRAINED: u64 = 3;

/// Each so manieth step a writer competes for a step of a run that all share.
const SHARED_EVERY: u64 = 4;

/// Tries of one operation by a writer whose store can't be reached: each waits for seconds by itself.
const MOST_TRIES: u32 = 60;

/// What came of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It took effect.
    Done,
    /// Something else was there first.
    Conflict,
    /// Something went wrong that must not; it was reported.
    Wrong,
}

/// Saves until it is time to stop.
pub(crate) fn write(yard: &Yard, writer: u64) {
    let mut chance = yard.chance(writer);
    for step in 1.. {
        if Instant::now() >= yard.until {
            return;
        }
        save(yard, writer, step, &mut chance);
        if step % SHARED_EVERY == 0 {
            compete(yard, writer, step / SHARED_EVERY, &mut chance);
        }
    }
}

/// Saves one step, and tags it.
pub(crate) fn save(yard: &Yard, writer: u64, step: u64, chance: &mut XorShift) {
    let run = format!("run-{writer}");
    let file = yard.deeds.model(&format!("{run}-{step}.safetensors"), &tensors(writer, step));
    let ranks = 1 + writer % 2;
    let told = save_as(yard, writer, &format!("p/{run}@{step}"), &file, ranks, chance);
    match told {
        Told::Done => yard.deeds.saved_as(&run, step, &file),
        Told::Conflict => yard.report(format!("{run}@{step}: a conflict, and nobody else saves it")),
        Told::Wrong => return,
    }
    if step % 3 == 1 {
        yard.deeds.note("tagging", &run, step, "best");
        let arguments = ["-q", "ckpt", "tag", &format!("p/{run}@{step}"), "best"];
        if again_and_again(yard, writer, &arguments, &[0], chance) == Told::Done {
            yard.deeds.note("tagged", &run, step, "best");
        }
    }
    // Neither the newest step, nor one that is or was tagged.
    if step > 2 && !step.is_multiple_of(3) {
        drop_step(yard, writer, &run, step - 2, chance);
    }
}

/// Drops a step: its bytes may go from now on.
fn drop_step(yard: &Yard, writer: u64, run: &str, step: u64, chance: &mut XorShift) {
    yard.deeds.note("dropping", run, step, "");
    let arguments = ["-q", "drop", &format!("p/{run}@{step}")];
    // Whoever was killed after the drop comes again to a step that is not there.
    if again_and_again(yard, writer, &arguments, &[0, 4], chance) == Told::Done {
        yard.deeds.note("dropped", run, step, "");
    }
}

/// Saves a step that all writers want to be theirs.
fn compete(yard: &Yard, writer: u64, step: u64, chance: &mut XorShift) {
    let file = yard.deeds.model(&format!("shared-{writer}-{step}.safetensors"), &tensors(writer, step));
    if save_as(yard, writer, &format!("p/shared@{step}"), &file, 1, chance) == Told::Done {
        yard.deeds.saved_as("shared", step, &file);
    }
}

fn save_as(yard: &Yard, writer: u64, target: &str, file: &Path, ranks: u64, chance: &mut XorShift) -> Told {
    let (file, attempt) = (file.to_str().unwrap(), format!("job-{writer}"));
    let save = ["-q", "ckpt", "save", file, "--to", target, "--attempt", &attempt];
    if ranks == 1 {
        return again_and_again(yard, writer, &save, &[0], chance);
    }
    let (all, mut other) = (ranks.to_string(), yard.chance(chance.next_u64()));
    let rank = |rank: &'static str| [&save[..], &["--rank", rank, "--ranks", &all]].concat();
    let (first, second) = (rank("0"), rank("1"));
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| again_and_again(yard, writer + 1, &second, &[0], &mut other));
        let told = again_and_again(yard, writer, &first, &[0], chance);
        // One rank may be done while the other is told of its own trouble.
        match (told, beside.join().unwrap()) {
            (Told::Done, Told::Done) => Told::Done,
            (Told::Wrong, _) | (_, Told::Wrong) => Told::Wrong,
            (Told::Conflict, _) | (_, Told::Conflict) => Told::Conflict,
        }
    })
}

/// Runs a command until it says what became of it, killing it now and then; `done` are the exit codes of success.
fn again_and_again(yard: &Yard, writer: u64, arguments: &[&str], done: &[i32], chance: &mut XorShift) -> Told {
    for _ in 0..MOST_TRIES {
        let Some(output) = run(yard, command(yard, writer, arguments, chance), chance) else { continue };
        match output.status.code() {
            Some(code) if done.contains(&code) => return Told::Done,
            Some(5) => {}
            Some(8) => return Told::Conflict,
            _ => {
                yard.report(format!("{arguments:?} ended with {}: {}", output.status, said(&output)));
                return Told::Wrong;
            }
        }
    }
    yard.report(format!("{arguments:?} did not come to an end in {MOST_TRIES} tries"));
    Told::Wrong
}

/// Returns a command against services, or, of every fourth writer, against the bucket itself.
fn command(yard: &Yard, writer: u64, arguments: &[&str], chance: &mut XorShift) -> Command {
    let store = match writer % 4 {
        0 => yard.place.url().to_owned(),
        _ => yard.servers.urls(chance.next_u64()),
    };
    yard.place.command(&store, arguments)
}

fn run(yard: &Yard, command: Command, chance: &mut XorShift) -> Option<Output> {
    let output = run_or_kill(command, yard.doom(chance));
    if output.is_none() {
        yard.kills.fetch_add(1, Ordering::Relaxed);
    }
    output
}

/// Returns what a command said on stderr.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Returns the model of a step.
fn tensors(writer: u64, step: u64) -> Vec<Tensor> {
    let tensor = |name: String, seed: u64| {
        let bytes = Dtype::BF16.bytes_of(SHAPE.iter().product()).unwrap();
        let data = XorShift::new(seed).bytes(bytes as usize);
        Tensor { name, dtype: Dtype::BF16, shape: SHAPE.to_vec(), data }
    };
    let frozen = (0..FROZEN).map(|i| tensor(format!("frozen.{i}"), i));
    let trained = (0..TRAINED).map(|i| tensor(format!("trained.{i}"), 1_000_000 * (writer + 1) + 10 * step + i));
    frozen.chain(trained).collect()
}
