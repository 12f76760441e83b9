//! What reading a body takes: at most eight times its bytes in memory, and a number of allocations that grows with its length, whatever
//! it holds. Every allocation of the process counts, so it is alone in its program.

mod memory;
#[path = "../it/support/router.rs"]
#[allow(dead_code, reason = "it uses a part of what the other tests need")]
mod support;

use axum::Router;
use axum::body::{Body, Bytes};
use http::StatusCode;
use reranker_domain::Limits;

use memory::{Counting, Used};
use support::{empty_service, post, send, settings};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a request takes whatever its length: its task, its head, its answer, and texts up to their limits.
const CONSTANT: usize = 256 << 10;

/// So many times `unit` that it comes to about `bytes`, between `before` and `after`.
fn filled(before: &str, unit: &str, after: &str, bytes: usize) -> String {
    let units = vec![unit; bytes / (unit.len() + 1)];
    format!("{before}{}{after}", units.join(","))
}

/// A path, and a body of about so many bytes.
type Case = (&'static str, Box<dyn Fn(usize) -> String>);

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut case = |path, before: &'static str, unit: &'static str, after: &'static str| {
        cases.push((path, Box::new(move |n| filled(before, unit, after, n))));
    };
    // What nobody ranks, in a document and beside it.
    for unit in [
        r#"{"":0}"#,
        r#"{"":{"":0}}"#,
        "[0]",
        "0",
        r#""""#,
        r#""\n""#,
    ] {
        let document = r#"{"query":"a","documents":[{"text":"b","x":["#;
        case("/v1/rerank", document, unit, "]}]}");
        case("/jina/v1/rerank", document, unit, "]}]}");
        let beside = r#"{"query":"a","documents":["b"],"x":["#;
        case("/v1/rerank", beside, unit, "]}");
    }
    // Lists without end.
    for unit in [r#""""#, r#""a""#, "{}", "0", "[]"] {
        case("/v1/rerank", r#"{"query":"a","documents":["#, unit, "]}");
        case("/vllm/rerank", r#"{"query":"a","documents":["#, unit, "]}");
        case("/tei/rerank", r#"{"query":"a","texts":["#, unit, "]}");
        case(
            "/mixedbread/reranking",
            r#"{"query":"a","input":["#,
            unit,
            "]}",
        );
        case("/rerank/batch", r#"{"pairs":["#, unit, "]}");
        case("/score", r#"{"text_2":["a"],"text_1":["#, unit, "]}");
        case("/rerank", r#"{"queries":["#, unit, r#"],"sources":[{}]}"#);
        case("/rerank", r#"{"queries":[{}],"sources":["#, unit, "]}");
        case(
            "/v1/rerank",
            r#"{"query":"a","documents":["b"],"rank_fields":["#,
            unit,
            "]}",
        );
        case(
            "/v1/rerank",
            r#"{"query":"a","documents":[{"content":["#,
            unit,
            "]}]}",
        );
    }
    case(
        "/v1/rerank",
        r#"{"query":"a","documents":[{"content":["#,
        r#"{"text":""}"#,
        "]}]}",
    );
    // Names.
    case(
        "/v1/rerank",
        r#"{"query":"a","documents":["b"],"#,
        r#""x":0"#,
        "}",
    );
    case(
        "/v1/rerank",
        r#"{"query":"a","rank_fields":["x"],"documents":[{"#,
        r#""x":0"#,
        "}]}",
    );
    // Texts at their limits, returned as they came.
    let objects = r#"{"query":"a","return_documents":true,"documents":["#;
    let whole = |unit: String| -> Box<dyn Fn(usize) -> String> {
        Box::new(move |n| filled(objects, &unit, "]}", n))
    };
    let text = "x".repeat(4000);
    for unit in [
        format!("\"{text}\""),
        format!(r#"{{"text":"{text}"}}"#),
        format!(r#"{{"text":"{}"}}"#, r"\u00e9".repeat(700)),
        format!(r#"{{"n":1,"text":"{}"}}"#, r"\ud83d".repeat(700)),
    ] {
        for path in ["/v1/rerank", "/infinity/rerank", "/pinecone/rerank"] {
            cases.push((path, whole(unit.clone())));
        }
    }
    // One long string.
    for unit in ["x", r"\n", r"\ud83d", "é"] {
        for before in [
            r#"{"passage":"p","query":""#,
            r#"{"documents":["d"],"query":""#,
        ] {
            let long = move |n| format!("{before}{}\"}}", unit.repeat(n / unit.len()));
            cases.push(("/rerank", Box::new(long)));
        }
    }
    let deep = |n: usize| {
        format!(
            r#"{{"query":"q","documents":["d"],"x":{}{}}}"#,
            "[".repeat(n / 2),
            "]".repeat(n / 2)
        )
    };
    cases.push(("/rerank", Box::new(deep)));
    cases
}

async fn reading(router: &Router, path: &str, body: String) -> (StatusCode, Used) {
    let body = Bytes::from(body);
    // As it comes from a socket, so that what is collected counts.
    let parts: Vec<Bytes> = body.chunks(1 << 16).map(Bytes::copy_from_slice).collect();
    drop(body);
    let parts = tokio_stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>));
    let request = post(path, Body::from_stream(parts));
    let before = memory::start();
    let (head, _) = send(router, request).await;
    (head.status(), before.used())
}

#[tokio::test]
async fn memory_and_allocations_grow_with_the_body_and_no_faster() {
    let mut settings = settings();
    settings.limits = Limits {
        pairs: 1000,
        text_chars: 100_000,
    };
    settings.body_bytes = 16 << 20;
    settings.body_bytes_in_flight = 64 << 20;
    let router = reranker::http::router(empty_service(), settings);
    for (path, body) in cases() {
        let mut calls = Vec::new();
        for bytes in [150_000, 600_000] {
            let body = body(bytes);
            let (length, start) = (body.len(), body[..body.len().min(60)].to_owned());
            let (status, used) = reading(&router, path, body).await;
            // There is no model: what was read is told so, and what was refused, why.
            assert!(
                [422, 503].contains(&status.as_u16()),
                "{path} {start}: {status}"
            );
            assert!(
                used.peak + length <= 8 * length + CONSTANT,
                "{path} {start}: {} bytes besides the {length} that came",
                used.peak
            );
            calls.push(used.calls);
        }
        assert!(
            calls[1] <= 5 * calls[0] + 1000,
            "{path}: {calls:?} allocations for four times the length"
        );
    }
}
