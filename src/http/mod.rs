//! The HTTP addresses: the event hook endpoint ([`hook`]), and the admin address with metrics and
//! whether the process lives and is ready, which is never behind an ingress.
//!
//! `/livez` answers as long as the process does: recovery and drain are no reason to restart it.
//! `/readyz` says what health says.

pub mod hook;
pub mod serve;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Debug)]
struct Admin {
    metrics: PrometheusHandle,
    serving: watch::Receiver<bool>,
}

/// The admin address's routes.
pub fn admin(metrics: PrometheusHandle, serving: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/metrics", get(render_metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Admin { metrics, serving })
}

async fn render_metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, METRICS_TYPE)],
        admin.metrics.render(),
    )
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if *admin.serving.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not serving: starting or stopping\n",
        )
    }
}
