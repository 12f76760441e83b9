//! The pages say what the program has: variables, error codes, answers. Their links lead somewhere, and images are named by digest.

// Not every test file uses everything that they share.
#[allow(dead_code)]
#[path = "support/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;

use std::path::{Path, PathBuf};

use serde_json::Value;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_documented_variables_are_the_programs() {
    let table = reranker::config::markdown_table();
    assert!(
        text("docs/reference/configuration.md").contains(&table),
        "docs/reference/configuration.md lacks this table (`reranker variables` prints it):\n{table}"
    );
}

#[test]
fn every_error_code_is_documented() {
    let page = text("docs/reference/errors.md");
    for code in reranker::http::ERROR_CODES {
        assert!(
            page.contains(&format!("`{code}`")),
            "{code} is not in docs/reference/errors.md"
        );
    }
}

/// Requests and answers as documents show them: a call of curl, then JSON, both indented.
fn samples(text: &str) -> Vec<(String, Value, Value)> {
    let mut samples = Vec::new();
    for call in text.split("\n    curl -s localhost:8000/").skip(1) {
        let (path, rest) = call.split_once(" -H").expect("a path, then options");
        let (_, rest) = rest.split_once("-d '").expect("a body");
        let (body, rest) = rest.split_once("}'\n\n").expect("a body's end");
        let answer: Vec<&str> = rest
            .lines()
            .take_while(|line| line.starts_with("    "))
            .collect();
        let json = |text: String| {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
        };
        // What depends on machine and time is left out of documents.
        let answer = json(answer.join("\n").replace('…', "\"…\""));
        samples.push((format!("/{path}"), json(format!("{body}}}")), answer));
    }
    samples
}

/// What an answer has otherwise than the sample, of which `…` stands for any number or string.
fn differs(sample: &Value, answer: &Value) -> Option<String> {
    match (sample, answer) {
        (Value::String(any), Value::Number(_) | Value::String(_)) if any == "…" => None,
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.keys().find_map(|name| differs(&a[name], &b[name]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| differs(a, b))
        }
        (a, b) => (a != b).then(|| format!("{a} is {b}")),
    }
}

#[test]
fn documented_answers_are_the_programs() {
    let server = process::Process::serve(&[
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("LOG_FORMAT", "json"),
        ("MODEL_DIR", "models/demo"),
    ]);
    server.wait_for_message("model ready");
    for page in [
        "README.md",
        "docs/reference/api.md",
        "docs/guides/clients.md",
    ] {
        let samples = samples(&text(page));
        assert!(!samples.is_empty(), "{page} shows no answer");
        for (path, body, sample) in samples {
            let reply = client::post(server.address(), &path, &body);
            assert_eq!(reply.status, 200, "{page}, {path} {body}");
            let differs = differs(&sample, &reply.json());
            assert!(
                differs.is_none(),
                "{page}, {path}: {differs:?}\n{}",
                reply.json()
            );
        }
    }
}

#[test]
fn base_images_are_named_by_digest_and_toolchains_are_one() {
    let named = |file: &str| -> Vec<String> {
        let images = text(file);
        let images = images.lines().filter_map(|line| {
            let (name, image) = line.strip_prefix("ARG ")?.split_once('=')?;
            name.ends_with("_IMAGE").then(|| image.to_owned())
        });
        images.collect()
    };
    let (service, gpu) = (named("Dockerfile.lambda"), named("Dockerfile.gpu"));
    assert_eq!((service.len(), gpu.len()), (1, 3));
    assert_eq!(service[0], gpu[0], "both are built by one toolchain");
    for image in service.iter().chain(&gpu) {
        let digest = image.split_once("@sha256:").map(|(_, digest)| digest);
        let whole =
            digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(whole, "{image} is not named by digest");
    }
}

/// As a heading's address is made: small letters, no punctuation, hyphens for blanks.
fn address(heading: &str) -> String {
    let plain = heading.to_lowercase().replace(
        |c: char| !(c.is_alphanumeric() || c == ' ' || c == '-' || c == '_'),
        "",
    );
    plain.trim().replace(' ', "-")
}

/// Every page of the tree but those of what was built or run.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir()
            && !name.starts_with('.')
            && !["target", "run", "node_modules"].contains(&&*name)
        {
            pages.extend(self::pages(&path));
        } else if path.extension().is_some_and(|it| it == "md") {
            pages.push(path);
        }
    }
    pages
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    let pages = pages(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(pages.len() > 30, "{pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("a page");
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.contains(' ')) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let headings = || {
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                let lines = text.lines().filter(|line| line.starts_with('#'));
                lines
                    .map(|line| address(line.trim_start_matches('#')))
                    .collect::<Vec<_>>()
            };
            if !target.exists()
                || !(heading.is_empty() || headings().iter().any(|it| it == heading))
            {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}
