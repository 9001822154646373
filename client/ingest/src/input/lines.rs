//! Text becomes lines, paragraphs or one document; no line is longer in memory than its limit.
//!
//! Must never lose count: the place after each document is exact, whatever was wrong with it.

use std::io::{self, BufRead, Read};

use super::open::Text;
use super::{Bad, Document, MAX_DOCUMENT_BYTES, Place, Record, Split};

/// Text read in pieces, and the place after the last one.
pub(crate) struct Lines {
    text: Text,
    lines: u64,
    /// Hashes all that was read, where somebody must prove later that it came again.
    seen: Option<blake3::Hasher>,
    buffer: Vec<u8>,
}

/// A line and its number, or what is wrong with it.
pub(crate) type NumberedLine<'l> = Result<(u64, &'l [u8]), Bad>;

/// One line.
enum Line {
    /// It is in the buffer, with its end.
    Whole,
    /// It is longer than the limit, and was passed over.
    TooLong,
    /// There is none.
    End,
}

impl Lines {
    pub(crate) fn new(text: Text, lines: u64, seen: Option<blake3::Hasher>) -> Self {
        Self { text, lines, seen, buffer: Vec::new() }
    }

    /// Returns the place after what was read.
    pub(crate) fn place(&self) -> Place {
        Place { offset: self.text.offset, lines: self.lines }
    }

    /// Returns the digest of all that was read.
    pub(crate) fn seen(&self) -> Option<blake3::Hash> {
        self.seen.as_ref().map(blake3::Hasher::finalize)
    }

    /// Reads the next document of text.
    pub(crate) fn document(&mut self, split: Split) -> io::Result<Option<Record>> {
        match split {
            Split::File => self.rest(),
            Split::Lines => {
                let found = self.line_that(MAX_DOCUMENT_BYTES, |line| !is_blank(line))?;
                Ok(found.map(|number| number.and_then(|number| self.finished(number, self.buffer.len()))))
            }
            Split::BlankLines => self.paragraph(),
        }
    }

    /// Reads the next line that is not blank into the buffer and returns its number.
    pub(crate) fn line(&mut self, limit: usize) -> io::Result<Option<NumberedLine<'_>>> {
        let found = self.line_that(limit, |line| !is_blank(line))?;
        Ok(found.map(|found| found.map(|number| (number, without_end(&self.buffer)))))
    }

    fn line_that(&mut self, limit: usize, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Result<u64, Bad>>> {
        loop {
            self.buffer.clear();
            match self.append(limit)? {
                Line::End => return Ok(None),
                Line::TooLong => return Ok(Some(Err(too_long(self.lines, limit)))),
                Line::Whole if wanted(&self.buffer) => return Ok(Some(Ok(self.lines))),
                Line::Whole => {}
            }
        }
    }

    /// Reads until a blank line.
    fn paragraph(&mut self) -> io::Result<Option<Record>> {
        self.buffer.clear();
        let (mut first, mut end, mut long) = (0, 0, false);
        loop {
            match self.append(MAX_DOCUMENT_BYTES)? {
                Line::End if first == 0 => return Ok(None),
                Line::End => break,
                Line::TooLong => {
                    (first, long) = (if first == 0 { self.lines } else { first }, true);
                    self.buffer.truncate(end);
                }
                Line::Whole if is_blank(&self.buffer[end..]) => {
                    self.buffer.truncate(end);
                    if first > 0 {
                        break;
                    }
                }
                Line::Whole => {
                    first = if first == 0 { self.lines } else { first };
                    long |= self.buffer.len() > MAX_DOCUMENT_BYTES;
                    if long {
                        self.buffer.clear();
                    }
                    end = self.buffer.len();
                }
            }
        }
        Ok(Some(if long { Err(too_long(first, MAX_DOCUMENT_BYTES)) } else { self.finished(first, end) }))
    }

    /// Reads all that is left as one document.
    fn rest(&mut self) -> io::Result<Option<Record>> {
        if self.lines > 0 {
            return Ok(None);
        }
        self.buffer.clear();
        let read = (&mut self.text.reader).take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut self.buffer)?;
        self.advance(0, read);
        self.lines = 1;
        if read <= MAX_DOCUMENT_BYTES {
            let record = text_of(std::mem::take(&mut self.buffer), 1);
            return Ok(Some(record.map(|text| Document { id: None, text, number: 1 })));
        }
        let reason = format!("longer than {MAX_DOCUMENT_BYTES} bytes: pass --split lines or blank-lines");
        Ok(Some(Err(Bad { number: 1, reason })))
    }

    /// Makes a document of the first `end` bytes of the buffer.
    fn finished(&mut self, number: u64, end: usize) -> Record {
        self.buffer.truncate(end);
        let len = without_end(&self.buffer).len();
        self.buffer.truncate(len);
        let text = text_of(self.buffer.as_slice().to_vec(), number)?;
        Ok(Document { id: None, text, number })
    }

    /// Appends the next line to the buffer.
    fn append(&mut self, limit: usize) -> io::Result<Line> {
        let start = self.buffer.len();
        // Two more: a line's end does not count.
        let most = limit as u64 + 2;
        let read = (&mut self.text.reader).take(most).read_until(b'\n', &mut self.buffer)?;
        self.advance(start, read);
        if read == 0 {
            return Ok(Line::End);
        }
        self.lines += 1;
        if without_end(&self.buffer[start..]).len() <= limit {
            return Ok(Line::Whole);
        }
        let mut ended = self.buffer.ends_with(b"\n");
        self.buffer.truncate(start);
        self.buffer.shrink_to(limit / 16);
        while !ended {
            let there = self.text.reader.fill_buf()?;
            let end = there.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(there.len());
            if let Some(seen) = &mut self.seen {
                seen.update(&there[..taken]);
            }
            ended = end.is_some() || taken == 0;
            self.text.reader.consume(taken);
            self.text.offset += taken as u64;
        }
        Ok(Line::TooLong)
    }

    fn advance(&mut self, start: usize, read: usize) {
        self.text.offset += read as u64;
        if let Some(seen) = &mut self.seen {
            seen.update(&self.buffer[start..]);
        }
    }
}

fn too_long(number: u64, limit: usize) -> Bad {
    Bad { number, reason: format!("longer than {limit} bytes") }
}

/// Makes text of bytes.
pub(crate) fn text_of(bytes: Vec<u8>, number: u64) -> Result<String, Bad> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Bad { number, reason: format!("not UTF-8: byte {at} of the document (0x{:02x})", error.as_bytes()[at]) }
    })
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Lines {
        let reader = Box::new(io::BufReader::with_capacity(5, io::Cursor::new(bytes.to_vec())));
        Lines::new(Text { reader, offset: 0 }, 0, Some(blake3::Hasher::new()))
    }

    fn all(bytes: &[u8], split: Split) -> Vec<Result<(u64, String), (u64, String)>> {
        let mut lines = lines(bytes);
        let found = std::iter::from_fn(|| lines.document(split).unwrap())
            .map(|record| record.map(|d| (d.number, d.text)).map_err(|bad| (bad.number, bad.reason)))
            .collect();
        assert_eq!(lines.place().offset, bytes.len() as u64);
        assert_eq!(lines.seen(), Some(blake3::hash(bytes)));
        found
    }

    fn good(number: u64, text: &str) -> Result<(u64, String), (u64, String)> {
        Ok((number, text.to_owned()))
    }

    #[test]
    fn text_is_split_as_asked() {
        let text = b"one\r\n\n \ntwo\nthree\n\n\nfour";
        assert_eq!(all(text, Split::Lines), [good(1, "one"), good(4, "two"), good(5, "three"), good(8, "four")]);
        assert_eq!(all(text, Split::BlankLines), [good(1, "one"), good(4, "two\nthree"), good(8, "four")]);
        assert_eq!(all(text, Split::File), [good(1, std::str::from_utf8(text).unwrap())]);
        assert_eq!(all(b"", Split::File), [good(1, "")]);
        assert_eq!((all(b"", Split::Lines), all(b"\n\n", Split::BlankLines)), (vec![], vec![]));
    }

    #[test]
    fn bad_text_is_named_and_the_next_document_is_read() {
        let found = all(b"good\nb\xffd\nfine", Split::Lines);
        assert_eq!((&found[0], &found[2]), (&good(1, "good"), &good(3, "fine")));
        assert_eq!(found[1], Err((2, "not UTF-8: byte 1 of the document (0xff)".to_owned())));
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over_and_the_limit_itself_is_not() {
        let long = "x".repeat(MAX_DOCUMENT_BYTES);
        let text = format!("a\n{long}y\n{long}\r\nb\n");
        let found = all(text.as_bytes(), Split::Lines);
        assert_eq!(found.len(), 4);
        assert!(found[1].as_ref().is_err_and(|bad| bad.0 == 2 && bad.1.contains("longer than 16777216 bytes")));
        assert!(found[2].as_ref().is_ok_and(|good| good.0 == 3 && good.1.len() == MAX_DOCUMENT_BYTES));
        let paragraphs = all(format!("a\n{long}\nc\n\nb").as_bytes(), Split::BlankLines);
        assert!(paragraphs[0].as_ref().is_err_and(|bad| bad.0 == 1), "together they are longer");
        assert_eq!(paragraphs[1], good(5, "b"));
    }
}
