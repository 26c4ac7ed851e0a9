//! From a regular expression to an automaton over bytes in which every state can still be completed.

use std::collections::HashMap;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::Hir;

use super::{GuideError, GuideLimits};

/// Most bytes of the automata in between; what does not fit is refused before it costs time.
const NFA_BYTES: usize = 4 << 20;

/// How many states, per state that is allowed, there may be before equal ones are merged.
const MOST_MERGED: usize = 2;

/// No state.
pub(super) const DEAD: u16 = u16::MAX;

/// Reads a text byte by byte, from state 0.
#[derive(Debug)]
pub(super) struct ByteAutomaton {
    /// `[256]`: bytes of one class do the same in every state.
    classes: [u8; 256],
    /// How many classes there are.
    pub class_count: usize,
    /// `[states * class_count]`: the state behind a byte, or [`DEAD`] where no text can be completed.
    next: Vec<u16>,
    /// `[states]`: whether a text may end here.
    pub accepting: Vec<bool>,
}

impl ByteAutomaton {
    /// The texts that an expression matches as a whole.
    ///
    /// # Errors
    /// It is too large, looks around in a way that automata do not know, or matches nothing.
    pub fn new(hir: &Hir, limits: &GuideLimits) -> Result<Self, GuideError> {
        let config = thompson::Config::new()
            .nfa_size_limit(Some(NFA_BYTES))
            .which_captures(thompson::WhichCaptures::None);
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir);
        let nfa = nfa.map_err(|error| match error.size_limit() {
            Some(_) => GuideError::too_large("it has too many parts"),
            None => GuideError::new(error.to_string()),
        })?;
        // A state has a transition of four bytes for each class. Before equal states are merged there may be some more.
        let row = 4 * nfa.byte_classes().alphabet_len().next_power_of_two();
        let bytes = limits.max_states.saturating_mul(MOST_MERGED * row);
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .minimize(true)
            .dfa_size_limit(Some(bytes))
            .determinize_size_limit(Some(bytes.saturating_mul(2)));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa);
        let too_many =
            || GuideError::too_large(format!("its automaton has more than {} states", limits.max_states));
        let dfa = dfa.map_err(|error| match error.is_size_limit_exceeded() {
            true => too_many(),
            false => GuideError::new(error.to_string()),
        })?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes));
        let start = start.map_err(|error| GuideError::new(error.to_string()))?;
        let most = limits.max_states.min(usize::from(DEAD) - 2);
        let automaton = Self::explored(&dfa, start, most).ok_or_else(too_many)?.without_blind_alleys();
        match automaton.accepting.is_empty() {
            true => Err(GuideError::new("matches no text")),
            false => Ok(automaton),
        }
    }

    /// All states that can be reached, numbered from the start; `None` if they are more than `most`.
    fn explored(dfa: &dense::DFA<Vec<u32>>, start: StateID, most: usize) -> Option<Self> {
        let mut classes = [0; 256];
        (0..=255_u8).for_each(|byte| classes[usize::from(byte)] = dfa.byte_classes().get(byte));
        let class_count = usize::from(classes[255]) + 1;
        let mut representatives = vec![0_u8; class_count];
        (0..=255_u8).for_each(|byte| representatives[usize::from(classes[usize::from(byte)])] = byte);
        let mut numbers = HashMap::from([(start, 0_u16)]);
        let mut order = vec![start];
        let (mut next, mut accepting) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(state) = order.get(at).copied() {
            at += 1;
            if order.len() > most {
                return None;
            }
            // These automata know of a match one byte late.
            accepting.push(dfa.is_match_state(dfa.next_eoi_state(state)));
            for byte in &representatives {
                let target = dfa.next_state(state, *byte);
                if dfa.is_dead_state(target) || dfa.is_quit_state(target) {
                    next.push(DEAD);
                    continue;
                }
                let fresh = u16::try_from(order.len()).unwrap_or(DEAD);
                let number = *numbers.entry(target).or_insert(fresh);
                if number == fresh {
                    order.push(target);
                }
                next.push(number);
            }
        }
        Some(Self { classes, class_count, next, accepting })
    }

    /// The same without the states from which no end can be reached.
    fn without_blind_alleys(self) -> Self {
        let (states, width) = (self.accepting.len(), self.class_count);
        let mut sources: Vec<Vec<usize>> = vec![Vec::new(); states];
        for (edge, target) in self.next.iter().enumerate().filter(|(_, target)| **target != DEAD) {
            sources[usize::from(*target)].push(edge / width);
        }
        let mut alive = self.accepting.clone();
        let mut open: Vec<usize> = (0..states).filter(|state| alive[*state]).collect();
        while let Some(state) = open.pop() {
            for source in &sources[state] {
                if !std::mem::replace(&mut alive[*source], true) {
                    open.push(*source);
                }
            }
        }
        if !alive.first().is_some_and(|start| *start) {
            return Self { next: Vec::new(), accepting: Vec::new(), ..self };
        }
        let mut numbers = vec![DEAD; states];
        let living = (0..states).filter(|state| alive[*state]);
        living.zip(0_u16..).for_each(|(state, number)| numbers[state] = number);
        let kept = |state: &usize| alive[*state];
        let rows = (0..states).filter(kept).flat_map(|state| &self.next[state * width..(state + 1) * width]);
        let renumbered = |target: &u16| if *target == DEAD { DEAD } else { numbers[usize::from(*target)] };
        let next = rows.map(renumbered).collect();
        let accepting = (0..states).filter(kept).map(|state| self.accepting[state]).collect();
        Self { next, accepting, ..self }
    }

    /// The class of a byte.
    pub fn class(&self, byte: u8) -> usize {
        usize::from(self.classes[usize::from(byte)])
    }

    /// The state behind a byte of a class.
    pub fn step(&self, state: u16, class: usize) -> u16 {
        self.next[usize::from(state) * self.class_count + class]
    }

    /// The state behind some bytes from the start.
    pub fn read(&self, bytes: &[u8]) -> u16 {
        let step = |state, byte: &u8| match state {
            DEAD => DEAD,
            state => self.step(state, self.class(*byte)),
        };
        bytes.iter().fold(0, step)
    }
}
