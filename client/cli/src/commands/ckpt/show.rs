//! `gigastore ckpt show`
//!
//! Must never read tensor data: the manifest says it all.

mod cursors;
mod timeline;

use clap::Args;
use gigastore_client::checkpoint::Checkpoint;
use gigastore_formats::name::Target;
use gigastore_formats::tensor::slice::SliceKind;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, say, say_json, size, table};

/// Show what a checkpoint holds: tensors with type, shape, bytes, parameters and digests, and where its data was
///
/// A digest is what b3sum prints for the same bytes: of the whole tensor where it is one slice,
/// else see --slices.
///
/// Examples:
///
///   gigastore ckpt show demo/minilm@100 --slices
///   gigastore ckpt show demo/minilm@100 --timeline
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Show {
    /// What to show; without @… the latest
    target: Target,
    /// List each slice with its box, pack and digest
    #[arg(long)]
    slices: bool,

    /// Show what each phase of the save took, for which ranks, and why it was slow
    #[arg(long, conflicts_with = "slices")]
    timeline: bool,
}

impl Show {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        if self.timeline {
            return timeline::show(&store, &self.target, globals).await;
        }
        let checkpoint = store.checkpoint(&self.target).await?;
        if globals.json() {
            say_json(&document(&checkpoint));
            return Ok(());
        }
        let info = checkpoint.info();
        let tensors = checkpoint.tensors();
        let of = |kind: SliceKind| tensors.iter().filter(move |tensor| tensor.kind == kind);
        let parameters: u64 = of(SliceKind::Tensor).map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        say(&format_args!("{}/{}@{}", self.target.project, info.commit.name, info.commit.number));
        say(&format_args!(
            "  committed   {} in log record {}, by {} ranks",
            moment(info.time),
            info.seq,
            info.commit.world_size
        ));
        say(&format_args!(
            "  tensors     {} in {} slices, {parameters} parameters",
            of(SliceKind::Tensor).count(),
            info.commit.items
        ));
        say(&format_args!("  files       {}", of(SliceKind::File).count()));
        say(&format_args!("  size        {}", size(info.commit.bytes)));
        say(&format_args!("  tags        {}", if info.tags.is_empty() { "-".to_owned() } else { info.tags.join(" ") }));
        say(&format_args!("  content     {}", info.commit.content));
        for (name, cursor) in checkpoint.cursors() {
            say(&cursors::line(name, cursor));
        }
        for (key, value) in &checkpoint.meta().metadata {
            say(&format_args!("  {key} = {value}"));
        }
        say(&"");
        if self.slices {
            self.slices(&checkpoint);
        } else {
            tree(&checkpoint);
        }
        Ok(())
    }

    fn slices(&self, checkpoint: &Checkpoint) {
        let rows: Vec<Vec<String>> = checkpoint
            .rows()
            .iter()
            .map(|row| {
                let codec = row.place.codec.as_str().to_owned();
                let pack = format!("{}.{}", row.place.pack.digest.short(), row.place.pack.epoch);
                let at = row.place.offset.to_string();
                vec![row.slice.to_string(), size(row.slice.bytes()), codec, pack, at, row.blake3.to_string()]
            })
            .collect();
        table(&["slice", "size", "codec", "pack", "offset", "blake3"], &rows);
    }
}

/// Prints tensors as a tree: what neighbours have in common is printed once.
fn tree(checkpoint: &Checkpoint) {
    let tensors = checkpoint.tensors();
    let mut before: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for tensor in &tensors {
        let parts: Vec<String> = match tensor.kind {
            SliceKind::Tensor => tensor.name.split('.').map(str::to_owned).collect(),
            SliceKind::File => vec![tensor.name.clone()],
        };
        let common = parts.iter().zip(&before).take_while(|(a, b)| a == b).count().min(parts.len() - 1);
        for (depth, part) in parts.iter().enumerate().take(parts.len() - 1).skip(common) {
            rows.push(vec![format!("{}{part}", "  ".repeat(depth))]);
        }
        let saved = &checkpoint.rows()[tensor.rows.clone()];
        let digest = match saved {
            [only] => only.blake3.short(),
            slices => format!("{} slices", slices.len()),
        };
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        let elements = tensor.shape.iter().product::<u64>().to_string();
        let name = format!("{}{}", "  ".repeat(parts.len() - 1), parts[parts.len() - 1]);
        let (dtype, parameters) = match tensor.kind {
            SliceKind::Tensor => (tensor.dtype.to_string(), elements),
            SliceKind::File => ("file".to_owned(), "-".to_owned()),
        };
        rows.push(vec![name, dtype, shape, size(tensor.bytes), parameters, digest]);
        before = parts;
    }
    table(&["tensor", "dtype", "shape", "size", "parameters", "blake3"], &rows);
}

fn document(checkpoint: &Checkpoint) -> serde_json::Value {
    let info = checkpoint.info();
    let tensors: Vec<_> = checkpoint
        .tensors()
        .into_iter()
        .map(|tensor| {
            let slices: Vec<_> = checkpoint.rows()[tensor.rows.clone()]
                .iter()
                .map(|row| {
                    json!({
                        "global_offsets": row.slice.area().offsets(), "sizes": row.slice.area().sizes(),
                        "bytes": row.slice.bytes(), "blake3": row.blake3, "codec": row.place.codec.as_str(),
                        "pack": row.place.pack, "offset": row.place.offset, "stored_bytes": row.place.stored_len,
                    })
                })
                .collect();
            json!({
                "kind": tensor.kind.as_str(), "name": tensor.name, "dtype": tensor.dtype.as_str(),
                "shape": tensor.shape, "bytes": tensor.bytes, "slices": slices,
            })
        })
        .collect();
    json!({
        "run": info.commit.name, "step": info.commit.number, "seq": info.seq, "time_ms": info.time,
        "world_size": info.commit.world_size, "bytes": info.commit.bytes, "content": info.commit.content,
        "tags": info.tags, "pinned": info.pinned, "parent": checkpoint.meta().parent,
        "metadata": checkpoint.meta().metadata, "cursors": checkpoint.cursors(), "tensors": tensors,
    })
}
