//! A store: what there is, and the ways to checkpoints and datasets.
//!
//! Must never use a connection of another process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gigastore_client::checkpoint::diff::{Change, diff};
use gigastore_client::checkpoint::open::OpenError;
use gigastore_client::store::{OpenMode, Store as Client};
use gigastore_formats::name::{Name, ProjectName, Selector, Target};
use gigastore_formats::wire::{CommitInfo, Depth, Fault, FaultCode, VerifyProgress, VerifyRequest};
use pyo3::prelude::*;
use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::dataset::Dataset;
use crate::error::{invalid, json as told, parsed, raise};
use crate::process::{OfProcess, Watched, process, wait, wait_quietly};

/// A store, by its URL.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Store {
    url: String,
    token: Option<String>,
    mode: OpenMode,
    client: OfProcess<Client>,
}

impl Store {
    /// Returns the store as this process reaches it.
    pub(crate) fn client(&self, py: Python<'_>) -> PyResult<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let process = process(py)?;
        let opened = Client::open_in(Arc::clone(&process.ambient), &self.url, self.mode, self.token.clone());
        let client = wait_quietly(py, opened)?.with_buffers(process.buffers.clone());
        self.client.set(client.clone());
        Ok(client)
    }
}

/// Returns a target that stays what it is: its tag replaced by the number that it means.
pub(crate) fn bound(target: &Target, info: &CommitInfo) -> Target {
    Target { selector: Some(Selector::Number(info.commit.number)), ..target.clone() }
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (url, token = None, create = true))]
    fn new(py: Python<'_>, url: String, token: Option<String>, create: bool) -> PyResult<Self> {
        let mode = if create { OpenMode::Create } else { OpenMode::Existing };
        let store = Self { url, token, mode, client: OfProcess::empty() };
        store.client(py)?;
        Ok(store)
    }

    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    #[getter]
    fn refetched(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.client(py)?.refetched())
    }

    fn projects(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let client = self.client(py)?;
        let projects = wait_quietly(py, client.projects())?;
        Ok(projects.iter().map(ToString::to_string).collect())
    }

    fn project(&self, py: Python<'_>, project: &str) -> PyResult<String> {
        let (client, project) = (self.client(py)?, parsed::<ProjectName>(py, project)?);
        told(py, &wait_quietly(py, client.project(&project))?)
    }

    fn resolve(&self, py: Python<'_>, target: &str) -> PyResult<String> {
        let (client, target) = (self.client(py)?, parsed::<Target>(py, target)?);
        told(py, &wait_quietly(py, client.resolve(&target))?)
    }

    fn set_tag(&self, py: Python<'_>, target: &str, tag: &str) -> PyResult<String> {
        let (client, target) = (self.client(py)?, parsed::<Target>(py, target)?);
        let tag = Name::new_tag(tag).map_err(|error| raise(py, &Fault::new(FaultCode::Invalid, &error)))?;
        told(py, &wait_quietly(py, client.set_tag(&target, &tag))?)
    }

    fn records(&self, py: Python<'_>, project: &str, after: u64, wait: f64) -> PyResult<String> {
        let (client, project) = (self.client(py)?, parsed::<ProjectName>(py, project)?);
        let wait = seconds(py, "wait", wait)?;
        told(py, &wait_quietly(py, client.records(&project, after, wait))?)
    }

    #[pyo3(signature = (target, depth, progress = None))]
    fn verify(
        &self,
        py: Python<'_>,
        target: &str,
        depth: &str,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (client, request) = (self.client(py)?, self.request(py, target, depth)?);
        let (done, moved) = (AtomicU64::new(0), AtomicU64::new(0));
        let watched = Watched::by(progress);
        let tell = |now: VerifyProgress| {
            // What comes in is how far it is; counters take what was added.
            watched.progress.plan(now.bytes.saturating_sub(done.swap(now.bytes, Ordering::Relaxed)));
            let added = now.bytes_done.saturating_sub(moved.swap(now.bytes_done, Ordering::Relaxed));
            watched.progress.done(added);
            watched.progress.moved(added);
        };
        told(py, &wait(py, &watched, client.verify(&request, &tell))?)
    }

    fn diff(&self, py: Python<'_>, before: &str, after: &str) -> PyResult<String> {
        let client = self.client(py)?;
        let (before, after) = (parsed::<Target>(py, before)?, parsed::<Target>(py, after)?);
        let found = wait_quietly(py, async {
            let (before, after) = (client.checkpoint(&before).await?, client.checkpoint(&after).await?);
            Ok::<_, OpenError>(diff(&before, &after))
        })?;
        let of = |wanted: &[Change]| {
            let names = found.changes.iter().filter(|(.., change)| wanted.contains(change));
            names.map(|(name, ..)| name.as_str()).collect::<Vec<_>>()
        };
        let changed = of(&[Change::Changed, Change::Reshaped, Change::Resharded]);
        let (added, removed) = (of(&[Change::Added]), of(&[Change::Removed]));
        let streams: BTreeMap<_, _> = found.streams.iter().map(|(name, data)| (name, data.as_str())).collect();
        told(
            py,
            &json!({
                "added": added, "removed": removed, "changed": changed, "unchanged": found.same, "streams": streams,
            }),
        )
    }

    fn checkpoint(slf: Bound<'_, Self>, target: &str) -> PyResult<Checkpoint> {
        let py = slf.py();
        let (client, target) = (slf.get().client(py)?, parsed::<Target>(py, target)?);
        let found = wait_quietly(py, client.checkpoint(&target))?;
        Ok(Checkpoint::new(slf.unbind(), target, found))
    }

    fn dataset(slf: Bound<'_, Self>, target: &str) -> PyResult<Dataset> {
        let py = slf.py();
        let (client, target) = (slf.get().client(py)?, parsed::<Target>(py, target)?);
        let found = wait_quietly(py, client.dataset(&target))?;
        Ok(Dataset::new(slf.unbind(), target, found))
    }
}

impl Store {
    fn request(&self, py: Python<'_>, target: &str, depth: &str) -> PyResult<VerifyRequest> {
        let depth = match depth {
            "full" => Depth::Full,
            "quick" => Depth::Quick,
            share => match share.parse::<f64>() {
                Ok(share) if share > 0.0 && share <= 1.0 => Depth::Sample(share),
                _ => return Err(invalid(py, format!("depth {share:?}: expected full, quick, or a share up to 1"))),
            },
        };
        let plain = target.strip_prefix("gigastore://").unwrap_or(target);
        if !plain.contains('/') {
            return Ok(VerifyRequest { project: parsed(py, plain)?, name: None, number: None, depth });
        }
        let target: Target = parsed(py, plain)?;
        let number = match &target.selector {
            Some(_) => Some(wait_quietly(py, self.client(py)?.resolve(&target))?.commit.number),
            None => None,
        };
        Ok(VerifyRequest { project: target.project, name: Some(target.name), number, depth })
    }
}

/// Returns a time; refuses what is none.
pub(crate) fn seconds(py: Python<'_>, what: &str, given: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(given).map_err(|_| invalid(py, format!("{what}: {given} is no number of seconds")))
}
