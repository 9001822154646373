//! `gigastore ckpt tag`
//!
//! Must never move `latest`: commits do.

use clap::Args;
use gigastore_formats::name::{Name, Target};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, would};

/// Point a tag at a checkpoint or dataset version
///
/// Example:
///
///   gigastore ckpt tag demo/minilm@100 best
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tag {
    /// What to tag; without @… the latest
    target: Target,
    /// The tag
    #[arg(value_parser = Name::new_tag)]
    tag: Name,
}

impl Tag {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        if globals.dry_run {
            let info = store.resolve(&self.target).await?;
            let (name, number) = (&info.commit.name, info.commit.number);
            would(globals.format, &format!("point {} at {}/{name}@{number}", self.tag, self.target.project));
            return Ok(());
        }
        let info = store.set_tag(&self.target, &self.tag).await?;
        let (name, number) = (&info.commit.name, info.commit.number);
        if globals.json() {
            say_json(&json!({ "name": name, "number": number, "tag": self.tag, "tags": info.tags }));
            return Ok(());
        }
        say(&format_args!("{} points at {}/{name}@{number}", self.tag, self.target.project));
        Ok(())
    }
}
