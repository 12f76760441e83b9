//! What the scores in a file came from, so that a later run never adds scores of another model or
//! other settings to it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use reranker_engine::weights::{deciding_files, hex, sha256_of};
use reranker_engine::{Engine, ModelError};

/// A loaded model, and the settings that decide its scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub model: String,
    pub revision: Option<String>,
    /// Of everything that decides the scores: weights, configuration and tokenizer.
    pub model_sha256: String,
    pub precision: String,
    pub max_length: usize,
    pub truncation: String,
}

/// Decides ids in some folders, beside [`deciding_files`].
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

impl Origin {
    pub fn of(engine: &Engine) -> Result<Self, ModelError> {
        let info = engine.info();
        Ok(Self {
            model: info.name.clone(),
            revision: info.revision.clone(),
            model_sha256: model_sha256(engine)?,
            precision: info.precision.to_string(),
            max_length: info.max_length,
            truncation: info.truncation.to_string(),
        })
    }
}

fn model_sha256(engine: &Engine) -> Result<String, ModelError> {
    let mut all = Sha256::new();
    if let Some(manifest) = engine.model().manifest() {
        // It has the digest of all tensors, tokenizer included, and its own was checked when the
        // file was opened.
        let text = serde_json::to_string(manifest)
            .map_err(|error| ModelError::Compute(error.to_string()))?;
        all.update(text);
        return Ok(hex(&all.finalize()));
    }
    let mut weights: Vec<&Path> = engine.model().files().collect();
    weights.sort_unstable();
    // Those of modules are in folders of its own.
    let folders = weights.iter().filter_map(|file| file.parent());
    let folder = folders
        .min_by_key(|folder| folder.components().count())
        .unwrap_or(Path::new("."));
    let mut deciding = deciding_files(folder)?;
    deciding.extend(
        folder
            .join(SPECIAL_TOKENS)
            .is_file()
            .then(|| SPECIAL_TOKENS.to_owned()),
    );
    let deciding = deciding.iter().map(|name| folder.join(name));
    for path in deciding.chain(weights.iter().map(|file| file.to_path_buf())) {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy();
        all.update(format!("{name} {}\n", sha256_of(&path)?));
    }
    Ok(hex(&all.finalize()))
}

/// What is not as it was, setting by setting. A model by another name is the same model while its
/// files are.
pub fn differences(was: &impl Serialize, is: &impl Serialize) -> Vec<String> {
    let fields = |value: serde_json::Result<Value>| match value {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let was = fields(serde_json::to_value(was));
    let is = fields(serde_json::to_value(is));
    let same_model = was.get("model_sha256") == is.get("model_sha256");
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "not set".to_owned(),
        Some(Value::String(text)) => shortened(text).to_owned(),
        Some(value) => value.to_string(),
    };
    is.keys()
        .filter(|name| was.get(*name) != is.get(*name))
        .filter(|name| !(same_model && ["model", "revision"].contains(&name.as_str())))
        .map(|name| {
            format!(
                "{name} was {} and is {}",
                shown(was.get(name)),
                shown(is.get(name))
            )
        })
        .collect()
}

/// Twelve digits tell digests apart as well as 64.
fn shortened(text: &str) -> &str {
    match text.get(..12) {
        Some(start) if text.len() == 64 => start,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_differs_is_told_and_a_name_alone_is_none() {
        let first = Origin {
            model: "a".into(),
            revision: None,
            model_sha256: "0".repeat(64),
            precision: "int8".into(),
            max_length: 512,
            truncation: "flag".into(),
        };
        let renamed = Origin {
            model: "b".into(),
            revision: Some("1".into()),
            ..first.clone()
        };
        assert_eq!(differences(&first, &first), [""; 0]);
        assert_eq!(differences(&first, &renamed), [""; 0]);
        let other = Origin {
            model_sha256: "1".repeat(64),
            max_length: 256,
            ..renamed
        };
        assert_eq!(
            differences(&first, &other),
            [
                "max_length was 512 and is 256",
                "model was a and is b",
                "model_sha256 was 000000000000 and is 111111111111",
                "revision was not set and is 1",
            ]
        );
    }
}
