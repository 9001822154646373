//! A checkpoint as safetensors files: whole tensors, each once, and its opaque files beside them.
//!
//! Files are written under staging names in the destination and renamed when all of them are complete. Must never leave
//! a partial file under its final name, nor replace a file unless told to.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::header::{TensorInfo as HeaderEntry, write_header};
use gigastore_formats::tensor::slice::SliceKind;
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::model::METADATA_PREFIX;
use super::open::{Checkpoint, TensorInfo};
use super::restore::{RestoreError, Wanted};
use crate::staging::{Staging, StagingError};
use crate::transfer::progress::Progress;
use crate::transfer::sink::{FileSink, Sink};

/// Alignment of the data of an exported file: a page, so that readers can map tensors.
const ALIGNMENT: u64 = 4096;

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Globs over names of tensors and paths of files; empty for all.
    pub names: Vec<String>,
    /// Whether files that are there are replaced.
    pub overwrite: bool,
    /// Longest safetensors file: a model that is longer goes into several, with an index. Never splits a tensor.
    pub max_file_bytes: u64,
}

impl Default for ExportSpec {
    /// Everything, into files of up to 5 GB, the size that model hubs use.
    fn default() -> Self {
        Self { names: Vec::new(), overwrite: false, max_file_bytes: 5_000_000_000 }
    }
}

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// The files, all complete.
    pub files: Vec<PathBuf>,
    /// Tensors in them.
    pub tensors: usize,
    /// Logical bytes of tensors and files.
    pub bytes: u64,
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A glob is not one.
    #[error("{glob:?} is not a pattern of names: {source}")]
    Glob {
        /// What was given.
        glob: String,
        /// What is wrong.
        source: globset::Error,
    },
    /// No name matches.
    #[error("{target} has no tensor or file that matches {globs:?}")]
    NoMatch {
        /// The checkpoint.
        target: String,
        /// The globs.
        globs: Vec<String>,
        /// Names that there are.
        known: Vec<String>,
    },
    /// The destination took no file.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// One safetensors file to be written.
struct Plan<'t> {
    name: String,
    header: Vec<u8>,
    /// Tensors and where their data start in the file.
    tensors: Vec<(&'t TensorInfo, u64)>,
    len: u64,
}

impl Checkpoint {
    /// Writes the checkpoint into the folder `out`.
    pub async fn export(&self, out: &Path, spec: &ExportSpec, progress: &Progress) -> Result<Exported, ExportError> {
        let all = self.tensors();
        let globs = globs(&spec.names)?;
        let chosen: Vec<&TensorInfo> =
            all.iter().filter(|tensor| spec.names.is_empty() || globs.is_match(&tensor.name)).collect();
        if chosen.is_empty() {
            let known = all.iter().map(|tensor| tensor.name.clone()).collect();
            return Err(ExportError::NoMatch { target: self.target().to_string(), globs: spec.names.clone(), known });
        }
        let (tensors, files): (Vec<&TensorInfo>, Vec<_>) =
            chosen.into_iter().partition(|tensor| tensor.kind == SliceKind::Tensor);
        let plans = self.plan_files(&tensors, spec.max_file_bytes);
        let mut staging = Staging::new(out, spec.overwrite, &self.store.ambient)?;
        let mut wanted = Vec::new();
        for plan in &plans {
            let file = staging.create(&plan.name, plan.len)?;
            staging.write(&file, &plan.name, &plan.header, 0)?;
            wanted.extend(plan.tensors.iter().map(|(tensor, start)| want(tensor, &file, *start)));
        }
        if plans.len() > 1 {
            let index = index(&plans);
            let file = staging.create(INDEX, index.len() as u64)?;
            staging.write(&file, INDEX, &index, 0)?;
        }
        for tensor in &files {
            let file = staging.create(&tensor.name, tensor.bytes)?;
            wanted.push(want(tensor, &file, 0));
        }
        self.read(wanted, progress).await?;
        let bytes = tensors.iter().chain(&files).map(|tensor| tensor.bytes).sum();
        let files = self.store.ambient.computed(move || staging.finish()).await?;
        Ok(Exported { files, tensors: tensors.len(), bytes })
    }

    /// Puts tensors into files in the order of their names, each file up to `max_bytes`.
    fn plan_files<'t>(&self, tensors: &[&'t TensorInfo], max_bytes: u64) -> Vec<Plan<'t>> {
        let mut files: Vec<Vec<&TensorInfo>> = Vec::new();
        let mut filled = 0;
        for tensor in tensors.iter().copied() {
            match files.last_mut() {
                Some(file) if filled + tensor.bytes <= max_bytes => file.push(tensor),
                _ => {
                    files.push(vec![tensor]);
                    filled = 0;
                }
            }
            filled += tensor.bytes;
        }
        let metadata = self.meta().metadata.iter();
        let metadata: BTreeMap<String, String> = metadata
            .filter_map(|(key, value)| Some((key.strip_prefix(METADATA_PREFIX)?.to_owned(), value.clone())))
            .collect();
        let count = files.len();
        let name = |i: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        files.into_iter().enumerate().map(|(i, tensors)| plan_file(name(i), &metadata, tensors)).collect()
    }
}

/// The name of the index of a model in several files.
const INDEX: &str = "model.safetensors.index.json";

fn plan_file<'t>(name: String, metadata: &BTreeMap<String, String>, tensors: Vec<&'t TensorInfo>) -> Plan<'t> {
    let mut end = 0;
    let entries: Vec<(String, HeaderEntry)> = tensors
        .iter()
        .map(|tensor| {
            let data = ByteRange::with_len(end, tensor.bytes).expect("tensors of one file stay below 2^64");
            end = data.end();
            (tensor.name.clone(), HeaderEntry { dtype: tensor.dtype, shape: tensor.shape.clone(), data })
        })
        .collect();
    let header = write_header(metadata, &entries, ALIGNMENT);
    let start = header.len() as u64;
    let places = entries.iter().map(|(_, entry)| start + entry.data.start());
    let tensors = tensors.into_iter().zip(places).collect();
    Plan { name, len: start + end, header, tensors }
}

fn index(plans: &[Plan<'_>]) -> Vec<u8> {
    let weight_map: BTreeMap<&str, &str> = plans
        .iter()
        .flat_map(|plan| plan.tensors.iter().map(|(tensor, _)| (tensor.name.as_str(), plan.name.as_str())))
        .collect();
    let total: u64 = plans.iter().flat_map(|plan| plan.tensors.iter()).map(|(tensor, _)| tensor.bytes).sum();
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let mut bytes = serde_json::to_vec_pretty(&index).expect("names and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

fn want(tensor: &TensorInfo, file: &Arc<File>, start: u64) -> Wanted {
    let sink: Arc<dyn Sink> = FileSink::new(Arc::clone(file), start, tensor.bytes);
    Wanted { kind: tensor.kind, name: tensor.name.clone(), area: None, sink }
}

fn globs(names: &[String]) -> Result<GlobSet, ExportError> {
    let mut set = GlobSetBuilder::new();
    for glob in names {
        let refuse = |source| ExportError::Glob { glob: glob.clone(), source };
        set.add(Glob::new(glob).map_err(refuse)?);
    }
    set.build().map_err(|source| ExportError::Glob { glob: names.join(" "), source })
}
