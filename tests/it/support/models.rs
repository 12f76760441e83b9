//! Models for tests that are about time: one whose loading waits for the test, and one that computes slowly.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::process::tiny_model;

/// A copy of the tiny model that cannot be loaded before the test wants it: debug builds wait while a file is there.
pub struct GatedModel {
    folder: tempfile::TempDir,
}

impl GatedModel {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(tiny_model().join(file), folder.path().join(file)).expect("copied");
        }
        std::fs::write(folder.path().join(GATE), "").expect("written");
        Self { folder }
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().expect("a UTF-8 path")
    }

    /// Lets loading go on.
    pub fn open(&self) {
        std::fs::remove_file(self.folder.path().join(GATE)).expect("removed");
    }
}

/// The file that `src/fault.rs` looks for.
const GATE: &str = "hold-loading";
const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 1024;
const LAYERS: usize = 12;
const POSITIONS: usize = 514;
const VOCABULARY: usize = 2000;

/// A model of 10 million zeros with the tiny model's tokenizer. Its logits are 0, but computing them takes as long as any other
/// model's of that size would: about 13 GFLOP for 512 tokens.
pub struct SlowModel {
    folder: tempfile::TempDir,
}

impl SlowModel {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "architectures": ["XLMRobertaForSequenceClassification"],
            "model_type": "xlm-roberta",
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "intermediate_size": INTERMEDIATE,
            "hidden_act": "gelu",
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "id2label": {"0": "LABEL_0"},
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        std::fs::copy(
            tiny_model().join("tokenizer.json"),
            folder.path().join("tokenizer.json"),
        )
        .expect("copied");
        write_zeros(&folder.path().join("model.safetensors"));
        Self { folder }
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().expect("a UTF-8 path")
    }

    /// A batch of `pairs` pairs that fill the maximum length, each of them different: equal ones are computed once.
    pub fn batch(pairs: usize) -> Value {
        const WORDS: [&str; 8] = ["a", "mile", "and", "half", "how", "far", "is", "it"];
        let passage = "a mile and a half. ".repeat(150);
        let pair = |number: usize| {
            let digits = (0..4).map(|place| WORDS[number >> (3 * place) & 7]);
            json!({"query": digits.collect::<Vec<_>>().join(" "), "passage": passage})
        };
        json!({ "pairs": (0..pairs).map(pair).collect::<Vec<_>>() })
    }
}

/// A safetensors file whose data is one hole: it takes no room on disk.
fn write_zeros(path: &Path) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors() {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut header = Value::Object(header).to_string();
    // The data begins at a multiple of eight bytes.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = File::create(path).expect("created");
    file.write_all(&(header.len() as u64).to_le_bytes())
        .expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + end) as u64)
        .expect("the hole");
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        tensors.push((format!("{name}.weight"), vec![rows, columns]));
        if !name.ends_with("embeddings") {
            tensors.push((format!("{name}.bias"), vec![rows]));
        }
    };
    for (name, rows) in [
        ("word", VOCABULARY),
        ("position", POSITIONS),
        ("token_type", 1),
    ] {
        matrix(
            format!("roberta.embeddings.{name}_embeddings"),
            rows,
            HIDDEN,
        );
    }
    for layer in 0..LAYERS {
        let layer = format!("roberta.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            matrix(format!("{layer}.attention.self.{part}"), HIDDEN, HIDDEN);
        }
        matrix(format!("{layer}.attention.output.dense"), HIDDEN, HIDDEN);
        matrix(format!("{layer}.intermediate.dense"), INTERMEDIATE, HIDDEN);
        matrix(format!("{layer}.output.dense"), HIDDEN, INTERMEDIATE);
    }
    matrix("classifier.dense".into(), HIDDEN, HIDDEN);
    matrix("classifier.out_proj".into(), 1, HIDDEN);
    let mut norms = vec!["roberta.embeddings.LayerNorm".to_owned()];
    for layer in 0..LAYERS {
        let layer = format!("roberta.encoder.layer.{layer}");
        norms.push(format!("{layer}.attention.output.LayerNorm"));
        norms.push(format!("{layer}.output.LayerNorm"));
    }
    for norm in norms {
        tensors.push((format!("{norm}.weight"), vec![HIDDEN]));
        tensors.push((format!("{norm}.bias"), vec![HIDDEN]));
    }
    tensors
}

/// A folder whose model file is cut short.
pub fn broken_model() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(tiny_model().join(file), folder.path().join(file)).expect("copied");
    }
    let weights = std::fs::read(tiny_model().join("model.safetensors")).expect("read");
    std::fs::write(
        folder.path().join("model.safetensors"),
        &weights[..weights.len() / 2],
    )
    .expect("written");
    let path = folder.path().to_owned();
    (folder, path)
}
