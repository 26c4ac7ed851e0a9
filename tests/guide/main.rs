//! Rules to automata, and answers that follow them in any order.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod answers;
mod expressions;
mod hostile;
mod schemas;
#[path = "../hostile/spoil.rs"]
mod spoil;

use std::sync::Arc;

use evotoken::guide::{Guide, GuideError, GuideLimits, Json, Room, Rule, Spelling, Track, Vocabulary};

const LIMITS: GuideLimits = GuideLimits { max_bytes: 65_536, max_states: 8_192, max_transitions: 1_000_000 };

/// End-of-text of [`letters`].
const EOS: u32 = 256;

/// One token for each byte, and end-of-text.
fn letters() -> Vocabulary {
    let spell = |byte: u8| Spelling { id: byte.into(), bytes: [byte].into(), first: None };
    Vocabulary::new(257, &[EOS], (0..=255).map(spell))
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn schema(text: &str) -> Rule {
    Rule::Schema(json(text))
}

fn compiled(rule: &Rule) -> Result<Arc<Guide>, GuideError> {
    rule.compile(&letters(), &LIMITS).map(Arc::new)
}

/// Whether a text satisfies a rule: its bytes can be decided from left to right, and then its end.
fn takes(guide: &Arc<Guide>, text: &str) -> bool {
    let tokens = text.len() + 1;
    let room = Room { tokens, block: tokens, ends_from: 0 };
    Track::new(Arc::clone(guide), room).is_ok_and(|mut track| {
        let bytes = text.bytes().map(u32::from).chain([EOS]);
        bytes.enumerate().all(|(at, token)| track.decide(at, token))
    })
}

/// Check which texts a rule takes.
fn check(rule: &Rule, taken: &[&str], refused: &[&str]) {
    let guide = compiled(rule).unwrap_or_else(|error| panic!("{rule:?}: {error}"));
    for text in taken {
        assert!(takes(&guide, text), "{rule:?} refuses {text:?}");
    }
    for text in refused {
        assert!(!takes(&guide, text), "{rule:?} takes {text:?}");
    }
}

/// Why a rule makes no guide.
fn reason(rule: &Rule) -> String {
    compiled(rule).expect_err("not a rule").to_string()
}
