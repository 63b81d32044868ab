//! Traces: what a call goes through until its events have been delivered, as spans for an
//! OpenTelemetry collector.
//!
//! Off until [`install`]: then no span is made, and asking costs a look. A caller's trace goes on here
//! (W3C trace context), and its decision whether to record counts. Recording never waits; spans that the
//! collector does not take are lost, and so are those that end while too many wait to be sent.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use metrics::counter;
use opentelemetry::context::{FutureExt as _, WithContext};
use opentelemetry::propagation::TextMapPropagator as _;
pub use opentelemetry::trace::Status;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue, Value};
use opentelemetry_http::{
    HeaderExtractor, HeaderInjector, HttpClient, HttpError, Request, Response,
};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{
    EnvResourceDetector, ResourceDetector as _, SdkProvidedResourceDetector,
    TelemetryResourceDetector,
};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};

use super::TRACE_SPANS;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// How long the last spans may take to be sent.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Bytes of a caller's `tracestate` that are kept: as many as the standard asks for. It lives as long as
/// the events do in memory.
const TRACESTATE_BYTES_MAX: usize = 512;

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
    let mut http = reqwest::blocking::Client::builder()
        .user_agent(concat!("provident/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(options.export_timeout);
    // A proxy is for what lies beyond this network, and no CAs are needed where there is no TLS.
    if options.url.starts_with("http:") {
        http = http.no_proxy().tls_certs_only([]);
    }
    let collector = Collector {
        http: http.build().map_err(NoTraces::Client)?,
        url: options.url.clone(),
        failing: AtomicBool::new(false),
    };
    let otlp = OtlpExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_endpoint(options.url)
        .with_timeout(options.export_timeout)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            options.sample_ratio,
        ))))
        .with_resource(resource())
        .with_batch_exporter(Exporter(otlp))
        .build();
    TRACER.get_or_init(|| provider.tracer("provident"));
    for status in ["ended", "exported", "failed"] {
        counter!(TRACE_SPANS, "status" => status).increment(0);
    }
    Ok(Traces(provider))
}

/// Who we are; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say counts over it.
fn resource() -> Resource {
    let ours = [
        KeyValue::new("service.name", "provident"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(ours)
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    let given = SdkProvidedResourceDetector.detect();
    let name = given.get(&Key::from_static_str("service.name"));
    match name.filter(|name| !name.as_str().starts_with("unknown_service")) {
        Some(name) => resource.with_service_name(name),
        None => resource,
    }
    .build()
}

/// Counts what becomes of spans.
#[derive(Debug)]
struct Exporter(OtlpExporter);

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exported = self.0.export(batch).await;
        let status = if exported.is_ok() {
            "exported"
        } else {
            "failed"
        };
        counter!(TRACE_SPANS, "status" => status).increment(spans);
        // The log has it, and is not to be told for each batch.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// Posts to the collector; says once why it takes nothing, and once that it does again.
#[derive(Debug)]
struct Collector {
    http: reqwest::blocking::Client,
    url: String,
    failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.send_bytes(request).await;
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(causes(error)),
        };
        let url = &self.url;
        match (
            &problem,
            self.failing.swap(problem.is_some(), Ordering::Relaxed),
        ) {
            (Some(problem), false) => tracing::warn!(url, problem, "traces are lost"),
            (None, true) => tracing::info!(url, "traces are taken again"),
            _ => {}
        }
        answer
    }
}

fn causes(error: &HttpError) -> String {
    let causes = anyhow::Chain::new(error.as_ref()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
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
        let propagator = TraceContextPropagator::new();
        let state = headers.get_all(TRACESTATE).iter().map(HeaderValue::len);
        if state.sum::<usize>() <= TRACESTATE_BYTES_MAX {
            return Self(
                propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers)),
            );
        }
        let parent: HeaderMap = headers
            .get(TRACEPARENT)
            .map(|parent| (HeaderName::from_static(TRACEPARENT), parent.clone()))
            .into_iter()
            .collect();
        Self(propagator.extract_with_context(&Context::new(), &HeaderExtractor(&parent)))
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
            span.context.span().add_link(link, Vec::new());
        }
        span
    }

    fn begin(&self, span: SpanBuilder) -> Span {
        if self.is_recorded() {
            start(span, &self.0)
        } else {
            Span::new(Context::new())
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
        return Span::new(Context::new());
    };
    let span = tracer.build_with_context(span, parent);
    Span::new(Context::new().with_span(span))
}

/// Something that takes time: from when it was begun until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Span {
    context: Context,
    /// What is true unless something else is set: it may be dropped at any time.
    otherwise: Option<(KeyValue, Status)>,
}

impl Span {
    fn new(context: Context) -> Self {
        Self {
            context,
            otherwise: None,
        }
    }

    /// The place below it.
    pub fn trace(&self) -> Trace {
        Trace(self.context.clone())
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.otherwise = self
            .otherwise
            .take()
            .filter(|(other, _)| other.key.as_str() != key);
        let attribute = KeyValue::new(key, value);
        self.context.span().set_attribute(attribute);
    }

    /// Sets what is true, and how it went, if it is dropped before the key is set.
    pub fn set_otherwise(&mut self, key: &'static str, value: impl Into<Value>, status: Status) {
        self.otherwise = Some((KeyValue::new(key, value), status));
    }

    /// Counts of things.
    pub fn set_count(&mut self, key: &'static str, count: usize) {
        self.set(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn failed(&self, why: impl Into<Cow<'static, str>>) {
        self.context.span().set_status(Status::error(why));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let span = self.context.span();
        if let Some((attribute, status)) = self.otherwise.take() {
            span.set_attribute(attribute);
            span.set_status(status);
        }
        if span.is_recording() {
            counter!(TRACE_SPANS, "status" => "ended").increment(1);
        }
        // Its place may live on elsewhere.
        span.end();
    }
}

/// The time, for spans that begin before anybody knows of them.
pub fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "spans alone go by it")]
    SystemTime::now()
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
    fn a_callers_state_is_kept_if_it_is_not_too_large() {
        let passed = |bytes: usize| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(SENT));
            let half = "x".repeat(bytes / 2 - 3);
            let state = format!("a={half},bb={half}");
            assert_eq!(state.len(), bytes);
            headers.insert(TRACESTATE, state.parse().unwrap());
            let place = Trace::of_caller(&headers).place();
            assert!(place.is_recorded());
            place.headers().get(TRACESTATE).map(HeaderValue::len)
        };
        assert_eq!(passed(512), Some(512));
        assert_eq!(passed(514), None);
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
