//! A line of JSON becomes a document: two fields of an object are kept, all others are passed over without being built.
//!
//! Must never take a value of another type for text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, Visitor};

use super::{Bad, Document, MAX_DOCUMENT_BYTES, MAX_ID_BYTES, Record};

/// The fields that are kept.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'f> {
    pub(crate) text: &'f str,
    pub(crate) id: Option<&'f str>,
}

/// Reads one line.
pub(crate) fn document(line: &[u8], number: u64, fields: Fields<'_>) -> Record {
    let mut reader = serde_json::Deserializer::from_slice(line);
    let parsed = reader.deserialize_any(Object(fields)).and_then(|found| reader.end().map(|()| found));
    let bad = |reason| Bad { number, reason };
    let (text, id) = parsed.map_err(|error| {
        // The line that the parser counts is always 1.
        let said = error.to_string().replace(" at line 1 column ", " at character ");
        bad(if error.is_syntax() || error.is_eof() { format!("not JSON: {said}") } else { said })
    })?;
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(bad(format!("the text is longer than {MAX_DOCUMENT_BYTES} bytes")));
    }
    if let Some(id) = id.as_ref().filter(|id| id.len() > MAX_ID_BYTES) {
        return Err(bad(format!("the id has {} bytes, more than {MAX_ID_BYTES}", id.len())));
    }
    Ok(Document { id, text, number })
}

struct Object<'f>(Fields<'f>);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = (String, Option<String>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a text field {:?}", self.0.text)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut text, mut id) = (None, None);
        while let Some(Key(key)) = map.next_key()? {
            let (is_text, is_id) = (key == self.0.text, self.0.id.is_some_and(|name| key == name));
            if (is_text && text.is_some()) || (is_id && id.is_some()) {
                return Err(de::Error::custom(format_args!("field {key:?} is there twice")));
            }
            match (is_text, is_id) {
                (true, true) => {
                    let Named(value) = map.next_value_seed(Typed(&key, false))?;
                    (text, id) = (Some(value.clone()), Some(value));
                }
                (true, false) => text = Some(map.next_value_seed(Typed(&key, false))?.0),
                (false, true) => id = Some(map.next_value_seed(Typed(&key, true))?.0),
                (false, false) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let missing = |name: &str| de::Error::custom(format_args!("no field {name:?}"));
        let text = text.ok_or_else(|| missing(self.0.text))?;
        match self.0.id {
            Some(name) if id.is_none() => Err(missing(name)),
            _ => Ok((text, id)),
        }
    }
}

/// A name of a field.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }
        deserializer.deserialize_str(Borrowing).map(Self)
    }
}

/// The value of a field that is kept.
struct Named(String);

/// Reads the value of a field: its name, and whether it may be an integer.
struct Typed<'n>(&'n str, bool);

impl<'de> de::DeserializeSeed<'de> for Typed<'_> {
    type Value = Named;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_any(self).map(Named)
    }
}

impl<'de> Visitor<'de> for Typed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string{} in field {:?}", if self.1 { " or an integer" } else { "" }, self.0)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
        if self.1 { Ok(value.to_string()) } else { Err(E::invalid_type(de::Unexpected::Unsigned(value), &self)) }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
        if self.1 { Ok(value.to_string()) } else { Err(E::invalid_type(de::Unexpected::Signed(value), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields<'static> = Fields { text: "text", id: Some("id") };

    fn read(line: &str) -> Result<(String, Option<String>), String> {
        document(line.as_bytes(), 7, FIELDS).map(|d| (d.text, d.id)).map_err(|bad| bad.reason)
    }

    #[test]
    fn two_fields_are_kept() {
        let line = r#"{"meta": {"text": [1, {"a": null}]}, "id": -12, "t\u0065xt": "caf\u00e9 \"x\"", "z": 1e99}"#;
        assert_eq!(read(line), Ok(("café \"x\"".to_owned(), Some("-12".to_owned()))));
        assert_eq!(read(r#"{"id":"a","text":""}"#), Ok((String::new(), Some("a".to_owned()))));
        let same = Fields { text: "text", id: Some("text") };
        assert_eq!(document(br#"{"text":"t"}"#, 1, same).unwrap().id.as_deref(), Some("t"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("{\"text\": \"a\"", "not JSON: EOF"),
            ("[1]", "invalid type: sequence, expected an object with a text field \"text\""),
            (r#"{"id": "x"}"#, "no field \"text\""),
            (r#"{"text": "x"}"#, "no field \"id\""),
            (r#"{"text": null, "id": 1}"#, "invalid type: null, expected a string in field \"text\""),
            (r#"{"text": 3, "id": 1}"#, "invalid type: integer `3`, expected a string in field \"text\""),
            (r#"{"text": "a", "id": 1.5}"#, "expected a string or an integer in field \"id\""),
            (r#"{"text": "a", "text": "b", "id": 1}"#, "field \"text\" is there twice"),
            (r#"{"text": "a", "id": 1} {}"#, "not JSON: trailing characters at character 24"),
            (r#"{"text": "\ud800", "id": 1}"#, "not JSON"),
        ];
        for (line, said) in cases {
            let reason = read(line).unwrap_err();
            assert!(reason.contains(said), "{line}: {reason}");
        }
        let deep = format!("{{\"a\":{}1", "[".repeat(1 << 20));
        assert!(read(&deep).unwrap_err().contains("not JSON: EOF"), "deep nesting does not fill the stack");
        let bytes = [&br#"{"id":"a","text":""#[..], b"\xff", br#""}"#].concat();
        assert!(document(&bytes, 1, FIELDS).unwrap_err().reason.contains("invalid unicode"));
        let id = format!(r#"{{"text":"a","id":"{}"}}"#, "i".repeat(MAX_ID_BYTES + 1));
        assert!(read(&id).unwrap_err().contains("the id has 4097 bytes"));
    }
}
