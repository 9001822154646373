//! Rows of a Parquet file become documents: two columns are read, page after page, in step.
//!
//! Must never copy a value before it is a document's: a dictionary that a thousand rows repeat stays in memory once.
//! Nor let a panic of the library out, which asserts in places that files are well-formed.

use std::fs::File;

use gigastore_formats::range::ByteRange;
use gigastore_formats::table::Footer;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::json::Fields;
use super::lines::text_of;
use super::{Bad, Document, Input, MAX_DOCUMENT_BYTES, MAX_ID_BYTES, Place, ReadError, Record};
use crate::guard::guarded;

/// Rows decoded at once: their values are slices of pages, 24 bytes each.
const ROWS: usize = 1024;

/// The documents of a Parquet file.
pub(crate) struct Rows {
    input: Input,
    file: SerializedFileReader<File>,
    text: Column,
    id: Option<Column>,
    group: usize,
    /// Rows before the next one, in the file.
    row: u64,
    /// Rows before the next row group, by the footer.
    end: u64,
}

/// A column that is read, and what of it was decoded ahead.
struct Column {
    index: usize,
    name: String,
    reader: Option<Reader>,
    values: std::vec::IntoIter<Option<Value>>,
    /// The level at which a value is there; 0 where every one is.
    defined: i16,
}

enum Reader {
    Bytes(ColumnReaderImpl<ByteArrayType>),
    Int32(ColumnReaderImpl<Int32Type>),
    Int64(ColumnReaderImpl<Int64Type>),
}

enum Value {
    Bytes(ByteArray),
    Integer(i64),
}

impl Rows {
    /// Opens a file at a place.
    pub(crate) fn open(input: &Input, file: File, fields: Fields<'_>, place: Place) -> Result<Self, ReadError> {
        check_footer(input, &file)?;
        guarded(|| Self::begin(input, file, fields, place)).unwrap_or_else(|panic| Err(panicked(input, panic)))
    }

    fn begin(input: &Input, file: File, fields: Fields<'_>, place: Place) -> Result<Self, ReadError> {
        let file = SerializedFileReader::new(file).map_err(unsound(input))?;
        let text = Column::find(input, &file, fields.text, &[Type::BYTE_ARRAY])?;
        let any = [Type::BYTE_ARRAY, Type::INT32, Type::INT64];
        let id = fields.id.map(|name| Column::find(input, &file, name, &any)).transpose()?;
        let mut rows = Self { input: input.clone(), file, text, id, group: 0, row: 0, end: 0 };
        rows.skip_to(place.offset)?;
        Ok(rows)
    }

    pub(crate) fn place(&self) -> Place {
        Place { offset: self.row, lines: self.row }
    }

    /// Reads the next document.
    pub(crate) fn document(&mut self) -> Result<Option<Record>, ReadError> {
        guarded(|| self.read()).unwrap_or_else(|panic| Err(panicked(&self.input, panic)))
    }

    fn read(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            if let Some(text) = self.text.next(&self.input)? {
                let id = self.id.as_mut().map(|id| id.next(&self.input)).transpose()?;
                let id = match id {
                    // Columns of one row group have the same number of rows.
                    Some(None) => return Err(unsound(&self.input)(short())),
                    Some(Some(id)) => Some(id),
                    None => None,
                };
                self.row += 1;
                return Ok(Some(self.record(text, id)));
            }
            if !self.next_group()? {
                return Ok(None);
            }
        }
    }

    fn record(&self, text: Option<Value>, id: Option<Option<Value>>) -> Record {
        let number = self.row;
        let bad = |reason: String| Bad { number, reason };
        let null = |column: &Column| bad(format!("row {number} is null in column {:?}", column.name));
        let Some(Value::Bytes(text)) = text else { return Err(null(&self.text)) };
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(bad(format!("the text of row {number} is longer than {MAX_DOCUMENT_BYTES} bytes")));
        }
        let text = text_of(text.data().to_vec(), number)?;
        let id = match (id, &self.id) {
            (None, _) | (_, None) => None,
            (Some(None), Some(column)) => return Err(null(column)),
            (Some(Some(Value::Integer(id))), _) => Some(id.to_string()),
            (Some(Some(Value::Bytes(id))), _) if id.len() > MAX_ID_BYTES => {
                return Err(bad(format!("the id of row {number} has {} bytes, more than {MAX_ID_BYTES}", id.len())));
            }
            (Some(Some(Value::Bytes(id))), _) => Some(text_of(id.data().to_vec(), number)?),
        };
        Ok(Document { id, text, number })
    }

    /// Starts the next row group; tells whether there is one.
    fn next_group(&mut self) -> Result<bool, ReadError> {
        if self.row != self.end {
            return Err(unsound(&self.input)(short()));
        }
        if self.group >= self.file.num_row_groups() {
            return Ok(false);
        }
        let group = self.file.get_row_group(self.group).map_err(unsound(&self.input))?;
        for column in std::iter::once(&mut self.text).chain(&mut self.id) {
            let reader = group.get_column_reader(column.index).map_err(unsound(&self.input))?;
            column.reader = Some(match group.metadata().column(column.index).column_type() {
                Type::INT32 => Reader::Int32(get_typed_column_reader(reader)),
                Type::INT64 => Reader::Int64(get_typed_column_reader(reader)),
                _ => Reader::Bytes(get_typed_column_reader(reader)),
            });
        }
        self.end = self.row.saturating_add(rows_of(group.metadata()));
        self.group += 1;
        Ok(true)
    }

    /// Passes over the rows before `row`: whole row groups unread, the rest undecoded.
    fn skip_to(&mut self, row: u64) -> Result<(), ReadError> {
        while self.row < row {
            let there = self.file.metadata().row_groups().get(self.group).map(rows_of);
            let there = there.ok_or_else(|| ReadError::Changed { input: self.input.to_string() })?;
            if there <= row - self.row {
                (self.row, self.group) = (self.row + there, self.group + 1);
                self.end = self.row;
                continue;
            }
            self.next_group()?;
            let rest = usize::try_from(row - self.row).unwrap_or(usize::MAX);
            for column in std::iter::once(&mut self.text).chain(&mut self.id) {
                let skipped = match &mut column.reader {
                    Some(Reader::Bytes(reader)) => reader.skip_records(rest),
                    Some(Reader::Int32(reader)) => reader.skip_records(rest),
                    Some(Reader::Int64(reader)) => reader.skip_records(rest),
                    None => Ok(rest),
                };
                if skipped.map_err(unsound(&self.input))? != rest {
                    return Err(unsound(&self.input)(short()));
                }
            }
            self.row = row;
        }
        Ok(())
    }
}

impl Column {
    fn find(input: &Input, file: &SerializedFileReader<File>, name: &str, types: &[Type]) -> Result<Self, ReadError> {
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let refused = |actual: String| ReadError::Column {
            input: input.to_string(),
            column: name.to_owned(),
            expected: if types.len() == 1 { "a column of strings" } else { "a column of strings or integers" },
            actual,
        };
        let columns = schema.columns().iter();
        let is_it = |column: &ColumnDescriptor| column.path().string() == name;
        let Some((index, column)) = columns.clone().enumerate().find(|(_, column)| is_it(column)) else {
            let names: Vec<String> = columns.map(|column| column.path().string()).collect();
            return Err(refused(format!("columns {}", names.join(", "))));
        };
        if column.max_rep_level() > 0 {
            return Err(refused("a list".to_owned()));
        }
        if !types.contains(&column.physical_type()) {
            return Err(refused(column.physical_type().to_string()));
        }
        let defined = column.max_def_level();
        Ok(Self { index, name: name.to_owned(), reader: None, values: Vec::new().into_iter(), defined })
    }

    /// Returns the next value; none where the row group has no more. An inner none is a null.
    fn next(&mut self, input: &Input) -> Result<Option<Option<Value>>, ReadError> {
        if let Some(value) = self.values.next() {
            return Ok(Some(value));
        }
        let values = match &mut self.reader {
            None => return Ok(None),
            Some(Reader::Bytes(reader)) => decode(reader, self.defined, Value::Bytes),
            Some(Reader::Int32(reader)) => decode(reader, self.defined, |value| Value::Integer(value.into())),
            Some(Reader::Int64(reader)) => decode(reader, self.defined, Value::Integer),
        };
        self.values = values.map_err(unsound(input))?.into_iter();
        if self.values.len() == 0 {
            self.reader = None;
        }
        Ok(self.values.next())
    }
}

/// Decodes the next rows, nulls included.
fn decode<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    defined: i16,
    value: impl Fn(T::T) -> Value,
) -> Result<Vec<Option<Value>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let (rows, ..) = reader.read_records(ROWS, Some(&mut levels), None, &mut values)?;
    let mut values = values.into_iter().map(value);
    if defined == 0 {
        return Ok(values.map(Some).collect());
    }
    let there = levels.iter().filter(|level| **level == defined).count();
    if levels.len() != rows || there != values.len() {
        return Err(ParquetError::General("rows, levels and values do not agree".to_owned()));
    }
    Ok(levels.iter().map(|level| if *level == defined { values.next() } else { None }).collect())
}

/// Returns the rows of a row group; a number below 0, which no column agrees with, as the largest.
fn rows_of(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(u64::MAX)
}

/// Checks a footer within bounds, before the library allocates by it.
fn check_footer(input: &Input, file: &File) -> Result<(), ReadError> {
    use std::os::unix::fs::FileExt;
    let unsound = |source| ReadError::Footer { input: input.to_string(), source };
    let failed = ReadError::io(input);
    let fetch = |range: ByteRange| {
        let mut bytes = vec![0; range.len() as usize];
        file.read_exact_at(&mut bytes, range.start()).map_err(&failed)?;
        Ok(bytes.into())
    };
    let footer = Footer::read(file.metadata().map_err(&failed)?.len(), unsound, fetch)?;
    footer.facts().map(drop).map_err(unsound)
}

fn unsound(input: &Input) -> impl Fn(ParquetError) -> ReadError + '_ {
    |source| ReadError::Parquet { input: input.to_string(), source }
}

fn panicked(input: &Input, panic: String) -> ReadError {
    unsound(input)(ParquetError::General(format!("the library gave up: {panic}")))
}

fn short() -> ParquetError {
    ParquetError::General("its columns have not the number of rows that its footer says".to_owned())
}

#[cfg(test)]
#[path = "rows_test.rs"]
mod tests;
