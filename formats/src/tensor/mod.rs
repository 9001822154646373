//! Tensors: element types, boxes of a global shape, safetensors headers, and the files that tensors make.
//!
//! Must never read tensor data: it only says where which bytes lie.

pub mod boxes;
pub mod cover;
pub mod dtype;
pub mod files;
pub mod flat;
pub mod header;
pub mod index;
pub mod slice;
