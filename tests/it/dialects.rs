//! Dialects over the router and a tiny real model: what no file of tests/wire can say, because it holds for many texts or lengths. The
//! real clients are tested in suites/clients.

use axum::Router;
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::router::{
    ask, caching_service, engine, get, loaded, post, rerank, send, settings,
};

const QUERY: &str = "what is a panda?";
const DOCUMENTS: [&str; 4] = [
    "eats bamboo and sleeps",
    "",
    "a bear of China",
    "Paris is a city",
];

async fn ok(router: &Router, path: &str, body: Value) -> Value {
    let (status, answer) = rerank(router, path, body).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

/// Index and score of each item of a list.
fn ranked(items: &Value, score: &str) -> Vec<(usize, f64)> {
    let items = items
        .as_array()
        .unwrap_or_else(|| panic!("a list: {items}"));
    items
        .iter()
        .map(|item| {
            let index = item["index"].as_u64().expect("an index") as usize;
            (index, item[score].as_f64().expect("a score"))
        })
        .collect()
}

#[tokio::test]
async fn objects_are_ranked_by_the_fields_that_are_named() {
    let (router, _) = loaded().await;
    let score = |fields: Value, document: Value| {
        let body = json!({"query": QUERY, "documents": [document], "rank_fields": fields});
        let router = &router;
        async move { ok(router, "/v1/rerank", body).await["results"][0]["relevance_score"].clone() }
    };
    let plain = score(Value::Null, "a bear\n7".into()).await;
    let object = json!({"text": "x", "title": "a bear", "n": 7, "none": null});
    assert_eq!(
        score(json!(["title", "n", "none", "missing"]), object.clone()).await,
        plain
    );
    assert_eq!(
        score(json!([]), object).await,
        score(Value::Null, "x".into()).await
    );
    for (fields, field) in [
        (json!(["missing"]), "documents[0].text"),
        (Value::Null, "documents[0].text"),
    ] {
        let body = json!({"query": QUERY, "documents": [{"body": "x"}], "rank_fields": fields});
        let (status, error) = rerank(&router, "/rerank", body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(error["error"]["field"], field, "{error}");
    }
}

#[tokio::test]
async fn usage_counts_what_was_scored_not_what_is_shown() {
    let (router, _) = loaded().await;
    let total = |top: usize| {
        let body = json!({"query": QUERY, "documents": DOCUMENTS, "top_k": top});
        let router = &router;
        async move { ok(router, "/v1/rerank", body).await }
    };
    let (two, all) = (total(2).await, total(0).await);
    let tokens = all["results"].as_array().expect("a list").iter();
    let tokens: u64 = tokens
        .map(|item| item["tokens"].as_u64().expect("tokens"))
        .sum();
    for answer in [two, all] {
        assert_eq!(answer["usage"]["total_tokens"], tokens);
        assert_eq!(answer["meta"]["tokens"]["input_tokens"], tokens);
    }
}

#[tokio::test]
async fn tei_is_told_that_this_is_a_reranker() {
    let (router, _) = loaded().await;
    let info = ok_get(&router, "/tei/info").await;
    let kinds = info["model_type"].as_object().expect("an object").keys();
    assert_eq!(kinds.collect::<Vec<_>>(), ["reranker"]);
    assert_eq!(info["max_client_batch_size"], 50);
}

async fn ok_get(router: &Router, path: &str) -> Value {
    let (status, answer) = ask(router, get(path)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn a_long_document_is_taken_apart_and_its_best_part_counts() {
    let (router, _) = loaded().await;
    let filler = "machine learning returns water ".repeat(30);
    let long = format!("{filler} a bear of China eats bamboo. {filler}");
    let item = |options: Value| {
        let mut body = json!({"query": QUERY, "documents": [long]});
        let options = options.as_object().cloned().expect("an object");
        body.as_object_mut().expect("an object").extend(options);
        let router = &router;
        async move { ok(router, "/rerank", body).await["results"][0].clone() }
    };
    let cut = item(json!({})).await;
    assert_eq!(
        (&cut["tokens"], &cut["truncated"]),
        (&json!(100), &json!(true))
    );
    let dropped = cut["dropped_tokens"].as_u64().expect("tokens");
    assert!(cut.get("chunks").is_none(), "{cut}");

    let whole = item(json!({"max_chunks_per_doc": 50, "chunk_overlap": 0})).await;
    let chunks = whole["chunks"].as_u64().expect("chunks");
    assert_eq!(whole["truncated"], false);
    assert!(chunks > 2 && whole["relevance_score"].as_f64() >= cut["relevance_score"].as_f64());
    // Query and special tokens come again with each chunk, the document's own but once.
    let query_tokens = {
        let empty = ok(
            &router,
            "/rerank",
            json!({"query": QUERY, "documents": [""]}),
        )
        .await;
        empty["results"][0]["tokens"].as_u64().expect("tokens")
    };
    let document = whole["tokens"].as_u64().expect("tokens") - chunks * query_tokens;
    assert_eq!(document, 100 - query_tokens + dropped);

    let overlapping = item(json!({"max_chunks_per_doc": 50, "chunk_overlap": 20})).await;
    assert!(overlapping["tokens"].as_u64() > whole["tokens"].as_u64());
    let two = item(json!({"max_chunks_per_doc": 2, "chunk_overlap": 0})).await;
    assert_eq!(
        (&two["chunks"], &two["truncated"]),
        (&json!(2), &json!(true))
    );
    let read = 2 * (100 - query_tokens);
    assert_eq!(two["dropped_tokens"], document - read);
    let few = item(json!({"max_tokens_per_doc": 30})).await;
    assert_eq!(few["tokens"], 30 + query_tokens);
    assert_eq!(few["dropped_tokens"], document - 30);

    // Cohere's own defaults take documents apart without being asked.
    for path in ["/cohere/v1/rerank", "/v2/rerank"] {
        let answer = ok(&router, path, json!({"query": QUERY, "documents": [long]})).await;
        assert!(
            answer["results"][0]["chunks"].as_u64() > Some(1),
            "{path}: {answer}"
        );
    }
    let (status, error) = rerank(
        &router,
        "/rerank",
        json!({"query": QUERY, "documents": [long], "max_chunks_per_doc": 100_000}),
    )
    .await;
    assert_eq!(
        (status.as_u16(), &error["error"]["code"]),
        (422, &json!("invalid_chunks"))
    );
}

#[tokio::test]
async fn sentences_are_found_by_their_characters_and_scored_alone() {
    let (router, _) = loaded().await;
    let text = "Ein Bär 🐼 frisst. 東京は首都です。 A bear of China.";
    let sentences = ["Ein Bär 🐼 frisst.", "東京は首都です。", "A bear of China."];
    let alone = ok(
        &router,
        "/rerank",
        json!({"query": QUERY, "documents": sentences}),
    )
    .await;
    let mut scores = ranked(&alone["results"], "relevance_score");
    scores.sort_by_key(|(index, _)| *index);
    let characters: Vec<char> = text.chars().collect();
    let check = |spans: &Value| {
        let spans = spans.as_array().expect("spans");
        assert_eq!(spans.len(), 3);
        for (span, (sentence, (_, score))) in spans.iter().zip(sentences.iter().zip(&scores)) {
            let place = |end: &str| span[end].as_u64().expect("a place") as usize;
            let found: String = characters[place("start")..place("end")].iter().collect();
            assert_eq!((&*found, span["score"].as_f64()), (*sentence, Some(*score)));
        }
    };
    let body = json!({"query": QUERY, "documents": [text], "relevant_spans": {"mode": "enabled", "threshold": 0.0}});
    let answer = ok(&router, "/v2/rerank", body.clone()).await;
    check(&answer["results"][0]["relevant_spans"]);
    let azure = json!({"query": QUERY, "documents": [text], "returnSentenceScore": true});
    let answer = ok(&router, "/inference/semanticReranking", azure).await;
    check(&answer["scores"][0]["sentenceScores"]);

    let mut one = body.clone();
    one["relevant_spans"]["max_spans"] = 1.into();
    let answer = ok(&router, "/v2/rerank", one).await;
    let spans = &answer["results"][0]["relevant_spans"];
    let best = scores.iter().map(|(_, score)| *score).fold(0.0, f64::max);
    assert_eq!(
        (spans.as_array().map(Vec::len), spans[0]["score"].as_f64()),
        (Some(1), Some(best))
    );
    let mut off = body;
    off["relevant_spans"]["mode"] = "disabled".into();
    let answer = ok(&router, "/v2/rerank", off).await;
    assert!(answer["results"][0].get("relevant_spans").is_none());
}

#[tokio::test]
async fn texts_are_cut_as_the_request_says_or_refused() {
    let (router, _) = loaded().await;
    let long = "machine learning returns water ".repeat(40);
    // The side that gives way shows in the score.
    let text = format!("a bear of China. {long}");
    let side = |side: &str| {
        let body = json!({"query": QUERY, "documents": [text], "truncation_side": side});
        let router = &router;
        async move { ok(router, "/rerank", body).await["results"][0].clone() }
    };
    let (right, left) = (side("right").await, side("left").await);
    assert_eq!(right["dropped_tokens"], left["dropped_tokens"]);
    assert_ne!(right["relevance_score"], left["relevance_score"]);
    let short = json!({"query": QUERY, "documents": [text], "truncate_prompt_tokens": 40});
    assert_eq!(
        ok(&router, "/rerank", short).await["results"][0]["tokens"],
        40
    );
    for (field, path) in [
        ("truncate_prompt_tokens", "/rerank"),
        ("truncate_prompt_tokens", "/score"),
        ("max_length", "/score"),
    ] {
        let body = json!({"query": QUERY, "documents": [text], "queries": QUERY, field: 100_000});
        let (status, error) = rerank(&router, path, body).await;
        assert_eq!(status, 422, "{path}: {error}");
        let told = error.to_string();
        let expected = format!("{field} is 100000, it must be from ");
        assert!(told.contains(&expected), "{path}: {told}");
    }
    // Their periods differ, so no chunk of one is a chunk of another: such would be computed, and counted, once.
    let different: Vec<String> = (0..30)
        .map(|i| ("water ".repeat(i + 1) + "machine learning ").repeat(1800 / (6 * i + 25)))
        .collect();
    let many = json!({"query": QUERY, "documents": different, "max_chunks_per_doc": 9, "chunk_overlap": 40});
    let (status, error) = rerank(&router, "/rerank", many).await;
    assert_eq!(
        (status.as_u16(), &error["error"]["code"]),
        (422, &json!("too_many_tokens"))
    );
    assert_eq!(error["error"]["limit"], 10_000);
}

#[tokio::test]
async fn small_bodies_that_ask_for_much_are_refused_before_it_is_made() {
    let (router, _) = loaded().await;
    let text = "x".repeat(1900);
    let names: Vec<String> = (0..101).map(|name| name.to_string()).collect();
    // Every equal sentence would be one of the answer.
    let sentences = vec!["A b. ".repeat(400); 10];
    for (path, body, code) in [
        (
            "/rerank",
            json!({"query": "q", "documents": [{"t": text}], "rank_fields": ["t", "t"]}),
            "invalid_rank_fields",
        ),
        (
            "/rerank",
            json!({"query": "q", "documents": [{"t": text}], "rank_fields": names}),
            "invalid_rank_fields",
        ),
        (
            "/v2/rerank",
            json!({"query": "q", "documents": sentences, "relevant_spans": {"mode": "enabled"}}),
            "too_many_tokens",
        ),
        (
            "/inference/semanticReranking",
            json!({"query": "q", "documents": sentences, "returnSentenceScore": true}),
            "too_many_tokens",
        ),
    ] {
        let (status, error) = rerank(&router, path, body).await;
        let told = error["error"]["code"].as_str().or(error["code"].as_str());
        assert_eq!(
            (status.as_u16(), told),
            (422, Some(code)),
            "{path}: {error}"
        );
    }
}

#[tokio::test]
async fn documents_come_back_byte_for_byte() {
    let (router, _) = loaded().await;
    let object =
        r#"{"text":"a bear", "big": 12345678901234567890123,"n":1.10, "z":[ 1e2 ],"a":"\u00e9"}"#;
    let body = |fields: &str| {
        format!(
            r#"{{"query":"{QUERY}","documents":["x",{object}],"return_documents":true{fields}}}"#
        )
    };
    for path in [
        "/v1/rerank",
        "/cohere/v1/rerank",
        "/jina/v1/rerank",
        "/vllm/rerank",
        "/pinecone/rerank",
        "/llamacpp/rerank",
    ] {
        let (head, answer) = send(&router, post(path, body(""))).await;
        let answer = String::from_utf8(answer).expect("text");
        assert!(
            head.status().is_success() && answer.contains(object),
            "{path}: {answer}"
        );
    }
    let input = format!(r#"{{"query":"{QUERY}","input":[{object}],"return_input":true}}"#);
    let (_, answer) = send(&router, post("/mixedbread/reranking", input)).await;
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.contains(object), "{answer}");
    // Where documents are strings, what has no text of its own is one of the same bytes.
    let object_without = object.replace("text", "t");
    let fields = r#","return_documents":true,"rank_fields":["t"]"#;
    let body = format!(r#"{{"query":"{QUERY}","documents":[{object_without}]{fields}}}"#);
    let (_, answer) = ask(&router, post("/infinity/rerank", body)).await;
    assert_eq!(answer["results"][0]["document"], *object_without);
    // Numbers are scored as they were written.
    let score = |documents: &str, fields: &str| {
        let body = format!(r#"{{"query":"{QUERY}","documents":[{documents}]{fields}}}"#);
        let router = &router;
        async move {
            ask(router, post("/v1/rerank", body)).await.1["results"][0]["relevance_score"].clone()
        }
    };
    let as_text = score(r#""12345678901234567890123\n1.10""#, "").await;
    let as_fields = score(object, r#","rank_fields":["big","n"]"#).await;
    assert!(as_text.is_f64());
    assert_eq!(as_text, as_fields);
}

#[tokio::test]
async fn a_query_is_cut_where_that_is_asked_for() {
    let (router, _) = loaded().await;
    let query = "what is a panda? ".repeat(4);
    for (path, list) in [
        ("/vllm/rerank", "results"),
        ("/v1/rerank", "results"),
        ("/score", "data"),
    ] {
        let item = |most: Value| {
            let body = if path == "/score" {
                json!({"queries": query, "documents": [DOCUMENTS[2]], "max_tokens_per_query": most})
            } else {
                json!({"query": query, "documents": [DOCUMENTS[2]], "max_tokens_per_query": most})
            };
            let router = &router;
            async move { ok(router, path, body).await[list][0].clone() }
        };
        let whole = item(Value::Null).await;
        assert_eq!(
            (&whole["truncated"], item(json!(0)).await),
            (&json!(false), whole.clone())
        );
        let cut = item(json!(8)).await;
        let tokens = |item: &Value| item["tokens"].as_u64().expect("tokens");
        assert_eq!(cut["truncated"], true);
        assert_eq!(cut["dropped_tokens"], tokens(&whole) - tokens(&cut));
        let empty = ok(
            &router,
            "/rerank",
            json!({"query": "x", "documents": [DOCUMENTS[2]]}),
        )
        .await;
        let one = ok(
            &router,
            "/rerank",
            json!({"query": "x", "documents": [DOCUMENTS[2]], "max_tokens_per_query": 1}),
        )
        .await;
        let without_query = tokens(&one["results"][0]) - 1;
        assert!(tokens(&empty["results"][0]) >= tokens(&one["results"][0]));
        assert_eq!(tokens(&cut), without_query + 8, "{path}");
    }
}

#[tokio::test]
async fn other_services_lists_of_models_and_probes_are_served() {
    let (router, _) = loaded().await;
    for path in [
        "/v1/models",
        "/models",
        "/vllm/v1/models",
        "/infinity/models",
        "/llamacpp/models",
        "/llamacpp/v1/models",
        "/jina/v1/models",
        "/cohere/v1/models",
        "/v1/models/",
    ] {
        let answer = ok_get(&router, path).await;
        assert_eq!(answer["object"], "list", "{path}");
        assert_eq!(answer["data"][0]["id"], "tiny", "{path}");
        assert_eq!(answer["models"][0]["name"], "tiny", "{path}");
    }
    assert_eq!(ok_get(&router, "/ping").await["status"], "ok");
}

#[tokio::test]
async fn what_was_meant_is_told() {
    let (router, _) = loaded().await;
    let body = json!({"query": "q", "passage": "p", "maxlength": 8});
    let (head, _) = send(&router, post("/estimate", body.to_string())).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(
        head.headers()["x-ignored-fields"],
        "maxlength (max_length?)"
    );
    for (path, says) in [
        (
            "/rerank/rerank",
            "there is no such route: /rerank is in it twice, the route is /rerank",
        ),
        (
            "/v1/v1/rerank",
            "/v1 is in it twice, the route is /v1/rerank",
        ),
        (
            "/v2/v2/rerank",
            "/v2 is in it twice, the route is /v2/rerank",
        ),
        (
            "/v1/v2/rerank",
            "clients add /v2/rerank themselves, give them the base address without /v1",
        ),
        (
            "/stage/v2/rerank",
            "but /v2/rerank is one; BASE_PATH takes off what stands in front of it",
        ),
        ("/heath", "did you mean /health?"),
        ("/redoc", "did you mean /docs?"),
    ] {
        let (status, error) = rerank(&router, path, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        let told = error["message"].as_str().expect("a message");
        assert!(told.contains(says), "{path}: {told}");
    }
    let (head, _) = send(&router, get("/docs/")).await;
    assert_eq!(
        (head.status(), &head.headers()["location"]),
        (
            StatusCode::PERMANENT_REDIRECT,
            &"../docs".parse().expect("a value")
        )
    );
}

#[tokio::test]
async fn neither_chunks_nor_sentences_go_beyond_what_was_asked_for() {
    let (router, _) = loaded().await;
    let query = "machine learning returns water ".repeat(15);
    let body =
        json!({"query": query, "documents": [query], "max_length": 8, "max_chunks_per_doc": 3});
    let item = ok(&router, "/rerank", body).await["results"][0].clone();
    assert_eq!(
        (&item["tokens"], item.get("chunks")),
        (&json!(8), None),
        "{item}"
    );
    let text = "A bear of China. ".repeat(40);
    let spans = |most: Value| {
        let body = json!({"query": QUERY, "documents": [text], "max_tokens_per_doc": most,
            "relevant_spans": {"mode": "enabled", "threshold": 0.0}});
        let router = &router;
        async move {
            let answer = ok(router, "/v2/rerank", body).await;
            let spans = answer["results"][0]["relevant_spans"].as_array().cloned();
            spans.expect("spans").len()
        }
    };
    assert_eq!(spans(Value::Null).await, 40);
    assert!((1..=10).contains(&spans(json!(20)).await));
    // Whoever does not answer with spans does not score them.
    let body = json!({"query": QUERY, "documents": [text], "relevant_spans": {"mode": "enabled"}});
    let (with, without) = (
        ok(&router, "/rerank", body).await,
        ok(
            &router,
            "/rerank",
            json!({"query": QUERY, "documents": [text]}),
        )
        .await,
    );
    assert_eq!(with["usage"], without["usage"]);
}

#[tokio::test]
async fn pairs_that_come_again_are_not_scored_again_where_there_is_a_cache() {
    let service = caching_service(100);
    service.load(engine).await.expect("loads");
    let router = reranker::http::router(service, settings());
    let body = json!({"query": QUERY, "documents": DOCUMENTS});
    let first = ok(&router, "/rerank", body.clone()).await;
    let again = ok(&router, "/rerank", body.clone()).await;
    assert_eq!(first["results"], again["results"], "to the bit");
    // Whether somebody has asked the same is not told.
    let estimate = ok(&router, "/estimate", body).await;
    assert_eq!(estimate["sequences"], 4);
    let (head, text) = send(&router, get("/metrics")).await;
    assert!(
        head.headers()[header::CONTENT_TYPE]
            .to_str()
            .expect("text")
            .starts_with("application/openmetrics-text")
    );
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("cache")).collect();
    let value = |name: &str| {
        let mut found = lines
            .iter()
            .filter(|line| line.contains(name) && !line.starts_with('#'));
        found
            .next()
            .and_then(|line| line.rsplit(' ').next())
            .map(str::to_owned)
    };
    assert_eq!(
        (value("hit").as_deref(), value("miss").as_deref()),
        (Some("4"), Some("4")),
        "{lines:#?}"
    );
    assert!(
        text.contains("reranker_requests_total{") && text.contains("dialect=\"common\""),
        "{text}"
    );
    assert!(!text.contains("bamboo"));
}
