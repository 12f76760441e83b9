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
