//! The ways in which a path may be written: below a prefix (a configured base path, Azure's `/api`), with doubled slashes, with one at
//! the end. And what may be wrong with one that is no route.

use axum::Router;
use axum::extract::Request;
use http::Uri;
use tower::ServiceExt;

/// The address as the client sent it, attached where a prefix was taken off: signatures are made over it.
#[derive(Debug, Clone)]
pub struct SentUri(pub Uri);

/// Serves `router` below each of `prefixes` as well as without any, however its slashes are written.
pub fn at_any_spelling(router: Router, prefixes: Vec<String>) -> Router {
    let respell = move |mut request: Request| {
        let plain = with_single_slashes(request.uri());
        let uri = plain.as_ref().unwrap_or(request.uri());
        let below = prefixes
            .iter()
            .find_map(|prefix| without_prefix(uri, prefix));
        if let Some(uri) = below.or(plain) {
            let sent = std::mem::replace(request.uri_mut(), uri);
            // A host that has taken off a stage knows better what was sent.
            if request.extensions().get::<SentUri>().is_none() {
                request.extensions_mut().insert(SentUri(sent));
            }
        }
        request
    };
    Router::new().fallback_service(router.map_request(respell))
}

/// The URI with one slash for several and none at the end, where it is not so already.
fn with_single_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path.len() < 2 || !path.ends_with('/')) {
        return None;
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let plain: String = segments.flat_map(|segment| ["/", segment]).collect();
    with_path(uri, if plain.is_empty() { "/" } else { &plain })
}

/// The URI without `prefix`, where its path is or begins with that prefix as whole segments.
pub fn without_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix)?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    with_path(uri, if rest.is_empty() { "/" } else { rest })
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// A longer path is no misspelt one.
const LONGEST_ADVISED: usize = 120;

/// What may be wrong with a path that is none of `routes`. Names these and parts of them, never what was sent.
pub fn advice(path: &str, routes: &[&str]) -> Option<String> {
    if path.len() > LONGEST_ADVISED {
        return None;
    }
    let join = |parts: &[&str]| -> String { parts.iter().flat_map(|part| ["/", part]).collect() };
    let known = |path: &str| routes.iter().copied().find(|route| *route == path);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // A base address that ends in what the client adds.
    for size in 1..=parts.len() / 2 {
        for start in 0..=parts.len() - 2 * size {
            let (first, rest) = parts[start..].split_at(size);
            if first != &rest[..size] {
                continue;
            }
            if let Some(route) = known(&join(&[&parts[..start], rest].concat())) {
                let twice = join(first);
                return Some(format!(
                    "{twice} is in it twice, the route is {route}; clients add some of it to their base address themselves"
                ));
            }
        }
    }
    let inner = (1..parts.len()).find_map(|from| known(&join(&parts[from..])).zip(Some(from)));
    if let Some((route, from)) = inner {
        let ours = |part: &&str| {
            routes
                .iter()
                .any(|route| route.split('/').any(|p| p == *part))
        };
        return Some(if parts[..from].iter().all(ours) {
            let front = join(&parts[..from]);
            format!("clients add {route} themselves, give them the base address without {front}")
        } else {
            format!("but {route} is one; BASE_PATH takes off what stands in front of it")
        });
    }
    let spelt = join(&parts).to_lowercase();
    if ["/redoc", "/swagger", "/swagger-ui"].contains(&spelt.as_str()) {
        return Some("did you mean /docs?".into());
    }
    let near = routes.iter().map(|route| {
        let distance = strsim::osa_distance(&spelt, &route.to_lowercase());
        (distance, *route)
    });
    let (_, route) = near.filter(|(distance, _)| *distance <= 2).min()?;
    (route.len() > 3).then(|| format!("did you mean {route}?"))
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

    #[test]
    fn slashes_are_made_plain() {
        for (sent, plain) in [
            ("/rerank/", Some("/rerank")),
            ("//rerank", Some("/rerank")),
            ("/api//v1///rerank//?x=//", Some("/api/v1/rerank?x=//")),
            ("//", Some("/")),
            ("https://host//docs/", Some("https://host/docs")),
            ("/", None),
            ("/rerank", None),
            ("*", None),
        ] {
            let found = with_single_slashes(&sent.parse().expect("a URI"));
            let found = found.map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), plain, "{sent}");
        }
    }

    #[test]
    fn a_path_that_is_no_route_is_told_what_is_wrong() {
        let routes = [
            "/",
            "/docs",
            "/health",
            "/rerank",
            "/v1/rerank",
            "/v2/rerank",
            "/cohere/v1/rerank",
        ];
        for (path, says) in [
            (
                "/rerank/rerank",
                Some("/rerank is in it twice, the route is /rerank;"),
            ),
            (
                "/v1/v1/rerank",
                Some("/v1 is in it twice, the route is /v1/rerank;"),
            ),
            (
                "/v2/v2/rerank",
                Some("/v2 is in it twice, the route is /v2/rerank;"),
            ),
            ("/v1/rerank/v1/rerank", Some("/v1/rerank is in it twice")),
            (
                "/v1/rerank/rerank",
                Some("/rerank is in it twice, the route is /v1/rerank;"),
            ),
            (
                "/cohere/v1/v1/rerank",
                Some("the route is /cohere/v1/rerank;"),
            ),
            (
                "/v1/v2/rerank",
                Some("clients add /v2/rerank themselves, give them the base address without /v1"),
            ),
            ("/prod/v1/rerank", Some("but /v1/rerank is one; BASE_PATH")),
            ("/heath", Some("did you mean /health?")),
            ("/healthz", Some("did you mean /health?")),
            ("/Rerank", Some("did you mean /rerank?")),
            ("/v1/reranks", Some("did you mean /v1/rerank?")),
            ("/redoc", Some("did you mean /docs?")),
            ("/secret", None),
            ("/x", None),
            ("/", None),
        ] {
            let found = advice(path, &routes);
            match says {
                Some(says) => assert!(
                    found.as_deref().is_some_and(|found| found.contains(says)),
                    "{path}: {found:?}"
                ),
                None => assert_eq!(found, None, "{path}"),
            }
        }
        assert_eq!(advice(&"/rerank".repeat(1000), &routes), None);
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
