//! Reader, cores and writer at work: one thread reads, one a core tokenizes, the caller's writes.
//!
//! Must never write a batch before the one that was read before it, nor go on after an error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use gigastore_formats::table::tokens::TokenFileSpec;

use crate::encode::{EncodeError, Encoder};
use crate::input::{Document, Input, ReadError, Reading};
use crate::part::{Part, PartError};
use crate::read::{Batch, Mark, Reader, Room, Skipped};
use crate::work::{Counts, Finished, Plan, Work, WorkError};

/// Bytes of text between reader and writer for each core: 4 MiB, sixteen batches: while one core works on a document
/// of as many bytes, 2 s long, the others have enough to do.
pub const IN_FLIGHT_BYTES: usize = 4 << 20;

/// The least that there is room for: the longest document.
const LEAST_IN_FLIGHT_BYTES: usize = crate::input::MAX_DOCUMENT_BYTES;

/// Bytes of a part unless set, before compression: 512 MiB, 32 row groups. Small enough to be made anew after a kill,
/// large enough that a million of them are half a petabyte.
pub const PART_BYTES: u64 = 512 << 20;

/// Bytes of an id that was not given: 16 bytes of BLAKE3 in hex. 2^64 documents would make two equal ones likely.
const ID_BYTES: usize = 16;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// What is read.
    pub inputs: Vec<Input>,
    /// How it is read.
    pub reading: Reading,
    /// The tokenizer.
    pub encoder: Arc<Encoder>,
    /// Threads that tokenize.
    pub threads: usize,
    /// Bytes at which a part is full, before compression.
    pub part_bytes: u64,
    /// What the names of parts begin with.
    pub prefix: String,
}

/// What a person sees meanwhile. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Bytes that were read of the inputs, as they are stored.
    pub(crate) read: Arc<AtomicU64>,
    written: Arc<[AtomicU64; 4]>,
}

/// The counters at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Bytes that were read of the inputs, as they are stored.
    pub read: u64,
    /// Documents.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Documents that were passed over.
    pub skipped: u64,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tokenized {
    /// The parts.
    pub parts: Vec<Finished>,
    /// How many of them an earlier run had finished.
    pub parts_before: usize,
    /// All counts.
    pub counts: Counts,
}

/// Why a run ended early. What is finished stays in the work folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An input can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A document can't be tokenized.
    #[error("{input}:{number}: {source}; pass --skip-bad to pass over such documents")]
    Encode {
        /// The input.
        input: String,
        /// The line or row, from 1.
        number: u64,
        /// Why.
        source: EncodeError,
    },
    /// A part can't be written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The work folder can't be used.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// There is nothing to push.
    #[error("the inputs have no document ({skipped} were passed over)")]
    NoDocuments {
        /// Documents that were passed over.
        skipped: u64,
    },
    /// A thread can't be started, or ended before its work was done.
    #[error("a thread of the tokenizer {0}")]
    Thread(String),
}

impl Counters {
    /// Reads the counters.
    pub fn snapshot(&self) -> Snapshot {
        let [documents, tokens, text_bytes, skipped] = [0, 1, 2, 3].map(|at| self.written[at].load(Ordering::Relaxed));
        Snapshot { read: self.read.load(Ordering::Relaxed), documents, tokens, text_bytes, skipped }
    }

    fn add(&self, counts: &Counts) {
        let Counts { documents, tokens, text_bytes, skipped } = counts;
        for (counter, more) in self.written.iter().zip([documents, tokens, text_bytes, &skipped.documents]) {
            counter.fetch_add(*more, Ordering::Relaxed);
        }
    }
}

impl Counts {
    fn join(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.text_bytes += other.text_bytes;
        self.skipped.join(&other.skipped);
    }
}

impl RunSpec {
    /// Returns what a run must have in common with an unfinished one to go on.
    pub fn plan(&self) -> Plan {
        let token = |token: Option<(&str, u32)>| token.map_or("none".to_owned(), |(name, id)| format!("{name} ({id})"));
        let options = [
            ("tokenizer", self.encoder.digest().to_string()),
            ("--bos", token(self.encoder.bos())),
            ("--eos", token(self.encoder.eos())),
            ("--special-tokens", self.encoder.special_tokens().to_string()),
            ("--split", format!("{:?}", self.reading.split)),
            ("--text-field", self.reading.text_field.clone()),
            ("--id-field", self.reading.id_field.clone().unwrap_or_else(|| "none".to_owned())),
            ("--skip-bad", self.reading.skip_bad.to_string()),
            ("--part-bytes", self.part_bytes.to_string()),
            ("--prefix", self.prefix.clone()),
        ];
        Plan::new(options.map(|(name, value)| (name.to_owned(), value)).into(), self.inputs.clone())
    }

    fn file_spec(&self) -> TokenFileSpec {
        let mut spec = TokenFileSpec::new(self.encoder.width());
        spec.vocab_size = Some(self.encoder.vocab_size());
        spec.metadata.insert("gigastore.tokenizer".to_owned(), self.encoder.digest().to_string());
        spec
    }
}

/// Tokenizes what is not finished yet. Blocks; the calling thread writes.
pub fn run(spec: &RunSpec, work: &mut Work, counters: &Counters) -> Result<Tokenized, RunError> {
    let parts_before = work.finished().len();
    work.finished().iter().for_each(|part| counters.add(&part.counts));
    if work.all().is_none() {
        let room = Arc::new(Room::new((spec.threads * IN_FLIGHT_BYTES).max(LEAST_IN_FLIGHT_BYTES)));
        let outcomes = start(spec, work, counters, &room)?;
        let written = Writer { spec, work, counters, room: &room, part: None, counts: Counts::default() }.run(outcomes);
        room.close();
        written?;
    }
    let mut counts = Counts::default();
    work.finished().iter().for_each(|part| counts.join(&part.counts));
    counts.skipped.join(work.all().unwrap_or(&Skipped::default()));
    if counts.documents == 0 {
        return Err(RunError::NoDocuments { skipped: counts.skipped.documents });
    }
    Ok(Tokenized { parts: work.finished().to_vec(), parts_before, counts })
}

/// What comes to the writer, with its number.
enum Outcome {
    Batch(Encoded),
    End,
    Failed(RunError),
}

/// A batch that was tokenized.
struct Encoded {
    ids: Vec<String>,
    ends: Vec<usize>,
    tokens: Vec<u32>,
    counts: Counts,
    bytes: usize,
    end: Mark,
}

/// Starts the threads. They end when the work is done, or when nobody takes what they make.
fn start(
    spec: &RunSpec,
    work: &Work,
    counters: &Counters,
    room: &Arc<Room>,
) -> Result<Receiver<(u64, Outcome)>, RunError> {
    let (send, outcomes) = channel();
    let (batches, take) = sync_channel::<Batch>(spec.threads);
    let take = Arc::new(Mutex::new(take));
    let inputs = Arc::new(spec.inputs.clone());
    let no_thread = |error: std::io::Error| RunError::Thread(format!("can't be started: {error}"));
    for i in 0..spec.threads {
        let (take, send, encoder) = (Arc::clone(&take), send.clone(), Arc::clone(&spec.encoder));
        let (inputs, skip_bad) = (Arc::clone(&inputs), spec.reading.skip_bad);
        let work = move || {
            loop {
                let next = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(batch) = next else { return };
                let number = batch.number;
                if send.send((number, encode(batch, &encoder, &inputs, skip_bad))).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(format!("tokenize-{i}")).spawn(work).map_err(no_thread)?;
    }
    let reader =
        Reader { inputs, reading: spec.reading.clone(), unpacked: work.unpacked(), counters: counters.clone() };
    let (start, room) = (work.end(), Arc::clone(room));
    let read = move || {
        let (number, ended) = reader.run(&start, |batch| room.take(batch.bytes) && batches.send(batch).is_ok());
        let outcome = ended.map_or_else(|error| Outcome::Failed(error.into()), |()| Outcome::End);
        // Where the writer is gone, it has said why. Where this thread is, no end comes, and that is an error.
        let _ = send.send((number, outcome));
    };
    thread::Builder::new().name("tokenize-read".to_owned()).spawn(read).map_err(no_thread)?;
    Ok(outcomes)
}

fn encode(batch: Batch, encoder: &Encoder, inputs: &[Input], skip_bad: bool) -> Outcome {
    let Batch { documents, bytes, skipped, end, .. } = batch;
    let mut done = Encoded {
        ids: Vec::with_capacity(documents.len()),
        ends: Vec::with_capacity(documents.len()),
        tokens: Vec::with_capacity(bytes / 3),
        counts: Counts { skipped, ..Counts::default() },
        bytes,
        end,
    };
    for (input, Document { id, text, number }) in documents {
        if let Err(source) = encoder.encode(&text, &mut done.tokens) {
            if skip_bad {
                done.counts.skipped.add(&inputs[input], number, &source.to_string());
                continue;
            }
            return Outcome::Failed(RunError::Encode { input: inputs[input].to_string(), number, source });
        }
        done.ends.push(done.tokens.len());
        done.counts.documents += 1;
        done.counts.text_bytes += text.len() as u64;
        done.ids.push(id.unwrap_or_else(|| id_of(&text)));
    }
    done.counts.tokens = done.tokens.len() as u64;
    Outcome::Batch(done)
}

/// Returns the id of a document that has none: the first bytes of the BLAKE3 of its text.
fn id_of(text: &str) -> String {
    gigastore_formats::digest::hex(&blake3::hash(text.as_bytes()).as_bytes()[..ID_BYTES])
}

/// Writes batches in their order.
struct Writer<'w> {
    spec: &'w RunSpec,
    work: &'w mut Work,
    counters: &'w Counters,
    room: &'w Room,
    part: Option<(Part, u64)>,
    /// Counts of the open part.
    counts: Counts,
}

impl Writer<'_> {
    /// Writes until the end.
    fn run(mut self, outcomes: Receiver<(u64, Outcome)>) -> Result<(), RunError> {
        let (mut next, mut early) = (0, BTreeMap::new());
        let mut last = Mark::default();
        loop {
            let outcome = match early.remove(&next) {
                Some(outcome) => outcome,
                None => {
                    let ended = || RunError::Thread("ended before its work was done".to_owned());
                    let (number, outcome) = outcomes.recv().map_err(|_| ended())?;
                    early.insert(number, outcome);
                    continue;
                }
            };
            next += 1;
            match outcome {
                Outcome::Batch(batch) => last = self.write(batch)?,
                Outcome::Failed(error) => return Err(error),
                Outcome::End => {
                    if self.part.is_some() {
                        self.finish(last)?;
                    }
                    return Ok(self.work.end_all(self.counts.skipped)?);
                }
            }
        }
    }

    /// Writes a batch, and ends the part where it is full. Returns where the inputs stand.
    fn write(&mut self, batch: Encoded) -> Result<Mark, RunError> {
        let width = self.spec.encoder.width().bytes();
        let mut start = 0;
        for (id, end) in batch.ids.iter().zip(&batch.ends) {
            let (part, bytes) = match &mut self.part {
                Some(part) => part,
                none => none.insert((Part::begin(&self.work.unfinished(), self.spec.file_spec())?, 0)),
            };
            part.push(id, &batch.tokens[start..*end])?;
            *bytes += ((end - start) * width + id.len()) as u64;
            start = *end;
        }
        self.counters.add(&batch.counts);
        self.counts.join(&batch.counts);
        self.room.give(batch.bytes);
        if self.part.as_ref().is_some_and(|(_, bytes)| *bytes >= self.spec.part_bytes) {
            self.finish(batch.end.clone())?;
        }
        Ok(batch.end)
    }

    fn finish(&mut self, end: Mark) -> Result<(), RunError> {
        let Some((part, _)) = self.part.take() else { return Ok(()) };
        let name = format!("{}-{:05}.parquet", self.spec.prefix, self.work.finished().len());
        let written = part.finish(&self.work.parts().join(&name))?;
        Ok(self.work.add(name, written, std::mem::take(&mut self.counts), end)?)
    }
}
