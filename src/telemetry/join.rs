//! The trace that a request belongs to, from its headers: W3C's `traceparent`, or X-Ray's `X-Amzn-Trace-Id`, which gateways, load
//! balancers and Lambda itself put on requests.

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const XRAY_HEADER: &str = "x-amzn-trace-id";

/// `traceparent` goes first: a caller set it on purpose, where X-Ray's header comes by itself.
pub fn join(headers: &HeaderMap, span: &Span) {
    let nothing = Context::new();
    let caller =
        TraceContextPropagator::new().extract_with_context(&nothing, &HeaderExtractor(headers));
    if caller.span().span_context().is_valid() {
        // Refused only where nothing exports the span.
        let _ = span.set_parent(caller);
        return;
    }
    let text = headers
        .get(XRAY_HEADER)
        .and_then(|value| value.to_str().ok());
    match text.and_then(parse_xray) {
        Some(Xray::Segment(parent)) => {
            let _ = span.set_parent(nothing.with_remote_span_context(parent));
        }
        Some(Xray::Trace(id)) => super::otlp::begin_in_trace(id, span),
        None => {}
    }
}

#[derive(Debug, PartialEq)]
enum Xray {
    /// Our span's parent, which X-Ray records.
    Segment(SpanContext),
    /// Only the trace. A load balancer names no segment, and Lambda, unless it is told to trace, names one that X-Ray does not
    /// record: as our parent that would be missing for ever. Nor is it a decision about traces that go elsewhere, so our sampler
    /// makes its own.
    Trace(TraceId),
}

/// Reads `Root=1-<8 hex digits>-<24 hex digits>;Parent=<16 hex digits>;Sampled=1`, in any order; other fields are passed over.
fn parse_xray(header: &str) -> Option<Xray> {
    let field = |name: &str| {
        header.split(';').find_map(|field| {
            let (key, value) = field.split_once('=')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let (time, rest) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
    if time.len() != 8 || rest.len() != 24 {
        return None;
    }
    let trace = u128::from_str_radix(&format!("{}{}", hex(time)?, hex(rest)?), 16).ok()?;
    let trace = Some(TraceId::from(trace)).filter(|id| *id != TraceId::INVALID)?;
    if field("Sampled") != Some("1") {
        return Some(Xray::Trace(trace));
    }
    let parent = field("Parent")
        .filter(|parent| parent.len() == 16)
        .and_then(hex)
        .and_then(|parent| u64::from_str_radix(parent, 16).ok())
        .map(SpanId::from)
        .filter(|id| *id != SpanId::INVALID);
    Some(match parent {
        Some(parent) => Xray::Segment(SpanContext::new(
            trace,
            parent,
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        )),
        None => Xray::Trace(trace),
    })
}

/// The text where it is nothing but hexadecimal digits: `from_str_radix` would take a sign as well.
fn hex(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "Root=1-67891233-abcdef012345678912345678";

    fn trace() -> TraceId {
        TraceId::from(0x6789_1233_abcd_ef01_2345_6789_1234_5678)
    }

    #[test]
    fn xrays_sampled_segment_is_the_parent() {
        let header = format!("Self=1-0-0; {ROOT};Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a:0");
        let Some(Xray::Segment(parent)) = parse_xray(&header) else {
            panic!("no parent in {header}");
        };
        assert_eq!(parent.trace_id(), trace());
        assert_eq!(parent.span_id(), SpanId::from(0x5399_5c3f_42cd_8ad8));
        assert!(parent.is_sampled() && parent.is_remote());
    }

    #[test]
    fn a_segment_that_xray_does_not_record_is_no_parent() {
        for rest in [
            "",
            ";Parent=53995c3f42cd8ad8",
            ";Parent=53995c3f42cd8ad8;Sampled=0",
            ";Parent=53995c3f42cd8ad8;Sampled=?",
            ";Parent=0000000000000000;Sampled=1",
            ";Parent=+3995c3f42cd8ad8;Sampled=1",
            ";Parent=53995c3f;Sampled=1",
            ";Sampled=1",
        ] {
            let header = format!("{ROOT}{rest}");
            assert_eq!(parse_xray(&header), Some(Xray::Trace(trace())), "{header}");
        }
    }

    #[test]
    fn what_is_no_xray_header_is_ignored() {
        for header in [
            "",
            "Root",
            "Root=",
            "Parent=53995c3f42cd8ad8;Sampled=1",
            "Root=2-67891233-abcdef012345678912345678",
            "Root=1-67891233abcdef012345678912345678",
            "Root=1-6789123-abcdef0123456789123456789",
            "Root=1-+7891233-abcdef012345678912345678",
            "Root=1-67891233-abcdefg12345678912345678",
            "Root=1-00000000-000000000000000000000000",
            "Root=1-6789123é-abcdef012345678912345678",
        ] {
            assert_eq!(parse_xray(header), None, "{header}");
        }
    }
}
