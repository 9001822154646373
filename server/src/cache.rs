//! Reads of objects, shared: through what is kept in memory and on the disk of this machine, or from the store.
//!
//! A store on this machine is read past the cache, unless told otherwise: the system keeps its files in memory already.
//! Must never answer for an object that is not there.

use bytes::Bytes;
use gigastore_cache::{Cache as Kept, Directory, Object, Tier};
use gigastore_engine::Engine;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::Fault;
use std::sync::Arc;

pub(crate) use gigastore_cache::BLOCK_BYTES;

use crate::run::Limits;

/// Reads through the cache.
#[derive(Debug)]
pub(crate) struct Cache {
    engine: Engine,
    kept: Kept,
}

impl Cache {
    pub(crate) fn new(engine: Engine, ambient: &Arc<dyn Ambient>, limits: &Limits) -> Self {
        let open = |folder| Directory::open(folder, limits.cache_disk, Arc::clone(ambient));
        Self { engine, kept: Kept::new(limits.cache, limits.cache_folder.as_deref().map(open)) }
    }

    /// Returns the numbers of the memory, and of the disk where it is used.
    pub(crate) fn counts(&self) -> (Tier, Option<Tier>) {
        self.kept.counts()
    }

    /// Returns the length of an object; `None` where it is not there. A length below `least` that is kept is asked for
    /// again.
    pub(crate) async fn len(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: Stored,
        least: u64,
    ) -> Result<Option<u64>, Fault> {
        // A damaged object still serves what is sound in it: whoever reads it checks.
        let ask = async { self.engine.len_of(project, kind, &stored).await.map_err(|error| Fault::from(&error)) };
        self.kept.len(&object(project, kind, stored), least, ask).await
    }

    /// Reads exactly `range` of an object of `len` bytes.
    pub(crate) async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: Stored,
        range: ByteRange,
        len: u64,
    ) -> Result<Bytes, Fault> {
        let ask =
            async |range| self.engine.read(project, kind, &stored, range).await.map_err(|error| Fault::from(&error));
        self.kept.read(&object(project, kind, stored), range, len, ask).await
    }

    /// Forgets the length of an object.
    pub(crate) fn forget_len(&self, project: &ProjectName, kind: ObjectKind, stored: Stored) {
        self.kept.forget_len(&object(project, kind, stored));
    }

    /// Forgets the blocks of a range wherever they are kept, so that whoever reads them next reads them from the store.
    /// Tells whether there is anything to forget.
    pub(crate) async fn forget(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: Stored,
        range: ByteRange,
    ) -> bool {
        self.kept.forget(&object(project, kind, stored), range).await
    }
}

fn object(project: &ProjectName, kind: ObjectKind, stored: Stored) -> Object {
    Object { project: project.clone(), kind, stored }
}
