//! Stores in a folder while things go wrong: a full disk, a process that is killed.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{Desk, Said};

/// Times that a save is killed: from its first milliseconds to its end.
const KILLS: u32 = 24;

const SAVE: &[&str] = &["ckpt", "save", "m.safetensors", "--to", "p/run@1"];

/// Paths of the store's objects, and of what is under no object's name.
fn stored(desk: &Desk) -> (Vec<String>, Vec<String>) {
    let paths = desk.files("store").into_iter().map(|(path, _)| path.to_str().unwrap().to_owned());
    paths.partition(|path| !path.rsplit('/').next().unwrap().contains('#'))
}

/// A limit on the length of files (`ulimit -f`) is the full disk that needs no privileges: writes beyond it fail.
#[test]
fn a_full_disk_is_named_and_keeps_nothing_of_what_did_not_fit() {
    let desk = Desk::new();
    desk.model("m", 1);
    let save = desk.command(SAVE);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]).arg(save.get_program());
    limited.args(save.get_args()).current_dir(save.get_current_dir().unwrap());
    limited.envs(save.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = Said::of(limited.output().unwrap());
    assert_ne!(said.code, Some(0), "{said:?}");
    for part in ["the store is full", "packs/", "can't be written"] {
        assert!(said.stderr.contains(part), "{part:?} is not in: {}", said.stderr);
    }
    let (objects, staged) = stored(&desk);
    assert!(staged.is_empty() && !objects.iter().any(|path| path.contains("/packs/")), "{objects:?} {staged:?}");
    desk.ok(SAVE);
    desk.ok(&["verify"]);
}

#[test]
fn a_save_that_is_killed_at_any_moment_leaves_whole_objects_and_is_run_again() {
    let desk = Desk::new();
    desk.model("m", 2);
    let started = Instant::now();
    desk.ok(SAVE);
    let takes = started.elapsed();
    fs::remove_dir_all(desk.path("store")).unwrap();
    let mut committed = 0;
    for i in 0..KILLS {
        let mut save = desk.command(SAVE).spawn().unwrap();
        thread::sleep(takes * i / (KILLS - 1));
        save.kill().unwrap();
        save.wait().unwrap();
        // A pack is named by its header, which names its bytes: one that is half there would be found.
        for (path, bytes) in desk.files("store").into_iter().filter(|(path, _)| path.extension().is_some()) {
            let text = path.to_str().unwrap();
            if text.contains("/packs/") && !text.contains('#') {
                assert!(whole(&bytes), "{text} has {} bytes", bytes.len());
            }
        }
        let listed: Value = match desk.run(&["--format", "json", "ckpt", "ls", "p/run"]) {
            said if said.code == Some(0) => serde_json::from_str(&said.stdout).unwrap(),
            _ => continue,
        };
        assert!(listed.to_string().contains("\"step\":1"), "{listed}");
        desk.ok(&["verify"]);
        committed += 1;
        fs::remove_dir_all(desk.path("store")).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    desk.ok(SAVE);
    desk.ok(&["verify"]);
    assert!(committed < KILLS, "every save was quicker than its end");
}

/// Tells whether a safetensors file is as long as its header says.
fn whole(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let len = u64::from_le_bytes(*len) as usize;
    let Some(header) = rest.get(..len) else { return false };
    let header: Value = serde_json::from_slice(header).unwrap();
    let ends = header.as_object().unwrap().values().filter_map(|entry| entry["data_offsets"][1].as_u64());
    ends.max().is_none_or(|end| rest.len() as u64 >= len as u64 + end)
}

#[test]
fn compression_is_always_or_while_it_costs_nothing() {
    let desk = Desk::new();
    desk.model("m", 3);
    for (step, how) in
        [(1, None), (2, Some("--compress")), (3, Some("--compress=auto")), (4, Some("--compress=always"))]
    {
        let to = format!("p/run@{step}");
        let arguments = ["ckpt", "save", "m.safetensors", "--no-dedup", "--to", &to];
        desk.ok(&[&arguments, how.as_slice()].concat());
    }
    desk.ok(&["verify"]);
    desk.fails(2, &[SAVE, &["--compress=never"]].concat(), &["auto", "always"]);
}
