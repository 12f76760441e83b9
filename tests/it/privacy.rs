//! A word that nobody else says goes through every dialect and every way of failing, and must come out nowhere: in no log of any
//! level or format, no metric, no trace, no error.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Reply, connect, get, read_reply, send, write_head};
use crate::support::collector::{Collector, Manner};
use crate::support::http2::{self, Frame, Http2};
use crate::support::process::{Process, tiny_model};

const CANARY: &str = "xylophonequagga";
/// The key that the operator has set; it must come out nowhere either.
const KEY: &str = "quaggaskeleton";

/// A body of every dialect, whole.
fn bodies() -> Vec<Value> {
    let text = json!({"text": CANARY, CANARY: CANARY, "title": CANARY});
    vec![
        json!({"query": CANARY, "passage": CANARY, CANARY: CANARY}),
        json!({"pairs": [{"query": CANARY, "passage": CANARY, CANARY: 1}]}),
        json!({"query": CANARY, "documents": [CANARY, text], "model": CANARY, "return_documents": true, "user": CANARY}),
        json!({"query": CANARY, "documents": [{CANARY: CANARY}], "rank_fields": [CANARY]}),
        json!({"query": CANARY, "texts": [CANARY], "return_text": true}),
        json!({"query": CANARY, "input": [CANARY], "rank_fields": [CANARY]}),
        json!({"queries": CANARY, "documents": [CANARY]}),
        json!({"text_1": CANARY, "text_2": [CANARY]}),
        json!({
            "queries": [{"type": "TEXT", "textQuery": {"text": CANARY}}],
            "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": CANARY}}}],
            "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": {"modelConfiguration": {"modelArn": CANARY}}},
        }),
    ]
}

/// The same, broken in every place: each value by itself replaced by what does not belong there, a word where a number is due.
fn broken(body: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for wrong in [
        json!({CANARY: {CANARY: CANARY}}),
        json!([[CANARY]]),
        json!(CANARY),
        json!(7.5),
    ] {
        for place in places(body, String::new()) {
            let mut body = body.clone();
            *body.pointer_mut(&place).expect("the place") = wrong.clone();
            all.push(body.to_string());
        }
        for option in [
            "truncation",
            "normalize",
            "max_length",
            "top_n",
            "top_k",
            "min_score",
            "max_chunks_per_doc",
            "relevant_spans",
            "raw_scores",
            "truncate",
            "parameters",
            "return_documents",
        ] {
            let mut body = body.clone();
            body[option] = wrong.clone();
            all.push(body.to_string());
        }
    }
    let text = body.to_string();
    all.push(text[..text.len() - 1].to_owned());
    all.push(text.replacen('"', "", 1));
    all.push(format!("{text}{CANARY}"));
    all.push(format!(
        "{{\"{CANARY}\":1,\"{CANARY}\":2,\"query\":\"a\",\"query\":\"{CANARY}\"}}"
    ));
    all.push(CANARY.to_owned());
    all.push(format!("\"{CANARY}\""));
    all
}

/// JSON pointers to everything in `value`.
fn places(value: &Value, at: String) -> Vec<String> {
    let within: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(items) => (0..).map(|n: usize| n.to_string()).zip(items).collect(),
        _ => Vec::new(),
    };
    within
        .into_iter()
        .flat_map(|(name, value)| {
            let at = format!("{at}/{name}");
            let mut all = places(value, at.clone());
            all.push(at);
            all
        })
        .collect()
}

/// Keeps count of statuses, and looks at every error.
#[derive(Default)]
struct Seen(BTreeMap<u16, usize>);

impl Seen {
    fn note(&mut self, what: &str, reply: &Reply) {
        *self.0.entry(reply.status).or_default() += 1;
        if reply.status != 200 {
            let told = format!("{reply:?} {}", String::from_utf8_lossy(&reply.body));
            assert!(!told.contains(CANARY), "{what}: {told}");
        }
    }
}

fn through_everything(server: &Process, address: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    let post = |path: &str, headers: &[(&str, &str)], body: &str| {
        let mut all = vec![("content-type", "application/json"), ("x-api-key", KEY)];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        all.extend(headers);
        send(address, "POST", path, &all, body.as_bytes())
    };
    let documents = get(address, "/openapi.json").json();
    let paths = documents["paths"].as_object().expect("paths");
    let scoring: Vec<&String> = paths
        .iter()
        .filter(|(_, item)| item.get("post").is_some())
        .map(|(path, _)| path)
        .collect();
    for path in &scoring {
        for body in bodies() {
            seen.note(path, &post(path, &[], &body.to_string()));
        }
    }
    // Broken ones go to one path of each dialect; which of them they are whole in is tried too.
    let own = [
        "/rerank",
        "/rerank/batch",
        "/cohere/v1/rerank",
        "/v2/rerank",
        "/tei/rerank",
        "/score",
        "/vllm/rerank",
        "/infinity/rerank",
        "/llamacpp/rerank",
        "/jina/v1/rerank",
        "/voyage/rerank",
        "/mixedbread/reranking",
        "/pinecone/rerank",
        "/bedrock/rerank",
        "/inference/semanticReranking",
        "/estimate",
    ];
    for (n, body) in bodies().iter().flat_map(broken).enumerate() {
        // Each to a few of them in turn: all to all would take minutes.
        for step in 0..3 {
            let path = own[(n + step * 5) % own.len()];
            seen.note(path, &post(path, &[], &body));
        }
    }
    let pair = json!({"query": CANARY, "passage": CANARY}).to_string();
    let signature = format!(
        "AWS4-HMAC-SHA256 Credential={CANARY}/20260101/{CANARY}/bedrock/aws4_request, SignedHeaders=host;{CANARY}, Signature={CANARY}"
    );
    let basic = format!("Basic {CANARY}");
    let bearer = format!("Bearer {CANARY}");
    let root = format!("Root={CANARY}");
    for headers in [
        vec![("authorization", bearer.as_str()), ("x-api-key", "")],
        vec![("authorization", basic.as_str()), ("x-api-key", "")],
        vec![
            ("authorization", signature.as_str()),
            ("x-api-key", ""),
            ("x-amz-date", CANARY),
        ],
        vec![("x-api-key", CANARY)],
        vec![("api-key", CANARY), ("x-api-key", "")],
        vec![("content-type", CANARY)],
        vec![("content-encoding", CANARY)],
        vec![("x-request-timeout-ms", CANARY)],
        vec![("traceparent", CANARY), ("x-amzn-trace-id", root.as_str())],
        vec![
            ("cookie", CANARY),
            ("user-agent", CANARY),
            ("referer", CANARY),
            ("origin", CANARY),
        ],
        vec![("x-pinecone-api-version", CANARY), (CANARY, CANARY)],
        vec![
            ("x-forwarded-for", CANARY),
            ("expect", CANARY),
            ("accept", CANARY),
        ],
        vec![("x-request-id", "not an id: xylophonequagga")],
    ] {
        seen.note("headers", &post("/rerank", &headers, &pair));
    }
    let path = format!("/{CANARY}/rerank?{CANARY}={CANARY}");
    for (method, path) in [
        ("GET", path.as_str()),
        ("POST", &path),
        ("POST", &format!("/rerank?api_key={CANARY}")),
        ("GET", &format!("/rerank/{CANARY}")),
        ("GET", &format!("/docs/{CANARY}")),
        ("GET", &format!("/?file={CANARY}")),
        ("GET", &format!("/live?key={CANARY}")),
        ("PUT", &format!("/rerank?{CANARY}")),
        ("XYLOPHONEQUAGGA", "/rerank"),
        ("XYLOPHONEQUAGGA", "/nowhere"),
        ("GET", &format!("http://{CANARY}/{CANARY}")),
        ("GET", &format!("http://{CANARY}:{CANARY}@a/live")),
        ("CONNECT", &format!("{CANARY}:443")),
    ] {
        for key in [KEY, CANARY] {
            let reply = send(address, method, path, &[("x-api-key", key)], b"");
            seen.note(path, &reply);
        }
    }
    // What hyper itself refuses.
    for bytes in [
        format!("{CANARY}\r\n\r\n"),
        format!("GET /{CANARY} HTTP/{CANARY}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{CANARY}: {CANARY}\0\r\n\r\n"),
        format!("POST /rerank HTTP/1.1\r\ncontent-length: {CANARY}\r\n\r\n"),
        format!("POST /rerank HTTP/1.1\r\ntransfer-encoding: {CANARY}\r\n\r\n"),
        format!(
            "POST /rerank HTTP/1.1\r\ntransfer-encoding: chunked\r\nx-api-key: {KEY}\r\n\r\n{CANARY}\r\n"
        ),
        format!(
            "GET / HTTP/1.1\r\n{CANARY}: {}\r\n\r\n",
            CANARY.repeat(6000)
        ),
    ] {
        let mut stream = connect(address);
        let _ = stream.write_all(bytes.as_bytes());
        seen.note("no HTTP", &read_reply(stream));
    }
    // Too large, too late in three ways, gone in two, and one that panics with the text in its message.
    seen.note("413", &post("/rerank", &[], &CANARY.repeat(80_000)));
    let mut stalled = connect(address);
    let headers = [
        ("x-api-key", KEY),
        ("content-length", "5000"),
        ("x-request-timeout-ms", "100"),
    ];
    write_head(&mut stalled, "POST", "/rerank", &headers);
    stalled.write_all(pair.as_bytes()).expect("sent");
    seen.note("408", &read_reply(stalled));
    let many = json!({"query": CANARY, "texts": (0..900).map(|n| format!("{CANARY} {n} ").repeat(20)).collect::<Vec<_>>()});
    let many = many.to_string();
    for ms in ["1", "20", "60"] {
        let timeout = [("x-request-timeout-ms", ms)];
        seen.note("504", &post("/tei/rerank", &timeout, &many));
    }
    let length = many.len().to_string();
    for part in [many.len() / 2, many.len()] {
        let mut gone = connect(address);
        let headers = [("x-api-key", KEY), ("content-length", length.as_str())];
        write_head(&mut gone, "POST", "/tei/rerank", &headers);
        gone.write_all(&many.as_bytes()[..part]).expect("sent");
        std::thread::sleep(Duration::from_millis(30));
    }
    server.wait_for("a client that has gone", |line| {
        line.to_string().contains("client_gone").then_some(())
    });
    seen.note("500", &post("/rerank", &[], &panicking().to_string()));
    // Over HTTP/2.
    let mut second = Http2::connect(address);
    let headers = [
        ("x-api-key", KEY),
        ("cookie", CANARY),
        (CANARY, CANARY),
        ("content-type", "application/json"),
    ];
    second.send(&[
        Frame::head(1, "POST", &format!("/rerank?{CANARY}"), &headers, 0),
        Frame::new(http2::kind::DATA, http2::END_STREAM, 1, pair.as_bytes()),
    ]);
    assert_eq!(second.status(1), Some(200));
    second.try_send(&[Frame::new(http2::kind::HEADERS, 5, 3, CANARY.as_bytes())]);
    second.try_send(&[Frame::new(
        http2::kind::GOAWAY,
        0,
        0,
        &[&[0; 8], CANARY.as_bytes()].concat(),
    )]);
    seen
}

/// A pair of a length of its own.
fn panicking() -> Value {
    let passage = "a mile and a half ".repeat(11);
    json!({"query": "how far?", "passage": format!("{CANARY} {passage}")})
}

fn serve(more: &[(&str, &str)]) -> Process {
    let model = tiny_model();
    let named = format!("tester=plain:{KEY}");
    let mut variables = vec![
        ("MODEL_DIR", model.to_str().expect("UTF-8")),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("API_KEYS", &named),
        ("MAX_BODY_BYTES", "1000000"),
        ("THREADS", "1"),
    ];
    variables.extend(more);
    Process::serve(&variables)
}

#[test]
fn no_text_and_no_key_comes_out_anywhere() {
    let tokens = {
        let server = serve(&[]);
        let headers = [("content-type", "application/json"), ("x-api-key", KEY)];
        server.wait_for_message("model ready");
        let body = panicking().to_string();
        let reply = send(
            server.address(),
            "POST",
            "/rerank",
            &headers,
            body.as_bytes(),
        );
        reply.json()["tokens"].as_u64().expect("its tokens")
    };
    let place = format!("tokenize:{tokens}");
    let collector = Collector::start(Manner::Takes);
    let server = serve(&[
        ("INJECT_PANIC", &place),
        ("LOG_LEVEL", "trace"),
        ("EMF_METRICS", "true"),
        ("CACHE_PAIRS", "1000"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]);
    server.wait_for_message("model ready");
    let address = server.address();
    let seen = through_everything(&server, address);
    println!("{:?}", seen.0);
    // It went where it was to go.
    for status in [200, 400, 401, 404, 405, 408, 413, 415, 422, 431, 500] {
        assert!(seen.0.contains_key(&status), "no {status} in {:?}", seen.0);
    }
    assert!([503, 504].iter().any(|status| seen.0.contains_key(status)));
    let metrics = send(address, "GET", "/metrics", &[("x-api-key", KEY)], b"");
    assert!(String::from_utf8_lossy(&metrics.body).contains("reranker_panics_total 1"));
    let printed = server
        .printed(seen.0.values().sum::<usize>() / 2)
        .join("\n");
    assert!(printed.contains("CloudWatchMetrics"));
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status, Some(0));
    let log = log.join("\n");
    assert!(
        log.contains("\"level\":\"DEBUG\""),
        "nothing was logged in detail"
    );
    let traces = collector.everything();
    assert!(traces.contains("POST /rerank"));
    for (what, text) in [
        ("the metrics", &*String::from_utf8_lossy(&metrics.body)),
        ("CloudWatch's lines", &printed),
        ("the log", &log),
        ("the traces", &traces),
    ] {
        for secret in [CANARY, KEY, "XYLOPHONEQUAGGA"] {
            let line = text.lines().find(|line| line.contains(secret));
            let line = line.map(|line| line.chars().take(600).collect::<String>());
            assert_eq!(line, None, "{secret} is in {what}");
        }
    }
}

#[test]
fn a_log_in_text_holds_no_more() {
    let server = serve(&[
        ("LOG_FORMAT", "text"),
        ("LOG_LEVEL", "trace"),
        ("PORT", "0"),
    ]);
    // The lines are no JSON, and come as strings.
    let address = server.wait_for("the address", |line| {
        let line = line.as_str()?;
        let (_, rest) = line.split_once("listening address=")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    server.wait_for("the model", |line| {
        line.as_str()?.contains("model ready").then_some(())
    });
    let headers = [("content-type", "application/json"), ("x-api-key", KEY)];
    for body in bodies().iter().flat_map(broken) {
        let reply = send(address, "POST", "/rerank", &headers, body.as_bytes());
        assert!(reply.status < 500);
    }
    server.terminate();
    let (_, log) = server.wait();
    assert!(log.len() > 100);
    for line in log {
        assert!(!line.contains(CANARY) && !line.contains(KEY), "{line}");
    }
}
