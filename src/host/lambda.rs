//! AWS Lambda: API Gateway (REST and HTTP APIs), Function URLs, ALB, and whoever invokes the
//! function by itself, over the shared router.
//!
//! `runtime` takes events, `event` reads what they ask for, `reply` writes answers in their form.
//! Adds to each request what only the platform knows: the invocation's deadline and id.

mod event;
mod reply;
mod runtime;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceExt;

pub use runtime::{End, Invocation, Reply, Source};

use super::lenient::{Json, readable};
use crate::http::{Deadline, Rejection, RequestId};
use crate::telemetry::Traces;
use event::{Event, Form, Wish};
use runtime::Api;

/// Kept back from the invocation's time for sending the answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);
/// An HTTP API waits for thirty seconds; the rest is for its own work and the clocks' difference.
const GATEWAY_TIME: Duration = Duration::from_secs(29);
/// Lambda kills a function this long after SIGTERM, less a little.
const SHUTDOWN_TIME: Duration = Duration::from_millis(400);
/// For exporting an invocation's traces before its answer goes out, after which the process is
/// frozen. The answer's margin holds it.
const FLUSH_TIME: Duration = Duration::from_millis(150);
/// For the last traces, of the time that is left after SIGTERM.
const LAST_FLUSH_TIME: Duration = Duration::from_millis(50);

/// Takes events until the platform ends the process, or gives no more; why it did not.
///
/// With SnapStart, this is where the snapshot is taken, and `on_restore` is called when the process
/// goes on from it, before the first event. Nothing else of ours outlives the snapshot: each
/// deadline is taken from the wall clock when its event comes, and random numbers from the kernel,
/// which renews its own.
pub async fn serve(
    router: Router,
    traces: Traces,
    source: Source,
    on_restore: impl Fn() + Send + Sync + 'static,
) -> End {
    let api = Api::new(&source);
    if source.snapshot {
        tracing::info!("ready for the snapshot");
        if let Err(end) = api.restored().await {
            return end;
        }
        on_restore();
        tracing::info!("restored");
    }
    let handle = move |invocation| {
        let (router, traces) = (router.clone(), traces.clone());
        async move {
            let reply = answer(router, invocation).await;
            traces.flush(FLUSH_TIME).await;
            reply
        }
    };
    api.run(source.concurrency, handle).await
}

/// The answer to one event, whatever it is.
pub async fn answer(router: Router, invocation: Invocation) -> Reply {
    let Event {
        form,
        wish,
        gateway_since,
    } = Event::read(&invocation.event);
    match wish {
        Wish::Request(mut request) => {
            let now = SystemTime::now();
            let extensions = request.extensions_mut();
            let at = [
                invocation
                    .deadline_ms
                    .and_then(|ms| deadline(ms, ANSWER_MARGIN, now)),
                gateway_since.and_then(|ms| gateways_deadline(ms, now)),
            ];
            if let Some(at) = at.into_iter().flatten().min() {
                extensions.insert(Deadline(at));
            }
            extensions.insert(RequestId(invocation.id));
            // The platform's own word on the trace, which names the segment that the request's
            // header cannot know yet.
            if let Some(trace) = invocation.trace {
                request.headers_mut().insert("x-amzn-trace-id", trace);
            }
            reply::reply(form, routed(router, request).await).await
        }
        Wish::Refused(refusal) => refused(form, refusal, &invocation.id).await,
        Wish::Warm => {
            let mut ask = Request::new(Body::empty());
            *ask.uri_mut() = Uri::from_static("/health");
            ask.extensions_mut().insert(RequestId(invocation.id));
            let health = routed(router, ask).await;
            Reply::Answer(warm(health).await)
        }
        Wish::Foreign { kind, records } => {
            let refusal = Rejection::UnsupportedEvent { kind };
            match refused(form, refusal, &invocation.id).await {
                Reply::Answer(body) if !records.is_empty() => {
                    Reply::Answer(with_failures(&body, records))
                }
                reply => reply,
            }
        }
    }
}

async fn routed(router: Router, request: Request<Body>) -> Response<Body> {
    let Ok(response) = router.oneshot(request).await;
    response
}

/// An event that comes to no request is no failure of the function: alarms watch those, and anybody
/// may send anything.
async fn refused(form: Form, refusal: Rejection, id: &str) -> Reply {
    let response = reply::instead(refusal, None, HeaderValue::from_str(id).ok());
    let told = response.extensions().get::<crate::http::Told>();
    let code = told.and_then(|told| told.failure()).map(|(code, _)| code);
    tracing::warn!(id, code, "an event was refused");
    reply::reply(form, response).await
}

/// The answer to a ping: whether the model is there, from what `/health` says.
async fn warm(health: Response<Body>) -> Vec<u8> {
    let body = health.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = readable(&body);
    let health = Json::parse(&text).map(|health| health.select(&["status", "loaded"]));
    let loaded = health
        .as_ref()
        .and_then(|health| health.get("loaded"))
        .is_some_and(Json::is_true);
    let status = health.and_then(|health| health.text("status"));
    serde_json::json!({"warm": loaded, "status": status})
        .to_string()
        .into_bytes()
}

/// The refusal of a batch, with each of its records named as failed: its source keeps them, where
/// it is set up to be told.
fn with_failures(refusal: &[u8], records: Vec<String>) -> Vec<u8> {
    let mut answer: serde_json::Value = serde_json::from_slice(refusal).unwrap_or_default();
    let failures = records
        .into_iter()
        .map(|id| serde_json::json!({"itemIdentifier": id}));
    answer["batchItemFailures"] = failures.collect();
    answer.to_string().into_bytes()
}

/// From the platform's wall clock, in milliseconds since 1970, to ours. Some emulators state a
/// deadline that has long passed: such a one says nothing.
fn deadline(epoch_ms: u64, margin: Duration, now: SystemTime) -> Option<Instant> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(epoch_ms))?;
    let left = at.duration_since(now).ok()?;
    Instant::now().checked_add(left.saturating_sub(margin))
}

/// When a gateway that took a request at this time stops waiting. Counts a cold start, which the
/// invocation's own deadline does not. Events that were recorded long ago say nothing.
fn gateways_deadline(since_ms: u64, now: SystemTime) -> Option<Instant> {
    let now_ms = now.duration_since(UNIX_EPOCH).ok()?.as_millis();
    // No gateway takes a request later than now: its clock is ahead of ours.
    let since_ms = since_ms.min(u64::try_from(now_ms).ok()?);
    let gateway_ms = u64::try_from(GATEWAY_TIME.as_millis()).ok()?;
    deadline(since_ms.checked_add(gateway_ms)?, Duration::ZERO, now)
}

/// Calls `on_drain` on SIGTERM and ends the process once `idle` says that nothing is being
/// computed.
///
/// Lambda sends SIGTERM only to functions with an extension, so with `register` one that subscribes
/// to no event is registered. Where the platform refuses it, the function works all the same and is
/// ended without warning. A function that is restored from a snapshot does without: the extension's
/// connection would be one from before it.
pub async fn drain_on_sigterm(
    register: bool,
    on_drain: impl FnOnce() + Send + 'static,
    idle: impl Fn() -> bool + Send + 'static,
    traces: Traces,
) -> std::io::Result<()> {
    if register {
        register_extension().await;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        terminate.recv().await;
        on_drain();
        let give_up = Instant::now() + SHUTDOWN_TIME;
        while !idle() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = give_up.saturating_duration_since(Instant::now());
        traces.shutdown(left.max(LAST_FLUSH_TIME));
        tracing::info!(all_answered = idle(), "stopped");
        std::process::exit(0);
    });
    Ok(())
}

async fn register_extension() {
    let registered = lambda_extension::Extension::new()
        .with_events(&[])
        .with_extension_name("reranker-shutdown")
        .register()
        .await;
    match registered {
        Ok(extension) => drop(tokio::spawn(async move {
            if let Err(error) = extension.run().await {
                tracing::debug!(%error, "the shutdown extension ended");
            }
        })),
        Err(error) => tracing::debug!(%error, "no shutdown extension: SIGTERM may not come"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_says_nothing() {
        let now = SystemTime::now();
        let ms = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).expect("after 1970");
            u64::try_from(since.as_millis()).expect("fits")
        };
        assert_eq!(deadline(600_000, ANSWER_MARGIN, now), None);
        let in_ten = deadline(ms(now) + 10_000, ANSWER_MARGIN, now).expect("lies ahead");
        let left = in_ten.saturating_duration_since(Instant::now());
        assert!(left > Duration::from_secs(9) && left < Duration::from_millis(9_900));
    }

    #[test]
    fn a_gateways_time_counts_from_when_it_took_the_request() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_428_905);
        let left = |since_ms| {
            let at = gateways_deadline(since_ms, now)?;
            Some(
                at.saturating_duration_since(Instant::now())
                    .as_secs_f64()
                    .round(),
            )
        };
        let now_ms = 1_795_428_905_000;
        assert_eq!(left(now_ms), Some(29.0));
        assert_eq!(left(now_ms - 9_000), Some(20.0));
        // A clock that is ahead of ours, or tells nonsense.
        assert_eq!(left(now_ms + 50), Some(29.0));
        assert_eq!(left(u64::MAX), Some(29.0));
        // An event that was recorded.
        assert_eq!(left(now_ms - 30_000), None);
        assert_eq!(left(0), None);
        assert_eq!(
            gateways_deadline(now_ms, UNIX_EPOCH - Duration::from_secs(1)),
            None
        );
    }
}
