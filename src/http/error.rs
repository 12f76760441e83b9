//! Errors as responses: the one place that knows which error has which status. Their bodies are written last, when it is known in
//! whose words: see `error_format`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::error_format::{ErrorFormat, Told};
use reranker_dialects::{Failure, native};
use reranker_domain::{Error, Invalid};

/// The same as `Retry-After`, for clients that read it to the millisecond.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// A code that an error can have: a row of docs/reference/errors.md.
pub struct ErrorCode {
    pub name: &'static str,
    pub statuses: &'static [u16],
    /// When it is answered, as Markdown.
    pub meaning: &'static str,
}

const fn code(name: &'static str, statuses: &'static [u16], meaning: &'static str) -> ErrorCode {
    ErrorCode {
        name,
        statuses,
        meaning,
    }
}

/// Every code that an error can have.
pub const ERROR_CODES: &[ErrorCode] = &[
    code(
        "answer_too_large",
        &[422],
        "the answer alone exceeds the share of `MAX_BODY_BYTES_IN_FLIGHT` for large ones, or the platform's limit (on Lambda 6 MB; 1 MB behind a load balancer)",
    ),
    code(
        "body_too_large",
        &[413],
        "the body exceeds `MAX_BODY_BYTES`",
    ),
    code(
        "busy",
        &[429, 503],
        "429: the queue (`MAX_QUEUE`) or `MAX_BODY_BYTES_IN_FLIGHT` is full, and `Retry-After` says when to retry; 503: over `MAX_CONNECTIONS`",
    ),
    code(
        "deadline_exceeded",
        &[504],
        "the deadline passed; nothing partial is returned",
    ),
    code(
        "deadline_unreachable",
        &[503, 504],
        "the request would exceed its deadline, `got` and `limit` are milliseconds; 503 if it would meet the deadline without earlier requests",
    ),
    code("draining", &[503], "the server shuts down"),
    code("empty_query", &[422], "a query is empty or white space"),
    code(
        "head_too_large",
        &[431],
        "on Lambda: an address of more than 65,534 bytes, or more than 1,000 headers",
    ),
    code(
        "internal",
        &[500],
        "a fault of the server; the log has the request's id",
    ),
    code(
        "invalid_chunks",
        &[422],
        "`max_chunks_per_doc` exceeds its limit",
    ),
    code(
        "invalid_max_length",
        &[422],
        "`max_length` is 0, too small for any text, or above the server's `MAX_LENGTH`",
    ),
    code(
        "invalid_rank_fields",
        &[422],
        "`rank_fields` has too many names, or one name twice",
    ),
    code(
        "invalid_timeout",
        &[422],
        "`x-request-timeout-ms` is not a whole number of at least 1",
    ),
    code(
        "invalid_truncation",
        &[422],
        "`truncation` is none of its values",
    ),
    code(
        "malformed_event",
        &[400],
        "on Lambda and Azure Functions: the event is no request",
    ),
    code(
        "malformed_json",
        &[400],
        "the body is not JSON; the message says where it breaks",
    ),
    code(
        "malformed_request",
        &[400],
        "two Host headers, or a transfer coding other than chunked",
    ),
    code(
        "method_not_allowed",
        &[405],
        "the route has other methods; the `Allow` header lists them",
    ),
    code("missing_field", &[422], "a field is missing"),
    code(
        "model_unavailable",
        &[503],
        "the model cannot be loaded, or was given up; `/health` has the reason",
    ),
    code(
        "no_pairs",
        &[422],
        "the list of pairs or documents is empty",
    ),
    code(
        "not_found",
        &[404],
        "no such route, or (Bedrock) a model that does not rank; the answer suggests the nearest route and lists all",
    ),
    code("not_ready", &[503], "the model is still loading"),
    code(
        "pair_too_long",
        &[422],
        "a pair exceeds `max_length`, and `truncation` is `none`",
    ),
    code(
        "quota_exceeded",
        &[429],
        "the API key has used its tokens of the day (`KEY_LIMITS`); `Retry-After` has the seconds until the next day in UTC",
    ),
    code(
        "rate_limited",
        &[429],
        "the API key has used its requests of the minute (`KEY_LIMITS`); `Retry-After` says when to retry",
    ),
    code("request_timeout", &[408], "the body arrived too slowly"),
    code("text_too_long", &[422], "a text exceeds `MAX_TEXT_CHARS`"),
    code(
        "too_many_pairs",
        &[422],
        "more pairs or documents than `MAX_PAIRS`",
    ),
    code(
        "too_many_queries",
        &[422],
        "Bedrock: the list of queries has not exactly one",
    ),
    code(
        "too_many_sentences",
        &[422],
        "sentence scores of more than 50,000 sentences",
    ),
    code(
        "too_many_tokens",
        &[422],
        "the request's tokens exceed `MAX_TOKENS`",
    ),
    code("unauthorized", &[401], "no API key, or a wrong one"),
    code(
        "unequal_lists",
        &[422],
        "vLLM: two lists of different lengths cannot be paired",
    ),
    code(
        "unknown_shape",
        &[422],
        "a body of no dialect; the message names the expected fields, or the field that was probably meant",
    ),
    code("unreadable_body", &[400], "the body broke off"),
    code(
        "unsupported_event",
        &[400],
        "on Lambda and Azure Functions: an event of another service, which sends no requests",
    ),
    code(
        "unsupported_media_type",
        &[415],
        "the content type is not JSON, or the body is compressed (`content-encoding`)",
    ),
    code(
        "wrong_type",
        &[422],
        "a field has another type; the message names the field and both types",
    ),
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
    /// The key has had its requests of the minute.
    KeyRate {
        limit: u64,
        retry_after: Duration,
    },
    /// The key has had its tokens of the day.
    KeyTokens {
        used: u64,
        limit: u64,
        retry_after: Duration,
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
        let error_format =
            told.map_or_else(ErrorFormat::of::<native::One>, |told| told.error_format);
        let mut response = self.into_response();
        error_format.tell(&mut response);
        response
    }
}

/// Most bodies and answers are gone within moments: the budget is free again soon.
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
            Self::KeyRate { limit, retry_after } => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!(
                    "the API key may send {limit} requests a minute, and has: try again in {} s",
                    seconds(*retry_after)
                ),
            ),
            Self::KeyTokens {
                used,
                limit,
                retry_after,
            } => (
                StatusCode::TOO_MANY_REQUESTS,
                "quota_exceeded",
                format!(
                    "the API key may use {limit} tokens a day, and has used {used}: the next day in UTC begins in {} s",
                    seconds(*retry_after)
                ),
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
            Self::KeyRate {
                limit,
                retry_after: wait,
            } => {
                failure.limit = Some(limit);
                retry_after = Some(wait);
            }
            Self::KeyTokens {
                used,
                limit,
                retry_after: wait,
            } => {
                (failure.got, failure.limit) = (Some(used), Some(limit));
                retry_after = Some(wait);
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
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds(after)));
    headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis(after)));
}

/// Whole ones, of which a client must not wait for less.
fn seconds(wait: Duration) -> u64 {
    millis(wait).div_ceil(1000)
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1000))
        .unwrap_or(u64::MAX)
        .max(1)
}

/// What the service could not do, as a response.
#[derive(Debug)]
pub struct Failed(pub Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match &error {
            Error::Invalid(Invalid { code, .. }) if *code == "malformed_json" => {
                StatusCode::BAD_REQUEST
            }
            Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::NotReady { .. } | Error::Draining | Error::Model(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Unreachable { busy: true, .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Deadline | Error::Unreachable { .. } => StatusCode::GATEWAY_TIMEOUT,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = respond(status, Failure::from(&error));
        if let Error::Busy { retry_after, .. }
        | Error::NotReady { retry_after }
        | Error::Unreachable {
            busy: true,
            retry_after,
            ..
        } = error
        {
            come_back(&mut response, retry_after);
        }
        response
    }
}

/// A response without a body, which `observe` writes from the failure that it carries.
fn respond(status: StatusCode, mut failure: Failure) -> Response {
    debug_assert!(
        ERROR_CODES
            .iter()
            .any(|it| it.name == failure.code && it.statuses.contains(&status.as_u16())),
        "{} with {status} is not listed",
        failure.code
    );
    failure.status = status.as_u16();
    let mut response = status.into_response();
    response.extensions_mut().insert(failure);
    response
}
