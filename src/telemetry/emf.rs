//! A request's metrics as one line of JSON in CloudWatch's embedded metric format, from which
//! CloudWatch makes metrics where nobody can scrape.
//!
//! Every combination of metric and dimension values is a metric that AWS bills. So the metrics are
//! five unless more are asked for, by function and version: functions of one account are apart, and
//! so are the versions of one that is rolled out. What tells requests apart is a property of the
//! line and no dimension.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::Outcome;
use super::lines::Stream;

const NAMESPACE: &str = "serverless-reranker";

/// Those that are there unless more are asked for.
const MINIMAL: [&str; 5] = [
    "Requests",
    "ClientErrors",
    "ServerErrors",
    "Duration",
    "Tokens",
];

/// The function that the process is an instance of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub version: String,
}

/// Writes the lines of one process.
#[derive(Debug)]
pub struct Emf {
    function: Option<Function>,
    full: bool,
    warm: AtomicBool,
}

impl Emf {
    /// Metrics of `function`, or of nothing in particular where the process is no instance of one.
    pub fn new(function: Option<Function>, full: bool) -> Self {
        Self {
            function,
            full,
            warm: AtomicBool::new(false),
        }
    }

    /// Writes one line to stdout, which Lambda takes to CloudWatch.
    pub fn write(&self, outcome: &Outcome) {
        let cold_start = !self.warm.swap(true, Ordering::Relaxed);
        let line = self.line(outcome, cold_start, SystemTime::now()) + "\n";
        // Nobody is left to be told that stdout is closed.
        let _ = Stream::Stdout.write_all(line.as_bytes());
    }

    /// The line without its end. `cold_start` is for the first request of a process, so that the
    /// metric's average is their share.
    fn line(&self, outcome: &Outcome, cold_start: bool, now: SystemTime) -> String {
        let mut root = Map::new();
        let mut definitions = Vec::new();
        let mut metric = |name: &str, unit: &str, value: Value| {
            if self.full || MINIMAL.contains(&name) {
                definitions.push(json!({"Name": name, "Unit": unit}));
            }
            root.insert(name.to_owned(), value);
        };
        metric("Requests", "Count", 1.into());
        let client_error = (400..500).contains(&outcome.status);
        metric("ClientErrors", "Count", u8::from(client_error).into());
        metric(
            "ServerErrors",
            "Count",
            u8::from(outcome.status >= 500).into(),
        );
        let refused = u8::from(outcome.past_deadline);
        metric("DeadlineRefusals", "Count", refused.into());
        metric("ColdStarts", "Count", u8::from(cold_start).into());
        metric("Duration", "Milliseconds", millis(outcome.total));
        let phases = [
            ("QueueTime", outcome.queued),
            ("TokenizeTime", outcome.tokenized),
            ("InferenceTime", outcome.inferred),
        ];
        for (name, time) in phases {
            if let Some(time) = time {
                metric(name, "Milliseconds", millis(time));
            }
        }
        // Requests that score nothing would only pull the averages down.
        if outcome.documents > 0 {
            let counts = [
                ("Documents", outcome.documents),
                ("Pairs", outcome.pairs),
                ("Tokens", outcome.tokens),
                ("TruncatedPairs", outcome.truncated),
                ("CacheHits", outcome.cache_hits),
                ("CacheMisses", outcome.cache_misses),
            ];
            for (name, count) in counts {
                metric(name, "Count", count.into());
            }
        }
        let timestamp = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        root.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": timestamp,
                "CloudWatchMetrics": [{
                    "Namespace": NAMESPACE,
                    "Dimensions": self.dimensions(),
                    "Metrics": definitions,
                }],
            }),
        );
        // A dimension's value may not be empty.
        let dialect = Some(outcome.dialect).filter(|dialect| !dialect.is_empty());
        if let Some(Function { name, version }) = &self.function {
            root.insert("Function".to_owned(), name.as_str().into());
            root.insert("Version".to_owned(), version.as_str().into());
        }
        root.insert("Route".to_owned(), outcome.route.as_str().into());
        root.insert("Dialect".to_owned(), dialect.unwrap_or("none").into());
        root.insert("RequestId".to_owned(), outcome.request_id.as_str().into());
        if let Some(name) = &outcome.key_name {
            root.insert("KeyName".to_owned(), (**name).into());
        }
        root.insert("Method".to_owned(), outcome.method.as_str().into());
        root.insert("Status".to_owned(), outcome.status.into());
        if !outcome.code.is_empty() {
            root.insert("ErrorCode".to_owned(), outcome.code.into());
        }
        Value::Object(root).to_string()
    }

    /// By what the metrics are told apart. Each set is one metric for each of its values.
    fn dimensions(&self) -> Vec<Vec<&str>> {
        let of_function = |more: &[&'static str]| -> Vec<&str> {
            let function = self.function.iter().map(|_| "Function");
            function.chain(more.iter().copied()).collect()
        };
        let mut sets = vec![of_function(&[])];
        if self.function.is_some() {
            sets.push(of_function(&["Version"]));
        }
        if self.full {
            sets.push(of_function(&["Route", "Dialect"]));
        }
        sets
    }
}

/// Milliseconds, to the microsecond.
fn millis(time: Duration) -> Value {
    ((time.as_secs_f64() * 1e6).round() / 1e3).into()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            request_id: "1-abc".into(),
            method: Method::POST,
            route: "/rerank".into(),
            dialect: "native",
            key_name: Some("mobile".into()),
            status: 200,
            code: "",
            documents: 20,
            pairs: 25,
            tokens: 4000,
            truncated: 2,
            cache_hits: 3,
            cache_misses: 22,
            past_deadline: false,
            queued: Some(Duration::from_micros(1_500)),
            tokenized: Some(Duration::from_millis(2)),
            inferred: Some(Duration::from_millis(340)),
            total: Duration::from_millis(345),
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
    }

    fn emf(function: bool, full: bool) -> Emf {
        let function = function.then(|| Function {
            name: "ranks".into(),
            version: "7".into(),
        });
        Emf::new(function, full)
    }

    fn parsed(emf: &Emf, outcome: &Outcome, cold_start: bool) -> Value {
        let line = emf.line(outcome, cold_start, now());
        assert!(!line.contains('\n'), "one event is one line");
        assert!(line.len() < 256 * 1024);
        let root: Value = serde_json::from_str(&line).expect("a JSON object and nothing around it");
        assert_valid(&root);
        root
    }

    /// The rules of AWS's specification of the format, where they can be broken by what a line
    /// holds.
    fn assert_valid(root: &Value) {
        const UNITS: [&str; 27] = [
            "Seconds",
            "Microseconds",
            "Milliseconds",
            "Bytes",
            "Kilobytes",
            "Megabytes",
            "Gigabytes",
            "Terabytes",
            "Bits",
            "Kilobits",
            "Megabits",
            "Gigabits",
            "Terabits",
            "Percent",
            "Count",
            "Bytes/Second",
            "Kilobytes/Second",
            "Megabytes/Second",
            "Gigabytes/Second",
            "Terabytes/Second",
            "Bits/Second",
            "Kilobits/Second",
            "Megabits/Second",
            "Gigabits/Second",
            "Terabits/Second",
            "Count/Second",
            "None",
        ];
        let members = |value: &Value| -> Vec<String> {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect()
        };
        let name = |value: &Value| -> String {
            let name = value.as_str().expect("a string");
            assert!((1..=255).contains(&name.len()), "{name:?}");
            name.to_owned()
        };
        let metadata = &root["_aws"];
        assert_eq!(members(metadata), ["CloudWatchMetrics", "Timestamp"]);
        assert!(metadata["Timestamp"].is_u64());
        let directives = metadata["CloudWatchMetrics"].as_array().expect("an array");
        assert!(!directives.is_empty());
        for directive in directives {
            assert_eq!(members(directive), ["Dimensions", "Metrics", "Namespace"]);
            name(&directive["Namespace"]);
            let sets = directive["Dimensions"].as_array().expect("an array");
            assert!(!sets.is_empty());
            for set in sets {
                let set = set.as_array().expect("an array");
                assert!(set.len() <= 9, "the lower of the limits that AWS has had");
                for dimension in set {
                    let target = root[&name(dimension)].as_str().expect("a string");
                    assert!(
                        (1..=255).contains(&target.len()) && target.is_ascii(),
                        "{target:?}"
                    );
                    assert!(
                        !target.starts_with(':') && !target.trim().is_empty(),
                        "{target:?}"
                    );
                }
            }
            let metrics = directive["Metrics"].as_array().expect("an array");
            assert!((1..=100).contains(&metrics.len()));
            let mut names = Vec::new();
            for metric in metrics {
                assert_eq!(members(metric), ["Name", "Unit"]);
                let name = name(&metric["Name"]);
                assert!(root[&name].is_number(), "{name}");
                let unit = metric["Unit"].as_str().expect("a string");
                assert!(UNITS.contains(&unit), "{unit}");
                assert!(!names.contains(&name), "{name} twice");
                names.push(name);
            }
        }
    }

    #[test]
    fn a_line_is_what_the_format_says() {
        let minimal = [["Function"].as_slice(), &["Function", "Version"]];
        let by_route = ["Function", "Route", "Dialect"].as_slice();
        for (emf, metrics, dimensions) in [
            (emf(true, false), 5, json!(minimal)),
            (
                emf(true, true),
                15,
                json!([minimal[0], minimal[1], by_route]),
            ),
            (emf(false, false), 5, json!([[]])),
            (emf(false, true), 15, json!([[], ["Route", "Dialect"]])),
        ] {
            let root = parsed(&emf, &outcome(), true);
            let directive = &root["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], "serverless-reranker");
            assert_eq!(directive["Dimensions"], dimensions);
            assert_eq!(directive["Metrics"].as_array().map(Vec::len), Some(metrics));
        }
        let root = parsed(&emf(true, false), &outcome(), true);
        assert_eq!(root["_aws"]["Timestamp"], 1_700_000_000_123_u64);
        for (name, value) in [
            ("Function", json!("ranks")),
            ("Version", json!("7")),
            ("Route", json!("/rerank")),
            ("Dialect", json!("native")),
            ("RequestId", json!("1-abc")),
            ("KeyName", json!("mobile")),
            ("Status", json!(200)),
            ("ColdStarts", json!(1)),
            ("QueueTime", json!(1.5)),
            ("InferenceTime", json!(340.0)),
            ("Duration", json!(345.0)),
            ("Pairs", json!(25)),
            ("Tokens", json!(4000)),
            ("ServerErrors", json!(0)),
        ] {
            assert_eq!(root[name], value, "{name}");
        }
        let warm = parsed(&emf(true, true), &outcome(), false);
        assert_eq!(warm["ColdStarts"], 0);
    }

    #[test]
    fn a_request_that_scored_nothing_says_nothing_about_scoring() {
        let root = parsed(
            &emf(true, true),
            &Outcome {
                route: "unmatched".into(),
                dialect: "",
                status: 404,
                code: "not_found",
                documents: 0,
                queued: None,
                tokenized: None,
                inferred: None,
                ..outcome()
            },
            false,
        );
        assert_eq!(root["Dialect"], "none");
        assert_eq!(root["ErrorCode"], "not_found");
        assert_eq!(root["ClientErrors"], 1);
        for absent in ["Pairs", "Tokens", "QueueTime", "InferenceTime"] {
            assert!(root.get(absent).is_none(), "{absent}");
        }
    }
}
