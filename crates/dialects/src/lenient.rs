//! How leniently wire types are read: what clients are known to send, and nothing beyond it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, Unexpected, Visitor};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};

use reranker_domain::{Field, Refusal};
use reranker_json as json;

/// `true`, `false`, or one of them as a string, which some clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bool(pub bool);

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

/// A text, or an object that has it in a field: `text`, `content`, or those that are named elsewhere.
pub(crate) enum Document {
    Text(String),
    Fields(Box<RawValue>),
}

impl ToSchema for Document {}

impl PartialSchema for Document {
    fn schema() -> RefOr<Schema> {
        let anything = AdditionalProperties::FreeForm(true);
        let object = ObjectBuilder::new().schema_type(Type::Object);
        let either = AnyOfBuilder::new().item(ObjectBuilder::new().schema_type(Type::String));
        let object = object.additional_properties(Some(anything));
        either.item(object).into()
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        match JsonType::of(raw) {
            JsonType::Text => serde_json::from_str(raw.get())
                .map(Self::Text)
                .map_err(de::Error::custom),
            JsonType::Object => Ok(Self::Fields(raw.to_owned())),
            kind => Err(kind.instead_of("a string or an object")),
        }
    }
}

/// What a JSON value is, by its first character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonType {
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
}

impl JsonType {
    pub(crate) fn of(raw: &RawValue) -> Self {
        match raw.get().bytes().next() {
            Some(b'"') => Self::Text,
            Some(b'[') => Self::List,
            Some(b'{') => Self::Object,
            Some(b't' | b'f') => Self::Bool,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    /// The error of a value of another type, without the value.
    fn instead_of<E: de::Error>(self, expected: &str) -> E {
        let unexpected = match self {
            Self::Null => Unexpected::Unit,
            Self::Bool => Unexpected::Bool(false),
            Self::Number => Unexpected::Signed(0),
            Self::Text => Unexpected::Str(""),
            Self::List => Unexpected::Seq,
            Self::Object => Unexpected::Map,
        };
        E::invalid_type(unexpected, &expected)
    }
}

/// A list as it came. Its items are read one by one, once it is known that there are not too many of them.
pub struct List<T> {
    json: Box<RawValue>,
    item: PhantomData<fn() -> T>,
}

impl<T> List<T> {
    fn new(raw: &RawValue) -> Self {
        Self {
            json: raw.to_owned(),
            item: PhantomData,
        }
    }

    pub(crate) fn count(&self) -> usize {
        let mut count = 0;
        let counted = json::each("".into(), self.json.get(), |_, _: IgnoredAny| {
            count += 1;
            Ok(())
        });
        // What is ignored has no type that could be wrong.
        debug_assert!(counted.is_ok());
        count
    }
}

impl<'a, T: Deserialize<'a>> List<T> {
    /// Hands over the items with their places, until one is refused. `field` is the list's.
    pub(crate) fn each(
        &'a self,
        field: Field,
        take: impl FnMut(usize, T) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        json::each(field, self.json.get(), take)
    }
}

impl<'de, T> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        match JsonType::of(raw) {
            JsonType::List => Ok(Self::new(raw)),
            kind => Err(kind.instead_of("an array")),
        }
    }
}

/// Documents: a list of them; one alone stands for a list of one.
pub(crate) enum Documents {
    One(Document),
    Many(List<Document>),
}

impl Documents {
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(list) => list.count(),
        }
    }

    /// Hands over the documents with their places, until one is refused. `field` is the list's.
    pub(crate) fn each(
        self,
        field: Field,
        mut take: impl FnMut(usize, Document) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        match self {
            Self::One(document) => take(0, document),
            Self::Many(list) => list.each(field, take),
        }
    }
}

impl<'de> Deserialize<'de> for Documents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        match JsonType::of(raw) {
            JsonType::List => Ok(Self::Many(List::new(raw))),
            JsonType::Text | JsonType::Object => serde_json::from_str(raw.get())
                .map(Self::One)
                .map_err(de::Error::custom),
            kind => Err(kind.instead_of("an array")),
        }
    }
}

impl ToSchema for Documents {}

impl PartialSchema for Documents {
    fn schema() -> RefOr<Schema> {
        let either = AnyOfBuilder::new().item(Document::schema());
        let list = ArrayBuilder::new().items(Document::schema());
        either.item(list).into()
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
        assert!(matches!(read("\"a\\n\""), Ok(Document::Text(text)) if text == "a\n"));
        let object = r#"{"text": "a", "n": 1.10}"#;
        assert!(matches!(read(object), Ok(Document::Fields(raw)) if raw.get() == object));
        assert!(read("[1]").is_err() && read("7").is_err() && read("null").is_err());
    }

    #[test]
    fn a_list_is_counted_and_read_item_by_item() {
        let read = |json: &str| -> Result<(usize, Vec<String>), String> {
            let list: Documents = serde_json::from_str(json).map_err(|error| error.to_string())?;
            let (count, mut seen) = (list.count(), Vec::new());
            let all = list.each("list".into(), |index, item| {
                let text = match item {
                    Document::Text(text) => text,
                    Document::Fields(raw) => raw.get().to_owned(),
                };
                seen.push(format!("{index} {text}"));
                Ok(())
            });
            all.map(|()| (count, seen))
                .map_err(|refusal| refusal.to_string())
        };
        let seen =
            |items: &[&str]| Ok((items.len(), items.iter().map(|s| s.to_string()).collect()));
        assert_eq!(read("[]"), seen(&[]));
        assert_eq!(read(r#"["a", {"b": 1}]"#), seen(&["0 a", r#"1 {"b": 1}"#]));
        assert_eq!(read(r#""a""#), seen(&["0 a"]));
        assert_eq!(read("{}"), seen(&["0 {}"]));
        let wrong = "list[1] is a number, expected a string or an object".to_owned();
        assert_eq!(read(r#"["a", 7]"#), Err(wrong));
        assert!(read("7").is_err_and(|error| error.contains("expected an array")));
    }
}
