//! Accuracy through the serving engine, in this process: questions of a suite, every way of decoding of a grid, several
//! answers in flight so that ticks are full. The figures are those of the server, because it is the same code.

pub mod command;
pub mod development;
pub mod grid;
pub mod results;
pub mod served;

use std::time::Instant;

use anyhow::{Context, Result};

use super::suites::wording::Wording;
use super::suites::{Mark, Question};
use grid::Setting;
use served::{Answer, Served};

/// How many answers run at once unless somebody says otherwise, as in the server's default.
pub const IN_FLIGHT: usize = 64;

/// An answer and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Marked {
    /// The answer.
    pub answer: Answer,
    /// Its mark.
    pub mark: Mark,
}

/// Questions as they are put to a model.
#[derive(Debug)]
pub struct Asked {
    /// The questions.
    pub questions: Vec<Question>,
    /// How prompts are made of them.
    pub wording: Wording,
    /// What every answer begins with: it is put behind the prompt, and before the answer when that is marked.
    pub prefill: String,
}

impl Asked {
    /// Questions put as they are.
    pub fn plain(questions: Vec<Question>) -> Self {
        Self { questions, wording: Wording::Plain, prefill: String::new() }
    }

    /// Get and mark the answers to all questions; `done` is called after each.
    ///
    /// # Errors
    /// Names the question that does not fit the model, or on which the model failed.
    pub fn answers(&self, served: &Served, setting: &Setting, done: &dyn Fn()) -> Result<(Vec<Marked>, f64)> {
        let began = Instant::now();
        let mut streams = Vec::with_capacity(self.questions.len());
        for (index, question) in self.questions.iter().enumerate() {
            let stream = self
                .wording
                .prompt(&question.text, &self.prefill)
                .map_err(Into::into)
                .and_then(|prompt| served.ask(prompt, setting, index as u64));
            streams.push(stream.with_context(|| question.place.clone())?);
        }
        let mut answers = Vec::with_capacity(self.questions.len());
        for (stream, question) in std::iter::zip(streams, &self.questions) {
            let answer = served::wait(stream).with_context(|| question.place.clone())?;
            let mark = question.truth.mark(&format!("{}{}", self.prefill, answer.text));
            answers.push(Marked { answer, mark });
            done();
        }
        Ok((answers, began.elapsed().as_secs_f64()))
    }
}
