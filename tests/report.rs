//! `trainer report`: results side by side.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;
use std::process::Command;

use evotoken::decode::DecodeOptions;
use evotoken::decode::options::{CacheMode, Method};
use evotoken::train::evaluate::grid::Setting;
use evotoken::train::evaluate::results::{self, Measured, Record, Subject, wilson};
use evotoken::train::suites::Suite;
use evotoken::train::suites::wording::Style;

/// A label and the model's place, the number of steps, and what was solved.
fn record((label, model): (&str, &str), steps: usize, solved_rows: &str) -> Record {
    let (rows, solved) = (solved_rows.len(), solved_rows.matches('1').count());
    let soft = label.starts_with("Evo");
    let decode = DecodeOptions {
        method: Some(if soft { Method::Evotoken } else { Method::Mask }),
        steps: Some(steps),
        block_length: Some(4),
        alpha: soft.then_some(0.9),
        cache: Some(CacheMode::None),
        ..DecodeOptions::default()
    };
    let subject = Subject {
        label: label.to_owned(),
        model: model.to_owned(),
        adapter: None,
        suite: Suite::Sorting,
        data: "data/sorting.jsonl".to_owned(),
        prompt: Style::Plain,
        prefill: String::new(),
    };
    let measured = Measured {
        rows,
        solved,
        accuracy: solved as f64 / rows as f64,
        interval: wilson(solved, rows),
        values: None,
        nfe: steps as f64,
        tokens_per_forward: 8.0 / steps as f64,
        tokens: 8.0,
        revisions: 0.0,
        tokens_per_second: 100.0,
        seconds: 1.0,
        solved_rows: solved_rows.to_owned(),
    };
    Record { subject, setting: Setting { max_tokens: 8, decode, temperature: 0.0, seed: 0 }, measured }
}

/// Standard output and error, and whether it went well.
fn report(records: &[Record], arguments: &[&str]) -> (String, String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    results::write(&path, records).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    let output = command.arg("report").arg(&path).args(arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (out, err, output.status.success())
}

#[test]
fn labels_are_columns_budgets_are_rows_and_differences_are_paired() {
    let records = [
        record(("FT", "a"), 8, "1111000000"),
        record(("EvoToken", "b"), 8, "1111100000"),
        record(("FT", "a"), 4, "1000000000"),
    ];
    let (table, error, _) = report(&records, &["--against", "FT"]);
    let expected = "8 tokens, block 4, cache none, sorting, sorting.jsonl, 10 questions; solved % [95 % interval], mean \
                    forward passes.\n\n\
                    | | FT | EvoToken | EvoToken − FT |\n\
                    |---|---|---|---|\n\
                    | 8 steps | 40.0 [16.8, 68.7], 8.0 | 50.0 [23.7, 76.3], 8.0 | +10.0 [-12.6, +32.6] |\n\
                    | 4 steps | 10.0 [1.8, 40.4], 4.0 |  |  |\n";
    assert_eq!(table, expected, "{error}");
}

#[test]
fn models_of_one_label_are_repetitions_and_a_model_measured_again_is_not() {
    let records = [
        record(("FT", "seed 1"), 8, "1100"),
        record(("FT", "seed 2"), 8, "0000"),
        record(("FT", "seed 2"), 8, "1111"),
    ];
    let (table, ..) = report(&records, &[]);
    assert!(table.contains("| 8 steps | 75.0 ["), "{table}");
    assert!(table.contains("up to 2 repetitions"), "{table}");
}

#[test]
fn what_cannot_be_compared_is_named() {
    let records = [record(("FT", "a"), 8, "10"), record(("EvoToken", "b"), 8, "11")];
    let (_, error, well) = report(&records, &["--against", "Base"]);
    assert!(!well && error.contains("there is no column \"Base\"; the columns are FT | EvoToken"), "{error}");
    let seeds = [
        record(("FT", "a"), 8, "10"),
        record(("FT", "b"), 8, "10"),
        record(("Evo", "c"), 8, "10"),
        record(("Evo", "d"), 8, "10"),
        record(("Evo", "e"), 8, "10"),
    ];
    let (_, error, well) = report(&seeds, &["--against", "FT"]);
    assert!(!well && error.contains("\"Evo\" has 3 repetitions at \"8 steps\", \"FT\" has 2"), "{error}");
    let output =
        Command::new(env!("CARGO_BIN_EXE_trainer")).args(["report", "nowhere.json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("results nowhere.json"), "{output:?}");
}

#[test]
fn a_plot_has_a_line_per_method_and_a_point_per_budget() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plot.svg");
    let records = [
        record(("FT <1>", "a"), 8, "1110"),
        record(("FT <1>", "a"), 4, "1100"),
        record(("FT <1>", "a"), 2, "1000"),
        record(("EvoToken", "b"), 8, "1110"),
        record(("EvoToken", "b"), 4, "1110"),
    ];
    let name = path.display().to_string();
    assert!(report(&records, &["--plot", &name, "--title", "A & B"]).2);
    let picture = std::fs::read_to_string(Path::new(&name)).unwrap();
    assert_eq!((picture.matches("<polyline").count(), picture.matches("<circle").count()), (2, 5));
    assert!(picture.contains(">FT &lt;1&gt;</text>") && picture.contains(">A &amp; B</text>"), "{picture}");
    assert!(picture.ends_with("</svg>\n") && !picture.contains("NaN"), "{picture}");

    // Only EvoToken has an alpha: its two budgets are two lines of one point each.
    assert!(report(&records, &["--plot", &name, "--axis", "alpha"]).2);
    let picture = std::fs::read_to_string(Path::new(&name)).unwrap();
    assert_eq!((picture.matches("<polyline").count(), picture.matches("<circle").count()), (2, 2));
    let (_, error, well) = report(&records[..3], &["--plot", &name, "--axis", "alpha"]);
    assert!(!well && error.contains("nothing to draw"), "{error}");
}
