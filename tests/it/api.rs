//! The router by itself, over a tiny real model: routes, answers, errors, headers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use reranker::http::{Deadline, Keys, RequestId, Settings, router};
use reranker_domain::Code;
use reranker_engine::ModelError;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::router::{
    ask, empty_service, engine, engine_of, get, golden, loaded, loaded_with, post, rerank, send,
    settings,
};

#[tokio::test]
async fn one_pair_and_a_batch_agree_and_have_every_documented_field() {
    let (router, _) = loaded().await;
    let (query, passages) = ("what is a panda?", ["a bear", "", "eats bamboo and sleeps"]);
    let pairs: Vec<Value> = passages
        .iter()
        .map(|passage| json!({"query": query, "passage": passage}))
        .collect();
    let (status, batch) = rerank(&router, "/rerank/batch", json!({"pairs": pairs})).await;
    assert_eq!(status, StatusCode::OK, "{batch}");
    assert_eq!(batch["count"], 3);
    assert_eq!(batch["model"], "tiny");
    assert_eq!(batch["normalized"], true);
    assert!(batch["ms"].as_f64().expect("a number") > 0.0);
    for (index, passage) in passages.iter().enumerate() {
        let (status, one) = rerank(
            &router,
            "/rerank",
            json!({"query": query, "passage": passage}),
        )
        .await;
        assert_eq!(status, StatusCode::OK, "{one}");
        let item = &batch["results"][index];
        assert_eq!(item["index"], index);
        assert_eq!(batch["scores"][index], item["score"]);
        for field in ["score", "logit", "tokens", "truncated"] {
            assert_eq!(one[field], item[field], "{field}");
        }
        assert_eq!(one["truncated"], false);
        let logit = one["logit"].as_f64().expect("a number");
        let sigmoid = 1.0 / (1.0 + (-logit).exp());
        assert!((one["score"].as_f64().expect("a number") - sigmoid).abs() < 1e-7);
        let raw = json!({"query": query, "passage": passage, "normalize": false});
        let (_, raw) = rerank(&router, "/rerank", raw).await;
        assert_eq!(
            (&raw["score"], &raw["normalized"]),
            (&one["logit"], &json!(false))
        );
    }
}

#[tokio::test]
async fn long_pairs_are_cut_as_the_request_says() {
    let (router, _) = loaded().await;
    let text = "machine learning returns water ".repeat(60);
    let ask = |options: Value| {
        let mut body = json!({"query": text, "passage": text});
        let options = options.as_object().cloned().expect("an object");
        body.as_object_mut().expect("an object").extend(options);
        body
    };
    let (_, default) = rerank(&router, "/rerank", ask(json!({}))).await;
    assert_eq!(
        (&default["tokens"], &default["truncated"]),
        (&json!(100), &json!(true))
    );
    let (_, short) = rerank(&router, "/rerank", ask(json!({"max_length": 40}))).await;
    assert_eq!(short["tokens"], 40);
    let (_, flag) = rerank(
        &router,
        "/rerank",
        ask(json!({"max_length": 40, "truncation": "flag"})),
    )
    .await;
    assert_eq!(flag["tokens"], 40);
    assert_ne!(flag["logit"], short["logit"]);
    for (max_length, limit) in [(5, 6), (101, 100), (0, 6)] {
        let (status, error) =
            rerank(&router, "/rerank", ask(json!({"max_length": max_length}))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        let error = &error["error"];
        assert_eq!(error["code"], "invalid_max_length");
        assert_eq!(
            (&error["got"], &error["limit"]),
            (&json!(max_length), &json!(limit))
        );
    }
}

#[tokio::test]
async fn requests_that_are_too_large_or_go_nowhere_have_their_status_and_code() {
    let (router, _) = loaded().await;
    let long = "x".repeat(2001);
    let pairs = vec![json!({"query": "q", "passage": "p"}); 51];
    let cases = [
        (
            "/rerank",
            json!({"query": "q", "passage": long}).to_string(),
            422,
            "text_too_long",
            Some("passage"),
        ),
        (
            "/rerank/batch",
            json!({"pairs": pairs}).to_string(),
            422,
            "too_many_pairs",
            Some("pairs"),
        ),
        (
            "/rerank",
            "x".repeat(65_537),
            413,
            "body_too_large",
            Some("body"),
        ),
        ("/rerank/", "{}".into(), 422, "unknown_shape", None),
        ("/rerank/rerank", "{}".into(), 404, "not_found", None),
        ("/health", "{}".into(), 405, "method_not_allowed", None),
    ];
    for (path, body, status, code, field) in cases {
        let (got, error) = ask(&router, post(path, body.clone())).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(got.as_u16(), status, "{path} {shown}: {error}");
        assert_eq!(error["error"]["code"], code, "{path} {shown}");
        assert!(Code::ALL.iter().any(|it| it.name() == code), "{code}");
        assert_eq!(error["error"]["field"].as_str(), field, "{path} {shown}");
        assert_eq!(error["detail"], error["error"]["message"]);
    }
}

#[tokio::test]
async fn errors_say_what_would_be_right() {
    let (router, _) = loaded().await;
    let (_, error) = ask(&router, get("/nowhere")).await;
    let routes: Vec<&str> = error["error"]["routes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for route in [
        "POST /rerank",
        "POST /rerank/batch",
        "GET /health",
        "GET /docs",
        "GET /openapi.json",
    ] {
        assert!(routes.contains(&route), "{route} is not in {routes:?}");
    }
    let (head, body) = send(&router, get("/rerank")).await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(head.headers()[header::ALLOW], "POST");
    assert!(String::from_utf8_lossy(&body).contains("method_not_allowed"));
    let put = Request::builder()
        .method(Method::PUT)
        .uri("/health")
        .body(Body::empty());
    let (head, _) = send(&router, put.expect("a request")).await;
    assert_eq!(head.headers()[header::ALLOW], "GET,HEAD");
}

#[tokio::test]
async fn every_answer_of_a_demo_model_says_so() {
    let service = empty_service();
    let app = router(service.clone(), settings());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    service
        .load(move || engine_of(&demo))
        .await
        .expect("the demo model loads");
    let pair = json!({"query": "q", "passage": "p"}).to_string();
    for request in [
        get("/info"),
        post("/rerank", pair),
        post("/rerank", "{"),
        get("/nowhere"),
    ] {
        let (head, _) = send(&app, request).await;
        assert_eq!(head.headers()["x-reranker-demo"], "true");
    }
    let (app, _) = loaded().await;
    let (head, _) = send(&app, get("/info")).await;
    assert!(!head.headers().contains_key("x-reranker-demo"));
}

#[tokio::test]
async fn health_tells_loading_ready_failed_and_draining_apart() {
    let service = empty_service();
    let app = router(service.clone(), settings());
    let pair = json!({"query": "q", "passage": "p"}).to_string();
    let (status, health) = ask(&app, get("/health")).await;
    assert_eq!(
        (status.as_u16(), &health["status"]),
        (503, &json!("loading"))
    );
    assert_eq!(ask(&app, get("/ready")).await.0.as_u16(), 503);
    assert_eq!(ask(&app, get("/live")).await.0.as_u16(), 200);
    let (head, body) = send(&app, post("/rerank", pair.clone())).await;
    assert_eq!(head.status().as_u16(), 503);
    assert!(head.headers().contains_key(header::RETRY_AFTER));
    assert!(String::from_utf8_lossy(&body).contains("not_ready"));

    service.load(engine).await.expect("loads");
    let (status, health) = ask(&app, get("/health")).await;
    assert_eq!(status.as_u16(), 200, "{health}");
    assert_eq!(
        (&health["model"], &health["revision"]),
        (&json!("tiny"), &json!("r1"))
    );
    assert!(health["cold_start"]["total_ms"].as_f64().expect("a number") > 0.0);
    assert_eq!(ask(&app, get("/ready")).await.0.as_u16(), 200);
    let (_, info) = ask(&app, get("/info")).await;
    // The tests run on the folder and on its packed form.
    let packed = golden().join("packed.safetensors").is_file();
    let precision = if packed { "int8" } else { "f32" };
    assert_eq!(info["fidelity"].is_object(), packed);
    assert_eq!(
        (&info["max_length"], &info["model_max_length"]),
        (&json!(100), &json!(128))
    );
    assert_eq!(
        (&info["precision"], &info["demo"]),
        (&json!(precision), &json!(false))
    );
    assert_eq!(info["limits"]["max_pairs"], 50);
    let sets: Vec<_> = kernels::Kernels::detect().passed_over();
    let told = info["faster_instruction_sets"].as_array().expect("a list");
    assert_eq!(told.len(), sets.len());

    service.drain();
    let (status, health) = ask(&app, get("/health")).await;
    assert_eq!(
        (status.as_u16(), &health["status"]),
        (503, &json!("draining"))
    );
    let (status, error) = ask(&app, post("/rerank", pair.clone())).await;
    assert_eq!(
        (status.as_u16(), &error["error"]["code"]),
        (503, &json!("draining"))
    );

    let service = empty_service();
    let app = router(service.clone(), settings());
    let missing = Path::new("/no/such/model.safetensors");
    let reason = ModelError::unfit(missing, "tensor x", "nothing", "something");
    service
        .load(move || Err(reason))
        .await
        .err()
        .expect("fails");
    let (status, health) = ask(&app, get("/health")).await;
    assert_eq!(
        (status.as_u16(), &health["status"]),
        (503, &json!("failed"))
    );
    assert!(
        health["reason"]
            .as_str()
            .expect("a reason")
            .contains("tensor x")
    );
    let (status, error) = ask(&app, post("/rerank", pair)).await;
    assert_eq!(
        (status.as_u16(), &error["error"]["code"]),
        (503, &json!("model_unavailable"))
    );
}

#[tokio::test]
async fn a_request_on_lambda_waits_for_the_model() {
    let service = empty_service();
    let mut waiting = settings();
    waiting.wait_for_model = true;
    let app = router(service.clone(), waiting);
    let request = post("/rerank", r#"{"query":"q","passage":"p"}"#);
    let asked = tokio::spawn(async move { ask(&app, request).await });
    tokio::task::yield_now().await;
    service.load(engine).await.expect("loads");
    assert_eq!(asked.await.expect("joins").0.as_u16(), 200);
}

#[tokio::test]
async fn the_deadline_of_the_host_ends_a_request() {
    let (router, _) = loaded().await;
    let mut request = post("/rerank", r#"{"query":"q","passage":"p"}"#);
    request.extensions_mut().insert(Deadline(Instant::now()));
    let (status, error) = ask(&router, request).await;
    // The body's own deadline is the same one: either may strike first.
    let code = error["error"]["code"].as_str().expect("a code");
    assert!(
        (status.as_u16(), code) == (504, "deadline_exceeded")
            || (status.as_u16(), code) == (408, "request_timeout"),
        "{status}: {error}"
    );
}

#[tokio::test]
async fn ids_of_requests_come_from_the_host_the_caller_or_us() {
    let (router, _) = loaded().await;
    let id = |head: &Response<()>| {
        head.headers()["x-request-id"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    let mut request = get("/live");
    request
        .extensions_mut()
        .insert(RequestId("from-the-host".into()));
    assert_eq!(id(&send(&router, request).await.0), "from-the-host");
    let with_header = |value: &str| {
        let request = Request::get("/live").header("x-request-id", value);
        request.body(Body::empty()).expect("a request")
    };
    assert_eq!(
        id(&send(&router, with_header("abc-1.2")).await.0),
        "abc-1.2"
    );
    let hostile = "a b\"; drop";
    let made = id(&send(&router, with_header(hostile)).await.0);
    assert_ne!(made, hostile);
    let another = id(&send(&router, get("/live")).await.0);
    assert_ne!(made, another);
}

#[tokio::test]
async fn browsers_may_call_with_authorization() {
    let (router, _) = loaded().await;
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/rerank")
        .header(header::ORIGIN, "https://app.example")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            "authorization,content-type",
        )
        .body(Body::empty())
        .expect("a request");
    let (head, _) = send(&router, preflight).await;
    assert_eq!(head.status(), StatusCode::OK);
    let allowed = head.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS]
        .to_str()
        .expect("text");
    assert_eq!(allowed, "authorization,content-type");
    assert_eq!(head.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");

    let mut strict = settings();
    strict.cors_origins = vec!["https://good.example".into()];
    let service = empty_service();
    let strict = reranker::http::router(service, strict);
    for (origin, allowed) in [
        ("https://good.example", true),
        ("https://bad.example", false),
    ] {
        let request = Request::get("/live").header(header::ORIGIN, origin);
        let (head, _) = send(&strict, request.body(Body::empty()).expect("a request")).await;
        let answer = head.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(
            answer.is_some_and(|value| value == origin),
            allowed,
            "{origin}"
        );
    }
}

#[tokio::test]
async fn routes_are_served_below_a_base_path_too() {
    let (router, _) = loaded().await;
    assert_eq!(ask(&router, get("/api/live")).await.0.as_u16(), 200);
    let body = r#"{"query":"q","passage":"p"}"#;
    assert_eq!(
        ask(&router, post("/api/rerank?x=1", body)).await.0.as_u16(),
        200
    );
    assert_eq!(ask(&router, get("/apis/live")).await.0.as_u16(), 404);
}

#[tokio::test]
async fn the_docs_page_loads_nothing_from_elsewhere() {
    let (router, _) = loaded().await;
    let (head, page) = send(&router, get("/docs")).await;
    assert_eq!(
        head.headers()[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let page = String::from_utf8(page).expect("text");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("=\"/"));
    let mut assets = 0;
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in page.match_indices(attribute) {
            let address = page[at + attribute.len()..]
                .split('"')
                .next()
                .expect("an address");
            let (head, body) = send(&router, get(&format!("/{address}"))).await;
            assert_eq!(head.status(), StatusCode::OK, "{address}");
            assert!(!body.is_empty(), "{address}");
            assets += 1;
        }
    }
    assert_eq!(assets, 4);
    for missing in [
        "/docs/index.html",
        "/docs/..%2fCargo.toml",
        "/docs/swagger-initializer.js",
    ] {
        assert_eq!(
            send(&router, get(missing)).await.0.status(),
            StatusCode::NOT_FOUND,
            "{missing}"
        );
    }
}

/// The fields of a schema and those of them that are required, its parts included.
fn fields(schemas: &Value, schema: &Value) -> (Vec<String>, Vec<String>) {
    let (mut all, mut required) = (Vec::new(), Vec::new());
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        return fields(schemas, &schemas[name]);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more, needed) = fields(schemas, part);
        all.extend(more);
        required.extend(needed);
    }
    all.extend(
        schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|p| p.keys().cloned()),
    );
    let needed = schema["required"].as_array().into_iter().flatten();
    required.extend(needed.filter_map(Value::as_str).map(str::to_owned));
    (all, required)
}

#[tokio::test]
async fn the_openapi_document_describes_what_is_served() {
    let (router, _) = loaded().await;
    let (status, api) = ask(&router, get("/openapi.json")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        api["openapi"]
            .as_str()
            .expect("a version")
            .starts_with("3.")
    );
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("operations").values() {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id), "{path}: {id} is another's too");
        }
    }
    let schemas = &api["components"]["schemas"];
    for (body, required) in [
        ("RerankBody", vec!["query", "passage"]),
        ("BatchBody", vec!["pairs"]),
    ] {
        let listed: Vec<&str> = schemas[body]["required"]
            .as_array()
            .unwrap_or_else(|| panic!("{body}: {}", schemas[body]))
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(listed, required, "{body}");
    }
    // Every answer's fields are in its schema, and every required field of the schema is in the answer.
    let pair = json!({"query": "q", "passage": "p"});
    let answers = [
        (
            "RerankAnswer",
            rerank(&router, "/rerank", pair.clone()).await.1,
        ),
        (
            "BatchAnswer",
            rerank(&router, "/rerank/batch", json!({"pairs": [pair]}))
                .await
                .1,
        ),
        ("Health", ask(&router, get("/health")).await.1),
        ("Served", ask(&router, get("/info")).await.1),
        ("ErrorBody", ask(&router, get("/nowhere")).await.1),
    ];
    for (schema, answer) in answers {
        let (documented, required) = fields(schemas, &schemas[schema]);
        for field in answer.as_object().expect("an object").keys() {
            assert!(
                documented.contains(field),
                "{schema}: {field} is not documented"
            );
        }
        for field in required {
            assert!(
                answer.get(&field).is_some(),
                "{schema}: {field} is missing in {answer}"
            );
        }
    }
}

#[tokio::test]
async fn hostile_bodies_are_answered() {
    let (router, _) = loaded().await;
    let texts = [
        "\0",
        "\u{202e}\u{feff}",
        "\u{1F468}\u{200D}\u{1F469}",
        "</s><mask><pad>",
        "\n\t ",
        "ﷺ",
        "a\u{301}\u{301}\u{301}",
    ];
    for text in texts {
        let body = json!({"query": format!("q{text}"), "passage": text.repeat(100)});
        let (status, answer) = rerank(&router, "/rerank", body).await;
        assert_eq!(status, StatusCode::OK, "{text:?}: {answer}");
    }
    let raw: [(&[u8], u16); 7] = [
        (b"{\"query\":\"\xff\",\"passage\":\"\"}", 400),
        (b"{\"query\":\"q\",\"query\":\"q\",\"passage\":\"p\"}", 400),
        (b"\xff\xfe{\0}\0", 400),
        (
            b"{\"query\":\"q\",\"passage\":\"p\",\"max_length\":1e999}",
            422,
        ),
        (b"\xef\xbb\xbf{\"query\":\"q\",\"passage\":\"p\"}", 200),
        (b"{\"query\":\"q\\ud83d\",\"passage\":\"\\ude00\"}", 200),
        (b"{\"query\":\"q\",\"documents\":[\"a\",\"\\ud83d\"]}", 200),
    ];
    for (body, expected) in raw {
        let (status, answer) = ask(&router, post("/rerank", body.to_vec())).await;
        assert_eq!(status, expected, "{answer}");
    }
    // Half a character is the one that stands for what cannot be read, in every dialect.
    for (path, text, list) in [
        ("/rerank", "passage", None),
        ("/v1/rerank", "documents", Some("results")),
        ("/tei/rerank", "texts", Some("")),
        ("/mixedbread/reranking", "input", Some("data")),
    ] {
        let mut scores = Vec::new();
        for half in [r"\ud83d", r"\ufffd"] {
            let text = match list {
                None => format!(r#""{text}":"a bear {half}""#),
                Some(_) => format!(r#""{text}":["a bear {half}"]"#),
            };
            let body = format!(r#"{{"query":"what? {half}",{text}}}"#);
            let (status, mut answer) = ask(&router, post(path, body)).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            let item = match list {
                None => answer,
                Some("") => answer[0].take(),
                Some(list) => answer[list][0].take(),
            };
            let score = ["score", "relevance_score"].map(|name| item[name].as_f64());
            scores.push(score[0].or(score[1]).expect("a score"));
        }
        assert_eq!(scores[0], scores[1], "{path}");
    }
}

#[tokio::test]
async fn concurrent_requests_all_get_the_score_they_would_get_alone() {
    let (router, _) = loaded().await;
    let router = Arc::new(router);
    let body = |i: usize| json!({"query": "what is a panda?", "passage": "bamboo ".repeat(i + 1)});
    let mut alone = Vec::new();
    for i in 0..6 {
        alone.push(rerank(&router, "/rerank", body(i)).await.1["logit"].clone());
    }
    let tasks: Vec<_> = (0..6)
        .map(|i| {
            let router = Arc::clone(&router);
            tokio::spawn(async move { rerank(&router, "/rerank", body(i)).await })
        })
        .collect();
    for (task, expected) in tasks.into_iter().zip(alone) {
        let (status, answer) = task.await.expect("joins");
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["logit"], expected);
    }
}

#[tokio::test]
async fn a_key_is_needed_where_keys_are_set() {
    let mut settings = settings();
    settings.keys = Keys::parse(&["right", "other"]).expect("keys").into();
    let (router, _) = loaded_with(settings).await;
    let body = r#"{"query":"q","passage":"p"}"#;
    for open in [
        "/",
        "/health",
        "/live",
        "/ready",
        "/docs",
        "/openapi.json",
        "/docs/page.js",
        "/ping",
        // The same paths.
        "//health",
        "/health/",
    ] {
        assert_eq!(send(&router, get(open)).await.0.status(), 200, "{open}");
    }
    // Neither a path that nobody serves nor another way of writing an open one is let through.
    for closed in [
        "/info",
        "/nowhere",
        "//info/",
        "/v1/models",
        "/%68ealth",
        "/health/../info",
        "/docs/../info",
        "/api/info",
        "/tei/info",
    ] {
        let (head, _) = send(&router, get(closed)).await;
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED, "{closed}");
        assert_eq!(
            head.headers()[header::WWW_AUTHENTICATE],
            "Bearer",
            "{closed}"
        );
    }
    let with = |name: &str, value: &str| {
        let mut request = post("/rerank", body);
        let name: header::HeaderName = name.parse().expect("a name");
        request
            .headers_mut()
            .insert(name, value.parse().expect("a value"));
        request
    };
    for (name, value) in [
        ("authorization", "Bearer right"),
        ("authorization", "other"),
        ("x-api-key", "right"),
        ("Api-Key", "right"),
        ("ocp-apim-subscription-key", "right"),
    ] {
        let (status, answer) = ask(&router, with(name, value)).await;
        assert_eq!(status, StatusCode::OK, "{name}: {answer}");
    }
    for (name, value) in [
        ("authorization", "Bearer wrong"),
        ("authorization", "Bearer"),
        ("x-api-key", "righ"),
        ("x-forwarded-authorization", "right"),
    ] {
        let (status, error) = ask(&router, with(name, value)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {value}");
        assert_eq!(error["error"]["code"], "unauthorized");
        assert!(!error.to_string().contains("righ"), "{error}");
    }
    // A method override opens nothing, and the body of a refused request is not read.
    let mut overridden = get("/health");
    *overridden.method_mut() = Method::POST;
    *overridden.uri_mut() = "/rerank".parse().expect("a path");
    overridden
        .headers_mut()
        .insert("x-http-method-override", "GET".parse().expect("a value"));
    assert_eq!(send(&router, overridden).await.0.status(), 401);
}

/// A request with the headers that AWS's clients send for this key and a body of this digest, which is one of them where `says_hash`.
fn signed(key: &str, hash: &str, says_hash: bool, body: Body) -> Request<Body> {
    let mac = |key: &[u8], text: &str| -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let date = Command::new("date")
        .args(["-u", "+%Y%m%dT%H%M%SZ"])
        .output();
    let date = String::from_utf8(date.expect("the time").stdout).expect("text");
    let (date, day) = (date.trim(), &date[..8]);
    let (line, name) = match says_hash {
        true => (
            format!("x-amz-content-sha256:{hash}\n"),
            "x-amz-content-sha256;",
        ),
        false => (String::new(), ""),
    };
    let names = format!("host;{name}x-amz-date");
    let canonical = format!("POST\n/rerank\n\nhost:h\n{line}x-amz-date:{date}\n\n{names}\n{hash}");
    let scope = format!("{day}/r/s/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        digest(canonical.as_bytes())
    );
    let key = scope
        .split('/')
        .fold(format!("AWS4{key}").into_bytes(), |key, part| {
            mac(&key, part)
        });
    let signature = hex(&mac(&key, &to_sign));
    let mut request = Request::post("/rerank")
        .header("host", "h")
        .header("content-type", "application/json")
        .header("x-amz-date", date)
        .header("authorization", format!(
            "AWS4-HMAC-SHA256 Credential=me/{scope}, SignedHeaders={names}, Signature={signature}"
        ));
    if says_hash {
        request = request.header("x-amz-content-sha256", hash);
    }
    request.body(body).expect("a request")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[tokio::test(start_paused = true)]
async fn a_signed_body_is_read_only_where_it_may_be_a_callers() {
    let pair = r#"{"query":"q","passage":"p"}"#;
    let stalled = || {
        Body::new(StreamBody::new(tokio_stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >()))
    };
    let hash = digest(pair.as_bytes());
    // The key, whether the digest is signed, the body, and the answer: there is no model behind the door.
    for (key, says_hash, body, status, says) in [
        ("the-key", true, Body::from(pair), 503, "it is a caller's"),
        ("the-key", false, Body::from(pair), 503, "it is a caller's"),
        ("another", true, Body::from(pair), 401, "the key is wrong"),
        ("another", false, Body::from(pair), 401, "the key is wrong"),
        (
            "the-key",
            true,
            Body::from("{}"),
            401,
            "the body is another",
        ),
        (
            "the-key",
            false,
            Body::from("{}"),
            401,
            "the body is another",
        ),
        ("another", true, stalled(), 401, "it is not waited for"),
        ("another", false, stalled(), 408, "it has little time"),
        ("the-key", false, stalled(), 408, "it has little time"),
    ] {
        let settings = Settings {
            keys: Keys::parse(&["the-key"]).expect("a key").into(),
            ..settings()
        };
        let router = router(empty_service(), settings);
        let begun = tokio::time::Instant::now();
        let (status_got, body) = ask(&router, signed(key, &hash, says_hash, body)).await;
        assert_eq!(status_got, status, "{says}, digest {says_hash}: {body}");
        // By the clock of the test, which goes on only where all else waits.
        let waited = begun.elapsed().as_secs();
        assert!(waited < 20, "{waited} s");
    }
}

#[tokio::test]
async fn the_callers_own_timeout_is_kept() {
    let (router, _) = loaded().await;
    let timed = |value: &str| {
        let mut request = post("/rerank", r#"{"query":"q","passage":"p"}"#);
        let value = value.parse().expect("a value");
        request.headers_mut().insert("x-request-timeout-ms", value);
        request
    };
    for _ in 0..2 {
        assert_eq!(ask(&router, timed("60000")).await.0.as_u16(), 200);
    }
    for wrong in ["0", "-1", "1.5", "soon", ""] {
        let (status, error) = ask(&router, timed(wrong)).await;
        assert_eq!(status.as_u16(), 422, "{wrong}: {error}");
        assert_eq!(error["error"]["code"], "invalid_timeout", "{wrong}");
    }
    // The speed is known by now: what cannot be done in time is refused with the estimate, before anything is computed.
    let text = "machine learning returns water ".repeat(60);
    let pairs = vec![json!({"query": text, "passage": text}); 15];
    let distinct: Vec<Value> = pairs
        .into_iter()
        .enumerate()
        .map(|(i, mut pair)| {
            pair["query"] = format!("{i} {text}").into();
            pair
        })
        .collect();
    let body = json!({"pairs": distinct}).to_string();
    let (_, estimate) = ask(&router, post("/estimate", body.clone())).await;
    let predicted = estimate["predicted_ms"].as_f64().expect("a time");
    let mut request = post("/rerank/batch", body);
    let ms = (predicted / 20.0).ceil();
    let value = format!("{ms}").parse().expect("a value");
    request.headers_mut().insert("x-request-timeout-ms", value);
    let (status, error) = ask(&router, request).await;
    let code = error["error"]["code"].as_str().expect("a code");
    assert_eq!(status.as_u16(), 504, "{error}");
    // Where tokenizing alone takes as long, that is what it says.
    assert!(
        ["deadline_unreachable", "deadline_exceeded"].contains(&code),
        "{error}"
    );
}

#[tokio::test]
async fn an_estimate_tells_tokens_and_memory_time_without_scoring() {
    let (router, service) = loaded().await;
    let pair = json!({"query": "what is a panda?", "passage": "a bear"});
    let (status, before) = rerank(&router, "/estimate", pair.clone()).await;
    assert_eq!(status, StatusCode::OK, "{before}");
    assert!(before.get("predicted_ms").is_none() && service.tokens_per_second().is_none());
    let (_, scored) = rerank(&router, "/rerank", pair.clone()).await;
    // The first pass also reads the weights, so it says nothing of the next.
    rerank(&router, "/rerank", pair.clone()).await;
    let both = json!({"pairs": [pair, pair, {"query": "other", "passage": "text"}]});
    let (_, after) = rerank(&router, "/estimate", both).await;
    assert_eq!(
        (&after["pairs"], &after["sequences"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(before["tokens"], scored["tokens"]);
    let (tokens, computed) = (after["tokens"].as_u64(), after["computed_tokens"].as_u64());
    assert_eq!(
        tokens.zip(computed).map(|(t, c)| t - c),
        scored["tokens"].as_u64()
    );
    let number = |field: &str| after[field].as_f64().unwrap_or_else(|| panic!("{field}"));
    assert!(number("predicted_ms") >= number("compute_ms") && number("compute_ms") > 0.0);
    assert_eq!(number("memory_gb"), 2.0);
    assert!((number("gb_seconds") - number("compute_ms") / 1e3 * 2.0).abs() < 1e-5);
}
