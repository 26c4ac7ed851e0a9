//! Rules that answers follow, made ready for the model's tokens and kept for the next request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::Service;
use crate::engine::request::{Guided, RequestError};
use crate::guide::{Guide, GuideLimits, Rule, Spelling, Vocabulary};
use crate::text::Spelled;

/// A rule, and the parameter that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// As the client spells it (`"structured_outputs.regex"`).
    pub param: String,
    /// What the answers have to satisfy.
    pub rule: Rule,
}

/// The guides of a service. Behind locks, which the engine never takes: requests are prepared on threads of their own.
#[derive(Debug)]
pub struct Guides {
    limits: GuideLimits,
    most: usize,
    /// What the model's tokens spell, once somebody needs it; `None`: they do not make up a text.
    vocabulary: OnceLock<Option<Vocabulary>>,
    /// By the text of their rule, the last used first.
    known: Mutex<VecDeque<(String, Arc<Guide>)>>,
    /// Held while a rule is made ready: one at a time, so that many large ones need no more memory than one.
    turn: Mutex<()>,
}

impl Guides {
    /// None yet; the `most` used last are kept.
    pub fn new(limits: GuideLimits, most: usize) -> Self {
        Self { limits, most, vocabulary: OnceLock::new(), known: Mutex::default(), turn: Mutex::default() }
    }

    fn find(&self, key: &str) -> Option<Arc<Guide>> {
        let mut known = locked(&self.known);
        let at = known.iter().position(|(other, _)| other == key)?;
        let entry = known.remove(at)?;
        let guide = Arc::clone(&entry.1);
        known.push_front(entry);
        Some(guide)
    }

    fn keep(&self, key: String, guide: &Arc<Guide>) {
        let mut known = locked(&self.known);
        known.push_front((key, Arc::clone(guide)));
        known.truncate(self.most);
    }
}

/// A thread that panicked leaves nothing half done behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// The guide of a rule. Takes CPU time for one that is not known yet.
    ///
    /// # Errors
    /// The rule is wrong, too large, or nothing that the tokenizer could be held to.
    pub(super) fn guide(&self, constraint: Constraint) -> Result<Guided, RequestError> {
        let (guides, Constraint { param, rule }) = (&self.parts.guides, constraint);
        let key = rule.key();
        if let Some(guide) = guides.find(&key) {
            return Ok(Guided { guide, param });
        }
        let _turn = locked(&guides.turn);
        // Another request may have waited for the same one.
        if let Some(guide) = guides.find(&key) {
            return Ok(Guided { guide, param });
        }
        let Some(vocabulary) = guides.vocabulary.get_or_init(|| self.vocabulary()) else {
            let message =
                "the tokens of this model cannot be guided: its tokenizer changes them when it joins them";
            return Err(RequestError::invalid(param, message));
        };
        match rule.compile(vocabulary, &guides.limits) {
            Ok(guide) => {
                let guide = Arc::new(guide);
                guides.keep(key, &guide);
                Ok(Guided { guide, param })
            }
            Err(error) => Err(RequestError::invalid(param, error.to_string())),
        }
    }

    /// What the model's tokens spell; `None` if a text is not what its tokens spell one by one.
    fn vocabulary(&self) -> Option<Vocabulary> {
        let (tokenizer, limits) = (&self.parts.tokenizer, &self.parts.limits);
        let len = u32::try_from(limits.vocab).unwrap_or(u32::MAX);
        let ids = || (0..len).filter(|id| *id != limits.mask_id && !limits.eos_ids.contains(id));
        if !tokenizer.joins(ids()) {
            tracing::warn!("answers cannot be guided: the tokenizer changes tokens when it joins them");
            return None;
        }
        let spelling = |id: u32| {
            let Spelled { first, within } = tokenizer.spelled(id)?;
            let first = (first != within).then(|| first.into());
            Some(Spelling { id, bytes: within.into(), first })
        };
        Some(Vocabulary::new(limits.vocab, &limits.eos_ids, ids().filter_map(spelling)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_used_last_are_kept() {
        let limits = GuideLimits { max_bytes: 10, max_states: 10, max_transitions: 10 };
        let (guides, vocabulary) = (Guides::new(limits, 2), Vocabulary::new(1, &[0], None));
        let guide = Arc::new(Rule::Regex("a?".to_owned()).compile(&vocabulary, &limits).expect("a rule"));
        let known = |key: &str| guides.find(key).is_some();
        ["a", "b"].into_iter().for_each(|key| guides.keep(key.to_owned(), &guide));
        assert!(known("b") && known("a"));
        guides.keep("c".to_owned(), &guide);
        assert!(known("c") && known("a") && !known("b"));
        let none = Guides::new(limits, 0);
        none.keep("a".to_owned(), &guide);
        assert!(none.find("a").is_none());
    }
}
