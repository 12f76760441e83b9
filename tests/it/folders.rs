//! Model folders: what decides ids and scores, what is refused, and what is said of what is there instead of a model. One table for
//! each kind. `tests/golden/folders.json` holds what transformers 4 and 5 make of a folder's tokenizer files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use reranker_domain::{Pair, Request, Truncation};
use reranker_engine::model::{ModelConfig, choose};
use reranker_engine::tokenizer::{Compilation, PairTokenizer, compile};
use reranker_engine::{Engine, Precision, Settings, folder_tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is done to a folder before it is looked at.
type Change = fn(&Path);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A copy of a golden model.
fn copy_of(base: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&golden(base), dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a golden model") {
        let path = entry.expect("an entry").path();
        let copied = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            std::fs::create_dir(&copied).expect("created");
            copy(&path, &copied);
        } else {
            std::fs::copy(&path, copied).expect("copied");
        }
    }
}

fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("written");
}

fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    change(&mut value);
    write_json(path, &value);
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// Loads without a first pass, as on demand on Lambda: whatever is found then is found before any request.
fn load(path: &Path) -> Result<Engine, String> {
    Engine::open(path, Settings::default()).map_err(|error| error.to_string())
}

fn logit(engine: &Engine, query: &str, passage: &str) -> f32 {
    let pair = Pair {
        query: query.into(),
        document: passage.into(),
    };
    engine.score(&Request::new(vec![pair])).expect("a score")[0].logit
}

fn run(args: &[&str], model: &Path, variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reranker"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("MODEL_DIR", model)
        .envs(variables.iter().copied())
        .args(args)
        .output()
        .expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn score(model: &Path, variables: &[(&str, &str)]) -> Result<String, String> {
    let output = run(
        &[
            "score",
            "--raw",
            "--query",
            "what is panda?",
            "The giant panda",
        ],
        model,
        variables,
    );
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(said(&output))
    }
}

fn pack(model: &Path) -> Result<String, String> {
    let output = run(&["pack"], model, &[]);
    if output.status.success() {
        Ok(said(&output))
    } else {
        Err(said(&output))
    }
}

#[test]
fn ids_segments_and_logits_are_those_of_transformers_or_the_folder_is_refused_by_file_and_field() {
    let table = read_json(&golden("folders.json"));
    let length = table["length"].as_u64().expect("a length") as usize;
    let mut refused = 0;
    // Compiling takes a second without optimization, and many folders come to the same file.
    let mut compiled_forms: HashMap<Vec<u8>, Compilation> = HashMap::new();
    for case in table["cases"].as_array().expect("cases") {
        let base = case["base"].as_str().expect("a base");
        let name = format!("{base}, {}", case["name"]);
        let dir = copy_of(base);
        let tokenizer_path = dir.path().join("tokenizer.json");
        let mut patch = case["tokenizer"].clone();
        // Another model's tokenizer may be the one that is changed.
        if let Some(Value::String(other)) = patch.as_object_mut().expect("a patch").remove("$of") {
            std::fs::copy(golden(&other).join("tokenizer.json"), &tokenizer_path).expect("copied");
        }
        let rules =
            read_json(&tokenizer_path)["normalizer"]["normalizers"][0]["precompiled_charsmap"]
                .to_string();
        change(&tokenizer_path, |json| merge(json, &patch));
        let text = std::fs::read_to_string(&tokenizer_path).expect("read");
        std::fs::write(&tokenizer_path, text.replace("\"$rules\"", &rules)).expect("written");
        change(&dir.path().join("config.json"), |json| {
            merge(json, &case["config"]);
        });
        if let Some(own) = case.get("settings") {
            write_json(&dir.path().join("tokenizer_config.json"), own);
        }
        let config = ModelConfig::read(&dir.path().join("config.json")).expect("a configuration");
        let read = folder_tokenizer(dir.path(), &config);
        if let [file, field] = case["refused"].as_array().map_or(&[][..], |it| it) {
            let error = read
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            let named = format!(
                "{}: {}: found ",
                file.as_str().expect("a file"),
                field.as_str().expect("a field")
            );
            assert!(
                error.contains(&named),
                "{name}: {error:?} without {named:?}"
            );
            let engine = load(dir.path()).err().unwrap_or_default();
            assert!(engine.contains(&named), "{name}: {engine}");
            refused += 1;
            continue;
        }
        let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = case["max_length"].as_u64().map(|length| length as usize);
        assert_eq!(read.max_length, expected, "{name}");
        let mut forms = vec![("read", read.tokenizer)];
        let compiled = compiled_forms
            .entry(read.json)
            .or_insert_with_key(|json| compile(json).expect("a tokenizer file"));
        if let Compilation::Compiled(bytes) = compiled {
            let form = PairTokenizer::from_compiled(bytes.clone().into(), &tokenizer_path);
            forms.push(("compiled", form.expect("opens")));
        }
        for (form, tokenizer) in &forms {
            for (texts, row) in table["texts"]
                .as_array()
                .expect("texts")
                .iter()
                .zip(case["pairs"].as_array().expect("pairs"))
            {
                let [query, passage] = [0, 1].map(|at| texts[at].as_str().expect("a text"));
                let [query, passage] =
                    [query, passage].map(|text| tokenizer.encode(text).expect("encodes"));
                let got = tokenizer
                    .join(&query, &passage, length, Truncation::LongestFirst)
                    .expect("joins");
                assert_eq!(json!(got.ids), row["input_ids"], "{name}, {form}: {texts}");
                assert_eq!(
                    json!(got.type_ids),
                    row["token_type_ids"],
                    "{name}, {form}: {texts}"
                );
            }
        }
        // Where the embedding has room for all ids, the scores are PyTorch's too.
        if case["config"].get("vocab_size").is_some() {
            continue;
        }
        let engine = load(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        if engine.info().max_length < length {
            continue;
        }
        for (texts, row) in table["texts"]
            .as_array()
            .expect("texts")
            .iter()
            .zip(case["pairs"].as_array().expect("pairs"))
            .filter(|(_, row)| {
                row["input_ids"]
                    .as_array()
                    .is_some_and(|ids| ids.len() < length)
            })
        {
            let [query, passage] = [0, 1].map(|at| texts[at].as_str().expect("a text"));
            let (ours, theirs) = (logit(&engine, query, passage), row["logit"].as_f64());
            let difference = f64::from(ours) - theirs.expect("a logit");
            assert!(difference.abs() <= 1e-5, "{name}: {ours} for {theirs:?}");
        }
    }
    assert!(
        refused > 20 && compiled_forms.len() > 10,
        "{refused}, {}",
        compiled_forms.len()
    );
}

#[test]
fn dropout_is_for_training() {
    let dir = copy_of("roberta");
    let sound = logit(
        &load(dir.path()).expect("loads"),
        "what is panda?",
        "The giant panda",
    );
    for dropout in [0.1, 0.5, 1.0] {
        change(&dir.path().join("tokenizer.json"), |json| {
            json["model"]["dropout"] = dropout.into();
        });
        let engine = load(dir.path()).expect("loads");
        for _ in 0..3 {
            let got = logit(&engine, "what is panda?", "The giant panda");
            assert_eq!(got.to_bits(), sound.to_bits(), "{dropout}");
        }
    }
}

#[test]
fn the_tokenizers_length_bounds_the_models() {
    let dir = copy_of("bert");
    for (own, expected) in [(12, 12), (96, 96), (1000, 96)] {
        write_json(
            &dir.path().join("tokenizer_config.json"),
            &json!({"model_max_length": own}),
        );
        let engine = load(dir.path()).expect("loads");
        assert_eq!(engine.info().model_max_length, expected);
        assert_eq!(engine.info().max_length, expected);
    }
}

/// A change of a folder, and what must be said of it at load.
type Fault = (&'static str, fn(&Path), &'static [&'static str]);

fn tokenizer(dir: &Path, edit: impl FnOnce(&mut Value)) {
    change(&dir.join("tokenizer.json"), edit);
}

/// Puts one set of rules in the place of XLM-R's.
fn rules(dir: &Path, value: Value) {
    tokenizer(dir, |json| {
        json["normalizer"]["normalizers"][0]["precompiled_charsmap"] = value;
    });
}

const CHARSMAP: &str = "tokenizer.json: normalizer.precompiled_charsmap: found ";

#[test]
fn what_a_model_cannot_compute_is_found_at_load_and_not_at_a_request() {
    let faults: &[(&str, Fault)] = &[
        (
            "bert",
            (
                "a segment beyond the table",
                |dir| {
                    tokenizer(dir, |json| {
                        json["post_processor"]["pair"][3]["Sequence"]["type_id"] = 5.into();
                    });
                    write_json(
                        &dir.join("tokenizer_config.json"),
                        &json!({
                            "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["token_type_ids"],
                        }),
                    );
                },
                &["tokenizer.json: post_processor: found segment 5", "2 rows"],
            ),
        ),
        (
            "bert",
            (
                "a template id beyond the vocabulary",
                |dir| {
                    tokenizer(dir, |json| {
                        json["post_processor"]["special_tokens"]["[CLS]"]["ids"] = json!([99999])
                    });
                    write_json(
                        &dir.join("tokenizer_config.json"),
                        &json!({
                            "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["token_type_ids"],
                        }),
                    );
                },
                &[
                    "tokenizer.json: vocabulary: found token id 99999",
                    "379 rows",
                ],
            ),
        ),
        (
            "bert",
            (
                "a word beyond the rows",
                |dir| {
                    tokenizer(dir, |json| json["model"]["vocab"]["the"] = 40000.into());
                },
                &[
                    "tokenizer.json: vocabulary: found token id 40000",
                    "379 rows",
                ],
            ),
        ),
        (
            "bert",
            (
                "one added token too many",
                |dir| {
                    tokenizer(dir, |json| {
                        let token = json!({"id": 379, "content": "xyzzy", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true});
                        json["added_tokens"]
                            .as_array_mut()
                            .expect("a list")
                            .push(token);
                    });
                },
                &["tokenizer.json: vocabulary: found token id 379"],
            ),
        ),
        (
            "bert",
            (
                "a template without the query",
                |dir| {
                    tokenizer(dir, |json| {
                        json["post_processor"]["pair"]
                            .as_array_mut()
                            .expect("a list")
                            .remove(1);
                    });
                },
                &["tokenizer.json: ", "a template without the query"],
            ),
        ),
        (
            "bert",
            (
                "a template with the passage twice",
                |dir| {
                    tokenizer(dir, |json| {
                        let text = json["post_processor"]["pair"][3].clone();
                        json["post_processor"]["pair"]
                            .as_array_mut()
                            .expect("a list")
                            .push(text);
                    });
                },
                &["tokenizer.json: ", "the passage 2 times"],
            ),
        ),
        (
            "bert",
            (
                "no post-processor",
                |dir| {
                    tokenizer(dir, |json| json["post_processor"] = Value::Null);
                },
                &["tokenizer.json: post_processor"],
            ),
        ),
        (
            "xlm-roberta",
            (
                "rules that are null",
                |dir| rules(dir, Value::Null),
                &[CHARSMAP, "null"],
            ),
        ),
        (
            "xlm-roberta",
            (
                "rules that are empty",
                |dir| rules(dir, "".into()),
                &[CHARSMAP, "an empty text"],
            ),
        ),
        (
            "xlm-roberta",
            (
                "rules of three bytes",
                |dir| rules(dir, "AAAA".into()),
                &[CHARSMAP],
            ),
        ),
        (
            "xlm-roberta",
            (
                "rules that are no base64",
                |dir| rules(dir, "!?".into()),
                &[CHARSMAP, "no base64"],
            ),
        ),
        // A trie of one unit that leads beyond itself: a panic at the first text.
        (
            "xlm-roberta",
            (
                "rules that lead nowhere",
                |dir| rules(dir, "BAAAAAD8//8=".into()),
                &[CHARSMAP, "beyond"],
            ),
        ),
        (
            "xlm-roberta",
            (
                "a number for rules",
                |dir| rules(dir, 7.into()),
                &[CHARSMAP, "7"],
            ),
        ),
        (
            "xlm-roberta",
            (
                "an unknown piece beyond the vocabulary",
                |dir| {
                    tokenizer(dir, |json| json["model"]["unk_id"] = 5000.into());
                },
                &["tokenizer.json: "],
            ),
        ),
        (
            "roberta",
            (
                "no JSON",
                |dir| {
                    std::fs::write(dir.join("tokenizer.json"), "{").expect("written");
                },
                &["tokenizer.json: tokenizer: found "],
            ),
        ),
        (
            "roberta",
            (
                "settings that are no JSON",
                |dir| {
                    std::fs::write(dir.join("tokenizer_config.json"), "{").expect("written");
                },
                &["tokenizer_config.json: settings: found "],
            ),
        ),
        (
            "roberta",
            (
                "settings of custom code",
                |dir| {
                    let own = json!({"auto_map": {"AutoTokenizer": ["tokenization.Own", null]}});
                    write_json(&dir.join("tokenizer_config.json"), &own);
                },
                &["tokenizer_config.json: auto_map.AutoTokenizer: found "],
            ),
        ),
        (
            "roberta",
            (
                "another model's tokenizer",
                |dir| {
                    std::fs::copy(
                        golden("xlm-roberta/tokenizer.json"),
                        dir.join("tokenizer.json"),
                    )
                    .expect("copied");
                },
                &["tokenizer.json: model.type: found Unigram, expected BPE"],
            ),
        ),
    ];
    for (base, (what, spoil, wanted)) in faults {
        let dir = copy_of(base);
        spoil(dir.path());
        let error = load(dir.path()).err().unwrap_or_default();
        for wanted in *wanted {
            assert!(
                error.contains(wanted),
                "{what}: {error:?} without {wanted:?}"
            );
        }
        // The commands say the same, and none panics.
        let first = wanted[0];
        for args in [&["score", "--query", "q", "p"][..], &["doctor"], &["pack"]] {
            let output = run(args, dir.path(), &[]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{what}, {args:?}: {text}");
            assert!(text.contains(first), "{what}, {args:?}: {text}");
            assert!(!text.contains("panicked"), "{what}, {args:?}: {text}");
        }
    }
}

/// The place of a tensor's values in the folder's one file.
fn place(path: &Path, tensor: &str) -> std::ops::Range<usize> {
    let bytes = std::fs::read(path).expect("read");
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let (from, to) = metadata.info(tensor).expect(tensor).data_offsets;
    8 + header + from..8 + header + to
}

/// Writes bytes into a tensor of the folder's one file.
fn poke(dir: &Path, tensor: &str, at: usize, value: &[u8]) {
    let path = dir.join("model.safetensors");
    let start = place(&path, tensor).start + at;
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[start..start + value.len()].copy_from_slice(value);
    std::fs::write(&path, bytes).expect("written");
}

/// Sets when a file was written, in seconds from now.
fn set_time(path: &Path, seconds: i64) {
    let now = std::time::SystemTime::now();
    let by = std::time::Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { now - by } else { now + by };
    let file = std::fs::File::options()
        .write(true)
        .open(path)
        .expect("opens");
    file.set_modified(time).expect("set");
}

#[test]
fn a_packed_model_beside_other_files_than_its_sources_is_never_served() {
    let changes: &[(&str, &str, Change)] = &[
        ("new weights", "model.safetensors", |dir| {
            poke(dir, "classifier.out_proj.bias", 0, &9f32.to_le_bytes());
        }),
        ("new weights with an old time", "model.safetensors", |dir| {
            poke(dir, "classifier.out_proj.bias", 0, &9f32.to_le_bytes());
            set_time(&dir.join("model.safetensors"), -9000);
        }),
        (
            "one value in the middle of a table",
            "model.safetensors",
            |dir| {
                poke(
                    dir,
                    "roberta.embeddings.word_embeddings.weight",
                    200_000,
                    &9f32.to_le_bytes(),
                );
                set_time(&dir.join("model.safetensors"), 60);
            },
        ),
        ("weights that are cut", "model.safetensors", |dir| {
            let path = dir.join("model.safetensors");
            let bytes = std::fs::read(&path).expect("read");
            std::fs::write(&path, &bytes[..bytes.len() - 4]).expect("written");
            set_time(&path, -9000);
        }),
        ("a pointer to other weights", "model.safetensors", |dir| {
            let pointer = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 657644\n",
                "ab".repeat(32)
            );
            std::fs::write(dir.join("model.safetensors"), pointer).expect("written");
        }),
        ("another configuration", "config.json", |dir| {
            change(&dir.join("config.json"), |json| {
                json["layer_norm_eps"] = 1e-6.into()
            });
        }),
        ("another tokenizer", "tokenizer.json", |dir| {
            tokenizer(dir, |json| json["model"]["vocab"][100][1] = (-1.0).into());
        }),
        (
            "settings that were not there",
            "tokenizer_config.json",
            |dir| {
                write_json(
                    &dir.join("tokenizer_config.json"),
                    &json!({"model_max_length": 20}),
                );
            },
        ),
        ("shards instead", "a.safetensors", |dir| {
            std::fs::rename(dir.join("model.safetensors"), dir.join("a.safetensors"))
                .expect("renamed");
            let index = json!({"weight_map": {"w": "a.safetensors"}});
            write_json(&dir.join("model.safetensors.index.json"), &index);
        }),
    ];
    let source = copy_of("xlm-roberta");
    let done = pack(source.path()).expect("packs");
    assert!(done.contains("packed.safetensors"), "{done}");
    let packed = source.path().join("packed.safetensors");
    let fresh = || {
        let dir = copy_of("xlm-roberta");
        std::fs::copy(&packed, dir.path().join("packed.safetensors")).expect("copied");
        dir
    };
    let expected = score(&packed, &[]).expect("scores");
    // Copies are the same model whatever their times are, and so is a packed file alone, or beside pointers to its sources.
    let sound: &[(&str, Change)] = &[
        ("a copy", |_| {}),
        ("sources that are newer", |dir| {
            set_time(&dir.join("model.safetensors"), 900)
        }),
        ("sources that are older", |dir| {
            set_time(&dir.join("model.safetensors"), -900)
        }),
        ("no weights beside it", |dir| {
            std::fs::remove_file(dir.join("model.safetensors")).expect("removed");
        }),
        ("nothing beside it", |dir| {
            for file in ["model.safetensors", "config.json", "tokenizer.json"] {
                std::fs::remove_file(dir.join(file)).expect("removed");
            }
        }),
    ];
    for (what, prepare) in sound {
        let dir = fresh();
        prepare(dir.path());
        for precision in ["auto", "int8"] {
            let got = score(dir.path(), &[("PRECISION", precision)]);
            assert_eq!(got.as_ref(), Ok(&expected), "{what}, {precision}");
        }
        let verified = run(&["verify"], dir.path(), &[]);
        assert!(verified.status.success(), "{what}: {}", said(&verified));
    }
    for (what, file, spoil) in changes {
        let dir = fresh();
        spoil(dir.path());
        for precision in ["auto", "int8"] {
            let error = score(dir.path(), &[("PRECISION", precision)]).expect_err(what);
            let named =
                format!("packed.safetensors: source: found another {file} than the folder's");
            assert!(error.contains(&named), "{what}, {precision}: {error}");
        }
        for command in ["verify", "doctor", "serve"] {
            let output = run(&[command], dir.path(), &[("PORT", "1")]);
            assert_eq!(output.status.code(), Some(1), "{what}, {command}");
            assert!(said(&output).contains(file), "{what}: {}", said(&output));
        }
        if *what == "another configuration" {
            let exact = score(dir.path(), &[("PRECISION", "f32")]).expect("f32 is served");
            assert_ne!(exact, expected, "{what}");
            // Packed again it is served again.
            pack(dir.path()).expect("packs");
            score(dir.path(), &[("PRECISION", "int8")]).expect("scores");
        }
    }
    // One value, with its old time: not worth reading gigabytes at every start, and found by whoever looks.
    let dir = fresh();
    poke(
        dir.path(),
        "roberta.embeddings.word_embeddings.weight",
        200_000,
        &9f32.to_le_bytes(),
    );
    set_time(&dir.path().join("model.safetensors"), -9000);
    assert_eq!(
        choose(dir.path(), Precision::Auto).expect("quick"),
        dir.path().join("packed.safetensors")
    );
    for command in ["verify", "doctor"] {
        let output = run(&[command], dir.path(), &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("another model.safetensors"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_tensor_and_row() {
    const NAN: [u8; 4] = f32::NAN.to_le_bytes();
    const MINUS: [u8; 4] = f32::NEG_INFINITY.to_le_bytes();
    let large = 1e6f32.to_le_bytes();
    // Tensor, byte, value; whether it is found when f32 is loaded, else when it is packed.
    let (words, positions) = (
        "roberta.embeddings.word_embeddings.weight",
        "roberta.embeddings.position_embeddings.weight",
    );
    let cases: [(&str, usize, [u8; 4], usize, bool); 7] = [
        (
            "roberta.encoder.layer.0.intermediate.dense.bias",
            4 * 5,
            MINUS,
            5,
            true,
        ),
        (
            "roberta.encoder.layer.1.attention.output.LayerNorm.weight",
            0,
            NAN,
            0,
            true,
        ),
        ("classifier.out_proj.bias", 0, NAN, 0, true),
        (words, 4 * 48 * 1500, NAN, 1500, false),
        (positions, 4 * 48 * 120, large, 120, false),
        (positions, 4 * 48 * 121, MINUS, 121, false),
        (
            "roberta.encoder.layer.2.output.dense.weight",
            4 * 100 * 7,
            NAN,
            7,
            false,
        ),
    ];
    for (tensor, at, value, row, at_load) in cases {
        let dir = copy_of("xlm-roberta");
        poke(dir.path(), tensor, at, &value);
        let named = format!("tensor {tensor}, row {row}: found ");
        if at_load {
            let error = load(dir.path()).err().unwrap_or_default();
            assert!(error.contains(&named), "{tensor}: {error}");
        }
        let error = pack(dir.path()).expect_err(tensor);
        assert!(error.contains(&named), "{tensor}: {error}");
        assert!(!dir.path().join("packed.safetensors").exists(), "{tensor}");
    }
}

#[test]
fn weights_that_the_configuration_has_no_place_for_are_named() {
    let dir = copy_of("xlm-roberta");
    assert!(load(dir.path()).expect("loads").model().unused().is_empty());
    change(&dir.path().join("config.json"), |json| {
        json["num_hidden_layers"] = 2.into()
    });
    let engine = load(dir.path()).expect("loads");
    let unused = engine.model().unused();
    assert_eq!(unused.len(), 16);
    assert!(
        unused
            .iter()
            .all(|name| name.starts_with("roberta.encoder.layer.2.")),
        "{unused:?}"
    );
    for args in [&["score", "--query", "q", "p"][..], &["doctor"], &["pack"]] {
        let output = run(args, dir.path(), &[]);
        assert!(output.status.success(), "{args:?}");
        assert!(
            said(&output).contains("roberta.encoder.layer.2."),
            "{args:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn the_index_decides_which_file_a_tensor_is_from() {
    let query = ("what is panda?", "The giant panda");
    let dir = copy_of("roberta");
    let sound = logit(&load(dir.path()).expect("loads"), query.0, query.1);
    let index_path = dir.path().join("model.safetensors.index.json");
    // A copy of a tensor, of other values, in the file that comes last.
    let name = "classifier.out_proj.weight";
    let home = read_json(&index_path)["weight_map"][name]
        .as_str()
        .expect("a file")
        .to_owned();
    let other = "model-00003-of-00003.safetensors";
    assert_ne!(home, other);
    let bytes = std::fs::read(dir.path().join(other)).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
    let zeros = vec![0; 2 * 40];
    let stale = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![1, 40], &zeros);
    let mut tensors = file.tensors();
    tensors.push((name.to_owned(), stale.expect("a tensor")));
    let all = safetensors::serialize(tensors, None).expect("serialized");
    std::fs::write(dir.path().join(other), all).expect("written");
    let got = logit(&load(dir.path()).expect("loads"), query.0, query.1);
    assert_eq!(got.to_bits(), sound.to_bits());
    change(&index_path, |json| {
        json["weight_map"][name] = "model-00002-of-00003.safetensors".into()
    });
    let error = load(dir.path()).err().expect("refused");
    assert!(
        error.contains(&format!("tensor {name}: found nothing of that name")),
        "{error}"
    );
}

#[test]
fn layer_norms_by_their_old_names_and_camembert_are_served() {
    let query = ("what is panda?", "The giant panda");
    let sound = logit(
        &load(&golden("xlm-roberta")).expect("loads"),
        query.0,
        query.1,
    );
    let dir = copy_of("xlm-roberta");
    let bytes = std::fs::read(golden("xlm-roberta/model.safetensors")).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
    let renamed = file.tensors().into_iter().map(|(name, view)| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        (name.replace("LayerNorm.bias", "LayerNorm.beta"), view)
    });
    let all = safetensors::serialize(renamed, None).expect("serialized");
    std::fs::write(dir.path().join("model.safetensors"), all).expect("written");
    change(&dir.path().join("config.json"), |json| {
        json["model_type"] = "camembert".into();
        json["architectures"] = json!(["CamembertForSequenceClassification"]);
    });
    let engine = load(dir.path()).expect("loads");
    assert_eq!(engine.info().model_type, "camembert");
    assert_eq!(logit(&engine, query.0, query.1).to_bits(), sound.to_bits());
}

#[test]
fn every_family_is_served_with_its_tokenizer() {
    for (name, model_type) in [
        ("gte", "new"),
        ("modernbert", "modernbert"),
        ("modernbert-cls", "modernbert"),
        ("modernbert-modules", "modernbert"),
        ("electra", "electra"),
        ("distilbert", "distilbert"),
        ("mpnet", "mpnet"),
        ("jina", "xlm-roberta"),
    ] {
        let engine = load(&golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(engine.info().model_type, model_type);
        let near = logit(&engine, "what is panda?", "The giant panda");
        let far = logit(&engine, "what is panda?", "twelve bridges");
        assert!(near.is_finite() && near != far, "{name}: {near}, {far}");
    }
}

#[test]
fn modules_are_understood_or_refused_by_file_and_field() {
    let own = |dir: &Path, module: &str, edit: &dyn Fn(&mut Value)| {
        change(&dir.join(module).join("config.json"), edit);
    };
    let set = |dir: &Path, module: &str, field: &str, value: Value| {
        own(dir, module, &|json| json[field] = value.clone());
    };
    let sound = logit(
        &load(&golden("modernbert-modules")).expect("loads"),
        "a",
        "b",
    );
    // As the library wrote them before version 6.
    let dir = copy_of("modernbert-modules");
    own(dir.path(), "1_Pooling", &|json| {
        *json = json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    });
    change(&dir.path().join("modules.json"), |json| {
        json[2]["type"] = "sentence_transformers.models.Dense".into();
    });
    let engine = load(dir.path()).expect("loads");
    assert_eq!(logit(&engine, "a", "b").to_bits(), sound.to_bits());
    set(dir.path(), "1_Pooling", "pooling_mode", "mean".into());
    let engine = load(dir.path()).expect("loads");
    assert_ne!(logit(&engine, "a", "b").to_bits(), sound.to_bits());

    type Edit = fn(&dyn Fn(&str, &str, Value));
    let refused: [(Edit, &str); 9] = [
        (
            |set| set("1_Pooling", "pooling_mode", json!(["cls", "mean"])),
            "1_Pooling/config.json: pooling_mode",
        ),
        (
            |set| set("1_Pooling", "pooling_mode", "max".into()),
            "1_Pooling/config.json: pooling_mode",
        ),
        (
            |set| {
                set(
                    "2_Dense",
                    "activation_function",
                    "torch.nn.modules.activation.SiLU".into(),
                )
            },
            "2_Dense/config.json: activation_function",
        ),
        (
            |set| set("2_Dense", "use_residual", true.into()),
            "2_Dense/config.json: use_residual",
        ),
        (
            |set| set("2_Dense", "module_input_name", "token_embeddings".into()),
            "2_Dense/config.json: module_input_name",
        ),
        (
            |set| set("2_Dense", "in_features", 31.into()),
            "2_Dense/config.json: in_features",
        ),
        (
            |set| set("3_LayerNorm", "dimension", "wide".into()),
            "3_LayerNorm/config.json: dimension",
        ),
        (
            |set| {
                set(
                    "4_Dense",
                    "activation_function",
                    "torch.nn.modules.activation.Sigmoid".into(),
                )
            },
            "4_Dense/config.json: activation_function",
        ),
        (
            |set| set("4_Dense", "out_features", 2.into()),
            "this is an embedding model",
        ),
    ];
    for (edit, named) in refused {
        let dir = copy_of("modernbert-modules");
        edit(&|module, field, value| set(dir.path(), module, field, value));
        let error = load(dir.path()).err().unwrap_or_default();
        assert!(error.contains(named), "{named}: {error}");
    }
    for (edit, named) in [
        (
            json!("sentence_transformers.models.Normalize"),
            "modules.json: type",
        ),
        (json!(7), "modules.json: modules"),
    ] {
        let dir = copy_of("modernbert-modules");
        change(&dir.path().join("modules.json"), |json| {
            json[3]["type"] = edit
        });
        let error = load(dir.path()).err().unwrap_or_default();
        assert!(error.contains(named), "{named}: {error}");
    }
    // What is not there is named, and whose it is.
    for (file, in_its_place, named) in [
        ("1_Pooling/config.json", None, "the module Pooling"),
        ("2_Dense/config.json", None, "the module Dense"),
        ("4_Dense/config.json", None, "the module Dense"),
        (
            "3_LayerNorm/model.safetensors",
            None,
            "the module LayerNorm",
        ),
        (
            "4_Dense/model.safetensors",
            Some("4_Dense/pytorch_model.bin"),
            "save_pretrained('DIR')",
        ),
    ] {
        let dir = copy_of("modernbert-modules");
        let path = dir.path().join(file);
        std::fs::remove_file(&path).expect("removed");
        if let Some(other) = in_its_place {
            std::fs::write(dir.path().join(other), "PK").expect("written");
        }
        let error = load(dir.path()).err().unwrap_or_default();
        assert!(
            error.starts_with(&format!("{}: file: found nothing", path.display()))
                && error.contains(named),
            "{file}: {error}"
        );
    }
    let dir = copy_of("modernbert-modules");
    change(&dir.path().join("modules.json"), |json| {
        json[2]["path"] = "../x".into()
    });
    let error = load(dir.path()).err().unwrap_or_default();
    assert!(error.contains("a module in \"../x\""), "{error}");
    // A head twice is none.
    let dir = copy_of("modernbert-modules");
    change(&dir.path().join("config.json"), |json| {
        json["architectures"] = json!(["ModernBertForSequenceClassification"]);
    });
    let error = load(dir.path()).err().unwrap_or_default();
    assert!(
        error.contains("no Pooling, Dense, LayerNorm, Dense behind it"),
        "{error}"
    );
}

#[test]
fn config_json_is_read_as_transformers_reads_it() {
    type Edit = fn(&mut Value);
    let served: &[(&str, Edit)] = &[
        ("no architectures", |json| {
            json["architectures"] = Value::Null
        }),
        ("an empty list", |json| json["architectures"] = json!([])),
        ("no such field", |json| {
            json.as_object_mut()
                .expect("an object")
                .remove("architectures");
        }),
        ("a number of labels", |json| {
            json["id2label"] = Value::Null;
            json["num_labels"] = 1.into();
        }),
        ("labels that are no texts", |json| {
            json["id2label"] = json!({"0": 0})
        }),
        ("both", |json| json["num_labels"] = 5.into()),
        ("no activation", |json| {
            json.as_object_mut()
                .expect("an object")
                .remove("hidden_act");
        }),
        ("custom code for another task", |json| {
            json["auto_map"] = json!({"AutoModel": "a.B"})
        }),
    ];
    for (what, edit) in served {
        let dir = copy_of("bert");
        change(&dir.path().join("config.json"), edit);
        load(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let dir = copy_of("bert");
    let text = std::fs::read_to_string(dir.path().join("config.json")).expect("read");
    std::fs::write(dir.path().join("config.json"), format!("\u{feff}{text}")).expect("written");
    load(dir.path()).expect("a byte order mark is skipped");

    let refused: &[(&str, Edit, &str)] = &[
        (
            "ModernBERT without sizes",
            |json| {
                *json = json!({"model_type": "modernbert", "hidden_activation": "gelu", "num_labels": 1})
            },
            "hidden_size: found no such field",
        ),
        (
            "DistilBERT of another activation",
            |json| *json = json!({"model_type": "distilbert", "dim": 768, "num_labels": 1, "activation": "relu"}),
            "activation: found \"relu\"",
        ),
        (
            "DeBERTa",
            |json| json["model_type"] = "deberta-v2".into(),
            "model_type: found \"deberta-v2\"",
        ),
        (
            "Qwen3-Reranker",
            |json| json["model_type"] = "qwen3".into(),
            "this is a causal language model",
        ),
        (
            "a language model of another name",
            |json| *json = json!({"model_type": "zen", "architectures": ["ZenForCausalLM"]}),
            "this is a causal language model",
        ),
        (
            "Qwen3-Reranker with a head",
            |json| *json = json!({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}),
            "this is a causal language model",
        ),
        (
            "T5",
            |json| {
                *json = json!({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
            },
            "this model writes text",
        ),
        (
            "no type",
            |json| *json = json!({}),
            "model_type: found null",
        ),
        (
            "a list",
            |json| *json = json!([1]),
            "configuration: found no object",
        ),
        (
            "an embedding model",
            |json| json["architectures"] = json!(["BertModel"]),
            "this is an embedding model",
        ),
        (
            "a language model",
            |json| json["architectures"] = json!(["BertForMaskedLM"]),
            "this is a language model",
        ),
        (
            "custom code",
            |json| json["auto_map"] = json!({"AutoModelForSequenceClassification": "m.X"}),
            "auto_map: found AutoModelForSequenceClassification by custom code",
        ),
        (
            "three labels",
            |json| json["id2label"] = json!({"0": "a", "1": "b", "2": "c"}),
            "number of labels: found 3 in id2label",
        ),
        (
            "neither",
            |json| json["id2label"] = Value::Null,
            "neither id2label nor num_labels",
        ),
        (
            "two in number",
            |json| {
                json["id2label"] = Value::Null;
                json["num_labels"] = 2.into();
            },
            "number of labels: found 2 in num_labels",
        ),
    ];
    for (what, edit, wanted) in refused {
        let dir = copy_of("bert");
        change(&dir.path().join("config.json"), edit);
        let output = run(&["doctor"], dir.path(), &[]);
        let text = said(&output);
        assert!(text.contains(wanted), "{what}: {text}");
        // Nothing of this is a damaged download, but the list.
        assert!(
            wanted.starts_with("configuration") || !text.contains("download"),
            "{what}: {text}"
        );
        assert_eq!(output.status.code(), Some(1), "{what}");
    }
}

#[test]
fn fields_that_published_repositories_carry_besides_change_nothing() {
    let identity = "torch.nn.modules.linear.Identity";
    let sigmoid = "torch.nn.modules.activation.Sigmoid";
    let everywhere = json!({
        "_name_or_path": "./model", "torch_dtype": "float32", "transformers_version": "4.46.3", "use_cache": true,
        "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "classifier_dropout": null, "initializer_range": 0.02,
        "gradient_checkpointing": false, "label2id": {"LABEL_0": 0}, "id2label": {"0": "LABEL_0"}, "num_labels": null,
    });
    let code = |file: &str, config: &str, model: &str| {
        json!({
            "AutoConfig": format!("{file}--configuration.{config}"),
            "AutoModelForSequenceClassification": format!("{file}--modeling.{model}"),
        })
    };
    for (base, fields) in [
        // cross-encoder/ms-marco-MiniLM-L6-v2, before and after version 4 of sentence-transformers
        (
            "bert",
            json!({"sbert_ce_default_activation_function": identity}),
        ),
        (
            "bert",
            json!({"sentence_transformers": {"activation_fn": identity, "version": "4.1.0.dev0"}, "position_embedding_type": "absolute"}),
        ),
        // cross-encoder/stsb-roberta-base
        (
            "roberta",
            json!({"bos_token_id": 0, "eos_token_id": 2, "label2id": {"LABEL_0": "0"}}),
        ),
        // BAAI/bge-reranker-v2-m3, maidalun1020/bce-reranker-base_v1, cross-encoder/mmarco-mMiniLMv2-L12-H384-v1
        (
            "xlm-roberta",
            json!({"output_past": true, "bos_token_id": 0, "eos_token_id": 2}),
        ),
        (
            "xlm-roberta",
            json!({"tokenizer_class": "XLMRobertaTokenizer", "id2label": {"0": "relevance"}}),
        ),
        // jinaai/jina-reranker-v2-base-multilingual
        (
            "jina",
            json!({
                "auto_map": code("jinaai/other", "XLMRobertaFlashConfig", "XLMRobertaForSequenceClassification"),
                "lora_adaptations": null, "lora_rank": 4, "lora_alpha": 1, "load_trained_adapters": false, "use_flash_attn": true,
                "use_reentrant": false, "truncate_dim": null, "emb_pooler": null, "matryoshka_dimensions": null,
            }),
        ),
        // Alibaba-NLP/gte-multilingual-reranker-base
        (
            "gte",
            json!({
                "auto_map": code("Alibaba-NLP/new-impl", "NewConfig", "NewForSequenceClassification"),
                "logn_attention_clip1": false, "unpad_inputs": false, "use_memory_efficient_attention": false,
                "sentence_transformers": {"activation_fn": sigmoid},
            }),
        ),
        // Alibaba-NLP/gte-reranker-modernbert-base, ibm-granite/granite-embedding-reranker-english-r2, cl-nagoya/ruri-v3-reranker-310m
        (
            "modernbert",
            json!({
                "position_embedding_type": "absolute", "layer_norm_eps": 1e-5, "reference_compile": true, "deterministic_flash_attn": false,
                "sparse_prediction": false, "sparse_pred_ignore_index": -100, "decoder_bias": true, "embedding_dropout": 0.0,
                "mlp_dropout": 0.0, "attention_dropout": 0.0, "repad_logits_with_grad": false, "rope_scaling": null, "cls_token_id": 2,
            }),
        ),
        (
            "modernbert-cls",
            json!({"sentence_transformers": {"activation_fn": sigmoid, "version": "5.1.0"}}),
        ),
        // cross-encoder/ettin-reranker-32m-v1
        (
            "modernbert-modules",
            json!({"dtype": "float32", "tie_word_embeddings": true, "num_labels": 2, "id2label": null}),
        ),
        // cross-encoder/ms-marco-electra-base
        (
            "electra",
            json!({"summary_activation": "gelu", "summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": true}),
        ),
        (
            "distilbert",
            json!({"qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": false, "tie_weights_": true}),
        ),
        (
            "mpnet",
            json!({"bos_token_id": 0, "eos_token_id": 2, "relative_attention_num_buckets": 32}),
        ),
    ] {
        let sound = logit(&load(&golden(base)).expect("loads"), "a panda", "a bear");
        let dir = copy_of(base);
        change(&dir.path().join("config.json"), |json| {
            for (name, value) in everywhere.as_object().expect("fields") {
                json[name] = value.clone();
            }
            for (name, value) in fields.as_object().expect("fields") {
                json[name] = value.clone();
            }
        });
        let engine = load(dir.path()).unwrap_or_else(|error| panic!("{base} {fields}: {error}"));
        let carried = logit(&engine, "a panda", "a bear");
        assert_eq!(carried.to_bits(), sound.to_bits(), "{base} {fields}");
    }
}

#[test]
fn what_is_there_instead_of_a_model_is_named_with_the_next_step() {
    let put = |dir: &Path, name: &str, bytes: &[u8]| {
        std::fs::write(dir.join(name), bytes).expect("written")
    };
    let remove = |dir: &Path, name: &str| std::fs::remove_file(dir.join(name)).expect("removed");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n";
    /// What is done to a copy of the BERT folder, and what is said of it.
    type Case<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, &'a [&'a str]);
    let emptied = |dir: &Path| {
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            remove(dir, name);
        }
    };
    let cases: Vec<Case> = vec![
        (
            "nothing",
            Box::new(emptied),
            &["no config.json, tokenizer.json, model.safetensors; it is empty"],
        ),
        (
            "another folder",
            Box::new(|dir| {
                emptied(dir);
                put(dir, "notes.txt", b"x");
            }),
            &["it has notes.txt"],
        ),
        (
            "PyTorch's weights",
            Box::new(|dir| {
                remove(dir, "model.safetensors");
                put(dir, "pytorch_model.bin", b"PK");
            }),
            &[
                "pytorch_model.bin has the weights in PyTorch's format",
                "save_pretrained",
            ],
        ),
        (
            "TensorFlow's",
            Box::new(|dir| {
                remove(dir, "model.safetensors");
                put(dir, "tf_model.h5", b"x");
            }),
            &["tf_model.h5"],
        ),
        (
            "an adapter",
            Box::new(|dir| {
                remove(dir, "model.safetensors");
                put(dir, "adapter_config.json", b"{}");
                put(dir, "adapter_model.safetensors", b"x");
            }),
            &["an adapter (LoRA)", "merge_and_unload"],
        ),
        (
            "an adapter alone",
            Box::new(|dir| {
                emptied(dir);
                put(dir, "adapter_config.json", b"{}");
            }),
            &["an adapter (LoRA)"],
        ),
        (
            "ONNX",
            Box::new(|dir| {
                remove(dir, "model.safetensors");
                put(dir, "model.onnx", b"x");
            }),
            &["model.onnx is of a format that is not read"],
        ),
        (
            "GGUF",
            Box::new(|dir| {
                emptied(dir);
                put(dir, "m.gguf", b"GGUF");
            }),
            &["m.gguf is of a format that is not read"],
        ),
        (
            "a name of its own",
            Box::new(|dir| {
                std::fs::rename(dir.join("model.safetensors"), dir.join("mine.safetensors"))
                    .expect("renamed");
            }),
            &["mine.safetensors has another name"],
        ),
        (
            "a vocabulary alone",
            Box::new(|dir| {
                remove(dir, "tokenizer.json");
                put(dir, "vocab.txt", b"[PAD]");
            }),
            &["no tokenizer.json", "vocab.txt is a slow tokenizer's"],
        ),
        (
            "a model below",
            Box::new(|dir| {
                emptied(dir);
                std::fs::create_dir(dir.join("m")).expect("made");
                put(&dir.join("m"), "config.json", b"{}");
            }),
            &["the folder m in it has one"],
        ),
        (
            "a model in the cache",
            Box::new(|dir| {
                emptied(dir);
                std::fs::create_dir_all(dir.join("snapshots/abc")).expect("made");
                std::fs::create_dir(dir.join("refs")).expect("made");
                put(dir, "refs/main", b"abc");
            }),
            &["snapshots/abc"],
        ),
        (
            "the cache",
            Box::new(|dir| {
                emptied(dir);
                std::fs::create_dir(dir.join("models--a--b")).expect("made");
            }),
            &["set MODEL_NAME to owner/name"],
        ),
        (
            "a link to nothing",
            Box::new(|dir| {
                remove(dir, "model.safetensors");
                std::os::unix::fs::symlink("/no/such/blob", dir.join("model.safetensors"))
                    .expect("linked");
            }),
            &["model.safetensors: link: found nothing at /no/such/blob"],
        ),
        (
            "a pointer for weights",
            Box::new(|dir| put(dir, "model.safetensors", pointer)),
            &[
                "model.safetensors: file: found a pointer of Git LFS",
                "git lfs pull",
            ],
        ),
        (
            "a pointer for a tokenizer",
            Box::new(|dir| put(dir, "tokenizer.json", pointer)),
            &["tokenizer.json: file: found a pointer of Git LFS"],
        ),
        (
            "a pointer for a configuration",
            Box::new(|dir| put(dir, "config.json", pointer)),
            &["config.json: file: found a pointer of Git LFS"],
        ),
        (
            "GGUF by another name",
            Box::new(|dir| put(dir, "model.safetensors", b"GGUF\x03\0\0\0 and so on")),
            &["format: found a GGUF file"],
        ),
        (
            "PyTorch by another name",
            Box::new(|dir| put(dir, "model.safetensors", b"PK\x03\x04 and so on")),
            &["format: found a file of PyTorch"],
        ),
        (
            "a folder for a file",
            Box::new(|dir| {
                remove(dir, "tokenizer.json");
                std::fs::create_dir(dir.join("tokenizer.json")).expect("made");
            }),
            &["tokenizer.json: file: found a folder"],
        ),
    ];
    for (what, spoil, wanted) in &cases {
        let dir = copy_of("bert");
        spoil(dir.path());
        for args in [&["score", "--query", "q", "p"][..], &["doctor"], &["pack"]] {
            let output = run(args, dir.path(), &[]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{what}, {args:?}: {text}");
            for wanted in *wanted {
                assert!(text.contains(wanted), "{what}, {args:?}: {text}");
            }
        }
    }
    // A file instead of its folder.
    let dir = copy_of("bert");
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let output = run(&["score", "--query", "q", "p"], &dir.path().join(name), &[]);
        let wanted = format!("the folder: MODEL_DIR={}", dir.path().display());
        assert!(said(&output).contains(&wanted), "{name}: {}", said(&output));
    }
    for (name, bytes, wanted) in [
        ("m.gguf", &b"GGUF...."[..], "a GGUF file"),
        ("m.onnx", b"....", "an ONNX file"),
        ("m.bin", b"PK\x03\x04", "a file of PyTorch"),
    ] {
        put(dir.path(), name, bytes);
        let output = run(&["doctor"], &dir.path().join(name), &[]);
        assert!(said(&output).contains(wanted), "{name}: {}", said(&output));
    }
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "packed.safetensors",
    ] {
        let dir = copy_of("bert");
        let path = dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        let made = Command::new("mkfifo")
            .arg(&path)
            .status()
            .expect("mkfifo runs");
        assert!(made.success());
        let output = run(
            &["score", "--query", "q", "p"],
            dir.path(),
            &[("PRECISION", "auto")],
        );
        let text = said(&output);
        if name == "packed.safetensors" {
            // No plain file, so no packed model: the folder is served.
            assert!(output.status.success(), "{text}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(
            text.contains(name) && text.contains("a pipe, device or socket"),
            "{name}: {text}"
        );
    }
}
