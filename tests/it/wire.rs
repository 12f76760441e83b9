//! Wire formats as files: every file of tests/wire is a client's format. The test sends its requests to the real router over the demo
//! model, and compares the answers to the byte. `UPDATE_EXPECT=1` writes the answers into the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use http::Request;
use reranker::http::{Keys, Settings, router};
use reranker_engine::ModelError;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::router::{caching_service, engine_of, get, send, settings};

/// The query of every request, and the texts whose scores answers may hold: `"$1"` is the score of the second one, and `"$logit1"` its
/// logit.
const QUERY: &str = "Can I get a refund after 30 days?";
const TEXTS: [&str; 6] = [
    "Our offices are open from nine to five.",
    "Returns are accepted within 60 days of delivery, and the full price is refunded.",
    "Gift cards cannot be returned.",
    "",
    "Gift cards cannot be returned. Our offices are open from nine to five.",
    r#"{"policy":"No refund after 14 days."}"#,
];
/// Numbers that differ from one answer to the next: `"$time"` in the files.
const TIMES: [&str; 6] = [
    "created",
    "ms",
    "preprocessTime",
    "queueTime",
    "inferenceTime",
    "totalTime",
];
/// Headers of answers that the files hold.
const HEADERS: [&str; 6] = [
    "accept-encoding",
    "allow",
    "retry-after",
    "www-authenticate",
    "x-amzn-errortype",
    "x-ignored-fields",
];
const KEY: &str = "wire";

/// A client's format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Format<'a> {
    title: String,
    paths: Vec<String>,
    /// Headers that only this client sends.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(borrow)]
    exchanges: Vec<Exchange<'a>>,
    /// The answers to the first request of a server that cannot rank, by the reason.
    #[serde(borrow)]
    refusals: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange<'a> {
    title: String,
    /// Instead of the format's own.
    paths: Option<Vec<String>>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A body; a string is a body as it stands.
    #[serde(borrow)]
    request: &'a RawValue,
    #[serde(borrow)]
    answer: &'a RawValue,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

/// The names and texts of all files.
fn files() -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder()).expect("tests/wire");
    entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let text = fs::read_to_string(&path).expect("UTF-8");
            (name.into_owned(), text)
        })
        .collect()
}

fn parse(text: &str) -> Format<'_> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:.60}"))
}

/// A server, by why it does not rank.
async fn servers() -> BTreeMap<&'static str, Router> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let keyed = || Settings {
        keys: Keys::parse(&[KEY]).expect("a key").into(),
        ..settings()
    };
    let ready = caching_service(1000);
    ready
        .load(move || engine_of(&model))
        .await
        .expect("the demo model loads");
    let broken = caching_service(0);
    let reason = ModelError::unfit(Path::new("model.safetensors"), "tensor x", "none", "one");
    broken.load(move || Err(reason)).await.err().expect("fails");
    let draining = caching_service(0);
    draining.drain();
    let full = Settings {
        body_bytes_in_flight: 1,
        ..keyed()
    };
    [
        ("ready", router(ready.clone(), keyed())),
        ("loading", router(caching_service(0), keyed())),
        ("broken", router(broken, keyed())),
        ("draining", router(draining, keyed())),
        ("full", router(ready, full)),
    ]
    .into()
}

/// The scores of all texts as an answer would have them, with their placeholders.
async fn scores(ready: &Router) -> BTreeMap<String, String> {
    let pairs = TEXTS.map(|text| json!({"query": QUERY, "passage": text}));
    let mut request = Request::post("/rerank/batch")
        .header("authorization", KEY)
        .body(Body::from(json!({"pairs": pairs}).to_string()))
        .expect("a request");
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        "application/json".parse().expect("a value"),
    );
    let (_, body) = send(ready, request).await;
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        results: Vec<Item<'a>>,
    }
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        score: &'a RawValue,
        #[serde(borrow)]
        logit: &'a RawValue,
    }
    let answer: Answer = serde_json::from_slice(&body).expect("scores");
    let of = answer.results.iter().enumerate().flat_map(|(at, item)| {
        [
            (item.score.get().to_owned(), format!("\"${at}\"")),
            (item.logit.get().to_owned(), format!("\"$logit{at}\"")),
        ]
    });
    let scores: BTreeMap<_, _> = of.collect();
    assert_eq!(scores.len(), 2 * TEXTS.len(), "equal scores: {scores:?}");
    scores
}

/// Where each token of a JSON text is: strings, numbers and words are one each, and so is each mark.
fn tokens(json: &str) -> Vec<Range<usize>> {
    let bytes = json.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'"' => {
                while bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at += 1;
            }
            b'{' | b'}' | b'[' | b']' | b':' | b',' => {}
            byte if byte.is_ascii_whitespace() => continue,
            _ => {
                while at < bytes.len() && !b",]}: \n".contains(&bytes[at]) {
                    at += 1;
                }
            }
        }
        tokens.push(start..at);
    }
    tokens
}

/// Without white space between its tokens.
fn compact(json: &str) -> String {
    tokens(json).into_iter().map(|token| &json[token]).collect()
}

/// With placeholders for scores and times.
fn masked(json: &str, scores: &BTreeMap<String, String>) -> String {
    let tokens = tokens(json);
    let mut masked = String::new();
    for (at, token) in tokens.iter().enumerate() {
        let text = &json[token.clone()];
        let key = at
            .checked_sub(2)
            .map_or("", |key| &json[tokens[key].clone()]);
        let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        if is_number && TIMES.contains(&key.trim_matches('"')) {
            masked += "\"$time\"";
        } else if let Some(placeholder) = scores.get(text) {
            masked += placeholder;
        } else {
            assert!(
                !is_number || text.parse::<i64>().is_ok(),
                "{text} is the score of none of TEXTS: {json}"
            );
            masked += text;
        }
    }
    masked
}

/// For people: a list or an object on one line where it fits.
fn pretty(json: &str, indent: usize) -> String {
    const WIDTH: usize = 100;
    let mut parts: Vec<&str> = tokens(json).into_iter().map(|token| &json[token]).collect();
    parts.reverse();
    fn spaced(parts: &[&str]) -> String {
        let marks = |part: &&str| match *part {
            "," => ", ".to_owned(),
            ":" => ": ".to_owned(),
            part => part.to_owned(),
        };
        parts.iter().map(marks).collect()
    }
    /// The tokens of the next value, which end with its closing mark.
    fn value<'a>(rest: &mut Vec<&'a str>) -> Vec<&'a str> {
        let (mut depth, mut value) = (0usize, Vec::new());
        while let Some(part) = rest.pop() {
            depth += usize::from(["{", "["].contains(&part));
            depth -= usize::from(["}", "]"].contains(&part));
            value.push(part);
            if depth == 0 {
                break;
            }
        }
        value
    }
    fn write(mut parts: Vec<&str>, indent: usize, out: &mut String) {
        let line = spaced(&parts);
        if indent + line.chars().count() <= WIDTH || parts.len() < 3 {
            *out += &line;
            return;
        }
        parts.reverse();
        let open = parts.pop().expect("an opening mark");
        *out += open;
        let inner = " ".repeat(indent + 2);
        loop {
            *out += "\n";
            *out += &inner;
            let first = value(&mut parts);
            if parts.last() == Some(&":") {
                *out += first[0];
                *out += ": ";
                parts.pop();
                write(value(&mut parts), indent + 2, out);
            } else {
                write(first, indent + 2, out);
            }
            match parts.pop() {
                Some(",") => *out += ",",
                Some(close) => {
                    *out += "\n";
                    *out += &" ".repeat(indent);
                    *out += close;
                    return;
                }
                None => unreachable!("a value ends with its mark"),
            }
        }
    }
    let mut out = String::new();
    write(value(&mut parts), indent, &mut out);
    out
}

/// What a server answers: status, the headers that count, and the body, on one line.
async fn answer(
    server: &Router,
    path: &str,
    method: &str,
    headers: &[&BTreeMap<String, String>],
    request: &RawValue,
    scores: &BTreeMap<String, String>,
) -> String {
    let body = match serde_json::from_str(request.get()) {
        Ok(Value::String(text)) => text,
        _ => compact(request.get()),
    };
    let mut sent = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("authorization", KEY)
        .header("x-request-id", "wire")
        .body(Body::from(body))
        .expect("a request");
    for (name, value) in headers.iter().copied().flatten() {
        let name: http::HeaderName = name.parse().expect("a name");
        let value = value.parse().expect("a value");
        sent.headers_mut().insert(name, value);
    }
    let (head, body) = send(server, sent).await;
    let kept = HEADERS.iter().filter_map(|&name| {
        let value = head.headers().get(name)?.to_str().expect("text");
        Some((name, value))
    });
    let kept: BTreeMap<&str, &str> = kept.collect();
    let kept = match kept.is_empty() {
        true => String::new(),
        false => format!(r#""headers":{},"#, json!(kept)),
    };
    let body = String::from_utf8(body).expect("UTF-8");
    let status = head.status().as_u16();
    format!(
        r#"{{"status":{status},{kept}"body":{}}}"#,
        masked(&body, scores)
    )
}

/// The formats as a page: of each file the first exchange, and the first refusal.
pub fn page() -> String {
    #[derive(Deserialize)]
    struct Answer<'a> {
        status: u16,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let block = |json: &RawValue| format!("```json\n{}\n```\n\n", pretty(&compact(json.get()), 0));
    let mut page = String::new();
    for (name, text) in files() {
        let Format {
            title,
            paths,
            exchanges,
            ..
        } = parse(&text);
        let paths = paths.join("`, `");
        page += &format!("## {title}\n\n[`{name}`](../../tests/wire/{name}): `{paths}`\n\n");
        let answers = exchanges.iter().map(|exchange| {
            let answer: Answer = serde_json::from_str(exchange.answer.get()).expect("an answer");
            (exchange, answer)
        });
        let (ranked, refused): (Vec<_>, Vec<_>) = answers.partition(|(_, it)| it.status < 400);
        let (asked, answer) = ranked.first().expect("an answer");
        page += &(block(asked.request) + &block(answer.body));
        let (asked, refusal) = refused.first().expect("a refusal");
        let (status, says) = (refusal.status, &asked.title);
        page += &format!("{status}, where {says}:\n\n{}", block(refusal.body));
    }
    page
}

#[tokio::test]
async fn every_file_is_answered_as_it_says() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let servers = servers().await;
    let scores = scores(&servers["ready"]).await;
    for (name, text) in files() {
        let format = parse(&text);
        let mut edits: Vec<(&RawValue, String)> = Vec::new();
        for exchange in &format.exchanges {
            let method = exchange.method.as_deref().unwrap_or("POST");
            let headers = [&format.headers, &exchange.headers];
            let expected = compact(exchange.answer.get());
            for (at, path) in exchange
                .paths
                .as_ref()
                .unwrap_or(&format.paths)
                .iter()
                .enumerate()
            {
                let ready = &servers["ready"];
                let found = answer(ready, path, method, &headers, exchange.request, &scores).await;
                if update && at == 0 {
                    edits.push((exchange.answer, found));
                } else {
                    let expected = match update {
                        true => &edits.last().expect("the first path's").1,
                        false => &expected,
                    };
                    assert_eq!(&found, expected, "{name}, {path}: {}", exchange.title);
                }
            }
        }
        let first = format.exchanges.first().expect("an exchange").request;
        let reasons: BTreeSet<&str> = servers
            .keys()
            .copied()
            .filter(|it| *it != "ready")
            .collect();
        let held: BTreeSet<&str> = format.refusals.keys().map(String::as_str).collect();
        assert_eq!(held, reasons, "{name}: refusals");
        for (reason, expected) in &format.refusals {
            let (server, path) = (&servers[&**reason], &format.paths[0]);
            let found = answer(server, path, "POST", &[&format.headers], first, &scores).await;
            if update {
                edits.push((expected, found));
            } else {
                assert_eq!(found, compact(expected.get()), "{name}, {path}: {reason}");
            }
        }
        if update {
            // From the end, so that places before an edit stay.
            let place = |raw: &RawValue| raw.get().as_ptr() as usize - text.as_ptr() as usize;
            edits.sort_by_key(|(raw, _)| std::cmp::Reverse(place(raw)));
            let mut new = text.clone();
            for (raw, found) in edits {
                let (start, end) = (place(raw), place(raw) + raw.get().len());
                let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
                let indent = text[line..].len() - text[line..].trim_start().len();
                new.replace_range(start..end, &pretty(&found, indent));
            }
            fs::write(folder().join(&name), new).expect("written");
        }
    }
}

#[tokio::test]
async fn every_scoring_route_has_a_file_and_its_example_is_the_first_request() {
    let servers = servers().await;
    let (_, body) = send(&servers["ready"], get("/openapi.json")).await;
    let document: Value = serde_json::from_slice(&body).expect("JSON");
    let files = files();
    let mut held: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for text in files.values() {
        let format = parse(text);
        let first: Value = serde_json::from_str(format.exchanges[0].request.get()).expect("JSON");
        for path in format.paths {
            let path = path.split('?').next().unwrap_or_default().to_owned();
            held.entry(path).or_default().push(first.clone());
        }
    }
    let examples: Vec<&Value> = held.values().flatten().collect();
    let routes = document["paths"].as_object().expect("paths");
    for (route, operations) in routes {
        // An estimate's answer is made of times: tests/it/api.rs has them.
        let body = &operations["post"]["requestBody"];
        if body.is_null() || route == "/estimate" {
            continue;
        }
        let is_this = |path: &String| match route.split_once("{model}") {
            Some((before, after)) => path.starts_with(before) && path.ends_with(after),
            None => path == route,
        };
        assert!(
            held.keys().any(is_this),
            "no file of tests/wire has {route}"
        );
        let schema = &body["content"]["application/json"]["schema"];
        let schemas = match schema["anyOf"].as_array() {
            Some(several) => several.iter().collect(),
            None => vec![schema],
        };
        for schema in schemas {
            let name = schema["$ref"].as_str().expect("a reference");
            let name = name.rsplit('/').next().expect("a name");
            let example = &document["components"]["schemas"][name]["example"];
            assert!(
                examples.contains(&example),
                "{route}: the example of {name} is the first request of no file: {example}"
            );
        }
    }
}
