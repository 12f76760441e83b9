//! Errors as responses: the one place that knows which error has which status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};

use crate::dialect::native::{ErrorBody, ErrorInfo};
use crate::error::{Error, Invalid};

/// Code of the error that a response carries, for the request's log line.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub &'static str);

/// Every code that an error can have; the README explains them.
pub const ERROR_CODES: [&str; 21] = [
    "body_too_large",
    "busy",
    "deadline_exceeded",
    "draining",
    "empty_query",
    "internal",
    "invalid_max_length",
    "invalid_truncation",
    "malformed_json",
    "method_not_allowed",
    "missing_field",
    "model_unavailable",
    "no_pairs",
    "not_found",
    "not_ready",
    "request_timeout",
    "text_too_long",
    "too_many_pairs",
    "unreadable_body",
    "unsupported_media_type",
    "wrong_type",
];

/// What is wrong with the HTTP request itself.
#[derive(Debug)]
pub enum Refusal {
    UnknownRoute {
        method: Method,
        path: String,
        routes: Vec<String>,
    },
    WrongMethod {
        method: Method,
        path: String,
    },
    /// The body is not declared to be JSON.
    MediaType(String),
    BodyTooLarge {
        /// Where the client told its length.
        got: Option<u64>,
        limit: usize,
    },
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body broke off, or its framing is wrong.
    BodyUnreadable,
    Panicked,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match &self {
            Self::UnknownRoute { method, path, .. } => (
                StatusCode::NOT_FOUND,
                "not_found",
                format!("there is no {method} {path}"),
            ),
            Self::WrongMethod { method, path } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("{path} does not take {method}; the Allow header says what it takes"),
            ),
            Self::MediaType(found) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                format!("the content type is {found:?}, expected application/json"),
            ),
            Self::BodyTooLarge { limit, .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the body exceeds the limit of {limit} bytes"),
            ),
            Self::BodyTooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the body did not arrive in time".into(),
            ),
            Self::BodyUnreadable => (
                StatusCode::BAD_REQUEST,
                "unreadable_body",
                "the body could not be read to its end".into(),
            ),
            Self::Panicked => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "internal error".into(),
            ),
        };
        let mut info = ErrorInfo {
            code,
            message,
            ..ErrorInfo::default()
        };
        match self {
            Self::UnknownRoute { routes, .. } => info.routes = routes,
            Self::BodyTooLarge { got, limit } => {
                info.field = Some("body".into());
                info.got = got;
                info.limit = Some(limit as u64);
            }
            _ => {}
        }
        respond(status, info)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Invalid(Invalid { code, .. }) if *code == "malformed_json" => {
                StatusCode::BAD_REQUEST
            }
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady { .. } | Self::Draining | Self::Model(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(reason) => {
                tracing::error!(reason, "request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut response = respond(status, ErrorInfo::from(&self));
        if let Self::Busy { retry_after, .. } | Self::NotReady { retry_after } = self {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        response
    }
}

fn respond(status: StatusCode, info: ErrorInfo) -> Response {
    debug_assert!(
        ERROR_CODES.contains(&info.code),
        "{} is not listed",
        info.code
    );
    let code = Code(info.code);
    let mut response = (status, Json(ErrorBody::from(info))).into_response();
    response.extensions_mut().insert(code);
    response
}
