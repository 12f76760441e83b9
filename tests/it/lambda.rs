//! The real program on Lambda: every file in `events/` goes through its runtime loop and must be answered as plain HTTP answers
//! the same request.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::client::{self, Reply};
use crate::support::models::{GatedModel, SlowModel, broken_model};
use crate::support::process::{PATIENCE, Process, tiny_model};
use crate::support::runtime_api::{
    Call, Deadline, EventTooLarge, MAX_EVENT_BYTES, Outcome, RuntimeApi,
};

/// Long enough that no test meets it.
const LATER: Deadline = Deadline::In(Duration::from_secs(900));

/// What each recorded event asks for, once the stage is off its path, and the status that it is answered with.
const EVENTS: &[(&str, &str, &str, u16)] = &[
    ("alb.json", "POST", "/rerank", 200),
    ("apigw-v1-base-path.json", "POST", "/rerank", 200),
    ("apigw-v1-stage.json", "POST", "/rerank", 200),
    ("apigw-v1.json", "POST", "/rerank", 200),
    ("apigw-v2-base-path.json", "POST", "/rerank", 200),
    ("apigw-v2-base64.json", "POST", "/rerank", 200),
    ("apigw-v2-stage-root.json", "GET", "/", 200),
    ("apigw-v2-stage.json", "POST", "/rerank", 200),
    ("apigw-v2.json", "POST", "/rerank", 200),
    ("batch.json", "POST", "/rerank/batch", 200),
    ("function-url.json", "POST", "/rerank", 200),
    ("health.json", "GET", "/health", 200),
    ("malformed-body.json", "POST", "/rerank", 400),
    ("oversized.json", "POST", "/rerank/batch", 422),
];
/// Those in `events/other`, which no gateway made of a request, and what they are taken for.
const OTHERS: &[(&str, Expect)] = &[
    ("cognito.json", Expect::Refused),
    ("console-test.json", Expect::Warm),
    ("direct-request.json", Expect::Scored("/llamacpp/rerank")),
    ("direct.json", Expect::Scored("/rerank")),
    ("lattice.json", Expect::Http(400, "unsupported_event")),
    ("ping.json", Expect::Warm),
    ("s3.json", Expect::Refused),
    ("schedule.json", Expect::Warm),
    ("sqs.json", Expect::Refused),
    ("websocket.json", Expect::Http(400, "unsupported_event")),
];

/// What an event comes to. That it is an error of the function is one kind of many.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// An HTTP answer: its status, and the code of its error.
    Http(u16, &'static str),
    /// Data that says that the function is warm.
    Warm,
    /// Data that says what is wrong.
    Refused,
    /// What plain HTTP answers on this path, as it is.
    Scored(&'static str),
    /// An error of the function, of this kind.
    Error(&'static str),
}

impl Expect {
    /// Checks what came, of an event with this body.
    fn check(self, name: &str, outcome: &Outcome, server: &Process, body: &[u8]) {
        println!("{name}: {outcome:?}");
        match (self, outcome) {
            (Self::Http(status, code), Outcome::Response(value)) => {
                assert_eq!(value["statusCode"], status, "{name}");
                assert!(value["headers"].is_object(), "{name}");
                assert!(value["isBase64Encoded"].is_boolean(), "{name}");
                let error = json_or_text(&body_of(value))["error"]["code"].clone();
                assert_eq!(error.as_str().unwrap_or_default(), code, "{name}");
            }
            (Self::Warm, Outcome::Response(value)) => {
                assert_eq!(*value, json!({"warm": true, "status": "ok"}), "{name}");
            }
            (Self::Refused, Outcome::Response(value)) => {
                let code = value["error"]["code"].as_str();
                let known = ["unsupported_event", "malformed_event"];
                assert!(code.is_some_and(|code| known.contains(&code)), "{name}");
                assert!(value["detail"].is_string(), "{name}");
            }
            (Self::Scored(path), Outcome::Response(value)) => {
                let headers = [("content-type", "application/json")];
                let reply = client::send(server.address(), "POST", path, &headers, body);
                assert_eq!(reply.status, 200, "{name}");
                assert_eq!(scores(value), scores(&reply.json()), "{name}");
            }
            (Self::Error(kind), Outcome::Error(error)) => {
                assert_eq!(error["errorType"], kind, "{name}");
                assert!(error["errorMessage"].is_string(), "{name}");
                assert!(error["status"].is_number(), "{name}");
            }
            _ => panic!("{name}: expected {self:?}, got {outcome:?}"),
        }
    }
}

/// An answer without what differs from one time to the next.
fn scores(answer: &Value) -> Value {
    let mut answer = without_times(answer.clone());
    if let Some(answer) = answer.as_object_mut() {
        for name in ["id", "created"] {
            answer.remove(name);
        }
    }
    answer
}

fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("events")
        .join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An HTTP API event like the recorded one, for another request.
fn event_for(method: &str, path: &str, body: &Value) -> Value {
    let mut event = event("apigw-v2.json");
    event["rawPath"] = path.into();
    event["rawQueryString"] = "".into();
    event["requestContext"]["http"]["method"] = method.into();
    event["requestContext"]["http"]["path"] = path.into();
    event["body"] = body.to_string().into();
    event["headers"]["content-length"] = body.to_string().len().to_string().into();
    event
}

fn body_of(event: &Value) -> Vec<u8> {
    match event["body"].as_str() {
        Some(body) if event["isBase64Encoded"] == true => {
            BASE64_STANDARD.decode(body).expect("base64")
        }
        Some(body) => body.into(),
        None => Vec::new(),
    }
}

/// A function on a platform of its own.
struct Function {
    process: Process,
    platform: RuntimeApi,
}

impl Function {
    fn start(variables: &[(&str, &str)]) -> Self {
        let platform = RuntimeApi::start();
        let own = platform.variables();
        let mut all: Vec<(&str, &str)> = own
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        all.extend(variables);
        Self {
            process: Process::serve(&all),
            platform,
        }
    }

    fn with_model(model: &str) -> Self {
        Self::start(&[("MODEL_DIR", model)])
    }

    fn tiny() -> Self {
        Self::with_model(tiny_model().to_str().expect("a UTF-8 path"))
    }

    fn outcome(&self, event: &Value, deadline: Deadline) -> (String, Outcome) {
        self.outcome_of(event.to_string().into(), deadline)
    }

    fn outcome_of(&self, event: Vec<u8>, deadline: Deadline) -> (String, Outcome) {
        let invocation = self
            .platform
            .invoke(event, deadline)
            .expect("within the platform's limit");
        let outcome = invocation.wait(PATIENCE).expect("an outcome");
        (invocation.id, outcome)
    }

    fn answer(&self, event: &Value, deadline: Deadline) -> Answer {
        match self.outcome(event, deadline) {
            (id, Outcome::Response(value)) => Answer { id, value },
            (_, other) => panic!("{other:?}"),
        }
    }

    /// Ends it as Lambda does; its log.
    fn stop(self) -> Vec<String> {
        self.process.terminate();
        let (code, log) = self.process.wait();
        assert_eq!(code, Some(0), "{}", log.join("\n"));
        log
    }
}

/// The response that the function gave the platform.
struct Answer {
    id: String,
    value: Value,
}

impl Answer {
    fn status(&self) -> u64 {
        self.value["statusCode"].as_u64().expect("a status")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.value["headers"][name]
            .as_str()
            .or_else(|| self.value["multiValueHeaders"][name][0].as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&body_of(&self.value)).expect("the body is JSON")
    }

    /// The body, be it JSON or a page.
    fn body(&self) -> Value {
        json_or_text(&body_of(&self.value))
    }
}

fn json_or_text(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

/// What of a body must be the same everywhere: all but times.
fn without_times(mut body: Value) -> Value {
    if let Some(body) = body.as_object_mut() {
        for name in ["ms", "uptime_s", "cold_start"] {
            body.remove(name);
        }
    }
    body
}

fn by_http(server: &Process, event: &Value, method: &str, path: &str) -> Reply {
    let body = body_of(event);
    let headers: &[(&str, &str)] = if body.is_empty() {
        &[]
    } else {
        &[("content-type", "application/json")]
    };
    client::send(server.address(), method, path, headers, &body)
}

fn plain_server() -> Process {
    let model = tiny_model();
    let server = Process::serve(&[
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
    ]);
    server.wait_for_message("model ready");
    server
}

#[test]
fn the_tables_name_every_recorded_event() {
    let files = |folder: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = std::fs::read_dir(folder).expect("the folder");
        let mut files: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name != "other")
            .collect();
        files.sort();
        files
    };
    let listed: Vec<&str> = EVENTS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(files("events"), listed);
    let listed: Vec<&str> = OTHERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(files("events/other"), listed);
}

#[test]
fn every_event_is_answered_as_plain_http_answers_the_same_request() {
    let function = Function::tiny();
    let server = plain_server();
    for (name, method, path, status) in EVENTS {
        let event = event(name);
        let answer = function.answer(&event, LATER);
        let reply = by_http(&server, &event, method, path);
        println!(
            "{name}: {} {}",
            answer.status(),
            without_times(answer.body())
        );
        assert_eq!(answer.status(), u64::from(*status), "{name}");
        assert_eq!(reply.status, *status, "{name}");
        assert_eq!(
            without_times(answer.body()),
            without_times(json_or_text(&reply.body)),
            "{name}"
        );
        assert_eq!(
            answer.header("content-type"),
            reply.header("content-type"),
            "{name}"
        );
        assert_eq!(
            answer.header("x-request-id"),
            Some(answer.id.as_str()),
            "{name}"
        );
    }
    function.stop();
}

#[test]
fn pages_and_preflight_requests_come_through_too() {
    let function = Function::tiny();
    let server = plain_server();
    for path in ["/docs", "/docs/swagger-ui.css", "/openapi.json"] {
        let event = event_for("GET", path, &Value::Null);
        let answer = function.answer(&event, LATER);
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(
            body_of(&answer.value),
            client::get(server.address(), path).body,
            "{path}"
        );
    }
    let mut preflight = event_for("OPTIONS", "/rerank", &Value::Null);
    preflight["headers"] = json!({
        "host": "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
        "origin": "https://app.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    });
    let answer = function.answer(&preflight, LATER);
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("authorization,content-type")
    );
    let wrong = function.answer(&event_for("DELETE", "/rerank", &Value::Null), LATER);
    assert_eq!((wrong.status(), wrong.header("allow")), (405, Some("POST")));
    let unknown = function.answer(&event_for("GET", "/rank", &Value::Null), LATER);
    assert_eq!(
        (unknown.status(), &unknown.json()["error"]["code"]),
        (404, &json!("not_found"))
    );
    function.stop();
}

#[test]
fn every_other_event_is_answered_as_what_it_is() {
    let function = Function::tiny();
    let server = plain_server();
    for (name, expected) in OTHERS {
        let event = event(&format!("other/{name}"));
        let body = match event.get("path") {
            Some(_) => event["body"].to_string(),
            None => event.to_string(),
        };
        let (_, outcome) = function.outcome(&event, LATER);
        expected.check(name, &outcome, &server, body.as_bytes());
    }
    // A queue that is told keeps its messages.
    let Outcome::Response(refused) = function.outcome(&event("other/sqs.json"), LATER).1 else {
        panic!("an answer");
    };
    assert_eq!(
        refused["batchItemFailures"],
        json!([
            {"itemIdentifier": "059f36b4-87a3-44ab-83d2-661975830a7d"},
            {"itemIdentifier": "2e1424d4-f796-459a-8184-9c92662be6da"},
        ])
    );
    function.stop();
}

/// A recorded event with something of it changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut event = event(name);
    change(&mut event);
    event.to_string().into()
}

#[test]
fn no_event_fails_the_function() {
    let function = Function::tiny();
    let server = plain_server();
    const OK: Expect = Expect::Http(200, "");
    const MALFORMED: Expect = Expect::Http(400, "malformed_event");
    let mut events: Vec<(String, Vec<u8>, Expect)> = Vec::new();
    let mut add = |name: &str, event: Vec<u8>, expected| {
        events.push((name.to_owned(), event, expected));
    };
    // Hosts and schemes, of which nothing is made.
    let all = [
        "alb.json",
        "apigw-v1.json",
        "apigw-v2.json",
        "function-url.json",
    ];
    for name in all {
        for host in [
            "${jndi:ldap://x/y}",
            "example.com:port",
            "127.0.0.1%00",
            "a:b:c",
            "",
            "[::1",
        ] {
            let odd = changed(name, |event| {
                // A REST API writes it in this case, and two that differ in it alone would be two.
                for name in ["host", "Host"] {
                    if event["headers"].get(name).is_some() {
                        event["headers"][name] = host.into();
                    }
                    if event["multiValueHeaders"].get(name).is_some() {
                        event["multiValueHeaders"][name] = json!([host]);
                    }
                }
            });
            add(&format!("{name}: host {host:?}"), odd, OK);
        }
        for scheme in ["https,http", "", "http,https ", "://"] {
            let odd = changed(name, |event| {
                event["headers"]["x-forwarded-proto"] = scheme.into();
                event["multiValueHeaders"]["x-forwarded-proto"] = json!([scheme]);
            });
            add(&format!("{name}: scheme {scheme:?}"), odd, OK);
        }
        for headers in [
            Value::Null,
            json!({}),
            json!(5),
            json!({"x": null, "y": 1, "z": [2]}),
        ] {
            let odd = changed(name, |event| {
                event["headers"] = headers.clone();
                event["multiValueHeaders"] = Value::Null;
            });
            add(&format!("{name}: headers {headers}"), odd, OK);
        }
        for header in [json!({"a b": "c"}), json!({"a": "b\nc"}), json!({"": "c"})] {
            let odd = changed(name, |event| event["headers"] = header.clone());
            add(&format!("{name}: headers {header}"), odd, MALFORMED);
        }
        let odd = changed(name, |event| {
            event["headers"] = (0..1001).map(|n| (format!("x-{n}"), json!("y"))).collect();
        });
        add(
            &format!("{name}: 1001 headers"),
            odd,
            Expect::Http(431, "head_too_large"),
        );
        // Bodies.
        let odd = changed(name, |event| {
            event["body"] = "canary=?".into();
            event["isBase64Encoded"] = true.into();
        });
        add(&format!("{name}: no base64"), odd, MALFORMED);
        let odd = changed(name, |event| {
            let body = BASE64_STANDARD.encode(event["body"].as_str().expect("a body"));
            let lines: Vec<&str> = vec![&body[..20], &body[20..]];
            event["body"] = lines.join("\r\n").trim_end_matches('=').into();
            event["isBase64Encoded"] = "true".into();
        });
        add(&format!("{name}: base64 in lines"), odd, OK);
        let odd = changed(name, |event| {
            event["body"] =
                serde_json::from_str(event["body"].as_str().expect("a body")).expect("JSON");
        });
        add(&format!("{name}: a body that is no string"), odd, OK);
        for (body, expected) in [
            (Value::Null, Expect::Http(400, "malformed_json")),
            (json!(""), Expect::Http(400, "malformed_json")),
            (json!(5), Expect::Http(422, "wrong_type")),
        ] {
            let odd = changed(name, |event| event["body"] = body.clone());
            add(&format!("{name}: body {body}"), odd, expected);
        }
        // Methods.
        for method in ["GE T", "", "POST\n", "\u{e4}"] {
            let odd = changed(name, |event| {
                event["httpMethod"] = method.into();
                event["requestContext"]["http"]["method"] = method.into();
                if name == "alb.json" || name == "apigw-v1.json" {
                    event["requestContext"]["http"] = Value::Null;
                }
            });
            add(&format!("{name}: method {method:?}"), odd, MALFORMED);
        }
        // Paths.
        for (path, expected) in [
            ("", OK),
            ("rank", Expect::Http(404, "not_found")),
            (
                "/a b|c\"<>\\^`{}#?\u{7f}\u{e9}\u{1f43c}\0\r\n%",
                Expect::Http(404, "not_found"),
            ),
            ("http://elsewhere/rerank", Expect::Http(404, "not_found")),
            ("/\u{e9}", Expect::Http(404, "not_found")),
        ] {
            let odd = changed(name, |event| {
                event["path"] = path.into();
                event["rawPath"] = path.into();
                event["httpMethod"] = "GET".into();
                if event["requestContext"]["http"].is_object() {
                    event["httpMethod"] = Value::Null;
                    event["requestContext"]["http"]["method"] = "GET".into();
                    event["requestContext"]["http"]["path"] = path.into();
                }
            });
            add(&format!("{name}: path {path:?}"), odd, expected);
        }
        let odd = changed(name, |event| {
            event["path"] = format!("/{}", "a".repeat(70_000)).into();
            event["rawPath"] = event["path"].clone();
        });
        add(
            &format!("{name}: a path of 70,000"),
            odd,
            Expect::Http(431, "head_too_large"),
        );
        // Queries.
        for query in ["a=|", "a b\"<>#\u{e9}", "%", "?&=&", "\0"] {
            let odd = changed(name, |event| {
                event["rawQueryString"] = query.into();
                event["queryStringParameters"] = json!({"a": query, query: ""});
                event["multiValueQueryStringParameters"] = json!({query: [query, null, 5]});
            });
            add(&format!("{name}: query {query:?}"), odd, OK);
        }
        for query in [Value::Null, json!([]), json!({"a": null, "b": [1, {}]})] {
            let odd = changed(name, |event| {
                event["rawQueryString"] = Value::Null;
                event["queryStringParameters"] = query.clone();
                event["multiValueQueryStringParameters"] = Value::Null;
            });
            add(&format!("{name}: query {query}"), odd, OK);
        }
        // What the gateway says of the caller.
        for (field, value) in [
            (
                "authorizer",
                json!({"jwt": {"claims": {"exp": 5, "aud": ["a", "b"], "x": {"y": null}}, "scopes": null}}),
            ),
            ("authorizer", json!({"lambda": {"nested": [1, [2]]}})),
            ("authorizer", json!("text")),
            ("identity", Value::Null),
            ("identity", json!({"sourceIp": 5})),
            ("httpMethod", Value::Null),
            ("requestTimeEpoch", json!(1_795_428_905_123.5)),
            ("timeEpoch", json!("soon")),
            ("time", Value::Null),
            ("domainName", json!([])),
            ("stage", Value::Null),
        ] {
            let odd = changed(name, |event| event["requestContext"][field] = value.clone());
            add(&format!("{name}: {field} {value}"), odd, OK);
        }
        let odd = changed(name, |event| {
            event["unknown"] = json!([{"deep": [[[[]]]]}]);
            event["requestContext"]["elsewhere"] = json!({});
        });
        add(&format!("{name}: unknown fields"), odd, OK);
        // Half a character.
        let text = event(name)
            .to_string()
            .replace("\\\"query\\\"", "\\\"x\\\":\\\"\\ud83d\\\",\\\"query\\\"");
        add(&format!("{name}: half a character"), text.into(), OK);
    }
    for name in ["alb.json", "apigw-v1.json"] {
        let odd = changed(name, |event| event["httpMethod"] = Value::Null);
        let expected = if name == "alb.json" { MALFORMED } else { OK };
        add(&format!("{name}: no httpMethod"), odd, expected);
    }
    let preflight = changed("apigw-v2.json", |event| {
        event["requestContext"]["http"]["method"] = "OPTIONS".into();
        event["headers"]["origin"] = "https://app.example.org".into();
        event["headers"]["access-control-request-method"] = "POST".into();
        event["headers"]["access-control-request-headers"] = "x-\u{15b}".into();
    });
    add(
        "a preflight for a header in another alphabet",
        preflight,
        OK,
    );
    // Signs of life.
    for ping in [
        "{}",
        "[]",
        "null",
        "5",
        "true",
        "\"\"",
        "\"hello from the console\"",
        " {} ",
        "\u{feff}{}",
        "{\"warmer\": false}",
        "{\"source\": \"serverless-plugin-warmup\"}",
        "{\"ping\": 1}",
        "{\"keep-warm\": \"\"}",
        "{\"source\": \"aws.scheduler\", \"detail-type\": \"Scheduled Event\", \"detail\": \"{}\"}",
    ] {
        add(&format!("ping {ping}"), ping.into(), Expect::Warm);
    }
    // Events of others.
    for other in [
        json!({"Records": []}),
        json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "{\"query\": \"q\"}"}}]}),
        json!({"Records": [{"eventSource": "aws:kinesis", "kinesis": {"sequenceNumber": "1"}}, 5, null]}),
        json!({"Records": [{"cf": {"request": {"uri": "/rerank"}}}]}),
        json!({"source": "aws.s3", "detail-type": "Object Created", "detail": {}}),
        json!({"awslogs": {"data": "H4sI"}}),
        json!({"type": "REQUEST", "methodArn": "arn:aws:execute-api:x", "requestContext": {"stage": "prod"}, "path": "/rerank", "httpMethod": "POST"}),
        json!({"RequestType": "Create", "ResponseURL": "https://x", "StackId": "y"}),
        json!({"messageVersion": "1.0", "agent": {}, "apiPath": "/rerank"}),
        json!({"eventSource": "aws:kafka", "records": {"t-0": []}}),
        json!({"session": {}, "request": {}}),
        json!([{"query": "q"}]),
        json!({"nothing": "that anybody knows"}),
    ] {
        add(
            &format!("other {other}"),
            other.to_string().into(),
            Expect::Refused,
        );
    }
    add("not JSON", b"{\"version\": ".to_vec(), Expect::Refused);
    add("nothing at all", Vec::new(), Expect::Refused);
    add("not UTF-8", b"\xff\xfe".to_vec(), Expect::Refused);
    add(
        "100,000 brackets",
        "[".repeat(100_000).into(),
        Expect::Refused,
    );
    add(
        "100,000 brackets that close",
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into(),
        Expect::Refused,
    );
    // Bodies as they are.
    let (one, many) = (
        json!({"query": "q", "passage": "p"}),
        json!({"query": "q", "documents": ["a", "b"]}),
    );
    for (body, path) in [
        (one.clone(), "/rerank"),
        (many.clone(), "/rerank"),
        (json!({"query": "q", "texts": ["a"]}), "/rerank"),
        (
            json!({"pairs": [{"query": "q", "passage": "p"}]}),
            "/rerank/batch",
        ),
        (json!({"text_1": "q", "text_2": ["a"]}), "/score"),
        (json!({"queries": "q", "documents": ["a"]}), "/score"),
    ] {
        let mut event = body.to_string();
        if path == "/rerank" {
            event.insert(0, '\u{feff}');
        }
        let (_, outcome) = function.outcome_of(event.into(), LATER);
        Expect::Scored(path).check(
            &body.to_string(),
            &outcome,
            &server,
            body.to_string().as_bytes(),
        );
    }
    for wrapped in [
        json!({"path": "/tei/rerank", "body": {"query": "q", "texts": ["a"]}}),
        json!({"rawPath": "/tei/rerank", "body": "{\"query\": \"q\", \"texts\": [\"a\"]}"}),
        json!({"path": "tei/rerank", "httpMethod": "post", "isBase64Encoded": true, "body": BASE64_STANDARD.encode("{\"query\": \"q\", \"texts\": [\"a\"]}")}),
    ] {
        let (_, outcome) = function.outcome(&wrapped, LATER);
        let body = json!({"query": "q", "texts": ["a"]}).to_string();
        Expect::Scored("/tei/rerank").check(
            &wrapped.to_string(),
            &outcome,
            &server,
            body.as_bytes(),
        );
    }
    for (name, event, expected) in &events {
        let (_, outcome) = function.outcome_of(event.clone(), LATER);
        expected.check(name, &outcome, &server, b"");
    }
    // Whoever invokes is told of failures as Step Functions and SDKs are told.
    for (event, kind) in [
        (json!({"query": "q"}), "Reranker.unknown_shape"),
        (
            json!({"query": " ", "passage": "p"}),
            "Reranker.empty_query",
        ),
        (json!({"query": "q", "passage": 5}), "Reranker.wrong_type"),
        (json!({"body": "{"}), "Reranker.malformed_json"),
        (json!({"path": "/rank"}), "Reranker.not_found"),
        (json!({"path": "/rerank"}), "Reranker.method_not_allowed"),
        (
            json!({"path": "/rerank", "httpMethod": "A B", "body": many}),
            "Reranker.malformed_event",
        ),
        (
            json!({"path": "/rerank", "body": "=", "isBase64Encoded": true}),
            "Reranker.malformed_event",
        ),
        (
            json!({"path": "/rerank", "headers": {"content-type": "text/plain"}, "body": many}),
            "Reranker.unsupported_media_type",
        ),
    ] {
        let (_, outcome) = function.outcome(&event, LATER);
        Expect::Error(kind).check(&event.to_string(), &outcome, &server, b"");
    }
    for (path, expected) in [("/health", json!("ok")), ("/docs/", Value::Null)] {
        match function.outcome(&json!({"path": path}), LATER).1 {
            Outcome::Response(value) => assert_eq!(value["status"], expected, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let log = function.stop().join("\n");
    assert!(!log.contains("canary") && !log.contains("panic"), "{log}");
}

#[test]
fn what_the_platform_says_of_an_invocation_fails_it_neither() {
    let function = Function::tiny();
    let event = || -> Vec<u8> { event("apigw-v2.json").to_string().into() };
    for headers in [
        &[("lambda-runtime-client-context", "{}")] as &[_],
        &[("lambda-runtime-client-context", "{\"custom\":{\"a\":1}}")],
        &[("lambda-runtime-client-context", "{\"client\":5}")],
        &[("lambda-runtime-client-context", "no JSON")],
        &[("lambda-runtime-cognito-identity", "{}")],
        &[("lambda-runtime-deadline-ms", "99999999999999999999999")],
        &[("lambda-runtime-deadline-ms", "soon")],
        &[("lambda-runtime-deadline-ms", "-1")],
        &[("lambda-runtime-trace-id", "")],
        &[("lambda-runtime-invocation-id", "abc")],
        &[("lambda-runtime-invoked-function-arn", "")],
    ] {
        let invocation = function.platform.invoke_with(event(), LATER, headers);
        match invocation.expect("small").wait(PATIENCE) {
            Some(Outcome::Response(value)) => assert_eq!(value["statusCode"], 200, "{headers:?}"),
            other => panic!("{headers:?}: {other:?}"),
        }
    }
    // Answers that are dropped are given again.
    for dropped in [1, 2] {
        function.platform.drop_answers(dropped);
        let answer = function.answer(&event_for("GET", "/health", &Value::Null), LATER);
        assert_eq!(answer.status(), 200);
    }
    // One that is dropped again and again is lost, and the next event is served.
    function.platform.drop_answers(3);
    let lost = function.platform.invoke(event(), LATER).expect("small");
    function
        .process
        .wait_for_message("the runtime API did not take an answer");
    assert!(lost.wait(Duration::ZERO).is_none());
    assert_eq!(
        function
            .answer(&event_for("GET", "/health", &Value::Null), LATER)
            .status(),
        200
    );
    // Polls that fail now and then are tried again.
    for statuses in [
        &[500_u16] as &[u16],
        &[403, 410],
        &[503, 500, 429, 404],
        &[204, 204, 204, 204, 204, 204],
    ] {
        function.platform.fail_polls(statuses);
        assert_eq!(
            function
                .answer(&event_for("GET", "/health", &Value::Null), LATER)
                .status(),
            200
        );
    }
    function.stop();
}

#[test]
fn a_runtime_api_that_gives_no_events_any_more_ends_the_process_with_its_reason() {
    let model = tiny_model();
    let model = model.to_str().expect("a UTF-8 path");
    for (status, concurrency) in [(403, "1"), (500, "1"), (410, "4")] {
        let function = Function::start(&[
            ("MODEL_DIR", model),
            ("AWS_LAMBDA_MAX_CONCURRENCY", concurrency),
        ]);
        assert!(function.platform.wait_for_call(&Call::Next, PATIENCE));
        function.platform.fail_polls(&[status; 40]);
        let (code, log) = function.process.wait();
        let log = log.join("\n");
        assert_eq!(code, Some(1), "{log}");
        assert!(
            log.contains("5 times in a row") && log.contains(&status.to_string()),
            "{log}"
        );
        assert!(!log.contains("panic"), "{log}");
    }
    for address in ["no address at all", "/only/a/path", " "] {
        let function = Process::serve(&[("MODEL_DIR", model), ("AWS_LAMBDA_RUNTIME_API", address)]);
        let (code, log) = function.wait();
        let log = log.join("\n");
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains("AWS_LAMBDA_RUNTIME_API"), "{log}");
        assert!(!log.contains("panic"), "{log}");
    }
}

/// The stage and the path of an event, as its gateway tells them, and the route that was called.
#[test]
fn a_stage_is_taken_off_once_and_only_where_the_gateway_put_it_on() {
    let function = Function::tiny();
    let server = plain_server();
    const REST: &str = "f6g7h8i9j0.execute-api.eu-central-1.amazonaws.com";
    const HTTP: &str = "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com";
    const OWN: &str = "api.example.com";
    let body =
        json!({"query": "what do giant pandas eat?", "documents": ["Bamboo.", "The harbour."]});
    let text = body.to_string();
    let check = |name: &str, mut event: Value, route: &str| {
        event["body"] = text.as_str().into();
        event["headers"] = json!({"content-type": "application/json"});
        event["multiValueHeaders"] = Value::Null;
        let answer = function.answer(&event, LATER);
        let headers = [("content-type", "application/json")];
        let reply = client::send(server.address(), "POST", route, &headers, text.as_bytes());
        println!("{name}: {} {}", answer.status(), answer.body());
        assert_eq!(answer.status(), u64::from(reply.status), "{name}");
        assert_eq!(scores(&answer.json()), scores(&reply.json()), "{name}");
    };
    // REST APIs: the domain, the stage, the path, the whole path, what the resource matched, and the route.
    for (domain, stage, path, whole, proxy, route) in [
        (REST, "prod", "/rerank", "/prod/rerank", "rerank", "/rerank"),
        (
            REST,
            "prod",
            "/llamacpp/rerank",
            "/prod/llamacpp/rerank",
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (
            REST,
            "llamacpp",
            "/llamacpp/rerank",
            "/llamacpp/llamacpp/rerank",
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (
            REST,
            "llamacpp",
            "/rerank",
            "/llamacpp/rerank",
            "rerank",
            "/rerank",
        ),
        (
            REST,
            "rerank",
            "/rerank",
            "/rerank/rerank",
            "rerank",
            "/rerank",
        ),
        (
            REST,
            "rerank",
            "/rerank/batch",
            "/rerank/rerank/batch",
            "rerank/batch",
            "/rerank/batch",
        ),
        (REST, "score", "/score", "/score/score", "score", "/score"),
        (
            REST,
            "v1",
            "/v1/rerank",
            "/v1/v1/rerank",
            "v1/rerank",
            "/v1/rerank",
        ),
        // A path that begins with the stage, because the caller wrote it twice.
        (
            REST,
            "prod",
            "/prod/rerank",
            "/prod/prod/rerank",
            "prod/rerank",
            "/prod/rerank",
        ),
        // A custom domain: without a base path, with one, with the stage as one, with both.
        (
            OWN,
            "llamacpp",
            "/llamacpp/rerank",
            "/llamacpp/rerank",
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (OWN, "prod", "/rerank", "/rerank", "rerank", "/rerank"),
        (
            OWN,
            "prod",
            "/search/rerank",
            "/search/rerank",
            "rerank",
            "/rerank",
        ),
        (
            OWN,
            "prod",
            "/prod/rerank",
            "/prod/rerank",
            "rerank",
            "/rerank",
        ),
        (
            OWN,
            "prod",
            "/search/prod/rerank",
            "/search/prod/rerank",
            "rerank",
            "/rerank",
        ),
        (
            OWN,
            "score",
            "/rerank/score",
            "/rerank/score",
            "score",
            "/score",
        ),
    ] {
        let mut event = event("apigw-v1-stage.json");
        event["path"] = path.into();
        event["pathParameters"]["proxy"] = proxy.into();
        event["requestContext"]["path"] = whole.into();
        event["requestContext"]["stage"] = stage.into();
        event["requestContext"]["domainName"] = domain.into();
        check(&format!("REST {stage} {whole}"), event, route);
    }
    // HTTP APIs, and Function URLs: the domain, the stage, the path, the route's key, what it matched, and the route.
    const ANY: &str = "ANY /{proxy+}";
    const DEFAULT: &str = "$default";
    let url = event("function-url.json")["requestContext"]["domainName"].clone();
    let url = url.as_str().expect("a domain");
    for (domain, stage, path, key, proxy, route) in [
        (HTTP, "prod", "/prod/rerank", ANY, "rerank", "/rerank"),
        (
            HTTP,
            "llamacpp",
            "/llamacpp/rerank",
            ANY,
            "rerank",
            "/rerank",
        ),
        (
            HTTP,
            "llamacpp",
            "/llamacpp/llamacpp/rerank",
            ANY,
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (
            HTTP,
            "llamacpp",
            "/llamacpp/llamacpp/rerank",
            DEFAULT,
            "",
            "/llamacpp/rerank",
        ),
        (HTTP, "rerank", "/rerank/rerank", DEFAULT, "", "/rerank"),
        (
            HTTP,
            "rerank",
            "/rerank/rerank/batch",
            DEFAULT,
            "",
            "/rerank/batch",
        ),
        (HTTP, "score", "/score/score", "POST /score", "", "/score"),
        (
            HTTP,
            "$default",
            "/llamacpp/rerank",
            ANY,
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (HTTP, "$default", "/score", DEFAULT, "", "/score"),
        (
            OWN,
            "llamacpp",
            "/llamacpp/rerank",
            DEFAULT,
            "",
            "/llamacpp/rerank",
        ),
        (
            OWN,
            "llamacpp",
            "/llamacpp/rerank",
            ANY,
            "llamacpp/rerank",
            "/llamacpp/rerank",
        ),
        (OWN, "prod", "/search/v1/rerank", ANY, "rerank", "/rerank"),
        (
            OWN,
            "$default",
            "/search/rerank",
            "POST /rerank",
            "",
            "/rerank",
        ),
        (
            url,
            "$default",
            "/llamacpp/rerank",
            DEFAULT,
            "",
            "/llamacpp/rerank",
        ),
        (url, "$default", "/prod/rerank", DEFAULT, "", "/prod/rerank"),
    ] {
        let mut event = event("apigw-v2-stage.json");
        event["rawPath"] = path.into();
        event["routeKey"] = key.into();
        event["pathParameters"]["proxy"] = proxy.into();
        event["requestContext"]["http"]["path"] = path.into();
        event["requestContext"]["routeKey"] = key.into();
        event["requestContext"]["stage"] = stage.into();
        event["requestContext"]["domainName"] = domain.into();
        check(
            &format!("HTTP {domain} {stage} {path}"),
            event.clone(),
            route,
        );
        // The same in the older format.
        let older = json!({
            "version": "1.0", "httpMethod": "POST", "path": path, "resource": key.rsplit(' ').next(),
            "pathParameters": {"proxy": proxy},
            "requestContext": {"stage": stage, "path": path, "domainName": domain, "httpMethod": "POST"},
        });
        check(&format!("HTTP 1.0 {domain} {stage} {path}"), older, route);
    }
    function.stop();
}

#[test]
fn a_body_over_the_limit_is_refused_with_its_size_whatever_headers_the_event_has() {
    let model = tiny_model();
    let variables = [
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("MAX_BODY_BYTES", "1024"),
    ];
    let function = Function::start(&variables);
    for name in ["apigw-v2.json", "apigw-v1.json", "alb.json"] {
        let mut event = event(name);
        let body = json!({"query": "q", "passage": "p".repeat(2000)}).to_string();
        event["body"] = body.as_str().into();
        let answer = function.answer(&event, LATER);
        assert_eq!(answer.status(), 413, "{name}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["got"], &error["limit"]),
            (&json!("body_too_large"), &json!(body.len()), &json!(1024)),
            "{name}"
        );
    }
    function.stop();
}

#[test]
fn the_largest_event_that_lambda_takes_is_answered_as_plain_http_answers_it() {
    let function = Function::tiny();
    let server = plain_server();
    let of = |chars| {
        event_for(
            "POST",
            "/rerank",
            &json!({"query": "q", "passage": "p".repeat(chars)}),
        )
    };
    let envelope = of(0).to_string().len();
    let largest = of(MAX_EVENT_BYTES - envelope - 20);
    let answer = function.answer(&largest, LATER);
    let reply = by_http(&server, &largest, "POST", "/rerank");
    println!("{} bytes: {}", largest.to_string().len(), answer.json());
    assert_eq!((answer.status(), reply.status), (422, 422));
    assert_eq!(answer.json(), reply.json());
    assert_eq!(answer.json()["error"]["code"], "text_too_long");
    let beyond = of(MAX_EVENT_BYTES).to_string().into();
    assert_eq!(
        function.platform.invoke(beyond, LATER).err(),
        Some(EventTooLarge)
    );
    function.stop();
}

#[test]
fn an_answer_over_the_platforms_limit_is_refused_in_words_of_ours() {
    let model = tiny_model();
    let variables = [
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("MAX_PAIRS", "100000"),
    ];
    let function = Function::start(&variables);
    let pairs = |number| json!({"pairs": vec![json!({"query": "q", "passage": ""}); number]});
    let (many, fewer) = (pairs(80_000), pairs(20_000));
    let refused = |answer: &Answer, limit: u64| {
        println!("{}", answer.json());
        assert_eq!(answer.status(), 422);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "answer_too_large");
        assert_eq!(error["limit"], limit);
        assert_eq!(answer.header("x-request-id"), Some(answer.id.as_str()));
    };
    let event_of = |body: &Value| event_for("POST", "/rerank/batch", body);
    refused(&function.answer(&event_of(&many), LATER), 6_291_556);
    assert_eq!(function.answer(&event_of(&fewer), LATER).status(), 200);
    // A load balancer takes less.
    let mut alb = event("alb.json");
    alb["path"] = "/rerank/batch".into();
    alb["body"] = fewer.to_string().into();
    refused(&function.answer(&alb, LATER), 1 << 20);
    match function.outcome(&many, LATER).1 {
        Outcome::Error(error) => assert_eq!(error["errorType"], "Reranker.answer_too_large"),
        other => panic!("{other:?}"),
    }
    // In the words of the dialect that was asked.
    let documents =
        json!({"query": "q", "texts": vec!["x".repeat(40); 90_000], "return_text": true});
    let answer = function.answer(&event_for("POST", "/tei/rerank", &documents), LATER);
    println!("{}", answer.json());
    assert_eq!(answer.status(), 422);
    assert!(
        answer.json()["error"].is_string(),
        "as text-embeddings-inference tells errors"
    );
    assert_eq!(
        function.answer(&event("apigw-v2.json"), LATER).status(),
        200
    );
    function.stop();
}

#[test]
fn logs_are_as_the_functions_settings_have_them_unless_ours_say_otherwise() {
    let model = tiny_model();
    let lines = |variables: &[(&str, &str)]| {
        let model = ("MODEL_DIR", model.to_str().expect("a UTF-8 path"));
        let function = Function::start(&[&[model], variables].concat());
        assert_eq!(
            function.answer(&event("apigw-v2.json"), LATER).status(),
            200
        );
        function.stop()
    };
    let of_requests = |log: &[String]| log.iter().filter(|line| line.contains("request")).count();
    let quiet = lines(&[("AWS_LAMBDA_LOG_LEVEL", "ERROR")]);
    assert_eq!(quiet, [""; 0]);
    let ours = lines(&[("AWS_LAMBDA_LOG_LEVEL", "ERROR"), ("LOG_LEVEL", "info")]);
    assert!(of_requests(&ours) > 0, "{ours:?}");
    let text = lines(&[
        ("AWS_LAMBDA_LOG_FORMAT", "Text"),
        ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
    ]);
    assert!(
        of_requests(&text) > 0 && !text[0].starts_with('{'),
        "{text:?}"
    );
    let json = lines(&[("AWS_LAMBDA_LOG_FORMAT", "Text"), ("LOG_FORMAT", "json")]);
    assert!(json.iter().all(|line| line.starts_with('{')), "{json:?}");
}

#[test]
fn cloudwatch_gets_the_numbers_of_each_request_and_no_text() {
    let function = Function::tiny();
    for name in ["batch.json", "malformed-body.json"] {
        function.outcome(&event(name), LATER);
    }
    let lines: Vec<Value> = function
        .process
        .printed(2)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    function.stop();
    let namespace = |line: &Value| line["_aws"]["CloudWatchMetrics"][0]["Namespace"].clone();
    for line in &lines {
        assert_eq!(namespace(line), "serverless-reranker", "{line}");
        assert_eq!(line["Requests"], 1);
    }
    assert_eq!(
        (&lines[0]["Route"], &lines[0]["ColdStarts"]),
        (&json!("/rerank/batch"), &json!(1))
    );
    assert_eq!(
        (&lines[1]["ClientErrors"], &lines[1]["ColdStarts"]),
        (&json!(1), &json!(0))
    );
    let texts = event("batch.json")["body"]
        .as_str()
        .expect("a body")
        .to_owned();
    let query = serde_json::from_str::<Value>(&texts).expect("JSON")["pairs"][0]["query"].clone();
    let query = query.as_str().expect("a query").to_owned();
    assert!(lines.iter().all(|line| !line.to_string().contains(&query)));
}

#[test]
fn a_deadline_is_met_and_one_in_the_past_says_nothing() {
    let model = SlowModel::new();
    let function = Function::start(&[
        ("MODEL_DIR", model.path()),
        ("THREADS", "1"),
        ("BATCH_TOKENS", "512"),
    ]);
    // Several minutes of work, to be given up after a few seconds.
    let long = event_for("POST", "/rerank/batch", &SlowModel::batch(1000));
    let answer = function.answer(&long, Deadline::In(Duration::from_secs(4)));
    println!("1000 long pairs in 4 s: {}", answer.json());
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
    // Nothing goes on computing for it: this would wait for minutes behind it.
    let short = event("batch.json");
    let answer = function.answer(&short, LATER);
    assert_eq!((answer.status(), &answer.json()["count"]), (200, &json!(5)));
    for ms in [0, 600_000] {
        assert_eq!(
            function.answer(&short, Deadline::At(ms)).status(),
            200,
            "deadline {ms}"
        );
    }
    function.stop();
}

#[test]
fn a_gateway_that_gives_up_sooner_than_the_function_is_answered_before() {
    let model = SlowModel::new();
    let function = Function::start(&[
        ("MODEL_DIR", model.path()),
        ("THREADS", "1"),
        ("BATCH_TOKENS", "512"),
    ]);
    // Starting the process must not count.
    assert_eq!(function.answer(&event("health.json"), LATER).status(), 200);
    let taken = |ago: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.expect("after 1970").as_millis()).expect("fits") - ago * 1000
    };
    // Several minutes of work.
    let work = event_for("POST", "/rerank/batch", &SlowModel::batch(1000));
    let long = |ago| {
        let mut event = work.clone();
        event["requestContext"]["timeEpoch"] = taken(ago).into();
        event
    };
    let answer = function.answer(&long(19), LATER);
    assert_eq!(answer.status(), 504, "{}", answer.json());
    // Where nobody waits for thirty seconds alone, the invocation's own time counts.
    let mut url = long(25);
    url["requestContext"]["domainName"] =
        event("function-url.json")["requestContext"]["domainName"].clone();
    let mut rest = event("apigw-v1.json");
    rest["path"] = "/rerank/batch".into();
    rest["requestContext"]["requestTimeEpoch"] = taken(25).into();
    rest["body"] = url["body"].clone();
    for event in [url, rest] {
        let invocation = function.platform.invoke(
            event.to_string().into(),
            Deadline::In(Duration::from_secs(9)),
        );
        let invocation = invocation.expect("small");
        let begun = invocation
            .wait_until_taken(PATIENCE)
            .map(|_| Instant::now());
        match invocation.wait(PATIENCE) {
            Some(Outcome::Response(value)) => assert_eq!(value["statusCode"], 504),
            other => panic!("{other:?}"),
        }
        let took = begun.expect("taken").elapsed();
        println!("given up after {took:?}");
    }
    // A request that was recorded long ago, or will be taken in years, is answered.
    for ms in [0, taken(40), taken(0) + 100_000_000_000, u64::MAX] {
        let mut event = event("batch.json");
        event["requestContext"]["timeEpoch"] = ms.into();
        assert_eq!(function.answer(&event, LATER).status(), 200, "{ms}");
    }
    function.stop();
}

#[test]
fn a_managed_instance_polls_and_answers_concurrently() {
    let model = SlowModel::new();
    let function = Function::start(&[
        ("MODEL_DIR", model.path()),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "4"),
        ("THREADS", "1"),
        ("BATCH_TOKENS", "512"),
    ]);
    assert!(
        function.platform.wait_for_pollers(4, PATIENCE),
        "four pollers"
    );
    let invoke = |event: &Value, deadline| {
        function
            .platform
            .invoke(event.to_string().into(), deadline)
            .expect("small")
    };
    let long = event_for("POST", "/rerank/batch", &SlowModel::batch(1000));
    let slow = invoke(&long, Deadline::In(Duration::from_secs(30)));
    let health: Vec<_> = (0..3)
        .map(|_| invoke(&event("health.json"), LATER))
        .collect();
    for invocation in &health {
        match invocation.wait(PATIENCE) {
            Some(Outcome::Response(value)) => assert_eq!(value["statusCode"], 200),
            other => panic!("{other:?}"),
        }
    }
    match slow.wait(PATIENCE) {
        Some(Outcome::Response(value)) => assert_eq!(value["statusCode"], 504),
        other => panic!("{other:?}"),
    }
    let calls = function.platform.calls();
    let place = |id: &str| {
        let answered = Call::Response { id: id.to_owned() };
        calls
            .iter()
            .position(|call| *call == answered)
            .expect("answered")
    };
    for invocation in &health {
        assert!(
            place(&invocation.id) < place(&slow.id),
            "health waited for the batch"
        );
        let at_once = invocation.wait_until_taken(PATIENCE).expect("taken");
        println!("{} was taken as one of {at_once} at once", invocation.id);
        assert!(at_once > 1);
    }
    assert!(
        function.platform.wait_for_pollers(4, PATIENCE),
        "all poll again"
    );
    function.stop();
}

#[test]
fn a_model_that_loads_for_too_long_does_not_hold_up_on_demand_initialisation_but_a_snapshot_waits_for_it()
 {
    let models: Vec<GatedModel> = (0..3).map(|_| GatedModel::new()).collect();
    let start = |model: &GatedModel, kind| {
        Function::start(&[
            ("MODEL_DIR", model.path()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", kind),
            ("INIT_BUDGET_S", "1.5"),
        ])
    };
    let provisioned = start(&models[0], "provisioned-concurrency");
    let snapshot = start(&models[1], "snap-start");
    provisioned.process.wait_for_message("starting");
    snapshot.process.wait_for_message("starting");
    let begun = Instant::now();
    let on_demand = start(&models[2], "on-demand");
    assert!(
        on_demand.platform.wait_for_call(&Call::Next, PATIENCE),
        "it polls without its model"
    );
    let polled = begun.elapsed();
    println!("it polls without its model after {polled:?}");
    assert!(polled >= Duration::from_millis(1400), "{polled:?}");
    // Both others have been up for longer by now.
    for function in [&provisioned, &snapshot] {
        let calls = function.platform.calls();
        assert!(
            !calls.contains(&Call::Next) && !calls.contains(&Call::RestoreNext),
            "{calls:?}"
        );
    }
    let rerank = event("apigw-v2.json");
    let waiting = on_demand
        .platform
        .invoke(rerank.to_string().into(), LATER)
        .expect("small");
    for model in &models {
        model.open();
    }
    match waiting.wait(PATIENCE) {
        Some(Outcome::Response(value)) => assert_eq!(value["statusCode"], 200, "{value}"),
        other => panic!("{other:?}"),
    }
    assert!(
        snapshot
            .platform
            .wait_for_call(&Call::RestoreNext, PATIENCE)
    );
    assert!(
        !snapshot.platform.calls().contains(&Call::Next),
        "it waits for its restore"
    );
    snapshot.process.wait_for_message("ready for the snapshot");
    let registered = |function: &Function| {
        let calls = function.platform.calls();
        let registers = |call: &Call| matches!(call, Call::RegisterExtension { .. });
        calls.iter().any(registers)
    };
    assert!(registered(&provisioned) && registered(&on_demand));
    assert!(
        !registered(&snapshot),
        "an extension's connection would not outlive the snapshot"
    );
    let restored = Instant::now();
    snapshot.platform.restore();
    let uptime = |function: &Function| {
        let health = function.answer(&event("health.json"), LATER).json();
        health["uptime_s"].as_f64().expect("a time")
    };
    // It was started before the one that has been waiting for its budget to end.
    let (since_restore, since_start) = (uptime(&snapshot), uptime(&provisioned));
    println!("up for {since_restore} s since its restore, {since_start} s since its start");
    assert!(since_restore <= restored.elapsed().as_secs_f64());
    assert!(since_start >= polled.as_secs_f64());
    snapshot.process.wait_for_message("restored");
    for function in [provisioned, snapshot] {
        let health = function.answer(&event("health.json"), LATER).json();
        assert_eq!(health["loaded"], true);
        assert_eq!(health["cold_start"]["prefetch"]["done"], true, "{health}");
        let warm_up = health["cold_start"]["warm_up_ms"].as_f64().expect("a time");
        assert!(
            warm_up > 0.0,
            "the model ran before the first event: {health}"
        );
        assert_eq!(function.answer(&rerank, LATER).status(), 200);
        function.stop();
    }
    on_demand.stop();
}

#[test]
fn initialisation_reads_the_weights_ahead_and_the_first_answer_tells_what_it_took() {
    let function = Function::start(&[
        ("MODEL_DIR", "models/demo"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
    ]);
    let health = function.answer(&event("health.json"), LATER).json();
    let cold_start = &health["cold_start"];
    println!("{cold_start:#}");
    let prefetch = &cold_start["prefetch"];
    assert_eq!(prefetch["done"], true);
    let bytes = |name: &str| prefetch[name].as_u64().expect("a number");
    let planned = bytes("planned_bytes");
    assert_eq!(bytes("bytes") + bytes("cached_bytes"), planned);
    let weights = std::fs::metadata("models/demo/model.safetensors").expect("the demo model");
    assert!(
        (1..weights.len()).contains(&planned),
        "{planned} of {}: the embedding tables are not read",
        weights.len()
    );
    // The first request is the first inference here.
    assert_eq!(cold_start["warm_up_ms"], 0.0);
    assert!(
        cold_start.get("first_inference_ms").is_none(),
        "{cold_start}"
    );
    let first = function.answer(&event("apigw-v2.json"), LATER);
    let timing = first.header("server-timing").expect("the receipt");
    println!("{timing}");
    assert!(timing.contains("inference;dur=") && timing.contains("total;dur="));
    let second = function.answer(&event("apigw-v2.json"), LATER);
    let timing = second.header("server-timing").expect("its own times");
    assert!(
        timing.contains("infer;dur=") && !timing.contains("total;dur="),
        "{timing}"
    );
    let health = function.answer(&event("health.json"), LATER).json();
    let inference = &health["cold_start"]["first_inference_ms"];
    assert!(inference.as_f64().is_some_and(|ms| ms > 0.0), "{health}");
    function.stop();
}

#[test]
fn a_model_that_never_loads_is_an_answer_before_the_deadline() {
    let model = GatedModel::new();
    let function = Function::start(&[("MODEL_DIR", model.path()), ("INIT_BUDGET_S", "0.5")]);
    let answer = function.answer(
        &event("apigw-v2.json"),
        Deadline::In(Duration::from_secs(3)),
    );
    println!("{}", answer.json());
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.json()["error"]["code"], "not_ready");
    assert_eq!(
        function.answer(&event("health.json"), LATER).json()["status"],
        "loading"
    );
    function.stop();
}

#[test]
fn a_broken_model_is_said_in_every_answer() {
    let (folder, path) = broken_model();
    let function = Function::with_model(path.to_str().expect("a UTF-8 path"));
    for _ in 0..2 {
        let answer = function.answer(&event("apigw-v2.json"), LATER);
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.json()["error"]["code"], "model_unavailable");
    }
    let health = function.answer(&event("health.json"), LATER);
    assert_eq!(
        (health.status(), &health.json()["status"]),
        (503, &json!("failed"))
    );
    println!("{}", health.json()["reason"]);
    // Whoever invokes gets the same answers: to have no model is no error of what says so.
    for (path, status) in [("/health", "failed"), ("/ready", "not ready")] {
        match function.outcome(&json!({"path": path}), LATER).1 {
            Outcome::Response(value) => assert_eq!(value["status"], status, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    function.stop();
    drop(folder);
}

#[test]
fn each_request_is_one_json_line_and_no_text_reaches_the_log_at_any_level() {
    let model = tiny_model();
    let variables = [
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("LOG_LEVEL", "trace"),
    ];
    let function = Function::start(&variables);
    let canary = "xylophonequagga";
    let bodies = [
        ("/rerank", json!({"query": canary, "passage": canary})),
        ("/rerank", json!({"query": canary, "passage": [canary]})),
        ("/rerank", json!(canary)),
        ("/rerank", json!({"query": " ", "passage": canary})),
        (
            "/rerank",
            json!({"query": canary, "passage": "", "truncation": canary}),
        ),
        (
            "/rerank/batch",
            json!({"pairs": [{"query": canary, "passage": canary}, {"query": canary}]}),
        ),
    ];
    let mut ids = Vec::new();
    for (path, body) in &bodies {
        let answer = function.answer(&event_for("POST", path, body), LATER);
        println!("{} {}", answer.status(), answer.json());
        ids.push((answer.id.clone(), answer.status()));
    }
    let mut unfinished = event_for("POST", "/rerank", &Value::Null);
    unfinished["body"] = format!("{{\"query\": \"{canary}\", \"passage\": {canary}").into();
    assert_eq!(function.answer(&unfinished, LATER).status(), 400);
    let of_others = [
        json!({"detail": canary, canary: canary}),
        json!({"Records": [{"eventSource": canary, "messageId": canary, "body": canary}]}),
        json!({"body": canary, "path": canary, "headers": {canary: canary, "a": "\n"}}),
        json!({"requestContext": {"stage": canary, "domainName": canary}, "httpMethod": " ", "path": canary}),
    ];
    for event in &of_others {
        function.outcome(event, LATER);
    }
    let log = function.stop();
    for line in &log {
        assert!(!line.contains(canary), "{line}");
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(value.is_object(), "{line}");
    }
    let requests: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["message"] == "request")
        .collect();
    // One that was unfinished, and one of those that are others'.
    assert_eq!(requests.len(), bodies.len() + 2);
    for (id, status) in ids {
        let mut lines = requests.iter().filter(|line| line["id"] == id.as_str());
        let line = lines.next().expect("a line with the request's id");
        assert!(lines.next().is_none(), "one line for {id}");
        assert_eq!(line["status"], status);
        for name in ["ms", "documents", "pairs", "tokens"] {
            assert!(line[name].is_number(), "{name} in {line}");
        }
        assert!(
            line["route"]
                .as_str()
                .is_some_and(|route| route.starts_with("/rerank")),
            "{line}"
        );
    }
    let first = &requests[0];
    assert_eq!(first["pairs"], 1);
    assert!(
        first["tokens"].as_u64().is_some_and(|tokens| tokens > 4),
        "{first}"
    );
}

#[test]
fn sigterm_ends_an_idle_function_and_one_that_computes() {
    let idle = Function::tiny();
    assert!(idle.platform.wait_for_pollers(1, PATIENCE));
    let registered = idle
        .platform
        .calls()
        .iter()
        .any(|call| matches!(call, Call::RegisterExtension { .. }));
    assert!(registered, "without an extension SIGTERM would not be sent");
    let log = idle.stop();
    assert!(log.iter().any(|line| line.contains("stopped")), "{log:#?}");

    let model = SlowModel::new();
    let busy = Function::start(&[("MODEL_DIR", model.path()), ("THREADS", "1")]);
    let long = event_for("POST", "/rerank/batch", &SlowModel::batch(1000));
    let running = busy
        .platform
        .invoke(long.to_string().into(), LATER)
        .expect("small");
    running
        .wait_until_taken(PATIENCE)
        .expect("the function takes it");
    busy.stop();
}

#[test]
fn no_snapshot_is_made_of_a_function_without_its_model() {
    let (folder, path) = broken_model();
    let path = path.to_str().expect("a UTF-8 path");
    for kind in ["snap-start", "provisioned-concurrency"] {
        let function = Function::start(&[
            ("MODEL_DIR", path),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", kind),
        ]);
        let (code, log) = function.process.wait();
        assert_eq!(code, Some(1), "{kind}: {}", log.join("\n"));
        let calls = function.platform.calls();
        assert!(
            !calls.contains(&Call::Next) && !calls.contains(&Call::RestoreNext),
            "{kind}: {calls:?}"
        );
    }
    drop(folder);
}

/// A request whose answer nobody else's can be: it returns the document, which holds `number`.
fn marked(number: usize) -> Value {
    let body = json!({
        "query": "how far is it?", "documents": [format!("it is {number} miles and a half")], "return_documents": true,
    });
    event_for("POST", "/v1/rerank", &body)
}

fn is_marked(answer: &Value, number: usize) -> bool {
    let answer = Answer {
        id: String::new(),
        value: answer.clone(),
    };
    let document = &answer.json()["results"][0]["document"]["text"];
    answer.status() == 200 && *document == format!("it is {number} miles and a half")
}

/// How many responses the platform got for each of these invocations.
fn answered_once(function: &Function, ids: &[String]) {
    let mut times = std::collections::HashMap::<String, usize>::new();
    for call in function.platform.calls() {
        if let Call::Response { id } | Call::Error { id } = call {
            *times.entry(id).or_default() += 1;
        }
    }
    for id in ids {
        assert_eq!(times.get(id), Some(&1), "{id}");
    }
}

#[test]
fn hundreds_of_events_are_answered_once_each_one_after_the_other_and_at_once() {
    let function = Function::tiny();
    let ids: Vec<String> = (0..300)
        .map(|number| {
            let answer = function.answer(&marked(number), LATER);
            assert!(is_marked(&answer.value, number), "{}", answer.value);
            answer.id
        })
        .collect();
    answered_once(&function, &ids);
    function.stop();

    let model = tiny_model();
    let function = Function::start(&[
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "16"),
    ]);
    let invocations: Vec<_> = (0..400)
        .map(|number| {
            let event = marked(number).to_string().into();
            function.platform.invoke(event, LATER).expect("small")
        })
        .collect();
    let mut most = 0;
    for (number, invocation) in invocations.iter().enumerate() {
        match invocation.wait(PATIENCE) {
            Some(Outcome::Response(value)) => assert!(is_marked(&value, number), "{value}"),
            other => panic!("{other:?}"),
        }
        most = most.max(invocation.wait_until_taken(PATIENCE).expect("taken"));
    }
    println!("at most {most} at once");
    assert!((2..=16).contains(&most), "{most}");
    let ids: Vec<String> = invocations.into_iter().map(|one| one.id).collect();
    answered_once(&function, &ids);
    function.stop();
}

#[test]
fn a_cold_start_under_load_answers_all_that_waited_for_it() {
    let model = GatedModel::new();
    let function = Function::start(&[
        ("MODEL_DIR", model.path()),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "8"),
        ("INIT_BUDGET_S", "0.2"),
    ]);
    let invocations: Vec<_> = (0..40)
        .map(|number| {
            let event = marked(number).to_string().into();
            function.platform.invoke(event, LATER).expect("small")
        })
        .collect();
    // Eight are taken, and wait for the model.
    invocations[7].wait_until_taken(PATIENCE).expect("taken");
    model.open();
    for (number, invocation) in invocations.iter().enumerate() {
        match invocation.wait(PATIENCE) {
            Some(Outcome::Response(value)) => assert!(is_marked(&value, number), "{value}"),
            other => panic!("{other:?}"),
        }
    }
    function.stop();
}

#[test]
fn deadlines_that_cannot_be_kept_are_counted_and_odd_clocks_serve_nothing_wrong() {
    let model = SlowModel::new();
    let function = Function::start(&[
        ("MODEL_DIR", model.path()),
        ("THREADS", "1"),
        ("BATCH_TOKENS", "512"),
    ]);
    // The speed is known after two.
    for _ in 0..2 {
        let warm = event_for("POST", "/rerank/batch", &SlowModel::batch(2));
        assert_eq!(function.answer(&warm, LATER).status(), 200);
    }
    let long = event_for("POST", "/rerank/batch", &SlowModel::batch(900));
    for _ in 0..3 {
        let answer = function.answer(&long, Deadline::In(Duration::from_secs(3)));
        assert_eq!(answer.status(), 504, "{}", answer.json());
    }
    let counted = || {
        let answer = function.answer(&event_for("GET", "/metrics", &json!("")), LATER);
        let text = answer.body().as_str().expect("text").to_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("reranker_deadline_refusals_total "));
        line.and_then(|count| count.parse::<u64>().ok())
    };
    assert_eq!(counted(), Some(3));
    let refusals = function.process.printed(6);
    let refusals = refusals
        .iter()
        .filter(|line| line.contains("\"DeadlineRefusals\":1"));
    assert_eq!(refusals.count(), 3);
    // A clock that jumped: far behind, far ahead, and beyond what any clock can tell.
    let alone = function.answer(&marked(1), LATER);
    let scores = |answer: &Answer| answer.json()["results"].clone();
    for ms in [0, 600_000, 4_102_444_800_000, u64::MAX / 1000, u64::MAX] {
        let answer = function.answer(&marked(1), Deadline::At(ms));
        assert_eq!(answer.status(), 200, "deadline {ms}: {}", answer.json());
        assert_eq!(scores(&answer), scores(&alone), "deadline {ms}");
    }
    assert_eq!(counted(), Some(3));
    function.stop();
}

#[test]
fn two_panics_in_a_row_end_the_function_with_its_own_code_once_they_are_answered() {
    let function = Function::tiny();
    let tokens = function.answer(&marked(7), LATER).json()["results"][0]["tokens"].clone();
    function.stop();
    let model = tiny_model();
    let place = format!("compute:{tokens}");
    let function = Function::start(&[
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("INJECT_PANIC", &place),
    ]);
    for _ in 0..2 {
        let answer = function.answer(&marked(7), LATER);
        assert_eq!(
            (answer.status(), &answer.json()["error"]["code"]),
            (500, &json!("internal"))
        );
        assert_eq!(answer.header("x-request-id"), Some(&*answer.id));
    }
    let (status, log) = function.process.wait();
    assert_eq!(status, Some(70), "{}", log.join("\n"));
}
