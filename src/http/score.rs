//! The scoring routes: one handler for every dialect that has a path to itself, one that finds out whose body it is, and estimates.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use super::body::{self, ReadBody};
use super::error::{Failed, Rejection};
use super::error_format::ErrorFormat;
use super::observe::{Accepted, RequestId, Work, millis, unix_seconds};
use super::{App, Deadline};
use crate::fault::fault_point;
use crate::service::Scored;
use crate::telemetry::{Reranked, log_ms};
use reranker_dialects::{
    About, Dialect, Fields, Named, Names, Sender, Shape, bedrock, common, mixedbread, native,
    pinecone, tei, vllm,
};
use reranker_domain::{Code, Error, Estimate, Pair, Ranking, Refusal, Selection};
use reranker_engine::Receipt;
use reranker_json as json;

/// Where the time of a request went; on the first answer with a score, also where the time before it went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Pinecone's clients send it, and no others.
const PINECONE_VERSION: HeaderName = HeaderName::from_static("x-pinecone-api-version");
/// Fields of the body that nobody knows and that are nearly one of ours.
pub const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-ignored-fields");
/// Shared paths that text-embeddings-inference has too.
const OF_TEI: [&str; 3] = ["/rerank", "/invocations", "/estimate"];
/// A body up to this size is read in less time than it takes to hand it over.
const READ_AT_ONCE: usize = 64 << 10;

/// What `observe` attached to a request, and its body.
struct Opened {
    accepted: Accepted,
    deadline: Deadline,
    id: RequestId,
    sender: Sender,
    /// The body's text, and the fields that it has.
    text: Bytes,
    fields: Result<Fields, Refusal>,
    _body: ReadBody,
}

/// What a body in dialect `D` asks, and what is needed to answer it.
struct Asked<D: Dialect> {
    request: reranker_domain::Request,
    names: Names,
    context: D::Context,
}

impl Opened {
    async fn read(app: &App, request: Request) -> Result<Self, Response> {
        let extensions = request.extensions();
        let missing = || {
            Failed::from(Error::Internal("a request came past `observe`".into())).into_response()
        };
        let accepted = *extensions.get().ok_or_else(missing)?;
        let deadline = *extensions.get().ok_or_else(missing)?;
        let id = extensions.get().cloned().ok_or_else(missing)?;
        let path = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let sender = Sender {
            of_pinecone: request.headers().contains_key(PINECONE_VERSION),
            of_tei: path.is_some_and(|path| OF_TEI.contains(&path)),
        };
        let body = body::json(request, app.settings.body_bytes, &app.budget)
            .await
            .map_err(IntoResponse::into_response)?;
        let bytes = body.bytes.clone();
        let read = move || {
            let text = match json::mended(&bytes) {
                Cow::Borrowed(text) => bytes.slice_ref(text),
                Cow::Owned(text) => text.into(),
            };
            let fields = json::parse(&text);
            (text, fields)
        };
        let read = off_the_workers(body.bytes.len(), read).await;
        let (text, fields) = read.map_err(|error| Failed::from(error).into_response())?;
        Ok(Self {
            accepted,
            deadline,
            id,
            sender,
            text,
            fields,
            _body: body,
        })
    }

    fn shape(&self) -> Result<Shape, Refusal> {
        self.fields
            .as_ref()
            .map_err(Clone::clone)?
            .shape(self.sender)
    }

    /// A body in dialect `D`, read.
    async fn request<D: Dialect>(&self, app: &App) -> Result<Asked<D>, Failed> {
        let (text, limits) = (self.text.clone(), app.settings.limits);
        let read = move || {
            let body: D::Body = match json::parse(&text) {
                Ok(body) => body,
                Err(refusal) => return (Names::USUAL, Err(refusal)),
            };
            (body.names(), D::read(body, &limits))
        };
        let (names, read) = off_the_workers(self.text.len(), read).await?;
        let (mut request, context) = read.map_err(|refusal| Failed {
            error: self.with_hint(refusal, &names).into(),
            names,
        })?;
        request.deadline = Some(self.deadline.0);
        Ok(Asked {
            request,
            names,
            context,
        })
    }

    /// A field that is missing may be there by another name, or the body belong to another path.
    fn with_hint(&self, refusal: Refusal, names: &Names) -> Refusal {
        if let (Ok(fields), Code::MissingField, Some(field)) =
            (&self.fields, refusal.code, &refusal.field)
            && let Some(hint) = fields.hint(&names.name(field), self.sender)
        {
            return refusal.hint(&hint);
        }
        refusal
    }

    /// Says which fields were ignored though they are nearly ours.
    fn tell_ignored(&self, app: &App, response: &mut Response) {
        let Ok(fields) = &self.fields else { return };
        let ignored = fields.nearly(&app.fields);
        let ignored: Vec<String> = ignored
            .map(|(theirs, ours)| format!("{theirs} ({ours}?)"))
            .collect();
        // A name that no header can hold is none that is nearly ours.
        if let Ok(value) = HeaderValue::from_str(&ignored.join(", "))
            && !ignored.is_empty()
        {
            response.headers_mut().insert(IGNORED_FIELDS, value);
        }
    }
}

/// Reads a large body away from the threads that answer: they have to be free for other requests, probes and signals.
async fn off_the_workers<T: Send + 'static>(
    bytes: usize,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if bytes <= READ_AT_ONCE {
        return Ok(read());
    }
    // Fails only where reading panicked.
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Error::Internal("reading the body panicked".into()))
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
        Err(refusal) => Failed::from(refusal).into_response(),
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
        Err(refusal) => Err(refusal.into()),
    };
    let mut response = match estimate {
        Ok(estimate) => Json(Estimated::new(&app, &estimate)).into_response(),
        Err(failed) => failed.into_response(),
    };
    opened.tell_ignored(&app, &mut response);
    response
}

/// Scores a body that Amazon Bedrock's `InvokeModel` brings to one of its rerank models, which this server's stands for.
pub async fn invoke(state: State<App>, request: Request) -> Response {
    let model = request.uri().path().rsplit('/').nth(1);
    if model.is_some_and(|model| model.contains("rerank")) {
        score::<bedrock::InvokeModel>(state, request).await
    } else {
        Rejection::NoRerankModel.into_response()
    }
}

/// The answer to a body of dialect `D`, or its refusal, marked as being `D`'s.
async fn scored<D: Dialect>(app: &App, opened: &Opened) -> Response {
    let mut response = match rank::<D>(app, opened).await {
        Ok((answer, work)) => match app.budget.json(&answer) {
            Ok(mut response) => {
                tell_times(app, &work, &mut response);
                response.extensions_mut().insert(work);
                response
            }
            Err(refusal) => refusal.into_response(),
        },
        Err(failed) => failed.into_response(),
    };
    opened.tell_ignored(app, &mut response);
    response.extensions_mut().insert(ErrorFormat::of::<D>());
    response
}

async fn rank<D: Dialect>(app: &App, opened: &Opened) -> Result<(D::Answer, Work), Failed> {
    let Asked {
        request,
        names,
        context,
    } = opened.request::<D>(app).await?;
    wait_for_model(app, opened).await;
    let span = tracing::info_span!("rerank");
    let is_traced = app.settings.telemetry.traces.records(&span);
    let asked = is_traced.then(|| (request.pairs.clone(), request.top));
    let text = request.pairs.first().map(|pair| Arc::clone(&pair.document));
    let scored = app.service.rerank(request).instrument(span.clone()).await;
    let Scored { ranking, model } = scored.map_err(|error| Failed { error, names })?;
    let about = About {
        model: model.name.clone(),
        revision: model.revision.clone(),
        id: opened.id.0.clone(),
        created: unix_seconds(),
        ms: millis(opened.accepted.0.elapsed()),
    };
    if let Some((pairs, top)) = asked {
        trace(app, &span, &about.model, &pairs, top, &ranking);
    }
    fault_point!(
        Answer,
        [ranking.tokens()],
        text.as_deref().unwrap_or_default()
    );
    let answer = D::answer(context, &ranking, &about);
    Ok((answer, work(&ranking)))
}

/// Puts a ranking into its span.
fn trace(
    app: &App,
    span: &tracing::Span,
    model: &str,
    pairs: &[Pair],
    top: Option<usize>,
    ranking: &Ranking,
) {
    let best = Selection {
        top,
        min_score: None,
        normalize: false,
    };
    // As `Arc`s, which compare no text with itself.
    let query = pairs.first().map(|pair| &pair.query);
    let shared = pairs.iter().all(|pair| Some(&pair.query) == query);
    let outputs = best.best_first(&ranking.scores).into_iter();
    app.settings.telemetry.traces.record(
        span,
        Reranked {
            model,
            top_k: top,
            query: query.filter(|_| shared).map(|query| &**query),
            inputs: pairs.iter().map(|pair| &*pair.document),
            outputs: outputs.map(|ranked| (ranked.index, ranked.score.logit)),
        },
    );
}

async fn estimated<D: Dialect>(app: &App, opened: &Opened) -> Result<Estimate, Failed> {
    let Asked { request, names, .. } = opened.request::<D>(app).await?;
    wait_for_model(app, opened).await;
    let estimate = app.service.estimate(request).await;
    estimate.map_err(|error| Failed { error, names })
}

async fn wait_for_model(app: &App, opened: &Opened) {
    if app.settings.wait_for_model {
        app.service.settled(Some(opened.deadline.0)).await;
    }
}

fn work(ranking: &Ranking) -> Work {
    Work {
        documents: ranking.scores.len(),
        pairs: ranking.scores.iter().map(|score| score.chunks).sum(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_large_bodies_are_handed_to_other_threads() {
        let here = || std::thread::current().id();
        let thread = async |bytes| off_the_workers(bytes, here).await.ok();
        assert_eq!(thread(READ_AT_ONCE).await, Some(here()));
        assert_ne!(thread(READ_AT_ONCE + 1).await, Some(here()));
        let panicked = off_the_workers(READ_AT_ONCE + 1, || panic!("on purpose")).await;
        assert!(matches!(panicked, Err::<(), _>(Error::Internal(_))));
    }
}
