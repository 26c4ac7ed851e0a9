//! Every row of the error table, and input that is wrong in other ways.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use evotoken::config::ApiKeys;
use serde_json::{Value, json};

use crate::{Plan, Reply, Server, completion, fake, server};

/// Status, type, param and code; the message is for people.
fn check(reply: &Reply, status: u16, kind: &str, param: Value, code: Value) {
    assert_eq!(reply.status, status, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], "application/json");
    let body = reply.json();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty());
    let expected = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
    assert_eq!(body, expected);
}

fn client_error(reply: &Reply, param: Value, code: Value) {
    check(reply, 400, "invalid_request_error", param, code);
}

/// A reply to a wrong request does not hurt the next.
async fn still_serves(server: &Server) {
    assert_eq!(server.completed(json!({"prompt": "ok"})).await["choices"][0]["text"], "ok");
}

#[tokio::test]
async fn what_is_not_json() {
    let server = server();
    let deep = "[".repeat(100_000);
    for body in ["", "{", "nonsense", "{\"prompt\": \"a\"} x", "{\"prompt\": \"\\ud800\"}", &deep] {
        client_error(&server.send(completion(body.to_owned())).await, json!(null), json!(null));
    }
    let invalid_utf8 = server.send(completion(vec![b'{', b'"', 0xFF, b'"', b':', b'1', b'}'])).await;
    client_error(&invalid_utf8, json!(null), json!(null));
    let in_prompt = [&b"{\"prompt\": \"a"[..], &[0xC3, 0x28], &b"\"}"[..]].concat();
    client_error(&server.send(completion(in_prompt)).await, json!(null), json!(null));
    still_serves(&server).await;
}

#[tokio::test]
async fn wrong_types_are_named_by_their_path() {
    let server = server();
    for (body, param) in [
        (json!([1]), json!(null)),
        (json!({"prompt": 5}), json!("prompt")),
        (json!({"prompt": ["a", 5]}), json!("prompt")),
        (json!({"prompt": [-1]}), json!("prompt")),
        (json!({"prompt": "a", "max_tokens": "ten"}), json!("max_tokens")),
        (json!({"prompt": "a", "max_tokens": 1.5}), json!("max_tokens")),
        (json!({"prompt": "a", "stream": "yes"}), json!("stream")),
        (json!({"prompt": "a", "ignore_eos": "yes"}), json!("ignore_eos")),
        (json!({"prompt": "a", "min_tokens": "2"}), json!("min_tokens")),
        (json!({"prompt": "a", "logit_bias": [5]}), json!("logit_bias")),
        (json!({"prompt": "a", "logit_bias": {"5": "x"}}), json!("logit_bias.5")),
        (json!({"prompt": "a", "top_k": 1.5}), json!("top_k")),
        (json!({"prompt": "a", "logprobs": true}), json!("logprobs")),
        (json!({"prompt": "a", "stop": {"a": 1}}), json!("stop")),
        (json!({"prompt": "a", "diffusion": {"steps": "8"}}), json!("diffusion.steps")),
        (
            json!({"prompt": "a", "stream_options": {"include_usage": 3}}),
            json!("stream_options.include_usage"),
        ),
    ] {
        client_error(&server.complete(body).await, param, json!(null));
    }
}

#[tokio::test]
async fn bad_values_are_named_by_their_path() {
    let server = server();
    let prompt = "a";
    let many: BTreeMap<String, i32> = (0..301).map(|id| (id.to_string(), 1)).collect();
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": ["a", ""]}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": [[5], []]}), "prompt"),
        (json!({"prompt": [99_999]}), "prompt"),
        (json!({"prompt": [5, fake::MASK]}), "prompt"),
        (json!({"prompt": "a<mask>b"}), "prompt"),
        (json!({"prompt": vec!["a"; 33], "n": 2}), "prompt"),
        (json!({"prompt": prompt, "n": 0}), "n"),
        (json!({"prompt": prompt, "n": -1}), "n"),
        (json!({"prompt": prompt, "n": 65}), "n"),
        (json!({"prompt": prompt, "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": prompt, "max_tokens": -3}), "max_tokens"),
        (json!({"prompt": prompt, "temperature": 2.5}), "temperature"),
        (json!({"prompt": prompt, "temperature": -0.1}), "temperature"),
        (json!({"prompt": prompt, "stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"prompt": prompt, "stop": ""}), "stop"),
        (json!({"prompt": prompt, "max_tokens": 8, "min_tokens": 9}), "min_tokens"),
        (json!({"prompt": prompt, "min_tokens": -1}), "min_tokens"),
        (json!({"prompt": prompt, "n": 3, "best_of": 2}), "best_of"),
        (json!({"prompt": prompt, "best_of": 2, "stream": true}), "best_of"),
        (json!({"prompt": prompt, "best_of": 65}), "best_of"),
        (json!({"prompt": prompt, "best_of": -1}), "best_of"),
        (json!({"prompt": prompt, "suffix": "a<mask>b"}), "suffix"),
        (json!({"prompt": prompt, "logprobs": 6}), "logprobs"),
        (json!({"prompt": prompt, "logprobs": -1}), "logprobs"),
        (json!({"prompt": prompt, "presence_penalty": 2.1}), "presence_penalty"),
        (json!({"prompt": prompt, "frequency_penalty": -2.1}), "frequency_penalty"),
        (json!({"prompt": prompt, "repetition_penalty": 0}), "repetition_penalty"),
        (json!({"prompt": prompt, "repetition_penalty": 1e-60}), "repetition_penalty"),
        (json!({"prompt": prompt, "top_p": 1.1}), "top_p"),
        (json!({"prompt": prompt, "top_p": -0.1}), "top_p"),
        (json!({"prompt": prompt, "min_p": 1.5}), "min_p"),
        (json!({"prompt": prompt, "top_k": -2}), "top_k"),
        (json!({"prompt": prompt, "logit_bias": {"5": 100.5}}), "logit_bias"),
        (json!({"prompt": prompt, "logit_bias": {"five": 1}}), "logit_bias"),
        (json!({"prompt": prompt, "logit_bias": {"99999": 1}}), "logit_bias"),
        (json!({"prompt": prompt, "logit_bias": many}), "logit_bias"),
        (json!({"prompt": prompt, "stream_options": {}}), "stream_options"),
        (json!({"prompt": prompt, "max_tokens": 8, "diffusion": {"steps": 1}}), "diffusion.steps"),
        (json!({"prompt": prompt, "diffusion": {"steps": -1}}), "diffusion.steps"),
        (json!({"prompt": prompt, "diffusion": {"steps": 4, "factor": 1.0}}), "diffusion.steps"),
        (json!({"prompt": prompt, "diffusion": {"threshold": 1.5}}), "diffusion.threshold"),
        (json!({"prompt": prompt, "diffusion": {"factor": 0}}), "diffusion.factor"),
        (json!({"prompt": prompt, "diffusion": {"block_length": 0}}), "diffusion.block_length"),
        (json!({"prompt": prompt, "diffusion": {"k_soft": 5000}}), "diffusion.k_soft"),
        (json!({"prompt": prompt, "diffusion": {"k_soft": 257}}), "diffusion.k_soft"),
        (json!({"prompt": prompt, "diffusion": {"alpha": 1}}), "diffusion.alpha"),
        (json!({"prompt": prompt, "diffusion": {"method": "magic"}}), "diffusion.method"),
        (json!({"prompt": prompt, "diffusion": {"cache": "all"}}), "diffusion.cache"),
        (json!({"prompt": prompt, "diffusion": {"boundary": "soft"}}), "diffusion.boundary"),
        (json!({"prompt": prompt, "diffusion": {"step": 4}}), "diffusion.step"),
    ] {
        let reply = server.complete(body.clone()).await;
        assert!(reply.text.contains(param), "{body}: {}", reply.text);
        client_error(&reply, json!(param), json!("invalid_value"));
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn parameters_that_cannot_be_honored() {
    let server = server();
    for (param, value) in [
        ("use_beam_search", json!(true)),
        ("prompt_logprobs", json!(0)),
        ("stop_token_ids", json!([5])),
        ("allowed_token_ids", json!([5])),
        ("bad_words", json!(["a"])),
        ("logits_processors", json!(["f"])),
        ("include_stop_str_in_output", json!(true)),
        ("skip_special_tokens", json!(false)),
        ("truncate_prompt_tokens", json!(5)),
        ("return_tokens_as_token_ids", json!(true)),
        ("return_token_ids", json!(true)),
        ("add_special_tokens", json!(false)),
        ("guided_grammar", json!("root ::= \"a\"")),
    ] {
        let reply = server.complete(json!({"prompt": "a", param: value})).await;
        client_error(&reply, json!(param), json!("unsupported_parameter"));
    }
}

#[tokio::test]
async fn what_does_not_fit() {
    let server = Plan::with(|plan| {
        plan.settings.engine.kv_bytes = Some(1000);
        plan.settings.limits.max_scored_tokens = 10;
    })
    .start();
    for body in [
        json!({"prompt": "a".repeat(10), "max_tokens": 1, "echo": true, "logprobs": 0}),
        json!({"prompt": "a".repeat(100)}),
        json!({"prompt": "a".repeat(1 << 20)}),
        json!({"prompt": "a", "max_tokens": 91}),
        json!({"prompt": "a", "suffix": "b".repeat(99)}),
        json!({"prompt": "a".repeat(60), "max_tokens": 80}),
        json!({"prompt": "a".repeat(60), "max_tokens": 50}),
        json!({"prompt": "a", "max_tokens": i64::MAX}),
    ] {
        client_error(&server.complete(body).await, json!(null), json!("context_length_exceeded"));
    }
}

#[tokio::test]
async fn a_canvas_may_have_all_positions_of_the_model_and_none_more() {
    let server = Plan::default().start();
    // The tokenizer puts a token before the letters.
    let asked =
        |max_tokens: usize| server.complete(json!({"prompt": "a".repeat(59), "max_tokens": max_tokens}));
    assert_eq!(asked(68).await.status, 200);
    let reply = asked(69).await;
    client_error(&reply, json!(null), json!("context_length_exceeded"));
    assert_eq!(
        reply.json()["error"]["message"],
        "prompt + max_tokens is 129 tokens, at most 128 are allowed"
    );
}

#[tokio::test]
async fn a_key_is_asked_for_if_the_settings_say_so() {
    let keys = ApiKeys::new(vec!["sesame".to_owned()]);
    let server = Plan::with(|plan| plan.settings.server.api_keys = keys).start();
    let with = |key: Option<&str>| {
        let mut request = completion(r#"{"prompt": "a"}"#);
        if let Some(key) = key {
            request.headers_mut().insert("authorization", key.parse().expect("a header"));
        }
        request
    };
    for key in [None, Some("Bearer other"), Some("sesame")] {
        let reply = server.send(with(key)).await;
        check(&reply, 401, "invalid_request_error", json!(null), json!("invalid_api_key"));
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    assert_eq!(server.send(with(Some("Bearer sesame"))).await.status, StatusCode::OK);
    assert_eq!(server.get("/v1/models").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_there() {
    let server = server();
    let unknown = server.complete(json!({"model": "gpt-4", "prompt": "a"})).await;
    check(&unknown, 404, "invalid_request_error", json!("model"), json!("model_not_found"));
    for path in ["/v1/models/other", "/v1/models/lab/other", "/v1/models/lab/echo/more"] {
        check(
            &server.get(path).await,
            404,
            "invalid_request_error",
            json!("model"),
            json!("model_not_found"),
        );
    }
    for path in ["/nothing", "/v1", "/v1/embeddings", "/docs/nothing.js"] {
        check(&server.get(path).await, 404, "invalid_request_error", json!(null), json!(null));
    }
}

#[tokio::test]
async fn what_else_openai_offers_is_not_there_and_the_reply_says_what_is() {
    let server = server();
    for (path, reason) in [
        ("/v1/embeddings", "no embeddings"),
        ("/v1/responses", "takes the whole conversation"),
        ("/v1/responses/resp_1/cancel", "takes the whole conversation"),
        ("/v1/files/a", "nothing is stored"),
        ("/v1/images/generations", "text only"),
        ("/v1/fine_tuning/jobs", "trainer"),
        ("/v1/responsesx", "nothing is at this path"),
        ("/nowhere", "nothing is at this path"),
    ] {
        for reply in [server.get(path).await, server.post(path, &json!({"input": "a"})).await] {
            check(&reply, 404, "invalid_request_error", json!(null), json!(null));
            assert!(reply.text.contains(reason), "{path}: {}", reply.text);
            assert!(reply.text.contains("POST /v1/completions, /v1/chat/completions"), "{}", reply.text);
        }
    }
}

#[tokio::test]
async fn methods_and_content_types() {
    let server = server();
    let reply = server.get("/v1/completions").await;
    check(&reply, 405, "invalid_request_error", json!(null), json!(null));
    assert_eq!(reply.headers["allow"], "POST");
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = completion(r#"{"prompt": "a"}"#);
        request.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", content_type.parse().expect("a header"));
        }
        check(&server.send(request).await, 415, "invalid_request_error", json!(null), json!(null));
    }
    let mut request = completion(r#"{"prompt": "a"}"#);
    request
        .headers_mut()
        .insert("content-type", "Application/JSON; charset=utf-8".parse().expect("a header"));
    assert_eq!(server.send(request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn half_a_body_then_silence() {
    let server = Plan::with(|plan| plan.settings.server.body_timeout_s = 1).start();
    let half = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{\"prompt\": "))]);
    let body = Body::from_stream(futures_util::StreamExt::chain(half, futures_util::stream::pending()));
    let reply = server.send(completion(body)).await;
    check(&reply, 408, "invalid_request_error", json!(null), json!("timeout"));
    still_serves(&server).await;
}

#[tokio::test]
async fn a_body_that_is_too_large() {
    let server = server();
    let ten_megabytes = json!({"prompt": "x".repeat(10 << 20)});
    check(&server.complete(ten_megabytes).await, 413, "invalid_request_error", json!(null), json!(null));
    let mut waiting =
        completion(Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>()));
    waiting.headers_mut().insert("expect", "100-continue".parse().expect("a header"));
    waiting.headers_mut().insert("content-length", "10000000".parse().expect("a header"));
    check(&server.send(waiting).await, 413, "invalid_request_error", json!(null), json!(null));
    still_serves(&server).await;
}

#[tokio::test]
async fn a_full_queue_takes_nothing_of_a_request() {
    let server = Plan::with(|plan| plan.settings.engine.queue = 2).start();
    let reply = server.complete(json!({"prompt": "abc", "n": 3})).await;
    check(&reply, 429, "rate_limit_error", json!(null), json!("overloaded"));
    assert_eq!(reply.headers["retry-after"], "1");
    still_serves(&server).await;
}

#[tokio::test]
async fn a_server_that_is_not_ready() {
    let loading = Plan::with(|plan| plan.loaded = false).start();
    let draining = server();
    draining.app.drain();
    for server in [loading, draining] {
        for reply in [server.complete(json!({"prompt": "a"})).await, server.get("/ready").await] {
            check(&reply, 503, "server_error", json!(null), json!("service_unavailable"));
        }
        assert_eq!(server.get("/health").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn memory_that_cannot_be_had() {
    let server = server();
    for stream in [false, true] {
        let ask = json!({"prompt": "a", "max_tokens": fake::NO_MEMORY_CANVAS - 2, "stream": stream});
        check(&server.complete(ask).await, 503, "server_error", json!(null), json!("service_unavailable"));
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long() {
    let server = Plan::with(|plan| plan.timeout = Some(Duration::from_millis(60))).start();
    let ask = json!({"prompt": fake::SLOW.to_string().repeat(40), "max_tokens": 40});
    check(&server.complete(ask).await, 504, "server_error", json!(null), json!("timeout"));
    still_serves(&server).await;
}

#[tokio::test]
async fn a_model_that_fails_or_panics() {
    let server = server();
    for marker in [fake::FAIL, fake::PANIC] {
        let reply = server.complete(json!({"prompt": format!("a{marker}")})).await;
        check(&reply, 500, "server_error", json!(null), json!("internal_error"));
        assert!(!reply.text.contains("fake"), "the detail goes to the log: {}", reply.text);
        still_serves(&server).await;
    }
}

#[tokio::test]
async fn an_error_after_the_first_byte_is_an_event_and_the_end() {
    let server = server();
    let reply = server.complete(json!({"prompt": fake::FAIL.to_string(), "stream": true})).await;
    assert_eq!(reply.status, StatusCode::OK);
    let events = reply.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["error"]["type"], "server_error");
    assert_eq!(events[0]["error"]["code"], "internal_error");
}

#[tokio::test]
async fn a_wrong_key_is_told_before_the_body_is_read() {
    let keys = ApiKeys::new(vec!["sesame".to_owned()]);
    let server = Plan::with(|plan| plan.settings.server.api_keys = keys).start();
    let request = Request::post("/v1/completions").body(Body::from("nonsense")).expect("a valid request");
    assert_eq!(server.send(request).await.status, StatusCode::UNAUTHORIZED);
}
