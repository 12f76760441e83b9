//! The compiled tokenizers against Hugging Face's crate, on any text: the same ids, and the same cut and joined pairs.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use reranker::rerank::Truncation;
use reranker::tokenizer::{Compilation, PairTokenizer, compile};

struct Both {
    reference: PairTokenizer,
    compiled: PairTokenizer,
}

static BOTH: LazyLock<[Both; 3]> = LazyLock::new(|| {
    let golden = |name| format!("{}/../tests/golden/{name}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    let demo = format!("{}/../models/demo/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    [golden("xlm-roberta"), golden("bert"), demo].map(|file| {
        let path = Path::new(&file);
        let json = std::fs::read(path).expect("a tokenizer of the tests");
        let Compilation::Compiled(bytes) = compile(&json).expect("a tokenizer file") else {
            panic!("{file} is not compiled");
        };
        Both {
            reference: PairTokenizer::from_json(&json, path).expect("Hugging Face reads it"),
            compiled: PairTokenizer::from_compiled(bytes.into(), path).expect("its compiled form"),
        }
    })
});

fuzz_target!(|text: &str| {
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
