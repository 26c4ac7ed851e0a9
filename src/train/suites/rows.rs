//! Files of questions.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::extract::whole_numbers;
use super::{Question, Suite, Truth};
use crate::train::data::Row;

#[derive(Deserialize)]
struct Countdown {
    input: String,
    output: String,
}

#[derive(Deserialize)]
struct Gsm8k {
    question: String,
    answer: String,
}

#[derive(Deserialize)]
struct Math {
    problem: String,
    answer: String,
}

#[derive(Deserialize)]
struct Svamp {
    #[serde(rename = "Body")]
    body: String,
    #[serde(rename = "Question")]
    question: String,
    #[serde(rename = "Answer")]
    answer: f64,
}

pub(super) fn read(suite: Suite, path: &Path) -> Result<Vec<Question>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let mut questions = Vec::new();
    let mut add = |place: String, value: Result<Value>| -> Result<()> {
        let (text, truth) = value.and_then(|value| question(suite, value)).with_context(|| place.clone())?;
        questions.push(Question { text, truth, place });
        Ok(())
    };
    if suite == Suite::Svamp {
        let rows: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("{file} is not a JSON array"))?;
        for (index, value) in rows.into_iter().enumerate() {
            add(format!("{file} row {}", index + 1), Ok(value))?;
        }
    } else {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            add(format!("{file} line {}", index + 1), serde_json::from_str(line).map_err(Into::into))?;
        }
    }
    ensure!(!questions.is_empty(), "{file} holds no question");
    Ok(questions)
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// A row's question and truth.
fn question(suite: Suite, value: Value) -> Result<(String, Truth)> {
    Ok(match suite {
        Suite::Countdown if value.get("prompt").is_some() => {
            let Row { prompt, .. } = parse(value)?;
            let mut numbers = whole(&prompt)?;
            let target = numbers.pop().context("the prompt holds no number")?;
            ensure!(
                !numbers.is_empty() && prompt == countdown_text(&numbers, target),
                "{prompt:?} is not a Countdown prompt"
            );
            (prompt, Truth::Countdown { numbers, target })
        }
        Suite::Countdown => {
            let Countdown { input, output } = parse(value)?;
            let numbers: Result<Vec<u64>, _> = input.split(',').map(|number| number.trim().parse()).collect();
            let (Ok(numbers), Ok(target)) = (numbers, output.trim().parse()) else {
                bail!("{input:?} and {output:?} are not whole numbers and a target");
            };
            (countdown_text(&numbers, target), Truth::Countdown { numbers, target })
        }
        Suite::Sorting => {
            let Row { prompt, completion } = parse(value)?;
            let values = whole(&completion)?;
            ensure!(!values.is_empty(), "the completion holds no number");
            (prompt, Truth::List(values))
        }
        Suite::Gsm8k => {
            let Gsm8k { question, answer } = parse(value)?;
            let (_, number) = answer.rsplit_once("####").context("the answer has no \"####\"")?;
            let number = number.trim().replace(',', "");
            let number = number.parse().with_context(|| format!("the answer {number:?} is not a number"))?;
            (question, Truth::Number(number))
        }
        Suite::Math500 => {
            let Math { problem, answer } = parse(value)?;
            (problem, Truth::Formula(answer))
        }
        Suite::Svamp => {
            let Svamp { body, question, answer } = parse(value)?;
            (format!("{} {}", body.trim(), question.trim()), Truth::Number(answer))
        }
    })
}

/// A Countdown question as the paper and this project's training data put it.
fn countdown_text(numbers: &[u64], target: u64) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("Numbers: [{}]\nTarget: {target}", numbers.join(", "))
}

fn whole(text: &str) -> Result<Vec<u64>> {
    whole_numbers(text).into_iter().collect::<Option<_>>().context("a number is too large")
}
