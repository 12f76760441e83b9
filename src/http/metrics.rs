//! The numbers of this process, for Prometheus.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::App;
use crate::telemetry::{Gauges, METRICS_CONTENT_TYPE, ServedModel};

/// Counters, histograms and gauges in the text format of OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "The metrics", content_type = "application/openmetrics-text", body = String),
    (status = 401, description = "No API key, or a wrong one", body = reranker_dialects::native::ErrorBody),
))]
pub async fn metrics(State(app): State<App>) -> Response {
    let engine = app.service.engine().ok();
    let telemetry = &app.settings.telemetry;
    let (passes, computed_tokens) = app.service.computed();
    let gauges = Gauges {
        queued: app.service.queued(),
        passes,
        computed_tokens,
        body_bytes: app.budget.body_bytes(),
        answer_bytes: app.budget.answer_bytes(),
        resident_bytes: Some((app.settings.resident_bytes)()).filter(|&bytes| bytes > 0),
        device_memory: engine.as_ref().and_then(|engine| {
            let gpu = engine.info().gpu.as_ref()?;
            Some((gpu.memory_used()?, gpu.memory_bytes))
        }),
        process_start: telemetry.process_start,
        cold_start: engine
            .as_ref()
            .and_then(|engine| engine.receipt().first_score()),
        model: engine.map(|engine| {
            let info = engine.info();
            ServedModel {
                name: info.name.clone(),
                precision: info.precision.to_owned(),
                instruction_set: info.instruction_set.to_owned(),
            }
        }),
    };
    let text = telemetry.metrics.render(&gauges);
    app.budget
        .text(text, METRICS_CONTENT_TYPE)
        .unwrap_or_else(IntoResponse::into_response)
}
