//! Runs the binary against a store in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gigastore_tests::model::{Size, Tensor, safetensors, transformer};
use serde_json::Value;

/// A folder with a store and room for files.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a generated model as `name`.safetensors; returns its tensors.
    pub(crate) fn model(&self, name: &str, seed: u64) -> Vec<Tensor> {
        let tensors = transformer(seed, Size::SMALL);
        let bytes = safetensors(&tensors, &[("format", "pt")]);
        fs::write(self.path(&format!("{name}.safetensors")), bytes).unwrap();
        tensors
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gigastore"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("GIGASTORE_STORE", format!("file://{}", self.path("store").display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Runs what must succeed; returns stdout.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said.stdout
    }

    /// Runs what must succeed with `--format json`; returns the document.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let stdout = self.ok(&[&["--format", "json"], arguments].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"))
    }

    /// Runs what must fail with `code`; returns stderr, which has all of `parts`.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str], parts: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        for part in parts {
            assert!(said.stderr.contains(part), "{arguments:?}: {part:?} is not in: {}", said.stderr);
        }
        assert!(!said.stderr.contains("panicked"), "{arguments:?}: {}", said.stderr);
        said.stderr
    }

    /// Every file below a folder, with its bytes.
    pub(crate) fn files(&self, below: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut folders, mut found) = (vec![self.path(below)], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        found
    }

    /// The largest file of the store whose path has `part` in it.
    pub(crate) fn stored(&self, part: &str) -> PathBuf {
        let found = self.files("store").into_iter().filter(|(path, _)| path.to_str().unwrap().contains(part));
        found.max_by_key(|(_, bytes)| bytes.len()).unwrap().0
    }
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// Flips the lowest bit of one byte of a file.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Reads a safetensors file by hand: name, and bytes of each tensor.
pub(crate) fn read_safetensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let mut tensors: Vec<(String, Vec<u8>)> = entries
        .map(|(name, entry)| {
            let offset = |i: usize| start + entry["data_offsets"][i].as_u64().unwrap() as usize;
            (name.clone(), bytes[offset(0)..offset(1)].to_vec())
        })
        .collect();
    tensors.sort();
    tensors
}
