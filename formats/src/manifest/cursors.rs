//! Cursors of data streams, kept in the record of a checkpoint under the names of their streams.
//!
//! Must never judge whether a stream can go on from a cursor: who restores weights alone needs no stream. Whoever opens
//! the stream checks that.

use std::collections::BTreeMap;

use super::MetaError;
use crate::limits::{MAX_CURSORS, MAX_CURSORS_BYTES};
use crate::name::Name;
use crate::order::Cursor;

/// Cursors of data streams by the streams' names, each of the form of a [`Name`].
pub type Cursors = BTreeMap<String, Cursor>;

/// Checks the names of cursors, how many they are, and their bytes.
pub fn check_cursors(cursors: &Cursors) -> Result<(), MetaError> {
    if cursors.len() > MAX_CURSORS {
        return Err(MetaError::Cursors { actual: cursors.len() });
    }
    let mut actual = 0;
    for (name, cursor) in cursors {
        Name::new(name)?;
        actual += name.len() + cursor.json().len();
    }
    if actual > MAX_CURSORS_BYTES { Err(MetaError::CursorsLong { actual }) } else { Ok(()) }
}
