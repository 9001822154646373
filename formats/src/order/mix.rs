//! Several datasets in one stream: which one the next sample comes from, by weights.
//!
//! Deterministic, and never far from the weights: after every sample each source has had its share of what was counted,
//! give or take one sample of each source. Must never use a number that two machines could round in different ways.

use serde::{Deserialize, Serialize};

/// What is counted of samples: for weights, and for the budget of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Planned tokens.
    Tokens,
    /// Documents that begin in the sample.
    Documents,
    /// Samples.
    Samples,
}

/// A weight, in millionths of the sum of all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(u32);

/// Millionths: what weights are rounded to.
const WHOLE: f64 = 1e6;

/// Weights that are none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// A weight is negative or not a number.
    #[error("the weight of source {source_number} is {actual}: it must be a number of at least 0")]
    Number {
        /// The source, from 0.
        source_number: usize,
        /// Its weight.
        actual: f64,
    },
    /// All weights are 0.
    #[error("all weights are 0: at least one source must have a weight")]
    Zero,
    /// Not as many weights as sources.
    #[error("{actual} weights for {expected} sources")]
    Count {
        /// The sources.
        expected: usize,
        /// The weights.
        actual: usize,
    },
}

impl Weight {
    /// Returns the weights of sources as parts of their sum. A source with any weight has at least a millionth.
    pub fn of(weights: &[f64]) -> Result<Vec<Self>, WeightError> {
        let legal = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        if let Some(source_number) = weights.iter().position(|weight| !legal(weight)) {
            return Err(WeightError::Number { source_number, actual: weights[source_number] });
        }
        // As parts of the largest, so that the sum is finite too.
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Err(WeightError::Zero);
        }
        let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
        let part = |weight: &f64| match *weight {
            0.0 => Self(0),
            weight => Self((weight / largest / sum * WHOLE).round().max(1.0) as u32),
        };
        Ok(weights.iter().map(part).collect())
    }

    /// Tells whether it is one that [`of`](Self::of) makes.
    pub(super) fn is_legal(self) -> bool {
        f64::from(self.0) <= WHOLE
    }

    /// Tells whether nothing is taken from the source.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns it in millionths.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// Returns it as a part of 1.
    pub fn part(self) -> f64 {
        f64::from(self.0) / WHOLE
    }
}

/// Chooses among sources that each have a weight and a count since the weights were set: the one with the least count
/// for its weight; the first of equals. None where no source has any weight.
pub(super) fn choose(sources: impl Iterator<Item = (Weight, u64)>) -> Option<usize> {
    let with_weight = sources.enumerate().filter(|(_, (weight, _))| !weight.is_zero());
    let less = |(_, (a, counted_a)): &(usize, (Weight, u64)), (_, (b, counted_b)): &(usize, (Weight, u64))| {
        (u128::from(*counted_a) * u128::from(b.0)).cmp(&(u128::from(*counted_b) * u128::from(a.0)))
    };
    with_weight.min_by(less).map(|(source, _)| source)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_are_parts_of_their_sum() {
        let weights = Weight::of(&[3.0, 1.0, 0.0, 1e-300]).unwrap();
        assert_eq!(weights, [Weight(750_000), Weight(250_000), Weight(0), Weight(1)]);
        assert_eq!(Weight::of(&[1e300, 1e-300, -0.0]).unwrap(), [Weight(1_000_000), Weight(1), Weight(0)]);
        assert_eq!(Weight::of(&[f64::MAX, f64::MAX]).unwrap(), [Weight(500_000); 2]);
        assert_eq!(Weight::of(&[0.0]), Err(WeightError::Zero));
        assert_eq!(Weight::of(&[]), Err(WeightError::Zero));
        assert!(matches!(Weight::of(&[1.0, f64::NAN]), Err(WeightError::Number { source_number: 1, .. })));
        assert!(matches!(Weight::of(&[-1.0]), Err(WeightError::Number { source_number: 0, .. })));
    }

    proptest! {
        #[test]
        fn every_prefix_keeps_the_weights(
            weights in prop::collection::vec(0.01f64..10.0, 1..6),
            sizes in prop::collection::vec(1u64..500, 400),
        ) {
            let weights = Weight::of(&weights).unwrap();
            let whole: f64 = weights.iter().map(|weight| weight.part()).sum();
            let mut counted = vec![0u64; weights.len()];
            let most = *sizes.iter().max().unwrap() as f64;
            for size in sizes {
                let source = choose(weights.iter().copied().zip(counted.iter().copied())).unwrap();
                counted[source] += size;
                let total = counted.iter().sum::<u64>() as f64;
                for (weight, counted) in weights.iter().zip(&counted) {
                    let share = total * weight.part() / whole;
                    // One sample too many of its own, or one of each other source too many, by its weight.
                    prop_assert!((*counted as f64 - share).abs() <= most * weights.len() as f64 + 1e-6);
                }
            }
        }
    }
}
