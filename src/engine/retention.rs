//! Retention: what is too old, or takes too much of the disk, goes, in whole units of storage; and
//! keys that are older than the dedupe horizon are forgotten.
//!
//! - Nothing goes that is younger than it may be, unless size asks for it; the newest unit stays.
//! - Units are cut by age too, a tenth of what may be kept, so that a quiet journal keeps little
//!   more than it is asked to.
//! - Whoever reads is told what is gone (`engine::stream`); nobody waits, and neither do writes.
//!
//! What goes is decided by `decide` alone, from what the journal and the clock say. When keys were
//! appended is known though their records are gone: the start of each unit of keys is kept in the
//! state table.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::query;
use super::subscriptions::Subscriptions;
use super::writer::{AppendError, WriterHandle};
use crate::domain::cursor::Seq;
use crate::journal::{self, Cut, Journal, ReadError, StateChange, Usage, Volume};
use crate::telemetry;
use crate::wire::record::AppendTime;

/// Keys of the state table: when a unit of keys was first seen, by the first sequence of it.
const KEYS_SEEN_PREFIX: &[u8] = b"keys/";

/// A unit spans at most this part of what may be kept, so what is kept is at most a tenth more.
const UNITS_PER_AGE: i64 = 10;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionPolicy {
    /// Since their append; `None`: for ever.
    pub age_max: Option<Duration>,
    /// How much longer than `age_max` events wait for a subscription that has not committed them.
    pub wait_for_subscriptions: Duration,
    /// Bytes of records; `None`: no limit of its own.
    pub bytes_max: Option<u64>,
    /// Of the volume, for the journal. What others take there makes no event go.
    pub volume_percent_max: u64,
    /// Bytes of the volume that the journal leaves in any case, so that appends are not refused on
    /// a small one.
    pub free_bytes_min: u64,
    /// How long keys stay known; `None`: for ever.
    pub dedupe_horizon: Option<Duration>,
    /// How often this looks.
    pub interval: Duration,
}

/// Why events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Size,
}

/// What was found out, for [`decide`].
#[derive(Clone, Debug)]
struct Findings {
    usage: Usage,
    /// The first event that is not too old, and the first that is not even with the wait for
    /// subscriptions.
    young: Seq,
    young_after_wait: Seq,
    oldest_committed: Option<Seq>,
}

/// Up to which place events go, and why; `None` if all stay. Second, how many bytes are too many
/// even then.
fn decide(policy: &RetentionPolicy, findings: &Findings) -> (Option<(Seq, Reason)>, u64) {
    let usage = &findings.usage;
    let by_age = match findings.oldest_committed {
        Some(committed) if committed.next() < findings.young => {
            committed.next().max(findings.young_after_wait)
        }
        _ => findings.young,
    };
    let records: u64 = usage.records.iter().map(|unit| unit.bytes).sum();
    let over = |bytes: u64, bytes_max: u64| bytes.saturating_sub(bytes_max);
    let mut excess = policy
        .bytes_max
        .map_or(0, |bytes_max| over(records, bytes_max));
    if let Some(Volume { bytes: volume, .. }) = usage.volume {
        let share = volume / 100 * policy.volume_percent_max;
        let most = share.min(volume.saturating_sub(policy.free_bytes_min));
        excess = excess.max(over(usage.bytes, most));
    }
    let mut by_size = Seq::ZERO;
    for pair in usage.records.windows(2) {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(pair[0].bytes);
        by_size = pair[1].first;
    }
    let (before, reason) = if by_size > by_age {
        (by_size, Reason::Size)
    } else {
        (by_age, Reason::Age)
    };
    // Where it is within the oldest unit, the journal lets all of that stay.
    let goes = usage
        .records
        .first()
        .is_some_and(|oldest| oldest.first < before);
    (goes.then_some((before, reason)), excess)
}

/// The retention of one journal; [`Retention::run`] is its task.
#[derive(Debug)]
pub struct Retention {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) writer: WriterHandle,
    pub(super) subscriptions: Subscriptions,
    pub(super) clock: Clock,
    pub(super) policy: RetentionPolicy,
    /// Size asked for more than could go, which was said.
    pub(super) said_too_large: bool,
}

impl Retention {
    /// Looks again and again, until told to stop. A journal that can't be read for now is tried
    /// again; one that can't be written ends it.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(self.policy.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Dropping either branch is safe: the interval keeps its beat, the token its state.
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            self.look().await?;
        }
    }

    pub(super) async fn look(&mut self) -> Result<(), journal::AppendError> {
        let now = AppendTime::from_timestamp(self.clock.now());
        let cut = self.cut_by_age(now).await;
        go_on(cut)?;
        let trimmed = self.trim(now).await;
        go_on(trimmed)?;
        let forgotten = self.forget(now).await;
        go_on(forgotten)
    }

    /// The first place that was not appended before some time ago.
    async fn first_since(&self, now: AppendTime, ago: Option<Duration>) -> Result<Seq, ReadError> {
        match ago {
            None => Ok(Seq::ZERO),
            Some(ago) => Ok(query::last_before(&*self.journal, earlier(now, ago))
                .await?
                .next()),
        }
    }

    /// The first event that is not too old, and the first that is not even with the wait for
    /// subscriptions.
    async fn young(&self, now: AppendTime) -> Result<(Seq, Seq), ReadError> {
        let age_max = self.policy.age_max;
        let wait = self.policy.wait_for_subscriptions;
        let after_wait = age_max.map(|age| age.saturating_add(wait));
        Ok((
            self.first_since(now, age_max).await?,
            self.first_since(now, after_wait).await?,
        ))
    }

    async fn trim(&mut self, now: AppendTime) -> Result<(), RetentionError> {
        let oldest_committed = self.subscriptions.oldest_committed();
        let ages = self.young(now).await;
        // Where a record can't be read nobody knows how old it is, but how large all is.
        let unknown = (Seq::ZERO, Seq::ZERO);
        let (young, young_after_wait) = ages.as_ref().copied().unwrap_or(unknown);
        let findings = Findings {
            usage: self.journal.usage().await?,
            young,
            young_after_wait,
            oldest_committed: oldest_committed
                .filter(|_| !self.policy.wait_for_subscriptions.is_zero()),
        };
        let (trim, excess) = decide(&self.policy, &findings);
        if excess > 0 && !std::mem::replace(&mut self.said_too_large, true) {
            tracing::warn!(
                bytes = findings.usage.bytes,
                excess,
                "the journal takes more than it may, and only its newest unit is left: give it a larger \
                 volume, or smaller units (journal.generation_bytes_max)"
            );
        }
        self.said_too_large &= excess > 0;
        if let Some(volume) = findings.usage.volume {
            telemetry::storage(volume.bytes, volume.free_bytes);
        }
        let mut bytes = findings.usage.bytes;
        if let Some((before, reason)) = trim {
            if findings.oldest_committed.is_some() {
                // A commit that is queued counts once it is written, and it lies before this.
                self.writer.append(Vec::new(), Vec::new()).await?;
            }
            let first = self.journal.bounds().earliest;
            let earliest = self.journal.trim(before).await?;
            if earliest > first {
                bytes = self.journal.usage().await?.bytes;
                tracing::info!(
                    first = first.get(),
                    last = earliest.previous().get(),
                    freed_bytes = findings.usage.bytes.saturating_sub(bytes),
                    ?reason,
                    "events were removed by retention"
                );
                telemetry::trimmed(earliest.get() - first.get());
            }
        }
        self.tell(bytes).await?;
        ages?;
        Ok(())
    }

    /// Tells the figures.
    async fn tell(&self, bytes: u64) -> Result<(), ReadError> {
        let earliest = self.journal.bounds().earliest;
        let oldest = query::read_one(&*self.journal, earliest).await?;
        telemetry::kept(
            earliest.get(),
            oldest.map(|event| event.append_time.to_timestamp().seconds),
            bytes,
        );
        Ok(())
    }

    /// Begins new units where the newest spans too much time.
    async fn cut_by_age(&self, now: AppendTime) -> Result<(), RetentionError> {
        let usage = self.journal.usage().await?;
        let spans = |since: AppendTime, age: Option<Duration>| {
            age.is_some_and(|age| now.0.saturating_sub(since.0) > nanos(age) / UNITS_PER_AGE)
        };
        let newest_keys = usage.keys.last().copied().unwrap_or(Seq::FIRST);
        let seen = self.seen().await?;
        let mut keys = seen.iter().filter(|(first, _)| *first == newest_keys);
        if keys.any(|(_, since)| spans(*since, self.policy.dedupe_horizon)) {
            self.journal.cut(Cut::RecordsAndKeys).await?;
        }
        let newest = usage.records.last().map_or(Seq::FIRST, |unit| unit.first);
        let first = query::read_one(&*self.journal, newest).await?;
        // By all that they may be kept: a short age with a long wait would make a crowd of units.
        let wait = self.policy.wait_for_subscriptions;
        let kept = self.policy.age_max.map(|age| age.saturating_add(wait));
        if first.is_some_and(|first| spans(first.append_time, kept)) {
            self.journal.cut(Cut::Records).await?;
        }
        Ok(())
    }

    /// Forgets keys whose unit was followed by another one longer ago than the horizon.
    async fn forget(&self, now: AppendTime) -> Result<(), RetentionError> {
        let usage = self.journal.usage().await?;
        let seen = self.seen().await?;
        let new = usage
            .keys
            .iter()
            .filter(|first| seen.iter().all(|(seen, _)| seen != *first))
            .map(|first| StateChange {
                key: seen_key(*first),
                value: Some(now.0.to_be_bytes().to_vec()),
            });
        // Units that are gone need no row.
        let old = seen
            .iter()
            .filter(|(seen, _)| !usage.keys.contains(seen))
            .map(|(first, _)| StateChange {
                key: seen_key(*first),
                value: None,
            });
        let changes: Vec<_> = new.chain(old).collect();
        if !changes.is_empty() {
            self.writer.append(Vec::new(), changes).await?;
        }
        let Some(horizon) = self.policy.dedupe_horizon else {
            return Ok(());
        };
        // What stands before a unit was appended before it was seen.
        let over = seen
            .iter()
            .filter(|(_, at)| *at < earlier(now, horizon))
            .map(|(first, _)| *first)
            .max();
        if let Some(before) = over
            && usage.keys.first().is_some_and(|first| *first < before)
        {
            self.journal.forget(before).await?;
        }
        Ok(())
    }

    /// When units of keys were first seen.
    async fn seen(&self) -> Result<Vec<(Seq, AppendTime)>, ReadError> {
        let rows = self.journal.state(KEYS_SEEN_PREFIX).await?;
        let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
            let first = key.strip_prefix(KEYS_SEEN_PREFIX)?.try_into().ok()?;
            let seen = value.try_into().ok()?;
            Some((
                Seq::new(u64::from_be_bytes(first)),
                AppendTime(i64::from_be_bytes(seen)),
            ))
        };
        // A row that can't be read is written anew, which only keeps keys for longer.
        Ok(rows.into_iter().filter_map(parse).collect())
    }
}

fn seen_key(first: Seq) -> Vec<u8> {
    [KEYS_SEEN_PREFIX, &first.get().to_be_bytes()].concat()
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn earlier(now: AppendTime, ago: Duration) -> AppendTime {
    AppendTime(now.0.saturating_sub(nanos(ago)))
}

/// Takes what one step came to: the next one goes on behind it, unless nothing can be written.
fn go_on(step: Result<(), RetentionError>) -> Result<(), journal::AppendError> {
    match step {
        Ok(()) | Err(RetentionError::Busy) => {}
        Err(RetentionError::Read(error)) => tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "retention can't read the journal, trying again"
        ),
        Err(RetentionError::Write(error)) => return Err(error),
    }
    Ok(())
}

/// Why a step of a look came to no end.
#[derive(Debug, thiserror::Error)]
enum RetentionError {
    /// The writer has no room for it now; the next look does it.
    #[error("the writer is busy")]
    Busy,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] journal::AppendError),
}

impl From<AppendError> for RetentionError {
    fn from(_busy: AppendError) -> Self {
        // A writer that failed ends the process by itself.
        Self::Busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Unit;

    const POLICY: RetentionPolicy = RetentionPolicy {
        age_max: Some(Duration::from_secs(1000)),
        wait_for_subscriptions: Duration::ZERO,
        bytes_max: None,
        volume_percent_max: 80,
        free_bytes_min: 50,
        dedupe_horizon: None,
        interval: Duration::from_secs(1),
    };

    fn volume(bytes: u64) -> Volume {
        Volume {
            bytes,
            free_bytes: 0,
        }
    }

    /// Units of 100 bytes that begin at 1, 11, 21 and 31, with all the room in the world.
    fn findings() -> Findings {
        Findings {
            usage: Usage {
                bytes: 400,
                volume: Some(volume(10_000)),
                records: [1, 11, 21, 31]
                    .map(|first| Unit {
                        first: Seq::new(first),
                        bytes: 100,
                    })
                    .to_vec(),
                keys: vec![Seq::FIRST],
            },
            young: Seq::ZERO,
            young_after_wait: Seq::ZERO,
            oldest_committed: None,
        }
    }

    fn check(policy: RetentionPolicy, findings: &Findings, goes: Option<(u64, Reason)>, left: u64) {
        let goes = goes.map(|(before, reason)| (Seq::new(before), reason));
        assert_eq!(decide(&policy, findings), (goes, left));
    }

    #[test]
    fn nothing_goes_that_is_young_and_fits() {
        check(POLICY, &findings(), None, 0);
    }

    #[test]
    fn what_is_too_old_goes() {
        let old = |young: u64| Findings {
            young: Seq::new(young),
            ..findings()
        };
        check(POLICY, &old(1), None, 0);
        check(POLICY, &old(11), Some((11, Reason::Age)), 0);
        check(POLICY, &old(30), Some((30, Reason::Age)), 0);
        check(POLICY, &old(99), Some((99, Reason::Age)), 0);
    }

    #[test]
    fn what_is_too_large_goes_oldest_first_and_the_newest_unit_stays() {
        let policy = |bytes_max: u64| RetentionPolicy {
            bytes_max: Some(bytes_max),
            ..POLICY
        };
        check(policy(400), &findings(), None, 0);
        check(policy(399), &findings(), Some((11, Reason::Size)), 0);
        check(policy(201), &findings(), Some((21, Reason::Size)), 0);
        check(policy(1), &findings(), Some((31, Reason::Size)), 99);
        // Age may ask for more than size.
        let old = Findings {
            young: Seq::new(25),
            ..findings()
        };
        check(policy(399), &old, Some((25, Reason::Age)), 0);
    }

    #[test]
    fn a_share_of_the_volume_and_what_is_to_stay_free_are_limits_of_size() {
        let on = |bytes: u64| {
            let mut found = findings();
            found.usage.volume = Some(volume(bytes));
            found
        };
        check(POLICY, &on(500), None, 0);
        check(POLICY, &on(400), Some((11, Reason::Size)), 0);
        let policy = RetentionPolicy {
            volume_percent_max: 100,
            ..POLICY
        };
        check(policy, &on(450), None, 0);
        check(policy, &on(449), Some((11, Reason::Size)), 0);
        check(policy, &on(10), Some((31, Reason::Size)), 100);
        let mut nobody_knows = findings();
        nobody_knows.usage.volume = None;
        check(policy, &nobody_knows, None, 0);
    }

    #[test]
    fn what_is_old_waits_for_a_subscription_as_long_as_it_may() {
        let waiting = |committed: u64, young_after_wait: u64| Findings {
            young: Seq::new(31),
            young_after_wait: Seq::new(young_after_wait),
            oldest_committed: Some(Seq::new(committed)),
            ..findings()
        };
        check(POLICY, &waiting(0, 0), None, 0);
        check(POLICY, &waiting(10, 0), Some((11, Reason::Age)), 0);
        check(POLICY, &waiting(40, 0), Some((31, Reason::Age)), 0);
        check(POLICY, &waiting(0, 21), Some((21, Reason::Age)), 0);
        // Size does not wait.
        let small = RetentionPolicy {
            bytes_max: Some(100),
            ..POLICY
        };
        check(small, &waiting(0, 0), Some((31, Reason::Size)), 0);
    }
}
