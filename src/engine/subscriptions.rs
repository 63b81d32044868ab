//! Named subscriptions: filters and places that are kept durably, and who reads as one.
//!
//! - What is answered is durable; what is shown is read from the journal, so it is durable too.
//! - One reader at a time: the next one takes over, and neither the stream nor a commit of the one
//!   before goes on (fencing). A session stays good over a restart, until the next reader comes.
//! - A commit goes no further than what its session was sent, and never back.
//!
//! Changes are decided under one lock, queued under it, and awaited without it: the writer keeps
//! their order, so what was decided on is written before what follows from it. A change that can't
//! be queued is not made. One that was queued and can't be written ends the process.
//!
//! After a restart nobody knows how much a session was sent: then it may commit up to the head that
//! was there at the start, before which all that it was sent lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::places::{self, PlaceError, Start};
use super::query;
use super::tail::Tail;
use super::writer::{AppendError, Queued, WriterHandle};
use crate::domain::cursor::{Cursor, CursorError, Seq};
use crate::domain::event::Timestamp;
use crate::domain::filter::Filter;
use crate::domain::subscription::{InvalidSubscriptionId, SubscriptionId};
use crate::journal::{Journal, ReadError, StateChange};
use crate::telemetry;
use crate::wire::convert::FieldError;
use crate::wire::record::AppendTime;
use crate::wire::subscription::StoredSubscription;

/// Keys of the state table, before the subscription's name.
const KEY_PREFIX: &[u8] = b"subscription/";

/// How often unused ones are looked for, and the figures told, at the least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A reader that stays counts as activity; it is noted so many times within what counts as unused.
const NOTES_PER_EXPIRY: u32 = 10;

/// Bounds of subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionLimits {
    pub subscriptions_max: usize,
    /// Bytes of one filter, as protobuf. It is written with each commit.
    pub filter_bytes_max: usize,
    /// How long one may be unused before it is deleted; `None`: for ever.
    pub expire_after: Option<Duration>,
}

/// Why a subscription can't be used so; nothing was changed, but for `Append`.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    #[error(transparent)]
    Id(#[from] InvalidSubscriptionId),
    #[error("there is no subscription {id}")]
    NotFound { id: String },
    #[error("there is a subscription {id} already")]
    Exists { id: SubscriptionId },
    #[error("there are as many subscriptions as the limit allows ({subscriptions_max})")]
    TooMany { subscriptions_max: usize },
    #[error("the filter has {bytes} bytes, at most {bytes_max} are kept with a subscription")]
    FilterTooLarge { bytes: usize, bytes_max: usize },
    /// The stored filter is of a later version.
    #[error("the subscription's filter can't be used by this version")]
    Filter(#[source] FieldError),
    /// The subscription was changed since it was read. Read it again.
    #[error("the subscription was changed since it was read")]
    EtagOutdated,
    /// Final: another reader has the right to commit.
    #[error("another reader took the subscription over, or it was moved")]
    Fenced,
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("the session was sent nothing after sequence {sent}")]
    Ahead { sent: Seq },
    #[error("sequence {committed} is committed already")]
    Behind { committed: Seq },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A subscription as it is now.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: String,
    pub stored: StoredSubscription,
    /// Events behind the committed place that are kept.
    pub lag_events: u64,
    /// How long ago the first of those was appended; zero if there is none, `None` where it is damaged.
    pub lag: Option<Duration>,
    pub reader: Option<ActiveReader>,
}

/// Who reads as a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveReader {
    /// What it calls itself.
    pub name: String,
    pub since: Timestamp,
}

/// Why a reader has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseated {
    Fenced,
    /// The filter is another one, or the subscription is gone.
    Changed,
}

/// All subscriptions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Subscriptions(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    journal: Arc<dyn Journal>,
    tail: Arc<Tail>,
    writer: WriterHandle,
    clock: Clock,
    limits: SubscriptionLimits,
    /// Before that nobody could use one.
    opened: Timestamp,
    /// What is written, or queued to be.
    entries: Mutex<BTreeMap<SubscriptionId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    stored: StoredSubscription,
    /// How far the session may commit.
    sent: Arc<AtomicU64>,
    reader: Option<Reader>,
}

#[derive(Debug)]
struct Reader {
    active: ActiveReader,
    unseat: watch::Sender<Option<Unseated>>,
}

impl Entry {
    fn new(stored: StoredSubscription, sent: Seq) -> Self {
        Self {
            stored,
            sent: Arc::new(AtomicU64::new(sent.get())),
            reader: None,
        }
    }

    fn unseat(&mut self, why: Unseated) {
        if let Some(reader) = self.reader.take() {
            reader.unseat.send_replace(Some(why));
        }
    }
}

impl Subscriptions {
    /// Reads what is kept of them.
    pub(super) async fn open(
        journal: Arc<dyn Journal>,
        tail: Arc<Tail>,
        writer: WriterHandle,
        clock: Clock,
        limits: SubscriptionLimits,
    ) -> Result<Self, ReadError> {
        let mut entries = BTreeMap::new();
        for (id, stored) in read_all(&*journal).await? {
            entries.insert(id, Entry::new(stored, tail.head()));
        }
        telemetry::subscriptions(entries.len());
        Ok(Self(Arc::new(Parts {
            journal,
            tail,
            writer,
            opened: clock.now(),
            clock,
            limits,
            entries: Mutex::new(entries),
        })))
    }

    /// Makes a subscription.
    ///
    /// # Cancel safety
    /// Once queued it is made, also if the call is dropped.
    pub async fn create(
        &self,
        id: &str,
        filter: &Filter,
        start: &Start,
    ) -> Result<Snapshot, SubscriptionError> {
        let id = SubscriptionId::parse(id)?;
        let place = self.find(start).await?;
        let stored = StoredSubscription::new(filter, place, self.0.clock.now());
        self.check_size(&stored)?;
        let queued = {
            let mut entries = self.lock();
            let subscriptions_max = self.0.limits.subscriptions_max;
            if entries.contains_key(&id) {
                return Err(SubscriptionError::Exists { id });
            }
            if entries.len() >= subscriptions_max {
                return Err(SubscriptionError::TooMany { subscriptions_max });
            }
            let queued = self.enqueue(&id, Some(&stored))?;
            entries.insert(id.clone(), Entry::new(stored.clone(), place));
            telemetry::subscriptions(entries.len());
            queued
        };
        queued.durable().await?;
        self.snapshot(id.as_str(), stored).await
    }

    /// Gives a subscription as it is.
    pub async fn get(&self, id: &str) -> Result<Snapshot, SubscriptionError> {
        let not_found = || SubscriptionError::NotFound { id: id.to_owned() };
        let id = SubscriptionId::parse(id).map_err(|_no_id| not_found())?;
        let key = key(id.as_str());
        let value = query::state_of(&*self.0.journal, &key).await?;
        let stored = parse(&key, &value.ok_or_else(not_found)?)?;
        self.snapshot(id.as_str(), stored).await
    }

    /// Gives those whose names come after one, in the order of their names, and whether there are
    /// more.
    pub async fn list(
        &self,
        after: &str,
        count_max: usize,
    ) -> Result<(Vec<Snapshot>, bool), SubscriptionError> {
        let all = read_all(&*self.0.journal).await?.into_iter();
        let mut rest = all.skip_while(|(id, _)| id.as_str() <= after);
        let mut page = Vec::new();
        for (id, stored) in rest.by_ref().take(count_max) {
            page.push(self.snapshot(id.as_str(), stored).await?);
        }
        Ok((page, rest.next().is_some()))
    }

    /// Sets another filter; a reader is told to call again. With an etag, only if that is the
    /// current one.
    ///
    /// # Cancel safety
    /// Once queued it is changed, also if the call is dropped.
    pub async fn set_filter(
        &self,
        id: &str,
        filter: &Filter,
        etag: &str,
    ) -> Result<Snapshot, SubscriptionError> {
        let (id, stored, queued) = self.change(id, |entry| {
            if !etag.is_empty() && etag != entry.stored.etag() {
                return Err(SubscriptionError::EtagOutdated);
            }
            let mut next = entry.stored.clone();
            let unseat = next.set_filter(filter).then_some(Unseated::Changed);
            self.check_size(&next)?;
            Ok((next, unseat))
        })?;
        queued.durable().await?;
        self.snapshot(id.as_str(), stored).await
    }

    /// Moves a subscription to another place; a reader is thrown off.
    ///
    /// # Cancel safety
    /// Once queued it is moved, also if the call is dropped.
    pub async fn seek(&self, id: &str, start: &Start) -> Result<Snapshot, SubscriptionError> {
        let place = self.find(start).await?;
        let (id, stored, queued) = self.change(id, |entry| {
            let mut next = entry.stored.clone();
            next.set_committed(place);
            next.session.clear();
            Ok((next, Some(Unseated::Fenced)))
        })?;
        queued.durable().await?;
        self.snapshot(id.as_str(), stored).await
    }

    /// Removes a subscription; a reader is told to call again, and hears that it is gone.
    ///
    /// # Cancel safety
    /// Once queued it is removed, also if the call is dropped.
    pub async fn delete(&self, id: &str) -> Result<(), SubscriptionError> {
        let queued = self.remove(&mut self.lock(), id)?;
        queued.durable().await?;
        Ok(())
    }

    /// Notes that all up to a cursor is done with.
    ///
    /// # Cancel safety
    /// Once queued it is committed, also if the call is dropped.
    pub async fn commit(
        &self,
        id: &str,
        session: &str,
        cursor: &str,
    ) -> Result<(), SubscriptionError> {
        let (_, _, queued) = self.change(id, |entry| {
            if entry.stored.session.is_empty() || entry.stored.session != session {
                return Err(SubscriptionError::Fenced);
            }
            let place = Cursor::parse_for(cursor, self.0.journal.id())?.seq;
            let sent = Seq::new(entry.sent.load(Ordering::Acquire));
            let committed = entry.stored.committed();
            if place > sent {
                return Err(SubscriptionError::Ahead { sent });
            }
            if place < committed {
                return Err(SubscriptionError::Behind { committed });
            }
            let mut next = entry.stored.clone();
            next.set_committed(place);
            next.set_activity(self.0.clock.now());
            Ok((next, None))
        })?;
        queued.durable().await?;
        telemetry::committed();
        Ok(())
    }

    /// Makes a caller the one who reads as a subscription, and gives its filter and the place it
    /// goes on after. `session` is a text that was never given before. Whoever read before is
    /// thrown off. A place whose events were trimmed is refused if `wants_all`; then nobody is.
    pub(super) async fn seat(
        &self,
        id: &str,
        session: &str,
        name: String,
        wants_all: bool,
    ) -> Result<(Seat, Filter, Seq), SubscriptionError> {
        let now = self.0.clock.now();
        let (seat, filter, place, queued) = {
            let mut entries = self.lock();
            let (id, mut next) =
                find_entry(&entries, id).map(|(id, entry)| (id.clone(), entry.stored.clone()))?;
            let place = next.committed();
            if wants_all {
                places::check_kept(&*self.0.journal, place)?;
            }
            let filter = next.filter().map_err(SubscriptionError::Filter)?;
            session.clone_into(&mut next.session);
            next.set_activity(now);
            let queued = self.enqueue(&id, Some(&next))?;
            let entry = entries.get_mut(&id).expect("found above, under the lock");
            if entry.reader.is_some() {
                telemetry::fenced();
            }
            entry.unseat(Unseated::Fenced);
            entry.stored = next;
            // Its own, so that a stream that was thrown off tells of nothing any more.
            entry.sent = Arc::new(AtomicU64::new(place.get()));
            let (unseat, unseated) = watch::channel(None);
            let active = ActiveReader { name, since: now };
            entry.reader = Some(Reader { active, unseat });
            let seat = Seat {
                subscriptions: self.clone(),
                id,
                session: session.to_owned(),
                sent: Arc::clone(&entry.sent),
                unseated,
            };
            (seat, filter, place, queued)
        };
        // What was committed before lies in the queue before this, so the place is durable too.
        queued.durable().await?;
        Ok((seat, filter, place))
    }

    /// The lowest committed place; `None` without subscriptions.
    pub fn oldest_committed(&self) -> Option<Seq> {
        let entries = self.lock();
        entries.values().map(|entry| entry.stored.committed()).min()
    }

    /// Deletes what nobody has used for too long and tells the figures, until told to stop.
    pub async fn sweep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let interval = self
            .0
            .limits
            .expire_after
            .map_or(SWEEP_INTERVAL, |after| after / NOTES_PER_EXPIRY)
            .clamp(Duration::from_millis(10), SWEEP_INTERVAL);
        let mut tick = tokio::time::interval(interval);
        let mut told = BTreeSet::new();
        loop {
            // Dropping either branch is safe: the interval keeps its beat, the token its state.
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            self.expire();
            told = self.tell_lags(told).await;
        }
    }

    /// Tells the figures, and that those told before and gone since have none; gives who was told of.
    async fn tell_lags(&self, before: BTreeSet<String>) -> BTreeSet<String> {
        // What can't be read is told to whoever asks for it.
        let Ok((all, _)) = self.list("", usize::MAX).await else {
            return before;
        };
        for one in &all {
            telemetry::subscription_lag(&one.id, Some((one.lag_events, one.lag)));
        }
        let told: BTreeSet<_> = all.into_iter().map(|one| one.id).collect();
        for gone in before.difference(&told) {
            telemetry::subscription_lag(gone, None);
        }
        told
    }

    fn expire(&self) {
        let now = self.0.clock.now();
        let mut entries = self.lock();
        let Some(expire_after) = self.0.limits.expire_after else {
            return;
        };
        let is_over = |since: i64, after: Duration| {
            u64::try_from(now.seconds.saturating_sub(since)).unwrap_or(0) >= after.as_secs()
        };
        let (mut unused, mut used) = (Vec::new(), Vec::new());
        for (id, entry) in entries.iter() {
            // What the service was away is nobody's fault.
            let since = entry.stored.unused_since().max(self.0.opened.seconds);
            if entry.reader.is_none() && is_over(since, expire_after) {
                unused.push(id.clone());
            } else if entry.reader.is_some() && is_over(since, expire_after / NOTES_PER_EXPIRY) {
                used.push(id.clone());
            }
        }
        for id in unused {
            tracing::info!(
                subscription = id.as_str(),
                ?expire_after,
                "deleted a subscription that nobody has used for so long"
            );
            // One that can't be queued is tried again with the next look.
            if self.remove(&mut entries, id.as_str()).is_ok() {
                telemetry::expired();
            }
        }
        for id in used {
            self.note_activity(&mut entries, &id, now);
        }
    }

    /// Writes that a subscription is in use, as soon as may be; nobody waits for it.
    fn note_activity(&self, entries: &mut Entries<'_>, id: &SubscriptionId, now: Timestamp) {
        let Some(entry) = entries.get_mut(id) else {
            return;
        };
        let mut next = entry.stored.clone();
        next.set_activity(now);
        if self.enqueue(id, Some(&next)).is_ok() {
            entry.stored = next;
        }
    }

    /// Decides on a change of a subscription, queues it, and throws its reader off if it has to
    /// go.
    fn change(
        &self,
        id: &str,
        decide: impl FnOnce(&Entry) -> Result<(StoredSubscription, Option<Unseated>), SubscriptionError>,
    ) -> Result<(SubscriptionId, StoredSubscription, Queued), SubscriptionError> {
        let mut entries = self.lock();
        let (id, entry) = find_entry(&entries, id)?;
        let (id, (next, unseat)) = (id.clone(), decide(entry)?);
        let queued = self.enqueue(&id, Some(&next))?;
        let entry = entries.get_mut(&id).expect("found above, under the lock");
        entry.stored = next.clone();
        if let Some(why) = unseat {
            entry.unseat(why);
        }
        Ok((id, next, queued))
    }

    fn remove(&self, entries: &mut Entries<'_>, id: &str) -> Result<Queued, SubscriptionError> {
        let id = find_entry(entries, id)?.0.clone();
        let queued = self.enqueue(&id, None)?;
        if let Some(mut entry) = entries.remove(&id) {
            entry.unseat(Unseated::Changed);
        }
        telemetry::subscriptions(entries.len());
        Ok(queued)
    }

    /// Queues what is to be kept of a subscription from now on.
    fn enqueue(
        &self,
        id: &SubscriptionId,
        stored: Option<&StoredSubscription>,
    ) -> Result<Queued, AppendError> {
        let change = StateChange {
            key: key(id.as_str()),
            value: stored.map(StoredSubscription::to_bytes),
        };
        self.0.writer.enqueue(Vec::new(), vec![change])
    }

    /// The place of a start, if nothing after it was trimmed.
    async fn find(&self, start: &Start) -> Result<Seq, SubscriptionError> {
        let journal = &*self.0.journal;
        let place = places::find(journal, &self.0.tail, start).await?;
        places::check_kept(journal, place)?;
        Ok(place)
    }

    fn check_size(&self, stored: &StoredSubscription) -> Result<(), SubscriptionError> {
        let bytes_max = self.0.limits.filter_bytes_max;
        let bytes = stored.filter_bytes();
        if bytes > bytes_max {
            return Err(SubscriptionError::FilterTooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        id: &str,
        stored: StoredSubscription,
    ) -> Result<Snapshot, SubscriptionError> {
        let journal = &*self.0.journal;
        let (lag_events, lag) = loop {
            let head = self.0.tail.head();
            let earliest = journal.bounds().earliest;
            let lag_events = lag_events(stored.committed(), earliest, head);
            if lag_events == 0 {
                break (0, Some(Duration::ZERO));
            }
            let first = stored.committed().next().max(earliest);
            // Gone if it was trimmed just now.
            match query::read_one(journal, first).await {
                Ok(Some(event)) => {
                    let now = AppendTime::from_timestamp(self.0.clock.now());
                    let nanos = now.0.saturating_sub(event.append_time.0);
                    let lag = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
                    break (lag_events, Some(lag));
                }
                Ok(None) => {}
                // Told to whoever reads it; it says nothing against the subscription.
                Err(ReadError::Corrupt { .. }) => break (lag_events, None),
                Err(error) => return Err(error.into()),
            }
        };
        let reader = self
            .lock()
            .iter()
            .find(|(found, _)| found.as_str() == id)
            .and_then(|(_, entry)| Some(entry.reader.as_ref()?.active.clone()));
        Ok(Snapshot {
            id: id.to_owned(),
            stored,
            lag_events,
            lag,
            reader,
        })
    }

    fn lock(&self) -> Entries<'_> {
        self.0
            .entries
            .lock()
            .expect("nothing panics while it holds the subscriptions")
    }
}

type Entries<'a> = MutexGuard<'a, BTreeMap<SubscriptionId, Entry>>;

fn find_entry<'a>(
    entries: &'a Entries<'_>,
    id: &str,
) -> Result<(&'a SubscriptionId, &'a Entry), SubscriptionError> {
    // A name that can't be is a name that isn't there.
    SubscriptionId::parse(id)
        .ok()
        .and_then(|id| entries.get_key_value(&id))
        .ok_or_else(|| SubscriptionError::NotFound { id: id.to_owned() })
}

fn key(id: &str) -> Vec<u8> {
    [KEY_PREFIX, id.as_bytes()].concat()
}

/// What is kept of subscriptions, in the order of their names.
async fn read_all(
    journal: &dyn Journal,
) -> Result<Vec<(SubscriptionId, StoredSubscription)>, ReadError> {
    let rows = journal.state(KEY_PREFIX).await?.into_iter();
    let read = rows.map(|(key, value)| {
        let id = key
            .strip_prefix(KEY_PREFIX)
            .and_then(|id| SubscriptionId::parse(str::from_utf8(id).ok()?).ok());
        Ok((
            id.ok_or_else(|| no_subscription(&key))?,
            parse(&key, &value)?,
        ))
    });
    read.collect()
}

fn parse(key: &[u8], value: &[u8]) -> Result<StoredSubscription, ReadError> {
    StoredSubscription::parse(value).ok_or_else(|| no_subscription(key))
}

fn no_subscription(key: &[u8]) -> ReadError {
    ReadError::Corrupt {
        seq: Seq::ZERO,
        cause: Some(anyhow!(
            "what is kept under {} is no subscription",
            key.escape_ascii()
        )),
    }
}

/// Events behind a place that are kept.
fn lag_events(committed: Seq, earliest: Seq, head: Seq) -> u64 {
    let behind = committed.max(earliest.previous());
    head.get().saturating_sub(behind.get())
}

/// The right to read as a subscription, for as long as it lives or until another takes it.
#[derive(Debug)]
pub struct Seat {
    subscriptions: Subscriptions,
    id: SubscriptionId,
    session: String,
    sent: Arc<AtomicU64>,
    unseated: watch::Receiver<Option<Unseated>>,
}

impl Seat {
    /// The subscription's.
    pub(super) fn id(&self) -> &SubscriptionId {
        &self.id
    }

    /// Notes that all up to a place was sent.
    pub(super) fn sent(&self, place: Seq) {
        self.sent.fetch_max(place.get(), Ordering::Release);
    }

    /// Whether the reader has to go.
    pub(super) fn unseated(&self) -> Option<Unseated> {
        *self.unseated.borrow()
    }

    /// Waits until the reader has to go; for ever where there is no seat.
    pub(super) async fn until_unseated(seat: Option<&mut Self>) {
        match seat {
            Some(seat) => {
                // The sender goes only after it has said why.
                let _ = seat.unseated.wait_for(Option::is_some).await;
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut entries = self.subscriptions.lock();
        let Some(entry) = entries.get_mut(&self.id) else {
            return;
        };
        if entry.stored.session == self.session && entry.reader.take().is_some() {
            let now = self.subscriptions.0.clock.now();
            self.subscriptions
                .note_activity(&mut entries, &self.id, now);
        }
    }
}
