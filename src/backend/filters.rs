//! Which candidates a draw may take: `min_p`, `top_k`, `top_p`, in this order, each on what the one before left.

use crate::engine::batch::Filters;

/// The candidates that are left of a row of (token id, logit), for draws at `temperature` (above 0); never none.
/// `max` is the largest logit. Without an order.
pub(super) fn kept(
    row: impl Iterator<Item = (u32, f32)>,
    max: f32,
    temperature: f32,
    filters: Filters,
) -> Vec<(u32, f32)> {
    // Relative to the most probable token.
    let weight = |logit: f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let mut kept: Vec<(u32, f32)> = row.filter(|(_, logit)| weight(*logit) >= filters.min_p).collect();
    // Of equal logits the lower id comes first.
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if filters.top_k < kept.len() {
        kept.select_nth_unstable_by(filters.top_k, order);
        kept.truncate(filters.top_k);
    }
    if filters.top_p < 1.0 {
        let total: f64 = kept.iter().map(|(_, logit)| weight(*logit)).sum();
        // All tokens below this together have less than what top_p leaves out, with half of it to spare for rounding:
        // a wide row need not be sorted as a whole.
        let floor = (1.0 - filters.top_p) * total / (2.0 * kept.len() as f64);
        kept.retain(|(_, logit)| weight(*logit) >= floor);
        kept.sort_unstable_by(order);
        let mut share = 0.0;
        let fewest = kept.iter().position(|(_, logit)| {
            share += weight(*logit);
            share >= filters.top_p * total
        });
        kept.truncate(fewest.map_or(kept.len(), |last| last + 1));
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(logits: &[f32], temperature: f32, filters: Filters) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut ids: Vec<u32> = kept((0..).zip(logits.iter().copied()), max, temperature, filters)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Logits of these probabilities.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn each_filter_keeps_the_most_probable_tokens() {
        let row = logits(&[0.1, 0.4, 0.05, 0.3, 0.15]);
        let all = Filters::NONE;
        assert_eq!(ids(&row, 1.0, all), [0, 1, 2, 3, 4]);
        assert_eq!(ids(&row, 1.0, Filters { top_k: 2, ..all }), [1, 3]);
        assert_eq!(ids(&row, 1.0, Filters { min_p: 0.3, ..all }), [1, 3, 4]);
        assert_eq!(ids(&row, 1.0, Filters { top_p: 0.69, ..all }), [1, 3]);
        assert_eq!(ids(&row, 1.0, Filters { top_p: 0.71, ..all }), [1, 3, 4]);
        assert_eq!(ids(&row, 1.0, Filters { top_p: 0.0, ..all }), [1]);
        // What top_k left is shared out anew: 0.4 of 0.7 is enough.
        assert_eq!(ids(&row, 1.0, Filters { top_k: 2, top_p: 0.5, ..all }), [1]);
        // A low temperature sharpens first.
        assert_eq!(ids(&row, 0.1, Filters { top_p: 0.9, ..all }), [1]);
    }

    #[test]
    fn of_equal_tokens_the_lower_ids_stay() {
        let row = [1.0; 6];
        assert_eq!(ids(&row, 1.0, Filters { top_k: 2, ..Filters::NONE }), [0, 1]);
        assert_eq!(ids(&row, 1.0, Filters { top_p: 0.5, ..Filters::NONE }), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn top_p_is_what_sorting_the_whole_row_gives(
            row in prop::collection::vec(-6.0f32..6.0, 1..200), top_p in 0.0f64..1.0, temperature in 0.2f32..2.0,
        ) {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let weight = |id: usize| (f64::from(row[id] - max) / f64::from(temperature)).exp();
            let total: f64 = (0..row.len()).map(weight).sum();
            let mut sorted: Vec<usize> = (0..row.len()).collect();
            sorted.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let got = ids(&row, temperature, Filters { top_p, ..Filters::NONE });
            let mut expected: Vec<u32> = sorted[..got.len()].iter().map(|id| *id as u32).collect();
            expected.sort_unstable();
            prop_assert_eq!(&got, &expected);
            let share = |n: usize| sorted[..n].iter().map(|id| weight(*id)).sum::<f64>() / total;
            prop_assert!(share(got.len()) >= top_p - 1e-9);
            prop_assert!(share(got.len() - 1) < top_p + 1e-9);
        }
    }
}
