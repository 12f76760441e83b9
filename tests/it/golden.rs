//! Ids and logits against Hugging Face's fast tokenizers and PyTorch f32, recorded in `tests/golden/`.

use std::path::{Path, PathBuf};

use crate::support::families::{FAMILIES, FamilyGolden};
use kernels::{Isa, Kernels};
use reranker_domain::Truncation;
use reranker_engine::model::{Model, Packed};
use reranker_engine::tokenizer::{Compilation, Kept, PairTokenizer, compile, kept_tokens};
use serde::Deserialize;

/// Largest accepted difference to PyTorch's f32 logits.
const TOLERANCE: f32 = 1e-5;
const MODELS: [&str; 3] = ["xlm-roberta", "roberta", "bert"];

/// Longer sequences are computed on the fastest instruction set alone.
const LONG: usize = 600;

#[derive(Deserialize)]
struct Golden {
    max_length: usize,
    special_tokens: usize,
    texts: Vec<Text>,
    pairs: Vec<Pair>,
    sweep: Sweep,
    raw: Vec<Raw>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    input_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Pair {
    query: String,
    passage: String,
    max_length: usize,
    truncation: String,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    kept_query: usize,
    kept_passage: usize,
    dropped_query: usize,
    dropped_passage: usize,
    logit: f32,
}

/// One long pair, cut to every length: `[length, tokens of the query, tokens of the passage, logit]`.
#[derive(Deserialize)]
struct Sweep {
    query: String,
    passage: String,
    truncation: String,
    rows: Vec<(usize, usize, usize, f32)>,
}

#[derive(Deserialize)]
struct Raw {
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    logit: f32,
}

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(model)
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = folder(&format!("{name}.json"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tokenizer(model: &str) -> PairTokenizer {
    PairTokenizer::load(&folder(model).join("tokenizer.json")).expect("a golden tokenizer")
}

/// Hugging Face's crate and, for the kinds that have one, the compiled form.
fn tokenizers(model: &str) -> Vec<PairTokenizer> {
    let path = folder(model).join("tokenizer.json");
    let json = std::fs::read(&path).expect("a golden tokenizer");
    let mut all = vec![tokenizer(model)];
    match compile(&json).expect("a tokenizer file") {
        Compilation::Compiled(bytes) => {
            all.push(PairTokenizer::from_compiled(bytes.into(), &path).expect("opens"));
        }
        Compilation::Refused(reason) => panic!("{model}: {reason}"),
    }
    all
}

fn load(model: &str, kernels: Kernels) -> Model {
    Model::load(&folder(model), kernels, None).expect("a golden model")
}

fn rule(name: &str) -> Truncation {
    name.parse().expect("a known truncation rule")
}

/// Every sequence of the golden file with its logit: pairs, the sweep and raw ids.
fn sequences(golden: &Golden, tokenizer: &PairTokenizer) -> Vec<(String, Vec<u32>, Vec<u32>, f32)> {
    let mut all = Vec::new();
    for pair in &golden.pairs {
        let name = format!(
            "{:?} / {:?} in {}",
            pair.query, pair.passage, pair.max_length
        );
        all.push((
            name,
            pair.input_ids.clone(),
            pair.token_type_ids.clone(),
            pair.logit,
        ));
    }
    let sweep = &golden.sweep;
    let query = tokenizer.encode(&sweep.query).expect("encodes");
    let passage = tokenizer.encode(&sweep.passage).expect("encodes");
    for &(length, kept_query, kept_passage, logit) in &sweep.rows {
        let joined = tokenizer
            .join(&query, &passage, length, rule(&sweep.truncation))
            .expect("joins");
        assert_eq!(joined.ids.len(), length);
        assert_eq!(kept_query + kept_passage + golden.special_tokens, length);
        all.push((
            format!("sweep at {length}"),
            joined.ids,
            joined.type_ids,
            logit,
        ));
    }
    for raw in &golden.raw {
        let name = format!("{} raw ids", raw.input_ids.len());
        all.push((
            name,
            raw.input_ids.clone(),
            raw.token_type_ids.clone(),
            raw.logit,
        ));
    }
    all
}

fn alone(model: &Model, ids: &[u32], type_ids: &[u32]) -> f32 {
    let mut packed = Packed::new();
    packed.push(ids, type_ids);
    model.forward(&packed).expect("computes")[0]
}

#[test]
fn token_ids_of_texts_equal_hugging_faces() {
    let all = MODELS
        .into_iter()
        .flat_map(|model| tokenizers(model).into_iter().map(move |t| (model, t)));
    for (model, tokenizer) in all {
        let golden: Golden = read(model);
        assert_eq!(tokenizer.special_tokens(), golden.special_tokens, "{model}");
        for text in &golden.texts {
            let encoded = tokenizer.encode(&text.text).expect("encodes");
            assert_eq!(encoded.ids(), text.input_ids, "{model}: {:?}", text.text);
        }
        println!("{model}: {} texts", golden.texts.len());
    }
}

#[test]
fn token_ids_of_pairs_equal_hugging_faces_under_both_truncation_rules() {
    let all = MODELS
        .into_iter()
        .flat_map(|model| tokenizers(model).into_iter().map(move |t| (model, t)));
    for (model, tokenizer) in all {
        let golden: Golden = read(model);
        for pair in &golden.pairs {
            let name = format!("{model}: {:?} / {:?}", pair.query, pair.passage);
            let query = tokenizer.encode(&pair.query).expect("encodes");
            let passage = tokenizer.encode(&pair.passage).expect("encodes");
            assert_eq!(
                query.tokens(),
                pair.kept_query + pair.dropped_query,
                "{name}"
            );
            assert_eq!(
                passage.tokens(),
                pair.kept_passage + pair.dropped_passage,
                "{name}"
            );
            let joined = tokenizer
                .join(&query, &passage, pair.max_length, rule(&pair.truncation))
                .expect("joins");
            assert_eq!(joined.ids, pair.input_ids, "{name}");
            assert_eq!(joined.type_ids, pair.token_type_ids, "{name}");
        }
        println!("{model}: {} pairs", golden.pairs.len());
    }
}

#[test]
fn truncation_equals_what_the_fast_tokenizer_does_with_every_combination_of_lengths() {
    #[derive(Deserialize)]
    struct Table {
        special_tokens: usize,
        longest_first: Vec<[usize; 5]>,
        flag: Vec<[usize; 5]>,
    }
    let table: Table = read("truncation");
    for (rule, rows) in [
        (Truncation::LongestFirst, &table.longest_first),
        (Truncation::Flag, &table.flag),
    ] {
        assert!(rows.len() > 1000);
        for &[query, document, max, kept_query, kept_document] in rows {
            let kept = kept_tokens(rule, query, document, max, table.special_tokens);
            let expected = Kept {
                query: kept_query,
                document: kept_document,
            };
            assert_eq!(kept, expected, "{rule}: {query} and {document} in {max}");
        }
    }
}

#[test]
fn logits_equal_pytorchs_on_every_instruction_set() {
    for model in MODELS {
        let golden: Golden = read(model);
        let sequences = sequences(&golden, &tokenizer(model));
        for isa in Isa::ALL {
            let Some(kernels) = Kernels::with(isa) else {
                println!("{model}: {} is not on this machine", isa.name());
                continue;
            };
            let model_under_test = load(model, kernels);
            assert_eq!(model_under_test.config().max_length(), golden.max_length);
            let mut worst = 0f32;
            for (name, ids, type_ids, logit) in &sequences {
                let ours = alone(&model_under_test, ids, type_ids);
                let difference = (ours - logit).abs();
                assert!(
                    difference <= TOLERANCE,
                    "{model} on {}: {name}: {ours} is not {logit}",
                    isa.name()
                );
                worst = worst.max(difference);
            }
            println!(
                "{model} on {}: {} sequences, largest difference {worst:.1e}",
                isa.name(),
                sequences.len()
            );
        }
    }
}

#[test]
fn logits_of_every_family_equal_pytorchs_on_every_instruction_set() {
    for name in FAMILIES {
        let golden: FamilyGolden = read(name);
        for isa in Isa::available() {
            let model = load(name, Kernels::with(isa).expect("is available"));
            assert!(model.unused().is_empty(), "{name}: {:?}", model.unused());
            assert_eq!(model.config().max_length(), golden.max_length, "{name}");
            let fastest = isa == Kernels::detect().isa();
            let sequences = golden.sequences(name, model.config().vocab_size);
            let mut worst = (0f32, 0);
            for (length, ids, types, logit) in &sequences {
                if *length > LONG && !fastest {
                    continue;
                }
                let ours = alone(&model, ids, types);
                let difference = (ours - logit).abs();
                assert!(
                    difference <= TOLERANCE,
                    "{name} on {}: {length} tokens: {ours} is not {logit}",
                    isa.name()
                );
                if difference > worst.0 {
                    worst = (difference, *length);
                }
            }
            println!(
                "{name} on {}: {} sequences, largest difference {:.1e} at {} tokens",
                isa.name(),
                sequences.len(),
                worst.0,
                worst.1
            );
        }
    }
}

/// The numbers in the weight files of a folder, without tensors that are not read.
fn numbers(folder: &Path, unused: &[String]) -> usize {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sum += numbers(&path, unused);
        } else if path.extension().is_some_and(|it| it == "safetensors") {
            let bytes = std::fs::read(&path).expect("read");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("a weight file");
            let read = file
                .tensors()
                .into_iter()
                .filter(|(name, _)| !unused.contains(name))
                .filter(|(_, it)| !matches!(it.dtype(), safetensors::Dtype::I64));
            sum += read
                .map(|(_, it)| it.shape().iter().product::<usize>())
                .sum::<usize>();
        }
    }
    sum
}

#[test]
fn parameters_are_counted_as_the_files_have_them() {
    for name in MODELS.into_iter().chain(FAMILIES) {
        let model = load(name, Kernels::detect());
        let expected = numbers(&folder(name), model.unused());
        assert_eq!(model.parameters(), expected as u64, "{name}");
    }
}

#[test]
fn a_logit_of_any_family_is_the_same_to_the_bit_in_any_batch() {
    for name in FAMILIES {
        let golden: FamilyGolden = read(name);
        for isa in Isa::available() {
            let model = load(name, Kernels::with(isa).expect("is available"));
            let mut sequences = golden.sequences(name, model.config().vocab_size);
            sequences.retain(|(length, ..)| *length <= 130);
            let expected: Vec<f32> = sequences
                .iter()
                .map(|(_, ids, types, _)| alone(&model, ids, types))
                .collect();
            for (threads, size) in [(1, sequences.len()), (3, sequences.len()), (3, 5)] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("a pool");
                for (part, expected) in sequences.chunks(size).zip(expected.chunks(size)) {
                    let mut packed = Packed::new();
                    part.iter()
                        .for_each(|(_, ids, types, _)| packed.push(ids, types));
                    let logits = pool.install(|| model.forward(&packed)).expect("computes");
                    let bits = |logits: &[f32]| -> Vec<u32> {
                        logits.iter().map(|logit| logit.to_bits()).collect()
                    };
                    assert_eq!(
                        bits(&logits),
                        bits(expected),
                        "{name} on {}, {threads} threads, {size} a pass",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_logit_is_the_same_to_the_bit_alone_and_in_any_batch() {
    for model in MODELS {
        let golden: Golden = read(model);
        let sequences = sequences(&golden, &tokenizer(model));
        for isa in Isa::available() {
            let kernels = Kernels::with(isa).expect("is available");
            let model_under_test = load(model, kernels);
            let expected: Vec<u32> = sequences
                .iter()
                .map(|(_, ids, types, _)| alone(&model_under_test, ids, types).to_bits())
                .collect();
            // All in one pass, in order and reversed, and in passes of uneven sizes, on one thread and on three.
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("a pool");
                for size in [sequences.len(), 7, 2] {
                    for reversed in [false, true] {
                        let mut order: Vec<usize> = (0..sequences.len()).collect();
                        if reversed {
                            order.reverse();
                        }
                        for part in order.chunks(size) {
                            let mut packed = Packed::new();
                            for &index in part {
                                packed.push(&sequences[index].1, &sequences[index].2);
                            }
                            let logits = pool
                                .install(|| model_under_test.forward(&packed))
                                .expect("computes");
                            for (&index, logit) in part.iter().zip(logits) {
                                assert_eq!(
                                    logit.to_bits(),
                                    expected[index],
                                    "{model} on {}, {threads} threads, {size} a pass: {}",
                                    isa.name(),
                                    sequences[index].0
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn candle_transformers_own_xlm_roberta_agrees() {
    use candle_core::{DType, Device, Tensor};
    use candle_transformers::models::xlm_roberta::{Config, XLMRobertaForSequenceClassification};

    let golden: Golden = read("xlm-roberta");
    let ours = load("xlm-roberta", Kernels::detect());
    let path = folder("xlm-roberta");
    let config = std::fs::read(path.join("config.json")).expect("the golden model's config");
    let config: Config = serde_json::from_slice(&config).expect("candle reads it");
    let weights = std::fs::read(path.join("model.safetensors")).expect("the golden weights");
    let weights =
        candle_nn::VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)
            .expect("candle reads them");
    let theirs =
        XLMRobertaForSequenceClassification::new(1, &config, weights).expect("candle loads it");
    let mut compared = 0;
    for (name, ids, type_ids, _) in sequences(&golden, &tokenizer("xlm-roberta")) {
        // candle masks padding tokens that a text contains literally; Hugging Face attends to them.
        if ids.contains(&ours.config().pad_token_id) {
            continue;
        }
        let row = |values: &[u32]| {
            Tensor::new(values, &Device::Cpu)
                .and_then(|t| t.unsqueeze(0))
                .expect("a row")
        };
        let mask = row(&vec![1; ids.len()]);
        let logit = theirs
            .forward(&row(&ids), &mask, &row(&type_ids))
            .and_then(|logits| logits.flatten_all()?.to_vec1::<f32>())
            .expect("candle computes")[0];
        let difference = (alone(&ours, &ids, &type_ids) - logit).abs();
        assert!(difference <= TOLERANCE, "{name}: differs by {difference}");
        compared += 1;
    }
    assert!(compared > 100, "only {compared} sequences were compared");
}

#[test]
fn what_the_model_cannot_take_is_an_error() {
    let model = load("bert", Kernels::detect());
    let config = model.config().clone();
    let forward = |ids: &[u32], type_ids: &[u32]| {
        let mut packed = Packed::new();
        packed.push(ids, type_ids);
        model.forward(&packed).expect_err("refused").to_string()
    };
    let beyond = u32::try_from(config.vocab_size).expect("small");
    assert!(forward(&[2, beyond], &[0, 0]).contains("token id"));
    assert!(forward(&[2, 3], &[0, 2]).contains("segment 2"));
    let long = vec![7; config.max_length() + 1];
    assert!(forward(&long, &vec![0; long.len()]).contains("exceeds the positions"));
}
