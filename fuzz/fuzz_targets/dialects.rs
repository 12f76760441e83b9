//! Every dialect's way in and out: a body is read or refused in its own words, and whatever was read is answered in its own shape.
//! The first byte says whose it is; 0 and what is beyond the last leave that to the body, as the shared paths do.
#![no_main]

#[path = "../../tests/reading/memory.rs"]
mod memory;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use reranker_json as json;
use serde_json::Value;
use reranker_dialects::{About, Dialect, Failure, Fields, Named, Names, Sender, Shape, azure, bedrock, cohere, common, infinity, jina, llama_cpp, mixedbread, native, pinecone, tei, vllm, voyage};
use reranker_domain::{Code, Field, Limits, Ranking, Refusal, Request, Score, Sentence};
use reranker_engine::tokenizer::sentences;

const LIMITS: Limits = Limits {
    pairs: 40,
    text_chars: 300,
};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// What reading takes whatever the length: lists of as many pairs as there may be, an error's text.
const CONSTANT_BYTES: usize = 64 << 10;
const CONSTANT_CALLS: usize = 2000;

fuzz_target!(|data: &[u8]| {
    let Some((&whose, body)) = data.split_first() else {
        return;
    };
    match whose {
        1 => through::<azure::Azure>(body),
        2 => through::<bedrock::Bedrock>(body),
        3 => through::<cohere::V1>(body),
        4 => through::<cohere::V2>(body),
        5 => through::<common::Common>(body),
        6 => through::<infinity::Infinity>(body),
        7 => through::<jina::Jina>(body),
        8 => through::<llama_cpp::LlamaCpp>(body),
        9 => through::<mixedbread::Mixedbread>(body),
        10 => through::<native::One>(body),
        11 => through::<native::Batch>(body),
        12 => through::<pinecone::Pinecone>(body),
        13 => through::<tei::Tei>(body),
        14 => through::<vllm::Rerank>(body),
        15 => through::<vllm::Score>(body),
        16 => through::<voyage::Voyage>(body),
        other => shown(body, other == u8::MAX),
    }
});

fn shown(body: &[u8], of_pinecone: bool) {
    let Ok(fields) = json::parse::<Fields>(&json::mended(body)) else {
        return;
    };
    let sender = Sender {
        of_pinecone,
        of_tei: body.len().is_multiple_of(2),
    };
    match fields.shape(sender) {
        Ok(Shape::Native) => through::<native::One>(body),
        Ok(Shape::NativeBatch) => through::<native::Batch>(body),
        Ok(Shape::Tei) => through::<tei::Tei>(body),
        Ok(Shape::Bedrock) => through::<bedrock::Bedrock>(body),
        Ok(Shape::Pinecone) => through::<pinecone::Pinecone>(body),
        Ok(Shape::Common) => through::<common::Common>(body),
        Ok(Shape::Mixedbread) => through::<mixedbread::Mixedbread>(body),
        Ok(Shape::VllmScore) => through::<vllm::Score>(body),
        Err(refusal) => assert_eq!(refusal.code, Code::UnknownShape),
    }
}

fn through<D: Dialect>(body: &[u8]) {
    let before = memory::start();
    let text = json::mended(body);
    let mut names = Names::USUAL;
    let read = json::parse(&text).and_then(|body: D::Body| {
        names = body.names();
        D::read(body, &LIMITS)
    });
    let used = before.used();
    assert!(
        used.peak <= 8 * body.len() + CONSTANT_BYTES,
        "{used:?} for {} bytes",
        body.len()
    );
    assert!(
        used.calls <= 4 * body.len() + CONSTANT_CALLS,
        "{used:?} for {} bytes",
        body.len()
    );
    match read {
        Ok((request, kept)) => {
            check(&request);
            let last = Field::Document(request.pairs.len() - 1);
            assert!(!names.name(&last).is_empty());
            let answer = D::answer(kept, &ranking(&request), &about());
            let json = serde_json::to_vec(&answer).expect("an answer is JSON");
            let value: Value = serde_json::from_slice(&json).expect("JSON is read again");
            places(&value, request.pairs.len());
        }
        Err(refusal) => refuse::<D>(refusal, names),
    }
}

/// What the limits promise of whatever got through.
fn check(request: &Request) {
    assert!((1..=LIMITS.pairs).contains(&request.pairs.len()));
    for pair in &request.pairs {
        assert!(!pair.query.trim().is_empty());
        for text in [&pair.query, &pair.document] {
            assert!(text.chars().count() <= LIMITS.text_chars);
        }
    }
}

/// Scores with ties, extremes and every kind of zero, as a model might give them.
fn ranking(request: &Request) -> Ranking {
    const LOGITS: [f32; 7] = [0.5, -0.0, f32::MAX, 0.0, -3.25, f32::MIN, 1e-40];
    let logit = |i: usize| LOGITS[i % LOGITS.len()];
    let spans = |text: &str| {
        let spans = sentences(text).into_iter().enumerate();
        let spans = spans.map(|(i, bytes)| Sentence {
            chars: text[..bytes.start].chars().count()..text[..bytes.end].chars().count(),
            bytes,
            logit: logit(i),
        });
        spans.collect()
    };
    let score = |(i, pair): (usize, &reranker_domain::Pair)| Score {
        logit: logit(i),
        tokens: 4 + pair.document.len() / 4,
        dropped_tokens: i % 3,
        chunks: 1 + i % 2,
        sentences: if request.sentences {
            spans(&pair.document)
        } else {
            Vec::new()
        },
    };
    Ranking {
        scores: request.pairs.iter().enumerate().map(score).collect(),
        tokenized: Duration::from_micros(7),
        queued: Duration::ZERO,
        computed: Duration::from_millis(3),
        cache_lookups: 2,
        cache_hits: 1,
    }
}

fn about() -> About {
    About {
        model: "fuzzed".into(),
        revision: None,
        id: "id".into(),
        created: 1_700_000_000,
        ms: 1.5,
    }
}

/// No result may point at a pair that there is not.
fn places(value: &Value, pairs: usize) {
    let Some(object) = value.as_object() else {
        return;
    };
    for list in ["results", "data"] {
        for item in object
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if let Some(index) = item.get("index").and_then(Value::as_u64) {
                assert!(index < pairs as u64, "{index} of {pairs}");
            }
        }
    }
}

fn refuse<D: Dialect>(refusal: Refusal, names: Names) {
    let failure = Failure {
        refusal,
        names,
        status: 422,
        routes: Vec::new(),
    };
    assert!(!failure.message().is_empty());
    assert!(failure.field().is_none_or(|field| !field.is_empty()));
    let json = serde_json::to_vec(&D::error(&failure)).expect("an error is JSON");
    serde_json::from_slice::<Value>(&json).expect("JSON is read again");
    D::error_type(&failure);
}
