//! The trace that a request belongs to, from its headers: W3C's `traceparent`, or X-Ray's
//! `X-Amzn-Trace-Id`, which gateways, load balancers and Lambda itself put on requests.

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// `traceparent` goes first: a caller set it on purpose, where X-Ray's header comes by itself.
pub fn join(headers: &HeaderMap, span: &Span) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let caller = text("traceparent").and_then(|header| {
        let state = text("tracestate").and_then(|state| state.parse().ok());
        parse_traceparent(header, state.unwrap_or_default())
    });
    let parent = match caller {
        Some(caller) => caller,
        None => match text("x-amzn-trace-id").and_then(parse_xray) {
            Some(Xray::Segment(segment)) => segment,
            Some(Xray::Trace(id)) => return super::ids::begin_in_trace(id, span),
            None => return,
        },
    };
    // Refused only where nothing exports the span.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// Reads `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, and of later versions the part that
/// is the same. The SDK's own reader takes ids of any length.
fn parse_traceparent(header: &str, state: TraceState) -> Option<SpanContext> {
    let mut parts = header.trim().split('-');
    let mut lower = |digits| {
        let part = parts.next()?;
        (!part.bytes().any(|b| b.is_ascii_uppercase())).then(|| hex(part, digits))?
    };
    let version = lower(2)?;
    let (trace, parent, flags) = (lower(32)?, lower(16)?, lower(2)?);
    if version == 0xff || version == 0 && parts.next().is_some() {
        return None;
    }
    let parent = SpanContext::new(
        TraceId::from(trace),
        SpanId::from(parent as u64),
        // The other flags say nothing to us.
        TraceFlags::new(flags as u8) & TraceFlags::SAMPLED,
        true,
        state,
    );
    parent.is_valid().then_some(parent)
}

#[derive(Debug, PartialEq)]
enum Xray {
    /// Our span's parent, which X-Ray records.
    Segment(SpanContext),
    /// Only the trace. A load balancer names no segment, and Lambda, unless it is told to trace,
    /// names one that X-Ray does not record: as our parent that would be missing for ever. Nor is
    /// it a decision about traces that go elsewhere, so our sampler makes its own.
    Trace(TraceId),
}

/// Reads `Root=1-<8 hex digits>-<24 hex digits>;Parent=<16 hex digits>;Sampled=1`, in any order;
/// other fields are passed over.
fn parse_xray(header: &str) -> Option<Xray> {
    let field = |name: &str| {
        header.split(';').find_map(|field| {
            let (key, value) = field.split_once('=')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let (time, rest) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
    let trace = TraceId::from(hex(time, 8)? << 96 | hex(rest, 24)?);
    if trace == TraceId::INVALID {
        return None;
    }
    let parent = field("Parent").and_then(|parent| hex(parent, 16));
    let parent = SpanContext::new(
        trace,
        SpanId::from(parent.unwrap_or_default() as u64),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    Some(if parent.is_valid() && field("Sampled") == Some("1") {
        Xray::Segment(parent)
    } else {
        Xray::Trace(trace)
    })
}

/// The number that is written in exactly so many hexadecimal digits; `from_str_radix` alone would
/// take a sign as well.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let all = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "Root=1-67891233-abcdef012345678912345678";

    fn trace() -> TraceId {
        TraceId::from(0x6789_1233_abcd_ef01_2345_6789_1234_5678)
    }

    const PARENT: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    #[test]
    fn a_traceparent_names_trace_span_and_whether_it_is_sampled() {
        for (header, sampled) in [
            (format!("00-{PARENT}-01"), true),
            (format!(" 00-{PARENT}-00 "), false),
            (format!("00-{PARENT}-fe"), false),
            (format!("cc-{PARENT}-03-what-comes-later"), true),
        ] {
            let parent = parse_traceparent(&header, TraceState::NONE).expect(&header);
            let ids = format!("{}-{}", parent.trace_id(), parent.span_id());
            assert_eq!(ids, PARENT);
            assert!(
                parent.is_sampled() == sampled && parent.is_remote(),
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        for header in [
            "",
            "00",
            &format!("ff-{PARENT}-01"),
            &format!("0-{PARENT}-01"),
            &format!("00-{PARENT}"),
            &format!("00-{PARENT}-"),
            &format!("00-{PARENT}-1"),
            &format!("00-{PARENT}-01-more"),
            &format!("00-{}-01", PARENT.to_uppercase()),
            "00-4bf92f3577b34da6-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(
                parse_traceparent(header, TraceState::NONE),
                None,
                "{header}"
            );
        }
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
