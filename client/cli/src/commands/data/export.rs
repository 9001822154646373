//! `gigastore data export`
//!
//! Must never write a log before all files that it names are there and verified.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use gigastore_client::dataset::Dataset;
use gigastore_client::dataset::delta::FIRST_COMMIT;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::Target;
use gigastore_formats::object::ObjectKind;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, with_progress, would};

/// Write a dataset version as a Delta Lake table, for Spark, Polars and DuckDB
///
/// DIR gets the files, every byte verified, and the table's log. With --links it gets the log
/// alone, which names the objects of the store (file://, s3://, gs://, az://) by absolute URLs:
/// nothing is copied, and nothing verified when they are read. Delta's protocol allows such URLs;
/// the deltalake library and Polars do not follow them. Documents that were taken down are empty
/// rows. An export that was cut short is repeated by the same command.
///
/// Example:
///
///   gigastore data export --delta ./table demo/corpus@3
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The version; without @… the latest
    target: Target,
    /// A folder for the table
    #[arg(long, value_name = "DIR")]
    delta: PathBuf,
    /// Name the objects of the store instead of copying them
    #[arg(long)]
    links: bool,
}

impl Export {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let dataset = store.dataset(&self.target).await?;
        let log = self.delta.join(FIRST_COMMIT);
        if log.exists() {
            return Err(Failure::general(format!(
                "{} is a Delta table already: choose another folder",
                self.delta.display()
            )));
        }
        let base = store.url().trim_end_matches('/').to_owned();
        if self.links && base.starts_with("http") {
            let text = "--links: other programs can't read the objects of a service; leave it out to copy them";
            return Err(Failure::usage(text));
        }
        let project = &self.target.project;
        let text = dataset
            .delta_log(|row| match self.links {
                true => format!("{base}/projects/{project}/{}", row.blob.key(ObjectKind::Blob)),
                false => row.path.clone(),
            })
            .await?;
        let files = dataset.files().len();
        if globals.dry_run {
            would(globals.format, &format!("write a Delta table of {files} files into {}", self.delta.display()));
            return Ok(());
        }
        let bytes = if self.links { 0 } else { self.fetch(&dataset, &log, globals).await? };
        store.cache_settled().await;
        write(&log, &text).map_err(|error| Failure::local(&format!("{} can't be written", log.display()), &error))?;
        if globals.json() {
            say_json(&json!({
                "table": self.delta.display().to_string(), "version": dataset.info().commit.number, "files": files,
                "bytes": bytes, "links": self.links,
            }));
            return Ok(());
        }
        let what = if self.links { "named by their URLs".to_owned() } else { format!("{}, verified", size(bytes)) };
        say(&format_args!("{}: a Delta table of {files} files, {what}", self.delta.display()));
        Ok(())
    }

    async fn fetch(&self, dataset: &Dataset, log: &Path, globals: &Globals) -> Result<u64, Failure> {
        let (progress, mut bytes) = (Progress::default(), 0);
        // A folder for a log, and no log in it: an export that was cut short, whose files are its own.
        let folder = log.parent().unwrap_or(Path::new("."));
        let again = folder.is_dir();
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::local(&format!("{} can't be made", folder.display()), &error))?;
        for row in dataset.files() {
            let to = self.delta.join(&row.path);
            let fetch = dataset.fetch(&row.path, &to, again, &progress);
            bytes += with_progress(globals.quiet, "fetching", &progress, fetch).await?;
        }
        Ok(bytes)
    }
}

/// Writes a file that appears whole.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let partial = folder.join(".gigastore-partial");
    let mut file = File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}
