//! An automaton over tokens: which token leads from which state to which.
//!
//! Tokens that do the same in every state are one class, so that a vocabulary of any size has a table of a few thousand
//! columns. Its states are those of the byte automaton, one for the beginning of a text (whose first token some decoders
//! spell in their own way), and one for what lies behind the end of a text, where only end-of-text follows.

use std::collections::HashMap;
use std::rc::Rc;

use super::bit_set::BitSet;
use super::byte_automaton::{ByteAutomaton, DEAD};
use super::vocabulary::Vocabulary;
use super::{GuideError, GuideLimits};

/// The class of tokens that are in no text.
const NOWHERE: u32 = 0;
/// The class of end-of-text.
pub(super) const END_OF_TEXT: u32 = 1;

/// A constraint on texts, for the tokens of one model.
#[derive(PartialEq, Eq)]
pub struct Guide {
    /// `[vocabulary]`: the class of each token.
    classes: Box<[u32]>,
    /// `[classes + 1]`: where the columns lie in `columns`.
    starts: Box<[u32]>,
    /// By class: (state, the state behind its tokens), ascending. None for the first two classes.
    columns: Box<[(u16, u16)]>,
    /// Which states follow on a state, whatever the token of the text.
    successors: Edges,
    /// The other way round.
    predecessors: Edges,
    /// Where a text may end, the state behind its end included.
    accepting: BitSet,
    /// How many states there are.
    states: usize,
}

/// Lists of states, one for each state.
#[derive(PartialEq, Eq)]
struct Edges {
    starts: Box<[u32]>,
    targets: Box<[u16]>,
}

impl Edges {
    /// Of distinct pairs, sorted.
    fn new(pairs: &[(u16, u16)], states: usize) -> Self {
        let starts = (0..=states).map(|state| pairs.partition_point(|(from, _)| usize::from(*from) < state));
        Self {
            starts: starts.map(|at| u32::try_from(at).expect("the transitions are bounded")).collect(),
            targets: pairs.iter().map(|(_, to)| *to).collect(),
        }
    }

    fn of(&self, state: usize) -> &[u16] {
        &self.targets[self.starts[state] as usize..self.starts[state + 1] as usize]
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guide of {} states and {} transitions", self.states, self.columns.len())
    }
}

impl Guide {
    /// The automaton over tokens that an automaton over bytes makes.
    ///
    /// # Errors
    /// It has too many transitions.
    pub(super) fn new(
        bytes: &ByteAutomaton,
        vocabulary: &Vocabulary,
        limits: &GuideLimits,
    ) -> Result<Self, GuideError> {
        let texts = bytes.accepting.len();
        let (begin, end) = (u16::try_from(texts).expect("states are bounded"), texts + 1);
        let mut effects = Effects::new(bytes, limits.max_transitions);
        let mut classes = vec![NOWHERE; vocabulary.len];
        // By class: what its tokens do within a text, and at its beginning.
        let mut kinds: Vec<(usize, u16)> = Vec::new();
        let mut numbers: HashMap<(usize, u16), u32> = HashMap::new();
        let mut path: Vec<(u8, usize)> = Vec::new();
        for token in &vocabulary.tokens {
            let shared =
                path.iter().zip(&token.bytes).take_while(|((byte, _), other)| byte == *other).count();
            path.truncate(shared);
            for byte in &token.bytes[shared..] {
                let before = path.last().map_or(Effects::NONE, |(_, effect)| *effect);
                path.push((*byte, effects.then(before, bytes.class(*byte))?));
            }
            let effect = path.last().map_or(Effects::NONE, |(_, effect)| *effect);
            let first = token.first.as_deref().unwrap_or(&token.bytes);
            let kind = (effect, bytes.read(first));
            if kind == (Effects::IMPOSSIBLE, DEAD) {
                continue;
            }
            classes[token.id as usize] = *numbers.entry(kind).or_insert_with(|| {
                kinds.push(kind);
                u32::try_from(kinds.len()).expect("tokens have u32 ids") + END_OF_TEXT
            });
        }
        vocabulary.eos_ids.iter().for_each(|id| classes[*id as usize] = END_OF_TEXT);
        let (mut starts, mut columns) = (vec![0; 3], Vec::new());
        for (effect, first) in kinds {
            columns.extend_from_slice(&effects.known[effect]);
            columns.extend((first != DEAD).then_some((begin, first)));
            if columns.len() > limits.max_transitions {
                return Err(too_many(limits.max_transitions));
            }
            starts.push(u32::try_from(columns.len()).expect("the transitions are bounded"));
        }
        let mut accepting = BitSet::empty(texts + 2);
        (0..texts).filter(|state| bytes.accepting[*state]).for_each(|state| accepting.insert(state));
        if bytes.accepting[0] {
            accepting.insert(texts);
        }
        accepting.insert(end);
        let sorted = |mut pairs: Vec<(u16, u16)>| {
            pairs.sort_unstable();
            pairs.dedup();
            Edges::new(&pairs, texts + 2)
        };
        Ok(Self {
            classes: classes.into(),
            starts: starts.into(),
            successors: sorted(columns.clone()),
            predecessors: sorted(columns.iter().map(|(from, to)| (*to, *from)).collect()),
            columns: columns.into(),
            accepting,
            states: texts + 2,
        })
    }

    /// How many transitions a look at all classes goes through.
    pub fn transitions(&self) -> usize {
        self.columns.len()
    }

    /// How many states there are.
    pub fn states(&self) -> usize {
        self.states
    }

    /// The state where a text begins.
    pub(super) fn beginning(&self) -> BitSet {
        self.set(self.states - 2)
    }

    /// The states where a text may end, the one behind its end included.
    pub(super) fn accepting(&self) -> &BitSet {
        &self.accepting
    }

    fn end(&self) -> usize {
        self.states - 1
    }

    fn set(&self, state: usize) -> BitSet {
        let mut set = BitSet::empty(self.states);
        set.insert(state);
        set
    }

    /// The class of a token; tokens of a class are interchangeable.
    pub(super) fn class(&self, token: u32) -> u32 {
        self.classes.get(token as usize).copied().unwrap_or(NOWHERE)
    }

    fn column(&self, class: u32) -> &[(u16, u16)] {
        &self.columns[self.starts[class as usize] as usize..self.starts[class as usize + 1] as usize]
    }

    /// Whether a token of the class leads from one of the states `before` to one of `after`. End-of-text does if `ends`.
    pub(super) fn leads(&self, class: u32, before: &BitSet, after: &BitSet, ends: bool) -> bool {
        if class == END_OF_TEXT {
            return ends && after.contains(self.end()) && before.meets(&self.accepting);
        }
        let within =
            |(from, to): &(u16, u16)| before.contains((*from).into()) && after.contains((*to).into());
        self.column(class).iter().any(within)
    }

    /// Where a token of this class leads; `None`: any token of a text, and end-of-text if `ends`. Second, what it cost in
    /// transitions looked at.
    pub(super) fn forward(&self, before: &BitSet, class: Option<u32>, ends: bool) -> (BitSet, usize) {
        let mut after = BitSet::empty(self.states);
        let mut cost = 1;
        match class {
            Some(END_OF_TEXT) => {}
            Some(class) => {
                let column = self.column(class);
                cost += column.len();
                let known = column.iter().filter(|(from, _)| before.contains((*from).into()));
                known.for_each(|(_, to)| after.insert((*to).into()));
            }
            None => before.iter().for_each(|state| {
                let targets = self.successors.of(state);
                cost += targets.len();
                targets.iter().for_each(|to| after.insert((*to).into()));
            }),
        }
        let ends = class.map_or(ends, |class| class == END_OF_TEXT);
        if ends && before.meets(&self.accepting) {
            after.insert(self.end());
        }
        (after, cost)
    }

    /// The other way round: from where such a token leads to one of the states `after`.
    pub(super) fn backward(&self, after: &BitSet, class: Option<u32>, ends: bool) -> (BitSet, usize) {
        let mut before = BitSet::empty(self.states);
        let mut cost = 1;
        match class {
            Some(END_OF_TEXT) => {}
            Some(class) => {
                let column = self.column(class);
                cost += column.len();
                let known = column.iter().filter(|(_, to)| after.contains((*to).into()));
                known.for_each(|(from, _)| before.insert((*from).into()));
            }
            None => after.iter().for_each(|state| {
                let sources = self.predecessors.of(state);
                cost += sources.len();
                sources.iter().for_each(|from| before.insert((*from).into()));
            }),
        }
        let ends = class.map_or(ends, |class| class == END_OF_TEXT);
        if ends && after.contains(self.end()) {
            before.extend(&self.accepting);
        }
        (before, cost)
    }

    /// The classes of tokens that lead from one of the states `before` to one of `after`.
    pub(super) fn leading(&self, before: &BitSet, after: &BitSet, ends: bool) -> BitSet {
        let count = self.starts.len() - 1;
        let mut leading = BitSet::empty(count);
        let classes = (END_OF_TEXT..).take(count - 1);
        let possible = classes.filter(|class| self.leads(*class, before, after, ends));
        possible.for_each(|class| leading.insert(class as usize));
        leading
    }

    /// Take the logits `[vocabulary]` of all tokens of other classes down to the lowest number. Those that stay are above
    /// it, whatever was done to them.
    pub(super) fn keep(&self, classes: &BitSet, logits: &mut [f32]) {
        let known = self.classes.iter().copied().chain(std::iter::repeat(NOWHERE));
        for (logit, class) in logits.iter_mut().zip(known) {
            *logit = if classes.contains(class as usize) { logit.max(f32::MIN / 2.0) } else { f32::MIN };
        }
    }
}

/// What strings of bytes do to all states at once: pairs of a state and the state behind the string. Strings with the same
/// effect share it, and what it costs to prolong them is paid once.
struct Effects<'a> {
    bytes: &'a ByteAutomaton,
    known: Vec<Rc<[(u16, u16)]>>,
    numbers: HashMap<Rc<[(u16, u16)]>, usize>,
    /// By effect and class of bytes: the effect of one more byte, once it was asked for.
    longer: HashMap<(usize, usize), usize>,
    /// Pairs that may still be stored.
    left: usize,
    most: usize,
}

fn too_many(most: usize) -> GuideError {
    GuideError::too_large(format!("its automaton has more than {most} transitions of this model's tokens"))
}

impl<'a> Effects<'a> {
    /// The effect of strings that no text has.
    const IMPOSSIBLE: usize = 0;
    /// The effect of no bytes.
    const NONE: usize = 1;

    fn new(bytes: &'a ByteAutomaton, most: usize) -> Self {
        let (known, numbers, longer) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut effects = Self { bytes, known, numbers, longer, left: most, most };
        effects.number(Vec::new());
        effects.number((0..).zip(&bytes.accepting).map(|(state, _)| (state, state)).collect());
        effects
    }

    fn number(&mut self, pairs: Vec<(u16, u16)>) -> usize {
        if let Some(number) = self.numbers.get(pairs.as_slice()) {
            return *number;
        }
        let pairs: Rc<[(u16, u16)]> = pairs.into();
        self.known.push(Rc::clone(&pairs));
        self.numbers.insert(pairs, self.known.len() - 1);
        self.known.len() - 1
    }

    /// The effect of a string with one more byte.
    fn then(&mut self, effect: usize, class: usize) -> Result<usize, GuideError> {
        if effect == Self::IMPOSSIBLE {
            return Ok(effect);
        }
        if let Some(known) = self.longer.get(&(effect, class)) {
            return Ok(*known);
        }
        let step = |(from, to): &(u16, u16)| {
            Some((*from, self.bytes.step(*to, class))).filter(|(_, to)| *to != DEAD)
        };
        let pairs: Vec<(u16, u16)> = self.known[effect].iter().filter_map(step).collect();
        let (size, before) = (pairs.len(), self.known.len());
        let number = self.number(pairs);
        if self.known.len() > before {
            self.left = self.left.checked_sub(size).ok_or_else(|| too_many(self.most))?;
        }
        self.longer.insert((effect, class), number);
        Ok(number)
    }
}
