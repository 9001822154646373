//! A version as the first commit of a Delta Lake table, so that Spark, Polars and DuckDB see it as one.
//!
//! Source: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>, reader version 1. Must never describe files
//! that one Delta schema does not fit.

use std::collections::BTreeSet;

use arrow_schema::{DataType, Field, Fields, TimeUnit};
use gigastore_formats::digest::hex;
use gigastore_formats::manifest::dataset::FileRow;
use parquet::arrow::parquet_to_arrow_schema;
use serde_json::{Value, json};

use super::read::{Dataset, DatasetError};
use super::rows;

/// Where the log of a table begins, below the table.
pub const FIRST_COMMIT: &str = "_delta_log/00000000000000000000.json";

/// Why a version is not a Delta table.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// A type that Delta does not have.
    #[error("{path}: column {column} is {actual}, for which Delta tables have no type")]
    Type {
        /// The file.
        path: String,
        /// The column.
        column: String,
        /// Its type.
        actual: String,
    },
    /// Files differ in their columns.
    #[error("{first} and {second} have different columns: a Delta table has the same in all files")]
    Mixed {
        /// A file.
        first: String,
        /// Another one.
        second: String,
    },
    /// The version has no files.
    #[error("{target} has no files: a Delta table needs their columns")]
    Empty {
        /// The version.
        target: String,
    },
    /// A footer can't be read.
    #[error(transparent)]
    Read(#[from] DatasetError),
}

impl Dataset {
    /// Returns the text of [`FIRST_COMMIT`] of a table of all files; `path_of` says where each lies: relative to the
    /// table, or as a URL.
    pub async fn delta_log(&self, path_of: impl Fn(&FileRow) -> String) -> Result<String, DeltaError> {
        let info = self.info();
        let mut schema: Option<(&str, Value)> = None;
        let mut seen = BTreeSet::new();
        for row in self.files() {
            if !seen.insert(row.schema) {
                continue;
            }
            let fields = self.delta_schema(row).await?;
            match &schema {
                None => schema = Some((&row.path, fields)),
                Some((_, known)) if *known == fields => {}
                Some((first, _)) => {
                    return Err(DeltaError::Mixed { first: (*first).to_owned(), second: row.path.clone() });
                }
            }
        }
        let target = || format!("{}@{}", info.commit.name, info.commit.number);
        let (_, schema) = schema.ok_or_else(|| DeltaError::Empty { target: target() })?;
        // The same version is the same table.
        let id = hex(&info.commit.content.as_bytes()[..16]);
        let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
        let mut lines = vec![
            json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }),
            json!({ "metaData": {
                "id": id, "name": info.commit.name, "format": { "provider": "parquet", "options": {} },
                "schemaString": schema.to_string(), "partitionColumns": [], "configuration": {},
                "createdTime": info.time,
            } }),
        ];
        lines.extend(self.files().iter().map(|row| {
            json!({ "add": {
                "path": escaped(&path_of(row)), "partitionValues": {}, "size": row.bytes, "modificationTime": info.time,
                "dataChange": true, "stats": json!({ "numRecords": row.rows }).to_string(),
            } })
        }));
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    async fn delta_schema(&self, row: &FileRow) -> Result<Value, DeltaError> {
        let metadata = rows::metadata(self, row).await?;
        let file = metadata.file_metadata();
        let schema = rows::guarded(|| parquet_to_arrow_schema(file.schema_descr(), None));
        let schema = schema.map_err(|source| DatasetError::Rows { path: row.path.clone(), source })?;
        structure(schema.fields(), "").map_err(|(column, actual)| {
            let path = row.path.clone();
            DeltaError::Type { path, column, actual }
        })
    }
}

/// The column that has no type, and the type that it has.
type Untyped = (String, String);

fn structure(fields: &Fields, above: &str) -> Result<Value, Untyped> {
    let field = |field: &std::sync::Arc<Field>| {
        let name = format!("{above}{}", field.name());
        // A column that may have nulls in one file may be required in another one.
        Ok(json!({
            "name": field.name(), "type": typed(field.data_type(), &name)?, "nullable": true, "metadata": {},
        }))
    };
    let fields = fields.iter().map(field).collect::<Result<Vec<Value>, Untyped>>()?;
    Ok(json!({ "type": "struct", "fields": fields }))
}

/// Returns Delta's type. It has no unsigned numbers: the next wider signed ones hold them.
fn typed(kind: &DataType, name: &str) -> Result<Value, Untyped> {
    Ok(match kind {
        DataType::Boolean => json!("boolean"),
        DataType::Int8 => json!("byte"),
        DataType::Int16 | DataType::UInt8 => json!("short"),
        DataType::Int32 | DataType::UInt16 => json!("integer"),
        DataType::Int64 | DataType::UInt32 => json!("long"),
        DataType::UInt64 => json!("decimal(20,0)"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => json!("string"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            json!("binary")
        }
        DataType::Date32 => json!("date"),
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Millisecond, Some(_)) => json!("timestamp"),
        DataType::Decimal128(precision, scale) => json!(format!("decimal({precision},{scale})")),
        DataType::List(element) | DataType::LargeList(element) => json!({
            "type": "array", "elementType": typed(element.data_type(), name)?, "containsNull": true,
        }),
        DataType::Struct(fields) => structure(fields, &format!("{name}."))?,
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => json!({
                "type": "map", "keyType": typed(fields[0].data_type(), name)?,
                "valueType": typed(fields[1].data_type(), name)?, "valueContainsNull": true,
            }),
            other => return Err((name.to_owned(), other.to_string())),
        },
        other => return Err((name.to_owned(), other.to_string())),
    })
}

/// Escapes a path as a URL's: what is not plain becomes `%` and two hex digits a byte.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/:".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_delta_s() {
        let list = DataType::new_list(DataType::UInt16, false);
        let fields = Fields::from(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("s", DataType::Struct(vec![Field::new("t", list, true)].into()), true),
        ]);
        let schema = structure(&fields, "").unwrap();
        assert_eq!(schema["fields"][0]["type"], "string");
        let tokens = &schema["fields"][1]["type"]["fields"][0]["type"];
        assert_eq!((&tokens["type"], &tokens["elementType"]), (&json!("array"), &json!("integer")));
        let fields = Fields::from(vec![Field::new(
            "s",
            DataType::Struct(vec![Field::new("t", DataType::Float16, true)].into()),
            true,
        )]);
        assert_eq!(structure(&fields, "").unwrap_err().0, "s.t");
        assert_eq!(escaped("a b/ä=1.parquet"), "a%20b/%C3%A4%3D1.parquet");
    }
}
