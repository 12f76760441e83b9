//! What lies in a folder that is said to hold a model: files are read only where they are plain
//! ones, and what is there instead of a model is named, with the next step.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{INDEX_FILE, MODULES_FILE, PACKED_FILE, SINGLE_FILE};
use crate::error::{ModelError, Remedy};
use reranker_json::mended;

/// A pointer is three short lines.
const POINTER_BYTES: u64 = 1024;
const POINTER: &[u8] = b"version https://git-lfs";
/// How many names a message lists.
const LISTED: usize = 8;

/// How weights get the format that is read; `from` is what Python loads.
fn convert(from: &str) -> String {
    format!(
        "python3 -c \"from transformers import AutoModelForSequenceClassification as M; M.from_pretrained('{from}').save_pretrained('DIR', safe_serialization=True)\" writes it"
    )
}

/// What among these names is the weights in another format than safetensors, with the next step.
pub fn other_weights(names: &[String], from: &str) -> Option<String> {
    let has = |name: &str| names.iter().any(|found| found == name);
    let ends = |end: &str| names.iter().find(|name| name.ends_with(end)).cloned();
    let any = |known: &[&'static str]| known.iter().copied().find(|name| has(name));
    if has("adapter_config.json") {
        return Some("adapter_config.json says that this is an adapter (LoRA): merge it into its base model (merge_and_unload of peft) and save that".into());
    }
    if let Some(name) = any(&["pytorch_model.bin", "pytorch_model.bin.index.json"]) {
        let convert = convert(from);
        return Some(format!(
            "{name} has the weights in PyTorch's format: {convert}"
        ));
    }
    if let Some(name) = any(&["tf_model.h5", "flax_model.msgpack"]) {
        return Some(format!(
            "{name} is another framework's: transformers 4 converts it"
        ));
    }
    let other = ends(".gguf").or_else(|| ends(".onnx"));
    let other = other.or_else(|| has("onnx").then(|| "onnx".to_owned()));
    other.map(|name| {
        format!("{name} is of a format that is not read: take the model that it was made from")
    })
}

/// The same for the sources of a tokenizer.json.
pub fn other_tokenizer(names: &[String], from: &str) -> Option<String> {
    let slow = [
        "vocab.txt",
        "vocab.json",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
    ];
    let mut slow = slow.into_iter();
    let name = slow.find(|name| names.iter().any(|found| found == name))?;
    Some(format!(
        "{name} is a slow tokenizer's: python3 -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{from}').save_pretrained('DIR')\" writes tokenizer.json"
    ))
}

/// The whole content of a small file: configuration, tokenizer, index.
pub fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let metadata = plain(path)?;
    let bytes = std::fs::read(path).map_err(|source| ModelError::io(path, source))?;
    if metadata.len() <= POINTER_BYTES && bytes.starts_with(POINTER) {
        return Err(pointer(path));
    }
    Ok(bytes)
}

/// The file of each tensor, by an index of shards. The error says why the text is no index.
pub fn parse_index(json: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    // A shard lies beside its index: a path that leaves the folder is not a model's.
    let leaves = |file: &&String| {
        Path::new(file)
            .file_name()
            .is_none_or(|name| name != file.as_str())
    };
    match index.weight_map.values().find(leaves) {
        None => Ok(index.weight_map),
        Some(file) => Err(format!(
            "weight_map names the file {file:?}, expected a plain file name"
        )),
    }
}

/// An entry of sentence-transformers' list of modules: the encoder, or a module behind it.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedModule {
    /// Its class, with its package.
    #[serde(rename = "type")]
    pub class: String,
    /// Its folder; empty for the model's own.
    pub path: String,
}

impl ListedModule {
    /// Its class, without the package.
    pub fn kind(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }

    /// The files of its folder, by their names in the model's, and whether it must have them.
    pub fn files(&self) -> impl Iterator<Item = (String, bool)> {
        let files = MODULE_FILES.iter().filter(|_| !self.path.is_empty());
        files.map(|file| (format!("{}/{file}", self.path), self.needs(file)))
    }

    /// Whether its folder must have this file.
    pub(crate) fn needs(&self, file: &str) -> bool {
        match self.kind() {
            "Dense" | "LayerNorm" => true,
            "Pooling" => file == CONFIG,
            _ => false,
        }
    }
}

/// The modules of a folder; none where it has no list of them.
pub(crate) fn listed_modules(folder: &Path) -> Result<Vec<ListedModule>, ModelError> {
    let file = folder.join(MODULES_FILE);
    if !file.exists() {
        return Ok(Vec::new());
    }
    let modules = parse_modules(&read_file(&file)?);
    modules.map_err(|reason| {
        let expected = "a list of modules, each with type and a plain folder as path";
        ModelError::unfit(&file, "modules", reason, expected)
    })
}

/// The modules of such a list. The error says why the text is no list.
pub fn parse_modules(json: &[u8]) -> Result<Vec<ListedModule>, String> {
    let modules: Vec<ListedModule> =
        serde_json::from_slice(&mended(json)).map_err(|error| error.to_string())?;
    let mut paths = modules.iter().map(|module| &module.path);
    // A path becomes a folder's name.
    match paths.find(|path| !path.is_empty() && !is_plain(path)) {
        None => Ok(modules),
        Some(path) => Err(format!("a module in {path:?}")),
    }
}

/// What a module's folder holds.
const MODULE_FILES: [&str; 2] = [CONFIG, SINGLE_FILE];
const CONFIG: &str = "config.json";

/// Files of this name in the folders of modules, by their names in the model's. One that must be
/// there and is not is refused.
pub(super) fn module_files(folder: &Path, file: &str) -> Result<Vec<String>, ModelError> {
    let mut files = Vec::new();
    for module in listed_modules(folder)? {
        for (path, needed) in module.files().filter(|(path, _)| path.ends_with(file)) {
            if folder.join(&path).exists() {
                files.push(path);
            } else if needed {
                return Err(lacking_module(folder, &module, &path));
            }
        }
    }
    Ok(files)
}

/// A module's file is not there.
pub(crate) fn lacking_module(folder: &Path, module: &ListedModule, file: &str) -> ModelError {
    let in_pytorch = folder.join(&module.path).join("pytorch_model.bin").exists();
    let remedy = if file.ends_with(SINGLE_FILE) && in_pytorch {
        "pytorch_model.bin has it in PyTorch's format, and python3 -c \"from sentence_transformers import CrossEncoder as M; M('DIR').save_pretrained('DIR')\" writes it"
    } else {
        "copy or fetch the whole folder"
    };
    let (kind, path) = (module.kind(), folder.join(file));
    let expected = format!("a file of the module {kind} that {MODULES_FILE} lists: {remedy}");
    ModelError::unfit(&path, "file", "nothing", expected)
}

/// Whether a name from outside can be one part of a path.
pub fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part != ".."
        && part != "."
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The same of a path below a model's folder: a file, or one in a folder of it.
pub fn is_plain_path(path: &str) -> bool {
    path.split('/').count() <= 2 && path.split('/').all(is_plain)
}

/// Refuses what is no plain file: opening a pipe would wait for ever.
pub(super) fn plain(path: &Path) -> Result<Metadata, ModelError> {
    let metadata = std::fs::metadata(path).map_err(|source| ModelError::io(path, source))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    let found = if metadata.is_dir() {
        "a folder"
    } else {
        "a pipe, device or socket"
    };
    Err(ModelError::unfit(path, "file", found, "a plain file"))
}

fn pointer(path: &Path) -> ModelError {
    ModelError::unfit(
        path,
        "file",
        "a pointer of Git LFS",
        "the file that it stands for: run `git lfs pull` in the folder",
    )
}

/// SHA-256 that a pointer of Git LFS stands for.
pub(super) fn pointed_at(path: &Path) -> Option<String> {
    let metadata = plain(path).ok()?;
    if metadata.len() > POINTER_BYTES {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    if !text.as_bytes().starts_with(POINTER) {
        return None;
    }
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oid sha256:"))?;
    Some(line.trim().to_owned())
}

/// Why these bytes, the first of a file that is said to hold weights, are no safetensors file;
/// nothing where they may be.
pub(super) fn other_format(path: &Path) -> Option<ModelError> {
    let mut first = [0; 32];
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.read(&mut first).ok()?;
    let first = &first[..length];
    if first.starts_with(POINTER) {
        return Some(pointer(path));
    }
    // The length of a safetensors header may be spelt by any bytes, those of another format's mark
    // among them. What follows it is JSON.
    if first.get(8) == Some(&b'{') {
        return None;
    }
    let found = if first.starts_with(b"GGUF") {
        "a GGUF file"
    } else if first.starts_with(b"PK\x03\x04") || first.starts_with(b"\x80\x02") {
        "a file of PyTorch"
    } else if first.starts_with(b"\x89HDF") {
        "a file of TensorFlow"
    } else if path.extension().is_some_and(|end| end == "onnx") {
        "an ONNX file"
    } else {
        return None;
    };
    let expected = "weights in safetensors, in a folder with config.json and tokenizer.json";
    Some(ModelError::not_served(path, "format", found, expected))
}

/// Refuses a file that is named as the model, and is none that `reranker pack` wrote, as far as its
/// name and first bytes tell.
pub fn check_packed(path: &Path) -> Result<(), ModelError> {
    plain(path)?;
    if let Some(error) = other_format(path) {
        return Err(error);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_packed = path.extension().is_some_and(|end| end == "safetensors");
    let of_folder = name == SINGLE_FILE || name.contains("-of-") || !is_packed;
    let folder = path
        .parent()
        .filter(|folder| folder.join("config.json").exists());
    match folder {
        Some(folder) if of_folder => Err(ModelError::unfit(
            path,
            "model",
            "one file of a model folder",
            format!("the folder: MODEL_DIR={}", folder.display()),
        )
        .with(Remedy::Set)),
        _ => Ok(()),
    }
}

/// Refuses a folder without this file. The error names the files that are there instead.
pub fn require(folder: &Path, file: &str) -> Result<(), ModelError> {
    if folder.join(file).exists() {
        return Ok(());
    }
    Err(lacking(folder, file))
}

/// The same for the weights, in whichever form.
pub fn require_weights(folder: &Path) -> Result<(), ModelError> {
    if folder.join(SINGLE_FILE).exists() || folder.join(INDEX_FILE).exists() {
        return Ok(());
    }
    Err(lacking(folder, SINGLE_FILE))
}

/// `wanted` is not there: what is.
pub(super) fn lacking(folder: &Path, wanted: &str) -> ModelError {
    let link = folder.join(wanted);
    if let Ok(target) = std::fs::read_link(&link) {
        return ModelError::unfit(
            &link,
            "link",
            format!("nothing at {}, where it leads", target.display()),
            "a file: is the download complete?",
        );
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => return ModelError::io(folder, source),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let has = |name: &str| names.iter().any(|found| found == name);
    let ends = |end: &str| names.iter().find(|name| name.ends_with(end)).cloned();
    let hint = if wanted == "tokenizer.json" {
        other_tokenizer(&names, "DIR")
    } else if has("snapshots") {
        Some(cached(folder))
    } else if names.iter().any(|name| name.starts_with("models--")) {
        Some("this is Hugging Face's cache: set MODEL_NAME to owner/name of a model in it, and HF_HUB_CACHE to this folder".into())
    } else if let Some(other) = other_weights(&names, "DIR") {
        Some(other)
    } else if let Some(name) = ends(".safetensors").filter(|name| name != PACKED_FILE) {
        Some(format!(
            "{name} has another name than {SINGLE_FILE}, or its {INDEX_FILE} is missing"
        ))
    } else {
        names
            .iter()
            .find(|name| folder.join(name).join("config.json").is_file())
            .map(|name| format!("the folder {name} in it has one: set MODEL_DIR to that"))
    };
    let listed = match names.len() {
        0 => "it is empty".to_owned(),
        count if count <= LISTED => format!("it has {}", names.join(", ")),
        count => format!(
            "it has {} and {} more",
            names[..LISTED].join(", "),
            count - LISTED
        ),
    };
    let needed = ["config.json", "tokenizer.json", SINGLE_FILE]
        .into_iter()
        .filter(|name| !(has(name) || *name == SINGLE_FILE && has(INDEX_FILE)))
        .collect::<Vec<_>>()
        .join(", ");
    ModelError::unfit(
        folder,
        "model folder",
        format!("no {needed}; {listed}"),
        match hint {
            Some(hint) => format!("a whole model: {hint}"),
            None => "config.json, tokenizer.json and model.safetensors (or its shards and index)"
                .to_owned(),
        },
    )
    .with(Remedy::Set)
}

/// What to name instead of a repository in Hugging Face's cache.
fn cached(folder: &Path) -> String {
    let commit = std::fs::read_to_string(folder.join("refs/main")).ok();
    let snapshot = commit.map(|commit| folder.join("snapshots").join(commit.trim()));
    let snapshot = snapshot.filter(|path| path.is_dir());
    match snapshot {
        Some(path) => format!(
            "this is a model in Hugging Face's cache: set MODEL_DIR to {}, or MODEL_NAME to its name",
            path.display()
        ),
        None => "this is a model in Hugging Face's cache: set MODEL_DIR to a folder in its snapshots, or MODEL_NAME to its name".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headers_length_is_not_taken_for_the_mark_of_another_format() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.safetensors");
        let marks: [&[u8]; 3] = [b"\x80\x02", b"PK\x03\x04", b"GGUF"];
        for mark in marks {
            let mut bytes = [0; 32];
            bytes[..mark.len()].copy_from_slice(mark);
            std::fs::write(&path, bytes).expect("written");
            assert!(other_format(&path).is_some(), "{mark:?}");
            bytes[8] = b'{';
            std::fs::write(&path, bytes).expect("written");
            assert!(other_format(&path).is_none(), "{mark:?}");
        }
    }
}
