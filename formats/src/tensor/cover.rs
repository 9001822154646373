//! Whether boxes cover a global shape exactly: no overlap, no gap.
//!
//! Must never compare every box with every other: boxes that form a grid, as sharding makes them, take O(n log n).

use crate::tensor::boxes::TensorBox;

/// Steps that a check may take: 2^28, a few seconds. A grid of a million boxes takes some 2^25; only boxes that overlap
/// each other irregularly in every dimension come near.
const MAX_STEPS: u64 = 1 << 28;

/// Why boxes do not cover a shape exactly. Numbers are positions in the list of boxes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// Two boxes have elements in common.
    #[error("boxes {first} and {second} overlap")]
    Overlap {
        /// One box.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Elements that no box has.
    #[error("no box covers index {from}..{to} of dimension {dimension}{}", place(near))]
    Gap {
        /// The dimension along which the hole was seen.
        dimension: usize,
        /// First index of the hole there.
        from: u64,
        /// Index after the hole's last.
        to: u64,
        /// Position of the hole in the dimensions before that one.
        near: Vec<u64>,
    },
    /// The boxes overlap so irregularly in each dimension that the check was stopped.
    #[error("{boxes} boxes are too irregular to be checked for overlaps and gaps")]
    Irregular {
        /// How many boxes.
        boxes: usize,
    },
}

/// Says where a hole is in the dimensions before its own, if there are any.
fn place(near: &[u64]) -> String {
    if near.is_empty() { String::new() } else { format!(" (at {near:?} of those before it)") }
}

/// Checks that `boxes`, each inside `shape`, cover it exactly. Boxes without elements are passed over.
pub fn check_cover(shape: &[u64], boxes: &[&TensorBox]) -> Result<(), CoverError> {
    if shape.contains(&0) {
        return Ok(());
    }
    let all: Vec<usize> = (0..boxes.len()).filter(|&i| !boxes[i].sizes().contains(&0)).collect();
    let mut sweep = Sweep { shape, boxes, near: Vec::new(), steps: MAX_STEPS };
    sweep.dimension(0, all)
}

struct Sweep<'a> {
    shape: &'a [u64],
    boxes: &'a [&'a TensorBox],
    near: Vec<u64>,
    steps: u64,
}

impl Sweep<'_> {
    /// Checks dimension `d` and those after it, for boxes that have the same extent in those before it.
    fn dimension(&mut self, d: usize, mut members: Vec<usize>) -> Result<(), CoverError> {
        self.steps = self
            .steps
            .checked_sub(members.len() as u64 + 1)
            .ok_or(CoverError::Irregular { boxes: self.boxes.len() })?;
        if d == self.shape.len() {
            return match members[..] {
                [_] => Ok(()),
                [first, second, ..] => Err(CoverError::Overlap { first: first.min(second), second: first.max(second) }),
                [] => Err(CoverError::Gap { dimension: 0, from: 0, to: 1, near: Vec::new() }),
            };
        }
        let boxes = self.boxes;
        let span = |i: usize| (boxes[i].offsets()[d], boxes[i].end(d));
        members.sort_by_key(|&i| span(i));
        let mut borders: Vec<u64> =
            members.iter().flat_map(|&i| [span(i).0, span(i).1]).chain([0, self.shape[d]]).collect();
        borders.sort_unstable();
        borders.dedup();
        let mut next = 0;
        let mut active: Vec<usize> = Vec::new();
        for slab in borders.windows(2) {
            let (from, to) = (slab[0], slab[1]);
            active.retain(|&i| span(i).1 > from);
            while next < members.len() && span(members[next]).0 <= from {
                active.push(members[next]);
                next += 1;
            }
            if active.is_empty() {
                return Err(CoverError::Gap { dimension: d, from, to, near: self.near.clone() });
            }
            self.near.push(from);
            self.dimension(d + 1, active.clone())?;
            self.near.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxed(text: &str) -> TensorBox {
        text.parse().unwrap()
    }

    fn check(shape: &[u64], texts: &[&str]) -> Result<(), CoverError> {
        let boxes: Vec<TensorBox> = texts.iter().map(|t| boxed(t)).collect();
        check_cover(shape, &boxes.iter().collect::<Vec<_>>())
    }

    #[test]
    fn grids_bricks_and_scalars_cover() {
        assert_eq!(check(&[4, 4], &["[0:2,0:4]", "[2:4,0:2]", "[2:4,2:4]"]), Ok(()));
        assert_eq!(check(&[4, 4], &["[0:3,0:2]", "[3:4,0:2]", "[0:1,2:4]", "[1:4,2:4]"]), Ok(()));
        assert_eq!(check(&[], &["[]"]), Ok(()));
        assert_eq!(check(&[0, 5], &[]), Ok(()));
        assert_eq!(check(&[3], &["[0:3]", "[1:1]"]), Ok(()));
    }

    #[test]
    fn overlaps_and_gaps_are_named() {
        assert_eq!(
            check(&[4, 4], &["[0:4,0:3]", "[0:2,2:4]", "[2:4,3:4]"]),
            Err(CoverError::Overlap { first: 0, second: 1 })
        );
        assert_eq!(check(&[], &["[]", "[]"]), Err(CoverError::Overlap { first: 0, second: 1 }));
        let gap = CoverError::Gap { dimension: 1, from: 1, to: 3, near: vec![2] };
        assert_eq!(check(&[4, 4], &["[0:2,0:4]", "[2:4,0:1]", "[2:4,3:4]"]), Err(gap));
        assert!(matches!(check(&[2], &[]), Err(CoverError::Gap { .. })));
        assert!(matches!(check(&[], &[]), Err(CoverError::Gap { .. })));
    }

    #[test]
    fn a_hundred_thousand_shards_are_checked_in_a_blink() {
        let boxes: Vec<TensorBox> = (0..100_000).map(|i| TensorBox::new(vec![0, i * 3], vec![7, 3]).unwrap()).collect();
        assert_eq!(check_cover(&[7, 300_000], &boxes.iter().collect::<Vec<_>>()), Ok(()));
    }

    proptest! {
        #[test]
        fn agrees_with_counting(list in prop::collection::vec((0u64..4, 0u64..4, 1u64..5, 1u64..5), 0..7)) {
            let boxes: Vec<TensorBox> = list.iter()
                .map(|&(y, x, h, w)| TensorBox::new(vec![y, x], vec![h.min(4 - y), w.min(4 - x)]).unwrap()).collect();
            let mut counts = [[0; 4]; 4];
            for b in &boxes {
                for row in &mut counts[b.offsets()[0] as usize..b.end(0) as usize] {
                    for n in &mut row[b.offsets()[1] as usize..b.end(1) as usize] { *n += 1 }
                }
            }
            let exact = counts.iter().flatten().all(|n| *n == 1);
            prop_assert_eq!(check_cover(&[4, 4], &boxes.iter().collect::<Vec<_>>()).is_ok(), exact);
        }
    }
}
