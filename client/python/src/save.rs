//! Saves: one rank's slices, read where they lie in memory of Python's objects; at once, or from a copy.
//!
//! Must never read memory of an object after a save in the background has returned to its caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use gigastore_client::checkpoint::asynchronous::{AsyncSaver, Begun, Busy, PendingSave, Staging, StateLayout};
use gigastore_client::checkpoint::{Compression, SaveError, SaveSpec, Slice};
use gigastore_client::transfer::source::SliceData;
use gigastore_formats::manifest::Cursors;
use gigastore_formats::name::{Name, Target};
use gigastore_formats::order::Cursor;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::prelude::*;

use crate::error::{invalid, json, parsed, raise};
use crate::memory::source;
use crate::process::{OfProcess, Watched, wait, wait_quietly};
use crate::released;
use crate::store::{Store, seconds};

/// Name, type, global shape, offsets, sizes, memory, ranks that hold the same.
type SliceGiven<'py> = (String, String, Vec<u64>, Vec<u64>, Vec<u64>, Bound<'py, PyAny>, Vec<u32>);

/// Path and bytes.
type FileGiven<'py> = (String, Bound<'py, PyAny>);

/// What all kinds of saves are told.
struct Options<'o> {
    world_size: u32,
    attempt: Option<String>,
    metadata: BTreeMap<String, String>,
    cursors: BTreeMap<String, String>,
    tag: Option<String>,
    compress: &'o str,
    dedup: bool,
    deadline: f64,
}

fn spec(py: Python<'_>, target: &str, step: u64, options: Options<'_>) -> PyResult<SaveSpec> {
    let target: Target = parsed(py, target)?;
    if let Some(selector) = &target.selector {
        let (project, run) = (&target.project, &target.name);
        let text = format!("the step is given apart: expected \"{project}/{run}\", without @{selector}");
        return Err(invalid(py, text));
    }
    let mut spec = SaveSpec::new(target.project, target.name, step, options.world_size);
    (spec.attempt, spec.metadata, spec.dedup) = (options.attempt, options.metadata, options.dedup);
    spec.cursors = cursors(py, options.cursors)?;
    spec.compress = compression(py, options.compress)?;
    let tag = options.tag.as_deref().map(Name::new_tag).transpose();
    spec.tag = tag.map_err(|error| raise(py, &Fault::new(FaultCode::Invalid, &error)))?;
    spec.deadline = seconds(py, "deadline", options.deadline)?;
    Ok(spec)
}

/// Parses cursors, which are JSON, by the names of their streams.
fn cursors(py: Python<'_>, given: BTreeMap<String, String>) -> PyResult<Cursors> {
    let one = |(name, json): (String, String)| match Cursor::parse(json.as_bytes()) {
        Ok(cursor) => Ok((name, cursor)),
        Err(error) => Err(invalid(py, format!("data stream {name:?}: {error}"))),
    };
    given.into_iter().map(one).collect()
}

fn compression(py: Python<'_>, word: &str) -> PyResult<Compression> {
    match word {
        "off" => Ok(Compression::Off),
        "auto" => Ok(Compression::Auto),
        "always" => Ok(Compression::Always),
        _ => Err(invalid(py, format!("compress={word:?}: expected False, True or \"auto\""))),
    }
}

/// Returns the slices of a rank.
fn slices(py: Python<'_>, tensors: &[SliceGiven<'_>], files: &[FileGiven<'_>]) -> PyResult<Vec<Slice>> {
    let refuse = |text: String| invalid(py, text);
    let tensors = tensors.iter().map(|(name, dtype, shape, offsets, sizes, memory, replicas)| {
        let dtype: Dtype = parsed(py, dtype)?;
        let area =
            TensorBox::new(offsets.clone(), sizes.clone()).map_err(|error| refuse(format!("{name}: {error}")))?;
        let id = SliceId::tensor(name, dtype, shape, area).map_err(|error| refuse(error.to_string()))?;
        Ok(Slice { id, data: SliceData::Shared(source(memory)?), replicas: replicas.clone() })
    });
    let files = files.iter().map(|(path, memory)| {
        let data = source(memory)?;
        let id = SliceId::file(path, data.len() as u64).map_err(|error| refuse(error.to_string()))?;
        Ok(Slice { id, data: SliceData::Shared(data), replicas: Vec::new() })
    });
    tensors.chain(files).collect()
}

#[pymethods]
impl Store {
    #[pyo3(signature = (
        target, step, tensors, files, *, rank, world_size, attempt, metadata, cursors, tag, compress, dedup, deadline,
        commit, progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a call of Python's")]
    fn save(
        &self,
        py: Python<'_>,
        target: &str,
        step: u64,
        tensors: Vec<SliceGiven<'_>>,
        files: Vec<FileGiven<'_>>,
        rank: u32,
        world_size: u32,
        attempt: Option<String>,
        metadata: BTreeMap<String, String>,
        cursors: BTreeMap<String, String>,
        tag: Option<String>,
        compress: &str,
        dedup: bool,
        deadline: f64,
        commit: bool,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Option<String>> {
        let options = Options { world_size, attempt, metadata, cursors, tag, compress, dedup, deadline };
        let spec = spec(py, target, step, options)?;
        check_rank(py, rank, world_size)?;
        let slices = slices(py, &tensors, &files)?;
        let client = self.client(py)?;
        let watched = Watched::by(progress);
        let saved = wait(py, &watched, async {
            let save = client.begin_save(spec, watched.progress.clone()).await?;
            save.rank(rank, slices).await?;
            Ok::<_, SaveError>(if commit { Some(save.finish().await?) } else { None })
        })?;
        saved.map(|committed| json(py, &committed)).transpose()
    }

    #[pyo3(signature = (target, step, *, world_size, attempt, tag, deadline))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a call of Python's")]
    fn commit(
        &self,
        py: Python<'_>,
        target: &str,
        step: u64,
        world_size: u32,
        attempt: String,
        tag: Option<String>,
        deadline: f64,
    ) -> PyResult<String> {
        // What is saved was told by those who saved it.
        let (attempt, compress, dedup) = (Some(attempt), "off", true);
        let (metadata, cursors) = (BTreeMap::new(), BTreeMap::new());
        let options = Options { world_size, attempt, metadata, cursors, tag, compress, dedup, deadline };
        let spec = spec(py, target, step, options)?;
        let client = self.client(py)?;
        let committed = wait_quietly(py, async {
            let save = client.begin_save(spec, Default::default()).await?;
            save.finish().await
        })?;
        json(py, &committed)
    }
}

fn check_rank(py: Python<'_>, rank: u32, world_size: u32) -> PyResult<()> {
    if rank < world_size {
        return Ok(());
    }
    Err(invalid(py, format!("rank {rank} of {world_size} ranks: ranks are counted from 0")))
}

/// Saves states of one rank in the background, from a copy in memory that is kept.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Saver {
    rank: u32,
    saver: OfProcess<Arc<AsyncSaver>>,
}

impl Saver {
    fn saver(&self, py: Python<'_>) -> PyResult<Arc<AsyncSaver>> {
        let gone = "a saver stays in the process that made it: make one in the process that was forked off";
        self.saver.get().ok_or_else(|| invalid(py, gone))
    }
}

#[pymethods]
impl Saver {
    #[new]
    #[pyo3(signature = (store, rank, state_bytes, states = 1))]
    fn new(py: Python<'_>, store: &Store, rank: u32, state_bytes: u64, states: u32) -> PyResult<Self> {
        let saver = AsyncSaver::new(store.client(py)?, rank, Staging { state_bytes, states });
        Ok(Self { rank, saver: OfProcess::of(Arc::new(saver)) })
    }

    /// Takes all the memory now, and touches it.
    fn reserve(&self, py: Python<'_>) -> PyResult<()> {
        let saver = self.saver(py)?;
        wait_quietly(py, saver.reserve())
    }

    /// Copies a state, and saves the copy. Returns seconds waited, seconds of the copy, and the save; or nothing where
    /// an earlier save is under way and was not to be waited for.
    #[pyo3(signature = (
        target, step, tensors, files, *, world_size, attempt, metadata, cursors, tag, compress, dedup, deadline, wait
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a call of Python's")]
    fn save(
        &self,
        py: Python<'_>,
        target: &str,
        step: u64,
        tensors: Vec<SliceGiven<'_>>,
        files: Vec<FileGiven<'_>>,
        world_size: u32,
        attempt: Option<String>,
        metadata: BTreeMap<String, String>,
        cursors: BTreeMap<String, String>,
        tag: Option<String>,
        compress: &str,
        dedup: bool,
        deadline: f64,
        wait: bool,
    ) -> PyResult<Option<(f64, f64, Pending)>> {
        let options = Options { world_size, attempt, metadata, cursors, tag, compress, dedup, deadline };
        let spec = spec(py, target, step, options)?;
        check_rank(py, self.rank, world_size)?;
        let slices = slices(py, &tensors, &files)?;
        let layout = StateLayout::new(slices.iter().map(|slice| (slice.id.clone(), slice.replicas.clone())));
        let memory: Vec<&[u8]> = slices.iter().map(|slice| bytes_of(&slice.data)).collect();
        let busy = if wait { Busy::Wait } else { Busy::Skip };
        let saver = self.saver(py)?;
        let begun = wait_quietly(py, saver.begin(spec, &layout, &memory, busy));
        drop(slices);
        released::collect(py);
        let begun = begun?;
        Ok(match begun {
            Begun::Staged(times, save) => {
                let save = Pending { save: OfProcess::of(save) };
                Some((times.waited.as_secs_f64(), times.copied.as_secs_f64(), save))
            }
            Begun::Skipped { .. } => None,
        })
    }

    /// Waits until no save is under way, for some seconds or for as long as it takes.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let saver = self.saver(py)?;
        let Some(given) = timeout else { return wait_quietly(py, saver.wait()) };
        let limit = seconds(py, "timeout", given)?;
        // What fails in time is told as it is.
        match wait_quietly(py, async { Ok::<_, Fault>(tokio::time::timeout(limit, saver.wait()).await) })? {
            Ok(ended) => ended.map_err(|error| raise(py, &error)),
            Err(_) => {
                let text = format!("a save in the background is still under way after {given:.0} s");
                Err(raise(py, &Fault::of(FaultCode::Unavailable, text)))
            }
        }
    }
}

/// One save in the background.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Pending {
    save: OfProcess<PendingSave>,
}

#[pymethods]
impl Pending {
    /// Waits until it is done, and returns what was committed. A failure is told each time.
    fn wait(&self, py: Python<'_>) -> PyResult<String> {
        let elsewhere = "the save is another process's: wait for it there";
        let save = self.save.get().ok_or_else(|| invalid(py, elsewhere))?;
        json(py, &wait_quietly(py, save.wait())?)
    }
}

fn bytes_of(data: &SliceData) -> &[u8] {
    match data {
        SliceData::Memory(bytes) | SliceData::Shared(bytes) => bytes,
        SliceData::File(_) => &[],
    }
}
