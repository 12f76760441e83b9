//! Azure Functions: triggers that the host passes on as `{"Data": …, "Metadata": …}` instead of as
//! HTTP.
//!
//! Timers and the warm-up of a new instance come so, and HTTP requests where `host.json` forwards
//! none. Whatever begins like that is read whole and answered in the host's form; everything else
//! goes on as it came.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::lenient::{Fields, Json, readable};
use crate::http::Rejection;

/// Enough of a body to tell what it is.
const BEGINNING: usize = 64;
/// Triggers that are read at a time: their bytes are counted by nobody else.
const AT_A_TIME: usize = 2;
/// What a trigger may have beside a request's body, which is a string in it: twice as long where
/// each letter is escaped.
const ENVELOPE_BYTES: usize = 64 << 10;

/// `router`, behind a reader of triggers whose requests have up to `body_bytes` and `timeout`.
pub fn triggers(router: Router, body_bytes: usize, timeout: Duration) -> Router {
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let limit = body_bytes.saturating_mul(2).saturating_add(ENVELOPE_BYTES);
    let service = tower::service_fn(move |request: Request| {
        let (router, turns) = (router.clone(), Arc::clone(&turns));
        async move {
            if request.method() != Method::POST {
                return router.oneshot(request).await;
            }
            let (head, mut body) = request.into_parts();
            let mut begun = BytesMut::new();
            // A body that comes too slowly is the router's to refuse.
            let _ = tokio::time::timeout(timeout, begin(&mut body, &mut begun)).await;
            if !begins_trigger(&begun) {
                let body = Body::new(Begun {
                    first: Some(begun.freeze()).filter(|first| !first.is_empty()),
                    rest: body,
                });
                return router.oneshot(Request::from_parts(head, body)).await;
            }
            let read = async {
                let turn = turns.acquire().await;
                let whole = rest(body, begun, limit).await;
                (turn, whole)
            };
            Ok(match tokio::time::timeout(timeout, read).await {
                Ok((_turn, Ok(trigger))) => answer(router, &trigger).await,
                Ok((_, Err(refusal))) => refusal.by_host(None),
                Err(_) => Rejection::BodyTooSlow.by_host(None),
            })
        }
    });
    Router::new().fallback_service(service)
}

async fn begin(body: &mut Body, begun: &mut BytesMut) {
    while begun.len() < BEGINNING {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    begun.extend_from_slice(&data);
                }
            }
            // What breaks off here is read on by nobody: it ends, and is found not to be whole.
            Some(Err(_)) | None => return,
        }
    }
}

fn begins_trigger(begun: &[u8]) -> bool {
    let begun = begun.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begun);
    let Some(first) = begun.trim_ascii_start().strip_prefix(b"{") else {
        return false;
    };
    let first = first.trim_ascii_start();
    first.starts_with(b"\"Data\"") || first.starts_with(b"\"Metadata\"")
}

async fn rest(mut body: Body, mut begun: BytesMut, limit: usize) -> Result<Bytes, Rejection> {
    loop {
        if begun.len() > limit {
            return Err(Rejection::BodyTooLarge { got: None, limit });
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    begun.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => return Err(Rejection::BodyUnreadable),
            None => return Ok(begun.freeze()),
        }
    }
}

/// A body of which the beginning has been read.
struct Begun {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// The answer to a trigger, in the host's form.
async fn answer(router: Router, trigger: &[u8]) -> Response {
    let text = readable(trigger);
    let Some(json) = Json::parse(&text) else {
        return Rejection::MalformedEvent {
            field: None,
            problem: "the trigger is no JSON",
        }
        .by_host(None);
    };
    let mut request = None;
    let mut foreign = false;
    if let Some(data) = json.select(&["Data"]).get("Data") {
        data.members(|_, value| {
            // Some hosts send what a trigger holds as JSON in a string.
            if let Some(text) = value.text() {
                foreign |= !text.is_empty() && !Json::parse(&text).is_some_and(is_sign_of_life);
                return;
            }
            let http = value.select(&["Url", "Method", "Headers", "Body"]);
            if http.has("Url") && http.has("Method") {
                request = Some(http);
            } else {
                foreign |= !is_sign_of_life(value);
            }
        });
    }
    match request {
        Some(http) => match requested(&http) {
            Ok(request) => done(output(routed(router, request).await).await),
            Err(refusal) => refusal.by_host(None),
        },
        // A message that is answered with success is gone from its queue.
        None if foreign => Rejection::UnsupportedEvent {
            kind: "a trigger that is neither HTTP, nor a timer, nor the warm-up",
        }
        .by_host(None),
        None => done(Value::Null),
    }
}

/// A timer, or the empty context of a warm-up.
fn is_sign_of_life(value: Json) -> bool {
    if value.is_null() {
        return true;
    }
    let timer = value.select(&["Schedule", "ScheduleStatus", "IsPastDue"]);
    let mut members = 0;
    value.members(|_, _| members += 1);
    timer.has("Schedule")
        || timer.has("ScheduleStatus")
        || timer.has("IsPastDue")
        || (value.is_object() && members == 0)
}

/// The HTTP request in a trigger.
fn requested(http: &Fields) -> Result<Request, Rejection> {
    let malformed = |field, problem| Rejection::MalformedEvent {
        field: Some(field),
        problem,
    };
    let method = http.text("Method").unwrap_or_default();
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| malformed("Method", "the method is none that HTTP can have"))?;
    let url = http.text("Url").unwrap_or_default();
    let url: Uri = url
        .parse()
        .map_err(|_| malformed("Url", "the trigger's Url is no address"))?;
    let body = match http.get("Body") {
        Some(body) => body.text().unwrap_or_else(|| body.raw().to_owned()),
        None => String::new(),
    };
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    if let Some(path) = url.path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    let mut wrong = false;
    let headers = request.headers_mut();
    if let Some(object) = http.get("Headers") {
        let mut add = |name: &str, value: Json| {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = value.text().unwrap_or_default();
            match (name, HeaderValue::from_bytes(value.as_bytes())) {
                (Ok(name), Ok(value)) => wrong |= headers.try_append(name, value).is_err(),
                _ => wrong = true,
            }
        };
        object.members(|name, values| {
            if values.is_list() {
                values.items(|value| add(&name, value));
            } else {
                add(&name, values);
            }
        });
    }
    if wrong {
        let problem = "a header's name or value is none that HTTP can have";
        return Err(malformed("Headers", problem));
    }
    // What the client sent may have been longer or shorter than the text that the host made of it.
    headers.remove(http::header::TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    *request.body_mut() = Body::from(body);
    Ok(request)
}

async fn routed(router: Router, request: Request) -> Response {
    let answer: Result<Response, Infallible> = router.oneshot(request).await;
    let Ok(response) = answer;
    response
}

/// A response as the output binding that `function.json` calls `res`.
async fn output(response: Response) -> Value {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let headers: Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value.into())
        })
        .collect();
    let (status, body) = match &body {
        Ok(body) => (head.status, String::from_utf8_lossy(body)),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "".into()),
    };
    json!({"statusCode": status.as_u16(), "headers": headers, "body": body})
}

/// What the host takes for the end of an invocation.
fn done(output: Value) -> Response {
    let outputs = match output {
        Value::Null => json!({}),
        output => json!({ "res": output }),
    };
    let body = json!({"Outputs": outputs, "Logs": [], "ReturnValue": null});
    let headers = [(CONTENT_TYPE, "application/json")];
    (headers, body.to_string()).into_response()
}
