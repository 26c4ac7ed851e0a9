//! Texts and token ids that a sound tokenizer is given.

use std::sync::{Arc, LazyLock};

use evotoken::model::bundled::COUNTDOWN;
use evotoken::text::{Detokenizer, Tokenizer};
use proptest::prelude::*;
use proptest::sample::select;

use crate::memory;
use crate::tokenizers::sound;

static TOKENIZERS: LazyLock<Vec<Arc<Tokenizer>>> = LazyLock::new(|| {
    let made = (0..5).map(|kind| Tokenizer::from_json(sound(kind).to_string().as_bytes()));
    made.chain([Tokenizer::load(&COUNTDOWN)]).map(|tokenizer| Arc::new(tokenizer.unwrap())).collect()
});

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "\\PC{0,8}",
        2 => any::<String>(),
        2 => "[ab ▁Ġ#\\[\\]<>|.\\n]{0,12}",
        1 => select(vec![
            "<eos>", "[UNK]", "<mask>", "<0x00>", "<0xF", "\0", "\u{FFFD}", "\u{202E}", "e\u{301}\u{301}", "👩‍👩‍👧", "\u{10FFFF}",
            "Numbers: [", "Target: ",
        ]).prop_map(str::to_owned),
        1 => ("[a ]", 100usize..3000).prop_map(|(letter, times)| letter.repeat(times)),
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    let id = prop_oneof![8 => 0u32..600, 1 => Just(u32::MAX), 1 => any::<u32>()];
    proptest::collection::vec(id, 0..40)
}

proptest! {
    #[test]
    fn any_text_has_token_ids_or_is_refused(number in 0usize..6, text in text()) {
        let tokenizer = &TOKENIZERS[number];
        if let Ok(ids) = tokenizer.encode(&text) {
            prop_assert!(ids.iter().all(|id| tokenizer.name(*id).is_some()));
            let _ = tokenizer.decode_with_special(&ids);
        }
        let _ = tokenizer.encode_rendered(&text);
        memory::check();
    }

    #[test]
    fn any_token_ids_have_a_text_that_streams(number in 0usize..6, ids in ids(), block in 1usize..9) {
        let tokenizer = &TOKENIZERS[number];
        let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
        let mut streamed: String = ids.chunks(block).map(|ids| detokenizer.push(ids)).collect();
        streamed.push_str(&detokenizer.finish());
        // These two decoders look at the token before or behind: what a block ends with can change.
        if number < 2 || number == 5 {
            prop_assert_eq!(streamed, tokenizer.decode(&ids));
        }
        let _ = (detokenizer.tokens_for(3), tokenizer.decode_with_special(&ids));
        memory::check();
    }
}
