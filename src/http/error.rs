//! Errors as responses, with the headers that belong to them. Their bodies are written last, when it is known in whose words: see
//! `error_format`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};

use super::error_format::{ErrorFormat, Told};
use super::status::status;
use reranker_dialects::{Failure, Names, native};
use reranker_domain::{Code, Error, Refusal};

/// The same as `Retry-After`, for clients that read it to the millisecond.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// What is wrong with the HTTP request itself.
#[derive(Debug)]
pub enum Rejection {
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
    /// As many connections are open as may be.
    NoConnection {
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

impl Rejection {
    /// A part of a page that there is not.
    pub fn no_such_file() -> Self {
        Self::UnknownRoute {
            advice: None,
            routes: Vec::new(),
        }
    }

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

impl Rejection {
    /// The code, the message and the numbers.
    fn refusal(&self) -> Refusal {
        match self {
            // A path or a header may hold a key or a text that came to the wrong place, so neither is quoted.
            Self::UnknownRoute { advice, .. } => {
                let refusal = Refusal::new(Code::NotFound, "there is no such route");
                match advice {
                    Some(advice) => refusal.hint(advice),
                    None => refusal,
                }
            }
            Self::NoRerankModel => Refusal::new(
                Code::NotFound,
                "the model in the path is none that ranks: expected a name with \"rerank\" in it",
            ),
            Self::TwoHosts => Refusal::new(
                Code::MalformedRequest,
                "the request has two Host headers, expected one",
            ),
            Self::TransferCoding => Refusal::new(
                Code::MalformedRequest,
                "the body has another transfer coding than chunked",
            ),
            Self::WrongMethod => Refusal::new(
                Code::MethodNotAllowed,
                "this route takes other methods: the Allow header names them",
            ),
            Self::MediaType => Refusal::new(
                Code::UnsupportedMediaType,
                "the content type is not JSON, expected application/json: curl takes -H 'content-type: application/json'",
            ),
            Self::Encoded => Refusal::new(
                Code::UnsupportedMediaType,
                "the body has a content encoding, expected none: send it unpacked",
            ),
            Self::NoRoom { limit } => {
                let wait = ROOM_RETRY.as_secs();
                let message = format!(
                    "the bodies and answers of all requests here exceed {limit} bytes together: try again in {wait} s"
                );
                Refusal::new(Code::Busy, message).limit(*limit)
            }
            Self::NoConnection { limit } => {
                let wait = ROOM_RETRY.as_secs();
                let message = format!("all {limit} connections are in use: try again in {wait} s");
                Refusal::new(Code::ConnectionsFull, message).limit(*limit)
            }
            Self::AnswerTooLarge { limit } => {
                let message = format!(
                    "the answer exceeds {limit} bytes: send fewer texts, or ask for less of them back"
                );
                Refusal::new(Code::AnswerTooLarge, message).limit(*limit)
            }
            Self::BodyTooLarge { got, limit } => {
                let message = format!("the body exceeds the limit of {limit} bytes");
                let refusal = Refusal::new(Code::BodyTooLarge, message).field("body");
                match got {
                    Some(got) => refusal.got(*got),
                    None => refusal,
                }
                .limit(*limit)
            }
            Self::BodyTooSlow => {
                Refusal::new(Code::RequestTimeout, "the body did not arrive in time")
            }
            Self::BodyUnreadable => Refusal::new(
                Code::UnreadableBody,
                "the body could not be read to its end",
            ),
            Self::Unauthorized { given: true } => {
                Refusal::new(Code::Unauthorized, "the API key is wrong")
            }
            Self::Unauthorized { given: false } => Refusal::new(
                Code::Unauthorized,
                "an API key is needed, as Authorization: Bearer KEY or as x-api-key",
            ),
            Self::KeyRate { limit, retry_after } => {
                let wait = seconds(*retry_after);
                let message = format!(
                    "the API key may send {limit} requests a minute, and has: try again in {wait} s"
                );
                Refusal::new(Code::RateLimited, message).limit(*limit)
            }
            Self::KeyTokens {
                used,
                limit,
                retry_after,
            } => {
                let wait = seconds(*retry_after);
                let message = format!(
                    "the API key may use {limit} tokens a day, and has used {used}: the next day in UTC begins in {wait} s"
                );
                let refusal = Refusal::new(Code::QuotaExceeded, message);
                refusal.got(*used).limit(*limit)
            }
            Self::Timeout => Refusal::of(
                Code::InvalidTimeout,
                "x-request-timeout-ms",
                "is not a whole number of milliseconds, 1 or more",
            ),
            Self::Panicked => Refusal::new(Code::Internal, "internal error"),
            Self::MalformedEvent { field, problem } => {
                let refusal = Refusal::new(Code::MalformedEvent, *problem);
                match field {
                    Some(field) => refusal.field(*field),
                    None => refusal,
                }
            }
            Self::HeadTooLarge { what, limit } => {
                let message = format!("{what} is longer than {limit}");
                Refusal::new(Code::HeadTooLarge, message).limit(*limit)
            }
            Self::UnsupportedEvent { kind } => {
                let message = format!(
                    "this is {kind}, and scores nothing: send an HTTP request, a body such as {{query, documents}}, or {{path, body}}"
                );
                Refusal::new(Code::UnsupportedEvent, message)
            }
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = respond(self.refusal(), Names::USUAL);
        let headers = response.headers_mut();
        match self {
            Self::NoRoom { .. } | Self::NoConnection { .. } => {
                come_back(&mut response, ROOM_RETRY);
            }
            Self::KeyRate { retry_after, .. } | Self::KeyTokens { retry_after, .. } => {
                come_back(&mut response, retry_after);
            }
            Self::Unauthorized { .. } => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Encoded => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            Self::UnknownRoute { routes, .. } => {
                if let Some(failure) = response.extensions_mut().get_mut::<Failure>() {
                    failure.routes = routes;
                }
            }
            _ => {}
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
pub struct Failed {
    pub error: Error,
    /// What the caller calls its fields.
    pub names: Names,
}

/// Of a request whose fields have no names yet, or only one.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            names: Names::USUAL,
        }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Error::from(refusal).into()
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self { error, names } = self;
        let mut response = respond(error.refusal(), names);
        if let Some(time) = error.retry_after() {
            come_back(&mut response, time);
        }
        if let Error::Internal(cause) = error {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

/// For the log, not for callers: what broke inside.
#[derive(Debug, Clone)]
pub struct Cause(pub String);

/// A response without a body, which `observe` writes from the failure that it carries.
fn respond(refusal: Refusal, names: Names) -> Response {
    let status = status(refusal.code);
    let mut response = status.into_response();
    response.extensions_mut().insert(Failure {
        refusal,
        names,
        status: status.as_u16(),
        routes: Vec::new(),
    });
    response
}
