//! Other programs that save and load the same state, each a Python process that waits for a verb.
//!
//! Must never time a process that starts, nor a state that is read: only the verb, by the peer's own clock.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gigastore_client::checkpoint::Compression;
use gigastore_client::store::{OpenMode, Store};
use serde::Deserialize;

use crate::clock::Pairs;
use crate::state::State;
use crate::{Plan, Res};

/// The peers that save to files: program, the name in our rows, and its verbs that load.
const PEERS: [(&str, &str, &[&str]); 3] = [
    ("torch_files", "torch", &["load", "load_mmap"]),
    ("safetensors_files", "safetensors", &["load"]),
    ("dcp_files", "dcp", &["load"]),
];

/// A peer that waits for a verb, until it is dropped.
pub(crate) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// A line of a peer, as far as it is needed here.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    bytes: u64,
}

impl Peer {
    /// Starts a program of `benches/peers` on a state that [`write_state`] wrote, and waits until it has read it.
    pub(crate) fn start(program: &str, state: &Path, work: &str, settings: &[(String, String)]) -> Res<Self> {
        let python = std::env::var_os("GIGASTORE_BENCH_PYTHON").map(PathBuf::from);
        let python = python.ok_or("GIGASTORE_BENCH_PYTHON names no Python: `cargo xtask bench` sets it")?;
        let mut command = Command::new(python);
        // Warnings that there is one process only, and compiled files beside the sources, are of no use here.
        command.args(["-B", "-W", "ignore", concat!(env!("CARGO_MANIFEST_DIR"), "/peers/drive.py"), program]);
        command.arg(state).arg(work).envs(settings.iter().cloned());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take().ok_or("a pipe was asked for")?;
        let answers = BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?).lines();
        let mut peer = Self { child, requests, answers };
        let expected = std::fs::metadata(state.join("state.bin"))?.len();
        match peer.ask("ready")?.bytes {
            actual if actual == expected => Ok(peer),
            actual => Err(format!("{program} has a state of {actual} bytes, expected {expected}").into()),
        }
    }

    /// Lets it do something; returns the seconds.
    pub(crate) fn seconds(&mut self, verb: &str) -> Res<f64> {
        Ok(self.ask(verb)?.seconds)
    }

    fn ask(&mut self, verb: &str) -> Res<Answer> {
        writeln!(self.requests, "{verb}")?;
        let line =
            self.answers.next().ok_or_else(|| format!("a peer ended at {verb}; what it said stands above"))??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the state where peers can read it.
pub(crate) fn write_state(state: &State, folder: &Path) -> Res<()> {
    let tensors = state.tensors.iter().map(|tensor| {
        let (name, dtype, shape) = (tensor.id.name(), tensor.id.dtype().to_string(), tensor.id.global_shape());
        serde_json::json!({ "name": name, "dtype": dtype, "shape": shape })
    });
    let tensors: Vec<_> = tensors.collect();
    std::fs::write(folder.join("state.json"), serde_json::to_vec(&tensors)?)?;
    Ok(std::fs::write(folder.join("state.bin"), &state.memory)?)
}

/// `peers.*` that save to files: each beside Gigastore with the same bytes, in turns.
pub(crate) async fn peers(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let mut buffers = state.buffers();
    let (folder, work) = (plan.folder()?, plan.folder()?);
    write_state(&state, folder.path())?;
    for (program, name, loads) in PEERS {
        if !plan.wants_any(&format!("peers.{name}")) {
            continue;
        }
        let mut peer = Peer::start(program, folder.path(), &work.path().display().to_string(), &[])?;
        let mut pairs: BTreeMap<&str, Pairs> = BTreeMap::new();
        for run in 0..plan.runs() {
            eprintln!("bench: peers.{name}, run {}", run + 1);
            let ours = plan.folder()?;
            let store = Store::open(&format!("file://{}", ours.path().display()), OpenMode::Create).await?;
            let saved = state.save(std::slice::from_ref(&store), Compression::Off).await?;
            pairs.entry("save").or_default().push(saved, peer.seconds("save")?);
            for verb in loads {
                let restored = state.restore(&store, &mut buffers).await?.seconds;
                pairs.entry(verb).or_default().push(restored, peer.seconds(verb)?);
            }
            ours.close()?;
        }
        for (verb, pairs) in pairs {
            let row = format!("peers.{name}.{verb}");
            pairs.report(plan, &row, state.bytes(), "limit: Gigastore, embedded, same bytes, same run; warm")?;
        }
    }
    folder.close()?;
    Ok(work.close()?)
}
