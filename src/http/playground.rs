//! The playground: one page with its style and script, all in the binary.
//!
//! Its parts are told apart by a query, not by a path: a page at `/prod` (a stage, without a slash behind it) would look for a relative
//! path outside the stage, but a relative query stays on the page's own address.

use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

const PAGE: &str = include_str!("playground/page.html");
const STYLE: &str = include_str!("playground/page.css");
const SCRIPT: &str = include_str!("playground/page.js");

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// `page.css` or `page.js`; the page itself where it is absent.
    file: Option<String>,
}

/// A page to try out rankings.
#[utoipa::path(get, path = "/", tag = "docs", params(Part), responses(
    (status = 200, description = "The page, or the part of it that is asked for", content_type = "text/html", body = String),
    (status = 404, description = "No such part"),
))]
pub async fn page(Query(Part { file }): Query<Part>) -> Response {
    // The page and its script must be of one version.
    const COMMON: [(HeaderName, &str); 3] = [
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    let (media_type, text) = match file.as_deref() {
        None => ("text/html; charset=utf-8", PAGE),
        Some("page.css") => ("text/css; charset=utf-8", STYLE),
        Some("page.js") => ("text/javascript; charset=utf-8", SCRIPT),
        Some(_) => return StatusCode::NOT_FOUND.into_response(),
    };
    (COMMON, [(CONTENT_TYPE, media_type)], text).into_response()
}
