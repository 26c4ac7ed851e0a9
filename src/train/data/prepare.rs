//! Conversations to rows of tokens, as the paper's code prepares them.
//!
//! A row's ids are the chat template's text of the whole conversation. Its prompt is as many tokens as the template's text
//! of the conversation *without* the answer (and without the beginning of one), followed by a newline: most of the
//! assistant's header counts as answer, so a trained model writes it itself. Rows that are too long are left out, never
//! cut; so are rows with too little to learn. What is left is shuffled, and of the first `keep` rows the first share is
//! held out and the rest sorted by length.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::sources::Sample;
use super::tokens::TokenRow;
use crate::text::Tokenizer;
use crate::text::chat_template::ChatTemplate;
use crate::train::random::{Purpose, Stream};

/// Which rows are kept, and in which order.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Longest row, in tokens.
    pub max_tokens: usize,
    /// Fewest tokens behind the prompt.
    pub min_answer_tokens: usize,
    /// Most rows, held-out ones included.
    pub keep: usize,
    /// Share of the kept rows that is held out, rounded down to whole rows.
    pub held_out_share: f64,
    /// Key of the shuffle.
    pub seed: u64,
}

/// Rows to train on, rows held out, and what became of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prepared {
    /// Rows to train on, shortest first.
    pub rows: Vec<TokenRow>,
    /// Rows held out.
    pub held_out: Vec<TokenRow>,
    /// Rows left out because they have too many tokens.
    pub too_long: usize,
    /// Rows left out because their answer has too few.
    pub too_short: usize,
    /// Rows left out because there were enough.
    pub surplus: usize,
}

/// Tokenize one conversation.
///
/// # Errors
/// The template refuses it or leaves its answer out, or the text cannot be tokenized.
fn tokenize(sample: &Sample, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<TokenRow> {
    let asked = &sample.messages[..sample.messages.len() - 1];
    let (whole, asked) = (template.render(&sample.messages, false)?, template.render(asked, false)?);
    if whole == asked {
        bail!("the model's chat template leaves out what the assistant says");
    }
    let prompt_len = tokenizer.encode_rendered(&(asked + "\n"))?.len();
    Ok(TokenRow { ids: tokenizer.encode_rendered(&whole)?, prompt_len })
}

/// Make rows of tokens of conversations that were read from `path`.
///
/// # Errors
/// Names the file and the line that the model's template or tokenizer refuses; no row is left.
pub fn prepare(
    (samples, path): (&[Sample], &Path),
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    selection: &Selection,
) -> Result<Prepared> {
    let row = |sample: &Sample| {
        tokenize(sample, template, tokenizer)
            .with_context(|| format!("{} line {}", path.display(), sample.line))
    };
    let mut rows = samples.par_iter().map(row).collect::<Result<Vec<_>>>()?;
    let (read, mut prepared) = (rows.len(), Prepared::default());
    rows.retain(|row| row.ids.len() <= selection.max_tokens);
    prepared.too_long = read - rows.len();
    rows.retain(|row| row.ids.len() >= row.prompt_len + selection.min_answer_tokens);
    prepared.too_short = read - prepared.too_long - rows.len();
    if rows.is_empty() {
        bail!(
            "no row of {} is left: {read} fit the kind, {} have more than {} tokens, {} fewer than {} behind the prompt",
            path.display(),
            prepared.too_long,
            selection.max_tokens,
            prepared.too_short,
            selection.min_answer_tokens
        );
    }
    Stream::new(selection.seed, Purpose::Order, &[]).shuffle(&mut rows);
    prepared.surplus = rows.len().saturating_sub(selection.keep);
    rows.truncate(selection.keep);
    let held_out = (rows.len() as f64 * selection.held_out_share) as usize;
    prepared.rows = rows.split_off(held_out);
    prepared.held_out = rows;
    prepared.rows.sort_by_key(|row| row.ids.len());
    Ok(prepared)
}
