//! Every byte of a pack or file, read in windows and checked.
//!
//! A sound pack is checked as one stream. Only where that fails is each slice looked at by itself, so that the report
//! names every damaged one. Must never hold more than a window of an object.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::object::Stored;
use gigastore_formats::pack::{PackCheck, PackDamage};
use gigastore_formats::pack::{PackEntry, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Finding, with_causes};

use super::pace::Meter;
use super::plan::{Expected, Holds, Item, rows_of};
use crate::engine::Engine;
use crate::read::ReadError;

/// Bytes read at once: thirty-two groups, eight of a pack of version 1.
pub(super) const WINDOW_BYTES: u64 = 8 << 20;

impl Engine {
    /// Verifies every byte of an object whose length is right.
    pub(super) async fn verify_body(
        &self,
        key: &str,
        item: &Item,
        meter: &Meter<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        match &item.holds {
            Holds::File { tree, .. } => self.verify_file(key, item, tree, meter).await,
            Holds::Slices { header_len, slices } => {
                let found = self.verify_pack(key, item, *header_len, meter).await?;
                let header = match found {
                    Ok(header) => header,
                    Err(findings) => return Ok(findings),
                };
                Ok(unexpected(key, &header, slices))
            }
        }
    }

    async fn verify_file(
        &self,
        key: &str,
        item: &Item,
        tree: &GroupTree,
        meter: &Meter<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        let mut findings = Vec::new();
        let mut start = 0;
        while start < tree.len() {
            let range = window(start, tree.len());
            let bytes = self.objects.get_range(key, range).await?;
            meter.read(range.len()).await;
            let copy = tree.clone();
            let damaged = self.ambient.computed(move || damaged_groups(&copy, range.start(), &bytes)).await;
            findings.extend(damaged.into_iter().map(|(range, problem)| Finding {
                object: key.to_owned(),
                affects: item.affects(),
                range: Some((range.start(), range.end())),
                problem,
            }));
            start = range.end();
        }
        Ok(findings)
    }

    /// Checks a pack as one stream; returns its header, or everything that is damaged.
    async fn verify_pack(
        &self,
        key: &str,
        item: &Item,
        header_len: u64,
        meter: &Meter<'_>,
    ) -> Result<Result<PackHeader, Vec<Finding>>, ReadError> {
        let Stored { digest, .. } = item.object;
        let range = ByteRange::new(0, header_len.min(item.len)).expect("0 is the smallest number");
        let bytes = self.objects.get_range(key, range).await?;
        meter.read(range.len()).await;
        let parsed = self.ambient.computed(move || PackHeader::parse(digest, &bytes)).await;
        let header = match parsed {
            Ok(header) => header,
            // Its digest is that of its name: somebody newer reads it.
            Err(error) if error.is_newer() => {
                let why = with_causes(&error);
                return Ok(Err(vec![Finding::unreadable(key.to_owned(), item.affects(), &why)]));
            }
            Err(error) => {
                let problem = with_causes(&error);
                let range = Some((0, header_len));
                return Ok(Err(vec![Finding { object: key.to_owned(), affects: item.affects(), range, problem }]));
            }
        };
        let mut check = PackCheck::new(header.clone());
        let mut start = header_len;
        while start < item.len {
            let range = window(start, item.len);
            let bytes = self.objects.get_range(key, range).await?;
            meter.read(range.len()).await;
            let (result, same) = self.ambient.computed(move || (check.update(&bytes), check)).await;
            check = same;
            if let Err(first) = result {
                return Ok(Err(self.damaged_entries(key, item, &header, first, meter).await?));
            }
            start = range.end();
        }
        if let Err(first) = check.finish() {
            return Ok(Err(self.damaged_entries(key, item, &header, first, meter).await?));
        }
        Ok(Ok(header))
    }

    /// Looks at each slice of a damaged pack by itself.
    async fn damaged_entries(
        &self,
        key: &str,
        item: &Item,
        header: &PackHeader,
        first: PackDamage,
        meter: &Meter<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        let mut findings = Vec::new();
        for entry in header.entries() {
            findings.extend(self.damaged_groups_of(key, item, entry, meter).await?);
        }
        let covered = |damage: &PackDamage| {
            let range = (damage.range.start(), damage.range.end());
            findings.iter().any(|found: &Finding| found.range.is_some_and(|(a, b)| a < range.1 && range.0 < b))
        };
        if !covered(&first) {
            // A pad, or stored bytes that decode to the right ones.
            let at = header.entries().iter().find(|entry| entry.stored.contains(&first.range));
            findings.push(Finding {
                object: key.to_owned(),
                affects: at.map(|entry| affected(item, entry)).unwrap_or_default(),
                range: Some((first.range.start(), first.range.end())),
                problem: with_causes(&*first.fault),
            });
        }
        Ok(findings)
    }

    async fn damaged_groups_of(
        &self,
        key: &str,
        item: &Item,
        entry: &Arc<PackEntry>,
        meter: &Meter<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        let mut findings = Vec::new();
        for groups in entry.windows(WINDOW_BYTES) {
            let range = entry.stored_groups(groups.clone());
            let bytes = self.objects.get_range(key, range).await?;
            meter.wait(range.len()).await;
            let entry_read = Arc::clone(entry);
            let open = move || {
                let opened = entry_read.open_groups(groups, &bytes);
                let failed = opened.filter_map(|(stored, opened)| Some((stored, opened.err()?)));
                failed.collect::<Vec<_>>()
            };
            let damaged = self.ambient.computed(open).await;
            findings.extend(damaged.into_iter().map(|(range, fault)| Finding {
                object: key.to_owned(),
                affects: affected(item, entry),
                range: Some((range.start(), range.end())),
                problem: with_causes(&fault),
            }));
        }
        Ok(findings)
    }
}

/// Names the manifest rows that need an entry of a pack; where no manifest looked at does, the entry itself.
fn affected(item: &Item, entry: &PackEntry) -> Vec<String> {
    let rows = item.affects_at(entry.stored.start());
    if rows.is_empty() { vec![entry.slice.slice.to_string()] } else { rows }
}

/// Compares a sound pack with what manifests expect in it.
fn unexpected(key: &str, header: &PackHeader, slices: &BTreeMap<Expected, Vec<Arc<str>>>) -> Vec<Finding> {
    let place = |entry: &Arc<PackEntry>| {
        let coding = entry.slice.coding.codec();
        (entry.stored.start(), entry.stored.len(), coding, entry.slice.tree.root())
    };
    let places: HashSet<_> = header.entries().iter().map(place).collect();
    let there = |e: &Expected| places.contains(&(e.offset, e.stored_len, e.codec, e.blake3));
    let lost = slices.iter().filter(|(expected, _)| !there(expected));
    lost.map(|(expected, targets)| Finding {
        object: key.to_owned(),
        affects: rows_of(&expected.slice, targets).collect(),
        range: Some((expected.offset, expected.offset + expected.stored_len)),
        problem: format!("the pack has no slice with BLAKE3 {} at this place", expected.blake3),
    })
    .collect()
}

pub(super) fn window(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len.min(start + WINDOW_BYTES)).expect("a window ends after its start")
}

/// Returns every group in `bytes`, which start at the group border `start`, that does not match.
fn damaged_groups(tree: &GroupTree, start: u64, bytes: &Bytes) -> Vec<(ByteRange, String)> {
    let group = tree.group_bytes();
    let pieces = bytes.chunks(group as usize).enumerate();
    let checks = pieces.filter_map(|(i, piece)| tree.check_group(start / group + i as u64, piece).err());
    checks.map(|mismatch| (mismatch.range, mismatch.to_string())).collect()
}
