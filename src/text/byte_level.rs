//! GPT-2's alphabet: one printable character for each byte, in which byte-level vocabularies are spelled.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The character of a byte: itself if it is printable in Latin-1, else the next one from U+0100 on.
fn character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count();
    u32::try_from(before)
        .ok()
        .and_then(|before| char::from_u32(0x100 + before))
        .expect("68 bytes are not printable")
}

/// The bytes of the characters.
static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| (0..=255_u8).map(|byte| (character(byte), byte)).collect());

/// The bytes that a token's name spells; `None` if a character is not of the alphabet.
pub(super) fn spelled(name: &str) -> Option<Vec<u8>> {
    name.chars().map(|character| BYTES.get(&character).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers() {
        let ours: std::collections::HashSet<char> = (0..=255).map(character).collect();
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(ours, theirs.into_iter().collect());
        assert_eq!(spelled("ĠaÃ©"), Some(" aé".as_bytes().to_vec()));
        assert_eq!(spelled("你"), None);
    }
}
