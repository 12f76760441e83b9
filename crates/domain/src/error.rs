//! What can go wrong, grouped by who has to act: the caller (`Invalid`), nobody but time (`Busy`, `NotReady`,
//! `Deadline`, `Unreachable`, `Draining`), the operator (`Model`) or us (`Internal`).

use std::time::Duration;

use crate::refusal::{Code, Refusal};

/// The domain's usual result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no ranking.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is.
    #[error(transparent)]
    Invalid(#[from] Refusal),
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

impl Error {
    /// Its row of the table of codes.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(refusal) => refusal.code,
            Self::Busy { .. } => Code::Busy,
            Self::NotReady { .. } => Code::NotReady,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Unreachable { busy: true, .. } => Code::DeadlineCrowded,
            Self::Unreachable { busy: false, .. } => Code::DeadlineUnreachable,
            Self::Draining => Code::Draining,
            Self::Model(_) => Code::ModelUnavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// What a caller may know of it: of a bug of ours nothing but that there is one.
    pub fn refusal(&self) -> Refusal {
        let refusal = |message: String| Refusal::new(self.code(), message);
        match self {
            Self::Invalid(refusal) => refusal.clone(),
            Self::Internal(_) => refusal("internal error".into()),
            Self::Busy { queued, limit, .. } => {
                refusal(self.to_string()).got(*queued).limit(*limit)
            }
            Self::Unreachable { total, left, .. } => refusal(self.to_string())
                .got(total.as_millis())
                .limit(left.as_millis()),
            Self::NotReady { .. } | Self::Deadline | Self::Draining | Self::Model(_) => {
                refusal(self.to_string())
            }
        }
    }

    /// When the same request may be tried again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. }
            | Self::NotReady { retry_after }
            | Self::Unreachable {
                busy: true,
                retry_after,
                ..
            } => Some(*retry_after),
            Self::Unreachable { busy: false, .. }
            | Self::Invalid(_)
            | Self::Deadline
            | Self::Draining
            | Self::Model(_)
            | Self::Internal(_) => None,
        }
    }
}
