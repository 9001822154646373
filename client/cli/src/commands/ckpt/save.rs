//! `gigastore ckpt save`
//!
//! Must never report success before the log has the commit.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_client::checkpoint::{Compression, SaveSpec};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::limits::MAX_WORLD_SIZE;
use gigastore_formats::name::{Name, Selector, Target};
use gigastore_formats::wire::Committed;
use serde_json::json;

use super::dcp;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, with_progress, would};

/// Save a local model as a checkpoint
///
/// PATH is a .safetensors file, a model.safetensors.index.json, or a folder with either (its other
/// files, such as config.json and tokenizer.json, are saved along). Slices that the run's latest
/// checkpoint has are not sent again. Run after a crash, only what is missing is sent. A step that
/// exists with the same content is success.
///
/// Examples:
///
///   gigastore ckpt save model.safetensors --to demo/minilm@100 --tag best
///
///   gigastore ckpt save ./model --to demo/minilm@100 --rank 2 --ranks 4 --attempt job-17
///
///   gigastore ckpt save --from-dcp ./checkpoint --to demo/run@1000
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Save {
    /// The model
    #[arg(required_unless_present = "from_dcp")]
    path: Option<PathBuf>,
    /// Save a folder that PyTorch's DCP wrote, its shards as slices; needs the Python package, and torch
    #[arg(long, value_name = "DIR", conflicts_with_all = ["path", "ranks", "rank", "attempt", "metadata", "no_dedup"])]
    from_dcp: Option<PathBuf>,
    /// Where to: PROJECT/RUN@STEP
    #[arg(long, value_name = "PROJECT/RUN@STEP")]
    to: Target,
    /// Ranks that save together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WORLD_SIZE)))]
    ranks: u32,
    /// Save only this rank's share; the other ranks are other processes
    #[arg(long, requires = "attempt")]
    rank: Option<u32>,
    /// What tells this launch of the job from others, the same for all its ranks
    #[arg(long, value_name = "ID")]
    attempt: Option<String>,
    /// A tag to set
    #[arg(long, value_parser = Name::new_tag)]
    tag: Option<Name>,
    /// Metadata to keep with the checkpoint
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Store slices compressed where that makes them at least 5 % smaller; =auto: only while the store takes bytes more
    /// slowly than they are compressed, so that the save is not slower for it
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "always")]
    compress: Option<When>,
    /// Refer to nothing of the run's latest checkpoint; packs that are in the store under the same name are not sent
    /// again (verify finds damaged ones)
    #[arg(long)]
    no_dedup: bool,
    /// How long to wait for other ranks
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    deadline: u64,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// When slices are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum When {
    /// While that makes the save no slower
    Auto,
    /// However long it takes
    Always,
}

impl From<When> for Compression {
    fn from(when: When) -> Self {
        match when {
            When::Auto => Self::Auto,
            When::Always => Self::Always,
        }
    }
}

impl Save {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let Some(Selector::Number(step)) = self.to.selector else {
            let text = format!("--to {} names no step: expected PROJECT/RUN@STEP, such as demo/minilm@100", self.to);
            return Err(Failure::usage(text));
        };
        if self.rank.is_some_and(|rank| rank >= self.ranks) {
            return Err(Failure::usage(format!("--rank must be below --ranks {}", self.ranks)));
        }
        let Some(path) = &self.path else {
            return self.import(globals).await;
        };
        let model = LocalModel::open(path)?;
        let (tensors, bytes) = (model.tensors().len(), model.bytes());
        if globals.dry_run {
            let (files, bytes) = (model.files().len(), size(bytes));
            would(globals.format, &format!("save {tensors} tensors and {files} files, {bytes} in all, as {}", self.to));
            return Ok(());
        }
        let mut spec = SaveSpec::new(self.to.project.clone(), self.to.name.clone(), step, self.ranks);
        spec.attempt = self.attempt;
        spec.tag = self.tag;
        spec.compress = self.compress.map_or(Compression::Off, Compression::from);
        spec.dedup = !self.no_dedup;
        spec.deadline = Duration::from_secs(self.deadline);
        spec.metadata = model.metadata().clone();
        spec.metadata.extend(self.metadata);
        let (started, progress) = (Instant::now(), Progress::default());
        let ranks = self.rank.map_or(0..self.ranks, |rank| rank..rank + 1);
        let world_size = self.ranks;
        let store = globals.create().await?;
        let work = async {
            let save = store.begin_save(spec, progress.clone()).await?;
            let ranks = ranks.map(|rank| {
                let (save, model) = (&save, &model);
                async move {
                    save.rank(rank, model.slices(rank, world_size)?).await?;
                    Ok::<(), Failure>(())
                }
            });
            futures::future::try_join_all(ranks).await?;
            Ok::<(Committed, Vec<String>), Failure>((save.finish().await?, save.notes()))
        };
        let (committed, notes) = with_progress(globals.quiet, "saving", &progress, work).await?;
        let sent = progress.snapshot().moved;
        if globals.json() {
            let info = &committed.info;
            say_json(&json!({
                "target": self.to.to_string(), "existed": committed.existed, "seq": info.seq,
                "content": info.commit.content, "bytes": info.commit.bytes, "slices": info.commit.items,
                "sent_bytes": sent, "tags": info.tags, "notes": notes,
            }));
            return Ok(());
        }
        let verb = if committed.existed { "exists with the same content:" } else { "saved" };
        say(&format_args!(
            "{} {verb} {tensors} tensors, {}, {} sent, {:.2} s",
            self.to,
            size(committed.info.commit.bytes),
            size(sent),
            started.elapsed().as_secs_f64()
        ));
        if !globals.quiet {
            notes.iter().for_each(|text| note(&format_args!("note: {text}")));
            note(&format_args!("content digest {}", committed.info.commit.content));
        }
        Ok(())
    }

    async fn import(&self, globals: &Globals) -> Result<(), Failure> {
        let folder = self.from_dcp.as_deref().unwrap_or(Path::new(""));
        if globals.dry_run {
            would(globals.format, &format!("save the DCP checkpoint {} as {}", folder.display(), self.to));
            return Ok(());
        }
        if self.compress == Some(When::Auto) {
            return Err(Failure::usage("--from-dcp knows --compress, not --compress=auto"));
        }
        let tag = self.tag.as_ref().map(Name::as_str);
        dcp::import(globals, folder, &self.to, tag, self.compress.is_some()).await
    }
}
