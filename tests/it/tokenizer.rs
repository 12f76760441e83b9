//! The compiled tokenizer against Hugging Face's crate: the same ids for odd texts, no panic for damaged bytes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use reranker_domain::Truncation;
use reranker_engine::tokenizer::{Compilation, PairTokenizer, compile};
use serde_json::{Value, json};

use crate::support::texts::Texts;

const XLM_ROBERTA: &str = "tests/golden/xlm-roberta/tokenizer.json";
const BERT: &str = "tests/golden/bert/tokenizer.json";
const SMALL_ROBERTA: &str = "tests/golden/roberta/tokenizer.json";
const ROBERTA: &str = "tests/golden/tokenizers/roberta.json";
const MODERN_BERT: &str = "tests/golden/tokenizers/modernbert.json";
const DEMO: &str = "models/demo/tokenizer.json";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn json_of(file: &str) -> Vec<u8> {
    std::fs::read(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The file's content with a change made to it.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(&json_of(file)).expect("JSON");
    change(&mut json);
    serde_json::to_vec(&json).expect("JSON")
}

fn compiled_bytes(json: &[u8]) -> Vec<u8> {
    match compile(json).expect("a tokenizer file") {
        Compilation::Compiled(bytes) => bytes,
        Compilation::Refused(reason) => panic!("refused: {reason}"),
    }
}

fn open(bytes: Vec<u8>) -> PairTokenizer {
    PairTokenizer::from_compiled(bytes.into(), Path::new("compiled")).expect("opens")
}

/// Compares both forms on `count` texts and on pairs of them.
fn compare(name: &str, json: &[u8], count: usize) {
    let oracle = PairTokenizer::from_json(json, Path::new(name)).expect("Hugging Face reads it");
    let ours = open(compiled_bytes(json));
    assert_eq!(ours.id_bound(), oracle.id_bound(), "{name}");
    assert_eq!(ours.special_tokens(), oracle.special_tokens(), "{name}");
    assert_eq!(ours.min_length(), oracle.min_length(), "{name}");
    let mut texts = Texts::new(name.bytes().map(u64::from).sum());
    let mut before = oracle.encode("").expect("encodes");
    let mut tokens = 0;
    for round in 0..count {
        let text = texts.next().expect("endless");
        let expected = oracle.encode(&text).expect("encodes");
        let encoded = ours.encode(&text).expect("encodes");
        assert_eq!(encoded.ids(), expected.ids(), "{name}: {text:?}");
        tokens += expected.tokens();
        let rule = [Truncation::LongestFirst, Truncation::Flag][round % 2];
        let max_length = texts.below(100);
        let expected = oracle
            .join(&before, &expected, max_length, rule)
            .expect("joins");
        let joined = ours
            .join(&before, &encoded, max_length, rule)
            .expect("joins");
        assert_eq!(joined, expected, "{name}: {max_length} tokens, {rule}");
        before = encoded;
    }
    assert!(
        tokens > 3 * count,
        "{name}: only {tokens} tokens from {count} texts"
    );
}

#[test]
fn the_unigram_fixture_gives_hugging_faces_ids() {
    compare(XLM_ROBERTA, &json_of(XLM_ROBERTA), 3000);
}

#[test]
fn the_wordpiece_tokenizers_give_hugging_faces_ids() {
    compare(DEMO, &json_of(DEMO), 3000);
    compare(BERT, &json_of(BERT), 1000);
}

#[test]
fn the_byte_level_tokenizers_give_hugging_faces_ids() {
    compare(MODERN_BERT, &json_of(MODERN_BERT), 3000);
    compare(ROBERTA, &json_of(ROBERTA), 3000);
    compare(SMALL_ROBERTA, &json_of(SMALL_ROBERTA), 1000);
}

#[test]
fn other_settings_of_a_byte_level_tokenizer_give_hugging_faces_ids() {
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        compare(name, &changed(MODERN_BERT, change), 700);
    };
    change("a space before the text", &|json| {
        json["pre_tokenizer"]["add_prefix_space"] = true.into();
    });
    change("no words", &|json| {
        json["pre_tokenizer"]["use_regex"] = false.into();
    });
    change(
        "no words, a space before the text, offsets as they are",
        &|json| {
            json["pre_tokenizer"] = json!({
                "type": "Sequence", "pretokenizers": [
                    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": false},
                ],
            });
        },
    );
    change(
        "an older ByteLevel, which does not tell of words",
        &|json| {
            json["pre_tokenizer"] =
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
        },
    );
    change("no normaliser", &|json| json["normalizer"] = Value::Null);
    change("every step of normalisation", &|json| {
        // Stripped, all of these were the same.
        for token in json["added_tokens"].as_array_mut().expect("a list") {
            token["normalized"] = false.into();
        }
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": true, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{301} "},
            {"type": "Replace", "pattern": {"String": "e"}, "content": "e\u{301}"},
            {"type": "Prepend", "prepend": "\u{308}a"},
            {"type": "NFC"},
        ]});
    });
    change("words of the vocabulary whatever the merges", &|json| {
        json["model"]["ignore_merges"] = true.into();
        let merges = json["model"]["merges"].as_array_mut().expect("a list");
        *merges = merges.iter().step_by(3).cloned().collect();
        let words = json["model"]["vocab"].as_object_mut().expect("a map");
        // A zero byte, and an entry that is no UTF-8.
        for (word, replaced) in [("Ā", "ĀĀ"), ("Retrieval", "ĠRet"), ("Ã©t", "Ãa")] {
            let id = words.len();
            words.insert(format!("{word}{replaced}"), id.into());
            words.insert(format!("Ġ{word}"), (id + 1).into());
        }
    });
    change("fewer merges than the vocabulary needs", &|json| {
        let merges = json["model"]["merges"].as_array_mut().expect("a list");
        *merges = merges.iter().step_by(3).cloned().collect();
    });
    change("merges in another order, some twice", &|json| {
        let merges = json["model"]["merges"].as_array_mut().expect("a list");
        merges.reverse();
        let doubled: Vec<Value> = merges.iter().step_by(5).cloned().collect();
        merges.extend(doubled);
    });
    change("merges as lines", &|json| {
        let merges = json["model"]["merges"].as_array_mut().expect("a list");
        for merge in merges.iter_mut() {
            *merge = format!(
                "{} {}",
                merge[0].as_str().unwrap(),
                merge[1].as_str().unwrap()
            )
            .into();
        }
        merges.insert(0, "#version: 0.2".into());
    });
    change("empty texts around pieces, and nulls", &|json| {
        json["model"]["continuing_subword_prefix"] = "".into();
        json["model"]["end_of_word_suffix"] = "".into();
        json["model"]["fuse_unk"] = Value::Null;
        json["model"]["byte_fallback"] = Value::Null;
        json["model"]["ignore_merges"] = Value::Null;
        json["model"]["unk_token"] = "[UNK]".into();
    });
    change(
        "unknown bytes that the whole alphabet never leads to",
        &|json| {
            json["model"]["byte_fallback"] = true.into();
            json["model"]["unk_token"] = "|||IP_ADDRESS|||".into();
            json["model"]["fuse_unk"] = true.into();
        },
    );
    change("two post-processors", &|json| {
        let template = json["post_processor"].take();
        json["post_processor"] = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            template,
        ]});
    });
    change("added tokens of every kind", &|json| {
        let tokens = json["added_tokens"].as_array_mut().expect("a list");
        for (content, left, right, whole, normalized) in [
            ("day", false, false, true, false),
            ("Day", true, true, true, true),
            ("the", true, false, true, true),
            ("中", false, false, true, false),
            ("_", false, true, true, false),
            ("e\u{301}tude", false, true, false, true),
            ("na\u{ef}ve", false, false, true, true),
            ("...", true, true, false, false),
            ("\u{301}", false, false, true, false),
        ] {
            tokens.push(json!({
                "id": 0, "content": content, "single_word": whole, "lstrip": left, "rstrip": right,
                "normalized": normalized, "special": false,
            }));
        }
    });
}

/// A byte-level tokenizer of a few letters.
fn few_letters(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let tokens = [
        "[CLS]", "[SEP]", "[UNK]", "t", "h", "e", "a", "Ġ", "Ã", "th", "the", "Ġa", "ea",
    ];
    let ids: serde_json::Map<String, Value> = (0..)
        .zip(tokens)
        .map(|(id, token)| (token.into(), id.into()))
        .collect();
    let mut json = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0], "trim_offsets": true, "add_prefix_space": false},
        "model": {
            "type": "BPE", "vocab": ids,
            "merges": [["t", "h"], ["th", "e"], ["Ġ", "a"], ["e", "a"]],
        },
    });
    change(&mut json);
    serde_json::to_vec(&json).expect("JSON")
}

#[test]
fn bytes_that_have_no_entry_are_dropped_or_unknown() {
    let unknown = |fuse: bool| {
        few_letters(|json| {
            json["model"]["unk_token"] = "[UNK]".into();
            json["model"]["fuse_unk"] = fuse.into();
        })
    };
    for (name, json, expected) in [
        ("dropped", few_letters(|_| {}), vec![10, 10, 11, 8, 12]),
        ("unknown", unknown(false), vec![10, 2, 2, 10, 11, 8, 2, 12]),
        (
            "unknown as one",
            unknown(true),
            vec![10, 2, 10, 11, 8, 2, 12],
        ),
    ] {
        compare(name, &json, 1000);
        let ids = open(compiled_bytes(&json))
            .encode("thexxthe a\u{e9}ea")
            .expect("encodes");
        assert_eq!(ids.ids(), expected, "{name}");
    }
}

#[test]
fn other_settings_of_a_unigram_tokenizer_give_hugging_faces_ids() {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let sequence =
        json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]});
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        compare(name, &changed(XLM_ROBERTA, change), 700);
    };
    change("words first", &|json| {
        json["pre_tokenizer"] = sequence.clone()
    });
    change("words first, SentencePiece's rules alone", &|json| {
        json["pre_tokenizer"] = sequence.clone();
        json["normalizer"] = json["normalizer"]["normalizers"][0].take();
    });
    change("no normaliser", &|json| json["normalizer"] = Value::Null);
    change("no prefix", &|json| {
        json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
    });
    for split in [true, false] {
        change("a prefix for the first piece alone", &|json| {
            json["normalizer"] = Value::Null;
            json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": split});
            json["added_tokens"][4]["normalized"] = split.into();
        });
    }
    change(
        "no pre-tokenizer, marks and bytes as LLaMA has them",
        &|json| {
            json["pre_tokenizer"] = Value::Null;
            json["normalizer"] = json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]});
            json["model"]["byte_fallback"] = true.into();
            let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
            pieces.extend((0..=255).map(|byte: u8| json!([format!("<0x{byte:02X}>"), -30.0])));
        },
    );
    change("one piece", &|json| {
        json["pre_tokenizer"]["split"] = false.into()
    });
    change("another replacement", &|json| {
        json["pre_tokenizer"]["replacement"] = "_".into()
    });
    change("texts replaced, both ends stripped", &|json| {
        json["normalizer"]["normalizers"][1]["strip_left"] = true.into();
        let steps = json["normalizer"]["normalizers"]
            .as_array_mut()
            .expect("a list");
        steps.insert(
            0,
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "the "}),
        );
        steps.push(json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}));
    });
    change("scores that need f64", &|json| {
        for piece in json["model"]["vocab"].as_array_mut().expect("a list") {
            piece[1] = (piece[1].as_f64().expect("a score") * 1.000_000_1).into();
        }
    });
    change("equal scores everywhere", &|json| {
        for piece in json["model"]["vocab"].as_array_mut().expect("a list") {
            piece[1] = json!(-1.0);
        }
    });
    change("pieces that stand twice", &|json| {
        let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
        let doubled: Vec<Value> = pieces.iter().skip(5).step_by(7).cloned().collect();
        pieces.extend(doubled);
    });
    change("unknown tokens as a piece", &|json| {
        let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
        pieces.push(json!(["<unk><unk>", -3.0]));
    });
    change("unknown characters as bytes", &|json| {
        json["model"]["byte_fallback"] = true.into();
        let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
        pieces.extend((0..=255).map(|byte: u8| json!([format!("<0x{byte:02X}>"), -30.0])));
    });
    change(
        "unknown characters as bytes, of which some are missing",
        &|json| {
            json["model"]["byte_fallback"] = true.into();
            let pieces = json["model"]["vocab"].as_array_mut().expect("a list");
            pieces.extend((128..250).map(|byte: u8| json!([format!("<0x{byte:02X}>"), -30.0])));
        },
    );
    change("the normal form C and a text before each part", &|json| {
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Prepend", "prepend": "▁"},
        ]});
    });
    change("added tokens matched in normalised text", &|json| {
        let tokens = json["added_tokens"].as_array_mut().expect("a list");
        for (content, left, right) in [
            ("Day", false, false),
            ("ｄay", true, true),
            ("½", false, true),
            ("the", true, false),
        ] {
            tokens.push(json!({
                "id": 0, "content": content, "single_word": false, "lstrip": left, "rstrip": right,
                "normalized": content != "Day", "special": false,
            }));
        }
        tokens[4]["rstrip"] = true.into();
        tokens[0]["lstrip"] = true.into();
    });
}

#[test]
fn other_settings_of_a_wordpiece_tokenizer_give_hugging_faces_ids() {
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        compare(name, &changed(DEMO, change), 700);
    };
    change("cased", &|json| {
        json["normalizer"]["lowercase"] = false.into()
    });
    change("cased without accents", &|json| {
        json["normalizer"]["lowercase"] = false.into();
        json["normalizer"]["strip_accents"] = true.into();
    });
    change(
        "lower case with accents, text as it is, Chinese as words",
        &|json| {
            json["normalizer"]["strip_accents"] = false.into();
            json["normalizer"]["clean_text"] = false.into();
            json["normalizer"]["handle_chinese_chars"] = false.into();
        },
    );
    change("BertProcessing, short words, another prefix", &|json| {
        json["post_processor"] =
            json!({"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]});
        json["model"]["max_input_chars_per_word"] = 6.into();
        json["model"]["continuing_subword_prefix"] = "a".into();
    });
    change("MPNet's marks", &|json| {
        let tokens = json["added_tokens"].as_array_mut().expect("a list");
        for (token, content) in tokens
            .iter_mut()
            .zip(["<pad>", "<unk>", "<s>", "</s>", "<mask>"])
        {
            token["content"] = content.into();
            token["lstrip"] = (content == "<mask>").into();
        }
        json["post_processor"] = json!({
            "type": "RobertaProcessing", "sep": ["</s>", 102], "cls": ["<s>", 101],
            "trim_offsets": true, "add_prefix_space": false,
        });
    });
    change("RobertaProcessing, no prefix, an added token", &|json| {
        json["post_processor"] = json!({
            "type": "RobertaProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101],
            "trim_offsets": true, "add_prefix_space": true,
        });
        json["model"]["continuing_subword_prefix"] = "".into();
        json["added_tokens"].as_array_mut().expect("a list").push(json!({
            "id": 30522, "content": "[day]", "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": false, "special": true,
        }));
    });
}

#[test]
fn marks_that_survive_are_brought_into_canonical_order() {
    let json = changed(BERT, |json| {
        let words = json["model"]["vocab"].as_object_mut().expect("a map");
        for mark in ['\u{1b44}', '\u{1d165}', '\u{1d16d}'] {
            words.insert(format!("##{mark}"), words.len().into());
        }
    });
    let oracle = PairTokenizer::from_json(&json, &path(BERT)).expect("reads");
    let ours = open(compiled_bytes(&json));
    let expected = oracle
        .encode("a\u{1d16d}\u{301}\u{1d165}\u{1b44}")
        .expect("encodes");
    let sorted = oracle
        .encode("a\u{1b44}\u{1d165}\u{1d16d}")
        .expect("encodes");
    assert_eq!((expected.tokens(), &expected), (4, &sorted));
    for text in [
        "a\u{1d16d}\u{301}\u{1d165}\u{1b44}",
        "A\u{1d165}\u{34f}\u{1b44} 中\u{1d16d}\u{1b44}",
    ] {
        assert_eq!(
            ours.encode(text).expect("encodes"),
            oracle.encode(text).expect("encodes"),
            "{text:?}"
        );
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    for file in [XLM_ROBERTA, BERT, MODERN_BERT] {
        let json = json_of(file);
        assert!(compiled_bytes(&json) == compiled_bytes(&json), "{file}");
    }
}

#[test]
fn what_has_no_equal_is_refused_with_the_reason() {
    let refusal = |json: &[u8]| match compile(json).expect("a tokenizer file") {
        Compilation::Refused(reason) => reason,
        Compilation::Compiled(_) => panic!("was compiled"),
    };
    let unigram = |change: &dyn Fn(&mut Value)| refusal(&changed(XLM_ROBERTA, change));
    let bert = |change: &dyn Fn(&mut Value)| refusal(&changed(BERT, change));
    let bpe = |change: &dyn Fn(&mut Value)| refusal(&changed(MODERN_BERT, change));
    assert_eq!(
        unigram(&|json| json["model"]["type"] = "WordLevel".into()),
        "a model of type \"WordLevel\""
    );
    let split = json!({"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": false});
    assert_eq!(
        bpe(&|json| {
            let byte_level = json["pre_tokenizer"].take();
            json["pre_tokenizer"] =
                json!({"type": "Sequence", "pretokenizers": [split, byte_level]});
        }),
        "a sequence of pre-tokenizers for a BPE model"
    );
    assert_eq!(
        bpe(&|json| {
            json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        }),
        "a pre-tokenizer other than ByteLevel for a BPE model"
    );
    assert_eq!(
        bpe(&|json| json["model"]["continuing_subword_prefix"] = "##".into()),
        "the text \"##\" before pieces that continue a word"
    );
    assert_eq!(
        bpe(&|json| json["model"]["end_of_word_suffix"] = "</w>".into()),
        "the text \"</w>\" behind the last piece of a word"
    );
    assert_eq!(
        bpe(&|json| json["normalizer"] = json!({"type": "Lowercase"})),
        "the normalizer \"Lowercase\" for a model other than WordPiece"
    );
    assert_eq!(
        bpe(&|json| json["model"]["vocab"]["the"] = 7.into()),
        "two entries with the id 7"
    );
    assert_eq!(
        refusal(&few_letters(
            |json| json["model"]["byte_fallback"] = true.into()
        )),
        "unknown characters as bytes"
    );
    assert_eq!(
        refusal(&few_letters(
            |json| json["model"]["unk_token"] = "<unk>".into()
        )),
        "an unknown token that is not in the vocabulary"
    );
    assert_eq!(
        unigram(&|json| json["model"]["unk_id"] = Value::Null),
        "no unknown token"
    );
    assert_eq!(
        unigram(&|json| json["pre_tokenizer"]["prepend_scheme"] = "first".into()),
        "a prefix for the first piece alone of a text that is normalised"
    );
    let words = json!({"type": "WhitespaceSplit"});
    assert_eq!(
        unigram(&|json| {
            let mut metaspace = json["pre_tokenizer"].take();
            metaspace["prepend_scheme"] = "first".into();
            json["pre_tokenizer"] =
                json!({"type": "Sequence", "pretokenizers": [words, metaspace]});
        }),
        "a prefix for the first word alone"
    );
    assert_eq!(
        unigram(&|json| json["pre_tokenizer"] = json!({"type": "BertPreTokenizer"})),
        "a pre-tokenizer other than Metaspace"
    );
    assert_eq!(
        unigram(&|json| json["normalizer"] = json!({"type": "NFKC"})),
        "the normalizer \"NFKC\" for a model other than WordPiece"
    );
    assert_eq!(
        unigram(&|json| json["normalizer"]["normalizers"][2]["pattern"] = json!({"Regex": "a+"})),
        "replacing the pattern {\"Regex\":\"a+\"}"
    );
    assert_eq!(
        unigram(&|json| json["added_tokens"][4]["single_word"] = true.into()),
        "the added token \"<mask>\", which is for whole words only"
    );
    assert_eq!(
        unigram(&|json| json["post_processor"] = Value::Null),
        "no post-processor"
    );
    assert_eq!(
        unigram(&|json| json["model"]["vocab"][9][0] = "a\0".into()),
        "the vocabulary: a key is empty or holds a zero byte"
    );
    assert_eq!(
        bert(&|json| json["normalizer"] = json!({"type": "Lowercase"})),
        "a normalizer other than BertNormalizer for a WordPiece model"
    );
    assert_eq!(
        bert(&|json| json["model"]["unk_token"] = "[unknown]".into()),
        "an unknown token that is not in the vocabulary"
    );
    assert_eq!(
        bert(&|json| json["model"]["vocab"]["the"] = 100_000.into()),
        "the id 100000 in a vocabulary of 379"
    );
    let broken = compile(b"{}").expect_err("no tokenizer file").to_string();
    assert!(broken.contains("missing field `model`"), "{broken}");
}

#[test]
fn a_million_characters_without_a_space_take_linear_time() {
    // Anything quadratic would take hours.
    let unigram = open(compiled_bytes(&json_of(XLM_ROBERTA)));
    let bert = open(compiled_bytes(&json_of(BERT)));
    let modern_bert = open(compiled_bytes(&json_of(MODERN_BERT)));
    let one_word = open(compiled_bytes(&changed(MODERN_BERT, |json| {
        json["pre_tokenizer"]["use_regex"] = false.into();
    })));
    for unit in [
        "a",
        "é",
        "\u{301}",
        "中",
        "👩\u{200d}",
        "<",
        "▁",
        "  ",
        "\u{0}",
        "<mask>",
    ] {
        let text = unit.repeat(1_000_000 / unit.chars().count());
        for tokenizer in [&unigram, &bert, &modern_bert, &one_word] {
            let ids = tokenizer.encode(&text).expect("encodes");
            assert!(ids.tokens() <= text.len() + 1, "{unit:?}");
        }
    }
}

#[test]
fn long_runs_give_hugging_faces_ids() {
    for file in [XLM_ROBERTA, BERT, ROBERTA, MODERN_BERT] {
        let json = json_of(file);
        let oracle = PairTokenizer::from_json(&json, &path(file)).expect("reads");
        let ours = open(compiled_bytes(&json));
        for unit in [
            "a",
            "ab",
            "é",
            "e\u{301}",
            "中",
            "한",
            "👩\u{200d}",
            "<s",
            "▁",
            " ",
            "\r\n",
            "\u{94d}क",
        ] {
            let text = unit.repeat(20_000);
            let expected = oracle.encode(&text).expect("encodes");
            assert!(
                ours.encode(&text).expect("encodes") == expected,
                "{file}: {unit:?}"
            );
        }
    }
}

/// Opens what may be damaged and uses it: an error, or ids of the vocabulary.
fn try_damaged(bytes: Vec<u8>, texts: &[String]) -> bool {
    let Ok(tokenizer) = PairTokenizer::from_compiled(Bytes::from(bytes), Path::new("damaged"))
    else {
        return false;
    };
    for text in texts {
        let Ok(ids) = tokenizer.encode(text) else {
            continue;
        };
        assert!(
            ids.ids()
                .iter()
                .all(|&id| (id as usize) < tokenizer.id_bound())
        );
        let joined = tokenizer
            .join(&ids, &ids, 64, Truncation::LongestFirst)
            .expect("joins");
        assert!(joined.ids.len() <= 64.max(tokenizer.special_tokens()));
        assert_eq!(joined.ids.len(), joined.type_ids.len());
    }
    true
}

#[test]
fn every_truncation_is_refused() {
    for file in [XLM_ROBERTA, BERT, MODERN_BERT] {
        let whole = Bytes::from(compiled_bytes(&json_of(file)));
        for length in 0..whole.len() {
            let cut = PairTokenizer::from_compiled(whole.slice(..length), Path::new("cut"));
            assert!(cut.is_err(), "{file}: {length} of {} bytes", whole.len());
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    for file in [XLM_ROBERTA, BERT, MODERN_BERT] {
        let whole = compiled_bytes(&json_of(file));
        let mut random = Texts::new(3);
        let texts: Vec<String> = random.by_ref().take(8).collect();
        let (mut opened, rounds) = (0, 4000);
        for round in 0..rounds {
            let mut bytes = whole.clone();
            // The header and the small sections behind it decide most: half of the rounds damage nothing else.
            let reach = if round % 2 == 0 { bytes.len() } else { 1000 };
            for _ in 0..=random.below(if round % 3 == 0 { 2000 } else { 6 }) {
                // Behind the magic, the version and the length, which are compared as a whole.
                let at = 16 + random.below(reach - 16);
                bytes[at] = random.below(256) as u8;
            }
            opened += usize::from(try_damaged(bytes, &texts));
        }
        assert!(
            opened > rounds / 4 && opened < rounds,
            "{file}: {opened} of {rounds} opened"
        );
    }
}
