//! What a stream is asked for in Python's words, and the arrays of a batch.
//!
//! Must never copy the tokens of a batch: the memory that they were written to is what Python gets.

use std::mem::take;

use gigastore_client::dataset::stream::{Batch, Columns, Last, OnDamage, Share, StreamOptions, StreamSource};
use gigastore_formats::name::Target;
use gigastore_formats::order::{Cursor, Long, OrderSpec, Packing, Unit};
use gigastore_formats::tensor::dtype::Dtype;
use pyo3::prelude::*;

use crate::error::{invalid, parsed};
use crate::memory::Memory;
use crate::stream::cursor_of;

/// The keywords of a stream.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Given {
    /// Target, weight and epochs of each dataset.
    sources: Vec<(String, f64, Option<u64>)>,
    seed: Option<u64>,
    lanes: u32,
    window: u32,
    packing: String,
    seq_len: u32,
    long: String,
    unit: Option<String>,
    budget: Option<u64>,
    rank: u32,
    world_size: u32,
    batch_size: u32,
    last: String,
    on_damage: String,
    columns: Vec<String>,
    pad: u32,
    prefetch: u64,
    cursor: Option<String>,
    /// The rank that saw what the cursor has seen.
    seen_by: u32,
    step: u64,
}

/// An array of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Column {
    Tokens,
    CuSeqlens,
    PositionIds,
    LossMask,
    Positions,
    Sources,
}

impl Given {
    /// Returns which arrays are wanted, in order.
    pub(crate) fn columns(&self, py: Python<'_>) -> PyResult<Vec<Column>> {
        self.columns.iter().map(|name| Column::of(py, name)).collect()
    }

    /// Returns the options, where to begin, and the number of the first batch.
    pub(crate) fn options(self, py: Python<'_>) -> PyResult<(StreamOptions, Option<Cursor>, u64)> {
        let columns = self.columns(py)?;
        let has = |column| columns.contains(&column);
        let columns =
            Columns { pad: self.pad, position_ids: has(Column::PositionIds), loss_mask: has(Column::LossMask) };
        let long = word(py, "long", &self.long, &[("split", Long::Split), ("truncate", Long::Truncate)])?;
        let seq_len = self.seq_len;
        let packings = [
            ("concat", Packing::Concat { seq_len }),
            ("first_fit", Packing::FirstFit { seq_len, long }),
            ("documents", Packing::Documents),
        ];
        let packing = word(py, "packing", &self.packing, &packings)?;
        let units = [("tokens", Unit::Tokens), ("documents", Unit::Documents), ("samples", Unit::Samples)];
        let usual = if packing == Packing::Documents { Unit::Samples } else { Unit::Tokens };
        let unit = self.unit.as_deref().map_or(Ok(usual), |unit| word(py, "unit", unit, &units))?;
        let mut sources = Vec::with_capacity(self.sources.len());
        for (target, weight, epochs) in &self.sources {
            sources.push(StreamSource { target: parsed::<Target>(py, target)?, weight: *weight, epochs: *epochs });
        }
        let cursor = self.cursor.map(|text| cursor_of(py, &text, self.seen_by == self.rank)).transpose()?;
        let share =
            Share { rank: self.rank, world_size: self.world_size, batch_size: self.batch_size, worker: 0, workers: 1 };
        let options = StreamOptions {
            sources,
            order: OrderSpec { seed: self.seed, lanes: self.lanes, window: self.window, packing },
            unit,
            budget: self.budget,
            share,
            last: word(py, "last", &self.last, &[("pad", Last::Pad), ("drop", Last::Drop)])?,
            damage: word(py, "on_damage", &self.on_damage, &[("fail", OnDamage::Fail), ("skip", OnDamage::Skip)])?,
            columns,
            prefetch_bytes: self.prefetch,
            cursor: None,
            first_step: 0,
        };
        Ok((options, cursor, self.step))
    }
}

impl Column {
    fn of(py: Python<'_>, name: &str) -> PyResult<Self> {
        let columns = [
            ("tokens", Self::Tokens),
            ("cu_seqlens", Self::CuSeqlens),
            ("position_ids", Self::PositionIds),
            ("loss_mask", Self::LossMask),
            ("positions", Self::Positions),
            ("sources", Self::Sources),
        ];
        word(py, "a column", name, &columns)
    }

    /// Takes the array out of a batch, whose tokens have a shape.
    pub(crate) fn take(self, batch: &mut Batch, shape: &[u64]) -> Memory {
        let shape = match self {
            Self::Tokens | Self::PositionIds | Self::LossMask => shape.to_vec(),
            Self::CuSeqlens => vec![batch.cu_seqlens.len() as u64],
            Self::Positions => vec![batch.positions.len() as u64],
            Self::Sources => vec![batch.sources.len() as u64],
        };
        match self {
            Self::Tokens => Memory::of_numbers(take(&mut batch.tokens), Dtype::I64, shape),
            Self::CuSeqlens => Memory::of_numbers(take(&mut batch.cu_seqlens).into(), Dtype::I32, shape),
            Self::PositionIds => Memory::of_numbers(take(&mut batch.position_ids), Dtype::I64, shape),
            Self::LossMask => Memory::of_numbers(take(&mut batch.loss_mask).into(), Dtype::BOOL, shape),
            Self::Positions => Memory::of_numbers(take(&mut batch.positions).into(), Dtype::I64, shape),
            Self::Sources => {
                let sources: Vec<i64> = batch.sources.iter().map(|source| i64::from(*source)).collect();
                Memory::of_numbers(sources.into(), Dtype::I64, shape)
            }
        }
    }
}

/// Finds what a word means; says which there are where it means nothing.
fn word<T: Copy>(py: Python<'_>, what: &str, given: &str, words: &[(&str, T)]) -> PyResult<T> {
    let found = words.iter().find(|(word, _)| *word == given);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        invalid(py, format!("{what} is {given:?}: expected one of {}", known.join(", ")))
    })
}
