//! From logits to candidates: mask excluded, soft-max statistics, top-k, and the (Gumbel) arg-max, in one pass per row.

use std::borrow::Cow;

use rayon::prelude::*;

use super::filters;
use crate::engine::batch::{Candidate, Filters, Sampling};
use crate::{rng, simd};

/// What one row of logits says.
#[derive(Debug, Clone, PartialEq)]
pub struct RowCandidates {
    /// Token to write.
    pub guess: Candidate,
    /// Best first; ties: lower id.
    pub top: Vec<Candidate>,
}

/// How to look at a row: what its sequence wants, for the row's position.
#[derive(Debug, Clone, Copy)]
pub struct RowSampling<'a> {
    /// The sequence's wishes.
    pub sampling: &'a Sampling,
    /// Canvas position of the row.
    pub position: usize,
}

/// `logits` is `[rows, vocab]` row-major, one entry of `sampling` per row. A row with a logit that is no finite number
/// has no candidates; the error names the logit.
pub fn candidates(
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
    let best = best(row, mask_id, top_k)?;
    let max = best.first().map_or(0.0, |(_, logit)| *logit);
    let (left, right) = without(row, mask_id);
    let sum = simd::run(ShareSum { row: left, max }) + simd::run(ShareSum { row: right, max });
    let log_sum = sum.ln();
    #[expect(clippy::cast_possible_truncation, reason = "a probability needs no f64")]
    let candidate = |id: u32, logit: f32| Candidate {
        id,
        probability: (f64::from(logit - max).exp() / sum) as f32,
        log_probability: (f64::from(logit) - f64::from(max) - log_sum).max(f64::from(f32::MIN)) as f32,
    };
    let guess = match sampling {
        Some(RowSampling { sampling: Sampling { given: Some(token), .. }, .. }) => *token,
        Some(row_sampling) if row_sampling.sampling.temperature > 0.0 => {
            draw(row, mask_id, max, row_sampling)
        }
        _ => best[0].0,
    };
    let top = best.into_iter().map(|(id, logit)| candidate(id, logit)).collect();
    Ok(RowCandidates { guess: candidate(guess, row[guess as usize]), top })
}

/// What is left and right of the mask token's logit.
fn without(row: &[f32], mask_id: u32) -> (&[f32], &[f32]) {
    let mask = mask_id as usize;
    (&row[..mask], &row[mask + 1..])
}

/// The largest logits but the mask token's with their ids, largest first.
fn best(row: &[f32], mask_id: u32, top_k: usize) -> Result<Vec<(u32, f32)>, String> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(top_k + 1);
    for (chunk, logits) in row.chunks(CHUNK).enumerate() {
        let least = if best.len() < top_k { f32::NEG_INFINITY } else { best[best.len() - 1].1 };
        if !simd::run(AnyAbove { logits, least }) {
            continue;
        }
        let first = u32::try_from(chunk * CHUNK).expect("token ids are u32");
        for (id, logit) in (first..).zip(logits).filter(|(id, _)| *id != mask_id) {
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
    }
    Ok(best)
}

/// Logits that are looked at together: most of them hold none of the best.
const CHUNK: usize = 128;

/// Whether there is one to look at: above `least`, or no finite number.
struct AnyAbove<'a> {
    logits: &'a [f32],
    least: f32,
}

impl simd::Kernel for AnyAbove<'_> {
    type Found = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let worth = |logit: &f32| (*logit > self.least) | !logit.is_finite();
        self.logits.iter().fold(false, |any, logit| any | worth(logit))
    }
}

/// The sum of e^(logit - max).
struct ShareSum<'a> {
    row: &'a [f32],
    max: f32,
}

impl simd::Kernel for ShareSum<'_> {
    type Found = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0_f64; 16];
        for chunk in self.row.chunks(sums.len()) {
            for (sum, logit) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(simd::exp(logit - self.max));
            }
        }
        sums.iter().sum()
    }
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
    // Nothing is above infinity: a look in lanes for what is no finite number.
    if simd::run(AnyAbove { logits: row, least: f32::INFINITY }) {
        let bad = (0u32..).zip(row).find(|(id, logit)| *id != mask_id && !logit.is_finite());
        if let Some((id, logit)) = bad {
            return Err(no_number(id, *logit));
        }
    }
    let mut row = row.to_vec();
    adjustment.apply(&mut row, position);
    Ok(Cow::Owned(row))
}

/// A draw from softmax(logits / temperature), of the candidates that the filters leave; `max` is the largest logit.
fn draw(row: &[f32], mask_id: u32, max: f32, row_sampling: RowSampling<'_>) -> u32 {
    let Sampling { temperature, filters, .. } = *row_sampling.sampling;
    let others = (0u32..).zip(row.iter().copied()).filter(|(id, _)| *id != mask_id);
    if filters == Filters::NONE {
        return noisy_arg_max(others, row_sampling);
    }
    noisy_arg_max(filters::kept(others, max, temperature, filters).into_iter(), row_sampling)
}

/// arg-max of logits + temperature * Gumbel noise: a draw from softmax(logits / temperature).
fn noisy_arg_max(
    row: impl Iterator<Item = (u32, f32)>,
    RowSampling { sampling, position }: RowSampling<'_>,
) -> u32 {
    let key =
        rng::key(&[sampling.seed, u64::from(sampling.choice), u64::from(sampling.step), position as u64]);
    let scores = row.map(|(id, logit)| {
        let gumbel = -(-rng::uniform(key, u64::from(id)).ln()).ln();
        (id, f64::from(logit) + f64::from(sampling.temperature) * gumbel)
    });
    let best = scores.fold((0, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best });
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::adjustment::Adjustment;

    fn greedy(row: &[f32], mask_id: u32, k: usize) -> RowCandidates {
        candidates(row, mask_id, k, &[None]).remove(0).unwrap()
    }

    #[test]
    fn the_mask_token_has_no_share_of_the_probability() {
        let row = greedy(&[0.0, 100.0, 0.0], 1, 2);
        assert_eq!(row.top, [(0, 0.5), (2, 0.5)].map(Candidate::from));
        assert_eq!(row.guess, (0, 0.5).into());
    }

    #[test]
    fn equal_logits_pick_the_lower_id() {
        let row = greedy(&[1.0, 2.0, 2.0, 2.0, 0.0], 4, 2);
        assert_eq!(row.top.iter().map(|token| token.id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_probability_too_small_for_a_number_has_a_logarithm() {
        let row = greedy(&[0.0, 9.0, -200.0], 1, 2);
        assert_eq!((row.top[1].probability, row.top[1].log_probability), (0.0, -200.0));
    }

    #[test]
    fn a_logit_that_is_no_finite_number_is_named_and_spoils_its_row_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rows = candidates(&[0.0, bad, 1.0, 0.0, 3.0, 1.0], 2, 1, &[None, None]);
            assert_eq!(rows[0], Err(format!("the logit of token 1 is {bad}")));
            assert_eq!(rows[1].as_ref().map(|row| row.guess.id), Ok(1));
        }
    }

    fn sampling(temperature: f32, step: u32) -> Sampling {
        Sampling { temperature, seed: 7, step, given: None, ..Sampling::score(0) }
    }

    fn sampled(row: &[f32], mask_id: u32, sampling: &Sampling, position: usize) -> RowCandidates {
        candidates(row, mask_id, 2, &[Some(RowSampling { sampling, position })]).remove(0).unwrap()
    }

    #[test]
    fn noise_draws_from_the_softened_distribution_of_what_the_filters_leave() {
        let row = [0.0f32, 1.0, 5.0, 2.0, -1.0];
        let temperature = 0.7f32;
        let draws = 20_000;
        for (filters, left) in
            [(Filters::NONE, &[0, 1, 3, 4][..]), (Filters { top_k: 2, ..Filters::NONE }, &[1, 3])]
        {
            let mut counts = [0usize; 5];
            for step in 0..draws {
                let sampling = Sampling { filters, ..sampling(temperature, step) };
                counts[sampled(&row, 2, &sampling, 3).guess.id as usize] += 1;
            }
            let weight = |id: usize| f64::from(row[id] / temperature).exp();
            let total: f64 = left.iter().map(|id| weight(*id)).sum();
            for (id, count) in counts.into_iter().enumerate() {
                let expected = if left.contains(&id) { weight(id) / total } else { 0.0 };
                let seen = count as f64 / f64::from(draws);
                assert!((seen - expected).abs() < 0.015, "token {id}: {seen} against {expected}");
                assert!(expected > 0.0 || count == 0, "token {id} was drawn");
            }
        }
    }

    #[test]
    fn filters_change_neither_a_greedy_guess_nor_any_probability() {
        let row = [0.0, 1.0, 5.0, 2.0, 1.5];
        let filters = Filters { min_p: 0.9, top_k: 1, top_p: 0.1 };
        let filtered = Sampling { filters, ..sampling(0.0, 0) };
        assert_eq!(sampled(&row, 2, &filtered, 0), greedy(&row, 2, 2));
        let drawn = sampled(&row, 2, &Sampling { temperature: 1.0, ..filtered }, 0);
        assert_eq!(drawn, greedy(&row, 2, 2), "one candidate is left");
    }

    #[test]
    fn a_given_token_is_the_guess_and_has_its_own_probability() {
        let row = [0.0, 1.0, 5.0, 2.0, 1.5];
        let found = sampled(&row, 2, &Sampling::score(0), 0);
        let all = greedy(&row, 2, 4);
        assert_eq!((found.guess, &found.top[..]), (all.top[3], &all.top[..2]));
    }

    #[test]
    fn adjusted_logits_are_the_only_ones_that_count() {
        let adjustment = Adjustment {
            bias: [(0, 4.0)].into(),
            written: None,
            excluded: [4].into(),
            excluded_before: 10,
            allowed: None,
        };
        let row = [0.0, 1.0, 5.0, 2.0, 8.0];
        for temperature in [0.0, 1e-3] {
            let sampling =
                Sampling { adjustment: Some(adjustment.clone().into()), ..sampling(temperature, 0) };
            assert_eq!(sampled(&row, 2, &sampling, 9), greedy(&[4.0, 1.0, 0.0, 2.0, f32::MIN], 2, 2));
            assert_eq!(sampled(&row, 2, &sampling, 10), greedy(&[4.0, 1.0, 0.0, 2.0, 8.0], 2, 2));
            let spoiled = [f32::INFINITY, 1.0, 5.0, 2.0, f32::NAN];
            let got = candidates(&spoiled, 2, 2, &[Some(RowSampling { sampling: &sampling, position: 0 })]);
            assert_eq!(got[0], Err("the logit of token 0 is inf".to_owned()));
        }
    }
}
