//! What a sequence changes about its logits before anything is read from them. Host data, no tensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::request::GenerateRequest;
use crate::decode::{Allowed, State};

/// Changes to the logits of one sequence's rows in one step, in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjustment {
    /// (token id, what is added to its logit).
    pub bias: Arc<[(u32, f32)]>,
    /// Tokens that are less welcome for having been written.
    pub written: Option<Written>,
    /// Tokens that are no candidates before `excluded_before`.
    pub excluded: Arc<[u32]>,
    /// The first canvas position at which all tokens are candidates.
    pub excluded_before: usize,
    /// Where only some tokens leave the answer a way to satisfy its guide.
    pub allowed: Option<Allowed>,
}

/// How much less welcome a token is for having been written. [`Penalties::NONE`] changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides a positive logit and multiplies a negative one of a token of the prompt or the answer; above 0.
    pub repetition: f32,
    /// Subtracted once for every time that the token is in the answer.
    pub frequency: f32,
    /// Subtracted if the token is in the answer.
    pub presence: f32,
}

impl Penalties {
    /// No penalties.
    pub const NONE: Self = Self { repetition: 1.0, frequency: 0.0, presence: 0.0 };
}

/// What was written before a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What that costs.
    pub penalties: Penalties,
    /// Per token id: whether it is in the prompt or the suffix, and how often in the answer.
    pub tokens: BTreeMap<u32, (bool, usize)>,
    /// Tokens of the decided positions of the answer. A position does not count its own token, or a soft token would
    /// push itself out.
    pub decided: BTreeMap<usize, u32>,
}

impl Written {
    fn new(penalties: Penalties, given: impl Iterator<Item = u32>, state: &State) -> Self {
        let mut tokens: BTreeMap<u32, (bool, usize)> = BTreeMap::new();
        if penalties.repetition != Penalties::NONE.repetition {
            tokens.extend(given.map(|id| (id, (true, 0))));
        }
        let decided: BTreeMap<usize, u32> = state.decided().collect();
        for id in decided.values() {
            tokens.entry(*id).or_default().1 += 1;
        }
        Self { penalties, tokens, decided }
    }

    fn apply(&self, logits: &mut [f32], position: usize) {
        let Penalties { repetition, frequency, presence } = self.penalties;
        let own = self.decided.get(&position);
        for (id, (in_prompt, in_answer)) in &self.tokens {
            let times = in_answer - usize::from(own == Some(id));
            let Some(logit) = logits.get_mut(*id as usize).filter(|_| *in_prompt || times > 0) else {
                continue;
            };
            let scaled = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            let present = if times > 0 { presence } else { 0.0 };
            *logit = (scaled - frequency * times as f32 - present).clamp(f32::MIN, f32::MAX);
        }
    }
}

impl Adjustment {
    /// What a request asks for; `None` if nothing.
    pub(super) fn new(request: &GenerateRequest, state: &State) -> Option<Self> {
        let params = request.sampling();
        let given = || request.prompt().iter().chain(request.suffix()).copied();
        let penalized = params.penalties != Penalties::NONE;
        let allowed = state.allowed();
        let biased = params.excluded_before > 0 || !params.bias.is_empty();
        let asked = biased || penalized || allowed.is_some();
        asked.then(|| Self {
            bias: Arc::clone(&params.bias),
            written: penalized.then(|| Written::new(params.penalties, given(), state)),
            excluded: Arc::clone(&params.excluded),
            excluded_before: request.prompt().len() + params.excluded_before,
            allowed,
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
        if let Some(written) = &self.written {
            written.apply(logits, position);
        }
        if position < self.excluded_before {
            for id in self.excluded.iter() {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = f32::MIN;
                }
            }
        }
        if let Some(candidates) = self.allowed.as_ref().and_then(|allowed| allowed.at(position)) {
            candidates.keep(logits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_count_the_prompt_and_the_other_positions_of_the_answer() {
        let penalties = Penalties { repetition: 2.0, frequency: 0.5, presence: 0.25 };
        // Token 0 is in the prompt, 1 twice and 2 once in the answer, 3 in both.
        let tokens = BTreeMap::from([(0, (true, 0)), (1, (false, 2)), (2, (false, 1)), (3, (true, 1))]);
        let decided = BTreeMap::from([(10, 1), (11, 1), (12, 2), (14, 3)]);
        let adjustment = Adjustment {
            bias: [(4, 1.5)].into(),
            written: Some(Written { penalties, tokens, decided }),
            excluded: [5].into(),
            excluded_before: 12,
            allowed: None,
        };
        let adjusted = |position: usize| {
            let mut logits = [4.0, 4.0, -4.0, 4.0, 4.0, 4.0];
            adjustment.apply(&mut logits, position);
            logits
        };
        assert_eq!(adjusted(13), [2.0, 0.75, -8.75, 1.25, 5.5, 4.0]);
        assert_eq!(adjusted(10), [2.0, 1.25, -8.75, 1.25, 5.5, f32::MIN]);
        assert_eq!(adjusted(12), [2.0, 0.75, -4.0, 1.25, 5.5, 4.0]);
        assert_eq!(adjusted(14), [2.0, 0.75, -8.75, 2.0, 5.5, 4.0]);
    }
}
