//! What the service tells of itself: every metric with its name, unit and help, the log, and traces.
//!
//! Names are data here and nowhere else. Label values come from enums and from the configuration; the
//! two that come from outside, of applications and of subscriptions, are bounded in number.
//! Recording never waits. Names none of our other modules.

pub mod trace;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

const BUILD: &str = "provident_build_info";
const EVENTS: &str = "provident_ingested_events_total";
const CLASSIFIED: &str = "provident_classified_events_total";
const FAILURES: &str = "provident_application_failures_total";
const SECURITY: &str = "provident_security_failures_total";
const FLUSH: &str = "provident_flush_duration_seconds";
const BATCH_EVENTS: &str = "provident_batch_events";
const WRITTEN: &str = "provident_written_bytes_total";
const QUEUE: &str = "provident_queue_bytes";
const HEAD: &str = "provident_journal_head_sequence";
const EARLIEST: &str = "provident_journal_earliest_sequence";
const OLDEST: &str = "provident_journal_oldest_event_timestamp_seconds";
const JOURNAL_BYTES: &str = "provident_journal_disk_bytes";
const VOLUME: &str = "provident_storage_volume_bytes";
const FREE: &str = "provident_storage_free_bytes";
const RESERVE: &str = "provident_storage_reserve_bytes";
const TRIMMED: &str = "provident_trimmed_events_total";
const READERS: &str = "provident_readers";
const STREAMED: &str = "provident_streamed_events_total";
const REFUSED: &str = "provident_refused_calls_total";
const SUBSCRIPTIONS: &str = "provident_subscriptions";
const SUBSCRIPTION_LAG: &str = "provident_subscription_lag_events";
const SUBSCRIPTION_LAG_TIME: &str = "provident_subscription_lag_seconds";
const COMMITS: &str = "provident_subscription_commits_total";
const FENCED: &str = "provident_subscription_fenced_readers_total";
const EXPIRED: &str = "provident_expired_subscriptions_total";
const DELIVERIES: &str = "provident_hook_deliveries_total";
const DELIVERY: &str = "provident_hook_delivery_duration_seconds";
const POLLS: &str = "provident_poll_requests_total";
const SOURCE_WELL: &str = "provident_source_well";
const SOURCE_SUCCESS: &str = "provident_source_last_success_timestamp_seconds";
const SOURCE_EVENT: &str = "provident_source_last_event_timestamp_seconds";
const SOURCE_LAG: &str = "provident_source_lag_seconds";
const SOURCE_ERRORS: &str = "provident_source_errors_total";
const SOURCE_GAPS: &str = "provident_source_gaps_total";
const TRACE_SPANS: &str = "provident_trace_spans_total";

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Name, kind, unit, labels, help.
type Metric = (
    &'static str,
    Kind,
    Unit,
    &'static [&'static str],
    &'static str,
);

/// Every metric but those of the process, which have Prometheus' own names.
const METRICS: &[Metric] = &[
    (
        BUILD,
        Kind::Gauge,
        Unit::Count,
        &["version"],
        "Always 1; the version is a label",
    ),
    (
        EVENTS,
        Kind::Counter,
        Unit::Count,
        &["intake", "status"],
        "Events by intake and what became of them",
    ),
    (
        CLASSIFIED,
        Kind::Counter,
        Unit::Count,
        &["verdict", "category", "cause", "disposition"],
        "Accepted events by verdict, category, cause and disposition",
    ),
    (
        FAILURES,
        Kind::Counter,
        Unit::Count,
        &["application"],
        "Failures that were accepted, by application; beyond the first 100 applications, and where none is named, \"other\"",
    ),
    (
        SECURITY,
        Kind::Counter,
        Unit::Count,
        &["disposition"],
        "Accepted failures to take access away, by disposition",
    ),
    (
        FLUSH,
        Kind::Histogram,
        Unit::Seconds,
        &[],
        "Time that one batch took to be durable",
    ),
    (
        BATCH_EVENTS,
        Kind::Histogram,
        Unit::Count,
        &[],
        "Events that one flush made durable",
    ),
    (
        WRITTEN,
        Kind::Counter,
        Unit::Bytes,
        &[],
        "Bytes of records handed to the journal",
    ),
    (
        QUEUE,
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes of records that wait to be written",
    ),
    (
        HEAD,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Sequence of the newest durable event",
    ),
    (
        EARLIEST,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Sequence of the oldest event that is kept",
    ),
    (
        OLDEST,
        Kind::Gauge,
        Unit::Seconds,
        &[],
        "When the oldest event that is kept was appended",
    ),
    (
        JOURNAL_BYTES,
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes that the journal takes on its disk",
    ),
    (
        VOLUME,
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes that the volume of the journal holds",
    ),
    (
        FREE,
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes that are free on the volume of the journal",
    ),
    (
        RESERVE,
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes that are to stay free: with less, events are refused",
    ),
    (
        TRIMMED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Events removed by retention",
    ),
    (
        READERS,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Open Subscribe streams",
    ),
    (
        STREAMED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Events sent on Subscribe streams",
    ),
    (
        REFUSED,
        Kind::Counter,
        Unit::Count,
        &["reason"],
        "gRPC calls refused, by reason",
    ),
    (
        SUBSCRIPTIONS,
        Kind::Gauge,
        Unit::Count,
        &[],
        "Named subscriptions",
    ),
    (
        SUBSCRIPTION_LAG,
        Kind::Gauge,
        Unit::Count,
        &["subscription"],
        "Events behind the committed place of a subscription",
    ),
    (
        SUBSCRIPTION_LAG_TIME,
        Kind::Gauge,
        Unit::Seconds,
        &["subscription"],
        "Age of the oldest event that a subscription has not committed; 0 where there is none",
    ),
    (
        COMMITS,
        Kind::Counter,
        Unit::Count,
        &[],
        "Commits of subscriptions",
    ),
    (
        FENCED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Readers of a subscription that were thrown off by another reader",
    ),
    (
        EXPIRED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Subscriptions deleted because nobody used them",
    ),
    (
        DELIVERIES,
        Kind::Counter,
        Unit::Count,
        &["status"],
        "Deliveries to the event hook endpoint, by HTTP status",
    ),
    (
        DELIVERY,
        Kind::Histogram,
        Unit::Seconds,
        &[],
        "Time that one delivery took to be answered",
    ),
    (
        POLLS,
        Kind::Counter,
        Unit::Count,
        &["org", "answer"],
        "Requests to the System Log, by org and what came of them",
    ),
    (
        SOURCE_WELL,
        Kind::Gauge,
        Unit::Count,
        &["intake", "org"],
        "1 while a source brings events and nothing fails for too long, else 0",
    ),
    (
        SOURCE_SUCCESS,
        Kind::Gauge,
        Unit::Seconds,
        &["intake", "org"],
        "When a source last took something in",
    ),
    (
        SOURCE_EVENT,
        Kind::Gauge,
        Unit::Seconds,
        &["intake", "org"],
        "When a source last brought an event; until it has, since when the service has been waiting for one",
    ),
    (
        SOURCE_LAG,
        Kind::Gauge,
        Unit::Seconds,
        &["intake", "org"],
        "How old the newest event of a source was when it came; 0 where nothing more was to come",
    ),
    (
        SOURCE_ERRORS,
        Kind::Counter,
        Unit::Count,
        &["intake", "org"],
        "Failures of a source",
    ),
    (
        SOURCE_GAPS,
        Kind::Counter,
        Unit::Count,
        &["intake", "org"],
        "How often a stored place in a System Log was lost, so that events may be missing",
    ),
    (
        TRACE_SPANS,
        Kind::Counter,
        Unit::Count,
        &["status"],
        "Spans of traces: those that ended, and of these what the collector took or not; the rest was too much at once",
    ),
];

/// What the recorder has gathered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    recorded: PrometheusHandle,
    process: Collector,
}

impl Metrics {
    /// All of it in Prometheus' text format, the process's own figures as they are now.
    pub fn render(&self) -> String {
        self.process.collect();
        self.recorded.render()
    }

    /// Histograms grow until they are read or looked after.
    pub fn upkeep(&self) {
        self.recorded.run_upkeep();
    }
}

/// Installs the recorder.
pub fn install_metrics() -> Result<Metrics, BuildError> {
    let recorded = PrometheusBuilder::new()
        // A flush takes 0.1 ms on a good disk and seconds on a dying one.
        .set_buckets_for_metric(
            Matcher::Full(FLUSH.to_owned()),
            &[
                0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0,
            ],
        )?
        .set_buckets_for_metric(
            Matcher::Full(BATCH_EVENTS.to_owned()),
            &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0],
        )?
        .set_buckets_for_metric(
            // Okta waits for 3 s.
            Matcher::Full(DELIVERY.to_owned()),
            &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0,
            ],
        )?
        .install_recorder()?;
    for (name, kind, unit, _, help) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
    let process = Collector::default();
    process.describe();
    // Known from the start, so that a rate over them is zero and not absent.
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(QUEUE).set(0.0);
    gauge!(READERS).set(0.0);
    counter!(STREAMED).increment(0);
    counter!(WRITTEN).increment(0);
    counter!(COMMITS).increment(0);
    counter!(TRIMMED).increment(0);
    counter!(FENCED).increment(0);
    counter!(EXPIRED).increment(0);
    Ok(Metrics { recorded, process })
}

pub fn ingested(intake: &'static str, status: &'static str, events: u64) {
    counter!(EVENTS, "intake" => intake, "status" => status).increment(events);
}

pub fn classified(
    verdict: &'static str,
    category: &'static str,
    cause: &'static str,
    disposition: &'static str,
) {
    counter!(
        CLASSIFIED,
        "verdict" => verdict, "category" => category, "cause" => cause, "disposition" => disposition
    )
    .increment(1);
}

/// Counts a failure of an application, whose name comes with the event.
pub fn application_failed(name: Option<&str>) {
    static NAMES: FirstNames = FirstNames::new();
    let name = name.filter(|name| NAMES.take(name)).unwrap_or("other");
    counter!(FAILURES, "application" => name.to_owned()).increment(1);
}

/// Counts failures to take access away; told of none at the start, the first one is an increase.
pub fn access_left(disposition: &'static str, failures: u64) {
    counter!(SECURITY, "disposition" => disposition).increment(failures);
}

/// Names from outside that have a series of their own: the first [`FirstNames::MAX`], since each one
/// costs whoever scrapes and stores it, and nobody knows how many will come.
struct FirstNames(Mutex<BTreeSet<String>>);

impl FirstNames {
    const MAX: usize = 100;

    const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Whether a name is, or now becomes, one of them.
    fn take(&self, name: &str) -> bool {
        // Each change is one insertion, so a panic elsewhere leaves nothing half done.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name) || (names.len() < Self::MAX && names.insert(name.to_owned()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn flushed(took: Duration, events: usize, bytes: usize) {
    histogram!(FLUSH).record(took);
    histogram!(BATCH_EVENTS).record(events as f64);
    counter!(WRITTEN).increment(bytes as u64);
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
pub fn queue_bytes(bytes: usize) {
    gauge!(QUEUE).set(bytes as f64);
}

#[expect(clippy::cast_precision_loss, reason = "sequences far below 2^52")]
pub fn head(sequence: u64) {
    gauge!(HEAD).set(sequence as f64);
}

/// What appends leave free on the volume.
#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
pub fn storage_reserve(bytes: u64) {
    gauge!(RESERVE).set(bytes as f64);
}

/// The volume of the journal.
#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
pub fn storage(volume_bytes: u64, free_bytes: u64) {
    gauge!(VOLUME).set(volume_bytes as f64);
    gauge!(FREE).set(free_bytes as f64);
}

/// What is kept: the earliest sequence, when that event was appended (if there is one), and what it
/// takes.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn kept(earliest: u64, oldest_seconds: Option<i64>, bytes: u64) {
    gauge!(EARLIEST).set(earliest as f64);
    // No number, so that nobody is warned of an event that has gone.
    gauge!(OLDEST).set(oldest_seconds.map_or(f64::NAN, |seconds| seconds as f64));
    gauge!(JOURNAL_BYTES).set(bytes as f64);
}

pub fn trimmed(events: u64) {
    counter!(TRIMMED).increment(events);
}

/// Counts a stream for as long as it lives.
#[derive(Debug)]
pub struct ReaderGuard(());

impl ReaderGuard {
    pub fn new() -> Self {
        gauge!(READERS).increment(1.0);
        Self(())
    }
}

impl Default for ReaderGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        gauge!(READERS).decrement(1.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn subscriptions(count: usize) {
    gauge!(SUBSCRIPTIONS).set(count as f64);
}

/// How far behind a subscription is; `None` when it is gone, or where nobody can tell.
#[expect(clippy::cast_precision_loss, reason = "sequences far below 2^52")]
pub fn subscription_lag(id: &str, lag: Option<(u64, Option<Duration>)>) {
    static NAMES: FirstNames = FirstNames::new();
    if !NAMES.take(id) {
        return;
    }
    // A series can't be taken back; what is no number calls nobody.
    let (events, time) = lag.map_or((f64::NAN, f64::NAN), |(events, time)| {
        let time = time.map_or(f64::NAN, |time| time.as_secs_f64());
        (events as f64, time)
    });
    gauge!(SUBSCRIPTION_LAG, "subscription" => id.to_owned()).set(events);
    gauge!(SUBSCRIPTION_LAG_TIME, "subscription" => id.to_owned()).set(time);
}

pub fn committed() {
    counter!(COMMITS).increment(1);
}

pub fn fenced() {
    counter!(FENCED).increment(1);
}

pub fn expired() {
    counter!(EXPIRED).increment(1);
}

pub fn streamed(events: u64) {
    counter!(STREAMED).increment(events);
}

/// Counts refused calls; told of none at the start, the first one is an increase.
pub fn refused(reason: &'static str, calls: u64) {
    counter!(REFUSED, "reason" => reason).increment(calls);
}

pub fn delivery(status: u16, took: Duration) {
    counter!(DELIVERIES, "status" => status.to_string()).increment(1);
    histogram!(DELIVERY).record(took);
}

pub fn polled(org: &str, answer: &'static str) {
    counter!(POLLS, "org" => org.to_owned(), "answer" => answer).increment(1);
}

/// How a source is, and when it last brought an event, or else when it began to be there; orgs come from
/// the configuration, so there are few.
#[expect(clippy::cast_precision_loss, reason = "seconds far below 2^52")]
pub fn source_watched(intake: &'static str, org: &str, well: bool, last_event: i64) {
    let org = || org.to_owned();
    gauge!(SOURCE_WELL, "intake" => intake, "org" => org()).set(f64::from(u8::from(well)));
    gauge!(SOURCE_EVENT, "intake" => intake, "org" => org()).set(last_event as f64);
    counter!(SOURCE_ERRORS, "intake" => intake, "org" => org()).increment(0);
    counter!(SOURCE_GAPS, "intake" => intake, "org" => org()).increment(0);
}

#[expect(clippy::cast_precision_loss, reason = "seconds far below 2^52")]
pub fn source_heard(intake: &'static str, org: &str, now: i64, lag: Duration) {
    let org = || org.to_owned();
    gauge!(SOURCE_SUCCESS, "intake" => intake, "org" => org()).set(now as f64);
    gauge!(SOURCE_LAG, "intake" => intake, "org" => org()).set(lag.as_secs_f64());
}

pub fn source_failed(intake: &'static str, org: &str) {
    counter!(SOURCE_ERRORS, "intake" => intake, "org" => org.to_owned()).increment(1);
}

pub fn source_gap(intake: &'static str, org: &str) {
    counter!(SOURCE_GAPS, "intake" => intake, "org" => org.to_owned()).increment(1);
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Libraries' own lines: the store's mean nothing to who runs the service unless something is wrong,
/// and what is wrong with a certificate is told by whoever asked.
const QUIET: &str = "fjall=warn,lsm_tree=warn,opentelemetry=warn,rustls_platform_verifier=off";

/// The log of this process: what of it is written can be changed while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    level: Arc<Mutex<String>>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// The level, or filter directives, that count now.
    pub fn level(&self) -> String {
        self.lock().clone()
    }

    /// Lets another level, or other filter directives, count from now on.
    ///
    /// # Errors
    /// If `level` is no filter directive; then the one before counts on.
    pub fn set_level(&self, level: &str) -> Result<(), ParseError> {
        let filter = filter(level)?;
        let mut current = self.lock();
        // Fails only when the log is gone, as the process is then.
        if self.filter.reload(filter).is_ok() {
            level.clone_into(&mut current);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        // Only ever replaced as a whole.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("{QUIET},{level}"))
}

/// Starts logging to standard error. What `level` says of a module counts over what we say.
///
/// # Errors
/// If `level` is no filter directive.
pub fn install_log(level: &str, format: LogFormat) -> Result<Log, ParseError> {
    let (filter, reload) = reload::Layer::new(filter(level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Where the log can't be written (a full disk), saying so in the same place would panic.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry
            .with(
                lines
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal()),
            )
            .init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    Ok(Log {
        level: Arc::new(Mutex::new(level.to_owned())),
        filter: reload,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Whoever alerts on a metric finds it under its name after an upgrade, or sees the change here.
    #[test]
    fn the_metrics_are_those_of_the_list() {
        let mut list = String::new();
        for (name, kind, unit, labels, help) in METRICS {
            let (kind, unit) = (format!("{kind:?}").to_lowercase(), unit.as_str());
            let labels = labels.join(",");
            writeln!(list, "{name}{{{labels}}} {kind} {unit}: {help}").unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
        if std::env::var_os("PROVIDENT_WRITE_GOLDEN").is_some() {
            std::fs::write(path, &list).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), list);
    }

    #[test]
    fn names_and_units_are_by_the_convention() {
        for (name, kind, unit, labels, help) in METRICS {
            assert!(name.starts_with("provident_"), "{name}");
            let ends = |end: &str| name.ends_with(end);
            assert_eq!(ends("_total"), matches!(kind, Kind::Counter), "{name}");
            let stem = name.trim_end_matches("_total");
            assert_eq!(stem.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
            assert_eq!(stem.ends_with("_bytes"), *unit == Unit::Bytes, "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
            assert!(labels.iter().all(|label| *label != "le"), "{name}");
        }
    }

    #[test]
    fn names_from_outside_are_bounded_in_number() {
        let names = FirstNames::new();
        let taken = (0..2 * FirstNames::MAX).filter(|name| names.take(&name.to_string()));
        assert_eq!(taken.count(), FirstNames::MAX);
        assert!(names.take("0"));
    }
}
