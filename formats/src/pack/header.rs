//! A pack's header and its Merkle name.
//!
//! A header is built from slices alone, and the same slices make the same bytes: places, pads and names follow from
//! them. A header that is read is therefore built again and compared, so that a pack has one form. Must never return a
//! header whose bytes do not hash to the pack's name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::slice::{Coding, PackSlice, PackSliceError};
use crate::digest::Digest;
use crate::limits::{
    GROUP_BYTES, LARGE_ALIGNMENT, LARGE_SLICE_BYTES, MAX_PACK_HEADER_BYTES, MAX_PACK_SLICES, PACK_1_GROUP_BYTES,
    SMALL_ALIGNMENT,
};
use crate::range::ByteRange;
use crate::tensor::dtype::Dtype;
use crate::tensor::header::{HeaderError, PREFIX_BYTES, SafetensorsHeader, TensorInfo, header_len, write_header};
use crate::tensor::slice::SliceId;

/// The metadata key that says what a file is. No slice's entry has this name: those end in a box.
const FORMAT_KEY: &str = "format";

/// How the text of every version starts.
const FORMAT_FAMILY: &str = "gigastore-pack-";

/// A form of packs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackVersion {
    /// Slices are hashed in groups of [`PACK_1_GROUP_BYTES`]. Read, and not written any more.
    One,
    /// In groups of [`GROUP_BYTES`].
    Two,
}

impl PackVersion {
    /// The known ones, that which is written first.
    pub const ALL: [Self; 2] = [Self::Two, Self::One];

    /// Returns the bytes of one group.
    pub fn group_bytes(self) -> u64 {
        match self {
            Self::One => PACK_1_GROUP_BYTES,
            Self::Two => GROUP_BYTES,
        }
    }

    /// Returns the value of [`FORMAT_KEY`].
    fn format(self) -> &'static str {
        match self {
            Self::One => "gigastore-pack-1",
            Self::Two => "gigastore-pack-2",
        }
    }
}

/// The header of one pack: what is stored, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackHeader {
    name: Digest,
    header_len: u64,
    /// Shared, as an entry has the values of all groups of its slice.
    entries: Vec<Arc<PackEntry>>,
    pads: Vec<ByteRange>,
    object_len: u64,
}

/// One slice of a pack and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackEntry {
    /// The slice.
    pub slice: PackSlice,
    /// Its stored bytes, counted from the start of the object.
    pub stored: ByteRange,
}

/// Why slices do not make a pack, or bytes are not the header of one.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The header is not the one that the pack is named by.
    #[error("header of pack {expected} does not match its name: its BLAKE3 is {actual}")]
    Name {
        /// The pack's name.
        expected: Digest,
        /// BLAKE3 of the bytes.
        actual: Digest,
    },
    /// The header is not that of a safetensors file, or is longer than [`MAX_PACK_HEADER_BYTES`].
    #[error("header of a pack: {0}")]
    Header(#[from] HeaderError),
    /// The file is no pack, or one of a newer version.
    #[error("not a pack of a known version: expected format {expected:?} or an older one, found {found:?}")]
    Format {
        /// The format that is written.
        expected: &'static str,
        /// The format in the metadata, if any, shortened.
        found: Option<String>,
    },
    /// There is no slice.
    #[error("a pack needs at least one slice")]
    Empty,
    /// There are too many slices.
    #[error("a pack has at most {MAX_PACK_SLICES} slices, not {actual}: plan the slices into several packs")]
    TooMany {
        /// Slices.
        actual: usize,
    },
    /// Two slices have the same entry name.
    #[error("two slices of the pack are {entry:?}: put them into different packs")]
    Duplicate {
        /// The name.
        entry: String,
    },
    /// A slice can't be stored, or is described wrongly.
    #[error("slice {entry:?} of the pack: {source}")]
    Slice {
        /// The name of its entry, shortened.
        entry: String,
        /// What is wrong.
        source: PackSliceError,
    },
    /// A slice is described under the name of another.
    #[error("the pack describes slice {expected:?} under the name {actual:?}")]
    EntryName {
        /// The name that the description makes.
        expected: String,
        /// The name that it stands under, shortened.
        actual: String,
    },
    /// An entry is missing, is one too many, or is not the one that the slices make.
    #[error("entry {index} of the pack should be {expected}, but is {actual}")]
    Entry {
        /// Position in the order of the data.
        index: usize,
        /// The entry that the slices make.
        expected: String,
        /// The entry found.
        actual: String,
    },
    /// The header says the right things in another way than packs are written.
    #[error("header of the pack is not in the one form of its content: another program wrote it")]
    Form,
}

impl PackError {
    /// Tells whether it is the true header of a pack of a version that this program does not know.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Format { found: Some(found), .. } if found.starts_with(FORMAT_FAMILY))
    }
}

impl PackEntry {
    /// Returns where the stored bytes of whole `groups` lie in the object; groups that the slice does not have, have no
    /// bytes.
    pub fn stored_groups(&self, groups: Range<u64>) -> ByteRange {
        let (start, end) = match &self.slice.coding {
            Coding::Raw => {
                let count = self.slice.tree.groups();
                let border = |index: u64| self.slice.tree.group_range(index.min(count)).start();
                (border(groups.start), border(groups.end.max(groups.start)))
            }
            Coding::ZstdPlanes { frames, .. } => {
                (frames.start(groups.start), frames.start(groups.end.max(groups.start)))
            }
        };
        let start = self.stored.start() + start;
        ByteRange::new(start, self.stored.start() + end).expect("borders of groups are in order")
    }
}

impl PackHeader {
    /// Returns the header of a pack of `slices`, given in any order, and its bytes, in the form that is written now.
    ///
    /// The data follow in the order of [`entries`](Self::entries); what lies between them is zero.
    pub fn build(slices: Vec<PackSlice>) -> Result<(Self, Bytes), PackError> {
        Self::build_as(PackVersion::Two, slices)
    }

    /// Like [`build`](Self::build), in a form that may be older: to make again what was written in it.
    pub fn build_as(version: PackVersion, slices: Vec<PackSlice>) -> Result<(Self, Bytes), PackError> {
        let built = Built::new(version, slices)?;
        Ok((built.header, Bytes::from(built.bytes)))
    }

    /// Parses the header of the pack `name`: first of all, its bytes must hash to that name.
    pub fn parse(name: Digest, bytes: &[u8]) -> Result<Self, PackError> {
        let actual = Digest::of(bytes);
        if actual != name {
            return Err(PackError::Name { expected: name, actual });
        }
        let mut found = SafetensorsHeader::parse(bytes, MAX_PACK_HEADER_BYTES)?;
        let format = found.metadata.remove(FORMAT_KEY);
        let version = PackVersion::ALL.into_iter().find(|version| format.as_deref() == Some(version.format()));
        let Some(version) = version else {
            let (expected, found) = (PackVersion::Two.format(), format.map(|text| shortened(&text)));
            return Err(PackError::Format { expected, found });
        };
        let mut slices = Vec::with_capacity(found.metadata.len());
        for (entry, text) in &found.metadata {
            let refuse = |source| PackError::Slice { entry: shortened(entry), source };
            let slice = PackSlice::from_text(text, version.group_bytes()).map_err(refuse)?;
            let expected = slice.slice.entry_name();
            if *entry != expected {
                return Err(PackError::EntryName { expected, actual: shortened(entry) });
            }
            slices.push(slice);
        }
        let built = Built::new(version, slices)?;
        check_entries(&built.tensors, &found.tensors)?;
        if built.bytes == bytes { Ok(built.header) } else { Err(PackError::Form) }
    }

    /// Returns the bytes of the header that starts with `prefix`, itself included: how much must be read to parse it.
    pub fn len_from_prefix(prefix: [u8; PREFIX_BYTES]) -> Result<u64, PackError> {
        Ok(header_len(prefix, MAX_PACK_HEADER_BYTES)?)
    }

    /// Returns the pack's name: the BLAKE3 of its header's bytes.
    pub fn name(&self) -> Digest {
        self.name
    }

    /// Returns the bytes of the header, length prefix included.
    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    /// Returns the slices in the order of their data, which is that of [`SliceId::order`].
    pub fn entries(&self) -> &[Arc<PackEntry>] {
        &self.entries
    }

    /// Returns the places between slices, all of zeros, counted from the start of the object.
    pub fn pads(&self) -> &[ByteRange] {
        &self.pads
    }

    /// Returns the bytes of the whole object.
    pub fn object_len(&self) -> u64 {
        self.object_len
    }

    /// Returns the entry of `slice`, if the pack has it.
    pub fn find(&self, slice: &SliceId) -> Option<&Arc<PackEntry>> {
        let found = self.entries.binary_search_by(|entry| entry.slice.slice.order().cmp(&slice.order()));
        found.ok().map(|i| &self.entries[i]).filter(|entry| entry.slice.slice == *slice)
    }
}

/// A header with the entries and bytes that it was written as.
struct Built {
    header: PackHeader,
    tensors: Vec<(String, TensorInfo)>,
    bytes: Vec<u8>,
}

impl Built {
    fn new(version: PackVersion, slices: Vec<PackSlice>) -> Result<Self, PackError> {
        let slices = checked(version, slices)?;
        let (mut entries, mut pads, mut tensors) = (Vec::with_capacity(slices.len()), Vec::new(), Vec::new());
        let mut metadata = BTreeMap::from([(FORMAT_KEY.to_owned(), version.format().to_owned())]);
        let mut end = 0;
        for slice in slices {
            // The header's length is a multiple of the widest border, so borders of the data are borders of the object.
            let place = place_after(end, slice.stored_len());
            if place.start() > end {
                let pad = ByteRange::new(end, place.start()).expect("a border is at or after where it is looked for");
                let info = TensorInfo { dtype: Dtype::U8, shape: vec![pad.len()], data: pad };
                tensors.push((format!("__pad__.{}", pads.len()), info));
                pads.push(pad);
            }
            let name = slice.slice.entry_name();
            tensors.push((name.clone(), slice.entry(place)));
            metadata.insert(name, slice.to_text());
            entries.push(PackEntry { slice, stored: place });
            end = place.end();
        }
        let bytes = write_header(&metadata, &tensors, LARGE_ALIGNMENT);
        let header_len = bytes.len() as u64;
        if header_len > MAX_PACK_HEADER_BYTES {
            return Err(HeaderError::TooLong { limit: MAX_PACK_HEADER_BYTES, actual: header_len }.into());
        }
        let placed = |entry: PackEntry| Arc::new(PackEntry { stored: moved(entry.stored, header_len), ..entry });
        let entries = entries.into_iter().map(placed).collect();
        pads.iter_mut().for_each(|pad| *pad = moved(*pad, header_len));
        let (name, object_len) = (Digest::of(&bytes), header_len + end);
        Ok(Self { header: PackHeader { name, header_len, entries, pads, object_len }, tensors, bytes })
    }
}

/// Checks the slices of one pack, and brings them into order.
fn checked(version: PackVersion, mut slices: Vec<PackSlice>) -> Result<Vec<PackSlice>, PackError> {
    if slices.is_empty() {
        return Err(PackError::Empty);
    }
    if slices.len() > MAX_PACK_SLICES {
        return Err(PackError::TooMany { actual: slices.len() });
    }
    let mut names = BTreeSet::new();
    for slice in &slices {
        let entry = slice.slice.entry_name();
        slice.check(version.group_bytes()).map_err(|source| PackError::Slice { entry: shortened(&entry), source })?;
        if !names.insert((slice.slice.name(), slice.slice.area())) {
            return Err(PackError::Duplicate { entry });
        }
    }
    slices.sort_by(|a, b| a.slice.order().cmp(&b.slice.order()));
    Ok(slices)
}

/// Returns where `len` stored bytes lie that follow what ends at `end`. Lengths are at most 4,096 times a little over
/// 4 GiB in all: nothing overflows.
fn place_after(end: u64, len: u64) -> ByteRange {
    let border = if len >= LARGE_SLICE_BYTES { LARGE_ALIGNMENT } else { SMALL_ALIGNMENT };
    ByteRange::with_len(end.next_multiple_of(border), len).expect("a pack is far shorter than 2^64 bytes")
}

fn moved(range: ByteRange, by: u64) -> ByteRange {
    ByteRange::with_len(range.start() + by, range.len()).expect("a pack is far shorter than 2^64 bytes")
}

/// Checks that the entries found are those that the slices make; both are in the order of their data.
fn check_entries(expected: &[(String, TensorInfo)], actual: &[(String, TensorInfo)]) -> Result<(), PackError> {
    let count = expected.len().max(actual.len());
    match (0..count).find(|&i| expected.get(i) != actual.get(i)) {
        Some(index) => {
            let (expected, actual) = (described(expected.get(index)), described(actual.get(index)));
            Err(PackError::Entry { index, expected, actual })
        }
        None => Ok(()),
    }
}

fn described(entry: Option<&(String, TensorInfo)>) -> String {
    match entry {
        Some((name, info)) => format!("{:?} {} {:?} at data {}", shortened(name), info.dtype, info.shape, info.data),
        None => "missing".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
#[path = "header_test.rs"]
mod tests;
