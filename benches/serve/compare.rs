//! Sides of a comparison take turns, so that what changes on the machine meanwhile changes for all of them.

use std::fmt;

use anyhow::Result;

/// The numbers of all rounds.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; not a number if there are none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Round by round, this one's value over the other's.
    pub fn over(&self, other: &Self) -> Self {
        Self(std::iter::zip(&self.0, &other.0).map(|(one, other)| one / other).collect())
    }
}

impl fmt::Display for Sample {
    /// The median, and in brackets the least and the greatest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fold = |by: fn(f64, f64) -> f64| self.0.iter().copied().fold(f64::NAN, by);
        write!(f, "{:.2} ({:.2} to {:.2})", self.median(), fold(f64::min), fold(f64::max))
    }
}

/// One side of a comparison: a round's number.
pub type Side<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// So many rounds of all sides in turn, every other round from behind. Returns each side's numbers.
pub fn interleave(rounds: usize, sides: &mut [Side<'_>]) -> Result<Vec<Sample>> {
    let mut samples = vec![Sample::default(); sides.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            samples[side].push(sides[side]()?);
        }
    }
    Ok(samples)
}
