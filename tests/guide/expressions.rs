//! Choices and regular expressions.

use evotoken::guide::{Room, Rule, Spelling, Track, Vocabulary};

use crate::{EOS, LIMITS, check, compiled, reason};

fn regex(expression: &str) -> Rule {
    Rule::Regex(expression.to_owned())
}

#[test]
fn an_expression_matches_the_whole_text() {
    check(&regex("[0-9]+(ab|c)?"), &["1", "12ab", "3c"], &["", "ab", "1d", "x1", "1abc"]);
    check(&regex("^yes$|no"), &["yes", "no"], &["y", "yesno"]);
    check(&regex("a*"), &["", "aaa"], &["b"]);
    // Neither laziness nor the order of branches cuts a text short.
    check(&regex("a+?|ab"), &["a", "aaaa", "ab"], &["abb"]);
    check(&regex("(?i)é.ß"), &["É你ß", "éxß"], &["e你ß", "é\nß"]);
    check(&regex(r"\d\w"), &["1a", "٣é"], &["a1"]);
}

#[test]
fn choices_are_texts_and_no_expressions() {
    let rule = Rule::Choice(["a.c", "", "(", "a.cd"].map(str::to_owned).to_vec());
    check(&rule, &["a.c", "", "(", "a.cd"], &["abc", "a", "a.c("]);
    assert_eq!(reason(&Rule::Choice(Vec::new())), "must hold at least one text");
}

#[test]
fn what_is_no_expression_is_refused_with_the_reason() {
    for (expression, part) in [
        ("(a", "unclosed group"),
        ("[z-a]", "invalid character class range"),
        ("a{3,1}", "invalid repetition count range"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences are not supported"),
        (r"\bword\b", "Unicode word bound"),
        (r"(?-u:\xFF)", "invalid UTF-8"),
        (r"[a&&b]", "matches no text"),
        ("a^b", "matches no text"),
    ] {
        let message = reason(&regex(expression));
        assert!(message.contains(part), "{expression}: {message}");
    }
}

#[test]
fn only_texts_that_fit_count() {
    let guide = compiled(&regex("(abc)+")).unwrap();
    let fits = |tokens, ends_from| Track::new(guide.clone(), Room { tokens, block: 2, ends_from }).is_ok();
    assert_eq!([0, 2, 3, 4, 5, 6].map(|tokens| fits(tokens, 0)), [false, false, true, true, true, true]);
    // At least so many tokens before the end; at last no end at all.
    assert_eq!([2, 3, 4, 5, 6, 7].map(|ends_from| fits(7, ends_from)), [true, true, true, true, true, false]);
    let empty = compiled(&regex("a?")).unwrap();
    assert!(Track::new(empty, Room { tokens: 0, block: 1, ends_from: 0 }).is_ok());
}

#[test]
fn a_token_spans_several_parts_of_an_expression() {
    let tokens = ["ab", "a", "b", "bc", "c"];
    let spell = |(id, text): (u32, &str)| Spelling { id, bytes: text.as_bytes().into(), first: None };
    let vocabulary = Vocabulary::new(8, &[7], (0..).zip(tokens).map(spell));
    let guide = regex("abc").compile(&vocabulary, &LIMITS).unwrap();
    let track = Track::new(guide.into(), Room { tokens: 2, block: 2, ends_from: 0 }).unwrap();
    let allowed = |at| (0..9).filter(|token| track.candidates(at).contain(*token)).collect::<Vec<_>>();
    assert_eq!([allowed(0), allowed(1)], [vec![0, 1], vec![3, 4]]);
}

#[test]
fn the_first_token_is_read_as_decoders_spell_it_there() {
    let spell = |id, bytes: &[u8], first: Option<&[u8]>| Spelling {
        id,
        bytes: bytes.into(),
        first: first.map(Into::into),
    };
    let vocabulary = Vocabulary::new(3, &[2], [spell(0, b" a", Some(b"a")), spell(1, b"b", None)]);
    let guide = regex("a a|ba").compile(&vocabulary, &LIMITS).unwrap();
    let mut track = Track::new(guide.into(), Room { tokens: 2, block: 2, ends_from: 0 }).unwrap();
    assert!(!track.decide(0, 1) && track.decide(0, 0) && track.decide(1, 0));
}

#[test]
fn behind_the_end_of_a_text_there_is_only_its_end() {
    let guide = compiled(&regex("ab?")).unwrap();
    let mut track = Track::new(guide, Room { tokens: 5, block: 5, ends_from: 0 }).unwrap();
    assert!(track.decide(2, EOS));
    let allowed = |track: &Track, at| {
        (0..=EOS).filter(|token| track.candidates(at).contain(*token)).collect::<Vec<_>>()
    };
    assert_eq!(
        [0, 1, 2, 3, 4].map(|at| allowed(&track, at)),
        [vec![u32::from(b'a')], vec![u32::from(b'b'), EOS], vec![EOS], vec![EOS], vec![EOS],]
    );
    assert!(!track.decide(4, u32::from(b'b')));
    assert!(track.decide(1, EOS));
    assert_eq!(allowed(&track, 2), [EOS]);
}

#[test]
fn what_may_stay_keeps_a_finite_logit_and_everything_else_loses_it() {
    let guide = compiled(&regex("a")).unwrap();
    let track = Track::new(guide, Room { tokens: 1, block: 1, ends_from: 0 }).unwrap();
    // Longer than the vocabulary: some models' tables are padded.
    let mut logits = vec![5.0; 300];
    logits[usize::from(b'a')] = f32::MIN;
    track.candidates(0).keep(&mut logits);
    assert_eq!(logits[usize::from(b'a')], f32::MIN / 2.0);
    assert_eq!(logits.iter().filter(|logit| **logit == f32::MIN).count(), logits.len() - 1);
}
