//! Memory that is used again: fresh pages cost more than what is written into them.
//!
//! Must never hand out memory that somebody still reads.

use std::fmt;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Vectors that nobody uses.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    free: Mutex<Vec<Vec<T>>>,
    most: usize,
}

/// A vector that goes back to its shelf when it is dropped.
pub struct Reused<T> {
    values: Vec<T>,
    shelf: Option<Arc<Shelf<T>>>,
}

impl<T> Shelf<T> {
    /// Keeps at most so many vectors.
    pub(super) fn keeping(most: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), most })
    }

    /// Returns an empty vector with room for `capacity` values.
    pub(super) fn take(self: &Arc<Self>, capacity: usize) -> Reused<T> {
        let mut values = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        values.reserve(capacity);
        Reused { values, shelf: Some(Arc::clone(self)) }
    }

    fn put(&self, mut values: Vec<T>) {
        values.clear();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most {
            free.push(values);
        }
    }
}

impl<T> Reused<T> {
    /// Returns the values, which do not go back.
    pub fn into_vec(mut self) -> Vec<T> {
        self.shelf = None;
        take(&mut self.values)
    }
}

impl<T> From<Vec<T>> for Reused<T> {
    fn from(values: Vec<T>) -> Self {
        Self { values, shelf: None }
    }
}

impl<T> Default for Reused<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T: Clone> Clone for Reused<T> {
    fn clone(&self) -> Self {
        self.values.clone().into()
    }
}

impl<T: PartialEq> PartialEq for Reused<T> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<T: Eq> Eq for Reused<T> {}

impl<T: fmt::Debug> fmt::Debug for Reused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

impl<T> Deref for Reused<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.values
    }
}

impl<T> DerefMut for Reused<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.values
    }
}

impl<T> Drop for Reused<T> {
    fn drop(&mut self) {
        if let Some(shelf) = &self.shelf {
            shelf.put(take(&mut self.values));
        }
    }
}
