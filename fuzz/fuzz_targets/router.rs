//! Whole requests through the router of every host: any method, path, headers and body get an answer that is none of our faults, in
//! JSON where it is an error, and nothing that needs a key is answered without one.
//!
//! The input is a request as it is written in HTTP/1: a first line, headers, an empty line, a body. In headers `@time@` and `@day@`
//! stand for now, as signatures have it.
#![no_main]

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

#[path = "../src/service.rs"]
mod service;

const KEY: &str = "no fuzzer will guess this one, which is long";

struct Served {
    open: Router,
    locked: Router,
    runtime: Runtime,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| Served {
    open: service::without_a_model(&[]),
    locked: service::without_a_model(&[KEY]),
    runtime: service::runtime(),
});

fuzz_target!(|data: &[u8]| -> Corpus {
    if read(data).is_none() {
        return Corpus::Reject;
    }
    for (router, locked) in [(&SERVED.open, false), (&SERVED.locked, true)] {
        let request = read(data).expect("it was read before");
        let route = request.uri().path().to_owned();
        let method = request.method().clone();
        SERVED.runtime.block_on(async {
            let Ok(response) = router.clone().oneshot(request).await;
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            judge(&method, &route, head.status, &head.headers, &body, locked);
        });
    }
    Corpus::Keep
});

fn read(data: &[u8]) -> Option<Request<Body>> {
    let mut parts = data.splitn(2, |&byte| byte == b'\n');
    let mut first = parts.next()?.splitn(2, |&byte| byte == b' ');
    let method = Method::from_bytes(first.next()?).ok()?;
    let uri: Uri = Uri::try_from(first.next()?).ok()?;
    let mut rest = parts.next()?;
    let mut headers = HeaderMap::new();
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = line[colon + 1..].trim_ascii();
        headers.append(name, now(value)?);
    }
    let mut request = Request::new(Body::from(rest.to_vec()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Some(request)
}

fn now(value: &[u8]) -> Option<HeaderValue> {
    if !value.contains(&b'@') {
        return HeaderValue::from_bytes(value).ok();
    }
    let text = std::str::from_utf8(value).ok()?;
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?
        .as_secs();
    let (day, time) = calendar(seconds);
    let text = text.replace("@time@", &time).replace("@day@", &day);
    HeaderValue::from_str(&text).ok()
}

/// A day and a time in the form that signatures have, from seconds since 1970 (Howard Hinnant's days-to-civil).
fn calendar(seconds: u64) -> (String, String) {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let moon = (5 * of_year + 2) / 153;
    let day = of_year - (153 * moon + 2) / 5 + 1;
    let month = if moon < 10 { moon + 3 } else { moon - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let day = format!("{year:04}{month:02}{day:02}");
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let time = format!("{day}T{hour:02}{minute:02}{second:02}Z");
    (day, time)
}

fn judge(
    method: &Method,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    locked: bool,
) {
    let known = [
        200, 308, 400, 401, 404, 405, 408, 413, 415, 422, 429, 503, 504,
    ];
    assert!(
        known.contains(&status.as_u16()),
        "{method} {path}: {status}"
    );
    let preflight = *method == Method::OPTIONS && status == StatusCode::OK;
    let id = headers.get("x-request-id");
    assert!(preflight || id.is_some_and(|id| !id.is_empty()));
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = content_type.is_some_and(|name| name.starts_with(b"application/json"));
    if is_json && *method != Method::HEAD {
        serde_json::from_slice::<Value>(body).expect("JSON");
    }
    if status.is_client_error() || status.is_server_error() {
        assert!(
            is_json || *method == Method::HEAD,
            "{method} {path}: {status}"
        );
    }
    // Without the key only probes and pages answer. That the model is not there yet is for those who may ask.
    if locked {
        let mut own: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if own.first() == Some(&"api") {
            own.remove(0);
        }
        let is_open = match own[..] {
            [] | ["docs", _] => true,
            [page] => ["health", "live", "ready", "ping", "docs", "openapi.json"].contains(&page),
            _ => false,
        };
        assert!(
            is_open || preflight || [401, 405, 408, 413, 400].contains(&status.as_u16()),
            "{method} {path} without a key: {status}"
        );
    }
}
