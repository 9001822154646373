//! One window of a lane in memory: read, checked against the manifest, decoded, packed.
//!
//! Must never hand out a window of which a byte, a row or a token is not what the manifest says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::order::{Epoch, Segment, SourceOrder, WindowKey, WindowPlan};
use gigastore_formats::table::tokens::{Documents, TokenFile, TokenWidth};

use super::super::index::IndexedDataset;
use super::super::read::DatasetError;
use super::explain::ExplainedPiece;
use super::options::{OnDamage, StreamError};

/// Bytes that are kept of a document beside its tokens: start, length, and on average one piece of a sample and a half
/// of its end, 24 in all; and its place in the order while that is being made.
const DOCUMENT_BYTES: u64 = 32;

/// How long a store that does not answer delays a stream before that is an error: 10 minutes, longer than a service
/// takes to be restarted. What reaches a store has tries of its own within that.
const PATIENCE: Duration = Duration::from_secs(600);

/// Pauses between tries: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Windows whose memory is kept: 2, as many as are being decoded while others end.
const KEPT_WINDOWS: usize = 2;

/// One dataset of a stream, opened.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) target: String,
    pub(super) dataset: IndexedDataset,
    pub(super) order: Arc<SourceOrder>,
    /// Memory of windows that are not needed any more.
    pub(super) spare: Arc<Mutex<Vec<Documents>>>,
}

/// A window in memory.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) documents: Documents,
    /// Planned length of each document. One that is there has as many tokens, one that is missing has none.
    pub(super) lengths: Vec<u32>,
    pub(super) plan: WindowPlan,
}

/// What is known of a row group before it is decoded.
struct Group {
    number: usize,
    path: String,
    rows: u64,
    tokens: u64,
    /// What was read of it; nothing where that is damaged and to be skipped.
    read: Option<(TokenFile, Arc<FileRow>, Bytes)>,
}

/// Which column is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Tokens,
    /// Of counts, where the file has one.
    Lengths,
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
        ambient.computed(move || source.decode(&epoch, key, groups, damage)).await
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
                source.lengths_of(group, damage, &mut lengths)?;
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

    /// Returns about how many bytes a window takes in memory: its tokens, and what is kept of its documents.
    pub(super) fn cost(&self, key: WindowKey) -> u64 {
        let (epoch, table) = (self.order.epoch(key.epoch), self.order.table());
        let groups = epoch.groups(key.lane, key.window);
        let (rows, tokens) = groups
            .iter()
            .fold((0, 0), |(rows, tokens), group| (rows + table.rows(*group), tokens + table.tokens(*group)));
        tokens * self.width().bytes() as u64 + rows * DOCUMENT_BYTES
    }

    /// Returns about how many bytes a window of the largest row groups takes.
    pub(super) fn largest_window(&self, groups: u32) -> u64 {
        let table = self.order.table();
        let cost = |group| table.tokens(group) * self.width().bytes() as u64 + table.rows(group) * DOCUMENT_BYTES;
        (0..table.groups() as u32).map(cost).max().unwrap_or(0) * u64::from(groups)
    }

    /// Returns the path of the file that a window begins with.
    pub(super) fn first_path(&self, key: WindowKey) -> String {
        let epoch = self.order.epoch(key.epoch);
        let group = epoch.groups(key.lane, key.window).first().copied().unwrap_or(0);
        self.dataset.index().files[self.file_of(group)].path.clone()
    }

    fn file_of(&self, group: u32) -> usize {
        self.dataset.index().files.partition_point(|file| file.first_group <= group) - 1
    }

    /// Returns the width that most tokens of the dataset have.
    fn width(&self) -> TokenWidth {
        self.dataset.index().meta.tokens.as_ref().map_or(TokenWidth::U32, |tokens| tokens.width)
    }

    async fn read(
        &self,
        ambient: &dyn Ambient,
        epoch: &Epoch,
        key: WindowKey,
        wanted: Wanted,
        damage: OnDamage,
    ) -> Result<Vec<Group>, StreamError> {
        let groups = epoch.groups(key.lane, key.window).iter();
        try_join_all(groups.map(|group| self.group(ambient, *group, wanted, damage))).await
    }

    async fn group(
        &self,
        ambient: &dyn Ambient,
        group: u32,
        wanted: Wanted,
        damage: OnDamage,
    ) -> Result<Group, StreamError> {
        let (index, table) = (self.dataset.index(), self.order.table());
        let file = self.file_of(group);
        let number = (group - index.files[file].first_group) as usize;
        let (path, rows, tokens) = (index.files[file].path.clone(), table.rows(group), table.tokens(group));
        let (began, mut pause) = (ambient.monotonic(), FIRST_PAUSE);
        let read = loop {
            let read = self.chunk(file, number, wanted).await;
            match read.map_err(|source| self.unread(&path, number, source)) {
                Ok(read) => break Some(read),
                Err(error) if damage == OnDamage::Skip && error.is_damage() => break None,
                Err(error) if error.is_passing() && ambient.monotonic() < began + PATIENCE => {
                    ambient.sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Group { number, path, rows, tokens, read })
    }

    fn unread(&self, path: &str, group: usize, source: DatasetError) -> StreamError {
        StreamError::Read { target: self.target.clone(), path: path.to_owned(), group, source }
    }

    async fn chunk(
        &self,
        file: usize,
        number: usize,
        wanted: Wanted,
    ) -> Result<(TokenFile, Arc<FileRow>, Bytes), DatasetError> {
        let row = self.dataset.file(file).await?;
        let tokens = self.dataset.token_file(file).await?;
        let counts = (wanted == Wanted::Lengths).then(|| tokens.counts_range(number)).flatten();
        let range = counts.unwrap_or_else(|| tokens.tokens_range(number));
        let bytes = self.dataset.read_ranges(&row, &[range]).await?.pop().expect("one range was asked for");
        Ok((tokens, row, bytes))
    }

    fn decode(
        &self,
        epoch: &Epoch,
        key: WindowKey,
        groups: Vec<Group>,
        damage: OnDamage,
    ) -> Result<Window, StreamError> {
        let widths = groups.iter().filter_map(|group| group.read.as_ref()).map(|(file, ..)| file.width());
        let wide = widths.clone().any(|width| width == TokenWidth::U32) || widths.count() == 0;
        let mut documents = self.empty(if wide { TokenWidth::U32 } else { TokenWidth::U16 });
        let mut lengths = Vec::new();
        for group in groups {
            let before = documents.len();
            let read = match &group.read {
                None => Err(None),
                Some((file, row, bytes)) => file
                    .read_tokens(group.number, bytes, &mut documents)
                    .map_err(|source| self.unreadable(&group, source))
                    .and_then(|()| self.planned(&group, row, lengths_of(&documents, before), &mut lengths))
                    .map_err(Some),
            };
            match read {
                Ok(()) => {}
                Err(Some(error)) if damage == OnDamage::Fail => return Err(error),
                Err(_) => {
                    documents.truncate(before);
                    documents.ends.resize(before + group.rows as usize, documents.tokens.len() as u32);
                    assume(&group, &mut lengths);
                }
            }
        }
        let order = epoch.documents(self.order.table(), key.lane, key.window);
        let plan = WindowPlan::new(epoch.packing(), &order, &lengths);
        Ok(Window { documents, lengths, plan })
    }

    /// Returns memory for a window; used before, where there is some, as fresh pages cost more than decoding into them.
    fn empty(&self, width: TokenWidth) -> Documents {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.iter().position(|documents| documents.tokens.width() == width) {
            Some(found) => spare.swap_remove(found),
            None => Documents::new(width),
        }
    }

    /// Takes back the memory of a window that nobody needs.
    pub(super) fn give_back(&self, window: Arc<Window>) {
        let Some(mut window) = Arc::into_inner(window) else { return };
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT_WINDOWS {
            window.documents.clear();
            spare.push(window.documents);
        }
    }

    fn lengths_of(&self, group: Group, damage: OnDamage, lengths: &mut Vec<u32>) -> Result<(), StreamError> {
        let read = match &group.read {
            None => Err(None),
            Some((file, row, bytes)) => {
                let mut found = Vec::new();
                let read = if file.counts_range(group.number).is_some() {
                    file.read_counts(group.number, bytes, &mut found)
                } else {
                    let mut documents = Documents::new(file.width());
                    let read = file.read_tokens(group.number, bytes, &mut documents);
                    found.extend(lengths_of(&documents, 0));
                    read
                };
                let read = read.map_err(|source| self.unreadable(&group, source));
                read.and_then(|()| self.planned(&group, row, found.into_iter(), lengths)).map_err(Some)
            }
        };
        match read {
            Ok(()) => {}
            Err(Some(error)) if damage == OnDamage::Fail => return Err(error),
            Err(_) => assume(&group, lengths),
        }
        Ok(())
    }

    /// Adds the planned lengths of a row group's documents, and checks that they are what the manifest says.
    fn planned(
        &self,
        group: &Group,
        row: &FileRow,
        found: impl Iterator<Item = u32>,
        lengths: &mut Vec<u32>,
    ) -> Result<(), StreamError> {
        let before = lengths.len();
        lengths.extend(found);
        let first: u64 = row.row_groups.iter().take(group.number).map(|group| group.rows).sum();
        let added = &mut lengths[before..];
        let start = row.removed.partition_point(|removed| removed.row < first);
        for removed in &row.removed[start..] {
            match added.get_mut((removed.row - first) as usize) {
                Some(length) => *length = removed.tokens as u32,
                None => break,
            }
        }
        let tokens = added.iter().map(|length| u64::from(*length)).sum();
        for (what, expected, actual) in [("rows", group.rows, added.len() as u64), ("tokens", group.tokens, tokens)] {
            if expected != actual {
                lengths.truncate(before);
                let (target, path, group) = (self.target.clone(), group.path.clone(), group.number);
                return Err(StreamError::Planned { target, path, group, what, expected, actual });
            }
        }
        Ok(())
    }

    fn unreadable(&self, group: &Group, source: gigastore_formats::table::tokens::TokenError) -> StreamError {
        let (target, path) = (self.target.clone(), group.path.clone());
        StreamError::Tokens { target, path, group: group.number, source }
    }
}

/// Returns the lengths of the documents from number `first` on.
fn lengths_of(documents: &Documents, first: usize) -> impl Iterator<Item = u32> {
    let start = first.checked_sub(1).map_or(0, |before| documents.ends[before]);
    let ends = &documents.ends[first..];
    std::iter::once(start).chain(ends.iter().copied()).zip(ends.iter().copied()).map(|(start, end)| end - start)
}

/// Takes the documents of a row group that can't be read as equally long, so that every rank that can't read it plans
/// the same samples, and those of cut streams keep their positions.
fn assume(group: &Group, lengths: &mut Vec<u32>) {
    let (each, rest) = (group.tokens / group.rows, group.tokens % group.rows);
    lengths.extend((0..group.rows).map(|row| (each + u64::from(row < rest)) as u32));
}
