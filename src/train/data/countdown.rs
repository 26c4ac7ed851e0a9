//! Countdown: reach a target with three numbers, each used once, and `+ - * /`.
//!
//! Every problem has one solution here, chosen by a rule, because a model that knows many solutions of a problem tears
//! when it decides several tokens at once. The rule: all intermediate results are positive whole numbers; the hardest
//! operator is as simple as possible (`+` before `-` before `*` before `/`), then the other one; then `(a∘b)∘c` before
//! `c∘(a∘b)`; then the simpler operator inside the parentheses; then the larger numbers first. In sums and products
//! the larger operand stands first.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Row;
use crate::train::random::{Purpose, Stream};

/// Numbers and targets are 1..=LARGEST.
pub const LARGEST: u64 = 100;
const OPERATORS: [char; 4] = ['+', '-', '*', '/'];

/// Three numbers, in the order of the prompt, and the value to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The numbers.
    pub numbers: [u64; 3],
    /// The value to reach.
    pub target: u64,
}

impl Problem {
    /// The prompt of this problem.
    pub fn prompt(&self) -> String {
        let [a, b, c] = self.numbers;
        format!("Numbers: [{a}, {b}, {c}]\nTarget: {}", self.target)
    }

    /// The problem of a training row.
    ///
    /// # Errors
    /// The row's prompt is not a Countdown prompt of three numbers and a target.
    pub fn from_row(row: &Row) -> Result<Self> {
        let numbers: Vec<u64> =
            row.prompt.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [a, b, c, target] = numbers[..] else { bail!("{:?} is not a Countdown prompt", row.prompt) };
        let problem = Self { numbers: [a, b, c], target };
        if problem.prompt() != row.prompt {
            bail!("{:?} is not a Countdown prompt", row.prompt);
        }
        Ok(problem)
    }

    /// What makes two problems the same: the sorted numbers and the target.
    pub fn key(&self) -> [u64; 4] {
        let mut numbers = self.numbers;
        numbers.sort_unstable();
        [numbers[0], numbers[1], numbers[2], self.target]
    }

    /// The canonical solution, if there is one with positive whole intermediate results.
    pub fn solution(&self, style: Style) -> Option<String> {
        let [a, b, c] = self.numbers;
        let orders = [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]];
        let every = orders.iter().flat_map(|numbers| {
            (0..32).map(|n| Expression { numbers: *numbers, inner: n % 4, outer: n / 4 % 4, right: n >= 16 })
        });
        every.filter(|e| e.regular() && e.value() == Some(self.target)).min_by_key(Expression::rank).map(
            |e| match style {
                Style::Expression => e.to_string(),
                Style::Worked => e.worked(),
            },
        )
    }
}

/// How a solution is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// `(93+30)-100`
    Expression,
    /// `93+30=123, 123-100=23`
    Worked,
}

/// `(x∘y)∘z`, or `z∘(x∘y)` if `right`; operators are indices into [`OPERATORS`].
#[derive(Debug, Clone, Copy)]
struct Expression {
    numbers: [u64; 3],
    inner: usize,
    outer: usize,
    right: bool,
}

/// `a∘b` if it is a positive whole number.
fn apply(operator: usize, a: u64, b: u64) -> Option<u64> {
    match operator {
        0 => Some(a + b),
        1 => a.checked_sub(b).filter(|r| *r > 0),
        2 => Some(a * b),
        _ => (b > 0 && a.is_multiple_of(b)).then(|| a / b),
    }
}

impl Expression {
    fn value(&self) -> Option<u64> {
        let [x, y, z] = self.numbers;
        let inside = apply(self.inner, x, y)?;
        if self.right { apply(self.outer, z, inside) } else { apply(self.outer, inside, z) }
    }

    /// One equation per operation, in the order in which they are worked.
    fn worked(&self) -> String {
        let [x, y, z] = self.numbers;
        let (inner, outer) = (OPERATORS[self.inner], OPERATORS[self.outer]);
        let number = |value: Option<u64>| value.expect("a solution has whole values").to_string();
        let (inside, target) = (number(apply(self.inner, x, y)), number(self.value()));
        if self.right {
            format!("{x}{inner}{y}={inside}, {z}{outer}{inside}={target}")
        } else {
            format!("{x}{inner}{y}={inside}, {inside}{outer}{z}={target}")
        }
    }

    /// Whether sums and products have their larger number first and no parentheses on the right.
    fn regular(&self) -> bool {
        let commutes = |operator| operator == 0 || operator == 2;
        let [x, y, _] = self.numbers;
        (!commutes(self.inner) || x >= y) && (!commutes(self.outer) || !self.right)
    }

    fn rank(&self) -> (usize, usize, bool, usize, std::cmp::Reverse<[u64; 3]>) {
        let (low, high) = (self.inner.min(self.outer), self.inner.max(self.outer));
        (high, low, self.right, self.inner, std::cmp::Reverse(self.numbers))
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.numbers;
        let (inner, outer) = (OPERATORS[self.inner], OPERATORS[self.outer]);
        if self.right {
            write!(f, "{z}{outer}({x}{inner}{y})")
        } else {
            write!(f, "({x}{inner}{y}){outer}{z}")
        }
    }
}

/// Draw numbers and a random expression; a problem if its value may be a target.
fn draw(stream: &mut Stream) -> Option<Problem> {
    let numbers = [(); 3].map(|()| 1 + stream.below(LARGEST as usize) as u64);
    let [inner, outer] = [(); 2].map(|()| stream.below(4));
    let right = stream.below(2) == 1;
    let target = Expression { numbers, inner, outer, right }.value().filter(|value| *value <= LARGEST)?;
    let mut shown = numbers;
    stream.shuffle(&mut shown);
    Some(Problem { numbers: shown, target })
}

/// `count` different problems with their solutions, none of them in `exclude` (see [`Problem::key`]). The same seed
/// gives the same rows.
///
/// # Errors
/// There are not that many problems.
pub fn generate(count: usize, style: Style, seed: u64, exclude: &HashSet<[u64; 4]>) -> Result<Vec<Row>> {
    let (mut rows, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    let mut fruitless = 0;
    for index in 0.. {
        if rows.len() == count {
            break;
        }
        let problem = draw(&mut Stream::new(seed, Purpose::Problem, &[index]));
        let fresh = problem.filter(|p| !exclude.contains(&p.key()) && seen.insert(p.key()));
        let Some((problem, completion)) = fresh.and_then(|p| Some((p, p.solution(style)?))) else {
            fruitless += 1;
            if fruitless > 1_000_000 {
                bail!("found only {} different problems of the {count} asked for", rows.len());
            }
            continue;
        };
        fruitless = 0;
        rows.push(Row { prompt: problem.prompt(), completion });
    }
    Ok(rows)
}
