//! Equal work: answers of a fixed number of steps and tokens, whatever the weights say.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use evotoken::model::ModelConfig;
use evotoken::rng;
use serde_json::{Value, json};

use crate::compare::Sample;
use crate::server::{Counts, Server};

/// One answer that is to be generated.
#[derive(Debug, Clone)]
pub struct Work {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer: all of them, also behind an end-of-text.
    pub answer: usize,
    pub block: usize,
    /// Steps of the whole answer.
    pub steps: usize,
    pub method: &'static str,
    pub cache: &'static str,
    /// Answers to the same prompt: they step in the same ticks.
    pub choices: usize,
    /// Which adapter, if not the model itself.
    pub adapter: Option<String>,
}

impl Work {
    /// The usual work: EvoToken, dual cache, blocks of 32, two tokens a step.
    pub fn new(prompt: usize, answer: usize) -> Self {
        Self {
            prompt,
            answer,
            block: 32,
            steps: answer.div_ceil(2),
            method: "evotoken",
            cache: "dual",
            choices: 1,
            adapter: None,
        }
    }

    /// The request's body; `number` chooses the prompt's tokens.
    fn body(&self, config: &ModelConfig, number: usize) -> Value {
        let key = rng::key(&[7, number as u64]);
        let special = |id: u32| id <= 3 || id == config.mask_id || config.eos_ids.contains(&id);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the vocabulary")]
        let draws = (0..).map(|draw| (rng::uniform(key, draw) * config.vocab as f64) as u32);
        let prompt: Vec<u32> = draws.filter(|id| !special(*id)).take(self.prompt).collect();
        let mut body = json!({
            "prompt": prompt, "max_tokens": self.answer, "ignore_eos": true, "n": self.choices, "temperature": 0,
            "stream": true, "stream_options": {"include_usage": true},
            "diffusion": {"method": self.method, "steps": self.steps, "block_length": self.block, "cache": self.cache},
        });
        if let Some(adapter) = &self.adapter {
            body["model"] = json!(adapter);
        }
        body
    }
}

/// One answer as its client saw it.
struct Answer {
    tokens: usize,
    nfe: usize,
    /// Seconds to the first block.
    first: f64,
}

fn ask(url: &str, body: &Value) -> Result<Answer> {
    let started = Instant::now();
    let request = ureq::post(format!("{url}/v1/completions")).header("content-type", "application/json");
    let reply = request.send(body.to_string()).context("a request failed")?;
    let mut answer = Answer { tokens: 0, nfe: 0, first: 0.0 };
    let mut is_done = false;
    for line in BufReader::new(reply.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            is_done = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(data)?;
        ensure!(chunk.get("error").is_none_or(Value::is_null), "the server says {chunk}");
        if answer.first == 0.0 {
            answer.first = started.elapsed().as_secs_f64();
        }
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        answer.nfe += count(&chunk["choices"][0]["diffusion"]["nfe"]);
        answer.tokens += count(&chunk["usage"]["completion_tokens"]);
    }
    ensure!(is_done, "a stream broke off");
    Ok(answer)
}

/// What came of some work.
#[derive(Debug, Clone)]
pub struct Run {
    pub seconds: f64,
    /// Visible tokens of all answers.
    pub tokens: usize,
    /// Forward passes of all answers.
    pub nfe: usize,
    /// Seconds to each answer's first block, ascending.
    pub firsts: Vec<f64>,
    /// What the server counted meanwhile.
    pub counts: Counts,
}

impl Run {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Do all the work by so many clients, each of which asks for its next answer when it has the last.
pub fn run(server: &Server, config: &ModelConfig, works: &[Work], clients: usize) -> Result<Run> {
    let (next, before, started) = (AtomicUsize::new(0), server.counts()?, Instant::now());
    let client = || {
        let mut answers = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(work) = works.get(number) else { return Ok(answers) };
            let answer = ask(&server.url, &work.body(config, number))?;
            let expected = work.answer * work.choices;
            ensure!(answer.tokens == expected, "{} tokens instead of {expected}", answer.tokens);
            answers.push(answer);
        }
    };
    let answers: Result<Vec<Vec<Answer>>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        all.into_iter().map(|one| one.join().expect("a client does not panic")).collect()
    });
    let (seconds, answers) = (started.elapsed().as_secs_f64(), answers?.into_iter().flatten());
    let counts = server.counts()?.since(before);
    let (mut tokens, mut nfe, mut firsts) = (0, 0, Vec::new());
    for answer in answers {
        tokens += answer.tokens;
        nfe += answer.nfe;
        firsts.push(answer.first);
    }
    firsts.sort_by(f64::total_cmp);
    Ok(Run { seconds, tokens, nfe, firsts, counts })
}

/// What [`cells`] are.
pub const COLUMNS: &str =
    "tokens/s | ms a refresh | ms a refinement | ms a mixed tick | rows a tick | first block, ms";

/// Medians of some runs, as cells of a table.
pub fn cells(runs: &[Run]) -> String {
    let median = |of: &dyn Fn(&Run) -> f64, digits: usize| {
        let mut sample = Sample::default();
        runs.iter().map(of).filter(|value| !value.is_nan()).for_each(|value| sample.push(value));
        match sample.median() {
            none if none.is_nan() => "none".to_owned(),
            median => format!("{median:.digits$}"),
        }
    };
    [
        median(&Run::tokens_per_second, 1),
        median(&|run| run.counts.refresh.ms(), 1),
        median(&|run| run.counts.refinement.ms(), 1),
        median(&|run| run.counts.mixed.ms(), 1),
        median(&|run| run.counts.rows / run.counts.ticks, 0),
        median(&|run| 1e3 * run.firsts[run.firsts.len() / 2], 0),
    ]
    .join(" | ")
}
