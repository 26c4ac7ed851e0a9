//! Files and texts that somebody damaged or made up: whatever they hold, they are refused with a reason or they work. Never
//! a panic, and never memory that only a number in a file asks for. `PROPTEST_CASES` sets how many are tried.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod checkpoint;
mod documents;
mod gguf;
#[path = "../files/gguf.rs"]
#[expect(dead_code, reason = "changes by name are for other tests")]
mod gguf_file;
mod memory;
mod settings;
mod spoil;
mod texts;
mod tokenizers;
mod weights;
