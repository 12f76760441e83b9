//! infinity's `/rerank`. Its returned documents are strings.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    DocumentsBody, OpenAiError, ResponseContext, ResultItem, Returned, USUAL, Usage,
};
use super::{About, Dialect, Failure};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// infinity's `/rerank`.
pub struct Infinity;

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityAnswer {
    #[schema(example = "rerank")]
    object: &'static str,
    results: Vec<ResultItem<String>>,
    model: String,
    usage: Usage,
    id: String,
    /// Seconds since 1970.
    created: u64,
}

impl Dialect for Infinity {
    const NAME: &'static str = "infinity";
    const TITLE: &'static str = "infinity";
    type Body = DocumentsBody;
    type Answer = InfinityAnswer;
    type ErrorBody = OpenAiError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &USUAL)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> InfinityAnswer {
        InfinityAnswer {
            object: "rerank",
            results: ResultItem::list(&context, ranking, Returned::into_text),
            model: about.model.clone(),
            usage: ranking.into(),
            id: format!("infinity-{}", about.id),
            created: about.created,
        }
    }

    fn error(failure: &Failure) -> OpenAiError {
        failure.into()
    }
}
