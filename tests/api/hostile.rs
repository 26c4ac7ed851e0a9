//! Requests that nobody sane would send: each gets an answer or a 4xx with the error's body, and the server lives on. The
//! number of cases follows `PROPTEST_CASES`.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::memory;
use crate::spoil::{changes, cut, cuts, spoil, values};
use crate::{Plan, Server};

const PATHS: [&str; 4] = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"];

const WORDS: &[&str] = &[
    "model",
    "lab/echo",
    "prompt",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "user",
    "assistant",
    "system",
    "tool",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "seed",
    "stop",
    "n",
    "best_of",
    "stream",
    "stream_options",
    "include_usage",
    "continuous_usage_stats",
    "diffusion",
    "method",
    "steps",
    "threshold",
    "factor",
    "block_length",
    "k_soft",
    "alpha",
    "cache",
    "boundary",
    "evotoken",
    "mask",
    "dual",
    "prefix",
    "none",
    "hard",
    "lagged",
    "tokens",
    "add_special_tokens",
    "add_generation_prompt",
    "continue_final_message",
    "return_token_strs",
    "top_p",
    "top_k",
    "logit_bias",
    "logprobs",
    "echo",
    "suffix",
    "min_tokens",
    "ignore_eos",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "top_logprobs",
    "tools",
    "response_format",
    "json_object",
    "json_schema",
    "schema",
    "guided_choice",
    "guided_regex",
    "guided_json",
    "structured_outputs",
    "regex",
    "choice",
    "json",
    "properties",
    "items",
    "enum",
    "$ref",
    "#",
    "(a|b)*",
    "string",
    "object",
    "<mask>",
    "<eos>",
    "refuse",
    "user ",
];

struct Place {
    server: Server,
    runtime: Runtime,
}

/// One server for all requests: what one leaves behind, the next would meet.
static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let server = Plan::with(|plan| plan.markers = false).start();
    Place { server, runtime }
});

/// Send a body; the reply must be one that this interface knows.
fn send(path: &str, body: Vec<u8>) -> StatusCode {
    let Place { server, runtime } = &*PLACE;
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body));
    let reply = runtime.block_on(server.send(request.expect("a valid request")));
    memory::check();
    match reply.status.as_u16() {
        200 if reply.headers["content-type"] == "text/event-stream" => {
            assert_eq!(reply.events().last(), Some(&json!("[DONE]")), "{}", reply.text);
        }
        200 => drop(reply.json()),
        400 | 404 => {
            let error = &reply.json()["error"];
            let message = error["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && error["type"] == "invalid_request_error", "{}", reply.text);
        }
        _ => panic!("{}: {}", reply.status, reply.text),
    }
    reply.status
}

/// A request that asks for everything there is.
fn full(path: &str) -> Value {
    let diffusion = json!({"method": "evotoken", "threshold": 0.9, "block_length": 4, "k_soft": 2, "alpha": 0.5,
                           "cache": "dual", "boundary": "hard"});
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]);
    match path {
        "/v1/completions" => json!({
            "model": "lab/echo", "prompt": ["hello", "wor"], "max_tokens": 8, "temperature": 0.5, "seed": 3,
            "stop": ["z", "lo w"], "n": 2, "stream": true, "stream_options": {"include_usage": true},
            "diffusion": diffusion, "best_of": 2, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "logit_bias": {"270": 2.5},
            "min_tokens": 2, "ignore_eos": false, "presence_penalty": 0.5, "frequency_penalty": -0.5,
            "repetition_penalty": 1.5, "logprobs": 2, "echo": true, "suffix": "rld", "user": "me",
            "guided_json": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^b+$"}, "c": {"$ref": "#/$defs/d"}},
                "required": [], "$defs": {"d": {"anyOf": [{"type": "integer", "minimum": 3}, {"enum": ["e", null]}]}}}}),
        "/v1/chat/completions" => json!({
            "model": "lab/echo", "messages": messages, "max_completion_tokens": 8, "max_tokens": 9, "temperature": 0,
            "seed": -1, "stop": "z", "n": 1, "stream": false, "diffusion": diffusion, "add_generation_prompt": false,
            "continue_final_message": true, "tools": [], "response_format": {"type": "text"}, "logprobs": true,
            "top_logprobs": 3, "min_tokens": 1, "ignore_eos": true, "logit_bias": {"271": -3}, "top_p": 0.5,
            "structured_outputs": {"regex": "(a|b){3,9}"}}),
        "/tokenize" => json!({"model": "lab/echo", "messages": messages, "add_special_tokens": true,
            "add_generation_prompt": true, "continue_final_message": false, "return_token_strs": true}),
        _ => json!({"model": "lab/echo", "tokens": [2, 300, 301, 3, 1]}),
    }
}

#[test]
fn the_sound_requests_are_answered() {
    for path in PATHS {
        assert_eq!(send(path, full(path).to_string().into_bytes()), StatusCode::OK, "{path}");
    }
}

proptest! {
    #[test]
    fn a_damaged_request_is_answered_or_refused(path in select(&PATHS[..]), changes in changes(WORDS), cuts in cuts()) {
        let mut body = full(path);
        spoil(&mut body, &changes);
        let mut bytes = body.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        send(path, bytes);
    }

    #[test]
    fn a_request_of_a_few_odd_fields_is_answered_or_refused(
        path in select(&PATHS[..]),
        fields in proptest::collection::vec((select(WORDS), values(WORDS)), 0..4),
        prompt in values(WORDS),
    ) {
        let mut body = json!({"prompt": prompt, "max_tokens": 8});
        if path != PATHS[0] {
            body = json!({"messages": [{"role": "user", "content": prompt}], "tokens": prompt});
        }
        body.as_object_mut().expect("an object").extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        send(path, body.to_string().into_bytes());
    }

    #[test]
    fn odd_ways_of_decoding_are_answered_or_refused(
        fields in proptest::collection::vec(
            (select(vec!["method", "steps", "threshold", "factor", "block_length", "k_soft", "alpha", "cache", "boundary"]),
             values(&["evotoken", "mask", "dual", "prefix", "none", "hard", "lagged"])), 0..4),
        tokens in 1usize..70, temperature in select(vec![0.0, 1e-300, 1e-30, 1e-8, 0.7, 2.0]), n in 1usize..4,
    ) {
        let diffusion: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let body = json!({"prompt": "hello", "max_tokens": tokens, "temperature": temperature, "n": n, "diffusion": diffusion});
        send(PATHS[0], body.to_string().into_bytes());
    }

    #[test]
    fn bytes_are_answered_or_refused(path in select(&PATHS[..]), bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\":,0-9a-z\\\\ .eE+-]{0,60}") {
        send(path, bytes);
        send(path, text.into_bytes());
    }
}
