//! What a ranking is worth and how far two rankings are apart. Pure: numbers in, numbers out.
//!
//! Owns the definitions of the figures that `reranker eval` prints; knows no models, files or
//! texts. Gains are judged grades, 0 for "not relevant" and for what nobody judged.

/// Figures look at this many of the best.
pub const DEPTH: usize = 10;

/// Indexes of `scores`, best first; equal scores keep the order they came in.
pub fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

/// nDCG at [`DEPTH`] of gains in ranked order, against the best order of all `judged` gains, ranked
/// or not.
///
/// The gain is linear and the discount of rank r is log2(r + 1), as trec_eval's `ndcg_cut` has
/// them. `None` where nothing is relevant: no order is better than another then.
pub fn ndcg(ranked: impl IntoIterator<Item = u32>, judged: &[u32]) -> Option<f64> {
    let mut best = judged.to_vec();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal = discounted(best);
    (ideal > 0.0).then(|| discounted(ranked) / ideal)
}

fn discounted(gains: impl IntoIterator<Item = u32>) -> f64 {
    gains
        .into_iter()
        .take(DEPTH)
        .zip(2u32..)
        .map(|(gain, rank_after)| f64::from(gain) / f64::from(rank_after).log2())
        .sum()
}

/// One over the rank of the first relevant one, 0 where none is among the first [`DEPTH`].
pub fn reciprocal_rank(ranked: impl IntoIterator<Item = u32>) -> f64 {
    ranked
        .into_iter()
        .take(DEPTH)
        .position(|gain| gain > 0)
        .map_or(0.0, |index| 1.0 / (index + 1) as f64)
}

/// Kendall's tau-b of two scorings of the same list: 1 where they order it alike, -1 where
/// oppositely; ties are corrected for.
///
/// `None` where one of them tells nothing apart, which includes lists of fewer than two.
pub fn kendall_tau_b(a: &[f32], b: &[f32]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "two scorings of one list");
    let (mut balance, mut untied_a, mut untied_b) = (0i64, 0u64, 0u64);
    for i in 0..a.len() {
        for j in 0..i {
            // Compared as numbers: -0 and 0 are one score.
            let in_a = sign(a[i], a[j]);
            let in_b = sign(b[i], b[j]);
            balance += in_a * in_b;
            untied_a += in_a.unsigned_abs();
            untied_b += in_b.unsigned_abs();
        }
    }
    let pairs = (untied_a as f64).sqrt() * (untied_b as f64).sqrt();
    (pairs > 0.0).then(|| (balance as f64 / pairs).clamp(-1.0, 1.0))
}

fn sign(x: f32, y: f32) -> i64 {
    i64::from(x > y) - i64::from(x < y)
}

/// Absolute differences of pairs of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Differences {
    pub mean: f64,
    pub max: f64,
}

impl Differences {
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let (mut sum, mut max, mut count) = (0.0, 0.0f64, 0u64);
        for (a, b) in pairs {
            let difference = (a - b).abs();
            sum += difference;
            max = max.max(difference);
            count += 1;
        }
        Self {
            mean: if count == 0 { 0.0 } else { sum / count as f64 },
            max,
        }
    }
}

/// `None` of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(found: Option<f64>, expected: f64) {
        let found = found.expect("a value");
        assert!((found - expected).abs() < 1e-12, "{found} != {expected}");
    }

    #[test]
    fn ndcg_of_graded_gains_is_what_one_gets_by_hand() {
        // DCG: 0 + 2/log2(3) + 1/log2(4) = 1.2618595 + 0.5; ideal 2 + 1/log2(3) + 1/log2(4) =
        // 3.1309298.
        near(ndcg([0, 2, 1], &[1, 2, 1]), 0.562_727_255_420_904_4);
        near(ndcg([2, 1, 1, 0], &[1, 2, 1, 0]), 1.0);
        near(ndcg([0, 0, 0, 1], &[1]), 1.0 / 5f64.log2());
    }

    #[test]
    fn a_relevant_document_that_is_not_ranked_still_counts_in_the_ideal() {
        near(ndcg([1], &[1, 1]), 1.0 / (1.0 + 1.0 / 3f64.log2()));
        near(ndcg([], &[1]), 0.0);
    }

    #[test]
    fn only_the_first_ten_count_in_the_ranking_and_in_the_ideal() {
        let late = std::iter::repeat_n(0, 10).chain([1]);
        near(ndcg(late.clone(), &[1]), 0.0);
        assert_eq!(reciprocal_rank(late), 0.0);
        let tenth = std::iter::repeat_n(0, 9).chain([3]);
        near(ndcg(tenth.clone(), &[3]), 1.0 / 11f64.log2());
        assert_eq!(reciprocal_rank(tenth), 0.1);
        near(ndcg([1; 10], &[1; 40]), 1.0);
    }

    #[test]
    fn without_anything_relevant_there_is_no_ndcg() {
        assert_eq!(ndcg([0, 0], &[0, 0, 0]), None);
        assert_eq!(ndcg([], &[]), None);
        assert_eq!(reciprocal_rank([0, 0]), 0.0);
    }

    #[test]
    fn the_first_relevant_one_decides_the_reciprocal_rank_whatever_its_grade() {
        assert_eq!(reciprocal_rank([1, 2]), 1.0);
        assert_eq!(reciprocal_rank([0, 0, 1, 2]), 1.0 / 3.0);
    }

    #[test]
    fn equal_scores_keep_the_order_they_came_in() {
        assert_eq!(ranking(&[0.5, 2.0, 0.5, -1.0, 2.0]), [1, 4, 0, 2, 3]);
        assert!(ranking(&[]).is_empty());
    }

    #[test]
    fn tau_counts_what_two_scorings_order_alike_and_corrects_for_ties() {
        // Of six pairs one is turned round: (5 - 1) / 6.
        near(
            kendall_tau_b(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]),
            2.0 / 3.0,
        );
        // Four pairs alike, one tied in each: 4 / sqrt(5 * 5).
        near(
            kendall_tau_b(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 2.0, 3.0]),
            0.8,
        );
        // Two alike, one turned round, three tied in the first, none in the second: (2 - 1) /
        // sqrt(3 * 6).
        near(
            kendall_tau_b(&[0.0, 0.0, 0.0, 1.0], &[1.0, 2.0, 4.0, 3.0]),
            1.0 / 18f64.sqrt(),
        );
        near(kendall_tau_b(&[-0.0, 1.0, 0.0], &[5.0, 9.0, 5.0]), 1.0);
        assert_eq!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(kendall_tau_b(&[1.0], &[1.0]), None);
    }

    #[test]
    fn differences_are_absolute() {
        let found = Differences::of([(1.0, 0.5), (-1.0, 0.5), (2.0, 2.0)]);
        assert_eq!((found.mean, found.max), (2.0 / 3.0, 1.5));
        assert_eq!(Differences::of([]), Differences::default());
    }

    proptest! {
        #[test]
        fn ndcg_lies_between_nothing_and_the_ideal_order(
            gains in prop::collection::vec(0u32..4, 1..30), unranked in prop::collection::vec(0u32..4, 0..5),
        ) {
            let judged: Vec<u32> = gains.iter().chain(&unranked).copied().collect();
            if let Some(value) = ndcg(gains.iter().copied(), &judged) {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value));
                let mut best = judged.clone();
                best.sort_unstable_by(|a, b| b.cmp(a));
                let ideal = ndcg(best, &judged).expect("something is relevant");
                prop_assert!((ideal - 1.0).abs() < 1e-12);
            } else {
                prop_assert!(judged.iter().all(|&gain| gain == 0));
            }
        }

        #[test]
        fn a_ranking_is_a_permutation_that_never_rises(scores in prop::collection::vec(-3i8..3, 0..40)) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let order = ranking(&scores);
            for pair in order.windows(2) {
                let (a, b) = (scores[pair[0]], scores[pair[1]]);
                prop_assert!(a > b || (a == b && pair[0] < pair[1]));
            }
            prop_assert_eq!(order.len(), scores.len());
        }

        #[test]
        fn tau_is_symmetric_bounded_and_blind_to_how_scores_are_scaled(
            scores in prop::collection::vec((-4i8..4, -4i8..4), 0..25),
        ) {
            let a: Vec<f32> = scores.iter().map(|s| f32::from(s.0)).collect();
            let b: Vec<f32> = scores.iter().map(|s| f32::from(s.1)).collect();
            let tau = kendall_tau_b(&a, &b);
            prop_assert_eq!(tau, kendall_tau_b(&b, &a));
            let stretched: Vec<f32> = a.iter().map(|x| x.exp()).collect();
            prop_assert_eq!(tau, kendall_tau_b(&stretched, &b));
            if let Some(tau) = tau {
                prop_assert!((-1.0..=1.0).contains(&tau));
                let reversed: Vec<f32> = a.iter().map(|x| -x).collect();
                prop_assert_eq!(kendall_tau_b(&reversed, &b), Some(-tau));
            }
            let alike = kendall_tau_b(&a, &a);
            prop_assert!(alike.is_none_or(|tau| tau > 1.0 - 1e-12));
        }
    }
}
