//! One row group of a window: what is read of it, and how long its documents are planned to be.
//!
//! Must never take what a file says for what the manifest planned, nor let two ranks plan different samples of one
//! file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::order::{Epoch, WindowKey};
use gigastore_formats::range::ByteRange;
use gigastore_formats::table::tokens::{Documents, TokenError, TokenFile, TokenList};

use super::super::read::DatasetError;
use super::options::{OnDamage, StreamError};
use super::window::Source;

/// How long a store that does not answer delays a stream before that is an error: 10 minutes, longer than a service
/// takes to be restarted. What reaches a store has tries of its own within that.
const PATIENCE: Duration = Duration::from_secs(600);

/// Pauses between tries: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What was read of a row group. Nothing is there of what is damaged and to be skipped.
pub(super) struct Group {
    number: usize,
    path: String,
    rows: u64,
    tokens: u64,
    file: Option<(TokenFile, Arc<FileRow>)>,
    chunk: Option<Bytes>,
    counts: Option<Bytes>,
}

impl Group {
    /// Returns how many tokens it is planned to have, and the bytes of them that were read.
    pub(super) fn claim(&self) -> (u64, usize) {
        (self.tokens, self.chunk.as_ref().map_or(0, Bytes::len))
    }
}

/// What is wanted of row groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Tokens,
    /// From the column of counts, where the file has one.
    Lengths,
}

impl Source {
    /// Reads the row groups of a window.
    pub(super) async fn read(
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
        let mut read = Group { number, path, rows, tokens, file: None, chunk: None, counts: None };
        read.file = self.tried(ambient, &read, damage, || self.facts(file)).await?;
        let Some((tokens, row)) = &read.file else { return Ok(read) };
        // Where damage is skipped the counts decide, also for whoever reads the tokens: all plan the same samples then.
        let counts = tokens.counts_range(number).filter(|_| wanted == Wanted::Lengths || damage == OnDamage::Skip);
        let chunk = (wanted == Wanted::Tokens || counts.is_none()).then(|| tokens.tokens_range(number));
        let bytes = async |range: Option<ByteRange>| match range {
            Some(range) => self.tried(ambient, &read, damage, || self.bytes(row, range)).await,
            None => Ok(None),
        };
        let (chunk, counts) = futures::try_join!(bytes(chunk), bytes(counts))?;
        (read.chunk, read.counts) = (chunk, counts);
        Ok(read)
    }

    async fn facts(&self, file: usize) -> Result<(TokenFile, Arc<FileRow>), DatasetError> {
        Ok((self.dataset.token_file(file).await?, self.dataset.file(file).await?))
    }

    async fn bytes(&self, row: &Arc<FileRow>, range: ByteRange) -> Result<Bytes, DatasetError> {
        Ok(self.dataset.read_ranges(row, &[range]).await?.pop().expect("one range was asked for"))
    }

    /// Reads something of a row group, again and again while the store does not answer; nothing where that is damaged
    /// and to be skipped.
    async fn tried<T, F: Future<Output = Result<T, DatasetError>>>(
        &self,
        ambient: &dyn Ambient,
        group: &Group,
        damage: OnDamage,
        read: impl Fn() -> F,
    ) -> Result<Option<T>, StreamError> {
        let (began, mut pause) = (ambient.monotonic(), FIRST_PAUSE);
        loop {
            let (target, path, number) = (self.target.clone(), group.path.clone(), group.number);
            match read().await.map_err(|source| StreamError::Read { target, path, group: number, source }) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if damage == OnDamage::Skip && error.is_damage() => return Ok(None),
                Err(error) if error.is_passing() && ambient.monotonic() < began + PATIENCE => {
                    ambient.sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends the documents of a row group as `read` finds them, and their planned lengths. Those that are damaged and
    /// skipped are empty. Returns false where they can't be read so.
    pub(super) fn decode_group<T: TokenList>(
        &self,
        group: &Group,
        damage: OnDamage,
        documents: &mut Documents<T>,
        lengths: &mut Vec<u32>,
        read: impl Fn(&TokenFile, usize, &Bytes, &mut Documents<T>) -> Result<bool, TokenError>,
    ) -> Result<bool, StreamError> {
        let (before, planned_before) = (documents.len(), lengths.len());
        let read = group.file.as_ref().zip(group.chunk.as_ref()).map(|((file, _), chunk)| {
            let read = read(file, group.number, chunk, documents);
            read.map_err(|source| self.unreadable(group, source))
        });
        let there = match read {
            Some(Ok(false)) => return Ok(false),
            Some(Err(error)) if damage == OnDamage::Fail => return Err(error),
            read => matches!(read, Some(Ok(true))),
        };
        let found: Vec<u32> = if there { documents.lengths(before).collect() } else { Vec::new() };
        self.plan_group(group, damage, there.then(|| found.clone()), lengths)?;
        // What is not as long as planned was taken down, or is not what all others plan with.
        let planned = &lengths[planned_before..];
        let differs = |(found, planned): (&u32, &u32)| found != planned && *found != 0;
        if !there || found.len() != planned.len() || found.iter().zip(planned).any(differs) {
            documents.truncate(before);
            documents.ends.resize(before + group.rows as usize, documents.tokens.len() as u32);
        }
        Ok(true)
    }

    /// Appends the planned lengths of a row group's documents.
    pub(super) fn lengths(&self, group: &Group, damage: OnDamage, lengths: &mut Vec<u32>) -> Result<(), StreamError> {
        let mut found = None;
        if let (Some((file, _)), Some(chunk)) = (&group.file, &group.chunk) {
            let mut documents = Documents::new(file.width());
            match file.read_tokens(group.number, chunk, &mut documents) {
                Ok(()) => found = Some(documents.lengths(0).collect()),
                Err(source) if damage == OnDamage::Fail => return Err(self.unreadable(group, source)),
                Err(_) => {}
            }
        }
        self.plan_group(group, damage, found, lengths)
    }

    /// Appends the planned lengths of a row group: from its counts where they were asked for, else as they were found
    /// with its tokens. Where they can't be had, and that is skipped, all documents are taken as equally long, so that
    /// every rank plans the same samples, and those of cut streams keep their positions.
    fn plan_group(
        &self,
        group: &Group,
        damage: OnDamage,
        found: Option<Vec<u32>>,
        lengths: &mut Vec<u32>,
    ) -> Result<(), StreamError> {
        let counted = group.file.as_ref().filter(|(file, _)| {
            let has_counts = file.counts_range(group.number).is_some();
            has_counts && (group.chunk.is_none() || damage == OnDamage::Skip)
        });
        let found = match (counted, &group.counts) {
            (Some((file, _)), Some(bytes)) => {
                let mut counts = Vec::new();
                let read = file.read_counts(group.number, bytes, &mut counts);
                read.map(|()| Some(counts)).map_err(|source| self.unreadable(group, source))
            }
            (Some(_), None) => Ok(None),
            (None, _) => Ok(found),
        };
        let row = group.file.as_ref().map(|(_, row)| row);
        let planned = match (found, row) {
            (Ok(Some(found)), Some(row)) => self.planned(group, row, found.into_iter(), lengths).map_err(Some),
            (Ok(_), _) => Err(None),
            (Err(error), _) => Err(Some(error)),
        };
        match planned {
            Ok(()) => Ok(()),
            Err(Some(error)) if damage == OnDamage::Fail => Err(error),
            Err(_) => {
                assume(group, lengths);
                Ok(())
            }
        }
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

    fn unreadable(&self, group: &Group, source: TokenError) -> StreamError {
        let (target, path) = (self.target.clone(), group.path.clone());
        StreamError::Tokens { target, path, group: group.number, source }
    }
}

/// Takes the documents of a row group as equally long.
fn assume(group: &Group, lengths: &mut Vec<u32>) {
    let (each, rest) = (group.tokens / group.rows, group.tokens % group.rows);
    lengths.extend((0..group.rows).map(|row| (each + u64::from(row < rest)) as u32));
}
