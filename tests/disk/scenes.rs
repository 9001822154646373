//! Commands that write files, what they find, and what they leave.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock};

use gigastore_tests::model::{Size, safetensors, transformer};
use gigastore_tests::prepared;
use serde_json::json;

use crate::run::{Desk, Said, read_safetensors};

/// A command one of whose writes fails.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// The folder of the desk whose disk fails.
    pub(crate) folder: &'static str,
    pub(crate) prepare: fn(&Desk),
    pub(crate) command: fn(&Desk) -> Command,
    /// Looks at what is there after the failure.
    pub(crate) between: fn(&Desk, &Said, &str),
    /// Looks at what is there in the end.
    pub(crate) check: fn(&Desk, &str),
    /// Whether no failure may be one of the command.
    pub(crate) harmless: bool,
    /// Calls that it makes at least.
    pub(crate) least: usize,
}

pub(crate) const SAVE: Scene = Scene {
    name: "save",
    folder: "store",
    prepare: models,
    command: |desk| desk.command(&SAVING),
    between: nothing_half_visible,
    check: |desk, what| whole(desk, "p/run@1", what),
    harmless: false,
    least: 40,
};

pub(crate) const TAG: Scene = Scene {
    name: "tag",
    folder: "store",
    prepare: |desk| {
        models(desk);
        desk.ok(&SAVING);
    },
    command: |desk| desk.command(&["-q", "ckpt", "tag", "p/run@1", "best"]),
    between: |desk, _, what| whole(desk, "p/run@1", what),
    check: |desk, what| whole(desk, "p/run@best", what),
    harmless: false,
    least: 5,
};

pub(crate) const PUSH: Scene = Scene {
    name: "push",
    folder: "store",
    prepare: |desk| fs::write(desk.path("t.parquet"), TABLE).unwrap(),
    command: |desk| desk.command(&["-q", "data", "push", "t.parquet", "--to", "p/data"]),
    between: nothing_half_visible,
    check: |desk, what| {
        sound(desk, what);
        let get = ["data", "get", "p/data@1", "t.parquet", "--range", &format!("0..{}", TABLE.len())];
        assert!(desk.command(&get).output().unwrap().stdout == TABLE, "{what}: wrong data");
    },
    harmless: false,
    least: 15,
};

pub(crate) const TOKENIZE: Scene = Scene {
    name: "tokenize",
    folder: "work",
    prepare: |desk| fs::write(desk.path("t.txt"), "A text of some words, for the tokenizer.\n".repeat(50)).unwrap(),
    command: |desk| {
        let tokenizer = prepared::model().unwrap_or_else(|error| panic!("{error}")).join("tokenizer.json");
        let tokenize = ["-q", "data", "tokenize", "t.txt", "--to", "p/data", "--eos", "none", "--work"];
        let mut command = desk.command(&tokenize);
        command.arg(desk.path("work")).arg("--tokenizer").arg(tokenizer);
        command
    },
    between: nothing_half_visible,
    check: |desk, what| {
        sound(desk, what);
        let shown = desk.json(&["data", "show", "p/data"]);
        assert_eq!(shown["version"], json!(1), "{what}: {shown}");
    },
    harmless: false,
    least: 3,
};

pub(crate) const RESTORE: Scene = Scene {
    name: "restore",
    folder: "out",
    prepare: |desk| {
        models(desk);
        desk.ok(&SAVING);
    },
    command: |desk| {
        let mut command = desk.command(&["-q", "ckpt", "restore", "p/run@1", "--overwrite", "--out"]);
        command.arg(desk.path("out"));
        command
    },
    between: all_or_none,
    check: |desk, what| {
        assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected(), "{what}");
        assert_eq!(fs::read_to_string(desk.path("out/config.json")).unwrap(), CONFIG, "{what}");
    },
    harmless: false,
    least: 8,
};

pub(crate) const GET: Scene = Scene {
    name: "get",
    folder: "out",
    prepare: |desk| {
        fs::write(desk.path("t.parquet"), TABLE).unwrap();
        desk.ok(&["-q", "data", "push", "t.parquet", "--to", "p/data"]);
    },
    command: |desk| {
        let mut command = desk.command(&["-q", "data", "get", "p/data@1", "--overwrite", "--out"]);
        command.arg(desk.path("out"));
        command
    },
    between: all_or_none,
    check: |desk, what| assert!(fs::read(desk.path("out/t.parquet")).unwrap() == TABLE, "{what}: wrong data"),
    harmless: false,
    least: 6,
};

pub(crate) const CACHE: Scene = Scene {
    name: "cache",
    folder: "cache",
    prepare: |desk| fs::create_dir(desk.path("out")).unwrap(),
    command: |desk| {
        let mut command = desk.command(&["-q", "ckpt", "restore", "p/run@1", "--overwrite", "--out"]);
        command.arg(desk.path("out")).env("GIGASTORE_STORE", SERVICE.lock().unwrap().clone());
        command.env("GIGASTORE_CACHE", desk.path("cache"));
        command
    },
    between: |desk, _, what| (RESTORE.check)(desk, what),
    check: |desk, what| (RESTORE.check)(desk, what),
    harmless: true,
    least: 5,
};

pub(crate) const COLLECT: Scene = Scene {
    name: "gc",
    folder: "store",
    prepare: |desk| {
        models(desk);
        desk.model("other", 2);
        desk.ok(&["-q", "ckpt", "save", "other.safetensors", "--to", "p/old@0"]);
        // Some of its slices are those of the other model, whose packs would stay for them.
        desk.ok(&["-q", "ckpt", "save", "m", "--to", "p/old@1", "--no-dedup"]);
        desk.ok(&SAVING);
        desk.ok(&["-q", "drop", "p/old@0"]);
        desk.ok(&COLLECTING);
    },
    command: |desk| desk.command(&COLLECTING),
    between: |desk, _, what| whole(desk, "p/run@1", what),
    check: |desk, what| {
        // What a fence condemns that was appended after the failure goes with the next.
        (0..2).for_each(|_| drop(desk.ok(&COLLECTING)));
        whole(desk, "p/run@1", what);
        let packs = desk.files("store").into_iter().filter(|(path, _)| path.to_string_lossy().contains("/packs/"));
        let bytes: usize = packs.map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 1 << 20, "{what}: {bytes} bytes of packs are left");
    },
    harmless: false,
    least: 8,
};

const COLLECTING: [&str; 5] = ["-q", "gc", "p", "--grace", "0s"];
const SAVING: [&str; 9] = ["-q", "ckpt", "save", "m", "--to", "p/run@1", "--ranks", "2", "--attempt=job"];
const CONFIG: &str = "{\"layers\": 2}";
const TABLE: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");

/// The URL of the service that the scene of the cache reads from.
static SERVICE: Mutex<String> = Mutex::new(String::new());

/// Runs `work` with a service that has a checkpoint.
pub(crate) fn with_service(work: impl FnOnce()) {
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let desk = Desk::new();
    models(&desk);
    desk.ok(&SAVING);
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log", "quiet", "--keep-free", "0"];
    let mut service = Killed(desk.command(&serve).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    *SERVICE.lock().unwrap() = line[line.find("http").unwrap()..].trim().to_owned();
    work();
}

fn tensors() -> &'static [gigastore_tests::model::Tensor] {
    static TENSORS: OnceLock<Vec<gigastore_tests::model::Tensor>> = OnceLock::new();
    TENSORS.get_or_init(|| transformer(1, Size::TINY))
}

fn expected() -> Vec<(String, Vec<u8>)> {
    tensors().iter().map(|tensor| (tensor.name.clone(), tensor.data.to_vec())).collect()
}

fn models(desk: &Desk) {
    fs::create_dir(desk.path("m")).unwrap();
    fs::write(desk.path("m/model.safetensors"), safetensors(tensors(), &[("format", "pt")])).unwrap();
    fs::write(desk.path("m/config.json"), CONFIG).unwrap();
}

/// Checks that verification finds nothing, where there is a project.
fn sound(desk: &Desk, what: &str) {
    let verified = desk.json(&["verify", "p"]);
    assert_eq!(verified[0]["report"]["findings"], json!([]), "{what}");
}

/// Checks that a checkpoint is there, whole.
fn whole(desk: &Desk, target: &str, what: &str) {
    sound(desk, what);
    desk.ok(&["-q", "ckpt", "restore", target, "--out", "restored", "--overwrite"]);
    assert_eq!(read_safetensors(&desk.path("restored/model.safetensors")), expected(), "{what}");
    assert_eq!(fs::read_to_string(desk.path("restored/config.json")).unwrap(), CONFIG, "{what}");
}

/// Checks that there is nothing in the store yet, or all of it, and that what was acknowledged is there.
fn nothing_half_visible(desk: &Desk, said: &Said, what: &str) {
    let verified = desk.run(&["--format", "json", "verify", "p"]);
    match verified.code {
        Some(0) => {
            let report: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
            assert_eq!(report[0]["report"]["findings"], json!([]), "{what}");
        }
        // No store, or no project in it.
        Some(4) => assert_ne!(said.code, Some(0), "{what}: it was acknowledged, and is not there"),
        _ => panic!("{what}: {verified:?}"),
    }
}

/// Checks that files are there under their names all or none, unless it was said which could not be taken back.
fn all_or_none(desk: &Desk, said: &Said, what: &str) {
    let named: Vec<_> = desk.files("out").into_iter().map(|(path, _)| path).collect();
    let named = named.iter().filter(|path| !path.to_string_lossy().contains("/.gigastore-")).count();
    let told = said.stderr.contains("remove them by hand");
    assert!(said.code == Some(0) || named == 0 || told, "{what}: {named} files are left: {said:?}");
    if named > 0 && said.code != Some(0) {
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
}
