//! Local safetensors files as sources of a checkpoint: one file, a sharded model by its `index.json`, or a folder with
//! all that belongs to a model.
//!
//! Headers are read and checked; tensor data stays on disk until it is saved. Must never take two tensors of one name,
//! nor a file whose length is not what its header says, nor leave out what lies in a folder without saying so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::limits::MAX_SAFETENSORS_HEADER_BYTES;
use gigastore_formats::name::{NameError, check_path};
use gigastore_formats::tensor::boxes::{BoxError, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;
pub use gigastore_formats::tensor::files::METADATA_PREFIX;
use gigastore_formats::tensor::header::{HeaderError, PREFIX_BYTES, SafetensorsHeader, header_len};
use gigastore_formats::tensor::index::{ShardIndex, ShardIndexError};
use gigastore_formats::tensor::slice::{SliceError, SliceId};

use super::save::Slice;
use super::shard::shard;
use crate::transfer::source::{SliceData, SourceError, SourceFile};

/// Bytes of an `index.json`: 256 MiB name some two million tensors.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Opaque files of a folder: beyond a few hundred it is not a model's folder but somebody's home.
const MAX_FILES: usize = 1000;

/// The ending of an index of a sharded model.
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// A model on this machine.
#[derive(Debug)]
pub struct LocalModel {
    name: String,
    tensors: Vec<LocalTensor>,
    files: Vec<LocalFile>,
    metadata: BTreeMap<String, String>,
}

/// A tensor of a local model.
#[derive(Clone, Debug)]
pub struct LocalTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub data: SliceData,
}

/// Another file of a model's folder: a config, a tokenizer.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Its path below the folder, with `/` between components.
    pub path: String,
    /// Its bytes.
    pub data: SliceData,
}

/// Why a path is not a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A folder can't be listed.
    #[error("folder {path} can't be listed")]
    Folder {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not a safetensors file.
    #[error("{path} is not a sound safetensors file: {source}")]
    Header {
        /// The file.
        path: String,
        /// What is wrong.
        source: HeaderError,
    },
    /// An index is not that of a sharded model.
    #[error("{path} is not a sound index of a sharded model: {source}")]
    Index {
        /// The index.
        path: String,
        /// What is wrong.
        source: ShardIndexError,
    },
    /// An index is too long.
    #[error("{path} has {actual} bytes, over the limit of {MAX_INDEX_BYTES} for an index")]
    IndexTooLong {
        /// The index.
        path: String,
        /// Its bytes.
        actual: u64,
    },
    /// An index names a tensor that its file does not have.
    #[error("{path} says that tensor {tensor:?} is in {file}, but it is not there")]
    NotThere {
        /// The index.
        path: String,
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// Two files have a tensor of the same name.
    #[error("tensor {name:?} is both in {first} and in {second}: name the files that belong together")]
    Twice {
        /// The tensor.
        name: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A folder has no safetensors file.
    #[error("no safetensors file in {path}: name a .safetensors file, an index.json, or a folder with either")]
    Empty {
        /// The folder.
        path: String,
    },
    /// A folder has too many other files.
    #[error("{path} has more than {MAX_FILES} files besides the model: name the .safetensors file instead")]
    TooMany {
        /// The folder.
        path: String,
    },
    /// Something in a folder is not a file and can't be kept.
    #[error(
        "{path} is {what}, which can't be saved: put what it stands for in its place, or move it out of the folder"
    )]
    NotAFile {
        /// Its path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A file's name can't be kept.
    #[error("in {folder}: {source}")]
    Name {
        /// The folder.
        folder: String,
        /// What is wrong.
        source: NameError,
    },
    /// A tensor can't be saved.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// A tensor can't be sharded.
    #[error("tensor {name}: {source}")]
    Shard {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: BoxError,
    },
}

impl LocalModel {
    /// Opens a `.safetensors` file, an `index.json` of a sharded model, or a folder: its safetensors files (by its
    /// index if there is one), and every other file below it as an opaque file, hidden ones left out. Safetensors files
    /// that the index does not name, or that lie in folders below, are opaque files as well: their tensors may have the
    /// names of the model's own.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let mut model = Self { name, tensors: Vec::new(), files: Vec::new(), metadata: BTreeMap::new() };
        if path.is_dir() {
            model.add_folder(path)?;
        } else if path.to_string_lossy().ends_with(".json") {
            model.add_index(path).map(drop)?;
        } else {
            model.add_file(path)?;
        }
        model.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(model)
    }

    /// Returns the last component of the path it was opened from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its tensors, by name.
    pub fn tensors(&self) -> &[LocalTensor] {
        &self.tensors
    }

    /// Returns its other files.
    pub fn files(&self) -> &[LocalFile] {
        &self.files
    }

    /// Returns the metadata of its safetensors files, keys prefixed with [`METADATA_PREFIX`].
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the bytes of its tensors and files.
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter().map(|tensor| tensor.data.len());
        tensors.chain(self.files.iter().map(|file| file.data.len())).sum()
    }

    /// Returns the elements of its tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum()
    }

    /// Returns what `rank` of `world_size` saves: its box of each tensor, and on rank 0 the files.
    pub fn slices(&self, rank: u32, world_size: u32) -> Result<Vec<Slice>, ModelError> {
        let mut slices = Vec::new();
        for LocalTensor { name, dtype, shape, data } in &self.tensors {
            let sharded = |source| ModelError::Shard { name: name.clone(), source };
            let Some(area) = shard(name, *dtype, shape, rank, world_size).map_err(sharded)? else { continue };
            // The rows before a shard make whole bytes: shards of sub-byte elements start at multiples of four rows.
            let start = match (area.offsets().first(), shape.get(1..)) {
                (Some(first), Some(row)) => {
                    let before = TensorBox::whole(&[&[*first], row].concat());
                    before.and_then(|before| before.bytes(*dtype)).map_err(sharded)?
                }
                _ => 0,
            };
            let id = SliceId::tensor(name, *dtype, shape, area)?;
            let data = data.part(start, id.bytes());
            slices.push(Slice { id, data, replicas: Vec::new() });
        }
        if rank == 0 {
            for LocalFile { path, data } in &self.files {
                let id = SliceId::file(path, data.len())?;
                slices.push(Slice { id, data: data.clone(), replicas: Vec::new() });
            }
        }
        Ok(slices)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), ModelError> {
        let mut paths = Vec::new();
        list(folder, &mut paths)?;
        paths.sort();
        let has_ending = |path: &PathBuf, ending: &str| path.to_string_lossy().ends_with(ending);
        let top = |path: &&PathBuf| path.parent() == Some(folder);
        let ending = |ending| paths.iter().filter(top).filter(move |path| has_ending(path, ending));
        // What the model's tensors come from; all else is an opaque file.
        let mut read = BTreeSet::new();
        if ending(INDEX_SUFFIX).next().is_none() {
            for path in ending(".safetensors") {
                self.add_file(path)?;
                read.insert(path.clone());
            }
        }
        for index in ending(INDEX_SUFFIX) {
            read.extend(self.add_index(index)?);
            read.insert(index.clone());
        }
        if self.tensors.is_empty() {
            return Err(ModelError::Empty { path: folder.display().to_string() });
        }
        for path in paths.iter().filter(|path| !read.contains(*path)) {
            let relative = path.strip_prefix(folder).unwrap_or(path);
            let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let name = parts.join("/");
            check_path(&name).map_err(|source| ModelError::Name { folder: folder.display().to_string(), source })?;
            let file = SourceFile::open(path)?;
            self.files.push(LocalFile { path: name, data: SliceData::File(file.region(0, file.len())) });
        }
        Ok(())
    }

    /// Adds the tensors of a sharded model; returns its files.
    fn add_index(&mut self, path: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let index = SourceFile::open(path)?;
        if index.len() > MAX_INDEX_BYTES {
            return Err(ModelError::IndexTooLong { path: path.display().to_string(), actual: index.len() });
        }
        let mut bytes = vec![0; index.len() as usize];
        index.read_at(0, &mut bytes)?;
        let broken = |source| ModelError::Index { path: path.display().to_string(), source };
        let index = ShardIndex::parse(&bytes).map_err(broken)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files: Vec<PathBuf> = index.files().into_iter().map(|file| folder.join(file)).collect();
        for file in &files {
            self.add_file(file)?;
        }
        let there: BTreeSet<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        match index.weight_map().iter().find(|(tensor, _)| !there.contains(tensor.as_str())) {
            Some((tensor, file)) => {
                let (path, tensor, file) = (path.display().to_string(), tensor.clone(), file.clone());
                Err(ModelError::NotThere { path, tensor, file })
            }
            None => Ok(files),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = SourceFile::open(path)?;
        let header = read_header(&file)?;
        for (key, value) in &header.metadata {
            self.metadata.insert(format!("{METADATA_PREFIX}{key}"), value.clone());
        }
        let mut there: BTreeMap<String, String> =
            self.tensors.iter().map(|tensor| (tensor.name.clone(), source_of(&tensor.data))).collect();
        for (name, info) in header.tensors {
            let data = SliceData::File(file.region(header.header_len + info.data.start(), info.data.len()));
            if let Some(first) = there.insert(name.clone(), path.display().to_string()) {
                return Err(ModelError::Twice { name, first, second: path.display().to_string() });
            }
            self.tensors.push(LocalTensor { name, dtype: info.dtype, shape: info.shape, data });
        }
        Ok(())
    }
}

fn source_of(data: &SliceData) -> String {
    match data {
        SliceData::Memory(_) | SliceData::Shared(_) => "memory".to_owned(),
        SliceData::File(region) => region.path().display().to_string(),
    }
}

/// Reads and checks the header of an open safetensors file.
fn read_header(file: &Arc<SourceFile>) -> Result<SafetensorsHeader, ModelError> {
    let broken = |source| ModelError::Header { path: file.path().display().to_string(), source };
    let mut prefix = [0; PREFIX_BYTES];
    let short = (file.len() as usize).min(PREFIX_BYTES);
    file.read_at(0, &mut prefix[..short])?;
    let len = header_len(prefix, MAX_SAFETENSORS_HEADER_BYTES.min(file.len())).map_err(broken)?;
    let mut bytes = vec![0; len.min(file.len()) as usize];
    file.read_at(0, &mut bytes)?;
    let header = SafetensorsHeader::parse(&bytes, MAX_SAFETENSORS_HEADER_BYTES).map_err(broken)?;
    header.check_file_len(file.len()).map_err(broken)?;
    Ok(header)
}

/// Lists the files below a folder, hidden ones left out.
fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), ModelError> {
    let refuse = |source| ModelError::Folder { path: folder.display().to_string(), source };
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to files count as files; links to folders are not followed, so that a loop can't be.
        let path = entry.path();
        let kind = entry.file_type().map_err(refuse)?;
        if kind.is_dir() {
            list(&path, found)?;
        } else if path.is_file() {
            if found.len() >= MAX_FILES {
                return Err(ModelError::TooMany { path: folder.display().to_string() });
            }
            found.push(path);
        } else {
            let what = match (kind.is_symlink(), path.is_dir()) {
                (true, true) => "a link to a folder",
                (true, false) => "a link that leads to no file",
                _ => "neither a file nor a folder",
            };
            return Err(ModelError::NotAFile { path: path.display().to_string(), what });
        }
    }
    Ok(())
}
