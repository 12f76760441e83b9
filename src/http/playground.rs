//! The playground: one page with its style and script, all in the binary.
//!
//! Its parts are told apart by a query, not by a path: a page at `/prod` (a stage, without a slash behind it) would look for a relative
//! path outside the stage, but a relative query stays on the page's own address.

use axum::response::{IntoResponse, Response};
use http::Uri;

use super::error::Rejection;
use super::page;

const PAGE: &str = include_str!("playground/page.html");
const STYLE: &str = include_str!("playground/page.css");
const SCRIPT: &str = include_str!("playground/page.js");

/// A page to try out rankings.
#[utoipa::path(get, path = "/", operation_id = "playground", tag = "docs",
    params(("file" = Option<String>, Query, description = "`page.css` or `page.js`; the page itself where it is absent")),
    responses(
        (status = 200, description = "The page, or the part of it that is asked for", content(
            (String = "text/html"), (String = "text/css"), (String = "text/javascript"))),
        (status = 404, description = "No such part", body = reranker_dialects::native::ErrorBody),
    )
)]
pub async fn page(uri: Uri) -> Response {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    // The page and its script must be of one version, so neither is cached.
    match parameters.find_map(|one| one.strip_prefix("file=")) {
        None => page::part("text/html; charset=utf-8", false, PAGE),
        Some("page.css") => page::part("text/css; charset=utf-8", false, STYLE),
        Some("page.js") => page::part("text/javascript; charset=utf-8", false, SCRIPT),
        Some(_) => Rejection::no_such_file().into_response(),
    }
}
