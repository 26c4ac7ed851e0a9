//! What the tokens of a model spell, in the order in which an automaton reads them.

/// The spellings of a model's tokens. Tokens without one (the mask, special tokens) are in no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Token ids lie below.
    pub(super) len: usize,
    /// Tokens that end a text.
    pub(super) eos_ids: Vec<u32>,
    /// In the order of their bytes.
    pub(super) tokens: Vec<Spelling>,
}

/// A token and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// The token.
    pub id: u32,
    /// What it stands for behind other tokens; not empty.
    pub bytes: Box<[u8]>,
    /// What it stands for at the beginning of a text, if that is something else.
    pub first: Option<Box<[u8]>>,
}

impl Vocabulary {
    /// Tokens below `len` with their spellings; `eos_ids` end a text and spell nothing, whatever is said of them.
    pub fn new(len: usize, eos_ids: &[u32], spellings: impl IntoIterator<Item = Spelling>) -> Self {
        let spelled = |token: &Spelling| {
            (token.id as usize) < len && !token.bytes.is_empty() && !eos_ids.contains(&token.id)
        };
        let mut tokens: Vec<Spelling> = spellings.into_iter().filter(spelled).collect();
        tokens.sort_unstable_by(|a, b| a.bytes.cmp(&b.bytes).then(a.id.cmp(&b.id)));
        let eos_ids = eos_ids.iter().copied().filter(|id| (*id as usize) < len).collect();
        Self { len, eos_ids, tokens }
    }
}
