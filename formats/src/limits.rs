//! Every bound of the stored formats, each with the derivation of its number.
//!
//! Must never hold a tunable: what is here is part of the format or protects a parser; tunables live with their users.

/// Bytes of one verified group, of slices, files and manifests alike: 256 KiB.
///
/// A chaining value of 32 bytes is 0.012 % of overhead. Who reads a part of something (the rows of a rank, a page of
/// Parquet) hashes up to a group too much at either end, some 40 microseconds on one core; larger groups would be
/// mostly bytes that nobody asked for.
pub const GROUP_BYTES: u64 = 256 << 10;

/// Bytes of one group of a slice in a pack of version 1: 1 MiB. Such packs are read, and not written any more.
pub const PACK_1_GROUP_BYTES: u64 = 1 << 20;

/// Slices in one pack: 4,096. With about 1 KiB of header a slice the header stays below [`MAX_PACK_HEADER_BYTES`].
pub const MAX_PACK_SLICES: usize = 4096;

/// Header of a pack, length prefix included: 8 MiB. It is read whole before any byte of data can be checked.
pub const MAX_PACK_HEADER_BYTES: u64 = 8 << 20;

/// Header of a foreign safetensors file: 100,000,000 bytes, the limit of the reference implementation.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// Longest slice: 4 GiB; longer ones are split along dimension 0. Its 16,384 group values (64 hex digits each, 1 MiB)
/// and lengths of frames (8 digits each) fit a pack header, and with its header it stays below the 5 GiB that object
/// stores take in one put.
pub const MAX_SLICE_BYTES: u64 = 4 << 30;

/// Pack size that packing aims at: 64 MiB, large enough that a store's latency (~50 ms) is small beside the transfer,
/// small enough that a dozen in flight fit in one process.
pub const PACK_TARGET_BYTES: u64 = 64 << 20;

/// Slices of at least this many bytes start on a [`LARGE_ALIGNMENT`] border of the pack; smaller ones on
/// [`SMALL_ALIGNMENT`].
/// At 64 KiB a 4 KiB pad costs at most 6 %.
pub const LARGE_SLICE_BYTES: u64 = 64 << 10;

/// Alignment of large slices: a page, so that a mapped or directly read slice needs no copy.
pub const LARGE_ALIGNMENT: u64 = 4096;

/// Alignment of small slices: a cache line, and the widest vector register.
pub const SMALL_ALIGNMENT: u64 = 64;

/// Dimensions of a tensor: 16. Frameworks stop at 8 to 64; every algorithm over boxes is linear in it.
pub const MAX_DIMENSIONS: usize = 16;

/// Bytes of a tensor's name: 1,024, four times the longest parameter path seen in public models.
pub const MAX_TENSOR_NAME_BYTES: usize = 1024;

/// Bytes of a file path inside a dataset or checkpoint: 1,024, the key limit of S3.
pub const MAX_PATH_BYTES: usize = 1024;

/// Bytes of one log record: 8 MiB. The largest entry, a commit, holds 65 bytes a manifest group; a 4 GiB manifest
/// ([`MAX_MANIFEST_BYTES`]) needs 1 MiB.
pub const MAX_RECORD_BYTES: u64 = 8 << 20;

/// Entries of one log record: 1,024, so that folding one record is bounded.
pub const MAX_RECORD_ENTRIES: usize = 1024;

/// Bytes of one manifest: 4 GiB, about 20 million slices.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 30;

/// Bytes of one timeline: 512 MiB. The largest world ([`MAX_WORLD_SIZE`]) with seven phases a rank
/// of 57 bytes, not compressed, has 400 MiB, so that no save fails for its timeline.
pub const MAX_TIMELINE_BYTES: u64 = 512 << 20;

/// Bytes of folded log state: 1 GiB, about a million commits. It is a cache; past this a reader folds the records.
pub const MAX_FOLDED_BYTES: u64 = 1 << 30;

/// Bytes of one part of a save: 256 MiB, about a million slices of one rank.
pub const MAX_PART_BYTES: u64 = 256 << 20;

/// World size of a save: 2^20 ranks, ten times the largest cluster this is built for.
pub const MAX_WORLD_SIZE: u32 = 1 << 20;

/// Bytes of one opaque object (a dataset file): 5 TiB, the largest object of S3, GCS and most others.
pub const MAX_BLOB_BYTES: u64 = 5 << 40;

/// Bytes of a Parquet footer: 256 MiB. A file of 1,000 columns and 10,000 row groups needs about that.
pub const MAX_PARQUET_FOOTER_BYTES: u64 = 256 << 20;

/// Row groups of one Parquet file: 65,536, twice what the format's own numbering of them (16 bits, signed) reaches.
/// Each takes five bytes of a footer and 24 of memory.
pub const MAX_FILE_ROW_GROUPS: usize = 1 << 16;

/// Values of the token column of one row group: 2^28. A row group is decoded whole; this many tokens are 512 MiB of two
/// bytes, eight times what row groups of 64 MiB have.
pub const MAX_ROW_GROUP_TOKENS: u64 = 1 << 28;

/// Rows of one row group whose tokens are read: 2^24, sixteen times what common writers put into one; their ends are
/// 64 MiB of memory.
pub const MAX_ROW_GROUP_DOCUMENTS: u64 = 1 << 24;

/// Bytes of a document's id: 64 KiB, thirty times the longest URL that browsers take.
pub const MAX_DOCUMENT_ID_BYTES: usize = 64 << 10;

/// Bytes of user metadata of one checkpoint, keys and values: 1 MiB; larger state belongs in a file of the checkpoint.
pub const MAX_USER_METADATA_BYTES: usize = 1 << 20;

/// Data streams whose cursors one checkpoint keeps: 64. A trainer reads one, and a few more to evaluate with.
pub const MAX_CURSORS: usize = 64;

/// Bytes of the cursors of one checkpoint, with their names, as JSON: 4 MiB. A lane takes 24 bytes at most, so that
/// these are two sources of 65,536 lanes each, the most that an order may have, or a hundred and seventy of 1,024.
pub const MAX_CURSORS_BYTES: usize = 4 << 20;
