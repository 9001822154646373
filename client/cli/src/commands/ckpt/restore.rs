//! `gigastore ckpt restore`
//!
//! Must never write a byte that was not verified, nor pass over a damaged step without saying so.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use gigastore_client::Coded;
use gigastore_client::checkpoint::export::{ExportSpec, Exported};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::wire::{CommitInfo, FaultCode};
use serde_json::json;

use super::dcp;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, with_progress, would};

/// Write a checkpoint as safetensors files, every byte verified
///
/// Whole tensors, each once: model.safetensors, or several files and an index above 5 GB; other
/// saved files beside them. Nothing appears under its final name before all of it is complete.
///
/// Examples:
///
///   gigastore ckpt restore demo/minilm@100 --out ./model
///
///   gigastore ckpt restore demo/minilm --out ./layers --names 'encoder.layer.0.*' --fallback
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Restore {
    /// What to restore; without @… the latest
    target: Target,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write a folder that PyTorch's DCP loads instead; needs the Python package, and torch
    #[arg(long, conflicts_with_all = ["names", "fallback", "overwrite"])]
    dcp: bool,
    /// Only these tensors and files: names, or patterns of names; each must match something
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    names: Vec<String>,
    /// Where the step is damaged or can't be read, take the newest one before it that verifies
    #[arg(long)]
    fallback: bool,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

/// Why one step was not restored.
struct Refused {
    code: FaultCode,
    /// The store said so, not this machine.
    by_store: bool,
    failure: Failure,
}

impl<E: Coded> From<E> for Refused {
    fn from(error: E) -> Self {
        Self { code: error.code(), by_store: error.fault().is_some(), failure: error.into() }
    }
}

impl Restore {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        if self.dcp && !globals.dry_run {
            return dcp::export(globals, &self.target, &self.out).await;
        }
        let store = globals.open().await?;
        let started = Instant::now();
        let candidates = self.candidates(&store).await?;
        let mut passed = Vec::new();
        for target in candidates {
            let refused = match self.restore(globals, &store, &target).await {
                Ok(exported) => {
                    store.cache_settled().await;
                    return self.done(globals, &target, exported, &passed, started);
                }
                Err(refused) if !self.fallback => return Err(refused.failure),
                Err(refused) => refused,
            };
            let why = match refused.code {
                FaultCode::Integrity | FaultCode::Lost => "is damaged",
                // Some object of it; where the store is away altogether, older steps are no way out.
                FaultCode::Unavailable | FaultCode::Denied
                    if refused.by_store && store.resolve(&target).await.is_ok() =>
                {
                    "can't be read"
                }
                _ => return Err(refused.failure),
            };
            note(&format_args!("{target} {why} and passed over:"));
            refused.failure.print(globals.format);
            passed.push(target.to_string());
        }
        Err(Failure::integrity(format!("no step of {} verifies: {} tried", self.target, passed.len())))
    }

    /// The step that was asked for and, with --fallback, those committed before it, newest first.
    async fn candidates(&self, store: &Store) -> Result<Vec<Target>, Failure> {
        let first = store.resolve(&self.target).await?;
        let at =
            |info: &CommitInfo| Target { selector: Some(Selector::Number(info.commit.number)), ..self.target.clone() };
        let mut targets = vec![at(&first)];
        if self.fallback {
            let project = store.project(&self.target.project).await?;
            let run = project.names.into_iter().find(|name| name.name == self.target.name);
            let mut older: Vec<CommitInfo> = run.map(|run| run.live).unwrap_or_default();
            older.retain(|info| info.seq < first.seq);
            older.sort_by_key(|info| std::cmp::Reverse(info.seq));
            targets.extend(older.iter().map(at));
        }
        Ok(targets)
    }

    async fn restore(&self, globals: &Globals, store: &Store, target: &Target) -> Result<Option<Exported>, Refused> {
        let checkpoint = store.checkpoint(target).await.map_err(Refused::from)?;
        if globals.dry_run {
            return Ok(None);
        }
        let spec = ExportSpec { names: self.names.clone(), overwrite: self.overwrite, ..ExportSpec::default() };
        let (progress, before) = (Progress::default(), store.refetched());
        let export = checkpoint.export(&self.out, &spec, &progress);
        let exported = with_progress(globals.quiet, "restoring", &progress, export).await;
        // Not those of a newer step that was passed over for its damage.
        let refetched = store.refetched() - before;
        if refetched > 0 && exported.is_ok() {
            note(&format_args!(
                "{refetched} reads came damaged, and right when they were made once more: look at the network, the \
                 cache and the disks on the way (`gigastore verify {target}` reads all of the store)"
            ));
        }
        exported.map(Some).map_err(Refused::from)
    }

    fn done(
        &self,
        globals: &Globals,
        target: &Target,
        exported: Option<Exported>,
        passed: &[String],
        started: Instant,
    ) -> Result<(), Failure> {
        let Some(Exported { files, tensors, bytes }) = exported else {
            would(globals.format, &format!("restore {target} into {}", self.out.display()));
            return Ok(());
        };
        if globals.json() {
            let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            say_json(&json!({
                "target": target.to_string(), "files": files, "tensors": tensors, "bytes": bytes, "damaged": passed,
            }));
            return Ok(());
        }
        let seconds = started.elapsed().as_secs_f64();
        say(&format_args!("{target} restored: {tensors} tensors, {}, verified, {seconds:.2} s", size(bytes)));
        for file in files {
            say(&format_args!("  {}", file.display()));
        }
        Ok(())
    }
}
