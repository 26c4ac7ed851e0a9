//! `openapi.yaml`: committed, equal to the code, complete, and with examples that hold.

use axum::http::StatusCode;
use evotoken::api;
use serde_json::{Value, json};

use crate::{Plan, server};

#[tokio::test]
async fn the_committed_description_equals_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let reply = server().get("/openapi.yaml").await;
    assert_eq!(reply.headers["content-type"], "application/yaml");
    if std::env::var_os("EVOTOKEN_BLESS").is_some() {
        std::fs::write(&path, &reply.text).expect("openapi.yaml can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == reply.text,
        "openapi.yaml differs from the code; rewrite it with: EVOTOKEN_BLESS=1 cargo test --test api description"
    );
}

/// The names of an object's fields, and of those below.
fn names(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), names(value))).collect(),
        Value::Array(items) => items.first().map(names).into_iter().collect(),
        _ => json!(null),
    }
}

#[tokio::test]
async fn every_example_is_answered_as_its_example_of_an_answer_shows() {
    let mut plan = Plan::default();
    plan.settings.model.served_names = vec!["countdown".to_owned()];
    plan.settings.server.runtime_adapters = true;
    let server = plan.start();
    let api = serde_json::to_value(api::openapi()).expect("JSON");
    let mut tried = 0;
    for (path, item) in api["paths"].as_object().expect("paths") {
        let (method, operation) = item.as_object().and_then(|item| item.iter().next()).expect("an operation");
        let reply = if method == "get" {
            server.get(&path.replace("{model}", "countdown")).await
        } else {
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            server.post(path, example).await
        };
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
        let content = operation["responses"]["200"]["content"].as_object().expect("contents");
        assert!(content.values().all(|kind| !kind["example"].is_null()), "{path} lacks an example");
        if let Some(kind) = content.get("application/json") {
            let (found, shown) = (reply.json(), &kind["example"]);
            // What a tokenizer's file says beside the named fields is the model's own.
            if path == "/tokenizer_info" {
                assert!(found["tokenizer_class"].is_string() && shown["tokenizer_class"].is_string());
            } else {
                assert_eq!(names(&found), names(shown), "{path}: {found}");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 9);
}

/// What a schema's fields lack.
fn described(place: &str, schema: &Value, found: &mut Vec<String>) {
    for part in ["allOf", "oneOf"].iter().flat_map(|part| schema[part].as_array()).flatten() {
        described(place, part, found);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let of_reference =
            field["oneOf"].as_array().into_iter().flatten().find_map(|part| part.get("description"));
        if field.get("description").or(of_reference).is_none() {
            found.push(format!("{place}.{name} is not described"));
        }
        let number = |kind: &Value| kind == "number" || kind == "integer";
        let is_number =
            number(&field["type"]) || field["type"].as_array().is_some_and(|kinds| kinds.iter().any(number));
        let bounds = ["minimum", "exclusiveMinimum", "maximum"];
        if is_number && name != "seed" && bounds.iter().all(|bound| field.get(bound).is_none()) {
            found.push(format!("{place}.{name} has no range"));
        }
    }
}

#[test]
fn every_field_is_described_and_every_number_has_a_range() {
    let api = serde_json::to_value(api::openapi()).expect("JSON");
    let mut missing = Vec::new();
    for (name, schema) in api["components"]["schemas"].as_object().expect("schemas") {
        described(name, schema, &mut missing);
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[tokio::test]
async fn the_viewer_works_offline() {
    let server = server();
    assert_eq!(server.get("/docs").await.headers["location"], "/docs/");
    let page = server.get("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("swagger-ui"));
    assert!(!page.text.contains("https://"), "nothing is fetched from elsewhere: {}", page.text);
    assert!(server.get("/docs/swagger-initializer.js").await.text.contains("/openapi.yaml"));
}
