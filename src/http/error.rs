//! Errors as responses: the one place that knows which error has which status. Their bodies are written last, when it is known in
//! whose words: see `voice`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::voice::{Told, Voice};
use crate::dialect::{Failure, native};
use crate::error::{Error, Invalid};

/// The same as `Retry-After`, for clients that read it to the millisecond.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Every code that an error can have; docs/reference/errors.md explains them.
pub const ERROR_CODES: [&str; 37] = [
    "answer_too_large",
    "body_too_large",
    "busy",
    "deadline_exceeded",
    "deadline_unreachable",
    "draining",
    "empty_query",
    "head_too_large",
    "internal",
    "invalid_chunks",
    "invalid_max_length",
    "invalid_rank_fields",
    "invalid_timeout",
    "invalid_truncation",
    "malformed_event",
    "malformed_json",
    "malformed_request",
    "method_not_allowed",
    "missing_field",
    "model_unavailable",
    "no_pairs",
    "not_found",
    "not_ready",
    "pair_too_long",
    "request_timeout",
    "text_too_long",
    "too_many_pairs",
    "too_many_queries",
    "too_many_sentences",
    "too_many_tokens",
    "unauthorized",
    "unequal_lists",
    "unknown_shape",
    "unreadable_body",
    "unsupported_event",
    "unsupported_media_type",
    "wrong_type",
];

/// What is wrong with the HTTP request itself.
#[derive(Debug)]
pub enum Refusal {
    UnknownRoute {
        /// What may be wrong with the path.
        advice: Option<String>,
        routes: Vec<String>,
    },
    WrongMethod,
    /// A model of somebody else's that ranks nothing.
    NoRerankModel,
    /// Two of a header that says whose the request is.
    TwoHosts,
    /// The body is framed in a way that nobody here knows.
    TransferCoding,
    /// The body is not declared to be JSON.
    MediaType,
    /// The body is declared to be packed.
    Encoded,
    BodyTooLarge {
        /// Where the client told its length.
        got: Option<u64>,
        limit: usize,
    },
    /// The bodies and answers of all requests together would exceed the limit.
    NoRoom {
        limit: usize,
    },
    /// The answer alone exceeds what all may have together, or what the host passes on.
    AnswerTooLarge {
        limit: usize,
    },
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body broke off, or its framing is wrong.
    BodyUnreadable,
    /// No key, or a wrong one.
    Unauthorized {
        /// Whether there was one.
        given: bool,
    },
    /// The header that sets a timeout.
    Timeout,
    Panicked,
    /// A host's event that cannot be made a request.
    MalformedEvent {
        field: Option<&'static str>,
        problem: &'static str,
    },
    /// What of a host's event would be a request's head.
    HeadTooLarge {
        what: &'static str,
        limit: usize,
    },
    /// An event of a service that sends no requests.
    UnsupportedEvent {
        kind: &'static str,
    },
}

impl Refusal {
    /// A part of a page that there is not.
    pub fn no_such_file() -> Self {
        Self::UnknownRoute {
            advice: None,
            routes: Vec::new(),
        }
    }
}

impl Refusal {
    /// The response of a host that refuses what never came to the router, or what came from it: in the words of whoever was `told` of the
    /// rest, else in ours.
    pub fn by_host(self, told: Option<&Told>) -> Response {
        let voice = told.map_or_else(Voice::of::<native::One>, |told| told.voice);
        let mut response = self.into_response();
        voice.tell(&mut response);
        response
    }
}

/// Most bodies and answers are gone within moments: there is room again soon.
const ROOM_RETRY: Duration = Duration::from_secs(1);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match &self {
            // A path or a header may hold a key or a text that came to the wrong place, so neither is quoted.
            Self::UnknownRoute { advice, .. } => (
                StatusCode::NOT_FOUND,
                "not_found",
                match advice {
                    Some(advice) => format!("there is no such route: {advice}"),
                    None => "there is no such route".into(),
                },
            ),
            Self::NoRerankModel => (
                StatusCode::NOT_FOUND,
                "not_found",
                "the model in the path is none that ranks: expected a name with \"rerank\" in it".into(),
            ),
            Self::TwoHosts => (
                StatusCode::BAD_REQUEST,
                "malformed_request",
                "the request has two Host headers, expected one".into(),
            ),
            Self::TransferCoding => (
                StatusCode::BAD_REQUEST,
                "malformed_request",
                "the body has another transfer coding than chunked".into(),
            ),
            Self::WrongMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this route takes other methods: the Allow header names them".into(),
            ),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the content type is not JSON, expected application/json: curl takes -H 'content-type: application/json'".into(),
            ),
            Self::Encoded => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body has a content encoding, expected none: send it unpacked".into(),
            ),
            Self::NoRoom { limit } => (
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                format!(
                    "the bodies and answers of all requests here exceed {limit} bytes together: try again in {} s",
                    ROOM_RETRY.as_secs()
                ),
            ),
            Self::AnswerTooLarge { limit } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "answer_too_large",
                format!(
                    "the answer exceeds {limit} bytes: send fewer texts, or ask for less of them back"
                ),
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
            Self::Unauthorized { given } => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                if *given {
                    "the API key is wrong".into()
                } else {
                    "an API key is needed, as Authorization: Bearer KEY or as x-api-key".into()
                },
            ),
            Self::Timeout => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_timeout",
                "x-request-timeout-ms is not a whole number of milliseconds, 1 or more".into(),
            ),
            Self::Panicked => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "internal error".into(),
            ),
            Self::MalformedEvent { problem, .. } => (
                StatusCode::BAD_REQUEST,
                "malformed_event",
                (*problem).into(),
            ),
            Self::HeadTooLarge { what, limit } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                format!("{what} is longer than {limit}"),
            ),
            Self::UnsupportedEvent { kind } => (
                StatusCode::BAD_REQUEST,
                "unsupported_event",
                format!(
                    "this is {kind}, and scores nothing: send an HTTP request, a body such as {{query, documents}}, or {{path, body}}"
                ),
            ),
        };
        let mut failure = Failure::new(code, message);
        let mut challenge = false;
        let mut retry_after = None;
        let mut accepted = None;
        match self {
            Self::UnknownRoute { routes, .. } => failure.routes = routes,
            Self::NoRoom { limit } => {
                failure.limit = Some(limit as u64);
                retry_after = Some(ROOM_RETRY);
            }
            Self::AnswerTooLarge { limit } => failure.limit = Some(limit as u64),
            Self::Encoded => accepted = Some(HeaderValue::from_static("identity")),
            Self::BodyTooLarge { got, limit } => {
                failure.field = Some("body".into());
                failure.got = got;
                failure.limit = Some(limit as u64);
            }
            Self::Timeout => failure.field = Some("x-request-timeout-ms".into()),
            Self::Unauthorized { .. } => challenge = true,
            Self::MalformedEvent { field, .. } => failure.field = field.map(str::to_owned),
            Self::HeadTooLarge { limit, .. } => failure.limit = Some(limit as u64),
            _ => {}
        }
        let mut response = respond(status, failure);
        if challenge {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        }
        if let Some(time) = retry_after {
            come_back(&mut response, time);
        }
        if let Some(encoding) = accepted {
            response.headers_mut().insert(ACCEPT_ENCODING, encoding);
        }
        response
    }
}

/// Says when to return, to the second and to the millisecond.
fn come_back(response: &mut Response, after: Duration) {
    let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
    headers.insert(RETRY_AFTER_MS, HeaderValue::from(ms.max(1)));
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
            Self::Unreachable { busy: true, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline | Self::Unreachable { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = respond(status, Failure::from(&self));
        if let Self::Busy { retry_after, .. }
        | Self::NotReady { retry_after }
        | Self::Unreachable {
            busy: true,
            retry_after,
            ..
        } = self
        {
            come_back(&mut response, retry_after);
        }
        response
    }
}

/// A response without a body, which `observe` writes from the failure that it carries.
fn respond(status: StatusCode, mut failure: Failure) -> Response {
    debug_assert!(
        ERROR_CODES.contains(&failure.code),
        "{} is not listed",
        failure.code
    );
    failure.status = status.as_u16();
    let mut response = status.into_response();
    response.extensions_mut().insert(failure);
    response
}
