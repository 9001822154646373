//! The engine: one open store, and the logs of its projects.
//!
//! Must never hold a rule of its own: each verb is in its own file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::name::ProjectName;
use gigastore_formats::wire::Committed;

use crate::commit::CommitError;
use crate::flights::Flights;
use crate::log::{Log, LogError, State};
use crate::quarantine::Marks;
use crate::save::FinishError;
use crate::store::{ObjectStore, Objects, OpenError, OpenMode, StoreError, StoreUrl, keys};

/// An open store. Cheap to clone; clones share what they have seen of the logs.
#[derive(Clone)]
pub struct Engine {
    pub(crate) objects: Objects,
    pub(crate) ambient: Arc<dyn Ambient>,
    logs: Arc<Mutex<BTreeMap<ProjectName, Arc<Log>>>>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) saves_joining: Flights<Result<Committed, Arc<FinishError>>>,
    pub(crate) datasets_joining: Flights<Result<Committed, Arc<CommitError>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("url", &self.objects.url()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the store at `url`; `settings` are object_store's own key-value pairs, such as the environment's.
    pub async fn open(
        url: &StoreUrl,
        mode: OpenMode,
        settings: impl IntoIterator<Item = (String, String)>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, OpenError> {
        Ok(Self::over(Objects::open(url, mode, settings, Arc::clone(&ambient)).await?, ambient))
    }

    /// Runs on an object store that is set up already: a test's double, a wrapper with limits. `url` is what errors
    /// call it.
    pub async fn with_store(
        store: Arc<dyn ObjectStore>,
        url: String,
        mode: OpenMode,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, OpenError> {
        Ok(Self::over(Objects::with_store(store, url, mode, Arc::clone(&ambient)).await?, ambient))
    }

    fn over(objects: Objects, ambient: Arc<dyn Ambient>) -> Self {
        let (saves_joining, datasets_joining) = Default::default();
        let (logs, marks) = Default::default();
        Self { objects, ambient, logs, marks, saves_joining, datasets_joining }
    }

    /// Returns the store's URL.
    pub fn url(&self) -> &str {
        self.objects.url()
    }

    /// Returns the time, chance and threads that it was given.
    pub fn ambient(&self) -> Arc<dyn Ambient> {
        Arc::clone(&self.ambient)
    }

    /// Lists the projects.
    pub async fn projects(&self) -> Result<Vec<ProjectName>, StoreError> {
        let folders = self.objects.folders(keys::PROJECTS).await?;
        // A folder whose name is no project's was put there by somebody else.
        Ok(folders.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Reads the log of `project` to its tail. A project without a log has the state of the origin.
    pub async fn state(&self, project: &ProjectName) -> Result<Arc<State>, LogError> {
        let state = self.log(project).refresh().await?;
        if state.seq == 0 {
            // Who asks for projects that are not there must not fill the memory with their logs.
            self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(project);
        }
        Ok(state)
    }

    /// Returns the newest epoch of a project that this process has seen.
    pub(crate) fn seen_epoch(&self, project: &ProjectName) -> u64 {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(project).map_or(0, |log| log.seen().epoch)
    }

    pub(crate) fn log(&self, project: &ProjectName) -> Arc<Log> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(Log::new(self.objects.clone(), Arc::clone(&self.ambient), project.clone()));
        Arc::clone(logs.entry(project.clone()).or_insert_with(open))
    }
}
