//! SIGTERM and SIGINT, on a thread of their own: whatever the other threads do, the process ends in
//! its time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::telemetry::{self, LAST_LINES_TIME};

/// What comes of the first signal.
pub struct Signals {
    first: watch::Receiver<bool>,
    drains: Arc<AtomicBool>,
}

impl Signals {
    /// From now on the first signal is what the value that this gives tells of. A second one ends
    /// the process at once with code 1.
    pub fn drain(self) -> watch::Receiver<bool> {
        self.drains.store(true, Ordering::Release);
        self.first
    }
}

/// Listens from now on. Until [`Signals::drain`] a signal ends the process at once, with the code
/// that shells give it: the first process of a container would else not notice one. After that this
/// thread ends the process when `last` has passed after the first.
pub fn listen(last: Duration) -> io::Result<Signals> {
    let (told, first) = watch::channel(false);
    let drains = Arc::new(AtomicBool::new(false));
    let draining = Arc::clone(&drains);
    let (listening, is_listening) = mpsc::channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let begun = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .and_then(|runtime| {
                    let _context = runtime.enter();
                    let both = (
                        signal(SignalKind::terminate())?,
                        signal(SignalKind::interrupt())?,
                    );
                    Ok((runtime, both))
                });
            let (runtime, (mut terminate, mut interrupt)) = match begun {
                Ok(begun) => begun,
                // Whoever has started this thread waits for it.
                Err(error) => return drop(listening.send(Err(error))),
            };
            let _ = listening.send(Ok(()));
            runtime.block_on(async move {
                let signal = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                if !draining.load(Ordering::Acquire) {
                    tracing::info!(
                        "ended before it listened: the downloaded bytes stay for the next start"
                    );
                    telemetry::flush(LAST_LINES_TIME);
                    std::process::exit(128 + signal.as_raw_value());
                }
                told.send_replace(true);
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = tokio::time::sleep(last) => {}
                }
            });
            telemetry::flush(LAST_LINES_TIME);
            std::process::exit(1);
        })?;
    is_listening
        .recv()
        .map_err(|_| io::Error::other("the thread for signals ended"))??;
    Ok(Signals { first, drains })
}
