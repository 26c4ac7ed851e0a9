//! What single tokens contribute to a text.

use tokenizers::DecoderWrapper;

use super::{Tokenizer, byte_level};

/// Tokens that are joined at once to see whether a text is what its tokens spell.
const JOINED: usize = 64;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelled {
    /// At the beginning of a text.
    pub first: Vec<u8>,
    /// Behind other tokens.
    pub within: Vec<u8>,
}

impl Spelled {
    fn everywhere(bytes: Vec<u8>) -> Self {
        Self { first: bytes.clone(), within: bytes }
    }
}

impl Tokenizer {
    /// What a token stands for within a text, a special token for its name; nothing if the vocabulary has no such token.
    /// Joined, the bytes of an ordinary text's tokens are the text, but for what a decoder does at its beginning.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self.spelled.get(id as usize) {
            Some(known) => known.get_or_init(|| self.spelled_or_named(id).within.into()).to_vec(),
            None => self.spelled_or_named(id).within,
        }
    }

    /// What a token stands for. `None` for tokens that are in no text: special ones, and those that the vocabulary does not
    /// have.
    pub fn spelled(&self, id: u32) -> Option<Spelled> {
        (!self.is_special(id) && self.name(id).is_some()).then(|| self.spelled_or_named(id))
    }

    fn spelled_or_named(&self, id: u32) -> Spelled {
        let Some(name) = self.name(id) else { return Spelled::everywhere(Vec::new()) };
        if self.added.contains(&id) {
            return Spelled::everywhere(name.into_bytes());
        }
        if self.bytes.contains(&id)
            && let Some(byte) = name.get(3..5).and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            return Spelled::everywhere(vec![byte]);
        }
        if self.byte_level
            && let Some(bytes) = byte_level::spelled(&name)
        {
            return Spelled::everywhere(bytes);
        }
        // Decoders treat the first token in their own way: within a text it is the second one that counts.
        let (once, twice) = (self.decode_with_special(&[id]), self.decode_with_special(&[id, id]));
        let within = twice.strip_prefix(&once).unwrap_or(&once).as_bytes().to_vec();
        Spelled { first: once.into_bytes(), within }
    }

    /// Whether a text is what its tokens spell one by one. Some decoders change what lies between two tokens: those that
    /// are known to, and others as far as joining all of `ids` in two orders shows.
    pub fn joins(&self, ids: impl Iterator<Item = u32>) -> bool {
        if self.inner.get_decoder().is_some_and(tidies) {
            return false;
        }
        // Tokens of single bytes make no text in this order, and no decoder changes them.
        let ids = ids.filter(|id| !self.bytes.contains(id));
        let (mut ids, mut spelled): (Vec<u32>, Vec<Spelled>) =
            ids.filter_map(|id| Some((id, self.spelled(id)?))).unzip();
        let joined = |(ids, spelled): (&[u32], &[Spelled])| {
            let mut bytes = spelled.first().map_or_else(Vec::new, |token| token.first.clone());
            spelled.iter().skip(1).for_each(|token| bytes.extend_from_slice(&token.within));
            self.decode(ids) == String::from_utf8_lossy(&bytes)
        };
        let forwards = ids.chunks(JOINED).zip(spelled.chunks(JOINED)).all(joined);
        ids.reverse();
        spelled.reverse();
        forwards && ids.chunks(JOINED).zip(spelled.chunks(JOINED)).all(joined)
    }
}

/// Whether a decoder takes spaces away where it finds them ugly, or letters that stand twice.
fn tidies(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::WordPiece(decoder) => decoder.cleanup,
        DecoderWrapper::CTC(_) => true,
        DecoderWrapper::Sequence(decoders) => decoders.get_decoders().iter().any(tidies),
        _ => false,
    }
}
