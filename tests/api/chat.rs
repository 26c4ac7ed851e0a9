//! `POST /v1/chat/completions`. The model echoes its prompt, so an answer shows what the template made of the messages.

use axum::http::StatusCode;
use evotoken::service::GenerationDefaults;
use serde_json::{Value, json};

use crate::{Plan, Reply, Server, fake, server};

async fn ask(server: &Server, body: &Value) -> Reply {
    server.post("/v1/chat/completions", body).await
}

/// A successful reply's body.
async fn answered(body: Value) -> Value {
    let reply = ask(&server(), &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

/// What the template made of these messages.
async fn prompt_of(mut body: Value) -> String {
    body["max_tokens"] = json!(64);
    answered(body).await["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

/// The data of a successful stream's events.
async fn streamed(mut body: Value) -> Vec<Value> {
    body["stream"] = json!(true);
    let reply = ask(&server(), &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    reply.events()
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[tokio::test]
async fn the_body_is_openai_s() {
    let mut body = answered(json!({"model": "lab/echo", "messages": user("hello"), "seed": 4})).await;
    let id = body["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("chatcmpl-") && id.len() == 41, "{id}");
    assert!(body["created"].as_u64().expect("a time") > 1_700_000_000);
    body["id"] = json!("chatcmpl-");
    body["created"] = json!(0);
    let report = json!({"nfe": 6, "blocks": 6, "tokens_per_forward": 4.0, "revisions": 0, "seed": 4});
    let message = json!({"role": "assistant", "content": "[user]hello;[assistant]", "refusal": null});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop", "logprobs": null, "diffusion": report});
    let expected = json!({
        "id": "chatcmpl-", "object": "chat.completion", "created": 0, "model": "lab/echo", "choices": [choice],
        "usage": {"prompt_tokens": 24, "completion_tokens": 24, "total_tokens": 48}});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage() {
    let options = json!({"include_usage": true});
    let body = json!({"messages": user("x"), "max_tokens": 6, "seed": 7, "stream_options": options});
    let events = streamed(body).await;
    let deltas: Vec<_> = events.iter().filter_map(|event| event["choices"].get(0)).collect();
    let found: Vec<_> =
        deltas.iter().map(|choice| (choice["delta"].clone(), choice["finish_reason"].clone())).collect();
    let expected = [
        (json!({"role": "assistant", "content": ""}), json!(null)),
        (json!({"content": "[use"}), json!(null)),
        (json!({"content": "r]"}), json!(null)),
        (json!({}), json!("length")),
    ];
    assert_eq!(found, expected);
    let report = json!({"nfe": 2, "blocks": 2, "tokens_per_forward": 3.0, "revisions": 0, "seed": 7});
    assert_eq!(deltas[3]["diffusion"], report);
    assert!(deltas[..3].iter().all(|choice| choice.get("diffusion").is_none()));
    let [chunks @ .., usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(done, &json!("[DONE]"));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], json!({"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}));
    for chunk in chunks {
        assert_eq!((&chunk["id"], &chunk["object"]), (&usage["id"], &json!("chat.completion.chunk")));
        assert_eq!(chunk.get("usage"), Some(&json!(null)));
    }
}

#[tokio::test]
async fn every_answer_of_a_stream_begins_with_the_role() {
    let events = streamed(json!({"messages": user("x"), "n": 3, "max_tokens": 8, "stop": "er"})).await;
    for index in 0..3 {
        let choices = events.iter().filter_map(|event| event["choices"].get(0));
        let mine: Vec<_> = choices.filter(|choice| choice["index"] == index).collect();
        assert_eq!(mine[0]["delta"]["role"], "assistant");
        assert!(mine[1..].iter().all(|choice| choice["delta"].get("role").is_none()));
        let text: String = mine.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!((text.as_str(), &mine.last().expect("chunks")["finish_reason"]), ("[us", &json!("stop")));
    }
    assert!(events.iter().all(|event| event == "[DONE]" || event.get("usage").is_none()));
}

#[tokio::test]
async fn the_model_s_template_makes_the_prompt() {
    let messages = json!([
        {"role": "developer", "content": "a"}, {"role": "user", "content": " b "},
        {"role": "assistant", "content": "c"}, {"role": "system", "content": "", "name": "me"},
        {"role": "user", "content": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]}]);
    let expected = "[system]a;[user]b;[assistant]c;[system];[user]d\ne;[assistant]";
    assert_eq!(prompt_of(json!({"messages": messages})).await, expected);
    let closed = prompt_of(json!({"messages": user("b"), "add_generation_prompt": false})).await;
    assert_eq!(closed, "[user]b;");
}

#[tokio::test]
async fn the_last_message_can_be_continued() {
    let messages =
        |last: &str| json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": last}]);
    let open = |messages| json!({"messages": messages, "add_generation_prompt": false, "continue_final_message": true});
    assert_eq!(prompt_of(open(messages("2 +"))).await, "[user]x;[assistant]2 +");
    // This template trims what it shows.
    assert_eq!(prompt_of(open(messages("2 + "))).await, "[user]x;[assistant]2 +");
    assert_eq!(prompt_of(open(messages(""))).await, "[user]x;[assistant]");
}

#[tokio::test]
async fn the_room_for_an_answer() {
    let tokens = async |body| answered(body).await["usage"]["completion_tokens"].clone();
    let long = user(&"y".repeat(40));
    assert_eq!(tokens(json!({"messages": long, "max_tokens": 7})).await, 7);
    assert_eq!(tokens(json!({"messages": long, "max_completion_tokens": 5})).await, 5);
    assert_eq!(tokens(json!({"messages": long, "max_tokens": 7, "max_completion_tokens": 5})).await, 5);
    // Nobody says: more than a completion's 16.
    assert_eq!(tokens(json!({"messages": long})).await, 59);
    let model = Plan::with(|plan| {
        plan.defaults = GenerationDefaults::from_json(br#"{"max_new_tokens": 6}"#).expect("valid");
    });
    let reply = ask(&model.start(), &json!({"messages": long})).await;
    assert_eq!(reply.json()["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn parameters_that_ask_for_nothing_are_accepted() {
    let body = json!({
        "messages": user("x"), "model": null, "max_tokens": 8, "n": 2, "temperature": 0.5, "seed": -1, "stop": null,
        "stream": false, "stream_options": null, "diffusion": {"method": "mask", "steps": 8}, "user": "me",
        "store": true, "metadata": {"a": "b"}, "parallel_tool_calls": true, "service_tier": "auto", "top_p": 1,
        "reasoning_effort": "low", "verbosity": "low", "presence_penalty": 0, "frequency_penalty": 0, "tools": [],
        "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "logprobs": false,
        "top_logprobs": 0, "logit_bias": {}, "safety_identifier": "x", "prompt_cache_key": "y", "whatever": [1]});
    let body = answered(body).await;
    assert_eq!(body["choices"][1]["message"]["content"], "[user]x;");
    assert_eq!(body["choices"][1]["diffusion"]["nfe"], 8);
}

/// The `param` and `code` of a refusal.
fn refusal(reply: &Reply) -> (Value, Value) {
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    let body = reply.json();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    (body["error"]["param"].clone(), body["error"]["code"].clone())
}

#[tokio::test]
async fn bad_values_are_named_by_their_path() {
    let server = server();
    let one = |message: Value| json!({"messages": [message]});
    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (one(json!({"content": "a"})), "messages[0].role"),
        (one(json!({"role": "king", "content": "a"})), "messages[0].role"),
        (one(json!({"role": "user"})), "messages[0].content"),
        (one(json!({"role": "user", "content": null})), "messages[0].content"),
        (one(json!({"role": "user", "content": [{"type": "text"}]})), "messages[0].content[0].text"),
        (json!({"messages": user("a<mask>b")}), "messages"),
        (json!({"messages": user("refuse me")}), "messages"),
        (json!({"messages": user("a"), "max_tokens": 0}), "max_tokens"),
        (json!({"messages": user("a"), "max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"messages": user("a"), "max_completion_tokens": -1}), "max_completion_tokens"),
        (json!({"messages": user("a"), "continue_final_message": true}), "continue_final_message"),
        (json!({"messages": user("a"), "stream_options": {}}), "stream_options"),
        (json!({"messages": user("a"), "max_completion_tokens": 1, "max_tokens": 0}), "max_tokens"),
        (json!({"messages": user("a"), "n": 65}), "n"),
        (json!({"messages": user("a"), "logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"messages": user("a"), "top_logprobs": 2}), "top_logprobs"),
        (json!({"messages": user("a"), "diffusion": {"k_soft": 0}}), "diffusion.k_soft"),
    ] {
        let reply = ask(&server, &body).await;
        assert_eq!(refusal(&reply), (json!(param), json!("invalid_value")), "{body}: {}", reply.text);
    }
    for (body, param) in [
        (json!({"messages": "a"}), "messages"),
        (one(json!("a")), "messages[0]"),
        (one(json!({"role": "user", "content": 5})), "messages[0].content"),
    ] {
        assert_eq!(refusal(&ask(&server, &body).await), (json!(param), json!(null)), "{body}");
    }
    let long = json!({"messages": user(&"y".repeat(99))});
    assert_eq!(refusal(&ask(&server, &long).await), (json!(null), json!("context_length_exceeded")));
}

#[tokio::test]
async fn what_cannot_be_honored_is_refused_with_the_reason() {
    let server = server();
    for (param, value) in [
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("tool_choice", json!("required")),
        ("modalities", json!(["text", "audio"])),
        ("chat_template", json!("{{ messages }}")),
        ("chat_template_kwargs", json!({"enable_thinking": false})),
        ("documents", json!([{"text": "a"}])),
        ("add_special_tokens", json!(true)),
        ("guided_grammar", json!("a")),
    ] {
        let reply = ask(&server, &json!({"messages": user("a"), param: value})).await;
        assert_eq!(refusal(&reply), (json!(param), json!("unsupported_parameter")));
        assert!(reply.text.contains("is not supported: "), "{}", reply.text);
    }
    let image = json!([{"type": "image_url", "image_url": {"url": "data:"}}]);
    for (message, param) in [
        (json!({"role": "tool", "content": "a"}), "messages[0].role"),
        (json!({"role": "user", "content": image}), "messages[0].content[0].type"),
    ] {
        let reply = ask(&server, &json!({"messages": [message]})).await;
        assert_eq!(refusal(&reply), (json!(param), json!("unsupported_parameter")));
    }
}

#[tokio::test]
async fn a_model_without_a_template_is_named() {
    let server = Plan::with(|plan| plan.template = None).start();
    let reply = ask(&server, &json!({"messages": user("a")})).await;
    assert_eq!(refusal(&reply), (json!("messages"), json!("invalid_value")));
    assert!(reply.text.contains("lab/echo"), "{}", reply.text);
}

#[tokio::test]
async fn what_a_template_leaves_out_cannot_be_continued() {
    let server = Plan::with(|plan| plan.template = Some("{{ messages[0].content }}")).start();
    let messages = json!([{"role": "user", "content": "5"}, {"role": "assistant", "content": "5"}]);
    let body = json!({"messages": messages, "add_generation_prompt": false, "continue_final_message": true});
    assert_eq!(refusal(&ask(&server, &body).await), (json!("messages"), json!("invalid_value")));
}

#[tokio::test]
async fn failures_are_those_of_completions() {
    let server = server();
    let unknown = ask(&server, &json!({"model": "gpt-4", "messages": user("a")})).await;
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    let failed = ask(&server, &json!({"messages": user(&fake::FAIL.to_string())})).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({"messages": user(&fake::FAIL.to_string()), "stream": true});
    let events = ask(&server, &body).await.events();
    let [opened, error] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(opened["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(error["error"]["code"], "internal_error");
}
