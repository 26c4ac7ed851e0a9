//! Rules that mean to cost time or memory.

use std::sync::Arc;

use evotoken::guide::{GuideLimits, Room, Rule, Spelling, Track, Vocabulary};
use proptest::prelude::*;

use crate::spoil::{changes, cut, cuts, spoil};
use crate::{LIMITS, json, letters, reason, schema};

#[test]
fn an_expression_that_explodes_is_refused_for_its_size() {
    for expression in [
        "(a|b)*a(a|b){20}",
        "((a{1,100}){1,100}){1,100}",
        ".*x.{14}",
        r"(\w{1,90}\s){1,90}",
        "[a-z]{0,100000}",
        "(((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9})",
    ] {
        let message = reason(&Rule::Regex(expression.to_owned()));
        assert!(message.starts_with("is too large: "), "{expression}: {message}");
    }
    // What makes searching engines go back and forth is nothing to an automaton.
    crate::check(&Rule::Regex("(a*)*(a|aa)+$".to_owned()), &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"], &["ab"]);
}

#[test]
fn deep_and_long_rules_are_refused() {
    let deep = format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(reason(&Rule::Regex(deep)).contains("nest"));
    let long = Rule::Choice((0..9_000).map(|n| n.to_string()).collect());
    assert!(crate::compiled(&long).is_ok());
    let longer = Rule::Choice(vec!["a".repeat(LIMITS.max_bytes), "b".to_owned()]);
    assert!(reason(&longer).contains("it has 65537 bytes, at most 65536 are allowed"));
}

#[test]
fn a_schema_that_explodes_is_refused_for_its_size() {
    // Each definition names the next one twice.
    let doubling = |from: usize| {
        format!(
            r##""d{from}": {{"anyOf": [{{"$ref": "#/$defs/d{0}"}}, {{"$ref": "#/$defs/d{0}"}}]}}"##,
            from + 1
        )
    };
    let definitions: Vec<String> = (0..25).map(doubling).collect();
    let bomb = format!(
        r##"{{"$ref": "#/$defs/d0", "$defs": {{{}, "d25": {{"type": "null"}}}}}}"##,
        definitions.join(", ")
    );
    assert!(reason(&schema(&bomb)).starts_with("is too large: it writes out more than 20000 subschemas"));
    let nested =
        format!("{}{{\"type\": \"null\"}}{}", r#"{"type": "array", "items": "#.repeat(100), "}".repeat(100));
    assert!(reason(&schema(&nested)).contains("nests more than 64 subschemas"));
    let around =
        r##"{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}"##;
    assert_eq!(reason(&schema(around)), "matches no text");
    let trees = r##"{"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"},
        "r": {"$ref": "#/$defs/t"}, "m": {"$ref": "#/$defs/t"}}}}}"##;
    let grown = crate::compiled(&schema(trees));
    assert!(grown.is_ok() || reason(&schema(trees)).starts_with("is too large"), "{grown:?}");
    assert!(reason(&schema(r#"{"type": "string", "maxLength": 4000000000}"#)).starts_with("is too large"));
    assert!(reason(&schema(r#"{"type": "array", "minItems": 4000000000}"#)).starts_with("is too large"));
}

#[test]
fn a_table_over_the_limit_is_refused_before_it_is_full() {
    let limits = GuideLimits { max_transitions: 1_000, ..LIMITS };
    let error = Rule::Regex("[a-z]{0,2000}".to_owned()).compile(&letters(), &limits).unwrap_err().to_string();
    assert!(error.contains("more than 1000 transitions"), "{error}");
}

#[test]
fn what_would_cost_too_much_to_follow_is_refused() {
    let guide = crate::compiled(&Rule::Regex("[a-z]{0,4000}".to_owned())).unwrap();
    let follow = |tokens, block| Track::new(guide.clone(), Room { tokens, block, ends_from: 0 }).map(|_| ());
    assert_eq!([follow(8_192, 32), follow(1_000, 1_000), follow(1_000, 1)], [Ok(()); 3]);
    for (tokens, block) in [(8_192, 8_192), (8_192, 1)] {
        let message = follow(tokens, block).unwrap_err().to_string();
        let part = format!("is too large for answers of {tokens} tokens in blocks of {block}");
        assert!(message.starts_with(&part), "{message}");
    }
}

/// Words, numbers, punctuation and parts of characters, as many as LLaDA's vocabulary has.
fn large_vocabulary() -> Vocabulary {
    let count = 126_464_u32;
    let spell = |id: u32| {
        let word = |n: u32| -> String {
            n.to_string().bytes().map(|digit| char::from(b'a' + (digit - b'0') * 2)).collect()
        };
        let bytes = match id % 8 {
            _ if id < 256 => vec![id as u8],
            0 => format!(" {}", id / 8).into_bytes(),
            1 => char::from_u32(0x4e00 + id / 8).unwrap().to_string().into_bytes()
                [..2 + (id as usize / 8) % 2]
                .to_vec(),
            2 => format!("\": \"{}", word(id)).into_bytes(),
            3 | 4 => format!(" {}", word(id.wrapping_mul(2_654_435_761))).into_bytes(),
            _ => word(id.wrapping_mul(2_246_822_519)).into_bytes(),
        };
        Spelling { id, bytes: bytes.into(), first: None }
    };
    Vocabulary::new(count as usize, &[count - 1], (0..count - 1).map(spell))
}

#[test]
fn a_large_vocabulary_shares_the_transitions_of_its_tokens() {
    let person = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["name", "age", "tags"]}"#;
    let vocabulary = large_vocabulary();
    for (rule, most) in
        [(Rule::JsonObject, 40_000), (schema(person), 60_000), (Rule::Regex("[0-9]{1,5}".to_owned()), 100)]
    {
        let guide = rule.compile(&vocabulary, &LIMITS).unwrap();
        // Without sharing there would be millions.
        assert!(guide.transitions() <= most, "{rule:?}: {guide:?}");
    }
}

/// Decide an answer from right to left, if the rule can be followed at all.
fn follow(rule: &Rule) {
    let limits = GuideLimits { max_bytes: 1_000, max_states: 300, max_transitions: 3_000 };
    match rule.compile(&letters(), &limits) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(guide) => {
            let Ok(mut track) = Track::new(Arc::new(guide), Room { tokens: 12, block: 12, ends_from: 0 })
            else {
                return;
            };
            for at in (0..12).rev() {
                let candidates = track.candidates(at);
                let first = (0..=crate::EOS).rev().find(|token| candidates.contain(*token));
                assert!(first.is_some_and(|token| track.decide(at, token)), "stuck at {at}: {rule:?}");
            }
        }
    }
}

/// Keywords, and what may stand for them.
const WORDS: &[&str] = &[
    "type",
    "object",
    "array",
    "string",
    "integer",
    "number",
    "null",
    "boolean",
    "properties",
    "required",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "date",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "#",
    "#/$defs/d",
    "#/properties/a",
    "^a+$",
    "additionalProperties",
    "minProperties",
    "title",
];

proptest! {
    #[test]
    fn any_expression_is_refused_or_followed(
        odd in "[ab(|)*+?{},0-9\\[\\]^$.\\\\wdpLbB:é-]{0,24}", text in "\\PC{0,12}",
    ) {
        follow(&Rule::Regex(odd));
        follow(&Rule::Regex(text.clone()));
        follow(&Rule::Choice(vec![text, String::new()]));
    }

    #[test]
    fn any_schema_is_refused_or_followed(changes in changes(WORDS), cuts in cuts()) {
        let mut document = serde_json::json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 3},
            "b": {"type": "array", "items": {"$ref": "#/$defs/d"}, "minItems": 1}, "c": {"anyOf": [{"const": 1}, {"pattern": "^a$"}]}},
            "required": ["a", "b"], "$defs": {"d": {"enum": ["x", {"y": [null]}]}}});
        spoil(&mut document, &changes);
        let mut text = document.to_string().into_bytes();
        cut(&mut text, &cuts);
        if let Ok(document) = serde_json::from_slice(&text) {
            follow(&Rule::Schema(document));
        }
    }
}

#[test]
fn the_sound_schema_is_followed() {
    let rule = Rule::Schema(json(r#"{"type": "array", "items": {"enum": ["x"]}, "minItems": 1}"#));
    assert!(crate::compiled(&rule).is_ok());
    follow(&rule);
}
