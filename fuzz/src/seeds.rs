//! Writes the fuzz targets' first inputs, a folder for each: from `events/`, `tests/wire/` and the tests' models.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const TEXTS: &[&str] = &[
    "what is a panda?",
    "Die Größe — \u{201e}naïve\u{201c} ﬁ ½ ①",
    "東京は首都です。 大阪ではない。",
    "한국어 문장 e\u{301}\u{327} \u{1100}\u{1161}\u{11a8}",
    "<s> <mask></s>[CLS][SEP] ▁ ##ing",
    "\u{0}\u{7}\r\n\t\u{a0}\u{200b}\u{feff}\u{fffd} 👩\u{200d}👩\u{200d}👧 🇩🇪",
    "नमस्ते \u{94d}क ไทย العربية",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 3.14 $5,000.00 it's U.S.A.",
];

struct Seeds {
    out: PathBuf,
}

impl Seeds {
    fn add(&self, target: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.out.join(target);
        fs::create_dir_all(&folder).expect("a folder");
        let number = fs::read_dir(&folder).expect("the folder").count();
        fs::write(folder.join(format!("{number:03}")), bytes).expect("written");
    }
}

fn main() {
    let out = std::env::args().nth(1).expect("a folder to write to");
    let seeds = Seeds { out: out.into() };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let wire = wire(&root);
    for whose in 0..=16u8 {
        for body in wire.values().flatten() {
            seeds.add("dialects", [&[whose], body.as_bytes()].concat());
        }
    }
    requests(&seeds, &wire);
    let events = ["events", "events/other"].map(|folder| fs::read_dir(root.join(folder)));
    for entry in events
        .into_iter()
        .flat_map(|folder| folder.expect("events"))
    {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let event = fs::read_to_string(path).expect("an event");
        if event.len() < 4000 {
            seeds.add("lambda_event", &event);
            seeds.add("lambda_event", format!("{event}\0{}", xray()));
        }
    }
    models(&seeds, &root);
    for (i, text) in TEXTS.iter().enumerate() {
        seeds.add("tokenizer", text);
        let numbers = [1000u32, 64, 30, 7].map(|n| n + i as u32);
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        seeds.add("chunking", [&bytes, text.as_bytes()].concat());
        seeds.add(
            "compiled_tokenizer",
            [&[i as u8; 40], text.as_bytes()].concat(),
        );
        seeds.add("packed", [i as u8 * 31; 64]);
    }
    for lengths in [[10u16, 500, 512, 0], [599, 599, 100, 1], [3, 4, 2, 0]] {
        let bytes: Vec<u8> = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        seeds.add("truncation", bytes);
    }
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    seeds.add("trace_headers", format!("{parent}\na=b,c=d\n{}", xray()));
    seeds.add("trace_headers", format!("{parent}\n\n"));
    seeds.add("trace_headers", format!("\n\n{}", xray()));
    hub(&seeds);
}

fn xray() -> &'static str {
    "Self=1-0-0;Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a:0"
}

/// Bodies as clients send them, by the file of tests/wire.
fn wire(root: &Path) -> BTreeMap<String, Vec<String>> {
    let files = fs::read_dir(root.join("tests/wire")).expect("tests/wire");
    let bodies = files.map(|entry| {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file");
        let format: Value = serde_json::from_str(&text).expect("JSON");
        let exchanges = format["exchanges"].as_array().expect("exchanges").iter();
        let bodies = exchanges.map(|exchange| match &exchange["request"] {
            Value::String(text) => text.clone(),
            body => body.to_string(),
        });
        let name = path.file_stem().expect("a name").to_string_lossy();
        (name.into_owned(), bodies.collect())
    });
    bodies.collect()
}

fn requests(seeds: &Seeds, wire: &BTreeMap<String, Vec<String>>) {
    let json = "content-type: application/json\n";
    // A few of each format: each of these is ranked.
    for body in wire.values().flat_map(|bodies| bodies.iter().take(3)) {
        seeds.add("router", format!("POST /rerank\n{json}\n{body}"));
    }
    let first = |format: &str| &wire[format][0];
    for path in [
        "/v2/rerank",
        "/rerank/batch",
        "/estimate",
        "/api/v1/rerank",
        "/tei/rerank",
        "/azure/inference/semanticReranking",
        "/bedrock/rerank",
        "/pinecone/rerank",
        "/vllm/score",
    ] {
        seeds.add(
            "router",
            format!(
                "POST {path}\n{json}x-request-timeout-ms: 50\n\n{}",
                first("common")
            ),
        );
    }
    for path in [
        "/",
        "/?file=page.js",
        "/docs",
        "/docs/page.js",
        "/openapi.json",
        "/health",
        "/metrics",
        "/info",
        "/%2e/x",
        "//rerank",
    ] {
        seeds.add(
            "router",
            format!("GET {path}\norigin: https://example.com\nx-request-id: a-1\n\n"),
        );
        seeds.add("router", format!("OPTIONS {path}\norigin: https://example.com\naccess-control-request-method: POST\naccess-control-request-headers: authorization\n\n"));
    }
    let signed = "AWS4-HMAC-SHA256 Credential=AKID/@day@/us-east-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=";
    let signature = "0".repeat(64);
    seeds.add(
        "router",
        format!("POST /rerank?b=2&a=%20x\nauthorization: {signed}{signature}\nx-amz-date: @time@\nhost: example.com\n{json}\n{}", first("bedrock")),
    );
    seeds.add("router", format!("POST /rerank\nauthorization: Bearer k\nx-api-key: j\ncontent-length: 99999\n{json}\n{}", first("native")));
}

/// The golden models' configurations, and models of a few hundred bytes of each family.
fn models(seeds: &Seeds, root: &Path) {
    for name in ["bert", "roberta", "xlm-roberta"] {
        let file = root.join("tests/golden").join(name).join("config.json");
        seeds.add("config", fs::read(file).expect("a configuration"));
    }
    for (dtype, bytes) in [(Dtype::F32, 4), (Dtype::F16, 2), (Dtype::BF16, 2)] {
        let config = json!({
            "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 3, "hidden_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2, "hidden_act": "gelu",
            "max_position_embeddings": 8, "type_vocab_size": 2, "id2label": {"0": "L"},
        })
        .to_string();
        seeds.add("config", &config);
        let layer = "bert.encoder.layer.0";
        let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let embeddings = [("word", 3), ("position", 8), ("token_type", 2)];
        for (name, rows) in embeddings {
            shapes.insert(
                format!("bert.embeddings.{name}_embeddings.weight"),
                vec![rows, 2],
            );
        }
        for name in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ] {
            shapes.insert(format!("{layer}.{name}.weight"), vec![2, 2]);
            shapes.insert(format!("{layer}.{name}.bias"), vec![2]);
        }
        for name in [
            "bert.embeddings",
            &format!("{layer}.attention.output"),
            &format!("{layer}.output"),
        ] {
            for part in ["weight", "bias"] {
                shapes.insert(format!("{name}.LayerNorm.{part}"), vec![2]);
            }
        }
        shapes.insert("bert.pooler.dense.weight".into(), vec![2, 2]);
        shapes.insert("bert.pooler.dense.bias".into(), vec![2]);
        shapes.insert("classifier.weight".into(), vec![1, 2]);
        shapes.insert("classifier.bias".into(), vec![1]);
        let data = vec![0x3c; 64];
        let views = shapes.iter().map(|(name, shape)| {
            let length = shape.iter().product::<usize>() * bytes;
            let view = TensorView::new(dtype, shape.clone(), &data[..length]);
            (name.as_str(), view.expect("a tensor"))
        });
        let tensors = safetensors::serialize(views, None).expect("safetensors");
        let length = u16::try_from(config.len()).expect("a short configuration");
        seeds.add(
            "safetensors",
            [&length.to_le_bytes(), config.as_bytes(), &tensors].concat(),
        );
    }
}

fn hub(seeds: &Seeds) {
    let info = json!({"sha": "0123456789abcdef0123456789abcdef01234567"}).to_string();
    let oid = "89abcdef0123456789abcdef0123456789abcdef";
    let file = |path: &str| json!({"type": "file", "path": path, "size": 10, "oid": oid});
    let large = |path: &str| json!({"path": path, "size": 5, "oid": oid, "lfs": {"oid": oid.repeat(2)[..64], "size": 1u64 << 33}});
    let single = json!([
        file("config.json"),
        file("tokenizer.json"),
        large("model.safetensors")
    ]);
    seeds.add("hub", format!("{info}\0{single}\0"));
    let shards = json!([
        file("config.json"),
        file("tokenizer.json"),
        file("model.safetensors.index.json"),
        large("a.safetensors"),
    ]);
    let index = json!({"weight_map": {"w": "a.safetensors"}});
    seeds.add("hub", format!("{info}\0{shards}\0{index}"));
}
