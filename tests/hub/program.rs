//! The program itself, with a model's name.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_evotoken");

/// The program's command, in a clean environment.
fn program(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().env("HF_HOME", place.home.path());
    command.env("HF_ENDPOINT", &place.fake.address).stdin(Stdio::null());
    command
}

/// A server; killed at the end of the test whatever happens.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(place: &Place, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = program(place, &["--model", NAME, "--port", "0"]);
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, address: String::new() }
    }

    /// Wait for the greeting, which says where it listens.
    fn ready(mut self) -> Self {
        let mut greeting = String::new();
        self.out.read_line(&mut greeting).unwrap();
        assert!(greeting.contains(&format!("serves {NAME} on")), "{greeting}");
        self.address = greeting.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        self
    }

    fn complete(&self) -> serde_json::Value {
        let body = json!({"prompt": "abc", "max_tokens": 8, "seed": 1}).to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    /// The exit status after SIGTERM.
    fn end(&mut self) -> Option<i32> {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_model_s_name_is_served_by_its_name_with_and_without_the_hub() {
    let place = Place::new(model());
    let mut server = Server::start(&place, |_| {}).ready();
    let first = server.complete();
    assert_eq!(first["model"], NAME);
    assert_eq!(server.end(), Some(0));
    place.fake.taken();
    let server = Server::start(&place, |command| {
        command.env("HF_HUB_OFFLINE", "1");
    })
    .ready();
    let second = server.complete();
    assert_eq!(first["choices"][0]["text"], second["choices"][0]["text"]);
    assert!(place.fake.taken().is_empty());
}

#[test]
fn a_download_ends_at_once_when_it_is_told_to() {
    let place = Place::new(model());
    place.stall(1000);
    let mut server = Server::start(&place, |_| {});
    // Patience would end it after a minute, with status 1.
    while fs::metadata(place.part(&model()[WEIGHTS])).map_or(0, |part| part.len()) < 1000 {
        std::thread::yield_now();
    }
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_model_that_is_not_there_ends_the_program_with_one_line() {
    let place = Place::new(model());
    let output = program(&place, &["--model", "test/none", "--port", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "evotoken: test/none: the list of its files: the hub says 404: it has no such model, revision or file\n";
    assert_eq!(said, expected);
}

#[test]
fn settings_are_checked_without_a_download() {
    let place = Place::new(model());
    let output = program(&place, &["--model", NAME, "--check-config"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("path = \"test/tiny\""));
    assert!(place.fake.taken().is_empty());
}

#[test]
fn a_model_s_name_can_be_inspected() {
    let place = Place::new(model());
    let output = program(&place, &["inspect", NAME]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("test/tiny\n") && said.contains("can be served"), "{said}");
}
