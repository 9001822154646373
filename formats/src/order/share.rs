//! Which rank gets which samples of a global batch.
//!
//! The order of samples does not depend on the ranks; who trains on which of a batch does. Must never give one rank
//! more than its share.

/// Gives the samples of a global batch, by the lanes they come from, to `world` ranks, `share` each: returns the rank
/// of each sample. There are at most `world * share` samples.
///
/// A lane's home is the rank with the rest of its number by the world size. Every sample goes to the home of its lane
/// while that has room; those left go to the ranks that have room, lowest first. Where the world size divides the
/// number of lanes, and no lane has ended, none are left: each rank reads its own lanes and no byte of others.
pub fn assign(lanes: &[u32], world: u32, share: u32) -> Vec<u32> {
    let mut room = vec![share; world as usize];
    let mut ranks = Vec::with_capacity(lanes.len());
    for lane in lanes {
        let home = lane % world;
        let left = &mut room[home as usize];
        ranks.push(if *left > 0 { home } else { u32::MAX });
        *left = left.saturating_sub(1);
    }
    let mut taker = 0;
    for rank in ranks.iter_mut().filter(|rank| **rank == u32::MAX) {
        while room[taker] == 0 {
            taker += 1;
        }
        *rank = taker as u32;
        room[taker] -= 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_come_first_and_shares_are_equal() {
        assert_eq!(assign(&[0, 1, 2, 3], 2, 2), [0, 1, 0, 1]);
        assert_eq!(assign(&[0, 2, 4, 1], 2, 2), [0, 0, 1, 1]);
        assert_eq!(assign(&[5, 5, 5, 5, 5, 5], 3, 2), [2, 2, 0, 0, 1, 1]);
        assert_eq!(assign(&[1], 4, 3), [1]);
        assert_eq!(assign(&[], 4, 3), Vec::<u32>::new());
    }
}
