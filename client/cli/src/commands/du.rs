//! `gigastore du`
//!
//! Must never count an object twice: packs are shared between checkpoints.

use std::collections::BTreeMap;

use clap::Args;
use gigastore_client::store::Store;
use gigastore_formats::name::{ProjectName, Selector, Target};
use gigastore_formats::object::ObjectKind;
use gigastore_formats::record::{Commit, Sort};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{nothing_committed, say, say_json, size, table};

/// Show how many bytes are stored
///
/// Of each run and dataset: bytes of its live steps or versions as if each were alone (logical),
/// stored bytes that nothing else refers to (own) or others do too (shared), and how many of them
/// more than one of its steps refers to (by steps).
///
/// Example:
///
///   gigastore du demo
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Du {
    /// The project; all where none is named
    project: Option<ProjectName>,
}

/// What one run or dataset refers to.
struct Used {
    project: ProjectName,
    name: String,
    live: usize,
    logical: u64,
    /// Packs or files.
    objects: BTreeMap<String, Object>,
    /// Manifests and lists of packs, and their bytes.
    manifests: BTreeMap<String, u64>,
}

/// A pack or file.
#[derive(Default)]
struct Object {
    bytes: u64,
    /// Live steps or versions of one name that refer to it.
    steps: u32,
}

impl Du {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let (projects, all) = match self.project {
            Some(project) => (vec![project], false),
            None => (store.projects().await?, true),
        };
        let mut used = Vec::new();
        for project in projects {
            match of_project(&store, &project).await {
                Ok(found) => used.extend(found),
                Err(failure) if all && failure.is_not_found() => nothing_committed(&project),
                Err(failure) => return Err(failure),
            }
        }
        // How many runs or datasets of a project refer to each object.
        let mut holders: BTreeMap<(&ProjectName, &str), u32> = BTreeMap::new();
        for (one, key) in used.iter().flat_map(|one| one.objects.keys().map(move |key| (one, key))) {
            *holders.entry((&one.project, key)).or_default() += 1;
        }
        let alone = |one: &Used, alone: bool| -> u64 {
            let keeps = |key: &&String| (holders[&(&one.project, key.as_str())] == 1) == alone;
            one.objects.iter().filter(|(key, _)| keeps(key)).map(|(_, object)| object.bytes).sum()
        };
        let by_steps = |one: &Used| -> u64 {
            one.objects.values().filter(|object| object.steps > 1).map(|object| object.bytes).sum()
        };
        let objects = |one: &'_ Used| -> Vec<(String, u64)> {
            let objects = one.objects.iter().map(|(key, object)| (key, object.bytes));
            objects.chain(one.manifests.iter().map(|(key, bytes)| (key, *bytes))).map(|(k, b)| (k.clone(), b)).collect()
        };
        let unique: BTreeMap<(&ProjectName, String), u64> = used
            .iter()
            .flat_map(|one| objects(one).into_iter().map(move |(key, bytes)| ((&one.project, key), bytes)))
            .collect();
        let logical: u64 = used.iter().map(|one| one.logical).sum();
        let stored = unique.values().sum::<u64>();
        if globals.json() {
            let names: Vec<_> = used
                .iter()
                .map(|one| {
                    json!({
                        "project": one.project, "name": one.name, "live": one.live, "logical_bytes": one.logical,
                        "own_bytes": alone(one, true), "shared_bytes": alone(one, false),
                        "shared_by_steps_bytes": by_steps(one),
                        "manifest_bytes": one.manifests.values().sum::<u64>(),
                    })
                })
                .collect();
            say_json(&json!({ "names": names, "logical_bytes": logical, "stored_bytes": stored }));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = used
            .iter()
            .map(|one| {
                let name = format!("{}/{}", one.project, one.name);
                let (own, shared) = (size(alone(one, true)), size(alone(one, false)));
                let (logical, manifests) = (size(one.logical), size(one.manifests.values().sum()));
                vec![name, one.live.to_string(), logical, own, shared, size(by_steps(one)), manifests]
            })
            .collect();
        table(&["name", "live", "logical", "own", "shared", "by steps", "manifests"], &rows);
        say(&format_args!("logical {}, stored {}", size(logical), size(stored)));
        Ok(())
    }
}

async fn of_project(store: &Store, project: &ProjectName) -> Result<Vec<Used>, Failure> {
    let mut used = Vec::new();
    for name in store.project(project).await?.names {
        let (mut objects, mut manifests) = (BTreeMap::<String, Object>::new(), BTreeMap::new());
        for info in &name.live {
            let Commit { number, sort, .. } = &info.commit;
            manifests.extend(info.commit.indexes().map(|index| (index.object.key(ObjectKind::Manifest), index.len)));
            let selector = Some(Selector::Number(*number));
            let target = Target { project: project.clone(), name: name.name.clone(), selector };
            // Two files of one version may be the same bytes: each object once.
            let stored: BTreeMap<String, u64> = match sort {
                Sort::Checkpoint => {
                    let packs = store.packs(&target).await?;
                    packs.iter().map(|row| (row.pack.key(ObjectKind::Pack), row.bytes)).collect()
                }
                Sort::Dataset => {
                    let dataset = store.dataset(&target).await?;
                    dataset.files().iter().map(|row| (row.blob.key(ObjectKind::Blob), row.bytes)).collect()
                }
            };
            for (key, bytes) in stored {
                let object = objects.entry(key).or_default();
                (object.bytes, object.steps) = (bytes, object.steps + 1);
            }
        }
        let logical = name.live.iter().map(|info| info.commit.bytes).sum();
        let (live, project) = (name.live.len(), project.clone());
        used.push(Used { project, name: name.name.to_string(), live, logical, manifests, objects });
    }
    Ok(used)
}
