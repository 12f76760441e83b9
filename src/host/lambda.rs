//! AWS Lambda: API Gateway (REST and HTTP APIs), Function URLs and ALB, by lambda_http's event loop over the shared router.
//!
//! Adds to each request what only the platform knows: the invocation's deadline and id; takes the stage off the path.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response, Uri};
use http_body_util::{BodyExt, Full};
use lambda_http::request::RequestContext;
use lambda_http::{BoxFuture, Request, RequestExt, SnapStartResource};
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceExt;

use crate::http::{Deadline, RequestId, SentUri, without_prefix};
use crate::telemetry::Traces;

/// Kept back from the invocation's time for sending the answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);
/// Lambda kills a function this long after SIGTERM, less a little.
const SHUTDOWN_TIME: Duration = Duration::from_millis(400);
/// For exporting an invocation's traces before its answer goes out, after which the process is frozen. The answer's margin holds it.
const FLUSH_TIME: Duration = Duration::from_millis(150);
/// For the last traces, of the time that is left after SIGTERM.
const LAST_FLUSH_TIME: Duration = Duration::from_millis(50);

/// Polls for events until the platform ends the process. With `AWS_LAMBDA_MAX_CONCURRENCY`, several at a time.
///
/// With SnapStart, this is where the snapshot is taken, and `on_restore` is called when the process goes on from it, before the
/// first event. lambda_runtime itself renews its connections then. Nothing else of ours outlives the snapshot: each deadline is
/// taken from the wall clock when its event comes, and random numbers from the kernel, which renews its own.
pub async fn serve(
    router: Router,
    traces: Traces,
    on_restore: impl Fn() + Send + Sync + 'static,
) -> Result<(), lambda_http::Error> {
    let handler = tower::service_fn(move |event: Request| {
        let (router, traces) = (router.clone(), traces.clone());
        async move {
            let answer = answer(router, event).await;
            traces.flush(FLUSH_TIME).await;
            Ok::<_, Infallible>(answer)
        }
    });
    lambda_http::runtime_concurrent(handler)
        .register_snapstart_resource(Arc::new(Snapshot(on_restore)))
        .run_concurrent()
        .await
}

/// What happens around a snapshot.
struct Snapshot<F>(F);

impl<F: Fn() + Send + Sync> SnapStartResource for Snapshot<F> {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), lambda_http::Error>> {
        Box::pin(async {
            tracing::info!("ready for the snapshot");
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), lambda_http::Error>> {
        Box::pin(async {
            (self.0)();
            tracing::info!("restored");
            Ok(())
        })
    }
}

/// The answer to one event, which is an HTTP request to the router.
pub async fn answer(router: Router, event: Request) -> Response<Full<Bytes>> {
    let context = event.lambda_context_ref().cloned();
    let path = own_path(&event);
    let length = event.body().len();
    let mut request = event.map(|body| match body {
        lambda_http::Body::Text(text) => Body::from(text),
        lambda_http::Body::Binary(bytes) => Body::from(bytes),
        _ => Body::empty(),
    });
    // REST APIs leave the header out, and what a client announced need not hold for what the event carries.
    if length > 0 {
        request
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(path) = path {
        let sent = std::mem::replace(request.uri_mut(), path);
        request.extensions_mut().insert(SentUri(sent));
    }
    if let Some(context) = context {
        if let Some(deadline) = deadline(context.deadline, SystemTime::now()) {
            request.extensions_mut().insert(Deadline(deadline));
        }
        // The platform's own word on the trace, which names the segment that the request's header cannot know yet.
        if let Some(trace) = context.xray_trace_id
            && let Ok(trace) = HeaderValue::from_str(&trace)
        {
            request.headers_mut().insert("x-amzn-trace-id", trace);
        }
        if !context.request_id.is_empty() {
            request
                .extensions_mut()
                .insert(RequestId(context.request_id));
        }
    }
    let Ok(response) = router.oneshot(request).await;
    let (head, body) = response.into_parts();
    // Every answer is whole in memory already; the event loop wants a body that threads can share.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::error!(%error, "an answer's body broke off");
            let mut response = Response::new(Full::default());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
    };
    Response::from_parts(head, Full::new(body))
}

/// The address without the stage, where there is one in front of it.
fn own_path(event: &Request) -> Option<Uri> {
    let (stage, in_raw_path) = match event.request_context_ref()? {
        RequestContext::ApiGatewayV1(context) => (context.stage.as_deref(), false),
        RequestContext::ApiGatewayV2(context) => (context.stage.as_deref(), true),
        _ => return None,
    };
    let stage = stage.filter(|stage| *stage != "$default" && !stage.is_empty())?;
    let prefix = format!("/{stage}");
    // lambda_http puts the stage in front of every path that does not begin with `/stage/`.
    let path = without_prefix(event.uri(), &prefix)?;
    // An HTTP API's path has it from the start; where nothing follows it, it now stands there twice.
    if in_raw_path && event.raw_http_path() == prefix {
        without_prefix(&path, &prefix)
    } else {
        Some(path)
    }
}

/// From the platform's wall clock, in milliseconds since 1970, to ours. Some emulators state a deadline that has long passed:
/// such a one says nothing.
fn deadline(epoch_ms: u64, now: SystemTime) -> Option<Instant> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(epoch_ms))?;
    let left = at.duration_since(now).ok()?;
    Instant::now().checked_add(left.saturating_sub(ANSWER_MARGIN))
}

/// Calls `on_drain` on SIGTERM and ends the process once `idle` says that nothing is being computed.
///
/// Lambda sends SIGTERM only to functions with an extension, so with `register` one that subscribes to no event is registered.
/// Where the platform refuses it, the function works all the same and is ended without warning. A function that is restored
/// from a snapshot does without: the extension's connection would be one from before it.
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
        assert_eq!(deadline(600_000, now), None);
        let in_ten = deadline(ms(now) + 10_000, now).expect("lies ahead");
        let left = in_ten.saturating_duration_since(Instant::now());
        assert!(left > Duration::from_secs(9) && left < Duration::from_millis(9_900));
    }
}
