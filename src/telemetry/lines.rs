//! Lines on their way to stderr or stdout, which whoever reads them must not hold up: a bounded
//! queue, and a thread that writes.
//!
//! Where the reader stands still, lines that find no room are dropped and counted, and once it
//! reads again it is told how many.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Of the lines that wait: some ten thousand requests.
const QUEUE_BYTES: usize = 4 << 20;
/// What a line takes besides its text.
const LINE_BYTES: usize = 64;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stderr,
    Stdout,
}

static STDERR: OnceLock<Lines> = OnceLock::new();
static STDOUT: OnceLock<Lines> = OnceLock::new();

/// Lines that were dropped since the process began.
pub fn dropped() -> u64 {
    let queues = [&STDERR, &STDOUT].into_iter().filter_map(OnceLock::get);
    queues.map(Lines::dropped).sum()
}

/// From now on lines go through a queue. Without this call each is written before its request goes
/// on, as it has to be where the process is frozen between requests.
pub fn queue() -> io::Result<()> {
    for stream in [Stream::Stderr, Stream::Stdout] {
        let lines = Lines::start(stream)?;
        // Only a second call finds one there, and keeps it.
        let _ = stream.queue().set(lines);
    }
    Ok(())
}

/// Waits until what was written before has left the queues, for at most `limit` each.
pub fn flush(limit: Duration) {
    for stream in [Stream::Stderr, Stream::Stdout] {
        if let Some(lines) = stream.queue().get() {
            lines.flush(limit);
        }
    }
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Stdout => "stdout",
        }
    }

    fn queue(self) -> &'static OnceLock<Lines> {
        match self {
            Self::Stderr => &STDERR,
            Self::Stdout => &STDOUT,
        }
    }
}

/// Takes whole lines, one in each call.
impl Write for Stream {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.queue().get(), *self) {
            (Some(lines), _) => lines.push(line),
            (None, Self::Stderr) => io::stderr().lock().write_all(line)?,
            (None, Self::Stdout) => io::stdout().lock().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Message {
    Line(Vec<u8>),
    /// To be answered once everything before it is written.
    Flush(Sender<()>),
}

struct Lines {
    sender: Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Lines {
    /// Over a descriptor of its own: the standard library's writers are locked while somebody waits
    /// in them.
    fn start(stream: Stream) -> io::Result<Self> {
        let descriptor = match stream {
            Stream::Stderr => io::stderr().as_fd().try_clone_to_owned()?,
            Stream::Stdout => io::stdout().as_fd().try_clone_to_owned()?,
        };
        Self::over(stream.name(), File::from(descriptor))
    }

    fn over(name: &'static str, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let counts = Arc::<Counts>::default();
        let of_writer = Arc::clone(&counts);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || write(name, &receiver, &of_writer, out))?;
        Ok(Self { sender, counts })
    }

    fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, line: &[u8]) {
        let size = line.len() + LINE_BYTES;
        let queued = &self.counts.queued_bytes;
        let room = queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
            Some(queued + size).filter(|all| *all <= QUEUE_BYTES)
        });
        // The writer ends only with the process.
        if room.is_err() || self.sender.send(Message::Line(line.to_vec())).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, limit: Duration) {
        let (done, is_done) = channel();
        if self.sender.send(Message::Flush(done)).is_ok() {
            let waited = is_done.recv_timeout(limit);
            debug_assert_ne!(waited, Err(RecvTimeoutError::Disconnected));
        }
    }
}

fn write(name: &str, messages: &Receiver<Message>, counts: &Counts, mut out: impl Write) {
    let queued = &counts.queued_bytes;
    let mut told = 0;
    for message in messages {
        match message {
            Message::Line(line) => {
                // Nobody is left to be told that it is closed.
                let _ = out.write_all(&line);
                queued.fetch_sub(line.len() + LINE_BYTES, Ordering::Relaxed);
            }
            // Whoever asked may not wait any more.
            Message::Flush(done) => drop(done.send(())),
        }
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if dropped > told && queued.load(Ordering::Relaxed) < QUEUE_BYTES / 2 {
            let lines = dropped - told;
            told = dropped;
            tracing::warn!(
                lines,
                stream = name,
                "log lines were dropped: their reader stood still"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::SyncSender;

    use super::*;

    /// A reader that stands still until it is let on.
    struct Stuck {
        let_on: Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
        begun: SyncSender<()>,
        on: bool,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.on {
                self.begun.send(()).expect("the test waits for it");
                self.let_on.recv().expect("the test lets it on");
                self.on = true;
            }
            self.read.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let (go, let_on) = channel();
        let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
        let read = Arc::<Mutex<Vec<u8>>>::default();
        let stuck = Stuck {
            let_on,
            read: Arc::clone(&read),
            begun,
            on: false,
        };
        let lines = Lines::over("test", stuck).expect("a thread");
        let line = [b'x'; 1024 - LINE_BYTES];
        lines.push(&line);
        has_begun.recv().expect("it is being written");
        for _ in 0..2 * QUEUE_BYTES / 1024 {
            lines.push(&line);
        }
        // What is being written still counts.
        let kept = QUEUE_BYTES / 1024;
        assert_eq!(lines.dropped(), (2 * kept + 1 - kept) as u64);
        // It is waited for, but not for ever.
        lines.flush(Duration::from_millis(1));
        go.send(()).expect("it waits");
        lines.flush(Duration::from_secs(600));
        assert_eq!(read.lock().expect("whole").len(), kept * line.len());
        assert_eq!(lines.counts.queued_bytes.load(Ordering::Relaxed), 0);
        lines.push(b"again\n");
        lines.flush(Duration::from_secs(600));
        assert!(read.lock().expect("whole").ends_with(b"again\n"));
    }
}
