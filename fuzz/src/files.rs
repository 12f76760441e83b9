//! The tests' models in their packed forms, in the folder that `FUZZ_FILES` names: `run.sh` makes them, as it takes seconds, which each
//! start of a target would take again.

use std::path::Path;

/// The models whose tokenizers have a compiled form, and their sources.
pub const TOKENIZERS: [(&str, &str); 4] = [
    ("roberta", "tests/golden/roberta/tokenizer.json"),
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

/// A packed model.
pub fn packed(name: &str) -> Vec<u8> {
    let folder = std::env::var("FUZZ_FILES").expect("FUZZ_FILES names a folder");
    let path = Path::new(&folder).join(format!("{name}.safetensors"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The compiled tokenizer of a packed model.
pub fn compiled(name: &str) -> Vec<u8> {
    let file = packed(name);
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("a packed model");
    let tokenizer = tensors.tensor("tokenizer.compiled");
    tokenizer.expect("a compiled tokenizer").data().to_vec()
}
