//! Which paths of a repository somebody asks about: a form, as `huggingface_hub` sends it, or JSON.
//!
//! Must never take a body for something else than it is: what is malformed is no question. Nor keep more paths than may
//! be asked for.

use std::fmt;

use axum::http::{HeaderMap, header};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Paths of one question: 1,000, of at most 1,024 bytes each.
pub(super) const MAX_PATHS: usize = 1000;

/// Paths, and whether more than the least is to be said of them.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct Question {
    /// One more than [`MAX_PATHS`] where there are too many.
    #[serde(deserialize_with = "few")]
    pub(super) paths: Vec<String>,
    #[serde(default)]
    pub(super) expand: bool,
}

impl Question {
    /// Reads the body of a request.
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE);
        let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if is_json { Self::of_json(body) } else { Self::of_form(body) }
    }

    fn of_json(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Reads `paths=a&paths=b&expand=true`, percent-encoded.
    fn of_form(body: &[u8]) -> Option<Self> {
        let (mut paths, mut expand) = (Vec::new(), false);
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..at], unescaped(&pair[at + 1..])?);
            match name {
                b"paths" if paths.len() <= MAX_PATHS => paths.push(value),
                b"expand" => expand = value.eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        Some(Self { paths, expand })
    }
}

/// Reads a list of texts, and keeps no more of them than show that there are too many.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of paths")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut paths = Vec::new();
            while paths.len() <= MAX_PATHS {
                let Some(path) = list.next_element()? else { return Ok(paths) };
                paths.push(path);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(paths)
        }
    }
    deserializer.deserialize_seq(Few)
}

/// Writes a text as a part of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

fn unescaped(text: &[u8]) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                // A sign is no digit, though it would be taken for a part of a number.
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_json_ask_the_same() {
        let expected = Question { paths: vec!["a b/é.txt".to_owned(), "c+d".to_owned()], expand: true };
        let form = b"paths=a+b%2F%C3%A9.txt&paths=c%2Bd&expand=True&x=1";
        assert_eq!(Question::of_form(form), Some(expected.clone()));
        let json = r#"{"paths":["a b/é.txt","c+d"],"expand":true}"#;
        assert_eq!(Question::of_json(json.as_bytes()), Some(expected));
        let many = Question::of_form("paths=a&".repeat(5000).as_bytes()).unwrap();
        assert_eq!(many.paths.len(), MAX_PATHS + 1);
        let json = serde_json::json!({ "paths": vec!["a"; 5000], "other": {} }).to_string();
        assert_eq!(Question::of_json(json.as_bytes()), Some(many));
        assert_eq!(Question::of_form(b""), Some(Question { paths: Vec::new(), expand: false }));
        let odd = "a b/é+%&\"<>.txt";
        assert_eq!(unescaped(escaped(odd).as_bytes()).as_deref(), Some(odd));
        for bad in ["paths", "paths=%", "paths=%4", "paths=%zz", "paths=%ff", "paths=%+1"] {
            assert_eq!(Question::of_form(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["", "[]", "{}", r#"{"paths":"a"}"#, r#"{"paths":[1]}"#] {
            assert_eq!(Question::of_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
