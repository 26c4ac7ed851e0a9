//! `diffusion.progress`: a chunk per denoising step beside those with text. The model echoes its prompt, surely.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::{Reply, Server, fake, server};

fn ask(progress: bool) -> Value {
    json!({"prompt": "hé, you", "max_tokens": 8, "seed": 1, "diffusion": {"steps": 8, "progress": progress}})
}

fn choices(events: &[Value]) -> Vec<&Value> {
    events.iter().filter_map(|event| event["choices"].get(0)).collect()
}

fn is_progress(choice: &Value) -> bool {
    choice["diffusion"].get("progress").is_some()
}

#[tokio::test]
async fn a_step_is_a_chunk_without_text() {
    let events = server().streamed(ask(true)).await;
    let steps: Vec<&Value> = choices(&events).into_iter().filter(|choice| is_progress(choice)).collect();
    assert_eq!(steps.len(), 8);
    for (number, choice) in (1..).zip(&steps) {
        let diffusion = &choice["diffusion"];
        let bare =
            json!({"index": 0, "text": "", "finish_reason": null, "logprobs": null, "diffusion": diffusion});
        assert_eq!(**choice, bare);
        assert_eq!(diffusion.as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(diffusion["progress"]["step"], number);
    }
    // Of the first step's positions one is decided, and the second block has been looked at.
    let first = &steps[0]["diffusion"]["progress"];
    let text = ["h", "\\xc3", "\\xa9", ",", " ", "y", "o", "u"];
    assert_eq!(first["texts"], json!(text));
    assert_eq!(
        (&first["block"], &first["block_range"], &first["positions"]),
        (&json!(0), &json!([0, 4]), &json!([0, 8]))
    );
    let states =
        ["soft", "soft_mask", "soft_mask", "soft_mask", "soft_mask", "soft_mask", "soft_mask", "soft_mask"];
    assert_eq!(first["states"], json!(states));
    assert_eq!(first["tokens"][0], fake::letter('h'));
    assert_eq!(first["confidences"], json!(vec![0.95; 8]));
    assert_eq!(first["candidate_tokens"][0], json!([fake::letter('h'), 4, 5]));
    assert_eq!(first["candidate_texts"][0], json!(["h", "\u{1}", "\u{2}"]));
    assert_eq!(first["candidate_probabilities"][7], json!([0.95, 0.01, 0.01]));
    assert_eq!(first["revised"], json!([]));
    let fourth = &steps[3]["diffusion"]["progress"];
    assert_eq!((&fourth["positions"], &fourth["states"]), (&json!([0, 4]), &json!(vec!["decoded"; 4])));
}

#[tokio::test]
async fn no_step_of_a_long_answer_is_left_out() {
    // The engine takes one step after the other, whether or not any chunk is read: the client cannot keep up.
    let prompt = "x".repeat(72);
    let body = json!({"prompt": prompt, "max_tokens": 52, "diffusion": {"steps": 52, "cache": "none", "progress": true}});
    let events = server().streamed(body).await;
    let told = choices(&events).into_iter().filter(|choice| is_progress(choice));
    let told: Vec<&Value> = told.map(|choice| &choice["diffusion"]["progress"]["step"]).collect();
    assert_eq!(told, (1..=52).map(|step| json!(step)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_other_chunks_are_those_of_an_answer_that_nobody_watches() {
    let server = server();
    let watched = server.streamed(ask(true)).await;
    let plain = server.streamed(ask(false)).await;
    let others: Vec<&Value> = choices(&watched).into_iter().filter(|choice| !is_progress(choice)).collect();
    assert_eq!(others, choices(&plain));
    assert!(choices(&plain).iter().all(|choice| !is_progress(choice)));
    // A block comes behind the step that finished it.
    let order: String =
        choices(&watched).iter().map(|choice| if is_progress(choice) { 's' } else { 't' }).collect();
    assert_eq!(order, "sssstsssstt");
}

#[tokio::test]
async fn a_chat_s_step_is_a_chunk_with_an_empty_delta() {
    let messages = json!([{"role": "user", "content": "x"}]);
    let options = json!({"steps": 8, "progress": true, "k_soft": 2});
    let ask = json!({"messages": messages, "max_tokens": 8, "stream": true, "diffusion": options, "logprobs": true});
    let events = server().post("/v1/chat/completions", &ask).await.events();
    let all = choices(&events);
    assert_eq!(all[0]["delta"]["role"], "assistant");
    let steps: Vec<&&Value> = all.iter().filter(|choice| is_progress(choice)).collect();
    assert_eq!(steps.len(), 8);
    for choice in &steps {
        let diffusion = &choice["diffusion"];
        let bare =
            json!({"index": 0, "delta": {}, "finish_reason": null, "logprobs": null, "diffusion": diffusion});
        assert_eq!(***choice, bare);
        assert_eq!(diffusion["progress"]["candidate_tokens"][0].as_array().map(Vec::len), Some(2));
    }
    let text: String = all.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    assert_eq!(text, "[user]x;");
}

async fn refused(server: &Server, body: Value) -> Reply {
    let reply = server.complete(body).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    reply
}

#[tokio::test]
async fn steps_of_an_answer_that_is_no_stream_are_refused() {
    let server = server();
    for stream in [json!(null), json!(false)] {
        let mut ask = ask(true);
        ask["stream"] = stream;
        let error = refused(&server, ask).await.json()["error"].clone();
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("diffusion.progress"), &json!("invalid_value"))
        );
    }
    let mut whole = ask(false);
    whole["diffusion"]["progress"] = json!(null);
    assert_eq!(server.completed(whole).await["choices"][0]["text"], "hé, you");
}

#[tokio::test]
async fn hard_masks_are_watched_too() {
    let mut ask = ask(true);
    ask["diffusion"]["method"] = json!("mask");
    let events = server().streamed(ask).await;
    let all = choices(&events);
    let first = all.iter().find(|choice| is_progress(choice)).expect("a step");
    let progress = &first["diffusion"]["progress"];
    assert_eq!(
        (&progress["positions"], &progress["states"]),
        (&json!([0, 4]), &json!(["decoded", "mask", "mask", "mask"]))
    );
    assert_eq!(progress["candidate_tokens"][1].as_array().map(Vec::len), Some(3));
}
