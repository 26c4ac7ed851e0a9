//! Settings: layers, their order, and what is said about mistakes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clap::Parser;
use evotoken::backend::device::Devices;
use evotoken::config::{Flags, Settings};
use evotoken::decode::DecodeOptions;

fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Settings, String> {
    let file = Some(("server.toml".to_owned(), text.to_owned()));
    Settings::from_layers(file, HashMap::new(), &Flags::default()).map_err(|e| e.to_string())
}

fn folders(pairs: &[(&str, &str)]) -> BTreeMap<String, PathBuf> {
    pairs.iter().map(|(name, folder)| ((*name).to_owned(), PathBuf::from(folder))).collect()
}

#[test]
fn an_adapter_has_a_name_that_can_be_asked_for_and_only_one_folder() {
    let load = |arguments: &[&str]| {
        let flags = Flags::try_parse_from([&["evotoken"], arguments].concat()).map_err(|e| e.to_string())?;
        let settings = Settings::from_layers(None, HashMap::new(), &flags).map_err(|e| e.to_string())?;
        assert_eq!(from_file(&settings.render()), Ok(settings.clone()));
        Ok::<_, String>(settings.model.adapters)
    };
    // A folder names itself, also one that is written without its name.
    assert_eq!(load(&["--adapter", "src/../tests"]), Ok(folders(&[("tests", "src/../tests")])));
    assert_eq!(load(&["--adapter", "a=x=y"]), Ok(folders(&[("a", "x=y")])));
    assert_eq!(load(&["--adapter", "src/.."]).expect("a folder").len(), 1);
    for (arguments, part) in [
        (["--adapter", "a=1", "--adapter", "a=2"].as_slice(), "--adapter: \"a\" stands twice"),
        (&["--adapter", "a:b=1"], "model.adapters: the name \"a:b\" must not contain ':'"),
        (&["--adapter", "=1"], "must not be empty"),
        (&["--adapter", "/"], "NAME=DIR"),
    ] {
        let error = load(arguments).expect_err("no such adapter");
        assert!(error.contains(part), "{error}");
    }
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::from_layers(None, environment(pairs), &Flags::default()).map_err(|e| e.to_string())
}

const SHIPPED: &str = include_str!("../config/server.toml");

#[test]
fn the_shipped_file_equals_the_defaults() {
    assert_eq!(from_file(SHIPPED), Ok(Settings::default()));
}

#[test]
fn the_example_files_are_settings() {
    for (text, slots, max_new_tokens) in [
        (include_str!("../config/llada-8b.toml"), 8, 1024),
        (include_str!("../config/dream-7b.toml"), 16, 512),
    ] {
        let settings = from_file(text).expect("valid settings");
        assert_eq!((settings.engine.slots, settings.limits.max_new_tokens), (slots, max_new_tokens));
    }
}

#[test]
fn the_shipped_file_shows_every_key_with_a_comment_above_it() {
    let mut section = String::new();
    let mut found: Vec<String> = Vec::new();
    let mut above = "";
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
        }
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, _)) = bare.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            assert!(above.starts_with("# "), "no comment above {line:?}");
            found.push(format!("{section}.{key}"));
        }
        above = line;
    }
    let decode = DecodeOptions { steps: Some(1), factor: Some(1.0), ..DecodeOptions::BUILT_IN };
    let all = Settings { decode, ..Settings::default() };
    let mut known: Vec<String> = Vec::new();
    for line in all.render().lines() {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => known.extend(
                line.trim_start_matches("# ").split_once(" =").map(|(key, _)| format!("{section}.{key}")),
            ),
        }
    }
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn the_commented_decoding_values_are_the_built_in_ones() {
    let block = SHIPPED
        .split("[decode]")
        .nth(1)
        .and_then(|rest| rest.split("[log]").next())
        .expect("a [decode] table");
    let lines =
        block.lines().filter(|l| l.contains(" = ") && !l.contains("steps =") && !l.contains("factor ="));
    let text: String = lines.map(|l| format!("{}\n", l.trim_start_matches("# "))).collect();
    let settings = from_file(&format!("[decode]\n{text}")).expect("valid settings");
    assert_eq!(settings.decode, DecodeOptions::BUILT_IN);
}

#[test]
fn flags_go_before_the_environment_and_the_environment_before_the_file() {
    let file =
        "[server]\nport = 1\nhost = \"::1\"\n[engine]\nslots = 5\n[model]\nadapters = { a-1 = \"b/c\" }";
    let file = Some(("server.toml".to_owned(), file.to_owned()));
    let environment = environment(&[
        ("EVOTOKEN__SERVER__PORT", "2"),
        ("EVOTOKEN__SERVER__PLAYGROUND", "false"),
        ("EVOTOKEN__ENGINE__QUEUE", "77"),
        ("EVOTOKEN__DECODE__THRESHOLD", "0.5"),
        ("EVOTOKEN__SERVER__API_KEYS", "one,two"),
        ("EVOTOKEN__MODEL__SERVED_NAMES", "12,lab/echo"),
        ("EVOTOKEN__MODEL__ADAPTERS__X", "y"),
        ("EVOTOKEN__SERVER__RUNTIME_ADAPTERS", "true"),
        ("OTHER__SERVER__PORT", "9"),
    ]);
    let flags = Flags {
        port: Some(3),
        device: Some("cpu,cpu".parse::<Devices>().expect("devices")),
        ..Flags::default()
    };
    let settings = Settings::from_layers(file, environment, &flags).expect("valid settings");
    assert_eq!((settings.server.port, settings.server.playground), (3, false));
    assert_eq!(settings.server.host.to_string(), "::1");
    assert_eq!((settings.engine.slots, settings.engine.queue), (5, 77));
    assert_eq!(settings.decode.threshold, Some(0.5));
    assert!(settings.server.runtime_adapters);
    assert_eq!(settings.server.api_keys.iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(settings.model.served_names, ["12", "lab/echo"]);
    assert_eq!(settings.model.adapters, folders(&[("a-1", "b/c"), ("x", "y")]));
    assert_eq!(settings.model.device.to_string(), "cpu,cpu");
}

#[test]
fn a_flag_for_the_model_takes_nothing_else_from_the_settings() {
    let file =
        "[model]\npath = \"m\"\nserved_names = [\"x\"]\n[model.adapters]\na = \"1\"\n\"b.c/d\" = \"2\"";
    let load = |arguments: &[&str]| {
        let flags = Flags::try_parse_from([&["evotoken"], arguments].concat()).expect("valid flags");
        let file = Some(("server.toml".to_owned(), file.to_owned()));
        Settings::from_layers(file, HashMap::new(), &flags).expect("valid settings").model
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let model = load(&["--model", "n"]);
    assert_eq!(
        (model.path, model.adapters),
        (Some(PathBuf::from("n")), folders(&[("a", "1"), ("b.c/d", "2")]))
    );
    assert_eq!(model.served_names, names(&["x"]));
    let model = load(&["--served-model-name", "lab/y", "z", "--adapter", "a=3", "--adapter", "no/where"]);
    assert_eq!(model.path, Some(PathBuf::from("m")));
    assert_eq!(model.adapters, folders(&[("a", "3"), ("b.c/d", "2"), ("where", "no/where")]));
    assert_eq!(model.served_names, names(&["lab/y", "z"]));
    let model = load(&["--served-model-name", "y", "--served-model-name", "z"]);
    assert_eq!(model.served_names, names(&["y", "z"]));
}

#[test]
fn a_mistake_is_named_with_its_place_and_key() {
    for (text, parts) in [
        ("[server]\nprot = 1", ["server.toml: server", "prot", "`port`"].as_slice()),
        ("[sever]\nport = 1", &["server.toml", "sever", "`server`"]),
        ("[server]\nport = \"x\"", &["server.toml: server.port", "integer"]),
        ("[server]\nport = 70000", &["server.toml: server.port", "70000"]),
        ("[log]\nformat = \"xml\"", &["server.toml: log.format", "xml"]),
        ("[decode]\nstep = 1", &["server.toml: decode", "step", "`steps`"]),
        ("[decode]\nalpha = 1.0", &["decode.alpha", "below 1"]),
        ("[engine]\nqueue = 0", &["engine.queue", "at least 1"]),
        ("[engine]\nslots = 2.5", &["server.toml: engine.slots", "whole number"]),
        ("[server]\nport = true", &["server.toml: server.port", "whole number"]),
        ("[server]\nplayground = \"maybe\"", &["server.toml: server.playground", "boolean"]),
        ("[decode]\nk_soft = inf", &["server.toml: decode.k_soft", "whole number"]),
        ("[engine]\nslots = 65537", &["engine.slots", "at most 65536"]),
        ("[engine]\nqueue = 9223372036854775807", &["engine.queue", "at most"]),
        ("[server]\n\"port[9]\" = 1", &["server.toml", "port[9]"]),
        ("[server]\nbody_timeout_s = 0", &["server.body_timeout_s", "between 1"]),
        ("[server]\ncors_origins = [\"a b\"]", &["server.cors_origins", "a b"]),
        ("[model]\nserved_names = [\"a\", \" \"]", &["model.served_names", "\" \""]),
        ("[model]\nserved_names = [\"a\", \"a\"]", &["model.served_names", "twice"]),
        ("[model]\nserved_name = \"a\"", &["server.toml: model", "served_name", "`served_names`"]),
        ("[server\n", &["server.toml", "line 1"]),
    ] {
        let message = from_file(text).expect_err(text);
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    let message = from_environment(&[("EVOTOKEN__SERVER__PROT", "1")]).expect_err("unknown key");
    assert!(
        message.contains("environment") && message.contains("prot") && message.contains("`port`"),
        "{message}"
    );
}

#[test]
fn a_request_has_at_most_as_many_choices_as_the_queue_has_places() {
    assert_eq!(Settings::default().max_choices(), 64);
    assert_eq!(from_file("[engine]\nqueue = 8").expect("valid settings").max_choices(), 8);
}

#[test]
fn api_keys_are_never_shown() {
    let settings = from_environment(&[("EVOTOKEN__SERVER__API_KEYS", "sesame")]).expect("valid settings");
    assert!(!settings.render().contains("sesame"));
    assert!(!format!("{settings:?}").contains("sesame"));
}

#[test]
fn a_mistake_in_the_keys_does_not_show_them() {
    for text in [
        "[server]\napi_keys = \"sesame\"",
        "[server]\napi_keys = [[\"sesame\"]]",
        "[server]\napi_keys = { sesame = 1 }",
        "[server]\napi_keys = [\"sesame]",
        "[server]\napi_keys = sesame",
    ] {
        let message = from_file(text).expect_err(text);
        assert!(message.contains("server.toml") && !message.contains("sesame"), "{message}");
    }
    let message = from_environment(&[("EVOTOKEN__SERVER__API_KEYS__0", "sesame")]).expect_err("no list");
    assert!(message.contains("server.api_keys") && !message.contains("sesame"), "{message}");
}

#[test]
fn keys_of_the_environment_are_texts_whatever_they_look_like() {
    for (text, keys) in [("12345", vec!["12345"]), ("true,1e5", vec!["true", "1e5"])] {
        let settings = from_environment(&[("EVOTOKEN__SERVER__API_KEYS", text)]).expect("valid settings");
        assert_eq!(settings.server.api_keys.iter().collect::<Vec<_>>(), keys);
    }
}

#[test]
fn the_rendered_settings_are_a_settings_file() {
    let text = "[server]\nport = 9\n[decode]\nsteps = 8\nmethod = \"mask\"\n[log]\nlevel = \"a\\\"b\"";
    let settings = from_file(text).expect("valid settings");
    assert_eq!(from_file(&settings.render()), Ok(settings));
}
