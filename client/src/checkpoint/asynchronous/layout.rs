//! Which slices a state has: said once, for all saves of it.
//!
//! Must never cost a save an allocation for each slice while its caller stands still.

use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::tensor::slice::SliceId;

use super::super::save::Slice;
use super::AsyncSaveError;
use crate::transfer::source::SliceData;

/// Which slices a state has, in which order. Made once and used for every save, so that a save of thousands of small
/// tensors allocates nothing for each. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateLayout {
    slices: Arc<[(SliceId, Vec<u32>)]>,
    bytes: u64,
}

impl StateLayout {
    /// Takes the slices of one rank, each with the ranks that hold the same (see [`Slice::replicas`]).
    pub fn new(slices: impl IntoIterator<Item = (SliceId, Vec<u32>)>) -> Self {
        let slices: Arc<[_]> = slices.into_iter().collect();
        let bytes = slices.iter().map(|(id, _)| id.bytes()).fold(0, u64::saturating_add);
        Self { slices, bytes }
    }

    /// Returns the bytes of the whole state.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that `tensors` are the bytes of these slices.
    pub(super) fn check(&self, tensors: &[&[u8]]) -> Result<(), AsyncSaveError> {
        if tensors.len() != self.slices.len() {
            return Err(AsyncSaveError::Slices { expected: self.slices.len(), actual: tensors.len() });
        }
        for ((id, _), tensor) in self.slices.iter().zip(tensors) {
            let (expected, actual) = (id.bytes(), tensor.len() as u64);
            if expected != actual {
                return Err(AsyncSaveError::Length { slice: id.to_string(), expected, actual });
            }
        }
        Ok(())
    }

    /// Cuts a staged state into its slices. Nothing is copied.
    pub(super) fn cut(&self, mut staged: Bytes) -> Vec<Slice> {
        let slices = self.slices.iter().map(|(id, replicas)| {
            let data = SliceData::Memory(staged.split_to(id.bytes() as usize));
            Slice { id: id.clone(), data, replicas: replicas.clone() }
        });
        slices.collect()
    }
}
