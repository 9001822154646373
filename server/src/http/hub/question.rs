//! Which paths of a repository somebody asks about: a form, as `huggingface_hub` sends it, or JSON.
//!
//! Must never take a body for something else than it is: what is malformed is no question.

use axum::http::{HeaderMap, header};
use serde_json::Value;

/// Paths, and whether more than the least is to be said of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    pub(super) paths: Vec<String>,
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
        let value: Value = serde_json::from_slice(body).ok()?;
        let paths = value["paths"].as_array()?.iter().map(|path| path.as_str().map(str::to_owned));
        Some(Self { paths: paths.collect::<Option<_>>()?, expand: value["expand"].as_bool().unwrap_or(false) })
    }

    /// Reads `paths=a&paths=b&expand=true`, percent-encoded.
    fn of_form(body: &[u8]) -> Option<Self> {
        let (mut paths, mut expand) = (Vec::new(), false);
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..at], unescaped(&pair[at + 1..])?);
            match name {
                b"paths" => paths.push(value),
                b"expand" => expand = value.eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        Some(Self { paths, expand })
    }
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
        assert_eq!(Question::of_form(b""), Some(Question { paths: Vec::new(), expand: false }));
        for bad in ["paths", "paths=%", "paths=%4", "paths=%zz", "paths=%ff", "paths=%+1"] {
            assert_eq!(Question::of_form(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["", "[]", "{}", r#"{"paths":"a"}"#, r#"{"paths":[1]}"#] {
            assert_eq!(Question::of_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
