//! The scoring routes: one handler for every dialect that has a path to itself, one that finds out whose body it is, and estimates.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use super::body::{self, Whole};
use super::observe::{Accepted, RequestId, Work, millis, unix_seconds};
use super::voice::Voice;
use super::{App, Deadline};
use crate::dialect::{
    About, Dialect, Fields, Shape, bedrock, common, mixedbread, native, pinecone, tei, vllm,
};
use crate::error::{Error, Invalid};
use crate::fault::{self, Place};
use crate::json;
use crate::rerank::{Estimate, Ranking, Selection};
use crate::service::Receipt;
use crate::telemetry::{Reranked, log_ms};

/// Where the time of a request went; on the first answer with a score, also where the time before it went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Pinecone's clients send it, and no others.
const PINECONE_VERSION: HeaderName = HeaderName::from_static("x-pinecone-api-version");

/// What `observe` attached to a request, and its body.
struct Opened {
    accepted: Accepted,
    deadline: Deadline,
    id: RequestId,
    of_pinecone: bool,
    /// The body's text.
    text: Bytes,
    _body: Whole,
}

impl Opened {
    async fn read(app: &App, request: Request) -> Result<Self, Response> {
        let extensions = request.extensions();
        let missing = || Error::Internal("a request came past `observe`".into()).into_response();
        let accepted = *extensions.get().ok_or_else(missing)?;
        let deadline = *extensions.get().ok_or_else(missing)?;
        let id = extensions.get().cloned().ok_or_else(missing)?;
        let of_pinecone = request.headers().contains_key(PINECONE_VERSION);
        let body = body::json(request, app.settings.body_bytes, &app.room)
            .await
            .map_err(IntoResponse::into_response)?;
        let text = match json::mended(&body.bytes) {
            Cow::Borrowed(text) => body.bytes.slice_ref(text),
            Cow::Owned(text) => text.into(),
        };
        Ok(Self {
            accepted,
            deadline,
            id,
            of_pinecone,
            text,
            _body: body,
        })
    }

    fn shape(&self) -> Result<Shape, Invalid> {
        json::parse::<Fields>(&self.text)?.shape(self.of_pinecone)
    }

    /// The domain's request of a body in dialect `D`.
    fn request<D: Dialect>(&self, app: &App) -> Result<(crate::rerank::Request, D::Kept), Invalid> {
        let body: D::Body = json::parse(&self.text)?;
        let (mut request, kept) = D::read(body, &app.settings.limits)?;
        request.deadline = Some(self.deadline.0);
        Ok((request, kept))
    }
}

/// Calls a function that is generic over the dialect, for the dialect of a shape.
macro_rules! with_dialect {
    ($shape:expr, $function:ident($($argument:expr),*)) => {
        match $shape {
            Shape::Native => $function::<native::One>($($argument),*).await,
            Shape::NativeBatch => $function::<native::Batch>($($argument),*).await,
            Shape::Tei => $function::<tei::Tei>($($argument),*).await,
            Shape::Bedrock => $function::<bedrock::Bedrock>($($argument),*).await,
            Shape::Pinecone => $function::<pinecone::Pinecone>($($argument),*).await,
            Shape::Common => $function::<common::Common>($($argument),*).await,
            Shape::Mixedbread => $function::<mixedbread::Mixedbread>($($argument),*).await,
            Shape::VllmScore => $function::<vllm::Score>($($argument),*).await,
        }
    };
}

/// Scores a body of one dialect.
pub async fn score<D: Dialect>(State(app): State<App>, request: Request) -> Response {
    match Opened::read(&app, request).await {
        Ok(opened) => scored::<D>(&app, &opened).await,
        Err(refusal) => refusal,
    }
}

/// Scores a body of whichever dialect it shows.
pub async fn any(State(app): State<App>, request: Request) -> Response {
    let opened = match Opened::read(&app, request).await {
        Ok(opened) => opened,
        Err(refusal) => return refusal,
    };
    match opened.shape() {
        Ok(shape) => with_dialect!(shape, scored(&app, &opened)),
        Err(invalid) => Error::from(invalid).into_response(),
    }
}

/// Tells what a body would cost, without scoring it.
pub async fn estimate(State(app): State<App>, request: Request) -> Response {
    let opened = match Opened::read(&app, request).await {
        Ok(opened) => opened,
        Err(refusal) => return refusal,
    };
    let estimate = match opened.shape() {
        Ok(shape) => with_dialect!(shape, estimated(&app, &opened)),
        Err(invalid) => Err(invalid.into()),
    };
    match estimate {
        Ok(estimate) => Json(Estimated::new(&app, &estimate)).into_response(),
        Err(error) => error.into_response(),
    }
}

/// The answer to a body of dialect `D`, or its refusal, marked as being `D`'s.
async fn scored<D: Dialect>(app: &App, opened: &Opened) -> Response {
    let mut response = match rank::<D>(app, opened).await {
        Ok((answer, work)) => match app.room.json(&answer) {
            Ok(mut response) => {
                tell_times(app, &work, &mut response);
                response.extensions_mut().insert(work);
                response
            }
            Err(refusal) => refusal.into_response(),
        },
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(Voice::of::<D>());
    response
}

async fn rank<D: Dialect>(app: &App, opened: &Opened) -> Result<(D::Answer, Work), Error> {
    let (request, kept) = opened.request::<D>(app)?;
    wait_for_model(app, opened).await;
    let (asked, top) = (request.pairs.clone(), request.top);
    let span = tracing::info_span!("rerank");
    let ranking = app.service.rerank(request).instrument(span.clone()).await?;
    let engine = app.service.engine()?;
    let info = engine.info();
    let about = About {
        model: info.name.clone(),
        revision: info.revision.clone(),
        id: opened.id.0.clone(),
        created: unix_seconds(),
        ms: millis(opened.accepted.0.elapsed()),
    };
    let best = Selection {
        top,
        min_score: None,
        normalize: false,
    };
    let query = asked.first().map(|pair| &*pair.query);
    let shared = asked.iter().all(|pair| Some(&*pair.query) == query);
    app.settings.telemetry.traces.record(
        &span,
        Reranked {
            model: &about.model,
            top_k: top,
            query: query.filter(|_| shared),
            inputs: asked.iter().map(|pair| &*pair.document),
            // Sorted only where it is told.
            outputs: std::iter::once_with(|| best.best_first(&ranking.scores))
                .flatten()
                .map(|ranked| (ranked.index, ranked.score.logit)),
        },
    );
    let text = asked.first().map_or("", |pair| &pair.document);
    fault::point(Place::Answer, [ranking.tokens()], text);
    let answer = D::answer(kept, &ranking, &about);
    Ok((answer, work(&ranking)))
}

async fn estimated<D: Dialect>(app: &App, opened: &Opened) -> Result<Estimate, Error> {
    let (request, _) = opened.request::<D>(app)?;
    wait_for_model(app, opened).await;
    app.service.estimate(request).await
}

async fn wait_for_model(app: &App, opened: &Opened) {
    if app.settings.wait_for_model {
        app.service.settled(Some(opened.deadline.0)).await;
    }
}

fn work(ranking: &Ranking) -> Work {
    Work {
        pairs: ranking.scores.len(),
        sequences: ranking.scores.iter().map(|score| score.chunks).sum(),
        tokens: ranking.tokens(),
        truncated: ranking.truncated(),
        cache_lookups: ranking.cache_lookups,
        cache_hits: ranking.cache_hits,
        tokenized: ranking.tokenized,
        queued: ranking.queued,
        computed: ranking.computed,
    }
}

/// What a request would cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct Estimated {
    pairs: usize,
    /// Forward passes' sequences: chunks and sentences counted, repetitions not. What the cache holds counts, as it is others' business.
    sequences: usize,
    /// As the answer's usage would have it.
    tokens: usize,
    /// Of the sequences.
    computed_tokens: usize,
    /// Pairs that would be cut.
    truncated: usize,
    /// Speed of this process, as measured on what it has computed; absent before that, as is what follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    /// Computing alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    compute_ms: Option<f64>,
    /// With the wait for requests that are here already.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_ms: Option<f64>,
    /// Memory that the platform bills, or that the process has in use, in GB of 2^30 bytes.
    memory_gb: f64,
    /// Of computing alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_seconds: Option<f64>,
}

impl Estimated {
    fn new(app: &App, estimate: &Estimate) -> Self {
        let bytes = app
            .settings
            .billed_bytes
            .unwrap_or_else(app.settings.resident_bytes);
        let memory_gb = bytes as f64 / f64::from(1 << 30);
        Self {
            pairs: estimate.pairs,
            sequences: estimate.sequences,
            tokens: estimate.tokens,
            computed_tokens: estimate.computed_tokens,
            truncated: estimate.truncated,
            tokens_per_second: estimate.tokens_per_second,
            compute_ms: estimate.compute.map(millis),
            predicted_ms: estimate.total.map(millis),
            memory_gb,
            gb_seconds: estimate.compute.map(|time| time.as_secs_f64() * memory_gb),
        }
    }
}

/// Where the request's time went, as the header that browsers and command line tools show; on the first answer also what the start took.
fn tell_times(app: &App, work: &Work, response: &mut Response) {
    let mut metrics = vec![
        format!("tokenize;dur={}", millis(work.tokenized)),
        format!("queue;dur={}", millis(work.queued)),
        format!("infer;dur={}", millis(work.computed)),
    ];
    if let Some(receipt) = app.service.first_receipt() {
        log_start(&receipt);
        metrics.extend(start_times(&receipt));
    }
    if let Ok(value) = HeaderValue::from_str(&metrics.join(", ")) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
}

/// The receipt of the start as a log line.
fn log_start(receipt: &Receipt) {
    let tenths = |number: f64| (number * 10.0).round() / 10.0;
    let Receipt {
        load,
        prefetch,
        first_inference,
    } = receipt;
    tracing::info!(
        process_ms = log_ms(load.process.time),
        download_ms = load.download.map(|it| log_ms(it.span.time)),
        download_bytes = load.download.map(|it| it.downloaded_bytes),
        download_mb_per_s = load.download.map(|it| tenths(it.mb_per_s)),
        download_check_ms = load.download.map(|it| log_ms(it.check)),
        tokenizer_ms = log_ms(load.tokenizer.time),
        weights_ms = log_ms(load.weights.time),
        prefetch_ms = log_ms(prefetch.span.time),
        prefetch_bytes = prefetch.bytes,
        prefetch_cached_bytes = prefetch.cached_bytes,
        prefetch_mb_per_s = tenths(prefetch.mb_per_s),
        prefetch_done = prefetch.done,
        ready_ms = log_ms(load.total),
        first_inference_ms = first_inference.map(|span| log_ms(span.time)),
        first_score_ms = receipt.first_score().map(log_ms),
        "cold start"
    );
}

/// The receipt of the start, in the header's terms. `total` is the time from the start of the process to the first score.
fn start_times(receipt: &Receipt) -> Vec<String> {
    let Receipt {
        load,
        prefetch,
        first_inference,
    } = receipt;
    let mut metrics = vec![format!("process;dur={}", millis(load.process.time))];
    metrics.extend(load.download.map(|download| {
        format!(
            "download;dur={};desc=\"{:.1} MB, {:.0} MB/s\"",
            millis(download.span.time + download.check),
            download.downloaded_bytes as f64 / 1e6,
            download.mb_per_s
        )
    }));
    metrics.extend([
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
    ]);
    metrics.extend(first_inference.map(|span| format!("inference;dur={}", millis(span.time))));
    metrics.extend(
        receipt
            .first_score()
            .map(|total| format!("total;dur={}", millis(total))),
    );
    metrics
}
