//! Records of the log, and states folded from them.

use std::sync::Arc;

use async_trait::async_trait;
use gigastore_client::store::Store;
use gigastore_engine::Engine;
use gigastore_formats::wire::{FaultCode, ProjectInfo};
use gigastore_tests::opened::save;

use crate::checkpoints::{create, spec, tensors};
use crate::scene::{Must, Reader, Scene, contents, named, others};

/// Tags that make the log long enough for one folded state.
const TAGS_TO_FOLD: usize = 64;

/// Bytes of a folded state of which one is damaged: a case reads all of the log that the state would have spared.
const FOLDED_STRIDE: usize = 17;

/// Asks what a project has.
struct Project(ProjectInfo);

#[async_trait]
impl Reader for Project {
    async fn read(&self, _: &Engine, store: &Store) -> Result<(), FaultCode> {
        let info = store.project(&"p".parse().unwrap()).await.map_err(|fault| fault.code)?;
        assert_eq!(info, self.0, "the log says something else");
        Ok(())
    }
}

pub(crate) async fn scenes() -> Vec<Scene> {
    let mut found = records().await;
    found.extend(folded().await);
    found
}

async fn tagged(tags: usize, run: &str) -> (Vec<(object_store::path::Path, bytes::Bytes)>, Arc<Project>) {
    let (objects, store) = create().await;
    save(&store, spec(run, 1), &tensors(1)).await.unwrap();
    for i in 0..tags {
        let tag = format!("t{i}").parse().unwrap();
        store.set_tag(&format!("p/{run}@1").parse().unwrap(), &tag).await.unwrap();
    }
    let info = store.project(&"p".parse().unwrap()).await.unwrap();
    (contents(&objects).await, Arc::new(Project(info)))
}

async fn records() -> Vec<Scene> {
    // Of the same length, and of another project: what is found where a record of ours should be.
    let (strangers, _) = tagged(2, "nur").await;
    let (objects, reader) = tagged(2, "run").await;
    let objects = Arc::new(objects);
    let records = named(&objects, "/log/");
    let scene = |(key, _): &(object_store::path::Path, bytes::Bytes)| {
        let mut other = others(&objects, key);
        other.extend(others(&named(&strangers, "/log/"), &"".into()));
        let (objects, reader) = (Arc::clone(&objects), Arc::<Project>::clone(&reader));
        // A reader to whom a record is gone sees the log up to it; the gap behind is seen in `whole.rs`.
        let (kind, must, needed) = ("log record", Must::Found, false);
        Scene { kind, objects, key: key.clone(), others: other, reader, must, stride: 1, needed }
    };
    records.iter().map(scene).collect()
}

async fn folded() -> Vec<Scene> {
    let (strangers, _) = tagged(TAGS_TO_FOLD, "nur").await;
    let (objects, reader) = tagged(TAGS_TO_FOLD, "run").await;
    let (key, _) = named(&objects, "/folded/").pop().unwrap();
    let mut other = others(&named(&strangers, "/folded/"), &"".into());
    other.extend(others(&named(&objects, "/manifests/"), &key));
    let (kind, must, objects) = ("folded state", Must::Harmless, Arc::new(objects));
    vec![Scene { kind, objects, key, others: other, reader, must, stride: FOLDED_STRIDE, needed: true }]
}
