//! Real connections: silent clients, too many of them, clients that do not read, and clients that leave.

use std::io::{ErrorKind, Result};
use std::time::Duration;

use evotoken::api::serve::{ConnectionLimits, serve};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{Plan, Server, fake, server};

/// No test waits longer for what must happen; none counts on it.
const GUARD: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(1);

const PATIENT: ConnectionLimits =
    ConnectionLimits { connections: 64, header_timeout: NEVER, write_timeout: NEVER };

/// Where clients reach the server.
async fn listen(server: &Server, limits: ConnectionLimits) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let metrics = server.metrics.clone();
    tokio::spawn(serve(listener, server.router.clone(), limits, metrics, std::future::pending()));
    address
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(body: &serde_json::Value) -> String {
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

async fn send(stream: &TcpStream, request: &str) -> Result<()> {
    let mut bytes = request.as_bytes();
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            written => bytes = &bytes[written?..],
        }
    }
    Ok(())
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// What the server sends until it has sent `end`; `None` if it closes the connection before.
async fn read_until(stream: &TcpStream, end: &str) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let bytes = timeout(GUARD, read(stream, &mut buffer)).await.expect("the server says something");
        match bytes {
            Ok(0) | Err(_) => return None,
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
        }
    }
    Some(text)
}

/// Ask on a fresh connection, again if a slow machine let the header timeout pass before the request was out.
async fn ask(address: &str, request: &str, end: &str) -> (TcpStream, String) {
    for _ in 0..20 {
        let stream = connect(address).await;
        let sent = send(&stream, request).await;
        if let (Ok(()), Some(reply)) = (sent, read_until(&stream, end).await) {
            return (stream, reply);
        }
    }
    panic!("no reply to {request:?}");
}

async fn is_closed_by_the_server(stream: TcpStream) {
    assert_eq!(read_until(&stream, "\0").await, None);
}

#[tokio::test]
async fn a_client_that_stops_in_its_headers_or_says_nothing_is_let_go() {
    let server = server();
    let address = listen(&server, ConnectionLimits { header_timeout: SOON, ..PATIENT }).await;
    let (silent, half) = (connect(&address).await, connect(&address).await);
    send(&half, "GET /health HTTP/1.1\r\nHost: loc").await.expect("half a request");
    is_closed_by_the_server(silent).await;
    is_closed_by_the_server(half).await;
}

#[tokio::test]
async fn a_connection_that_idles_after_a_reply_is_closed() {
    let server = server();
    let address = listen(&server, ConnectionLimits { header_timeout: SOON, ..PATIENT }).await;
    let (stream, reply) = ask(&address, &get("/health"), "}").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    is_closed_by_the_server(stream).await;
}

#[tokio::test]
async fn an_answer_may_take_longer_than_headers_and_writes() {
    let server = server();
    let limits = ConnectionLimits { header_timeout: SOON, write_timeout: SOON, ..PATIENT };
    let address = listen(&server, limits).await;
    let steps = 1 + SOON.as_millis() / fake::SLOW_STEP.as_millis();
    let prompt = fake::SLOW.to_string().repeat(steps as usize);
    let body = json!({"prompt": prompt, "max_tokens": steps as u64, "diffusion": {"block_length": 1}});
    let (_, reply) = ask(&address, &post(&body), "total_tokens").await;
    assert!(reply.contains(&prompt), "{reply}");
}

#[tokio::test]
async fn a_stream_whose_block_takes_long_is_kept_alive_by_comments() {
    let (gate, _keeper) = fake::gate();
    let server = Plan::with(|plan| plan.gate = Some(gate)).start();
    let address = listen(&server, PATIENT).await;
    let request = post(&json!({"prompt": "abc", "stream": true}));
    // No block is ever done: what comes is no event.
    let (_stream, reply) = ask(&address, &request, "\n:").await;
    assert!(reply.contains("text/event-stream") && !reply.contains("data:"), "{reply}");
}

#[tokio::test]
async fn open_connections_are_counted() {
    let server = server();
    let address = listen(&server, PATIENT).await;
    server.until("evotoken_connections 0").await;
    let (first, second) = (connect(&address).await, connect(&address).await);
    server.until("evotoken_connections 2").await;
    drop(first);
    server.until("evotoken_connections 1").await;
    send(&second, &get("/metrics")).await.expect("a request");
    let reply = read_until(&second, "evotoken_ticks_total").await.expect("metrics");
    assert!(reply.contains("\nevotoken_connections 1\n"), "{reply}");
    drop(second);
    server.until("evotoken_connections 0").await;
}

#[tokio::test]
async fn a_closed_connection_costs_no_tick_but_the_one_that_runs() {
    for stream in [true, false] {
        let (gate, mut seen) = fake::gate();
        let server = Plan::with(|plan| plan.gate = Some(gate)).start();
        let address = listen(&server, PATIENT).await;
        let body = json!({"prompt": "abcdefgh".repeat(8), "max_tokens": 60, "stream": stream, "diffusion": {"block_length": 4}});
        let client = connect(&address).await;
        send(&client, &post(&body)).await.expect("a request");
        // The first tick passes, the second is under way.
        seen.let_tick_pass();
        if stream {
            read_until(&client, "data: {").await.expect("a first block");
        }
        seen.until_begun(2).await;
        drop(client);
        server.until("evotoken_connections 0").await;
        assert_eq!(seen.opened_and_closed(), (1, 0), "the slot is held while its tick runs");
        seen.let_tick_pass();
        server.until("evotoken_kv_bytes_used 0").await;
        assert_eq!((seen.opened_and_closed(), seen.ticks()), ((1, 1), 2));
        // Were it still there, it would tick now.
        seen.let_all_pass();
        let (_, reply) =
            ask(&address, &post(&json!({"prompt": "ab", "max_tokens": 4})), "total_tokens").await;
        assert!(reply.contains("\"text\":\"ab\""), "{reply}");
        assert_eq!((seen.opened_and_closed().0, seen.ticks()), (2, 3), "its only tick and none of the first");
        server.until("evotoken_sequences_finished_total{outcome=\"cancelled\"} 1").await;
    }
}

#[tokio::test]
async fn clients_beyond_the_most_wait_for_a_place() {
    let server = server();
    let address = listen(&server, ConnectionLimits { connections: 1, ..PATIENT }).await;
    let (first, _) = ask(&address, &get("/health"), "}").await;
    let second = connect(&address).await;
    send(&second, &get("/ready")).await.expect("a request");
    send(&first, &get("/metrics")).await.expect("a request");
    let metrics = read_until(&first, "evotoken_ticks_total").await.expect("metrics");
    assert!(metrics.contains("\"/health\"") && !metrics.contains("\"/ready\""), "{metrics}");
    drop(first);
    let reply = read_until(&second, "}").await.expect("a reply");
    assert!(reply.contains("{\"status\":\"ready\"}"), "{reply}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_reply_makes_room_for_others() {
    let server = server();
    let limits = ConnectionLimits { connections: 1, write_timeout: SOON, ..PATIENT };
    let address = listen(&server, limits).await;
    let deaf = connect(&address).await;
    // More replies than the operating system keeps for a reader. It connected first, so the only place is its own.
    let requests = get("/openapi.yaml").repeat(4000);
    let asking = tokio::spawn(async move {
        let _ = send(&deaf, &requests).await;
        std::future::pending::<()>().await;
        drop(deaf);
    });
    let (_, reply) = ask(&address, &get("/health"), "}").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    asking.abort();
}

#[tokio::test]
async fn closing_a_connection_ends_its_sequences() {
    for stream in [true, false] {
        let server = Plan::with(|plan| plan.settings.engine.slots = 1).start();
        let address = listen(&server, PATIENT).await;
        // Twenty answers of 40 slow steps, one after the other: they do not end by themselves while this test runs.
        let body = json!({"prompt": fake::SLOW.to_string().repeat(80), "max_tokens": 40, "n": 20, "stream": stream,
            "diffusion": {"block_length": 1}});
        let client = connect(&address).await;
        send(&client, &post(&body)).await.expect("a request");
        if stream {
            read_until(&client, "data: {").await.expect("a first block");
        } else {
            server.until("evotoken_sequences_running 1").await;
        }
        drop(client);
        server.until("evotoken_sequences_finished_total{outcome=\"cancelled\"} 20").await;
        server.until("evotoken_sequences_running 0").await;
        server.until("evotoken_sequences_waiting 0").await;
        server.until("evotoken_kv_bytes_used 0").await;
    }
}
