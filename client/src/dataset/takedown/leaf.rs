//! One column of one row group copied value by value, some rows of it empty.
//!
//! Must never change a row that is not to be empty, nor how many rows there are.

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::ColumnDescriptor;

use crate::dataset::push::RewriteError;

/// Rows that are copied at once: 1,024.
const BATCH_ROWS: usize = 1024;

/// What an empty row has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blank {
    /// An empty list; its definition level is this.
    List {
        /// The definition level.
        empty: i16,
    },
    /// Zeros: so many bytes where the column holds bytes. A null stays.
    Value {
        /// Bytes.
        bytes: usize,
    },
}

/// Copies a column; the rows `hits`, ascending, are empty.
pub(super) fn copy_column(
    from: ColumnReader,
    to: &mut SerializedColumnWriter<'_>,
    column: &ColumnDescriptor,
    hits: &[usize],
    blank: Blank,
) -> Result<(), RewriteError> {
    let zeros = || match blank {
        Blank::Value { bytes } => vec![0; bytes],
        Blank::List { .. } => Vec::new(),
    };
    let copy = Copy { column, hits, blank };
    match from {
        ColumnReader::BoolColumnReader(from) => copy.all::<BoolType>(from, to.typed(), false),
        ColumnReader::Int32ColumnReader(from) => copy.all::<Int32Type>(from, to.typed(), 0),
        ColumnReader::Int64ColumnReader(from) => copy.all::<Int64Type>(from, to.typed(), 0),
        ColumnReader::Int96ColumnReader(from) => copy.all::<Int96Type>(from, to.typed(), Int96::default()),
        ColumnReader::FloatColumnReader(from) => copy.all::<FloatType>(from, to.typed(), 0.0),
        ColumnReader::DoubleColumnReader(from) => copy.all::<DoubleType>(from, to.typed(), 0.0),
        ColumnReader::ByteArrayColumnReader(from) => {
            copy.all::<ByteArrayType>(from, to.typed(), ByteArray::from(zeros()))
        }
        ColumnReader::FixedLenByteArrayColumnReader(from) => {
            copy.all::<FixedLenByteArrayType>(from, to.typed(), FixedLenByteArray::from(zeros()))
        }
    }
}

#[derive(Clone, Copy)]
struct Copy<'a> {
    column: &'a ColumnDescriptor,
    hits: &'a [usize],
    blank: Blank,
}

impl Copy<'_> {
    fn all<T: DataType>(
        self,
        mut from: ColumnReaderImpl<T>,
        to: &mut ColumnWriterImpl<'_, T>,
        zero: T::T,
    ) -> Result<(), RewriteError> {
        let (most_definition, repeated) = (self.column.max_def_level(), self.column.max_rep_level() > 0);
        let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        loop {
            definition.clear();
            repetition.clear();
            values.clear();
            let (rows, _, _) =
                from.read_records(BATCH_ROWS, Some(&mut definition), Some(&mut repetition), &mut values)?;
            if rows == 0 {
                return Ok(());
            }
            let start = self.hits.partition_point(|hit| *hit < first);
            let end = self.hits.partition_point(|hit| *hit < first + rows);
            let hits: Vec<usize> = self.hits[start..end].iter().map(|hit| hit - first).collect();
            match self.blank {
                Blank::List { empty } => {
                    collapse(&mut definition, &mut repetition, &mut values, &hits, (empty, most_definition));
                }
                Blank::Value { .. } => zeroed(&definition, &mut values, &hits, most_definition, &zero),
            }
            let levels = (most_definition > 0).then_some(definition.as_slice());
            to.write_batch(&values, levels, repeated.then_some(repetition.as_slice()))?;
            first += rows;
        }
    }
}

/// Puts `zero` in place of the values of rows that have one.
fn zeroed<V: Clone>(definition: &[i16], values: &mut [V], hits: &[usize], most: i16, zero: &V) {
    let (mut value, mut row) = (0, 0);
    for hit in hits {
        if most == 0 {
            value = *hit;
        } else {
            value += definition[row..*hit].iter().filter(|level| **level == most).count();
            row = *hit;
            if definition[row] != most {
                continue;
            }
        }
        values[value] = zero.clone();
    }
}

/// Makes lists of rows empty; those that are null, or empty already, stay.
fn collapse<V: Clone>(
    definition: &mut Vec<i16>,
    repetition: &mut Vec<i16>,
    values: &mut Vec<V>,
    hits: &[usize],
    (empty, most): (i16, i16),
) {
    let mut hits = hits.iter().peekable();
    let (mut kept_definition, mut kept_repetition) = (Vec::new(), Vec::new());
    let mut kept_values = Vec::with_capacity(values.len());
    let (mut at, mut value, mut row) = (0, 0, 0);
    while at < definition.len() {
        let end =
            repetition[at + 1..].iter().position(|level| *level == 0).map_or(definition.len(), |len| at + 1 + len);
        let count = definition[at..end].iter().filter(|level| **level == most).count();
        if hits.next_if(|hit| **hit == row).is_some() {
            kept_definition.push(definition[at].min(empty));
            kept_repetition.push(0);
        } else {
            kept_definition.extend_from_slice(&definition[at..end]);
            kept_repetition.extend_from_slice(&repetition[at..end]);
            kept_values.extend_from_slice(&values[value..value + count]);
        }
        (at, value, row) = (end, value + count, row + 1);
    }
    (*definition, *repetition, *values) = (kept_definition, kept_repetition, kept_values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_hits_are_zeroed_and_nulls_stay() {
        let mut values = vec![5, 6, 7];
        zeroed(&[1, 0, 1, 1, 0], &mut values, &[1, 2, 4], 1, &0);
        assert_eq!(values, [5, 0, 7]);
        let mut values = vec![5, 6, 7];
        zeroed(&[], &mut values, &[0, 2], 0, &0);
        assert_eq!(values, [0, 6, 0]);
    }

    #[test]
    fn lists_of_hits_are_empty() {
        // [1, 2], [], null, [3, null], [4]: definition 0 null, 1 empty, 2 a null, 3 a value.
        let (mut definition, mut repetition) = (vec![3, 3, 1, 0, 3, 2, 3], vec![0, 1, 0, 0, 0, 1, 0]);
        let mut values = vec![1, 2, 3, 4];
        collapse(&mut definition, &mut repetition, &mut values, &[0, 1, 2, 3], (1, 3));
        assert_eq!((definition, repetition, values), (vec![1, 1, 0, 1, 3], vec![0, 0, 0, 0, 0], vec![4]));
    }
}
