//! The program as a newcomer starts it: the bundled model, over a real connection.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use evotoken::train::score::solves;
use serde_json::{Value, json};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evotoken"));
        let mut child =
            command.args(["--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        let address = greeting.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("no address in {greeting:?}")).to_owned();
        Self { child, address }
    }

    /// The data lines of a streamed completion.
    fn stream(&self, mut body: Value) -> Vec<String> {
        body["stream"] = json!(true);
        let body = body.to_string();
        let mut connection = TcpStream::connect(&self.address).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        let length = body.len();
        write!(connection, "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        reply.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn choices(lines: &[String]) -> Vec<Value> {
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{lines:?}");
    let chunks = lines[..lines.len() - 1].iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    chunks.map(|chunk| chunk["choices"][0].clone()).collect()
}

fn text(choices: &[Value]) -> String {
    choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[test]
fn the_bundled_model_solves_the_readme_problem_block_by_block() {
    let server = Server::start();
    let choices = choices(&server.stream(json!({"prompt": "Numbers: [30, 100, 93]\nTarget: 23"})));
    let answer = text(&choices);
    assert!(solves(&answer, &[30, 100, 93], 23), "{answer}");
    let blocks = choices.iter().filter(|choice| choice["text"] != "").count();
    assert!(blocks >= 2, "{choices:?}");
    let last = choices.last().unwrap();
    assert_eq!(last["finish_reason"], "stop");
    assert!(last["diffusion"]["blocks"].as_u64() >= Some(2));
}

/// Requests that differ in prompt, length, method, cache and randomness.
fn mixture() -> Vec<Value> {
    let diffusion = [
        json!({"method": "evotoken", "steps": 8}),
        json!({"method": "mask", "steps": 8}),
        json!({"method": "evotoken", "threshold": 0.7, "cache": "none"}),
        json!({"method": "mask", "threshold": 0.7, "cache": "prefix", "block_length": 8}),
        json!({"method": "evotoken", "factor": 0.5, "cache": "prefix"}),
        json!({"method": "evotoken", "steps": 20, "k_soft": 5, "alpha": 0.6, "boundary": "lagged"}),
        json!({"method": "mask", "steps": 30, "cache": "none", "block_length": 3}),
        json!({"method": "evotoken", "block_length": 16}),
    ];
    let request = |(i, diffusion): (usize, &Value)| {
        let (a, b, c) = (3 + 11 * i, 97 - 5 * i, 20 + i);
        let prompt = format!("Numbers: [{a}, {b}, {c}]\nTarget: {}", 10 + 7 * i);
        let temperature = if i % 3 == 2 { 0.8 } else { 0.0 };
        json!({"prompt": prompt, "max_tokens": 8 + 9 * i, "temperature": temperature, "seed": i, "diffusion": diffusion})
    };
    diffusion.iter().enumerate().map(request).collect()
}

#[test]
fn eight_different_clients_at_once_get_what_each_gets_alone() {
    let server = Server::start();
    let answer = |body: &Value| {
        let choices = choices(&server.stream(body.clone()));
        let last = choices.last().unwrap();
        (text(&choices), last["finish_reason"].clone(), last["diffusion"].clone())
    };
    let requests = mixture();
    let alone: Vec<_> = requests.iter().map(answer).collect();
    for _ in 0..4 {
        let together: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = requests.iter().map(|body| scope.spawn(|| answer(body))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert_eq!(together, alone);
    }
}

#[test]
fn an_answer_with_a_rule_satisfies_it_however_it_is_decoded() {
    let server = Server::start();
    let schema = json!({"type": "object", "required": ["left", "sure"], "properties":
        {"left": {"type": "integer", "minimum": 1, "maximum": 99}, "sure": {"type": "boolean"}}});
    let rules = [
        (
            "guided_regex",
            json!("\\([0-9]{1,3}[-+*/][0-9]{1,3}\\)[-+*/][0-9]{1,3}"),
            r"^\([0-9]{1,3}[-+*/][0-9]{1,3}\)[-+*/][0-9]{1,3}$",
        ),
        (
            "guided_choice",
            json!(["(93+30)-100", "93", "none of these"]),
            r"^(\(93\+30\)-100|93|none of these)$",
        ),
        ("guided_json", schema, r#"^\{"left": ?[1-9][0-9]?, ?"sure": ?(true|false)\}$"#),
    ];
    for mut request in mixture() {
        request["max_tokens"] = json!(40);
        for (name, rule, expression) in &rules {
            let mut asked = request.clone();
            asked[*name] = rule.clone();
            if asked["diffusion"]["steps"].is_number() {
                asked["diffusion"]["steps"] = json!(20);
            }
            let choices = choices(&server.stream(asked.clone()));
            let answer = text(&choices);
            assert!(regex::Regex::new(expression).unwrap().is_match(&answer), "{asked}: {answer:?}");
            assert_eq!(choices.last().unwrap()["finish_reason"], "stop", "{asked}");
        }
    }
}
