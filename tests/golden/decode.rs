//! Decoding: answers, number of forward passes, and the traces of single steps.

use std::collections::BTreeMap;

use serde::Deserialize;

use evotoken::backend::CandleBackend;
use evotoken::decode::{
    Attention, Boundary, CacheMode, DecodeOptions, DecodeParams, Method, Phase, State, StepPlan, Unmask,
};
use evotoken::engine::batch::{AdapterId, Backend, RowsView, SlotId, StepBatch};

#[derive(Deserialize)]
pub struct Cases {
    pub mask_id: u32,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub prompt: Vec<u32>,
    pub config: Config,
    pub ids: Vec<u32>,
    pub nfe: usize,
    trace: Vec<Record>,
}

#[derive(Deserialize)]
pub struct Config {
    pub gen_length: usize,
    block_length: usize,
    steps: Option<usize>,
    threshold: Option<f64>,
    factor: Option<f64>,
    method: Method,
    k_soft: usize,
    alpha: f64,
    cache: CacheMode,
    attention: String,
    boundary: Boundary,
}

#[derive(Deserialize)]
struct Record {
    step: usize,
    block: usize,
    block_step: usize,
    window: [usize; 2],
    candidates: Vec<usize>,
    confidence: Vec<f64>,
    selected: Vec<usize>,
    x: Vec<u32>,
    soft_rows: Option<[usize; 2]>,
    #[serde(default)]
    topk_ids: Vec<Vec<u32>>,
    #[serde(default)]
    topk_weights: Vec<Vec<f64>>,
    #[serde(default)]
    mask_weight: Vec<f64>,
}

impl Config {
    pub fn options(&self) -> DecodeOptions {
        DecodeOptions {
            method: Some(self.method),
            steps: self.steps,
            threshold: self.threshold,
            factor: self.factor,
            block_length: Some(self.block_length),
            k_soft: Some(self.k_soft),
            alpha: Some(self.alpha),
            cache: Some(self.cache),
            boundary: Some(self.boundary),
        }
    }

    fn params(&self, vocab: usize) -> DecodeParams {
        self.options().resolve(self.gen_length, vocab).expect("a golden case is valid")
    }

    pub fn attention(&self) -> Attention {
        match self.attention.as_str() {
            "full" => Attention::Full,
            "block_causal" => Attention::BlockCausal,
            other => panic!("attention {other:?}"),
        }
    }
}

/// A case on its way.
struct Run<'a> {
    case: &'a Case,
    params: DecodeParams,
    attention: Attention,
    state: State,
    slot: SlotId,
    nfe: usize,
    block: usize,
    block_step: usize,
    mask_id: u32,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, mask_id: u32, index: usize, backend: &mut CandleBackend) -> Self {
        let slot = SlotId { index: index as u32, generation: 0 };
        backend.open_slot(slot, case.prompt.len() + case.config.gen_length).unwrap();
        let params = case.config.params(backend.config().vocab);
        let attention = case.config.attention();
        let state = State::new(&case.prompt, case.config.gen_length, params, attention, mask_id);
        Self { case, params, attention, state, slot, nfe: 0, block: 0, block_step: 0, mask_id }
    }

    fn undecided(&self) -> Vec<usize> {
        self.state.block().filter(|p| matches!(self.state.phase(*p), Phase::Mask | Phase::SoftMask)).collect()
    }

    /// Apply a step, compared with its record if there is one.
    fn advance(&mut self, plan: &StepPlan, rows: RowsView<'_>) -> Result<(), String> {
        let record = self.case.trace.iter().find(|r| r.step == self.nfe);
        let before = self.undecided();
        let block = self.state.block();
        let report = self.state.advance(rows);
        if let Some(record) = record {
            let fail = |what: String| format!("step {}: {what}", record.step);
            self.compare_choice(record, plan, &before, rows, block.start).map_err(fail)?;
            // A finished block is hard at once where the boundary is hard; the record shows it before that.
            let lagged = self.params.boundary == Boundary::Lagged && self.attention == Attention::Full;
            if report.undecided > 0 || lagged {
                self.compare_inputs(record).map_err(fail)?;
            }
        }
        self.nfe += 1;
        self.block_step += 1;
        if report.finished.is_some() {
            self.block += 1;
            self.block_step = 0;
        }
        Ok(())
    }

    fn compare_choice(
        &self,
        record: &Record,
        plan: &StepPlan,
        before: &[usize],
        rows: RowsView<'_>,
        lo: usize,
    ) -> Result<(), String> {
        let prompt = self.case.prompt.len();
        let relative = |positions: &[usize]| positions.iter().map(|p| p - prompt).collect::<Vec<_>>();
        equal("block", &(self.block, self.block_step), &(record.block, record.block_step))?;
        let windows: Vec<_> = plan.windows.iter().map(|w| w.positions.clone()).collect();
        let window = [windows[0].start, windows[windows.len() - 1].end];
        equal("window", &window, &record.window)?;
        equal("candidates", &relative(before), &record.candidates)?;
        for (position, want) in before.iter().zip(&record.confidence) {
            close("confidence", rows.guesses[position - lo].1, *want)?;
        }
        let decided = |p: &usize| matches!(self.state.phase(*p), Phase::Soft | Phase::Decoded);
        let selected: Vec<usize> = before.iter().copied().filter(decided).collect();
        equal("selected", &relative(&selected), &record.selected)?;
        equal("x", &self.state.tokens()[prompt..].to_vec(), &record.x)
    }

    fn compare_inputs(&self, record: &Record) -> Result<(), String> {
        let Some([first, end]) = record.soft_rows else { return Ok(()) };
        let prompt = self.case.prompt.len();
        for (row, position) in (prompt + first..prompt + end).enumerate() {
            let undecided = matches!(self.state.phase(position), Phase::Mask | Phase::SoftMask);
            let mut pairs: Vec<(u32, f32)> = self.state.pairs(position).collect();
            let own = if undecided { pairs.pop_if(|(id, _)| *id == self.mask_id) } else { None };
            close("mask weight", own.map_or(0.0, |(_, w)| w), record.mask_weight[row])?;
            let ids: Vec<u32> = pairs.iter().map(|(id, _)| *id).collect();
            equal("top-k ids", &ids, &record.topk_ids[row])?;
            for ((_, weight), want) in pairs.iter().zip(&record.topk_weights[row]) {
                close("top-k weight", *weight, *want)?;
            }
        }
        Ok(())
    }

    fn compare_result(&self) -> Result<(), String> {
        equal("ids", &self.state.tokens()[self.case.prompt.len()..].to_vec(), &self.case.ids)?;
        equal("nfe", &self.nfe, &self.case.nfe)
    }

    fn settings(&self) -> String {
        let rule = match self.params.unmask {
            Unmask::Steps(_) => "steps",
            Unmask::Threshold(_) => "threshold",
            Unmask::Factor(_) => "factor",
        };
        let Config { method, cache, attention, boundary, .. } = &self.case.config;
        format!("{method:?} {attention} cache={cache:?} boundary={boundary:?} {rule}").to_lowercase()
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what} is {got:?}, expected {want:?}")) }
}

fn close(what: &str, got: f32, want: f64) -> Result<(), String> {
    let ok = (f64::from(got) - want).abs() <= 2e-4;
    if ok { Ok(()) } else { Err(format!("{what} is {got}, expected {want}")) }
}

/// Run cases to their end, all in the same ticks. One result per case.
fn run(
    (backend, adapter): &mut (CandleBackend, Option<AdapterId>),
    cases: &[Case],
    mask_id: u32,
) -> Vec<(String, Result<(), String>)> {
    let mut runs: Vec<(Run, Result<(), String>)> =
        cases.iter().enumerate().map(|(i, case)| (Run::new(case, mask_id, i, backend), Ok(()))).collect();
    while runs.iter().any(|(run, _)| !run.state.done()) {
        let mut batch = StepBatch::default();
        let mut active: Vec<_> = runs.iter_mut().filter(|(run, _)| !run.state.done()).collect();
        let plans: Vec<StepPlan> = active.iter().map(|(run, _)| run.state.plan()).collect();
        for ((run, _), plan) in active.iter().zip(&plans) {
            batch.push_step(&run.state, plan, run.slot, None);
        }
        batch.adapt(0, *adapter);
        let output = backend.step(&batch).unwrap();
        let mut row = 0;
        for ((run, result), plan) in active.iter_mut().zip(&plans) {
            let compared = run.advance(plan, output.rows(row, plan.needed()));
            row += plan.needed();
            if result.is_ok() {
                *result = compared;
            }
        }
    }
    let finish = |(run, result): (Run, Result<(), String>)| {
        backend.close_slot(run.slot);
        (run.settings(), result.and_then(|()| run.compare_result()))
    };
    runs.into_iter().map(finish).collect()
}

#[test]
fn golden_cases_pass_alone_and_all_in_one_batch() {
    check(super::Ticks::Host);
}

#[test]
fn golden_cases_pass_by_the_operations_of_a_device() {
    check(super::Ticks::Padded);
}

#[test]
fn golden_cases_pass_with_attention_of_all_segments_in_one_call() {
    check(super::Ticks::Varlen);
}

fn check(ticks: super::Ticks) {
    let mut failures = Vec::new();
    for folder in super::folders() {
        let Some(mut model) = super::load(&folder, ticks) else { continue };
        let cases: Cases = super::read_json(&folder.join("cases.json"));
        let mut alone = Vec::new();
        for case in &cases.cases {
            alone.extend(run(&mut model, std::slice::from_ref(case), cases.mask_id));
        }
        let together = run(&mut model, &cases.cases, cases.mask_id);
        let mut table: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (case, (alone, together)) in cases.cases.iter().zip(alone.into_iter().zip(together)) {
            let (passed, total) = table.entry(alone.0).or_default();
            *total += 1;
            match alone
                .1
                .map_err(|e| format!("alone: {e}"))
                .and(together.1.map_err(|e| format!("batched: {e}")))
            {
                Ok(()) => *passed += 1,
                Err(e) => failures.push(format!("{} {}: {e}", super::name(&folder), case.name)),
            }
        }
        for (settings, (passed, total)) in &table {
            println!("{:16} {settings:60} {passed} of {total}", super::name(&folder));
        }
        let (passed, total) = table.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        println!("{:16} {passed} of {total} cases passed, alone and batched", super::name(&folder));
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}
