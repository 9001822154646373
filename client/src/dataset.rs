//! Datasets: Parquet files in immutable, numbered versions.
//!
//! | file | what |
//! |---|---|
//! | `push.rs` | local files become a version; unchanged ones are not sent |
//! | `read.rs` | a version's files, ranges of them, verified |

pub mod push;
pub mod read;

pub use push::{PushError, PushSpec, Pushed};
pub use read::{Dataset, DatasetError};
