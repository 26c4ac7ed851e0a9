//! Settings files and the environment: refused with the place, or in range.

use std::collections::HashMap;

use evotoken::config::{Flags, Settings};
use evotoken::engine::EngineLimits;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::memory;
use crate::spoil::{cut, cuts};

const SHIPPED: &str = include_str!("../../config/server.toml");

const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "8",
    "65536",
    "4294967296",
    "1152921504606846976",
    "9223372036854775807",
    "18446744073709551616",
    "0.5",
    "nan",
    "inf",
    "-0.0",
    "1e400",
    "true",
    "\"\"",
    "\"a\"",
    "\"mask\"",
    "\"\\u0000\"",
    "[]",
    "[\"\"]",
    "[1, [2]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "\"::1\"",
    "\"*\"",
    "\"info,evotoken=debug\"",
    "[\"http://localhost:1\", \"é\"]",
];

/// Another value for the key in a line of the file; a commented one comes into force.
#[derive(Debug, Clone)]
struct Line(Index, &'static str);

fn lines() -> impl Strategy<Value = Vec<Line>> {
    proptest::collection::vec((any::<Index>(), select(VALUES)).prop_map(|(at, value)| Line(at, value)), 0..4)
}

fn changed(changes: &[Line]) -> String {
    let mut lines: Vec<String> = SHIPPED.lines().map(str::to_owned).collect();
    let keys: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
    for Line(at, value) in changes {
        let line = &mut lines[keys[at.index(keys.len())]];
        let key = line.trim_start_matches("# ").split(" = ").next().unwrap_or_default().to_owned();
        *line = format!("{key} = {value}");
    }
    lines.join("\n")
}

/// What is accepted can be shown, read again, and used.
fn check(settings: Result<Settings, impl std::fmt::Display>) {
    match settings {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(settings) => {
            let shown = settings.render();
            if settings.server.api_keys.is_empty() {
                let again = Settings::from_layers(
                    Some(("shown".to_owned(), shown)),
                    HashMap::new(),
                    &Flags::default(),
                );
                assert_eq!(again.map_err(|e| e.to_string()), Ok(settings.clone()));
            }
            // What is reserved before the first request.
            let limits = EngineLimits::from(&settings.engine);
            assert!(limits.slots <= 1 << 16, "{limits:?}");
        }
    }
    memory::check();
}

proptest! {
    #[test]
    fn a_changed_settings_file_is_refused_or_usable(lines in lines(), cuts in cuts()) {
        let mut bytes = changed(&lines).into_bytes();
        cut(&mut bytes, &cuts);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        check(Settings::from_layers(Some(("file".to_owned(), text)), HashMap::new(), &Flags::default()));
    }

    #[test]
    fn any_environment_is_refused_or_usable(
        pairs in proptest::collection::vec(
            (select(vec!["SERVER", "ENGINE", "LIMITS", "MODEL", "DECODE", "LOG", "", "é"]),
             prop_oneof![
                4 => select(vec![
                    "PORT", "HOST", "API_KEYS", "CORS_ORIGINS", "SLOTS", "QUEUE", "EVENT_BUFFER", "KV_BYTES", "MAX_CHOICES",
                    "STEPS", "ALPHA", "LEVEL", "PATH", "API_KEYS[3]", "CORS_ORIGINS[99999999999]", "PORT[-1]", "", "A__B",
                ]).prop_map(str::to_owned),
                1 => "[A-Z_.\\[\\]0-9-]{0,12}",
             ],
             prop_oneof![3 => select(VALUES).prop_map(str::to_owned), 1 => "\\PC{0,12}"]),
            0..4)
    ) {
        let variables = pairs.into_iter().map(|(section, key, value)| (format!("EVOTOKEN__{section}__{key}"), value));
        check(Settings::from_layers(None, variables.collect(), &Flags::default()));
    }
}
