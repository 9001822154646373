//! Names and targets: what a person types to say which project, run, step, dataset, version or tag is meant.
//!
//! Must never accept a text that could escape a path or a URL: parsed at the edge, carried as newtypes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a name: 128, so that a key of several names stays below the 1,024 bytes of S3.
pub const MAX_NAME_BYTES: usize = 128;

/// The tag that follows commits by itself.
pub const LATEST: &str = "latest";

/// A name of a project, run, dataset or tag: `[a-z0-9][a-z0-9._-]{0,127}`, and no `..` in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The name of a project: tenant, dedup domain, one log.
pub type ProjectName = Name;

/// Why a text is not a name or a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is not of the form of a name.
    #[error(
        "{text:?} is not a name: expected 1 to 128 of a-z 0-9 . _ -, starting with a letter or digit, without `..`"
    )]
    Name {
        /// What was given, shortened.
        text: String,
    },
    /// The text is not of the form of a target.
    #[error("{text:?} is not a target: expected {expected}")]
    Target {
        /// What was given, shortened.
        text: String,
        /// The form that was expected.
        expected: &'static str,
    },
    /// A part of a target is not of its form.
    #[error("{text:?} is not a target: {source}; expected PROJECT/NAME, PROJECT/RUN@STEP or PROJECT/NAME@TAG")]
    Part {
        /// What was given, shortened.
        text: String,
        /// What is wrong with the part.
        source: Box<NameError>,
    },
    /// A tag would be read as a step or version.
    #[error(
        "{text:?} can't be a tag: a tag is a name with at least one character that is not a digit, and `latest` is \
         moved only by commits"
    )]
    Tag {
        /// What was given.
        text: String,
    },
    /// A file path inside a checkpoint or dataset is not relative and plain.
    #[error("{text:?} is not a path inside a checkpoint or dataset: {reason}")]
    Path {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Name {
    /// Parses a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let legal = !bytes.is_empty()
            && bytes.len() <= MAX_NAME_BYTES
            && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && !text.contains("..");
        if legal { Ok(Self(text.to_owned())) } else { Err(NameError::Name { text: shortened(text) }) }
    }

    /// Parses a name that a person may set as a tag: not all digits, not [`LATEST`].
    pub fn new_tag(text: &str) -> Result<Self, NameError> {
        let name = Self::new(text)?;
        if text == LATEST || text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NameError::Tag { text: text.to_owned() });
        }
        Ok(name)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which of a run's checkpoints, or of a dataset's versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// A step of a run, or a version of a dataset.
    Number(u64),
    /// A tag; [`LATEST`] included.
    Tag(Name),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Tag(tag) => write!(f, "{tag}"),
        }
    }
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text
                .parse()
                .map(Self::Number)
                .map_err(|_| NameError::Target { text: shortened(text), expected: "a step or version below 2^64" });
        }
        Name::new(text).map(Self::Tag)
    }
}

/// `project/name` or `project/name@selector`, with an optional `gigastore://` in front.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The project.
    pub project: ProjectName,
    /// The run or dataset.
    pub name: Name,
    /// Which step, version or tag; `None` where the text names the whole run or dataset.
    pub selector: Option<Selector>,
}

impl Target {
    /// Returns the selector, or [`LATEST`] where none was given.
    pub fn selector_or_latest(&self) -> Selector {
        self.selector.clone().unwrap_or_else(|| Selector::Tag(Name(LATEST.to_owned())))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)?;
        match &self.selector {
            Some(selector) => write!(f, "@{selector}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = text.strip_prefix("gigastore://").unwrap_or(text);
        let part = |source| NameError::Part { text: shortened(text), source: Box::new(source) };
        let (path, selector) = match plain.split_once('@') {
            Some((path, selector)) => (path, Some(selector.parse().map_err(part)?)),
            None => (plain, None),
        };
        let (project, name) = path.split_once('/').ok_or_else(|| NameError::Target {
            text: shortened(text),
            expected: "PROJECT/NAME, PROJECT/RUN@STEP or PROJECT/NAME@TAG, such as demo/minilm@100",
        })?;
        Ok(Self { project: project.parse().map_err(part)?, name: name.parse().map_err(part)?, selector })
    }
}

/// Checks a file path inside a checkpoint or dataset: relative, `/`-separated, no empty, `.` or `..` component, no
/// control character, no backslash, at most [`MAX_PATH_BYTES`](crate::limits::MAX_PATH_BYTES) bytes.
pub fn check_path(path: &str) -> Result<(), NameError> {
    let refuse = |reason| Err(NameError::Path { text: shortened(path), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.len() > crate::limits::MAX_PATH_BYTES {
        return refuse("it is longer than 1,024 bytes");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return refuse("it holds a control character or a backslash");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("it is absolute or has an empty, `.` or `..` component");
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_round_trip() {
        for text in ["demo/minilm", "demo/minilm@100", "demo/minilm@best-1", "a/b@latest"] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(format!("gigastore://{text}").parse(), Ok(target));
        }
        assert_eq!("p/r".parse::<Target>().unwrap().selector_or_latest().to_string(), "latest");
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(129);
        for text in ["", ".", "..", "a..b", "-a", "A", "a/b", "a\\b", "a\0", "ａ", "a b", "%2e", long.as_str()] {
            assert!(Name::new(text).is_err(), "{text:?} was taken for a name");
        }
        for text in ["p", "p/", "/r", "p/r@", "p/r/s", "p/r@18446744073709551616", "p/r@1@2", "http://p/r"] {
            let error = text.parse::<Target>().expect_err("it was taken for a target").to_string();
            assert!(error.starts_with(&format!("{text:?} is not a target: ")) && error.contains("PROJECT/"), "{error}");
        }
        for text in ["latest", "007"] {
            assert!(Name::new_tag(text).is_err(), "{text:?} was taken for a tag");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in ["", "/etc/passwd", "a//b", "a/../b", "./a", "a/", "a\nb", "a\\b", "\0"] {
            assert!(check_path(path).is_err(), "{path:?} was taken for a path");
        }
        assert!(check_path("train/part-0001.parquet").is_ok());
    }
}
