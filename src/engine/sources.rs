//! Whether the ways in are alive: what each brought last, what went wrong last, when it goes on.
//!
//! A source is one way in for one org. Whoever runs it tells it what happened; everybody may look.
//! A source that has failed, or has brought nothing, for longer than is set is not well, and says
//! so. Holds a few times and texts, never an event.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Ingested;
use super::clock::Clock;
use crate::domain::event::{Intake, Timestamp};
use crate::okta::system_log::RateLimit;
use crate::telemetry;

/// When a source is not well.
#[derive(Clone, Copy, Debug)]
pub struct SourceLimits {
    pub failing_after: Duration,
    /// `None`: silence is well.
    pub silent_after: Option<Duration>,
}

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    Well,
    /// Nothing has worked for longer than is set.
    Failing,
    /// No event has come for longer than is set.
    Silent,
}

impl SourceState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Failing => "failing",
            Self::Silent => "silent",
        }
    }
}

/// A range of time of which events may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// When the newest event was published that had been read; none: nothing had.
    pub from: Option<i64>,
    /// Where reading begins anew.
    pub resumed: i64,
    /// When that was found out.
    pub at: i64,
}

/// What is known of a source. Times are the service's, but for `published`.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    pub started: Timestamp,
    pub last_event: Option<Timestamp>,
    /// When Okta published the newest event that came.
    pub last_published: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    /// How old the newest event was when it came; zero where there was nothing more to come.
    pub lag: Option<Duration>,
    pub last_error: Option<(Timestamp, String)>,
    /// Since when nothing has worked.
    failing_since: Option<Timestamp>,
    pub next_attempt: Option<Timestamp>,
    pub rate_limit: Option<RateLimit>,
    pub last_gap: Option<LogGap>,
}

/// One way in for one org.
#[derive(Debug)]
pub struct Source {
    pub intake: Intake,
    /// Empty: any org.
    pub org: String,
    status: Mutex<SourceStatus>,
    clock: Clock,
}

impl Source {
    fn status(&self) -> MutexGuard<'_, SourceStatus> {
        self.status.lock().expect("nothing panics while it is held")
    }

    /// What is known now.
    pub fn snapshot(&self) -> SourceStatus {
        self.status().clone()
    }

    /// Goes on from what was known before a restart.
    pub fn restore(&self, last_event: Option<Timestamp>, last_gap: Option<LogGap>) {
        let mut status = self.status();
        status.last_event = status.last_event.or(last_event);
        status.last_gap = status.last_gap.or(last_gap);
    }

    /// A call, delivery or page was taken in.
    pub fn took(&self, events: &[Ingested]) {
        let now = self.clock.now();
        let mut status = self.status();
        status.last_success = Some(now);
        status.failing_since = None;
        if !events.is_empty() {
            status.last_event = Some(now);
        }
        let newest = events.iter().filter_map(|event| event.published).max();
        let lag = newest.map_or(Duration::ZERO, |newest| age(newest, now));
        status.lag = Some(lag);
        status.last_published = status.last_published.max(newest);
        drop(status);
        telemetry::source_heard(self.intake.name(), &self.org, now.seconds, lag);
    }

    /// An attempt came to nothing.
    pub fn failed(&self, error: String) {
        let now = self.clock.now();
        let mut status = self.status();
        status.failing_since.get_or_insert(now);
        status.last_error = Some((now, error));
        drop(status);
        telemetry::source_failed(self.intake.name(), &self.org);
    }

    /// Something is to be known that is no failure of the source; a failure counts over it.
    pub fn noted(&self, error: String) {
        let now = self.clock.now();
        let mut status = self.status();
        if status.failing_since.is_none() {
            status.last_error = Some((now, error));
        }
    }

    pub fn goes_on(&self, at: Timestamp) {
        self.status().next_attempt = Some(at);
    }

    pub fn is_limited(&self, limit: RateLimit) {
        self.status().rate_limit = Some(limit);
    }

    pub fn has_gap(&self, gap: LogGap) {
        self.status().last_gap = Some(gap);
        telemetry::source_gap(self.intake.name(), &self.org);
    }
}

/// How long before `now` a time was.
fn age(time: Timestamp, now: Timestamp) -> Duration {
    let seconds = now.seconds.saturating_sub(time.seconds).max(0);
    Duration::from_secs(seconds.unsigned_abs())
}

/// All sources there are; fixed from the start. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    all: Arc<[Arc<Source>]>,
    limits: SourceLimits,
    clock: Clock,
}

impl Sources {
    /// The ways in of a service: each intake with its org.
    pub fn new(
        all: impl IntoIterator<Item = (Intake, String)>,
        limits: SourceLimits,
        clock: Clock,
    ) -> Self {
        let started = clock.now();
        let source = |(intake, org)| {
            Arc::new(Source {
                intake,
                org,
                status: Mutex::new(SourceStatus {
                    started,
                    ..SourceStatus::default()
                }),
                clock: clock.clone(),
            })
        };
        Self {
            all: all.into_iter().map(source).collect(),
            limits,
            clock,
        }
    }

    pub fn all(&self) -> &[Arc<Source>] {
        &self.all
    }

    /// The source of an intake and an org, if there is one.
    pub fn find(&self, intake: Intake, org: &str) -> Option<Arc<Source>> {
        let is_it = |source: &&Arc<Source>| source.intake == intake && source.org == org;
        self.all.iter().find(is_it).cloned()
    }

    /// How a source is now. What comes by gRPC comes when somebody sends it: it is always well.
    pub fn judge(&self, source: &Source) -> SourceState {
        if source.intake == Intake::Grpc {
            return SourceState::Well;
        }
        let now = self.clock.now();
        let status = source.status();
        let longer = |since: Timestamp, than: Duration| age(since, now) >= than;
        // Up to the last failure: a hook of which nothing is heard since one bad delivery is not
        // failing.
        if let (Some(since), Some((last, _))) = (status.failing_since, &status.last_error)
            && age(since, *last) >= self.limits.failing_after
        {
            return SourceState::Failing;
        }
        let heard = status.last_event.unwrap_or(status.started);
        match self.limits.silent_after {
            Some(than) if longer(heard, than) => SourceState::Silent,
            _ => SourceState::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn a_source_that_fails_or_is_silent_for_too_long_is_not_well() {
        let seconds = Arc::new(AtomicI64::new(1_770_000_000));
        let read = Arc::clone(&seconds);
        let clock = Clock::from_fn(move || Timestamp {
            seconds: read.load(Ordering::Relaxed),
            nanos: 0,
        });
        let limits = SourceLimits {
            failing_after: Duration::from_mins(5),
            silent_after: Some(Duration::from_hours(1)),
        };
        let names = [
            (Intake::Grpc, String::new()),
            (Intake::SystemLog, "acme.okta.com".to_owned()),
        ];
        let sources = Sources::new(names, limits, clock);
        let poll = sources.find(Intake::SystemLog, "acme.okta.com").unwrap();
        let after = |passed: i64| {
            seconds.fetch_add(passed, Ordering::Relaxed);
            sources.judge(&poll)
        };
        poll.failed("no route".into());
        poll.noted("a stranger".into());
        assert_eq!(poll.snapshot().last_error.unwrap().1, "no route");
        assert_eq!(after(299), SourceState::Well);
        assert_eq!(after(1), SourceState::Well, "it failed once");
        poll.failed("still none".into());
        assert_eq!(after(0), SourceState::Failing);
        poll.took(&[]);
        assert_eq!(after(3299), SourceState::Well);
        poll.took(&[]);
        assert_eq!(after(1), SourceState::Silent);
        assert_eq!(sources.judge(&sources.all()[0]), SourceState::Well);
        assert_eq!(poll.snapshot().last_error.unwrap().1, "still none");
    }
}
