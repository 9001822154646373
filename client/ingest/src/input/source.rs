//! The documents of one input, whatever its format, and the place after each.
//!
//! Must never end an input early: a decoder's error is an error.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::json::{self, Fields};
use super::lines::Lines;
use super::open::{check_unchanged, open_text, open_whole};
use super::rows::Rows;
use super::{Format, Input, MAX_LINE_BYTES, Origin, Place, ReadError, Reading, Record};

/// Most bytes that may come out of a packed Parquet file: 64 GiB, more than any that was meant to be read as one.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// The documents of one input.
pub(crate) struct Source<'r> {
    input: &'r Input,
    reading: &'r Reading,
    kind: Kind,
}

enum Kind {
    Text(Lines),
    Jsonl(Lines),
    /// Of stdin with the digest of the whole file.
    Parquet(Box<Rows>, Option<String>),
}

/// Where an input is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'s> {
    pub(crate) place: Place,
    /// Of stdin: the digest of what stands before.
    pub(crate) seen: Option<&'s str>,
}

impl<'r> Source<'r> {
    /// Opens an input; `room` is where a packed Parquet file may be unpacked.
    pub(crate) fn open(
        input: &'r Input,
        reading: &'r Reading,
        start: Start<'_>,
        room: &Path,
        counter: &Arc<AtomicU64>,
    ) -> Result<Self, ReadError> {
        check_unchanged(input)?;
        let fields = Fields { text: &reading.text_field, id: reading.id_field.as_deref() };
        let kind = match input.format {
            Format::Text => Kind::Text(lines(input, start, counter)?),
            Format::Jsonl => Kind::Jsonl(lines(input, start, counter)?),
            Format::Parquet => {
                let mut file = open_whole(input, room, MAX_UNPACKED_BYTES)?;
                let seen = match input.origin {
                    Origin::Stdin => Some(hash_of(&mut file).map_err(ReadError::io(input))?),
                    Origin::File { .. } => None,
                };
                check_seen(start, seen.as_deref())?;
                Kind::Parquet(Box::new(Rows::open(input, file, fields, start.place)?), seen)
            }
        };
        Ok(Self { input, reading, kind })
    }

    /// Reads the next document.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, ReadError> {
        let failed = ReadError::io(self.input);
        match &mut self.kind {
            Kind::Text(lines) => lines.document(self.reading.split).map_err(failed),
            Kind::Jsonl(lines) => {
                let fields = Fields { text: &self.reading.text_field, id: self.reading.id_field.as_deref() };
                let line = lines.line(MAX_LINE_BYTES).map_err(failed)?;
                Ok(line.map(|line| line.and_then(|(number, line)| json::document(line, number, fields))))
            }
            Kind::Parquet(rows, _) => rows.document(),
        }
    }

    /// Returns the place after the last document.
    pub(crate) fn place(&self) -> Place {
        match &self.kind {
            Kind::Text(lines) | Kind::Jsonl(lines) => lines.place(),
            Kind::Parquet(rows, _) => rows.place(),
        }
    }

    /// Returns the digest of all that was read of stdin.
    pub(crate) fn seen(&self) -> Option<String> {
        match &self.kind {
            Kind::Text(lines) | Kind::Jsonl(lines) => lines.seen().map(|digest| digest.to_hex().to_string()),
            Kind::Parquet(_, seen) => seen.clone(),
        }
    }

    /// Checks that the input did not change meanwhile.
    pub(crate) fn finish(self) -> Result<(), ReadError> {
        check_unchanged(self.input)
    }
}

fn lines(input: &Input, start: Start<'_>, counter: &Arc<AtomicU64>) -> Result<Lines, ReadError> {
    let failed = ReadError::io(input);
    let Place { offset, lines } = start.place;
    let mut text = open_text(input, offset, counter).map_err(&failed)?;
    let mut hasher = (input.origin == Origin::Stdin).then(blake3::Hasher::new);
    if offset == 0 {
        // The mark before the text is not given to anybody, but it came.
        if let Some(hasher) = hasher.as_mut().filter(|_| text.offset > 0) {
            hasher.update(b"\xef\xbb\xbf");
        }
        return Ok(Lines::new(text, lines, hasher));
    }
    text.skip_to(offset, |bytes| {
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    })
    .map_err(&failed)?;
    check_seen(start, hasher.as_ref().map(|hasher| hasher.finalize().to_hex().to_string()).as_deref())?;
    Ok(Lines::new(text, lines, hasher))
}

/// Checks that stdin gave what it gave before.
fn check_seen(start: Start<'_>, seen: Option<&str>) -> Result<(), ReadError> {
    match (start.seen, seen) {
        (Some(expected), Some(actual)) if actual != expected => Err(ReadError::OtherStdin {
            bytes: start.place.offset,
            expected: expected.to_owned(),
            actual: actual.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn hash_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    io::copy(file, &mut hasher)?;
    file.rewind()?;
    Ok(hasher.finalize().to_hex().to_string())
}
