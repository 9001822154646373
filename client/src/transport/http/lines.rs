//! Answers that come line by line while work goes on, until the last line has the report or a fault.
//!
//! Must never take an answer that was broken off for a report.

use bytes::BytesMut;
use futures::stream::StreamExt;
use gigastore_formats::wire::{Fault, FaultCode, Line};
use serde::de::DeserializeOwned;

use super::remote::{Call, Remote};
use super::{MAX_ANSWER_BYTES, parse};

/// Reads lines until the last one, whose report it returns; `progress` takes how far the work is.
pub(super) async fn last<R: DeserializeOwned, P: DeserializeOwned>(
    remote: &Remote,
    call: Call,
    mut progress: impl FnMut(P),
) -> Result<R, Fault> {
    let mut pieces = remote.streamed(call).await?;
    let mut line = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        line.extend_from_slice(&piece?);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            match parse(&line.split_to(end + 1))? {
                Line::Progress(now) => progress(now),
                Line::Report(report) => return Ok(report),
                Line::Fault(fault) => return Err(fault),
            }
        }
        if line.len() > MAX_ANSWER_BYTES {
            return Err(Fault::of(FaultCode::Invalid, "the service's report does not end"));
        }
    }
    Err(Fault::of(FaultCode::Unavailable, "the service broke off what it was doing: run it again"))
}
