//! Rows of different lengths: how they are read, filled up, and given their noise.

use std::collections::BTreeSet;

use candle_core::Var;
use evotoken::model::ModelConfig;
use evotoken::train::data::{Row, TokenRows};
use evotoken::train::export;
use evotoken::train::network::Network;
use evotoken::train::objective::Truth;
use evotoken::train::objective::masked::{MaskedBatch, MaskedSettings};
use evotoken::train::objective::noise::{CtsSettings, ShortBlock};
use evotoken::train::random::{Purpose, Stream};
use evotoken::train::settings::{Canvas, ModelSettings};
use evotoken::train::tokenizer::{self, EOS, MASK};
use proptest::prelude::*;

fn read(text: &str) -> (anyhow::Result<TokenRows>, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let rows = TokenRows::read(file.path(), &tokenizer::build().unwrap(), EOS);
    (rows, file.path().display().to_string())
}

const MIXED: &str = r#"{"prompt": "1+2=", "completion": "3"}
{"ids": [3, 300, 301, 302, 303], "prompt_len": 2}

{"prompt": "1=", "completion": "1"}
"#;

fn config(max_positions: usize) -> ModelConfig {
    let sizes = ModelSettings { width: 8, layers: 1, heads: 1, mlp: 8, rope_theta: 1e4, max_positions };
    ModelConfig::from_json(&serde_json::to_vec(&export::config_json(&sizes)).unwrap()).unwrap()
}

#[test]
fn rows_of_text_and_rows_of_tokens_may_stand_in_one_file() {
    let rows = read(MIXED).0.unwrap();
    let row =
        |prompt: &str, completion: &str| Row { prompt: prompt.to_owned(), completion: completion.to_owned() };
    let tokenizer = tokenizer::build().unwrap();
    let texts = TokenRows::encode(&[row("1+2=", "3"), row("1=", "1")], &tokenizer, EOS).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows.truth(&[0, 2], 4).unwrap(), texts.truth(&[0, 1], 4).unwrap());
    let tokens = rows.truth(&[1], 4).unwrap();
    assert_eq!((tokens.ids, tokens.prompt_len), (vec![3, 300, 301, 302, 303, EOS], vec![2]));
}

#[test]
fn a_canvas_lies_behind_the_longest_prompt() {
    let truth = read(MIXED).0.unwrap().truth(&[0, 2], 4).unwrap();
    // <bos> 1 + 2 =, and <bos> 1 =
    assert_eq!((truth.prompt_len.as_slice(), truth.len, truth.rows()), ([5, 3].as_slice(), 9, 2));
    assert_eq!(truth.answer_positions(), 4 + 6);
    assert_eq!(truth.ids[9 + 4..], [EOS; 5]);
}

#[test]
fn a_batch_as_long_as_its_rows_gets_up_to_ten_tokens_more() {
    let rows = read(MIXED).0.unwrap();
    let mut seen = BTreeSet::new();
    let mut plain = 0;
    for seed in 0..400 {
        let truth = rows.padded(&[0, 1], &mut Stream::new(seed, Purpose::Padding, &[]));
        assert_eq!((truth.prompt_len.as_slice(), truth.rows()), ([5, 2].as_slice(), 2));
        assert_eq!(truth.ids[truth.len..][..5], [3, 300, 301, 302, 303]);
        assert!(truth.ids[7..truth.len].iter().chain(&truth.ids[truth.len + 5..]).all(|id| *id == EOS));
        seen.insert(truth.len - 7);
        plain += usize::from(truth.len == 7);
    }
    assert_eq!(seen, (0..=10).collect());
    assert!((160..=240).contains(&plain), "{plain} of 400 batches were as long as their rows");
}

#[test]
fn rows_that_are_no_rows_are_named() {
    let wrong = "a row has prompt and completion, or ids and prompt_len";
    for (row, reason) in [
        (r#"{"prompt": "a"}"#, wrong),
        (r#"{"prompt": "a", "completion": "b", "ids": [1], "prompt_len": 0}"#, wrong),
        (r#"{"ids": [5, 6], "prompt_len": 2}"#, "the prompt leaves no answer"),
        (r#"{"ids": [-5], "prompt_len": 0}"#, "invalid value"),
        (r#"{"question": "a"}"#, "unknown field `question`"),
        ("{", "EOF"),
    ] {
        let (outcome, file) = read(&format!("{MIXED}{row}\n"));
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.starts_with(&format!("{file} line 5: {reason}")), "{error}");
    }
    let (outcome, file) = read("\n");
    assert_eq!(outcome.unwrap_err().to_string(), format!("{file} has no rows to train on"));
}

#[test]
fn rows_that_do_not_fit_are_named_before_a_run_begins() {
    let canvas = |length| Canvas { length, rows: 1, weight: 1.0 };
    let (rows, file) = read(MIXED);
    let rows = rows.unwrap();
    let said = |canvases: &[Canvas], positions| match rows.check(canvases, &config(positions)) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    assert_eq!(said(&[canvas(Some(3)), canvas(None)], 17), "");
    let expected = format!("{file} line 2 has an answer of 3 tokens, the canvas only 2");
    assert_eq!(said(&[canvas(Some(3)), canvas(Some(2))], 17), expected);
    // The longest row has 7 tokens and may be padded by 10.
    let expected = format!("{file} line 1 needs a canvas of 17 tokens, the model has only 16");
    assert_eq!(said(&[canvas(Some(3)), canvas(None)], 16), expected);

    for (id, reason) in
        [(tokenizer::VOCABULARY, "token 525, the model has only 525"), (1, "the mask token (1)")]
    {
        let (rows, file) = read(&format!("{MIXED}{{\"ids\": [5, {id}], \"prompt_len\": 1}}\n"));
        let error = rows.unwrap().check(&[canvas(None)], &config(100)).unwrap_err().to_string();
        assert_eq!(error, format!("{file} line 5 holds {reason}"));
    }
}

// ---- noise ----

/// The authors' settings, with other block lengths.
fn authors(block_lengths: Vec<usize>) -> CtsSettings {
    CtsSettings {
        stages: 4,
        per_stage: vec![1, 2, 4, 8],
        block_lengths,
        short_block: ShortBlock::Grow,
        latest_start: None,
        aligned: false,
        k_soft: 3,
        alpha: [0.5, 1.0],
    }
}

fn truth(len: usize, prompt_len: &[usize]) -> Truth {
    let ids = (0..prompt_len.len() * len).map(|at| 10 + at as u32).collect();
    Truth { ids, len, prompt_len: prompt_len.to_vec() }
}

proptest! {
    #[test]
    fn blocks_of_ragged_rows_are_the_authors(
        seed: u64,
        len in 33usize..80,
        prompts in prop::collection::vec(1usize..60, 1..5),
        block in 1usize..90,
    ) {
        let prompts: Vec<usize> = prompts.into_iter().map(|p| p.min(len - 1)).collect();
        let truth = truth(len, &prompts);
        let batch = authors(vec![block]).draw(&truth, MASK, &mut Stream::new(seed, Purpose::Noise, &[])).unwrap();
        let d = batch.unmask[0][0].len();
        let cut = block.min(len - prompts.iter().max().unwrap());
        let length = if cut <= 4 * d { 4 * d + 1 } else { cut };
        for (row, prompt) in prompts.iter().enumerate() {
            let (start, end) = (batch.start[row], batch.end[row]);
            prop_assert_eq!(end + 1 - start, length);
            let fits = *prompt < len - length;
            prop_assert!(end < len && (if fits { start >= *prompt } else { start == len - length }), "at {}", start);
            let (noisy, real) = (&batch.noisy[row * len..][..len], &truth.ids[row * len..][..len]);
            prop_assert_eq!(&noisy[..start], &real[..start]);
            prop_assert!(noisy[end + 1..].iter().all(|id| *id == MASK));
            let hidden = (start..=end).filter(|at| noisy[*at] == MASK).count();
            prop_assert!((4 * d..=length).contains(&hidden));
            prop_assert!(batch.unmask[row].len() == 4 && batch.unmask[row].iter().all(|stage| stage.len() == d));
            prop_assert!(batch.unmask[row].concat().iter().all(|at| (start..=end).contains(at) && noisy[*at] == MASK));
        }
        prop_assert_eq!(&batch.prompt_len, &prompts);
    }
}

#[test]
fn starts_and_visible_tokens_are_uniform_between_both_ends() {
    // Blocks of 10 in rows of 24: they start at 6..=14 in the first row, at 14 in the second, whose prompt is longer
    // than the rest of the row leaves room for. With d = 1 there are 0..=6 visible tokens.
    let settings = CtsSettings { per_stage: vec![1], ..authors(vec![10]) };
    let truth = truth(24, &[6, 14]);
    let (mut starts, mut visible) = ([0; 24], [0; 11]);
    for seed in 0..4000 {
        let batch = settings.draw(&truth, MASK, &mut Stream::new(seed, Purpose::Noise, &[])).unwrap();
        assert_eq!((batch.start[1], batch.end[1]), (14, 23));
        starts[batch.start[0]] += 1;
        let shown = (batch.start[0]..=batch.end[0]).filter(|at| batch.noisy[*at] != MASK).count();
        visible[shown] += 1;
    }
    let even = |counts: &[usize], share: usize| counts.iter().all(|n| n.abs_diff(share) < share / 5);
    assert!(
        even(&starts[6..=14], 4000 / 9) && starts[..6].iter().chain(&starts[15..]).all(|n| *n == 0),
        "{starts:?}"
    );
    assert!(even(&visible[..=6], 4000 / 7) && visible[7..].iter().all(|n| *n == 0), "{visible:?}");
}

#[test]
fn rows_without_a_single_mask_change_nothing() {
    let network = Network::new(config(64));
    let variable = |(name, tensor)| (name, Var::from_tensor(&tensor).unwrap());
    let variables: Vec<(String, Var)> = network.init(1).unwrap().into_iter().map(variable).collect();
    let weights = variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let settings = MaskedSettings { block_share: 0.0, block_length: 1, block_start_below: 1 };
    let truth = truth(4, &[3]);
    let mut losses = Vec::new();
    for seed in 0..8 {
        let mut stream = Stream::new(seed, Purpose::Noise, &[]);
        let batch = MaskedBatch::draw(&truth, MASK, &settings, &mut stream);
        let (loss, gradients) = batch.gradients(&network, &weights, &weights).unwrap();
        assert_eq!(gradients.len(), variables.len());
        losses.push(loss);
    }
    assert!(losses.contains(&0.0) && losses.iter().any(|loss| *loss > 0.0), "{losses:?}");
}

#[test]
fn rows_too_short_for_the_stages_are_refused() {
    let settings = CtsSettings { per_stage: vec![8], ..authors(vec![512]) };
    let draw = |len| settings.draw(&truth(len, &[len - 1]), MASK, &mut Stream::new(1, Purpose::Noise, &[]));
    let error = draw(32).unwrap_err().to_string();
    assert_eq!(error, "rows of 32 tokens are too short for 4 stages of 8 positions");
    assert_eq!(draw(33).unwrap().start, [0]);
}
