//! Answers that follow a rule, with a real model of random weights: left alone it writes nothing of the kind.

use std::sync::Arc;

use evotoken::decode::{Boundary, CacheMode, DecodeOptions, Method};
use evotoken::engine::FinishReason;
use evotoken::engine::request::{Draft, GenerateRequest, Guided, RequestError};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::guide::{GuideLimits, Rule, Spelling, Vocabulary};

use super::batching::{EOS, VOCAB, backend, engine, limits};
use super::{answer, empty, events};

/// Expressions, and the fewest tokens that satisfy them.
const RULES: [(&str, usize); 4] = [
    ("[0-9]{1,3}([-+*/][0-9]{1,3})+", 1),
    ("(ab|ba)*7?", 0),
    ("a{3}b{2,5}|[0-9]{4}", 2),
    ("(a|b)*a(a|b){4}", 2),
];

/// The texts of tokens: single letters, then pairs and triples of them. From 100 on tokens are in no text.
fn word(id: u32) -> Option<String> {
    const LETTERS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '+', '-', '*', '/', 'a', 'b'];
    let letter = |n: u32| LETTERS[n as usize % LETTERS.len()];
    match id {
        2..18 => Some(letter(id - 2).to_string()),
        18..60 => Some([letter(id * 7), letter(id * 3 + 1)].iter().collect()),
        60..100 => Some([letter(id * 5), letter(id), letter(id / 3)].iter().collect()),
        _ => None,
    }
}

pub fn guide(rule: usize) -> Guided {
    let spell = |id| Some(Spelling { id, bytes: word(id)?.into_bytes().into(), first: None });
    let vocabulary = Vocabulary::new(VOCAB, &[EOS], (0..VOCAB as u32).filter_map(spell));
    let limits = GuideLimits { max_bytes: 100, max_states: 100, max_transitions: 10_000 };
    let guide = Rule::Regex(RULES[rule].0.to_owned()).compile(&vocabulary, &limits).unwrap();
    Guided { guide: Arc::new(guide), param: "guided_regex".to_owned() }
}

fn request(draft: Draft) -> Result<GenerateRequest, RequestError> {
    GenerateRequest::new(draft, &limits())
}

/// Every way to decode, in blocks of four.
fn settings() -> impl Iterator<Item = DecodeOptions> {
    let methods = [Method::Mask, Method::SoftMask, Method::SoftToken, Method::Evotoken];
    let caches = [CacheMode::None, CacheMode::Prefix, CacheMode::Dual];
    let boundaries = [Boundary::Hard, Boundary::Lagged];
    let schedules = [
        DecodeOptions { steps: Some(4), ..DecodeOptions::default() },
        DecodeOptions { threshold: Some(0.2), ..DecodeOptions::default() },
        DecodeOptions { factor: Some(1.5), ..DecodeOptions::default() },
    ];
    let all = methods.into_iter().flat_map(move |method| caches.map(|cache| (method, cache)));
    let all = all.flat_map(move |(method, cache)| boundaries.map(|boundary| (method, cache, boundary)));
    all.flat_map(move |(method, cache, boundary)| {
        schedules.map(|schedule| DecodeOptions {
            method: Some(method),
            cache: Some(cache),
            boundary: Some(boundary),
            block_length: Some(4),
            ..schedule
        })
    })
}

#[test]
fn every_way_to_decode_writes_what_the_rule_wants() {
    let engine = engine(backend(), 16, 1 << 16);
    let mut drafts = Vec::new();
    for (number, decode) in settings().enumerate() {
        for (rule, (_, least)) in RULES.iter().enumerate() {
            let seed = (number * RULES.len() + rule) as u64;
            drafts.push((
                rule,
                Draft {
                    prompt: vec![5, 6 + seed as u32 % 90, 7],
                    max_tokens: 9 + seed as usize % 5,
                    suffix: if seed.is_multiple_of(2) { vec![40, 41] } else { Vec::new() },
                    decode,
                    temperature: [0.0, 1.0][seed as usize / 2 % 2],
                    sampling: SamplingOptions {
                        min_tokens: Some(least + seed as usize % 3),
                        top_p: seed.is_multiple_of(3).then_some(0.5),
                        frequency_penalty: seed.is_multiple_of(5).then_some(2.0),
                        // Whatever is done to the logits.
                        repetition_penalty: seed.is_multiple_of(7).then_some(1e38),
                        logit_bias: vec![(2, 100.0), (EOS, [-100.0, 0.0][seed as usize % 2])],
                        logprobs: Some(2),
                        ..SamplingOptions::default()
                    },
                    seed,
                    guide: Some(guide(rule)),
                    ..empty()
                },
            ));
        }
    }
    let mut revisions = 0;
    for (rule, draft) in drafts {
        let asked = format!("{draft:?}");
        let min_tokens = draft.sampling.min_tokens.unwrap();
        let reader = super::one(&engine, request(draft).unwrap_or_else(|error| panic!("{asked}: {error}")));
        let (ids, reason, progress) = answer(&events(reader));
        let text: String = ids.iter().filter_map(|id| word(*id)).collect();
        let expression = regex::Regex::new(&format!("^(?:{})$", RULES[rule].0)).unwrap();
        assert!(ids.iter().all(|id| word(*id).is_some()) && expression.is_match(&text), "{asked}: {text:?}");
        assert!(ids.len() >= min_tokens, "{asked}: {text:?}");
        assert_eq!(reason, FinishReason::Stop, "{asked}");
        revisions += progress.revisions;
    }
    assert!(revisions > 0, "no soft token ever changed");
}

#[test]
fn an_answer_without_room_for_its_end_is_complete_all_the_same() {
    let engine = engine(backend(), 1, 1 << 16);
    let sampling = SamplingOptions { ignore_eos: true, ..SamplingOptions::default() };
    let draft = Draft { prompt: vec![5], max_tokens: 6, sampling, guide: Some(guide(1)), ..empty() };
    let (ids, reason, progress) = answer(&events(super::one(&engine, request(draft).unwrap())));
    assert_eq!((ids.len(), reason, progress.tokens), (6, FinishReason::Stop, 6));
}

#[test]
fn a_rule_that_no_answer_of_this_length_satisfies_is_refused() {
    let refused = |rule, max_tokens, min_tokens, block_length| {
        let sampling = SamplingOptions { min_tokens, ..SamplingOptions::default() };
        let decode = DecodeOptions { block_length, ..DecodeOptions::default() };
        let draft =
            Draft { prompt: vec![5], max_tokens, sampling, decode, guide: Some(guide(rule)), ..empty() };
        request(draft).err()
    };
    assert_eq!(refused(2, 9, None, None), None);
    let error = RequestError::invalid("guided_regex", "no text of at most 1 tokens satisfies it");
    assert_eq!(refused(2, 1, None, None), Some(error));
    // Eight letters and the end are at most eight tokens.
    assert_eq!(refused(2, 12, Some(8), None), None);
    let message = "no text of at most 12 tokens satisfies it that has at least 9";
    assert_eq!(refused(2, 12, Some(9), None), Some(RequestError::invalid("guided_regex", message)));
}
