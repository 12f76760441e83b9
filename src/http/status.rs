//! Statuses: what HTTP makes of each code of the domain's table.

use http::StatusCode;

use reranker_domain::Code;

/// Where a caller can meet a code, and the status of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// On any scoring route.
    Scoring(StatusCode),
    /// On other routes, or in place of a request that never was one.
    Elsewhere(StatusCode),
    /// Nowhere: the command line has codes of its own.
    Never,
}

/// What HTTP makes of a code.
pub fn answered(code: Code) -> Answered {
    use Answered::{Elsewhere, Never, Scoring};
    match code {
        Code::MalformedJson | Code::MalformedRequest | Code::UnreadableBody => {
            Scoring(StatusCode::BAD_REQUEST)
        }
        Code::MalformedEvent | Code::UnsupportedEvent => Elsewhere(StatusCode::BAD_REQUEST),
        Code::Unauthorized => Scoring(StatusCode::UNAUTHORIZED),
        Code::NotFound => Elsewhere(StatusCode::NOT_FOUND),
        Code::MethodNotAllowed => Scoring(StatusCode::METHOD_NOT_ALLOWED),
        Code::RequestTimeout => Scoring(StatusCode::REQUEST_TIMEOUT),
        Code::BodyTooLarge => Scoring(StatusCode::PAYLOAD_TOO_LARGE),
        Code::UnsupportedMediaType => Scoring(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        Code::AnswerTooLarge
        | Code::EmptyQuery
        | Code::InvalidChunks
        | Code::InvalidMaxLength
        | Code::InvalidRankFields
        | Code::InvalidTimeout
        | Code::InvalidTruncation
        | Code::MissingField
        | Code::NoPairs
        | Code::PairTooLong
        | Code::TextTooLong
        | Code::TooManyPairs
        | Code::TooManyQueries
        | Code::TooManySentences
        | Code::TooManyTokens
        | Code::UnequalLists
        | Code::UnknownShape
        | Code::WrongType => Scoring(StatusCode::UNPROCESSABLE_ENTITY),
        Code::Busy | Code::QuotaExceeded | Code::RateLimited => {
            Scoring(StatusCode::TOO_MANY_REQUESTS)
        }
        Code::HeadTooLarge => Elsewhere(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Code::Internal => Scoring(StatusCode::INTERNAL_SERVER_ERROR),
        Code::ConnectionsFull
        | Code::DeadlineCrowded
        | Code::Draining
        | Code::ModelUnavailable
        | Code::NotReady => Scoring(StatusCode::SERVICE_UNAVAILABLE),
        Code::DeadlineExceeded | Code::DeadlineUnreachable => Scoring(StatusCode::GATEWAY_TIMEOUT),
        Code::LineTooLong => Never,
    }
}

/// The status of an answer with this code.
pub fn status(code: Code) -> StatusCode {
    match answered(code) {
        Answered::Scoring(status) | Answered::Elsewhere(status) => status,
        Answered::Never => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
