//! `echo`: the prompt before the answer, and its tokens' scores. The model finds `$` half probable everywhere, and every
//! other given token a quarter.

use serde_json::{Value, json};

use crate::{Plan, fake, server, texts};

fn ids(text: &str) -> Vec<u32> {
    text.chars().map(fake::letter).collect()
}

#[tokio::test]
async fn the_prompt_comes_before_every_answer() {
    let server = server();
    let body = server.completed(json!({"prompt": ["ab", "cd"], "max_tokens": 2, "n": 2, "echo": true})).await;
    let found: Vec<&str> =
        body["choices"].as_array().expect("choices").iter().filter_map(|c| c["text"].as_str()).collect();
    assert_eq!(found, ["abab", "abab", "cdcd", "cdcd"]);
    // The texts' beginning-of-text tokens are no text; those of a client's own are not shown either.
    let own = [&[fake::BOS], &ids("xy")[..]].concat();
    let body = server.completed(json!({"prompt": own, "max_tokens": 8, "echo": true, "stop": "y"})).await;
    assert_eq!(body["choices"][0]["text"], "xyx", "stop strings end the answer, not the prompt");
}

#[tokio::test]
async fn the_answer_goes_on_where_the_prompt_ends() {
    // The space before a text is not shown, but the answer, which begins with one, is none.
    let server = Plan::with(|plan| plan.tokenizer = fake::stripping_tokenizer()).start();
    for echo in [false, true] {
        let ask = json!({"prompt": " a cat", "max_tokens": 6, "echo": echo, "logprobs": 0});
        let choice = server.completed(ask).await["choices"][0].clone();
        let (text, first) = if echo { (" a cat a cat", 7) } else { (" a cat", 0) };
        assert_eq!(choice["text"], text);
        let (tokens, offsets) = (&choice["logprobs"]["tokens"], &choice["logprobs"]["text_offset"]);
        assert_eq!((&tokens[first], &tokens[first + 1]), (&json!(" "), &json!("a")));
        let offset = if echo { 6 } else { 0 };
        assert_eq!((&offsets[first], &offsets[first + 1]), (&json!(offset), &json!(offset + 1)));
    }
}

#[tokio::test]
async fn a_turn_is_a_text_of_its_own_unless_it_is_continued() {
    let plan = |plan: &mut Plan| {
        plan.tokenizer = fake::stripping_tokenizer();
        plan.template = Some("{{ messages[-1].content }}");
    };
    let server = Plan::with(plan).start();
    let mut ask = json!({"messages": [{"role": "user", "content": " a cat"}], "max_tokens": 6});
    let turn = server.post("/v1/chat/completions", &ask).await.json();
    assert_eq!(turn["choices"][0]["message"]["content"], "a cat");
    ask["add_generation_prompt"] = json!(false);
    ask["continue_final_message"] = json!(true);
    let continued = server.post("/v1/chat/completions", &ask).await.json();
    assert_eq!(continued["choices"][0]["message"]["content"], " a cat");
}

#[tokio::test]
async fn a_stream_begins_with_the_prompt() {
    let server = server();
    for logprobs in [json!(null), json!(1)] {
        let ask = json!({"prompt": "hello", "max_tokens": 5, "echo": true, "logprobs": logprobs});
        assert_eq!(texts(&server.streamed(ask).await, 0), ["hello", "hell", "o", ""]);
    }
}

#[tokio::test]
async fn a_prompt_alone_needs_no_answer() {
    let server = server();
    for logprobs in [json!(null), json!(0)] {
        for prompt in [json!("abc"), json!(ids("a"))] {
            let ask = json!({"prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": logprobs});
            let body = server.completed(ask).await;
            let choice = &body["choices"][0];
            assert_eq!(choice["text"], if prompt.is_string() { "abc" } else { "a" });
            assert_eq!(choice["finish_reason"], "length");
            assert_eq!(
                (&choice["diffusion"]["nfe"], &body["usage"]["completion_tokens"]),
                (&json!(0), &json!(0))
            );
            assert_eq!(choice["logprobs"].is_null(), logprobs.is_null());
        }
    }
    server.until("evotoken_sequences_running 0").await;
    server.until("evotoken_kv_bytes_used 0").await;
}

/// What `lm-eval --model local-completions` sends, and how it reads the reply.
#[tokio::test]
async fn an_evaluation_harness_finds_the_score_of_every_continuation() {
    let server = server();
    let (context, whole) = (4, ids("Q: a b"));
    let ask = json!({"model": "lab/echo", "prompt": [whole, ids("$$$$$$")], "temperature": 0, "max_tokens": 1,
                     "logprobs": 1, "seed": 1234, "echo": true});
    let body = server.completed(ask).await;
    for (choice, probability, greedy) in [(0, 0.25_f64, false), (1, 0.5, true)] {
        let logprobs = &body["choices"][choice]["logprobs"];
        let scores = logprobs["token_logprobs"].as_array().expect("a list");
        assert_eq!(scores.len(), 7);
        assert_eq!((&scores[0], &logprobs["top_logprobs"][0]), (&json!(null), &json!(null)));
        let continuation = &scores[context..scores.len() - 1];
        let sum: f64 = continuation.iter().filter_map(Value::as_f64).sum();
        assert!((sum - 2.0 * probability.ln()).abs() < 1e-6, "{sum}");
        let best = |place: usize| {
            let top = logprobs["top_logprobs"][place].as_object().expect("alternatives");
            top.values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max)
        };
        let is_greedy = (context..6).all(|place| scores[place].as_f64() == Some(best(place)));
        assert_eq!(is_greedy, greedy);
        assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5, 6]));
    }
    assert_eq!(body["usage"], json!({"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}));
}

#[tokio::test]
async fn by_pseudo_likelihood_the_first_token_has_a_score_too() {
    let server = server();
    let ask = |scoring: &str| json!({"prompt": ids("a$c"), "max_tokens": 1, "echo": true, "logprobs": 1, "diffusion": {"scoring": scoring}});
    let chain = server.completed(ask("chain")).await["choices"][0]["logprobs"].clone();
    let pseudo = server.completed(ask("pseudo")).await["choices"][0]["logprobs"].clone();
    assert_eq!(chain["token_logprobs"][0], json!(null));
    let probability = |value: &Value| value.as_f64().map(|log| (log.exp() * 1e4).round() / 1e4);
    let scores = pseudo["token_logprobs"].as_array().expect("a list");
    let found: Vec<_> = scores[..3].iter().map(probability).collect();
    assert_eq!(found, [Some(0.25), Some(0.5), Some(0.25)]);
    let top = pseudo["top_logprobs"][0].as_object().expect("alternatives");
    assert_eq!((probability(&top["$"]), probability(&top["a"]), top.len()), (Some(0.5), Some(0.25), 2));
    for list in ["tokens", "text_offset"] {
        assert_eq!(pseudo[list], chain[list], "{list}");
    }
    // A prompt of one token has a score by this rule alone.
    let mut one = ask("pseudo");
    one["prompt"] = json!(ids("a"));
    one["max_tokens"] = json!(0);
    let found = server.completed(one).await["choices"][0]["logprobs"]["token_logprobs"].clone();
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(probability(&found[0]), Some(0.25));
}

#[tokio::test]
async fn a_rule_for_scores_that_nobody_asks_for_is_refused() {
    let server = server();
    for (echo, logprobs) in [(json!(true), json!(null)), (json!(null), json!(1))] {
        let ask =
            json!({"prompt": "a", "echo": echo, "logprobs": logprobs, "diffusion": {"scoring": "pseudo"}});
        let error = server.complete(ask).await.json()["error"].clone();
        assert_eq!((&error["param"], &error["code"]), (&json!("diffusion.scoring"), &json!("invalid_value")));
    }
    let messages = json!([{"role": "user", "content": "a"}]);
    let chat = json!({"messages": messages, "logprobs": true, "diffusion": {"scoring": "chain"}});
    let reply = server.post("/v1/chat/completions", &chat).await;
    assert_eq!(reply.json()["error"]["param"], "diffusion.scoring");
    let unknown = json!({"prompt": "a", "echo": true, "logprobs": 1, "diffusion": {"scoring": "both"}});
    assert_eq!(server.complete(unknown).await.json()["error"]["param"], "diffusion.scoring");
}

#[tokio::test]
async fn end_of_text_fills_its_place_behind_a_scored_prompt() {
    let server = server();
    let ask = json!({"prompt": [fake::BOS], "max_tokens": 1, "echo": true, "logprobs": 0});
    let found = server.completed(ask).await["choices"][0]["logprobs"]["tokens"].clone();
    assert_eq!(found, json!(["<bos>", "<eos>"]));
}

#[tokio::test]
async fn a_prompt_is_scored_only_where_its_scores_are_shown() {
    let server = Plan::with(|plan| plan.settings.limits.max_scored_tokens = 3).start();
    let mut ask = json!({"prompt": "hello", "max_tokens": 8, "echo": true, "best_of": 2});
    assert_eq!(server.completed(ask.clone()).await["choices"][0]["text"], "hellohello");
    ask["logprobs"] = json!(0);
    let refused = server.complete(ask).await;
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded", "{}", refused.text);
}
