//! JSON whose fields need not be what they should be: events are made by gateways, emulators and
//! people.
//!
//! A value stays the piece of text that it is until somebody asks for it, so reading an event takes
//! no memory for what nobody asks for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use reranker_json::mended;

/// Bytes as a text in which what is no Unicode is U+FFFD, by itself or in an escape.
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    match mended(bytes) {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(error) => String::from_utf8_lossy(error.as_bytes())
                .into_owned()
                .into(),
        },
    }
}

/// A value in a text that is known to be JSON.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// Nothing where the text, which is [`readable`] already, is no JSON.
    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The value as it is written.
    pub fn raw(self) -> &'a str {
        self.0.get()
    }

    fn begins_with(self, letter: char) -> bool {
        self.raw().starts_with(letter)
    }

    pub fn is_null(self) -> bool {
        self.raw() == "null"
    }

    pub fn is_object(self) -> bool {
        self.begins_with('{')
    }

    pub fn is_list(self) -> bool {
        self.begins_with('[')
    }

    /// A string, or a number or boolean as it is written.
    pub fn text(self) -> Option<String> {
        if self.begins_with('"') {
            serde_json::from_str(self.raw()).ok()
        } else if self.is_null() || self.is_object() || self.is_list() {
            None
        } else {
            Some(self.raw().to_owned())
        }
    }

    /// A number, also one that is written as a string, with a fraction or as a power.
    pub fn whole(self) -> Option<u64> {
        let text = self.text()?;
        let number: f64 = text.trim().parse().ok()?;
        // Saturates, and NaN is 0.
        Some(number as u64)
    }

    pub fn is_true(self) -> bool {
        self.text()
            .is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// Calls `each` for each member of an object, and never for another value.
    pub fn members(self, each: impl FnMut(String, Json<'a>)) {
        let mut read = serde_json::Deserializer::from_str(self.raw());
        // A text that has been parsed once holds nothing that fails now, but for what is no object.
        let _ = read.deserialize_any(Members(each));
    }

    /// Calls `each` for each item of a list, and never for another value.
    pub fn items(self, each: impl FnMut(Json<'a>)) {
        let mut read = serde_json::Deserializer::from_str(self.raw());
        let _ = read.deserialize_any(Items(each));
    }

    /// Those of an object's members that have one of these names.
    pub fn select(self, names: &[&'static str]) -> Fields<'a> {
        let mut fields = Fields(Vec::new());
        self.members(|name, value| {
            if let Some(name) = names.iter().find(|known| **known == name) {
                fields.0.retain(|(other, _)| other != name);
                if !value.is_null() {
                    fields.0.push((name, value));
                }
            }
        });
        fields
    }
}

/// Members of an object by their names; `null` is as good as absent.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(&'static str, Json<'a>)>);

impl<'a> Fields<'a> {
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name)?.text()
    }

    /// The object of this name; an empty one where there is none.
    pub fn object(&self, name: &str, names: &[&'static str]) -> Fields<'a> {
        self.get(name)
            .map_or_else(Fields::default, |value| value.select(names))
    }
}

struct Members<F>(F);

impl<'de, F: FnMut(String, Json<'de>)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            (self.0)(name, Json(map.next_value()?));
        }
        Ok(())
    }
}

struct Items<F>(F);

impl<'de, F: FnMut(Json<'de>)> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(value) = list.next_element()? {
            (self.0)(Json(value));
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type_are_taken_for_what_they_can_be() {
        let object = readable(br#" {"a": "x\ud83dy", "b": 1.5e3, "c": null, "d": [1, {"e": [[]]}], "f": "TRUE", "a\ud83d": 2, "g": {"h": true}, "b": 7} "#);
        let json = Json::parse(&object).expect("JSON");
        let fields = json.select(&["a", "b", "c", "d", "f", "g"]);
        assert_eq!(fields.text("a").as_deref(), Some("x\u{fffd}y"));
        assert_eq!(fields.get("b").and_then(Json::whole), Some(7));
        assert!(!fields.has("c") && fields.has("d"));
        assert_eq!(fields.text("d"), None);
        assert!(fields.get("f").is_some_and(Json::is_true));
        assert!(fields.object("g", &["h"]).has("h") && !fields.object("a", &["h"]).has("h"));
        let mut items = Vec::new();
        let list = fields.get("d").expect("a list");
        list.items(|item| items.push(item.raw()));
        assert_eq!(items, ["1", r#"{"e": [[]]}"#]);
        list.members(|_, _| panic!("a list has no members"));
        json.items(|_| panic!("an object has no items"));
        for (text, whole) in [
            ("1795428905123", 1_795_428_905_123),
            ("1795428905123.25", 1_795_428_905_123),
            ("\" 12 \"", 12),
            ("-3", 0),
            ("1e999", u64::MAX),
        ] {
            let json = Json::parse(text).expect("JSON");
            assert_eq!(json.whole(), Some(whole), "{text}");
        }
        assert_eq!(Json::parse("[]").and_then(Json::whole), None);
        assert_eq!(
            readable(b"\xef\xbb\xbf\"\xff\\ud83d\""),
            "\"\u{fffd}\\ufffd\""
        );
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let json = Json::parse(&deep).expect("JSON");
        assert!(json.select(&["a"]).has("a"));
        assert!(Json::parse(&"[".repeat(100_000)).is_none());
    }
}
