//! What an open save lays down: its announcement, its parts, its end.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_formats::wire::{Fault, FaultCode, FinishRequest, SaveRequest, Session};
use gigastore_tests::opened::slices;
use object_store::path::Path;

use crate::checkpoints::{WholeCheckpoint, create, spec, tensors};
use crate::scene::{Must, Reader, Scene, contents, named, others};

const RANKS: u32 = 2;

fn request(world_size: u32) -> SaveRequest {
    let (project, run, attempt) = ("p".parse().unwrap(), "run".parse().unwrap(), "job".to_owned());
    SaveRequest { project, run, step: 1, attempt, world_size }
}

async fn finish(engine: &Engine) -> Result<(), FaultCode> {
    let request = FinishRequest { save: request(RANKS), tag: None, deadline_ms: 0, waited_ms: 0 };
    engine.finish_save(&request).await.map(|_| ()).map_err(|error| Fault::from(&*error).code)
}

/// Comes to a save that others have begun: in the same way, and with another number of ranks.
struct Begins(Session);

#[async_trait]
impl Reader for Begins {
    async fn read(&self, engine: &Engine, _: &Store) -> Result<(), FaultCode> {
        let other = engine.begin_save(&request(RANKS + 1)).await;
        assert!(other.is_err(), "a save has two numbers of ranks");
        let session = engine.begin_save(&request(RANKS)).await.map_err(|error| Fault::from(&error).code)?;
        assert_eq!(session, self.0);
        Ok(())
    }
}

/// Finishes a save whose parts are all there, and reads what was committed.
struct Finishes;

#[async_trait]
impl Reader for Finishes {
    async fn read(&self, engine: &Engine, store: &Store) -> Result<(), FaultCode> {
        if let Err(code) = finish(engine).await {
            let state = engine.state(&"p".parse().unwrap()).await.unwrap();
            assert_eq!(state.seq, 0, "a save that failed was committed");
            return Err(code);
        }
        WholeCheckpoint { target: "p/run@1", tensors: tensors(1) }.read(engine, store).await
    }
}

/// Tries to finish a save that was given up.
struct GivenUp;

#[async_trait]
impl Reader for GivenUp {
    async fn read(&self, engine: &Engine, _: &Store) -> Result<(), FaultCode> {
        let code = finish(engine).await.expect_err("a save that was given up was committed");
        match code {
            // As it should be.
            FaultCode::Conflict => Ok(()),
            code => Err(code),
        }
    }
}

async fn open_save(seed: u64, give_up: bool) -> Vec<(Path, Bytes)> {
    let (objects, store) = create().await;
    let save = store.begin_save(spec("run", RANKS), Progress::default()).await.unwrap();
    for rank in 0..RANKS {
        save.rank(rank, slices(&tensors(seed), rank, RANKS)).await.unwrap();
    }
    if give_up {
        save.abort().await.unwrap();
    }
    contents(&objects).await
}

pub(crate) async fn scenes() -> Vec<Scene> {
    let strangers = open_save(2, true).await;
    let scene = |kind, objects: &Arc<Vec<(Path, Bytes)>>, key: &Path, reader: Arc<dyn Reader>, needed| {
        let mut other = others(objects, key);
        other.extend(others(&named(&strangers, "/saves/"), key));
        let (objects, must) = (Arc::clone(objects), Must::Refused);
        Scene { kind, objects, key: key.clone(), others: other, reader, must, stride: 1, needed }
    };
    let open = Arc::new(open_save(1, false).await);
    let session = crate::scene::open(memory(&open).await).await.unwrap().0.begin_save(&request(RANKS)).await.unwrap();
    let (begin, _) = named(&open, "begin.json").pop().unwrap();
    // A save that nobody has announced may be announced anew.
    let mut found = vec![scene("announcement of a save", &open, &begin, Arc::new(Begins(session)), false)];
    let (part, _) = named(&open, "/parts/").pop().unwrap();
    found.push(scene("part of a save", &open, &part, Arc::new(Finishes), true));
    let given_up = Arc::new(open_save(1, true).await);
    let (ended, _) = named(&given_up, "ended.json").pop().unwrap();
    found.push(scene("end of a save", &given_up, &ended, Arc::new(GivenUp), false));
    found
}

async fn memory(objects: &[(Path, Bytes)]) -> Arc<object_store::memory::InMemory> {
    use object_store::ObjectStoreExt;
    let store = Arc::new(object_store::memory::InMemory::new());
    for (key, bytes) in objects {
        store.put(key, bytes.clone().into()).await.unwrap();
    }
    store
}
