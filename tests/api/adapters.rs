//! Adapters: whom a request asks, what is listed, and loading and unloading while the server runs.

use axum::http::StatusCode;
use evotoken::config::ApiKeys;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Plan, Reply, Server, fake};

fn open(change: impl FnOnce(&mut Plan)) -> Server {
    Plan::with(|plan| {
        plan.settings.server.runtime_adapters = true;
        plan.settings.model.served_names = vec!["lab/echo".to_owned(), "second".to_owned()];
        change(plan);
    })
    .start()
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).expect("a file"));
    folder
}

impl Server {
    async fn load(&self, name: &str, folder: &TempDir) -> Reply {
        self.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": folder.path()})).await
    }

    async fn loaded(&self, name: &str, folder: &TempDir) {
        let reply = self.load(name, folder).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }

    async fn unload(&self, name: &str) -> Reply {
        self.post("/v1/unload_lora_adapter", &json!({"lora_name": name})).await
    }

    /// What the metrics say of adapters and their requests; empty without any adapter.
    async fn busy_adapters(&self) -> String {
        let metrics = self.get("/metrics").await.text;
        let line = metrics.lines().find(|line| line.starts_with("vllm:lora_requests_info{"));
        let labels = line.and_then(|line| line.split_once('{')?.1.split_once(",waiting"));
        let labels = labels.map(|(labels, _)| labels.split(',').filter(|pair| pair.contains("lora")));
        labels.map(|labels| labels.collect::<Vec<_>>().join(",")).unwrap_or_default()
    }

    async fn ids(&self) -> Vec<Value> {
        let list = self.get("/v1/models").await.json();
        list["data"].as_array().expect("models").iter().map(|model| model["id"].clone()).collect()
    }
}

fn refused(reply: &Reply, status: u16, param: &str, part: &str) {
    let error = &reply.json()["error"];
    assert_eq!((reply.status.as_u16(), &error["param"]), (status, &json!(param)), "{}", reply.text);
    assert!(error["message"].as_str().expect("a message").contains(part), "{error}");
}

#[tokio::test]
async fn an_adapter_answers_by_its_name_and_by_the_model_s_names_before_it() {
    let server = open(|_| {});
    server.loaded("next", &folder(&[])).await;
    server.loaded("other/one", &folder(&[])).await;
    for (model, text, shown) in [
        (json!(null), "abc", "lab/echo"),
        (json!("lab/echo"), "abc", "lab/echo"),
        (json!("second"), "abc", "lab/echo"),
        (json!("next"), "bcd", "next"),
        (json!("lab/echo:next"), "bcd", "lab/echo:next"),
        (json!("second:next"), "bcd", "second:next"),
        (json!("other/one"), "cde", "other/one"),
    ] {
        let answer = server.completed(json!({"model": model, "prompt": "abc"})).await;
        assert_eq!(
            (&answer["choices"][0]["text"], &answer["model"]),
            (&json!(text), &json!(shown)),
            "{model}"
        );
    }
    for model in
        ["nobody", "lab/echo:nobody", "nobody:next", "next:next", ":next", "lab/echo:", "second:lab/echo"]
    {
        let reply = server.complete(json!({"model": model, "prompt": "abc"})).await;
        refused(&reply, 404, "model", model);
        assert_eq!(reply.json()["error"]["code"], "model_not_found");
    }
}

#[tokio::test]
async fn a_model_s_name_may_hold_what_separates_it_from_an_adapter_s() {
    let names = ["lab:7b", "lab", "lab:x"].map(str::to_owned).to_vec();
    let server = open(|plan| plan.settings.model.served_names = names);
    server.loaded("7c", &folder(&[])).await;
    for (model, text) in [("lab:7b", "abc"), ("lab:7b:7c", "bcd"), ("lab:7c", "bcd"), ("lab:x:7c", "bcd")] {
        let answer = server.completed(json!({"model": model, "prompt": "abc"})).await;
        assert_eq!(answer["choices"][0]["text"], text, "{model}");
    }
    // "lab:7b" would ask for both.
    refused(&server.load("7b", &folder(&[])).await, 400, "lora_name", "makes one");
}

#[tokio::test]
async fn every_way_to_ask_reaches_the_adapter() {
    let server = open(|_| {});
    server.loaded("next", &folder(&[])).await;
    let chat = json!({"model": "next", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 40});
    let reply = server.post("/v1/chat/completions", &chat).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "\\vtfs^bc<\\bttjtubou^");
    assert_eq!(reply["model"], "next");
    let events = server.streamed(json!({"model": "next", "prompt": "abcde", "n": 2})).await;
    assert!(events.iter().all(|event| *event == "[DONE]" || event["model"] == "next"));
    assert_eq!([0, 1].map(|index| crate::texts(&events, index).concat()), ["bcdef", "bcdef"]);
    let guided = server.completed(json!({"model": "next", "prompt": "abc", "guided_regex": "[b-z]+"})).await;
    assert_eq!(guided["choices"][0]["text"], "bcd");
    let scored = json!({"model": "next", "prompt": "abc", "echo": true, "logprobs": 1, "max_tokens": 3});
    assert_eq!(server.completed(scored).await["choices"][0]["text"], "abcbcd");
    let tokens = server.post("/tokenize", &json!({"model": "lab/echo:next", "prompt": "a"})).await;
    assert_eq!(tokens.json()["count"], 2);
    refused(&server.post("/tokenize", &json!({"model": "none", "prompt": "a"})).await, 404, "model", "none");
}

#[tokio::test]
async fn adapters_are_listed_behind_the_model_s_names() {
    let server = open(|_| {});
    let (b, a) = (folder(&[]), folder(&[]));
    server.loaded("b", &b).await;
    server.loaded("a", &a).await;
    assert_eq!(server.ids().await, ["lab/echo", "second", "a", "b"]);
    let list = server.get("/v1/models").await.json();
    let [model, adapter] = [&list["data"][0], &list["data"][2]];
    assert_eq!((&model["root"], &model["parent"]), (&json!("echo-1"), &json!(null)));
    assert_eq!((&adapter["root"], &adapter["parent"]), (&json!(a.path()), &json!("lab/echo")));
    assert_eq!(adapter["max_model_len"], 128);
    assert_eq!(server.get("/v1/models/a").await.json(), *adapter);
    assert_eq!(server.get("/v1/models/lab/echo:b").await.json()["id"], "lab/echo:b");
    assert_eq!(server.get("/v1/models/c").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_an_adapter_recommends_goes_before_what_its_model_does() {
    let server = open(|plan| plan.defaults.max_new_tokens = Some(5));
    let own = folder(&[(
        "generation_config.json",
        "{\"max_new_tokens\": 2, \"diffusion\": {\"block_length\": 1}}",
    )]);
    server.loaded("short", &own).await;
    server.loaded("silent", &folder(&[])).await;
    for (model, tokens) in [("lab/echo", 5), ("short", 2), ("silent", 5)] {
        let answer = server.completed(json!({"model": model, "prompt": "abcdefgh"})).await;
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{model}");
    }
}

#[tokio::test]
async fn an_adapter_may_be_block_causal_where_the_model_is_not() {
    let server = open(|_| {});
    server.loaded("d2f", &folder(&[("evotoken.json", "{\"attention\": \"block_causal\"}")])).await;
    server.loaded("full", &folder(&[])).await;
    let ask = |model| json!({"model": model, "prompt": "ab", "suffix": "c", "max_tokens": 2});
    refused(&server.complete(ask("d2f")).await, 400, "suffix", "block-causal");
    server.completed(ask("full")).await;
    server.completed(ask("lab/echo")).await;
}

#[tokio::test]
async fn an_adapter_that_is_unloaded_is_a_404_at_once_and_may_be_loaded_again() {
    let server = open(|_| {});
    let one = folder(&[]);
    server.loaded("next", &one).await;
    let reply = server.load("next", &one).await;
    refused(&reply, 400, "lora_name", "already been loaded");
    let reply = server.unload("next").await;
    assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, "The adapter \"next\" is unloaded."));
    assert!(reply.headers["content-type"].to_str().expect("text").starts_with("text/plain"));
    refused(&server.unload("next").await, 404, "lora_name", "no adapter \"next\"");
    let ask = json!({"model": "next", "prompt": "abc"});
    assert_eq!(server.complete(ask.clone()).await.status, StatusCode::NOT_FOUND);
    let reply = server.load("next", &one).await;
    assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, "The adapter \"next\" is loaded."));
    // The second one of this server.
    assert_eq!(server.completed(ask).await["choices"][0]["text"], "cde");
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_with_its_reason_and_not_listed() {
    let server = open(|_| {});
    let good = folder(&[]);
    for (name, part) in [
        ("a:b", "':'"),
        (" ", "must not be empty"),
        ("a\nb", "control characters"),
        ("second", "is a name of the model"),
        ("lab/echo", "is a name of the model"),
    ] {
        refused(&server.load(name, &good).await, 400, "lora_name", part);
    }
    for (body, param) in [
        (json!({}), "lora_name"),
        (json!({"lora_name": "x"}), "lora_path"),
        (json!({"lora_path": "x"}), "lora_name"),
        (json!({"lora_name": "x", "lora_path": ""}), "lora_path"),
        (json!({"lora_name": "x", "lora_path": 1}), "lora_path"),
    ] {
        let reply = server.post("/v1/load_lora_adapter", &body).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
    refused(&server.post("/v1/unload_lora_adapter", &json!({})).await, 400, "lora_name", "must be given");
    let missing = json!({"lora_name": "x", "lora_path": "nowhere"});
    let missing = server.post("/v1/load_lora_adapter", &missing).await;
    refused(&missing, 404, "lora_path", "adapter_config.json is missing in nowhere");
    for (file, text, part) in [
        ("broken", "", "tensor q_proj.lora_A.weight: expected shape"),
        ("evotoken.json", "{\"atention\": \"full\"}", "atention"),
        ("generation_config.json", "{\"eos_token_id\": 5}", "the model ends with [1]"),
        ("generation_config.json", "{\"diffusion\": {\"steps\": 0}}", "steps"),
    ] {
        let reply = server.load("x", &folder(&[(file, text)])).await;
        refused(&reply, 400, "lora_path", part);
    }
    assert_eq!(server.ids().await, ["lab/echo", "second"]);
}

#[tokio::test]
async fn adapters_change_only_where_the_settings_allow_it_and_with_a_key() {
    let closed = crate::server();
    for path in ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"] {
        let reply = closed.post(path, &json!({"lora_name": "x", "lora_path": "x"})).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert!(reply.text.contains("server.runtime_adapters is false"), "{}", reply.text);
        let locked = open(|plan| plan.settings.server.api_keys = ApiKeys::new(vec!["key".to_owned()]));
        assert_eq!(locked.post(path, &json!({"lora_name": "x"})).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(closed.post(path, &json!([])).await.status, StatusCode::NOT_FOUND, "whatever it says");
        for server in [&closed, &open(|_| {})] {
            assert_eq!(server.get(path).await.status, StatusCode::METHOD_NOT_ALLOWED);
        }
    }
}

#[tokio::test]
async fn answers_that_an_unloaded_adapter_has_begun_are_finished_and_then_it_is_given_back() {
    let (gate, mut keeper) = fake::gate();
    let server = open(|plan| plan.gate = Some(gate));
    server.loaded("next", &folder(&[])).await;
    let ask = json!({"model": "next", "prompt": "abcdefghij", "n": 3});
    let asked = async { server.completed(ask.clone()).await };
    let unloaded = async {
        keeper.until_begun(1).await;
        assert_eq!(server.busy_adapters().await, "max_lora=\"1\",running_lora_adapters=\"next\"");
        assert_eq!(server.unload("next").await.status, StatusCode::OK);
        assert_eq!(server.busy_adapters().await, "");
        assert_eq!(server.complete(ask.clone()).await.status, StatusCode::NOT_FOUND);
        assert_eq!(server.ids().await, ["lab/echo", "second"]);
        assert_eq!(keeper.dropped(), 0);
        keeper.let_all_pass();
    };
    let (answer, ()) = tokio::join!(asked, unloaded);
    for choice in answer["choices"].as_array().expect("choices") {
        assert_eq!(choice["text"], "bcdefghijk");
    }
    while keeper.dropped() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(keeper.opened_and_closed(), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loading_and_unloading_under_load_loses_no_answer_and_no_memory() {
    let (gate, mut keeper) = fake::gate();
    keeper.let_all_pass();
    let server = std::sync::Arc::new(open(|plan| plan.gate = Some(gate)));
    let mut clients = Vec::new();
    for client in 0..8 {
        let server = std::sync::Arc::clone(&server);
        clients.push(tokio::spawn(async move {
            let mut answered = 0;
            for round in 0..60 {
                let model = if (client + round) % 3 == 0 { "lab/echo" } else { "next" };
                let reply = server.complete(json!({"model": model, "prompt": "abcd", "n": 2})).await;
                match (model, reply.status) {
                    (_, StatusCode::OK) => answered += 2,
                    ("next", StatusCode::NOT_FOUND) => {}
                    other => panic!("{other:?}: {}", reply.text),
                }
            }
            answered
        }));
    }
    let one = folder(&[]);
    let mut loads = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        // A token further with each number: the letters end.
        if loads < 20 {
            server.loaded("next", &one).await;
            loads += 1;
            tokio::task::yield_now().await;
            assert_eq!(server.unload("next").await.status, StatusCode::OK);
        }
        tokio::task::yield_now().await;
    }
    let mut answered = 0;
    for client in clients {
        answered += client.await.expect("no panic");
    }
    assert!(answered >= 8 * 20 * 2, "{answered}");
    while keeper.dropped() < loads {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(keeper.dropped(), loads);
    assert_eq!(keeper.opened_and_closed(), (answered, answered));
    server.until("evotoken_sequences_running 0").await;
}
