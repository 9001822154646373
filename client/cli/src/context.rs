//! What every command has: the store, the format, and whether anything may be changed.
//!
//! Must never open a store that the command does not need.

use clap::Args;
use gigastore_client::store::{OpenMode, Store, StoreUrl};

use crate::failure::Failure;
use crate::output::{Format, note};

/// Flags of every command.
#[derive(Args, Clone)]
pub(crate) struct Globals {
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://…, az://… (cloud settings come from the environment), or a
    /// service, http(s)://HOST:PORT (its token comes from GIGASTORE_TOKEN; several endpoints: separated by commas)
    #[arg(long, global = true, env = "GIGASTORE_STORE", value_name = "URL")]
    pub(crate) store: Option<String>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "human")]
    pub(crate) format: Format,
    /// Say what would be done, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// No progress, no notes
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

impl Globals {
    /// Opens the store for reading.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        self.opened(OpenMode::Existing).await
    }

    /// Opens the store for writing; creates it where it is not there.
    pub(crate) async fn create(&self) -> Result<Store, Failure> {
        self.opened(OpenMode::Create).await
    }

    async fn opened(&self, mode: OpenMode) -> Result<Store, Failure> {
        let store = Store::open(self.url()?, mode).await?;
        if let Some(trouble) = store.cache_trouble().filter(|_| !self.quiet) {
            note(&format_args!("{trouble}; reading from the store"));
        }
        Ok(store)
    }

    /// Tells whether results are JSON.
    pub(crate) fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Returns the store's URL.
    pub(crate) fn url(&self) -> Result<&str, Failure> {
        let url = self.store.as_deref().ok_or_else(|| {
            let text = "no store: pass --store URL or set GIGASTORE_STORE";
            Failure::usage(text).with_hint("for a folder on this machine: --store file:///absolute/path")
        })?;
        if url.contains("://") {
            return Ok(url);
        }
        let refused = Failure::usage(format!("{url:?} is not a URL"));
        let meant = std::path::absolute(url).ok().and_then(|path| StoreUrl::of_folder(&path).ok());
        Err(match meant {
            Some(meant) => refused.with_hint(format!("did you mean --store {meant}?")),
            None => refused,
        })
    }
}
