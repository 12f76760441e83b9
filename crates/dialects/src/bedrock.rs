//! Amazon Bedrock's Rerank, of the agent runtime's API.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::lenient::{Kind, List};
use super::options::body;
use super::text::value_text;
use super::{About, Dialect, Failure, Object, Shown, cohere, required};
use reranker_domain::{Invalid, Limits, Pair, Ranking, Request, Selection};

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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockQuery {
    #[schema(value_type = TextContent)]
    text_query: Option<Object<TextContent>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct TextContent {
    #[schema(required = true, value_type = String)]
    text: Option<String>,
}

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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[schema(value_type = Option<BedrockConfiguration>)]
    bedrock_reranking_configuration: Option<Object<BedrockConfiguration>>,
}

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

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockItem {
    index: usize,
    relevance_score: f64,
    #[serde(flatten)]
    shown: Shown,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BedrockError {
    message: String,
}

impl Source {
    fn text(self, index: usize) -> Result<String, Invalid> {
        let inline = self.inline_document_source.map(|Object(source)| source);
        let inline = required(inline, || field(index))?;
        match (inline.text_document, inline.json_document) {
            (Some(Object(text)), _) => required(text.text, || field(index)),
            (None, Some(json)) if Kind::of(&json) == Kind::Object => {
                Ok(value_text(&json)?.unwrap_or_default().into_owned())
            }
            (None, Some(_)) => {
                let field = format!("sources[{index}].inlineDocumentSource.jsonDocument");
                let message = format!("{field} is no object");
                Err(Invalid::new("wrong_type", message).field(field))
            }
            (None, None) => required(None, || field(index)),
        }
    }
}

fn field(index: usize) -> String {
    format!("sources[{index}].inlineDocumentSource.textDocument.text")
}

impl Dialect for Bedrock {
    const NAME: &'static str = "bedrock";
    const TITLE: &'static str = "Amazon Bedrock";
    type Body = BedrockBody;
    type Answer = BedrockAnswer;
    type ErrorBody = BedrockError;
    type Context = Selection;

    fn read(body: BedrockBody, limits: &Limits) -> Result<(Request, Selection), Invalid> {
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
        let query_field = || "queries[0].textQuery.text".to_owned();
        let queries = required(body.queries, || "queries".into())?;
        let count = queries.count();
        if count != 1 {
            let message = format!("{count} queries, exactly 1 is taken");
            return Err(Invalid::new("too_many_queries", message)
                .field("queries")
                .got(count)
                .limit(1));
        }
        let mut query = None;
        queries.each("queries", |_, Object(one)| {
            query = one.text_query.and_then(|Object(text)| text.text);
            Ok(())
        })?;
        let query = required(query, query_field)?;
        limits.check_query(query_field, &query)?;
        let query: Arc<str> = query.into();
        let sources = required(body.sources, || "sources".into())?;
        let count = sources.count();
        limits.check_pairs("sources", count)?;
        let mut pairs = Vec::with_capacity(count);
        sources.each("sources", |index, Object(source)| {
            let text = source.text(index)?;
            limits.check_text(|| field(index), &text)?;
            pairs.push(Pair {
                query: Arc::clone(&query),
                document: text.into(),
            });
            Ok(())
        })?;
        let request = Request {
            top: selection.top,
            ..options.into_request(pairs, field)?
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
            message: failure.message.clone(),
        }
    }

    fn error_type(failure: &Failure) -> Option<&'static str> {
        Some(match failure.status {
            401 => "AccessDeniedException",
            404 => "ResourceNotFoundException",
            429 => "ThrottlingException",
            400..=499 => "ValidationException",
            503 => "ServiceUnavailableException",
            _ => "InternalServerException",
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

    fn read(body: Self::Body, limits: &Limits) -> Result<(Request, Self::Context), Invalid> {
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
