//! Which sequences of one request share a forward pass. Pure: lengths in, ranges out.

use std::ops::Range;

/// Cuts sequences of these lengths into runs of at most `budget` tokens, in order.
///
/// Nothing is padded, so order costs nothing and the memory of one pass is bounded by the budget. A
/// sequence longer than the budget runs alone.
pub fn plan(lengths: &[usize], budget: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, &length) in lengths.iter().enumerate() {
        if index > start && tokens + length > budget {
            batches.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += length;
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn batches_fill_up_to_the_budget_and_long_sequences_run_alone() {
        assert_eq!(plan(&[3, 3, 4, 20, 1], 10), [0..3, 3..4, 4..5]);
        assert!(plan(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_is_in_exactly_one_batch_within_the_budget(
            lengths in prop::collection::vec(1usize..600, 0..80), budget in 1usize..2000,
        ) {
            let batches = plan(&lengths, budget);
            let flat: Vec<usize> = batches.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: usize = lengths[batch.clone()].iter().sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
            }
            // No two neighbours would have fitted together: no pass is wasted.
            for pair in batches.windows(2) {
                let tokens: usize = lengths[pair[0].start..=pair[1].start].iter().sum();
                prop_assert!(tokens > budget);
            }
        }
    }
}
