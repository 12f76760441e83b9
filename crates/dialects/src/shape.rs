//! Whose body it is: what tells apart the dialects that share a path, and names that are nearly ours.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient::JsonType;
use reranker_domain::{Code, Refusal};

/// Whose body it is, by the fields that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `query` and `passage`: one pair.
    Native,
    /// `pairs`.
    NativeBatch,
    /// `texts`: text-embeddings-inference's.
    Tei,
    /// `queries` and `sources`: Amazon Bedrock's.
    Bedrock,
    /// `documents`, from one of Pinecone's clients.
    Pinecone,
    /// `documents`: Cohere's, Jina's and those of all who copy them.
    Common,
    /// `input`: Mixedbread's.
    Mixedbread,
    /// `queries` or `text_1` with their counterparts: vLLM's score.
    VllmScore,
}

impl Shape {
    /// A path that takes such bodies.
    fn path(self) -> &'static str {
        match self {
            Self::NativeBatch => "/rerank/batch",
            Self::VllmScore => "/score",
            _ => "/rerank",
        }
    }
}

/// What besides the body says whose it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sender {
    /// It has the header that only Pinecone's clients send: their bodies look like Cohere's.
    pub of_pinecone: bool,
    /// It came to a path that text-embeddings-inference has too.
    pub of_tei: bool,
}

/// Fields by which dialects are told apart.
const TELLING: [&str; 11] = [
    "query",
    "passage",
    "pairs",
    "texts",
    "queries",
    "sources",
    "documents",
    "items",
    "input",
    "text_1",
    "data_1",
];

/// What other services call fields of ours.
const COUSINS: [(&str, &str); 8] = [
    ("passages", "passage (one) or documents (many)"),
    ("docs", "documents"),
    ("document", "passage (one) or documents (many)"),
    ("candidates", "documents"),
    ("sentences", "documents"),
    ("text", "passage (one) or documents (many)"),
    ("inputs", "input or pairs"),
    ("q", "query"),
];

/// Most unknown names that are kept, and their longest.
const KEPT_NAMES: usize = 32;
const LONGEST_NAME: usize = 32;

/// Which fields are there; their values are passed over. `null` is as good as absent.
#[derive(Debug, Default)]
pub struct Fields {
    /// By their places in [`TELLING`].
    kinds: [Option<JsonType>; TELLING.len()],
    /// Other names, for what they are near to.
    others: Vec<String>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<Name>()? {
                    let other = match name {
                        Name::Telling(place) => {
                            let kind = JsonType::of(map.next_value::<&RawValue>()?);
                            if fields.kinds[place].replace(kind).is_some() {
                                return Err(de::Error::duplicate_field(TELLING[place]));
                            }
                            continue;
                        }
                        Name::Other(name) => name,
                    };
                    map.next_value::<IgnoredAny>()?;
                    if fields.others.len() < KEPT_NAMES {
                        fields.others.extend(other);
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// A field's name.
enum Name {
    Telling(usize),
    /// Where it is not too long to be near to one of ours.
    Other(Option<String>),
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match TELLING.iter().position(|known| *known == name) {
                    Some(place) => Name::Telling(place),
                    None => Name::Other((name.len() <= LONGEST_NAME).then(|| name.to_owned())),
                })
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Fields {
    fn kind(&self, name: &str) -> Option<JsonType> {
        let place = TELLING.iter().position(|known| *known == name)?;
        self.kinds[place].filter(|&kind| kind != JsonType::Null)
    }

    fn has(&self, name: &str) -> bool {
        self.kind(name).is_some()
    }

    /// The shape of a body for a path that several dialects share; the error says what would have done.
    pub fn shape(&self, sender: Sender) -> Result<Shape, Refusal> {
        let documents = self.has("documents");
        // One body for all servers may have the texts twice, or a flag of that name.
        let texts = match self.kind("texts") {
            Some(JsonType::List) => sender.of_tei || !documents,
            Some(_) => !documents,
            None => false,
        };
        Ok(if sender.of_pinecone {
            Shape::Pinecone
        } else if self.has("queries") && self.has("sources") {
            Shape::Bedrock
        } else if self.has("pairs") {
            Shape::NativeBatch
        } else if self.has("passage") {
            Shape::Native
        } else if texts {
            Shape::Tei
        } else if self.has("text_1")
            || self.has("data_1")
            || (self.has("queries") && (documents || self.has("items")))
        {
            Shape::VllmScore
        } else if documents {
            Shape::Common
        } else if self.has("input") {
            Shape::Mixedbread
        } else {
            return Err(Refusal::new(Code::UnknownShape, self.no_shape()));
        })
    }

    fn no_shape(&self) -> String {
        match self.cousin() {
            Some((theirs, ours)) => format!("the body has {theirs}: did you mean {ours}?"),
            None => "the body has nothing to score: expected query with passage, documents, texts or input, or pairs, or queries \
                     with sources; /docs shows each"
                .into(),
        }
    }

    /// A name of other services, and ours for the same.
    fn cousin(&self) -> Option<(&'static str, &'static str)> {
        let known = |(theirs, _): &&(&str, &str)| self.others.iter().any(|name| name == theirs);
        COUSINS.iter().find(known).copied()
    }

    /// What is added to the refusal of a body that lacks `field`, where it shows what was meant.
    pub fn hint(&self, field: &str, sender: Sender) -> Option<String> {
        if field == "query" || !TELLING.contains(&field) {
            return None;
        }
        match self.shape(sender) {
            Ok(shape) => Some(format!("a body like this belongs to {}", shape.path())),
            Err(_) => self
                .cousin()
                .map(|(theirs, ours)| format!("the body has {theirs}, did you mean {ours}?")),
        }
    }

    /// Fields that nobody knows and that are nearly one of `known`, each with that one.
    pub fn nearly<'a>(&'a self, known: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let others = self.others.iter().map(String::as_str);
        others.filter_map(|name| Some((name, nearest(name, known)?)))
    }
}

/// What is one or two letters from a name, where the name itself is not known.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    if known.iter().any(|known| known == name) {
        return None;
    }
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let letters = plain(name);
    let most = if letters.len() < 6 { 1 } else { 2 };
    known
        .iter()
        .filter(|known| known.len().abs_diff(name.len()) <= 3)
        .map(|known| {
            let distance = strsim::osa_distance(&letters, &plain(known));
            // Of names with the same letters, the one that is spelt alike.
            (distance, strsim::osa_distance(name, known), known)
        })
        .filter(|(distance, ..)| *distance <= most)
        .min()
        .map(|(.., known)| known.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        reranker_json::parse(json.as_bytes()).expect("an object")
    }

    #[test]
    fn a_body_shows_whose_it_is() {
        let (common, tei) = (
            Sender::default(),
            Sender {
                of_tei: true,
                ..Sender::default()
            },
        );
        for (body, sender, shape) in [
            (r#"{"query":"q","passage":"p"}"#, tei, Shape::Native),
            (r#"{"pairs":[]}"#, tei, Shape::NativeBatch),
            (r#"{"query":"q","texts":["t"]}"#, tei, Shape::Tei),
            (r#"{"query":"q","texts":["t"]}"#, common, Shape::Tei),
            (r#"{"texts":"t"}"#, common, Shape::Tei),
            (r#"{"texts":["t"],"documents":["t"]}"#, tei, Shape::Tei),
            (
                r#"{"texts":["t"],"documents":["t"]}"#,
                common,
                Shape::Common,
            ),
            (r#"{"texts":true,"documents":["t"]}"#, tei, Shape::Common),
            (r#"{"texts":null,"documents":["t"]}"#, tei, Shape::Common),
            (r#"{"texts":["t"],"documents":null}"#, common, Shape::Tei),
            (r#"{"queries":[],"sources":[]}"#, tei, Shape::Bedrock),
            (r#"{"queries":[],"documents":[]}"#, tei, Shape::VllmScore),
            (r#"{"text_1":"q","text_2":"d"}"#, tei, Shape::VllmScore),
            (r#"{"input":["d"]}"#, tei, Shape::Mixedbread),
        ] {
            assert_eq!(fields(body).shape(sender), Ok(shape), "{body}");
        }
        let pinecone = Sender {
            of_pinecone: true,
            of_tei: true,
        };
        let shape = fields(r#"{"documents":["t"]}"#).shape(pinecone);
        assert_eq!(shape, Ok(Shape::Pinecone));
    }

    #[test]
    fn a_body_of_no_shape_is_told_what_was_meant() {
        for (body, says) in [
            ("{}", "the body has nothing to score"),
            (r#"{"query":"q"}"#, "expected query with passage, documents"),
            (
                r#"{"query":"q","passages":["a"]}"#,
                "the body has passages: did you mean passage (one) or documents (many)?",
            ),
            (
                r#"{"query":"q","docs":["a"]}"#,
                "the body has docs: did you mean documents?",
            ),
        ] {
            let error = fields(body).shape(Sender::default()).expect_err(body);
            let message = error.to_string();
            assert!(message.contains(says), "{message}");
            assert!(message.split(' ').count() <= 25, "{message}");
        }
        let sender = Sender::default();
        let batch = fields(r#"{"query":"q","documents":["d"]}"#).hint("pairs", sender);
        assert_eq!(
            batch.as_deref(),
            Some("a body like this belongs to /rerank")
        );
        assert!(fields("{}").hint("pairs", sender).is_none());
        assert!(fields("{}").hint("query", sender).is_none());
    }

    #[test]
    fn a_name_that_is_nearly_ours_is_found() {
        let known: Vec<String> = ["normalize", "top_n", "top_k", "min_score"]
            .map(String::from)
            .into();
        for (name, expected) in [
            ("normalise", Some("normalize")),
            ("Normalize", Some("normalize")),
            ("topn", Some("top_n")),
            ("top-n", Some("top_n")),
            ("topN", Some("top_n")),
            ("minscore", Some("min_score")),
            ("normalize", None),
            ("user", None),
            ("id", None),
            ("title", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        let many: Vec<String> = (0..100).map(|i| format!(r#""x{i}":1"#)).collect();
        let long = "x".repeat(40);
        let body = format!(r#"{{"{long}":1,{}}}"#, many.join(","));
        assert_eq!(fields(&body).others.len(), KEPT_NAMES);
        let twice = reranker_json::parse::<Fields>(br#"{"query":1,"query":2}"#);
        let message = twice.expect_err("refused").to_string();
        assert_eq!(message, "query is given twice");
    }
}
