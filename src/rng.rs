//! Counter-based randomness: every draw is a pure function of a key and a counter, so results do not depend on what
//! else was drawn before, and resuming needs no generator state.

/// The SplitMix64 finaliser: a bijection of 64-bit words that passes statistical test batteries.
pub fn scramble(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A key from its parts (seed, update, row, …); other parts or another order give another key.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |key, part| bits(key, *part))
}

/// 64 random bits.
pub fn bits(key: u64, counter: u64) -> u64 {
    scramble(scramble(key ^ counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(key))
}

/// Uniform in the open interval (0, 1).
pub fn uniform(key: u64, counter: u64) -> f64 {
    ((bits(key, counter) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_draws_fill_the_unit_interval_evenly() {
        let mut bins = [0usize; 10];
        for counter in 0..100_000 {
            let draw = uniform(key(&[1, 2]), counter);
            assert!(draw > 0.0 && draw < 1.0);
            bins[(draw * 10.0) as usize] += 1;
        }
        assert!(bins.iter().all(|n| (9_600..10_400).contains(n)), "{bins:?}");
    }

    #[test]
    fn keys_depend_on_the_order_of_their_parts() {
        assert_ne!(key(&[1, 2]), key(&[2, 1]));
        assert_ne!(key(&[0]), key(&[0, 0]));
    }
}
