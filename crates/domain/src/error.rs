//! What can go wrong, grouped by who has to act: the caller (`Invalid`), nobody but time (`Busy`, `NotReady`,
//! `Deadline`, `Unreachable`, `Draining`), the operator (`Model`) or us (`Internal`). Knows no HTTP: `http` maps each group to a status.

use std::time::Duration;

/// The domain's usual result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no ranking.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The queue in front of the compute thread is full.
    #[error("{queued} requests are waiting, the limit is {limit}: try again in {} s", retry_after.as_secs())]
    Busy {
        /// Requests that wait or are computed.
        queued: usize,
        /// Most of them.
        limit: usize,
        /// When there may be a place.
        retry_after: Duration,
    },
    /// The model is still loading.
    #[error("the model is still loading: try again in {} s", retry_after.as_secs())]
    NotReady {
        /// When it may have been loaded.
        retry_after: Duration,
    },
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
        /// What computing would take, with the wait for others.
        total: Duration,
        /// What is left until the deadline.
        left: Duration,
        /// Whether it could be done if no others were before it.
        busy: bool,
        /// When the others may be done.
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
    /// What is wrong, without any of the caller's text.
    pub message: String,
    /// What was found, where it is a number.
    pub got: Option<u64>,
    /// What is allowed, where it is a number.
    pub limit: Option<u64>,
}

impl Invalid {
    /// One that names no field and no numbers.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            field: None,
            message: message.into(),
            got: None,
            limit: None,
        }
    }

    /// The same, of this field.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same, with the number that was found.
    pub fn got(mut self, got: usize) -> Self {
        self.got = Some(got as u64);
        self
    }

    /// The same, with the number that is allowed.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit as u64);
        self
    }
}
