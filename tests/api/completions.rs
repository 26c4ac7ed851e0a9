//! `POST /v1/completions`, when all goes well. The model echoes its prompt.

use evotoken::service::GenerationDefaults;
use serde_json::json;

use crate::{Plan, fake, server, texts};

#[tokio::test]
async fn the_body_is_openai_s() {
    let server = server();
    let mut body = server.completed(json!({"model": "lab/echo", "prompt": "hello", "seed": -3})).await;
    let id = body["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("cmpl-") && id.len() == 37, "{id}");
    assert!(body["created"].as_u64().expect("a time") > 1_700_000_000);
    body["id"] = json!("cmpl-");
    body["created"] = json!(0);
    let report = json!({"nfe": 2, "blocks": 2, "tokens_per_forward": 3.0, "revisions": 0, "seed": -3});
    let choice =
        json!({"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": null, "diffusion": report});
    let expected = json!({
        "id": "cmpl-", "object": "text_completion", "created": 0, "model": "lab/echo", "choices": [choice],
        "usage": {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_stream_has_one_chunk_per_finished_block() {
    let events = server().streamed(json!({"prompt": "hello world", "max_tokens": 10, "seed": 9})).await;
    assert_eq!(texts(&events, 0), ["hell", "o wo", "rl", ""]);
    let reasons: Vec<_> =
        events[..4].iter().map(|event| event["choices"][0]["finish_reason"].clone()).collect();
    assert_eq!(reasons, [json!(null), json!(null), json!(null), json!("length")]);
    assert_eq!(events[4], json!("[DONE]"));
    assert_eq!(events.len(), 5);
    let report = json!({"nfe": 3, "blocks": 3, "tokens_per_forward": 10.0 / 3.0, "revisions": 0, "seed": 9});
    assert_eq!(events[3]["choices"][0]["diffusion"], report);
    for event in &events[..4] {
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(event["object"], "text_completion");
        assert!(event.get("usage").is_none());
    }
    assert!(events[0]["choices"][0].get("diffusion").is_none());
}

#[tokio::test]
async fn end_of_text_ends_the_answer_at_its_block() {
    let events = server().streamed(json!({"prompt": "abcd", "max_tokens": 56})).await;
    assert_eq!(texts(&events, 0), ["abcd", "", ""]);
    let last = &events[2]["choices"][0];
    assert_eq!(last["finish_reason"], "stop");
    assert_eq!((&last["diffusion"]["blocks"], &last["diffusion"]["nfe"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn usage_comes_last_when_asked_for() {
    let ask = json!({"prompt": ["ab", "cde"], "max_tokens": 8, "stream_options": {"include_usage": true}});
    let events = server().streamed(ask).await;
    let [chunks @ .., usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(done, &json!("[DONE]"));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], json!({"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}));
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&json!(null))));
}

#[tokio::test]
async fn usage_so_far_comes_with_every_chunk_when_asked_for() {
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let server = server();
    let events =
        server.streamed(json!({"prompt": "abcdef", "max_tokens": 6, "stream_options": options})).await;
    let told: Vec<_> = events.iter().filter_map(|event| event.get("usage")).collect();
    let usage = |completion: usize| json!({"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion});
    assert_eq!(told, [&usage(4), &usage(6), &usage(6), &usage(6)]);
    // As in vLLM, it is a part of `include_usage`.
    let alone =
        json!({"prompt": "abcdef", "max_tokens": 6, "stream_options": {"continuous_usage_stats": true}});
    assert!(server.streamed(alone).await.iter().all(|event| event.get("usage").is_none()));
    // Two answers count together, whichever comes first.
    let both = json!({"prompt": "abcdef", "n": 2, "max_tokens": 6, "stream_options": options});
    let counts: Vec<_> = server.streamed(both).await;
    let counts = counts.iter().filter_map(|event| event["usage"]["completion_tokens"].as_u64());
    let counts: Vec<_> = counts.collect();
    assert!(counts.is_sorted() && counts.first() == Some(&4) && counts.last() == Some(&12), "{counts:?}");
}

#[tokio::test]
async fn a_stop_string_across_blocks_ends_the_answer_before_it() {
    let server = server();
    let ask = json!({"prompt": "one, two, three", "max_tokens": 16, "stop": ["o, t"]});
    let body = server.completed(ask.clone()).await;
    let choice = &body["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("one, tw"), &json!("stop")));
    // The stop string ends with the 11th token, in the third block; a fourth was not denoised for the reader.
    assert_eq!(body["usage"]["completion_tokens"], 11);
    assert_eq!(choice["diffusion"]["blocks"], 3);
    let events = server.streamed(ask).await;
    assert_eq!(texts(&events, 0), ["one,", " tw", "", ""]);
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stop_string_that_never_comes_holds_nothing_back_in_the_end() {
    let ask = json!({"prompt": "abc", "max_tokens": 3, "stop": "cx"});
    assert_eq!(texts(&server().streamed(ask).await, 0), ["ab", "c"]);
}

#[tokio::test]
async fn choices_come_prompt_by_prompt() {
    let body = server().completed(json!({"prompt": ["ab", "cd", "ef"], "n": 2, "max_tokens": 4})).await;
    let choices = body["choices"].as_array().expect("choices");
    let found: Vec<_> = choices.iter().map(|c| (c["index"].as_u64(), c["text"].as_str())).collect();
    let expected = ["ab", "ab", "cd", "cd", "ef", "ef"].into_iter().enumerate();
    assert_eq!(found, expected.map(|(i, text)| (Some(i as u64), Some(text))).collect::<Vec<_>>());
    assert_eq!(body["usage"]["prompt_tokens"], 9);
    assert_eq!(body["usage"]["completion_tokens"], 18);
}

#[tokio::test]
async fn the_choices_of_a_stream_interleave() {
    let prompts = ["abcdefgh".repeat(7), "ijklmnop".repeat(7)];
    let events = server().streamed(json!({"prompt": prompts, "max_tokens": 56})).await;
    assert_eq!(texts(&events, 0).concat(), prompts[0]);
    assert_eq!(texts(&events, 1).concat(), prompts[1]);
    let order: Vec<_> = events.iter().filter_map(|e| e["choices"][0]["index"].as_u64()).collect();
    // 14 blocks each, and the end.
    assert_eq!(order.iter().filter(|index| **index == 0).count(), 15);
    // Whichever is ready is taken, in random order: one answer after the other would be a chance of 1 in 2^14.
    assert!(!order.is_sorted() && !order.iter().rev().is_sorted(), "{order:?}");
}

#[tokio::test]
async fn prompts_may_be_token_ids() {
    let server = server();
    let ids = |text: &str| text.chars().map(fake::letter).collect::<Vec<u32>>();
    let one = server.completed(json!({"prompt": ids("xyz"), "max_tokens": 4})).await;
    assert_eq!((&one["choices"][0]["text"], &one["usage"]["prompt_tokens"]), (&json!("xyz"), &json!(3)));
    let two = server.completed(json!({"prompt": [ids("x"), ids("yz")], "max_tokens": 4})).await;
    assert_eq!((&two["choices"][0]["text"], &two["choices"][1]["text"]), (&json!("x"), &json!("yz")));
}

#[tokio::test]
async fn characters_of_several_tokens_are_never_torn() {
    let text = "a你é😀b";
    let ask = json!({"prompt": text, "max_tokens": 20, "diffusion": {"block_length": 1}});
    let parts = texts(&server().streamed(ask).await, 0);
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|part| !part.contains('\u{FFFD}')), "{parts:?}");
}

#[tokio::test]
async fn null_is_absent_and_unknown_fields_are_ignored() {
    let body = json!({
        "model": null, "prompt": "hi", "max_tokens": null, "temperature": null, "seed": null, "stop": null, "n": null,
        "stream": null, "stream_options": null, "user": null, "diffusion": null, "best_of": null, "echo": null,
        "logprobs": null, "logit_bias": null, "suffix": null, "top_p": null, "presence_penalty": null,
        "frequency_penalty": null, "ignore_eos": false, "whatever": {"deep": [1]}});
    assert_eq!(server().completed(body).await["choices"][0]["text"], "hi");
    let options = json!({"method": null, "steps": null, "threshold": null, "factor": null, "block_length": null,
                         "k_soft": null, "alpha": null, "cache": null, "boundary": null});
    assert_eq!(
        server().completed(json!({"prompt": "hi", "diffusion": options})).await["choices"][0]["text"],
        "hi"
    );
}

#[tokio::test]
async fn neutral_values_of_unsupported_parameters_are_accepted() {
    let body = json!({"prompt": "hi", "n": 2, "best_of": 2, "echo": false, "logit_bias": {}, "suffix": "", "top_p": 1,
                      "presence_penalty": 0, "frequency_penalty": 0.0, "user": "me", "seed": -5, "temperature": 0.5,
                      "repetition_penalty": 1.0, "top_k": -1, "min_p": 0, "min_tokens": 0, "ignore_eos": false, "use_beam_search": false,
                      "skip_special_tokens": true, "stop_token_ids": [], "include_stop_str_in_output": false, "bad_words": []});
    assert_eq!(server().completed(body).await["choices"][1]["text"], "hi");
}

#[tokio::test]
async fn the_request_goes_before_the_settings_and_these_before_the_model() {
    let defaults = GenerationDefaults::from_json(
        br#"{"max_new_tokens": 6, "diffusion": {"block_length": 3, "steps": 6, "method": "mask"}}"#,
    );
    let defaults = defaults.expect("valid");
    let nfe = async |plan: Plan, ask| plan.start().completed(ask).await["choices"][0]["diffusion"].clone();
    let plan = |block_length| {
        Plan::with(|plan| {
            plan.defaults = defaults.clone();
            plan.settings.decode.block_length = block_length;
        })
    };
    let prompt = "abcdefghijkl";
    // The model's own: 6 tokens in blocks of 3, one token a step.
    let model = nfe(plan(None), json!({"prompt": prompt})).await;
    assert_eq!((&model["blocks"], &model["nfe"]), (&json!(2), &json!(6)));
    let settings = nfe(plan(Some(2)), json!({"prompt": prompt})).await;
    assert_eq!((&settings["blocks"], &settings["nfe"]), (&json!(3), &json!(6)));
    let ask = json!({"prompt": prompt, "max_tokens": 12, "diffusion": {"threshold": 0.9, "block_length": 6}});
    let request = nfe(plan(Some(2)), ask).await;
    assert_eq!((&request["blocks"], &request["nfe"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn odd_lengths_and_steps_are_fine() {
    let ask = json!({"prompt": "abcdefghijklmnopq", "max_tokens": 13, "diffusion": {"steps": 7, "block_length": 5}});
    let body = server().completed(ask).await;
    assert_eq!(body["choices"][0]["text"], "abcdefghijklm");
    assert_eq!(body["choices"][0]["diffusion"]["nfe"], 7);
}

#[tokio::test]
async fn a_long_prompt_leaves_a_smaller_default_answer() {
    // 1 + 99 tokens of prompt, canvas 128: OpenAI's default of 16 fits; with a canvas nearly full it shrinks.
    let plan = Plan::with(|plan| plan.settings.limits.max_prompt_tokens = 127);
    let body = plan.start().completed(json!({"prompt": "x".repeat(120)})).await;
    assert_eq!(body["usage"]["completion_tokens"], 7);
}

#[tokio::test]
async fn a_request_without_a_seed_gets_one_and_is_told() {
    let server = server();
    let ask = json!({"prompt": "hello", "n": 2});
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let body = server.completed(ask.clone()).await;
        let seed = |choice: usize| body["choices"][choice]["diffusion"]["seed"].as_i64().expect("a seed");
        assert_eq!(seed(0), seed(1), "the choices differ by their number");
        assert!((0..1 << 53).contains(&seed(0)));
        seeds.push(seed(0));
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn the_gap_before_a_suffix_is_the_answer() {
    let server = server();
    let ask = json!({"prompt": "hello", "suffix": "end", "max_tokens": 12});
    let body = server.completed(ask.clone()).await;
    assert_eq!(body["choices"][0]["text"], "hello");
    assert_eq!(body["usage"], json!({"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}));
    let mut exact = ask;
    exact["max_tokens"] = json!(5);
    exact["echo"] = json!(true);
    let body = server.completed(exact).await;
    assert_eq!(body["choices"][0]["text"], "hellohello");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}
