//! The log and what is reclaimed by it: commits of many writers beside those of one, a long log opened, a large
//! collection.
//!
//! Must never count a commit that is not acknowledged, nor a collection that left or took what it should not.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use gigastore_benches::durable_files;
use gigastore_client::ambient::SystemAmbient;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::collect::CollectRequest;
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, write_dataset};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Commit, Entry, Index, Record, Sort, TxnId};
use gigastore_formats::retention::Verb;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::DatasetRequest;
use gigastore_tests::weed::Ports;

use crate::clock::median;
use crate::served::weed;
use crate::stores::{Limited, Pace};
use crate::{Plan, Res};

/// Writers at once, each of a dataset of its own: a service of a busy cluster.
const WRITERS: u64 = 64;

/// How long a distant store takes for a request: 20 ms, as S3 does for small objects in its own region.
const LATENCY: Duration = Duration::from_millis(20);

/// Where the log lies in the S3 server.
const URL: &str = "s3://gigastore/log";

/// Runs of the long log; each has a thousandth of its records.
const RUNS: u64 = 1000;

/// Commits to one store.
#[derive(Default)]
struct Measured {
    /// Commits a second of one writer, and of many.
    lone: Vec<f64>,
    many: Vec<f64>,
    /// 99th percentiles in milliseconds.
    lone_p99: Vec<f64>,
    many_p99: Vec<f64>,
}

/// `log.*`.
pub(crate) async fn log(plan: &Plan) -> Res<()> {
    if ["log.commits.file", "log.p99.file", "log.p99.raw"].iter().any(|row| plan.wants_any(row)) {
        files(plan).await?;
    }
    if plan.wants_any("log.commits.seaweed") || plan.wants_any("log.p99.seaweed") {
        let (mut measured, ports) = (Measured::default(), Ports::free()?);
        for _ in 0..plan.runs() {
            let weed = weed(plan, &ports)?;
            measured.run(plan, &open(URL, weed.settings()).await?).await.map_err(plain)?;
        }
        measured.report(plan, "seaweed")?;
    }
    if plan.wants_any("log.commits.remote") || plan.wants_any("log.p99.remote") {
        let mut measured = Measured::default();
        for _ in 0..plan.runs() {
            let store = Limited::memory(Pace { latency: LATENCY, ..Pace::default() });
            measured.run(plan, &store.engine().await?).await.map_err(plain)?;
        }
        measured.report(plan, "remote")?;
    }
    if plan.wants("log.open") {
        long_log(plan).await?;
    }
    if plan.wants("log.collect") {
        collection(plan).await?;
    }
    Ok(())
}

/// `log.*.file` and `log.p99.raw`, in turns.
async fn files(plan: &Plan) -> Res<()> {
    let (mut measured, mut raw, mut kept) = (Measured::default(), Measured::default(), Vec::new());
    let commits = plan.commits() as usize;
    for _ in 0..plan.runs() {
        let folder = plan.folder()?;
        let engine = open(&format!("file://{}", folder.path().join("store").display()), Vec::new()).await?;
        measured.run(plan, &engine).await.map_err(plain)?;
        for (threads, p99s) in [(1, &mut raw.lone_p99), (WRITERS as usize, &mut raw.many_p99)] {
            let times = durable_files(&folder.path().join(format!("raw-{threads}")), threads, commits)?;
            p99s.push(p99(&mut times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>()));
        }
        // Files that were deleted a moment ago make new ones slow on some file systems.
        kept.push(folder);
    }
    kept.into_iter().try_for_each(tempfile::TempDir::close)?;
    measured.report(plan, "file")?;
    raw.report_p99(plan, "log.p99.raw", "files of 4 KiB, synced and named durably by 64 threads; limit: one thread")
}

async fn open(url: &str, settings: Vec<(String, String)>) -> Res<Engine> {
    Ok(Engine::open(&url.parse()?, OpenMode::Create, settings, SystemAmbient::shared()).await?)
}

/// What work of a task of its own comes to.
type Sent<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn project() -> Sent<ProjectName> {
    Ok("bench".parse()?)
}

/// An error of a task as the bench has them.
fn plain(error: Box<dyn Error + Send + Sync>) -> Box<dyn Error> {
    error
}

impl Plan {
    /// Commits of each writer.
    fn commits(&self) -> u64 {
        if self.quick { 10 } else { 50 }
    }
}

impl Measured {
    /// One writer, then many, on one store.
    async fn run(&mut self, plan: &Plan, engine: &Engine) -> Sent<()> {
        let commits = plan.commits();
        // What is made once, such as folders, is nobody's to wait for.
        writer(engine, 0, 0, 3).await?;
        let started = Instant::now();
        let mut lone = writer(engine, 0, 3, commits).await?;
        self.lone.push(commits as f64 / started.elapsed().as_secs_f64());
        let first = (1..=WRITERS).map(|n| writer(engine, n, 0, 1));
        futures::future::try_join_all(first).await?;
        let started = Instant::now();
        let writers = (1..=WRITERS).map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move { writer(&engine, n, 1, commits).await })
        });
        let mut many = Vec::new();
        for done in futures::future::join_all(writers).await {
            many.extend(done??);
        }
        self.many.push(many.len() as f64 / started.elapsed().as_secs_f64());
        self.lone_p99.push(p99(&mut lone));
        self.many_p99.push(p99(&mut many));
        Ok(())
    }

    fn report(&self, plan: &Plan, store: &str) -> Res<()> {
        let note = format!("{WRITERS} writers in one process; limit: one writer");
        let (value, limit) = (median(&self.many), median(&self.lone));
        plan.report(&format!("log.commits.{store}"), &note, |row, note| row.beside(value, limit, value / limit, note))?;
        self.report_p99(plan, &format!("log.p99.{store}"), &note)
    }

    fn report_p99(&self, plan: &Plan, name: &str, note: &str) -> Res<()> {
        let (value, limit) = (median(&self.many_p99), median(&self.lone_p99));
        let ratios: Vec<f64> = self.many_p99.iter().zip(&self.lone_p99).map(|(many, lone)| many / lone).collect();
        plan.report(name, note, |row, note| row.beside(value, limit, median(&ratios), note))
    }
}

fn p99(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * 99).div_ceil(100).saturating_sub(1)]
}

/// Commits versions of a dataset one after another; returns the milliseconds of each.
async fn writer(engine: &Engine, n: u64, after: u64, commits: u64) -> Sent<Vec<f64>> {
    let name: Name = format!("data-{n}").parse()?;
    let content = Bytes::from(format!("content of {name}"));
    let tree = GroupTree::of(&content);
    let pieces = futures::stream::iter([Ok(content)]).boxed();
    let blob = engine.put_blob(&project()?, 0, tree.clone(), pieces).await?;
    let mut times = Vec::new();
    for version in after + 1..=after + commits {
        let (parent, path) = ((version > 1).then(|| version - 1), format!("{version}.parquet"));
        let meta = DatasetMeta {
            name: name.clone(),
            version,
            parent,
            metadata: Default::default(),
            tokens: None,
            lineage: None,
        };
        let row = FileRow {
            path,
            blob,
            bytes: tree.len(),
            rows: 0,
            schema: Digest::of(b"schema"),
            row_groups: Vec::new(),
            tree: tree.clone(),
            tokens: Vec::new(),
            lengths: Vec::new(),
            removed: Vec::new(),
        };
        let manifest = write_dataset(&meta, &[row])?;
        let txn = TxnId::derive(&[b"bench", &n.to_le_bytes(), &version.to_le_bytes()]);
        let request = DatasetRequest { project: project()?, txn, epoch: 0, tag: None };
        let started = Instant::now();
        let committed = engine.commit_dataset(&request, manifest.into()).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        if committed.existed || committed.info.commit.number != version {
            return Err(format!("{name}@{version} was not committed anew").into());
        }
    }
    Ok(times)
}

/// `log.open`: every record commits a step that stays, the most that a folded state can have to say.
async fn long_log(plan: &Plan) -> Res<()> {
    let records: u64 = if plan.quick { 10_000 } else { 100_000 };
    let folder = plan.folder()?;
    let url = format!("file://{}", folder.path().display());
    open(&url, Vec::new()).await?;
    write_log(&folder.path().join("projects/bench/log"), records)?;
    let engine = open(&url, Vec::new()).await?;
    let started = Instant::now();
    let state = engine.state(&project().map_err(plain)?).await?;
    let without = started.elapsed().as_secs_f64();
    if state.seq != records {
        return Err(format!("{} records were read of {records}", state.seq).into());
    }
    drop(state);
    // An append keeps the folded state.
    let run: Name = "run-0".parse()?;
    engine.keep(&project().map_err(plain)?, TxnId::derive(&[b"pin"]), Verb::Pin, &run, 0).await?;
    drop(engine);
    let mut times = Vec::new();
    for _ in 0..plan.runs() {
        let engine = open(&url, Vec::new()).await?;
        let started = Instant::now();
        let state = engine.state(&project().map_err(plain)?).await?;
        times.push(started.elapsed().as_secs_f64());
        if state.seq != records + 1 || state.names.len() as u64 != RUNS {
            return Err("the folded state is another one".into());
        }
    }
    let note = format!("{records} records, a live step each, folded; without the folded state {without:.1} s");
    let seconds = median(&times);
    plan.report("log.open", &note, |row, note| row.of(seconds, note))?;
    Ok(folder.close()?)
}

/// Writes the records of a log past the engine, which would sync each.
fn write_log(folder: &Path, records: u64) -> Res<()> {
    fs::create_dir_all(folder)?;
    let mut prev = Record::origin();
    for seq in 1..=records {
        let (run, step) = ((seq - 1) % RUNS, (seq - 1) / RUNS);
        let index = |what: &str| {
            let object = Stored { digest: Digest::of(format!("{what} {seq}").as_bytes()), epoch: 0 };
            Index { object, len: 4096, groups: String::new() }
        };
        let commit = Commit {
            sort: Sort::Checkpoint,
            name: format!("run-{run}").parse()?,
            number: step,
            manifest: index("manifest"),
            packs: Some(index("packs")),
            timeline: Some(index("timeline")),
            content: Digest::of(&seq.to_le_bytes()),
            bytes: 1 << 30,
            items: 100,
            world_size: 8,
        };
        let txn = TxnId::derive(&[b"bench", &seq.to_le_bytes()]);
        let entry = Entry { txn, time: seq, action: Action::Commit(Box::new(commit)) };
        let (bytes, digest) = Record { seq, prev, entries: vec![entry] }.seal();
        fs::write(folder.join(format!("{seq:020}.json")), bytes)?;
        prev = digest;
    }
    Ok(())
}

/// `log.collect`: so many files that nothing refers to, beside one that is live.
async fn collection(plan: &Plan) -> Res<()> {
    let objects: u64 = if plan.quick { 10_000 } else { 100_000 };
    let mut times = Vec::new();
    for _ in 0..plan.runs().min(3) {
        let folder = plan.folder()?;
        let engine = open(&format!("file://{}", folder.path().display()), Vec::new()).await?;
        writer(&engine, 0, 0, 1).await.map_err(plain)?;
        let project_folder = folder.path().join("projects/bench");
        for n in 0..objects {
            let object = Stored { digest: Digest::of(&n.to_le_bytes()), epoch: 0 };
            let path = project_folder.join(object.key(ObjectKind::Blob));
            fs::create_dir_all(path.parent().ok_or("an object has a folder")?)?;
            fs::write(path, n.to_le_bytes())?;
        }
        let name = project().map_err(plain)?;
        let collect = |n: u64, grace_ms: u64| CollectRequest {
            grace_ms,
            ..CollectRequest::new(name.clone(), TxnId::derive(&[&n.to_le_bytes()]))
        };
        for n in 0..2 {
            engine.collect(&collect(n, u64::MAX)).await?;
        }
        let request = CollectRequest { fence: false, ..collect(2, 0) };
        let started = Instant::now();
        let report = engine.collect(&request).await?;
        times.push(started.elapsed().as_secs_f64());
        if report.blobs.count != objects || report.listed.count != objects + 2 {
            return Err(format!("{report:?}: expected {objects} files to go, and two objects to stay").into());
        }
        folder.close()?;
    }
    let note = format!("{objects} objects deleted in a folder");
    let seconds = median(&times);
    plan.report("log.collect", &note, |row, note| row.of(seconds, note))
}
