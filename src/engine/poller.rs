//! Polls one org's System Log: page after page, each written with the place to go on from.
//!
//! - A page's events and its successor's link are one write, so a kill repeats one page at the most
//!   and skips none.
//! - Whatever fails is tried again, later and later; nothing but a stop ends the polling.
//! - When Okta no longer takes the stored link, that is said loudly, and reading begins anew a while
//!   before the newest event that was read. What comes twice is kept once.
//! - At a stop, a page that was begun is finished.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::intake::Taken;
use super::sources::{LogGap, Source};
use super::writer::AppendError;
use super::{Engine, IngestError};
use crate::domain::event::Timestamp;
use crate::journal::StateChange;
use crate::okta::log_event::format_time;
use crate::okta::pace::Pace;
use crate::okta::system_log::{FetchError, Fetched, LogPage, LogQuery, SystemLog};
use crate::telemetry;
use crate::telemetry::trace;

/// What the state's keys of pollers begin with; the org follows.
const KEY: &[u8] = b"poll/";

/// How long a request that is under way at a stop is waited for.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How often Okta has to refuse a place before it counts as lost.
const REFUSALS_MAX: u32 = 3;

/// The longest wait that somebody between us and Okta may ask for.
const ASKED_WAIT_MAX: Duration = Duration::from_mins(10);

/// How long Okta keeps its System Log, in seconds: 90 days. Asking for more than 180 is an error.
const LOG_SECONDS: i64 = 90 * 24 * 3600;

/// How a log is polled.
#[derive(Clone, Debug)]
pub struct PollOptions {
    pub org: String,
    pub query: LogQuery,
    /// How far back the first poll begins.
    pub look_back: Duration,
    /// Wait after a page that was not full.
    pub interval: Duration,
    /// Of the org's rate limit.
    pub share_percent: u32,
    /// How far before the newest event reading begins anew.
    pub overlap: Duration,
    /// First and longest wait after failures.
    pub retry_delay: Duration,
    pub retry_delay_max: Duration,
}

/// What a poller keeps in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct PollState {
    /// Path and query of the page that comes next; empty: none was given yet.
    next: String,
    /// What `next` was asked with.
    query: LogQuery,
    /// Up to where the log was read, in seconds since 1970: when the newest event was published, or
    /// from when on nothing had come.
    newest: Option<i64>,
    /// When an event came last.
    last_event: Option<i64>,
    last_gap: Option<LogGap>,
    pace: Pace,
}

/// A poller; [`Poller::run`] is its task.
#[derive(Debug)]
pub struct Poller {
    engine: Engine,
    log: SystemLog,
    source: Arc<Source>,
    clock: Clock,
    /// Random bits, for waits that differ.
    random: fn() -> u64,
    options: PollOptions,
    state: PollState,
    /// Failures since the last page.
    failures: u32,
    /// How often the request was refused since something else came of it.
    refusals: u32,
}

/// What comes after a page or a failure.
enum Step {
    Wait(Duration),
    Stop,
}

impl Poller {
    pub fn new(
        engine: Engine,
        log: SystemLog,
        source: Arc<Source>,
        clock: Clock,
        random: fn() -> u64,
        options: PollOptions,
    ) -> Self {
        Self {
            engine,
            log,
            source,
            clock,
            random,
            options,
            state: PollState::default(),
            failures: 0,
            refusals: 0,
        }
    }

    /// Polls until told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        self.restore().await?;
        let mut next = Step::Wait(Duration::ZERO);
        while let Step::Wait(delay) = next {
            let now = self.clock.now();
            let wait = delay.max(self.state.pace.wait(self.options.share_percent, now));
            self.source.goes_on(later(now, wait));
            // Biased, so that a stop counts over a wait that is over.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            let mut span = trace::root("poll");
            span.set("provident.org", self.options.org.clone());
            next = span.trace().within(self.poll(&stop)).await?;
        }
        Ok(())
    }

    /// Goes on where the process before ended, or begins.
    async fn restore(&mut self) -> anyhow::Result<()> {
        let org = self.options.org.clone();
        if let Some(value) = self.engine.state_of(&key(&org)).await? {
            // What another version wrote and this one can't read is as good as nothing: it reads
            // from the beginning again, and what is known is kept once.
            self.state = serde_json::from_slice(&value).unwrap_or_else(|error| {
                tracing::error!(org, %error, "the stored place in the System Log can't be read");
                PollState::default()
            });
        }
        let seconds = |seconds| Timestamp { seconds, nanos: 0 };
        self.source
            .restore(self.state.last_event.map(seconds), self.state.last_gap);
        if !self.state.next.is_empty() && self.state.query.filter != self.options.query.filter {
            tracing::warn!(
                org,
                "the filter has changed: going on from the newest event, what it would have let through \
                 before that is not fetched"
            );
            self.state.next = String::new();
        }
        self.state.next = self.options.query.resized(&self.state.next);
        self.state.query = self.options.query.clone();
        if self.state.next.is_empty() {
            let from = format_time(self.beginning()).unwrap_or_default();
            tracing::info!(org, from, "polling the System Log");
        } else {
            tracing::info!(org, "polling the System Log from where it was left");
        }
        Ok(())
    }

    /// From where the log is read if there is no link to go on from.
    fn beginning(&self) -> Timestamp {
        let now = self.clock.now();
        let since = match self.state.newest {
            Some(newest) => newest - whole_seconds(self.options.overlap),
            None => now.seconds - whole_seconds(self.options.look_back),
        };
        Timestamp {
            seconds: since.clamp(now.seconds - LOG_SECONDS, now.seconds),
            nanos: 0,
        }
    }

    async fn poll(&mut self, stop: &CancellationToken) -> anyhow::Result<Step> {
        let beginning = self.beginning();
        // Kept from the first attempt on: while nothing works, the beginning must not move on. And a
        // kill must not forget what counts against the rate limit.
        self.state.newest.get_or_insert(beginning.seconds);
        let before = self.state.pace.clone();
        self.state.pace.sent();
        if let Err(error) = self.engine.keep_state(vec![self.change(&self.state)]).await {
            self.state.pace = before;
            self.source.failed(error.to_string());
            return Ok(self.after_refusal(&error, stop).await);
        }
        let now = self.clock.now();
        let request = match self.state.next.as_str() {
            "" => self.options.query.since(beginning),
            next => next.to_owned(),
        };
        let fetching = self.log.fetch(&request, now);
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        // Dropping the request is safe: its page was not begun, and is asked for again.
        let Fetched {
            page,
            limit,
            date,
            retry_after,
        } = tokio::select! {
            fetched = fetching => fetched,
            () = too_late => return Ok(Step::Stop),
        };
        let now = self.clock.now();
        self.state.pace.heard(limit, date, now);
        if let Some(limit) = limit {
            self.source.is_limited(limit);
        }
        let answer = page.as_ref().map_or_else(answer_name, |_| "page");
        telemetry::polled(&self.options.org, answer);
        match page {
            Ok(page) => self.take(page, stop).await,
            Err(error) => {
                let asked = retry_after.unwrap_or_default().min(ASKED_WAIT_MAX);
                Ok(Step::Wait(self.failed(error).max(asked)))
            }
        }
    }

    /// Writes a page with the place of the next one.
    async fn take(&mut self, page: LogPage, stop: &CancellationToken) -> anyhow::Result<Step> {
        let LogPage { body, events, next } = page;
        let now = self.clock.now().seconds;
        let full = events >= self.options.query.events_max as usize;
        let mut state = self.state.clone();
        state.next = next;
        if events > 0 {
            state.last_event = Some(now);
        }
        let mut is_first_try = true;
        loop {
            let written = if events == 0 && state == self.state {
                // Nothing has come, and nothing has changed.
                Ok(Vec::new())
            } else {
                let change = |taken: &[Taken]| {
                    state.newest = state.newest.max(newest(taken, now));
                    vec![self.change(&state)]
                };
                self.engine
                    .ingest_page(&self.options.org, body.clone(), is_first_try, change)
                    .await
            };
            is_first_try = false;
            match written {
                Ok(ingested) => {
                    self.source.took(&ingested);
                    self.failures = 0;
                    self.refusals = 0;
                    self.state = state;
                    let wait = if full {
                        Duration::ZERO
                    } else {
                        self.options.interval
                    };
                    return Ok(Step::Wait(wait));
                }
                Err(IngestError::Append(error)) => {
                    self.source.failed(error.to_string());
                    // The page is here: it is not asked for again, but tried until it is written.
                    let Step::Wait(wait) = self.after_refusal(&error, stop).await else {
                        return Ok(Step::Stop);
                    };
                    // Cut short by a stop, so that it is tried once more before the end.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                // A page is one input of a known org, so only a bug of ours is left.
                Err(error) => {
                    let wait = self.note_failure(&anyhow::Error::new(error));
                    return Ok(Step::Wait(wait));
                }
            }
        }
    }

    /// What to do when the writer takes nothing.
    async fn after_refusal(&mut self, error: &AppendError, stop: &CancellationToken) -> Step {
        match error {
            AppendError::Overloaded
            | AppendError::StorageFull { .. }
            | AppendError::Damaged { .. } => {
                if stop.is_cancelled() {
                    return Step::Stop;
                }
                self.failures = self.failures.saturating_add(1);
                Step::Wait(self.backoff())
            }
            // The service is ending; whether the page was written is found out at the next start.
            AppendError::ShuttingDown | AppendError::OutcomeUnknown => {
                stop.cancelled().await;
                Step::Stop
            }
        }
    }

    /// Notes a failure, and says how long to wait.
    fn failed(&mut self, error: FetchError) -> Duration {
        let is_refused = matches!(
            &error,
            FetchError::Refused { status: 400 | 404 | 410, text } if !text.is_empty()
        );
        self.refusals = if is_refused { self.refusals + 1 } else { 0 };
        if self.refusals >= REFUSALS_MAX && !self.state.next.is_empty() {
            self.begin_anew(&error);
        }
        // The window's end is waited for; nothing is wrong.
        let throttled = matches!(error, FetchError::Throttled);
        let wait = self.note_failure(&anyhow::Error::new(error));
        if throttled && self.state.pace.wait(100, self.clock.now()) > Duration::ZERO {
            return Duration::ZERO;
        }
        wait
    }

    fn note_failure(&mut self, error: &anyhow::Error) -> Duration {
        let text = format!("{error:#}");
        self.failures = self.failures.saturating_add(1);
        let wait = self.backoff();
        tracing::warn!(
            org = self.options.org,
            error = text,
            failures = self.failures,
            ?wait,
            "the System Log was not read"
        );
        self.source.failed(text);
        wait
    }

    /// Okta does not take the stored place any more: goes on from the newest event.
    fn begin_anew(&mut self, error: &FetchError) {
        let since = self.beginning();
        let gap = LogGap {
            from: self.state.newest,
            resumed: since.seconds,
            at: self.clock.now().seconds,
        };
        let text = |seconds| format_time(Timestamp { seconds, nanos: 0 }).unwrap_or_default();
        tracing::error!(
            org = self.options.org,
            %error,
            newest_read = gap.from.map(text),
            resumed = text(gap.resumed),
            "Okta no longer takes the stored place in the System Log: reading begins anew, and what Okta \
             no longer keeps is missing"
        );
        self.source.has_gap(gap);
        self.state.last_gap = Some(gap);
        self.state.next = String::new();
        self.refusals = 0;
    }

    /// A wait that doubles with each failure, half of it at random.
    fn backoff(&self) -> Duration {
        let doubled = 1_u32
            .checked_shl(self.failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let delay = self
            .options
            .retry_delay
            .saturating_mul(doubled)
            .min(self.options.retry_delay_max);
        let half = delay / 2;
        let part = u32::try_from((self.random)() % 1000).unwrap_or_default();
        half + half * part / 1000
    }

    fn change(&self, state: &PollState) -> StateChange {
        StateChange {
            key: key(&self.options.org),
            value: Some(serde_json::to_vec(state).expect("it is made of numbers and texts")),
        }
    }
}

fn key(org: &str) -> Vec<u8> {
    [KEY, org.as_bytes()].concat()
}

/// When the newest of some events was published. A time that has not come yet tells nothing: reading
/// on from there would skip what is.
fn newest(taken: &[Taken], now: i64) -> Option<i64> {
    let times = taken.iter().filter_map(|event| event.published);
    times.map(|time| time.seconds).filter(|at| *at <= now).max()
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp {
        seconds: time.seconds.saturating_add(whole_seconds(by)),
        nanos: time.nanos,
    }
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2)
}

/// The kinds of failure, for metrics.
fn answer_name(error: &FetchError) -> &'static str {
    match error {
        FetchError::Login(_) => "login",
        FetchError::Throttled => "throttled",
        FetchError::Crowded => "crowded",
        FetchError::Denied { .. } => "denied",
        FetchError::Refused { .. } => "refused",
        FetchError::Unavailable { .. } => "unavailable",
        FetchError::Unreachable(_) => "unreachable",
        FetchError::NotAPage(_) => "not_a_page",
    }
}
