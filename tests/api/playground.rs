//! The page at `/`: what a browser gets, and what it may do with it.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use evotoken::config::ApiKeys;
use regex::Regex;

use crate::{Plan, Reply, Server, server};

/// What all files of the page may weigh, in bytes.
const MOST_BYTES: usize = 100_000;

/// The page, and all that it and its scripts load, with their paths.
async fn files(server: &Server) -> Vec<(String, Reply)> {
    let link = Regex::new(r#"(?:src|href)="(playground/[^"]+)"|from '\./([^']+)'"#).expect("an expression");
    let (mut found, mut open) = (Vec::<(String, Reply)>::new(), vec!["/".to_owned()]);
    while let Some(path) = open.pop() {
        if found.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let reply = server.get(&path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        open.extend(link.captures_iter(&reply.text).map(|part| match (part.get(1), part.get(2)) {
            (Some(link), _) => format!("/{}", link.as_str()),
            (None, name) => format!("/playground/{}", name.expect("one of both").as_str()),
        }));
        found.push((path, reply));
    }
    found
}

#[tokio::test]
async fn the_page_and_all_it_loads_are_there_and_small() {
    let files = files(&server()).await;
    let types: Vec<&str> =
        files.iter().map(|(_, reply)| reply.headers["content-type"].to_str().expect("text")).collect();
    for kind in ["text/html", "text/css", "text/javascript", "image/svg+xml"] {
        assert!(types.iter().any(|found| found.starts_with(kind)), "{kind}: {types:?}");
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("playground");
    let there = std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(files.len(), there, "every file of the folder is served and used");
    let bytes: usize = files.iter().map(|(_, reply)| reply.text.len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}

#[tokio::test]
async fn the_page_may_do_nothing_but_ask_its_own_server() {
    for (path, reply) in files(&server()).await {
        let header = |name: &str| reply.headers[name].to_str().expect("text").to_owned();
        assert_eq!(
            header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "{path}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-cache");
    }
}

#[tokio::test]
async fn the_page_holds_no_script_no_style_and_no_foreign_address() {
    // What the policy forbids would not work.
    let inline =
        Regex::new(r#"(?i)<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]|javascript:"#).expect("valid");
    let foreign = Regex::new(r#"https?://[^\s"')]+"#).expect("valid");
    for (path, reply) in files(&server()).await {
        if path == "/" {
            assert_eq!(inline.find(&reply.text).map(|found| found.as_str()), None);
        }
        let others: Vec<&str> = foreign.find_iter(&reply.text).map(|found| found.as_str()).collect();
        // The name of a format, not an address that is asked.
        assert!(others.iter().all(|name| *name == "http://www.w3.org/2000/svg"), "{path}: {others:?}");
    }
}

#[tokio::test]
async fn a_file_that_a_browser_has_is_not_sent_again() {
    let server = server();
    for path in ["/", "/playground/app.js"] {
        let tag = server.get(path).await.headers["etag"].to_str().expect("text").to_owned();
        let again = |known: String| {
            let request = Request::get(path).header("if-none-match", known);
            server.send(request.body(Body::empty()).expect("a valid request"))
        };
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let reply = again(known.clone()).await;
            assert_eq!((reply.status, reply.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{known}");
            assert_eq!(reply.headers["etag"], tag.as_str());
        }
        let reply = again("\"other\"".to_owned()).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(!reply.text.is_empty());
    }
    let tags: Vec<String> =
        files(&server).await.iter().map(|(_, reply)| format!("{:?}", reply.headers["etag"])).collect();
    assert!(tags.iter().enumerate().all(|(at, tag)| !tags[..at].contains(tag)), "{tags:?}");
}

#[tokio::test]
async fn what_is_no_file_of_the_page_is_not_there() {
    let server = server();
    for path in ["/playground", "/playground/", "/playground/nothing.js", "/playground/..%2Findex.html"] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    let post = Request::builder().method(Method::POST).uri("/").body(Body::empty());
    assert_eq!(server.send(post.expect("a valid request")).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_setting_turns_the_page_off_and_nothing_else() {
    let server = Plan::with(|plan| plan.settings.server.playground = false).start();
    for path in ["/", "/playground/app.js"] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert!(reply.headers.get("content-security-policy").is_none());
    }
    for path in ["/docs/", "/v1/models"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_page_needs_no_key_and_what_it_asks_does() {
    let keys = ApiKeys::new(vec!["sesame".to_owned()]);
    let server = Plan::with(|plan| plan.settings.server.api_keys = keys).start();
    assert!(files(&server).await.len() > 1);
    for path in ["/v1/models", "/tokenizer_info"] {
        assert_eq!(server.get(path).await.status, StatusCode::UNAUTHORIZED);
        let request = Request::get(path).header("authorization", "Bearer sesame").body(Body::empty());
        assert_eq!(server.send(request.expect("a valid request")).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_page_is_there_while_the_model_loads() {
    let server = Plan::with(|plan| plan.loaded = false).start();
    assert_eq!(server.get("/").await.status, StatusCode::OK);
}
