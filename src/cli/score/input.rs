//! The lines of a JSONL file of pairs: read with a bound, told apart by a digest, and each turned
//! into a pair or the reason why not.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use reranker_domain::{Code, Field, Limits, Pair, Refusal};
use reranker_json::mended;

/// Lines that are not blank.
pub struct Lines<R> {
    reader: R,
    /// Most bytes of one line that are kept in memory.
    limit: usize,
    number: usize,
}

/// One line, which may be no pair.
pub struct Line {
    /// Counted from 1, blank ones too.
    pub number: usize,
    /// Tells whether a line is the one that was scored before.
    pub digest: u64,
    text: Text,
}

enum Text {
    Whole(Vec<u8>),
    /// It has so many bytes, of which none were kept.
    TooLong(u64),
}

/// What a line asks for, or why it cannot be scored.
pub struct Asked {
    /// The caller's own id, as it was sent.
    pub id: Option<Box<RawValue>>,
    pub pair: Result<Pair, Refusal>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R, limit: usize) -> Self {
        Self {
            reader,
            limit,
            number: 0,
        }
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(text) = self.read()? else {
                return Ok(None);
            };
            self.number += 1;
            let digest = match &text {
                Text::Whole(bytes) if bytes.is_empty() => continue,
                Text::Whole(bytes) => digest(bytes),
                Text::TooLong(bytes) => digest(&bytes.to_le_bytes()),
            };
            return Ok(Some(Line {
                number: self.number,
                digest,
                text,
            }));
        }
    }

    /// A line without the blanks around it.
    fn read(&mut self) -> io::Result<Option<Text>> {
        let mut bytes = Vec::new();
        let most = self.limit as u64 + 2;
        let read = self
            .reader
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(None);
        }
        if read == most && bytes.last() != Some(&b'\n') {
            return Ok(Some(Text::TooLong(read + self.skip()?)));
        }
        let line = mended(&bytes);
        Ok(Some(Text::Whole(line.trim_ascii().to_vec())))
    }

    /// Passes over the rest of a line; its bytes, without the line's end.
    fn skip(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(skipped);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let used = end.unwrap_or(bytes.len());
            skipped += used as u64;
            self.reader.consume(used + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(skipped);
            }
        }
    }
}

pub fn digest(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    let (first, _) = digest
        .split_first_chunk::<8>()
        .expect("SHA-256 has 32 bytes");
    u64::from_be_bytes(*first)
}

/// A line as it is sent. Any value is taken first, so that an error can say what it is instead.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    query: Option<&'a RawValue>,
    #[serde(default, borrow)]
    passage: Option<&'a RawValue>,
}

impl Line {
    pub fn parse(self, limits: &Limits, limit: usize) -> Asked {
        let refused = |refusal: Refusal| Asked {
            id: None,
            pair: Err(refusal),
        };
        let bytes = match self.text {
            Text::Whole(bytes) if bytes.len() <= limit => bytes,
            Text::Whole(bytes) => return refused(too_long(bytes.len() as u64, limit)),
            Text::TooLong(bytes) => return refused(too_long(bytes, limit)),
        };
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let what = match error.as_bytes() {
                    [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file is UTF-16".to_owned(),
                    _ => format!("byte {} of the line", error.utf8_error().valid_up_to() + 1),
                };
                let message = format!("{what}, expected UTF-8");
                return refused(Refusal::new(Code::MalformedJson, message));
            }
        };
        // Without this an array would be taken for an object, its fields by position.
        if !text.starts_with('{') {
            let refusal = match serde_json::from_str::<IgnoredAny>(&text) {
                Ok(_) => Refusal::new(
                    Code::WrongType,
                    format!("the line is {}, expected an object", kind(&text)),
                ),
                Err(error) => malformed(&error),
            };
            return refused(refusal);
        }
        let wire: Wire = match serde_json::from_str(&text) {
            Ok(wire) => wire,
            Err(error) => return refused(malformed(&error)),
        };
        Asked {
            id: wire.id.map(ToOwned::to_owned),
            pair: wire.pair(limits),
        }
    }
}

fn too_long(got: u64, limit: usize) -> Refusal {
    let message = format!("the line has {got} bytes, the limit is {limit} (MAX_BODY_BYTES)");
    Refusal::new(Code::LineTooLong, message)
        .got(got)
        .limit(limit)
}

fn malformed(error: &serde_json::Error) -> Refusal {
    let column = error.column();
    let what = match error.classify() {
        Category::Data => "a field is given twice",
        Category::Eof => "the line ends within the object",
        Category::Syntax | Category::Io => "not JSON",
    };
    Refusal::new(Code::MalformedJson, format!("{what} (column {column})"))
}

impl Wire<'_> {
    fn pair(&self, limits: &Limits) -> Result<Pair, Refusal> {
        let query = text(Field::Query(0), self.query)?;
        let passage = text(Field::Document(0), self.passage)?;
        limits.check_query(Field::Query(0), &query)?;
        limits.check_text(Field::Document(0), &passage)?;
        Ok(Pair {
            query: query.into(),
            document: passage.into(),
        })
    }
}

fn text(field: Field, value: Option<&RawValue>) -> Result<String, Refusal> {
    let Some(value) = value else {
        return Err(Refusal::of(Code::MissingField, field, "is missing"));
    };
    serde_json::from_str(value.get()).map_err(|_| {
        let says = format!("is {}, expected a string", kind(value.get()));
        Refusal::of(Code::WrongType, field, says)
    })
}

/// What a line calls a field.
pub fn named(field: &Field) -> Cow<'static, str> {
    match field {
        Field::Document(_) => "passage".into(),
        Field::Query(_)
        | Field::Queries
        | Field::Documents
        | Field::MaxLength
        | Field::Named(_)
        | Field::In(..) => field.to_string().into(),
    }
}

/// What a JSON value is, by its first letter.
fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}
