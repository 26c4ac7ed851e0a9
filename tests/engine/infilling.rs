//! A suffix is seen by all and changed by nobody, with a real model.

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, Boundary, CacheMode, DecodeOptions, Method, State};
use evotoken::engine::batch::{Backend, SlotId, StepBatch, StepOutput};
use evotoken::engine::request::{Draft, GenerateRequest, RequestError};
use evotoken::engine::variant::Variant;
use evotoken::model::ModelSource;

use super::batching::{MASK, VOCAB, fixture};

const PROMPT: [u32; 3] = [5, 17, 3];
const ROOM: usize = 7;
const SLOT: SlotId = SlotId { index: 0, generation: 0 };

fn settings() -> impl Iterator<Item = DecodeOptions> {
    let methods = [Method::Mask, Method::Evotoken];
    let caches = [CacheMode::None, CacheMode::Prefix, CacheMode::Dual];
    let boundaries = [Boundary::Hard, Boundary::Lagged];
    let all = methods.into_iter().flat_map(move |method| caches.map(|cache| (method, cache)));
    all.flat_map(move |(method, cache)| boundaries.map(|boundary| (method, cache, boundary))).map(
        |(method, cache, boundary)| DecodeOptions {
            method: Some(method),
            cache: Some(cache),
            boundary: Some(boundary),
            steps: Some(5),
            block_length: Some(3),
            ..DecodeOptions::default()
        },
    )
}

fn state(options: DecodeOptions, suffix: &[u32]) -> State {
    let params = options.resolve(ROOM, VOCAB).unwrap();
    State::new(&PROMPT, ROOM, params, Attention::Full, MASK).with_suffix(suffix)
}

fn step(backend: &mut CandleBackend, state: &State) -> StepOutput {
    let mut batch = StepBatch::default();
    batch.push_step(state, &state.plan(), SLOT, None);
    backend.step(&batch).unwrap()
}

#[test]
fn the_gap_is_filled_and_the_suffix_stays() {
    let source = ModelSource::folder(fixture("llada-tiny"));
    let mut backend = CandleBackend::load(&source, DeviceChoice::Cpu).unwrap();
    let suffix = [42, 9, 61, 120];
    for options in settings() {
        backend.open_slot(SLOT, PROMPT.len() + ROOM + suffix.len()).unwrap();
        let mut state = state(options, &suffix);
        assert_eq!(state.blocks(), 3);
        let mut steps = 0;
        while !state.done() {
            let plan = state.plan();
            assert!(plan.windows.iter().all(|w| w.targets.end <= PROMPT.len() + ROOM), "{plan:?}");
            assert!(plan.windows.iter().all(|w| w.visible == PROMPT.len() + ROOM + suffix.len()), "{plan:?}");
            let output = step(&mut backend, &state);
            state.advance(output.rows(0, plan.needed()));
            steps += 1;
        }
        assert_eq!(steps, 5, "{options:?}");
        assert_eq!(state.tokens()[..PROMPT.len()], PROMPT);
        assert_eq!(state.tokens()[PROMPT.len() + ROOM..], suffix);
        assert!(!state.tokens().contains(&MASK));
        assert_eq!(state.decided().count(), ROOM);
        backend.close_slot(SLOT);
    }
}

#[test]
fn what_follows_changes_what_is_filled_in() {
    let source = ModelSource::folder(fixture("llada-tiny"));
    let mut backend = CandleBackend::load(&source, DeviceChoice::Cpu).unwrap();
    backend.open_slot(SLOT, PROMPT.len() + ROOM + 4).unwrap();
    let mut first = |suffix: &[u32]| step(&mut backend, &state(DecodeOptions::default(), suffix)).guesses;
    let found = first(&[42, 9, 61, 120]);
    assert_eq!(found, first(&[42, 9, 61, 120]));
    assert_ne!(found, first(&[42, 9, 61, 121]));
}

#[test]
fn a_block_causal_model_fills_no_gap() {
    let variant = Variant { attention: Attention::BlockCausal, adapter: None };
    let filled = |suffix: &[u32]| {
        let (variant, suffix) = (variant.clone(), suffix.to_vec());
        let draft = Draft { variant, prompt: vec![5], max_tokens: 4, suffix, ..super::empty() };
        GenerateRequest::new(draft, &super::request_limits())
    };
    assert!(matches!(filled(&[6]), Err(RequestError::Invalid { param, .. }) if param == "suffix"));
    assert!(filled(&[]).is_ok());
}
