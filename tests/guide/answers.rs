//! Answers decided in random orders with random guesses: they always satisfy their rule, and never get stuck.

use std::sync::Arc;

use evotoken::guide::{Room, Rule, Spelling, Track, Vocabulary};
use proptest::prelude::*;

use crate::LIMITS;

/// Tokens of one to four letters, with gaps: not every text can be spelled.
fn vocabulary() -> impl Strategy<Value = Vec<String>> {
    let token = "[abc]{1,4}|[abc0]|0[ab]?";
    proptest::collection::vec(token, 3..14).prop_map(|mut tokens| {
        tokens.extend(["a", "b"].map(str::to_owned));
        tokens
    })
}

/// A small family of expressions that nest.
fn expression() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof!["[abc0]{1,3}", Just("[ab]".to_owned()), Just("[^a]".to_owned()), Just("".to_owned())];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}{b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
            inner.clone().prop_map(|a| format!("(?:{a})*")),
            inner.clone().prop_map(|a| format!("(?:{a})?")),
            (inner, 0..3_usize, 0..3_usize)
                .prop_map(|(a, min, more)| format!("(?:{a}){{{min},{}}}", min + more)),
        ]
    })
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Fill a block: guesses are drawn from what each position may become before a step, and decided in a random order.
fn fill(track: &mut Track, len: usize, vocab: u32, dice: &mut Dice) -> Vec<u32> {
    let mut tokens: Vec<Option<u32>> = vec![None; len];
    while tokens.iter().any(Option::is_none) {
        track.begin_step();
        let guess = |at: usize, dice: &mut Dice| {
            let candidates = track.candidates(at);
            let possible: Vec<u32> = (0..vocab).filter(|token| candidates.contain(*token)).collect();
            assert!(!possible.is_empty(), "position {at} has no candidate");
            possible[dice.below(possible.len())]
        };
        let guesses: Vec<u32> = (0..len).map(|at| guess(at, dice)).collect();
        let mut order: Vec<usize> = (0..len).filter(|at| tokens[*at].is_none()).collect();
        let mut decided = 0;
        for turn in 0..=dice.below(order.len()) {
            let at = order.swap_remove(dice.below(order.len()));
            if track.decide(at, guesses[at]) {
                tokens[at] = Some(guesses[at]);
                decided += 1;
            } else {
                assert!(turn > 0, "the first decision of a step is always possible");
            }
        }
        assert!(decided > 0);
        // Tokens that were decided may still change.
        for at in (0..len).filter(|at| tokens[*at].is_some()).collect::<Vec<_>>() {
            if dice.below(3) == 0 && track.decide(at, guesses[at]) {
                tokens[at] = Some(guesses[at]);
            }
        }
    }
    tokens.into_iter().flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_answer_decided_in_any_order_satisfies_its_rule(
        expression in expression(), words in vocabulary(), tokens in 0..14_usize, block in 1..8_usize,
        ends_from in 0..16_usize, first in any::<bool>(), seed in any::<u64>(),
    ) {
        let (count, ends_from) = (words.len() as u32, if ends_from > 8 { 0 } else { ends_from });
        // Decoders that drop a leading letter, so to say.
        let first = |word: &str| first.then(|| word.as_bytes().strip_prefix(b"c").map(Into::into)).flatten();
        let spell = |(id, word): (u32, &String)| Spelling { id, bytes: word.as_bytes().into(), first: first(word) };
        let vocabulary = Vocabulary::new(count as usize + 3, &[count, count + 1], (0..).zip(&words).map(spell));
        let Ok(guide) = Rule::Regex(expression.clone()).compile(&vocabulary, &LIMITS) else { return Ok(()) };
        let matching = regex::bytes::Regex::new(&format!("^(?:{expression})$")).expect("it compiled before");
        let Ok(mut track) = Track::new(Arc::new(guide), Room { tokens, block, ends_from }) else {
            return Ok(());
        };
        let mut answer = Vec::new();
        while answer.len() < tokens {
            let len = block.min(tokens - answer.len());
            answer.extend(fill(&mut track, len, count + 3, &mut Dice(seed ^ answer.len() as u64)));
            track.next_block();
        }
        let end = answer.iter().position(|token| *token >= count).unwrap_or(tokens);
        prop_assert!(end >= ends_from.min(tokens));
        prop_assert!(answer[end..].iter().all(|token| [count, count + 1].contains(token)), "{answer:?}");
        let mut text = Vec::new();
        for (at, token) in answer[..end].iter().enumerate() {
            let word = &words[*token as usize];
            let spelled = first(word).filter(|_| at == 0);
            text.extend_from_slice(spelled.as_deref().unwrap_or(word.as_bytes()));
        }
        prop_assert!(matching.is_match(&text), "{:?} by {answer:?} of {words:?}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn an_answer_is_possible_exactly_if_some_text_of_its_length_matches(
        expression in expression(), tokens in 0..5_usize, ends_from in 0..5_usize,
    ) {
        let words = ["a", "b", "ab", "0"];
        let spell = |(id, word): (u32, &&str)| Spelling { id, bytes: word.as_bytes().into(), first: None };
        let vocabulary = Vocabulary::new(5, &[4], (0..).zip(&words).map(spell));
        let Ok(guide) = Rule::Regex(expression.clone()).compile(&vocabulary, &LIMITS) else { return Ok(()) };
        let matching = regex::Regex::new(&format!("^(?:{expression})$")).expect("it compiled before");
        // All texts of so many tokens.
        let mut texts = vec![String::new()];
        let mut possible = false;
        for len in 0..=tokens {
            possible |= (len == tokens || len >= ends_from) && texts.iter().any(|text| matching.is_match(text));
            texts = texts.iter().flat_map(|text| words.map(|word| format!("{text}{word}"))).collect();
        }
        let track = Track::new(Arc::new(guide), Room { tokens, block: 2, ends_from });
        prop_assert_eq!(track.is_ok(), possible);
    }
}
