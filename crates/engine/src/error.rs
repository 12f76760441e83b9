//! Why a model cannot be served, and what its operator can do about it.

use std::path::{Path, PathBuf};

/// Why a model cannot be served: always the file, then what was found and what was expected in it.
#[allow(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        path: PathBuf,
        reason: std::io::Error,
    },
    /// A file is there, and does not fit.
    #[error("{}: {what}: found {found}, expected {expected}", path.display())]
    Unfit {
        path: PathBuf,
        what: String,
        found: String,
        expected: String,
        remedy: Remedy,
    },
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// What came of it is not what its source says.
    #[error("{0}")]
    Damaged(String),
    /// What came of it could not be kept on this machine.
    #[error("{0}")]
    Storage(String),
    /// It could not be brought from where it is; a later try may succeed.
    #[error("{0}")]
    Unreachable(String),
    #[error(
        "{}: it was changed in place after it had been loaded: start again, and replace models by renaming",
        .0.display()
    )]
    /// A file was written to after it had been mapped.
    Changed(PathBuf),
    /// The model does not compute.
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
    /// What the system said of a file.
    pub fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason,
        }
    }

    /// A file that is damaged or of another model: in `what` there was `found` instead of `expected`.
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

    /// The same, with something else to be done about it.
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
            Self::Damaged(_) => "start again; if it stays so, upload the model again",
            Self::Storage(_) => {
                "make room where the message says, or set MODEL_CACHE to a folder of your own"
            }
            Self::Unreachable(_) => "try again; if it stays so, the message says what refuses",
            Self::Changed(_) => "start again, and replace models by renaming",
            Self::Lost(_) => "start again; if it stays lost, see to the driver",
            Self::Compute(_) => "a sound model computes: copy or download the folder again",
        }
    }
}
