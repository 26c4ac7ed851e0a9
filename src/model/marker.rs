//! `evotoken.json`, a file of our own beside weights or an adapter: what the files of their makers cannot say.

use serde::Deserialize;

use super::{ModelError, ModelSource};
use crate::decode::Attention;

/// What a folder says of how it was trained; everything it is silent about is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Which positions see which.
    pub attention: Option<Attention>,
}

impl Marker {
    /// Read the folder's file; a folder without one says nothing.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else; the key is named.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        const FILE: &str = "evotoken.json";
        let Some(text) = source.read(FILE)? else { return Ok(Self::default()) };
        let mut deserializer = serde_json::Deserializer::from_slice(&text);
        let parsed = serde_path_to_error::deserialize(&mut deserializer);
        parsed.map_err(|error| {
            let file = format!("{FILE} of {}", source.place());
            ModelError::File { file, reason: error.to_string() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_its_attention_or_nothing_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(folder.path().join("evotoken.json"), text).expect("a file");
            }
            Marker::load(&ModelSource::folder(folder.path())).map_err(|error| error.to_string())
        };
        assert_eq!(read(None), Ok(Marker::default()));
        assert_eq!(read(Some("{}")), Ok(Marker::default()));
        let block_causal = Marker { attention: Some(Attention::BlockCausal) };
        assert_eq!(read(Some(r#"{"attention": "block_causal"}"#)), Ok(block_causal));
        for (text, named) in [
            (r#"{"atention": "full"}"#, "atention"),
            (r#"{"attention": "causal"}"#, "attention"),
            ("[]x", "evotoken.json of "),
        ] {
            let error = read(Some(text)).expect_err(text);
            assert!(error.contains("evotoken.json") && error.contains(named), "{error}");
        }
    }
}
