//! Other programs that save and load the same state, or read the same corpus, each a Python process that waits for a
//! verb.
//!
//! Must never time a process that starts, nor what it reads before: only the verb, by the peer's own clock.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gigastore_client::checkpoint::Compression;
use gigastore_client::store::{OpenMode, Store};
use serde::Deserialize;

use crate::clock::Pairs;
use crate::state::State;
use crate::{Plan, Res, setting};

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
    #[serde(default)]
    tokens: u64,
    /// Seconds of all its threads together.
    #[serde(default)]
    cpu: f64,
}

/// What it took a peer to give tokens to a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) seconds: f64,
    pub(crate) core_seconds: f64,
    pub(crate) tokens: u64,
}

impl Peer {
    /// Starts a program of `benches/peers` on a state that [`write_state`] wrote, and waits until it has read it.
    pub(crate) fn start(program: &str, state: &Path, work: &str, settings: &[(String, String)]) -> Res<Self> {
        let mut peer = Self::spawn("drive.py", &[program.as_ref(), state.as_ref(), work.as_ref()], settings)?;
        let expected = std::fs::metadata(state.join("state.bin"))?.len();
        match peer.ask("ready")?.bytes {
            actual if actual == expected => Ok(peer),
            actual => Err(format!("{program} has a state of {actual} bytes, expected {expected}").into()),
        }
    }

    /// Starts a program of `benches/peers/data` on a corpus of so many tokens, and waits until its copy is made.
    pub(crate) fn read_corpus(
        program: &str,
        (corpus, tokens): (&Path, u64),
        work: &str,
        settings: &[(String, String)],
    ) -> Res<Self> {
        let mut peer = Self::spawn("data/drive.py", &[program.as_ref(), corpus.as_ref(), work.as_ref()], settings)?;
        match peer.ask("ready")?.tokens {
            actual if actual == tokens => Ok(peer),
            actual => Err(format!("{program} has a corpus of {actual} tokens, expected {tokens}").into()),
        }
    }

    fn spawn(driver: &str, arguments: &[&OsStr], settings: &[(String, String)]) -> Res<Self> {
        let mut command = Command::new(setting("GIGASTORE_BENCH_PYTHON")?);
        let driver = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/{}"), driver);
        // Warnings that there is one process only, and compiled files beside the sources, are of no use here.
        command.args(["-B", "-W", "ignore", &driver]).args(arguments).envs(settings.iter().cloned());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take().ok_or("a pipe was asked for")?;
        let answers = BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?).lines();
        Ok(Self { child, requests, answers })
    }

    /// Lets it save, after free memory was filled where that is asked for; returns the seconds.
    pub(crate) fn save(&mut self, plan: &Plan) -> Res<f64> {
        self.ask("prepare save")?;
        plan.fill_memory()?;
        self.seconds("save")
    }

    /// Lets it do something; returns the seconds.
    pub(crate) fn seconds(&mut self, verb: &str) -> Res<f64> {
        Ok(self.ask(verb)?.seconds)
    }

    /// Lets it read tokens, as a verb of the data peers says.
    pub(crate) fn reading(&mut self, verb: &str) -> Res<Reading> {
        let Answer { seconds, cpu: core_seconds, tokens, .. } = self.ask(verb)?;
        Ok(Reading { seconds, core_seconds, tokens })
    }

    fn ask(&mut self, verb: &str) -> Res<Answer> {
        writeln!(self.requests, "{verb}")?;
        let line =
            self.answers.next().ok_or_else(|| format!("a peer ended at {verb}; what it said stands above"))??;
        serde_json::from_str(&line).map_err(|error| format!("a peer said {line:?} to {verb}: {error}").into())
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
            plan.fill_memory()?;
            let saved = state.save(std::slice::from_ref(&store), Compression::Off).await?;
            pairs.entry("save").or_default().push(saved, peer.save(plan)?);
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
