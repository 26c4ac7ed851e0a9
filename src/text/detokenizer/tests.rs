//! Streamed text is the one-shot text, whatever the tokenizer and wherever it is cut.

use proptest::prelude::*;

use super::*;
use crate::text::samples::{byte_fallback, byte_level, sentence_piece, word_piece};

fn streamed(tokenizer: &Arc<Tokenizer>, blocks: &[Vec<u32>]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone());
    let mut text: String = blocks.iter().map(|block| detokenizer.push(block)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn an_unfinished_character_waits_for_its_bytes() {
    let tokenizer = byte_level();
    let bytes: Vec<u32> = tokenizer.encode("h你").expect("bytes have tokens");
    let mut detokenizer = Detokenizer::new(tokenizer);
    assert_eq!(bytes.len(), 4);
    assert_eq!(detokenizer.push(&bytes[..2]), "h");
    assert_eq!(detokenizer.push(&bytes[2..3]), "");
    assert_eq!(detokenizer.push(&bytes[3..]), "你");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn an_open_run_of_byte_tokens_waits_for_its_end() {
    let tokenizer = byte_fallback();
    let byte = |b: u8| 6 + u32::from(b);
    let mut detokenizer = Detokenizer::new(tokenizer);
    assert_eq!(detokenizer.push(&[1, byte(b'x')]), "a");
    assert_eq!(detokenizer.push(&[0, byte(0xFF)]), "");
    assert_eq!(detokenizer.push(&[2]), "\u{FFFD}\u{FFFD}b");
}

#[test]
fn the_token_that_completes_a_text_is_counted() {
    let tokenizer = byte_level();
    let ids = tokenizer.encode("abcd").expect("bytes have tokens");
    let mut detokenizer = Detokenizer::new(tokenizer);
    detokenizer.push(&ids);
    assert_eq!([0, 1, 3, 9].map(|bytes| detokenizer.tokens_for(bytes)), [0, 1, 3, 4]);
    assert_eq!([0, 1, 3, 9].map(|tokens| detokenizer.bytes_of(tokens)), [0, 1, 3, 4]);
}

#[test]
fn it_is_known_whether_a_text_is_what_its_tokens_spell() {
    let all = |tokenizer: &Tokenizer| tokenizer.joins((0..300).filter(|id| tokenizer.name(*id).is_some()));
    assert!(all(&byte_level()) && all(&byte_fallback()));
    // It makes "don't" of "do n't".
    assert!(!all(&word_piece()));
    let tokenizer = byte_fallback();
    // The first space of a text is dropped.
    let spelled = |id| tokenizer.spelled(id).map(|token| (token.first, token.within));
    assert_eq!(spelled(3), Some((b"the".to_vec(), b" the".to_vec())));
    assert_eq!(spelled(6 + 0xC3), Some((vec![0xC3], vec![0xC3])));
    assert_eq!([spelled(0), spelled(999)], [None, None]);
}

#[test]
fn the_bytes_of_tokens_make_the_text() {
    let of = |tokenizer: &Tokenizer, ids: &[u32]| -> Vec<u8> {
        ids.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect()
    };
    let tokenizer = byte_level();
    assert_eq!(of(&tokenizer, &tokenizer.encode(" a你\n").expect("bytes")), " a你\n".as_bytes());
    let tokenizer = byte_fallback();
    // A token that begins a word has its space, also alone.
    assert_eq!(of(&tokenizer, &[1, 3, 6 + 0xC3, 6 + 0xA9, 5]), "a theé你".as_bytes());
    assert_eq!(of(&tokenizer, &[0]), b"<eos>");
    let tokenizer = word_piece();
    assert_eq!(of(&tokenizer, &[2, 3, 5]), b" unable word");
    assert_eq!(of(&tokenizer, &[9999]), b"");
}

/// Every kind of tokenizer, and how many token ids to draw from: some have no token.
fn kinds() -> impl Strategy<Value = (Arc<Tokenizer>, u32)> {
    prop_oneof![
        Just(()).prop_map(|()| (byte_fallback(), 270)),
        Just(()).prop_map(|()| (byte_level(), 270)),
        Just(()).prop_map(|()| (word_piece(), 12)),
        any::<bool>().prop_map(|metaspace| (sentence_piece(metaspace), 300)),
    ]
}

/// A tokenizer and blocks of any of its tokens, special ones included.
fn blocks() -> impl Strategy<Value = (Arc<Tokenizer>, Vec<Vec<u32>>)> {
    kinds().prop_flat_map(|(tokenizer, ids)| {
        let blocks = prop::collection::vec(prop::collection::vec(0..ids, 0..6), 0..8);
        (Just(tokenizer), blocks)
    })
}

/// A tokenizer and a text that it has tokens for.
fn texts() -> impl Strategy<Value = (Arc<Tokenizer>, String)> {
    let any_text = "[a-z é你😀\u{300}\n]{0,16}";
    // The space before the first word is the tokenizer's own.
    let words = "([a-zé你😀]{1,6}( {1,3}[a-z你😀]{1,5}){0,4} ?)?";
    let known =
        prop::collection::vec(prop::sample::select(vec!["un", "unable", "words", "do", "word"]), 0..6);
    prop_oneof![
        any_text.prop_map(|text| (byte_level(), text)),
        (words, any::<bool>()).prop_map(|(text, metaspace)| (sentence_piece(metaspace), text)),
        known.prop_map(|words| (word_piece(), words.join(" "))),
    ]
}

proptest! {
    #[test]
    fn streamed_text_is_the_one_shot_text((tokenizer, blocks) in blocks()) {
        prop_assert_eq!(streamed(&tokenizer, &blocks), tokenizer.decode(&blocks.concat()));
    }

    #[test]
    fn streamed_text_is_the_encoded_text_and_no_chunk_is_torn(
        (tokenizer, text) in texts(), cuts in prop::collection::vec(0..5_usize, 0..20),
        specials in prop::collection::vec(0..40_usize, 0..4),
    ) {
        let mut ids = tokenizer.encode(&text).expect("the text has tokens");
        // A special token is no text, wherever it stands.
        for place in specials {
            ids.insert(place.min(ids.len()), 0);
        }
        let mut rest = ids.into_iter();
        let mut detokenizer = Detokenizer::new(tokenizer);
        let mut chunks: Vec<String> =
            cuts.iter().map(|n| detokenizer.push(&rest.by_ref().take(*n).collect::<Vec<u32>>())).collect();
        chunks.push(detokenizer.push(&rest.collect::<Vec<u32>>()));
        chunks.push(detokenizer.finish());
        prop_assert!(chunks.iter().all(|chunk| !chunk.contains(char::REPLACEMENT_CHARACTER)), "{:?}", chunks);
        prop_assert_eq!(chunks.concat(), text);
    }

    #[test]
    fn a_text_behind_another_is_what_it_adds_to_it((tokenizer, blocks) in blocks(), split in 0..8_usize) {
        let split = split.min(blocks.len());
        let (before, after) = (blocks[..split].concat(), &blocks[split..]);
        // A text that ends in the middle of a character has no end to go on from.
        let last = before.iter().rev().find(|id| !tokenizer.is_special(**id)).copied();
        prop_assume!(last.is_some() && tokenizer.last_word(&before) == last);
        let mut detokenizer = Detokenizer::behind(Arc::clone(&tokenizer), last.expect("assumed"));
        let mut text: String = after.iter().map(|block| detokenizer.push(block)).collect();
        text.push_str(&detokenizer.finish());
        let whole = tokenizer.decode(&blocks.concat());
        prop_assert_eq!(tokenizer.decode(&before) + &text, whole);
        prop_assert_eq!(detokenizer.tokens_for(0), 0);
    }
}

#[test]
fn words_keep_the_spaces_between_them_wherever_a_text_is_split() {
    for (tokenizer, text) in [
        (sentence_piece(true), "ab words do"),
        (sentence_piece(false), "ab words do"),
        (byte_level(), "ab words do"),
        (word_piece(), "word words do"),
    ] {
        let ids = tokenizer.encode(text).expect("the text has tokens");
        for split in 1..ids.len() {
            let last = tokenizer.last_word(&ids[..split]).expect("words");
            let mut detokenizer = Detokenizer::behind(Arc::clone(&tokenizer), last);
            let rest = detokenizer.push(&ids[split..]) + &detokenizer.finish();
            assert_eq!(tokenizer.decode(&ids[..split]) + &rest, text, "at {split}");
        }
    }
}
