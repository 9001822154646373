//! `gigastore data explain`
//!
//! Must never read a token where lengths are stored: the order follows from them alone.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use gigastore_client::dataset::stream::{ExplainedPiece, ExplainedSample};
use gigastore_formats::order::Cursor;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, table};

/// Show which documents a step of a training run consists of
///
/// From the cursor of a data stream, as `stream.cursor()` returns it and checkpoints keep it. Step 0
/// is the next global batch after the cursor; its size is that of all ranks together. A cursor does
/// not know how often datasets are read: --epochs, as the stream has it, matters where several are
/// mixed and one ends before the others.
///
/// Examples:
///
///   gigastore data explain --cursor cursor.json --step 17 --batch-size 8 --world-size 64
///   gigastore ckpt show demo/run@100 --format json | jq -c .cursors.data | gigastore data explain --cursor -
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Explain {
    /// The cursor: a file of JSON, or - for stdin
    #[arg(long, value_name = "FILE")]
    cursor: PathBuf,
    /// Steps after the cursor
    #[arg(long, value_name = "N", default_value_t = 0)]
    step: u64,
    /// Samples of one rank's batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Data-parallel ranks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    world_size: u32,
    /// How often the stream reads each dataset, if not for ever
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
}

impl Explain {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let cursor = Cursor::parse(&self.read()?).map_err(|error| {
            let text = format!("{}: {error}", self.cursor.display());
            Failure::usage(text).with_hint("stream.cursor() returns one, and `ckpt show --format json` has those kept")
        })?;
        let store = globals.open().await?;
        let samples = store.explain(cursor, self.step, (self.world_size, self.batch_size), self.epochs).await?;
        if globals.json() {
            let samples: Vec<_> = samples.iter().map(document).collect();
            say_json(&json!({ "step": self.step, "samples": samples }));
            return Ok(());
        }
        if samples.is_empty() {
            say(&"the stream ends before this step");
            return Ok(());
        }
        let rows: Vec<Vec<String>> = samples.iter().flat_map(lines).collect();
        table(&["sample", "rank", "dataset", "epoch", "file", "row", "id", "tokens"], &rows);
        Ok(())
    }

    fn read(&self) -> Result<Vec<u8>, Failure> {
        let unreadable = |error| Failure::local(&format!("{} can't be read", self.cursor.display()), &error);
        if self.cursor.as_os_str() != "-" {
            return std::fs::read(&self.cursor).map_err(unreadable);
        }
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }
}

fn document(sample: &ExplainedSample) -> serde_json::Value {
    let ExplainedSample { position, rank, dataset, epoch, pieces } = sample;
    let pieces = pieces.iter().map(|piece| {
        let ExplainedPiece { path, row, id, start, len, .. } = piece;
        json!({ "file": path, "row": row, "id": id, "start": start, "tokens": len })
    });
    let pieces: Vec<_> = pieces.collect();
    json!({ "sample": position, "rank": rank, "dataset": dataset, "epoch": epoch, "documents": pieces })
}

/// Returns a line for each piece; what they share stands on the first.
fn lines(sample: &ExplainedSample) -> Vec<Vec<String>> {
    let head = [sample.position.to_string(), sample.rank.to_string(), sample.dataset.clone(), sample.epoch.to_string()];
    let line = |(number, piece): (usize, &ExplainedPiece)| {
        let mut line = if number == 0 { head.to_vec() } else { vec![String::new(); head.len()] };
        let tokens = format!("{}..{}", piece.start, u64::from(piece.start) + u64::from(piece.len));
        line.extend([piece.path.clone(), piece.row.to_string(), piece.id.clone().unwrap_or_default(), tokens]);
        line
    };
    sample.pieces.iter().enumerate().map(line).collect()
}
