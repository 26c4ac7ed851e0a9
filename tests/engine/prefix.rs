//! Sequences of a block-causal model that begin alike: they share what is computed, and nobody's answer knows of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use evotoken::decode::{Attention, DecodeOptions, ScoringRule};
use evotoken::engine::request::{Draft, GenerateRequest, PromptEcho};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::engine::variant::Variant;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, Reader, SequenceError, start};
use evotoken::telemetry::metrics::Metrics;

use super::content::{BYTES_PER_POSITION, BYTES_PER_PREFIX, ContentBackend, Did};
use super::{answer, draft, empty, engine_limits, events, fake, one};

const LAYERS: usize = 4;

/// An engine over the scripted model, and what it is asked to do.
pub struct Scene {
    pub engine: EngineHandle,
    pub permit: Sender<()>,
    pub did: Receiver<Did>,
    pub metrics: Arc<Metrics>,
}

fn limits() -> EngineLimits {
    EngineLimits { prefix_cache_bytes: 1 << 20, ..engine_limits() }
}

pub fn block_causal() -> Variant {
    Variant { attention: Attention::BlockCausal, adapter: None }
}

fn scene(limits: EngineLimits) -> Scene {
    scene_of(ContentBackend::new(LAYERS), limits)
}

pub fn scene_of(
    (backend, permit, did): (ContentBackend, Sender<()>, Receiver<Did>),
    limits: EngineLimits,
) -> Scene {
    let metrics = Arc::new(Metrics::new());
    metrics.name_model("m");
    let engine = start(backend, super::model(), limits, Arc::clone(&metrics)).unwrap();
    Scene { engine, permit, did, metrics }
}

impl Scene {
    pub fn submit(&self, requests: &[GenerateRequest]) -> Vec<Reader> {
        self.engine.submit(requests.to_vec(), None).unwrap()
    }

    /// Whole answers, with nobody else there.
    fn answers(&self, requests: &[GenerateRequest]) -> Vec<Vec<BlockEvent>> {
        let readers = self.submit(requests);
        // More than enough.
        (0..1000).for_each(|_| self.permit.send(()).unwrap());
        readers.into_iter().map(events).collect()
    }

    /// Let go of the engine; returns what it did, and its metrics.
    fn end(self) -> (Vec<Did>, HashMap<String, f64>) {
        drop((self.permit, self.engine));
        let did = self.did.iter().collect();
        let text = self.metrics.render();
        let numbers = text.lines().filter(|line| !line.starts_with('#'));
        let numbers = numbers.filter_map(|line| line.rsplit_once(' '));
        (did, numbers.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }
}

/// A draft of four tokens a block, of which each step decides two.
fn ask(prompt: &[u32], max_tokens: usize) -> Draft {
    let decode =
        DecodeOptions { block_length: Some(4), steps: Some(max_tokens.div_ceil(2)), ..Default::default() };
    Draft { variant: block_causal(), prompt: prompt.to_vec(), max_tokens, decode, ..empty() }
}

fn request(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    draft(Draft {
        sampling: SamplingOptions { ignore_eos: true, ..Default::default() },
        ..ask(prompt, max_tokens)
    })
}

/// Per pass the windows that were fed in.
fn passes(did: &[Did]) -> Vec<Vec<Range<usize>>> {
    let windows = |did: &Did| match did {
        Did::Stepped(windows) => Some(windows.iter().map(|(_, window)| window.clone()).collect()),
        _ => None,
    };
    did.iter().filter_map(windows).collect()
}

fn count(did: &[Did], what: impl Fn(&Did) -> bool) -> usize {
    did.iter().filter(|did| what(did)).count()
}

#[test]
fn of_several_that_start_in_one_tick_one_computes_the_prompt() {
    let scene = scene(limits());
    let three = scene.answers(&vec![request(&[5, 6, 7, 8, 9], 4); 3]);
    assert!(three[0] == three[1] && three[0] == three[2]);
    let (did, metrics) = scene.end();
    assert_eq!(passes(&did), [vec![0..5, 5..9], vec![5..9, 5..9, 5..9], vec![5..9, 5..9]]);
    assert_eq!(answer(&three[0]).2.nfe, 2, "what is skipped is no forward pass less");
    assert_eq!(metrics["evotoken_prefix_cache_queries_total"], 3.0);
    assert_eq!(metrics["evotoken_prefix_cache_hits_total"], 2.0);
    assert_eq!(metrics["evotoken_prefix_cache_reused_tokens_total"], 10.0);
    assert_eq!(metrics["vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"}"], 15.0);
    assert_eq!(metrics["vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"}"], 10.0);
    // K/V, and the tokens that it is found by.
    let bytes = 5 * BYTES_PER_POSITION + BYTES_PER_PREFIX + 5 * 4;
    assert_eq!(metrics["evotoken_prefix_cache_bytes"], bytes as f64);
    assert_eq!(metrics["evotoken_kv_bytes_used"], 0.0);
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "passes of one window")]
fn a_question_that_comes_again_feeds_in_nothing_but_its_blocks() {
    let scene = scene(limits());
    let first = scene.answers(&[request(&[5, 6, 7], 10)]);
    let again = scene.answers(&[request(&[5, 6, 7], 10)]);
    let longer = scene.answers(&[request(&[5, 6, 7], 12)]);
    assert_eq!(first, again);
    let (did, metrics) = scene.end();
    let fresh = [vec![0..3, 3..7], vec![3..7], vec![3..7, 7..11], vec![7..11], vec![7..11, 11..13]];
    let reused = [vec![3..7], vec![3..7], vec![7..11], vec![7..11]];
    let all = [fresh.as_slice(), &reused, &[vec![11..13]], &reused, &[vec![11..15], vec![11..15]]].concat();
    assert_eq!(passes(&did), all);
    assert_eq!(answer(&first[0]).0[..8], answer(&longer[0]).0[..8]);
    assert_eq!(metrics["evotoken_prefix_cache_reused_tokens_total"], 2.0 * 11.0);
}

#[test]
fn blocks_with_other_borders_or_tokens_are_computed() {
    let scene = scene(limits());
    let other = |block_length| {
        let ask = ask(&[5, 6, 7], 12);
        draft(Draft { decode: DecodeOptions { block_length: Some(block_length), ..ask.decode }, ..ask })
    };
    scene.answers(&[other(4)]);
    scene.answers(&[other(3)]);
    scene.answers(&[request(&[5, 6, 7, 8], 4)]);
    scene.answers(&[request(&[5, 6], 4)]);
    let (did, metrics) = scene.end();
    assert_eq!(metrics["evotoken_prefix_cache_hits_total"], 1.0, "{did:?}");
    assert_eq!(metrics["evotoken_prefix_cache_reused_tokens_total"], 3.0);
}

#[test]
fn others_wait_for_a_long_prompt_and_go_on_without_whoever_left() {
    let scene = scene(EngineLimits { rows_per_tick: 16, ..limits() });
    let mut readers = scene.submit(&vec![request(&[5; 40], 4); 3]);
    scene.permit.send(()).unwrap();
    let slot = loop {
        if let Did::Began(slot) = scene.did.recv().unwrap() {
            break slot;
        }
    };
    drop(readers.remove(0));
    drop(scene.permit);
    let answers: Vec<_> = readers.into_iter().map(events).collect();
    assert_eq!(answers[0], answers[1]);
    drop(scene.engine);
    let did: Vec<Did> = scene.did.iter().collect();
    assert_eq!(count(&did, |did| matches!(did, Did::Kept(_, from, _) if *from == slot)), 0);
    assert_eq!(count(&did, |did| matches!(did, Did::Kept(..))), 1);
    assert_eq!(count(&did, |did| matches!(did, Did::Restored(..))), 1);
}

#[test]
fn a_failed_pass_keeps_nothing_and_spoils_nothing() {
    let scene = scene(limits());
    let expected = scene.answers(&[request(&[5, 6, 7], 8)]);
    for marker in [fake::FAIL, fake::PANIC, fake::NO_NUMBERS] {
        for _ in 0..2 {
            let mut failed = scene.answers(&[request(&[5, 6, marker], 8), request(&[5, 6, 7], 8)]);
            assert_eq!(failed[0].last(), Some(&BlockEvent::Failed(SequenceError::Backend)));
            if failed[1] != expected[0] {
                assert_eq!(failed.pop().unwrap().pop(), Some(BlockEvent::Failed(SequenceError::Backend)));
            }
        }
    }
    assert_eq!(scene.answers(&[request(&[5, 6, 7], 8)]), expected);
    let (did, _) = scene.end();
    assert_eq!(count(&did, |did| matches!(did, Did::Kept(..))), 2, "the prompt and a block");
}

#[test]
fn a_scored_prompt_is_written_over_what_scoring_left() {
    let scene = scene(limits());
    let logprobs = SamplingOptions { logprobs: Some(1), ..Default::default() };
    let scored = || {
        draft(Draft {
            echo: PromptEcho::Scored(ScoringRule::Chain),
            sampling: logprobs.clone(),
            ..ask(&[5, 6, 7], 8)
        })
    };
    let plain = scene.answers(&[draft(Draft { sampling: logprobs.clone(), ..ask(&[5, 6, 7], 8) })]);
    let of_scored = scene.answers(&[scored(), scored()]);
    for answer in &of_scored {
        assert!(matches!(answer[1], BlockEvent::Scored { .. }));
        assert_eq!(answer[2..], plain[0][1..]);
    }
    let (did, _) = scene.end();
    assert!(count(&did, |did| matches!(did, Did::Restored(..))) >= 2);
}

#[test]
fn what_was_used_longest_ago_makes_room_at_the_bound() {
    let of = |positions: usize| positions * (BYTES_PER_POSITION + 4) + BYTES_PER_PREFIX;
    let scene = scene(EngineLimits { prefix_cache_bytes: 2 * of(10), ..limits() });
    let [a, b, c] = [6, 7, 8].map(|token| request(&[token; 10], 4));
    // The last one finds its prompt gone, and drives out the one that was used longer ago.
    for one in [&a, &b, &a, &c, &a, &b] {
        scene.answers(std::slice::from_ref(one));
    }
    let (did, metrics) = scene.end();
    assert_eq!(count(&did, |did| matches!(did, Did::Restored(..))), 2);
    assert_eq!(count(&did, |did| matches!(did, Did::Kept(..))), 4);
    assert_eq!(metrics["evotoken_prefix_cache_evictions_total"], 2.0);
    assert_eq!(metrics["evotoken_prefix_cache_bytes"], 2.0 * of(10) as f64);
}

#[test]
fn a_prompt_that_has_no_place_is_nothing_to_wait_for() {
    let scene = scene(EngineLimits { prefix_cache_bytes: 40, ..limits() });
    scene.answers(&vec![request(&[5; 10], 4); 3]);
    let (did, metrics) = scene.end();
    assert_eq!(passes(&did)[0].len(), 6);
    assert_eq!(count(&did, |did| matches!(did, Did::Kept(..) | Did::Restored(..))), 0);
    assert_eq!(metrics["evotoken_prefix_cache_queries_total"], 3.0);
}

#[test]
fn a_slot_goes_before_what_is_kept() {
    // The slot of the second one leaves no room.
    let scene = scene(EngineLimits { kv_bytes: 300, ..limits() });
    scene.answers(&[request(&[5; 10], 4)]);
    scene.answers(&[request(&[6; 26], 4)]);
    let (did, metrics) = scene.end();
    let forgot = did.iter().position(|did| matches!(did, Did::Forgot(_))).unwrap();
    assert!(matches!(did[forgot + 1], Did::Opened(_, 30)), "{did:?}");
    assert_eq!(metrics["evotoken_prefix_cache_bytes"], 0.0);
}

#[test]
fn where_there_is_less_memory_than_was_thought_all_that_is_kept_makes_room() {
    let (backend, permit, did) = ContentBackend::new(LAYERS);
    let scene = scene_of((backend.tight_above(50), permit, did), limits());
    scene.answers(&[request(&[5; 10], 4), request(&[6; 10], 4)]);
    let large = scene.answers(&[request(&[7; 60], 4)]);
    assert_eq!(answer(&large[0]).2.tokens, 4);
    let (did, _) = scene.end();
    assert_eq!(count(&did, |did| matches!(did, Did::Forgot(..))), 2);
}

#[test]
fn full_attention_shares_nothing() {
    let (backend, seen) = fake::FakeBackend::new(None);
    let metrics = Arc::new(Metrics::new());
    let engine = start(backend, super::model(), limits(), Arc::clone(&metrics)).unwrap();
    for _ in 0..2 {
        answer(&events(one(&engine, super::request(&[5, 6, 7], 8))));
    }
    drop((engine, seen));
    assert!(metrics.render().contains("\nevotoken_prefix_cache_queries_total 0\n"));
}
