//! The compiled tokenizers against Hugging Face's crate, on any text: the same ids, and the same cut and joined pairs.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use reranker::rerank::Truncation;
use reranker::tokenizer::PairTokenizer;

#[path = "../src/files.rs"]
mod files;

struct Both {
    reference: PairTokenizer,
    compiled: PairTokenizer,
}

static BOTH: LazyLock<[Both; files::TOKENIZERS.len()]> = LazyLock::new(|| {
    files::TOKENIZERS.map(|(name, file)| {
        let path = files::root().join(file);
        let json = std::fs::read(&path).expect("a tokenizer of the tests");
        let bytes = files::compiled(name);
        Both {
            reference: PairTokenizer::from_json(&json, &path).expect("Hugging Face reads it"),
            compiled: PairTokenizer::from_compiled(bytes.into(), &path).expect("its compiled form"),
        }
    })
});

fuzz_target!(init: { LazyLock::force(&BOTH); }, |text: &str| {
    for Both {
        reference,
        compiled,
    } in BOTH.iter()
    {
        let expected = reference.encode(text).expect("encodes");
        let ids = compiled.encode(text).expect("encodes");
        assert_eq!(ids, expected, "{text:?}");
        let pair = |tokenizer: &PairTokenizer| {
            tokenizer.join(&ids, &ids, 24, Truncation::LongestFirst)
        };
        let joined = pair(compiled).expect("joins");
        assert_eq!(joined, pair(reference).expect("joins"));
        assert!(joined.ids.len() <= 24);
    }
});
