//! How an answer evolves, step by step, on the wire.

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::spelled;
use super::schema::DiffusionReport;
use crate::decode::Phase;
use crate::service::StepText;

/// What a choice of a stream tells of denoising: the progress of one step, or, with `finish_reason`, the whole cost.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum DiffusionPart {
    /// What one step left behind.
    Progress {
        /// The step.
        progress: Box<StepProgress>,
    },
    /// What the answer cost.
    Report(DiffusionReport),
}

/// What one denoising step left behind. Positions are counted from the beginning of the answer, in tokens, also behind an
/// end-of-text token. Lists without another length have one entry per position described. Probabilities are of temperature
/// 1, without the mask token, rounded to four decimals.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StepProgress {
    /// Forward passes of the answer so far, this one included. A number that is missing was left out because the client
    /// lagged.
    #[schema(minimum = 1)]
    pub step: usize,
    /// The block that the step worked on, from 0.
    #[schema(minimum = 0)]
    pub block: usize,
    /// First position of the block, and the one behind its last.
    pub block_range: [usize; 2],
    /// First position that the lists describe, and the one behind the last: the block, and what lies behind it where the
    /// step computed it, at most 1024 positions. The others are as an earlier step left them, or masks.
    pub positions: [usize; 2],
    /// `mask`, `soft_mask` (undecided, a mixture of candidates and the mask), `soft` (decided, may change until its block
    /// is done) or `decoded`.
    #[schema(value_type = Vec<String>, example = json!(["decoded", "soft_mask"]))]
    pub states: Vec<&'static str>,
    /// Token id; of an undecided position what the step would have written.
    pub tokens: Vec<u32>,
    /// The same as text; `\xe4` if it is a part of a character.
    pub texts: Vec<String>,
    /// Probability with which the position got its token; of an undecided one that of the guess.
    pub confidences: Vec<f64>,
    /// Positions whose token changed in this step, ascending.
    pub revised: Vec<usize>,
    /// Per position the step's most probable tokens, best first: `k_soft` of them, at most 10.
    pub candidate_tokens: Vec<Vec<u32>>,
    /// The same as text.
    pub candidate_texts: Vec<Vec<String>>,
    /// Their probabilities.
    pub candidate_probabilities: Vec<Vec<f64>>,
}

/// To four decimals: more would be noise on a screen, and most of the chunk.
fn rounded(probability: f32) -> f64 {
    (f64::from(probability) * 1e4).round() / 1e4
}

impl From<StepText> for StepProgress {
    fn from(step: StepText) -> Self {
        let StepText { nfe, snapshot, tokens, candidates } = step;
        let state = |phase: &Phase| match phase {
            Phase::Mask => "mask",
            Phase::SoftMask => "soft_mask",
            Phase::Soft => "soft",
            Phase::Decoded => "decoded",
        };
        let k = snapshot.top_k.max(1);
        let rows = || snapshot.candidates.chunks(k);
        Self {
            step: nfe,
            block: snapshot.block,
            block_range: [snapshot.block_range.start, snapshot.block_range.end],
            positions: [snapshot.positions.start, snapshot.positions.end],
            states: snapshot.phases.iter().map(state).collect(),
            texts: tokens.iter().map(|token| spelled(token, "")).collect(),
            confidences: snapshot.confidences.iter().copied().map(rounded).collect(),
            candidate_tokens: rows().map(|row| row.iter().map(|(id, _)| *id).collect()).collect(),
            candidate_texts: candidates
                .chunks(k)
                .map(|row| row.iter().map(|token| spelled(token, "")).collect())
                .collect(),
            candidate_probabilities: rows()
                .map(|row| row.iter().map(|(_, p)| rounded(*p)).collect())
                .collect(),
            tokens: snapshot.tokens,
            revised: snapshot.revised,
        }
    }
}
