//! Lambda's events: any bytes are answered. The input is an event; after a zero byte may follow what the platform says of the trace.
#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use libfuzzer_sys::fuzz_target;
use reranker::host::lambda::{Invocation, Reply, answer};
use serde_json::Value;
use tokio::runtime::Runtime;

#[path = "../src/service.rs"]
mod service;

static SERVED: LazyLock<(Router, Runtime)> =
    LazyLock::new(|| (service::without_a_model(&[]), service::runtime()));

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|byte| *byte == 0);
    let (event, trace) = match cut {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let invocation = Invocation {
        event: event.to_vec().into(),
        id: "fuzzed".into(),
        deadline_ms: Some(now.map_or(0, |now| now.as_millis() as u64) + 60_000),
        trace: http::HeaderValue::from_bytes(trace).ok(),
    };
    let (router, runtime) = &*SERVED;
    match runtime.block_on(answer(router.clone(), invocation)) {
        Reply::Answer(body) => {
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            let status = answer.get("statusCode").and_then(Value::as_u64);
            let known = [200, 308, 400, 401, 404, 405, 413, 415, 422, 431, 503, 504];
            assert!(
                status.is_none_or(|status| known.contains(&status)),
                "{answer}"
            );
            if let Some(status) = status.filter(|status| *status >= 400) {
                let body = answer["body"].as_str().expect("an error is text");
                let error: Value = serde_json::from_str(body).expect("an error is JSON");
                assert!(error.is_object(), "{status} {error}");
            }
        }
        // Of whoever invoked, and of nobody else: it has no fault of ours.
        Reply::Error { kind, body } => {
            let error: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(error["errorType"], kind.as_str());
            assert!(error["errorMessage"].is_string());
            assert_ne!(kind, "Reranker.internal");
        }
    }
});
