//! Every dialect over the router and a tiny real model: what each reads, what it answers, and how it says no. What the real clients
//! make of it is tested in suites/clients.

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode, header};
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

/// The native scores of [`DOCUMENTS`], in their order.
async fn native(router: &Router, normalize: bool) -> Vec<f64> {
    let pairs: Vec<Value> = DOCUMENTS
        .iter()
        .map(|passage| json!({"query": QUERY, "passage": passage}))
        .collect();
    let body = json!({"pairs": pairs, "normalize": normalize});
    let (status, answer) = rerank(router, "/rerank/batch", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let scores = answer["scores"].as_array().expect("scores");
    scores
        .iter()
        .map(|s| s.as_f64().expect("a number"))
        .collect()
}

/// Places of the documents, the best first.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places
}

async fn ok(router: &Router, path: &str, body: Value) -> Value {
    let (status, answer) = rerank(router, path, body).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

fn with_header(path: &str, name: &'static str, body: &Value) -> Request<Body> {
    let mut request = post(path, body.to_string());
    request
        .headers_mut()
        .insert(name, "2025-04".parse().expect("a value"));
    request
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
async fn every_dialect_gives_the_native_scores_in_its_own_shape() {
    let (router, _) = loaded().await;
    let (normal, raw) = (native(&router, true).await, native(&router, false).await);
    let best_first = |scores: &[f64]| -> Vec<(usize, f64)> {
        order(scores).into_iter().map(|i| (i, scores[i])).collect()
    };
    let in_order = |scores: &[f64]| scores.iter().copied().enumerate().collect::<Vec<_>>();
    let documents = json!({"query": QUERY, "documents": DOCUMENTS, "model": "any"});
    for (path, list, score) in [
        ("/rerank", "results", "relevance_score"),
        ("/v1/rerank", "results", "relevance_score"),
        ("/reranking", "results", "relevance_score"),
        ("/v1/reranking", "results", "relevance_score"),
        ("/v2/rerank", "results", "relevance_score"),
        ("/cohere/v1/rerank", "results", "relevance_score"),
        ("/cohere/v2/rerank", "results", "relevance_score"),
        ("/jina/v1/rerank", "results", "relevance_score"),
        ("/vllm/rerank", "results", "relevance_score"),
        ("/vllm/v1/rerank", "results", "relevance_score"),
        ("/vllm/v2/rerank", "results", "relevance_score"),
        ("/infinity/rerank", "results", "relevance_score"),
        ("/voyage/rerank", "data", "relevance_score"),
        ("/voyage/v1/rerank", "data", "relevance_score"),
        ("/pinecone/rerank", "data", "score"),
        (
            "/inference/semanticReranking?api-version=1",
            "scores",
            "score",
        ),
        ("/azure/inference/semanticReranking", "scores", "score"),
    ] {
        let answer = ok(&router, path, documents.clone()).await;
        assert_eq!(ranked(&answer[list], score), best_first(&normal), "{path}");
    }
    for path in [
        "/llamacpp/rerank",
        "/llamacpp/reranking",
        "/llamacpp/v1/rerank",
        "/llamacpp/v1/reranking",
    ] {
        let answer = ok(&router, path, documents.clone()).await;
        let found = ranked(&answer["results"], "relevance_score");
        assert_eq!(found, best_first(&raw), "{path}");
    }

    let texts = json!({"query": QUERY, "texts": DOCUMENTS, "return_text": true});
    for path in ["/rerank", "/tei/rerank", "/v1/rerank"] {
        let answer = ok(&router, path, texts.clone()).await;
        assert_eq!(ranked(&answer, "score"), best_first(&normal), "{path}");
        let first = &answer[0];
        assert_eq!(
            first["text"],
            DOCUMENTS[first["index"].as_u64().expect("an index") as usize]
        );
    }
    let mut texts = texts;
    texts["raw_scores"] = true.into();
    let answer = ok(&router, "/tei/rerank", texts).await;
    assert_eq!(ranked(&answer, "score"), best_first(&raw));

    let input = json!({"query": QUERY, "input": DOCUMENTS, "return_input": true});
    for path in [
        "/v1/reranking",
        "/mixedbread/v1/reranking",
        "/mixedbread/reranking",
    ] {
        let answer = ok(&router, path, input.clone()).await;
        assert_eq!(
            ranked(&answer["data"], "score"),
            best_first(&normal),
            "{path}"
        );
        assert_eq!(answer["data"][0]["object"], "rank_result");
        assert!(answer["data"][0]["input"].is_string());
    }

    let answer = rerank_with_pinecones_header(&router, &documents).await;
    assert_eq!(ranked(&answer["data"], "score"), best_first(&normal));
    assert_eq!(answer["usage"], json!({"rerank_units": 1}));
    let keys: Vec<&String> = answer["data"][0]
        .as_object()
        .expect("an object")
        .keys()
        .collect();
    assert_eq!(
        keys,
        ["document", "index", "score"],
        "its clients parse strictly"
    );

    let source = |text: &&str| json!({"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}});
    let sources: Vec<Value> = DOCUMENTS.iter().map(source).collect();
    let bedrock = json!({
        "queries": [{"type": "TEXT", "textQuery": {"text": QUERY}}], "sources": sources,
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration":
            {"numberOfResults": 2, "modelConfiguration": {"modelArn": "arn:aws:bedrock:x::foundation-model/m"}}}});
    for path in ["/rerank", "/bedrock/rerank"] {
        let answer = ok(&router, path, bedrock.clone()).await;
        let found = ranked(&answer["results"], "relevanceScore");
        assert_eq!(found, best_first(&normal)[..2], "{path}");
    }

    for (queries, documents) in [
        ("queries", "documents"),
        ("queries", "items"),
        ("text_1", "text_2"),
        ("data_1", "data_2"),
    ] {
        let mut bodies = vec![json!({}), json!({})];
        bodies[0][queries] = QUERY.into();
        bodies[1][queries] = vec![QUERY; DOCUMENTS.len()].into();
        for mut body in bodies {
            body[documents] = DOCUMENTS.as_slice().into();
            for path in ["/score", "/v1/score", "/vllm/score", "/vllm/v1/score"] {
                let answer = ok(&router, path, body.clone()).await;
                assert_eq!(
                    ranked(&answer["data"], "score"),
                    in_order(&normal),
                    "{path}"
                );
            }
            body["use_activation"] = false.into();
            let answer = ok(&router, "/score", body).await;
            assert_eq!(ranked(&answer["data"], "score"), in_order(&raw));
        }
    }
    let one = json!({"text_1": QUERY, "text_2": DOCUMENTS[2]});
    let answer = ok(&router, "/score", one).await;
    assert_eq!(ranked(&answer["data"], "score"), [(0, normal[2])]);

    let unsorted = json!({"query": QUERY, "documents": DOCUMENTS, "sort": false, "topK": 3});
    let answer = ok(&router, "/inference/semanticReranking", unsorted).await;
    let mut best = best_first(&normal);
    best.truncate(3);
    best.sort_by_key(|(index, _)| *index);
    assert_eq!(ranked(&answer["scores"], "score"), best);
}

async fn rerank_with_pinecones_header(router: &Router, body: &Value) -> Value {
    let (status, answer) = ask(
        router,
        with_header("/rerank", "x-pinecone-api-version", body),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn returned_documents_have_the_shape_of_their_dialect() {
    let (router, _) = loaded().await;
    let body = json!({"query": QUERY, "return_documents": "true", "rank_fields": ["title", "text"],
        "documents": ["plain", {"text": "of an object", "title": "title", "n": 7}]});
    let document = |answer: &Value, list: &str, index: u64| {
        let items = answer[list].as_array().expect("a list").iter();
        let mut found = items.filter(|item| item["index"] == index);
        found.next().expect("is there")["document"].clone()
    };
    let object = &body["documents"][1];
    for path in [
        "/rerank",
        "/v1/rerank",
        "/cohere/v1/rerank",
        "/jina/v1/rerank",
        "/vllm/rerank",
    ] {
        let answer = ok(&router, path, body.clone()).await;
        assert_eq!(
            document(&answer, "results", 0),
            json!({"text": "plain"}),
            "{path}"
        );
        assert_eq!(&document(&answer, "results", 1), object, "{path}");
    }
    for (path, list) in [("/infinity/rerank", "results"), ("/voyage/rerank", "data")] {
        let answer = ok(&router, path, body.clone()).await;
        assert_eq!(document(&answer, list, 0), "plain", "{path}");
        assert_eq!(document(&answer, list, 1), "of an object", "{path}");
    }
    // What was not asked for is left out, not null; but vLLM's and Pinecone's are always there.
    let mut plain = body.clone();
    plain["return_documents"] = Value::Null;
    for (path, list, there) in [
        ("/rerank", "results", false),
        ("/v2/rerank", "results", false),
        ("/infinity/rerank", "results", false),
        ("/vllm/rerank", "results", true),
        ("/pinecone/rerank", "data", true),
    ] {
        let answer = ok(&router, path, plain.clone()).await;
        let item = answer[list][0].as_object().expect("an object");
        assert_eq!(item.contains_key("document"), there, "{path}");
    }
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
async fn every_answer_has_what_its_clients_insist_on() {
    let (router, _) = loaded().await;
    let body = json!({"query": QUERY, "documents": DOCUMENTS, "top_n": null, "top_k": 2, "max_tokens_per_doc": null});
    let common = ok(&router, "/v1/rerank", body.clone()).await;
    for field in [
        "id", "object", "created", "model", "results", "usage", "meta",
    ] {
        assert!(!common[field].is_null(), "{field}: {common}");
    }
    assert_eq!(
        common["results"].as_array().map(Vec::len),
        Some(2),
        "top_k is top_n"
    );
    assert_eq!(common["object"], "rerank");
    assert!(common["meta"]["billed_units"]["search_units"].is_u64());
    let total = common["usage"]["total_tokens"].as_u64().expect("tokens");
    assert_eq!(common["meta"]["tokens"]["input_tokens"], total);
    let all: u64 = {
        let mut body = body.clone();
        body["top_k"] = 0.into();
        let answer = ok(&router, "/rerank", body).await;
        let items = answer["results"].as_array().expect("a list").clone();
        items
            .iter()
            .map(|item| item["tokens"].as_u64().expect("tokens"))
            .sum()
    };
    assert_eq!(
        total, all,
        "usage counts what was scored, not what is shown"
    );
    let azure = ok(&router, "/inference/semanticReranking", body.clone()).await;
    assert_eq!(azure["meta"]["tokenUsage"]["totalTokens"], total);
    assert!(
        azure["meta"]["latency"]["inferenceTime"]
            .as_f64()
            .expect("a time")
            > 0.0
    );
    let info = ok_get(&router, "/tei/info").await;
    let kinds: Vec<&String> = info["model_type"]
        .as_object()
        .expect("an object")
        .keys()
        .collect();
    assert_eq!(kinds, ["reranker"]);
    assert_eq!(info["max_client_batch_size"], 50);
}

async fn ok_get(router: &Router, path: &str) -> Value {
    let (status, answer) = ask(router, get(path)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn every_dialect_says_no_in_its_own_words() {
    let (router, _) = loaded().await;
    let empty = json!({"query": " ", "documents": ["d"]});
    let says = "query is empty";
    for (path, body, place) in [
        ("/rerank", empty.clone(), vec!["error", "message"]),
        ("/rerank", empty.clone(), vec!["message"]),
        ("/rerank", empty.clone(), vec!["detail"]),
        ("/v2/rerank", empty.clone(), vec!["message"]),
        ("/cohere/v1/rerank", empty.clone(), vec!["message"]),
        ("/jina/v1/rerank", empty.clone(), vec!["detail"]),
        ("/voyage/rerank", empty.clone(), vec!["detail"]),
        ("/vllm/rerank", empty.clone(), vec!["error", "message"]),
        ("/infinity/rerank", empty.clone(), vec!["error", "message"]),
        ("/llamacpp/rerank", empty.clone(), vec!["error", "message"]),
        ("/pinecone/rerank", empty.clone(), vec!["error", "message"]),
        (
            "/azure/inference/semanticReranking",
            empty.clone(),
            vec!["error", "message"],
        ),
        (
            "/rerank",
            json!({"query": "", "texts": ["d"]}),
            vec!["error"],
        ),
        (
            "/mixedbread/reranking",
            json!({"query": "", "input": ["d"]}),
            vec!["message"],
        ),
    ] {
        let (status, error) = rerank(&router, path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {error}");
        let found = place.iter().fold(&error, |value, name| &value[*name]);
        assert_eq!(found, says, "{path}: {error}");
    }
    let bedrock = json!({"queries": [], "sources": []});
    let (head, body) = send(&router, post("/rerank", bedrock.to_string())).await;
    assert_eq!(head.headers()["x-amzn-errortype"], "ValidationException");
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(error, json!({"message": "0 queries, exactly 1 is taken"}));

    let tei = json!({"query": "q", "texts": vec!["d"; 51]});
    let (_, error) = rerank(&router, "/tei/rerank", tei).await;
    let expected = json!({"error": "51 texts exceed the limit of 50", "error_type": "Validation"});
    assert_eq!(error, expected);

    // Also of what goes wrong before a body is read, where the path tells whose it is.
    let (head, body) = send(&router, get("/infinity/rerank")).await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(error["error"]["code"], 405);
    let (head, body) = send(&router, post("/jina/v2/nothing", "{}")).await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(error["detail"], "there is no such route");
}

#[tokio::test]
async fn a_body_of_no_shape_is_told_which_there_are() {
    let (router, _) = loaded().await;
    for body in [
        json!({}),
        json!({"query": "q"}),
        json!({"query": "q", "documents": null}),
    ] {
        let (status, error) = rerank(&router, "/rerank", body).await;
        assert_eq!(
            (status.as_u16(), &error["error"]["code"]),
            (422, &json!("unknown_shape"))
        );
        let message = error["error"]["message"].as_str().expect("a message");
        for shape in ["passage", "texts", "documents", "sources", "input"] {
            assert!(message.contains(shape), "{shape}: {message}");
        }
    }
    for (body, field) in [
        (json!({"query": "q", "documents": [1]}), "documents[0]"),
        (
            json!({"query": "q", "documents": 7}),
            "documents is a number, expected an array",
        ),
        (
            json!({"query": 7, "documents": ["d"]}),
            "query is a number, expected a string",
        ),
        (
            json!({"query": "q", "documents": ["d", 2024]}),
            "documents[1] is a number, expected a string",
        ),
        (
            json!({"query": "q", "passage": 2024}),
            "passage is a number, expected a string",
        ),
        (
            json!({"query": "q", "documents": ["d"], "top_n": 1e20}),
            "top_n is a number that is too large",
        ),
        (json!({"query": ["q"], "texts": ["d"]}), "query"),
        (
            json!({"query": "q", "documents": ["d"], "top_n": -1}),
            "top_n is a negative number, expected a whole number, 0 or more",
        ),
        (
            json!({"query": "q", "documents": ["d"], "return_documents": "maybe"}),
            "return_documents",
        ),
        (
            json!({"query": "q", "documents": ["d"], "relevant_spans": []}),
            "relevant_spans",
        ),
        (
            json!({"query": "q", "documents": ["d"], "truncation_side": "up"}),
            "truncation_side",
        ),
    ] {
        let (status, error) = rerank(&router, "/rerank", body.clone()).await;
        assert!(matches!(status.as_u16(), 400 | 422), "{body}: {error}");
        let told = error.to_string();
        assert!(told.contains(field), "{body}: {error}");
    }
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
async fn what_may_not_be_cut_is_refused_by_name() {
    let (router, _) = loaded().await;
    let long = "machine learning returns water ".repeat(40);
    for (path, body, field) in [
        (
            "/rerank",
            json!({"query": "q", "documents": ["d", long], "truncation": "none"}),
            "documents[1]",
        ),
        (
            "/rerank",
            json!({"query": "q", "documents": ["d", long], "truncation": false}),
            "documents[1]",
        ),
        (
            "/voyage/rerank",
            json!({"query": "q", "documents": ["d", long], "truncation": false}),
            "documents[1]",
        ),
        (
            "/tei/rerank",
            json!({"query": "q", "texts": ["d", long], "truncate": false}),
            "texts[1]",
        ),
        (
            "/pinecone/rerank",
            json!({"query": "q", "documents": [long], "parameters": {"truncate": "NONE"}}),
            "documents[0]",
        ),
        (
            "/rerank",
            json!({"query": "q", "passage": long, "truncation": "none"}),
            "passage",
        ),
    ] {
        let (status, error) = rerank(&router, path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{error}");
        let message = error.to_string();
        assert!(
            message.contains(field) && message.contains("the limit is 100"),
            "{path}: {error}"
        );
    }
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
async fn texts_come_in_several_forms() {
    let (router, _) = loaded().await;
    let parts = |text: &str| json!({"content": [{"type": "text", "text": text}]});
    let plain = |path: &'static str| {
        let body = json!({"query": QUERY, "documents": [DOCUMENTS[2]]});
        let router = &router;
        async move { ok(router, path, body).await["results"][0]["relevance_score"].clone() }
    };
    for (path, query, documents) in [
        ("/v1/rerank", json!({"text": QUERY}), json!([DOCUMENTS[2]])),
        (
            "/jina/v1/rerank",
            json!({"text": QUERY}),
            json!([{"text": DOCUMENTS[2]}]),
        ),
        ("/vllm/rerank", json!(QUERY), parts(DOCUMENTS[2])),
        ("/vllm/rerank", parts(QUERY), json!([parts(DOCUMENTS[2])])),
        ("/rerank", json!(QUERY), json!(DOCUMENTS[2])),
        (
            "/cohere/v1/rerank",
            json!(QUERY),
            json!({"text": DOCUMENTS[2]}),
        ),
    ] {
        let body = json!({"query": query, "documents": documents});
        let answer = ok(&router, path, body.clone()).await;
        let score = &answer["results"][0]["relevance_score"];
        assert_eq!(*score, plain(path).await, "{path}: {body}");
    }
    let expected = plain("/rerank").await;
    for (path, body, list) in [
        (
            "/score",
            json!({"queries": {"text": QUERY}, "documents": parts(DOCUMENTS[2])}),
            "data",
        ),
        (
            "/score",
            json!({"text_1": QUERY, "text_2": [parts(DOCUMENTS[2])]}),
            "data",
        ),
        (
            "/mixedbread/reranking",
            json!({"query": {"text": QUERY}, "input": DOCUMENTS[2]}),
            "data",
        ),
        (
            "/azure/inference/semanticReranking",
            json!({"query": QUERY, "documents": DOCUMENTS[2]}),
            "scores",
        ),
        (
            "/pinecone/rerank",
            json!({"query": QUERY, "documents": DOCUMENTS[2]}),
            "data",
        ),
    ] {
        let answer = ok(&router, path, body).await;
        assert_eq!(answer[list][0]["score"], expected, "{path}");
    }
    let answer = ok(
        &router,
        "/tei/rerank",
        json!({"query": QUERY, "texts": DOCUMENTS[2]}),
    )
    .await;
    assert_eq!(answer[0]["score"], expected);
    let image = json!({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}});
    for (path, body, says) in [
        (
            "/vllm/rerank",
            json!({"query": QUERY, "documents": [{"content": [{"type": "text", "text": "a"}, image]}]}),
            "documents[0].content[1] is an image, only texts can be scored",
        ),
        (
            "/jina/v1/rerank",
            json!({"query": QUERY, "documents": ["a", {"image": "https://a.example/b.png"}]}),
            "documents[1] is an image, only texts can be scored",
        ),
        (
            "/score",
            json!({"queries": {"content": [image]}, "documents": "a"}),
            "queries.content[0] is an image, only texts can be scored",
        ),
    ] {
        let (status, error) = rerank(&router, path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(error.to_string().contains(says), "{path}: {error}");
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
async fn paths_of_other_services_are_served() {
    let (router, _) = loaded().await;
    let documents = json!({"query": QUERY, "documents": DOCUMENTS, "top_n": 2, "api_version": 2});
    let expected = ok(&router, "/v2/rerank", documents.clone()).await["results"].clone();
    for path in [
        "/model/cohere.rerank-v3-5:0/invoke",
        "/model/amazon.rerank-v1%3A0/invoke",
        "/bedrock/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A%3Afoundation-model%2Fcohere.rerank-v3-5%3A0/invoke",
        "/v2/rerank/",
        "//v2//rerank",
        "/api//v2/rerank/",
    ] {
        let answer = ok(&router, path, documents.clone()).await;
        assert_eq!(answer["results"], expected, "{path}");
    }
    let (head, body) = send(&router, post("/model/anthropic.claude-v2/invoke", "{}")).await;
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        head.headers()["x-amzn-errortype"],
        "ResourceNotFoundException"
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|told| told.contains("none that ranks"))
    );

    // Both lists in one body: whose the path is decides.
    let both = json!({"query": QUERY, "documents": DOCUMENTS, "texts": DOCUMENTS});
    for (path, is_list) in [
        ("/rerank", true),
        ("/tei/rerank", true),
        ("/v1/rerank", false),
        ("/reranking", false),
        ("/v1/reranking", false),
        ("/cohere/v1/rerank", false),
    ] {
        let answer = ok(&router, path, both.clone()).await;
        assert_eq!(answer.is_array(), is_list, "{path}: {answer}");
    }
    let flag = json!({"query": QUERY, "documents": DOCUMENTS, "texts": true});
    assert!(ok(&router, "/rerank", flag).await["results"].is_array());

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
    let answer = ok(
        &router,
        "/invocations",
        json!({"query": QUERY, "texts": DOCUMENTS}),
    )
    .await;
    assert!(answer.is_array());
}

#[tokio::test]
async fn pairs_are_labelled() {
    let (router, _) = loaded().await;
    let (normal, raw) = (native(&router, true).await, native(&router, false).await);
    let label = |score: f64| json!([{"score": score, "label": "LABEL_0"}]);
    let named = json!({"text": QUERY, "text_pair": DOCUMENTS[0]});
    let listed = json!([QUERY, DOCUMENTS[2]]);
    for (inputs, expected) in [
        (named.clone(), label(normal[0])),
        (listed.clone(), label(normal[2])),
        (
            json!([named, listed]),
            json!([label(normal[0]), label(normal[2])]),
        ),
        (json!([listed]), json!([label(normal[2])])),
    ] {
        for path in ["/predict", "/tei/predict"] {
            let answer = ok(&router, path, json!({"inputs": inputs})).await;
            assert_eq!(answer, expected, "{path}: {inputs}");
        }
    }
    let logits = json!({"inputs": named, "raw_scores": true});
    assert_eq!(ok(&router, "/predict", logits).await, label(raw[0]));
    for (body, says) in [
        (json!({}), "inputs is missing"),
        (json!({"inputs": []}), "inputs is empty"),
        (
            json!({"inputs": [named, {"text": "q"}]}),
            "inputs[1].text_pair is missing",
        ),
        (
            json!({"inputs": ["q", " ", "x"]}),
            "inputs is a list of another length, expected a pair of texts",
        ),
        (json!({"inputs": [[" ", "d"]]}), "inputs[0].text is empty"),
        (
            json!({"inputs": [[7, "d"]]}),
            "is a number, expected a string",
        ),
        (
            json!({"inputs": "q"}),
            "inputs is a string, expected a pair of texts",
        ),
        (
            json!({"inputs": 7}),
            "inputs is a number, expected a pair of texts",
        ),
    ] {
        let (status, error) = rerank(&router, "/predict", body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {error}");
        let told = error["error"].as_str().expect("a message");
        assert!(told.contains(says), "{body}: {told}");
    }
}

#[tokio::test]
async fn what_was_meant_is_told() {
    let (router, _) = loaded().await;
    for (path, body, says) in [
        (
            "/rerank",
            json!({"query": "q", "passages": ["a"]}),
            "the body has passages: did you mean passage (one) or documents (many)?",
        ),
        (
            "/rerank/batch",
            json!({"query": "q", "passages": ["a"]}),
            "pairs is missing: the body has passages, did you mean passage (one) or documents (many)?",
        ),
        (
            "/rerank/batch",
            json!({"query": "q", "documents": ["a"]}),
            "pairs is missing: a body like this belongs to /rerank",
        ),
        (
            "/v2/rerank",
            json!({"query": "q", "texts": ["a"]}),
            "documents is missing: a body like this belongs to /rerank",
        ),
        (
            "/tei/rerank",
            json!({"query": "q", "pairs": []}),
            "texts is missing: a body like this belongs to /rerank/batch",
        ),
        (
            "/v2/rerank",
            json!({"documents": ["a"]}),
            "query is missing",
        ),
    ] {
        let (status, error) = rerank(&router, path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {error}");
        let found = error["message"].as_str().or(error["error"].as_str());
        assert_eq!(found, Some(says), "{path}: {error}");
    }
    for (path, body, ignored) in [
        (
            "/rerank",
            json!({"query": "q", "passage": "p", "normalise": false}),
            Some("normalise (normalize?)"),
        ),
        (
            "/v1/rerank",
            json!({"query": "q", "documents": ["d"], "topn": 1, "return_document": true}),
            Some("return_document (return_documents?), topn (top_n?)"),
        ),
        (
            "/tei/rerank",
            json!({"query": "q", "texts": ["d"], "raw_score": true}),
            Some("raw_score (raw_scores?)"),
        ),
        (
            "/estimate",
            json!({"query": "q", "passage": "p", "maxlength": 8}),
            Some("maxlength (max_length?)"),
        ),
        (
            "/rerank",
            json!({"query": "q", "passage": "p", "user": "u", "top_n": 1}),
            None,
        ),
        (
            "/azure/inference/semanticReranking",
            json!({"query": "q", "documents": ["d"], "batch_size": 7, "top_k": 1}),
            None,
        ),
    ] {
        let (head, _) = send(&router, post(path, body.to_string())).await;
        let told = head.headers().get("x-ignored-fields");
        let told = told.map(|told| told.to_str().expect("text"));
        assert_eq!((head.status(), told), (StatusCode::OK, ignored), "{path}");
    }
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
    let mut plain = post("/rerank", "query=q");
    plain.headers_mut().insert(
        header::CONTENT_TYPE,
        "application/x-www-form-urlencoded"
            .parse()
            .expect("a value"),
    );
    let (status, error) = ask(&router, plain).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|told| told.contains("-H 'content-type: application/json'"))
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
async fn the_least_score_leaves_results_out() {
    let (router, _) = loaded().await;
    let scores = native(&router, true).await;
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let least = (sorted[1] + sorted[2]) / 2.0;
    let wanted = scores.iter().filter(|&&score| score >= least).count();
    for (path, list) in [
        ("/rerank", "documents"),
        ("/rerank", "texts"),
        ("/v1/reranking", "input"),
    ] {
        let mut body = json!({"query": QUERY, "min_score": least});
        body[list] = DOCUMENTS.as_slice().into();
        let answer = ok(&router, path, body).await;
        let items = match list {
            "documents" => &answer["results"],
            "texts" => &answer,
            _ => &answer["data"],
        };
        assert_eq!(items.as_array().map(Vec::len), Some(wanted), "{list}");
    }
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
