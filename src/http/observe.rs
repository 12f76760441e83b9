//! Every request gets an id, a deadline, a span, one line in the log, and the body of its error where it fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use tracing::Instrument;

use super::error::Refusal;
use super::{App, Deadline};
use crate::dialect::Failure;

/// How long the caller waits for its answer, in milliseconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id under which a request is logged and answered: the host's, the caller's, or a new one.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// How much a request asked for and where its time went, attached to the response by the handler that knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
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
    let method = request.method().clone();
    // The pattern, not the path: a path may hold anything, and logs are counted by route.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let of_path = app.voices.find(&route, request.uri().path());
    let own = accepted + app.settings.timeout;
    let hosts = request.extensions().get::<Deadline>().map(|at| at.0);
    let asked = callers_timeout(&request);
    let deadline = [
        hosts,
        asked
            .as_ref()
            .ok()
            .copied()
            .flatten()
            .and_then(|t| accepted.checked_add(t)),
    ]
    .into_iter()
    .flatten()
    .fold(own, Instant::min);
    let extensions = request.extensions_mut();
    extensions.insert(Deadline(deadline));
    extensions.insert(Accepted(accepted));
    extensions.insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", id, %method, route);

    let mut response = match asked {
        Ok(_) => next.run(request).instrument(span).await,
        Err(refusal) => refusal.into_response(),
    };

    let voice = response.extensions().get().copied().unwrap_or(of_path);
    let failure = response.extensions_mut().remove::<Failure>();
    if let Some(failure) = &failure {
        voice.tell(failure, &mut response);
    }
    let status = response.status().as_u16();
    let ms = millis(accepted.elapsed());
    let work = response.extensions().get().copied().unwrap_or_default();
    let Work { pairs, tokens, .. } = work;
    let (dialect, code) = (voice.name, failure.map_or("", |failure| failure.code));
    if status >= 500 {
        tracing::warn!(id, %method, route, dialect, status, ms, pairs, tokens, code, "request");
    } else {
        tracing::info!(id, %method, route, dialect, status, ms, pairs, tokens, code, "request");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// How long the caller waits, where it says so.
fn callers_timeout(request: &Request) -> Result<Option<Duration>, Refusal> {
    let Some(value) = request.headers().get(REQUEST_TIMEOUT) else {
        return Ok(None);
    };
    let ms: Option<u64> = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match ms {
        Some(ms @ 1..) => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Refusal::Timeout),
    }
}

/// Milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
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
