//! A cross-check of the engine with checkpoints that other software trained and measured: the accuracies of two
//! Countdown models, to the row.
//!
//! They are read from the folder that `PILOT_DIR` names: `models/<checkpoint>/` and `data/countdown_cd3_test.jsonl`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{CacheMode, DecodeOptions, Method};
use evotoken::engine::request::{Draft, GenerateRequest, Limits};
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::model::ModelSource;
use evotoken::telemetry::metrics::Metrics;
use evotoken::train::score::solves;

const MASK: u32 = 1;
const EOS: u32 = 2;
const BOS: u32 = 3;
const VOCAB: usize = 269;
const CANVAS: usize = 8;

/// Problems solved of 256 at each number of steps, by an independent f32 reading of the same files.
const EXPECTED: [(&str, [(usize, usize); 5]); 2] = [
    ("countdown-pilot-one-solution", [(8, 209), (4, 197), (3, 183), (2, 170), (1, 162)]),
    ("countdown-pilot-any-solution", [(8, 172), (4, 105), (3, 103), (2, 69), (1, 12)]),
];

struct Problem {
    numbers: Vec<u64>,
    target: u64,
}

fn problems(folder: &Path) -> Vec<Problem> {
    let path = folder.join("data/countdown_cd3_test.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parse = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let numbers = row["input"].as_str().unwrap().split(',').map(|n| n.parse().unwrap()).collect();
        Problem { numbers, target: row["output"].as_str().unwrap().parse().unwrap() }
    };
    text.lines().map(parse).collect()
}

/// The checkpoint's own tokens: specials, `,=:+-*/()`, then the numbers 0 to 255.
fn symbol(c: char) -> u32 {
    4 + ",=:+-*/()".chars().position(|s| s == c).unwrap() as u32
}

fn prompt(problem: &Problem) -> Vec<u32> {
    let number = |n: &u64| 13 + u32::try_from(*n).unwrap();
    let mut ids = vec![BOS];
    for n in &problem.numbers {
        ids.extend([number(n), symbol(',')]);
    }
    ids.pop();
    ids.extend([symbol(':'), number(&problem.target), symbol('=')]);
    ids
}

fn text(ids: &[u32]) -> String {
    let one = |id: &u32| match id {
        4..=12 => ",=:+-*/()".chars().nth(*id as usize - 4).unwrap().to_string(),
        13.. => (id - 13).to_string(),
        _ => "?".to_owned(),
    };
    ids.iter().map(one).collect()
}

fn model() -> ModelInfo {
    ModelInfo { mask_id: MASK, eos_ids: vec![EOS] }
}

fn engine(folder: &Path) -> EngineHandle {
    let backend = CandleBackend::load(&ModelSource::folder(folder), DeviceChoice::Cpu).unwrap();
    let limits = EngineLimits { rows_per_tick: 4096, ..EngineLimits::default() };
    start(backend, model(), limits, Arc::new(Metrics::new())).unwrap()
}

fn solved(engine: &EngineHandle, problems: &[Problem], steps: usize) -> usize {
    let decode = DecodeOptions {
        method: Some(Method::Mask),
        steps: Some(steps),
        block_length: Some(CANVAS),
        cache: Some(CacheMode::None),
        ..DecodeOptions::default()
    };
    let limits = Limits::of_model(&model(), VOCAB, 64);
    let request = |problem: &Problem| {
        GenerateRequest::new(Draft { decode, ..Draft::new(prompt(problem), CANVAS) }, &limits).unwrap()
    };
    let readers = engine.submit(problems.iter().map(request).collect(), None).unwrap();
    let answers = readers.into_iter().map(|mut reader| {
        let mut answer = Vec::new();
        while let Some(event) = reader.blocking_recv() {
            if let BlockEvent::Block { ids, .. } = event {
                answer.extend(ids);
            }
        }
        text(&answer)
    });
    std::iter::zip(problems, answers).filter(|(p, answer)| solves(answer, &p.numbers, p.target)).count()
}

#[test]
fn pilot_checkpoints_solve_as_many_problems_as_elsewhere() {
    let Some(folder) = std::env::var_os("PILOT_DIR").map(PathBuf::from) else {
        println!("PILOT_DIR is not set: nothing was checked");
        return;
    };
    let problems = problems(&folder);
    let mut wrong = Vec::new();
    for (checkpoint, expected) in EXPECTED {
        let engine = engine(&folder.join("models").join(checkpoint));
        for (steps, want) in expected {
            let got = solved(&engine, &problems, steps);
            println!("{checkpoint} NFE {steps}: {got} of {} solved, expected {want}", problems.len());
            if got != want {
                wrong.push(format!("{checkpoint} NFE {steps}: {got}, expected {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
