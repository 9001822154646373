//! `Range`, `Content-Range` and `ETag` (RFC 9110).
//!
//! Everything served by range is named by its content, so that its validator is strong and never changes. Must never
//! guess at a malformed range: it is ignored, as the RFC says, and the whole is sent.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};

use super::error::Refused;

/// What of an object is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// The client has it already.
    NotModified,
    /// All of it.
    Whole,
    /// A part.
    Part(ByteRange),
}

impl Wanted {
    /// Returns the bytes that this is of an object of `len` bytes.
    pub(crate) fn range(self, len: u64) -> ByteRange {
        match self {
            Self::NotModified | Self::Whole => ByteRange::new(0, len).expect("0 is the smallest number"),
            Self::Part(range) => range,
        }
    }
}

/// Reads what the headers ask of an object of `len` bytes with this entity tag.
pub(crate) fn wanted(method: &Method, headers: &HeaderMap, etag: &str, len: u64) -> Result<Wanted, Refused> {
    let quoted = format!("\"{etag}\"");
    // Compared weakly, as the RFC says: a proxy that compressed what we sent has made its validator weak.
    let same = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one) == quoted;
    let matches = |value: &HeaderValue| value.to_str().is_ok_and(|list| list.split(',').any(|one| same(one.trim())));
    if headers.get_all(header::IF_NONE_MATCH).iter().any(matches) {
        return Ok(Wanted::NotModified);
    }
    if method != Method::GET {
        // A range is of GET alone (RFC 9110, 14.2).
        return Ok(Wanted::Whole);
    }
    // A validator that is no text is none of ours: what it stands for is not what there is.
    let is_ours = |value: &HeaderValue| value.to_str().is_ok_and(|tag| tag.trim() == quoted);
    let fresh = headers.get(header::IF_RANGE).is_none_or(is_ours);
    let asked = headers.get(header::RANGE).filter(|_| fresh).and_then(|value| parse(value.to_str().ok()?));
    let Some((first, last)) = asked else { return Ok(Wanted::Whole) };
    let range = match (first, last) {
        (Some(first), last) => (first, last.map_or(len, |last| last.saturating_add(1).min(len))),
        // The last so many bytes.
        (None, Some(count)) => (len.saturating_sub(count), len),
        (None, None) => return Ok(Wanted::Whole),
    };
    let satisfiable = range.0 < range.1;
    match ByteRange::new(range.0, range.1) {
        Ok(range) if satisfiable => Ok(Wanted::Part(range)),
        _ => {
            let text = format!("the range does not lie within the {len} bytes that there are");
            let refused = Refused::new(Fault::of(FaultCode::Invalid, text));
            Err(Refused { length: Some(len), ..refused.with_status(StatusCode::RANGE_NOT_SATISFIABLE) })
        }
    }
}

/// Returns how many bytes the client takes the object to have at least.
pub(crate) fn least(headers: &HeaderMap) -> u64 {
    let asked = headers.get(header::RANGE).and_then(|value| parse(value.to_str().ok()?));
    match asked {
        Some((Some(_), Some(last))) => last.saturating_add(1),
        Some((Some(first), None)) => first.saturating_add(1),
        _ => 0,
    }
}

/// Tells whether the client wants nothing that was kept (RFC 9111, 5.2.1.4).
pub(crate) fn afresh(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue| {
        let has = |text: &str| text.split(',').any(|one| one.trim().eq_ignore_ascii_case("no-cache"));
        value.to_str().is_ok_and(has)
    };
    headers.get_all(header::CACHE_CONTROL).iter().any(says)
}

/// Reads one range `bytes=first-last`; nothing where it is malformed, of another unit, or several.
fn parse(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| -> Option<Option<u64>> {
        match text.trim() {
            "" => Some(None),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(Some(digits.parse().unwrap_or(u64::MAX)))
            }
            _ => None,
        }
    };
    let (first, last) = (number(first)?, number(last)?);
    let backwards = matches!((first, last), (Some(first), Some(last)) if last < first);
    (!backwards).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_every_kind() {
        let part = |start, end| Some(Wanted::Part(ByteRange::new(start, end).unwrap()));
        let whole = Some(Wanted::Whole);
        let cases = [
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-", part(10, 100)),
            ("bytes=-5", part(95, 100)),
            ("bytes=-500", part(0, 100)),
            ("bytes=90-99999999999999999999999", part(90, 100)),
            ("bytes=100-", None),
            ("bytes=100-200", None),
            ("bytes=99999999999999999999999-", None),
            ("bytes=-0", None),
            ("bytes=5-4", whole),
            ("bytes=-", whole),
            ("bytes=", whole),
            ("bytes=a-b", whole),
            ("bytes=+1-2", whole),
            ("bytes=1-2,4-5", whole),
            ("items=0-1", whole),
            ("bytes 0-1", whole),
            ("", whole),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(wanted(&Method::HEAD, &headers, "x", 100).ok(), whole, "{text:?}");
            assert_eq!(wanted(&Method::GET, &headers, "x", 100).ok(), expected, "{text:?}");
        }
        let empty = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-"))]);
        assert!(wanted(&Method::GET, &empty, "x", 0).is_err());
        let with = |name, value| {
            let range = (header::RANGE, HeaderValue::from_static("bytes=1-2"));
            let headers = HeaderMap::from_iter([range, (name, HeaderValue::from_static(value))]);
            wanted(&Method::GET, &headers, "x", 100).ok()
        };
        assert_eq!(with(header::IF_RANGE, "\"x\""), part(1, 3));
        assert_eq!(with(header::IF_RANGE, "\"y\""), whole);
        assert_eq!(with(header::IF_NONE_MATCH, "\"y\", \"x\""), Some(Wanted::NotModified));
        assert_eq!(with(header::IF_NONE_MATCH, "W/\"x\""), Some(Wanted::NotModified));
        assert_eq!(with(header::IF_RANGE, "W/\"x\""), whole);
        let mut headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=1-2"))]);
        headers.insert(header::IF_RANGE, HeaderValue::from_bytes(b"\"\xe9\"").unwrap());
        assert_eq!(wanted(&Method::GET, &headers, "x", 100).ok(), whole, "no text, and so not ours");
    }
}
