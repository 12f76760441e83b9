//! Prefixes in front of our routes: a configured base path, Azure's `/api`.

use axum::Router;
use axum::extract::Request;
use http::Uri;
use tower::ServiceExt;

/// The address as the client sent it, attached where a prefix was taken off: signatures are made over it.
#[derive(Debug, Clone)]
pub struct SentUri(pub Uri);

/// Serves `router` below each of `prefixes` as well as without any.
pub fn without_prefixes(router: Router, prefixes: Vec<String>) -> Router {
    if prefixes.is_empty() {
        return router;
    }
    let strip = move |mut request: Request| {
        for prefix in &prefixes {
            if let Some(uri) = without_prefix(request.uri(), prefix) {
                let sent = std::mem::replace(request.uri_mut(), uri);
                // A host that has taken off a stage knows better what was sent.
                if request.extensions().get::<SentUri>().is_none() {
                    request.extensions_mut().insert(SentUri(sent));
                }
                break;
            }
        }
        request
    };
    Router::new().fallback_service(router.map_request(strip))
}

/// The URI without `prefix`, where its path is or begins with that prefix as whole segments.
pub fn without_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix)?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let path_and_query = match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_whole_segments_are_taken_off() {
        let strip = |uri: &str, prefix| {
            without_prefix(&uri.parse().expect("a URI"), prefix).map(|uri| uri.to_string())
        };
        assert_eq!(
            strip("/api/rerank?x=1", "/api").as_deref(),
            Some("/rerank?x=1")
        );
        assert_eq!(strip("/api", "/api").as_deref(), Some("/"));
        assert_eq!(
            strip("https://host/prod/docs", "/prod").as_deref(),
            Some("https://host/docs")
        );
        assert_eq!(strip("/apis/rerank", "/api"), None);
        assert_eq!(strip("/rerank", "/api"), None);
        assert_eq!(strip("/api//rerank", "/api").as_deref(), Some("//rerank"));
    }

    proptest! {
        #[test]
        fn a_prefix_is_taken_off_at_a_slash_or_not_at_all(path in "(/[a-c%.]{0,3}){1,5}", query in "(\\?[a-c=&]{0,5})?", prefix in "/[a-c]{1,2}") {
            let sent: Uri = format!("{path}{query}").parse().expect("a path");
            match without_prefix(&sent, &prefix) {
                Some(uri) => {
                    let rest = if uri.path() == "/" && path == prefix { "" } else { uri.path() };
                    prop_assert_eq!(format!("{prefix}{rest}"), path);
                    prop_assert!(uri.path().starts_with('/'));
                    prop_assert_eq!(uri.query(), sent.query());
                }
                None => {
                    let below = format!("{prefix}/");
                    prop_assert!(path != prefix && !path.starts_with(&below));
                }
            }
        }
    }
}
