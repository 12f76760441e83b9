//! HTTP on a socket: bound before the model loads, drained when it is told to stop.
//!
//! Every limit that a client could lean on is set here and not left to a library's default: how
//! many connections there are, how long one may take for a head or stay without a request, how
//! large a head may be, and what HTTP/2 may make us keep.

mod connection;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use crate::http::Rejection;
use crate::telemetry::Metrics;
use connection::{Answering, ConnectionState, Phase};

/// After a failed accept (no file descriptors left, say) trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Headers of one request over HTTP/1, and bytes of its head.
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Bytes of the headers of one request over HTTP/2, unpacked.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// Requests that a client has cancelled and we have not seen yet; more end the connection, and so
/// do more of our own resets.
const MAX_RESET_STREAMS: usize = 20;
const MAX_OWN_RESETS: usize = 100;
/// What a client may send ahead of our reading, on one request and on the whole connection, and how
/// much of an answer waits for it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
const SEND_BUFFER_BYTES: usize = 64 << 10;
const MAX_FRAME_BYTES: u32 = 16 << 10;
/// An HTTP/2 connection whose other end has vanished is found out by asking.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections over the limit that are being told so at a time; those beyond are closed without a
/// word.
const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How long clients are waited for, and how many of them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    /// For the head of a request.
    pub header: Duration,
    /// For the next request on a connection that has been answered, and for an answer to get on.
    pub idle: Duration,
    /// For an answer to be taken whole.
    pub answer: Duration,
    /// For accepted requests to be answered once the server is told to stop.
    pub grace: Duration,
}

/// What ended the serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Told to stop; every request that was accepted is answered.
    AllAnswered,
    /// Told to stop; the grace ran out before all were.
    GraceOver,
    /// Not told: what the requests need has failed for good.
    Broken,
}

/// Connections that wait to be accepted; the kernel has a limit of its own.
const BACKLOG: u32 = 4096;

/// Takes the address without listening: another server there is noticed, and whoever connects is
/// refused until [`listen`].
pub fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections that an earlier process closed do not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens at once, so that a platform that polls the port finds it.
pub fn listen(socket: TcpSocket) -> std::io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Serves until `stop` says so, or until `broken` ends, then lets accepted requests finish for at
/// most the grace. `on_drain` is called in between.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
    broken: impl Future<Output = ()>,
    on_drain: impl FnOnce(),
) -> End {
    let mut broken = pin!(broken);
    let mut is_broken = false;
    let acceptor = Acceptor {
        http: Arc::new(http()),
        router,
        limits,
        metrics,
        places: Arc::new(Semaphore::new(limits.connections)),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
    };
    // Each connection holds a receiver until it has ended.
    let (drain, draining) = watch::channel(false);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            _ = stop.wait_for(|stop| *stop) => break,
            () = &mut broken => {
                is_broken = true;
                break;
            }
        };
        acceptor.take(stream, draining.clone());
    }
    drop((listener, draining));
    on_drain();
    tracing::info!(grace_s = limits.grace.as_secs_f64(), "draining");
    // With nobody left to tell, all have ended already.
    let _ = drain.send(true);
    let ended = tokio::select! {
        () = drain.closed() => true,
        () = tokio::time::sleep(limits.grace) => false,
    };
    tracing::info!(all_answered = ended, "stopped");
    match (is_broken, ended) {
        (true, _) => End::Broken,
        (false, true) => End::AllAnswered,
        (false, false) => End::GraceOver,
    }
}

/// How both versions are spoken.
fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        // One timer for heads and for idle connections would be too long for the one or too short
        // for the other: `ConnectionState` has two.
        .header_read_timeout(None)
        .keep_alive(true)
        // Half a connection is no client that waits for an answer.
        .half_close(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_OWN_RESETS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

struct Acceptor {
    http: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl Acceptor {
    /// Serves a connection in the background, or tells it that there are too many.
    fn take(&self, stream: TcpStream, draining: watch::Receiver<bool>) {
        // Answers are small and complete: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.connection_refused();
            if let Ok(turn) = Arc::clone(&self.refusals).try_acquire_owned() {
                let most = self.limits.connections;
                tokio::spawn(async move {
                    let _turn = turn;
                    let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream, most)).await;
                });
            }
            return;
        };
        let (router, limits, http) = (self.router.clone(), self.limits, Arc::clone(&self.http));
        let open = self.metrics.connection_opened();
        tokio::spawn(async move {
            serve_one(stream, &http, router, limits, draining).await;
            drop((place, open));
        });
    }
}

/// Says why, and reads a little of what is on its way: closing on unread bytes would take the
/// answer back.
async fn refuse(mut stream: TcpStream, limit: usize) -> std::io::Result<()> {
    let (head, body) = Rejection::NoConnection { limit }.by_host(None).into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let body = body.to_bytes();
    let (status, length) = (head.status, body.len());
    let lines = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    let mut answer = lines.into_bytes();
    for (name, value) in &head.headers {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// One connection from its first byte to its last.
async fn serve_one(
    stream: TcpStream,
    http: &auto::Builder<TokioExecutor>,
    router: Router,
    limits: Limits,
    mut draining: watch::Receiver<bool>,
) {
    let watched = ConnectionState::new();
    let service = {
        let watched = watched.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            let busy = watched.busy(request.version() == Version::HTTP_2);
            let (router, watched) = (router.clone(), watched.clone());
            async move {
                let has_body = !request.body().is_end_stream();
                let answer = answer(router, request.map(Body::new)).await;
                if has_body && answer.as_ref().is_ok_and(|a| !a.status().is_success()) {
                    watched.linger();
                }
                let answering = Arc::new(watched.answering());
                drop(busy);
                answer.map(|answer| answer.map(|body| Tracked { body, answering }))
            }
        })
    };
    let stream = TokioIo::new(watched.over(stream));
    let mut connection = pin!(http.serve_connection(stream, service));
    // When the connection was told that it has been idle for too long.
    let mut told = None;
    loop {
        let changed = watched.changed();
        let due = match (watched.phase(), told) {
            (Phase::Head(since), _) => Some(since + limits.header),
            (Phase::Idle(_), Some(told)) => Some(told + limits.header),
            (Phase::Idle(since), None) => Some(since + limits.idle),
            // The request's own deadline holds.
            (Phase::Busy, _) => None,
        };
        let too_long = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let taken_slowly = async {
            match watched.oldest_answer() {
                Some(made) => tokio::time::sleep_until((made + limits.answer).into()).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = changed => continue,
            () = taken_slowly => {
                // That one may have gone by now.
                if watched.oldest_answer().is_none_or(|made| made.elapsed() < limits.answer) {
                    continue;
                }
                return tracing::debug!("an answer was taken too slowly");
            }
            () = too_long => {
                if told.is_some() || matches!(watched.phase(), Phase::Head(_)) {
                    return tracing::debug!("a connection took too long for its next request");
                }
                // Says goodbye where the version has a word for it; what is not over some time
                // later is cut.
                connection.as_mut().graceful_shutdown();
                told = Some(Instant::now());
                continue;
            }
            _ = draining.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // A connection that breaks is its client's affair; what it asked for has its own line in
        // the log.
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
        return;
    }
}

/// An answer's body, of which the connection knows until whoever sends it has let go of its last
/// byte.
struct Tracked {
    body: Body,
    answering: Arc<Answering>,
}

/// A part of it.
struct Part {
    bytes: Bytes,
    _answering: Arc<Answering>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let part = |bytes| {
                let _answering = Arc::clone(&self.answering);
                Bytes::from_owner(Part { bytes, _answering })
            };
            frame.map(|frame| frame.map_data(part))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The router's answer. After a body in chunks the connection is closed: where a length was
/// announced besides, hyper has dropped it, and whoever stands in front may have believed it.
async fn answer(router: Router, request: Request) -> Result<Response, std::convert::Infallible> {
    let in_chunks =
        request.version() < Version::HTTP_2 && request.headers().contains_key(TRANSFER_ENCODING);
    let mut response = router.oneshot(request).await?;
    if in_chunks {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}
