//! The answer to `{query, documents}` on the paths that Cohere's v1, Jina's, vLLM's, infinity's and llama.cpp's clients share: what
//! all of them read. Where they disagree (a returned document as a string, say), a client is mounted under its own prefix.

use serde::Serialize;
use utoipa::ToSchema;

use super::cohere::Meta;
use super::documents::{DocumentsBody, ResponseContext, ResultItem, Returned, USUAL, Usage};
use super::native::ErrorBody;
use super::{About, Dialect, Failure};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// The form that all clients of the shared paths read.
pub struct Common;

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommonAnswer {
    id: String,
    #[schema(example = "rerank")]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    results: Vec<ResultItem<Returned>>,
    usage: Usage,
    meta: Meta,
}

impl Dialect for Common {
    const NAME: &'static str = "common";
    const TITLE: &'static str = "Cohere v1, Jina, vLLM, infinity, llama.cpp";
    type Body = DocumentsBody;
    type Answer = CommonAnswer;
    type ErrorBody = ErrorBody;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &USUAL)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> CommonAnswer {
        CommonAnswer {
            id: about.id.clone(),
            object: "rerank",
            created: about.created,
            model: about.model.clone(),
            results: ResultItem::list(&context, ranking, |document| document),
            usage: ranking.into(),
            meta: Meta::new("1", ranking),
        }
    }

    fn error(failure: &Failure) -> ErrorBody {
        failure.into()
    }
}
