//! HTTP on a socket: bound before the model loads, drained on SIGTERM or Ctrl-C.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// A client that has not sent its request's head by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptors left, say) trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes the address at once, so that a platform that polls the port finds it.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until SIGTERM or SIGINT, then lets accepted requests finish for at most `grace`. `on_drain` is called in between.
///
/// Returns whether all connections ended within the grace.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    grace: Duration,
    on_drain: impl FnOnce(),
) -> std::io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
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
        connect(stream, &http, &router, &connections);
    }
    drop(listener);
    on_drain();
    tracing::info!(grace_s = grace.as_secs_f64(), "draining");
    let ended = tokio::select! {
        () = connections.shutdown() => true,
        () = tokio::time::sleep(grace) => false,
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
) {
    // Answers are small and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.clone());
    let connection = http
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        let watched = pin!(watched);
        // A connection that breaks is its client's affair; what it asked for has its own line in the log.
        if let Err(error) = watched.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}
