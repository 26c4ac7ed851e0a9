//! The model card: what a model was made with and what it solves, as measured.

use anyhow::Result;
use tokenizers::Tokenizer;

use super::checkpoint::Progress;
use super::data::countdown::Problem;
use super::evaluate::{self, Decoding};
use super::network::{Network, Weights};
use crate::decode::options::{DecodeOptions, Method};

/// Share of problems solved with one way of decoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The way of decoding.
    pub decoding: Decoding,
    /// Share solved, 0..=1.
    pub solved: f64,
}

/// (answer tokens, steps per block): full, half and a quarter of the steps on the shortest canvas, then longer canvases.
const BUDGETS: [(usize, usize); 6] = [(8, 4), (8, 2), (8, 1), (16, 4), (64, 4), (256, 4)];
const BLOCK: usize = 4;

/// Score both methods on every budget, EvoToken with each of `alphas`.
///
/// # Errors
/// See [`evaluate::accuracy`].
pub fn scores(
    network: &Network,
    weights: &Weights,
    tokenizer: &Tokenizer,
    problems: &[Problem],
    alphas: &[f64],
) -> Result<Vec<Score>> {
    let soft = alphas.iter().map(|alpha| (Method::Evotoken, *alpha));
    let mut all = Vec::new();
    for (method, alpha) in std::iter::once((Method::Mask, 0.0)).chain(soft) {
        for (canvas, steps) in BUDGETS {
            let decoding = Decoding { method, alpha, k_soft: 3, canvas, block: BLOCK, steps };
            let solved = evaluate::accuracy(network, weights, tokenizer, problems, decoding)?;
            all.push(Score { decoding, solved });
        }
    }
    Ok(all)
}

/// Scores as a Markdown table.
pub fn table(scores: &[Score]) -> String {
    let mut text =
        "| method | `max_tokens` | steps per block of 4 | solved % |\n|---|---|---|---|\n".to_owned();
    for Score { decoding: d, solved } in scores {
        let method = match d.method {
            Method::Mask => "hard masks".to_owned(),
            Method::Evotoken => format!("EvoToken, alpha {}", d.alpha),
        };
        text += &format!("| {method} | {} | {} | {:.1} |\n", d.canvas, d.steps, 100.0 * solved);
    }
    text
}

/// What a card tells.
#[derive(Debug)]
pub struct Card<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// How it was started: `from scratch` or the model it was fine-tuned from.
    pub origin: &'a str,
    /// The recipe, verbatim.
    pub recipe: &'a str,
    /// Length of the run.
    pub progress: &'a Progress,
    /// Number of parameters.
    pub parameters: usize,
    /// Training rows.
    pub rows: usize,
    /// Decoding defaults.
    pub defaults: &'a DecodeOptions,
    /// Number of problems scored, and the scores.
    pub scores: (usize, &'a [Score]),
}

impl Card<'_> {
    /// The card, `README.md`.
    ///
    /// # Errors
    /// The defaults cannot be written as JSON.
    pub fn text(&self) -> Result<String> {
        let Self { name, origin, recipe, progress: p, parameters, rows, .. } = self;
        let defaults = serde_json::to_string(self.defaults)?;
        let measured = match self.scores {
            (0, _) => "Not measured.\n".to_owned(),
            (count, scores) => format!(
                "{count} problems of a test file none of which is among the training rows; the weights as written here \
                 (bf16), greedy, no cache, a fixed number of steps per block, decoded with the trainer's own forward \
                 pass. One run, one seed: a difference below 5 points is noise at 256 problems.\n\n{}",
                table(scores)
            ),
        };
        Ok(format!(
            "---\nlicense: apache-2.0\npipeline_tag: text-generation\ntags: [masked-diffusion, countdown]\n---\n\n\
             # {name}\n\n\
             A masked diffusion language model (LLaDA architecture, {parameters} parameters) that solves Countdown with \
             three numbers. After exactly the text `Numbers: [30, 100, 93]\\nTarget: 23` (nothing after it) it writes an \
             expression such as `(93+30)-100`: at most 7 tokens and end-of-text.\n\n\
             ## How it was made\n\n\
             By this project's `trainer`, {origin}, on {rows} rows of `trainer data countdown` (one solution per problem, \
             test problems left out): {} updates, {} rows seen, {} tokens fed in, {:.0} s of training on a CPU shared \
             with other work; mean loss at the end {:.4}. The recipe, seed included:\n\n```toml\n{}\n```\n\n\
             ## What it solves\n\n{measured}\n\
             Decoding defaults: `{defaults}`.\n\n\
             ## Limits\n\n\
             It knows this one task and this one prompt: three numbers 1..100 and a target 1..100 that can be reached \
             with positive whole intermediate results. For anything else it writes something of the same form that is \
             not an answer. Canvases beyond 256 answer tokens were not trained.\n",
            p.updates,
            p.rows,
            p.tokens,
            p.seconds,
            p.loss,
            recipe.trim_end(),
        ))
    }
}
