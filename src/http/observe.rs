//! Every request gets an id, a deadline and one line in the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};

use super::error::Code;
use super::{App, Deadline};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id under which a request is logged and answered: the host's, the caller's, or a new one.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// How much a request asked for, attached to the response by the handler that knows.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub pairs: usize,
    pub tokens: usize,
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
    let own = accepted + app.settings.timeout;
    let deadline = match request.extensions().get::<Deadline>() {
        Some(Deadline(hosts)) => own.min(*hosts),
        None => own,
    };
    request.extensions_mut().insert(Deadline(deadline));
    request.extensions_mut().insert(Accepted(accepted));

    let mut response = next.run(request).await;

    let status = response.status().as_u16();
    let ms = millis(accepted.elapsed());
    let Work { pairs, tokens } = response.extensions().get().copied().unwrap_or(Work {
        pairs: 0,
        tokens: 0,
    });
    let code = response.extensions().get().map_or("", |Code(code)| code);
    if status >= 500 {
        tracing::warn!(id, %method, route, status, ms, pairs, tokens, code, "request");
    } else {
        tracing::info!(id, %method, route, status, ms, pairs, tokens, code, "request");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
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
