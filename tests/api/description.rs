//! `openapi.yaml`: committed, and equal to the code.

use axum::http::StatusCode;

use crate::server;

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
