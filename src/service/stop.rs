//! Stop strings in a text that arrives in pieces.

/// Finds the first stop string to be completed, wherever the text was cut into pieces.
#[derive(Debug, Clone)]
pub struct StopFinder {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    /// Bytes of text before that.
    given: usize,
}

/// What a piece of text turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that holds no stop string and starts none.
    Text(String),
    /// A stop string: the text before it, and its own length in bytes.
    Stop {
        /// Text before the stop string.
        text: String,
        /// Bytes of the stop string.
        stop_bytes: usize,
    },
}

impl StopFinder {
    /// `stops` are not empty strings.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), given: 0 }
    }

    /// The next piece of text. Of several stop strings the one completed first counts, of those completed together the
    /// longest; none that is completed within the first `passed` bytes of the whole text.
    pub fn push(&mut self, text: &str, passed: usize) -> Piece {
        self.held.push_str(text);
        let passed = passed.saturating_sub(self.given);
        let found = self.stops.iter().filter_map(|stop| {
            // From where on it ends behind them.
            let from = if passed == 0 { 0 } else { (passed + 1).saturating_sub(stop.len()) };
            let from = (from..=self.held.len()).find(|at| self.held.is_char_boundary(*at))?;
            let at = from + self.held[from..].find(stop.as_str())?;
            Some((at + stop.len(), at))
        });
        if let Some((end, start)) = found.min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Piece::Stop { text, stop_bytes: end - start };
        }
        let forming = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - forming);
        self.given += self.held.len();
        Piece::Text(std::mem::replace(&mut self.held, kept))
    }

    /// No more text follows; returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop`, but not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|n| text.as_bytes().ends_with(&stop.as_bytes()[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops.to_vec());
        let mut text = String::new();
        for piece in pieces {
            match finder.push(piece, 0) {
                Piece::Text(more) => text += &more,
                Piece::Stop { text: more, .. } => return (text + &more, true),
            }
        }
        (text + &finder.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_held_back_and_found() {
        let mut finder = StopFinder::new(vec!["\n\nEnd".to_owned()]);
        assert_eq!(finder.push("one\n", 0), Piece::Text("one".to_owned()));
        assert_eq!(finder.push("\nE", 0), Piece::Text(String::new()));
        assert_eq!(finder.push("x", 0), Piece::Text("\n\nEx".to_owned()));
        assert_eq!(finder.push("\n\nEn", 0), Piece::Text(String::new()));
        assert_eq!(finder.push("d.", 0), Piece::Stop { text: String::new(), stop_bytes: 5 });
    }

    #[test]
    fn a_stop_string_counts_if_it_ends_behind_the_bytes_that_are_passed() {
        let found = |pieces: &[&str], passed| {
            let mut finder = StopFinder::new(vec!["aéa".to_owned()]);
            let mut before = String::new();
            for piece in pieces {
                match finder.push(piece, passed) {
                    Piece::Text(text) => before += &text,
                    Piece::Stop { text, .. } => return Some((before + &text).len()),
                }
            }
            None
        };
        // It stands at 1 and, sharing a letter, at 4.
        for pieces in [&["xaéaéay"][..], &["xaé", "a", "éay"], &["xaéaé", "ay"]] {
            let all = [0, 4, 5, 7, 8, 99].map(|passed| found(pieces, passed));
            assert_eq!(all, [Some(1), Some(1), Some(4), Some(4), None, None], "{pieces:?}");
        }
    }

    #[test]
    fn a_stop_string_that_only_began_is_text_after_all() {
        assert_eq!(run(&["abc".to_owned()], &["xab"]), ("xab".to_owned(), false));
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_changes_nothing(
            text in "[aäb]{0,20}",
            stops in prop::collection::vec("[aäb]{1,4}", 0..4),
            cuts in prop::collection::vec(0..20_usize, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|at| text.is_char_boundary(*at)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(run(&stops, &pieces), run(&stops, &[&text]));
        }

        #[test]
        fn no_stop_string_ever_gets_out(text in "[ab]{0,20}", stops in prop::collection::vec("[ab]{1,3}", 1..4)) {
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let (out, stopped) = run(&stops, &letters);
            prop_assert!(text.starts_with(&out));
            prop_assert!(stops.iter().all(|stop| !out.contains(stop.as_str())));
            prop_assert_eq!(stopped, stops.iter().any(|stop| text.contains(stop.as_str())));
        }
    }
}
