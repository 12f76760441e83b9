//! Packed models: made from the demo model by the command, served, compared with their source, and refused when damaged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::families::FAMILIES;
use kernels::Kernels;
use reranker_engine::model::{Model, Packed};
use reranker_engine::weights::{Prefetch, Weights, check_payload};
use safetensors::tensor::TensorView;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn reranker(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reranker"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(variables.iter().copied())
        .args(args)
        .output()
        .expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The demo model packed, once for all tests of this file.
fn packed() -> &'static Path {
    static PACKED: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    &PACKED
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("demo.safetensors");
            pack("models/demo", &path);
            (dir, path)
        })
        .1
}

fn pack(model: &str, out: &Path) {
    pack_with(model, out, &[]);
}

fn pack_with(model: &str, out: &Path, options: &[&str]) {
    let out = out.to_str().expect("a plain path");
    let arguments = [&["pack", "--model", model, "--out", out], options].concat();
    let done = reranker(&arguments, &[]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("score differs from f32"));
}

const PAIRS: &str = "bench/pairs.jsonl";

/// Logits of the benchmark's multilingual pairs.
fn logits(model: &Path, variables: &[(&str, &str)]) -> Vec<f64> {
    logits_of(PAIRS, model, variables)
}

fn logits_of(pairs: &str, model: &Path, variables: &[(&str, &str)]) -> Vec<f64> {
    let model = model.to_str().expect("a plain path");
    let all = [&[("MODEL_DIR", model)], variables].concat();
    let done = reranker(&["score", "--raw", "--jsonl", pairs], &all);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let scores = text(&done.stdout);
    let logit = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        value["logit"].as_f64().expect("a logit")
    };
    scores.lines().map(logit).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn packing_is_deterministic_and_near_the_source() {
    let dir = tempfile::tempdir().expect("a folder");
    let again = dir.path().join("again.safetensors");
    pack("models/demo", &again);
    let bytes = std::fs::read(packed()).expect("read");
    assert!(
        bytes == std::fs::read(&again).expect("read"),
        "two packings differ"
    );

    let int8 = logits(packed(), &[]);
    let f32s = logits(Path::new("models/demo"), &[("PRECISION", "f32")]);
    let differences: Vec<f64> = int8
        .iter()
        .zip(&f32s)
        .map(|(a, b)| (sigmoid(*a) - sigmoid(*b)).abs())
        .collect();
    assert_eq!(int8.len(), f32s.len());
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let max = differences.iter().fold(0f64, |a, b| a.max(*b));
    assert!(mean > 0.0, "int8 and f32 are the same");
    assert!(mean <= 0.01 && max <= 0.03, "mean {mean}, max {max}");
}

/// A copy of a golden model with outliers: some channels behind every layer norm are moved far off, and whatever reads or adds them
/// takes that back in its bias, so that the model computes what it did.
fn with_outliers(source: &Path, out: &Path) {
    const CHANNELS: [(usize, f32); 3] = [(3, 40.0), (17, -25.0), (30, 60.0)];
    let bytes = std::fs::read(source.join("model.safetensors")).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = file
        .iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4);
            let values = values.map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
            (name.to_owned(), (view.shape().to_vec(), values.collect()))
        })
        .collect();
    let mut put = |norm: &str, readers: &[String], adder: &str| {
        for (channel, offset) in CHANNELS {
            let mut add = |name: &str, value: f32| {
                tensors.get_mut(name).expect(name).1[channel] += value;
            };
            add(&format!("{norm}.bias"), offset);
            add(&format!("{adder}.bias"), -offset);
            for reader in readers {
                let (shape, weight) = tensors[&format!("{reader}.weight")].clone();
                let bias = &mut tensors
                    .get_mut(&format!("{reader}.bias"))
                    .expect("a bias")
                    .1;
                for (bias, row) in bias.iter_mut().zip(weight.chunks_exact(shape[1])) {
                    *bias -= row[channel] * offset;
                }
            }
        }
    };
    let layer = |index: usize| format!("roberta.encoder.layer.{index}");
    let attention = |index| {
        ["query", "key", "value"].map(|part| format!("{}.attention.self.{part}", layer(index)))
    };
    let attention_out = |index| format!("{}.attention.output", layer(index));
    put(
        "roberta.embeddings.LayerNorm",
        &attention(0),
        &format!("{}.dense", attention_out(0)),
    );
    for index in 0..3 {
        put(
            &format!("{}.LayerNorm", attention_out(index)),
            &[format!("{}.intermediate.dense", layer(index))],
            &format!("{}.output.dense", layer(index)),
        );
        if index < 2 {
            put(
                &format!("{}.output.LayerNorm", layer(index)),
                &attention(index + 1),
                &format!("{}.dense", attention_out(index + 1)),
            );
        }
    }
    let bytes: BTreeMap<&str, (&[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name.as_str(), (&shape[..], bytes))
        })
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.expect("a tensor"))
    });
    let path = out.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("written");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(source.join(file), out.join(file)).expect("copied");
    }
}

#[test]
fn a_model_with_outlier_channels_is_packed_as_near_as_one_without() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta");
    let dir = tempfile::tempdir().expect("a folder");
    with_outliers(&golden, dir.path());
    let file = dir.path().join("packed.safetensors");
    pack(dir.path().to_str().expect("a plain path"), &file);
    let exact = logits(&golden, &[("PRECISION", "f32")]);
    let same = logits(dir.path(), &[("PRECISION", "f32")]);
    let int8 = logits(&file, &[]);
    for ((exact, same), int8) in exact.iter().zip(&same).zip(&int8) {
        assert!((exact - same).abs() < 1e-3, "{same} for {exact}");
        assert!(
            (sigmoid(*int8) - sigmoid(*exact)).abs() < 0.03,
            "{int8} for {exact}"
        );
    }
}

#[test]
fn a_pair_scores_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let whole = logits(packed(), &[("THREADS", "2")]);
    for variables in [
        ("BATCH_TOKENS", "16"),
        ("THREADS", "1"),
        ("BATCH_TOKENS", "200"),
    ] {
        let other = logits(packed(), &[variables]);
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&other), "{variables:?}");
    }
}

/// Families beside BERT's, of which [`packing_is_deterministic_and_near_the_source`] says the same of the demo model.
#[test]
fn every_family_is_packed_near_its_source_and_scores_the_same_bits_in_any_batch() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in FAMILIES {
        let source = Path::new("tests/golden").join(name);
        let out = dir.path().join(format!("{name}.safetensors"));
        // A norm over the few random channels of this one's head makes noise larger than a published model does.
        let options: &[&str] = match name {
            "modernbert-modules" => &["--bits", "8", "--high-precision", "all"],
            _ => &[],
        };
        pack_with(source.to_str().expect("a plain path"), &out, options);
        let exact = logits(&source, &[("PRECISION", "f32")]);
        let int8 = logits(&out, &[]);
        let differences = int8.iter().zip(&exact);
        let most = differences.map(|(a, b)| (sigmoid(*a) - sigmoid(*b)).abs());
        let most = most.fold(0f64, f64::max);
        assert!(most > 0.0 && most <= 0.03, "{name}: {most}");
        let model = Model::load(&out, Kernels::detect(), None).expect("loads");
        let sequence = |length: u32| (0..length).map(move |at| (at * 37 + length) % 300 + 5);
        let lengths = [1, 2, 3, 17, 33, 62, 20];
        let mut together = Packed::new();
        let mut alone = Vec::new();
        for length in lengths {
            let ids: Vec<u32> = sequence(length).collect();
            let mut one = Packed::new();
            for packed in [&mut one, &mut together] {
                packed.push(&ids, &vec![0; ids.len()]);
            }
            alone.push(model.forward(&one).expect("computes")[0].to_bits());
        }
        let logits = model.forward(&together).expect("computes");
        let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
        assert_eq!(bits, alone, "{name}");
    }
}

#[test]
fn every_instruction_set_gives_nearly_the_same_logits() {
    // The plain code is slow: some pairs will do.
    let all = std::fs::read_to_string(PAIRS).expect("the pairs");
    let some: String = all
        .lines()
        .step_by(4)
        .flat_map(|line| [line, "\n"])
        .collect();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pairs.jsonl");
    std::fs::write(&file, some).expect("written");
    let pairs = file.to_str().expect("a plain path");
    let best = logits_of(pairs, packed(), &[]);
    for isa in kernels::Isa::available() {
        let other = logits_of(pairs, packed(), &[("INSTRUCTION_SET", isa.name())]);
        for (a, b) in best.iter().zip(&other) {
            // Where two sets round an activation differently, what follows differs by as much as quantizing does.
            assert!(
                (sigmoid(*a) - sigmoid(*b)).abs() < 0.03,
                "{isa}: {b} for {a}"
            );
        }
    }
}

/// Packs of fewer bits keep to their levels, are as near as they can be on every set, and give the same bits in any batch and on any
/// number of threads on the sets that gain by them.
#[test]
fn packs_of_fewer_bits_hold_what_their_levels_promise() {
    let dir = tempfile::tempdir().expect("a folder");
    let exact = logits(
        Path::new("tests/golden/xlm-roberta"),
        &[("PRECISION", "f32")],
    );
    for (bits, bound) in [("8", 0.01), ("7", 0.02), ("6", 0.03)] {
        let path = dir.path().join(bits);
        let out = path.to_str().expect("a plain path");
        let model = ["--model", "tests/golden/xlm-roberta", "--out", out];
        let done = reranker(&[&["pack", "--bits", bits][..], &model].concat(), &[]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert_eq!(text(&done.stdout).contains("AVX2"), bits != "8");

        let weights = Weights::open(&path).expect("a packed file");
        let levels = &weights.manifest().expect("a manifest").levels;
        assert_eq!(levels.is_empty(), bits == "8");
        for (name, levels) in levels {
            let panels = weights.raw(&format!("{name}.panels")).expect(name);
            let largest = panels
                .as_ref()
                .iter()
                .map(|w| w.cast_signed().unsigned_abs());
            let largest = largest.max().expect("weights");
            assert!(
                largest <= levels.weights && largest > levels.weights / 2,
                "{name}"
            );
            assert!(u32::from(levels.weights) * u32::from(levels.inputs) * 4 <= 32767);
        }
        for isa in kernels::Isa::available() {
            let set = ("INSTRUCTION_SET", isa.name());
            let int8 = logits(&path, &[set]);
            for (exact, int8) in exact.iter().zip(&int8) {
                let difference = (sigmoid(*int8) - sigmoid(*exact)).abs();
                assert!(difference < bound, "{bits} bits, {isa}: {int8} for {exact}");
            }
            for variable in [("BATCH_TOKENS", "16"), ("THREADS", "1")] {
                assert!(
                    logits(&path, &[set, variable]) == int8,
                    "{isa} {variable:?}"
                );
            }
        }
    }
}

#[test]
fn a_folder_serves_its_packed_form_unless_f32_is_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let source = Path::new("models/demo").join(file);
        std::fs::copy(source, dir.path().join(file)).expect("copied");
    }
    std::fs::copy(packed(), dir.path().join("packed.safetensors")).expect("copied");
    let int8 = logits(packed(), &[]);
    let f32s = logits(Path::new("models/demo"), &[("PRECISION", "f32")]);
    assert_eq!(logits(dir.path(), &[]), int8);
    assert_eq!(logits(dir.path(), &[("PRECISION", "f32")]), f32s);
    let folder = dir.path().to_str().expect("a plain path");
    let run = |variables: &[(&str, &str)]| {
        let all = [&[("MODEL_DIR", folder)], variables].concat();
        reranker(&["score", "--query", "q", "p"], &all)
    };

    let config = dir.path().join("config.json");
    let changed = std::fs::read_to_string(&config).expect("read") + " ";
    std::fs::write(&config, changed).expect("written");
    let refused = run(&[]);
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("pack the model again"),
        "{}",
        text(&refused.stderr)
    );

    std::fs::remove_file(dir.path().join("packed.safetensors")).expect("removed");
    let refused = run(&[("PRECISION", "int8")]);
    assert!(
        text(&refused.stderr).contains("reranker pack"),
        "{}",
        text(&refused.stderr)
    );
    let refused = run(&[("PRECISION", "bf16")]);
    assert!(
        text(&refused.stderr).contains("PRECISION=bf16"),
        "{}",
        text(&refused.stderr)
    );
    let packed = packed().to_str().expect("a plain path");
    let refused = reranker(
        &["score", "--query", "q", "p"],
        &[("MODEL_DIR", packed), ("PRECISION", "f32")],
    );
    assert!(
        text(&refused.stderr).contains("PRECISION=f32"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_damaged_file_is_refused_and_never_scores_wrong() {
    let whole = std::fs::read(packed()).expect("read");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("damaged.safetensors");
    let model = path.to_str().expect("a plain path");
    let run = |bytes: &[u8], args: &[&str]| {
        std::fs::write(&path, bytes).expect("written");
        reranker(args, &[("MODEL_DIR", model)])
    };
    let score: &[&str] = &["score", "--query", "q", "p"];
    for cut in [0, 1, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        let refused = run(&whole[..cut], score);
        assert_eq!(refused.status.code(), Some(1), "cut to {cut} bytes");
        assert!(text(&refused.stderr).contains("damaged.safetensors"));
    }
    let header = usize::try_from(u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")))
        .expect("a length");
    let find = |needle: &str| {
        let head = &whole[..8 + header];
        head.windows(needle.len())
            .position(|window| window == needle.as_bytes())
            .expect(needle)
    };
    for (needle, replacement, message) in [
        (
            "\\\"format\\\":4",
            "\\\"format\\\":1",
            "pack the model again",
        ),
        ("panel32x4", "panel32x8", "header"),
        (
            "\\\"hidden_size\\\":384",
            "\\\"hidden_size\\\":383",
            "header",
        ),
    ] {
        let mut bytes = whole.clone();
        let at = find(needle);
        bytes[at..at + needle.len()].copy_from_slice(replacement.as_bytes());
        let refused = run(&bytes, score);
        assert_eq!(refused.status.code(), Some(1), "{needle}");
        assert!(
            text(&refused.stderr).contains(message),
            "{}",
            text(&refused.stderr)
        );
    }
    // An altered weight is found by the full check.
    let mut bytes = whole.clone();
    let at = whole.len() / 2;
    bytes[at] ^= 1;
    let refused = run(&bytes, &["verify", "--scores", "models/demo/scores.json"]);
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("SHA-256"),
        "{}",
        text(&refused.stderr)
    );
    let fine = run(&whole, &["verify", "--scores", "models/demo/scores.json"]);
    assert!(
        fine.status.success(),
        "{}{}",
        text(&fine.stdout),
        text(&fine.stderr)
    );
    assert!(text(&fine.stdout).contains("every tensor is as it was packed"));
}

/// A packed file to be damaged: the smallest golden model's, so that thousands of damages take seconds.
struct Damaged {
    dir: tempfile::TempDir,
    whole: Vec<u8>,
    /// Where the tensors begin.
    payload: usize,
    tensors: Vec<(String, Range<usize>)>,
    written: usize,
}

/// What became of a damaged file.
struct Fate {
    loads: bool,
    verifies: bool,
    reason: String,
}

impl Damaged {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("whole");
        pack("tests/golden/bert", &path);
        let whole = std::fs::read(path).expect("read");
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&whole).expect("a header");
        let payload = 8 + header;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            (name, payload + from..payload + to)
        });
        Self {
            tensors: tensors.collect(),
            dir,
            whole,
            payload,
            written: 0,
        }
    }

    fn tensor(&self, name: &str) -> Range<usize> {
        let found = self.tensors.iter().find(|(known, _)| known == name);
        found.expect(name).1.clone()
    }

    /// Loads, computes with and verifies a file of these bytes. Nothing may panic, whatever they are.
    fn fate(&mut self, bytes: &[u8]) -> Fate {
        // A new name each time: what is mapped is not written to.
        self.written += 1;
        let path = self.dir.path().join(self.written.to_string());
        std::fs::write(&path, bytes).expect("written");
        let kernels = Kernels::detect();
        let model = Weights::open(&path).and_then(|weights| {
            Model::from_weights(&path, &weights, kernels, None, Prefetch::none())
        });
        let verifies = check_payload(&path).is_ok();
        std::fs::remove_file(&path).expect("removed");
        let reason = model.as_ref().err().map(ToString::to_string);
        if let Ok(model) = &model {
            let mut packed = Packed::new();
            packed.push(&[101, 7, 102, 9, 102], &[0, 0, 0, 1, 1]);
            // A number or a refusal: the test of a payload is that it is verified.
            if let Ok(logits) = model.forward(&packed) {
                assert!(logits[0].is_finite());
            }
        }
        Fate {
            loads: model.is_ok(),
            verifies,
            reason: reason.unwrap_or_default(),
        }
    }

    /// The file with its header changed and the header's digest made to fit, as another writer's would.
    fn rewritten(&self, from: &str, to: &str) -> Vec<u8> {
        let mut bytes = self.whole.clone();
        let header = &mut bytes[8..self.payload];
        let at = header
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .expect(from);
        header[at..at + from.len()].copy_from_slice(to.as_bytes());
        let digest = Sha256::digest(&bytes[8..self.payload]);
        bytes[self.tensor("integrity.header_sha256")].copy_from_slice(&digest);
        bytes
    }
}

/// Numbers below a bound, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn within(&mut self, range: &Range<usize>) -> usize {
        range.start + self.below(range.len())
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused_at_load_or_found_by_verify() {
    let mut damaged = Damaged::new();
    let whole = damaged.whole.clone();
    let fine = damaged.fate(&whole);
    assert!(fine.loads && fine.verifies, "{}", fine.reason);
    let mut random = Random(1);
    let flip = |damaged: &mut Damaged, at: usize, mask: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= mask;
        damaged.fate(&bytes)
    };
    // Nothing but tensors' own values may come as far as a model: every bit of the header's length, and of the header with
    // its padding and its digest a thousand and a half.
    for bit in 0..64 {
        assert!(
            !flip(&mut damaged, bit / 8, 1 << (bit % 8)).loads,
            "length, bit {bit}"
        );
    }
    let digest = damaged.tensor("integrity.header_sha256");
    for (region, times) in [(8..damaged.payload, 1500), (digest.clone(), 64)] {
        for _ in 0..times {
            let at = random.within(&region);
            let fate = flip(&mut damaged, at, 1 << random.below(8));
            assert!(!fate.loads && !fate.verifies, "header, byte {at}");
        }
    }
    for (name, place) in damaged.tensors.clone() {
        if place == digest {
            continue;
        }
        let mut places = vec![place.start, place.end - 1];
        places.extend((0..6).map(|_| random.within(&place)));
        for at in places {
            let fate = flip(&mut damaged, at, 1 << random.below(8));
            assert!(!fate.verifies, "{name}, byte {at} of the file");
        }
    }
}

#[test]
fn a_file_cut_or_lengthened_anywhere_is_refused_at_load() {
    let mut damaged = Damaged::new();
    let whole = damaged.whole.clone();
    let mut random = Random(2);
    let everywhere = 0..whole.len();
    let borders: Vec<usize> = damaged
        .tensors
        .iter()
        .flat_map(|(_, place)| [place.start - 1, place.start, place.start + 1])
        .collect();
    let cuts = (0..64)
        .chain(damaged.payload - 2..damaged.payload + 2)
        .chain(borders)
        .chain((0..500).map(|_| random.within(&everywhere)));
    for length in cuts {
        let fate = damaged.fate(&whole[..length]);
        assert!(!fate.loads && !fate.verifies, "cut to {length} bytes");
    }
    for more in [1, 31, 32, 4096] {
        let longer = [&whole[..], &vec![0; more]].concat();
        assert!(!damaged.fate(&longer).loads, "{more} bytes more");
    }
}

#[test]
fn a_file_of_another_version_or_layout_is_refused_though_its_digests_fit() {
    let mut damaged = Damaged::new();
    for (from, to, says) in [
        (
            "\\\"format\\\":4",
            "\\\"format\\\":3",
            "expected version 4: pack the model again",
        ),
        (
            "\\\"format\\\":4",
            "\\\"format\\\":5",
            "expected version 4: pack the model again",
        ),
        (
            "panel32x4",
            "panel32x8",
            "weight layout: found \"panel32x8\"",
        ),
        ("panel32x4", "panel16x4", "pack the model again"),
        // What the header says of shapes must be what the model needs.
        (
            "\\\"hidden_size\\\":36",
            "\\\"hidden_size\\\":40",
            "expected shape",
        ),
        (
            "\\\"vocab_size\\\":379",
            "\\\"vocab_size\\\":999",
            "expected shape",
        ),
    ] {
        let fate = damaged.fate(&damaged.rewritten(from, to));
        assert!(!fate.loads, "{to}");
        assert!(fate.reason.contains(says), "{to}: {}", fate.reason);
    }
}
