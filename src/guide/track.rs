//! One answer on its way along a guide: which tokens each position of the current block may have, so that the answer can
//! always be completed.

use std::sync::{Arc, OnceLock};

use super::automaton::Guide;
use super::bit_set::BitSet;

/// Most transitions that the decisions of one step look at. What would cost more is left to the next step, but for the
/// step's first decision. The work counts, not the clock: the same request takes the same decisions everywhere.
const STEP_WORK: usize = 1 << 25;

/// Most transitions of a guide times positions of a block: what a step looks at to know what each of them may become.
const BLOCK_WORK: usize = 1 << 25;

/// Most states of a guide times positions of a block and blocks of an answer, of which a track has sets of states.
const SETS: usize = 1 << 23;

/// Where an answer stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    guide: Arc<Guide>,
    room: Room,
    /// By block: the states of which one must be reached at its end.
    ends: Arc<[BitSet]>,
    /// The current block.
    block: usize,
    /// `[positions]`: the classes of the block's tokens, where there are any.
    classes: Vec<Option<u32>>,
    /// `[positions + 1]`: the states that can be reached before a position.
    before: Vec<BitSet>,
    /// `[positions + 1]`: the states before a position from which the rest of the answer can be completed.
    after: Vec<BitSet>,
    /// `[positions]`: what a position may become, once somebody asked.
    candidates: Vec<OnceLock<Arc<Candidates>>>,
    /// Transitions that this step may still look at.
    work: usize,
}

/// The room that an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Tokens of the answer.
    pub tokens: usize,
    /// Tokens of a block, at least 1; the last block may be shorter.
    pub block: usize,
    /// From which token on end-of-text may be written.
    pub ends_from: usize,
}

/// Why an answer cannot follow a guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrackError {
    /// Following it would cost too much.
    #[error("is too large for answers of {} tokens in blocks of {}: {} states, {} transitions", .room.tokens, .room.block, .states, .transitions)]
    TooLarge {
        /// Of the answer.
        room: Room,
        /// Of the guide.
        states: usize,
        /// Of the guide.
        transitions: usize,
    },
    /// No text fits.
    #[error("no text of at most {} tokens satisfies it{}", .0.tokens, at_least(.0.ends_from))]
    Impossible(Room),
}

fn at_least(tokens: usize) -> String {
    if tokens == 0 { String::new() } else { format!(" that has at least {tokens}") }
}

/// The tokens that a position may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    guide: Arc<Guide>,
    classes: BitSet,
}

impl Candidates {
    /// Take the logits `[vocabulary]` of all other tokens down to the lowest number; finite logits stay finite.
    pub fn keep(&self, logits: &mut [f32]) {
        self.guide.keep(&self.classes, logits);
    }

    /// Whether the token is one of them.
    pub fn contain(&self, token: u32) -> bool {
        self.classes.contains(self.guide.class(token) as usize)
    }
}

impl Track {
    /// An answer of which nothing is decided. Takes CPU time for long answers.
    ///
    /// # Errors
    /// No text of so many tokens satisfies the guide, or it is too large to be followed.
    pub fn new(guide: Arc<Guide>, room: Room) -> Result<Self, TrackError> {
        let (states, transitions) = (guide.states(), guide.transitions());
        let sets = room.block.saturating_add(room.tokens / room.block);
        if transitions.saturating_mul(room.block) > BLOCK_WORK || states.saturating_mul(sets) > SETS {
            return Err(TrackError::TooLarge { room, states, transitions });
        }
        let mut ends = vec![guide.accepting().clone()];
        let mut set = guide.accepting().clone();
        let mut settled = false;
        for position in (0..room.tokens).rev() {
            let ends_here = position >= room.ends_from;
            // What no longer changes stays as it is until end-of-text is ruled out.
            if !settled || position + 1 == room.ends_from {
                let (wider, _) = guide.backward(&set, None, ends_here);
                settled = wider == set;
                set = wider;
            }
            if position % room.block == 0 && position > 0 {
                ends.push(set.clone());
            }
        }
        let beginning = guide.beginning();
        if !set.meets(&beginning) {
            return Err(TrackError::Impossible(room));
        }
        ends.reverse();
        let mut track = Self {
            guide,
            room,
            ends: ends.into(),
            block: 0,
            classes: Vec::new(),
            before: vec![beginning],
            after: Vec::new(),
            candidates: Vec::new(),
            work: STEP_WORK,
        };
        track.begin_block();
        Ok(track)
    }

    /// Everything about the current block, of which nothing is decided; `before` ends with the states at its beginning.
    fn begin_block(&mut self) {
        let first = (self.block * self.room.block).min(self.room.tokens);
        let len = self.room.block.min(self.room.tokens - first);
        let beginning = self.before.pop().expect("a block has a beginning");
        self.classes = vec![None; len];
        self.candidates = vec![OnceLock::new(); len];
        self.before = vec![beginning];
        let end = self.ends[self.block.min(self.ends.len() - 1)].clone();
        self.after = vec![end; len + 1];
        for at in 0..len {
            self.before.push(self.forward(at).0);
        }
        for at in (0..len).rev() {
            self.after[at] = self.backward(at).0;
        }
    }

    /// The current block is done: all its positions are decided.
    pub fn next_block(&mut self) {
        self.block += 1;
        self.begin_block();
    }

    /// A step begins.
    pub fn begin_step(&mut self) {
        self.work = STEP_WORK;
    }

    fn ends_at(&self, at: usize) -> bool {
        self.block * self.room.block + at >= self.room.ends_from
    }

    fn forward(&self, at: usize) -> (BitSet, usize) {
        self.guide.forward(&self.before[at], self.classes[at], self.ends_at(at))
    }

    fn backward(&self, at: usize) -> (BitSet, usize) {
        self.guide.backward(&self.after[at + 1], self.classes[at], self.ends_at(at))
    }

    /// What position `at` of the block may become, given the tokens of all others.
    pub fn candidates(&self, at: usize) -> Arc<Candidates> {
        let found = || {
            let classes = self.guide.leading(&self.before[at], &self.after[at + 1], self.ends_at(at));
            Arc::new(Candidates { guide: Arc::clone(&self.guide), classes })
        };
        Arc::clone(self.candidates[at].get_or_init(found))
    }

    /// Give position `at` of the block a token, or another one, if the answer can still be completed then. Otherwise, or if
    /// the step has no work left, nothing changes and it is false.
    pub fn decide(&mut self, at: usize, token: u32) -> bool {
        let class = self.guide.class(token);
        if self.classes[at] == Some(class) {
            return true;
        }
        let (before, after) = (&self.before[at], &self.after[at + 1]);
        if self.work == 0 || !self.guide.leads(class, before, after, self.ends_at(at)) {
            return false;
        }
        self.classes[at] = Some(class);
        let mut work = 0;
        for later in at..self.classes.len() {
            let (set, cost) = self.forward(later);
            work += cost;
            if set == self.before[later + 1] {
                break;
            }
            self.before[later + 1] = set;
            if let Some(candidates) = self.candidates.get_mut(later + 1) {
                candidates.take();
            }
        }
        for earlier in (0..=at).rev() {
            let (set, cost) = self.backward(earlier);
            work += cost;
            if set == self.after[earlier] {
                break;
            }
            self.after[earlier] = set;
            if let Some(before) = earlier.checked_sub(1) {
                self.candidates[before].take();
            }
        }
        self.work = self.work.saturating_sub(work);
        true
    }
}
