//! The program itself: flags, a real connection, and how it ends.

#[path = "hub/model.rs"]
mod model;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_evotoken");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("the program starts")
}

/// A model folder: a tiny network with random weights.
fn model() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, content) in model::tiny() {
        fs::write(folder.path().join(file), content).expect("a file");
    }
    folder
}

/// The program, serving; killed at the end of the test whatever happens.
struct Running {
    child: Child,
    address: String,
    _model: TempDir,
}

impl Running {
    fn start() -> Self {
        Self::start_with("0", |_| {})
    }

    /// On this port, with what else the command should have.
    fn start_with(port: &str, change: impl FnOnce(&mut Command)) -> Self {
        let model = model();
        let folder = model.path().to_str().expect("a plain path");
        let mut command = Command::new(PROGRAM);
        command.args(["--port", port, "--model", folder]).stdout(Stdio::piped()).stderr(Stdio::null());
        change(&mut command);
        let mut child = command.spawn().expect("the program starts");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut greeting).expect("a greeting");
        let address = greeting.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("no address in {greeting:?}")).to_owned();
        Self { child, address, _model: model }
    }

    /// A connection on which a stream of `steps` steps has begun.
    fn begin_stream(&self, steps: usize) -> BufReader<TcpStream> {
        let options = json!({"steps": steps, "block_length": 4, "cache": "none"});
        let body =
            json!({"prompt": "abc", "max_tokens": steps, "stream": true, "diffusion": options}).to_string();
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("a request");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert_ne!(
                stream.read_line(&mut line).expect("a line"),
                0,
                "the stream ended before its first chunk"
            );
        }
        stream
    }

    /// The reply to a small request, with this `Authorization`.
    fn reply(&self, authorization: &str) -> String {
        self.ask(authorization, &json!({"prompt": "abc", "max_tokens": 8, "seed": 1}))
    }

    /// The reply to a request, with this `Authorization`.
    fn ask(&self, authorization: &str, body: &Value) -> String {
        let body = body.to_string();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        let request =
            format!("{head}\r\nAuthorization: {authorization}\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.write_all(request.as_bytes()).expect("a request");
        rest(BufReader::new(stream))
    }

    fn terminate(&self) {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    }

    /// Wait until a signal has been taken in: readiness is gone.
    fn until_draining(&self) {
        loop {
            let mut stream = TcpStream::connect(&self.address).expect("a draining server still answers");
            write!(stream, "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .expect("a request");
            if rest(BufReader::new(stream)).starts_with("HTTP/1.1 503") {
                return;
            }
        }
    }

    /// Exit status and the time it took.
    fn wait(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let status = self.child.wait().expect("the program ends");
        (status.code(), start.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the rest of the stream");
    text
}

/// Let the model's folder, which the command names last, say that it is block-causal.
fn mark(command: &mut Command) {
    let folder = Path::new(command.get_args().last().expect("a folder"));
    fs::write(folder.join("evotoken.json"), "{\"attention\": \"block_causal\"}").expect("a file");
}

#[test]
fn the_settings_go_before_what_a_model_s_folder_says_of_its_attention() {
    let gap = json!({"prompt": "abc", "suffix": "d", "max_tokens": 4});
    let status = |running: &Running, model: &str| {
        let mut ask = gap.clone();
        ask["model"] = json!(model);
        running.ask("none", &ask).lines().next().expect("a status").to_owned()
    };
    let adapter = concat!("tuned=", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llada-tiny-lora/adapter");
    let as_marked = Running::start_with("0", |command| {
        mark(command);
        command.args(["--served-model-name", "m", "--adapter", adapter]);
    });
    let as_set = Running::start_with("0", |command| {
        mark(command);
        command.args(["--served-model-name", "m", "--adapter", adapter]);
        command.env("EVOTOKEN__MODEL__ATTENTION", "full");
    });
    // An adapter that says nothing sees what its model sees.
    for model in ["m", "tuned"] {
        assert_eq!(status(&as_marked, model), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(&as_set, model), "HTTP/1.1 200 OK");
    }
    let text = |model: &str| {
        let ask = json!({"model": model, "prompt": "abc", "max_tokens": 8, "seed": 1, "logprobs": 1});
        let reply = as_set.ask("none", &ask);
        let body: Value =
            serde_json::from_str(reply.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        body["choices"][0]["logprobs"].clone()
    };
    assert_ne!(text("m"), text("m:tuned"));
    assert_eq!(text("tuned"), text("m:tuned"));
}

#[test]
fn an_adapter_that_cannot_be_used_ends_the_start_with_one_line_that_says_why() {
    let missing = run(&["--port", "0", "--adapter", "x=nowhere"]);
    assert_eq!(missing.status.code(), Some(1));
    let line = String::from_utf8(missing.stderr).expect("text");
    assert_eq!(line, "evotoken: adapter \"x\": nowhere: adapter_config.json is missing in nowhere\n");
    // Of another model than the one in the program.
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llada-tiny-lora/adapter");
    let refused = run(&["--port", "0", "--adapter", other]);
    let line = String::from_utf8(refused.stderr).expect("text");
    assert!(
        refused.status.code() == Some(1) && line.starts_with("evotoken: adapter \"adapter\": "),
        "{line}"
    );
    assert!(line.contains("lora_A.weight: expected shape") && line.lines().count() == 1, "{line}");
}

#[test]
fn the_settings_are_checked_and_shown() {
    let good = run(&["--check-config", "--port", "9"]);
    assert!(good.status.success());
    assert!(String::from_utf8_lossy(&good.stdout).contains("port = 9\n"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "[server]\nprot = 9\n").expect("a file");
    let bad = run(&["--check-config", "--config", file.path().to_str().expect("a plain path")]);
    assert_eq!(bad.status.code(), Some(1));
    let message = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(message.contains("prot") && message.contains("`port`"), "{message}");
}

#[test]
fn the_program_describes_itself_to_shells_and_readers() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success());
        let script = String::from_utf8_lossy(&script.stdout).into_owned();
        assert!(script.contains("evotoken") && script.contains("served-model-name"), "{script}");
    }
    let page = run(&["man"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains(".TH evotoken 1") && page.contains("Settings file (TOML)"), "{page}");
    let version = String::from_utf8_lossy(&run(&["--version"]).stdout).into_owned();
    assert_eq!(version, format!("evotoken {}\n", evotoken::telemetry::version::TEXT));
}

#[test]
fn a_probe_says_whether_a_server_is_ready() {
    let server = Running::start();
    assert!(run(&["probe", &format!("http://{}/ready", server.address)]).status.success());
    let nowhere = format!("http://{}/nowhere", server.address);
    let refused = run(&["probe", &nowhere]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains(&nowhere) && message.contains("404"), "{message}");
    let address = server.address.clone();
    drop(server);
    let gone = run(&["probe", &format!("http://{address}/ready")]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(run(&["probe", "ftp://localhost/"]).status.code(), Some(1));
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let output = run(&["--port", "0", "--model", "no-such-folder"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(message, "evotoken: no-such-folder: no such file or folder\n");
}

/// What a reply says, without what differs from one to the next.
fn choices(reply: &str) -> serde_json::Value {
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let body = reply.split("\r\n\r\n").nth(1).expect("a body");
    serde_json::from_str::<serde_json::Value>(body).expect("JSON")["choices"].take()
}

#[test]
fn a_killed_server_is_replaced_at_once_on_the_same_port() {
    let mut first = Running::start();
    let answer = choices(&first.reply(""));
    let mut stream = first.begin_stream(64);
    first.child.kill().expect("SIGKILL");
    assert_eq!(first.wait().0, None, "killed, not ended");
    let mut cut_off = String::new();
    // The connection may end or be reset.
    let _ = stream.read_to_string(&mut cut_off);
    assert!(!cut_off.contains("[DONE]"), "{cut_off}");
    let port = first.address.rsplit(':').next().expect("a port");
    let second = Running::start_with(port, |_| {});
    assert_eq!(second.address, first.address);
    assert_eq!(choices(&second.reply("")), answer);
}

#[test]
fn keys_show_up_in_no_log_wherever_they_come_from() {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    fs::write(settings.path(), "[server]\napi_keys = [\"secret-of-file\"]\n").expect("a file");
    for (key, in_file) in [("secret-of-file", true), ("secret-of-environment", false)] {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut server = Running::start_with("0", |command| {
            command.env("EVOTOKEN__LOG__LEVEL", "trace").stderr(log.reopen().expect("a file"));
            match in_file {
                true => command.arg("--config").arg(settings.path()),
                false => command.env("EVOTOKEN__SERVER__API_KEYS", key),
            };
        });
        choices(&server.reply(&format!("Bearer {key}")));
        let refused = server.reply("Bearer secret-that-is-wrong");
        assert!(refused.starts_with("HTTP/1.1 401") && !refused.contains("secret"), "{refused}");
        server.terminate();
        assert_eq!(server.wait().0, Some(0));
        let log = fs::read_to_string(log.path()).expect("a log");
        assert!(log.contains("/v1/completions") && !log.contains("secret"), "{log}");
    }
}

#[test]
fn a_signal_lets_running_streams_finish() {
    let mut server = Running::start();
    let stream = server.begin_stream(64);
    server.terminate();
    assert!(rest(stream).contains("data: [DONE]"));
    let (code, time) = server.wait();
    assert_eq!(code, Some(0));
    // It ends when its work is done, not when the drain timeout of 30 seconds passes.
    assert!(time < Duration::from_secs(25), "the end took {time:?}");
}

#[test]
fn a_server_that_is_to_end_takes_requests_while_load_balancers_turn_away() {
    let mut server = Running::start_with("0", |command| {
        command.env("EVOTOKEN__SERVER__DRAIN_DELAY_S", "86400");
    });
    server.terminate();
    server.until_draining();
    choices(&server.reply(""));
    // The next signal ends the delay, not what runs.
    let stream = server.begin_stream(64);
    server.terminate();
    assert!(rest(stream).contains("data: [DONE]"));
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_second_signal_cuts_streams_off_with_an_error() {
    let mut server = Running::start();
    let stream = server.begin_stream(500);
    server.terminate();
    // Two signals at once are one.
    server.until_draining();
    server.terminate();
    let text = rest(stream);
    assert!(text.contains("the server is shutting down") && !text.contains("[DONE]"), "{text}");
    assert_eq!(server.wait().0, Some(0));
}
