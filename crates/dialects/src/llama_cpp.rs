//! llama.cpp's reranking endpoint under its own prefix: scores are logits there, unless the request says otherwise.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    Defaults, DocumentsBody, OpenAiError, ResponseContext, ResultItem, Returned, USUAL, Usage,
};
use super::{About, Dialect, Failure};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// llama.cpp's `/reranking`.
pub struct LlamaCpp;

const DEFAULTS: Defaults = Defaults {
    normalize: false,
    ..USUAL
};

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlamaCppAnswer {
    model: String,
    #[schema(example = "list")]
    object: &'static str,
    usage: Usage,
    results: Vec<ResultItem<Returned>>,
}

impl Dialect for LlamaCpp {
    const NAME: &'static str = "llamacpp";
    const TITLE: &'static str = "llama.cpp";
    type Body = DocumentsBody;
    type Answer = LlamaCppAnswer;
    type ErrorBody = OpenAiError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &DEFAULTS)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> LlamaCppAnswer {
        LlamaCppAnswer {
            model: about.model.clone(),
            object: "list",
            usage: ranking.into(),
            results: ResultItem::list(&context, ranking, |document| document),
        }
    }

    fn error(failure: &Failure) -> OpenAiError {
        failure.into()
    }
}
