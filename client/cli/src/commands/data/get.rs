//! `gigastore data get`
//!
//! Must never write a byte that was not verified.

use std::path::PathBuf;

use clap::Args;
use futures::TryStreamExt;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::Target;
use gigastore_formats::range::ByteRange;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_bytes, say_json, size, with_progress, would};

/// Fetch files of a dataset version, every byte verified
///
/// Examples:
///
///   gigastore data get demo/corpus --out ./corpus
///
///   gigastore data get demo/corpus@3 part-0.parquet --range 4..1000 > bytes
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Get {
    /// The version; without @… the latest
    target: Target,
    /// Files of it; all where none is named
    paths: Vec<String>,
    /// The folder to write to
    #[arg(long, value_name = "DIR", required_unless_present = "range")]
    out: Option<PathBuf>,
    /// Write these bytes of one file to stdout
    #[arg(long, value_name = "START..END", value_parser = range, conflicts_with = "out")]
    range: Option<ByteRange>,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

fn range(text: &str) -> Result<ByteRange, String> {
    let numbers = text.split_once("..").and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
    let (start, end) = numbers.ok_or_else(|| format!("{text:?} is not START..END, such as 0..4096"))?;
    ByteRange::new(start, end).map_err(|error| error.to_string())
}

impl Get {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let dataset = store.dataset(&self.target).await?;
        let progress = Progress::default();
        if let Some(range) = self.range {
            let [path] = &self.paths[..] else {
                return Err(Failure::usage("--range needs exactly one file"));
            };
            let mut pieces = std::pin::pin!(dataset.pieces(path, Some(range), &progress)?);
            while let Some(piece) = pieces.try_next().await? {
                if !say_bytes(&piece) {
                    break;
                }
            }
            return Ok(());
        }
        let out = self.out.unwrap_or_default();
        let paths = match self.paths.is_empty() {
            true => dataset.files().iter().map(|row| row.path.clone()).collect(),
            false => self.paths,
        };
        if globals.dry_run {
            would(globals.format, &format!("write {} files into {}", paths.len(), out.display()));
            return Ok(());
        }
        let (mut fetched, mut failed) = (Vec::new(), Vec::new());
        for path in &paths {
            let to = out.join(path);
            let fetch = dataset.fetch(path, &to, self.overwrite, &progress);
            match with_progress(globals.quiet, "fetching", &progress, fetch).await {
                Ok(bytes) => {
                    if !globals.json() {
                        say(&format_args!("{}  {}, verified", to.display(), size(bytes)));
                    }
                    fetched.push(json!({ "path": path, "file": to.display().to_string(), "bytes": bytes }));
                }
                // One bad file does not keep the others from the user.
                Err(error) => failed.push(Failure::from(error)),
            }
        }
        store.cache_settled().await;
        if globals.json() && !fetched.is_empty() {
            say_json(&json!(fetched));
        }
        let Some(last) = failed.pop() else { return Ok(()) };
        for failure in &failed {
            failure.print(globals.format);
        }
        if fetched.is_empty() {
            return Err(last);
        }
        last.print(globals.format);
        Err(Failure::partial(format!("{} of {} files were not fetched", failed.len() + 1, paths.len())))
    }
}
