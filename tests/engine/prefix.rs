//! Sequences of a block-causal model that begin alike: they share what is computed, and nobody's answer knows of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use evotoken::decode::{Attention, DecodeOptions, Method, ScoringRule};
use evotoken::engine::batch::SlotId;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, ModelInfo, Reader, SequenceError, start};
use evotoken::service::SamplingOptions;
use evotoken::service::request::{Draft, GenerateRequest, PromptEcho};
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

use super::content::{BYTES_PER_POSITION, BYTES_PER_PREFIX, ContentBackend, Did};
use super::{answer, draft, empty, engine_limits, events, fake, one};

const LAYERS: usize = 4;

/// An engine over the scripted model, and what it is asked to do.
struct Scene {
    engine: EngineHandle,
    permit: Sender<()>,
    did: Receiver<Did>,
    metrics: Arc<Metrics>,
}

fn limits() -> EngineLimits {
    EngineLimits { prefix_cache_bytes: 1 << 20, ..engine_limits() }
}

fn block_causal() -> ModelInfo {
    ModelInfo { attention: Attention::BlockCausal, ..super::model() }
}

fn scene(limits: EngineLimits) -> Scene {
    scene_of(ContentBackend::new(LAYERS), block_causal(), limits)
}

fn scene_of(
    (backend, permit, did): (ContentBackend, Sender<()>, Receiver<Did>),
    model: ModelInfo,
    limits: EngineLimits,
) -> Scene {
    let metrics = Arc::new(Metrics::new());
    let engine = start(backend, model, limits, Arc::clone(&metrics)).unwrap();
    Scene { engine, permit, did, metrics }
}

impl Scene {
    fn submit(&self, requests: &[GenerateRequest]) -> Vec<Reader> {
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
    Draft { prompt: prompt.to_vec(), max_tokens, decode, ..empty() }
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
    assert_eq!(metrics["vllm:prefix_cache_queries_total"], 15.0);
    assert_eq!(metrics["vllm:prefix_cache_hits_total"], 10.0);
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
    let scene = scene_of((backend.tight_above(50), permit, did), block_causal(), limits());
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
        answer(&events(one(&engine, request(&[5, 6, 7], 8))));
    }
    drop((engine, seen));
    assert!(metrics.render().contains("\nevotoken_prefix_cache_queries_total 0\n"));
}

#[derive(Debug, Clone)]
enum Action {
    Submit(Vec<GenerateRequest>),
    Leave(usize),
    Ticks(usize),
}

/// Few prompts, blocks and seeds, so that many begin alike.
pub fn requests(markers: bool) -> impl Strategy<Value = GenerateRequest> {
    let marker = prop_oneof![20 => Just(9), 1 => Just(fake::FAIL), 1 => Just(fake::PANIC), 1 => Just(fake::NO_NUMBERS)];
    let sampled = (prop_oneof![2 => Just(0.0), 1 => Just(0.8)], 0u64..2, proptest::option::of(Just(2usize)));
    let shape = (1usize..4, 1usize..14, prop_oneof![Just(3usize), Just(4)]);
    let all = (shape, marker, sampled, any::<(bool, bool, bool)>());
    all.prop_map(move |((length, max_tokens, block_length), marker, (temperature, seed, logprobs), flags)| {
        let marker = if markers { marker } else { 9 };
        let prompt = [[5, 6, 7, 8, marker, 10].repeat(length), vec![11]].concat();
        let decode = DecodeOptions {
            method: Some(if flags.0 { Method::Mask } else { Method::Evotoken }),
            block_length: Some(block_length),
            threshold: Some(if flags.1 { 0.6 } else { 0.9 }),
            ..DecodeOptions::default()
        };
        let sampling = SamplingOptions { logprobs, ..SamplingOptions::default() };
        let echo = if flags.2 && logprobs.is_some() {
            PromptEcho::Scored(ScoringRule::Chain)
        } else {
            PromptEcho::Off
        };
        draft(Draft { prompt, max_tokens, decode, temperature, seed, sampling, echo, ..empty() })
    })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => proptest::collection::vec(requests(true), 1..5).prop_map(Action::Submit),
        2 => (0usize..40).prop_map(Action::Leave),
        3 => (1usize..12).prop_map(Action::Ticks),
    ];
    proptest::collection::vec(action, 1..16)
}

fn marked(request: &GenerateRequest) -> bool {
    request.prompt().iter().any(|id| [fake::FAIL, fake::PANIC, fake::NO_NUMBERS].contains(id))
}

/// What is kept is within its bounds at any time, and given back to the byte.
fn check(did: &[Did], limits: &EngineLimits, bytes_at_the_end: f64) {
    let (mut open, mut kept) = (HashMap::<SlotId, usize>::new(), HashMap::new());
    for did in did {
        match did {
            Did::Opened(slot, canvas) => drop(open.insert(*slot, canvas * BYTES_PER_POSITION)),
            Did::Closed(slot) => drop(open.remove(slot)),
            Did::Kept(id, _, stretch) => {
                kept.insert(*id, stretch.len() * (BYTES_PER_POSITION + 4) + BYTES_PER_PREFIX);
            }
            Did::Forgot(id) => drop(kept.remove(id)),
            Did::Restored(..) | Did::Stepped(_) | Did::Began(_) => {}
        }
        let (slots, prefixes): (usize, usize) = (open.values().sum(), kept.values().sum());
        assert!(prefixes <= limits.prefix_cache_bytes && slots + prefixes <= limits.kv_bytes, "{did:?}");
    }
    assert!(open.is_empty());
    assert_eq!(kept.values().sum::<usize>() as f64, bytes_at_the_end);
}

fn run(actions: &[Action], limits: &EngineLimits, layers: usize) {
    let free = EngineLimits { prefix_cache_bytes: 0, slots: 1, ..engine_limits() };
    // Its ticks wait for nobody.
    let Scene { engine: alone, .. } = scene_of(ContentBackend::new(1), block_causal(), free);
    let scene = scene_of(ContentBackend::new(layers), block_causal(), limits.clone());
    let mut readers = Vec::new();
    for action in actions {
        match action {
            Action::Submit(some) => {
                let new = std::iter::zip(scene.submit(some), some).map(|(reader, of)| (Some(reader), of));
                readers.extend(new);
            }
            Action::Leave(number) => drop(readers.get_mut(*number).map(|(reader, _)| reader.take())),
            Action::Ticks(count) => (0..*count).for_each(|_| scene.permit.send(()).unwrap()),
        }
    }
    let faults = readers.iter().any(|(_, request)| marked(request));
    let Scene { engine, permit, did, metrics } = scene;
    drop((permit, engine));
    for (reader, request) in readers {
        let Some(reader) = reader else { continue };
        let events = self::events(reader);
        let failed = events.last() == Some(&BlockEvent::Failed(SequenceError::Backend));
        // A neighbour may have failed the tick.
        if !(failed && faults) {
            assert_eq!(self::events(one(&alone, request.clone())), events);
        }
    }
    let did: Vec<Did> = did.iter().collect();
    let text = metrics.render();
    let bytes = text.lines().find_map(|line| line.strip_prefix("evotoken_prefix_cache_bytes "));
    check(&did, limits, bytes.unwrap().parse().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn any_schedule_gives_the_answers_that_nothing_kept_gives(
        actions in actions(), slots in 1usize..6, kv_bytes in 350usize..2000, cache in 0usize..1000,
        rows_per_tick in 4usize..80, layers in prop_oneof![1 => Just(1usize), 1 => 2usize..5],
    ) {
        let limits = EngineLimits { slots, kv_bytes, prefix_cache_bytes: cache, rows_per_tick, ..engine_limits() };
        run(&actions, &limits, layers);
    }
}
