//! Examples of the operations' requests and replies, for the API's description. The bundled model gives these answers.

use serde_json::{Value, json};
use utoipa::openapi::{Content, OpenApi, RefOr};

/// One operation: its path, and per media type what is sent and what comes back.
struct Operation {
    path: &'static str,
    request: Option<Value>,
    replies: Vec<(&'static str, Value)>,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const PROMPT: &str = "Numbers: [30, 100, 93]\nTarget: 23";

/// Add the examples to a description.
///
/// # Panics
/// An example is of something that is not described: a mistake in this file, which the tests find.
pub fn add(api: &mut OpenApi) {
    for Operation { path, request, replies } in operations() {
        let item = api.paths.paths.get_mut(path).unwrap_or_else(|| panic!("{path} is not described"));
        let operation = item.post.as_mut().or(item.get.as_mut()).expect("operations get or post");
        if let (Some(example), Some(RefOr::T(body))) = (request, &mut operation.request_body) {
            set(body.content.get_mut(JSON), example);
        }
        for (kind, example) in replies {
            let Some(RefOr::T(reply)) = operation.responses.responses.get_mut("200") else {
                panic!("{path} has no reply of its own")
            };
            set(reply.content.get_mut(kind), example);
        }
    }
}

fn set(content: Option<&mut RefOr<Content>>, example: Value) {
    let Some(RefOr::T(content)) = content else { panic!("nothing is described for {example}") };
    content.example = Some(example);
}

fn operations() -> Vec<Operation> {
    let reads = |path, reply| Operation { path, request: None, replies: vec![(JSON, reply)] };
    let asks =
        |path, request, reply| Operation { path, request: Some(request), replies: vec![(JSON, reply)] };
    vec![
        completion(),
        chat_completion(),
        asks(
            "/tokenize",
            json!({"prompt": "23", "return_token_strs": true}),
            json!({"count": 2, "max_model_len": 512, "tokens": [3, 283], "token_strs": ["<bos>", "23"]}),
        ),
        asks("/detokenize", json!({"tokens": [3, 283]}), json!({"prompt": "<bos>23"})),
        reads(
            "/tokenizer_info",
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "eos_token": "<eos>",
                   "mask_token": "<mask>", "bos_token": "<bos>", "pad_token": "<pad>", "add_bos_token": true,
                   "chat_template": "{{ bos_token }}{{ (messages | last).content }}"}),
        ),
        reads("/v1/models", json!({"object": "list", "data": [model()]})),
        reads("/v1/models/{model}", model()),
        adapter(
            "/v1/load_lora_adapter",
            json!({"lora_name": "evotoken", "lora_path": "models/countdown/adapters/evotoken"}),
            "The adapter \"evotoken\" is loaded.",
        ),
        adapter(
            "/v1/unload_lora_adapter",
            json!({"lora_name": "evotoken"}),
            "The adapter \"evotoken\" is unloaded.",
        ),
        reads("/health", json!({"status": "ok"})),
        reads("/ready", json!({"status": "ready"})),
        Operation {
            path: "/metrics",
            request: None,
            replies: vec![(
                "text/plain",
                json!("vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"),
            )],
        },
    ]
}

fn adapter(path: &'static str, request: Value, reply: &str) -> Operation {
    Operation { path, request: Some(request), replies: vec![("text/plain", json!(reply))] }
}

fn model() -> Value {
    json!({"id": "countdown", "object": "model", "created": 1_795_481_890, "owned_by": "evotoken", "root": "countdown",
           "parent": null, "max_model_len": 512})
}

/// An event of a stream.
fn event(chunk: &Value) -> Value {
    json!({"data": chunk.to_string()})
}

fn completion() -> Operation {
    let head = |choice: Value| {
        json!({"id": "cmpl-788a6c4dae6b33cbcf179376573e1717", "object": "text_completion", "created": 1_795_481_897,
               "model": "countdown", "choices": [choice]})
    };
    let report = json!({"nfe": 2, "blocks": 2, "tokens_per_forward": 4.0, "revisions": 0, "seed": 1});
    let mut whole =
        head(json!({"index": 0, "text": "(93+30)-100", "finish_reason": "stop", "logprobs": null,
                                "diffusion": report}));
    whole["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17});
    let chunk = head(json!({"index": 0, "text": "(93+30", "finish_reason": null, "logprobs": null}));
    Operation {
        path: "/v1/completions",
        request: Some(json!({"model": "countdown", "prompt": PROMPT, "max_tokens": 16, "seed": 1,
                             "diffusion": {"method": "evotoken", "threshold": 0.9}})),
        replies: vec![(JSON, whole), (EVENTS, event(&chunk))],
    }
}

fn chat_completion() -> Operation {
    let id = "chatcmpl-0f3b62a7c1d94e58a6b7c8d9e0f1a2b3";
    let report = json!({"nfe": 2, "blocks": 2, "tokens_per_forward": 4.0, "revisions": 0, "seed": 1});
    let message = json!({"role": "assistant", "content": "(93+30)-100", "refusal": null});
    let whole = json!({"id": id, "object": "chat.completion", "created": 1_795_481_897, "model": "countdown",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": null, "diffusion": report}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}});
    let delta = json!({"content": "(93+30"});
    let chunk = json!({"id": id, "object": "chat.completion.chunk", "created": 1_795_481_897, "model": "countdown",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null, "logprobs": null}]});
    Operation {
        path: "/v1/chat/completions",
        request: Some(json!({"model": "countdown", "messages": [{"role": "user", "content": PROMPT}],
                             "max_completion_tokens": 16, "seed": 1})),
        replies: vec![(JSON, whole), (EVENTS, event(&chunk))],
    }
}
