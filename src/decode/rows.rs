//! What a step gets back: the model's opinion of every row that was asked for.

/// What the model thinks of a token in some place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its probability at temperature 1.
    pub probability: f32,
    /// The natural logarithm of that, which is finite also where the probability is too small for a number.
    pub log_probability: f32,
}

impl From<(u32, f32)> for Candidate {
    /// A token with its probability, above 0.
    fn from((id, probability): (u32, f32)) -> Self {
        Self { id, probability, log_probability: probability.ln() }
    }
}

/// The rows of one step, in the order of its plan's targets.
#[derive(Debug, Clone, Copy)]
pub struct RowsView<'a> {
    /// Candidates per row.
    pub top_k: usize,
    /// `[rows]`: token to write and its probability.
    pub guesses: &'a [(u32, f32)],
    /// `[rows * top_k]`: best first.
    pub candidates: &'a [(u32, f32)],
    /// `[rows]`: log-probabilities of the guesses.
    pub log_guesses: &'a [f32],
    /// `[rows * top_k]`: log-probabilities of the candidates.
    pub log_candidates: &'a [f32],
}

impl RowsView<'_> {
    /// The candidates of one row, best first.
    pub fn candidates(&self, row: usize) -> &[(u32, f32)] {
        &self.candidates[row * self.top_k..(row + 1) * self.top_k]
    }

    /// The log-probabilities of one row's candidates.
    pub fn log_candidates(&self, row: usize) -> &[f32] {
        &self.log_candidates[row * self.top_k..(row + 1) * self.top_k]
    }

    /// The token to write in one row.
    pub fn guess(&self, row: usize) -> Candidate {
        let (id, probability) = self.guesses[row];
        Candidate { id, probability, log_probability: self.log_guesses[row] }
    }

    /// The first `count` candidates of one row, best first.
    pub fn best(&self, row: usize, count: usize) -> impl Iterator<Item = Candidate> + '_ {
        let pairs = self.candidates(row).iter().zip(self.log_candidates(row)).take(count);
        pairs.map(|((id, probability), log)| Candidate {
            id: *id,
            probability: *probability,
            log_probability: *log,
        })
    }
}
