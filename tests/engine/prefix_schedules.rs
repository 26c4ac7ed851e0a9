//! Schedules of block-causal sequences that begin alike, of a model and its adapters: what is kept changes no answer, is
//! within its bounds, and goes with its adapter.

use std::collections::{HashMap, HashSet};

use evotoken::decode::{DecodeOptions, Method, ScoringRule};
use evotoken::engine::batch::{AdapterId, SlotId};
use evotoken::engine::request::{Draft, PromptEcho};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::engine::variant::Variant;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, SequenceError};
use proptest::prelude::*;

use super::content::{BYTES_PER_POSITION, BYTES_PER_PREFIX, ContentBackend, Did};
use super::prefix::{Scene, block_causal, scene_of};
use super::{draft, empty, engine_limits, events, fake, one};

/// Adapters that are served at any time, beside the model.
const ADAPTERS: usize = 2;

#[derive(Debug, Clone)]
enum Action {
    /// Each of the model (0) or of one of the adapters.
    Submit(Vec<(usize, Draft)>),
    Leave(usize),
    Ticks(usize),
    /// An adapter is unloaded, and another one takes its place.
    Reload(usize),
}

/// Few prompts, blocks and seeds, so that many begin alike.
pub fn drafts(markers: bool) -> impl Strategy<Value = Draft> {
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
        let variant = block_causal();
        Draft { variant, prompt, max_tokens, decode, temperature, seed, sampling, echo, ..empty() }
    })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => proptest::collection::vec((0..=ADAPTERS, drafts(true)), 1..5).prop_map(Action::Submit),
        2 => (0usize..40).prop_map(Action::Leave),
        3 => (1usize..12).prop_map(Action::Ticks),
        1 => (0..ADAPTERS).prop_map(Action::Reload),
    ];
    proptest::collection::vec(action, 1..16)
}

fn marked(draft: &Draft) -> bool {
    draft.prompt.iter().any(|id| [fake::FAIL, fake::PANIC, fake::NO_NUMBERS].contains(id))
}

/// What is kept is within its bounds at any time, and given back to the byte.
fn check(did: &[Did], limits: &EngineLimits, adapters: usize, bytes_at_the_end: f64) {
    let (mut open, mut kept, mut dropped) = (HashMap::<SlotId, usize>::new(), HashMap::new(), HashSet::new());
    for did in did {
        match did {
            Did::Opened(slot, canvas) => drop(open.insert(*slot, canvas * BYTES_PER_POSITION)),
            Did::Closed(slot) => drop(open.remove(slot)),
            Did::Kept(id, _, stretch) => {
                kept.insert(*id, stretch.len() * (BYTES_PER_POSITION + 4) + BYTES_PER_PREFIX);
            }
            Did::Forgot(id) => drop(kept.remove(id)),
            Did::Dropped(id) => drop(dropped.insert(*id)),
            Did::Restored(..) | Did::Stepped(_) | Did::Began(_) => {}
        }
        let (slots, prefixes): (usize, usize) = (open.values().sum(), kept.values().sum());
        assert!(prefixes <= limits.prefix_cache_bytes && slots + prefixes <= limits.kv_bytes, "{did:?}");
    }
    assert!(open.is_empty());
    assert_eq!(dropped.len(), adapters, "all are given back");
    assert_eq!(kept.values().sum::<usize>() as f64, bytes_at_the_end);
}

/// The model and its adapters, with numbers that count from `first`.
fn variants(engine: &EngineHandle, first: u64) -> Vec<Variant> {
    let adapters = (first..).take(ADAPTERS).map(|number| adapter(engine, number));
    std::iter::once(block_causal()).chain(adapters).collect()
}

fn adapter(engine: &EngineHandle, number: u64) -> Variant {
    Variant { adapter: Some(engine.hold(AdapterId(number))), ..block_causal() }
}

fn run(actions: &[Action], limits: &EngineLimits, layers: usize) {
    let free = EngineLimits { prefix_cache_bytes: 0, slots: 1, ..engine_limits() };
    let scene = scene_of(ContentBackend::new(layers), limits.clone());
    let mut served = variants(&scene.engine, 1);
    let mut next = 1 + ADAPTERS as u64;
    let mut readers = Vec::new();
    for action in actions {
        match action {
            Action::Submit(some) => {
                let of = |(number, draft): &(usize, Draft)| Draft {
                    variant: served[*number].clone(),
                    ..draft.clone()
                };
                let drafts: Vec<Draft> = some.iter().map(of).collect();
                let requests: Vec<_> = drafts.iter().cloned().map(draft).collect();
                let new = std::iter::zip(scene.submit(&requests), some);
                // By the number of its adapter, so as not to hold on to it.
                let new = new
                    .zip(drafts)
                    .map(|((reader, (_, draft)), of)| (Some(reader), (of.variant.adapter_id(), draft)));
                readers.extend(new);
            }
            Action::Leave(number) => drop(readers.get_mut(*number).map(|(reader, _)| reader.take())),
            Action::Ticks(count) => (0..*count).for_each(|_| scene.permit.send(()).unwrap()),
            Action::Reload(number) => {
                served[1 + number] = adapter(&scene.engine, next);
                next += 1;
            }
        }
    }
    drop(served);
    let faults = readers.iter().any(|(_, (_, draft))| marked(draft));
    let Scene { engine, permit, did, metrics } = scene;
    drop((permit, engine));
    for (reader, (id, asked)) in readers {
        let Some(reader) = reader else { continue };
        let events = self::events(reader);
        let failed = events.last() == Some(&BlockEvent::Failed(SequenceError::Backend));
        // A neighbour may have failed the tick.
        if !(failed && faults) {
            // A model of its own, whose ticks wait for nobody.
            let Scene { engine: alone, .. } = scene_of(ContentBackend::new(1), free.clone());
            let adapter = id.map(|id| alone.hold(id));
            let request = draft(Draft { variant: Variant { adapter, ..block_causal() }, ..asked.clone() });
            assert_eq!(self::events(one(&alone, request)), events);
        }
    }
    let did: Vec<Did> = did.iter().collect();
    let text = metrics.render();
    let bytes = text.lines().find_map(|line| line.strip_prefix("evotoken_prefix_cache_bytes "));
    check(&did, limits, next as usize - 1, bytes.unwrap().parse().unwrap());
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
