//! Long runs of the real `trainer`: killed and resumed, out of disk, out of numbers.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use evotoken::train::run::{CHECKPOINT, CURVE, LOG};
use evotoken::train::{checkpoint, curve};

const MASKED: &str = "kind = \"masked\"\nblock_share = 0.5\nblock_length = 4\nblock_start_below = 8\n";
const CTS: &str = "kind = \"cts\"\nstages = 2\nper_stage = [1, 2]\nblock_lengths = [6]\nshort_block = \"grow\"\n\
                   aligned = false\nk_soft = 3\nalpha = [0.5, 1.0]\n";

/// Far more updates than any test makes: a run ends where `--stop-at` says, or when it is killed.
fn recipe(objective: &str) -> String {
    format!(
        "seed = 1\nupdates = 1000000\nthreads = 2\nshard_rows = 2\ncheckpoint_every = 2\nevaluate_every = 0\n\
         canvases = [{{ rows = 4, weight = 1.0 }}]\nadam = {{ rate = 1e-2 }}\nschedule = {{ shape = \"linear\" }}\n\
         generation = {{ max_new_tokens = 8, diffusion = {{ block_length = 4 }} }}\n\
         model = {{ width = 16, layers = 1, heads = 2, mlp = 24, rope_theta = 1e4, max_positions = 64 }}\n\
         [objective]\n{objective}"
    )
}

/// Rows of different lengths.
const ROWS: &str = r#"{"prompt": "1+2=", "completion": "3"}
{"prompt": "10-4*3+7=", "completion": "6, 18, 25"}
{"prompt": "5=", "completion": "5, 5"}
{"ids": [3, 261, 300, 301, 302, 303, 304, 305, 2], "prompt_len": 4}
{"prompt": "99+99+99=", "completion": "198, 297"}
"#;

/// A folder with a recipe and rows, and the command lines that use them.
struct Place(tempfile::TempDir);

impl Place {
    fn new(recipe: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Arguments of a run in the folder `run`, whose model goes to `run/model`.
    fn pretrain(&self, run: &str, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (run, out) = (path(run), path(&format!("{run}/model")));
        let args = [
            "pretrain",
            "--config",
            &path("recipe.toml"),
            "--data",
            &path("rows.jsonl"),
            "--run",
            &run,
            "--out",
            &out,
        ];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn run(&self, run: &str, more: &[&str]) -> Output {
        trainer().args(self.pretrain(run, more)).output().unwrap()
    }
}

fn trainer() -> Command {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the log says of each update that does not depend on the clock.
fn losses(run: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(run.join(LOG)).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parse = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["update"].as_u64().unwrap(), line["loss"].as_f64().unwrap(), line["norm"].as_f64().unwrap())
    };
    whole.map(parse).collect()
}

/// Start a run that does not end and kill it (SIGKILL) after a few updates; how many it had logged.
fn killed_midway(place: &Place, run: &str) -> usize {
    let mut child = trainer().args(place.pretrain(run, &[])).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while losses(&place.path(run)).len() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        assert!(began.elapsed() < Duration::from_secs(120), "no five updates in two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    losses(&place.path(run)).len()
}

#[test]
fn a_killed_and_resumed_run_ends_with_the_bits_of_an_uninterrupted_one() {
    for objective in [MASKED, CTS] {
        let place = Place::new(&recipe(objective));
        let logged = killed_midway(&place, "parts");
        // What a kill in the middle of writing leaves behind.
        let parts = place.path("parts");
        std::fs::write(parts.join(CHECKPOINT.to_owned() + ".partial"), "half a checkpoint").unwrap();
        let log = std::fs::read_to_string(parts.join(LOG)).unwrap();
        std::fs::write(parts.join(LOG), log + "{\"update\": 1").unwrap();

        let end = (logged + 3).to_string();
        succeeded(&place.run("parts", &["--resume", "--stop-at", &end]));
        succeeded(&place.run("whole", &["--stop-at", &end]));

        let whole = place.path("whole");
        let bits = |folder: &Path| {
            let weights = checkpoint::weights(&folder.join(CHECKPOINT)).unwrap();
            let flat = |t: candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            weights.into_values().flat_map(flat).map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&parts), bits(&whole));
        let model = |folder: &Path| std::fs::read(folder.join("model/model.safetensors")).unwrap();
        assert!(model(&parts) == model(&whole), "the written models differ");
        assert_eq!(losses(&parts), losses(&whole));
        assert_eq!(losses(&parts).len(), logged + 3);

        let mut names: Vec<_> =
            std::fs::read_dir(&parts).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [CHECKPOINT, LOG, CURVE, "model"]);
    }
}

#[test]
fn a_checkpoint_that_the_disk_cannot_hold_leaves_the_last_one_as_it_was() {
    let place = Place::new(&recipe(MASKED));
    succeeded(&place.run("run", &["--stop-at", "2"]));
    let saved = std::fs::read(place.path("run").join(CHECKPOINT)).unwrap();
    // No file may grow beyond some kilobytes; ignoring the signal makes writing fail as on a full disk.
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_trainer")])
        .args(place.pretrain("run", &["--resume", "--stop-at", "6"]))
        .output()
        .unwrap();
    let (text, path) = (said(&full), place.path("run").join(CHECKPOINT));
    assert!(!full.status.success());
    assert!(text.contains(&format!("cannot write {}", path.display())), "{text}");
    assert!(text.contains("File too large"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), saved);
    assert!(!place.path("run").join(CHECKPOINT.to_owned() + ".partial").exists());
    succeeded(&place.run("run", &["--resume", "--stop-at", "6"]));
    assert_eq!(losses(&place.path("run")).len(), 6);
}

#[test]
fn a_log_that_cannot_be_written_is_named() {
    let place = Place::new(&recipe(MASKED));
    std::fs::create_dir(place.path("run")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("run").join(LOG)).unwrap();
    let full = place.run("run", &["--stop-at", "2"]);
    let text = said(&full);
    assert!(!full.status.success());
    assert!(
        text.contains(&format!("cannot write the log {}", place.path("run").join(LOG).display())),
        "{text}"
    );
    assert!(text.contains("No space left on device"), "{text}");
}

#[test]
fn folders_that_cannot_be_made_stop_a_run_before_it_begins() {
    let place = Place::new(&recipe(MASKED));
    // Not even root makes a folder inside a file.
    let inside = place.run("rows.jsonl/run", &["--stop-at", "2"]);
    assert!(!inside.status.success());
    let folder = place.path("rows.jsonl/run");
    assert!(said(&inside).contains(&folder.display().to_string()), "{}", said(&inside));

    let out = place.path("rows.jsonl/model").display().to_string();
    let path = |name: &str| place.path(name).display().to_string();
    let (config, data, run) = (path("recipe.toml"), path("rows.jsonl"), path("run"));
    let args =
        ["pretrain", "--config", &config, "--data", &data, "--run", &run, "--out", &out, "--stop-at", "2"];
    let output = trainer().args(args).output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains(&format!("cannot write to {out}")), "{}", said(&output));
    assert!(losses(&place.path("run")).is_empty(), "updates were made for nothing");
}

#[test]
fn a_row_over_length_is_named_before_the_run_begins() {
    let canvas = recipe(MASKED).replace("{ rows = 4", "{ length = 5, rows = 4");
    let place = Place::new(&canvas);
    let output = place.run("run", &[]);
    let file = place.path("rows.jsonl");
    let expected = format!("{} line 2 has an answer of 6 tokens, the canvas only 5", file.display());
    assert!(!output.status.success() && said(&output).contains(&expected), "{}", said(&output));
    assert!(losses(&place.path("run")).is_empty());
}

#[test]
fn a_run_that_diverges_stops_at_its_last_finished_update() {
    let place = Place::new(
        &recipe(MASKED).replace("1e-2", "1e38").replace("checkpoint_every = 2", "checkpoint_every = 1"),
    );
    let output = place.run("run", &["--stop-at", "50"]);
    let (text, log) = (said(&output), losses(&place.path("run")));
    assert!(!output.status.success(), "{text}");
    let failed = log.len() + 1;
    assert!(
        failed > 1 && text.contains(&format!("update {failed} failed; the last checkpoint is intact")),
        "{text}"
    );
    assert!(text.contains("the loss is") || text.contains("the gradients are not finite"), "{text}");
    assert!(log.iter().all(|(_, loss, norm)| loss.is_finite() && norm.is_finite()));
    let weights = checkpoint::weights(&place.path("run").join(CHECKPOINT)).unwrap();
    let finite = |t: &candle_core::Tensor| {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|x| x.is_finite())
    };
    assert!(weights.values().all(finite), "the checkpoint is not good");
}

// ---- the picture of the loss ----

/// The picture of a log, and the points of its two lines.
fn picture(log: &str) -> (String, Vec<Vec<(f64, f64)>>) {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = [LOG, CURVE].map(|name| folder.path().join(name));
    std::fs::write(&from, log).unwrap();
    curve::write(&from, &to).unwrap();
    let svg = std::fs::read_to_string(&to).unwrap();
    let point = |point: &str| {
        let (x, y) = point.split_once(',').unwrap();
        (x.parse::<f64>().unwrap(), y.parse::<f64>().unwrap())
    };
    let line = |part: &str| part.split('"').next().unwrap().split_whitespace().map(point).collect();
    let lines = svg.split(" points=\"").skip(1).map(line).collect();
    (svg, lines)
}

fn log(losses: impl IntoIterator<Item = (usize, f64)>) -> String {
    let line = |(update, loss)| format!("{{\"update\": {update}, \"loss\": {loss}, \"norm\": 1.0}}\n");
    losses.into_iter().map(line).collect()
}

#[test]
fn the_picture_shows_a_falling_loss_from_left_to_right() {
    let (svg, lines) = picture(&log((1..=50_000).map(|n| (n, 1.0 + 4.0 / n as f64))));
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.len() < 20_000,
        "{} bytes",
        svg.len()
    );
    assert!(svg.contains("<title>loss 1.0001 after 50000 updates</title>"), "{svg}");
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!((200..=360).contains(&line.len()), "{} points", line.len());
        assert!(line.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "y grows downwards");
        assert!(line.iter().all(|(x, y)| (0.0..=800.0).contains(x) && (0.0..=400.0).contains(y)));
    }
}

#[test]
fn updates_made_again_count_once_and_torn_lines_not_at_all() {
    let plain = log((1..=6).map(|n| (n, n as f64)));
    let again =
        log([(1, 1.0), (2, 2.0), (3, 9.0), (4, 9.0)]) + "{\"upd\n" + &log((3..=6).map(|n| (n, n as f64)));
    assert_eq!(picture(&plain).0, picture(&(again + "{\"update\": 7")).0);
}

#[test]
fn logs_with_nothing_to_compare_are_drawn_too() {
    for (text, points) in [(log([]), 0), (log([(1, 2.5)]), 1), (log([(1, 0.0), (2, 0.0)]), 2)] {
        let (svg, lines) = picture(&text);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [points; 2]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
