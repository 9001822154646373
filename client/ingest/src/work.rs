//! The folder of an unfinished run: what it is to do, which parts are finished, and the parts.
//!
//! ```text
//! lock            held by the process that works here
//! plan.json       options, tokenizer and inputs: what a run must have in common with this one to go on
//! parts.jsonl     a line for each finished part, and one more when all are
//! parts/          the parts; one that is not in the journal is removed
//! unfinished      the part that is being written
//! ```
//!
//! A part is durable before its line is written; a line that a kill tore is as if it were not there. Must never take a
//! part for finished whose bytes are not those that were written, nor remove a file that is not its own.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gigastore_formats::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::input::Input;
use crate::part::Written;
use crate::read::{Mark, Skipped};

const VERSION: u32 = 1;
const LOCK: &str = "lock";
const PLAN: &str = "plan.json";
const JOURNAL: &str = "parts.jsonl";
const PARTS: &str = "parts";
const UNFINISHED: &str = "unfinished";
const UNPACKED: &str = "unpacked";

/// What a run is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    version: u32,
    /// Everything that decides what the parts are, beside the inputs.
    options: BTreeMap<String, String>,
    inputs: Vec<Input>,
}

/// A finished part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Their digest.
    pub blake3: Digest,
    /// Its counts.
    pub counts: Counts,
    /// Where the inputs stand after it.
    end: Mark,
}

/// What came out of inputs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Documents that were passed over.
    pub skipped: Skipped,
}

/// A line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Part(Finished),
    /// Every input was read; what was passed over after the last part.
    All(Skipped),
}

/// Why a folder can't be worked in.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A file can't be read or written.
    #[error("{path} can't be used")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process works there.
    #[error("{folder} is in use by another process: wait for it, or pass another --work")]
    Busy {
        /// The folder.
        folder: String,
    },
    /// An unfinished run there was another one.
    #[error(
        "{folder} holds an unfinished run with another {what}: then {then}, now {now}; run it as it was, or pass \
             --restart to begin anew"
    )]
    Other {
        /// The folder.
        folder: String,
        /// What differs.
        what: String,
        /// What it was.
        then: String,
        /// What it is.
        now: String,
    },
    /// What the folder holds is not what was written.
    #[error("{path} is damaged ({reason}); pass --restart to begin anew")]
    Damaged {
        /// The file.
        path: String,
        /// How it shows.
        reason: String,
    },
}

/// A folder that is worked in.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    journal: File,
    finished: Vec<Finished>,
    all: Option<Skipped>,
    /// Held as long as this.
    _lock: File,
}

impl Plan {
    /// Describes a run.
    pub fn new(options: BTreeMap<String, String>, inputs: Vec<Input>) -> Self {
        Self { version: VERSION, options, inputs }
    }
}

impl Work {
    /// Opens a folder, and makes it where it is not there. An unfinished run of the same plan goes on.
    pub fn open(folder: &Path, plan: &Plan, restart: bool) -> Result<Self, WorkError> {
        let parts = folder.join(PARTS);
        fs::create_dir_all(&parts).map_err(io(&parts))?;
        let lock = lock(folder)?;
        let at = |name: &str| folder.join(name);
        if restart {
            remove(&at(PLAN))?;
        }
        if at(PLAN).exists() {
            compare(folder, &read_plan(&at(PLAN))?, plan)?;
        } else {
            remove(&at(JOURNAL))?;
            write_plan(&at(PLAN), &at(UNFINISHED), plan)?;
        }
        let path = at(JOURNAL);
        let mut journal = File::options().read(true).append(true).create(true).open(&path).map_err(io(&path))?;
        let (finished, all) = read_journal(&mut journal, &path)?;
        let work = Self { folder: folder.to_owned(), journal, finished, all, _lock: lock };
        work.check_parts()?;
        Ok(work)
    }

    /// Returns the parts that are finished, in the order of the inputs.
    pub fn finished(&self) -> &[Finished] {
        &self.finished
    }

    /// Returns what was passed over after the last part, if every input was read.
    pub(crate) fn all(&self) -> Option<&Skipped> {
        self.all.as_ref()
    }

    /// Returns the folder of the parts, as it is pushed.
    pub fn parts(&self) -> PathBuf {
        self.folder.join(PARTS)
    }

    /// Returns where the inputs stand after the last finished part.
    pub(crate) fn end(&self) -> Mark {
        self.finished.last().map(|part| part.end.clone()).unwrap_or_default()
    }

    /// Returns where a part is written before it is finished.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.folder.join(UNFINISHED)
    }

    /// Returns where a packed Parquet file may be unpacked.
    pub(crate) fn unpacked(&self) -> PathBuf {
        self.folder.join(UNPACKED)
    }

    /// Writes down that a part is finished.
    pub(crate) fn add(&mut self, name: String, written: Written, counts: Counts, end: Mark) -> Result<(), WorkError> {
        let part = Finished { name, bytes: written.bytes, blake3: written.blake3, counts, end };
        self.append(&Line::Part(part.clone()))?;
        self.finished.push(part);
        Ok(())
    }

    /// Writes down that there is nothing more to read.
    pub(crate) fn end_all(&mut self, skipped: Skipped) -> Result<(), WorkError> {
        self.append(&Line::All(skipped.clone()))?;
        self.all = Some(skipped);
        Ok(())
    }

    /// Removes all that this run wrote, and the folder where nothing else is in it.
    pub fn remove(self) -> Result<(), WorkError> {
        // Without a plan there is no run: after a kill from here on, the next one begins anew and misses no part.
        remove(&self.folder.join(PLAN))?;
        for part in &self.finished {
            remove(&self.parts().join(&part.name))?;
        }
        for name in [UNFINISHED, UNPACKED, JOURNAL, LOCK] {
            remove(&self.folder.join(name))?;
        }
        for folder in [self.parts(), self.folder.clone()] {
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(io(&folder)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn append(&mut self, line: &Line) -> Result<(), WorkError> {
        let path = self.folder.join(JOURNAL);
        let mut text = serde_json::to_string(line).map_err(|error| io(&path)(error.into()))?;
        text.push('\n');
        self.journal.write_all(text.as_bytes()).map_err(io(&path))?;
        self.journal.sync_all().map_err(io(&path))
    }

    /// Checks the bytes of finished parts, and removes what a kill left beside them.
    fn check_parts(&self) -> Result<(), WorkError> {
        for part in &self.finished {
            let path = self.parts().join(&part.name);
            let mut hasher = blake3::Hasher::new();
            let mut file = File::open(&path).map_err(io(&path))?;
            let bytes = io::copy(&mut file, &mut hasher).map_err(io(&path))?;
            let digest = Digest::from(hasher.finalize());
            if (bytes, digest) != (part.bytes, part.blake3) {
                let reason = format!("expected BLAKE3 {}, actual {digest}", part.blake3);
                return Err(WorkError::Damaged { path: path.display().to_string(), reason });
            }
        }
        let known = |name: &str| self.finished.iter().any(|part| part.name == name);
        for entry in fs::read_dir(self.parts()).map_err(io(&self.parts()))? {
            let entry = entry.map_err(io(&self.parts()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".parquet") && !known(&name) {
                remove(&entry.path())?;
            }
        }
        remove(&self.unfinished())
    }
}

fn lock(folder: &Path) -> Result<File, WorkError> {
    let path = folder.join(LOCK);
    let lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(io(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(WorkError::Busy { folder: folder.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(io(&path)(source)),
    }
}

fn read_plan(path: &Path) -> Result<Plan, WorkError> {
    let text = fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text)
        .map_err(|error| WorkError::Damaged { path: path.display().to_string(), reason: error.to_string() })
}

fn write_plan(path: &Path, under: &Path, plan: &Plan) -> Result<(), WorkError> {
    let text = serde_json::to_vec(plan).map_err(|error| io(path)(error.into()))?;
    let mut file = File::create(under).map_err(io(under))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io(under))?;
    fs::rename(under, path).map_err(io(path))
}

/// Reads whole lines, and cuts off what a kill left of another.
fn read_journal(journal: &mut File, path: &Path) -> Result<(Vec<Finished>, Option<Skipped>), WorkError> {
    let mut text = Vec::new();
    journal.read_to_end(&mut text).map_err(io(path))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    journal.set_len(whole as u64).map_err(io(path))?;
    let (mut finished, mut all) = (Vec::new(), None);
    for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
        let line = serde_json::from_slice(line)
            .map_err(|error| WorkError::Damaged { path: path.display().to_string(), reason: error.to_string() })?;
        match line {
            Line::Part(part) => finished.push(part),
            Line::All(skipped) => all = Some(skipped),
        }
    }
    Ok((finished, all))
}

/// Checks that an unfinished run was this one.
fn compare(folder: &Path, then: &Plan, now: &Plan) -> Result<(), WorkError> {
    let other = |what: &str, then: String, now: String| {
        Err(WorkError::Other { folder: folder.display().to_string(), what: what.to_owned(), then, now })
    };
    if then.version != now.version {
        return other("version of the journal", then.version.to_string(), now.version.to_string());
    }
    let none = "none".to_owned();
    for name in then.options.keys().chain(now.options.keys()) {
        let (then, now) = (then.options.get(name), now.options.get(name));
        if then != now {
            let text = |value: Option<&String>| value.unwrap_or(&none).clone();
            return other(name, text(then), text(now));
        }
    }
    if then.inputs.len() != now.inputs.len() {
        let text = |inputs: &[Input]| format!("{} inputs", inputs.len());
        return other("list of inputs", text(&then.inputs), text(&now.inputs));
    }
    let differing = then.inputs.iter().zip(&now.inputs).find(|(then, now)| then != now);
    differing.map_or(Ok(()), |(then, now)| {
        let text = |input: &Input| serde_json::to_string(input).unwrap_or_else(|_| input.to_string());
        other("input", text(then), text(now))
    })
}

fn remove(path: &Path) -> Result<(), WorkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(path)(error)),
        _ => Ok(()),
    }
}

fn io(path: &Path) -> impl Fn(io::Error) -> WorkError + '_ {
    |source| WorkError::Io { path: path.display().to_string(), source }
}
