//! Means of rows × repetitions, with intervals that count both the choice of the questions and the luck of the training.

use crate::train::evaluate::results::wilson;

/// Values of some rows (questions) in some repetitions (training seeds).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// One list per repetition, equally long.
    repetitions: Vec<Vec<f64>>,
}

/// A mean and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval.
    pub interval: [f64; 2],
}

impl Grid {
    /// From the bits of results files, one string of `0` and `1` per repetition. `None` if they are not equally long, or
    /// empty.
    pub fn of_bits<'a>(repetitions: impl Iterator<Item = &'a str>) -> Option<Self> {
        let value = |bit| f64::from(u8::from(bit == '1'));
        let repetitions: Vec<Vec<f64>> = repetitions.map(|bits| bits.chars().map(value).collect()).collect();
        let rows = repetitions.first()?.len();
        (rows > 0 && repetitions.iter().all(|r| r.len() == rows)).then_some(Self { repetitions })
    }

    /// Row by row and repetition by repetition, this minus `other`; a grid of one repetition is compared with all of the
    /// other's. `None` if the shapes do not fit.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let (a, b) = (&self.repetitions, &other.repetitions);
        let count = a.len().max(b.len());
        let fits = |side: &[Vec<f64>]| side.len() == count || side.len() == 1;
        if !fits(a) || !fits(b) || a[0].len() != b[0].len() {
            return None;
        }
        let pair = |s: usize| (&a[s.min(a.len() - 1)], &b[s.min(b.len() - 1)]);
        let differences = |(a, b): (&Vec<f64>, &Vec<f64>)| std::iter::zip(a, b).map(|(x, y)| x - y).collect();
        Some(Self { repetitions: (0..count).map(|s| differences(pair(s))).collect() })
    }

    /// Number of repetitions, at least 1.
    pub fn repetitions(&self) -> usize {
        self.repetitions.len()
    }

    /// The mean of shares: Wilson's interval for one repetition, else as [`Self::mean`], within 0..=1.
    pub fn share(&self) -> Estimate {
        if let [only] = self.repetitions.as_slice() {
            let solved = only.iter().filter(|value| **value > 0.5).count();
            return Estimate { mean: mean(only), interval: wilson(solved, only.len()) };
        }
        let Estimate { mean, interval } = self.mean();
        Estimate { mean, interval: interval.map(|bound| bound.clamp(0.0, 1.0)) }
    }

    /// The mean over everything. Rows and repetitions are both drawn at random, so its variance is that of the row means
    /// over the number of rows plus that of the repetition means over their number (which counts what is left over twice,
    /// and so errs on the wide side); Student's t with Welch and Satterthwaite's degrees of freedom.
    pub fn mean(&self) -> Estimate {
        let rows = self.repetitions[0].len();
        let row =
            |i: usize| self.repetitions.iter().map(|r| r[i]).sum::<f64>() / self.repetitions.len() as f64;
        let parts = [
            (0..rows).map(row).collect::<Vec<f64>>(),
            self.repetitions.iter().map(|r| mean(r)).collect::<Vec<f64>>(),
        ];
        let parts = parts.map(|values| (variance(&values) / values.len() as f64, values.len() as f64 - 1.0));
        let whole: f64 = parts.iter().map(|(variance, _)| variance).sum();
        let spread: f64 =
            parts.iter().filter(|(v, _)| *v > 0.0).map(|(variance, free)| variance * variance / free).sum();
        let half = if whole > 0.0 { student(whole * whole / spread) * whole.sqrt() } else { 0.0 };
        let mean = self.repetitions.iter().map(|r| mean(r)).sum::<f64>() / self.repetitions.len() as f64;
        Estimate { mean, interval: [mean - half, mean + half] }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of a sample; 0 for one value.
fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    let sum: f64 = values.iter().map(|value| (value - centre) * (value - centre)).sum();
    sum / (values.len() as f64 - 1.0).max(1.0)
}

/// The 97.5 % quantile of Student's t; between tabulated degrees of freedom, that of the lower one.
fn student(freedom: f64) -> f64 {
    const TABLE: [(f64, f64); 16] = [
        (1.0, 12.706),
        (2.0, 4.303),
        (3.0, 3.182),
        (4.0, 2.776),
        (5.0, 2.571),
        (6.0, 2.447),
        (7.0, 2.365),
        (8.0, 2.306),
        (9.0, 2.262),
        (10.0, 2.228),
        (15.0, 2.131),
        (20.0, 2.086),
        (30.0, 2.042),
        (60.0, 2.000),
        (120.0, 1.980),
        (1000.0, 1.962),
    ];
    TABLE.iter().rfind(|(from, _)| freedom >= *from).map_or(TABLE[0].1, |(_, quantile)| *quantile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(repetitions: &[&str]) -> Grid {
        Grid::of_bits(repetitions.iter().copied()).expect("equally long")
    }

    #[test]
    fn one_repetition_has_wilsons_interval() {
        let found = grid(&["1100110010"]).share();
        assert_eq!((found.mean, found.interval), (0.5, wilson(5, 10)));
    }

    #[test]
    fn a_paired_difference_is_narrower_than_its_parts() {
        let (a, b) = (grid(&["1111100000"]), grid(&["1111000000"]));
        let found = a.minus(&b).expect("same shape").mean();
        assert!((found.mean - 0.1).abs() < 1e-12);
        // One of ten rows differs: standard deviation sqrt(0.1), t for 9 degrees of freedom.
        let half = 2.262 * (0.1_f64 / 10.0).sqrt();
        assert!((found.interval[1] - 0.1 - half).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn repetitions_that_differ_widen_the_interval() {
        let solved = |count: usize| "1".repeat(count) + &"0".repeat(40 - count);
        let of = |counts: [usize; 3]| grid(&counts.map(solved).each_ref().map(String::as_str)).mean();
        let (same, different) = (of([20, 20, 20]), of([10, 20, 30]));
        let width = |e: Estimate| e.interval[1] - e.interval[0];
        assert_eq!((same.mean, different.mean), (0.5, 0.5));
        // Two degrees of freedom, and a standard error of 0.14 from the repetitions alone.
        assert!(width(same) < 0.4 && width(different) > 1.2, "{same:?} {different:?}");
    }

    #[test]
    fn equal_grids_differ_by_nothing() {
        let a = grid(&["10", "01"]);
        assert_eq!(a.minus(&a).expect("same shape").mean(), Estimate { mean: 0.0, interval: [0.0, 0.0] });
    }

    #[test]
    fn one_repetition_is_compared_with_each_of_several() {
        let (one, three) = (grid(&["10"]), grid(&["11", "10", "11"]));
        assert_eq!(three.minus(&one).map(|d| d.mean().mean), Some(1.0 / 3.0));
        assert_eq!(one.minus(&three).map(|d| d.repetitions()), Some(3));
        assert_eq!(grid(&["10", "10"]).minus(&three), None);
        assert_eq!(grid(&["100"]).minus(&one), None);
        assert_eq!(Grid::of_bits(["10", "1"].into_iter()), None);
    }
}
