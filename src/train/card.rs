//! The model card: what a model was made with and what it solves, as measured.

use anyhow::Result;

use super::checkpoint::Progress;
use super::evaluate::grid::Setting;
use super::evaluate::results::{Measured, table};
use super::suites::Suite;
use crate::decode::options::DecodeOptions;

/// What a card tells.
#[derive(Debug)]
pub struct Card<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Name of the model it was fine-tuned from; `None`: from scratch.
    pub base: Option<&'a str>,
    /// Whether it is an adapter for that model.
    pub adapter: bool,
    /// Seed of the run.
    pub seed: u64,
    /// The recipe, verbatim; the command line may have changed its seed and its number of updates.
    pub recipe: &'a str,
    /// Length of the run.
    pub progress: &'a Progress,
    /// Number of parameters that were trained.
    pub parameters: usize,
    /// Training rows.
    pub rows: usize,
    /// Decoding defaults.
    pub defaults: &'a DecodeOptions,
    /// What it was trained for.
    pub suite: Suite,
    /// What it solves of a test file, with several ways of decoding; may be empty.
    pub measured: &'a [(Setting, Measured)],
}

impl Card<'_> {
    /// The card, `README.md`.
    ///
    /// # Errors
    /// The defaults cannot be written as JSON.
    pub fn text(&self) -> Result<String> {
        let Self { name, seed, recipe, progress: p, parameters, rows, .. } = self;
        let origin = self.base.map_or("scratch".to_owned(), |base| format!("`{base}`"));
        let what = match self.adapter {
            true => format!(
                "A LoRA adapter (PEFT's layout, {parameters} parameters) for {origin}. With it, that masked diffusion \
                 language model"
            ),
            false => format!("A masked diffusion language model ({parameters} parameters) that"),
        };
        let defaults = serde_json::to_string(self.defaults)?;
        let measured = match self.measured.first() {
            None => "Not measured.\n".to_owned(),
            Some((_, first)) => format!(
                "{} questions of a test file none of which is among the training rows; the weights as written here \
                 (bf16), through the serving engine (`trainer evaluate`). One run, one seed.\n\n{}",
                first.rows,
                table(self.measured.iter().map(|(setting, measured)| (*name, setting, measured))),
            ),
        };
        let (tag, task, limits) = about(self.suite);
        Ok(format!(
            "---\nlicense: apache-2.0\npipeline_tag: text-generation\ntags: [masked-diffusion, {tag}]\n---\n\n\
             # {name}\n\n\
             {what} {task}\n\n\
             ## How it was made\n\n\
             By this project's `trainer`, from {origin}, on {rows} rows (test questions left out): seed {seed}, {} \
             updates, {} rows seen, {} tokens fed in, {:.0} s of training on a CPU shared with other work; mean loss at \
             the end {:.4}. The recipe (the seed and the updates are those just named):\n\n```toml\n{}\n```\n\n\
             ## What it solves\n\n{measured}\n\
             Decoding defaults: `{defaults}`.\n\n\
             ## Limits\n\n{limits}\n",
            p.updates,
            p.rows,
            p.tokens,
            p.seconds,
            p.loss,
            recipe.trim_end(),
        ))
    }
}

/// (tag, what a model of a suite does, what it cannot do).
fn about(suite: Suite) -> (&'static str, &'static str, &'static str) {
    match suite {
        Suite::Countdown => (
            "countdown",
            "solves Countdown. After exactly a text like `Numbers: [30, 100, 93]\\nTarget: 23` (nothing after it) it \
             writes an expression such as `(93+30)-100` and end-of-text.",
            "It knows this one task and this one prompt: numbers 1..100 and a target 1..100 that can be reached with \
             positive whole intermediate results. For anything else it writes something of the same form that is not \
             an answer.",
        ),
        Suite::Sorting => (
            "sorting",
            "sorts numbers. After exactly a text like `79, 32, 5=` it writes the numbers in order, `5, 32, 79`, and \
             end-of-text.",
            "It knows this one task: numbers 0..99, as many as in training.",
        ),
        Suite::Gsm8k | Suite::Math500 | Suite::Svamp => {
            ("math", "answers questions in words about numbers.", "It knows what its training rows hold.")
        }
    }
}
