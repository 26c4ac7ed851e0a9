//! Golden cases of block-causal models through the engine, each several times: what is shared changes nothing.

use std::sync::Arc;

use evotoken::decode::Attention;
use evotoken::engine::request::{Draft, GenerateRequest, Limits};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::engine::variant::Variant;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::telemetry::metrics::Metrics;

use super::Ticks;
use super::decode::{Case, Cases};

fn request(case: &Case, variant: &Variant, vocab: usize, mask_id: u32) -> GenerateRequest {
    let limits = Limits::of_model(&ModelInfo { mask_id, eos_ids: vec![] }, vocab, 512);
    let draft = Draft {
        variant: variant.clone(),
        decode: case.config.options(),
        sampling: SamplingOptions { logprobs: Some(3), ..SamplingOptions::default() },
        ..Draft::new(case.prompt.clone(), case.config.gen_length)
    };
    GenerateRequest::new(draft, &limits).unwrap()
}

fn events(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> Vec<Vec<BlockEvent>> {
    let all = engine.submit(requests, None).unwrap();
    all.into_iter().map(|mut reader| std::iter::from_fn(|| reader.blocking_recv()).collect()).collect()
}

/// The answer's tokens, and its forward passes.
fn answer(events: &[BlockEvent]) -> (Vec<u32>, usize) {
    let ids =
        events.iter().filter_map(|e| if let BlockEvent::Block { ids, .. } = e { Some(ids) } else { None });
    match events.last() {
        Some(BlockEvent::Finished { progress, .. }) => (ids.flatten().copied().collect(), progress.nfe),
        other => panic!("{other:?}"),
    }
}

#[test]
fn block_causal_cases_pass_with_shared_prefixes_and_without_bit_for_bit() {
    check(Ticks::Host);
}

/// The products of a device may round by the number of rows, so that only tokens and passes are the same.
#[test]
fn block_causal_cases_pass_with_shared_prefixes_by_the_operations_of_a_device() {
    check(Ticks::Padded);
    check(Ticks::Varlen);
}

fn check(ticks: Ticks) {
    for folder in super::folders() {
        let cases: Cases = super::read_json(&folder.join("cases.json"));
        let engine = |prefix_cache_bytes| {
            let (backend, adapter) = super::load(&folder, ticks)?;
            let vocab = backend.config().vocab;
            let model = ModelInfo { mask_id: cases.mask_id, eos_ids: vec![] };
            let limits = EngineLimits {
                queue: 4096,
                slots: 5,
                kv_bytes: super::POOL,
                prefix_cache_bytes,
                rows_per_tick: 64,
                event_buffer: 512,
            };
            let metrics = Arc::new(Metrics::new());
            let engine = start(backend, model, limits, Arc::clone(&metrics)).unwrap();
            let adapter = adapter.map(|id| engine.hold(id));
            let variant = Variant { attention: Attention::BlockCausal, adapter };
            Some(((engine, variant), vocab, metrics))
        };
        let (Some((plain, vocab, _)), Some((sharing, _, metrics))) = (engine(0), engine(1 << 24)) else {
            continue;
        };
        let of_interest = cases.cases.iter().filter(|case| case.config.attention() == Attention::BlockCausal);
        let of_interest: Vec<&Case> = of_interest.collect();
        assert!(!of_interest.is_empty(), "{}", super::name(&folder));
        let requests = |variant| {
            let one = |case: &&Case| request(case, variant, vocab, cases.mask_id);
            of_interest.iter().map(one).collect::<Vec<_>>()
        };
        let alone: Vec<_> =
            requests(&plain.1).into_iter().flat_map(|request| events(&plain.0, vec![request])).collect();
        let twice = events(&sharing.0, [requests(&sharing.1), requests(&sharing.1)].concat());
        let again = events(&sharing.0, requests(&sharing.1));
        for (number, case) in of_interest.iter().enumerate() {
            assert_eq!(answer(&alone[number]), (case.ids.clone(), case.nfe), "{}", case.name);
            for shared in [&twice[number], &twice[of_interest.len() + number], &again[number]] {
                match ticks {
                    Ticks::Host => assert_eq!(*shared, alone[number], "{}", case.name),
                    Ticks::Padded | Ticks::Varlen => {
                        assert_eq!(answer(shared), answer(&alone[number]), "{}", case.name);
                    }
                }
            }
        }
        let text = metrics.render();
        let hits = text.lines().find_map(|line| line.strip_prefix("evotoken_prefix_cache_hits_total "));
        let hits: usize = hits.unwrap().parse().unwrap();
        println!(
            "{:16} {} cases three times, {hits} shared stretches",
            super::name(&folder),
            of_interest.len()
        );
        assert!(hits >= 2 * of_interest.len());
    }
}
