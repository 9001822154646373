//! Why a manifest can't be written or read.

use super::dataset_tokens::{LENGTH_BUCKETS, MAX_LINEAGE_BYTES, MAX_REMOVED_ROWS};
use crate::digest::{Digest, DigestError};
use crate::limits::{
    MAX_BLOB_BYTES, MAX_CURSORS, MAX_CURSORS_BYTES, MAX_FILE_ROW_GROUPS, MAX_PACK_HEADER_BYTES,
    MAX_USER_METADATA_BYTES, MAX_WORLD_SIZE,
};
use crate::name::NameError;
use crate::object::StoredError;
use crate::table::{FooterError, GivenError, ThriftError};
use crate::tensor::boxes::BoxError;
use crate::tensor::dtype::DtypeError;
use crate::tensor::slice::{SliceError, UnknownWord};
use crate::verified::TreeError;

/// Why a manifest can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not a Parquet file.
    #[error("manifest: {0}")]
    Footer(#[from] FooterError),
    /// It is longer than its kind may be.
    #[error("{format} of {actual} bytes is over the limit of {limit}")]
    TooLong {
        /// The kind of manifest.
        format: &'static str,
        /// Most bytes.
        limit: u64,
        /// Its bytes.
        actual: u64,
    },
    /// It is another kind of manifest, or of another version.
    #[error("expected a manifest of format {expected}, found {actual:?} (was it written by a newer version?)")]
    Format {
        /// The format that was asked for.
        expected: &'static str,
        /// What the manifest says it is; none where it says nothing.
        actual: Option<String>,
    },
    /// What it says of itself is missing or not of the expected form.
    #[error("{key} of the manifest is missing or not of the expected form")]
    Meta {
        /// The key of the key-value metadata.
        key: &'static str,
        /// What is wrong; none where it is missing.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// What it says of itself is out of bounds.
    #[error(transparent)]
    Bounds(#[from] MetaError),
    /// A column is missing or has another type.
    #[error("manifest has no column {column:?} of the expected type")]
    Column {
        /// The column.
        column: String,
    },
    /// A row group has more rows, or its columns more bytes, than a manifest's may have.
    #[error("row group {group} of the manifest: {what} {actual} is over the limit of {limit}")]
    GroupTooLarge {
        /// The row group.
        group: usize,
        /// What there is too much of.
        what: &'static str,
        /// Most of it.
        limit: u64,
        /// How much there is.
        actual: u64,
    },
    /// A page is not of the form that manifests have.
    #[error("row group {group} of the manifest, column {column:?}: {source}")]
    Page {
        /// The row group.
        group: usize,
        /// The column.
        column: String,
        /// What is wrong.
        source: PageError,
    },
    /// A row is not valid.
    #[error("row {row} of the manifest ({label}): {source}")]
    Row {
        /// Which row, from 0.
        row: u64,
        /// Its name, where it has one.
        label: String,
        /// What is wrong.
        source: RowError,
    },
    /// Rows are not strictly sorted.
    #[error("rows of a manifest must be sorted and distinct: {next} comes after {previous}")]
    Order {
        /// A row.
        previous: String,
        /// The row after it, which is not greater.
        next: String,
    },
    /// The content is not what the manifest says.
    #[error("content digest of the manifest: expected {expected}, the rows have {actual}")]
    Content {
        /// What the manifest says.
        expected: Digest,
        /// What the rows have.
        actual: Digest,
    },
    /// A dataset version has more row groups than an index of them may hold.
    #[error("the version has more than {limit} row groups: write larger ones, or split the dataset")]
    RowGroups {
        /// Most row groups.
        limit: usize,
    },
    /// The Parquet encoder or decoder failed.
    #[error("manifest: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The rows do not make columns.
    #[error("manifest: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// The Parquet decoder could not cope with the bytes of a row group.
    #[error("row group {group} of the manifest is damaged: {message}")]
    Damaged {
        /// The row group.
        group: usize,
        /// What the decoder said.
        message: String,
    },
}

/// Why what a manifest says of itself is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The user metadata is too long.
    #[error(
        "user metadata of {actual} bytes is over the limit of {MAX_USER_METADATA_BYTES}: save larger state as a \
         file of the checkpoint"
    )]
    UserMetadata {
        /// Bytes of all keys and values.
        actual: usize,
    },
    /// There are too many cursors.
    #[error("cursors of {actual} data streams are over the limit of {MAX_CURSORS}")]
    Cursors {
        /// Their number.
        actual: usize,
    },
    /// The cursors are too long.
    #[error(
        "cursors of {actual} bytes as JSON are over the limit of {MAX_CURSORS_BYTES}: read with fewer lanes, or fewer \
         datasets in one stream"
    )]
    CursorsLong {
        /// Their bytes.
        actual: usize,
    },
    /// A data stream's name is none.
    #[error("the name of a data stream: {0}")]
    CursorName(#[from] NameError),
    /// All that it says of itself is too long.
    #[error("what the manifest says of itself has {actual} bytes as JSON, over the limit of {limit}")]
    Long {
        /// Most bytes.
        limit: usize,
        /// Its bytes.
        actual: usize,
    },
    /// A vocabulary without tokens.
    #[error("a vocabulary of 0 tokens: expected at least 1")]
    Vocabulary,
    /// The lineage is too long.
    #[error("a lineage of {actual} bytes is over the limit of {MAX_LINEAGE_BYTES}: name fewer sources")]
    Lineage {
        /// Bytes of all its texts.
        actual: usize,
    },
    /// More spans of one rank than there can be, or two of one phase.
    #[error("{actual} spans of one rank or committer: expected at most {limit}, each of another phase")]
    Spans {
        /// Most spans.
        limit: usize,
        /// Its spans.
        actual: usize,
    },
    /// The world size, or a rank in it.
    #[error("rank {rank} of a world of {world_size}: expected rank < world size <= {MAX_WORLD_SIZE}")]
    World {
        /// The rank.
        rank: u32,
        /// The world size.
        world_size: u32,
    },
}

/// Why a page is not of the form that manifests have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Its header is not Thrift.
    #[error("page header: {0}")]
    Thrift(#[from] ThriftError),
    /// It is of a kind, encoding or codec that manifests do not use.
    #[error("{what} {actual} does not occur in manifests (was it written by a newer version?)")]
    Unused {
        /// What the number stands for.
        what: &'static str,
        /// The number in Parquet's enumeration.
        actual: i64,
    },
    /// A number passes its bound.
    #[error("{what} is {actual}, more than {limit}")]
    Bound {
        /// What the number is.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// The number.
        actual: i32,
    },
    /// The pages have not as many values as the row group says.
    #[error("its pages have {actual} values, not {expected}")]
    Values {
        /// What the row group says.
        expected: u64,
        /// What the pages have.
        actual: u64,
    },
}

/// Why one row of a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// It is not a slice.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// Its box is none.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// Its element type is unknown.
    #[error(transparent)]
    Dtype(#[from] DtypeError),
    /// Its kind or codec is unknown.
    #[error(transparent)]
    Word(#[from] UnknownWord),
    /// A digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The name of an object is none.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The path of a file is not plain.
    #[error(transparent)]
    Path(#[from] NameError),
    /// The group values of a file are not those of its digest.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A number is not what the rest of the row implies.
    #[error("{what} is {actual}, expected {expected}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// A digest is not what the rest of the row implies.
    #[error("{what} is {actual}, expected {expected}")]
    Differs {
        /// Which digest.
        what: &'static str,
        /// What it must be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The place can't be: it overlaps the pack's header, ends past 2^64, or its header is too long.
    #[error(
        "bytes {offset} + {stored_len} do not lie behind a pack header of {header_len} bytes (at most \
         {MAX_PACK_HEADER_BYTES})"
    )]
    Place {
        /// Bytes of the pack's header.
        header_len: u64,
        /// First stored byte.
        offset: u64,
        /// Stored bytes.
        stored_len: u64,
    },
    /// Only some of the columns of a place have a value.
    #[error("only some of pack, pack_header_len, offset, stored_len and codec have a value")]
    HalfPlace,
    /// A file is longer than an object may be.
    #[error("file of {actual} bytes is over the limit of {MAX_BLOB_BYTES}")]
    FileTooLong {
        /// Its bytes.
        actual: u64,
    },
    /// A file has more row groups than one may have.
    #[error("file of {actual} row groups is over the limit of {MAX_FILE_ROW_GROUPS}")]
    RowGroups {
        /// Its row groups.
        actual: usize,
    },
    /// A row group does not lie inside its file.
    #[error("row group at {offset} + {len} does not lie inside the file of {bytes} bytes")]
    RowGroup {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A histogram of lengths has more buckets than there are.
    #[error("a histogram of {actual} buckets is over the limit of {LENGTH_BUCKETS}")]
    Buckets {
        /// Its buckets.
        actual: usize,
    },
    /// The histogram of lengths, the rows and the planned tokens of a file do not belong together.
    #[error("the lengths of its documents, its {documents} rows and its {tokens} tokens do not fit together")]
    Lengths {
        /// Rows of the file.
        documents: u64,
        /// Planned tokens of all its row groups.
        tokens: u128,
    },
    /// More rows of a file were taken down than may be.
    #[error("{actual} rows taken down are over the limit of {MAX_REMOVED_ROWS} for one file: push the file anew")]
    Removed {
        /// Its rows that were taken down.
        actual: usize,
    },
    /// Rows that were taken down are not sorted, or past the end of the file.
    #[error("row {row}, taken down, is not after the one before it, or not one of the file's {rows} rows")]
    RemovedRow {
        /// The row.
        row: u64,
        /// Rows of the file.
        rows: u64,
    },
}

impl From<GivenError> for ManifestError {
    fn from(error: GivenError) -> Self {
        Self::Footer(error.into())
    }
}
