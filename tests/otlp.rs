//! Spans on their way to a collector (feature `otlp`).
#![cfg(feature = "otlp")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The body of a request with a `Content-Length`, answered with an empty object.
fn taken(stream: TcpStream) -> (String, Value) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    let reply = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    stream.into_inner().write_all(reply.as_bytes()).expect("a reply");
    (head, serde_json::from_slice(&body).expect("JSON"))
}

/// All spans that arrive until the server has ended.
fn spans(batches: &[(String, Value)]) -> Vec<Value> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let resources = batches.iter().flat_map(|(_, body)| list(body, "resourceSpans"));
    let scopes = resources.flat_map(|resource| list(&resource, "scopeSpans"));
    scopes.flat_map(|scope| list(&scope, "spans")).collect()
}

#[test]
fn a_request_s_span_arrives_as_a_child_of_its_caller_s_and_ticks_arrive_beside_it() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", collector.local_addr().expect("an address"));
    let mut server = Command::new(env!("CARGO_BIN_EXE_evotoken"))
        .args(["--port", "0"])
        .env("EVOTOKEN__LOG__OTLP_ENDPOINT", &endpoint)
        .env("EVOTOKEN__LOG__LEVEL", "info,evotoken::engine=debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (sender, batches) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        collector.incoming().flatten().for_each(|stream| drop(sender.send(taken(stream))));
    });
    let mut greeting = String::new();
    BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut greeting).expect("a greeting");
    let address =
        greeting.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let body = json!({"prompt": "Numbers: [30, 100, 93]\nTarget: 23"}).to_string();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         traceparent: 00-{trace}-{caller}-01\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("a request");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let response =
        reply.split("traceresponse: ").nth(1).and_then(|rest| rest.lines().next()).expect("a header");
    let kill = Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    assert!(server.wait().expect("the program ends").success());
    // The last spans left before it ended.
    let batches: Vec<_> = batches.try_iter().collect();
    assert!(batches.iter().all(|(head, _)| head.starts_with("POST /v1/traces ")), "{batches:?}");
    let spans = spans(&batches);
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).cloned().collect::<Vec<_>>();
    let requests: Vec<Value> =
        named("request").into_iter().filter(|span| span["parentSpanId"] == caller).collect();
    let [request] = requests.as_slice() else { panic!("{} requests in {spans:?}", requests.len()) };
    assert_eq!(request["traceId"], trace);
    let own = request["spanId"].as_str().expect("an id");
    assert_eq!(response, format!("00-{trace}-{own}-01"));
    assert!(named("tick").len() >= 2, "{spans:?}");
}
