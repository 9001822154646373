//! One window of a lane in memory: read, checked against the manifest, decoded, packed.
//!
//! Must never hand out a window of which a byte or a row is not what the manifest says. Tokens of one whose bytes are
//! left as they were read are looked at when they go into a batch.

use std::sync::{Arc, Mutex, PoisonError};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::order::{Epoch, Segment, SourceOrder, WindowKey, WindowPlan};
use gigastore_formats::table::tokens::{Documents, StoredTokens, TokenBuffer, TokenFile, TokenWidth};

use super::super::index::IndexedDataset;
use super::explain::ExplainedPiece;
use super::group::{Group, Wanted};
use super::options::{OnDamage, StreamError};
use crate::transfer::buffer::BufferPool;
use crate::transfer::huge;

/// Bytes that are kept of a document beside its tokens: start, length, and on average one piece of a sample and a half
/// of its end, 24 in all; and its place in the order while that is being made.
const DOCUMENT_BYTES: u64 = 32;

/// Bytes of a row group's tokens from which on they are left where they were read: 4 MiB. What is held beside them is
/// little then: a dictionary of at most 256 KiB, levels, the rest of the first and last verified group, and what is
/// missing to a whole buffer.
const STORED_FROM_BYTES: u64 = 4 << 20;

/// The most bytes that a column has for each 8 of its tokens where these are left in it: 9.
const STORED_EIGHTHS: u64 = 9;

/// Windows whose memory is kept: 2, as many as are being decoded while others end.
const KEPT_WINDOWS: usize = 2;

/// Memory of windows that are not needed any more.
type Spare = Arc<Mutex<Vec<Documents>>>;

/// One dataset of a stream, opened.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) target: String,
    pub(super) dataset: IndexedDataset,
    pub(super) order: Arc<SourceOrder>,
    pub(super) spare: Spare,
}

/// A window in memory.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) documents: Text,
    /// Planned length of each document. One that is there has as many tokens, one that is missing has none.
    pub(super) lengths: Vec<u32>,
    pub(super) plan: WindowPlan,
    key: WindowKey,
    source: Source,
}

/// Documents, and the planned length of each.
type Decoded<T> = (Documents<T>, Vec<u32>);

/// The documents of a window.
#[derive(Debug)]
pub(super) enum Text {
    /// Their tokens were copied out of pages.
    Copied(Documents),
    /// Their tokens lie in what was read.
    Stored(Documents<StoredTokens>),
}

impl Text {
    /// Returns where the tokens of each document end.
    pub(super) fn ends(&self) -> &[u32] {
        match self {
            Self::Copied(documents) => &documents.ends,
            Self::Stored(documents) => &documents.ends,
        }
    }
}

impl Window {
    /// Says that a piece of a document has a token that is not in its dictionary.
    pub(super) fn beyond(&self, segment: &Segment, actual: u16, greatest: u16) -> StreamError {
        let ExplainedPiece { path, row, .. } = self.source.piece(self.key, segment);
        StreamError::Beyond { target: self.source.target.clone(), path, row, actual, greatest }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Text::Copied(documents) = &mut self.documents else { return };
        let mut documents = std::mem::replace(documents, Documents::new(TokenWidth::U16));
        documents.clear();
        let mut spare = self.source.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT_WINDOWS {
            spare.push(documents);
        }
    }
}

impl Source {
    /// Reads and decodes a window.
    pub(super) async fn window(
        &self,
        ambient: &dyn Ambient,
        key: WindowKey,
        damage: OnDamage,
    ) -> Result<Window, StreamError> {
        let epoch = self.order.epoch(key.epoch);
        let groups = self.read(ambient, &epoch, key, Wanted::Tokens, damage).await?;
        let source = self.clone();
        ambient.computed(move || source.decode(&epoch, key, &groups, damage)).await
    }

    /// Reads how the documents of a window are packed, without their tokens where the files have a column of counts.
    pub(super) async fn plan(
        &self,
        ambient: &dyn Ambient,
        key: WindowKey,
        damage: OnDamage,
    ) -> Result<WindowPlan, StreamError> {
        let epoch = self.order.epoch(key.epoch);
        let groups = self.read(ambient, &epoch, key, Wanted::Lengths, damage).await?;
        let source = self.clone();
        let plan = move || {
            let mut lengths = Vec::new();
            for group in groups {
                source.lengths(&group, damage, &mut lengths)?;
            }
            let order = epoch.documents(source.order.table(), key.lane, key.window);
            Ok(WindowPlan::new(epoch.packing(), &order, &lengths))
        };
        ambient.computed(plan).await
    }

    /// Finds a piece of a document of a window in its file.
    pub(super) fn piece(&self, key: WindowKey, segment: &Segment) -> ExplainedPiece {
        let (epoch, table, index) = (self.order.epoch(key.epoch), self.order.table(), self.dataset.index());
        let (mut row, mut found) = (u64::from(segment.document), 0);
        for group in epoch.groups(key.lane, key.window) {
            found = *group;
            if row < table.rows(found) {
                break;
            }
            row -= table.rows(found);
        }
        let file = self.file_of(found);
        let before: u64 = (index.files[file].first_group..found).map(|group| table.rows(group)).sum();
        let path = index.files[file].path.clone();
        let Segment { start, len, .. } = *segment;
        ExplainedPiece { source: key.source, file, path, row: before + row, id: None, start, len }
    }

    /// Returns the most bytes that a window takes in memory.
    pub(super) fn cost(&self, key: WindowKey) -> u64 {
        let epoch = self.order.epoch(key.epoch);
        epoch.groups(key.lane, key.window).iter().map(|group| self.group_cost(*group)).sum()
    }

    /// Returns the most bytes that any window takes.
    pub(super) fn largest_window(&self, groups: u32) -> u64 {
        let most = (0..self.order.table().groups() as u32).map(|group| self.group_cost(group)).max();
        most.unwrap_or(0) * u64::from(groups)
    }

    /// Returns the most bytes of windows that are kept to be used again where tokens are copied.
    pub(super) fn largest_kept(&self, groups: u32) -> u64 {
        let most = (0..self.order.table().groups() as u32).map(|group| self.copied_cost(group)).max();
        most.unwrap_or(0) * u64::from(groups) * KEPT_WINDOWS as u64
    }

    /// Returns the most bytes that a row group takes, be its tokens copied or left where they were read.
    fn group_cost(&self, group: u32) -> u64 {
        let (table, copied) = (self.order.table(), self.copied_cost(group));
        let tokens = self.token_bytes(group);
        if self.width() != TokenWidth::U16 || tokens < STORED_FROM_BYTES {
            return copied;
        }
        // Read are whole verified groups, at both ends.
        let read = tokens / 8 * STORED_EIGHTHS + 2 * GROUP_BYTES;
        copied.max(BufferPool::size(read) + table.rows(group) * DOCUMENT_BYTES)
    }

    /// Returns the bytes of a row group whose tokens are copied, with what is kept of its documents.
    fn copied_cost(&self, group: u32) -> u64 {
        self.token_bytes(group) + self.order.table().rows(group) * DOCUMENT_BYTES
    }

    fn token_bytes(&self, group: u32) -> u64 {
        self.order.table().tokens(group) * self.width().bytes() as u64
    }

    /// Returns the path of the file that a window begins with.
    pub(super) fn first_path(&self, key: WindowKey) -> String {
        let epoch = self.order.epoch(key.epoch);
        let group = epoch.groups(key.lane, key.window).first().copied().unwrap_or(0);
        self.dataset.index().files[self.file_of(group)].path.clone()
    }

    pub(super) fn file_of(&self, group: u32) -> usize {
        self.dataset.index().files.partition_point(|file| file.first_group <= group) - 1
    }

    /// Returns the width that most tokens of the dataset have.
    fn width(&self) -> TokenWidth {
        self.dataset.index().meta.tokens.as_ref().map_or(TokenWidth::U32, |tokens| tokens.width)
    }

    fn decode(&self, epoch: &Epoch, key: WindowKey, groups: &[Group], damage: OnDamage) -> Result<Window, StreamError> {
        let (documents, lengths) = match self.stored(groups, damage)? {
            Some((documents, lengths)) => (Text::Stored(documents), lengths),
            None => {
                let (documents, lengths) = self.copied(groups, damage)?;
                (Text::Copied(documents), lengths)
            }
        };
        let order = epoch.documents(self.order.table(), key.lane, key.window);
        let plan = WindowPlan::new(epoch.packing(), &order, &lengths);
        Ok(Window { documents, lengths, plan, key, source: self.clone() })
    }

    /// Leaves the tokens of row groups where they lie, if they are stored as they are used. They are looked at when
    /// they become a batch: too late for damage to be skipped.
    fn stored(&self, groups: &[Group], damage: OnDamage) -> Result<Option<Decoded<StoredTokens>>, StreamError> {
        let fits = |(tokens, read): (u64, usize)| {
            let bytes = tokens * TokenWidth::U16.bytes() as u64;
            bytes >= STORED_FROM_BYTES && read as u64 <= bytes / 8 * STORED_EIGHTHS
        };
        let fit = self.width() == TokenWidth::U16 && groups.iter().map(Group::claim).all(fits);
        if damage == OnDamage::Skip || !fit {
            return Ok(None);
        }
        let (mut documents, mut lengths) = (Documents::default(), Vec::new());
        for group in groups {
            if !self.decode_group(group, damage, &mut documents, &mut lengths, TokenFile::keep_tokens)? {
                return Ok(None);
            }
        }
        Ok(Some((documents, lengths)))
    }

    /// Decodes row groups.
    fn copied(&self, groups: &[Group], damage: OnDamage) -> Result<Decoded<TokenBuffer>, StreamError> {
        let (mut documents, mut lengths) = (self.empty(self.width()), Vec::new());
        documents.reserve(groups.iter().map(Group::claim));
        match &mut documents.tokens {
            TokenBuffer::U16(tokens) => huge::ask(tokens),
            TokenBuffer::U32(tokens) => huge::ask(tokens),
        }
        for group in groups {
            let copy = |file: &TokenFile, number, chunk: &_, into: &mut _| {
                file.read_tokens(number, chunk, into).map(|()| true)
            };
            self.decode_group(group, damage, &mut documents, &mut lengths, copy)?;
        }
        Ok((documents, lengths))
    }

    /// Returns memory for a window; used before, where there is some, as fresh pages cost more than decoding into them.
    fn empty(&self, width: TokenWidth) -> Documents {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.iter().position(|documents| documents.tokens.width() == width) {
            Some(found) => spare.swap_remove(found),
            None => Documents::new(width),
        }
    }
}
