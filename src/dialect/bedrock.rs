//! Amazon Bedrock's Rerank, of the agent runtime's API.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Object;
use super::options::body;
use super::{About, Dialect, Failure, Shown, required};
use crate::error::Invalid;
use crate::rerank::{Limits, Pair, Ranking, Request, Selection};

pub struct Bedrock;

body! {
    /// One query and the sources to rank.
    #[schema(example = json!({"queries": [{"type": "TEXT", "textQuery": {"text": "what is a panda?"}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text":
            "The giant panda is a bear species endemic to China."}}}]}))]
    pub struct BedrockBody {
        /// Exactly one.
        #[schema(required = true, value_type = Vec<BedrockQuery>)]
        queries: Vec<Object<BedrockQuery>>,
        #[schema(required = true, value_type = Vec<Source>)]
        sources: Vec<Object<Source>>,
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

#[derive(Debug, Deserialize, ToSchema)]
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
    json_document: Option<Map<String, Value>>,
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
    fn text(&self, index: usize) -> Result<String, Invalid> {
        let inline = self
            .inline_document_source
            .as_ref()
            .map(|Object(source)| source);
        let text = inline.and_then(|source| source.text_document.as_ref());
        let json = inline.and_then(|source| source.json_document.clone());
        match (text, json) {
            (Some(Object(text)), _) => required(text.text.clone(), || field(index)),
            (None, Some(json)) => Ok(Value::Object(json).to_string()),
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
    type Kept = Selection;

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
        let mut queries = required(body.queries, || "queries".into())?;
        if queries.len() != 1 {
            let message = format!("{} queries, exactly 1 is taken", queries.len());
            return Err(Invalid::new("too_many_queries", message)
                .field("queries")
                .got(queries.len())
                .limit(1));
        }
        let Object(query) = queries.remove(0);
        let query = query.text_query.and_then(|Object(query)| query.text);
        let query = required(query, query_field)?;
        limits.check_query(query_field, &query)?;
        let query: Arc<str> = query.into();
        let sources = required(body.sources, || "sources".into())?;
        limits.check_pairs("sources", sources.len())?;
        let pairs = sources.iter().enumerate().map(|(index, Object(source))| {
            let text = source.text(index)?;
            limits.check_text(|| field(index), &text)?;
            Ok(Pair {
                query: Arc::clone(&query),
                document: text.into(),
            })
        });
        let pairs = pairs.collect::<Result<_, Invalid>>()?;
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
