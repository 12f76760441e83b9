//! What a caller calls the fields of its request.

use std::borrow::Cow;

use reranker_domain::{Field, Refusal};

/// A body that knows its caller's names.
pub trait Named {
    /// What the caller calls the fields of the request in this body.
    fn names(&self) -> Names {
        Names::USUAL
    }
}

/// Where the queries or the documents of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At one path: there is one.
    One(&'static str),
    /// In a list, each at the same path below its item.
    Each(&'static str, &'static str),
}

impl Place {
    fn at(self, index: usize) -> Cow<'static, str> {
        match self {
            Self::One(path) => path.into(),
            Self::Each(list, below) => format!("{list}[{index}]{below}").into(),
        }
    }

    fn list(self) -> &'static str {
        match self {
            Self::One(name) | Self::Each(name, _) => name,
        }
    }
}

/// A caller's names for the [`Field`]s of its request.
///
/// The body alone tells them. Whoever refuses the request later, the engine included, need not know them.
///
/// ```
/// # use reranker_dialects::{Named, bedrock::BedrockBody};
/// # use reranker_domain::Field;
/// let body: BedrockBody = serde_json::from_str("{}")?;
/// let name = body.names().name(&Field::Document(2));
/// assert_eq!(name, "sources[2].inlineDocumentSource.textDocument.text");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    query: Place,
    document: Place,
    max_length: &'static str,
}

impl Names {
    /// Those of most: `query`, `documents[3]`, `max_length`.
    pub const USUAL: Self = Self {
        query: Place::One("query"),
        document: Place::Each("documents", ""),
        max_length: "max_length",
    };

    /// The same, with one query at this path.
    pub(crate) const fn query(self, path: &'static str) -> Self {
        Self {
            query: Place::One(path),
            ..self
        }
    }

    /// The same, with a list of queries, each at the same path below its item.
    pub(crate) const fn queries(self, list: &'static str, below: &'static str) -> Self {
        Self {
            query: Place::Each(list, below),
            ..self
        }
    }

    /// The same, with one document at this path.
    pub(crate) const fn document(self, path: &'static str) -> Self {
        Self {
            document: Place::One(path),
            ..self
        }
    }

    /// The same, with a list of documents, each at the same path below its item.
    pub(crate) const fn documents(self, list: &'static str, below: &'static str) -> Self {
        Self {
            document: Place::Each(list, below),
            ..self
        }
    }

    /// The same, with the maximum length in this field.
    pub(crate) const fn max_length(self, name: &'static str) -> Self {
        Self {
            max_length: name,
            ..self
        }
    }

    /// The caller's name for a field.
    pub fn name(&self, field: &Field) -> Cow<'static, str> {
        match field {
            Field::Query(index) => self.query.at(*index),
            Field::Queries => self.query.list().into(),
            Field::Document(index) => self.document.at(*index),
            Field::Documents => self.document.list().into(),
            Field::MaxLength => self.max_length.into(),
            Field::Named(name) => name.clone(),
            Field::In(field, path) => format!("{}{path}", self.name(field)).into(),
        }
    }

    /// A refusal's message with the caller's name for the field at fault.
    pub fn message(&self, refusal: &Refusal) -> String {
        refusal.message(|field| self.name(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::DocumentsBody;
    use crate::{azure, bedrock, mixedbread, native, pinecone, tei, vllm};
    use serde::de::DeserializeOwned;

    fn names<B: DeserializeOwned + Named>(json: &str) -> Names {
        let body: B = serde_json::from_str(json).expect("a body");
        body.names()
    }

    #[test]
    fn each_body_has_its_own_names() {
        let usual = ["query", "documents[7]", "documents", "max_length"];
        let vllm = |json| names::<vllm::ScoreBody>(json);
        let predict = |json| names::<tei::PredictBody>(json);
        for (names, expected) in [
            (names::<DocumentsBody>("{}"), usual),
            (names::<azure::AzureBody>("{}"), usual),
            (names::<pinecone::PineconeBody>("{}"), usual),
            (
                names::<DocumentsBody>(r#"{"truncate_prompt_tokens":9}"#),
                [
                    "query",
                    "documents[7]",
                    "documents",
                    "truncate_prompt_tokens",
                ],
            ),
            // -1 stands for the model's own, and our own field goes before vLLM's.
            (
                names::<DocumentsBody>(r#"{"truncate_prompt_tokens":-1}"#),
                usual,
            ),
            (
                names::<DocumentsBody>(r#"{"truncate_prompt_tokens":9,"max_length":8}"#),
                usual,
            ),
            (
                names::<mixedbread::MixedbreadBody>("{}"),
                ["query", "input[7]", "input", "max_length"],
            ),
            (
                names::<native::RerankBody>("{}"),
                ["query", "passage", "passage", "max_length"],
            ),
            (
                names::<native::BatchBody>("{}"),
                ["pairs[7].query", "pairs[7].passage", "pairs", "max_length"],
            ),
            (
                names::<bedrock::BedrockBody>("{}"),
                [
                    "queries[7].textQuery.text",
                    "sources[7].inlineDocumentSource.textDocument.text",
                    "sources",
                    "max_length",
                ],
            ),
            (
                names::<tei::TeiBody>("{}"),
                ["query", "texts[7]", "texts", "max_length"],
            ),
            (
                predict(r#"{"inputs":["q","d"]}"#),
                [
                    "inputs.text",
                    "inputs.text_pair",
                    "inputs.text_pair",
                    "max_length",
                ],
            ),
            (
                predict(r#"{"inputs":[["q","d"]]}"#),
                [
                    "inputs[7].text",
                    "inputs[7].text_pair",
                    "inputs",
                    "max_length",
                ],
            ),
            (
                vllm(r#"{"queries":"q","documents":["d"]}"#),
                ["queries", "documents[7]", "documents", "max_length"],
            ),
            (
                vllm(r#"{"text_1":["q"],"text_2":"d","data_2":["e"],"truncate_prompt_tokens":9}"#),
                ["text_1[7]", "text_2", "text_2", "truncate_prompt_tokens"],
            ),
            (
                vllm(r#"{"data_1":"q","items":["d"],"text_2":["e"]}"#),
                ["data_1", "items[7]", "items", "max_length"],
            ),
        ] {
            let fields = [
                Field::Query(7),
                Field::Document(7),
                Field::Documents,
                Field::MaxLength,
            ];
            assert_eq!(fields.map(|field| names.name(&field)), expected);
        }
    }

    #[test]
    fn a_place_within_a_field_is_below_its_name() {
        let names = names::<bedrock::BedrockBody>("{}");
        let field = Field::Documents.at("[3]").at(".type");
        assert_eq!(names.name(&field), "sources[3].type");
        assert_eq!(names.name(&"top_n".into()), "top_n");
    }
}
