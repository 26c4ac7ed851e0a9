//! A text's score is the chain rule's, with real models.

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Scoring, TokenScore};
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;

use super::batching::fixture;

const TEXT: [u32; 9] = [5, 17, 3, 80, 42, 42, 9, 61, 120];
const SLOT: SlotId = SlotId { index: 0, generation: 0 };

/// By one pass per token over everything, with all logits.
fn by_hand(backend: &mut CandleBackend) -> Vec<Vec<f64>> {
    let mask_id = backend.config().mask_id;
    let mut scores = Vec::new();
    for place in 1..TEXT.len() {
        let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
        for (position, id) in TEXT.into_iter().enumerate() {
            batch.push_row([(if position < place { id } else { mask_id }, 1.0)]);
        }
        let (window, targets) = (0..TEXT.len(), place..place + 1);
        batch.segments.push(Segment { slot: SLOT, window, visible: TEXT.len(), targets, sampling: None });
        let mut logits = backend.logits(&batch).unwrap().remove(0).remove(0);
        logits[mask_id as usize] = f32::NEG_INFINITY;
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        scores.push(logits.iter().map(|logit| f64::from(*logit) - sum.ln()).collect());
    }
    scores
}

fn scored(backend: &mut CandleBackend, alternatives: usize) -> Vec<TokenScore> {
    let mut scoring = Scoring::new(&TEXT, backend.config().mask_id, alternatives);
    while !scoring.done() {
        let plan = scoring.plan();
        let mut batch = StepBatch::default();
        batch.push_scoring(&scoring, &plan, SLOT);
        let output = backend.step(&batch).unwrap();
        scoring.advance(output.rows(0, plan.needed()));
    }
    scoring.into_scores()
}

#[test]
fn each_token_is_scored_behind_those_before_it_and_masks() {
    for model in ["llada-tiny", "dream-tiny"] {
        let source = ModelSource::folder(fixture(model));
        let mut backend = CandleBackend::load(&source, None, DeviceChoice::Cpu).unwrap();
        backend.open_slot(SLOT, TEXT.len()).unwrap();
        let expected = by_hand(&mut backend);
        let found = scored(&mut backend, 3);
        assert_eq!(found.len(), TEXT.len() - 1);
        for ((score, all), id) in found.iter().zip(&expected).zip(&TEXT[1..]) {
            assert_eq!(score.id, *id);
            assert!(
                (f64::from(score.log_probability) - all[*id as usize]).abs() < 1e-5,
                "{model}: {score:?}"
            );
            assert_eq!(score.alternatives.len(), 3);
            let best = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!((f64::from(score.alternatives[0].1) - best).abs() < 1e-5, "{model}: {score:?}");
            for (id, log) in &score.alternatives {
                assert!((f64::from(*log) - all[*id as usize]).abs() < 1e-5, "{model}: {score:?}");
            }
        }
        assert_eq!(scored(&mut backend, 0).iter().map(|s| s.alternatives.len()).sum::<usize>(), 0);
    }
}
