//! The times of a start, step by step, from the beginning of the process to the first score.

use std::time::{Duration, Instant};

use crate::weights::PrefetchReport;

/// A step of the start: when it began, counted from the start of the process, and its duration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Span {
    /// From the start of the process.
    pub start: Duration,
    /// How long it took.
    pub time: Duration,
}

impl Span {
    /// From `began` until now. `started` is when the process began.
    pub fn since(began: Instant, started: Instant) -> Self {
        Self {
            start: began.saturating_duration_since(started),
            time: began.elapsed(),
        }
    }

    /// When it ended, from the start of the process.
    pub fn end(&self) -> Duration {
        self.start + self.time
    }
}

/// Times of loading. Tokenizer and weights are loaded at the same time if there are threads for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadTimes {
    /// From the start of the process until loading began: linking, arguments, settings, threads.
    pub process: Span,
    /// Downloading the model; `None` for a model on a local disk.
    pub download: Option<Downloaded>,
    /// Reading the tokenizer.
    pub tokenizer: Span,
    /// Mapping and checking the weights, and widening those of narrower dtypes.
    pub weights: Span,
    /// One forward pass before the first request, which also reads the weights' pages; zero where
    /// it was not asked for.
    pub warm_up: Duration,
    /// From the start of the process until the model was ready to answer.
    pub total: Duration,
}

/// Times and bytes of a model's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// When it began.
    pub began: Instant,
    /// Duration of requests and transfers, without checking.
    pub time: Duration,
    /// Duration of computing digests.
    pub check: Duration,
    /// Bytes of the model's files.
    pub bytes: u64,
    /// Bytes that came over the network this time; earlier runs may have left the others.
    pub downloaded: u64,
}

impl Download {
    /// Speed of the network in 10⁶ bytes a second.
    pub fn mb_per_s(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 {
            self.downloaded as f64 / 1e6 / seconds
        } else {
            0.0
        }
    }
}

/// A download as part of a start.
#[derive(Debug, Clone, Copy)]
pub struct Downloaded {
    /// Requests and transfers.
    pub span: Span,
    /// Duration of computing digests, after that.
    pub check: Duration,
    /// Bytes of the model's files.
    pub bytes: u64,
    /// Bytes that came over the network; the others had come before.
    pub downloaded_bytes: u64,
    /// Speed of the network in 10⁶ bytes a second.
    pub mb_per_s: f64,
}

impl Downloaded {
    /// The same, from the start of the process.
    pub(crate) fn new(download: Download, started: Instant) -> Self {
        Self {
            span: Span {
                start: download.began.saturating_duration_since(started),
                time: download.time,
            },
            check: download.check,
            bytes: download.bytes,
            downloaded_bytes: download.downloaded,
            mb_per_s: download.mb_per_s(),
        }
    }
}

/// The receipt of a start. A step that has not ended yet has its values so far.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// Until the model was ready.
    pub load: LoadTimes,
    /// Reading the weights ahead, which may go on.
    pub prefetch: Prefetched,
    /// The first forward pass, be it the warm-up or a request's.
    pub first_inference: Option<Span>,
}

/// Reading the weights ahead.
#[derive(Debug, Clone, Copy)]
pub struct Prefetched {
    /// From its beginning until now, or until its end.
    pub span: Span,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that were found in memory.
    pub cached_bytes: u64,
    /// Bytes that a forward pass reads.
    pub planned_bytes: u64,
    /// 10⁶ bytes a second, of those that were read.
    pub mb_per_s: f64,
    /// Whether it has ended.
    pub done: bool,
}

impl Prefetched {
    /// The same, from the start of the process.
    pub(crate) fn new(report: PrefetchReport, started: Instant) -> Self {
        Self {
            span: Span {
                start: report.began.saturating_duration_since(started),
                time: report.time,
            },
            bytes: report.bytes,
            cached_bytes: report.cached_bytes,
            planned_bytes: report.planned_bytes,
            mb_per_s: report.mb_per_s(),
            done: report.done,
        }
    }
}

impl Receipt {
    /// From the start of the process until the first scores were there; nothing before that.
    pub fn first_score(&self) -> Option<Duration> {
        self.first_inference.map(|span| span.end())
    }
}
