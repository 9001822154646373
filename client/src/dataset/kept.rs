//! What was read of single files, kept while there is room; what was not used for longest goes first.
//!
//! Must never grow past its bound, but for the one entry that somebody waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values by file number, of a bounded sum of weights.
#[derive(Debug)]
pub(super) struct Kept<T> {
    most: u64,
    values: Mutex<Values<T>>,
}

#[derive(Debug)]
struct Values<T> {
    by_file: BTreeMap<usize, Entry<T>>,
    weight: u64,
    uses: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    weight: u64,
    last_use: u64,
}

impl<T: Clone> Kept<T> {
    /// Starts with nothing; keeps values of at most `most` in all.
    pub(super) fn new(most: u64) -> Self {
        Self { most, values: Mutex::new(Values { by_file: BTreeMap::new(), weight: 0, uses: 0 }) }
    }

    /// Returns the value of a file, where it is kept.
    pub(super) fn get(&self, file: usize) -> Option<T> {
        let mut values = self.lock();
        values.uses += 1;
        let last_use = values.uses;
        let entry = values.by_file.get_mut(&file)?;
        entry.last_use = last_use;
        Some(entry.value.clone())
    }

    /// Keeps the value of a file; forgets those that were not used for longest, but never that of file `wanted`.
    pub(super) fn keep(&self, file: usize, wanted: usize, value: T, weight: u64) {
        let mut values = self.lock();
        values.uses += 1;
        values.weight += weight;
        let entry = Entry { value, weight, last_use: values.uses };
        if let Some(before) = values.by_file.insert(file, entry) {
            values.weight -= before.weight;
        }
        while values.weight > self.most {
            let others = values.by_file.iter().filter(|(file, _)| **file != wanted);
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.last_use).map(|(file, _)| *file) else { return };
            if let Some(entry) = values.by_file.remove(&oldest) {
                values.weight -= entry.weight;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Values<T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let kept = Kept::new(10);
        (0..3).for_each(|file| kept.keep(file, file, file * 10, 3));
        assert_eq!(kept.get(0), Some(0));
        kept.keep(3, 3, 30, 4);
        assert_eq!([0, 1, 2, 3].map(|file| kept.get(file)), [Some(0), None, Some(20), Some(30)]);
        kept.keep(2, 2, 21, 3);
        assert_eq!([0, 2, 3].map(|file| kept.get(file)), [Some(0), Some(21), Some(30)]);
        kept.keep(7, 7, 70, 99);
        assert_eq!([0, 2, 3, 7].map(|file| kept.get(file)), [None, None, None, Some(70)]);
    }
}
