//! What a connection is doing, seen from its socket and from the requests on it: waiting for a
//! head, working, or idle.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Sleep;

/// For the rest of a body that was refused.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What a connection is waiting for, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The client has the word: it has connected, or has begun a request.
    Head(Instant),
    /// At least one request is being answered.
    Busy,
    /// Everything is answered, or an answer is on its way.
    Idle(Instant),
}

#[derive(Clone)]
pub struct ConnectionState(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    requests: usize,
    quiet: Phase,
    /// Over HTTP/2 bytes come without being the beginning of a request.
    http2: bool,
    /// A body was refused that may still be on its way.
    linger: bool,
    /// When the answers were made of which not all is taken yet, in their order.
    answers: BTreeMap<u64, Instant>,
    next_answer: u64,
}

impl ConnectionState {
    pub fn new() -> Self {
        let state = State {
            requests: 0,
            quiet: Phase::Head(Instant::now()),
            http2: false,
            linger: false,
            answers: BTreeMap::new(),
            next_answer: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Ends when the phase is another. Made before the phase is looked at, it misses nothing.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    pub fn phase(&self) -> Phase {
        let state = self.lock();
        if state.requests > 0 {
            Phase::Busy
        } else {
            state.quiet
        }
    }

    /// A request, until the value that this gives is dropped.
    pub fn busy(&self, http2: bool) -> Busy {
        let mut state = self.lock();
        state.requests += 1;
        state.http2 = http2;
        state.linger = false;
        self.0.changed.notify_one();
        Busy(self.clone())
    }

    /// An answer, until the value that this gives is dropped with its last byte.
    pub fn answering(&self) -> Answering {
        let mut state = self.lock();
        let number = state.next_answer;
        state.next_answer += 1;
        state.answers.insert(number, Instant::now());
        self.0.changed.notify_one();
        Answering(self.clone(), number)
    }

    /// When the oldest answer was made of which not all is taken.
    pub fn oldest_answer(&self) -> Option<Instant> {
        let state = self.lock();
        state.answers.values().next().copied()
    }

    /// When the connection is closed, what still comes is read for a moment: closing on unread
    /// bytes would reset the connection, and many a client then never sees the answer.
    pub fn linger(&self) {
        self.lock().linger = true;
    }

    pub fn over(&self, stream: TcpStream) -> Stream {
        Stream {
            stream,
            watched: self.clone(),
            lingering: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole, whatever its caller does afterwards.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        let mut state = self.lock();
        if state.requests == 0 && !state.http2 && matches!(state.quiet, Phase::Idle(_)) {
            state.quiet = Phase::Head(Instant::now());
            self.0.changed.notify_one();
        }
    }

    fn written(&self) {
        let mut state = self.lock();
        // An HTTP/2 connection writes also when it only acknowledges.
        if !state.http2 && matches!(state.quiet, Phase::Idle(_)) {
            state.quiet = Phase::Idle(Instant::now());
        }
    }
}

pub struct Busy(ConnectionState);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
            state.quiet = Phase::Idle(Instant::now());
            self.0.0.changed.notify_one();
        }
    }
}

pub struct Answering(ConnectionState, u64);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.lock().answers.remove(&self.1);
    }
}

/// The socket, with an eye on it.
pub struct Stream {
    stream: TcpStream,
    watched: ConnectionState,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.watched.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.watched.written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        slices: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.watched.written();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.watched.lock().linger {
                return Poll::Ready(Ok(()));
            }
        }
        let end = this
            .lingering
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_TIME)));
        let mut unread = [0; 4096];
        loop {
            if end.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut unread);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has closed too, or has gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
