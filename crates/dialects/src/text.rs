//! Which text of a query or document is scored: all of it, or of an object its field `text`, the parts of its `content`, or the fields
//! that `rank_fields` names.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::lenient::{Document, JsonType, List};
use super::required;
use reranker_domain::{Code, Field, Refusal};
use reranker_json as json;

/// Most names of one request.
const MAX_RANK_FIELDS: usize = 100;

/// Fields in which clients put what no text model reads.
const MEDIA: [(&str, &str); 8] = [
    ("image", "an image"),
    ("image_url", "an image"),
    ("input_image", "an image"),
    ("video", "a video"),
    ("video_url", "a video"),
    ("audio", "a sound"),
    ("audio_url", "a sound"),
    ("input_audio", "a sound"),
];

/// The fields of an object that are scored.
pub(crate) enum RankFields {
    /// `text`, or the parts of `content`.
    Usual,
    /// By their names, each with its place in the text.
    Named(BTreeMap<String, usize>),
}

impl RankFields {
    pub(crate) fn read(names: Option<&List<String>>) -> Result<Self, Refusal> {
        let field = "rank_fields";
        let Some((names, count @ 1..)) = names.map(|names| (names, names.count())) else {
            return Ok(Self::Usual);
        };
        let code = Code::InvalidRankFields;
        if count > MAX_RANK_FIELDS {
            let says = format!("has {count} names, the limit is {MAX_RANK_FIELDS}");
            let refusal = Refusal::of(code, field, says);
            return Err(refusal.got(count).limit(MAX_RANK_FIELDS));
        }
        let mut places = BTreeMap::new();
        names.each(field.into(), |index, name| {
            match places.insert(name, index) {
                None => Ok(()),
                Some(first) => {
                    let message = format!("{field}[{index}] is the same as {field}[{first}]");
                    Err(Refusal::new(code, message).field(field))
                }
            }
        })?;
        Ok(Self::Named(places))
    }

    /// What of a document is scored.
    pub(crate) fn text(&self, document: Document, field: &Field) -> Result<String, Refusal> {
        match document {
            Document::Text(text) => Ok(text),
            Document::Fields(object) => self.of_object(&object, field),
        }
    }

    /// What of an object is scored.
    pub(crate) fn of_object(&self, object: &RawValue, field: &Field) -> Result<String, Refusal> {
        let Self::Named(places) = self else {
            return usual_text(object, field);
        };
        let place = |name: &str| places.get(name).copied();
        let values = json::pick(object.get(), places.len(), place)?;
        let mut texts = Vec::new();
        for value in values.into_iter().flatten() {
            texts.extend(value_text(value)?);
        }
        if texts.is_empty() {
            let says = "has none of the rank_fields";
            let refusal = Refusal::of(Code::MissingField, field.clone(), says);
            return Err(refusal.field(field.clone().at(".text")));
        }
        Ok(texts.join("\n"))
    }
}

fn usual_text(object: &RawValue, field: &Field) -> Result<String, Refusal> {
    let fields = Usual::of(object)?;
    if let Some(text) = fields.text {
        return Ok(text.into_owned());
    }
    match fields.content {
        Some(content) if JsonType::of(content) == JsonType::List => parts(content, field),
        Some(content) if JsonType::of(content) == JsonType::Text => {
            Ok(value_text(content)?.unwrap_or_default().into_owned())
        }
        _ => Err(match fields.media {
            Some(media) => not_a_text(field.clone(), media),
            None => Refusal::of(
                Code::MissingField,
                field.clone().at(".text"),
                "is missing; rank_fields can name other fields",
            ),
        }),
    }
}

/// The texts of a message's content, one below the other.
fn parts(content: &RawValue, field: &Field) -> Result<String, Refusal> {
    let mut text = String::new();
    let list = field.clone().at(".content");
    json::each(list.clone(), content.get(), |index, part: Document| {
        if index > 0 {
            text.push('\n');
        }
        let part = match part {
            Document::Text(text) => text,
            Document::Fields(object) => {
                let fields = Usual::of(&object)?;
                let field = || list.clone().at(format!("[{index}]"));
                match (fields.text, fields.media) {
                    (Some(text), _) => text.into_owned(),
                    (None, Some(media)) => return Err(not_a_text(field(), media)),
                    (None, None) => return required(None, field().at(".text")),
                }
            }
        };
        text.push_str(&part);
        Ok(())
    })?;
    Ok(text)
}

fn not_a_text(field: Field, media: &str) -> Refusal {
    let says = format!("is {media}, only texts can be scored");
    Refusal::of(Code::WrongType, field, says)
}

/// The fields that say what an object is, where nothing else is named.
struct Usual<'a> {
    text: Option<Cow<'a, str>>,
    content: Option<&'a RawValue>,
    media: Option<&'static str>,
}

impl<'a> Usual<'a> {
    fn of(object: &'a RawValue) -> Result<Self, Refusal> {
        let place = |name: &str| match name {
            "text" => Some(0),
            "content" => Some(1),
            _ => MEDIA
                .iter()
                .position(|(field, _)| *field == name)
                .map(|at| at + 2),
        };
        let values = json::pick(object.get(), MEDIA.len() + 2, place)?;
        let there = |value: &&RawValue| JsonType::of(value) != JsonType::Null;
        let media = MEDIA.iter().zip(&values[2..]);
        let mut media = media.filter(|(_, value)| value.as_ref().is_some_and(there));
        Ok(Self {
            text: values[0].map(value_text).transpose()?.flatten(),
            content: values[1].filter(there),
            media: media.next().map(|((_, what), _)| *what),
        })
    }
}

/// A value as text: a string's own, a number as it was sent, and lists and objects as JSON. `null` has none.
pub(crate) fn value_text(value: &RawValue) -> Result<Option<Cow<'_, str>>, Refusal> {
    Ok(match JsonType::of(value) {
        JsonType::Null => None,
        JsonType::Text => Some(json::string(value.get())?),
        JsonType::Bool | JsonType::Number => Some(value.get().into()),
        JsonType::List | JsonType::Object => Some(json::compact(value.get()).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: &RankFields, document: &str) -> Result<String, (&'static str, String)> {
        let document = serde_json::from_str(document).expect("a document");
        let text = fields.text(document, &Field::Document(3));
        text.map_err(|refusal| (refusal.code.name(), refusal.to_string()))
    }

    fn named(names: &str) -> Result<RankFields, Refusal> {
        RankFields::read(Some(&serde_json::from_str(names).expect("a list")))
    }

    #[test]
    fn what_is_scored_of_a_document() {
        let usual = RankFields::Usual;
        let fields = named(r#"["n", "title", "none", "more", "é"]"#).expect("names");
        for (fields, document, expected) in [
            (&usual, r#""plain\u00e9""#, "plainé"),
            (
                &usual,
                r#"{"x": [1], "text": "a\nb", "image": "u"}"#,
                "a\nb",
            ),
            (&usual, r#"{"text": 1.10}"#, "1.10"),
            (&usual, r#"{"text": "first", "text": "last"}"#, "last"),
            (&usual, r#"{"text": null, "content": "c"}"#, "c"),
            (
                &usual,
                r#"{"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"text": "c"}]}"#,
                "a\nb\nc",
            ),
            (&usual, r#"{"content": []}"#, ""),
            (
                &fields,
                r#"{"title": "t", "n": 12345678901234567890123, "other": {}}"#,
                "12345678901234567890123\nt",
            ),
            (
                &fields,
                r#"{"none": null, "more": { "b" : 1.0, "a": ["\u00e9", true] }, "\u00e9": false}"#,
                "{\"b\":1.0,\"a\":[\"é\",true]}\nfalse",
            ),
            (&fields, r#"{"title": ""}"#, ""),
        ] {
            assert_eq!(
                text(fields, document).as_deref(),
                Ok(expected),
                "{document}"
            );
        }
    }

    #[test]
    fn what_has_no_text_is_refused_by_name() {
        let usual = RankFields::Usual;
        let fields = named(r#"["title"]"#).expect("names");
        for (fields, document, code, message) in [
            (
                &usual,
                "{}",
                "missing_field",
                "documents[3].text is missing; rank_fields can name other fields",
            ),
            (
                &fields,
                r#"{"text": "t", "title": null}"#,
                "missing_field",
                "documents[3] has none of the rank_fields",
            ),
            (
                &usual,
                r#"{"image": "https://a.example/b.png"}"#,
                "wrong_type",
                "documents[3] is an image, only texts can be scored",
            ),
            (
                &usual,
                r#"{"content": [{"type": "text", "text": "a"}, {"type": "video_url", "video_url": {"url": "u"}}]}"#,
                "wrong_type",
                "documents[3].content[1] is a video, only texts can be scored",
            ),
            (
                &usual,
                r#"{"content": [{"type": "text"}]}"#,
                "missing_field",
                "documents[3].content[0].text is missing",
            ),
            (
                &usual,
                r#"{"content": [7]}"#,
                "wrong_type",
                "documents[3].content[0] is a number, expected a string or an object",
            ),
        ] {
            let expected = Err((code, message.to_owned()));
            assert_eq!(text(fields, document), expected, "{document}");
        }
    }

    #[test]
    fn names_are_few_and_different() {
        assert!(matches!(RankFields::read(None), Ok(RankFields::Usual)));
        assert!(matches!(named("[]"), Ok(RankFields::Usual)));
        let names = |count: usize| {
            let names: Vec<String> = (0..count).map(|name| name.to_string()).collect();
            serde_json::to_string(&names).expect("JSON")
        };
        assert!(named(&names(MAX_RANK_FIELDS)).is_ok());
        for (names, message) in [
            (names(101), "rank_fields has 101 names, the limit is 100"),
            (
                r#"["a", "b", "a"]"#.into(),
                "rank_fields[2] is the same as rank_fields[0]",
            ),
            (
                r#"["a", 7]"#.into(),
                "rank_fields[1] is a number, expected a string",
            ),
        ] {
            let error = named(&names).map(|_| ()).expect_err("refused");
            assert_eq!(error.to_string(), message);
        }
    }
}
