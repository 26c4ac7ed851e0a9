//! Files of questions and answers, and the conversations made of them.
//!
//! A *plain* row, `{"question", "answer"}` or `{"messages"}`, is taken as it is. The rows of the three data sets that the
//! paper trains on become a question below an instruction and an answer in the form that the instruction asks for:
//!
//! | kind | row | reasoning R | answer A | left out |
//! |---|---|---|---|---|
//! | `s1k` | `question`, `attempt`, `cot_type` | `attempt` | in the last box of `attempt` | `cot_type` is not `math`; no box |
//! | `gsm8k` | `question`, `answer` | `answer` before the last `#### ` | what follows it, trimmed | nothing |
//! | `math` | `problem`, `solution` | `solution` | in the last box of `solution` | no box |
//!
//! The last box reaches from the last `\boxed{` to the last `}` of the text. The paper's code keeps a `math` row without
//! a box and gives it the answer of the row before; that is a mistake, and not repeated here.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::rows::{Line, lines};
use crate::text::chat_template::Message;
use crate::train::suites::wording::FORM;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `{"question", "answer"}` or `{"messages"}`, taken as they are.
    Jsonl,
    /// s1K.
    S1k,
    /// GSM8K.
    Gsm8k,
    /// MATH.
    Math,
}

/// A conversation that ends with the answer to be learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// At least two messages; the last one is the assistant's.
    pub messages: Vec<Message>,
    /// Where it comes from, for messages.
    pub line: usize,
}

/// Read a file of some kind; the samples, and how many rows were left out by the rules of the kind.
///
/// # Errors
/// Names the file and the line that is not of the kind.
pub fn read(path: &Path, kind: Kind) -> Result<(Vec<Sample>, usize)> {
    match kind {
        Kind::Jsonl => samples(path, PlainRow::messages),
        Kind::S1k => samples(path, S1kRow::messages),
        Kind::Gsm8k => samples(path, Gsm8kRow::messages),
        Kind::Math => samples(path, MathRow::messages),
    }
}

fn samples<T: DeserializeOwned>(
    path: &Path,
    messages: fn(T) -> Result<Option<Vec<Message>>>,
) -> Result<(Vec<Sample>, usize)> {
    let (mut samples, mut left_out) = (Vec::new(), 0);
    for Line { number, row } in lines(path)? {
        match messages(row).with_context(|| format!("{} line {number}", path.display()))? {
            Some(messages) => samples.push(Sample { messages, line: number }),
            None => left_out += 1,
        }
    }
    Ok((samples, left_out))
}

#[derive(Debug, Deserialize)]
struct PlainRow {
    question: Option<String>,
    answer: Option<String>,
    messages: Option<Vec<Message>>,
}

impl PlainRow {
    fn messages(self) -> Result<Option<Vec<Message>>> {
        match (self.question, self.answer, self.messages) {
            (Some(question), Some(answer), None) => {
                Ok(Some(vec![Message::user(question), Message::assistant(answer)]))
            }
            (None, None, Some(messages)) => {
                let answered = messages.last().is_some_and(|m| m.role == "assistant");
                if !answered || messages.len() < 2 {
                    bail!("messages must be at least two, the last one of the assistant");
                }
                Ok(Some(messages))
            }
            _ => bail!("a row has question and answer, or messages"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct S1kRow {
    question: String,
    attempt: String,
    cot_type: String,
}

impl S1kRow {
    fn messages(self) -> Result<Option<Vec<Message>>> {
        let answer = last_box(&self.attempt).filter(|_| self.cot_type == "math");
        Ok(answer.map(|answer| reasoned(&self.question, &self.attempt, answer)))
    }
}

#[derive(Debug, Deserialize)]
struct Gsm8kRow {
    question: String,
    answer: String,
}

impl Gsm8kRow {
    fn messages(self) -> Result<Option<Vec<Message>>> {
        let (reasoning, answer) = self.answer.rsplit_once("#### ").context("the answer has no `#### `")?;
        Ok(Some(reasoned(&self.question, reasoning, answer.trim())))
    }
}

#[derive(Debug, Deserialize)]
struct MathRow {
    problem: String,
    solution: String,
}

impl MathRow {
    fn messages(self) -> Result<Option<Vec<Message>>> {
        Ok(last_box(&self.solution).map(|answer| reasoned(&self.problem, &self.solution, answer)))
    }
}

/// What stands between the last `\boxed{` and the last `}`.
fn last_box(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once("\\boxed{")?;
    Some(rest.rsplit_once('}')?.0)
}

fn reasoned(question: &str, reasoning: &str, answer: &str) -> Vec<Message> {
    vec![
        Message::user(format!("{FORM}\n\n{question}")),
        Message::assistant(format!(
            "<reasoning>{reasoning}</reasoning>\n<answer>\\boxed{{{answer}}}</answer>"
        )),
    ]
}
