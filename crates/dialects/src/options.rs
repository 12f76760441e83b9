//! What we add to the bodies of all dialects: how long pairs are cut, or taken apart.

use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::lenient::Bool;
use reranker_domain::{Chunking, Code, Field, Pair, Refusal, Request, Side, Truncation};

/// Tokens that a chunk repeats of the one before it, where the request does not say.
const CHUNK_OVERLAP: usize = 32;
/// Most chunks of one document that may be asked for.
const MAX_CHUNKS: usize = 1000;

/// A body with the fields of a dialect, all of them optional to serde, and ours. They stand in each body, because a flattened struct
/// would lose the path of a field of the wrong type.
macro_rules! body {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        #[derive(serde::Deserialize, utoipa::ToSchema)]
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* $field: Option<$type>,)*
            /// Whether scores are sigmoids of the logits or the logits themselves.
            normalize: Option<$crate::lenient::Bool>,
            /// Longest sequence in tokens for this request, special tokens included; at most the server's own, which is the default.
            max_length: Option<usize>,
            /// How longer pairs are cut: `longest_first`, `flag`, or `none` (they are refused); `true` and `false` stand for the
            /// first and the last.
            truncation: Option<$crate::options::TruncationName>,
            /// Most tokens of the query that are looked at; all where it is 0 or absent.
            max_tokens_per_query: Option<usize>,
            /// Most tokens of each document that are looked at; all where it is 0 or absent.
            max_tokens_per_doc: Option<usize>,
            /// A document that does not fit is scored in up to this many pieces, and the best counts; 1 means that it is cut instead.
            max_chunks_per_doc: Option<usize>,
            /// Tokens that a piece repeats of the one before it; 32 where it is absent.
            chunk_overlap: Option<usize>,
        }

        impl $name {
            fn options(&self) -> $crate::options::Options {
                $crate::options::Options {
                    normalize: self.normalize.map(|flag| flag.0),
                    max_length: self.max_length,
                    truncation: self.truncation.clone(),
                    max_tokens_per_query: self.max_tokens_per_query,
                    max_tokens_per_doc: self.max_tokens_per_doc,
                    max_chunks_per_doc: self.max_chunks_per_doc,
                    chunk_overlap: self.chunk_overlap,
                    side: reranker_domain::Side::Right,
                }
            }
        }
    };
}
pub(super) use body;

/// The fields that [`body!`] adds. A dialect may fill in what its own fields say.
pub(crate) struct Options {
    pub(crate) normalize: Option<bool>,
    pub(crate) max_length: Option<usize>,
    pub(crate) truncation: Option<TruncationName>,
    pub(crate) max_tokens_per_query: Option<usize>,
    pub(crate) max_tokens_per_doc: Option<usize>,
    pub(crate) max_chunks_per_doc: Option<usize>,
    pub(crate) chunk_overlap: Option<usize>,
    pub(crate) side: Side,
}

/// Which of two fields a body has its maximum length in: ours, or vLLM's, where -1 stands for the model's own.
pub(crate) fn max_length_name(ours: Option<usize>, prompt_tokens: Option<i64>) -> &'static str {
    match (ours, prompt_tokens) {
        (None, Some(tokens)) if tokens != -1 => "truncate_prompt_tokens",
        _ => "max_length",
    }
}

impl Options {
    /// vLLM's `truncate_prompt_tokens` as the maximum length where none is named by our own field; -1 stands for the model's own.
    pub(crate) fn or_prompt_tokens(&mut self, tokens: Option<i64>) -> Result<(), Refusal> {
        let Some(tokens) = tokens.filter(|&tokens| tokens != -1 && self.max_length.is_none())
        else {
            return Ok(());
        };
        let length = usize::try_from(tokens).map_err(|_| {
            let says = format!("is {tokens}, it must be -1 or a length");
            Refusal::of(Code::InvalidMaxLength, Field::MaxLength, says)
        })?;
        self.max_length = Some(length);
        Ok(())
    }

    /// The request for these pairs.
    pub(crate) fn into_request(self, pairs: Vec<Pair>) -> Result<Request, Refusal> {
        let chunks = self.max_chunks_per_doc.unwrap_or(1);
        if chunks > MAX_CHUNKS {
            let says = format!("is {chunks}, the limit is {MAX_CHUNKS}");
            let refusal = Refusal::of(Code::InvalidChunks, "max_chunks_per_doc", says);
            return Err(refusal.got(chunks).limit(MAX_CHUNKS));
        }
        Ok(Request {
            max_length: self.max_length,
            truncation: self.truncation.map(TruncationName::parse).transpose()?,
            side: self.side,
            max_query_tokens: self.max_tokens_per_query.filter(|&most| most > 0),
            max_document_tokens: self.max_tokens_per_doc.filter(|&most| most > 0),
            chunking: (chunks > 1).then(|| Chunking {
                max_chunks: chunks,
                overlap_tokens: self.chunk_overlap.unwrap_or(CHUNK_OVERLAP),
            }),
            ..Request::new(pairs)
        })
    }
}

/// The name of a rule, or whether there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TruncationName {
    Named(String),
    Allowed(bool),
}

impl ToSchema for TruncationName {}

impl PartialSchema for TruncationName {
    fn schema() -> RefOr<Schema> {
        let of_type = |kind| ObjectBuilder::new().schema_type(kind);
        let either =
            AnyOfBuilder::new().item(of_type(Type::String).examples([json!("longest_first")]));
        either.item(of_type(Type::Boolean)).into()
    }
}

impl TruncationName {
    fn parse(self) -> Result<Truncation, Refusal> {
        match self {
            Self::Allowed(true) => Ok(Truncation::LongestFirst),
            Self::Allowed(false) => Ok(Truncation::None),
            Self::Named(name) => Truncation::from_str(&name)
                .map_err(|message| Refusal::of(Code::InvalidTruncation, "truncation", message)),
        }
    }
}

impl From<Bool> for TruncationName {
    fn from(Bool(allowed): Bool) -> Self {
        Self::Allowed(allowed)
    }
}

impl<'de> Deserialize<'de> for TruncationName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrBool;

        impl Visitor<'_> for NameOrBool {
            type Value = TruncationName;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<TruncationName, E> {
                Ok(TruncationName::Allowed(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<TruncationName, E> {
                Ok(match value {
                    "true" | "True" => TruncationName::Allowed(true),
                    "false" | "False" => TruncationName::Allowed(false),
                    name => TruncationName::Named(name.to_owned()),
                })
            }
        }

        deserializer.deserialize_any(NameOrBool)
    }
}
