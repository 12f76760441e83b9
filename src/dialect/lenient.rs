//! How leniently wire types are read: what clients are known to send, and nothing beyond it.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// `true`, `false`, or one of them as a string, which some clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bool(pub bool);

impl ToSchema for Bool {}

impl PartialSchema for Bool {
    fn schema() -> RefOr<Schema> {
        let words = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["true", "false", "True", "False"]));
        let either = AnyOfBuilder::new().item(ObjectBuilder::new().schema_type(Type::Boolean));
        either.item(words).into()
    }
}

impl<'de> Deserialize<'de> for Bool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBool;

        impl Visitor<'_> for AsBool {
            type Value = Bool;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a boolean")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Bool, E> {
                Ok(Bool(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bool, E> {
                match value {
                    "true" | "True" => Ok(Bool(true)),
                    "false" | "False" => Ok(Bool(false)),
                    _ => Err(E::invalid_type(de::Unexpected::Str(""), &self)),
                }
            }
        }

        deserializer.deserialize_any(AsBool)
    }
}

/// A document: a text, or an object of which fields are named elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Document {
    Text(String),
    #[schema(value_type = std::collections::HashMap<String, serde_json::Value>)]
    Fields(Map<String, Value>),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrFields;

        impl<'de> Visitor<'de> for TextOrFields {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an object")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Document, E> {
                Ok(Document::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Document, E> {
                Ok(Document::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
                Map::deserialize(MapAccessDeserializer::new(map)).map(Document::Fields)
            }
        }

        deserializer.deserialize_any(TextOrFields)
    }
}

/// One of something, or a list of them.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(de::value::StrDeserializer::new(text)).map(OneOrMany::One)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_may_be_strings_and_nothing_else() {
        let read = |json: &str| serde_json::from_str::<Bool>(json).ok().map(|b| b.0);
        assert_eq!((read("true"), read("\"True\"")), (Some(true), Some(true)));
        assert_eq!(
            (read("false"), read("\"false\"")),
            (Some(false), Some(false))
        );
        assert_eq!(
            (read("1"), read("\"yes\""), read("null")),
            (None, None, None)
        );
    }

    #[test]
    fn a_document_is_a_text_or_an_object() {
        let read = |json: &str| serde_json::from_str::<Document>(json);
        assert_eq!(read("\"a\"").expect("a text"), Document::Text("a".into()));
        assert!(matches!(
            read(r#"{"text": "a", "n": 1}"#).expect("an object"),
            Document::Fields(fields) if fields.len() == 2
        ));
        assert!(read("[1]").is_err() && read("7").is_err());
    }
}
