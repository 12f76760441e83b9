//! The compiled tokenizers against Hugging Face's crate, on any text: the same ids, and the same cut and joined pairs.
//! Beside the models' own, the forms that LLaMA's and MPNet's tokenizers have.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use reranker_domain::Truncation;
use reranker_engine::tokenizer::{Compilation, PairTokenizer, compile};

#[path = "../src/files.rs"]
mod files;

struct Both {
    reference: PairTokenizer,
    compiled: PairTokenizer,
}

impl Both {
    fn new(file: &str, json: &[u8], compiled: Vec<u8>) -> Self {
        let path = files::root().join(file);
        let compiled = PairTokenizer::from_compiled(compiled.into(), &path);
        Self {
            reference: PairTokenizer::from_json(json, &path).expect("Hugging Face reads it"),
            compiled: compiled.expect("its compiled form"),
        }
    }

    /// Of a model's file with a change made to it.
    fn changed(file: &str, change: fn(&mut Value)) -> Self {
        let mut json = serde_json::from_slice(&read(file)).expect("JSON");
        change(&mut json);
        let json = serde_json::to_vec(&json).expect("JSON");
        match compile(&json).expect("a tokenizer file") {
            Compilation::Compiled(bytes) => Self::new(file, &json, bytes),
            Compilation::Refused(reason) => panic!("{reason}"),
        }
    }
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(files::root().join(file)).expect("a tokenizer of the tests")
}

static BOTH: LazyLock<Vec<Both>> = LazyLock::new(|| {
    let own =
        files::TOKENIZERS.map(|(name, file)| Both::new(file, &read(file), files::compiled(name)));
    let [_, (_, xlm_roberta), (_, bert), _] = files::TOKENIZERS;
    let as_llama = Both::changed(xlm_roberta, |json| {
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        json["model"]["byte_fallback"] = true.into();
        let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
        pieces.extend((0..=255).map(|byte: u8| json!([format!("<0x{byte:02X}>"), -30.0])));
    });
    let as_mpnet = Both::changed(bert, |json| {
        let tokens = json["added_tokens"].as_array_mut().expect("a list");
        for (token, content) in tokens
            .iter_mut()
            .zip(["<pad>", "<unk>", "<s>", "</s>", "<mask>"])
        {
            token["content"] = content.into();
            token["lstrip"] = (content == "<mask>").into();
        }
    });
    own.into_iter().chain([as_llama, as_mpnet]).collect()
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
