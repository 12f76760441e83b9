//! Every request gets an id, a deadline, a span, one line in the log, and the body of its error where it fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method};
use tracing::{Instrument, Span};

use super::auth::Caller;
use super::error::{Cause, Rejection};
use super::{App, Deadline, Telemetry};
use crate::telemetry::{Outcome, log_ms};
use reranker_domain::Code;

/// What is noted as the status of a request whose client has gone; nobody is answered with it.
const CLIENT_GONE: u16 = 499;
/// How long the caller waits for its answer, in milliseconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// On every answer while a demo model is served, so that nobody takes its scores for a real model's.
pub const DEMO: HeaderName = HeaderName::from_static("x-reranker-demo");

/// The id under which a request is logged and answered: the host's, the caller's, or a new one.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// How much a request asked for and where its time went, attached to the response by the handler that knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    pub documents: usize,
    /// Pairs as they were scored: a document in chunks is several.
    pub pairs: usize,
    pub tokens: usize,
    /// Pairs that were cut.
    pub truncated: usize,
    pub cache_lookups: usize,
    pub cache_hits: usize,
    pub tokenized: Duration,
    pub queued: Duration,
    pub computed: Duration,
}

/// When the request came in, for handlers that report how long it took.
#[derive(Debug, Clone, Copy)]
pub struct Accepted(pub Instant);

pub async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let accepted = Instant::now();
    let id = request_id(&request);
    let method = known(request.method());
    // The pattern, not the path: a path may hold anything, and logs are counted by route.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let of_path = app.error_formats.find(&route, request.uri().path());
    let own = accepted + app.settings.timeout;
    let hosts = request.extensions().get::<Deadline>().map(|at| at.0);
    // What is wrong with it is told by `auth`, once it is known that the caller may ask at all.
    let asked = callers_timeout(&request).ok().flatten();
    let deadline = [hosts, asked.and_then(|t| accepted.checked_add(t))]
        .into_iter()
        .flatten()
        .fold(own, Instant::min);
    let extensions = request.extensions_mut();
    extensions.insert(Deadline(deadline));
    extensions.insert(Accepted(accepted));
    extensions.insert(RequestId(id.clone()));
    let caller = Caller::default();
    extensions.insert(caller.clone());
    let span = app
        .settings
        .telemetry
        .traces
        .request(&method, &route, request.headers());
    let mut watch = Watch {
        telemetry: app.settings.telemetry.clone(),
        accepted,
        span: span.clone(),
        caller,
        outcome: Outcome {
            request_id: id.clone(),
            method,
            route,
            dialect: of_path.name,
            status: CLIENT_GONE,
            code: "client_gone",
            ..Outcome::default()
        },
    };

    // No well-meaning client sends two, and servers differ in which of them they believe.
    let mut response = if request.headers().get_all(HOST).iter().count() > 1 {
        Rejection::TwoHosts.into_response()
    } else {
        next.run(request).instrument(span.clone()).await
    };

    let error_format = response.extensions().get().copied().unwrap_or(of_path);
    let failure = error_format.tell(&mut response);
    if let Some(Cause(cause)) = response.extensions_mut().remove() {
        tracing::error!(id, cause, "request failed");
    }
    let work = response.extensions_mut().remove::<Work>();
    let scored = work.is_some();
    let work = work.unwrap_or_default();
    let code = failure.as_ref().map(|failure| failure.refusal.code);
    let of_client = scored || failure.is_some();
    watch.outcome = Outcome {
        // A page or a probe is in nobody's dialect.
        dialect: if of_client { error_format.name } else { "" },
        status: response.status().as_u16(),
        code: code.map_or("", Code::name),
        documents: work.documents,
        pairs: work.pairs,
        tokens: work.tokens,
        truncated: work.truncated,
        cache_hits: work.cache_hits,
        cache_misses: work.cache_lookups - work.cache_hits,
        past_deadline: code.is_some_and(is_of_deadline),
        queued: scored.then_some(work.queued),
        tokenized: scored.then_some(work.tokenized),
        inferred: scored.then_some(work.computed),
        ..watch.outcome.clone()
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if app.service.engine().is_ok_and(|engine| engine.info().demo) {
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert(DEMO, value);
    }
    response
}

/// Tells of a request when it ends: what became of it, or that its client went before it was answered, which drops everything that
/// works for it.
struct Watch {
    telemetry: Telemetry,
    accepted: Instant,
    span: Span,
    caller: Caller,
    outcome: Outcome,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Telemetry {
            traces,
            metrics,
            emf,
            ..
        } = &self.telemetry;
        self.outcome.total = self.accepted.elapsed();
        self.outcome.key_name = self.caller.name().cloned();
        log(&self.outcome, traces.trace_id(&self.span));
        traces.answered(&self.span, &self.outcome);
        metrics.record(&self.outcome);
        if let Some(emf) = emf {
            emf.write(&self.outcome);
        }
    }
}

/// A method may be any word: those that nobody knows go by one name, as logs and traces are counted by it.
fn known(method: &Method) -> Method {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::CONNECT,
        Method::PATCH,
        Method::TRACE,
    ];
    if KNOWN.contains(method) {
        return method.clone();
    }
    Method::from_bytes(b"_OTHER").unwrap_or_default()
}

/// The request's one line.
fn log(outcome: &Outcome, trace_id: Option<String>) {
    let Outcome {
        request_id: id,
        method,
        route,
        dialect,
        key_name,
        status,
        code,
        documents,
        pairs,
        tokens,
        total,
        ..
    } = outcome;
    // What there is nothing to say of is left out.
    let [dialect, code] = [dialect, code].map(|text| Some(*text).filter(|text| !text.is_empty()));
    let (key_name, ms) = (key_name.as_deref(), log_ms(*total));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(id, %method, route, dialect, key_name, status, ms, documents, pairs, tokens, code, trace_id, "request")
        };
    }
    if *status >= 500 {
        line!(warn);
    } else {
        line!(info);
    }
}

/// Whether a request had too little time, alone or among others.
fn is_of_deadline(code: Code) -> bool {
    matches!(
        code,
        Code::DeadlineExceeded | Code::DeadlineUnreachable | Code::DeadlineCrowded
    )
}

/// How long the caller waits, where it says so.
pub fn callers_timeout(request: &Request) -> Result<Option<Duration>, Rejection> {
    let Some(value) = request.headers().get(REQUEST_TIMEOUT) else {
        return Ok(None);
    };
    let ms: Option<u64> = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match ms {
        Some(ms @ 1..) => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Rejection::Timeout),
    }
}

/// Milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// By the wall clock, since 1970.
pub fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn request_id(request: &Request) -> String {
    if let Some(RequestId(id)) = request.extensions().get() {
        return id.clone();
    }
    // A caller's id goes into our log, so it may hold only what ids are made of.
    let given = request.headers().get(REQUEST_ID);
    if let Some(id) = given.and_then(|value| value.to_str().ok())
        && (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:=".contains(&b))
    {
        return id.to_owned();
    }
    new_id()
}

/// The time, so that ids sort by it, and a number from the kernel, which no copy of this process can share.
fn new_id() -> String {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let mut random = [0; 8];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    if filled.is_err() {
        // A kernel that has none is none that we know; then the ids of one process still differ.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        random = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    }
    format!("{nanos:016x}-{:016x}", u64::from_be_bytes(random))
}
