//! Objects that go to a cloud store in parts, and those that need not.
//!
//! A part has a deadline of its own, so that a slow link can bring a long object. One request for all of it is a tenth
//! of the requests, and creates the object only where there is none; it is sent where the store has shown that it takes
//! such a body well within the deadline.
//!
//! Must never hold more of an object than [`memory_bytes`] says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt, TryStreamExt};
use gigastore_formats::ambient::Ambient;
use object_store::{MultipartUpload, PutPayload, UploadPart};

use super::StoreError;
use super::objects::BodyError;

/// Bytes of one part of a multipart upload: 8 MiB, above S3's least of 5. With S3's 10,000 parts that reaches 78 GiB;
/// larger objects get larger parts (see [`part_bytes`]).
pub(super) const PART_BYTES: u64 = 8 << 20;

/// Most parts of one upload, S3's limit.
const MAX_PARTS: u64 = 10_000;

/// Parts of one upload in flight: three hide a store's latency, and with the one being filled hold 32 MiB.
const PARTS_IN_FLIGHT: usize = 3;

/// Longest object that goes in one request, where it is in memory: 128 MiB, twice a pack.
const WHOLE_BYTES: u64 = 128 << 20;

/// How long one request may be expected to take: a third of its deadline.
const WHOLE_TIME: Duration = Duration::from_secs(20);

/// How fast a store takes bytes: the time of a MiB in the last request, in microseconds; 0 before there was one.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    /// Takes down that a request of `bytes` took so long.
    pub(super) fn saw(&self, bytes: u64, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.store((micros / bytes.div_ceil(1 << 20).max(1)).max(1), Ordering::Relaxed);
    }

    /// Tells whether an object of `len` bytes in memory goes in one request.
    pub(super) fn takes_whole(&self, len: u64) -> bool {
        let each = self.0.load(Ordering::Relaxed);
        let expected = Duration::from_micros(each.saturating_mul(len.div_ceil(1 << 20)));
        len <= PART_BYTES || (each > 0 && len <= WHOLE_BYTES && expected <= WHOLE_TIME)
    }
}

/// Returns the most bytes of an object of `len` that are in memory at once: the parts in flight, one that is gathered,
/// and what pieces hold of the memory that they came in.
pub(super) fn memory_bytes(len: u64) -> u64 {
    (PARTS_IN_FLIGHT as u64 + 2) * part_bytes(len)
}

/// Part size for an object of `len` bytes: at most [`MAX_PARTS`] of them, whole MiB.
fn part_bytes(len: u64) -> u64 {
    PART_BYTES.max(len.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

/// Sends an object of `len` bytes part by part, and takes down how long each took.
pub(super) async fn send_parts(
    ambient: &dyn Ambient,
    pace: &Pace,
    key: &str,
    upload: &mut dyn MultipartUpload,
    len: u64,
    mut pieces: BoxStream<'static, Result<Bytes, BodyError>>,
) -> Result<(), StoreError> {
    let sort = |source| StoreError::sort(key, source);
    let timed = |bytes: u64, sent: UploadPart| async move {
        let began = ambient.monotonic();
        sent.await?;
        pace.saw(bytes, ambient.monotonic().saturating_sub(began));
        Ok(())
    };
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
                in_flight.push(timed(filled, upload.put_part(PutPayload::from_iter(std::mem::take(&mut part)))));
                filled = 0;
            }
        }
    }
    if filled > 0 {
        in_flight.push(timed(filled, upload.put_part(PutPayload::from_iter(part))));
    }
    while in_flight.try_next().await.map_err(sort)?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_gets_whole_objects_once_it_is_known_to_be_fast_and_while_it_is() {
        let (pace, pack, second) = (Pace::default(), 64 << 20, Duration::from_secs(1));
        assert!(pace.takes_whole(PART_BYTES) && !pace.takes_whole(pack));
        pace.saw(PART_BYTES, second);
        assert!(pace.takes_whole(pack) && !pace.takes_whole(WHOLE_BYTES + 1));
        pace.saw(pack, 30 * second);
        assert!(!pace.takes_whole(pack) && pace.takes_whole(pack / 2) && pace.takes_whole(PART_BYTES));
        pace.saw(0, Duration::ZERO);
        assert!(pace.takes_whole(pack));
        pace.saw(1, Duration::MAX);
        assert!(!pace.takes_whole(pack));
    }

    #[test]
    fn every_object_fits_its_parts() {
        for len in [0, 1, PART_BYTES * MAX_PARTS, PART_BYTES * MAX_PARTS + 1, 5 << 40] {
            assert!(len.div_ceil(part_bytes(len)) <= MAX_PARTS);
        }
    }
}
