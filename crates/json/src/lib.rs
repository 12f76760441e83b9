//! JSON as it comes from outside. What senders often get wrong about its text is mended; errors name the field and never quote the text.
//!
//! A body is [`mended`] once, then [`parse`]d into a type whose long lists stay text. [`each`] reads such a list item by item, so that a
//! body of a million items is refused without any of them in memory.

#![warn(missing_docs, unreachable_pub)]

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use memchr::memchr;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use reranker_domain::{Code, Field, Refusal};

/// The field of an error in the body as a whole.
const BODY: &str = "body";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Both of UTF-16.
const WIDE_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A JSON text that a strict reader takes. A byte order mark in front is skipped. A surrogate without its other half, as a text has that
/// was cut within a character, becomes U+FFFD. Nothing is copied where there is none, and what follows keeps its place.
pub fn mended(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut mended = Cow::Borrowed(text);
    let mut at = 0;
    let next = |at: usize| text.get(at..).and_then(|rest| memchr(b'\\', rest));
    while let Some(found) = next(at) {
        at += found;
        at += match code_unit(text, at) {
            Some(0xd800..=0xdbff) if matches!(code_unit(text, at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                mended.to_mut()[at..at + 6].copy_from_slice(br"\ufffd");
                6
            }
            // What is escaped may be a backslash too.
            _ => 2,
        };
    }
    mended
}

/// What `\uXXXX` at this place stands for, where there is one.
fn code_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(br"\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal.then(|| u16::from_str_radix(digits, 16).ok())?
}

/// A JSON object. Without it serde would also take an array for a struct, its fields by position.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMaps<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMaps<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_map(OnlyMaps(PhantomData))
            .map(Object)
    }
}

/// A JSON object; the error names the field at fault. The text is [`mended`] already.
pub fn parse<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize::<_, Object<T>>(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = match path.as_str() {
            "." => BODY.into(),
            _ => path.into(),
        };
        explain(field, &error.into_inner(), text)
    })?;
    json.end()
        .map_err(|error| explain(BODY.into(), &error, text))?;
    Ok(parsed.0)
}

/// Goes through a JSON array, one item after the other, none of which is kept. `field` is the array's; errors name a place within it.
pub fn each<'de, T: Deserialize<'de>>(
    field: Field,
    array: &'de str,
    take: impl FnMut(usize, T) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    struct Items<'a, T, F> {
        take: F,
        refused: &'a mut Option<Refusal>,
        item: PhantomData<T>,
    }

    impl<'de, T: Deserialize<'de>, F: FnMut(usize, T) -> Result<(), Refusal>> Visitor<'de>
        for Items<'_, T, F>
    {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            let mut index = 0;
            while let Some(item) = items.next_element()? {
                if let Err(refusal) = (self.take)(index, item) {
                    *self.refused = Some(refusal);
                    break;
                }
                index += 1;
            }
            Ok(())
        }
    }

    let mut refused = None;
    let items = Items {
        take,
        refused: &mut refused,
        item: PhantomData,
    };
    let mut json = serde_json::Deserializer::from_str(array);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = tracked.deserialize_seq(items);
    // Who was refused left the rest unread, which is an error of its own.
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    read.map_err(|error| {
        let path = track.path().to_string();
        let field = match path.as_str() {
            "." => field,
            _ => field.at(path),
        };
        explain(field, &error, array.as_bytes())
    })
}

/// The values of an object's fields that have one of `places`; of those with the same name the last. Others are passed over.
pub fn pick(
    object: &str,
    places: usize,
    place: impl Fn(&str) -> Option<usize>,
) -> Result<Vec<Option<&RawValue>>, Refusal> {
    struct Name<'f, F>(&'f F);

    impl<'de, F: Fn(&str) -> Option<usize>> DeserializeSeed<'de> for Name<'_, F> {
        type Value = Option<usize>;

        fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Option<usize>, D::Error> {
            name.deserialize_str(self)
        }
    }

    impl<F: Fn(&str) -> Option<usize>> Visitor<'_> for Name<'_, F> {
        type Value = Option<usize>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
            Ok((self.0)(name))
        }
    }

    struct Fields<F> {
        places: usize,
        place: F,
    }

    impl<'de, F: Fn(&str) -> Option<usize>> Visitor<'de> for Fields<F> {
        type Value = Vec<Option<&'de RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut values = vec![None; self.places];
            while let Some(place) = map.next_key_seed(Name(&self.place))? {
                match place {
                    Some(place) => values[place] = Some(map.next_value()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(values)
        }
    }

    let mut json = serde_json::Deserializer::from_str(object);
    let values = json.deserialize_map(Fields { places, place });
    values.map_err(|error| explain(BODY.into(), &error, object.as_bytes()))
}

/// The text of a JSON string.
pub fn string(json: &str) -> Result<Cow<'_, str>, Refusal> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    match serde_json::from_str(json) {
        Ok(Text(text)) => Ok(text),
        Err(error) => Err(explain(BODY.into(), &error, json.as_bytes())),
    }
}

/// A JSON text without white space, its strings without escapes that they do not need. Numbers and the order of fields stay as they came.
pub fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(quote) = memchr(b'"', rest.as_bytes()) {
        compact.extend(rest[..quote].split_ascii_whitespace());
        rest = &rest[quote..];
        let string = &rest[..string_end(rest.as_bytes())];
        match self::string(string) {
            Ok(Cow::Owned(text)) => compact += &serde_json::Value::from(text).to_string(),
            _ => compact += string,
        }
        rest = &rest[string.len()..];
    }
    compact.extend(rest.split_ascii_whitespace());
    compact
}

/// The place after the string that a text begins with.
fn string_end(text: &[u8]) -> usize {
    let mut escaped = true;
    let end = text.iter().position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

/// Says what is wrong in a field, without repeating what the caller sent.
fn explain(field: Field, error: &serde_json::Error, text: &[u8]) -> Refusal {
    let told = error.to_string();
    let told = told.split(" at line ").next().unwrap_or_default();
    let wrong = |what: &str| Refusal::of(Code::WrongType, field, format!("is {what}"));
    match error.classify() {
        Category::Data
            if told.starts_with("invalid type: ") || told.starts_with("invalid value: ") =>
        {
            let found = told.split_once(": ").map_or("", |(_, rest)| rest);
            let expected = told.rsplit_once(", expected ").map_or("", |(_, it)| it);
            wrong(&format!(
                "{}, expected {}",
                found_in_json(found, expected),
                expected_in_json(expected)
            ))
        }
        Category::Data if told.starts_with("unknown variant ") => {
            let expected = told.rsplit_once(", expected ").map_or("", |(_, it)| it);
            wrong(&format!("none of its values, expected {expected}"))
        }
        Category::Data if told.starts_with("invalid length ") => {
            let expected = told.rsplit_once(", expected ").map_or("", |(_, it)| it);
            wrong(&format!("a list of another length, expected {expected}"))
        }
        Category::Data if told.starts_with("duplicate field ") => {
            let name = told.split('`').nth(1).unwrap_or_default();
            Refusal::of(Code::MalformedJson, name.to_owned(), "is given twice")
        }
        // One that no f64 holds.
        Category::Syntax if told.starts_with("number out of range") => {
            wrong("a number that is too large")
        }
        category => {
            let what = if WIDE_MARKS.iter().any(|mark| text.starts_with(mark)) {
                "it is UTF-16, expected UTF-8"
            } else if category == Category::Eof {
                "it ends early"
            } else if told.starts_with("invalid unicode code point") {
                "a character is not UTF-8"
            } else {
                "unexpected character, escape or depth"
            };
            let (line, column) = (error.line(), error.column());
            let message =
                format!("the body is not valid JSON: {what} at line {line} column {column}");
            Refusal::new(Code::MalformedJson, message)
        }
    }
}

/// serde's words for what it found, in JSON's: `integer `7`` is a number.
fn found_in_json<'a>(found: &'a str, expected: &str) -> &'a str {
    let word = found.split([' ', ',', '`', '"']).next().unwrap_or_default();
    match word {
        "map" => "an object",
        "sequence" => "an array",
        "null" | "unit" => "null",
        "string" => "a string",
        "boolean" => "a boolean",
        "integer" | "floating" if !matches!(expected, "usize" | "u64" | "i64") => "a number",
        "integer" | "floating" => {
            let number = found.split('`').nth(1).unwrap_or_default();
            match number.parse::<f64>() {
                Ok(number) if number.fract() != 0.0 => "a number with a fraction",
                Ok(number) if number < 0.0 && expected != "i64" => "a negative number",
                // As 5.0 has it.
                Ok(number) if word == "floating" && number.abs() < 1e15 => {
                    "a number with a decimal point"
                }
                _ => "a number that is too large",
            }
        }
        other => other,
    }
}

fn expected_in_json(serde: &str) -> &str {
    match serde {
        "a sequence" => "an array",
        "usize" | "u64" => "a whole number, 0 or more",
        "i64" => "a whole number",
        "f64" => "a number",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[derive(Debug, serde::Deserialize)]
    struct Body {
        #[expect(dead_code, reason = "read for its errors")]
        pairs: Option<Vec<Object<Pair>>>,
        #[expect(dead_code, reason = "read for its errors")]
        normalize: Option<bool>,
        #[expect(dead_code, reason = "read for its errors")]
        max_length: Option<usize>,
        #[expect(dead_code, reason = "read for its errors")]
        truncate: Option<i64>,
        #[expect(dead_code, reason = "read for its errors")]
        min_score: Option<f64>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Pair {
        #[expect(dead_code, reason = "read for its errors")]
        query: Option<String>,
    }

    fn error(json: impl AsRef<[u8]>) -> Refusal {
        parse::<Body>(json.as_ref()).expect_err("refused")
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path_and_never_quoted() {
        let cases = [
            (
                r#"{"pairs":[{"query":2024}]}"#,
                "pairs[0].query",
                "is a number, expected a string",
            ),
            (
                r#"{"pairs":[{"query":-1.5}]}"#,
                "pairs[0].query",
                "is a number, expected a string",
            ),
            (
                r#"{"pairs":[{"query":1e999}]}"#,
                "pairs[0].query",
                "is a number that is too large",
            ),
            (
                r#"{"pairs":[{"query":["secret"]}]}"#,
                "pairs[0].query",
                "is an array, expected a string",
            ),
            (
                r#"{"pairs":"secret"}"#,
                "pairs",
                "is a string, expected an array",
            ),
            (
                r#"{"pairs":["secret"]}"#,
                "pairs[0]",
                "is a string, expected an object",
            ),
            (
                r#"{"pairs":[["secret","too"]]}"#,
                "pairs[0]",
                "is an array, expected an object",
            ),
            (
                r#"{"normalize":"secret"}"#,
                "normalize",
                "is a string, expected a boolean",
            ),
            (
                r#"{"normalize":1}"#,
                "normalize",
                "is a number, expected a boolean",
            ),
            (
                r#"{"max_length":-1}"#,
                "max_length",
                "is a negative number, expected a whole number, 0 or more",
            ),
            (
                r#"{"max_length":1.5}"#,
                "max_length",
                "is a number with a fraction",
            ),
            (
                r#"{"max_length":5.0}"#,
                "max_length",
                "is a number with a decimal point",
            ),
            (
                r#"{"max_length":1e20}"#,
                "max_length",
                "is a number that is too large",
            ),
            (
                r#"{"max_length":99999999999999999999}"#,
                "max_length",
                "is a number that is too large",
            ),
            (
                r#"{"truncate":-1e30}"#,
                "truncate",
                "is a number that is too large, expected a whole number",
            ),
            (
                r#"{"min_score":"secret"}"#,
                "min_score",
                "is a string, expected a number",
            ),
            (
                r#"["secret"]"#,
                "body",
                "body is an array, expected an object",
            ),
            ("null", "body", "body is null, expected an object"),
        ];
        for (json, field, says) in cases {
            let error = error(json);
            let named = error.field.as_ref().map(Field::to_string);
            assert_eq!(
                (error.code, named.as_deref()),
                (Code::WrongType, Some(field)),
                "{json}"
            );
            assert!(error.to_string().contains(says), "{json}: {error}");
            assert!(!error.to_string().contains("secret"), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_says_what_is_wrong_and_where() {
        for (json, says) in [
            (&b""[..], "it ends early at line 1 column 0"),
            (b"{", "it ends early at line 1 column 1"),
            (
                br#"{"pairs":[]}}"#,
                "unexpected character, escape or depth at line 1 column 13",
            ),
            (b"{'pairs':[]}", "column 2"),
            (
                b"{\"pairs\":[{\"query\":\"\xff\"}]}",
                "a character is not UTF-8 at line 1 column 21",
            ),
            (b"\xff\xfe{\0}\0", "it is UTF-16, expected UTF-8"),
        ] {
            let error = error(json);
            assert_eq!(error.code, Code::MalformedJson);
            assert!(error.to_string().contains(says), "{error}");
        }
        // A field that nobody reads is skipped without recursion, however deep; one that is read has the wrong type at once.
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse::<Body>(format!(r#"{{"x":{deep}}}"#).as_bytes()).is_ok());
        let read = error(format!(r#"{{"pairs":[{deep}]}}"#));
        assert_eq!(read.code, Code::WrongType);
        let twice = error(r#"{"pairs":[],"pairs":[]}"#);
        assert_eq!(twice.to_string(), "pairs is given twice");
    }

    #[test]
    fn marks_and_halves_of_characters_are_mended_in_their_places() {
        for (text, expected) in [
            (&b"\xef\xbb\xbf{}"[..], &b"{}"[..]),
            (br#""\ud83d""#, br#""\ufffd""#),
            (br#""\uDE00""#, br#""\ufffd""#),
            (br#""\ud83d\ude00""#, br#""\ud83d\ude00""#),
            (br#""\ud83d\ud83d\ude00""#, br#""\ufffd\ud83d\ude00""#),
            (br#""\ude00\ud83d""#, br#""\ufffd\ufffd""#),
            (br#""\ud83dx\ude00""#, br#""\ufffdx\ufffd""#),
            // Escaped backslashes are no escapes.
            (br#""\\ud83d""#, br#""\\ud83d""#),
            (br#""\\\ud83d""#, br#""\\\ufffd""#),
            // What is no escape stays for the parser to refuse.
            (br#""\u+83d""#, br#""\u+83d""#),
            (br#""\ud8"#, br#""\ud8"#),
            (br"\", br"\"),
            (br"\ud83d\", br"\ufffd\"),
        ] {
            let told = String::from_utf8_lossy(text);
            assert_eq!(&*mended(text), expected, "{told}");
        }
        assert!(matches!(mended(br#"["\u00e9\n"]"#), Cow::Borrowed(_)));
        // The place of another error is where it was.
        let cut = br#"{"x":"\ud83d","pairs":[}"#;
        assert_eq!(error(mended(cut)), error(br#"{"x":"      ","pairs":[}"#));
    }

    #[test]
    fn an_array_is_gone_through_and_its_errors_name_the_place() {
        let read = |array: &str| {
            let mut seen = Vec::new();
            let result = each("list".into(), array, |index, item: u64| {
                seen.push((index, item));
                let refused = || Refusal::new(Code::NoPairs, "enough");
                (item < 9).then_some(()).ok_or_else(refused)
            });
            (seen, result.map_err(|error| error.to_string()))
        };
        assert_eq!(read("[]"), (vec![], Ok(())));
        assert_eq!(read("[ 3, 4 ]"), (vec![(0, 3), (1, 4)], Ok(())));
        assert_eq!(
            read("[3, 9, 4]"),
            (vec![(0, 3), (1, 9)], Err("enough".into()))
        );
        let wrong = "list[1] is a string, expected a whole number, 0 or more".to_owned();
        assert_eq!(read(r#"[3, "x"]"#), (vec![(0, 3)], Err(wrong)));
        let none = "list is an object, expected an array".to_owned();
        assert_eq!(read("{}"), (vec![], Err(none)));
    }

    #[test]
    fn compacting_keeps_numbers_and_order_and_resolves_escapes() {
        for (json, expected) in [
            (
                " { \"b\" : [ 1.10 , 12345678901234567890123 ] ,\n \"a\" : null } ",
                r#"{"b":[1.10,12345678901234567890123],"a":null}"#,
            ),
            (
                r#"{"k\u00e9y": "\u00e9\u0041\/ \"q\" \\ \n"}"#,
                r#"{"kéy":"éA/ \"q\" \\ \n"}"#,
            ),
            (r#""\\""#, r#""\\""#),
            ("7", "7"),
        ] {
            assert_eq!(compact(json), expected);
        }
    }

    proptest! {
        #[test]
        fn compacting_changes_no_value(value in values()) {
            let pretty = serde_json::to_string_pretty(&value).expect("JSON");
            let compact = compact(&pretty);
            prop_assert_eq!(serde_json::from_str::<Value>(&compact).expect("JSON"), value);
        }

        #[test]
        fn what_is_mended_is_read_as_it_was_where_nothing_was_wrong(text in "\\PC{0,30}") {
            let json = serde_json::to_string(&text).expect("JSON");
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            for json in [json, format!("\"{escaped}\"")] {
                let mended = mended(json.as_bytes());
                prop_assert!(matches!(mended, Cow::Borrowed(_)));
                prop_assert_eq!(&serde_json::from_slice::<String>(&mended).expect("a string"), &text);
            }
        }

        #[test]
        fn any_code_units_are_read_as_other_languages_read_them(units in prop::collection::vec(
            prop_oneof![0xd7f0u16..0xe010, any::<u16>()], 0..20,
        )) {
            let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("\"{escaped}\"");
            let read: String = serde_json::from_slice(&mended(json.as_bytes())).expect("a string");
            prop_assert_eq!(read, String::from_utf16_lossy(&units));
        }

        #[test]
        fn mending_bytes_changes_no_length(text in prop::collection::vec(prop::sample::select(br#"\\"ud8DcC0f "#.to_vec()), 0..60)) {
            prop_assert_eq!(mended(&text).len(), text.len());
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "[\\\\\"\n\t {}:,]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z\\\\\" ]{0,3}", inner, 0..4)
                    .prop_map(Value::from_iter),
            ]
        })
    }
}
