//! Bodies of reads: counted as they pass, cut short or damaged as the verdict says.
//!
//! Must never buffer: a body of gigabytes passes piece by piece.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use object_store::{GetResult, GetResultPayload, Result};

use super::Verdict;
use super::desk::Desk;

/// Returns the answer with its body counted at the desk and treated as the verdict says; everything else in it stays.
pub(super) fn treat(mut answer: GetResult, verdict: Verdict, desk: Arc<Desk>) -> GetResult {
    if matches!((verdict, &answer.payload), (Verdict::Pass | Verdict::FailAfter(_), GetResultPayload::File(..))) {
        // A local file is handed over as such, for its reader's quicker path.
        desk.bytes_got.fetch_add(answer.range.end - answer.range.start, Ordering::SeqCst);
        return answer;
    }
    let (meta, range) = (answer.meta.clone(), answer.range.clone());
    let (attributes, extensions) = (std::mem::take(&mut answer.attributes), std::mem::take(&mut answer.extensions));
    let body = answer.into_stream();
    let body = match verdict {
        Verdict::Truncate(len) => cut(body, len),
        Verdict::Flip(at) => flip(body, at),
        _ => body,
    };
    let body = body.inspect(move |piece| {
        if let Ok(piece) = piece {
            desk.bytes_got.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    });
    GetResult { payload: GetResultPayload::Stream(body.boxed()), meta, range, attributes, extensions }
}

fn cut(body: BoxStream<'static, Result<Bytes>>, len: u64) -> BoxStream<'static, Result<Bytes>> {
    let pieces = body.scan(len, |left, piece| {
        let piece = piece.map(|mut piece| {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            piece
        });
        let ended = piece.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready((!ended).then_some(piece))
    });
    pieces.boxed()
}

fn flip(body: BoxStream<'static, Result<Bytes>>, at: u64) -> BoxStream<'static, Result<Bytes>> {
    let pieces = body.scan(0u64, move |passed, piece| {
        let piece = piece.map(|piece| {
            let start = *passed;
            *passed += piece.len() as u64;
            if !(start..*passed).contains(&at) {
                return piece;
            }
            let mut damaged = piece.to_vec();
            damaged[(at - start) as usize] ^= 1;
            damaged.into()
        });
        std::future::ready(Some(piece))
    });
    pieces.boxed()
}
