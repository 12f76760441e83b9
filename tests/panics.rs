//! Alone in its program, because the hook that counts panics belongs to the whole process.

use reranker::telemetry::{Gauges, Metrics, Traces, install, parse_filter};

#[test]
fn panics_are_counted() {
    install(
        parse_filter("off").expect("a filter"),
        true,
        &Traces::default(),
    );
    let metrics = Metrics::new();
    let count = || {
        let text = metrics.render(&Gauges::default());
        let line = text
            .lines()
            .find(|line| line.starts_with("reranker_panics_total"));
        line.expect("the counter").to_owned()
    };
    assert_eq!(count(), "reranker_panics_total 0");
    assert!(std::thread::spawn(|| panic!("on purpose")).join().is_err());
    assert_eq!(count(), "reranker_panics_total 1");
}
