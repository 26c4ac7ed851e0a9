//! The files that people have: layouts of folders, GGUF files, and what is said about broken ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod broken;
#[path = "../hostile/checkpoint.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod checkpoint;
mod gguf;
mod inspect;
mod layouts;
mod logits;
mod tokens;

use std::path::{Path, PathBuf};

/// A folder of the golden models.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
