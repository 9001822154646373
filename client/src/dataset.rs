//! Datasets: Parquet files in immutable, numbered versions.
//!
//! | file | what |
//! |---|---|
//! | `push.rs` | local files become a version; unchanged ones are not sent |
//! | `commit.rs` | drafts into the log, each on the newest version |
//! | `versions.rs` | versions beside each other, and without some files |
//! | `takedown.rs` | documents become empty rows; all else stays where it was |
//! | `delta.rs` | a version as a Delta Lake table |
//! | `head.rs` | the first documents |
//! | `rows.rs` | rows of single columns of stored files |
//! | `bound.rs` | a version bound to its commit: verified reads of its manifest and files |
//! | `kept.rs` | what was read of single files, kept while there is room |
//! | `ids.rs` | the ids of documents |
//! | `index.rs` | the light index of a version, and files opened as they are needed |
//! | `stream/` | documents in order, packed into batches for training |
//! | `read.rs` | a version's files, ranges of them, verified |

mod bound;
mod commit;
pub mod delta;
pub mod head;
mod ids;
pub mod index;
mod kept;
pub mod push;
pub mod read;
mod rows;
pub mod stream;
pub mod takedown;
pub mod versions;

pub use index::IndexedDataset;
pub use push::{PushError, PushSpec, Pushed, TokenChoice};
pub use read::{Dataset, DatasetError};
