//! The bytes of a pack in order, some of them in memory that somebody else may write to.
//!
//! Those are sent from a copy of one group after the other, small enough to stay in the caches, which must have the
//! mark that the group had before it was hashed. Must never send a byte of such memory that was not looked at again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::stream::StreamExt;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::pack::PackHeader;
use gigastore_formats::verified::{GroupSize, GroupTree};

use super::buffer::BufferPool;
use super::mark::mark;
use super::source::SourceError;
use crate::transport::{PackBytes, Pieces, UploadError};

/// Buffers for copies that are kept: of 2 MiB each, as many as packs that are written at once hold between two writes
/// of some MiB.
pub(crate) const COPIES_KEPT: usize = 64;

/// Pads are at most a page less a byte.
static ZEROS: [u8; 4096] = [0; 4096];

/// A slice that was hashed.
pub(crate) struct Loaded {
    pub(crate) content: Bytes,
    pub(crate) tree: GroupTree,
    /// Where somebody else may write to it.
    pub(crate) watch: Option<Watch>,
}

/// Bytes of one slice, or between two.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    bytes: Bytes,
    watch: Option<Watch>,
}

/// What memory looked like when it was hashed.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    slice: Arc<str>,
    /// Of each group.
    marks: Arc<[u64]>,
}

/// The slice that was found to be changed, once one was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changed(Arc<OnceLock<Arc<str>>>);

impl Watch {
    pub(crate) fn new(slice: &dyn std::fmt::Display, marks: Vec<u64>) -> Self {
        Self { slice: slice.to_string().into(), marks: marks.into() }
    }
}

impl From<Bytes> for Part {
    /// Takes bytes that nobody writes to.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, watch: None }
    }
}

impl Part {
    pub(crate) fn new(bytes: Bytes, watch: Option<Watch>) -> Self {
        Self { bytes, watch }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Changed {
    /// Returns the error of a slice that was changed.
    pub(crate) fn error(&self) -> Option<SourceError> {
        let slice = self.0.get()?;
        Some(SourceError::Changed {
            path: format!("the memory of {slice}"),
            expected: "the bytes that were hashed".to_owned(),
            actual: "others".to_owned(),
        })
    }
}

/// Puts the stored bytes of each slice and the pads between them in the order of the object.
pub(crate) fn with_pads(header: &PackHeader, stored: Vec<Vec<Part>>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut position = header.header_len();
    for (entry, of_slice) in header.entries().iter().zip(stored) {
        let pad = (entry.stored.start() - position) as usize;
        if pad > 0 {
            parts.push(Bytes::from_static(&ZEROS[..pad]).into());
        }
        parts.extend(of_slice);
        position = entry.stored.end();
    }
    parts
}

/// Returns the bytes as an upload takes them: as they are, where all stay as they are.
pub(crate) fn body(parts: Vec<Part>, pool: &BufferPool, ambient: &Arc<dyn Ambient>, changed: &Changed) -> PackBytes {
    if parts.iter().all(|part| part.watch.is_none()) {
        return PackBytes::Hashed(parts.into_iter().map(|part| part.bytes).collect());
    }
    let (pool, ambient, changed, parts) = (pool.clone(), Arc::clone(ambient), changed.clone(), Arc::<[_]>::from(parts));
    PackBytes::Watched(Pieces::new(move || {
        let groups: Vec<Part> = parts.iter().flat_map(groups).collect();
        let (pool, ambient, changed) = (pool.clone(), Arc::clone(&ambient), changed.clone());
        let sent = futures::stream::iter(groups).then(move |group| {
            let (pool, ambient, changed) = (pool.clone(), Arc::clone(&ambient), changed.clone());
            async move {
                match group.watch {
                    None => Ok(group.bytes),
                    Some(_) => ambient.computed(move || copied(&group, &pool, &changed)).await,
                }
            }
        });
        sent.boxed()
    }))
}

/// Cuts a part that is watched into its groups, each with its mark.
fn groups(part: &Part) -> Vec<Part> {
    let Some(Watch { slice, marks }) = &part.watch else { return vec![part.clone()] };
    let group = |(i, mark): (usize, &u64)| {
        let start = i * GroupSize::Tensor.bytes() as usize;
        let end = part.bytes.len().min(start + GroupSize::Tensor.bytes() as usize);
        let watch = Watch { slice: Arc::clone(slice), marks: [*mark].into() };
        Part::new(part.bytes.slice(start..end), Some(watch))
    };
    marks.iter().enumerate().map(group).collect()
}

/// Copies a group, and looks at the copy.
fn copied(group: &Part, pool: &BufferPool, changed: &Changed) -> Result<Bytes, UploadError> {
    let mut buffer = pool.take(group.bytes.len())?;
    buffer.as_mut().copy_from_slice(&group.bytes);
    let found = mark(buffer.as_mut());
    match &group.watch {
        Some(watch) if watch.marks.first() != Some(&found) => {
            let _ = changed.0.set(Arc::clone(&watch.slice));
            Err(changed.error().map_or_else(|| "memory was changed".into(), Into::into))
        }
        _ => Ok(buffer.freeze()),
    }
}
