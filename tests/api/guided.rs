//! Answers that follow a rule. The model wants to echo its prompt, then to say end-of-text; what it may not say it replaces.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::{Plan, Server, server, texts};

const CHAT: &str = "/v1/chat/completions";

/// `{"a": boolean}`.
fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
}

/// A completion's text and how it ended.
async fn text(server: &Server, body: Value) -> (String, Value) {
    let reply = server.completed(body).await;
    let choice = &reply["choices"][0];
    (choice["text"].as_str().expect("text").to_owned(), choice["finish_reason"].clone())
}

/// The same for a turn of a chat.
async fn turn(server: &Server, mut body: Value) -> (String, Value) {
    body["messages"] = json!([{"role": "user", "content": body["prompt"]}]);
    let reply = server.post(CHAT, &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let choice = &reply.json()["choices"][0];
    (choice["message"]["content"].as_str().expect("text").to_owned(), choice["finish_reason"].clone())
}

/// Status, param and code of a refusal, and its message.
async fn refusal(server: &Server, body: Value) -> (u16, Value, Value, String) {
    let reply = server.complete(body).await;
    let error = &reply.json()["error"];
    let message = error["message"].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), error["param"].clone(), error["code"].clone(), message)
}

#[tokio::test]
async fn every_way_to_ask_is_honoured_on_both_endpoints() {
    let server = server();
    let named = json!({"name": "n", "strict": true, "schema": schema()});
    for (prompt, name, value, expected) in [
        ("abc", "guided_choice", json!(["abd", "xyz"]), "abd"),
        ("20c", "guided_regex", json!("[0-9]+x"), "20x"),
        (r#"{"a":true}"#, "guided_json", schema(), r#"{"a":true}"#),
        (r#"{"a":1234}"#, "guided_json", json!(schema().to_string()), r#"{"a":true}"#),
        ("abc", "structured_outputs", json!({"choice": ["abd", "xyz"]}), "abd"),
        ("20c", "structured_outputs", json!({"regex": "[0-9]+x", "disable_fallback": true}), "20x"),
        (r#"{"a":true}"#, "structured_outputs", json!({"json": schema()}), r#"{"a":true}"#),
        (r#"{"b": [1]}"#, "structured_outputs", json!({"json_object": true}), r#"{"b": [1]}"#),
        (r#"{"b": [1]}"#, "response_format", json!({"type": "json_object"}), r#"{"b": [1]}"#),
        (
            r#"{"a":true}"#,
            "response_format",
            json!({"type": "json_schema", "json_schema": named}),
            r#"{"a":true}"#,
        ),
    ] {
        for method in ["mask", "evotoken"] {
            let body =
                json!({"prompt": prompt, "max_tokens": 24, "diffusion": {"method": method}, name: value});
            let asked = body.to_string();
            assert_eq!(text(&server, body.clone()).await, (expected.to_owned(), json!("stop")), "{asked}");
            let (said, reason) = turn(&server, body).await;
            // The fake's echo of a chat begins with the template's words: the rule alone holds.
            let fits = match name {
                "guided_choice" => ["abd", "xyz"].contains(&said.as_str()),
                "structured_outputs" | "guided_regex" | "guided_json" | "response_format" => !said.is_empty(),
                _ => false,
            };
            assert!(fits && reason == "stop", "{asked}: {said:?}");
            if expected.starts_with('{') {
                assert!(
                    serde_json::from_str::<Value>(&said).is_ok_and(|json| json.is_object()),
                    "{asked}: {said:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_stream_carries_the_same_text() {
    let server = server();
    let ask = json!({"prompt": "the answer", "max_tokens": 20, "guided_regex": "the [a-z]+ is [0-9]{2}!"});
    let whole = text(&server, ask.clone()).await.0;
    assert!(regex::Regex::new("^the [a-z]+ is [0-9]{2}!$").expect("valid").is_match(&whole), "{whole:?}");
    let events = server.streamed(ask).await;
    assert_eq!(texts(&events, 0).concat(), whole);
    assert_eq!(events.last(), Some(&json!("[DONE]")));
}

#[tokio::test]
async fn a_rule_goes_with_everything_else() {
    let server = server();
    let ask = |more: Value| {
        let mut body = json!({"prompt": "ababab", "max_tokens": 12, "guided_regex": "(ab|cd)+"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let text = async |more: Value| text(&server, ask(more)).await;
    assert_eq!(text(json!({})).await, ("ababab".to_owned(), json!("stop")));
    // No end before the eighth token, then none at all: the whole room is used, and the answer is complete.
    assert_eq!(text(json!({"min_tokens": 8})).await.0.len(), 8);
    let (filled, reason) = text(json!({"ignore_eos": true})).await;
    assert_eq!((filled.len(), reason), (12, json!("stop")));
    // A stop string cuts what follows a rule as it cuts everything.
    assert_eq!(text(json!({"stop": "ba"})).await, ("a".to_owned(), json!("stop")));
    assert_eq!(text(json!({"suffix": "xyz", "max_tokens": 4, "guided_regex": "[^a]*"})).await.1, "stop");
    let drawn = server.completed(ask(json!({"n": 3, "best_of": 4, "temperature": 1.5, "seed": 7}))).await;
    assert_eq!(drawn["choices"].as_array().expect("choices").len(), 3);
    let scored = server.completed(ask(json!({"logprobs": 2, "echo": true}))).await;
    assert_eq!(scored["choices"][0]["text"], "abababababab");
    // A schedule of one step needs more of them: what is decided first rules out what others wanted.
    let steps = json!({"prompt": "abcdabcd", "guided_regex": "(abcd|dcba)+", "diffusion": {"block_length": 12, "steps": 1}});
    let (text, _) = text(steps).await;
    assert!(["abcd", "dcba", "abcdabcd", "abcddcba"].contains(&text.as_str()), "{text:?}");
}

#[tokio::test]
async fn what_asks_for_nothing_changes_nothing() {
    let server = server();
    for (name, value) in [
        ("guided_choice", json!(null)),
        ("guided_regex", json!(null)),
        ("guided_json", json!(null)),
        ("structured_outputs", json!({})),
        ("structured_outputs", json!({"json_object": false})),
        ("response_format", json!({"type": "text"})),
        ("guided_grammar", json!(null)),
    ] {
        let body = json!({"prompt": "abc", name: value});
        assert_eq!(text(&server, body).await, ("abc".to_owned(), json!("stop")), "{name}");
    }
}

#[tokio::test]
async fn rules_that_are_wrong_are_refused_by_name() {
    let server = server();
    let format = "response_format";
    for (name, value, param, part) in [
        ("guided_choice", json!([]), "guided_choice", "at least one"),
        ("guided_regex", json!("(a"), "guided_regex", "unclosed group"),
        ("guided_regex", json!("(a)\\1"), "guided_regex", "backreferences"),
        ("guided_regex", json!("(a|b)*a(a|b){20}"), "guided_regex", "is too large"),
        ("guided_regex", json!("((a{1,99}){1,99}){1,99}"), "guided_regex", "is too large"),
        ("guided_regex", json!("[a&&b]"), "guided_regex", "matches no text"),
        ("guided_regex", json!("a{17}"), "guided_regex", "no text of at most 16 tokens satisfies it"),
        ("guided_regex", json!("a".repeat(70_000)), "guided_regex", "at most 65536 are allowed"),
        ("guided_json", json!("{"), "guided_json", "is no JSON"),
        ("guided_json", json!({"type": "integer", "multipleOf": 2}), "guided_json", "`multipleOf`"),
        ("guided_json", json!({"$ref": "#/x"}), "guided_json", "leads nowhere"),
        ("structured_outputs", json!({"regex": "["}), "structured_outputs.regex", "character class"),
        ("structured_outputs", json!({"json": 3}), "structured_outputs.json", "a schema is an object"),
        (
            "structured_outputs",
            json!({"regex": "a", "choice": ["b"]}),
            "structured_outputs.regex",
            "beside structured_outputs.choice",
        ),
        (format, json!({"type": "xml"}), "response_format.type", "must be `text`"),
        (format, json!({"type": "json_schema"}), "response_format.json_schema.schema", "must be given"),
        (
            format,
            json!({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}),
            "response_format.json_schema.schema",
            "`not`",
        ),
    ] {
        let body = json!({"prompt": "a", name: value});
        let (status, at, code, message) = refusal(&server, body.clone()).await;
        assert_eq!((status, at, code), (400, json!(param), json!("invalid_value")), "{name}: {message}");
        assert!(message.contains(part), "{name}: {message}");
    }
    let two = json!({"prompt": "a", "guided_regex": "a", "response_format": {"type": "json_object"}});
    assert_eq!(refusal(&server, two).await.1, "response_format");
    let grammar = json!({"prompt": "a", "structured_outputs": {"grammar": "x"}});
    let (_, param, code, message) = refusal(&server, grammar).await;
    assert_eq!((param, code), (json!("structured_outputs.grammar"), json!("unsupported_parameter")));
    assert!(message.contains("nest without end"), "{message}");
    let unknown = json!({"prompt": "a", "structured_outputs": {"regexp": "x"}});
    assert_eq!(refusal(&server, unknown).await.1, "structured_outputs.regexp");
    for (name, value, param) in [
        ("guided_choice", json!(["a", 1]), "guided_choice[1]"),
        ("guided_regex", json!(1), "guided_regex"),
        ("response_format", json!("json_object"), "response_format"),
    ] {
        assert_eq!(refusal(&server, json!({"prompt": "a", name: value})).await.1, param);
    }
    assert_eq!(text(&server, json!({"prompt": "ok"})).await.0, "ok");
}

#[tokio::test]
async fn rules_have_bounds_that_the_settings_set() {
    let server = Plan::with(|plan| {
        plan.settings.limits.max_guide_bytes = 40;
        plan.settings.limits.max_guide_states = 20;
        plan.settings.limits.max_guide_transitions = 20;
        plan.settings.limits.cached_guides = 1;
    })
    .start();
    for (regex, part) in [
        ("a|".repeat(30), "it has 60 bytes, at most 40 are allowed"),
        ("a{30}".to_owned(), "its automaton has more than 20 states"),
        ("[a-z]{6}[0-9a-f]{6}".to_owned(), "more than 20 transitions"),
    ] {
        let (status, param, _, message) =
            refusal(&server, json!({"prompt": "a", "guided_regex": regex})).await;
        assert_eq!((status, param), (400, json!("guided_regex")));
        assert!(message.contains(part), "{message}");
    }
    for _ in 0..2 {
        for word in ["abc", "abd"] {
            assert_eq!(text(&server, json!({"prompt": "abx", "guided_choice": [word]})).await.0, word);
        }
    }
}
