//! Clients that leave, and servers that stop.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use serde_json::json;
use tower::ServiceExt;

use crate::{completion, fake, server};

/// A request whose answer takes a while: 20 blocks of one slow step each.
fn slow(stream: bool) -> String {
    let prompt = fake::SLOW.to_string().repeat(80);
    json!({"prompt": prompt, "max_tokens": 40, "stream": stream, "diffusion": {"block_length": 2}})
        .to_string()
}

#[tokio::test]
async fn dropping_a_stream_cancels_its_sequence() {
    let server = server();
    let response = server.router.clone().oneshot(completion(slow(true))).await.expect("a reply");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    let first = body.next().await.expect("a chunk").expect("bytes");
    assert!(first.starts_with(b"data: {"));
    drop(body);
    server.until("evotoken_sequences_finished_total{outcome=\"cancelled\"} 1").await;
    server.until("evotoken_sequences_running 0").await;
    server.until("evotoken_kv_bytes_used 0").await;
}

#[tokio::test]
async fn a_stop_string_ends_the_sequence_but_does_not_count_as_cancelled() {
    let server = server();
    let prompt = format!("end{}", fake::SLOW.to_string().repeat(60));
    let ask = json!({"prompt": prompt, "max_tokens": 60, "stop": "end", "diffusion": {"block_length": 2}});
    assert_eq!(server.completed(ask).await["choices"][0]["finish_reason"], "stop");
    server.until("evotoken_sequences_finished_total{outcome=\"stop\"} 1").await;
    server.until("evotoken_sequences_finished_total{outcome=\"cancelled\"} 0").await;
    server.until("evotoken_kv_bytes_used 0").await;
}

#[tokio::test]
async fn dropping_a_request_cancels_its_sequences() {
    let server = server();
    let request = server.router.clone().oneshot(completion(slow(false)));
    let running = tokio::time::timeout(Duration::from_millis(200), request).await;
    assert!(running.is_err(), "the request ended too soon");
    server.until("evotoken_sequences_finished_total{outcome=\"cancelled\"} 1").await;
    server.until("evotoken_kv_bytes_used 0").await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_refuses_the_rest() {
    let server = server();
    let response = server.router.clone().oneshot(completion(slow(true))).await.expect("a reply");
    server.app.drain();
    server.engine.stop_admitting();
    assert_eq!(server.complete(json!({"prompt": "a"})).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body");
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    server.engine.ended().await;
}

#[tokio::test]
async fn stopping_tells_open_streams() {
    let server = server();
    let response = server.router.clone().oneshot(completion(slow(true))).await.expect("a reply");
    server.app.drain();
    server.engine.stop();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body");
    let text = String::from_utf8(body.to_vec()).expect("text");
    let last = text.trim_end().rsplit("\n\n").next().and_then(|event| event.strip_prefix("data: "));
    let last: serde_json::Value = serde_json::from_str(last.expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "service_unavailable");
    assert!(!text.contains("[DONE]"));
}
