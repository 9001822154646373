//! The object store underneath: opened from a URL, every key built in one file, few operations with typed errors.
//!
//! *Architecture invariant:* nothing outside this module names `object_store`. Must never hold a rule of the log or of
//! commits.

mod connect;
mod disk;
mod error;
mod folder;
pub(crate) mod keys;
mod objects;
mod open;
mod parts;
mod removal;
mod uploads;

pub use error::StoreError;
pub use object_store::ObjectStore;
pub use objects::{Body, BodyError, MadePieces};
pub use open::{OpenError, OpenMode, StoreUrl};

pub(crate) use folder::batch;
pub(crate) use objects::{Created, Objects};
pub(crate) use removal::{DELETED_AT_ONCE, Listed};
