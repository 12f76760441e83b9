//! Holds the rules of ARCHITECTURE.md: which module may import which, and where a foreign crate lives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may import of ours. Everything may import `error` and `json`.
const MAY_IMPORT: [(&str, &[&str]); 17] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "batch",
            "config",
            "fault",
            "host",
            "http",
            "model",
            "rerank",
            "service",
            "telemetry",
            "tokenizer",
            "weights",
        ],
    ),
    ("config", &["fault", "http", "rerank", "telemetry"]),
    ("error", &[]),
    ("fault", &[]),
    ("json", &[]),
    ("rerank", &[]),
    ("telemetry", &[]),
    ("host", &["http", "json", "telemetry"]),
    (
        "http",
        &["dialect", "fault", "rerank", "service", "telemetry"],
    ),
    ("dialect", &["rerank"]),
    (
        "service",
        &["batch", "fault", "model", "rerank", "tokenizer"],
    ),
    ("tokenizer", &["rerank"]),
    ("batch", &[]),
    ("model", &["rerank", "weights"]),
    ("weights", &[]),
    ("lib", &[]),
];

/// The one home of a crate that must not spread.
const HOMES: [(&str, &[&str]); 37] = [
    ("aws_config", &["weights"]),
    ("aws_sdk_s3", &["weights"]),
    ("aws_smithy_checksums", &["weights"]),
    ("aws_smithy_http_client", &["weights"]),
    ("axum", &["http", "host", "cli"]),
    ("hyper_util", &["host"]),
    ("lambda_http", &["host"]),
    ("lambda_extension", &["host"]),
    ("lambda_runtime_api_client", &["host"]),
    ("percent_encoding", &["host"]),
    ("tower_http", &["http"]),
    ("utoipa", &["http", "dialect"]),
    ("candle_core", &["model"]),
    ("candle_nn", &["model"]),
    ("tokenizers", &["tokenizer"]),
    ("base64", &["host", "tokenizer"]),
    ("unicode_categories", &["tokenizer"]),
    ("unicode_normalization_alignments", &["tokenizer"]),
    ("unicode_segmentation", &["tokenizer"]),
    ("lru", &["service"]),
    ("subtle", &["http"]),
    ("hmac", &["http"]),
    ("chrono", &["http"]),
    ("safetensors", &["weights"]),
    ("memmap2", &["weights"]),
    ("clap", &["cli", "host"]),
    ("flate2", &["cli"]),
    ("rustix", &["cli", "http", "telemetry", "weights"]),
    ("tracing_subscriber", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
    ("prometheus_client", &["telemetry"]),
    ("ureq", &["telemetry", "weights"]),
    ("sha1", &["weights"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).expect("below src");
            let top = relative.components().next().expect("a component");
            let module = top.as_os_str().to_string_lossy().replace(".rs", "");
            let text = std::fs::read_to_string(&path).expect("readable");
            // Tests may look around; comments may name anything.
            let code = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
            let code = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            (module, path.clone(), code)
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

#[test]
fn modules_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    let mut seen = 0;
    for (module, path, code) in sources() {
        let allowed = allowed
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{}: no rule for this module", path.display()));
        let prefix = if module == "main" {
            "reranker::"
        } else {
            "crate::"
        };
        for import in names_after(&code, prefix) {
            seen += 1;
            assert!(
                import == module
                    || ["error", "json"].contains(&&*import)
                    || allowed.contains(&import.as_str()),
                "{}: {module} may not import {import}",
                path.display()
            );
        }
    }
    assert!(
        seen > 50,
        "only {seen} imports were found: is the test blind?"
    );
}

#[test]
fn foreign_crates_stay_at_home() {
    for (name, homes) in HOMES {
        let mut seen = 0;
        for (module, path, code) in sources() {
            if code.contains(&format!("{name}::")) {
                seen += 1;
                assert!(
                    homes.contains(&module.as_str()),
                    "{}: {name} belongs to {homes:?}",
                    path.display()
                );
            }
        }
        assert!(seen > 0, "{name} is not used at all");
    }
}

#[test]
fn nothing_panics_where_an_output_cannot_be_written() {
    for (_, path, code) in sources() {
        for name in ["print!(", "println!(", "dbg!("] {
            assert!(
                !code.contains(name),
                "{}: {name}…) panics on a closed pipe or a full disk: `say!` and `note!` do not",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_command_line_reads_the_configuration_and_only_the_configuration_the_environment() {
    for (module, path, code) in sources() {
        assert!(
            !code.contains("config::Config") || module == "cli" || module == "config",
            "{}: settings are handed over, not looked up",
            path.display()
        );
        assert!(
            !(code.contains("env::var") && module != "config"),
            "{}: the environment is read in config.rs",
            path.display()
        );
    }
}

/// Every source file of the program and its kernels, by its path from the root.
fn all_sources() -> Vec<(String, String)> {
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
    for folder in ["src", "crates/cuda/src", "crates/kernels/src"] {
        walk(root, &root.join(folder), &mut found);
    }
    found.sort();
    found
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
    // The traits of instruction sets, matrix units and ways to multiply.
    let traits = ["/simd.rs", "/matrix_unit.rs", "/int8/means.rs"];
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
