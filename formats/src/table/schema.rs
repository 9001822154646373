//! A Parquet schema as a flat list of leaves, and as one canonical text that its fingerprint is taken of.
//!
//! The text has one line an element below the root, in the order of the file:
//! `<depth> <required|optional|repeated> <physical type or group> <name as JSON> <logical type or ->`. It leaves out
//! what writers choose for themselves (the root's name, field ids). Must never recurse: the nesting is a stranger's.

use std::fmt::Write;

use super::footer::FooterError;
use super::thrift::{Compact, ThriftError, Wire};

/// Nesting of a schema: 64; each level of a list takes two, and readers elsewhere recurse.
const MAX_SCHEMA_DEPTH: usize = 64;

/// Leaf columns: 65,536, thirty times the widest tables seen in public data. A leaf takes 5 bytes of a footer and some
/// 150 of memory.
const MAX_LEAVES: usize = 1 << 16;

/// Schema elements: four for each of [`MAX_LEAVES`]; a list has two groups around its leaf, a map one for two.
const MAX_ELEMENTS: usize = 4 * MAX_LEAVES;

/// Bytes of one element's name: 64 KiB, 64 times the longest that a manifest may have. Its text can be six times as
/// long.
const MAX_NAME_BYTES: usize = 64 << 10;

/// Bytes of all column paths, and of the canonical text: 64 MiB, 1 KiB for each of [`MAX_LEAVES`]. A path repeats the
/// names of all its groups, so that it is not bounded by the footer's length.
const MAX_SCHEMA_TEXT_BYTES: usize = 64 << 20;

/// The logical types that converted types stand for, by their numbers.
const CONVERTED_TYPES: [&str; 22] = [
    "string",
    "map",
    "map_key_value",
    "list",
    "enum",
    "decimal",
    "date",
    "time(ms,utc)",
    "time(us,utc)",
    "timestamp(ms,utc)",
    "timestamp(us,utc)",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "json",
    "bson",
    "interval",
];

/// One leaf column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    /// Names from below the root, joined by dots.
    pub(crate) path: String,
    /// Number of its physical type.
    pub(crate) physical: i64,
    /// Repetition and logical (or else physical) type.
    pub(crate) text: String,
    /// How many optional or repeated elements are on the path.
    pub(crate) definition: i16,
    /// How many repeated elements are on the path.
    pub(crate) repetition: i16,
    /// How many optional or repeated elements are on the path down to its last repeated one, that one counted; none
    /// where there is no such one.
    pub(crate) repeated_at: i16,
}

/// All leaves, and the canonical text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Schema {
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) text: String,
}

#[derive(Default)]
struct Element<'a> {
    physical: Option<i64>,
    length: i64,
    repetition: Option<i64>,
    name: &'a str,
    children: i64,
    converted: Option<i64>,
    scale: i64,
    precision: i64,
    logical: Option<String>,
}

/// A group whose children are being read.
struct Open {
    children: usize,
    path_len: usize,
    definition: i16,
    repetition: i16,
    repeated_at: i16,
}

/// Reads the list of schema elements.
pub(crate) fn read_schema(reader: &mut Compact<'_>, wire: Wire) -> Result<Schema, FooterError> {
    let (element, count) = reader.list(wire)?;
    let refuse = |reason| FooterError::Schema { reason };
    let mut schema = Schema { leaves: Vec::new(), text: String::new() };
    let (mut path, mut path_bytes) = (String::new(), 0);
    let mut open: Vec<Open> = Vec::new();
    for position in 0..count {
        element.structure()?;
        if position == MAX_ELEMENTS {
            return Err(refuse("it has more than 262,144 elements"));
        }
        let element = read_element(reader)?;
        if element.name.len() > MAX_NAME_BYTES {
            return Err(refuse("a name is over 64 KiB"));
        }
        let children = usize::try_from(element.children).map_err(|_| refuse("a negative number of children"))?;
        let (mut definition, mut repetition, mut repeated_at) = (0, 0, 0);
        if position > 0 {
            let parent = open.last_mut().ok_or(refuse("elements after the root's last child"))?;
            parent.children -= 1;
            path.truncate(parent.path_len);
            let optional = element.repetition()? != "required";
            definition = parent.definition + i16::from(optional);
            let repeated = element.repetition == Some(2);
            repetition = parent.repetition + i16::from(repeated);
            repeated_at = if repeated { definition } else { parent.repeated_at };
            let dot = if path.is_empty() { "" } else { "." };
            let _ = write!(path, "{dot}{}", element.name);
            let _ = writeln!(schema.text, "{} {}", open.len(), element.line()?);
            if schema.text.len() > MAX_SCHEMA_TEXT_BYTES {
                return Err(refuse("its text is over 64 MiB"));
            }
        }
        if children == 0 && position > 0 && element.physical.is_some() {
            path_bytes += path.len();
            if path_bytes > MAX_SCHEMA_TEXT_BYTES {
                return Err(refuse("its column paths are over 64 MiB"));
            }
            if schema.leaves.len() == MAX_LEAVES {
                return Err(refuse("it has more than 65,536 columns"));
            }
            schema.leaves.push(Leaf { repeated_at, ..element.leaf(&path, definition, repetition)? });
        }
        open.push(Open { children, path_len: path.len(), definition, repetition, repeated_at });
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err(refuse("nested deeper than 64"));
        }
        while open.last().is_some_and(|group| group.children == 0) {
            open.pop();
        }
    }
    if count == 0 || !open.is_empty() {
        return Err(refuse("elements are missing"));
    }
    Ok(schema)
}

fn read_element<'a>(reader: &mut Compact<'a>) -> Result<Element<'a>, ThriftError> {
    let mut element = Element::default();
    reader.fields(|id, wire, reader| {
        match id {
            1 => element.physical = Some(reader.integer(wire)?),
            2 => element.length = reader.integer(wire)?,
            3 => element.repetition = Some(reader.integer(wire)?),
            4 => element.name = reader.text(wire)?,
            5 => element.children = reader.integer(wire)?,
            6 => element.converted = Some(reader.integer(wire)?),
            7 => element.scale = reader.integer(wire)?,
            8 => element.precision = reader.integer(wire)?,
            10 => element.logical = Some(read_logical(reader, wire)?),
            _ => reader.skip(wire)?,
        }
        Ok(())
    })?;
    Ok(element)
}

/// Reads the union of logical types. A type that is not known here is named by its number: its fingerprint is stable.
fn read_logical(reader: &mut Compact<'_>, wire: Wire) -> Result<String, ThriftError> {
    wire.structure()?;
    let mut text = String::new();
    reader.fields(|kind, wire, reader| {
        wire.structure()?;
        let (mut numbers, mut truth, mut unit) = ([0; 3], false, "?");
        reader.fields(|id, wire, reader| match (kind, id) {
            (5, 1 | 2) | (10, 1) => reader.integer(wire).map(|number| numbers[id as usize] = number),
            (7 | 8, 1) | (10, 2) => wire.truth().map(|value| truth = value),
            (7 | 8, 2) => read_unit(reader, wire).map(|name| unit = name),
            _ => reader.skip(wire),
        })?;
        let clock = if truth { "utc" } else { "local" };
        text = match kind {
            1 => "string".to_owned(),
            2 => "map".to_owned(),
            3 => "list".to_owned(),
            4 => "enum".to_owned(),
            5 => decimal(numbers[2], numbers[1]),
            6 => "date".to_owned(),
            7 => format!("time({unit},{clock})"),
            8 => format!("timestamp({unit},{clock})"),
            10 => format!("{}int{}", if truth { "" } else { "u" }, numbers[1]),
            11 => "unknown".to_owned(),
            12 => "json".to_owned(),
            13 => "bson".to_owned(),
            14 => "uuid".to_owned(),
            15 => "float16".to_owned(),
            other => format!("logical-{other}"),
        };
        Ok::<(), ThriftError>(())
    })?;
    Ok(text)
}

fn read_unit(reader: &mut Compact<'_>, wire: Wire) -> Result<&'static str, ThriftError> {
    wire.structure()?;
    let mut unit = "?";
    reader.fields(|id, wire, reader| {
        unit = match id {
            1 => "ms",
            2 => "us",
            3 => "ns",
            _ => unit,
        };
        reader.skip(wire)
    })?;
    Ok(unit)
}

fn decimal(precision: i64, scale: i64) -> String {
    format!("decimal({precision},{scale})")
}

impl Element<'_> {
    fn repetition(&self) -> Result<&'static str, FooterError> {
        match self.repetition {
            Some(0) => Ok("required"),
            Some(1) => Ok("optional"),
            Some(2) => Ok("repeated"),
            _ => Err(FooterError::Schema { reason: "an element without a known repetition" }),
        }
    }

    fn physical(&self) -> Result<String, FooterError> {
        let known = ["boolean", "int32", "int64", "int96", "float", "double", "binary"];
        match self.physical {
            None => Ok("group".to_owned()),
            Some(_) if self.children > 0 => Ok("group".to_owned()),
            Some(7) => Ok(format!("fixed({})", self.length)),
            Some(number) => usize::try_from(number)
                .ok()
                .and_then(|number| known.get(number))
                .map(|name| (*name).to_owned())
                .ok_or(FooterError::Schema { reason: "an unknown physical type" }),
        }
    }

    /// The logical type, by which writers say the same in several ways: older ones by a converted type, and some say of
    /// plain signed integers that they are signed integers.
    fn logical(&self) -> Option<String> {
        let plain = match self.physical {
            Some(1) => "int32",
            Some(2) => "int64",
            _ => "",
        };
        let named = self.logical.clone().or_else(|| match self.converted? {
            5 => Some(decimal(self.precision, self.scale)),
            number => {
                let known = usize::try_from(number).ok().and_then(|number| CONVERTED_TYPES.get(number));
                Some(known.map_or_else(|| format!("converted-{number}"), |name| (*name).to_owned()))
            }
        });
        named.filter(|name| name != plain)
    }

    fn line(&self) -> Result<String, FooterError> {
        let name = serde_json::Value::from(self.name);
        let logical = self.logical().unwrap_or_else(|| "-".to_owned());
        Ok(format!("{} {} {name} {logical}", self.repetition()?, self.physical()?))
    }

    fn leaf(&self, path: &str, definition: i16, repetition: i16) -> Result<Leaf, FooterError> {
        let named = self.logical().map_or_else(|| self.physical(), Ok)?;
        let text = format!("{} {named}", self.repetition()?);
        let physical = self.physical.unwrap_or_default();
        Ok(Leaf { path: path.to_owned(), physical, text, definition, repetition, repeated_at: 0 })
    }
}
