//! The client of Gigastore: sharded checkpoints and datasets, saved and restored with every byte verified.
//!
//! A checkpoint is saved by any number of ranks, in one process or in many, and read back at any other number: whole
//! tensors, or any boxes of them, into memory of the caller. No byte reaches the caller that was not checked against a
//! committed BLAKE3 hash, and checking costs no second read.
//!
//! What it is not: a training framework's adapter (those are built on it), or a service; it needs no service for
//! `file:///`, `s3://`, `gs://` and `az://` stores.
//!
//! ```
//! use gigastore_client::checkpoint::{SaveSpec, Slice};
//! use gigastore_client::store::{OpenMode, Store};
//! use gigastore_client::transfer::{progress::Progress, source::SliceData};
//! use gigastore_formats::tensor::{boxes::TensorBox, dtype::Dtype, slice::{SliceId, SliceKind}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let url = format!("file://{}", folder.path().display());
//! let store = Store::open(&url, OpenMode::Create).await?;
//! let save = store.begin_save(SaveSpec::new("demo".parse()?, "run".parse()?, 100, 2), Progress::default()).await?;
//! for rank in 0..2 {
//!     let rows = TensorBox::new(vec![u64::from(rank) * 2, 0], vec![2, 8])?;
//!     let id = SliceId::tensor("w", Dtype::U8, &[4, 8], rows)?;
//!     let data = SliceData::Memory(vec![rank as u8; 16].into());
//!     save.rank(rank, vec![Slice { id, data, replicas: vec![] }]).await?;
//! }
//! save.finish().await?;
//! let w = store.checkpoint(&"demo/run@100".parse()?).await?.read_whole(SliceKind::Tensor, "w").await?;
//! assert_eq!(w, [[0; 16], [1; 16]].concat());
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`store`] | a store by its URL |
//! | [`checkpoint`] | save, restore, compare, local models in and out |
//! | [`dataset`] | push Parquet files, read them |
//! | [`mirror`] | checkpoints and datasets from one store into another |
//! | [`sums`] | files against a list of `b3sum` |
//! | [`transfer`] | budget, buffers, sources and sinks, progress |
//! | [`transport`] | the seam: the same calls in this process and over a network |
//! | [`error`] | what kind of fault each error is |
//! | [`ambient`] | the real clock, randomness, threads |
//!
//! Limits: a slice has at most 4 GiB in one piece (longer ones are split along dimension 0); one process takes at most
//! its budget of memory for bytes in flight, 512 MiB unless set; slices over 256 MiB in files are read twice, and
//! stored raw.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

pub mod ambient;
mod cached;
pub mod checkpoint;
pub mod dataset;
pub mod error;
pub mod mirror;
mod staging;
pub mod store;
pub mod sums;
pub mod transfer;
pub mod transport;

pub use error::Coded;
