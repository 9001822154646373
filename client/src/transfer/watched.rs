//! The bytes of a pack in order, some of them in memory that somebody else may write to.
//!
//! They are sent from copies of a few groups each, small enough to stay in the caches; a copy must have the mark that
//! its group had before it was hashed. Must never send a byte of such memory that was not looked at again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::pack::PackHeader;
use gigastore_formats::verified::GroupTree;

use super::buffer::BufferPool;
use super::mark::copy_marked;
use super::source::SourceError;
use crate::transport::{Made, PackBytes, UploadError};

/// Bytes of one copy: 2 MiB, all of a [`BufferPool`]'s smallest buffer. Small slices share one.
const COPY_BYTES: usize = 2 << 20;

/// Memory of the copies of one pack that is sent: 40 MiB, which a store that takes objects in parts holds of one, and
/// more than any other does.
pub(crate) const COPIES_BYTES: u64 = 40 << 20;

/// Buffers for copies that are kept: those of all packs that are sent at once.
pub(crate) const COPIES_KEPT: usize = 32;

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
pub(crate) fn body(parts: Vec<Part>, pool: &BufferPool, changed: &Changed) -> PackBytes {
    if parts.iter().all(|part| part.watch.is_none()) {
        return PackBytes::Hashed(parts.into_iter().map(|part| part.bytes).collect());
    }
    let (pool, changed, parts) = (pool.clone(), changed.clone(), Arc::<[_]>::from(parts));
    PackBytes::Watched(Made::new(move || {
        let copies = copies(parts.iter().flat_map(groups));
        let (pool, changed) = (pool.clone(), changed.clone());
        Box::new(copies.into_iter().map(move |groups| copied(&groups, &pool, &changed)))
    }))
}

/// Cuts a part into its groups, each with its mark where it is watched.
fn groups(part: &Part) -> Vec<Part> {
    const LEN: usize = GROUP_BYTES as usize;
    let group = |(i, start): (usize, usize)| {
        let bytes = part.bytes.slice(start..part.bytes.len().min(start + LEN));
        let watch = part.watch.as_ref();
        let watch = watch.map(|Watch { slice, marks }| Watch { slice: Arc::clone(slice), marks: [marks[i]].into() });
        Part::new(bytes, watch)
    };
    (0..part.bytes.len()).step_by(LEN).enumerate().map(group).collect()
}

/// Puts together what is copied at once.
fn copies(groups: impl Iterator<Item = Part>) -> Vec<Vec<Part>> {
    let (mut copies, mut free) = (Vec::<Vec<Part>>::new(), 0);
    for group in groups {
        match copies.last_mut() {
            Some(copy) if group.bytes.len() <= free => {
                free -= group.bytes.len();
                copy.push(group);
            }
            _ => {
                free = COPY_BYTES - group.bytes.len();
                copies.push(vec![group]);
            }
        }
    }
    copies
}

/// Copies groups into one buffer, and looks at the copies.
fn copied(groups: &[Part], pool: &BufferPool, changed: &Changed) -> Result<Bytes, UploadError> {
    let mut buffer = pool.take(groups.iter().map(|group| group.bytes.len()).sum())?;
    let mut rest = buffer.as_mut();
    for Part { bytes, watch } in groups {
        let (copy, after) = rest.split_at_mut(bytes.len());
        if let Some(Watch { slice, marks }) = watch {
            let mark = copy_marked(bytes, copy);
            if marks.first() != Some(&mark) {
                let _ = changed.0.set(Arc::clone(slice));
                return Err(changed.error().map_or_else(|| "memory was changed".into(), Into::into));
            }
        } else {
            copy.copy_from_slice(bytes);
        }
        rest = after;
    }
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::mark::mark;

    /// Parts of these lengths as a trainer's memory has them, with pads and memory of our own between them.
    fn parts(lens: &[usize]) -> Vec<Part> {
        let part = |(i, len): (usize, &usize)| {
            let bytes: Vec<u8> = (0..*len).map(|at| (i * 7 + at + at / 251) as u8).collect();
            let marks = bytes.chunks(GROUP_BYTES as usize).map(mark).collect();
            let watch = (i % 3 != 2).then(|| Watch::new(&format!("slice {i}"), marks));
            [Part::new(bytes.into(), watch), Bytes::from_static(&ZEROS[..i * 5 % 90]).into()]
        };
        lens.iter().enumerate().flat_map(part).collect()
    }

    fn sent(parts: Vec<Part>, pool: &BufferPool, changed: &Changed) -> Result<Vec<Bytes>, UploadError> {
        let PackBytes::Watched(made) = body(parts, pool, changed) else { panic!() };
        made.read().collect()
    }

    #[test]
    fn copies_have_all_bytes_in_order_and_small_slices_share_a_buffer() {
        let lens: Vec<usize> = (0..500).map(|i| i * 37 % 9000).chain([5 << 20, (1 << 20) + 1, 0, 3, 4 << 20]).collect();
        let (parts, pool, changed) = (parts(&lens), BufferPool::default(), Changed::default());
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.bytes().to_vec()).collect();
        let copies = sent(parts, &pool, &changed).unwrap();
        assert!(copies.concat() == whole);
        assert!(copies.iter().all(|copy| copy.len() <= COPY_BYTES));
        // Two that come one after the other do not fit into one.
        assert!(copies.windows(2).all(|two| two[0].len() + GROUP_BYTES as usize > COPY_BYTES));
        assert!(pool.made() < 20 && changed.error().is_none(), "{} buffers", pool.made());
    }

    #[test]
    fn a_change_in_any_of_the_groups_that_share_a_buffer_is_found() {
        for wrong in [0, 1, 3, 4] {
            let mut parts = parts(&[4000, 3 << 20, 70, 4096, 9]);
            let part = &mut parts[2 * wrong];
            let mut bytes = part.bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            part.bytes = bytes.into();
            let changed = Changed::default();
            sent(parts, &BufferPool::default(), &changed).unwrap_err();
            let error = changed.error().unwrap().to_string();
            assert!(error.contains(&format!("slice {wrong}")), "{error}");
        }
    }
}
