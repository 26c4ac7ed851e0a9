//! The whole server over a scripted model: router, service, engine, text.

mod adapters;
mod chat;
mod completions;
mod connections;
mod description;
mod echo;
mod ends;
mod fake;
mod guided;
mod hostile;
mod logprobs;
#[path = "../hostile/memory.rs"]
mod memory;
mod operations;
mod playground;
mod progress;
mod refusals;
mod sampling;
#[path = "../hostile/spoil.rs"]
mod spoil;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use evotoken::api::{self, App};
use evotoken::config::Settings;
use evotoken::decode::Attention;
use evotoken::engine::request::Limits;
use evotoken::engine::{self, EngineHandle, ModelInfo};
use evotoken::model::ModelSource;
use evotoken::service::{GenerationDefaults, Service, ServiceParts};
use evotoken::telemetry::Metrics;
use evotoken::text::chat_template::ChatTemplate;
use evotoken::text::{Tokenizer, TokenizerConfig};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// A server that does not listen.
struct Server {
    router: Router,
    app: Arc<App>,
    engine: EngineHandle,
    metrics: Arc<Metrics>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

/// What a server is built from.
struct Plan {
    settings: Settings,
    defaults: GenerationDefaults,
    template: Option<&'static str>,
    timeout: Option<Duration>,
    loaded: bool,
    /// Whether marker letters make the model misbehave.
    markers: bool,
    tokenizer: Arc<Tokenizer>,
    /// Ticks wait for the test.
    gate: Option<fake::Gate>,
}

/// Roles in brackets, trimmed contents; some messages are refused.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\
    {% if m.content is startingwith('refuse') %}{{ raise_exception('no') }}{% endif %}\
    [{{ m.role }}]{{ m.content | trim }};{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

impl Default for Plan {
    fn default() -> Self {
        let mut settings = Settings::default();
        settings.decode.block_length = Some(4);
        settings.limits.max_prompt_tokens = 100;
        settings.limits.max_new_tokens = 90;
        let defaults = GenerationDefaults::default();
        Self {
            settings,
            defaults,
            template: Some(TEMPLATE),
            timeout: None,
            loaded: true,
            markers: true,
            tokenizer: fake::tokenizer(),
            gate: None,
        }
    }
}

impl Plan {
    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut plan = Self::default();
        change(&mut plan);
        plan
    }

    fn start(self) -> Server {
        let Self { settings, defaults, template, timeout, loaded, markers, tokenizer, gate } = self;
        let names = match settings.model.served_names.as_slice() {
            [] => vec!["lab/echo".to_owned()],
            some => some.to_vec(),
        };
        let metrics = Arc::new(Metrics::new());
        let info = ModelInfo { mask_id: fake::MASK, eos_ids: vec![fake::EOS] };
        let backend = fake::FakeBackend::new(markers, gate);
        let limits = Limits {
            max_prompt_tokens: settings.limits.max_prompt_tokens,
            max_new_tokens: settings.limits.max_new_tokens,
            max_stop_strings: settings.limits.max_stop_strings,
            max_scored_tokens: settings.limits.max_scored_tokens,
            ..Limits::of_model(&info, fake::VOCAB, 128)
        };
        let engine =
            engine::start(backend, info, (&settings.engine).into(), metrics.clone()).expect("a thread");
        let service = Service::new(ServiceParts {
            names,
            root: "echo-1".to_owned(),
            tokenizer,
            limits,
            attention: Attention::Full,
            adapter_loaders: vec![Arc::new(fake::FakeLoader)],
            max_choices: settings.limits.max_choices,
            timeout,
            decode: settings.decode,
            defaults,
            guides: settings.limits.guides(),
            engine: engine.clone(),
        });
        let app = Arc::new(App::new(settings.server, metrics.clone()));
        if loaded {
            let texts = TokenizerConfig::load(&ModelSource::folder(tokenizer_config(template).path()))
                .expect("a config");
            app.open(service.with_texts(template.map(chat_template), texts));
        }
        Server { router: api::router(app.clone()), app, engine, metrics }
    }
}

/// A model's template, read as every model's is.
fn chat_template(text: &str) -> ChatTemplate {
    ChatTemplate::load(&ModelSource::folder(tokenizer_config(Some(text)).path())).expect("a template")
}

/// A folder that says what a model says of its tokenizer.
fn tokenizer_config(template: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let bos = json!({"content": "<bos>", "lstrip": false});
    let config = json!({"bos_token": bos, "chat_template": template, "model_max_length": 1e30, "padding_side": "left"});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).expect("a file");
    folder
}

/// A server with the usual plan.
fn server() -> Server {
    Plan::default().start()
}

impl Server {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("a router always replies");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        Reply { status: parts.status, headers: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).expect("a valid request")).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).expect("a valid request")).await
    }

    async fn complete(&self, body: Value) -> Reply {
        self.post("/v1/completions", &body).await
    }

    /// A successful completion's body.
    async fn completed(&self, body: Value) -> Value {
        let reply = self.complete(body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()
    }

    /// The data of a successful stream's events.
    async fn streamed(&self, mut body: Value) -> Vec<Value> {
        body["stream"] = json!(true);
        let reply = self.complete(body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        reply.events()
    }

    /// Wait until the metrics have this line.
    async fn until(&self, line: &str) {
        // Far longer than it takes: a slow machine must not fail a test.
        for _ in 0..3000 {
            if self.metrics.render().lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line {line:?} in\n{}", self.metrics.render());
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {:?}", self.text))
    }

    /// The data of server-sent events; `[DONE]` as a string.
    fn events(&self) -> Vec<Value> {
        let parse = |event: &str| {
            let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {event:?}"));
            if data == "[DONE]" { json!(data) } else { serde_json::from_str(data).expect("JSON") }
        };
        self.text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).map(parse).collect()
    }
}

/// `POST /v1/completions` with this body.
fn completion(body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/v1/completions").header("content-type", "application/json");
    request.body(body.into()).expect("a valid request")
}

/// The texts of a stream's events for answer `index`.
fn texts(events: &[Value], index: usize) -> Vec<String> {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    let mine = choices.filter(|choice| choice["index"] == index);
    mine.map(|choice| choice["text"].as_str().expect("text").to_owned()).collect()
}
