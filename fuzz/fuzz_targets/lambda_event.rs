//! Lambda's events, through lambda_http's reading of them and our conversion to a request. The input is an event; after a zero byte
//! may follow what the platform says of the trace.
#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use http_body_util::BodyExt;
use lambda_http::{Context, RequestExt};
use libfuzzer_sys::{Corpus, fuzz_target};
use reranker::host::lambda::answer;
use serde_json::Value;
use tokio::runtime::Runtime;

#[path = "../src/service.rs"]
mod service;

/// lambda_http itself panics on some events: on a body that is said to be base64 and is not, and on a host that is none. Its runtime
/// answers them as errors of the function and lives on, as `tests/lambda.rs` shows. Any other panic ends the fuzzer.
fn allow_theirs() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("", |location| location.file());
        let theirs = ["/lambda_http-", "/aws_lambda_events-"];
        if !theirs.iter().any(|name| place.contains(name)) {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
}

static SERVED: LazyLock<(Router, Runtime)> =
    LazyLock::new(|| (service::without_a_model(&[]), service::runtime()));

fuzz_target!(init: allow_theirs(), |data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let (event, trace) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(Ok(event)) = std::panic::catch_unwind(|| lambda_http::request::from_str(event)) else {
        return Corpus::Keep;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut context = Context::default();
    context.request_id = "fuzzed".into();
    context.xray_trace_id = Some(trace.to_owned());
    context.deadline = now.map_or(0, |now| now.as_millis() as u64) + 60_000;
    let event = event.with_lambda_context(context);
    let (router, runtime) = &*SERVED;
    runtime.block_on(async {
        let response = answer(router.clone(), event).await;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let known = [200, 400, 404, 405, 413, 415, 422, 503, 504];
        assert!(known.contains(&status), "{status}");
        let body = response.into_body().collect().await;
        let body = body.expect("a whole body").to_bytes();
        let json = headers.get("content-type").is_some_and(|name| name == "application/json");
        if json && !body.is_empty() {
            serde_json::from_slice::<Value>(&body).expect("JSON");
        }
    });
    Corpus::Keep
});
