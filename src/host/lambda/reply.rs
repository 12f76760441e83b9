//! Answers in the form of the event: what a gateway makes an HTTP response of, or the body itself
//! for whoever invoked.

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use lambda_http::Body;
use lambda_http::aws_lambda_events::alb::AlbTargetGroupResponse;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use serde::Serialize;
use serde_json::value::RawValue;

use super::event::Form;
use super::runtime::Reply;
use crate::http::{Rejection, Told};

/// The largest answer that Lambda sends.
const MAX_BYTES: usize = 6_291_556;
/// The largest that a load balancer takes from a function.
const MAX_ALB_BYTES: usize = 1 << 20;

/// The answer, or a refusal where the platform would not pass it on: it would tell the caller
/// nothing of why.
pub async fn reply(form: Form, response: Response<axum::body::Body>) -> Reply {
    let limit = if form == Form::Alb {
        MAX_ALB_BYTES
    } else {
        MAX_BYTES
    };
    let told = response.extensions().get::<Told>().cloned();
    let id = response.headers().get("x-request-id").cloned();
    let written = write(form, whole(response).await);
    let got = match &written {
        Reply::Answer(body) | Reply::Error { body, .. } => body.len(),
    };
    if got <= limit {
        return written;
    }
    tracing::warn!(
        bytes = got,
        limit,
        "an answer is larger than what can be sent"
    );
    let refusal = instead(Rejection::AnswerTooLarge { limit }, told.as_ref(), id);
    write(form, whole(refusal).await)
}

/// A refusal in place of an answer, in the words of whoever was `told` of it, and with its id.
pub fn instead(
    refusal: Rejection,
    told: Option<&Told>,
    id: Option<HeaderValue>,
) -> Response<axum::body::Body> {
    let mut response = refusal.by_host(told);
    if let Some(id) = id {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Every answer is whole in memory already; one that breaks off is none.
async fn whole(response: Response<axum::body::Body>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => Response::from_parts(head, body.to_bytes()),
        Err(error) => {
            tracing::error!(%error, "an answer's body broke off");
            let id = head.headers.get("x-request-id").cloned();
            let broken = instead(Rejection::Panicked, head.extensions.get(), id);
            let (head, body) = broken.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            Response::from_parts(head, body.unwrap_or_default())
        }
    }
}

fn write(form: Form, response: Response<Bytes>) -> Reply {
    let (head, body) = response.into_parts();
    let status = i64::from(head.status.as_u16());
    let headers = readable(head.headers);
    match form {
        Form::V1 => {
            let (body, encoded) = carried(&headers, body);
            let mut answer = ApiGatewayProxyResponse::default();
            answer.status_code = status;
            // API Gateway would send those in `headers` a second time.
            answer.multi_value_headers = headers;
            answer.body = Some(body);
            answer.is_base64_encoded = encoded;
            json(&answer)
        }
        Form::V2 => {
            let (body, encoded) = carried(&headers, body);
            let mut answer = ApiGatewayV2httpResponse::default();
            answer.status_code = status;
            answer.headers = headers;
            answer.body = Some(body);
            answer.is_base64_encoded = encoded;
            json(&answer)
        }
        Form::Alb => {
            let (body, encoded) = carried(&headers, body);
            let reason = head.status.canonical_reason().unwrap_or_default();
            let mut answer = AlbTargetGroupResponse::default();
            answer.status_code = status;
            answer.status_description = Some(format!("{status} {reason}"));
            // A target group reads the one or the other, as it is set up.
            answer.headers = headers.clone();
            answer.multi_value_headers = headers;
            answer.body = Some(body);
            answer.is_base64_encoded = encoded;
            json(&answer)
        }
        Form::Data => Reply::Answer(value(body)),
        Form::Direct => {
            let failure = head.extensions.get::<Told>().and_then(Told::failure);
            // What has no failure answers its question, whatever its status: `/ready` says no with
            // 503, `/docs/` sends elsewhere.
            let Some((code, message)) = failure else {
                return Reply::Answer(value(body));
            };
            let kind = format!("Reranker.{code}");
            let error = DirectError {
                error_type: &kind,
                error_message: &message,
                status: head.status.as_u16(),
                error: serde_json::from_slice(&body).ok(),
            };
            match json(&error) {
                Reply::Answer(body) => Reply::Error { kind, body },
                failed @ Reply::Error { .. } => failed,
            }
        }
    }
}

/// What whoever invoked gets in place of an answer. Step Functions tell errors apart by
/// `errorType`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DirectError<'a> {
    error_type: &'a str,
    error_message: &'a str,
    status: u16,
    /// The body as HTTP has it.
    error: Option<&'a RawValue>,
}

/// Values in an answer are text; a header may repeat what a client sent, which need not be.
fn readable(mut headers: HeaderMap) -> HeaderMap {
    for value in headers.values_mut() {
        if std::str::from_utf8(value.as_bytes()).is_err() {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if let Ok(text) = HeaderValue::from_bytes(text.as_bytes()) {
                *value = text;
            }
        }
    }
    headers
}

/// A body as text where it is text, else in base64.
fn carried(headers: &HeaderMap, body: Bytes) -> (Body, bool) {
    match String::from_utf8(body.into()) {
        Ok(text) if !headers.contains_key(CONTENT_ENCODING) => (Body::Text(text), false),
        Ok(text) => (Body::Binary(text.into_bytes()), true),
        Err(binary) => (Body::Binary(binary.into_bytes()), true),
    }
}

/// A body as a JSON value: what it is already, or a string of it.
fn value(body: Bytes) -> Vec<u8> {
    if serde_json::from_slice::<&RawValue>(&body).is_ok() {
        return body.into();
    }
    let text = String::from_utf8_lossy(&body);
    serde_json::Value::from(text.as_ref())
        .to_string()
        .into_bytes()
}

fn json(answer: &impl Serialize) -> Reply {
    match serde_json::to_vec(answer) {
        Ok(bytes) => Reply::Answer(bytes),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            Reply::error("Reranker.internal", "internal error")
        }
    }
}
