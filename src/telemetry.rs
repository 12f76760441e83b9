//! Logs: structured, on stderr, JSON where a machine reads them. No text of a query or a passage ever reaches them.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::prelude::*;

/// Reads a level or a filter such as `reranker=debug,hyper=info`.
pub fn parse_filter(text: &str) -> Result<Targets, String> {
    text.parse::<Targets>().map_err(|error| error.to_string())
}

/// Whether log lines are JSON: as `wanted`, else text on a terminal and JSON elsewhere.
pub fn is_json(wanted: Option<bool>) -> bool {
    wanted.unwrap_or_else(|| !std::io::stderr().is_terminal())
}

/// Sees to it that a line of JSON can be logged, where what should have installed a subscriber did not come to it.
pub fn install_default() {
    if !tracing::dispatcher::has_been_set() {
        install(Targets::new().with_default(Level::INFO), true);
    }
}

/// Installs the process's one subscriber.
///
/// Other crates are kept from their most detailed level, at which they log whole events and bodies, and panics are logged by
/// place alone, because their messages may quote a text.
pub fn install(filter: Targets, json: bool) {
    let ours = filter_fn(|metadata| {
        *metadata.level() <= Level::DEBUG || metadata.target().starts_with("reranker")
    });
    let registry = tracing_subscriber::registry().with(filter).with(ours);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        registry
            .with(
                layer
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false),
            )
            .init();
    } else {
        registry
            .with(
                layer
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal()),
            )
            .init();
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(
            place = place.unwrap_or_default(),
            thread = thread.name().unwrap_or_default(),
            "panic"
        );
    }));
}
