//! Traces: what a call goes through until its events have been delivered, as spans for an
//! OpenTelemetry collector.
//!
//! Off until [`install`]: then no span is made, and asking costs a look. A caller's trace goes on here
//! (W3C trace context), and its decision whether to record counts. Recording never waits; what the
//! collector does not take is counted and lost.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue};
use metrics::counter;
use opentelemetry::context::{FutureExt as _, WithContext};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};

use super::TRACE_SPANS;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// How long the last spans may take to be sent.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

const TRACESTATE: &str = "tracestate";

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The URL that OTLP is posted to.
    pub url: String,
    /// Of the traces that begin here, 0 to 1.
    pub sample_ratio: f64,
    pub export_timeout: Duration,
}

/// Why there is nothing that sends traces.
#[derive(Debug, thiserror::Error)]
pub enum NoTraces {
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// What sends the spans, in a thread of its own.
#[derive(Debug)]
#[must_use = "the last spans are sent at the end"]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends what has not been sent; waits for the collector, but not for long.
    pub fn finish(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FINISH_TIMEOUT) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Begins to record traces, for as long as the process lives. To be called outside of a runtime.
///
/// # Errors
/// If the exporter can't be built; whether there is a collector shows later.
pub fn install(options: TraceOptions) -> Result<Traces, NoTraces> {
    // A collector is asked directly, and never leads elsewhere.
    let http = reqwest::blocking::Client::builder()
        .user_agent(concat!("provident/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(options.export_timeout)
        .no_proxy()
        .build()
        .map_err(NoTraces::Client)?;
    let otlp = OtlpExporter::builder()
        .with_http()
        .with_http_client(http)
        .with_endpoint(options.url.clone())
        .with_timeout(options.export_timeout)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            options.sample_ratio,
        ))))
        .with_resource(resource())
        .with_batch_exporter(Exporter {
            url: options.url,
            otlp,
            failing: AtomicBool::new(false),
        })
        .build();
    TRACER.get_or_init(|| provider.tracer("provident"));
    for status in ["exported", "failed"] {
        counter!(TRACE_SPANS, "status" => status).increment(0);
    }
    Ok(Traces(provider))
}

/// Who we are; what OpenTelemetry's own variables say counts over it.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "provident"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ])
        .build()
}

/// Counts what the collector takes, and says once when it takes nothing.
#[derive(Debug)]
struct Exporter {
    url: String,
    otlp: OtlpExporter,
    failing: AtomicBool,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let status = match self.otlp.export(batch).await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("traces are taken again");
                }
                "exported"
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let url = &self.url;
                    tracing::warn!(url, %error, "traces are lost: the collector does not take them");
                }
                "failed"
            }
        };
        counter!(TRACE_SPANS, "status" => status).increment(spans);
        // It was told, and is not to be told again.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// Whether traces are recorded.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// A place in a trace, below which spans hang; nowhere where nothing is recorded. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trace(Context);

impl Trace {
    /// Where the running task is.
    pub fn current() -> Self {
        Self(Context::current())
    }

    /// Where a caller is, as its headers say.
    pub fn of_caller(headers: &HeaderMap) -> Self {
        Self(
            TraceContextPropagator::new()
                .extract_with_context(&Context::new(), &HeaderExtractor(headers)),
        )
    }

    /// What happens in the future happens here.
    pub fn within<F>(&self, future: F) -> WithContext<F> {
        future.with_context(self.0.clone())
    }

    pub fn is_recorded(&self) -> bool {
        self.0.span().span_context().is_sampled()
    }

    /// The same place, without holding on to its span.
    #[must_use]
    pub fn place(&self) -> Self {
        if !self.is_recorded() {
            return Self::default();
        }
        let place = self.0.span().span_context().clone();
        Self(Context::new().with_remote_span_context(place))
    }

    /// The headers that tell whom we call of it.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        TraceContextPropagator::new().inject_context(&self.0, &mut HeaderInjector(&mut headers));
        // An empty list says nothing, and some take it for malformed.
        if headers.get(TRACESTATE).is_some_and(HeaderValue::is_empty) {
            headers.remove(TRACESTATE);
        }
        headers
    }

    /// Begins something that takes time, as a part of what happens here.
    pub fn span(&self, name: &'static str) -> Span {
        self.begin(SpanBuilder::from_name(name))
    }

    /// Begins a request of ours to somebody else.
    pub fn request(&self, name: &'static str) -> Span {
        self.begin(SpanBuilder::from_name(name).with_kind(SpanKind::Client))
    }

    /// Begins, now, what began a while ago, with a link to what else led to it.
    pub fn span_since(&self, start: SystemTime, name: &'static str, link: &Self) -> Span {
        let span = self.begin(SpanBuilder::from_name(name).with_start_time(start));
        if link.is_recorded() {
            let link = link.0.span().span_context().clone();
            span.0.span().add_link(link, Vec::new());
        }
        span
    }

    fn begin(&self, span: SpanBuilder) -> Span {
        if self.is_recorded() {
            start(span, &self.0)
        } else {
            Span(Context::new())
        }
    }
}

/// Begins the answer to a request, in the trace that its headers name, or else in a new one.
pub fn serve(name: impl Into<Cow<'static, str>>, headers: &HeaderMap) -> Span {
    let span = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
    start(span, &Trace::of_caller(headers).0)
}

/// Begins something that nobody asked for, in a trace of its own.
pub fn root(name: &'static str) -> Span {
    start(SpanBuilder::from_name(name), &Context::new())
}

fn start(span: SpanBuilder, parent: &Context) -> Span {
    let Some(tracer) = TRACER.get() else {
        return Span(Context::new());
    };
    Span(Context::new().with_span(tracer.build_with_context(span, parent)))
}

/// Something that takes time: from when it was begun until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Context);

impl Span {
    /// The place below it.
    pub fn trace(&self) -> Trace {
        Trace(self.0.clone())
    }

    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    /// Counts of things.
    pub fn set_count(&self, key: &'static str, count: usize) {
        self.set(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn rename(&self, name: &'static str) {
        self.0.span().update_name(name);
    }

    pub fn failed(&self, why: impl Into<Cow<'static, str>>) {
        self.0.span().set_status(Status::error(why));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // Its place may live on elsewhere.
        self.0.span().end();
    }
}

/// The time, for spans that begin before anybody knows of them.
pub fn now() -> SystemTime {
    opentelemetry::time::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The place that a caller names.
    fn called_with(traceparent: &'static str) -> Trace {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(traceparent));
        Trace::of_caller(&headers)
    }

    #[test]
    fn the_callers_trace_goes_on_and_is_passed_on() {
        let trace = called_with(SENT);
        assert!(trace.is_recorded() && trace.place().is_recorded());
        let passed = trace.headers();
        assert_eq!(passed["traceparent"], SENT);
        assert_eq!(passed.len(), 1);
    }

    #[test]
    fn what_is_no_trace_or_not_recorded_leads_nowhere() {
        for text in [
            "",
            "nonsense",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            let trace = called_with(text);
            assert!(!trace.is_recorded(), "{text}");
            assert!(trace.place().headers().is_empty(), "{text}");
            assert!(!trace.span("flush").trace().is_recorded(), "{text}");
        }
    }
}
