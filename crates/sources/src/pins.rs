//! What a model's files must be: a commit, and the SHA-256 of each file that serving takes. Some
//! models' pins are part of the program.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::locate::is_hub_id;
use reranker_engine::ModelError;
use reranker_engine::weights::{is_plain, is_plain_path, sha256_of};

const BUILT_IN: &str = include_str!("pins.json");

/// Why a pin does not hold, or cannot be read or written.
#[allow(missing_docs, reason = "each variant's message says it")]
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{what} at {found}: pinned is {expected}")]
    Commit {
        what: String,
        found: String,
        expected: String,
    },
    #[error("{file}: SHA-256 {found}, pinned is {expected}: this is not the file that was pinned")]
    Digest {
        file: String,
        found: String,
        expected: String,
    },
    #[error("{file}: needed, but not pinned")]
    Unpinned { file: String },
    #[error("{file}: pinned, but missing")]
    Absent { file: String },
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The commit and the files that a model must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The model's hub id.
    pub name: String,
    /// The commit.
    pub revision: String,
    /// SHA-256 in hexadecimal, by the file's name.
    pub files: BTreeMap<String, String>,
}

impl Pin {
    /// The ids of the models that the program pins.
    pub fn names() -> Vec<String> {
        let pins: Vec<Self> = serde_json::from_str(BUILT_IN).expect("a test reads them");
        pins.into_iter().map(|pin| pin.name).collect()
    }

    /// The program's own pin of this model.
    pub fn built_in(name: &str) -> Option<Self> {
        let pins: Vec<Self> = serde_json::from_str(BUILT_IN).expect("a test reads them");
        pins.into_iter().find(|pin| pin.name == name)
    }

    /// The pin of this model in a file that [`Self::write`] wrote.
    pub fn read(path: &Path, name: &str) -> Result<Self, PinError> {
        let pin = pins(path)?.into_iter().find(|pin| pin.name == name);
        pin.ok_or_else(|| PinError::File {
            path: path.to_owned(),
            reason: format!("{name} is not pinned here"),
        })
    }

    /// Puts the pin into a file, in place of an older one of this model; others stay.
    pub fn write(self, path: &Path) -> Result<(), PinError> {
        let mut pins = if path.exists() {
            pins(path)?
        } else {
            Vec::new()
        };
        pins.retain(|pin| pin.name != self.name);
        pins.push(self);
        pins.sort_by(|a, b| a.name.cmp(&b.name));
        let failed = |error: io::Error| PinError::File {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let mut text =
            serde_json::to_string_pretty(&pins).map_err(|error| failed(io::Error::other(error)))?;
        text.push('\n');
        let new = path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&new, text).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }

    /// Refuses a file whose SHA-256 is another than the pinned one, or which is not pinned at all.
    pub fn check(&self, file: &str, found: &str) -> Result<(), PinError> {
        let expected = self.files.get(file).ok_or_else(|| PinError::Unpinned {
            file: file.to_owned(),
        })?;
        if !expected.eq_ignore_ascii_case(found) {
            return Err(PinError::Digest {
                file: file.to_owned(),
                found: found.to_owned(),
                expected: expected.clone(),
            });
        }
        Ok(())
    }

    /// Reads every pinned file of a folder.
    pub fn check_folder(&self, folder: &Path) -> Result<(), PinError> {
        for file in self.files.keys() {
            let path = folder.join(file);
            if !path.is_file() {
                return Err(PinError::Absent { file: file.clone() });
            }
            self.check(file, &sha256_of(&path)?)?;
        }
        Ok(())
    }
}

/// Whether this can be a file's SHA-256 in hexadecimal.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn pins(path: &Path) -> Result<Vec<Pin>, PinError> {
    let failed = |reason: String| PinError::File {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let pins: Vec<Pin> = serde_json::from_str(&text)
        .map_err(|error| failed(format!("no list of pins ({error})")))?;
    for pin in &pins {
        let fits = |(file, digest): (&String, &String)| is_plain_path(file) && is_sha256(digest);
        if !is_hub_id(&pin.name) || !is_plain(&pin.revision) || !pin.files.iter().all(fits) {
            return Err(failed(format!(
                "the pin of {:?}: it takes a revision, and 64 hexadecimal digits for each file",
                pin.name
            )));
        }
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_pins_are_commits_with_every_file_that_is_fetched() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pins.json");
        for pin in pins(&path).expect("well formed") {
            assert_eq!(Pin::built_in(&pin.name).as_ref(), Some(&pin));
            assert_eq!(pin.revision.len(), 40, "{}: a whole commit", pin.name);
            for file in ["config.json", "tokenizer.json", "model.safetensors"] {
                assert!(pin.files.contains_key(file), "{}: {file}", pin.name);
            }
        }
        assert!(Pin::built_in("owner/model").is_none());
    }

    #[test]
    fn a_written_pin_is_read_again_beside_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pins.json");
        let pin = |name: &str, revision: &str| Pin {
            name: name.into(),
            revision: revision.into(),
            files: [("config.json".to_owned(), "ab".repeat(32))].into(),
        };
        for pin in [pin("b/b", "1"), pin("a/a", "1"), pin("b/b", "2")] {
            pin.write(&path).expect("written");
        }
        assert_eq!(Pin::read(&path, "a/a").expect("there"), pin("a/a", "1"));
        let b = Pin::read(&path, "b/b").expect("there");
        assert_eq!(b, pin("b/b", "2"));
        Pin::read(&path, "c/c").expect_err("not pinned");
        b.check("config.json", &"AB".repeat(32)).expect("the same");
        b.check("config.json", &"cd".repeat(32))
            .expect_err("another");
        b.check("other.json", &"ab".repeat(32))
            .expect_err("unknown");
        std::fs::write(
            &path,
            r#"[{"name":"a/a","revision":"1","files":{"../x":"00"}}]"#,
        )
        .expect("written");
        Pin::read(&path, "a/a").expect_err("no digest, and no file's name");
    }
}
