//! What can go wrong, grouped by who has to act: the caller (`Invalid`), nobody but time (`Busy`, `NotReady`,
//! `Deadline`, `Unreachable`, `Draining`), the operator (`Model`) or us (`Internal`). Knows no HTTP: `http` maps each group to a status.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The queue in front of the compute thread is full.
    #[error("{queued} requests are waiting, the limit is {limit}: try again in {} s", retry_after.as_secs())]
    Busy {
        queued: usize,
        limit: usize,
        retry_after: Duration,
    },
    /// The model is still loading.
    #[error("the model is still loading: try again in {} s", retry_after.as_secs())]
    NotReady { retry_after: Duration },
    /// Time ran out before all pairs were scored. Nothing partial is returned.
    #[error("the deadline passed before all pairs were scored")]
    Deadline,
    /// By this process's measured speed the request cannot be done in its time, so it is not begun.
    #[error(
        "scoring would take {} ms{}, {} ms are left",
        total.as_millis(),
        if *busy { ", others before it included" } else { "" },
        left.as_millis()
    )]
    Unreachable {
        /// With the wait for others, and what is left until the deadline.
        total: Duration,
        left: Duration,
        /// Whether it could be done if no others were before it.
        busy: bool,
        retry_after: Duration,
    },
    /// The process is shutting down and takes no new work.
    #[error("the server is shutting down")]
    Draining,
    /// The model could not be loaded; only the operator can mend that.
    #[error("the model is not available: {0}")]
    Model(String),
    /// A bug of ours. The message names no query or document text.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A request that breaks a rule: which field, how large it was, and the limit where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Stable, machine-readable; listed in docs/reference/errors.md.
    pub code: &'static str,
    /// Path of the field in the caller's own terms, such as `pairs[3].query`.
    pub field: Option<String>,
    pub message: String,
    pub got: Option<u64>,
    pub limit: Option<u64>,
}

impl Invalid {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            field: None,
            message: message.into(),
            got: None,
            limit: None,
        }
    }

    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub fn got(mut self, got: usize) -> Self {
        self.got = Some(got as u64);
        self
    }

    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit as u64);
        self
    }
}

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
