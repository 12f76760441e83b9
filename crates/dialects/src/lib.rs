//! Wire formats. Each module turns one client family's JSON into the domain's `Request` and a `Ranking` back into JSON, with
//! its own error body. Knows neither HTTP nor the service.
//!
//! [`Dialect`] is what they have in common; [`Shape`] tells apart the ones that share a path by what their bodies hold.

pub mod azure;
pub mod bedrock;
pub mod cohere;
pub mod common;
pub mod infinity;
pub mod jina;
pub mod llama_cpp;
pub mod mixedbread;
pub mod native;
pub mod pinecone;
pub mod tei;
pub mod vllm;
pub mod voyage;

mod documents;
mod lenient;
mod options;
mod shape;
mod text;

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

pub use reranker_json::Object;
pub use shape::{Fields, Sender, Shape};

use reranker_domain::{Error, Invalid, Limits, Ranking, Request, Score};

/// One wire format: a body to a request, a ranking to an answer, a failure to an error body.
pub trait Dialect: Send + Sync + 'static {
    /// In logs and metrics, and of the prefix under which it is mounted.
    const NAME: &'static str;
    /// Whose format, for the documentation.
    const TITLE: &'static str;
    type Body: DeserializeOwned + Send + ToSchema;
    type Answer: Serialize + ToSchema;
    type ErrorBody: Serialize + ToSchema;
    /// What of the body the answer needs besides the ranking.
    type Context: Send + 'static;

    /// The domain's request; `limits` are checked here, where the caller's names of the fields are known.
    fn read(body: Self::Body, limits: &Limits) -> Result<(Request, Self::Context), Invalid>;
    fn answer(context: Self::Context, ranking: &Ranking, about: &About) -> Self::Answer;
    fn error(failure: &Failure) -> Self::ErrorBody;

    /// The name of the error that this dialect's clients find in the header `x-amzn-errortype`.
    fn error_type(_failure: &Failure) -> Option<&'static str> {
        None
    }
}

/// What an answer tells of the request and its server.
#[derive(Debug, Clone)]
pub struct About {
    pub model: String,
    pub revision: Option<String>,
    /// Of the request.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// From accepting the request to its answer.
    pub ms: f64,
}

/// What of a document the model was shown. Ours; in every result of every dialect but Pinecone's, whose clients take no more than they
/// know.
#[derive(Debug, Serialize, ToSchema)]
pub struct Shown {
    /// Tokens scored, the query's and special tokens included.
    pub tokens: usize,
    /// Whether anything was cut away.
    pub truncated: bool,
    /// How many tokens of query and document were.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped_tokens: usize,
    /// Pieces in which it was scored, where there was more than one.
    #[serde(skip_serializing_if = "is_one")]
    pub chunks: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn is_one(number: &usize) -> bool {
    *number == 1
}

impl From<&Score> for Shown {
    fn from(score: &Score) -> Self {
        Self {
            tokens: score.tokens,
            truncated: score.truncated(),
            dropped_tokens: score.dropped_tokens,
            chunks: score.chunks,
        }
    }
}

/// What went wrong, in the words of no dialect.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The HTTP status, for the bodies that repeat it.
    pub status: u16,
    /// Stable name of the error; listed in docs/reference/errors.md.
    pub code: &'static str,
    pub message: String,
    pub field: Option<String>,
    pub got: Option<u64>,
    pub limit: Option<u64>,
    /// The routes there are, where the one asked for is none of them.
    pub routes: Vec<String>,
    /// For the log, not for callers: what broke inside.
    pub cause: Option<String>,
}

impl Failure {
    /// Without a status, which is not for this module to know.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: 0,
            code,
            message: message.into(),
            field: None,
            got: None,
            limit: None,
            routes: Vec::new(),
            cause: None,
        }
    }

    /// One word for the kind, as the error types of OpenAI's clients have it.
    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 | 504 => "overloaded_error",
            _ => "internal_server_error",
        }
    }
}

impl From<&Invalid> for Failure {
    fn from(invalid: &Invalid) -> Self {
        Self {
            field: invalid.field.clone(),
            got: invalid.got,
            limit: invalid.limit,
            ..Self::new(invalid.code, invalid.message.clone())
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::Invalid(invalid) => return Self::from(invalid),
            Error::Busy { .. } => "busy",
            Error::NotReady { .. } => "not_ready",
            Error::Deadline => "deadline_exceeded",
            Error::Unreachable { .. } => "deadline_unreachable",
            Error::Draining => "draining",
            Error::Model(_) => "model_unavailable",
            Error::Internal(_) => "internal",
        };
        let message: Cow<str> = match error {
            Error::Internal(_) => "internal error".into(),
            _ => error.to_string().into(),
        };
        let mut failure = Self::new(code, message);
        match error {
            Error::Internal(cause) => failure.cause = Some(cause.clone()),
            Error::Busy { queued, limit, .. } => {
                (failure.got, failure.limit) = (Some(*queued as u64), Some(*limit as u64));
            }
            Error::Unreachable { total, left, .. } => {
                let ms = |time: &std::time::Duration| u64::try_from(time.as_millis()).ok();
                (failure.got, failure.limit) = (ms(total), ms(left));
            }
            _ => {}
        }
        failure
    }
}

fn required<T>(value: Option<T>, field: impl FnOnce() -> String) -> Result<T, Invalid> {
    value.ok_or_else(|| {
        let field = field();
        Invalid::new("missing_field", format!("{field} is missing")).field(field)
    })
}
