//! SIGTERM and SIGINT, on a thread of their own: whatever the other threads do, the process ends in its time.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::telemetry::{self, LAST_LINES_TIME};

/// Listens from now on. The first signal is what the value that this gives tells of; a second one ends the process at once with code 1,
/// and so does this thread itself when `last` has passed after the first.
pub fn listen(last: Duration) -> io::Result<watch::Receiver<bool>> {
    let (told, first) = watch::channel(false);
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
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
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
    Ok(first)
}
