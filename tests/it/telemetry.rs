//! Traces as a collector gets them: from the real program, and from the module's own interface inside this process.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use reranker::telemetry::{Export, Outcome, Reranked, Traces};
use tracing::Span;
use tracing_subscriber::prelude::*;

use crate::support::client;
use crate::support::collector::{Collector, Exported, Manner, text};
use crate::support::process::{PATIENCE, Process, tiny_model};
use crate::support::runtime_api::{Deadline, RuntimeApi};

const QUERY: &str = "how tall is a giraffe";
const TEXTS: [&str; 3] = ["giraffes are tall", "snails are slow", "ants are small"];
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn export(collector: &str) -> Export {
    Export {
        endpoint: format!("{collector}/v1/traces"),
        timeout: Duration::from_secs(10),
        certificate: None,
        span_attributes: 1024,
        content: false,
    }
}

fn outcome() -> Outcome {
    Outcome {
        request_id: "id-1".into(),
        method: Method::POST,
        route: "/rerank".into(),
        dialect: "native",
        key_name: Some("mobile".into()),
        status: 200,
        code: "",
        documents: 3,
        pairs: 3,
        tokens: 21,
        truncated: 1,
        cache_hits: 0,
        cache_misses: 0,
        past_deadline: false,
        queued: None,
        tokenized: None,
        inferred: None,
        total: Duration::from_millis(5),
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).expect("a header's value");
    let header = |(name, text): &(&'static str, &str)| (name.parse().expect("a name"), value(text));
    pairs.iter().map(header).collect()
}

/// Runs `work` in a request's span and gives the span as the collector got it.
fn exported(
    export: &Export,
    from: &HeaderMap,
    collector: &Collector,
    work: impl Fn(&Traces, &Span),
) -> Exported {
    let traces = Traces::start(export).expect("an exporter");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = traces.request(&Method::POST, "/rerank", from);
        span.in_scope(|| work(&traces, &span));
    });
    traces.shutdown(Duration::from_secs(10));
    collector.wait_for("POST /rerank")
}

fn sent(from: &[(&'static str, &str)]) -> Exported {
    let collector = Collector::start(Manner::Takes);
    exported(
        &export(&collector.address),
        &headers(from),
        &collector,
        |_, _| {},
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve<'a>(more: &[(&'a str, &'a str)], model: &'a str) -> Process {
    let mut variables = vec![
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("LOG_FORMAT", "json"),
        ("MODEL_DIR", model),
    ];
    variables.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    variables.extend_from_slice(more);
    Process::serve(&variables)
}

/// Whether the thread runs that alone could send anything.
fn exports(process: &Process) -> bool {
    let tasks = format!("/proc/{}/task", process.id());
    std::fs::read_dir(tasks)
        .expect("a running process")
        .any(|task| {
            let name = task.expect("a thread").path().join("comm");
            // One that has just ended has no name any more.
            std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("OpenTelemetry"))
        })
}

#[test]
fn the_program_exports_by_the_standard_variables_whatever_its_log_leaves_out() {
    let collector = Collector::start(Manner::Takes);
    let model = tiny_model();
    let process = serve(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=test",
            ),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("LOG_LEVEL", "warn"),
        ],
        model.to_str().expect("UTF-8"),
    );
    let loaded = collector.wait_for("load model");
    assert_eq!(loaded.resource("service.name"), text("serverless-reranker"));
    assert_eq!(loaded.resource("deployment.environment.name"), text("test"));
    let head = collector.heads().remove(0);
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf"),
        "{head}"
    );
    assert!(head.contains("x-key: secret"), "{head}");
    assert!(exports(&process));
    assert_eq!(process.log(), "");
}

#[test]
fn a_requests_spans_reach_from_its_caller_to_the_forward_pass_and_hold_no_text() {
    let collector = Collector::start(Manner::Takes);
    let model = tiny_model();
    let process = serve(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ],
        model.to_str().expect("UTF-8"),
    );
    process.wait_for_message("model ready");
    let body = serde_json::json!({"query": QUERY, "documents": TEXTS, "top_n": 2}).to_string();
    let caller = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", &*caller),
    ];
    let reply = client::send(
        process.address(),
        "POST",
        "/v1/rerank",
        &headers,
        body.as_bytes(),
    );
    assert_eq!(reply.status, 200);
    let request = collector.wait_for("POST /v1/rerank");
    assert_eq!(hex(&request.span.parent_span_id), PARENT);
    let mut parent = request.span.span_id.clone();
    for (name, of_parent) in [
        ("rerank", true),
        ("tokenize", true),
        ("infer", false),
        ("forward", false),
    ] {
        let found = collector.wait_for(name);
        assert_eq!(hex(&found.span.trace_id), TRACE, "{name}");
        if of_parent {
            assert_eq!(found.span.parent_span_id, parent, "{name}");
            parent = found.span.span_id.clone();
        }
        for value in found.span.attributes.iter().filter_map(|a| a.value.clone()) {
            assert!(
                !format!("{value:?}").contains("giraffe"),
                "{name}: {value:?}"
            );
        }
        if name == "rerank" {
            assert_eq!(found.attribute("openinference.span.kind"), text("RERANKER"));
            assert_eq!(found.attribute("reranker.top_k"), Some(Value::IntValue(2)));
            let score = found.attribute("reranker.output_documents.0.document.score");
            assert!(matches!(score, Some(Value::DoubleValue(_))), "{score:?}");
        }
    }
    let line = process.wait_for_message("request");
    assert_eq!(line["trace_id"], TRACE, "the log leads to the trace");
}

#[test]
fn the_last_spans_are_exported_when_the_program_ends_and_log_lines_show_no_span() {
    let collector = Collector::start(Manner::Takes);
    let model = tiny_model();
    let process = serve(
        &[
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                &format!("{}/in", collector.address),
            ),
            ("OTEL_SERVICE_NAME", "ranking"),
            ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
            ("LOG_FORMAT", "text"),
        ],
        model.to_str().expect("UTF-8"),
    );
    let ready = |line: &serde_json::Value| {
        line.as_str()?
            .contains("model ready")
            .then(|| line.to_string())
    };
    let line = process.wait_for("the model", ready);
    assert!(!line.contains("load model"), "{line}");
    assert_eq!(collector.connections(), 0);
    process.terminate();
    let loaded = collector.wait_for("load model");
    assert_eq!(loaded.resource("service.name"), text("ranking"));
    assert!(collector.heads()[0].starts_with("post /in http/1.1"));
    assert_eq!(process.wait().0, Some(0));
}

#[test]
fn nothing_can_be_sent_unless_it_is_asked_for() {
    let collector = Collector::start(Manner::Takes);
    let model = tiny_model();
    let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address.as_str());
    for variables in [
        &[] as &[(&str, &str)],
        &[named, ("OTEL_SDK_DISABLED", "true")],
        &[named, ("OTEL_TRACES_EXPORTER", "none")],
    ] {
        let process = serve(variables, model.to_str().expect("UTF-8"));
        process.wait_for_message("model ready");
        assert!(!exports(&process), "{variables:?}");
        process.terminate();
        assert_eq!(process.wait().0, Some(0));
    }
    assert_eq!(collector.connections(), 0);
}

#[test]
fn the_program_serves_and_ends_as_ever_where_the_collector_is_dead() {
    // Nobody listens on the first port, and no test can be given it meanwhile.
    let nobody = "http://127.0.0.1:1";
    let model = tiny_model();
    let process = serve(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", nobody),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ],
        model.to_str().expect("UTF-8"),
    );
    process.wait_for_message("model ready");
    let warning = process.wait_for_message("traces cannot be exported");
    assert_eq!(warning["level"], "WARN");
    process.terminate();
    let (code, log) = process.wait();
    assert_eq!(code, Some(0), "{log:#?}");
    let warnings = log
        .iter()
        .filter(|line| line.contains("traces cannot be exported"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
}

#[test]
fn a_wrong_certificate_is_told_at_the_start() {
    let model = tiny_model();
    let process = serve(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4318"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "Cargo.toml"),
        ],
        model.to_str().expect("UTF-8"),
    );
    let (code, log) = process.wait();
    assert_eq!(code, Some(1));
    assert!(
        log.join("\n").contains("Cargo.toml holds no certificate"),
        "{log:#?}"
    );
}

#[test]
fn on_lambda_traces_are_exported_before_the_answer_goes_out() {
    let collector = Collector::start(Manner::Takes);
    let platform = RuntimeApi::start();
    let model = tiny_model();
    let own = platform.variables();
    let mut variables = vec![
        ("MODEL_DIR", model.to_str().expect("UTF-8")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address.as_str()),
        // Nothing but a flush would send it in time.
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ];
    variables.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
    let process = Process::serve(&variables);
    let event = include_bytes!("../../events/apigw-v2.json").to_vec();
    let invocation = platform
        .invoke(event, Deadline::In(PATIENCE))
        .expect("it fits");
    invocation.wait(PATIENCE).expect("an answer");
    assert_eq!(collector.heads().len(), 1);
    collector.wait_for("load model");
    process.terminate();
    assert_eq!(process.wait().0, Some(0));
}

#[test]
fn a_collector_behind_tls_is_trusted_only_by_its_authority() {
    let (collector, authority) = Collector::start_tls();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, authority).expect("written");
    let model = tiny_model();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address.as_str());
    let soon = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let stranger = serve(&[endpoint, soon], model.to_str().expect("UTF-8"));
    let warning = stranger.wait_for_message("traces cannot be exported");
    assert!(
        warning["error"].to_string().contains("certificate"),
        "{warning}"
    );
    assert!(collector.heads().is_empty());

    let path = file.path().to_str().expect("UTF-8");
    let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", path);
    let _knowing = serve(
        &[endpoint, soon, certificate],
        model.to_str().expect("UTF-8"),
    );
    collector.wait_for("load model");
}

#[tokio::test]
async fn a_hanging_collector_is_waited_for_once_and_not_longer_than_was_said() {
    let collector = Collector::start(Manner::Hangs);
    let traces = Traces::start(&export(&collector.address)).expect("an exporter");
    let request = || {
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            let start = Instant::now();
            drop(traces.request(&Method::POST, "/rerank", &HeaderMap::new()));
            start.elapsed()
        })
    };
    request();
    let start = Instant::now();
    traces.flush(Duration::from_millis(100)).await;
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_millis(100) && waited < Duration::from_secs(3),
        "{waited:?}"
    );
    collector.wait_for("POST /rerank");
    // More than the queue holds, and none of them waits for the ten seconds that an export may take.
    let slowest = (0..3000).map(|_| request()).max().expect("some");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    let start = Instant::now();
    for _ in 0..100 {
        traces.flush(Duration::from_millis(100)).await;
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let start = Instant::now();
    traces.shutdown(Duration::from_millis(100));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_flush_sends_what_has_ended() {
    let collector = Collector::start(Manner::Takes);
    let traces = Traces::start(&export(&collector.address)).expect("an exporter");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        drop(traces.request(&Method::GET, "/health", &HeaderMap::new()));
    });
    traces.flush(Duration::from_secs(30)).await;
    assert_eq!(collector.heads().len(), 1);
    collector.wait_for("GET /health");
}

#[test]
fn a_request_joins_its_callers_trace() {
    let got = sent(&[
        ("traceparent", &format!("00-{TRACE}-{PARENT}-01")),
        (
            "x-amzn-trace-id",
            "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1",
        ),
    ]);
    assert_eq!(hex(&got.span.trace_id), TRACE);
    assert_eq!(hex(&got.span.parent_span_id), PARENT);
    assert_eq!(got.span.kind, SpanKind::Server as i32);
    assert_eq!(got.attribute("http.route"), text("/rerank"));
    assert_eq!(got.resource("service.name"), text("serverless-reranker"));
}

#[test]
fn a_request_joins_x_rays_trace() {
    let root = "Root=1-67891233-abcdef012345678912345678";
    let got = sent(&[(
        "x-amzn-trace-id",
        &format!("{root};Parent=53995c3f42cd8ad8;Sampled=1"),
    )]);
    assert_eq!(hex(&got.span.trace_id), "67891233abcdef012345678912345678");
    assert_eq!(hex(&got.span.parent_span_id), "53995c3f42cd8ad8");

    let got = sent(&[("x-amzn-trace-id", root)]);
    assert_eq!(hex(&got.span.trace_id), "67891233abcdef012345678912345678");
    assert_eq!(hex(&got.span.parent_span_id), "");
}

#[test]
fn a_header_that_is_none_begins_a_trace_of_its_own() {
    let mut traces = Vec::new();
    for header in [
        ("traceparent", "00-4bf92f3577b34da6-00f067aa0ba902b7-01"),
        (
            "traceparent",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ),
        ("x-amzn-trace-id", "Root=67891233"),
    ] {
        let got = sent(&[header]);
        assert_eq!(hex(&got.span.parent_span_id), "", "{header:?}");
        traces.push(hex(&got.span.trace_id));
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 3, "{traces:?}");
}

#[test]
fn a_caller_that_does_not_sample_is_followed() {
    let collector = Collector::start(Manner::Takes);
    let traces = Traces::start(&export(&collector.address)).expect("an exporter");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let from = headers(&[("traceparent", &format!("00-{TRACE}-{PARENT}-00"))]);
        let span = traces.request(&Method::POST, "/rerank", &from);
        assert_eq!(traces.trace_id(&span), None);
    });
    traces.shutdown(Duration::from_secs(10));
    assert_eq!(collector.connections(), 0);
}

fn rank(traces: &Traces, span: &Span) {
    traces.record(
        span,
        Reranked {
            model: "demo",
            top_k: Some(2),
            query: Some(QUERY),
            inputs: TEXTS,
            outputs: [(2, 0.75), (0, 0.5)],
        },
    );
    traces.answered(span, &outcome());
}

#[test]
fn a_ranking_follows_openinference_and_tells_no_text() {
    let collector = Collector::start(Manner::Takes);
    let got = exported(
        &export(&collector.address),
        &HeaderMap::new(),
        &collector,
        rank,
    );
    let int = |number| Some(Value::IntValue(number));
    assert_eq!(got.attribute("openinference.span.kind"), text("RERANKER"));
    assert_eq!(got.attribute("reranker.model_name"), text("demo"));
    assert_eq!(got.attribute("reranker.top_k"), int(2));
    for (place, id, score) in [(0, "2", 0.75), (1, "0", 0.5)] {
        let field = |field| {
            got.attribute(&format!(
                "reranker.output_documents.{place}.document.{field}"
            ))
        };
        assert_eq!(field("id"), text(id));
        assert_eq!(field("score"), Some(Value::DoubleValue(score)));
    }
    assert_eq!(
        got.attribute("reranker.input_documents.2.document.id"),
        text("2")
    );
    assert_eq!(got.attribute("http.response.status_code"), int(200));
    assert_eq!(got.attribute("reranker.key_name"), text("mobile"));
    assert_eq!(got.attribute("reranker.tokens"), int(21));
    let all = format!("{got:?}");
    for content in [QUERY].iter().chain(&TEXTS) {
        assert!(!all.contains(content), "{content}");
    }
}

#[test]
fn texts_are_told_where_that_is_asked_for() {
    let collector = Collector::start(Manner::Takes);
    let export = Export {
        content: true,
        ..export(&collector.address)
    };
    let got = exported(&export, &HeaderMap::new(), &collector, rank);
    assert_eq!(got.attribute("reranker.query"), text(QUERY));
    for (key, content) in [
        ("reranker.input_documents.0.document.content", TEXTS[0]),
        ("reranker.input_documents.1.document.content", TEXTS[1]),
        ("reranker.output_documents.0.document.content", TEXTS[2]),
        ("reranker.output_documents.1.document.content", TEXTS[0]),
    ] {
        assert_eq!(got.attribute(key), text(content), "{key}");
    }
}

#[test]
fn of_a_long_ranking_the_best_are_told() {
    let collector = Collector::start(Manner::Takes);
    let got = exported(
        &export(&collector.address),
        &HeaderMap::new(),
        &collector,
        |traces, span| {
            let outputs = (0..1000).rev().map(|index| (index, index as f32));
            let ranking = Reranked {
                model: "demo",
                top_k: None,
                query: None,
                inputs: std::iter::repeat_n("a text", 1000),
                outputs,
            };
            traces.record(span, ranking);
            traces.answered(
                span,
                &Outcome {
                    status: 503,
                    code: "busy",
                    ..outcome()
                },
            );
        },
    );
    assert_eq!(
        got.attribute("reranker.output_documents.99.document.id"),
        text("900")
    );
    assert_eq!(
        got.attribute("reranker.output_documents.100.document.id"),
        None
    );
    assert_eq!(
        got.attribute("reranker.input_documents.99.document.id"),
        text("99")
    );
    assert_eq!(got.span.dropped_attributes_count, 0);
    assert_eq!(got.attribute("error.type"), text("busy"));
    let status = got.span.status.expect("a status");
    assert_eq!(status.code, StatusCode::Error as i32);
}

#[test]
fn without_a_collector_everything_is_a_matter_of_nothing() {
    let traces = Traces::default();
    assert!(traces.layer::<tracing_subscriber::Registry>().is_none());
    let span = traces.request(&Method::POST, "/rerank", &HeaderMap::new());
    assert!(span.is_none());
    assert_eq!(traces.trace_id(&span), None);
    // Nobody goes through the lists.
    let never = || -> &str { panic!("the lists were gone through") };
    traces.record(
        &span,
        Reranked {
            model: "demo",
            top_k: None,
            query: None,
            inputs: std::iter::repeat_with(never),
            outputs: [],
        },
    );
}
