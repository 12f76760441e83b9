//! The playground: one page with its style and script, all in the binary.
//!
//! Its parts are told apart by a query, not by a path: a page at `/prod` (a stage, without a slash behind it) would look for a relative
//! path outside the stage, but a relative query stays on the page's own address.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, Method, Uri};

use super::error::Refusal;

const PAGE: &str = include_str!("playground/page.html");
const STYLE: &str = include_str!("playground/page.css");
const SCRIPT: &str = include_str!("playground/page.js");

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page to try out rankings.
#[utoipa::path(get, path = "/", operation_id = "playground", tag = "docs",
    params(("file" = Option<String>, Query, description = "`page.css` or `page.js`; the page itself where it is absent")),
    responses(
        (status = 200, description = "The page, or the part of it that is asked for", content(
            (String = "text/html"), (String = "text/css"), (String = "text/javascript"))),
        (status = 404, description = "No such part", body = crate::dialect::native::ErrorBody),
    )
)]
pub async fn page(method: Method, uri: Uri) -> Response {
    // The page and its script must be of one version.
    const COMMON: [(HeaderName, &str); 3] = [
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    let mut parameters = uri.query().unwrap_or_default().split('&');
    let (media_type, text) = match parameters.find_map(|one| one.strip_prefix("file=")) {
        None => ("text/html; charset=utf-8", PAGE),
        Some("page.css") => ("text/css; charset=utf-8", STYLE),
        Some("page.js") => ("text/javascript; charset=utf-8", SCRIPT),
        Some(_) => return Refusal::no_such_file(method, &uri).into_response(),
    };
    (COMMON, [(CONTENT_TYPE, media_type)], text).into_response()
}
