//! Scores of tokens. The model is sure of its echo with a probability of 0.95; its other candidates are control
//! characters.

use serde_json::{Value, json};

use crate::{Server, server};

fn sure(value: &Value) -> bool {
    value.as_f64().is_some_and(|log| log as f32 == 0.95_f32.ln())
}

async fn logprobs(server: &Server, ask: Value) -> Value {
    server.completed(ask).await["choices"][0]["logprobs"].clone()
}

#[tokio::test]
async fn a_completion_lists_its_tokens_and_end_of_text() {
    let found = logprobs(&server(), json!({"prompt": "aé", "max_tokens": 8, "logprobs": 2})).await;
    assert_eq!(found["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9", "<eos>"]));
    assert_eq!(found["text_offset"], json!([0, 1, 2, 2]));
    assert_eq!(found.as_object().map(serde_json::Map::len), Some(4));
    for list in ["token_logprobs", "top_logprobs"] {
        assert_eq!(found[list].as_array().map(Vec::len), Some(4));
    }
    for place in 0..4 {
        let token = found["tokens"][place].as_str().expect("a token");
        let top = found["top_logprobs"][place].as_object().expect("alternatives");
        assert!(sure(&found["token_logprobs"][place]) && sure(&top[token]), "{found}");
        assert_eq!(top.len(), 2);
    }
}

#[tokio::test]
async fn a_token_is_always_among_its_alternatives() {
    let server = server();
    let found = logprobs(&server, json!({"prompt": "a", "max_tokens": 1, "logprobs": 0})).await;
    let top = found["top_logprobs"][0].as_object().expect("alternatives");
    assert!(top.len() == 1 && sure(&top["a"]), "{found}");
    assert_eq!(logprobs(&server, json!({"prompt": "a", "max_tokens": 1})).await, json!(null));
}

#[tokio::test]
async fn a_stream_s_chunks_add_up_to_the_whole() {
    let server = server();
    for stop in [json!(null), json!("o w"), json!("ld!")] {
        let ask = json!({"prompt": "hello, wörld", "max_tokens": 30, "logprobs": 1, "stop": stop});
        let whole = logprobs(&server, ask.clone()).await;
        let events = server.streamed(ask).await;
        let chunks: Vec<&Value> = events.iter().filter_map(|e| e["choices"].get(0)).collect();
        assert!(chunks.len() > 2);
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let parts = chunks.iter().flat_map(|c| c["logprobs"][list].as_array().expect("a list"));
            assert_eq!(Value::Array(parts.cloned().collect()), whole[list], "{list}");
        }
        let text: String = chunks.iter().filter_map(|c| c["text"].as_str()).collect();
        let ends: Vec<u64> =
            whole["text_offset"].as_array().expect("a list").iter().flat_map(Value::as_u64).collect();
        assert!(ends.iter().all(|offset| *offset <= text.chars().count() as u64), "{text}: {whole}");
    }
}

#[tokio::test]
async fn tokens_behind_a_stop_string_are_not_listed() {
    let ask = json!({"prompt": "one, two, three", "max_tokens": 16, "stop": ["o, t"], "logprobs": 0});
    let found = logprobs(&server(), ask).await;
    assert_eq!(found["tokens"], json!(["o", "n", "e", ",", " ", "t", "w"]));
}

#[tokio::test]
async fn a_chat_lists_the_tokens_of_its_content() {
    let server = server();
    let mut ask = json!({"messages": [{"role": "user", "content": "aé"}], "max_tokens": 60, "logprobs": true, "top_logprobs": 2});
    let whole = server.post("/v1/chat/completions", &ask).await.json();
    let choice = &whole["choices"][0];
    let content = choice["logprobs"]["content"].as_array().expect("a list").clone();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|t| t["bytes"].as_array().expect("bytes"))
        .map(|b| b.as_u64().expect("a byte") as u8)
        .collect();
    assert_eq!(choice["message"]["content"].as_str().map(str::as_bytes), Some(&*bytes));
    assert!(content.iter().any(|token| token["token"] == "\\xc3"), "{content:?}");
    for token in &content {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert!(sure(&token["logprob"]) && top.len() == 2);
        assert_eq!((&top[0]["token"], &top[0]["bytes"]), (&token["token"], &token["bytes"]));
    }
    assert_eq!(choice["logprobs"]["refusal"], json!(null));
    ask["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", &ask).await.events();
    assert_eq!(events[0]["choices"][0]["logprobs"], json!(null));
    let parts = events[1..].iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(parts.flatten().cloned().collect::<Vec<_>>(), content);
}

#[tokio::test]
async fn of_several_answers_so_many_are_sent_and_all_are_counted() {
    let server = server();
    let ask = json!({"prompt": ["ab?", "cd"], "max_tokens": 8, "n": 2, "best_of": 4});
    let body = server.completed(ask.clone()).await;
    let choices = body["choices"].as_array().expect("choices");
    let found: Vec<_> = choices.iter().map(|c| (c["index"].as_u64(), c["text"].as_str())).collect();
    let expected = ["ab?", "ab?", "cd", "cd"].into_iter().enumerate();
    assert_eq!(found, expected.map(|(i, text)| (Some(i as u64), Some(text))).collect::<Vec<_>>());
    assert_eq!(body["usage"]["completion_tokens"], 4 * 4 + 4 * 3);
    assert!(choices.iter().all(|choice| choice["logprobs"] == json!(null)));
}
