//! Whole numbers between two bounds, digit by digit.

use regex_syntax::hir::Hir;

use crate::guide::pattern::{class, literal, optional, repeated};

/// The whole numbers from `min` to `max`, without leading zeros.
pub(super) fn between(min: Option<i64>, max: Option<i64>) -> Hir {
    if min.is_none() && max.is_none() {
        return Hir::concat(vec![optional(literal("-")), magnitudes(0, None)]);
    }
    let mut branches = Vec::new();
    if max.is_none_or(|max| max >= 0) {
        branches.push(magnitudes(min.unwrap_or(0).max(0).unsigned_abs(), max.map(i64::unsigned_abs)));
    }
    if min.is_none_or(|min| min < 0) {
        let smallest = max.unwrap_or(-1).min(-1).unsigned_abs();
        let largest = min.map(i64::unsigned_abs);
        branches.push(Hir::concat(vec![literal("-"), magnitudes(smallest, largest)]));
    }
    Hir::alternation(branches)
}

/// The numbers from `min` to `max`, at least 0.
fn magnitudes(min: u64, max: Option<u64>) -> Hir {
    let mut branches = Vec::new();
    let shortest = digits(min).len();
    let longest = max.map_or(shortest, |max| digits(max).len());
    for len in shortest..=longest {
        // Numbers of `len` digits.
        let first = if len == 1 { 0 } else { power(len - 1) };
        let (low, high) = (min.max(first), max.unwrap_or(u64::MAX).min(power(len) - 1));
        if low <= high {
            branches.push(same_length(&digits(low), &digits(high)));
        }
    }
    if max.is_none() {
        let longer = repeated(class(&[('0', '9')]), u32::try_from(shortest).unwrap_or(u32::MAX), None);
        branches.push(Hir::concat(vec![class(&[('1', '9')]), longer]));
    }
    Hir::alternation(branches)
}

/// 10 to the power of `exponent`, which is at most 19.
fn power(exponent: usize) -> u64 {
    10_u64.pow(u32::try_from(exponent).unwrap_or(u32::MAX))
}

fn digits(number: u64) -> Vec<char> {
    number.to_string().chars().collect()
}

/// The numbers between two of the same length, as texts of this length.
fn same_length(low: &[char], high: &[char]) -> Hir {
    let ([first, lows @ ..], [last, highs @ ..]) = (low, high) else { return Hir::empty() };
    let any = |count: usize| {
        repeated(class(&[('0', '9')]), u32::try_from(count).unwrap_or(0), u32::try_from(count).ok())
    };
    if low.iter().all(|digit| *digit == '0') && high.iter().all(|digit| *digit == '9') {
        return any(low.len());
    }
    let one = |digit: char, rest: Hir| Hir::concat(vec![class(&[(digit, digit)]), rest]);
    if first == last {
        return one(*first, same_length(lows, highs));
    }
    let (nothing, everything) = (vec!['0'; lows.len()], vec!['9'; lows.len()]);
    let mut branches =
        vec![one(*first, same_length(lows, &everything)), one(*last, same_length(&nothing, highs))];
    let next = char::from_u32(u32::from(*first) + 1).unwrap_or(*last);
    let before = char::from_u32(u32::from(*last) - 1).unwrap_or(*first);
    if next <= before {
        branches.push(Hir::concat(vec![class(&[(next, before)]), any(lows.len())]));
    }
    Hir::alternation(branches)
}
