//! A development score: Countdown problems decoded in lock step with the training forward pass, without caches.
//!
//! It follows the reference (hard boundary, fixed number of steps per block) for a batch whose prompts are equally
//! long. Published figures come from the serving engine, not from here.

use anyhow::{Result, bail};
use tokenizers::Tokenizer;

use super::candidates::{Candidates, harden};
use super::data::countdown::Problem;
use super::network::{Input, Network, Weights};
use super::ops::Mixture;
use super::{score, tokenizer};
use crate::decode::options::Method;

/// How the development score decodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoding {
    /// Hard masks or EvoToken.
    pub method: Method,
    /// Weight of the mask embedding in soft masks.
    pub alpha: f64,
    /// Candidates in a soft token.
    pub k_soft: usize,
    /// Answer tokens.
    pub canvas: usize,
    /// Positions per block.
    pub block: usize,
    /// Steps per block.
    pub steps: usize,
}

/// Rows decoded together on one thread.
const ROWS: usize = 64;

/// Share of problems solved, 0..=1.
///
/// # Errors
/// A prompt cannot be tokenized, prompts differ in length, or a forward pass fails.
pub fn accuracy(
    network: &Network,
    weights: &Weights,
    tokenizer: &Tokenizer,
    problems: &[Problem],
    decoding: Decoding,
) -> Result<f64> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let chunks: Vec<&[Problem]> = problems.chunks(ROWS).collect();
    let work = || {
        let mut solved = 0;
        while let Some(chunk) = chunks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            solved += solved_among(network, weights, tokenizer, chunk, decoding)?;
        }
        anyhow::Ok(solved)
    };
    let threads = std::thread::available_parallelism()?.get();
    let solved: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|w| w.join().expect("a worker panics only on a bug")).sum::<Result<usize>>()
    })?;
    Ok(solved as f64 / problems.len() as f64)
}

fn solved_among(
    network: &Network,
    weights: &Weights,
    tokenizer: &Tokenizer,
    problems: &[Problem],
    decoding: Decoding,
) -> Result<usize> {
    let failed = |e: tokenizers::Error| anyhow::anyhow!("cannot tokenize a problem: {e}");
    let prompts = problems
        .iter()
        .map(|p| Ok(tokenizer.encode(p.prompt(), true).map_err(failed)?.get_ids().to_vec()))
        .collect::<Result<Vec<_>>>()?;
    let answers = decode(network, weights, &prompts, decoding)?;
    let mut solved = 0;
    for (problem, answer) in problems.iter().zip(answers) {
        let text: Vec<u32> = answer.into_iter().take_while(|id| *id != tokenizer::EOS).collect();
        let text = tokenizer.decode(&text, false).map_err(failed)?;
        solved += usize::from(score::solves(&text, &problem.numbers, problem.target));
    }
    Ok(solved)
}

/// Decode equally long prompts together; the answers, end-of-text included. Stops after the block in which the last
/// answer ends.
///
/// # Errors
/// Prompts differ in length, or a forward pass fails.
pub fn decode(
    network: &Network,
    weights: &Weights,
    prompts: &[Vec<u32>],
    how: Decoding,
) -> Result<Vec<Vec<u32>>> {
    let prompt_len = prompts.first().map_or(0, Vec::len);
    if prompts.iter().any(|p| p.len() != prompt_len) {
        bail!("prompts that are decoded together must be equally long");
    }
    let len = prompt_len + how.canvas;
    let mask_id = network.config().mask_id;
    let pad = |p: &Vec<u32>| {
        p.iter().copied().chain(std::iter::repeat_n(mask_id, how.canvas)).collect::<Vec<u32>>()
    };
    let x: Vec<u32> = prompts.iter().flat_map(pad).collect();
    let mut state = State {
        input: Mixture::hard(&x),
        best: vec![0.0; x.len()],
        decided: vec![false; x.len()],
        x,
        len,
        mask_id,
        how,
    };
    let mut lo = prompt_len;
    while lo < len {
        let hi = (lo + how.block).min(len);
        state.begin(lo);
        let steps = how.steps.min(hi - lo);
        // Positions that are read: EvoToken also softens the rows right of the block.
        let top = if how.method == Method::Mask { hi } else { len };
        for step in 0..steps {
            let take = (hi - lo) / steps + usize::from(step < (hi - lo) % steps);
            let hidden = network.hidden(weights, &Input { tokens: state.input.clone(), len })?;
            let rows: Vec<u32> =
                (0..prompts.len()).flat_map(|r| (lo..top).map(move |t| (r * len + t) as u32)).collect();
            let logits = network.logits(weights, &hidden, &rows)?;
            state.advance(&Candidates::of(&logits, how.k_soft, Some(mask_id))?, (lo, hi, top), take);
        }
        lo = hi;
        let ended = |row: &[u32]| row[prompt_len..hi].contains(&tokenizer::EOS);
        if state.x.chunks_exact(len).all(ended) {
            break;
        }
    }
    Ok(state.x.chunks_exact(len).map(|row| row[prompt_len..lo].to_vec()).collect())
}

struct State {
    x: Vec<u32>,
    best: Vec<f64>,
    decided: Vec<bool>,
    input: Mixture,
    len: usize,
    mask_id: u32,
    how: Decoding,
}

impl State {
    /// Before a block: every position left of it becomes hard.
    fn begin(&mut self, lo: usize) {
        let width = self.input.width;
        for (i, token) in self.x.iter().enumerate().filter(|(i, _)| i % self.len < lo) {
            let mut hard = Mixture { ids: Vec::new(), weights: Vec::new(), width };
            harden(*token, width - 1, &mut hard);
            self.input.ids[i * width..(i + 1) * width].copy_from_slice(&hard.ids);
            self.input.weights[i * width..(i + 1) * width].copy_from_slice(&hard.weights);
        }
    }

    /// After a step: decide `take` positions of the block [lo, hi) in every row, replace, make the next input.
    /// `found` holds the positions [lo, top) of every row.
    fn advance(&mut self, found: &Candidates, (lo, hi, top): (usize, usize, usize), take: usize) {
        let per_row = top - lo;
        for row in 0..self.x.len() / self.len {
            let (at, candidate) = (|t: usize| row * self.len + t, |t: usize| row * per_row + t - lo);
            let mut open: Vec<usize> = (lo..hi).filter(|t| !self.decided[at(*t)]).collect();
            open.sort_by(|a, b| found.confidence(candidate(*b)).total_cmp(&found.confidence(candidate(*a))));
            for t in open.into_iter().take(take) {
                self.decided[at(t)] = true;
            }
            for t in lo..hi {
                let (i, c) = (at(t), candidate(t));
                let fresh = self.best[i] == 0.0 || self.how.method == Method::Evotoken;
                if self.decided[i] && fresh && found.confidence(c) > self.best[i] {
                    self.x[i] = found.guess(c);
                    self.best[i] = found.confidence(c);
                }
            }
        }
        self.rebuild(found, lo);
    }

    fn rebuild(&mut self, found: &Candidates, lo: usize) {
        if self.how.method == Method::Mask {
            self.input = Mixture::hard(&self.x);
            return;
        }
        let k = self.how.k_soft;
        let mut next = Mixture { ids: Vec::new(), weights: Vec::new(), width: k + 1 };
        for (i, token) in self.x.iter().enumerate() {
            let (row, t) = (i / self.len, i % self.len);
            if t < lo {
                harden(*token, k, &mut next);
            } else {
                let own = if self.decided[i] { *token } else { self.mask_id };
                let undecided = (!self.decided[i]).then_some(self.how.alpha);
                found.soften(row * (self.len - lo) + t - lo, own, undecided, &mut next);
            }
        }
        self.input = next;
    }
}
