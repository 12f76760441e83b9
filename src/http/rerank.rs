//! The scoring routes.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{HeaderName, HeaderValue};

use super::body::Json;
use super::observe::{Accepted, Work, millis};
use super::{App, Deadline};
use crate::dialect::native::{BatchAnswer, BatchBody, ErrorBody, RerankAnswer, RerankBody, Shape};
use crate::error::{Error, Invalid};
use crate::rerank::{Limits, Ranking, Request};
use crate::service::Receipt;

/// On the first answer with a score: where the time before it went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Score one pair.
#[utoipa::path(
    post, path = "/rerank", tag = "rerank", request_body = RerankBody,
    responses(
        (status = 200, description = "The score", body = RerankAnswer),
        (status = 400, description = "Malformed JSON", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The content type is not JSON", body = ErrorBody),
        (status = 422, description = "A field is missing, wrong or over its limit", body = ErrorBody),
        (status = 429, description = "Too many requests wait; Retry-After says when to return", body = ErrorBody),
        (status = 500, description = "Internal error", body = ErrorBody),
        (status = 503, description = "Loading, shutting down, or no model", body = ErrorBody),
        (status = 504, description = "The deadline passed", body = ErrorBody),
    )
)]
pub async fn one(
    State(app): State<App>,
    context: Context,
    Json(body): Json<RerankBody>,
) -> Result<Response, Error> {
    let read = |limits: &Limits, deadline| body.into_request(limits, deadline);
    let (ranking, model, shape, pairs) = run(&app, &context, read).await?;
    let answer = shape
        .one(&ranking, &model, millis(context.0.0.0.elapsed()))
        .ok_or_else(|| Error::Internal("one pair did not get one score".into()))?;
    Ok(respond(&app, JsonAnswer(answer), pairs, &ranking))
}

/// Score many pairs; answered in input order.
#[utoipa::path(
    post, path = "/rerank/batch", tag = "rerank", request_body = BatchBody,
    responses(
        (status = 200, description = "The scores", body = BatchAnswer),
        (status = 400, description = "Malformed JSON", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The content type is not JSON", body = ErrorBody),
        (status = 422, description = "A field is missing, wrong or over its limit", body = ErrorBody),
        (status = 429, description = "Too many requests wait; Retry-After says when to return", body = ErrorBody),
        (status = 500, description = "Internal error", body = ErrorBody),
        (status = 503, description = "Loading, shutting down, or no model", body = ErrorBody),
        (status = 504, description = "The deadline passed", body = ErrorBody),
    )
)]
pub async fn batch(
    State(app): State<App>,
    context: Context,
    Json(body): Json<BatchBody>,
) -> Result<Response, Error> {
    let read = |limits: &Limits, deadline| body.into_request(limits, deadline);
    let (ranking, model, shape, pairs) = run(&app, &context, read).await?;
    let answer = shape.many(&ranking, &model, millis(context.0.0.0.elapsed()));
    Ok(respond(&app, JsonAnswer(answer), pairs, &ranking))
}

/// When the request came and when it must be answered, both attached by `observe`.
type Context = (Extension<Accepted>, Extension<Deadline>);

/// From a body to its ranking: the part that is the same for every body.
async fn run(
    app: &App,
    (_, Extension(Deadline(deadline))): &Context,
    read: impl FnOnce(&Limits, Option<std::time::Instant>) -> Result<(Request, Shape), Invalid>,
) -> Result<(Ranking, String, Shape, usize), Error> {
    let (request, shape) = read(&app.settings.limits, Some(*deadline))?;
    let pairs = request.pairs.len();
    if app.settings.wait_for_model {
        app.service.settled(Some(*deadline)).await;
    }
    let ranking = app.service.rerank(request).await?;
    let model = app.service.engine()?.info().name.clone();
    Ok((ranking, model, shape, pairs))
}

fn respond(app: &App, answer: impl IntoResponse, pairs: usize, ranking: &Ranking) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(Work {
        pairs,
        tokens: ranking.tokens(),
    });
    if let Some(receipt) = app.service.first_receipt() {
        log_start(&receipt);
        if let Ok(value) = HeaderValue::from_str(&server_timing(&receipt)) {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
    }
    response
}

/// The receipt of the start as a log line.
fn log_start(receipt: &Receipt) {
    let Receipt {
        load,
        prefetch,
        first_inference,
    } = receipt;
    tracing::info!(
        process_ms = millis(load.process.time),
        tokenizer_ms = millis(load.tokenizer.time),
        weights_ms = millis(load.weights.time),
        prefetch_ms = millis(prefetch.span.time),
        prefetch_bytes = prefetch.bytes,
        prefetch_cached_bytes = prefetch.cached_bytes,
        prefetch_mb_per_s = prefetch.mb_per_s,
        prefetch_done = prefetch.done,
        ready_ms = millis(load.total),
        first_inference_ms = first_inference.map(|span| millis(span.time)),
        first_score_ms = receipt.first_score().map(millis),
        "cold start"
    );
}

/// The receipt of the start as the header that browsers and command line tools show. `total` is the time from the start of the
/// process to the first score.
fn server_timing(receipt: &Receipt) -> String {
    let Receipt {
        load,
        prefetch,
        first_inference,
    } = receipt;
    let mut metrics = vec![
        format!("process;dur={}", millis(load.process.time)),
        format!("tokenizer;dur={}", millis(load.tokenizer.time)),
        format!("weights;dur={}", millis(load.weights.time)),
        format!(
            "prefetch;dur={};desc=\"{:.1} MB, {:.0} MB/s, {:.1} MB were there\"",
            millis(prefetch.span.time),
            prefetch.bytes as f64 / 1e6,
            prefetch.mb_per_s,
            prefetch.cached_bytes as f64 / 1e6
        ),
        format!("ready;dur={}", millis(load.total)),
    ];
    metrics.extend(first_inference.map(|span| format!("inference;dur={}", millis(span.time))));
    metrics.extend(
        receipt
            .first_score()
            .map(|total| format!("total;dur={}", millis(total))),
    );
    metrics.join(", ")
}
