//! What the service tells of itself: every metric with its name, unit and help, and the log.
//!
//! Names are data here and nowhere else, and label values come from enums, never from input.
//! Recording never waits. Names none of our other modules.

use std::io::IsTerminal as _;
use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const EVENTS: &str = "provident_ingested_events_total";
const CLASSIFIED: &str = "provident_classified_events_total";
const FLUSH: &str = "provident_flush_duration_seconds";
const BATCH_EVENTS: &str = "provident_batch_events";
const WRITTEN: &str = "provident_written_bytes_total";
const QUEUE: &str = "provident_queue_bytes";
const HEAD: &str = "provident_journal_head_sequence";
const EARLIEST: &str = "provident_journal_earliest_sequence";
const OLDEST: &str = "provident_journal_oldest_event_timestamp_seconds";
const JOURNAL_BYTES: &str = "provident_journal_disk_bytes";
const TRIMMED: &str = "provident_trimmed_events_total";
const READERS: &str = "provident_readers";
const STREAMED: &str = "provident_streamed_events_total";
const REFUSED: &str = "provident_refused_calls_total";
const SUBSCRIPTIONS: &str = "provident_subscriptions";
const SUBSCRIPTION_LAG: &str = "provident_subscription_lag_events";
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

/// Installs the recorder; what it has gathered is rendered by the handle.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
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
    describe_events();
    describe_intakes();
    // Known from the start, so that a rate over them is zero and not absent.
    gauge!(QUEUE).set(0.0);
    gauge!(READERS).set(0.0);
    counter!(STREAMED).increment(0);
    counter!(WRITTEN).increment(0);
    counter!(COMMITS).increment(0);
    counter!(TRIMMED).increment(0);
    counter!(FENCED).increment(0);
    counter!(EXPIRED).increment(0);
    Ok(handle)
}

fn describe_events() {
    describe_counter!(
        EVENTS,
        Unit::Count,
        "Events by intake and what became of them"
    );
    describe_counter!(
        CLASSIFIED,
        Unit::Count,
        "Accepted events by verdict, category, cause and disposition"
    );
    describe_histogram!(
        FLUSH,
        Unit::Seconds,
        "Time that one batch took to be durable"
    );
    describe_histogram!(
        BATCH_EVENTS,
        Unit::Count,
        "Events that one flush made durable"
    );
    describe_counter!(
        WRITTEN,
        Unit::Bytes,
        "Bytes of records handed to the journal"
    );
    describe_gauge!(
        QUEUE,
        Unit::Bytes,
        "Bytes of records that wait to be written"
    );
    describe_gauge!(HEAD, Unit::Count, "Sequence of the newest durable event");
    describe_gauge!(
        EARLIEST,
        Unit::Count,
        "Sequence of the oldest event that is kept"
    );
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "When the oldest event that is kept was appended"
    );
    describe_gauge!(
        JOURNAL_BYTES,
        Unit::Bytes,
        "Bytes that the journal takes on its disk"
    );
    describe_counter!(TRIMMED, Unit::Count, "Events removed by retention");
    describe_gauge!(READERS, Unit::Count, "Open Subscribe streams");
    describe_counter!(STREAMED, Unit::Count, "Events sent on Subscribe streams");
    describe_counter!(REFUSED, Unit::Count, "Calls refused, by reason");
    describe_gauge!(SUBSCRIPTIONS, Unit::Count, "Named subscriptions");
    describe_gauge!(
        SUBSCRIPTION_LAG,
        Unit::Count,
        "Events behind the committed place of the subscription that is furthest behind"
    );
    describe_counter!(COMMITS, Unit::Count, "Commits of subscriptions");
    describe_counter!(
        FENCED,
        Unit::Count,
        "Readers of a subscription that were thrown off by another reader"
    );
    describe_counter!(
        EXPIRED,
        Unit::Count,
        "Subscriptions deleted because nobody used them"
    );
}

fn describe_intakes() {
    describe_counter!(
        DELIVERIES,
        Unit::Count,
        "Deliveries to the event hook endpoint, by HTTP status"
    );
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "Time that one delivery took to be answered"
    );
    describe_counter!(
        POLLS,
        Unit::Count,
        "Requests to the System Log, by org and what came of them"
    );
    describe_gauge!(
        SOURCE_WELL,
        Unit::Count,
        "1 while a source brings events and nothing fails for too long, else 0"
    );
    describe_gauge!(
        SOURCE_SUCCESS,
        Unit::Seconds,
        "When a source last took something in"
    );
    describe_gauge!(
        SOURCE_EVENT,
        Unit::Seconds,
        "When a source last brought an event"
    );
    describe_gauge!(
        SOURCE_LAG,
        Unit::Seconds,
        "How old the newest event of a source was when it came; 0 where nothing more was to come"
    );
    describe_counter!(SOURCE_ERRORS, Unit::Count, "Failures of a source");
    describe_counter!(
        SOURCE_GAPS,
        Unit::Count,
        "How often a stored place in a System Log was lost, so that events may be missing"
    );
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

#[expect(clippy::cast_precision_loss, reason = "sequences far below 2^52")]
pub fn subscription_lag(events: u64) {
    gauge!(SUBSCRIPTION_LAG).set(events as f64);
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

pub fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub fn delivery(status: u16, took: Duration) {
    counter!(DELIVERIES, "status" => status.to_string()).increment(1);
    histogram!(DELIVERY).record(took);
}

pub fn polled(org: &str, answer: &'static str) {
    counter!(POLLS, "org" => org.to_owned(), "answer" => answer).increment(1);
}

/// How a source is; orgs come from the configuration, so there are few.
pub fn source_well(intake: &'static str, org: &str, well: bool) {
    gauge!(SOURCE_WELL, "intake" => intake, "org" => org.to_owned()).set(f64::from(u8::from(well)));
    counter!(SOURCE_ERRORS, "intake" => intake, "org" => org.to_owned()).increment(0);
    counter!(SOURCE_GAPS, "intake" => intake, "org" => org.to_owned()).increment(0);
}

#[expect(clippy::cast_precision_loss, reason = "seconds far below 2^52")]
pub fn source_heard(intake: &'static str, org: &str, now: i64, lag: Duration, events: bool) {
    let org = || org.to_owned();
    gauge!(SOURCE_SUCCESS, "intake" => intake, "org" => org()).set(now as f64);
    gauge!(SOURCE_LAG, "intake" => intake, "org" => org()).set(lag.as_secs_f64());
    if events {
        gauge!(SOURCE_EVENT, "intake" => intake, "org" => org()).set(now as f64);
    }
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
const QUIET: &str = "fjall=warn,lsm_tree=warn,rustls_platform_verifier=off";

/// Starts logging to standard error. What `level` says of a module counts over what we say.
///
/// # Errors
/// If `level` is no filter directive.
pub fn install_log(level: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(format!("{QUIET},{level}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where the log can't be written (a full disk), saying so in the same place would panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => {
            builder
                .with_target(false)
                .with_ansi(std::io::stderr().is_terminal())
                .init();
        }
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
