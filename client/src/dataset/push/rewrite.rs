//! Files written anew in our own layout: row groups of the default size, ids kept.
//!
//! Rows are read in small batches by the Parquet library, whatever the size of the row groups. Must never lose, add or
//! reorder a row.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, RecordBatch};
use gigastore_formats::table::tokens::{TokenFile, TokenFileSpec, TokenFileWriter, TokenWidth, TokenWriteError};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::dataset::rows;

/// Rows that are read at once: 64, so that even documents of a million tokens take a few hundred MiB.
const BATCH_ROWS: usize = 64;

/// Why a file can't be written anew.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A local file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Parquet library can't read it.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// The Parquet library can't read it.
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
    /// The Parquet library could not cope with its bytes.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A column is not of a form that is rewritten.
    #[error("column {column} is {actual}; expected {expected}")]
    Column {
        /// The column.
        column: String,
        /// Its type.
        actual: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A value is missing.
    #[error("row {row}: column {column} has a null")]
    Null {
        /// Row of the file, from 0.
        row: u64,
        /// The column.
        column: String,
    },
    /// A value is no token.
    #[error("row {row}: {actual} is no token")]
    Value {
        /// Row of the file, from 0.
        row: u64,
        /// The value.
        actual: i128,
    },
    /// A document is refused by the layout.
    #[error(transparent)]
    Write(#[from] TokenWriteError),
}

/// Writes the documents of `from`, whose path in the dataset is `name`, to `to`. May panic: see [`rows::guarded`].
pub(super) fn rewrite(
    from: &Path,
    name: &str,
    tokens: &TokenFile,
    (width, vocab_size): (TokenWidth, Option<u32>),
    to: &Path,
) -> Result<(), RewriteError> {
    let source = File::open(from).map_err(|source| io(from, source))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(source)?;
    let schema = builder.parquet_schema();
    let column = tokens.column().split('.').next().unwrap_or_default().to_owned();
    let id = rows::first_column(schema, &rows::ID_COLUMNS);
    let wanted = id.into_iter().chain([column.as_str()]);
    let mask = ProjectionMask::columns(schema, wanted);
    let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?;
    let sink = BufWriter::new(File::create_new(to).map_err(|source| io(to, source))?);
    let mut writer = TokenFileWriter::new(sink, TokenFileSpec { vocab_size, ..TokenFileSpec::new(width) })?;
    let mut row = 0;
    for batch in batches {
        row += write_batch(&mut writer, &batch?, (&column, id, name), row)?;
    }
    let (sink, _) = writer.finish()?;
    let file = sink.into_inner().map_err(|error| io(to, error.into_error()))?;
    file.sync_all().map_err(|source| io(to, source))
}

/// Writes a batch whose first row is `first`; returns its rows.
fn write_batch(
    writer: &mut TokenFileWriter<BufWriter<File>>,
    batch: &RecordBatch,
    (column, id, name): (&str, Option<&str>, &str),
    first: u64,
) -> Result<u64, RewriteError> {
    let lists = rows::one(batch, column)?;
    let ids = id.map(|id| rows::one(batch, id)).transpose()?;
    let (starts, values) = list_parts(lists, column)?;
    let mut tokens = Vec::new();
    for i in 0..batch.num_rows() {
        let row = first + i as u64;
        let null = |column: &str| RewriteError::Null { row, column: column.to_owned() };
        if lists.is_null(i) {
            return Err(null(column));
        }
        tokens.clear();
        let list = values.slice(starts[i], starts[i + 1] - starts[i]);
        if list.null_count() > 0 {
            return Err(null(column));
        }
        read_tokens(&list, column, row, &mut tokens)?;
        let id = match ids {
            Some(ids) => text(ids, i, id.unwrap_or_default())?.ok_or_else(|| null(id.unwrap_or_default()))?,
            None => format!("{name}:{row}"),
        };
        writer.push(&id, tokens.as_slice())?;
    }
    Ok(batch.num_rows() as u64)
}

/// Returns where the lists of a column begin and end, and their values.
fn list_parts(lists: &ArrayRef, column: &str) -> Result<(Vec<usize>, ArrayRef), RewriteError> {
    if let Some(lists) = lists.as_list_opt::<i32>() {
        return Ok((lists.value_offsets().iter().map(|at| *at as usize).collect(), lists.values().clone()));
    }
    if let Some(lists) = lists.as_list_opt::<i64>() {
        return Ok((lists.value_offsets().iter().map(|at| *at as usize).collect(), lists.values().clone()));
    }
    if let Some(lists) = lists.as_fixed_size_list_opt() {
        let len = lists.value_length() as usize;
        return Ok(((0..=lists.len()).map(|i| i * len).collect(), lists.values().clone()));
    }
    let actual = lists.data_type().to_string();
    Err(RewriteError::Column { column: column.to_owned(), actual, expected: "a list of integers" })
}

fn read_tokens(values: &ArrayRef, column: &str, row: u64, into: &mut Vec<u32>) -> Result<(), RewriteError> {
    use arrow_schema::DataType;
    match values.data_type() {
        DataType::Int8 => integers::<Int8Type>(values, row, into),
        DataType::Int16 => integers::<Int16Type>(values, row, into),
        DataType::Int32 => integers::<Int32Type>(values, row, into),
        DataType::Int64 => integers::<Int64Type>(values, row, into),
        DataType::UInt8 => integers::<UInt8Type>(values, row, into),
        DataType::UInt16 => integers::<UInt16Type>(values, row, into),
        DataType::UInt32 => integers::<UInt32Type>(values, row, into),
        DataType::UInt64 => integers::<UInt64Type>(values, row, into),
        other => Err(RewriteError::Column {
            column: column.to_owned(),
            actual: format!("a list of {other}"),
            expected: "a list of integers",
        }),
    }
}

fn integers<T>(values: &ArrayRef, row: u64, into: &mut Vec<u32>) -> Result<(), RewriteError>
where
    T: ArrowPrimitiveType,
    T::Native: ArrowNativeTypeOp + Into<i128>,
{
    for value in values.as_primitive::<T>().values() {
        let actual: i128 = (*value).into();
        into.push(u32::try_from(actual).map_err(|_| RewriteError::Value { row, actual })?);
    }
    Ok(())
}

/// Returns an id as text; none where it is null.
pub(in crate::dataset) fn text(ids: &ArrayRef, i: usize, column: &str) -> Result<Option<String>, RewriteError> {
    use arrow_schema::DataType;
    if ids.is_null(i) {
        return Ok(None);
    }
    let of = |text: &str| Ok(Some(text.to_owned()));
    let number = |number: i128| Ok(Some(number.to_string()));
    match ids.data_type() {
        DataType::Utf8 => of(ids.as_string::<i32>().value(i)),
        DataType::LargeUtf8 => of(ids.as_string::<i64>().value(i)),
        DataType::Utf8View => of(ids.as_string_view().value(i)),
        // Older writers do not say that their bytes are text.
        DataType::Binary if std::str::from_utf8(ids.as_binary::<i32>().value(i)).is_ok() => {
            of(&String::from_utf8_lossy(ids.as_binary::<i32>().value(i)))
        }
        DataType::Int8 => number(ids.as_primitive::<Int8Type>().value(i).into()),
        DataType::Int16 => number(ids.as_primitive::<Int16Type>().value(i).into()),
        DataType::UInt8 => number(ids.as_primitive::<UInt8Type>().value(i).into()),
        DataType::UInt16 => number(ids.as_primitive::<UInt16Type>().value(i).into()),
        DataType::Int32 => number(ids.as_primitive::<Int32Type>().value(i).into()),
        DataType::Int64 => number(ids.as_primitive::<Int64Type>().value(i).into()),
        DataType::UInt32 => number(ids.as_primitive::<UInt32Type>().value(i).into()),
        DataType::UInt64 => number(ids.as_primitive::<UInt64Type>().value(i).into()),
        other => Err(RewriteError::Column {
            column: column.to_owned(),
            actual: other.to_string(),
            expected: "texts or integers",
        }),
    }
}

pub(super) fn io(path: &Path, source: std::io::Error) -> RewriteError {
    RewriteError::Io { path: path.display().to_string(), source }
}
