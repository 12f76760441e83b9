//! The headers that name a caller's trace, against a reading of `traceparent` by its grammar. The input is `traceparent`, `tracestate`
//! and X-Ray's header, each on a line.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use reranker::telemetry::{Export, Traces};
use tracing_subscriber::layer::SubscriberExt;

static TRACES: LazyLock<Traces> = LazyLock::new(|| {
    // Nothing listens there: what is read from headers is seen without anything being sent.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let _guard = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    let traces = Traces::start(&export()).expect("starts");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    traces
});

fn export() -> Export {
    Export {
        endpoint: "http://127.0.0.1:9/v1/traces".into(),
        timeout: Duration::from_millis(10),
        certificate: None,
        content: false,
        span_attributes: 16,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in ["traceparent", "tracestate", "x-amzn-trace-id"] {
        if let Some(value) = lines.next().filter(|value| !value.is_empty())
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.insert(name, value);
        }
    }
    let span = tracing::info_span!(target: "reranker", "fuzzed");
    TRACES.join(&headers, &span);
    let found = TRACES.trace_id(&span);
    if let Some(id) = &found {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(id.bytes().any(|b| b != b'0'));
    }
    let header = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    if let (Some(expected), Some(found)) = (header.and_then(trace_of), found) {
        assert_eq!(found, expected);
    }
});

/// The trace that a `traceparent` of version 0 names, where it follows the grammar and is sampled.
fn trace_of(header: &str) -> Option<String> {
    let header = header.trim();
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let fits = header.len() == 55
        && header.bytes().enumerate().all(|(at, b)| match at {
            2 | 35 | 52 => b == b'-',
            _ => lower(b),
        });
    let (trace, span) = (header.get(3..35)?, header.get(36..52)?);
    let whole = fits && header.starts_with("00-") && header.ends_with("01");
    let named = |id: &str| id.bytes().any(|b| b != b'0');
    (whole && named(trace) && named(span)).then(|| trace.to_owned())
}
