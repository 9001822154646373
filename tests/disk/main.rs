//! Disks that are full, broken or read-only at every call that changes a file: commands say which, nothing is half
//! visible, and the same command succeeds once the disk is well.
//!
//! | file | what it does |
//! |---|---|
//! | `failing.c` | lets the nth call below a folder fail; built and loaded before the C library here |
//! | `scenes.rs` | commands that write: saves, commits, pushes, tokens, restores, collections, caches |
//! | `room.rs` | a file system of a few MiB that fills, and is mounted read-only |
//!
//! `GIGASTORE_DISK=all` has every call fail in every way; unless set, each fails in one, and the ways take turns.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod room;
#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "../cli/run.rs"]
mod run;
mod scenes;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Desk, Said};
use crate::scenes::Scene;

/// How a call fails, and how a command ends for it.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    errno: i32,
    /// All calls after it fail as well.
    all: bool,
    codes: &'static [i32],
}

/// A broken disk is tried again: what stays broken for good is another test's, as a log is asked for a minute.
const WAYS: [Way; 5] = [
    Way { name: "full from here on", errno: 28, all: true, codes: &[1] },
    Way { name: "an error of the disk", errno: 5, all: false, codes: &[1, 5] },
    Way { name: "read-only from here on", errno: 30, all: true, codes: &[1] },
    Way { name: "full once", errno: 28, all: false, codes: &[1] },
    Way { name: "read-only once", errno: 30, all: false, codes: &[1] },
];

/// More calls than any command here makes: a command that never ends writing.
const MOST_CALLS: usize = 2000;

/// The library that lets calls fail.
struct Failing {
    folder: tempfile::TempDir,
}

impl Failing {
    fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/disk/failing.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.path().join("failing.so")).args([source, "-ldl"]);
        let built = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { folder }
    }

    fn note(&self) -> PathBuf {
        self.folder.path().join("note")
    }

    /// Has call number `at` below `folder` fail in this way.
    fn set(&self, command: &mut Command, folder: &Path, at: usize, way: Way) {
        command.env("LD_PRELOAD", self.folder.path().join("failing.so")).env("FAILING_FOLDER", folder);
        command.env("FAILING_AT", at.to_string()).env("FAILING_ERRNO", way.errno.to_string());
        command.env("FAILING_NOTE", self.note());
        if way.all {
            command.env("FAILING_ALL", "1");
        }
    }

    /// Returns what failed since it was asked last; nothing where no call did.
    fn failed(&self) -> Option<String> {
        let said = std::fs::read_to_string(self.note()).ok()?;
        std::fs::remove_file(self.note()).unwrap();
        said.lines().next().map(str::to_owned)
    }
}

/// Runs a command with each of its writes failing once, and again on a disk that is well.
fn fail_everywhere(scene: &Scene) {
    let (failing, every) = (Failing::build(), std::env::var("GIGASTORE_DISK").is_ok_and(|how| how == "all"));
    let (mut cases, mut refused) = (0, 0);
    for n in 1..=MOST_CALLS {
        let turn = [WAYS[n % WAYS.len()]];
        let ways = if every { &WAYS[..] } else { &turn };
        let mut reached = false;
        for way in ways {
            let desk = Desk::new();
            (scene.prepare)(&desk);
            let mut command = (scene.command)(&desk);
            failing.set(&mut command, &desk.path(scene.folder), n, *way);
            let said = Said::of(command.output().unwrap());
            let Some(call) = failing.failed() else {
                assert_eq!(said.code, Some(0), "{}: nothing failed: {said:?}", scene.name);
                continue;
            };
            reached = true;
            cases += 1;
            let what = format!("{}, {}: call {call}", scene.name, way.name);
            check_ending(scene, *way, &said, &what);
            refused += usize::from(said.code != Some(0));
            (scene.between)(&desk, &said, &what);
            let again = Said::of((scene.command)(&desk).output().unwrap());
            assert!(again.code == Some(0), "{what}, then well again: {again:?}");
            (scene.check)(&desk, &what);
        }
        if !reached {
            println!("{}: {cases} cases, {refused} refused, 0 violations", scene.name);
            assert!(cases >= scene.least, "{}: only {cases} cases", scene.name);
            return;
        }
    }
    panic!("{}: more than {MOST_CALLS} calls", scene.name);
}

/// Checks how a command ended one of whose writes failed.
fn check_ending(scene: &Scene, way: Way, said: &Said, what: &str) {
    assert!(!said.stderr.contains("panicked"), "{what}: {said:?}");
    match said.code {
        // It was something that may fail.
        Some(0) => {}
        Some(code) => {
            assert!(!scene.harmless, "{what}: {said:?}");
            assert!(way.codes.contains(&code), "{what}: {said:?}");
            let words: &[&str] = match way.errno {
                28 => &["full", "No space left"],
                30 => &["read-only", "Read-only"],
                _ => &["Input/output error", "os error 5"],
            };
            assert!(words.iter().any(|word| said.stderr.contains(word)), "{what}: it does not say why: {said:?}");
        }
        None => panic!("{what}: {said:?}"),
    }
}

#[test]
fn a_save_of_two_ranks() {
    fail_everywhere(&scenes::SAVE);
}

#[test]
fn a_tag() {
    fail_everywhere(&scenes::TAG);
}

#[test]
fn a_push() {
    fail_everywhere(&scenes::PUSH);
}

#[test]
fn tokens() {
    fail_everywhere(&scenes::TOKENIZE);
}

#[test]
fn a_restore_into_a_folder() {
    fail_everywhere(&scenes::RESTORE);
}

#[test]
fn files_of_a_dataset_into_a_folder() {
    fail_everywhere(&scenes::GET);
}

#[test]
fn a_collection() {
    fail_everywhere(&scenes::COLLECT);
}

#[test]
fn a_cache() {
    scenes::with_service(|| fail_everywhere(&scenes::CACHE));
}
