//! Ids of traces and spans.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::IdGenerator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

thread_local! {
    /// The trace that the next span without a parent begins.
    static TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Begins `span`, which has no parent, in the trace `id`. The SDK offers no other way than through
/// its source of ids.
pub fn begin_in_trace(id: TraceId, span: &Span) {
    TRACE.set(Some(id));
    // The first look at a span's context is what gives it its ids.
    let _ = span.context();
    TRACE.set(None);
}

/// Ids from the kernel's random numbers, which a process that is copied from a snapshot does not
/// share with its like.
#[derive(Debug)]
pub struct KernelIds;

impl IdGenerator for KernelIds {
    fn new_trace_id(&self) -> TraceId {
        TRACE
            .take()
            .unwrap_or_else(|| TraceId::from_bytes(random()))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from_bytes(random())
    }
}

/// All zeros, which are no valid id, where the kernel has none: such a span is not exported.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => bytes,
        Err(_) => [0; N],
    }
}
