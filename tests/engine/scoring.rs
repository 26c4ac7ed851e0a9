//! A text's score is the chain rule's, with real models.

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Scoring, ScoringRule, TokenScore};
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;

use super::batching::fixture;

const TEXT: [u32; 9] = [5, 17, 3, 80, 42, 42, 9, 61, 120];
const SLOT: SlotId = SlotId { index: 0, generation: 0 };

/// By one pass per token over everything, with all logits. Per token that has a score: its place, and all log-probabilities
/// there.
fn by_hand(backend: &mut CandleBackend, rule: ScoringRule) -> Vec<(usize, Vec<f64>)> {
    let mask_id = backend.config().mask_id;
    let mut scores = Vec::new();
    let first = usize::from(rule == ScoringRule::Chain);
    for place in first..TEXT.len() {
        let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
        for (position, id) in TEXT.into_iter().enumerate() {
            let visible = match rule {
                ScoringRule::Chain => position < place,
                ScoringRule::Pseudo => position != place,
            };
            batch.push_row([(if visible { id } else { mask_id }, 1.0)]);
        }
        let (window, targets) = (0..TEXT.len(), place..place + 1);
        batch.segments.push(Segment {
            slot: SLOT,
            adapter: None,
            window,
            visible: TEXT.len(),
            targets,
            sampling: None,
        });
        let mut logits = backend.logits(&batch).unwrap().remove(0).remove(0);
        logits[mask_id as usize] = f32::NEG_INFINITY;
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        scores.push((place, logits.iter().map(|logit| f64::from(*logit) - sum.ln()).collect()));
    }
    scores
}

fn scored(backend: &mut CandleBackend, rule: ScoringRule, alternatives: usize) -> Vec<TokenScore> {
    let mut scoring = Scoring::new(rule, &TEXT, backend.config().mask_id, alternatives);
    while !scoring.done() {
        let plan = scoring.plan();
        let mut batch = StepBatch::default();
        batch.push_scoring(&scoring, &plan, SLOT);
        let output = backend.step(&batch).unwrap();
        scoring.advance(output.rows(0, plan.needed()));
    }
    scoring.into_scores()
}

/// The text's scores by a rule, held against all logits, with both kinds of model.
fn holds(rule: ScoringRule) -> Vec<f32> {
    let mut all_scores = Vec::new();
    for model in ["llada-tiny", "dream-tiny"] {
        let source = ModelSource::folder(fixture(model));
        let mut backend = CandleBackend::load(&source, DeviceChoice::Cpu).unwrap();
        backend.open_slot(SLOT, TEXT.len()).unwrap();
        let expected = by_hand(&mut backend, rule);
        let found = scored(&mut backend, rule, 3);
        assert_eq!(found.len(), expected.len());
        for (score, (place, all)) in found.iter().zip(&expected) {
            assert_eq!(score.id, TEXT[*place]);
            let log = f64::from(score.log_probability);
            assert!((log - all[score.id as usize]).abs() < 1e-5, "{model}: {score:?}");
            assert_eq!(score.alternatives.len(), 3);
            let best = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!((f64::from(score.alternatives[0].1) - best).abs() < 1e-5, "{model}: {score:?}");
            for (id, log) in &score.alternatives {
                assert!((f64::from(*log) - all[*id as usize]).abs() < 1e-5, "{model}: {score:?}");
            }
        }
        assert_eq!(scored(&mut backend, rule, 0).iter().map(|s| s.alternatives.len()).sum::<usize>(), 0);
        all_scores.extend(found.iter().map(|score| score.log_probability));
    }
    all_scores
}

#[test]
fn each_token_is_scored_behind_those_before_it_and_masks() {
    assert_eq!(holds(ScoringRule::Chain).len(), 2 * (TEXT.len() - 1));
}

#[test]
fn each_token_s_pseudo_likelihood_knows_all_others() {
    let pseudo = holds(ScoringRule::Pseudo);
    assert_eq!(pseudo.len(), 2 * TEXT.len());
    // The last token of a text has nothing behind it: both rules ask the same.
    assert_eq!(pseudo.last(), holds(ScoringRule::Chain).last());
}
