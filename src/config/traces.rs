//! OpenTelemetry's variables for the export of traces.

use std::time::Duration;

use super::reader::{Reader, yes_or_no};
use super::{TRACE_CONTENT, Variable};
use crate::telemetry::Export;

/// OpenTelemetry's variables. An empty value means unset to all of them, and one for traces goes
/// before the general one.
const OTEL_SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const OTEL_TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const OTEL_TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const OTEL_PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const OTEL_COMPRESSION: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
];
const OTEL_TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const OTEL_CERTIFICATE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const OTEL_SPAN_ATTRIBUTES: [&str; 2] = [
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
];
/// The SDK's own limit is 128, which a ranking of 40 documents would exceed.
const SPAN_ATTRIBUTES: u32 = 1024;

/// The destination of traces. OpenTelemetry's other variables are read only where a collector is
/// named: other programs may need values that this one does not support.
pub(super) fn export(read: &mut Reader, collector: &Variable) -> Option<Option<Export>> {
    let content = yes_or_no()(read, &TRACE_CONTENT);
    let is = |name: &str, wanted: &str| {
        let value = read.first(&[name]);
        value.is_some_and(|(_, value)| value.eq_ignore_ascii_case(wanted))
    };
    let unwanted = is(OTEL_SDK_DISABLED, "true") || is(OTEL_TRACES_EXPORTER, "none");
    let asked = read.first(&[OTEL_TRACES_ENDPOINT, collector.name]);
    let Some((name, address)) = asked.filter(|_| !unwanted) else {
        return content.map(|_| None);
    };
    let endpoint = match address.split_once("://") {
        Some(("http" | "https", rest))
            if !rest.is_empty() && address.parse::<http::Uri>().is_ok() =>
        {
            // One that is meant for traces alone is whole already.
            Some(if name == OTEL_TRACES_ENDPOINT {
                address
            } else {
                format!("{}/v1/traces", address.trim_end_matches('/'))
            })
        }
        _ => read.complain(
            name,
            &address,
            "an address that begins with http:// or https://",
        ),
    };
    let mut one_of = |names: &[&str], all: &[&str]| {
        if let Some((name, value)) = read.first(names)
            && !all.contains(&value.as_str())
        {
            let expected = format!("{}; this program has no other", all.join(" or "));
            read.complain::<()>(name, &value, &expected);
        }
    };
    one_of(&[OTEL_TRACES_EXPORTER], &["otlp"]);
    one_of(&OTEL_PROTOCOL, &["http/protobuf"]);
    one_of(&OTEL_COMPRESSION, &["none"]);
    let mut number = |names: &[&str], default: u32| match read.first(names) {
        Some((name, value)) => {
            let number = value.parse().ok().filter(|number| *number > 0);
            number.or_else(|| read.complain(name, &value, "a whole number above 0"))
        }
        None => Some(default),
    };
    let timeout_ms = number(&OTEL_TIMEOUT, 10_000);
    let span_attributes = number(&OTEL_SPAN_ATTRIBUTES, SPAN_ATTRIBUTES);
    let certificate = read.first(&OTEL_CERTIFICATE).map(|(_, path)| path.into());
    Some(Some(Export {
        endpoint: endpoint?,
        timeout: Duration::from_millis(timeout_ms?.into()),
        certificate,
        span_attributes: span_attributes?,
        content: content?,
    }))
}
