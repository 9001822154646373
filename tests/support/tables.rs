//! Tables without tokens: files of one schema with other bytes.
//!
//! Must never hold a list of integers: those would be taken for tokens.

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::packs::{PackRow, write_packs};
use gigastore_formats::object::Stored;

/// Returns a Parquet file of `rows` rows with the columns of `formats/fixtures/packs-1.parquet`.
pub fn table(rows: u64) -> Result<Vec<u8>, ManifestError> {
    let pack = |i: u64| Stored { digest: Digest::of(&i.to_le_bytes()), epoch: 0 };
    let row = |i: u64| PackRow { pack: pack(i), header_len: 64, bytes: 1000 + i, slices: 1 + i, used: i };
    let mut rows: Vec<PackRow> = (0..rows).map(row).collect();
    rows.sort_by_key(|row| row.pack);
    write_packs(&rows)
}
