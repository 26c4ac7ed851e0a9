//! The rules that keep the crate readable: who may name which library, and how long files get.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Relative to the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers; comments and documentation may name what they like.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(n, line)| (n + 1, line))
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// Whether `line` uses the crate or module path `name` (as a whole word, followed by `::`, or imported).
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"');
        starts && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

/// Lines outside the `allowed` path prefixes that use one of `crates`.
fn strays(crates: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut strays = Vec::new();
    for source in sources("src") {
        if allowed.iter().any(|prefix| source.path.starts_with(prefix)) {
            continue;
        }
        for (number, line) in source.code() {
            if crates.iter().any(|name| names(line, name)) {
                strays.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    strays
}

/// Lines inside the `refused` path prefixes that use one of `crates`.
fn intruders(crates: &[&str], refused: &[&str]) -> Vec<String> {
    let all = strays(crates, &[]);
    all.into_iter().filter(|line| refused.iter().any(|prefix| line.starts_with(prefix))).collect()
}

#[test]
fn tensors_are_named_only_where_they_are_computed() {
    let libraries = ["candle_core", "candle_flash_attn", "candle_nn"];
    let found = strays(&libraries, &["src/model/", "src/backend/", "src/train/"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_web_framework_is_named_only_at_the_edge() {
    let found = strays(
        &["axum", "utoipa", "utoipa_axum", "utoipa_swagger_ui", "tower_http"],
        &["src/api/", "src/main.rs"],
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Which of the crate's modules each module names, tests included: `src/a/b.rs` belongs to `a`, a program to itself.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
    for source in sources("src").into_iter().filter(|source| source.path != "src/lib.rs") {
        let path = source.path.trim_start_matches("src/");
        let program = path == "main.rs" || path.starts_with("bin/");
        let depth = if path.starts_with("bin/") { 2 } else { 1 };
        let module = path.trim_end_matches(".rs").split('/').take(depth).collect::<Vec<_>>().join("/");
        let krate = if program { "evotoken::" } else { "crate::" };
        let found = uses.entry(module.clone()).or_default();
        for (number, line) in source.code() {
            for (at, _) in line.match_indices(krate) {
                let rest = &line[at + krate.len()..];
                // One name, or a group of names on one line.
                let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap());
                for path in
                    group.unwrap_or(rest).split(',').take(if group.is_some() { usize::MAX } else { 1 })
                {
                    let name: String =
                        path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    assert!(!name.is_empty(), "{}:{number}: {line}", source.path);
                    found.extend((name != module).then_some(name));
                }
            }
        }
    }
    uses
}

#[test]
fn modules_use_each_other_as_the_architecture_says_and_in_one_direction() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(page).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Modules")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<(String, BTreeSet<String>)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let used = cells[3].split_whitespace().map(str::to_owned).collect();
            (cells[1].trim().trim_matches('`').to_owned(), used)
        })
        .collect();
    let (told, found) = (rows.iter().cloned().collect::<BTreeMap<_, _>>(), uses());
    for module in told.keys().chain(found.keys()) {
        assert_eq!(told.get(module), found.get(module), "{module}: in ARCHITECTURE.md, in the code");
    }
    for (number, (module, used)) in rows.iter().enumerate() {
        let below = |name: &String| rows[number + 1..].iter().any(|(other, _)| other == name);
        let back: Vec<&String> = used.iter().filter(|name| !below(name)).collect();
        assert!(back.is_empty(), "{module} uses {back:?}, which are not below it");
    }
}

#[test]
fn models_are_downloaded_in_one_place() {
    let found = strays(&["hf_hub", "ureq"], &["src/hub/"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_waits_for_the_network_where_numbers_are_computed() {
    let refused = ["src/decode/", "src/model/", "src/backend/", "src/train/", "src/engine/scheduler.rs"];
    let found = intruders(&["tokio", "tokio_util"], &refused);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_seam_and_the_decoder_name_no_tensor_and_no_thread() {
    let refused = ["src/decode/", "src/engine/batch.rs", "src/engine/scheduler.rs"];
    let found = intruders(&["std::thread", "std::time", "candle_core", "tokio"], &refused);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_environment_is_read_only_by_the_settings() {
    let found = strays(&["std::env", "env::var", "env::vars"], &["src/config"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn features_are_asked_for_only_where_devices_kernels_hubs_and_exporters_are_chosen() {
    let asks = |source: &Source| {
        let lines =
            source.code().filter(|(_, line)| line.contains("cfg(feature") || line.contains("cfg!(feature"));
        lines.map(|(number, line)| format!("{}:{number}: {line}", source.path)).collect::<Vec<_>>()
    };
    let allowed = [
        "src/backend/device.rs",
        "src/hub/mod.rs",
        "src/model/kv/flash.rs",
        "src/model/product/kernel.rs",
        "src/telemetry/otlp.rs",
        "src/simd.rs",
    ];
    let elsewhere = sources("src").into_iter().filter(|s| !allowed.contains(&s.path.as_str()));
    let found: Vec<String> = elsewhere.flat_map(|source| asks(&source)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_is_longer_than_four_hundred_lines() {
    let all = sources("src").into_iter().chain(sources("tests"));
    let long: Vec<String> = all
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > 400)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_file_is_named_for_what_it_does() {
    let vague = ["utils", "util", "common", "helpers", "helper", "types", "core", "misc"];
    let all = sources("src").into_iter().map(|source| source.path);
    let found: Vec<String> =
        all.filter(|path| path.split(['/', '.']).any(|part| vague.contains(&part))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_use_is_told_from_a_word() {
    assert!(names("use axum::Router;", "axum"));
    assert!(names("let x = tokio::spawn(y);", "tokio"));
    assert!(!names("mytokio::spawn(y)", "tokio"));
    assert!(!names("// no axum here", "axum"));
}
