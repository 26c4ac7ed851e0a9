//! The hot pieces one by one: `cargo bench --bench hot`, or `cargo bench --bench hot -- attention`.

use std::hint::black_box;
use std::ops::Range;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group};
use evotoken::backend::CandleBackend;
use evotoken::backend::candidates::candidates;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, DecodeOptions, Method, State};
use evotoken::engine::batch::{Backend, SlotId, StepBatch, StepOutput};
use evotoken::engine::scheduler::{self, Contender};
use evotoken::model::bundled;
use evotoken::model::product::attention::{KeyValues, Seen, attend};
use evotoken::rng;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The mask token of the bundled model.
const MASK: u32 = 1;
const PROMPT: usize = 32;
const ANSWER: usize = 64;

fn state(method: Method) -> State {
    let options = DecodeOptions { method: Some(method), steps: Some(32), ..DecodeOptions::default() };
    let params = options.resolve(ANSWER, 1 << 10).expect("settings in range");
    State::new(&[9; PROMPT], ANSWER, params, Attention::Full, MASK)
}

/// The first and the second step of so many streams.
fn steps(streams: u32) -> (StepBatch, StepBatch) {
    let (mut refresh, mut refinement) = (StepBatch::default(), StepBatch::default());
    for index in 0..streams {
        let (mut state, slot) = (state(Method::Evotoken), SlotId { index, generation: 0 });
        let plan = state.plan();
        refresh.push_step(&state, &plan, slot, None);
        state.advance(output(plan.needed()).rows(0, plan.needed()));
        refinement.push_step(&state, &state.plan(), slot, None);
    }
    (refresh, refinement)
}

/// Three candidates for so many rows.
fn output(rows: usize) -> StepOutput {
    let mut output = StepOutput { top_k: 3, ..StepOutput::default() };
    for row in 0..rows {
        let confidence = 0.5 + 0.4 * (row % 7) as f32 / 7.0;
        output.push_row((20, confidence), [(20, confidence), (21, 0.05), (22, 0.01)]);
    }
    output
}

/// Numbers between 0 and 10.
fn noise(count: usize) -> Vec<f32> {
    let key = rng::key(&[1]);
    #[expect(clippy::cast_possible_truncation, reason = "products are of f32")]
    let draw = |at| (10.0 * rng::uniform(key, at)) as f32;
    (0..count as u64).map(draw).collect()
}

/// A pass of the bundled model.
fn packed_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packed step");
    let mut backend = CandleBackend::load(&bundled::COUNTDOWN, DeviceChoice::Cpu).expect("it is bundled");
    for index in 0..8 {
        backend.open_slot(SlotId { index, generation: 0 }, PROMPT + ANSWER).expect("a small slot");
    }
    for streams in [1, 8] {
        let (refresh, refinement) = steps(streams);
        for (name, step) in [("refresh", &refresh), ("refinement", &refinement)] {
            let name = format!("{name} of {streams}, {} rows", step.rows());
            group.bench_function(name, |b| b.iter(|| backend.step(step).expect("the model takes its steps")));
        }
    }
}

/// Attention of 12 heads of 64, as in a model of 110 million parameters.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (rows, visible) in [(32, 256), (32, 2048), (256, 256)] {
        let q = noise(rows * 12 * 64);
        let mut memory = KeyValues::reserve(12, 64, visible).expect("a small memory");
        memory
            .write(0, &noise(visible * 12 * 64), &noise(visible * 12 * 64))
            .expect("it has these positions");
        let seen = [Seen { memory: &memory, rows, visible }];
        group.bench_function(format!("{rows} rows see {visible}"), |b| {
            b.iter(|| attend(black_box(&q), 12, &seen).expect("shapes that fit"));
        });
    }
}

/// From logits to three candidates a row.
fn sampling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sampling");
    for (rows, vocab) in [(32, 525), (32, 32_000), (32, 126_464)] {
        let logits = noise(rows * vocab);
        let plain = vec![None; rows];
        group.bench_function(format!("{rows} rows of {vocab}"), |b| {
            b.iter(|| candidates(black_box(&logits), MASK, 3, &plain));
        });
    }
}

/// A step's result applied to a canvas.
fn advance(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for method in [Method::Mask, Method::Evotoken] {
        let start = state(method);
        let rows: Range<usize> = 0..start.plan().needed();
        let output = output(rows.len());
        group.bench_function(format!("advance by {}", method.name()), |b| {
            let apply = |mut state: State| state.advance(output.rows(0, rows.len()));
            b.iter_batched(|| start.clone(), apply, BatchSize::SmallInput);
        });
    }
}

/// Who steps, of as many as there may be.
fn schedule(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    for running in [1, 64, 1024] {
        let contender = |index: u64| Contender { rows: 32, last_tick: index % 3, long: false, alike: None };
        let contenders: Vec<Contender> = (0..running).map(contender).collect();
        group.bench_function(format!("of {running}"), |b| {
            b.iter(|| scheduler::choose(black_box(&contenders), 1024, true));
        });
    }
}

criterion_group! {
    name = hot;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = packed_step, attention, sampling, advance, schedule
}

fn main() {
    // As the engine's thread does: one of the pool begins with its own share at once.
    let _pool = rayon::ThreadPoolBuilder::new().use_current_thread().build();
    hot();
    Criterion::default().configure_from_args().final_summary();
}
