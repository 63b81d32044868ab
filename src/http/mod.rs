//! The HTTP addresses: the event hook endpoint ([`hook`]), and the admin address with metrics and
//! whether the process lives and is ready, which is never behind an ingress.
//!
//! `/livez` answers as long as the process does: recovery and drain are no reason to restart it.
//! `/readyz` says what health says. `/log-level` gives, and by PUT changes, what the log has.

pub mod hook;
pub mod serve;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::telemetry::{Log, Metrics};

/// Far more than any filter directive has.
const LOG_LEVEL_BYTES_MAX: usize = 4096;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin address tells and changes.
#[derive(Clone, Debug)]
pub struct Admin {
    pub metrics: Metrics,
    pub log: Log,
    pub serving: watch::Receiver<bool>,
}

/// The admin address's routes.
pub fn admin(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(render_metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/log-level", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(LOG_LEVEL_BYTES_MAX))
        .with_state(admin)
}

async fn log_level(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.log.level())
}

/// Until the next start: what the configuration says stays as it is.
async fn set_log_level(State(admin): State<Admin>, level: String) -> impl IntoResponse {
    let level = level.trim();
    match admin.log.set_level(level) {
        Ok(()) => {
            tracing::info!(level, "the log level was changed");
            (StatusCode::OK, format!("{level}\n"))
        }
        Err(error) => (
            StatusCode::BAD_REQUEST,
            format!(
                "{level:?} is no log level: {error}. Say error, warn, info, debug or trace, or \
                 directives such as info,provident::engine=debug\n"
            ),
        ),
    }
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
