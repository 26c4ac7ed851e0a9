//! Countdown: reach a target with a few numbers, each used once, and `+ - * /`.
//!
//! Every problem has one solution here, chosen by a rule, because a model that knows many solutions of a problem tears
//! when it decides several tokens at once. The rule: all intermediate results are positive whole numbers; the hardest
//! operator is as simple as possible (`+` before `-` before `*` before `/`), then the next one, and so on; then one
//! number at a time, `((a∘b)∘c)∘d` before `(a∘b)∘(c∘d)`; then parentheses on the left, `(a∘b)∘c` before `c∘(a∘b)`; then the
//! simpler operator inside the parentheses; then the larger numbers first. In sums and products the longer operand
//! stands first, of two numbers the larger.

use std::cmp::Reverse;
use std::collections::HashSet;

use anyhow::{Result, bail, ensure};

use super::Row;
use crate::train::random::{Purpose, Stream};

/// Numbers and targets are 1..=LARGEST.
pub const LARGEST: u64 = 100;
/// A problem has at most so many numbers: the search for its solution grows with their factorial.
pub const MOST_NUMBERS: usize = 5;
const OPERATORS: [char; 4] = ['+', '-', '*', '/'];

/// Numbers, in the order of the prompt, and the value to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The numbers.
    pub numbers: Vec<u64>,
    /// The value to reach.
    pub target: u64,
}

impl Problem {
    /// The prompt of this problem.
    pub fn prompt(&self) -> String {
        let numbers: Vec<_> = self.numbers.iter().map(u64::to_string).collect();
        format!("Numbers: [{}]\nTarget: {}", numbers.join(", "), self.target)
    }

    /// What makes two problems the same: the sorted numbers, then the target.
    pub fn key(&self) -> Vec<u64> {
        let mut key = self.numbers.clone();
        key.sort_unstable();
        key.push(self.target);
        key
    }

    /// The canonical solution, if there is one with positive whole intermediate results.
    pub fn solution(&self) -> Option<String> {
        let trees = Trees::of(&self.numbers);
        let found = trees.all().filter(|tree| trees.nodes[*tree].value == self.target);
        let best = found.min_by_key(|tree| trees.rank(*tree))?;
        let text = trees.text(best);
        // The outermost parentheses say nothing.
        Some(
            text.strip_prefix('(')
                .and_then(|t| t.strip_suffix(')'))
                .map_or_else(|| text.clone(), str::to_owned),
        )
    }
}

/// `a∘b` if it is a positive whole number.
fn apply(operator: usize, a: u64, b: u64) -> Option<u64> {
    match operator {
        0 => a.checked_add(b),
        1 => a.checked_sub(b).filter(|r| *r > 0),
        2 => a.checked_mul(b),
        _ => (b > 0 && a.is_multiple_of(b)).then(|| a / b),
    }
}

/// A number, or two nodes with an operator (an index into [`OPERATORS`]) between them.
#[derive(Debug, Clone, Copy)]
struct Node {
    value: u64,
    /// How many numbers it uses.
    size: u32,
    inner: Option<(usize, usize, usize)>,
}

/// Every expression over some numbers whose values are positive whole numbers and whose sums and products have the longer
/// operand first, and of two numbers the larger.
struct Trees {
    nodes: Vec<Node>,
    /// Per set of numbers (a bit each), the expressions that use exactly these.
    of_set: Vec<Vec<usize>>,
}

/// How simple a solution is: its parts in this order are the rule at the top of this file, the least is the simplest.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Operators, hardest first.
    hardest: Vec<usize>,
    /// Operators between two results.
    branches: usize,
    /// Whether the longer operand is on the right, inner ones first.
    right: Vec<bool>,
    /// Operators, inner ones first.
    operators: Vec<usize>,
    /// Numbers, inner ones first.
    numbers: Reverse<Vec<u64>>,
}

impl Trees {
    fn of(numbers: &[u64]) -> Self {
        let mut trees = Self { nodes: Vec::new(), of_set: vec![Vec::new(); 1 << numbers.len()] };
        for (bit, value) in numbers.iter().enumerate() {
            trees.of_set[1 << bit].push(trees.nodes.len());
            trees.nodes.push(Node { value: *value, size: 1, inner: None });
        }
        for set in 1..trees.of_set.len() {
            // Sets with fewer bits come before the sets they are parts of.
            let mut left = (set - 1) & set;
            while left > 0 {
                trees.join(set, left);
                left = (left - 1) & set;
            }
        }
        trees
    }

    /// Add the expressions over `set` whose left operand uses the numbers of `left`.
    fn join(&mut self, set: usize, left: usize) {
        for a in self.of_set[left].clone() {
            for b in self.of_set[set & !left].clone() {
                let (x, y) = (self.nodes[a], self.nodes[b]);
                for operator in 0..OPERATORS.len() {
                    let commutes = operator == 0 || operator == 2;
                    let regular = x.size > y.size || (x.size == y.size && x.value >= y.value);
                    if let Some(value) = apply(operator, x.value, y.value).filter(|_| regular || !commutes) {
                        self.of_set[set].push(self.nodes.len());
                        self.nodes.push(Node { value, size: x.size + y.size, inner: Some((operator, a, b)) });
                    }
                }
            }
        }
    }

    /// The expressions that use all numbers.
    fn all(&self) -> impl Iterator<Item = usize> {
        self.of_set.last().into_iter().flatten().copied()
    }

    fn rank(&self, tree: usize) -> Rank {
        let mut rank = Rank::default();
        self.walk(tree, &mut rank);
        rank.hardest.clone_from(&rank.operators);
        rank.hardest.sort_unstable_by_key(|operator| Reverse(*operator));
        rank
    }

    /// The longer operand, the other one, then the operator.
    fn walk(&self, tree: usize, rank: &mut Rank) {
        let Node { inner: Some((operator, a, b)), .. } = self.nodes[tree] else {
            rank.numbers.0.push(self.nodes[tree].value);
            return;
        };
        let (x, y) = (self.nodes[a].size, self.nodes[b].size);
        let (first, second) = if y > x { (b, a) } else { (a, b) };
        self.walk(first, rank);
        self.walk(second, rank);
        rank.branches += usize::from(x > 1 && y > 1);
        rank.right.push(y > x);
        rank.operators.push(operator);
    }

    fn text(&self, tree: usize) -> String {
        match self.nodes[tree].inner {
            None => self.nodes[tree].value.to_string(),
            Some((operator, a, b)) => format!("({}{}{})", self.text(a), OPERATORS[operator], self.text(b)),
        }
    }
}

/// Draw numbers and a random expression that takes one after another; a problem if its value may be a target.
fn draw(numbers: usize, stream: &mut Stream) -> Option<Problem> {
    let mut numbers: Vec<u64> = (0..numbers).map(|_| 1 + stream.below(LARGEST as usize) as u64).collect();
    let operators: Vec<usize> = numbers[1..].iter().map(|_| stream.below(OPERATORS.len())).collect();
    let mut value = numbers[0];
    for (at, (number, operator)) in std::iter::zip(&numbers[1..], operators).enumerate() {
        let right = at > 0 && stream.below(2) == 1;
        let (a, b) = if right { (*number, value) } else { (value, *number) };
        value = apply(operator, a, b)?;
    }
    stream.shuffle(&mut numbers);
    (value <= LARGEST).then_some(Problem { numbers, target: value })
}

/// `count` different problems of so many numbers with their solutions, none of them in `exclude` (see [`Problem::key`]). The
/// same seed gives the same rows.
///
/// # Errors
/// There are not that many problems, or a problem cannot have so many numbers.
pub fn generate(count: usize, numbers: usize, seed: u64, exclude: &HashSet<Vec<u64>>) -> Result<Vec<Row>> {
    ensure!(
        (2..=MOST_NUMBERS).contains(&numbers),
        "a problem has 2 to {MOST_NUMBERS} numbers, not {numbers}"
    );
    let (mut rows, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    let mut fruitless = 0;
    for index in 0.. {
        if rows.len() == count {
            break;
        }
        let problem = draw(numbers, &mut Stream::new(seed, Purpose::Problem, &[index]));
        let fresh = problem.filter(|p| !exclude.contains(&p.key()) && seen.insert(p.key()));
        let Some((problem, completion)) = fresh.and_then(|p| Some((p.prompt(), p.solution()?))) else {
            fruitless += 1;
            if fruitless > 1_000_000 {
                bail!("found only {} different problems of the {count} asked for", rows.len());
            }
            continue;
        };
        fruitless = 0;
        rows.push(Row { prompt: problem, completion });
    }
    Ok(rows)
}
