//! Errors of models, each with its operator's next step.

use std::path::{Path, PathBuf};

/// Why a model cannot be served. A message names the file, the value found and the value expected.
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
    /// The downloaded bytes do not match the source's digest.
    #[error("{0}")]
    Damaged(String),
    /// The download could not be stored on this machine.
    #[error("{0}")]
    Storage(String),
    /// The source cannot be reached, or refuses; a later try may succeed.
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
    /// The GPU does no more work for this process.
    #[error("the GPU is lost: {0}: start again")]
    Lost(String),
}

/// The remedy for a file that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Replace the file: it is damaged, or of another model.
    Replace,
    /// Take another model: this kind is not served.
    ServeAnother,
    /// Mend a field that contradicts another.
    Mend,
    /// Pack the model again.
    Pack,
    /// Change the setting that asks for another kind of file.
    Set,
}

impl ModelError {
    /// The system's error for a file.
    pub fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason,
        }
    }

    /// A file that is damaged or of another model: in `what` there was `found` instead of
    /// `expected`.
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

    /// The same for a sound file of a kind that is not served.
    pub(crate) fn not_served(
        path: &Path,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Self::unfit(path, what, found, expected).with(Remedy::ServeAnother)
    }

    /// The same, with another remedy.
    pub fn with(mut self, wanted: Remedy) -> Self {
        if let Self::Unfit { remedy, .. } = &mut self {
            *remedy = wanted;
        }
        self
    }

    /// The operator's next step, as a sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unfit { remedy, .. } => match remedy {
                Remedy::Replace => {
                    "the file named above is damaged, or of another model: copy or download the folder again"
                }
                Remedy::ServeAnother => {
                    "nothing is damaged: cross-encoders with one label are served, from config.json, tokenizer.json and model.safetensors, of BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, MPNet, GTE and ModernBERT"
                }
                Remedy::Mend => "change the field named above, or the one that it is compared with",
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
                "free disk space where the message says, or set MODEL_CACHE to a folder of your own"
            }
            Self::Unreachable(_) => "try again; if it fails again, the message names the cause",
            Self::Changed(_) => "start again, and replace models by renaming",
            Self::Lost(_) => "start again; if it stays lost, see to the driver",
            Self::Compute(_) => "a sound model computes: copy or download the folder again",
        }
    }
}
