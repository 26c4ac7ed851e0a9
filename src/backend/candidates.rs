//! From logits to candidates: mask excluded, soft-max statistics, top-k, and the (Gumbel) arg-max, in one pass per row.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::engine::batch::Sampling;
use crate::rng;

/// What one row of logits says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowCandidates {
    /// Token to write and its probability at temperature 1.
    pub guess: (u32, f32),
    /// Best first; ties: lower id.
    pub top: Vec<(u32, f32)>,
}

/// How to look at a row: what its sequence wants, for the row's position.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSampling<'a> {
    /// The sequence's wishes.
    pub sampling: &'a Sampling,
    /// Canvas position of the row.
    pub position: usize,
}

/// `logits` is `[rows, vocab]` row-major, one entry of `sampling` per row. A row with a logit that is no finite number
/// has no candidates; the error names the logit.
pub(super) fn candidates(
    logits: &[f32],
    mask_id: u32,
    top_k: usize,
    sampling: &[Option<RowSampling<'_>>],
) -> Vec<Result<RowCandidates, String>> {
    let vocab = logits.len() / sampling.len();
    logits
        .par_chunks_exact(vocab)
        .zip(sampling)
        .map(|(row, sampling)| row_candidates(row, mask_id, top_k, *sampling))
        .collect()
}

fn row_candidates(
    row: &[f32],
    mask_id: u32,
    top_k: usize,
    sampling: Option<RowSampling<'_>>,
) -> Result<RowCandidates, String> {
    let row = adjusted(row, mask_id, sampling)?;
    let row = row.as_ref();
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(top_k + 1);
    for (id, logit) in (0u32..).zip(row).filter(|(id, _)| *id != mask_id) {
        if !logit.is_finite() {
            return Err(no_number(id, *logit));
        }
        // Strictly greater: of equal logits the lower id stays ahead.
        if best.len() < top_k || *logit > best[best.len() - 1].1 {
            let place = best.partition_point(|(_, other)| *other >= *logit);
            best.insert(place, (id, *logit));
            best.truncate(top_k);
        }
    }
    let max = best.first().map_or(0.0, |(_, logit)| *logit);
    let others = (0u32..).zip(row).filter(|(id, _)| *id != mask_id);
    let sum: f64 = others.map(|(_, logit)| f64::from((logit - max).exp())).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a probability needs no f64")]
    let probability = |logit: f32| (f64::from(logit - max).exp() / sum) as f32;
    let guess = match sampling {
        Some(row_sampling) if row_sampling.sampling.temperature > 0.0 => {
            noisy_arg_max(row, mask_id, row_sampling)
        }
        _ => best[0].0,
    };
    let top = best.into_iter().map(|(id, logit)| (id, probability(logit))).collect();
    Ok(RowCandidates { guess: (guess, probability(row[guess as usize])), top })
}

fn no_number(id: u32, logit: f32) -> String {
    format!("the logit of token {id} is {logit}")
}

/// The row as its sequence wants it: itself, or a changed copy. A logit that is no finite number is found before the
/// change could hide it.
fn adjusted<'a>(
    row: &'a [f32],
    mask_id: u32,
    sampling: Option<RowSampling<'_>>,
) -> Result<Cow<'a, [f32]>, String> {
    let Some(RowSampling { sampling: Sampling { adjustment: Some(adjustment), .. }, position }) = sampling
    else {
        return Ok(Cow::Borrowed(row));
    };
    let bad = (0u32..).zip(row).find(|(id, logit)| *id != mask_id && !logit.is_finite());
    if let Some((id, logit)) = bad {
        return Err(no_number(id, *logit));
    }
    let mut row = row.to_vec();
    adjustment.apply(&mut row, position);
    Ok(Cow::Owned(row))
}

/// arg-max of logits + temperature * Gumbel noise: a draw from softmax(logits / temperature).
fn noisy_arg_max(row: &[f32], mask_id: u32, RowSampling { sampling, position }: RowSampling<'_>) -> u32 {
    let key =
        rng::key(&[sampling.seed, u64::from(sampling.choice), u64::from(sampling.step), position as u64]);
    let scores = (0u32..).zip(row).filter(|(id, _)| *id != mask_id).map(|(id, logit)| {
        let gumbel = -(-rng::uniform(key, u64::from(id)).ln()).ln();
        (id, f64::from(*logit) + f64::from(sampling.temperature) * gumbel)
    });
    let best = scores.fold((0, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best });
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy(row: &[f32], mask_id: u32, k: usize) -> RowCandidates {
        candidates(row, mask_id, k, &[None]).remove(0).unwrap()
    }

    #[test]
    fn the_mask_token_has_no_share_of_the_probability() {
        let row = greedy(&[0.0, 100.0, 0.0], 1, 2);
        assert_eq!(row.top, [(0, 0.5), (2, 0.5)]);
        assert_eq!(row.guess, (0, 0.5));
    }

    #[test]
    fn equal_logits_pick_the_lower_id() {
        let row = greedy(&[1.0, 2.0, 2.0, 2.0, 0.0], 4, 2);
        assert_eq!(row.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_logit_that_is_no_finite_number_is_named_and_spoils_its_row_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rows = candidates(&[0.0, bad, 1.0, 0.0, 3.0, 1.0], 2, 1, &[None, None]);
            assert_eq!(rows[0], Err(format!("the logit of token 1 is {bad}")));
            assert_eq!(rows[1].as_ref().map(|row| row.guess.0), Ok(1));
        }
    }

    #[test]
    fn noise_draws_from_the_softened_distribution() {
        let row = [0.0f32, 1.0, 5.0, 2.0];
        let temperature = 0.7f32;
        let draws = 20_000;
        let mut counts = [0usize; 4];
        for step in 0..draws {
            let sampling = Sampling { adjustment: None, temperature, seed: 7, choice: 0, step };
            let got = candidates(&row, 2, 1, &[Some(RowSampling { sampling: &sampling, position: 3 })]);
            counts[got[0].as_ref().unwrap().guess.0 as usize] += 1;
        }
        let weight = |l: f32| f64::from(l / temperature).exp();
        let total = weight(0.0) + weight(1.0) + weight(2.0);
        for (id, logit) in [(0, 0.0), (1, 1.0), (3, 2.0)] {
            let (seen, expected) = (counts[id] as f64 / f64::from(draws), weight(logit) / total);
            assert!((seen - expected).abs() < 0.015, "token {id}: {seen} against {expected}");
        }
        assert_eq!(counts[2], 0, "the mask token was drawn");
    }
}
