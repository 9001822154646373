//! The end of the demo: a byte is flipped in the store, and the next read and `verify` must refuse it.
//!
//! Must never leave the byte flipped, nor take another error for the refusal.

use std::path::Path;

use gigastore_client::checkpoint::restore::RestoreError;
use gigastore_client::store::Store;
use gigastore_client::transfer::FetchError;
use gigastore_formats::name::Target;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, VerifyRequest};
use serde_json::{Value, json};

use super::damage::Flipped;
use crate::commands::verify::verify;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say};

/// A flipped byte, and who refused it.
pub(super) struct Refused {
    object: String,
    position: u64,
    refusals: [Refusal; 2],
}

struct Refusal {
    by: &'static str,
    tensor: String,
    object: String,
    range: (u64, u64),
    problem: String,
}

/// Flips one byte of the largest slice of a tensor in the store, reads the tensor and verifies, and puts the byte back.
pub(super) async fn flip_and_read(
    globals: &Globals,
    store: &Store,
    target: &Target,
    folder: &Path,
) -> Result<Refused, Failure> {
    let checkpoint = store.checkpoint(target).await?;
    let tensors = checkpoint.rows().iter().filter(|row| row.slice.kind() == SliceKind::Tensor);
    let largest = tensors.filter(|row| row.place.stored_len > 0).max_by_key(|row| row.slice.bytes());
    let row = largest.ok_or_else(|| Failure::general("no tensor of the model has a byte to flip"))?.clone();
    let flipped = Flipped::new(folder, target, &row)?;
    let read = match checkpoint.read_whole(SliceKind::Tensor, row.slice.name()).await {
        Err(RestoreError::Fetch(FetchError::Damaged { slice, object, range, fault })) => {
            let (range, problem) = ((range.start(), range.end()), fault.to_string());
            Refusal { by: "read", tensor: slice, object, range, problem }
        }
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Failure::general("a damaged tensor was read without a word")),
    };
    let request = VerifyRequest { project: target.project.clone(), name: None, number: None, depth: Depth::Full };
    let report = verify(globals, store, &request).await?;
    let hits = |range: Option<(u64, u64)>| range.is_some_and(|(a, b)| (a..b).contains(&flipped.position()));
    let finding = report.findings.into_iter().find(|finding| hits(finding.range));
    let finding = finding.ok_or_else(|| Failure::general("verify did not see a flipped byte"))?;
    let verified = Refusal {
        by: "verify",
        tensor: finding.affects.join(", "),
        object: finding.object,
        range: finding.range.unwrap_or_default(),
        problem: finding.problem,
    };
    let (object, position) = (flipped.object().to_owned(), flipped.position());
    flipped.put_back()?;
    Ok(Refused { object, position, refusals: [read, verified] })
}

impl Refused {
    /// Returns it for programs.
    pub(super) fn document(&self) -> Value {
        let refusals: Vec<_> = self
            .refusals
            .iter()
            .map(|Refusal { by, tensor, object, range, problem }| {
                json!({ "by": by, "tensor": tensor, "object": object, "range": range, "problem": problem })
            })
            .collect();
        json!({ "object": self.object, "byte": self.position, "refusals": refusals })
    }

    /// Prints it for people.
    pub(super) fn print(&self, globals: &Globals) {
        say(&format_args!("\nOne bit flipped in the store, then read and verified again:\n"));
        say(&format_args!("  flipped  byte {} of {}\n", self.position, self.object));
        for Refusal { by, tensor, object, range: (start, end), problem } in &self.refusals {
            say(&format_args!("  {by} refused"));
            say(&format_args!("    tensor   {tensor}"));
            say(&format_args!("    object   {object}, bytes {start}..{end}"));
            say(&format_args!("    problem  {problem}"));
        }
        if !globals.quiet {
            note(&"peers that load such a byte without a word: torch.load, PyTorch DCP, safetensors, Orbax");
        }
    }
}
