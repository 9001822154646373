//! The reader: documents of all inputs, in order, cut into batches by their bytes.
//!
//! Must never cut by anything else than what was read: batches are the same for every number of threads, and after a
//! resume.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::input::source::{Source, Start};
use crate::input::{Document, Input, Place, Position, ReadError, Reading};
use crate::run::Counters;

/// Bytes of text at which a batch is full: 256 KiB, some 0.1 s of a core. Handing it over costs microseconds, and at
/// the end no core waits for long.
const BATCH_BYTES: usize = 256 << 10;

/// Bytes that a document counts beside its text: its id, its number, and where its tokens end.
const DOCUMENT_BYTES: usize = 64;

/// How many of the documents that were passed over are shown.
const SHOWN: usize = 5;

/// Documents that are tokenized together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Its number, from 0 in this run.
    pub(crate) number: u64,
    /// Its documents, each with the number of its input.
    pub(crate) documents: Vec<(usize, Document)>,
    /// Bytes that it counts.
    pub(crate) bytes: usize,
    /// What was passed over.
    pub(crate) skipped: Skipped,
    /// Where the inputs stand after it.
    pub(crate) end: Mark,
}

/// Where a run can go on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    /// BLAKE3 of all that came from stdin until there, if that is the input.
    pub(crate) seen: Option<String>,
}

/// Documents that were passed over.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub documents: u64,
    /// Where the first few stand, and why.
    pub first: Vec<String>,
}

impl Skipped {
    pub(crate) fn add(&mut self, input: &Input, number: u64, reason: &str) {
        self.documents += 1;
        if self.first.len() < SHOWN {
            self.first.push(format!("{input}:{number}: {reason}"));
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.documents += other.documents;
        let room = SHOWN.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }
}

/// Reads inputs.
pub(crate) struct Reader {
    pub(crate) inputs: Arc<Vec<Input>>,
    pub(crate) reading: Reading,
    /// Where a packed Parquet file may be unpacked.
    pub(crate) unpacked: PathBuf,
    pub(crate) counters: Counters,
}

impl Reader {
    /// Reads everything after `start` and gives it to `take` in batches, until that takes no more. Returns the number
    /// of batches, and why there are no others.
    pub(crate) fn run(&self, start: &Mark, mut take: impl FnMut(Batch) -> bool) -> (u64, Result<(), ReadError>) {
        let mut open = Open::new(start.clone());
        let done = self.read(start, &mut open, &mut take);
        if done.is_ok() && !open.is_empty() {
            take(open.close());
        }
        (open.number, done)
    }

    fn read(&self, start: &Mark, open: &mut Open, take: &mut impl FnMut(Batch) -> bool) -> Result<(), ReadError> {
        for (at, input) in self.inputs.iter().enumerate().skip(start.position.input) {
            let first = at == start.position.input;
            let place = if first { start.position.place } else { Place::default() };
            let begin = Start { place, seen: start.seen.as_deref().filter(|_| first) };
            let mut source = Source::open(input, &self.reading, begin, &self.unpacked, &self.counters.read)?;
            while let Some(record) = source.next()? {
                match record {
                    Ok(document) => open.add(at, document),
                    Err(bad) if self.reading.skip_bad => open.skipped.add(input, bad.number, &bad.reason),
                    Err(bad) => {
                        let (number, reason) = (bad.number, bad.reason);
                        return Err(ReadError::Bad { input: input.to_string(), number, reason });
                    }
                }
                if open.is_full() {
                    open.mark(at, &source);
                    if !take(open.close()) {
                        return Ok(());
                    }
                }
            }
            open.mark(at, &source);
            source.finish()?;
        }
        Ok(())
    }
}

/// The batch that is being filled.
struct Open {
    number: u64,
    documents: Vec<(usize, Document)>,
    bytes: usize,
    skipped: Skipped,
    end: Mark,
}

impl Open {
    fn new(end: Mark) -> Self {
        Self { number: 0, documents: Vec::new(), bytes: 0, skipped: Skipped::default(), end }
    }

    fn add(&mut self, input: usize, document: Document) {
        self.bytes += document.text.len() + DOCUMENT_BYTES;
        self.documents.push((input, document));
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.skipped == Skipped::default()
    }

    fn mark(&mut self, input: usize, source: &Source<'_>) {
        self.end = Mark { position: Position { input, place: source.place() }, seen: source.seen() };
    }

    fn close(&mut self) -> Batch {
        let number = self.number;
        self.number += 1;
        Batch {
            number,
            documents: std::mem::take(&mut self.documents),
            bytes: std::mem::take(&mut self.bytes),
            skipped: std::mem::take(&mut self.skipped),
            end: self.end.clone(),
        }
    }
}

/// How many bytes of batches there may be between reader and writer.
#[derive(Debug)]
pub(crate) struct Room {
    limit: usize,
    state: Mutex<Taken>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    closed: bool,
}

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits until there is room; tells whether there still is somebody who makes some. What is larger than all of it
    /// waits until it is alone.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let bytes = bytes.min(self.limit);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut Taken| !taken.closed && taken.bytes + bytes > self.limit;
        let mut state = self.freed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.bytes += bytes;
        !state.closed
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes -= bytes.min(self.limit);
        self.freed.notify_all();
    }

    /// Lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.freed.notify_all();
    }
}
