//! AWS Lambda's runtime and extensions APIs, as far as a custom runtime sees them, for tests and for `make invoke`.
//!
//! Does what the official emulator cannot: several pollers at a time, deadlines of any kind, SnapStart's restore, the limits of
//! 6 MB. Keeps a list of the calls that the function makes. Refuses to judge them: that is the tests' part.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Largest event of a synchronous invocation.
pub const MAX_EVENT_BYTES: usize = 6 * 1024 * 1024;
/// Largest response: the same, and a little for its envelope.
const MAX_RESPONSE_BYTES: usize = 6 * 1024 * 1024 + 100;

/// What the function asked of the platform, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Next,
    Response { id: String },
    Error { id: String },
    InitError,
    RestoreNext,
    RegisterExtension { name: String },
    NextExtensionEvent,
}

/// What an invocation came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Response(Value),
    /// The function reported an error.
    Error(Value),
    /// The response exceeded the platform's limit.
    TooLarge {
        bytes: usize,
    },
}

/// The deadline that an invocation is told.
#[derive(Debug, Clone, Copy)]
pub enum Deadline {
    /// This long after the function took the event.
    In(Duration),
    /// Milliseconds since 1970.
    At(u64),
}

/// The event is larger than Lambda takes.
#[derive(Debug, PartialEq, Eq)]
pub struct EventTooLarge;

pub struct RuntimeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Platform>,
    /// For threads that wait for something to be true of the state.
    changed: Condvar,
    /// For pollers, when there is an event, and for a restore.
    arrived: Notify,
}

#[derive(Default)]
struct Platform {
    calls: Vec<Call>,
    /// How many `next` calls wait at this moment.
    pollers: usize,
    restored: bool,
    events: VecDeque<Event>,
    running: HashMap<String, usize>,
    outcomes: HashMap<String, Outcome>,
    invocations: usize,
    /// What the next polls are answered with, whatever events there are.
    failing_polls: VecDeque<StatusCode>,
    /// Of the next answers: their connections are closed.
    dropped_answers: usize,
}

struct Event {
    id: String,
    body: Vec<u8>,
    deadline: Deadline,
    headers: Headers,
}

/// Beside the usual ones, or in their place.
type Headers = &'static [(&'static str, &'static str)];

/// An event on its way.
pub struct Invocation {
    pub id: String,
    shared: Arc<Shared>,
}

impl RuntimeApi {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared::default());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind((
                std::net::Ipv4Addr::LOCALHOST,
                0,
            )))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = router(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            shared,
            _runtime: runtime,
        }
    }

    /// The variables that Lambda sets for a function.
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_LAMBDA_RUNTIME_API", self.address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", "reranker".into()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048".into()),
            ("AWS_REGION", "eu-central-1".into()),
        ]
    }

    /// Queues an event for the next poller.
    pub fn invoke(&self, event: Vec<u8>, deadline: Deadline) -> Result<Invocation, EventTooLarge> {
        self.invoke_with(event, deadline, &[])
    }

    /// The same, with headers that say more of the invocation.
    pub fn invoke_with(
        &self,
        event: Vec<u8>,
        deadline: Deadline,
        headers: Headers,
    ) -> Result<Invocation, EventTooLarge> {
        if event.len() > MAX_EVENT_BYTES {
            return Err(EventTooLarge);
        }
        let id = self.shared.change(|platform| {
            platform.invocations += 1;
            let id = format!("00000000-0000-4000-8000-{:012x}", platform.invocations);
            platform.events.push_back(Event {
                id: id.clone(),
                body: event,
                deadline,
                headers,
            });
            id
        });
        self.shared.arrived.notify_waiters();
        Ok(Invocation {
            id,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Answers the next polls, those that wait too, with these and no event.
    pub fn fail_polls(&self, statuses: &[u16]) {
        let statuses = statuses
            .iter()
            .map(|status| StatusCode::from_u16(*status).expect("a status"));
        self.shared
            .change(|platform| platform.failing_polls.extend(statuses));
        self.shared.arrived.notify_waiters();
    }

    /// Takes the next answers, and closes their connections instead of saying so.
    pub fn drop_answers(&self, answers: usize) {
        self.shared
            .change(|platform| platform.dropped_answers = answers);
    }

    /// Ends the wait of a function that asked for its restore.
    pub fn restore(&self) {
        self.shared.change(|platform| platform.restored = true);
        self.shared.arrived.notify_waiters();
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// Waits until the function has made this call; false where it does not within `patience`.
    pub fn wait_for_call(&self, call: &Call, patience: Duration) -> bool {
        self.shared
            .wait(patience, |platform| {
                platform.calls.contains(call).then_some(())
            })
            .is_some()
    }

    /// Waits until exactly this many polls wait for an event.
    pub fn wait_for_pollers(&self, pollers: usize, patience: Duration) -> bool {
        self.shared
            .wait(patience, |platform| {
                (platform.pollers == pollers).then_some(())
            })
            .is_some()
    }
}

impl Invocation {
    /// The outcome, or nothing where the function gives none within `patience`.
    pub fn wait(&self, patience: Duration) -> Option<Outcome> {
        self.shared.wait(patience, |platform| {
            platform.outcomes.get(&self.id).cloned()
        })
    }

    /// Waits until the function has taken the event: how many of its invocations were then unanswered, this one included.
    pub fn wait_until_taken(&self, patience: Duration) -> Option<usize> {
        self.shared
            .wait(patience, |platform| platform.running.get(&self.id).copied())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Platform> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Platform) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    fn wait<T>(&self, patience: Duration, find: impl Fn(&Platform) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        let mut platform = self.lock();
        loop {
            if let Some(found) = find(&platform) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            platform = self
                .changed
                .wait_timeout(platform, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    const RUNTIME: &str = "/2018-06-01/runtime";
    const EXTENSION: &str = "/2020-01-01/extension";
    Router::new()
        .route(&format!("{RUNTIME}/invocation/next"), get(next))
        .route(
            &format!("{RUNTIME}/invocation/{{id}}/response"),
            post(response),
        )
        .route(&format!("{RUNTIME}/invocation/{{id}}/error"), post(error))
        .route(&format!("{RUNTIME}/init/error"), post(init_error))
        .route(&format!("{RUNTIME}/restore/next"), get(restore_next))
        .route(&format!("{EXTENSION}/register"), post(register))
        .route(
            &format!("{EXTENSION}/event/next"),
            get(next_extension_event),
        )
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
}

/// Counts a poll as waiting until it is dropped: answered, or given up by the function.
struct Poller<'a>(&'a Shared);

impl Drop for Poller<'_> {
    fn drop(&mut self) {
        self.0.change(|platform| platform.pollers -= 1);
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Response {
    shared.change(|platform| {
        platform.calls.push(Call::Next);
        platform.pollers += 1;
    });
    let poller = Poller(&shared);
    let event = loop {
        // Made before the queue is looked at, so that no event is missed in between.
        let arrived = shared.arrived.notified();
        if let Some(status) = shared.change(|platform| platform.failing_polls.pop_front()) {
            return (status, error_body("Platform", "a failure")).into_response();
        }
        let event = shared.change(|platform| {
            let event = platform.events.pop_front()?;
            let unanswered = platform
                .running
                .keys()
                .filter(|id| !platform.outcomes.contains_key(*id));
            let at_once = unanswered.count() + 1;
            platform.running.insert(event.id.clone(), at_once);
            Some(event)
        });
        match event {
            Some(event) => break event,
            None => arrived.await,
        }
    };
    drop(poller);
    let deadline = match event.deadline {
        Deadline::In(time) => (SystemTime::now() + time)
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
        Deadline::At(ms) => ms,
    };
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", event.id),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-central-1:123456789012:function:reranker".to_owned(),
        ),
        (
            "lambda-runtime-trace-id",
            "Root=1-6741b2c9-5f8f2c8a4a3b7d1e0c9f6a25;Parent=53995c3f42cd8ad8;Sampled=1".to_owned(),
        ),
    ];
    let mut response = event.body.into_response();
    for (name, value) in headers {
        let value = value.parse().expect("a header value");
        response.headers_mut().insert(name, value);
    }
    for (name, value) in event.headers {
        let value = value.parse().expect("a header value");
        response.headers_mut().insert(*name, value);
    }
    response
}

async fn response(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    let dropped = shared.change(|platform| {
        platform.calls.push(Call::Response { id: id.clone() });
        let dropped = platform.dropped_answers > 0;
        platform.dropped_answers -= usize::from(dropped);
        dropped
    });
    if dropped {
        // Ends the connection's task, without a word on the terminal.
        std::panic::resume_unwind(Box::new("dropped"));
    }
    if body.len() > MAX_RESPONSE_BYTES {
        let outcome = Outcome::TooLarge { bytes: body.len() };
        settle(&shared, id, outcome);
        let body = error_body(
            "RequestEntityTooLarge",
            "exceeded the maximum response size",
        );
        return (StatusCode::PAYLOAD_TOO_LARGE, body).into_response();
    }
    match serde_json::from_slice(&body) {
        Ok(value) => settle(&shared, id, Outcome::Response(value)),
        Err(error) => {
            let message = format!("a response that is no JSON: {error}");
            (
                StatusCode::BAD_REQUEST,
                error_body("InvalidResponse", &message),
            )
                .into_response()
        }
    }
}

async fn error(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> Response {
    shared.change(|platform| platform.calls.push(Call::Error { id: id.clone() }));
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    settle(&shared, id, Outcome::Error(value))
}

/// Takes the answer to an invocation that was handed out and has none yet.
fn settle(shared: &Shared, id: String, outcome: Outcome) -> Response {
    let accepted = shared.change(|platform| {
        let waited_for = platform.running.contains_key(&id) && !platform.outcomes.contains_key(&id);
        if waited_for {
            platform.outcomes.insert(id, outcome);
        }
        waited_for
    });
    if accepted {
        let body = json!({"status": "OK"}).to_string();
        (StatusCode::ACCEPTED, body).into_response()
    } else {
        let body = error_body("InvalidRequestID", "no such invocation waits for an answer");
        (StatusCode::BAD_REQUEST, body).into_response()
    }
}

async fn init_error(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.change(|platform| platform.calls.push(Call::InitError));
    StatusCode::ACCEPTED
}

async fn restore_next(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.change(|platform| platform.calls.push(Call::RestoreNext));
    loop {
        let arrived = shared.arrived.notified();
        if shared.lock().restored {
            return StatusCode::OK;
        }
        arrived.await;
    }
}

async fn register(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let name = headers
        .get("lambda-extension-name")
        .and_then(|name| name.to_str().ok());
    let Some(name) = name else {
        let body = error_body("Extension.InvalidExtensionName", "the name is missing");
        return (StatusCode::FORBIDDEN, body).into_response();
    };
    let name = name.to_owned();
    shared.change(|platform| platform.calls.push(Call::RegisterExtension { name }));
    let body =
        json!({"functionName": "reranker", "functionVersion": "$LATEST", "handler": "bootstrap"});
    let id = [(
        "lambda-extension-identifier",
        "3a5c1e7f-9b2d-4f60-8a1c-0e4d6b8f2a37",
    )];
    (id, body.to_string()).into_response()
}

async fn next_extension_event(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.change(|platform| platform.calls.push(Call::NextExtensionEvent));
    // An extension that asked for no event waits for ever.
    std::future::pending().await
}

fn error_body(kind: &str, message: &str) -> String {
    json!({"errorType": kind, "errorMessage": message}).to_string()
}
