//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::{Plan, Server, TEMPLATE, fake, server};

fn letters(text: &str) -> Vec<u32> {
    text.chars().map(fake::letter).collect()
}

fn with_bos(text: &str) -> Vec<u32> {
    [vec![fake::BOS], letters(text)].concat()
}

async fn tokens(server: &Server, body: Value) -> Value {
    let reply = server.post("/tokenize", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

#[tokio::test]
async fn a_text_is_tokenized_as_a_prompt_is() {
    let server = server();
    let body = tokens(&server, json!({"model": "lab/echo", "prompt": "abc"})).await;
    let expected = json!({"count": 4, "max_model_len": 128, "tokens": with_bos("abc"), "token_strs": null});
    assert_eq!(body, expected);
    let bare = json!({"prompt": "a<eos>", "add_special_tokens": false, "return_token_strs": true});
    let body = tokens(&server, bare).await;
    assert_eq!(body["tokens"], json!([fake::letter('a'), fake::EOS]));
    assert_eq!(body["token_strs"], json!(["a", "<eos>"]));
    assert_eq!(tokens(&server, json!({"prompt": ""})).await["count"], 1);
}

#[tokio::test]
async fn a_text_may_be_measured_that_is_too_long_to_be_answered() {
    assert_eq!(tokens(&server(), json!({"prompt": "a".repeat(5000)})).await["count"], 5001);
}

#[tokio::test]
async fn a_conversation_is_tokenized_as_a_chat_is() {
    let server = server();
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = tokens(&server, json!({"messages": messages})).await;
    assert_eq!(body["tokens"], json!(with_bos("[user]hi;[assistant]")));
    let ask = json!({"messages": messages, "max_tokens": 1});
    let reply = server.post("/v1/chat/completions", &ask).await;
    assert_eq!(reply.json()["usage"]["prompt_tokens"], body["count"]);
    let closed = json!({"messages": messages, "add_generation_prompt": false});
    assert_eq!(tokens(&server, closed).await["tokens"], json!(with_bos("[user]hi;")));
    let open = json!({"messages": messages, "add_generation_prompt": false, "continue_final_message": true});
    assert_eq!(tokens(&server, open).await["tokens"], json!(with_bos("[user]hi")));
}

#[tokio::test]
async fn token_ids_become_the_text_they_came_from() {
    let server = server();
    for text in ["", "abc", "a你é😀<eos>b"] {
        let bare = json!({"prompt": text, "add_special_tokens": false});
        let ids = tokens(&server, bare).await["tokens"].clone();
        let reply = server.post("/detokenize", &json!({"tokens": ids})).await;
        assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"prompt": text})));
    }
}

#[tokio::test]
async fn what_cannot_be_tokenized_is_named() {
    let server = server();
    let messages = json!([{"role": "user", "content": "a"}]);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": messages}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/tokenize", json!({"messages": [{"role": "king", "content": "a"}]}), "messages[0].role"),
        (
            "/tokenize",
            json!({"messages": messages, "continue_final_message": true}),
            "continue_final_message",
        ),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [5, 99_999]}), "tokens"),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path} {body}: {}", reply.text);
        let error = reply.json()["error"].clone();
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!("invalid_value")), "{body}");
    }
    let unknown = server.post("/tokenize", &json!({"model": "gpt-4", "prompt": "a"})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let bare = Plan::with(|plan| plan.template = None).start();
    let reply = bare.post("/tokenize", &json!({"messages": messages})).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.text.contains("lab/echo"), "{}", reply.text);
}

/// As `lm-eval --model local-completions` does it when it has no tokenizer of its own.
#[tokio::test]
async fn a_client_without_a_tokenizer_learns_all_it_needs() {
    let server = server();
    let info = server.get("/tokenizer_info").await.json();
    // What the model's file says, special tokens as texts.
    assert_eq!((&info["bos_token"], &info["padding_side"]), (&json!("<bos>"), &json!("left")));
    // What it leaves open, or knows worse than the server.
    assert_eq!((&info["eos_token"], &info["mask_token"]), (&json!("<eos>"), &json!("<mask>")));
    assert_eq!(info["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(info["model_max_length"], 128);
    assert_eq!(info["chat_template"], TEMPLATE);
    let eos = json!({"prompt": info["eos_token"], "add_special_tokens": false});
    assert_eq!(tokens(&server, eos).await["tokens"], json!([fake::EOS]));
}

#[tokio::test]
async fn a_tokenizer_without_a_template_has_none_to_show() {
    let server = Plan::with(|plan| plan.template = None).start();
    let info = server.get("/tokenizer_info").await.json();
    assert!(info.as_object().is_some_and(|fields| fields["chat_template"].is_null()), "{info}");
    let loading = Plan::with(|plan| plan.loaded = false).start();
    assert_eq!(loading.get("/tokenizer_info").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_list_of_models_tells_how_much_fits() {
    let body = server().get("/v1/models").await.json();
    assert_eq!(body["data"][0]["max_model_len"], 128);
}
