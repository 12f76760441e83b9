//! The OpenAPI document, and a page that shows it and tries it out. Everything the page loads is in the binary.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::App;
use super::error::Rejection;
use super::page::part;
use super::path::SentUri;

/// All addresses are relative, so that the page works below any stage or prefix.
const PAGE: &str = include_str!("docs/page.html");
const SCRIPT: &str = include_str!("docs/page.js");

/// An interactive page with every route.
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "docs", responses((status = 200, description = "The page", content_type = "text/html", body = String)))]
pub async fn page(sent: Option<Extension<SentUri>>) -> Response {
    // Below a slash its relative addresses would be others.
    if sent.is_some_and(|Extension(SentUri(uri))| uri.path().ends_with('/')) {
        return Redirect::permanent("../docs").into_response();
    }
    part("text/html; charset=utf-8", false, PAGE)
}

pub fn router(api: &OpenApi) -> Router<App> {
    let document = serde_json::to_string(api)
        .expect("the document is made of plain strings, lists and maps with string keys");
    // Shared by all answers, as what is not taken would otherwise be there once for each.
    let document = Bytes::from(document);
    Router::new()
        .route(
            "/openapi.json",
            get(move || async move { ([(CONTENT_TYPE, "application/json")], document.clone()) }),
        )
        .route("/docs/{file}", get(asset))
}

/// The page's own script, or a file of Swagger UI.
async fn asset(Path(file): Path<String>) -> Response {
    if file == "page.js" {
        return part("text/javascript; charset=utf-8", true, SCRIPT);
    }
    // Only what the page loads: the rest of the distribution, such as its sample page, points to another document.
    if ![
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "favicon-32x32.png",
    ]
    .contains(&file.as_str())
    {
        return Rejection::no_such_file().into_response();
    }
    match utoipa_swagger_ui::serve(&file, Arc::<Config<'static>>::default()) {
        Ok(Some(SwaggerFile {
            bytes: Cow::Borrowed(bytes),
            content_type,
            ..
        })) => part(&content_type, true, bytes),
        _ => Rejection::no_such_file().into_response(),
    }
}
