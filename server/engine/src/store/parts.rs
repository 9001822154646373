//! Objects that go to a cloud store in parts.
//!
//! Must never hold more of an object than [`memory_bytes`] says.

use bytes::Bytes;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt, TryStreamExt};
use object_store::{MultipartUpload, PutPayload};

use super::StoreError;
use super::objects::BodyError;

/// Bytes of one part of a multipart upload: 8 MiB, above S3's least of 5. With S3's 10,000 parts that reaches 78 GiB;
/// larger objects get larger parts (see [`part_bytes`]).
pub(super) const PART_BYTES: u64 = 8 << 20;

/// Most parts of one upload, S3's limit.
const MAX_PARTS: u64 = 10_000;

/// Parts of one upload in flight: three hide a store's latency, and with the one being filled hold 32 MiB.
const PARTS_IN_FLIGHT: usize = 3;

/// Returns the most bytes of an object of `len` that are in memory at once: the parts in flight, one that is gathered,
/// and what pieces hold of the memory that they came in.
pub(super) fn memory_bytes(len: u64) -> u64 {
    (PARTS_IN_FLIGHT as u64 + 2) * part_bytes(len)
}

/// Part size for an object of `len` bytes: at most [`MAX_PARTS`] of them, whole MiB.
fn part_bytes(len: u64) -> u64 {
    PART_BYTES.max(len.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

/// Sends an object of `len` bytes part by part.
pub(super) async fn send_parts(
    key: &str,
    upload: &mut dyn MultipartUpload,
    len: u64,
    mut pieces: BoxStream<'static, Result<Bytes, BodyError>>,
) -> Result<(), StoreError> {
    let sort = |source| StoreError::sort(key, source);
    let (part_bytes, mut in_flight) = (part_bytes(len), FuturesUnordered::new());
    let (mut part, mut filled) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        let mut piece = piece.map_err(|source| StoreError::Body { key: key.to_owned(), source })?;
        while !piece.is_empty() {
            let take = piece.len().min((part_bytes - filled) as usize);
            part.push(piece.split_to(take));
            filled += take as u64;
            if filled == part_bytes {
                if in_flight.len() >= PARTS_IN_FLIGHT {
                    in_flight.try_next().await.map_err(sort)?;
                }
                in_flight.push(upload.put_part(PutPayload::from_iter(std::mem::take(&mut part))));
                filled = 0;
            }
        }
    }
    if filled > 0 {
        in_flight.push(upload.put_part(PutPayload::from_iter(part)));
    }
    while in_flight.try_next().await.map_err(sort)?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_fits_its_parts() {
        for len in [0, 1, PART_BYTES * MAX_PARTS, PART_BYTES * MAX_PARTS + 1, 5 << 40] {
            assert!(len.div_ceil(part_bytes(len)) <= MAX_PARTS);
        }
    }
}
