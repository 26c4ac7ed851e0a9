//! Models, health, readiness, metrics, request ids, CORS.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use evotoken::telemetry::version;
use serde_json::json;

use crate::{Plan, server};

#[tokio::test]
async fn models_are_listed_and_described() {
    let server = server();
    let list = server.get("/v1/models").await.json();
    let model = &list["data"][0];
    assert_eq!(
        (&list["object"], &model["id"], &model["object"]),
        (&json!("list"), &json!("lab/echo"), &json!("model"))
    );
    assert_eq!(model["owned_by"], "evotoken");
    assert_eq!((&model["root"], &model["parent"]), (&json!("echo-1"), &json!(null)));
    assert!(model["created"].as_u64().is_some_and(|time| time > 1_700_000_000));
    for path in ["/v1/models/lab/echo", "/v1/models/lab%2Fecho"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, &reply.json()), (StatusCode::OK, model), "{path}");
    }
}

#[tokio::test]
async fn a_model_answers_to_all_its_names_and_calls_itself_by_the_first() {
    let names = ["lab/echo/v2", "echo", "gpt-4"].map(str::to_owned).to_vec();
    let server = Plan::with(|plan| plan.settings.model.served_names = names.clone()).start();
    let list = server.get("/v1/models").await.json();
    let ids: Vec<_> =
        list["data"].as_array().expect("models").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, names);
    for (at, name) in names.iter().enumerate() {
        let reply = server.get(&format!("/v1/models/{name}")).await;
        assert_eq!((reply.status, &reply.json()), (StatusCode::OK, &list["data"][at]), "{name}");
        let body = server.completed(json!({"model": name, "prompt": "a"})).await;
        assert_eq!(body["model"], names[0]);
        let tokens = server.post("/tokenize", &json!({"model": name, "prompt": "a"})).await;
        assert_eq!(tokens.status, StatusCode::OK);
    }
    for other in ["lab/echo", "echo-1"] {
        assert_eq!(server.get(&format!("/v1/models/{other}")).await.status, StatusCode::NOT_FOUND);
        let refused = server.complete(json!({"model": other, "prompt": "a"})).await;
        assert_eq!(refused.json()["error"]["code"], "model_not_found");
    }
}

#[tokio::test]
async fn a_model_s_id_that_is_no_text_is_refused() {
    let reply = server().get("/v1/models/%FF").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn readiness_follows_the_model() {
    let server = Plan::with(|plan| plan.loaded = false).start();
    assert_eq!(server.get("/health").await.json(), json!({"status": "ok"}));
    assert_eq!(server.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let server = crate::server();
    assert_eq!(server.get("/ready").await.json(), json!({"status": "ready"}));
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = server();
    server.completed(json!({"prompt": "hello"})).await;
    server.get("/v1/models/lab/echo").await;
    server.get("/nowhere").await;
    let reply = server.get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "evotoken_http_requests_total{method=\"POST\",route=\"/v1/completions\",status=\"200\"} 1",
        "evotoken_http_requests_total{method=\"GET\",route=\"/v1/models/{model}/{*rest}\",status=\"200\"} 1",
        "evotoken_http_requests_total{method=\"GET\",route=\"(none)\",status=\"404\"} 1",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"lab/echo\"} 6",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"lab/echo\"} 6",
        "vllm:diffusion_num_denoising_steps_total{engine=\"0\",model_name=\"lab/echo\"} 2",
        "evotoken_sequences_finished_total{outcome=\"stop\"} 1",
        "evotoken_nfe_sum{method=\"evotoken\"} 2",
        "evotoken_http_errors_total{code=\"invalid_request_error\"} 1",
        "evotoken_model_info{model=\"lab/echo\"} 1",
        "evotoken_sequences_waiting_limit 256",
        "evotoken_sequences_running_limit 64",
        &format!(
            "evotoken_build_info{{revision=\"{}\",version=\"{}\"}} 1",
            version::REVISION,
            version::NUMBER
        ),
    ] {
        assert!(reply.text.lines().any(|found| found == line), "no line {line:?} in\n{}", reply.text);
    }
}

#[tokio::test]
async fn errors_are_counted_by_the_code_in_their_body() {
    let server = server();
    let replies = [
        server.complete(json!({"prompt": "a", "model": "other"})).await,
        server.complete(json!({"prompt": "a", "max_tokens": -1})).await,
        server.complete(json!({"prompt": "a", "max_tokens": 80, "n": 2})).await,
        server.get("/v1/embeddings").await,
    ];
    let text = server.get("/metrics").await.text;
    for reply in replies.iter().filter(|reply| reply.status.is_client_error()) {
        let error = &reply.json()["error"];
        let code = error["code"].as_str().or(error["type"].as_str()).expect("a word");
        assert!(text.contains(&format!("evotoken_http_errors_total{{code=\"{code}\"}} ")), "{code}: {text}");
    }
    let counted = text.lines().filter_map(|line| line.strip_prefix("evotoken_http_errors_total{"));
    let counts = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    assert_eq!(counts.sum::<usize>(), 3);
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let server = server();
    let request =
        Request::get("/health").header("x-request-id", "mine").body(Body::empty()).expect("a valid request");
    assert_eq!(server.send(request).await.headers["x-request-id"], "mine");
    assert_eq!(server.get("/nowhere").await.headers["x-request-id"].len(), 36);
}

#[tokio::test]
async fn a_request_is_in_its_caller_s_trace_or_in_one_of_its_own() {
    let server = server();
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let ask = |parents: &[&str]| {
        let request = parents
            .iter()
            .fold(Request::get("/nowhere"), |request, parent| request.header("traceparent", *parent));
        request.body(Body::empty()).expect("a valid request")
    };
    let answered = async |parents: &[&str]| {
        let reply = server.send(ask(parents)).await;
        let text = reply.headers["traceresponse"].to_str().expect("text").to_owned();
        assert!(text.len() == 55 && text.starts_with("00-"), "{text}");
        (text[3..35].to_owned(), text[36..52].to_owned())
    };
    let parent = format!("00-{trace}-{caller}-01");
    let (found, span) = answered(&[&parent]).await;
    assert!(found == trace && span != caller);
    let (again, other) = answered(&[&parent]).await;
    assert!(again == trace && other != span);
    // Nothing said, nonsense, or two things: a trace of its own.
    for parents in [&[][..], &["00-nonsense"], &[&parent, &parent]] {
        let (found, _) = answered(parents).await;
        assert!(found != trace && found.bytes().any(|b| b != b'0'), "{found}");
    }
}

#[tokio::test]
async fn browsers_may_call_only_if_configured() {
    let preflight = || {
        Request::options("/v1/completions")
            .header("origin", "http://localhost:3000")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-stainless-os")
            .body(Body::empty())
            .expect("a valid request")
    };
    let closed = server().send(preflight()).await;
    assert!(closed.headers.get("access-control-allow-origin").is_none());
    let origins = vec!["http://localhost:3000".to_owned()];
    let open = Plan::with(|plan| plan.settings.server.cors_origins = origins).start();
    let reply = open.send(preflight()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers["access-control-allow-origin"], "http://localhost:3000");
    // The headers of OpenAI's library in a browser.
    assert_eq!(reply.headers["access-control-allow-headers"], "authorization,x-stainless-os");
    let request = Request::get("/health").header("origin", "http://localhost:3000");
    let answered = open.send(request.body(Body::empty()).expect("a valid request")).await;
    assert_eq!(answered.headers["access-control-expose-headers"], "x-request-id,traceresponse,retry-after");
}

#[tokio::test]
async fn pages_tell_browsers_to_run_and_frame_nothing_foreign() {
    let server = server();
    for path in ["/docs/", "/docs/swagger-ui-bundle.js"] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::OK);
        let header = |name: &str| reply.headers[name].to_str().expect("text").to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';") && policy.ends_with("frame-ancestors 'none'"));
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
    }
    let page = server.get("/docs/").await.text;
    assert!(!page.contains("<script>"), "an inline script would not run");
}
