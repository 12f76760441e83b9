//! HTTP on a socket: bound before the model loads, drained on SIGTERM or Ctrl-C.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// After a failed accept (no file descriptors left, say) trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the head of a request.
    pub header: Duration,
    /// For accepted requests to be answered once the server is told to stop.
    pub grace: Duration,
}

/// Takes the address at once, so that a platform that polls the port finds it.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until SIGTERM or SIGINT, then lets accepted requests finish for at most the grace. `on_drain` is called in between.
///
/// Returns whether all connections ended within the grace.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    timeouts: Timeouts,
    on_drain: impl FnOnce(),
) -> std::io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.header);
    http.http2().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();
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
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        connect(stream, &http, &router, &connections, timeouts.header);
    }
    drop(listener);
    on_drain();
    tracing::info!(grace_s = timeouts.grace.as_secs_f64(), "draining");
    let ended = tokio::select! {
        () = connections.shutdown() => true,
        () = tokio::time::sleep(timeouts.grace) => false,
        // Asked a second time, it is meant.
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    tracing::info!(all_answered = ended, "stopped");
    Ok(ended)
}

fn connect(
    stream: TcpStream,
    http: &auto::Builder<TokioExecutor>,
    router: &Router,
    connections: &GracefulShutdown,
    header_timeout: Duration,
) {
    // Answers are small and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (asked, router) = (Arc::clone(&asked), TowerToHyperService::new(router.clone()));
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            router.call(request)
        })
    };
    let connection = http
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        let mut watched = pin!(watched);
        // hyper's own timeout begins once it knows the protocol, so a client that does not even tell that is timed here.
        let ended = match tokio::time::timeout(header_timeout, watched.as_mut()).await {
            Ok(ended) => ended,
            Err(_) if asked.load(Ordering::Relaxed) => watched.await,
            Err(_) => return tracing::debug!("a connection brought no request"),
        };
        // A connection that breaks is its client's affair; what it asked for has its own line in the log.
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    });
}
