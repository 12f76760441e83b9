//! Wire formats. Each module turns one client family's JSON into the domain's [`Request`] and a [`Ranking`] back into JSON, with
//! its own error body. Knows neither HTTP nor the service.
//!
//! [`Dialect`] is what they have in common; [`Shape`] tells apart the ones that share a path by what their bodies hold. [`Names`] are a
//! caller's words for its fields: errors get them last, when they are written into a body.
//!
//! ```
//! use reranker_dialects::{Dialect, cohere};
//! use reranker_domain::Limits;
//!
//! let body = serde_json::from_str(r#"{"query": "When?", "documents": ["At nine.", "Here."], "top_n": 1}"#)?;
//! let limits = Limits { pairs: 100, text_chars: 10_000 };
//! let (request, _context) = cohere::V2::read(body, &limits).expect("within the limits");
//! assert_eq!((request.pairs.len(), request.top), (2, Some(1)));
//! # Ok::<(), serde_json::Error>(())
//! ```

#![warn(missing_docs, unreachable_pub)]

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
mod names;
mod options;
mod shape;
mod text;

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

pub use names::{Named, Names};
pub use reranker_json::Object;
pub use shape::{Fields, Sender, Shape};

use reranker_domain::{Code, Field, Kind, Limits, Ranking, Refusal, Request, Score};

/// One wire format: a body to a request, a ranking to an answer, a failure to an error body.
pub trait Dialect: Send + Sync + 'static {
    /// In logs and metrics, and of the prefix under which it is mounted.
    const NAME: &'static str;
    /// Whose format, for the documentation.
    const TITLE: &'static str;
    /// What is asked, as JSON.
    type Body: DeserializeOwned + Send + ToSchema + Named;
    /// What is answered, as JSON.
    type Answer: Serialize + ToSchema;
    /// What is answered where there is no ranking, as JSON.
    type ErrorBody: Serialize + ToSchema;
    /// What of the body the answer needs besides the ranking.
    type Context: Send + 'static;

    /// The domain's request, and what the answer needs. `limits` are checked here, so that no more is read than may be.
    fn read(body: Self::Body, limits: &Limits) -> Result<(Request, Self::Context), Refusal>;

    /// A ranking in the words of this dialect.
    fn answer(context: Self::Context, ranking: &Ranking, about: &About) -> Self::Answer;

    /// A refusal in the words of this dialect.
    fn error(failure: &Failure) -> Self::ErrorBody;

    /// The name of the error that this dialect's clients find in the header `x-amzn-errortype`.
    fn error_type(_failure: &Failure) -> Option<&'static str> {
        None
    }
}

/// What an answer tells of the request and its server.
#[derive(Debug, Clone)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// The model's revision, where it has one.
    pub revision: Option<String>,
    /// The request's id.
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

/// A refusal on its way to a caller: what an error body may tell.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is wrong, in nobody's words.
    pub refusal: Refusal,
    /// The caller's names for the fields of its request.
    pub names: Names,
    /// The number of the answer's status, for the bodies that repeat it. No dialect decides by it.
    pub status: u16,
    /// The routes there are, where the one asked for is none of them.
    pub routes: Vec<String>,
}

impl Failure {
    /// The stable name of the error; docs/reference/errors.md lists all.
    pub fn code(&self) -> &'static str {
        self.refusal.code.name()
    }

    /// Who has to act.
    pub fn kind(&self) -> Kind {
        self.refusal.code.kind()
    }

    /// What is wrong, as a sentence that names the field as the caller does.
    pub fn message(&self) -> String {
        self.names.message(&self.refusal)
    }

    /// The caller's name for the field at fault.
    pub fn field(&self) -> Option<String> {
        let field = self.refusal.field.as_ref();
        field.map(|field| self.names.name(field).into_owned())
    }

    /// One word for the kind, as the error types of OpenAI's clients have it.
    fn word(&self) -> &'static str {
        match self.kind() {
            Kind::Key => "authentication_error",
            Kind::Address => "not_found_error",
            Kind::Pace => "rate_limit_error",
            Kind::Caller | Kind::Transfer => "invalid_request_error",
            Kind::Unavailable | Kind::Operator | Kind::Deadline => "overloaded_error",
            Kind::Internal => "internal_server_error",
        }
    }
}

/// The value of a field that a body must have.
fn required<T>(value: Option<T>, field: impl Into<Field>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::of(Code::MissingField, field, "is missing"))
}
