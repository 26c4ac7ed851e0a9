//! What the environment says of the hub, by the names that Hugging Face's own programs read.

use std::env::var_os;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::hub::{Hub, Token};

/// The hub as `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` say. What is empty or no text says nothing.
pub fn hub() -> Hub {
    from(|name| var_os(name).filter(|value| !value.is_empty()))
}

fn from(value: impl Fn(&str) -> Option<OsString>) -> Hub {
    let text =
        |name| value(name).and_then(|value| value.into_string().ok()).map(|text| text.trim().to_owned());
    let usual = || value("HOME").map(|home| PathBuf::from(home).join(".cache/huggingface"));
    let default = Hub::default();
    Hub {
        home: value("HF_HOME").map(PathBuf::from).or_else(usual),
        endpoint: text("HF_ENDPOINT").map_or(default.endpoint, |url| url.trim_end_matches('/').to_owned()),
        token: text("HF_TOKEN").map(Token::new),
        offline: text("HF_HUB_OFFLINE").is_some_and(|text| says_yes(&text)),
        ..Hub::default()
    }
}

/// The words that Hugging Face's programs take for a yes.
fn says_yes(text: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Hub {
        let values: HashMap<&str, &str> = pairs.iter().copied().collect();
        from(|name| values.get(name).map(OsString::from))
    }

    #[test]
    fn without_a_word_files_go_where_other_programs_put_them() {
        assert_eq!(with(&[]), Hub::default());
        let hub = with(&[("HOME", "/me")]);
        assert_eq!(hub.home, Some(PathBuf::from("/me/.cache/huggingface")));
        assert_eq!((hub.endpoint.as_str(), hub.offline), ("https://huggingface.co", false));
    }

    #[test]
    fn the_usual_variables_are_honoured() {
        let hub = with(&[
            ("HOME", "/me"),
            ("HF_HOME", "/data"),
            ("HF_ENDPOINT", "http://localhost:9000/"),
            ("HF_TOKEN", "hf_x\n"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(hub.home, Some(PathBuf::from("/data")));
        assert_eq!((hub.endpoint.as_str(), hub.offline), ("http://localhost:9000", true));
        assert_eq!(hub.token, Some(Token::new("hf_x".to_owned())));
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
