//! Tensors: element types, boxes of a global shape, and safetensors headers.
//!
//! Must never read tensor data: it only says where which bytes lie.

pub mod boxes;
pub mod cover;
pub mod dtype;
pub mod header;
pub mod slice;
