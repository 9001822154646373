//! `gigastore du`
//!
//! Must never count an object twice: packs are shared between checkpoints.

use std::collections::BTreeMap;

use clap::Args;
use gigastore_client::store::Store;
use gigastore_formats::collect::{DEFAULT_GRACE_MS, UsageReport, UsageRequest};
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
/// more than one of its steps refers to (by steps). Below it what lies in the store: what something
/// live needs, what gc would delete now, what later ones will (uploads of open saves among it), and
/// how much is kept in packs of which less than a quarter is used.
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
        let (mut used, mut total, mut damaged) = (Vec::new(), UsageReport::default(), 0);
        for project in projects {
            match of_project(&store, &project).await {
                Ok(found) => {
                    used.extend(found);
                    damaged += store.damaged(&project).await?.len();
                    let request = UsageRequest { project, grace_ms: DEFAULT_GRACE_MS };
                    add(&mut total, &store.usage(&request).await?);
                }
                Err(failure) if all && failure.is_not_found() => nothing_committed(&project),
                Err(failure) => return Err(failure),
            }
        }
        let shares = Shares::of(&used);
        if globals.json() {
            print_json(&used, &shares, &total, damaged);
        } else {
            print(&used, &shares, &total);
            if damaged > 0 {
                say(&format_args!("{damaged} objects are marked as damaged: see `gigastore scrub`"));
            }
        }
        Ok(())
    }
}

/// What runs and datasets share.
struct Shares<'u> {
    /// How many runs or datasets of a project refer to each object.
    holders: BTreeMap<(&'u ProjectName, &'u str), u32>,
    logical: u64,
    /// Bytes of all objects that something refers to, each once.
    stored: u64,
}

impl<'u> Shares<'u> {
    fn of(used: &'u [Used]) -> Self {
        let mut holders: BTreeMap<(&ProjectName, &str), u32> = BTreeMap::new();
        let mut unique: BTreeMap<(&ProjectName, &str), u64> = BTreeMap::new();
        for one in used {
            for (key, object) in &one.objects {
                *holders.entry((&one.project, key)).or_default() += 1;
                unique.insert((&one.project, key), object.bytes);
            }
            unique.extend(one.manifests.iter().map(|(key, bytes)| ((&one.project, key.as_str()), *bytes)));
        }
        Self { holders, logical: used.iter().map(|one| one.logical).sum(), stored: unique.values().sum() }
    }

    /// Bytes of a run's or dataset's objects that nothing else refers to, or that others do too.
    fn bytes(&self, one: &Used, alone: bool) -> u64 {
        let keeps = |key: &&String| (self.holders[&(&one.project, key.as_str())] == 1) == alone;
        one.objects.iter().filter(|(key, _)| keeps(key)).map(|(_, object)| object.bytes).sum()
    }
}

impl Used {
    /// Bytes that more than one of its steps refers to.
    fn by_steps(&self) -> u64 {
        self.objects.values().filter(|object| object.steps > 1).map(|object| object.bytes).sum()
    }

    fn manifest_bytes(&self) -> u64 {
        self.manifests.values().sum()
    }
}

fn print_json(used: &[Used], shares: &Shares<'_>, total: &UsageReport, damaged: usize) {
    let names: Vec<_> = used
        .iter()
        .map(|one| {
            json!({
                "project": one.project, "name": one.name, "live": one.live, "logical_bytes": one.logical,
                "own_bytes": shares.bytes(one, true), "shared_bytes": shares.bytes(one, false),
                "shared_by_steps_bytes": one.by_steps(), "manifest_bytes": one.manifest_bytes(),
            })
        })
        .collect();
    say_json(&json!({
        "names": names, "logical_bytes": shares.logical, "stored_bytes": shares.stored, "in_store": total.stored,
        "damaged_objects": damaged, "needed": total.needed, "reclaimable": total.reclaimable,
        "reclaimable_later": total.later, "sparse": total.sparse, "sparse_used_bytes": total.sparse_used,
    }));
}

fn print(used: &[Used], shares: &Shares<'_>, total: &UsageReport) {
    let rows: Vec<Vec<String>> = used
        .iter()
        .map(|one| {
            let name = format!("{}/{}", one.project, one.name);
            let (own, shared) = (size(shares.bytes(one, true)), size(shares.bytes(one, false)));
            let (by_steps, manifests) = (size(one.by_steps()), size(one.manifest_bytes()));
            vec![name, one.live.to_string(), size(one.logical), own, shared, by_steps, manifests]
        })
        .collect();
    table(&["name", "live", "logical", "own", "shared", "by steps", "manifests"], &rows);
    say(&format_args!("logical {}, stored {}", size(shares.logical), size(shares.stored)));
    let UsageReport { stored, needed, reclaimable, later, sparse, sparse_used, .. } = total;
    say(&format_args!(
        "in the store {} in {} objects: needed {}, reclaimable now {}, later {}",
        size(stored.bytes),
        stored.count,
        size(needed.bytes),
        size(reclaimable.bytes),
        size(later.bytes)
    ));
    if sparse.count > 0 {
        let (count, bytes, used) = (sparse.count, size(sparse.bytes), size(*sparse_used));
        say(&format_args!("{count} packs of {bytes} are kept for {used} of them"));
    }
}

/// Adds what one project stores to that of others.
fn add(total: &mut UsageReport, one: &UsageReport) {
    total.stored = total.stored.plus(one.stored);
    total.needed = total.needed.plus(one.needed);
    total.reclaimable = total.reclaimable.plus(one.reclaimable);
    total.later = total.later.plus(one.later);
    total.sparse = total.sparse.plus(one.sparse);
    total.sparse_used += one.sparse_used;
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
