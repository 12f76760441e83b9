//! What `seeds` makes of the tests' models for targets that begin with a whole file, in the folder that `FUZZ_FILES` names: it takes
//! seconds, which each start of a target would take again.

use std::path::{Path, PathBuf};

/// The tokenizers that have a compiled form, by name, and their sources.
pub const TOKENIZERS: [(&str, &str); 3] = [
    ("xlm-roberta", "tests/golden/xlm-roberta/tokenizer.json"),
    ("bert", "tests/golden/bert/tokenizer.json"),
    ("demo", "models/demo/tokenizer.json"),
];

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("fuzz is in the repository")
}

pub fn path(name: &str) -> PathBuf {
    let folder = std::env::var("FUZZ_FILES").expect("FUZZ_FILES names a folder");
    Path::new(&folder).join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn compiled(name: &str) -> Vec<u8> {
    read(&format!("{name}.compiled"))
}

pub fn packed() -> Vec<u8> {
    read("packed.safetensors")
}
