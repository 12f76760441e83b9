//! Why a model cannot be served, and what its operator can do about it.

use std::path::{Path, PathBuf};

/// Why a model cannot be served: always the file, then what was found and what was expected in it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{}: {reason}", path.display())]
    Io {
        path: PathBuf,
        reason: std::io::Error,
    },
    #[error("{}: {what}: found {found}, expected {expected}", path.display())]
    Unfit {
        path: PathBuf,
        what: String,
        found: String,
        expected: String,
        remedy: Remedy,
    },
    #[error("{0}")]
    NotFound(String),
    /// It could not be brought from where it is; a later try may succeed.
    #[error("{0}")]
    Unreachable(String),
    #[error(
        "{}: it was changed in place after it had been loaded: start again, and replace models by renaming",
        .0.display()
    )]
    Changed(PathBuf),
    #[error("cannot compute: {0}")]
    Compute(String),
    /// Nothing that this process asks of it from now on is done.
    #[error("the GPU is lost: {0}: start again")]
    Lost(String),
}

/// What has to be done about a file that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It is damaged, or of another model.
    Replace,
    /// It is of a kind that is not served.
    ServeAnother,
    /// A field of it contradicts another.
    Mend,
    /// It has to be packed again.
    Pack,
    /// A setting asks for what it is not.
    Set,
}

impl ModelError {
    pub fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason,
        }
    }

    pub fn unfit(
        path: &Path,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Self::Unfit {
            path: path.to_owned(),
            what: what.into(),
            found: found.to_string(),
            expected: expected.to_string(),
            remedy: Remedy::Replace,
        }
    }

    /// The same where the file is whole, and something else has to be done.
    pub fn not_served(
        path: &Path,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Self::unfit(path, what, found, expected).with(Remedy::ServeAnother)
    }

    pub fn with(mut self, wanted: Remedy) -> Self {
        if let Self::Unfit { remedy, .. } = &mut self {
            *remedy = wanted;
        }
        self
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unfit { remedy, .. } => match remedy {
                Remedy::Replace => {
                    "the file named above is damaged, or of another model: copy or download the folder again"
                }
                Remedy::ServeAnother => {
                    "nothing is damaged: cross-encoders with one label are served, from config.json, tokenizer.json and model.safetensors, of BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, MPNet, GTE and ModernBERT"
                }
                Remedy::Mend => "change the field named above, or what it is compared with",
                Remedy::Pack => {
                    "`reranker pack` makes the packed model again; PRECISION=f32 serves the folder meanwhile"
                }
                Remedy::Set => "change the setting named above, or make the file that it asks for",
            },
            Self::Io { .. } => "see to it that this user may read the file",
            Self::NotFound(_) => {
                "MODEL_DIR takes a folder with config.json, tokenizer.json and model.safetensors, or a packed file"
            }
            Self::Unreachable(_) => "try again; if it stays so, the message says what refuses",
            Self::Changed(_) => "start again, and replace models by renaming",
            Self::Lost(_) => "start again; if it stays lost, see to the driver",
            Self::Compute(_) => "a sound model computes: copy or download the folder again",
        }
    }
}
