//! The two streams that every command writes to: data to stdout, notes to stderr. Nothing here
//! panics.
//!
//! A reader that has gone (`reranker score … | head`) is no error: a stream of data ends there, and
//! a command that prints a few lines goes on to its exit code. Whatever else stdout refuses, a full
//! disk for one, ends the command with 1.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line on stdout. Fails where it cannot be written, but not where nobody reads any more.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

/// Prints a line on stderr, where that can be written.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::cli::output::aside(format_args!($($text)*))
    };
}

pub(super) use {note, say};

/// Standard output, for data that comes piece by piece.
pub struct Out(io::Stdout);

pub fn stdout() -> Out {
    Out(io::stdout())
}

/// Nobody reads what the command writes any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the standard output any more")]
struct ReaderGone;

fn told(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        kind => io::Error::new(kind, format!("standard output: {error}")),
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(told)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(told)
    }
}

/// Whether a command ended because its reader has gone.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<ReaderGone>())
    })
}

pub fn line(text: fmt::Arguments) -> io::Result<()> {
    let mut out = stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Whether notes are lines of the log, as they are where a server writes one.
static TO_LOG: AtomicBool = AtomicBool::new(false);

/// From now on notes are lines of the log.
pub fn note_in_log() {
    TO_LOG.store(true, Ordering::Relaxed);
}

pub fn aside(text: fmt::Arguments) {
    if TO_LOG.load(Ordering::Relaxed) {
        tracing::info!("{text}");
        return;
    }
    // Whoever closed stderr, or let its disk fill up, has no need of it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A progress bar on stderr; hidden where that is no terminal. `total` is what 100 % is.
pub fn bar(total: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(total).with_style(style.expect("a fixed template with known placeholders"))
}

/// A progress bar for the bytes of a download, whose number comes later.
pub fn download_bar() -> ProgressBar {
    bar(
        0,
        "{bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
    )
}

/// A progress bar for pairs to score; without their number, only a count.
pub fn pairs_bar(pairs: Option<u64>) -> ProgressBar {
    match pairs {
        Some(pairs) => bar(
            pairs,
            "{bar:30} {percent:>3}% {pos}/{len} pairs {elapsed} eta {eta} {msg}",
        ),
        None => bar(0, "{spinner} {pos} pairs {elapsed}"),
    }
}

/// Tells in a server's log how far something has come, a tenth at a time, where no terminal shows a
/// bar.
pub struct Tenths {
    what: &'static str,
    told: AtomicU64,
}

impl Tenths {
    pub fn of(what: &'static str) -> Self {
        Self {
            what,
            told: AtomicU64::new(0),
        }
    }

    /// Where it is now; what was told is not told again.
    pub fn at(&self, done: u64, total: u64) {
        let tenth = (done * 10).checked_div(total).unwrap_or_default();
        let is_new = self.told.fetch_max(tenth, Ordering::Relaxed) < tenth;
        if is_new && TO_LOG.load(Ordering::Relaxed) && !io::stderr().is_terminal() {
            note!("{}: {}0 %", self.what, tenth);
        }
    }
}

/// Lines of a table, each column as wide as its widest cell.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
