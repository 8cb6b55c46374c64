//! Shuffle sharding: each flow gets a small hand of queues, so that two flows rarely share all of theirs and one that
//! floods cannot stand in the way of every other.

/// The most queues in a hand.
pub(super) const LARGEST_HAND: usize = 8;

/// The queues of a flow: `hand` different numbers below `deck`, drawn by `hash`. Both are small, so that the hash has
/// entropy enough for all draws (validation sees to that).
pub(super) fn deal(hash: u64, deck: usize, hand: usize) -> Hand {
    let size = hand.min(deck).min(LARGEST_HAND);
    let mut dealt = Hand { cards: [0; LARGEST_HAND], size };
    let mut sorted = [0; LARGEST_HAND];
    let mut rest = hash;
    for drawn in 0..size {
        let left = (deck - drawn) as u64;
        let mut card = u32::try_from(rest % left).unwrap_or_default();
        rest /= left;
        // The number of a card among those left becomes its number in the whole deck: each smaller one that is gone
        // counts as well.
        let mut place = 0;
        while place < drawn && card >= sorted[place] {
            card += 1;
            place += 1;
        }
        sorted.copy_within(place..drawn, place + 1);
        sorted[place] = card;
        dealt.cards[drawn] = card;
    }
    dealt
}

/// Numbers of queues, in the order they were drawn.
pub(super) struct Hand {
    cards: [u32; LARGEST_HAND],
    size: usize,
}

impl Hand {
    /// The cards.
    pub(super) fn cards(&self) -> &[u32] {
        &self.cards[..self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hands_hold_different_queues_and_all_are_dealt_alike() {
        let (deck, hand) = (64, 6);
        let mut often = vec![0_u32; deck];
        for flow in 0_u64..20_000 {
            let hash = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ flow;
            let dealt = deal(hash, deck, hand);
            let cards: HashSet<u32> = dealt.cards().iter().copied().collect();
            assert_eq!(cards.len(), hand);
            cards.iter().for_each(|card| often[*card as usize] += 1);
        }
        let expected = 20_000 * u32::try_from(hand).unwrap() / 64;
        assert!(often.iter().all(|n| n.abs_diff(expected) < expected / 5), "{often:?}");
    }

    #[test]
    fn the_whole_deck_may_be_one_hand() {
        for hash in [0, 1, 7, 23, u64::MAX] {
            let mut cards = deal(hash, 4, 4).cards().to_vec();
            cards.sort_unstable();
            assert_eq!(cards, [0, 1, 2, 3]);
        }
        assert_eq!(deal(99, 1, 1).cards(), [0]);
    }
}
