//! What a reranker's span says by the OpenInference convention, which tools for tracing language
//! models read.
//!
//! Lists are flattened into attributes with numbers in their names, so they are set one by one.

use opentelemetry::Value;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Traces;

/// Of longer lists the beginning is told: a span is one message in memory.
const MOST_DOCUMENTS: usize = 100;
/// Most characters told of one text.
const MOST_CHARS: usize = 1000;

/// A ranking.
#[derive(Debug, Clone)]
pub struct Reranked<'a, Inputs, Outputs> {
    pub model: &'a str,
    /// How many documents were asked for, where that was limited.
    pub top_k: Option<usize>,
    /// Nothing where each pair has its own.
    pub query: Option<&'a str>,
    /// The documents' texts (`&str`), in the request's order.
    pub inputs: Inputs,
    /// Index of a document in `inputs` and its score, in the answer's order.
    pub outputs: Outputs,
}

impl Traces {
    /// Makes `span` a reranker's. A document's id is its place in the request; query and texts are
    /// told only where that was asked for.
    pub fn record<'a, Inputs, Outputs>(&self, span: &Span, ranking: Reranked<'a, Inputs, Outputs>)
    where
        Inputs: IntoIterator<Item = &'a str>,
        Outputs: IntoIterator<Item = (usize, f32)>,
    {
        if !self.records(span) {
            return;
        }
        let content = self.with_content();
        span.set_attribute("openinference.span.kind", "RERANKER");
        span.set_attribute("reranker.model_name", ranking.model.to_owned());
        if let Some(top_k) = ranking.top_k {
            span.set_attribute("reranker.top_k", top_k as i64);
        }
        if let Some(query) = ranking.query.filter(|_| content) {
            span.set_attribute("reranker.query", beginning(query));
        }
        let inputs: Vec<&str> = ranking.inputs.into_iter().collect();
        let set = |list: &str, place: usize, field: &str, value: Value| {
            let key = format!("reranker.{list}.{place}.document.{field}");
            span.set_attribute(key, value);
        };
        // The ranking first: what exceeds the limit of attributes is dropped from the end.
        let outputs = ranking.outputs.into_iter().take(MOST_DOCUMENTS);
        for (place, (index, score)) in outputs.enumerate() {
            set("output_documents", place, "id", index.to_string().into());
            set("output_documents", place, "score", f64::from(score).into());
            if let Some(text) = inputs.get(index).filter(|_| content) {
                set("output_documents", place, "content", beginning(text).into());
            }
        }
        for (index, text) in inputs.iter().take(MOST_DOCUMENTS).enumerate() {
            set("input_documents", index, "id", index.to_string().into());
            if content {
                set("input_documents", index, "content", beginning(text).into());
            }
        }
    }
}

fn beginning(text: &str) -> String {
    text.chars().take(MOST_CHARS).collect()
}
