//! The compression of pages, into buffers that are as long as they must be.
//!
//! Must never unfold to more than a page says, which was bounded before.

use super::pages::PageFault;

pub(super) const UNCOMPRESSED: i64 = 0;
const SNAPPY: i64 = 1;
const ZSTD: i64 = 6;
const LZ4_RAW: i64 = 7;

/// Unfolds the pages of one chunk; buffer and contexts are kept from page to page.
pub(super) struct Unfolder {
    codec: i64,
    buffer: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unfolder {
    /// Starts on a chunk of a codec's number.
    pub(super) fn new(codec: i64) -> Self {
        Self { codec, buffer: Vec::new(), zstd: None }
    }

    /// Returns what `body` unfolds to: exactly `expected` bytes.
    pub(super) fn unfold<'a>(&'a mut self, body: &'a [u8], expected: usize) -> Result<&'a [u8], PageFault> {
        let actual = match self.codec {
            UNCOMPRESSED => return exact(body, body.len(), expected),
            // Nothing is compressed to nothing by some writers.
            _ if body.is_empty() && expected == 0 => return Ok(body),
            SNAPPY => {
                let refuse = |error| refuse("snappy", error);
                let len = snap::raw::decompress_len(body).map_err(refuse)?;
                exact(&[], len, expected)?;
                let into = sized(&mut self.buffer, expected);
                snap::raw::Decoder::new().decompress(body, into).map_err(refuse)?
            }
            ZSTD => {
                if self.zstd.is_none() {
                    self.zstd = Some(zstd::bulk::Decompressor::new().map_err(|error| refuse("zstd", error))?);
                }
                let zstd = self.zstd.as_mut().expect("made above");
                let into = sized(&mut self.buffer, expected);
                zstd.decompress_to_buffer(body, into).map_err(|error| refuse("zstd", error))?
            }
            LZ4_RAW => {
                let into = sized(&mut self.buffer, expected);
                lz4_flex::block::decompress_into(body, into).map_err(|error| refuse("lz4", error))?
            }
            actual => return Err(PageFault::Unused { what: "codec", actual }),
        };
        exact(&self.buffer[..expected], actual, expected)
    }
}

fn exact(bytes: &[u8], actual: usize, expected: usize) -> Result<&[u8], PageFault> {
    if actual == expected { Ok(bytes) } else { Err(PageFault::Unfolded { expected, actual }) }
}

/// The buffer only grows, so that it is cleared once and not for each page.
fn sized(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

fn refuse(codec: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> PageFault {
    PageFault::Compressed { codec, source: Box::new(error) }
}
