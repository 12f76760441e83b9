//! Holds the rules of ARCHITECTURE.md that Cargo cannot: the borders inside the program, the environment, outputs, and unsafe code. The
//! borders between crates are their manifests.

use std::collections::BTreeMap;
use std::path::Path;

/// What each module of the program may import of ours: its other modules, and the crates below it.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "batch",
            "config",
            "fault",
            "host",
            "http",
            "reranker_domain",
            "reranker_engine",
            "reranker_json",
            "reranker_sources",
            "service",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "fault",
            "http",
            "reranker_domain",
            "reranker_engine",
            "telemetry",
        ],
    ),
    ("fault", &[]),
    ("telemetry", &[]),
    ("host", &["http", "reranker_json", "telemetry"]),
    (
        "http",
        &[
            "fault",
            "reranker_dialects",
            "reranker_domain",
            "reranker_engine",
            "reranker_json",
            "service",
            "telemetry",
        ],
    ),
    (
        "service",
        &["batch", "fault", "reranker_domain", "reranker_engine"],
    ),
    ("batch", &["reranker_domain"]),
    ("lib", &[]),
];

/// What each module of the engine may import of its others.
const ENGINE_MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("lib", &[]),
    ("error", &[]),
    ("precision", &[]),
    ("plan", &[]),
    ("weights", &["error"]),
    ("tokenizer", &["error"]),
    ("model", &["error", "precision", "weights"]),
    ("prepare", &["tokenizer"]),
    ("receipt", &["weights"]),
    (
        "engine",
        &[
            "error",
            "model",
            "plan",
            "precision",
            "prepare",
            "receipt",
            "tokenizer",
            "weights",
        ],
    ),
];

const MODEL: &str = "crates/engine/src/model";
const TOKENIZER: &str = "crates/engine/src/tokenizer";
const WEIGHTS: &str = "crates/engine/src/weights";
const S3: &str = "crates/sources/src/s3.rs";

/// The one home of a foreign crate that must not spread: modules by the beginnings of their paths.
const HOMES: [(&str, &[&str]); 37] = [
    ("aws_config", &[S3]),
    ("aws_sdk_s3", &[S3]),
    ("aws_smithy_checksums", &[S3]),
    ("aws_smithy_http_client", &[S3]),
    ("axum", &["src/http", "src/host", "src/cli"]),
    ("base64", &["src/host", TOKENIZER]),
    ("candle_core", &[MODEL]),
    ("candle_nn", &[MODEL]),
    ("chrono", &["src/http"]),
    ("clap", &["src/cli", "src/host"]),
    ("flate2", &["src/cli"]),
    ("hmac", &["src/http"]),
    ("hyper_util", &["src/host"]),
    ("lambda_extension", &["src/host"]),
    ("lambda_http", &["src/host"]),
    ("lambda_runtime_api_client", &["src/host"]),
    ("lru", &["src/service"]),
    ("memmap2", &[WEIGHTS]),
    ("opentelemetry", &["src/telemetry"]),
    ("opentelemetry_http", &["src/telemetry"]),
    ("opentelemetry_otlp", &["src/telemetry"]),
    ("opentelemetry_sdk", &["src/telemetry"]),
    ("percent_encoding", &["src/host"]),
    ("prometheus_client", &["src/telemetry"]),
    (
        "rustix",
        &[
            "crates/sources/src",
            "src/cli",
            "src/http",
            "src/telemetry",
            WEIGHTS,
        ],
    ),
    ("safetensors", &[WEIGHTS]),
    ("sha1", &["crates/sources/src/hub.rs"]),
    ("subtle", &["src/http"]),
    ("tokenizers", &[TOKENIZER]),
    ("tower_http", &["src/http"]),
    ("tracing_opentelemetry", &["src/telemetry"]),
    ("tracing_subscriber", &["src/telemetry"]),
    ("unicode_categories", &[TOKENIZER]),
    ("unicode_normalization_alignments", &[TOKENIZER]),
    ("unicode_segmentation", &[TOKENIZER]),
    ("utoipa", &["crates/dialects/src", "src/http"]),
    ("ureq", &["crates/sources/src/hub.rs", "src/telemetry"]),
];

/// The crates of this workspace that are the program's, by their folders.
fn crates() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let entries = std::fs::read_dir(folder).expect("a folder of crates");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("a plain name"))
        .collect();
    names.sort();
    names
}

/// Every source file of a folder below the root, by its path from the root.
fn files(folder: &str) -> Vec<(String, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("readable");
                let name = path.strip_prefix(root).expect("below the root");
                found.push((name.display().to_string(), text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(root, &root.join(folder), &mut found);
    found.sort();
    found
}

/// Every source file of the program and its crates.
fn all_sources() -> Vec<(String, String)> {
    let crates = crates().into_iter().filter(|name| name != "tools");
    let folders = crates.map(|name| format!("crates/{name}/src"));
    let folders = folders.chain(["src".to_owned()]);
    folders.flat_map(|folder| files(&folder)).collect()
}

/// What of a file is the program: tests may look around, comments may name anything.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next();
    code.unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The files of a crate, each with its module.
fn modules(folder: &str) -> Vec<(String, String, String)> {
    files(folder)
        .into_iter()
        .map(|(name, text)| {
            let inner = Path::new(&name).strip_prefix(folder);
            let top = inner.expect("below the folder").components().next();
            let module = top.expect("a component").as_os_str().to_string_lossy();
            (module.replace(".rs", ""), name, code(&text))
        })
        .collect()
}

/// Names that follow `prefix` in `code`, also those in braces: `crate::{a, b::c}`.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    code.match_indices(prefix)
        .flat_map(|(at, _)| {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => {
                    let list = list.split('}').next().unwrap_or_default();
                    list.split(',').map(|item| name(item.trim())).collect()
                }
                None => vec![name(rest)],
            }
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// Holds the files of a crate to what their modules may import; also of the crates below, if `crates` are named in the rules.
fn hold(folder: &str, rules: &[(&str, &[&str])], crates: &[String]) {
    let rules: BTreeMap<&str, &[&str]> = rules.iter().copied().collect();
    let mut seen = 0;
    for (module, file, code) in modules(folder) {
        let allowed = rules
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{file}: no rule for this module"));
        let prefix = if module == "main" {
            "reranker::"
        } else {
            "crate::"
        };
        let below = crates
            .iter()
            .filter(|name| code.contains(name.as_str()))
            .cloned();
        for import in names_after(&code, prefix).into_iter().chain(below) {
            seen += 1;
            assert!(
                import == module || allowed.contains(&import.as_str()),
                "{file}: {module} may not import {import}"
            );
        }
    }
    assert!(
        seen > 20,
        "only {seen} imports were found in {folder}: is the test blind?"
    );
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let below = crates()
        .into_iter()
        .map(|name| format!("reranker_{name}"))
        .collect::<Vec<_>>();
    hold("src", &MAY_IMPORT, &below);
    hold("crates/engine/src", &ENGINE_MAY_IMPORT, &[]);
}

#[test]
fn foreign_crates_stay_at_home() {
    let sources = all_sources();
    for (name, homes) in HOMES {
        let mut seen = 0;
        for (file, text) in &sources {
            if code(text).contains(&format!("{name}::")) {
                seen += 1;
                assert!(
                    homes.iter().any(|home| file.starts_with(home)),
                    "{file}: {name} belongs to {homes:?}"
                );
            }
        }
        assert!(seen > 0, "{name} is not used at all");
    }
}

#[test]
fn nothing_panics_where_an_output_cannot_be_written() {
    for (file, text) in all_sources() {
        for name in ["print!(", "println!(", "dbg!("] {
            assert!(
                !code(&text).contains(name),
                "{file}: {name}…) panics on a closed pipe or a full disk: `say!` and `note!` do not"
            );
        }
    }
}

#[test]
fn only_the_command_line_reads_the_configuration_and_only_the_configuration_the_environment() {
    for (file, text) in all_sources() {
        let code = code(&text);
        let is_config = file.starts_with("src/config");
        assert!(
            !code.contains("config::Config") || file.starts_with("src/cli") || is_config,
            "{file}: settings are handed over, not looked up"
        );
        assert!(
            !code.contains("env::var") || is_config,
            "{file}: the environment is read in config.rs"
        );
    }
}

#[test]
fn images_are_built_from_every_crates_manifest() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for image in ["Dockerfile.lambda", "Dockerfile.gpu"] {
        let text = std::fs::read_to_string(root.join(image)).expect("readable");
        for name in crates() {
            let copied = format!("COPY crates/{name}/Cargo.toml crates/{name}/\n");
            assert!(text.contains(&copied), "{image}: no line {copied}");
            if name == "tools" {
                // Never built there.
                continue;
            }
            let manifest = root.join("crates").join(&name).join("Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).expect("readable");
            let package = manifest
                .lines()
                .find_map(|line| line.strip_prefix("name = "));
            let package = package.expect("a name").trim_matches('"');
            // What was built of nothing must not be taken for what it is built of later.
            assert!(
                text.split_whitespace()
                    .any(|word| word.trim_end_matches(';') == package),
                "{image}: {package} is not cleaned"
            );
        }
    }
}

/// The comments and attributes right above a line.
fn above(lines: &[&str], line: usize) -> String {
    let belongs = |line: &&&str| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[")
    };
    let above = lines[..line].iter().rev().take_while(belongs);
    above.copied().collect::<Vec<_>>().join("\n")
}

#[test]
fn every_unsafe_block_has_its_proof_and_their_number_is_the_documented_one() {
    // The traits of instruction sets, matrix units, ways to multiply and arithmetics.
    let traits = [
        "/simd.rs",
        "/matrix_unit.rs",
        "/int8/means.rs",
        "/int8/quads.rs",
        "/src/attention.rs",
    ];
    let promised: Vec<String> = traits
        .into_iter()
        .flat_map(|name| {
            let sources = all_sources();
            let file = sources.iter().find(|(file, _)| file.ends_with(name));
            names_after(&file.expect("a trait's file").1, "unsafe fn ")
        })
        .collect();
    let mut table = String::new();
    for (file, text) in all_sources() {
        let code = text.split("#[cfg(test)]\nmod tests").next();
        let lines: Vec<&str> = code.unwrap_or_default().lines().collect();
        let (mut blocks, mut functions, mut impls) = (0, 0, 0);
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (at, _) in code.match_indices("unsafe ") {
                let rest = &code[at + "unsafe ".len()..];
                let place = format!("{file}:{}", number + 1);
                let above = above(&lines, number);
                if rest.starts_with('{') {
                    blocks += 1;
                    assert!(
                        above.contains("SAFETY: "),
                        "{place}: a block without its proof"
                    );
                } else if let Some(name) = rest.strip_prefix("fn ") {
                    functions += 1;
                    // What implements a trait promises what the trait does.
                    let of_trait = promised
                        .iter()
                        .any(|known| name.split(['(', '<']).next() == Some(known));
                    assert!(
                        above.contains("# Safety") || of_trait,
                        "{place}: a function that does not say what callers promise"
                    );
                } else {
                    assert!(
                        rest.starts_with("impl ") || rest.starts_with("impl<"),
                        "{place}: an unknown use of unsafe"
                    );
                    impls += 1;
                    assert!(
                        above.contains("SAFETY: "),
                        "{place}: an impl without its proof"
                    );
                }
            }
        }
        if blocks + functions + impls > 0 {
            table += &format!("| `{file}` | {blocks} | {functions} | {impls} |\n");
        }
    }
    let architecture = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(architecture).expect("readable");
    let (_, section) = text
        .split_once("## Unsafe code")
        .expect("a section on unsafe code");
    let stated: String = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').take(5).collect::<Vec<_>>().join("|") + "|\n")
        .collect();
    assert_eq!(stated, table, "ARCHITECTURE.md counts other uses of unsafe");
}
