//! `trainer evaluate`: questions, ways of decoding, and answers through the engine.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use clap::Parser;
use evotoken::decode::DecodeOptions;
use evotoken::decode::options::{CacheMode, Method};
use evotoken::model::{ModelConfig, ModelSource, bundled};
use evotoken::service::GenerationDefaults;
use evotoken::text::Tokenizer;
use evotoken::text::chat_template::ChatTemplate;
use evotoken::train::evaluate::grid::{Grid, Setting};
use evotoken::train::evaluate::results::{self, Measured, wilson};
use evotoken::train::evaluate::served::Served;
use evotoken::train::evaluate::{Asked, Marked};
use evotoken::train::suites::wording::{Prompt, Wording};
use evotoken::train::suites::{Question, Suite, Truth};
use evotoken::train::{export, tokenizer};

// ---- questions ----

fn file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("questions.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn read(suite: Suite, text: &str) -> anyhow::Result<Vec<Question>> {
    let folder = tempfile::tempdir().unwrap();
    suite.read(&file(folder.path(), text))
}

#[test]
fn every_suite_reads_its_own_rows() {
    let countdown = Truth::Countdown { numbers: vec![30, 100, 93], target: 23 };
    let cases = [
        (
            Suite::Countdown,
            r#"{"input": "30,100, 93", "output": "23"}"#,
            "Numbers: [30, 100, 93]\nTarget: 23",
            countdown.clone(),
        ),
        (
            Suite::Countdown,
            r#"{"prompt": "Numbers: [30, 100, 93]\nTarget: 23", "completion": "(93+30)-100"}"#,
            "Numbers: [30, 100, 93]\nTarget: 23",
            countdown,
        ),
        (
            Suite::Sorting,
            r#"{"prompt": "22, 27, 19=", "completion": "19, 22, 27"}"#,
            "22, 27, 19=",
            Truth::List(vec![19, 22, 27]),
        ),
        (
            Suite::Gsm8k,
            r#"{"question": "How many?", "answer": "600 + 600 = 1200\n#### 1,200"}"#,
            "How many?",
            Truth::Number(1200.0),
        ),
        (
            Suite::Math500,
            r#"{"problem": "Half?", "solution": "It is.", "answer": "\\frac{1}{2}", "level": 1}"#,
            "Half?",
            Truth::Formula(r"\frac{1}{2}".to_owned()),
        ),
        (
            Suite::Svamp,
            r#"[{"ID": "a", "Body": "Two hens lay 3 eggs each ", "Question": "How many?", "Answer": 6.0}]"#,
            "Two hens lay 3 eggs each How many?",
            Truth::Number(6.0),
        ),
    ];
    for (suite, row, text, truth) in cases {
        let questions = read(suite, row).unwrap();
        assert_eq!(questions.len(), 1, "{suite:?}");
        assert_eq!((questions[0].text.as_str(), &questions[0].truth), (text, &truth), "{suite:?}");
    }
}

#[test]
fn a_row_that_cannot_be_read_is_named_by_file_and_line() {
    let good = r#"{"input": "1,2", "output": "3"}"#;
    let cases = [
        (Suite::Countdown, format!("{good}\n\n{{\"input\": 3}}"), "questions.jsonl line 3: invalid type"),
        (Suite::Countdown, format!("{good}\nnot JSON"), "questions.jsonl line 2: "),
        (
            Suite::Countdown,
            r#"{"input": "1,x", "output": "3"}"#.to_owned(),
            "line 1: \"1,x\" and \"3\" are not",
        ),
        (
            Suite::Countdown,
            r#"{"prompt": "17+5=", "completion": "22"}"#.to_owned(),
            "line 1: \"17+5=\" is not a Countdown prompt",
        ),
        (
            Suite::Sorting,
            r#"{"prompt": "17+5=", "completion": "?"}"#.to_owned(),
            "the completion holds no number",
        ),
        (Suite::Gsm8k, r#"{"question": "How many?", "answer": "3"}"#.to_owned(), "line 1: the answer has no"),
        (
            Suite::Gsm8k,
            r#"{"question": "?", "answer": "3 #### x"}"#.to_owned(),
            "answer \"x\" is not a number",
        ),
        (Suite::Math500, r#"{"problem": "?"}"#.to_owned(), "line 1: missing field `answer`"),
        (Suite::Svamp, r#"[{"Body": "a"}]"#.to_owned(), "questions.jsonl row 1: missing field `Question`"),
        (Suite::Svamp, r#"{"Body": "a"}"#.to_owned(), "questions.jsonl is not a JSON array"),
        (Suite::Sorting, "\n\n".to_owned(), "questions.jsonl holds no question"),
    ];
    for (suite, text, expected) in cases {
        let error = format!("{:#}", read(suite, &text).unwrap_err());
        assert!(error.contains(expected), "{suite:?}: {error}");
    }
    let error = format!("{:#}", Suite::Sorting.read(Path::new("nowhere.jsonl")).unwrap_err());
    assert!(error.starts_with("cannot read nowhere.jsonl: "), "{error}");
}

#[test]
fn an_instruction_stands_above_the_question_and_the_prefill_behind_the_template() {
    let message = |suite: Suite| Wording::Message {
        instruction: suite.instruction(),
        template: Box::new(ChatTemplate::load(&bundled::COUNTDOWN).unwrap()),
    };
    let prompt =
        message(Suite::Gsm8k).prompt("How many?", Suite::Gsm8k.usual_style().usual_prefill()).unwrap();
    let Prompt::Rendered(text) = prompt else { panic!("not rendered") };
    let (instruction, question) = text.split_once("\n\n\n").unwrap();
    assert_eq!(question, "How many?<reasoning>");
    assert!(instruction.starts_with("<bos>\n") && instruction.ends_with("\\boxed{...}\n</answer>"), "{text}");
    assert!(Suite::Countdown.instruction().ends_with(&Suite::Gsm8k.instruction()));
    assert!(Suite::Countdown.instruction().contains("exactly once"));
    assert_eq!(Wording::Plain.prompt("1+1=", "2").unwrap(), Prompt::Text("1+1=2".to_owned()));
}

// ---- ways of decoding ----

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    grid: Grid,
}

fn model() -> ModelConfig {
    ModelConfig::from_json(&bundled::COUNTDOWN.require("config.json").unwrap()).unwrap()
}

fn settings(flags: &str) -> anyhow::Result<Vec<Setting>> {
    let line = Line::parse_from(std::iter::once("evaluate").chain(flags.split_whitespace()));
    let decode = DecodeOptions { block_length: Some(4), ..DecodeOptions::default() };
    let defaults = GenerationDefaults { max_new_tokens: Some(16), decode, ..GenerationDefaults::default() };
    line.grid.settings(&defaults, &model(), 256)
}

fn described(flags: &str) -> Vec<String> {
    settings(flags).unwrap().iter().map(Setting::describe).collect()
}

#[test]
fn what_nobody_names_comes_from_the_model_then_from_the_built_in_defaults() {
    assert_eq!(
        described(""),
        ["evotoken, threshold 0.9, 16 tokens, block 4, cache dual, alpha 0.7, k 3, boundary hard"]
    );
}

#[test]
fn lists_combine_and_what_a_method_does_not_use_makes_no_row() {
    assert_eq!(
        described("--method mask,evotoken --steps 8,4 --alpha 0.5,0.9 --cache none --k-soft 2"),
        [
            "mask, 8 steps, 16 tokens, block 4, cache none",
            "mask, 4 steps, 16 tokens, block 4, cache none",
            "evotoken, 8 steps, 16 tokens, block 4, cache none, alpha 0.5, k 2, boundary hard",
            "evotoken, 4 steps, 16 tokens, block 4, cache none, alpha 0.5, k 2, boundary hard",
            "evotoken, 8 steps, 16 tokens, block 4, cache none, alpha 0.9, k 2, boundary hard",
            "evotoken, 4 steps, 16 tokens, block 4, cache none, alpha 0.9, k 2, boundary hard",
        ]
    );
    let caches = "--method mask --cache none,prefix,dual --max-tokens 8,16 --block-length 4,8";
    assert_eq!(settings(caches).unwrap().len(), 12);
}

#[test]
fn the_three_selection_rules_stand_beside_each_other() {
    assert_eq!(
        described("--method mask --steps 4 --threshold 0.5,0.9 --factor 1 --temperature 0.5"),
        ["4 steps", "threshold 0.5", "threshold 0.9", "factor 1"]
            .map(|rule| format!("mask, {rule}, 16 tokens, block 4, cache dual, temperature 0.5, seed 42"))
    );
}

#[test]
fn a_setting_out_of_range_is_named() {
    let error = format!("{:#}", settings("--method mask --steps 8,2").unwrap_err());
    assert!(error.starts_with("mask, 2 steps") && error.contains("fewer than the 4 blocks"), "{error}");
    let error = format!("{:#}", settings("--alpha 1").unwrap_err());
    assert!(error.contains("alpha: must be at least 0 and below 1"), "{error}");
    let error = format!("{:#}", settings("--temperature 3").unwrap_err());
    assert!(error.contains("temperature: must be between 0 and 2"), "{error}");
}

// ---- answers ----

fn asked(problems: &[([u64; 3], u64)], prefill: &str) -> Asked {
    let row = |([a, b, c], target): &([u64; 3], u64)| {
        format!("{{\"input\": \"{a},{b},{c}\", \"output\": \"{target}\"}}\n")
    };
    let text: String = problems.iter().map(row).collect();
    Asked { prefill: prefill.to_owned(), ..Asked::plain(read(Suite::Countdown, &text).unwrap()) }
}

const PROBLEMS: [([u64; 3], u64); 5] =
    [([30, 100, 93], 23), ([83, 18, 75], 10), ([3, 41, 26], 45), ([50, 7, 3], 40), ([97, 89, 83], 1)];

fn answers(served: &Served, asked: &Asked, setting: &Setting) -> Vec<Marked> {
    asked.answers(served, setting, &|| ()).unwrap().0
}

fn texts(marked: &[Marked]) -> Vec<&str> {
    marked.iter().map(|marked| marked.answer.text.as_str()).collect()
}

fn ways() -> Vec<Setting> {
    settings("--steps 16 --method mask,evotoken --cache none --temperature 0.6")
        .unwrap()
        .into_iter()
        .chain(settings("--method evotoken --threshold 0.8 --cache dual --max-tokens 8,40").unwrap())
        .collect()
}

#[test]
fn the_bundled_model_gives_known_answers() {
    let served = Served::load(&bundled::COUNTDOWN, None, 8).unwrap();
    let asked = asked(&PROBLEMS, "");
    for setting in settings("--method mask,evotoken --steps 16 --cache none --alpha 0.9").unwrap() {
        let found = answers(&served, &asked, &setting);
        assert_eq!(texts(&found)[..4], ["(93+30)-100", "(75+18)-83", "(41/3)+26", "50-(7+3)"]);
        assert_eq!(found.iter().map(|m| m.mark.solved).collect::<Vec<_>>(), [true, true, false, true, false]);
        let measured = Measured::of(&found, 2.0);
        assert_eq!((measured.rows, measured.solved, measured.solved_rows.as_str()), (5, 3, "11010"));
        assert_eq!((measured.accuracy, measured.interval), (0.6, wilson(3, 5)));
        // Seven tokens and end-of-text in two blocks of four, one token a step.
        assert_eq!((measured.nfe, measured.tokens, measured.tokens_per_forward), (8.0, 8.0, 1.0));
        assert_eq!(measured.tokens_per_second, 20.0);
    }
}

#[test]
fn answers_do_not_depend_on_how_many_run_at_once() {
    let asked = asked(&PROBLEMS, "");
    let all = [1, 3, 64].map(|in_flight| {
        let served = Served::load(&bundled::COUNTDOWN, None, in_flight).unwrap();
        ways().iter().map(|setting| answers(&served, &asked, setting)).collect::<Vec<_>>()
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

#[test]
fn weights_in_memory_answer_as_their_folder_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/countdown/base");
    let (config, weights) = export::read(&folder).unwrap();
    let tokens = Tokenizer::from_json(tokenizer::tokenizer_json().to_string().as_bytes()).unwrap();
    let config = ModelConfig::from_json(config.to_string().as_bytes()).unwrap();
    let in_memory = Served::of_weights(&config, &weights, Arc::new(tokens), 8).unwrap();
    let of_folder = Served::load(&ModelSource::folder(&folder), None, 8).unwrap();
    let asked = asked(&PROBLEMS, "");
    for setting in ways() {
        assert_eq!(answers(&in_memory, &asked, &setting), answers(&of_folder, &asked, &setting));
    }
}

#[test]
fn the_bundled_template_makes_the_plain_prompt_of_a_message() {
    let served = Served::load(&bundled::COUNTDOWN, None, 8).unwrap();
    let plain = asked(&PROBLEMS, "");
    let template = Box::new(ChatTemplate::load(&bundled::COUNTDOWN).unwrap());
    let wording = Wording::Message { instruction: String::new(), template };
    let chat = Asked { wording, ..asked(&PROBLEMS, "") };
    let setting = &settings("--method mask --steps 8 --cache none").unwrap()[0];
    assert_eq!(answers(&served, &plain, setting), answers(&served, &chat, setting));
}

#[test]
fn what_answers_begin_with_is_given_to_the_model_and_counts() {
    let served = Served::load(&bundled::COUNTDOWN, None, 8).unwrap();
    let setting = &settings("--method mask --steps 8 --cache none").unwrap()[0];
    let found = answers(&served, &asked(&PROBLEMS[..1], "(93+30)-"), setting);
    assert_eq!((texts(&found), found[0].mark.solved), (vec!["100"], true));
}

#[test]
fn a_question_longer_than_the_model_is_named() {
    let served = Served::load(&bundled::COUNTDOWN, None, 8).unwrap();
    let mut asked = asked(&PROBLEMS[..2], "");
    asked.questions[1].text = "1 ".repeat(400);
    let setting = &settings("--method mask").unwrap()[0];
    let error = format!("{:#}", asked.answers(&served, setting, &|| ()).unwrap_err());
    assert!(error.contains("questions.jsonl line 2: ") && error.contains("tokens"), "{error}");
}

// ---- results ----

#[test]
fn intervals_are_wilsons() {
    // From the formula, computed apart.
    let cases = [
        ((0, 10), [0.0, 0.277_533]),
        ((5, 10), [0.236_593, 0.763_407]),
        ((10, 10), [0.722_467, 1.0]),
        ((218, 256), [0.802_825, 0.889_905]),
        ((1, 1), [0.206_549, 1.0]),
    ];
    for ((solved, rows), expected) in cases {
        let found = wilson(solved, rows);
        let close = std::iter::zip(found, expected).all(|(a, b): (f64, f64)| (a - b).abs() < 1e-6);
        assert!(close, "{solved} of {rows}: {found:?}, expected {expected:?}");
    }
}

fn trainer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer")).args(arguments).output().unwrap()
}

#[test]
fn the_program_writes_table_records_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let data = file(
        folder.path(),
        "{\"input\": \"30,100,93\", \"output\": \"23\"}\n{\"input\": \"1,2,3\", \"output\": \"99\"}\n",
    );
    let [json, markdown, log] =
        ["r.json", "r.md", "r.jsonl"].map(|name| folder.path().join(name).display().to_string());
    let data = data.display().to_string();
    let mut arguments = vec!["evaluate", "--suite", "countdown", "--data", &data, "--json", &json];
    arguments.extend(["--method", "mask", "--steps", "8", "--max-tokens", "8", "--cache", "none"]);
    let output = trainer(&[&arguments[..], &["--markdown", &markdown, "--answers", &log]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(std::fs::read_to_string(&markdown).unwrap(), table);
    let row = "| countdown | mask, 8 steps, 8 tokens, block 4, cache none | 1 of 2 | 50.0 | 9.5 to 90.5 | 8.00 | 1.00 | 0.00 |";
    assert!(table.lines().last().unwrap().starts_with(row), "{table}");
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.lines().next().unwrap().contains("\"answer\":\"(93+30)-100\""), "{lines}");

    let more = ["--append", "--limit", "1", "--name", "again", "--temperature", "0.5", "--in-flight", "1"];
    assert!(trainer(&[&arguments[..], &more].concat()).status.success());
    let records = results::read(Path::new(&json)).unwrap();
    let labels: Vec<_> = records.iter().map(|r| (r.subject.label.as_str(), r.measured.rows)).collect();
    assert_eq!(labels, [("countdown", 2), ("again", 1)]);
    assert_eq!(records[0].measured.solved_rows, "10");
    assert_eq!(
        (records[0].subject.suite, records[0].subject.data.as_str()),
        (Suite::Countdown, data.as_str())
    );
    let decode = records[0].setting.decode;
    assert_eq!(
        (decode.method, decode.cache, decode.alpha),
        (Some(Method::Mask), Some(CacheMode::None), None)
    );
}

#[test]
fn the_program_says_which_file_and_line_is_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let data =
        file(folder.path(), "{\"prompt\": \"2, 1=\", \"completion\": \"1, 2\"}\n{}\n").display().to_string();
    let output = trainer(&["evaluate", "--suite", "sorting", "--data", &data]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("questions.jsonl line 2"), "{message}");
    let data = file(folder.path(), "{\"prompt\": \"2, 1=\", \"completion\": \"1, 2\"}\n");
    let (data, model) = (data.display().to_string(), folder.path().display().to_string());
    let output = trainer(&["evaluate", "--suite", "sorting", "--data", &data, "--model", &model]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("config.json is missing"), "{message}");
}
