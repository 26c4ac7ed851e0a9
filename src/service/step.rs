//! What a denoising step left behind, as text.

use super::scored::TokenText;
use crate::decode::Snapshot;
use crate::text::Tokenizer;

/// A step for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub struct StepText {
    /// Forward passes so far, this one included.
    pub nfe: usize,
    /// What it left behind.
    pub snapshot: Snapshot,
    /// `[positions]`: the tokens as text.
    pub tokens: Vec<TokenText>,
    /// `[positions * top_k]`: the candidates as text.
    pub candidates: Vec<TokenText>,
}

impl StepText {
    /// Read a snapshot's tokens.
    pub(super) fn new(nfe: usize, snapshot: Snapshot, tokenizer: &Tokenizer) -> Self {
        let text = |id: u32| TokenText { id, bytes: tokenizer.token_bytes(id) };
        let tokens = snapshot.tokens.iter().map(|id| text(*id)).collect();
        let candidates = snapshot.candidates.iter().map(|(id, _)| text(*id)).collect();
        Self { nfe, snapshot, tokens, candidates }
    }
}
