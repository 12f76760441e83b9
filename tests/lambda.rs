//! The real program on Lambda: every file in `events/` goes through its runtime loop and must be answered as plain HTTP answers
//! the same request.

#[path = "support/client.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod client;
#[path = "support/models.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod models;
#[path = "support/process.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod process;
#[path = "support/runtime_api.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod runtime_api;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use client::Reply;
use models::{GatedModel, SlowModel, broken_model};
use process::{PATIENCE, Process, tiny_model};
use runtime_api::{Call, Deadline, EventTooLarge, MAX_EVENT_BYTES, Outcome, RuntimeApi};

/// Long enough that no test meets it.
const LATER: Deadline = Deadline::In(Duration::from_secs(900));

/// What each recorded event asks for, once the stage is off its path, and the status that it is answered with.
const EVENTS: &[(&str, &str, &str, u16)] = &[
    ("alb.json", "POST", "/rerank", 200),
    ("apigw-v1-stage.json", "POST", "/rerank", 200),
    ("apigw-v1.json", "POST", "/rerank", 200),
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
/// The one that is no HTTP request at all.
const NOT_HTTP: &str = "not-http.json";

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
        let invocation = self
            .platform
            .invoke(event.to_string().into(), deadline)
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
fn the_table_names_every_recorded_event() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let mut listed: Vec<&str> = EVENTS.iter().map(|(name, ..)| *name).collect();
    listed.push(NOT_HTTP);
    listed.sort_unstable();
    assert_eq!(files, listed);
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
fn what_is_no_http_event_is_an_error_and_the_loop_lives_on() {
    let function = Function::tiny();
    let not_json = function
        .platform
        .invoke(b"{\"version\": ".to_vec(), LATER)
        .expect("small");
    match not_json.wait(PATIENCE) {
        Some(Outcome::Error(error)) => println!("broken JSON: {error}"),
        other => panic!("{other:?}"),
    }
    match function.outcome(&event(NOT_HTTP), LATER) {
        (_, Outcome::Error(error)) => {
            println!("{NOT_HTTP}: {error}");
            assert!(
                error["errorMessage"]
                    .as_str()
                    .is_some_and(|message| message.contains("API Gateway"))
            );
        }
        (_, other) => panic!("{other:?}"),
    }
    // A client chooses its host header, and one that is no host at all must not end the process.
    let mut hostile = event("alb.json");
    hostile["headers"]["host"] = "a:b:c".into();
    println!(
        "a broken host header: {:?}",
        function.outcome(&hostile, LATER).1
    );
    // Found by fuzzing: lambda_http panics on a body that is said to be base64 and is none.
    let mut lying = event("apigw-v2-base64.json");
    lying["body"] = "canary=?".into();
    match function.outcome(&lying, LATER).1 {
        Outcome::Error(error) => println!("no base64: {error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        function.answer(&event("apigw-v2.json"), LATER).status(),
        200
    );
    let log = function.stop().join("\n");
    assert!(!log.contains("canary"), "{log}");
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
fn an_answer_over_the_platforms_limit_does_not_end_the_loop() {
    let model = tiny_model();
    let variables = [
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("MAX_PAIRS", "100000"),
    ];
    let function = Function::start(&variables);
    let pairs = vec![json!({"query": "q", "passage": ""}); 80_000];
    let (_, outcome) = function.outcome(
        &event_for("POST", "/rerank/batch", &json!({ "pairs": pairs })),
        LATER,
    );
    match outcome {
        Outcome::TooLarge { bytes } => println!("80000 scores are {bytes} bytes"),
        other => panic!("the answer should exceed the limit: {other:?}"),
    }
    assert_eq!(
        function.answer(&event("apigw-v2.json"), LATER).status(),
        200
    );
    function.stop();
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
    let not_http = json!({"detail": canary});
    assert!(matches!(
        function.outcome(&not_http, LATER).1,
        Outcome::Error(_)
    ));
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
    assert_eq!(requests.len(), bodies.len() + 1);
    for (id, status) in ids {
        let mut lines = requests.iter().filter(|line| line["id"] == id.as_str());
        let line = lines.next().expect("a line with the request's id");
        assert!(lines.next().is_none(), "one line for {id}");
        assert_eq!(line["status"], status);
        for name in ["ms", "pairs", "tokens"] {
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
