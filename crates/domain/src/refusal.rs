//! Refusals as data: one table of codes, the field at fault, and the numbers.
//!
//! A [`Refusal`] knows neither a status nor a client's name for a field. Those are words of an edge: the HTTP layer maps codes to
//! statuses, each dialect names fields, and the command line has names of its own. Each does so by a `match` without a wildcard, so that
//! a new code or field does not compile before every edge has a word for it.

use std::borrow::Cow;
use std::fmt;

/// Who has to act before the same request can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The caller: the request can never succeed as it is.
    Caller,
    /// The caller: the body did not arrive whole, or not in time.
    Transfer,
    /// The caller: the API key is missing or wrong.
    Key,
    /// The caller: nothing is served at this address.
    Address,
    /// Nobody: the caller sends more than it may at a time.
    Pace,
    /// Nobody: the server cannot take the request now, and will.
    Unavailable,
    /// Nobody: the request's time is over, or too short.
    Deadline,
    /// The operator: the server cannot work as it was set up.
    Operator,
    /// The authors: this is a bug.
    Internal,
}

impl Kind {
    /// What the caller of a refused request should do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Caller => "change the request",
            Self::Transfer => "send it again",
            Self::Key => "send a valid key",
            Self::Address => "change the address",
            Self::Pace | Self::Unavailable => "wait and retry",
            Self::Deadline => "allow more time, or send less",
            Self::Operator => "ask the operator",
            Self::Internal => "report it",
        }
    }
}

macro_rules! codes {
    ($($code:ident = $name:literal, $kind:ident, $meaning:literal;)*) => {
        /// Why a request is refused, or has failed. Two codes of one name differ in their kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $name, "`: ", $meaning)] $code,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// Its stable name in answers, logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// Who has to act.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$code => Kind::$kind,)* }
            }

            /// When it is answered, as Markdown.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning,)* }
            }
        }
    };
}

codes! {
    AnswerTooLarge = "answer_too_large", Caller, "the answer alone exceeds the share of `MAX_BODY_BYTES_IN_FLIGHT` for large ones, or the platform's limit (on Lambda 6 MB; 1 MB behind a load balancer)";
    BodyTooLarge = "body_too_large", Caller, "the body exceeds `MAX_BODY_BYTES`";
    Busy = "busy", Pace, "the queue (`MAX_QUEUE`) or `MAX_BODY_BYTES_IN_FLIGHT` is full; `Retry-After` says when to retry";
    ConnectionsFull = "busy", Unavailable, "`MAX_CONNECTIONS` connections are open; `Retry-After` says when to retry";
    DeadlineExceeded = "deadline_exceeded", Deadline, "the deadline passed; nothing partial is returned";
    DeadlineCrowded = "deadline_unreachable", Unavailable, "the request would meet its deadline without earlier requests; `got` and `limit` are milliseconds";
    DeadlineUnreachable = "deadline_unreachable", Deadline, "the request would exceed its deadline even alone; `got` and `limit` are milliseconds";
    Draining = "draining", Unavailable, "the server shuts down";
    EmptyQuery = "empty_query", Caller, "a query is empty or white space";
    HeadTooLarge = "head_too_large", Caller, "on Lambda: an address of more than 65,534 bytes, or more than 1,000 headers";
    Internal = "internal", Internal, "a fault of the server; the log has the request's id";
    InvalidChunks = "invalid_chunks", Caller, "`max_chunks_per_doc` exceeds its limit";
    InvalidMaxLength = "invalid_max_length", Caller, "`max_length` is 0, too small for any text, or above the server's `MAX_LENGTH`";
    InvalidRankFields = "invalid_rank_fields", Caller, "`rank_fields` has too many names, or one name twice";
    InvalidTimeout = "invalid_timeout", Caller, "`x-request-timeout-ms` is not a whole number of at least 1";
    InvalidTruncation = "invalid_truncation", Caller, "`truncation` is none of its values";
    LineTooLong = "line_too_long", Caller, "in the rows of `reranker score`: a line exceeds `MAX_BODY_BYTES`";
    MalformedEvent = "malformed_event", Caller, "on Lambda and Azure Functions: the event is no request";
    MalformedJson = "malformed_json", Caller, "the body is not JSON; the message says where it breaks";
    MalformedRequest = "malformed_request", Caller, "two Host headers, or a transfer coding other than chunked";
    MethodNotAllowed = "method_not_allowed", Caller, "the route has other methods; the `Allow` header lists them";
    MissingField = "missing_field", Caller, "a field is missing";
    ModelUnavailable = "model_unavailable", Operator, "the model cannot be loaded, or was given up; `/health` has the reason";
    NoPairs = "no_pairs", Caller, "the list of pairs or documents is empty";
    NotFound = "not_found", Address, "no such route, or (Bedrock) a model that does not rank; the answer suggests the nearest route and lists all";
    NotReady = "not_ready", Unavailable, "the model is still loading";
    PairTooLong = "pair_too_long", Caller, "a pair exceeds `max_length`, and `truncation` is `none`";
    QuotaExceeded = "quota_exceeded", Pace, "the API key has used its tokens of the day (`KEY_LIMITS`); `Retry-After` has the seconds until the next day in UTC";
    RateLimited = "rate_limited", Pace, "the API key has used its requests of the minute (`KEY_LIMITS`); `Retry-After` says when to retry";
    RequestTimeout = "request_timeout", Transfer, "the body arrived too slowly";
    TextTooLong = "text_too_long", Caller, "a text exceeds `MAX_TEXT_CHARS`";
    TooManyPairs = "too_many_pairs", Caller, "more pairs or documents than `MAX_PAIRS`";
    TooManyQueries = "too_many_queries", Caller, "Bedrock: the list of queries has not exactly one";
    TooManySentences = "too_many_sentences", Caller, "sentence scores of more than 50,000 sentences";
    TooManyTokens = "too_many_tokens", Caller, "the request's tokens exceed `MAX_TOKENS`";
    Unauthorized = "unauthorized", Key, "no API key, or a wrong one";
    UnequalLists = "unequal_lists", Caller, "vLLM: two lists of different lengths cannot be paired";
    UnknownShape = "unknown_shape", Caller, "a body of no dialect; the message names the expected fields, or the field that was probably meant";
    UnreadableBody = "unreadable_body", Transfer, "the body broke off";
    UnsupportedEvent = "unsupported_event", Caller, "on Lambda and Azure Functions: an event of another service, which sends no requests";
    UnsupportedMediaType = "unsupported_media_type", Caller, "the content type is not JSON, or the body is compressed (`content-encoding`)";
    WrongType = "wrong_type", Caller, "a field has another type; the message names the field and both types";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A part of a request.
///
/// The domain knows fields by what they are, and every client calls them something else. `{field}` gives a plain English name; the
/// edge that knows the caller has better ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The query of the pair at an index.
    Query(usize),
    /// The queries as a list.
    Queries,
    /// The document of the pair at an index.
    Document(usize),
    /// The documents as a list.
    Documents,
    /// The maximum length of a sequence in tokens.
    MaxLength,
    /// A field that has one name only: a path in the caller's JSON, a header.
    Named(Cow<'static, str>),
    /// A place within a field, such as `[3].text`.
    In(Box<Self>, Cow<'static, str>),
}

impl Field {
    /// The place at a path within this field.
    #[must_use]
    pub fn at(self, path: impl Into<Cow<'static, str>>) -> Self {
        Self::In(Box::new(self), path.into())
    }
}

impl From<&'static str> for Field {
    fn from(name: &'static str) -> Self {
        Self::Named(name.into())
    }
}

impl From<String> for Field {
    fn from(name: String) -> Self {
        Self::Named(name.into())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(_) => f.write_str("query"),
            Self::Queries => f.write_str("queries"),
            Self::Document(index) => write!(f, "documents[{index}]"),
            Self::Documents => f.write_str("documents"),
            Self::MaxLength => f.write_str("max_length"),
            Self::Named(name) => f.write_str(name),
            Self::In(field, path) => write!(f, "{field}{path}"),
        }
    }
}

/// A message, as far as it can be said without the caller's name for the field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    Whole(String),
    /// What precedes the field's name, the field, and what follows it.
    About(String, Field, String),
}

/// A request that breaks a rule: which one, in which field, how much there was of it, and the limit.
///
/// ```
/// # use reranker_domain::{Code, Field, Refusal};
/// let refusal = Refusal::of(Code::TextTooLong, Field::Document(2), "has 9 characters, the limit is 5")
///     .got(9)
///     .limit(5);
/// assert_eq!(refusal.to_string(), "documents[2] has 9 characters, the limit is 5");
/// let theirs = refusal.message(|_| "sources[2].text".into());
/// assert_eq!(theirs, "sources[2].text has 9 characters, the limit is 5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub code: Code,
    /// The field at fault, where it is one.
    pub field: Option<Field>,
    /// What was found, where it is a number.
    pub got: Option<u64>,
    /// What is allowed, where it is a number.
    pub limit: Option<u64>,
    /// Apart, so that results stay small.
    message: Box<Message>,
}

impl Refusal {
    /// One with a whole message, which must not quote the caller's text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            field: None,
            got: None,
            limit: None,
            message: Message::Whole(message.into()).into(),
        }
    }

    /// One whose message is the field's name and then `says`.
    pub fn of(code: Code, field: impl Into<Field>, says: impl fmt::Display) -> Self {
        Self::about(code, String::new(), field.into(), format!(" {says}"))
    }

    /// One whose message has the field's name in its midst.
    pub(crate) fn about(code: Code, before: String, field: Field, after: String) -> Self {
        Self {
            code,
            field: Some(field.clone()),
            got: None,
            limit: None,
            message: Message::About(before, field, after).into(),
        }
    }

    /// The same, with this field at fault. The message stays as it is.
    #[must_use]
    pub fn field(mut self, field: impl Into<Field>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same, with the number that was found.
    #[must_use]
    pub fn got(mut self, got: impl TryInto<u64>) -> Self {
        self.got = got.try_into().ok();
        self
    }

    /// The same, with the number that is allowed.
    #[must_use]
    pub fn limit(mut self, limit: impl TryInto<u64>) -> Self {
        self.limit = limit.try_into().ok();
        self
    }

    /// The same, with a hint at the end of its message.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        let (Message::Whole(end) | Message::About(.., end)) = &mut *self.message;
        *end += ": ";
        *end += hint;
        self
    }

    /// The message, with the field as `name` calls it.
    pub fn message(&self, name: impl FnOnce(&Field) -> Cow<'static, str>) -> String {
        match &*self.message {
            Message::Whole(message) => message.clone(),
            Message::About(before, field, after) => format!("{before}{}{after}", name(field)),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message(|field| field.to_string().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn codes_of_one_name_differ_in_their_kind_and_meaning() {
        let mut seen: BTreeMap<(&str, Kind), Code> = BTreeMap::new();
        let mut meanings: BTreeMap<&str, Code> = BTreeMap::new();
        for &code in Code::ALL {
            assert_eq!(seen.insert((code.name(), code.kind()), code), None);
            assert_eq!(meanings.insert(code.meaning(), code), None);
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(code.name().chars().all(plain), "{code}");
            assert!(!code.meaning().ends_with('.'), "{code}");
        }
        assert!(Code::ALL.is_sorted_by_key(|code| code.name()));
    }

    #[test]
    fn a_message_has_the_name_that_the_edge_gives() {
        let nested = Field::Documents.at("[3]").at(".text");
        let theirs = |field: &Field| match field {
            Field::In(..) => "sources[3].text".into(),
            other => other.to_string().into(),
        };
        for (refusal, plain, named) in [
            (
                Refusal::of(Code::MissingField, nested.clone(), "is missing"),
                "documents[3].text is missing",
                "sources[3].text is missing",
            ),
            (
                Refusal::new(Code::NoPairs, "nothing to score").field(nested.clone()),
                "nothing to score",
                "nothing to score",
            ),
            (
                Refusal::of(Code::MissingField, nested.clone(), "is missing").hint("try x"),
                "documents[3].text is missing: try x",
                "sources[3].text is missing: try x",
            ),
            (
                Refusal::about(Code::TooManyPairs, "3 ".into(), nested, " are two".into()),
                "3 documents[3].text are two",
                "3 sources[3].text are two",
            ),
        ] {
            assert_eq!(refusal.to_string(), plain);
            assert_eq!(refusal.message(theirs), named);
        }
    }
}
