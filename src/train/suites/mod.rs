//! Test suites: questions from local files, and whether an answer is right.
//!
//! How an answer is read follows the paper's evaluation, to the letter where that decides a score.

mod extract;
mod math;
mod rows;
pub mod wording;

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::score;
use extract::{boxes, numbers, tagged, whole_numbers};

/// A suite of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Reach a target with given numbers: `{"input": "30,100,93", "output": "23"}`, or training rows.
    Countdown,
    /// Numbers in order: training rows `{"prompt", "completion"}`.
    Sorting,
    /// GSM8K: `{"question", "answer"}`, answers end in `#### N`.
    Gsm8k,
    /// MATH500: `{"problem", "solution", "answer"}`.
    Math500,
    /// SVAMP: a JSON array of `{"Body", "Question", "Answer"}`.
    Svamp,
}

/// A question and what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What is asked, without instructions.
    pub text: String,
    /// What is right.
    pub truth: Truth,
    /// File and line (or row), for messages.
    pub place: String,
}

/// What makes an answer right.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// An expression over exactly these numbers, each used once, with this value.
    Countdown {
        /// The numbers.
        numbers: Vec<u64>,
        /// The value to reach.
        target: u64,
    },
    /// Exactly these whole numbers in this order, at least one.
    List(Vec<u64>),
    /// This number.
    Number(f64),
    /// A formula that is written like this one after MATH's normalization.
    Formula(String),
}

/// How good an answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Whether it is right.
    pub solved: bool,
    /// Share of it that is right, 0..=1, if it has parts.
    pub share: Option<f64>,
}

impl Suite {
    /// Read the questions of a file: JSON lines, or for SVAMP an array.
    ///
    /// # Errors
    /// Names the file and the line (or row) that is not one of this suite; there must be at least one question.
    pub fn read(self, path: &Path) -> Result<Vec<Question>> {
        rows::read(self, path)
    }

    /// Room for an answer, in tokens, when nobody says: the paper's middle budget for worked answers.
    pub fn usual_length(self) -> usize {
        match self {
            Self::Countdown => 16,
            Self::Sorting => 40,
            Self::Gsm8k | Self::Math500 | Self::Svamp => 256,
        }
    }
}

impl Truth {
    /// Mark an answer.
    pub fn mark(&self, answer: &str) -> Mark {
        let solved = |solved| Mark { solved, share: None };
        match self {
            Self::Countdown { numbers, target } => {
                solved(score::solves(&expression(answer), numbers, *target))
            }
            Self::List(values) => list(answer, values),
            Self::Number(number) => solved(number_of(answer) == Some(*number)),
            Self::Formula(formula) => solved(formula_of(answer).is_some_and(|a| math::same(a, formula))),
        }
    }
}

/// The Countdown expression of an answer: the last box, else the answer element, else everything; TeX operators become
/// plain ones, and of `expression = number` only the expression counts.
fn expression(answer: &str) -> String {
    let inside = boxes(answer).last().copied().or_else(|| tagged(answer)).unwrap_or(answer);
    let plain = inside.replace(r"\div", "/").replace(r"\times", "*").replace(r"\cdot", "*");
    // The first equals sign with an expression on its left and a number on its right.
    let of_expression = |c: char| c.is_ascii_digit() || "+-*/() ".contains(c);
    for (at, _) in plain.match_indices('=') {
        let (before, after) = (&plain[..at], &plain[at + 1..]);
        let left = &before[before.trim_end_matches(of_expression).len()..];
        if !left.is_empty() && after.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == ' ') {
            return left.trim().to_owned();
        }
    }
    plain.trim().to_owned()
}

/// Every number of the answer against the one that belongs at its place.
fn list(answer: &str, values: &[u64]) -> Mark {
    let found = whole_numbers(answer);
    let right = std::iter::zip(&found, values).filter(|(found, value)| **found == Some(**value)).count();
    let solved = right == values.len() && right == found.len();
    Mark { solved, share: Some(right as f64 / values.len() as f64) }
}

/// The number of an answer to a word problem: the first box with one in it (all of it, or its first number), else the last
/// number in the answer element.
fn number_of(answer: &str) -> Option<f64> {
    let of_box = |inside: &str| inside.trim().parse().ok().or_else(|| numbers(inside).first().copied());
    boxes(answer).into_iter().find_map(of_box).or_else(|| {
        let inside = tagged(answer)?;
        inside.parse().ok().or_else(|| numbers(inside).last().copied())
    })
}

/// The formula of a MATH answer: the last box that holds something, else the answer element.
fn formula_of(answer: &str) -> Option<&str> {
    boxes(answer).last().copied().filter(|inside| !inside.is_empty()).or_else(|| tagged(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(truth: &Truth, cases: &[(&str, bool)]) {
        for (answer, expected) in cases {
            assert_eq!(truth.mark(answer).solved, *expected, "{answer}");
        }
    }

    #[test]
    fn countdown_reads_the_last_box_then_the_answer_element_then_everything() {
        let truth = Truth::Countdown { numbers: vec![30, 100, 93], target: 23 };
        marks(
            &truth,
            &[
                ("(93+30)-100", true),
                (r"\boxed{1+1} no: \boxed{(93+30)-100}", true),
                (r"\boxed{(93+30)-100} no: \boxed{1+1}", false),
                (r"\boxed{1+1} <answer>(93+30)-100</answer>", false),
                ("<reasoning>30+93=123</reasoning>\n<answer> (93+30)-100 </answer>", true),
                (r"<answer>\boxed{93+30-100}</answer>", true),
                (r"\boxed{93+30-100 <answer>93+30-100</answer>", true),
                ("I think 93+30-100", false),
            ],
        );
    }

    #[test]
    fn countdown_takes_tex_operators_and_the_left_side_of_an_equation() {
        let truth = Truth::Countdown { numbers: vec![3, 4, 6], target: 2 };
        marks(
            &truth,
            &[
                (r"4 \times 3 \div 6", true),
                (r"4 \cdot 3 / 6", true),
                ("4*3/6 = 2", true),
                ("4*3/6=7", true),
                ("4*3/6=x", false),
                ("2=4*3/6", false),
                ("4*3/6.", true),
                ("4*3/6.0", false),
                ("4*3*2/6", false),
                ("43/6", false),
                ("4*3/6 is 2", false),
            ],
        );
    }

    #[test]
    fn countdown_allows_a_rounding_error_only() {
        marks(&Truth::Countdown { numbers: vec![1, 3, 6], target: 2 }, &[("(1/3)*6", true)]);
        marks(&Truth::Countdown { numbers: vec![7, 3], target: 2 }, &[("7/3", false)]);
    }

    #[test]
    fn word_problems_take_the_first_box_with_a_number_else_the_last_number_of_the_answer_element() {
        marks(
            &Truth::Number(18.0),
            &[
                (r"\boxed{18}", true),
                (r"\boxed{ 18.0 }", true),
                (r"\boxed{18} or \boxed{19}", true),
                (r"\boxed{19} or \boxed{18}", false),
                (r"\boxed{} \boxed{...} \boxed{18}", true),
                (r"\boxed{\$18 of 20}", true),
                (r"\boxed{\text{18 eggs}}", true),
                (r"\boxed{none} <answer>3 of 18</answer>", true),
                ("<answer>18 of 3</answer>", false),
                ("<answer>18</answer>", true),
                (r"\boxed{18", false),
                ("18", false),
                ("", false),
            ],
        );
        marks(
            &Truth::Number(-2.5),
            &[(r"\boxed{-2.5}", true), (r"\boxed{x = -2.5}", true), (r"\boxed{2.5}", false)],
        );
        marks(&Truth::Number(1000.0), &[(r"\boxed{1,000}", false), (r"\boxed{1e3}", true)]);
    }

    #[test]
    fn math_takes_the_last_box_else_the_answer_element() {
        marks(
            &Truth::Formula(r"\frac{1}{2}".to_owned()),
            &[
                (r"\boxed{\frac12}", true),
                (r"\boxed{3} \boxed{0.5}", true),
                (r"\boxed{0.5} \boxed{3}", false),
                (r"<answer>1/2</answer>", true),
                (r"\boxed{} <answer>1/2</answer>", true),
                (r"\boxed{3} <answer>1/2</answer>", false),
                ("1/2", false),
            ],
        );
    }

    #[test]
    fn a_list_is_right_as_a_whole_and_its_shares_are_right_by_place() {
        let truth = Truth::List(vec![19, 22, 27]);
        let mark = |answer| truth.mark(answer);
        assert_eq!(mark("19, 22, 27"), Mark { solved: true, share: Some(1.0) });
        assert_eq!(mark("19, 23, 27"), Mark { solved: false, share: Some(2.0 / 3.0) });
        assert_eq!(mark("22, 27"), Mark { solved: false, share: Some(0.0) });
        assert_eq!(mark("19, 22, 27, 1"), Mark { solved: false, share: Some(1.0) });
        assert_eq!(mark(""), Mark { solved: false, share: Some(0.0) });
    }
}
