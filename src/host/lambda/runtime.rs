//! Lambda's runtime API: takes events, gives answers, waits for the restore of a snapshot. Over
//! AWS's own client for it.
//!
//! lambda_runtime's loop ends the process where an event comes with a client context that is not of
//! strings, a deadline that is no number or bytes that are no UTF-8, and where one answer is
//! dropped. Whoever may invoke can bring that about, so the loop is ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{BoxError, PooledClient, build_request};
use tokio::task::JoinSet;

const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const RESTORE_NEXT: &str = "/2018-06-01/runtime/restore/next";
const INIT_ERROR: &str = "/2018-06-01/runtime/init/error";

/// Failures to get an event, one after the other, after which there is nothing to wait for any
/// more.
const NEXT_TRIES: u32 = 5;
/// Before the second try; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Of an answer whose connection breaks.
const ANSWER_TRIES: u32 = 3;

/// Where events come from, and how many at a time.
#[derive(Debug, Clone)]
pub struct Source {
    /// Of the runtime API: has an authority.
    pub address: Uri,
    /// Events that are worked on at a time.
    pub concurrency: usize,
    /// Whether a snapshot is taken before the first event.
    pub snapshot: bool,
}

/// Why no events come any more.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the runtime API failed {NEXT_TRIES} times in a row to give an event: {0}")]
    NoEvents(CallError),
    #[error("the runtime API failed to tell of the restore: {0}")]
    NoRestore(CallError),
}

/// What one call to the runtime API came to.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it named no invocation")]
    NoId,
    #[error("{0}")]
    Connection(BoxError),
}

/// An event, and what the platform says of it.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub event: Bytes,
    pub id: String,
    /// Milliseconds since 1970; nothing where the platform gives no number.
    pub deadline_ms: Option<u64>,
    /// Of X-Ray.
    pub trace: Option<HeaderValue>,
}

/// What the platform is told of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// JSON for whoever sent the event.
    Answer(Vec<u8>),
    /// The function failed: its kind, by which Step Functions tell errors apart, and the whole as
    /// JSON.
    Error { kind: String, body: Vec<u8> },
}

impl Reply {
    pub fn error(kind: &str, message: &str) -> Self {
        let body = serde_json::json!({"errorType": kind, "errorMessage": message});
        Self::Error {
            kind: kind.to_owned(),
            body: body.to_string().into_bytes(),
        }
    }
}

/// The runtime API of one process.
pub struct Api {
    client: PooledClient,
}

impl Api {
    pub fn new(source: &Source) -> Self {
        let client = PooledClient::builder()
            .with_endpoint(source.address.clone())
            .with_pool_size(source.concurrency)
            .build();
        Self { client }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, CallError> {
        let mut request = build_request()
            .method(method)
            .uri(path)
            .body(Body::from(body))
            .map_err(|error| CallError::Connection(error.into()))?;
        request.headers_mut().extend(headers);
        let response = self
            .client
            .call(request)
            .await
            .map_err(CallError::Connection)?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(CallError::Status(response.status()))
        }
    }

    /// Tells that everything is loaded, and returns when the process goes on from its snapshot.
    pub async fn restored(&self) -> Result<(), End> {
        let none = HeaderMap::new;
        let restored = self.call(Method::GET, RESTORE_NEXT, none(), Bytes::new());
        if let Err(error) = restored.await {
            if let Reply::Error { body, .. } =
                Reply::error("Reranker.no_restore", &error.to_string())
            {
                // The process ends anyway; this only has the platform say why.
                let _ = self
                    .call(Method::POST, INIT_ERROR, none(), body.into())
                    .await;
            }
            return Err(End::NoRestore(error));
        }
        // The connections are from before the snapshot.
        self.client.reset_pool();
        Ok(())
    }

    /// The next event; nothing where there is none yet.
    async fn next(&self) -> Result<Option<(Invocation, Answered)>, CallError> {
        let response = self
            .call(Method::GET, NEXT, HeaderMap::new(), Bytes::new())
            .await?;
        if response.status() == StatusCode::NO_CONTENT {
            tokio::time::sleep(FIRST_PAUSE).await;
            return Ok(None);
        }
        let (head, body) = response.into_parts();
        let header = |name: &str| head.headers.get(name);
        let text = |name: &str| header(name).and_then(|value| value.to_str().ok());
        let id = text("lambda-runtime-aws-request-id").filter(|id| {
            !id.is_empty()
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:=".contains(&b))
        });
        let id = id.ok_or(CallError::NoId)?.to_owned();
        let answered = Answered {
            id: id.clone(),
            // Given back, so that an answer that comes too late is not taken for the next event's.
            token: header("lambda-runtime-invocation-id").cloned(),
        };
        let event = match body.collect().await {
            Ok(event) => event.to_bytes(),
            Err(error) => {
                tracing::error!(%error, "an event broke off");
                let reply = Reply::error("Reranker.event_broke_off", "the event broke off");
                self.answer(&answered, reply).await;
                return Ok(None);
            }
        };
        let invocation = Invocation {
            event,
            id,
            deadline_ms: text("lambda-runtime-deadline-ms").and_then(|ms| ms.parse().ok()),
            trace: header("lambda-runtime-trace-id").cloned(),
        };
        Ok(Some((invocation, answered)))
    }

    /// Gives the platform its answer. What fails is told and no more: whether there are more events
    /// is for the next call to find out.
    async fn answer(&self, to: &Answered, reply: Reply) {
        let mut headers = HeaderMap::new();
        if let Some(token) = &to.token {
            headers.insert("lambda-runtime-invocation-id", token.clone());
        }
        let (end, body) = match reply {
            Reply::Answer(body) => ("response", body),
            Reply::Error { kind, body } => {
                if let Ok(kind) = HeaderValue::from_str(&kind) {
                    headers.insert("lambda-runtime-function-error-type", kind);
                }
                ("error", body)
            }
        };
        let body = Bytes::from(body);
        let path = format!("/2018-06-01/runtime/invocation/{}/{end}", to.id);
        for attempt in 1..=ANSWER_TRIES {
            let call = self.call(Method::POST, &path, headers.clone(), body.clone());
            match call.await {
                Ok(_) => return,
                Err(error @ CallError::Connection(_)) if attempt < ANSWER_TRIES => {
                    tracing::warn!(%error, "an answer did not reach the runtime API: sending it again");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(error) => {
                    return tracing::error!(%error, bytes = body.len(), "the runtime API did not take an answer");
                }
            }
        }
    }

    /// Takes events one after the other until none can be had.
    async fn serve<H, F>(self: Arc<Self>, handle: H) -> End
    where
        H: Fn(Invocation) -> F,
        F: Future<Output = Reply> + Send + 'static,
    {
        let mut failures = 0;
        loop {
            let (invocation, answered) = match self.next().await {
                Ok(Some(taken)) => taken,
                Ok(None) => continue,
                Err(error) => {
                    failures += 1;
                    if failures == NEXT_TRIES {
                        return End::NoEvents(error);
                    }
                    tracing::warn!(%error, "the runtime API gave no event: asking again");
                    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1)).await;
                    continue;
                }
            };
            failures = 0;
            // A task of its own, so that a panic is this invocation's alone.
            let reply = tokio::spawn(handle(invocation)).await;
            let reply =
                reply.unwrap_or_else(|_| Reply::error("Reranker.internal", "internal error"));
            self.answer(&answered, reply).await;
        }
    }

    /// Takes `concurrency` events at a time; why it ended.
    pub async fn run<H, F>(self, concurrency: usize, handle: H) -> End
    where
        H: Fn(Invocation) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let api = Arc::new(self);
        let mut takers = JoinSet::new();
        for _ in 1..concurrency {
            takers.spawn(Arc::clone(&api).serve(handle.clone()));
        }
        tokio::select! {
            end = Arc::clone(&api).serve(handle) => end,
            Some(Ok(end)) = takers.join_next() => end,
        }
    }
}

/// Whom an answer is for.
struct Answered {
    id: String,
    token: Option<HeaderValue>,
}
