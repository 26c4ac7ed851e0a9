//! What a sequence changes about its logits before anything is read from them. Host data, no tensors.

use std::sync::Arc;

use crate::service::sampling::SamplingParams;

/// Changes to the logits of one sequence's rows in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjustment {
    /// (token id, what is added to its logit); comes first.
    pub bias: Arc<[(u32, f32)]>,
    /// Tokens that are no candidates before `excluded_before`.
    pub excluded: Arc<[u32]>,
    /// The first canvas position at which all tokens are candidates.
    pub excluded_before: usize,
}

impl Adjustment {
    /// What a request asks for, with its answer beginning at canvas position `answer`; `None` if nothing.
    pub(super) fn new(params: &SamplingParams, answer: usize) -> Option<Self> {
        (params.excluded_before > 0 || !params.bias.is_empty()).then(|| Self {
            bias: Arc::clone(&params.bias),
            excluded: Arc::clone(&params.excluded),
            excluded_before: answer + params.excluded_before,
        })
    }

    /// Change the row of logits `[vocabulary]` of a canvas position. Finite logits stay finite: a token that is no
    /// candidate gets the lowest of them, which no noise lifts and whose probability is 0.
    pub fn apply(&self, logits: &mut [f32], position: usize) {
        for (id, bias) in self.bias.iter() {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = (*logit + bias).clamp(f32::MIN, f32::MAX);
            }
        }
        if position < self.excluded_before {
            for id in self.excluded.iter() {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = f32::MIN;
                }
            }
        }
    }
}
