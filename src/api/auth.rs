//! API keys.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::error::ApiError;
use crate::config::ApiKeys;

/// Let a request pass if it carries one of the keys, or if none is asked for.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    if !allowed(&app.settings.api_keys, request.headers()) {
        return Err(ApiError::InvalidKey);
    }
    Ok(next.run(request).await)
}

fn allowed(keys: &ApiKeys, headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let value = headers.get(header::AUTHORIZATION).map_or(&[][..], |v| v.as_bytes());
    let Some((scheme, given)) = value.split_at_checked(b"Bearer ".len()) else { return false };
    // Every key is compared, so that the time does not tell which one was nearly right.
    let found = keys.iter().fold(false, |found, key| equal(key.as_bytes(), given) | found);
    scheme.eq_ignore_ascii_case(b"Bearer ") && found
}

/// Whether two texts are equal, in a time that depends on their lengths alone.
fn equal(key: &[u8], given: &[u8]) -> bool {
    let byte = |text: &[u8], i: usize| text.get(i).copied().unwrap_or_default();
    let differences = (0..key.len().max(given.len())).fold(0, |all, i| all | (byte(key, i) ^ byte(given, i)));
    std::hint::black_box(differences) == 0 && key.len() == given.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_passes() {
        let keys = ApiKeys::new(vec!["first".to_owned(), "second".to_owned()]);
        for (value, passes) in [
            ("Bearer first", true),
            ("bearer second", true),
            ("Bearer secon", false),
            ("Bearer second\0", false),
            ("Bearer ", false),
            ("Basic first", false),
            ("", false),
        ] {
            let headers = match value.parse() {
                Ok(value) => HeaderMap::from_iter([(header::AUTHORIZATION, value)]),
                Err(_) => HeaderMap::new(),
            };
            assert_eq!(allowed(&keys, &headers), passes, "{value:?}");
        }
        assert!(equal(b"a\0", b"a\0") && !equal(b"a", b"a\0"));
        assert!(allowed(&ApiKeys::default(), &HeaderMap::new()));
    }
}
