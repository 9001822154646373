//! Columns of a decoded batch, found by name, and the builders of those that are lists.
//!
//! Must never panic on a column that is not there or has another type.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StructBuilder, UInt64Builder};
use arrow_array::{Array, ArrayRef, BinaryArray, ListArray, RecordBatch, StringArray, StructArray, UInt64Array};
use arrow_schema::{DataType, Field, Fields};

use super::ManifestError;

/// A text of a required column.
pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

/// A number of a required column.
pub(super) fn number(name: &str) -> Field {
    Field::new(name, DataType::UInt64, false)
}

/// A required list of numbers.
pub(super) fn numbers(name: &str) -> Field {
    Field::new_list(name, number("element"), false)
}

/// A required list of structures of numbers.
pub(super) fn records(name: &str, fields: &[&str]) -> Field {
    Field::new_list(name, Field::new_struct("element", record_fields(fields), false), false)
}

/// A required column of bytes.
pub(super) fn blob(name: &str) -> Field {
    Field::new(name, DataType::Binary, false)
}

fn record_fields(fields: &[&str]) -> Fields {
    fields.iter().map(|name| number(name)).collect()
}

/// Makes a column of texts.
pub(super) fn text_array<T: AsRef<str>>(texts: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

/// Makes a column of numbers.
pub(super) fn number_array(numbers: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(numbers.collect::<UInt64Array>())
}

/// Makes a column of bytes.
pub(super) fn blob_array<'a>(blobs: impl Iterator<Item = &'a [u8]>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(blobs))
}

/// Makes a column of lists of numbers.
pub(super) fn numbers_array<'a>(lists: impl Iterator<Item = &'a [u64]>) -> ArrayRef {
    let mut builder = ListBuilder::new(UInt64Builder::new()).with_field(number("element"));
    for list in lists {
        builder.values().append_slice(list);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// Makes a column of lists of structures of `N` numbers.
pub(super) fn records_array<const N: usize>(fields: [&str; N], lists: impl Iterator<Item = Vec<[u64; N]>>) -> ArrayRef {
    let element = record_fields(&fields);
    let field = Field::new_struct("element", element.clone(), false);
    let mut builder = ListBuilder::new(StructBuilder::from_fields(element, 0)).with_field(field);
    for list in lists {
        for record in list {
            let structs = builder.values();
            for (i, value) in record.into_iter().enumerate() {
                let column = structs.field_builder::<UInt64Builder>(i).expect("all fields are numbers");
                column.append_value(value);
            }
            structs.append(true);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// Finds columns by name.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a>(pub(super) &'a RecordBatch);

impl<'a> Columns<'a> {
    /// Returns a column of texts.
    pub(super) fn texts(&self, name: &str) -> Result<&'a StringArray, ManifestError> {
        self.column(name)
    }

    /// Returns a column of numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<&'a UInt64Array, ManifestError> {
        self.column(name)
    }

    /// Returns a column of bytes.
    pub(super) fn blobs(&self, name: &str) -> Result<&'a BinaryArray, ManifestError> {
        self.column(name)
    }

    /// Tells whether there is a column `name`; one that a manifest may lack is asked for only then.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.column_by_name(name).is_some()
    }

    /// Returns a column of lists of numbers that a manifest may lack.
    pub(super) fn optional_lists(&self, name: &str) -> Result<Option<Lists<'a>>, ManifestError> {
        self.has(name).then(|| self.lists(name)).transpose()
    }

    /// Returns a column of lists of numbers.
    pub(super) fn lists(&self, name: &str) -> Result<Lists<'a>, ManifestError> {
        let list: &ListArray = self.column(name)?;
        Ok(Lists { offsets: list.value_offsets(), values: downcast(list.values(), name)? })
    }

    /// Returns a column of lists of structures, each of whose fields is a column of lists of numbers.
    pub(super) fn records<const N: usize>(
        &self,
        name: &str,
        fields: [&str; N],
    ) -> Result<[Lists<'a>; N], ManifestError> {
        let list: &ListArray = self.column(name)?;
        let structs: &StructArray = downcast(list.values(), name)?;
        let mut found = Vec::with_capacity(N);
        for field in fields {
            let column = structs.column_by_name(field).ok_or_else(|| missing(field))?;
            found.push(Lists { offsets: list.value_offsets(), values: downcast(column, field)? });
        }
        found.try_into().map_err(|_| missing(name))
    }

    fn column<A: 'static>(&self, name: &str) -> Result<&'a A, ManifestError> {
        downcast(self.0.column_by_name(name).ok_or_else(|| missing(name))?, name)
    }
}

/// A column of lists of numbers.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    offsets: &'a [i32],
    values: &'a UInt64Array,
}

impl<'a> Lists<'a> {
    /// Returns the list of row `i`.
    pub(super) fn row(&self, i: usize) -> &'a [u64] {
        &self.values.values()[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }
}

fn downcast<'a, A: 'static>(array: &'a ArrayRef, name: &str) -> Result<&'a A, ManifestError> {
    array.as_any().downcast_ref().ok_or_else(|| missing(name))
}

fn missing(column: &str) -> ManifestError {
    ManifestError::Column { column: column.to_owned() }
}
