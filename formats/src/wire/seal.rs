//! The digest that goes with a document or manifest over HTTP. A plan says where bytes belong, and a bit of it that
//! flips on its way would put sound bytes in a wrong place: hashes of content do not see that.
//!
//! Must never take a body for another than its sender sent. One without a seal is taken as it is.

use super::{Fault, FaultCode};
use crate::digest::Digest;

/// The header field that has BLAKE3 of the body, as 64 hex digits.
pub const SEAL_HEADER: &str = "gigastore-blake3";

/// Checks a body against what its sender said of it.
pub fn check_seal(said: Option<&[u8]>, body: &[u8]) -> Result<(), Fault> {
    let Some(said) = said else { return Ok(()) };
    let actual = Digest::of(body).to_string();
    if said == actual.as_bytes() {
        return Ok(());
    }
    Err(Fault {
        expected: Some(String::from_utf8_lossy(said).into_owned()),
        actual: Some(actual),
        hint: Some("send it again: if it happens often, something on the way damages what passes".to_owned()),
        ..Fault::of(FaultCode::Integrity, format!("a body of {} bytes was damaged on its way", body.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_flips_in_a_body_or_in_its_seal_is_seen() {
        let body = br#"{"global_offsets":[16,0],"sizes":[8,4096]}"#;
        let seal = Digest::of(body).to_string();
        check_seal(None, body).unwrap();
        check_seal(Some(seal.as_bytes()), body).unwrap();
        for bit in 0..body.len() * 8 {
            let mut flipped = *body;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let fault = check_seal(Some(seal.as_bytes()), &flipped).unwrap_err();
            assert_eq!((fault.code, fault.expected.as_deref()), (FaultCode::Integrity, Some(seal.as_str())));
        }
        for bit in 0..seal.len() * 8 {
            let mut flipped = seal.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check_seal(Some(&flipped), body).unwrap_err();
        }
    }
}
