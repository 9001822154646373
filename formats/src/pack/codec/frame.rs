//! One zstd frame of a group: low planes that do not shrink as they are, the others compressed.
//!
//! Source: <https://www.rfc-editor.org/rfc/rfc8878>, section 3.1.1. A frame is a header and blocks; a block is raw or
//! compressed. zstd itself makes the compressed blocks, here the raw ones are put before them, so that nobody looks
//! for repeats in the noise of a mantissa. Any reader of zstd reads the whole as one frame. Must never put two runs of
//! compressed blocks into one frame: the second would start from offsets that the first has left behind.

use std::cell::RefCell;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, ErrorCode};

use super::planes::append_plane;
use super::{MAX_CODED_PERCENT, join_planes};

/// Level of zstd: 1. Byte planes of weights have hardly any repeats, only uneven counts, which Huffman codes catch at
/// every level.
const LEVEL: i32 = 1;

/// Logarithm of the entries of the table of repeats for planes of floats: 6, the least there is. Each chance repeat of
/// a few bytes that is found costs more than the Huffman codes of the bytes it stands for, and the time of looking.
/// Measured on real BF16 weights, in groups of 1 MiB: 66.99 % at 960 MB/s a core, where level 1 as it is leaves 68.40 %
/// at 350.
const FLOAT_TABLE_LOG: u32 = 6;

/// Runs of a plane that tell whether it shrinks, and bytes of each: 8 KiB in all, a 16th of a plane of BF16, from four
/// places of the group. The table of a Huffman code is at most 2 % of that.
const SAMPLED_RUNS: usize = 4;
const SAMPLED_BYTES: usize = 2 << 10;

/// Longest block: 128 KiB.
const BLOCK_BYTES: usize = 128 << 10;

/// How every frame starts.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Header of our frames: four bytes say how long the content is, and the content is the window.
const CONTENT_LEN_IN_FOUR_BYTES: u8 = 0b1010_0000;

/// What zstd puts before the first block, told to leave out length, checksum and dictionary: magic, a descriptor of
/// zeros, the window.
const OWN_HEADER_BYTES: usize = MAGIC.len() + 2;

/// Contexts and memory of one thread, used again for each group: about 4 MiB once groups of version 1 have passed.
struct Scratch {
    floats: CCtx<'static>,
    others: CCtx<'static>,
    decoder: DCtx<'static>,
    planes: Vec<u8>,
    coded: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// Returns the frame of the planes of `group`, whose elements have `width` bytes.
pub(super) fn write(group: &[u8], width: usize, floats: bool) -> Vec<u8> {
    SCRATCH.with_borrow_mut(|scratch| scratch.write(group, width, floats))
}

/// Decodes a frame into `logical_len` bytes of planes, and joins them to elements. The second value is how many bytes
/// came out, where they are fewer.
pub(super) fn read(frame: &[u8], width: usize, logical_len: usize) -> Result<Result<Vec<u8>, usize>, ErrorCode> {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { decoder, planes, .. } = scratch;
        if planes.len() < logical_len {
            planes.resize(logical_len, 0);
        }
        let produced = decoder.decompress(&mut planes[..logical_len], frame)?;
        Ok(if produced == logical_len { Ok(join_planes(width, &planes[..logical_len])) } else { Err(produced) })
    })
}

impl Scratch {
    fn new() -> Self {
        let context = |parameters: &[CParameter]| {
            let mut context = CCtx::create();
            for parameter in parameters {
                context.set_parameter(*parameter).expect("all are within the bounds of zstd");
            }
            context
        };
        let [level, table] = [CParameter::CompressionLevel(LEVEL), CParameter::HashLog(FLOAT_TABLE_LOG)];
        let bare = CParameter::ContentSizeFlag(false);
        let (floats, others) = (context(&[level, table, bare]), context(&[level, bare]));
        Self { floats, others, decoder: DCtx::create(), planes: Vec::new(), coded: Vec::new() }
    }

    fn write(&mut self, group: &[u8], width: usize, floats: bool) -> Vec<u8> {
        let mut stored = 0;
        while stored < width && !self.shrinks(group, width, stored, floats) {
            stored += 1;
        }
        self.planes.clear();
        (stored..width).for_each(|plane| append_plane(&mut self.planes, group, width, plane));
        if width > 1 {
            self.planes.extend_from_slice(&group[group.len() / width * width..]);
        }
        self.compress(floats);
        let blocks = &self.coded[OWN_HEADER_BYTES..];
        let plane_len = group.len() / width;
        let headers = MAGIC.len() + 5 + 3 * stored * plane_len.div_ceil(BLOCK_BYTES);
        let mut frame = Vec::with_capacity(headers + stored * plane_len + blocks.len());
        frame.extend_from_slice(&MAGIC);
        frame.push(CONTENT_LEN_IN_FOUR_BYTES);
        frame.extend_from_slice(&(group.len() as u32).to_le_bytes());
        for plane in 0..stored {
            for piece in group[..plane_len * width].chunks(BLOCK_BYTES * width) {
                // Neither the last block, nor compressed: only the length.
                frame.extend_from_slice(&((piece.len() / width) as u32 * 8).to_le_bytes()[..3]);
                append_plane(&mut frame, piece, width, plane);
            }
        }
        frame.extend_from_slice(blocks);
        frame
    }

    /// Tells whether a plane is worth compressing, by a sample of it.
    fn shrinks(&mut self, group: &[u8], width: usize, plane: usize, floats: bool) -> bool {
        let elements = group.len() / width;
        self.planes.clear();
        if elements <= SAMPLED_RUNS * SAMPLED_BYTES {
            append_plane(&mut self.planes, &group[..elements * width], width, plane);
        } else {
            for run in 0..SAMPLED_RUNS {
                let start = run * (elements - SAMPLED_BYTES) / (SAMPLED_RUNS - 1) * width;
                append_plane(&mut self.planes, &group[start..start + SAMPLED_BYTES * width], width, plane);
            }
        }
        let sampled = self.planes.len() as u64;
        self.compress(floats);
        (self.coded.len() as u64) * 100 <= sampled * MAX_CODED_PERCENT
    }

    /// Compresses `planes` into `coded`.
    fn compress(&mut self, floats: bool) {
        let Self { planes, coded, .. } = self;
        let context = if floats { &mut self.floats } else { &mut self.others };
        coded.clear();
        coded.reserve(zstd_safe::compress_bound(planes.len()));
        let done = context.compress2(coded, planes).map_err(zstd_safe::get_error_name);
        done.expect("the frame has room");
        debug_assert_eq!((&coded[..4], coded[4]), (&MAGIC[..], 0), "a header of {OWN_HEADER_BYTES} bytes");
    }
}
