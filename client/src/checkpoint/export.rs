//! A checkpoint as safetensors files on this machine: whole tensors, each once, and its opaque files beside them.
//!
//! Files are written under staging names in the destination and renamed when all of them are complete. Must never leave
//! a partial file under its final name, nor replace a file unless told to.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::tensor::files::{FileLayout, FileTensor, INDEX, LayoutError, SHARD_BYTES, View};
use gigastore_formats::tensor::slice::SliceKind;
use globset::Glob;

use super::open::{Checkpoint, TensorInfo};
use super::restore::{RestoreError, Wanted};
use crate::staging::{Staging, StagingError};
use crate::transfer::progress::Progress;
use crate::transfer::sink::{FileSink, Sink};

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Names of tensors and paths of files, or globs over them; empty for all. Each must match something; what is the
    /// name of a tensor or file is not taken for a glob.
    pub names: Vec<String>,
    /// Whether files that are there are replaced.
    pub overwrite: bool,
    /// Longest safetensors file: a model that is longer goes into several, with an index. Never splits a tensor.
    pub max_file_bytes: u64,
}

impl Default for ExportSpec {
    /// Everything, into files of up to 5 GB, the size that model hubs use.
    fn default() -> Self {
        Self { names: Vec::new(), overwrite: false, max_file_bytes: SHARD_BYTES }
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
    /// Nothing has this name or matches this glob.
    #[error("{target} has no tensor or file that matches {glob:?}")]
    NoMatch {
        /// The checkpoint.
        target: String,
        /// The name or glob.
        glob: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// A saved file has the name that a file of the exported model gets.
    #[error(
        "{target} has a saved file {name}, and its tensors are written to a file of that name: restore them into two \
         folders, with --names {name} for the one and --names with the tensors' names for the other"
    )]
    Clash {
        /// The checkpoint.
        target: String,
        /// The file.
        name: String,
    },
    /// The tensors do not make files.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The destination took no file.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl Checkpoint {
    /// Writes the checkpoint into the folder `out`.
    pub async fn export(&self, out: &Path, spec: &ExportSpec, progress: &Progress) -> Result<Exported, ExportError> {
        let all = self.tensors();
        let chosen = self.choose(&all, &spec.names)?;
        let (tensors, files): (Vec<&TensorInfo>, Vec<_>) =
            chosen.into_iter().partition(|tensor| tensor.kind == SliceKind::Tensor);
        let layout = self.lay_out(&tensors, spec.max_file_bytes)?;
        let written = |name: &str| layout.file(name).is_some() || name == INDEX && layout.index().is_some();
        if let Some(file) = files.iter().find(|file| written(&file.name)) {
            return Err(ExportError::Clash { target: self.target().to_string(), name: file.name.clone() });
        }
        let mut staging = Staging::new(out, spec.overwrite, &self.store.ambient)?;
        let mut wanted = Vec::new();
        for made in layout.files() {
            let file = staging.create(&made.name, made.len)?;
            staging.write(&file, &made.name, &made.header, 0)?;
            wanted.extend(made.tensors.clone().map(|i| want(tensors[i], &file, layout.start(i))));
        }
        if let Some(index) = layout.index() {
            let file = staging.create(INDEX, index.len() as u64)?;
            staging.write(&file, INDEX, index, 0)?;
        }
        for tensor in &files {
            let file = staging.create(&tensor.name, tensor.bytes)?;
            wanted.push(want(tensor, &file, 0));
        }
        self.read(wanted, progress).await?;
        let bytes = tensors.iter().chain(&files).map(|tensor| tensor.bytes).sum();
        let files = staging.finish(&*self.store.ambient).await?;
        Ok(Exported { files, tensors: tensors.len(), bytes })
    }

    /// Puts tensors into files in the order of their names, each file up to `max_bytes`.
    fn lay_out(&self, tensors: &[&TensorInfo], max_bytes: u64) -> Result<FileLayout, LayoutError> {
        let view = View::fitting(tensors.iter().map(|tensor| tensor.bytes), max_bytes);
        let tensors: Vec<FileTensor<'_>> = tensors
            .iter()
            .map(|tensor| FileTensor { name: &tensor.name, dtype: tensor.dtype, shape: &tensor.shape })
            .collect();
        FileLayout::new(&tensors, &self.meta().metadata, &self.info().commit.content, view)
    }

    /// Finds what has one of these names or matches one of these globs.
    fn choose<'t>(&self, all: &'t [TensorInfo], names: &[String]) -> Result<Vec<&'t TensorInfo>, ExportError> {
        if names.is_empty() {
            return Ok(all.iter().collect());
        }
        let mut chosen = BTreeSet::new();
        for name in names {
            // Names may have brackets, as those of JAX do: a name that is there is not a glob.
            let mut found: Vec<usize> = (0..all.len()).filter(|i| all[*i].name == *name).collect();
            if found.is_empty() {
                let glob = Glob::new(name).map_err(|source| ExportError::Glob { glob: name.clone(), source })?;
                let glob = glob.compile_matcher();
                found = (0..all.len()).filter(|i| glob.is_match(&all[*i].name)).collect();
            }
            if found.is_empty() {
                let (target, known) = (self.target().to_string(), all.iter().map(|one| one.name.clone()).collect());
                return Err(ExportError::NoMatch { target, glob: name.clone(), known });
            }
            chosen.extend(found);
        }
        Ok(chosen.into_iter().map(|i| &all[i]).collect())
    }
}

fn want(tensor: &TensorInfo, file: &Arc<File>, start: u64) -> Wanted {
    let sink: Arc<dyn Sink> = FileSink::new(Arc::clone(file), start, tensor.bytes);
    Wanted { kind: tensor.kind, name: tensor.name.clone(), area: None, sink }
}
