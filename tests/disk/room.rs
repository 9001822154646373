//! A file system of a few MiB, in memory, mounted where nobody else sees it: it fills at whatever byte it likes, is
//! given room, and is mounted read-only.
//!
//! Mounts need a namespace of users, which some machines do not allow; there the failing library alone has to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use gigastore_tests::model::{Size, safetensors, transformer};

use crate::run::read_safetensors;

/// Sizes of the file system, in KiB: from one that takes nothing to one that takes all but the end of a save of 7 MiB.
const SIZES: [u32; 9] = [64, 256, 1024, 2048, 3000, 4096, 6000, 7000, 7400];

/// A size with room for everything.
const ROOMY: u32 = 64 << 10;

/// What is said where mounts are not allowed.
const NO_MOUNTS: &str = "this machine lets nobody mount: the failing library is the only full disk here";

/// Runs in a namespace of its own, where it may mount.
#[test]
fn child_in_its_own_namespace() {
    let Ok(folder) = std::env::var("GIGASTORE_DISK_CHILD") else { return };
    let folder = Path::new(&folder);
    fs::write(folder.join("m.safetensors"), safetensors(&transformer(1, Size::SMALL), &[])).unwrap();
    fs::create_dir(folder.join("disk")).unwrap();
    let mut refused = 0;
    for kib in SIZES {
        mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], folder);
        if !saved(folder, "the store is full", &format!("{kib} KiB")) {
            refused += 1;
            mount(&["-o", &format!("remount,size={ROOMY}k")], folder);
            assert!(saved(folder, "", &format!("{kib} KiB, then room")));
        }
        whole(folder, &format!("{kib} KiB"));
        mount(&["-o", "remount,ro"], folder);
        assert!(!step(folder, 2, "read-only", &format!("{kib} KiB, read-only")));
        whole(folder, &format!("{kib} KiB, read-only"));
        let unmounted = Command::new("umount").arg(folder.join("disk")).status();
        assert!(unmounted.unwrap().success());
    }
    println!("{} file systems, {refused} of them too small, 0 violations", SIZES.len());
    assert!(refused >= 6, "only {refused} of {SIZES:?} were too small");
}

#[test]
fn a_file_system_fills_and_turns_read_only() {
    let folder = tempfile::tempdir().unwrap();
    let isolated = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    let probe = isolated().args(["sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("{NO_MOUNTS}");
        return;
    }
    let mut child = isolated();
    child.arg(std::env::current_exe().unwrap());
    child.args(["--exact", "room::child_in_its_own_namespace", "--nocapture"]);
    let output = child.env("GIGASTORE_DISK_CHILD", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("file systems")).unwrap_or_else(|| panic!("{said}"));
    println!("{line}");
}

fn mount(arguments: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(folder.join("disk")).output().unwrap();
    assert!(mounted.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&mounted.stderr));
}

fn gigastore(folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gigastore"));
    command.args(arguments).current_dir(folder);
    command.env("GIGASTORE_STORE", format!("file://{}/disk/store", folder.display())).output().unwrap()
}

fn saved(folder: &Path, refusal: &str, what: &str) -> bool {
    step(folder, 1, refusal, what)
}

/// Saves a step; tells whether it was, and checks how it was refused if not.
fn step(folder: &Path, step: u32, refusal: &str, what: &str) -> bool {
    let target = format!("p/run@{step}");
    let output = gigastore(folder, &["-q", "ckpt", "save", "m.safetensors", "--to", &target, "--attempt", "job"]);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => true,
        Some(1) => {
            assert!(!refusal.is_empty() && said.contains(refusal), "{what}: {said}");
            false
        }
        _ => panic!("{what}: {}: {said}", output.status),
    }
}

fn whole(folder: &Path, what: &str) {
    let out = folder.join("out");
    let verified = gigastore(folder, &["verify", "p"]);
    assert!(verified.status.success(), "{what}: {}", String::from_utf8_lossy(&verified.stderr));
    let restored = gigastore(folder, &["-q", "ckpt", "restore", "p/run@1", "--out", "out", "--overwrite"]);
    assert!(restored.status.success(), "{what}: {}", String::from_utf8_lossy(&restored.stderr));
    let expected = transformer(1, Size::SMALL).into_iter().map(|tensor| (tensor.name, tensor.data.to_vec()));
    assert_eq!(read_safetensors(&out.join("model.safetensors")), expected.collect::<Vec<_>>(), "{what}");
}
