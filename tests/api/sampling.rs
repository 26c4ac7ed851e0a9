//! Parameters that change which tokens are candidates. The model echoes its prompt, then says end-of-text; its second
//! choice is `$`.

use evotoken::service::GenerationDefaults;
use serde_json::json;

use crate::{Plan, fake, server};

#[tokio::test]
async fn end_of_text_waits_for_min_tokens() {
    let server = server();
    for (min_tokens, text, tokens) in [(0, "abc", 4), (3, "abc", 4), (4, "abc$", 5), (6, "abc$$$", 7)] {
        let ask = json!({"prompt": "abc", "max_tokens": 12, "min_tokens": min_tokens});
        let body = server.completed(ask).await;
        assert_eq!(body["choices"][0]["text"], text);
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        assert_eq!(body["usage"]["completion_tokens"], tokens);
    }
}

#[tokio::test]
async fn no_stop_string_ends_an_answer_before_min_tokens() {
    let server = server();
    for (min_tokens, text, reason) in [
        (0, "a", "stop"),
        (1, "a", "stop"),
        (2, "aba", "stop"),
        (4, "ababa", "stop"),
        (6, "ababab", "length"),
    ] {
        let ask = json!({"prompt": "ababab", "max_tokens": 6, "min_tokens": min_tokens, "stop": ["b", "zz"]});
        let choice = &server.completed(ask).await["choices"][0];
        assert_eq!(
            (&choice["text"], &choice["finish_reason"]),
            (&json!(text), &json!(reason)),
            "{min_tokens}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_ignores_end_of_text_fills_its_room() {
    let server = server();
    let ask = json!({"prompt": "abc", "max_tokens": 10, "ignore_eos": true});
    let body = server.completed(ask.clone()).await;
    assert_eq!(body["choices"][0]["text"], "abc$$$$$$$");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 10);
    let mut stopped = ask;
    stopped["stop"] = json!("$$$");
    let body = server.completed(stopped).await;
    assert_eq!(
        (&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]),
        (&json!("abc"), &json!("stop"))
    );
    let chat =
        json!({"messages": [{"role": "user", "content": "abc"}], "max_tokens": 90, "ignore_eos": true});
    let reply = server.post("/v1/chat/completions", &chat).await.json();
    assert_eq!(reply["usage"]["completion_tokens"], 90);
}

#[tokio::test]
async fn a_bias_changes_what_is_written() {
    let server = server();
    let id = fake::letter('b').to_string();
    let banned = json!({"prompt": "abc", "max_tokens": 12, "logit_bias": {id.clone(): -100}});
    assert_eq!(server.completed(banned).await["choices"][0]["text"], "a$c");
    let wanted = json!({"prompt": "abc", "max_tokens": 4, "logit_bias": {id: 100}});
    assert_eq!(server.completed(wanted).await["choices"][0]["text"], "bbbb");
}

#[tokio::test]
async fn filters_of_draws_are_taken_at_any_temperature() {
    let server = server();
    for temperature in [0.0, 0.5] {
        let ask =
            json!({"prompt": "abc", "temperature": temperature, "top_p": 0.9, "top_k": 5, "min_p": 0.1});
        assert_eq!(server.completed(ask).await["choices"][0]["text"], "abc");
    }
}

#[tokio::test]
async fn penalties_count_what_was_decided_before_the_pass() {
    let server = server();
    let text = async |block_length: usize, name: &str, penalty: f64| {
        let ask = json!({"prompt": "aaaaaaaa", "max_tokens": 8, "diffusion": {"block_length": block_length},
                         "presence_penalty": 2, name: penalty});
        server.completed(ask).await["choices"][0]["text"].as_str().expect("text").to_owned()
    };
    // The logit of "a" is 9, that of "$" 1, of all others 0: four times "a" cost 10.
    assert_eq!(text(1, "frequency_penalty", 2.0).await[..5], *"aaaa$");
    assert_eq!(text(4, "frequency_penalty", 2.0).await[..5], *"aaaa$");
    assert_eq!(text(2, "frequency_penalty", 2.0).await[..6], *"aaaa$$");
    // Decided in one pass, none knows of the others.
    assert_eq!(text(8, "frequency_penalty", 2.0).await, "aaaaaaaa");
    // The prompt counts, too: 9 / 10 is below 1, and once "$" is in the answer it is (1 / 10) - 2.
    assert_eq!(text(1, "repetition_penalty", 10.0).await[..2], *"$a");
}

#[tokio::test]
async fn draws_know_what_the_model_recommends_unless_the_request_says_otherwise() {
    // A draw from the two best tokens is the second one here.
    let defaults =
        GenerationDefaults { temperature: Some(0.5), top_k: Some(2), ..GenerationDefaults::default() };
    let server = Plan::with(|plan| plan.defaults = defaults).start();
    for (ask, text) in [
        (json!({"prompt": "abc", "max_tokens": 3}), "$$$"),
        (json!({"prompt": "abc", "max_tokens": 3, "top_k": 0}), "abc"),
        (json!({"prompt": "abc", "max_tokens": 3, "temperature": 0}), "abc"),
    ] {
        assert_eq!(server.completed(ask.clone()).await["choices"][0]["text"], text, "{ask}");
    }
}
