//! Amazon Bedrock's Rerank, of the agent runtime's API.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::lenient::{JsonType, List};
use super::options::body;
use super::text::value_text;
use super::{About, Dialect, Failure, Named, Names, Object, Shown, cohere, required};
use reranker_domain::{Code, Field, Kind, Limits, Pair, Ranking, Refusal, Request, Selection};

/// Bedrock's `Rerank`.
pub struct Bedrock;

/// Bedrock's `InvokeModel` of its rerank models, which take and give what Cohere's API does.
pub struct InvokeModel;

body! {
    /// One query and the sources to rank.
    #[schema(example = json!({"queries": [{"type": "TEXT", "textQuery": {"text": "Can I get a refund after 30 days?"}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text":
            "Returns are accepted within 60 days of delivery, and the full price is refunded."}}}]}))]
    pub struct BedrockBody {
        /// Exactly one.
        #[schema(required = true, value_type = Vec<BedrockQuery>)]
        queries: List<Object<BedrockQuery>>,
        #[schema(required = true, value_type = Vec<Source>)]
        sources: List<Object<Source>>,
        #[serde(rename = "rerankingConfiguration")]
        #[schema(value_type = Option<Configuration>)]
        configuration: Object<Configuration>,
        /// Ours: results below it are left out.
        min_score: f64,
    }
}

/// A query as a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockQuery {
    #[schema(value_type = TextContent)]
    text_query: Option<Object<TextContent>>,
}

/// A text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TextContent {
    #[schema(required = true, value_type = String)]
    text: Option<String>,
}

/// A document, which the request brings itself.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    #[schema(value_type = InlineSource)]
    inline_document_source: Option<Object<InlineSource>>,
}

/// A text, or an object that is ranked as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineSource {
    #[schema(value_type = Option<TextContent>)]
    text_document: Option<Object<TextContent>>,
    #[schema(value_type = Option<std::collections::HashMap<String, serde_json::Value>>)]
    json_document: Option<Box<RawValue>>,
}

/// Options of the ranking.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[schema(value_type = Option<BedrockConfiguration>)]
    bedrock_reranking_configuration: Option<Object<BedrockConfiguration>>,
}

/// Options of Bedrock's own models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockConfiguration {
    /// How many results are answered; all where it is absent.
    number_of_results: Option<usize>,
}

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct BedrockAnswer {
    results: Vec<BedrockItem>,
}

/// A source's score, and its place in the request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockItem {
    index: usize,
    relevance_score: f64,
    #[serde(flatten)]
    shown: Shown,
}

/// `{"message": …}`; the header `x-amzn-errortype` has the error's name.
#[derive(Debug, Serialize, ToSchema)]
pub struct BedrockError {
    message: String,
}

impl Source {
    fn text(self, index: usize) -> Result<String, Refusal> {
        let inline = self.inline_document_source.map(|Object(source)| source);
        let inline = required(inline, Field::Document(index))?;
        match (inline.text_document, inline.json_document) {
            (Some(Object(text)), _) => required(text.text, Field::Document(index)),
            (None, Some(json)) if JsonType::of(&json) == JsonType::Object => {
                Ok(value_text(&json)?.unwrap_or_default().into_owned())
            }
            (None, Some(_)) => {
                let path = format!("[{index}].inlineDocumentSource.jsonDocument");
                let field = Field::Documents.at(path);
                Err(Refusal::of(Code::WrongType, field, "is no object"))
            }
            (None, None) => required(None, Field::Document(index)),
        }
    }
}

impl Named for BedrockBody {
    fn names(&self) -> Names {
        Names::USUAL
            .queries("queries", ".textQuery.text")
            .documents("sources", ".inlineDocumentSource.textDocument.text")
    }
}

impl Dialect for Bedrock {
    const NAME: &'static str = "bedrock";
    const TITLE: &'static str = "Amazon Bedrock";
    type Body = BedrockBody;
    type Answer = BedrockAnswer;
    type ErrorBody = BedrockError;
    type Context = Selection;

    fn read(body: BedrockBody, limits: &Limits) -> Result<(Request, Selection), Refusal> {
        let options = body.options();
        let selection = Selection {
            top: body
                .configuration
                .and_then(|Object(all)| all.bedrock_reranking_configuration)
                .and_then(|Object(ours)| ours.number_of_results)
                .filter(|&top| top > 0),
            min_score: body.min_score,
            normalize: options.normalize.unwrap_or(true),
        };
        let queries = required(body.queries, Field::Queries)?;
        let count = queries.count();
        if count != 1 {
            let message = format!("{count} queries, exactly 1 is taken");
            return Err(Refusal::new(Code::TooManyQueries, message)
                .field(Field::Queries)
                .got(count)
                .limit(1));
        }
        let mut query = None;
        queries.each(Field::Queries, |_, Object(one)| {
            query = one.text_query.and_then(|Object(text)| text.text);
            Ok(())
        })?;
        let query = required(query, Field::Query(0))?;
        limits.check_query(Field::Query(0), &query)?;
        let query: Arc<str> = query.into();
        let sources = required(body.sources, Field::Documents)?;
        let count = sources.count();
        limits.check_pairs(count)?;
        let mut pairs = Vec::with_capacity(count);
        sources.each(Field::Documents, |index, Object(source)| {
            let text = source.text(index)?;
            limits.check_text(Field::Document(index), &text)?;
            pairs.push(Pair {
                query: Arc::clone(&query),
                document: text.into(),
            });
            Ok(())
        })?;
        let request = Request {
            top: selection.top,
            ..options.into_request(pairs)?
        };
        Ok((request, selection))
    }

    fn answer(selection: Selection, ranking: &Ranking, _: &About) -> BedrockAnswer {
        let best = selection.best_first(&ranking.scores).into_iter();
        BedrockAnswer {
            results: best
                .map(|ranked| BedrockItem {
                    index: ranked.index,
                    relevance_score: ranked.value,
                    shown: ranked.score.into(),
                })
                .collect(),
        }
    }

    fn error(failure: &Failure) -> BedrockError {
        BedrockError {
            message: failure.message(),
        }
    }

    fn error_type(failure: &Failure) -> Option<&'static str> {
        Some(match failure.kind() {
            Kind::Key => "AccessDeniedException",
            Kind::Address => "ResourceNotFoundException",
            Kind::Pace => "ThrottlingException",
            Kind::Caller | Kind::Transfer => "ValidationException",
            Kind::Unavailable | Kind::Operator => "ServiceUnavailableException",
            Kind::Deadline | Kind::Internal => "InternalServerException",
        })
    }
}

impl Dialect for InvokeModel {
    const NAME: &'static str = Bedrock::NAME;
    const TITLE: &'static str = Bedrock::TITLE;
    type Body = <cohere::V2 as Dialect>::Body;
    type Answer = <cohere::V2 as Dialect>::Answer;
    type ErrorBody = BedrockError;
    type Context = <cohere::V2 as Dialect>::Context;

    fn read(body: Self::Body, limits: &Limits) -> Result<(Request, Self::Context), Refusal> {
        cohere::V2::read(body, limits)
    }

    fn answer(context: Self::Context, ranking: &Ranking, about: &About) -> Self::Answer {
        cohere::V2::answer(context, ranking, about)
    }

    fn error(failure: &Failure) -> BedrockError {
        Bedrock::error(failure)
    }

    fn error_type(failure: &Failure) -> Option<&'static str> {
        Bedrock::error_type(failure)
    }
}
