//! Other places that hold the bytes of a damaged object: the same content under another epoch, the same slice in
//! another pack, and all of these in a second store.
//!
//! Must never vouch for a copy: its bytes are checked when they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_PACK_HEADER_BYTES;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackEntry, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Depth, VerifyReport, VerifyRequest, with_causes};

use super::plan::{Holds, Item};
use crate::engine::Engine;
use crate::read::ReadError;
use crate::store::{StoreError, keys};

/// Headers of packs that are remembered while others are repaired: 32, at most 256 MiB, and some 500 KiB as they
/// usually are.
const HEADERS_KEPT: usize = 32;

/// Copies of one slice that are looked at: where eight are damaged, so is the ninth.
const COPIES_TRIED: usize = 8;

/// A place that holds bytes of an object.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) store: Engine,
    pub(super) key: String,
    /// Of a slice in a pack: what the pack's header says of it.
    pub(super) entry: Option<Arc<PackEntry>>,
    pub(super) in_replica: bool,
}

impl Place {
    /// Names the place for people, who need not know where a service has its replica.
    pub(super) fn name(&self) -> String {
        if self.in_replica { format!("{} of the replica", self.key) } else { self.key.clone() }
    }
}

/// A slice that some manifest says to lie in a pack.
#[derive(Clone)]
struct Lying {
    in_replica: bool,
    pack: Stored,
    header_len: u64,
    offset: u64,
}

/// Where copies are looked for.
pub(super) struct Copies {
    here: Engine,
    replica: Option<Engine>,
    project: ProjectName,
    /// What the project holds.
    items: Arc<Vec<Item>>,
    /// Slices by digest, once somebody asked.
    slices: Option<Arc<BTreeMap<Digest, Vec<Lying>>>>,
    headers: BTreeMap<(bool, Stored), Option<Arc<PackHeader>>>,
    /// What was found of the object that was asked for last: a damaged one is asked for piece after piece.
    last: Option<((ObjectKind, Stored), Vec<Place>)>,
    /// What kept copies from being looked at.
    pub(super) troubles: Vec<String>,
}

impl Copies {
    pub(super) fn new(here: Engine, replica: Option<Engine>, project: ProjectName, items: Arc<Vec<Item>>) -> Self {
        let headers = BTreeMap::new();
        Self { here, replica, project, items, slices: None, headers, last: None, troubles: Vec::new() }
    }

    /// Finds other objects of the same content: under other epochs, and in the replica.
    pub(super) async fn wholes(&mut self, kind: ObjectKind, object: &Stored) -> Result<Vec<Place>, StoreError> {
        if let Some((_, places)) = self.last.as_ref().filter(|(which, _)| *which == (kind, *object)) {
            return Ok(places.clone());
        }
        let own = keys::object(&self.project, kind, object);
        let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
        let same =
            |key: &String| keys::object_of(&self.project, kind, key).filter(|other| other.digest == object.digest);
        let mut places = Vec::new();
        let marked = self.here.marked(&self.project).await?;
        // No order of a listing decides what a repair reads.
        for key in sorted(self.here.objects.list(folder).await?) {
            let other = same(&key).filter(|_| key != own);
            if other.is_some_and(|other| !marked.contains(&(kind, other))) {
                places.push(Place { store: self.here.clone(), key, entry: None, in_replica: false });
            }
        }
        if let Some(replica) = &self.replica {
            match replica.objects.list(folder).await {
                Ok(listed) => {
                    let same = sorted(listed).into_iter().filter(|key| same(key).is_some());
                    places.extend(same.map(|key| Place { store: replica.clone(), key, entry: None, in_replica: true }));
                }
                Err(error) => self.troubles.push(format!("the replica: {}", with_causes(&error))),
            }
        }
        self.last = Some(((kind, *object), places.clone()));
        Ok(places)
    }

    /// Finds slices of this content in packs other than `but`, whose headers say the same.
    pub(super) async fn slices(&mut self, digest: Digest, but: &Stored) -> Result<Vec<Place>, ReadError> {
        let index = self.index().await?;
        let lying = index.get(&digest).map(Vec::as_slice).unwrap_or_default();
        let others = lying.iter().filter(|one| one.in_replica || one.pack != *but).take(COPIES_TRIED);
        let mut places = Vec::new();
        for one in others {
            let Some(header) = self.header(one).await else { continue };
            let found = header
                .entries()
                .iter()
                .find(|entry| entry.stored.start() == one.offset && entry.slice.tree.root() == digest);
            if let (Some(entry), Some(store)) = (found, self.store(one.in_replica)) {
                let key = keys::object(&self.project, ObjectKind::Pack, &one.pack);
                let (entry, in_replica) = (Some(Arc::clone(entry)), one.in_replica);
                places.push(Place { store, key, entry, in_replica });
            }
        }
        Ok(places)
    }

    /// Takes what kept copies from being looked at, as an end of a sentence.
    pub(super) fn told_troubles(&mut self) -> String {
        let troubles = std::mem::take(&mut self.troubles);
        if troubles.is_empty() { String::new() } else { format!(" ({})", troubles.join("; ")) }
    }

    fn store(&self, in_replica: bool) -> Option<Engine> {
        if in_replica { self.replica.clone() } else { Some(self.here.clone()) }
    }

    /// Reads the header of a pack; `None` where it is damaged, too.
    async fn header(&mut self, one: &Lying) -> Option<Arc<PackHeader>> {
        let which = (one.in_replica, one.pack);
        if let Some(known) = self.headers.get(&which) {
            return known.clone();
        }
        let store = self.store(one.in_replica)?;
        let key = keys::object(&self.project, ObjectKind::Pack, &one.pack);
        let header = match store.pack_header(&key, one.pack.digest, one.header_len).await {
            Ok(found) => found.map(|(header, _)| Arc::new(header)),
            Err(error) => {
                self.troubles.push(with_causes(&error));
                None
            }
        };
        if self.headers.len() >= HEADERS_KEPT {
            self.headers.clear();
        }
        self.headers.insert(which, header.clone());
        header
    }

    async fn index(&mut self) -> Result<Arc<BTreeMap<Digest, Vec<Lying>>>, ReadError> {
        if let Some(index) = &self.slices {
            return Ok(Arc::clone(index));
        }
        let mut index = BTreeMap::new();
        add(&mut index, &self.items, false);
        if let Some(replica) = &self.replica {
            match replica.items_of(&self.project).await {
                Ok(items) => add(&mut index, &items, true),
                Err(error) => self.troubles.push(format!("the replica: {}", with_causes(&error))),
            }
        }
        Ok(Arc::clone(self.slices.insert(Arc::new(index))))
    }
}

fn add(index: &mut BTreeMap<Digest, Vec<Lying>>, items: &[Item], in_replica: bool) {
    for item in items {
        let Holds::Slices { header_len, slices } = &item.holds else { continue };
        for expected in slices.keys() {
            let (pack, header_len, offset) = (item.object, *header_len, expected.offset);
            index.entry(expected.blake3).or_default().push(Lying { in_replica, pack, header_len, offset });
        }
    }
}

fn sorted(listed: Vec<(String, u64)>) -> Vec<String> {
    let mut keys: Vec<String> = listed.into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys
}

impl Engine {
    /// Returns what the live commits of a project refer to. What can't be read of it is left out.
    async fn items_of(&self, project: &ProjectName) -> Result<Vec<Item>, ReadError> {
        let state = self.state(project).await?;
        let request = VerifyRequest { project: project.clone(), name: None, number: None, depth: Depth::Quick };
        Ok(self.plan(&request, &state, &mut VerifyReport::default()).await?.items)
    }

    /// Reads the header of pack `digest`, of `header_len` bytes; `None` where it is not there or not that header.
    pub(crate) async fn pack_header(
        &self,
        key: &str,
        digest: Digest,
        header_len: u64,
    ) -> Result<Option<(PackHeader, Bytes)>, StoreError> {
        let range = ByteRange::new(0, header_len.min(MAX_PACK_HEADER_BYTES)).expect("0 is the smallest number");
        let bytes = match self.objects.get_range(key, range).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. } | StoreError::Short { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = bytes.clone();
        let parsed = self.ambient.computed(move || PackHeader::parse(digest, &text)).await;
        Ok(parsed.ok().map(|header| (header, bytes)))
    }
}
