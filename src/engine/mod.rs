//! The calls that a transport can make: ingest, subscribe, list, get.
//!
//! The engine joins what is pure (reading and classifying) with the journal: one writer appends,
//! any number of readers follow. It keeps the promises of order, durability and bounds, and knows
//! no gRPC: it calls `wire` for bytes alone.

pub mod clock;
pub mod identity;
pub mod intake;
pub mod places;
pub mod poller;
pub mod query;
pub mod read_ahead;
pub mod rejects;
pub mod retention;
pub mod sources;
pub mod stream;
pub mod subscriptions;
pub mod tail;
pub mod writer;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::clock::Clock;
use self::intake::{Input, Kept, Preparation, Rejection, Taken};
pub use self::places::{PlaceError, Start};
use self::query::{Page, PageOptions, QueryRange};
use self::read_ahead::ReadAhead;
use self::rejects::{Reject, RejectFile};
use self::retention::{Retention, RetentionPolicy};
use self::stream::{AtHead, EventStream, OnGap, StreamOptions};
use self::subscriptions::{SubscriptionError, SubscriptionLimits, Subscriptions};
use self::tail::Tail;
use self::writer::{AppendError, Room, Writer, WriterHandle, WriterLimits};
use crate::domain::classification::{Cause, Classification, Disposition, Verdict};
use crate::domain::cursor::{Cursor, CursorError, JournalId, Seq};
use crate::domain::event::{Intake, Timestamp};
use crate::domain::filter::Filter;
use crate::journal::{Appended, Bounds, Direction, Fingerprint, Journal, ReadError, StateChange};
use crate::okta::input::TooManyEvents;
use crate::okta::org::OrgError;
use crate::telemetry;
use crate::telemetry::trace::Trace;
use crate::wire::record::{AppendTime, RawPart, StoredEvent};

/// Inputs below this many bytes are read on the caller's thread: about 30 events, 0.5 ms.
const INLINE_BYTES_MAX: usize = 48 * 1024;

/// What the engine may use at the most, and how it is set.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    pub writer: WriterLimits,
    /// Bytes of recent records that are held for readers.
    pub tail_bytes_max: usize,
    /// Bytes of events that were read ahead of readers, of all streams together.
    pub read_ahead_bytes_max: usize,
    pub subscriptions: SubscriptionLimits,
    pub streams_max: usize,
    /// When a stream ends by itself; `None`: never.
    pub stream_age_max: Option<Duration>,
    /// Records that one page of a list may look at.
    pub scan_records_max: usize,
    /// Events of one call of `ingest`.
    pub events_per_call_max: usize,
}

/// What became of one event of a call.
#[derive(Debug)]
pub struct Ingested {
    pub input_index: usize,
    pub event_index: usize,
    pub uuid: String,
    /// When Okta published it, where that could be read.
    pub published: Option<Timestamp>,
    /// What was received of it; empty where it was built from fields.
    pub raw: Bytes,
    pub outcome: Outcome,
}

/// See the contract's `IngestStatus`.
#[derive(Debug)]
pub enum Outcome {
    Accepted {
        seq: Seq,
        classification: Classification,
    },
    Duplicate {
        seq: Seq,
        classification: Classification,
    },
    Filtered {
        classification: Classification,
    },
    Rejected(Rejection),
}

/// Why a call took nothing in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Org(#[from] OrgError),
    /// Send fewer at once; nothing was written.
    #[error("the call has {events} events or more, at most {events_max} are taken")]
    TooMany { events: usize, events_max: usize },
    /// A bug of ours, met while the events were read; nothing was written.
    #[error("the events could not be read because of a fault in the service")]
    Internal,
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What a reader asks for.
#[derive(Clone, Debug)]
pub struct Subscribe {
    pub reader: Reader,
    pub heartbeat: Duration,
    pub on_gap: OnGap,
    pub at_head: AtHead,
    pub raw: RawPart,
}

/// Whose filter and place a stream goes by.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each call")]
pub enum Reader {
    /// Its own.
    Unnamed { start: Start, filter: Filter },
    /// A subscription's. `session` is a text that was never given before, `name` is for people.
    Subscription {
        id: String,
        session: String,
        name: String,
    },
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("as many streams are open as the limit allows ({streams_max})")]
    TooManyStreams { streams_max: usize },
    #[error("the service is stopping")]
    ShuttingDown,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
}

/// Which event is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Cursor(String),
    Key { org: String, uuid: String },
}

/// Why there is no event to give.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error(transparent)]
    Org(#[from] OrgError),
    #[error("there is no such event: it was never seen, or removed by retention")]
    NotFound,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct List {
    pub filter: Filter,
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub direction: Direction,
    pub events_max: usize,
    pub raw: RawPart,
    /// What the page before left; `None` on the first page.
    pub rest: Option<QueryRange>,
}

/// The engine, once the journal is open. Until then calls are told to come again.
#[derive(Clone, Debug, Default)]
pub struct EngineSlot(Arc<OnceLock<Engine>>);

impl EngineSlot {
    /// Lets calls through; the first engine stays.
    pub fn fill(&self, engine: Engine) {
        self.0.get_or_init(|| engine);
    }

    pub fn get(&self) -> Option<&Engine> {
        self.0.get()
    }
}

/// The service, without its transports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    journal: Arc<dyn Journal>,
    tail: Arc<Tail>,
    read_ahead: ReadAhead,
    writer: WriterHandle,
    subscriptions: Subscriptions,
    /// What calls may bring that is being read or waits for its answer.
    intake: Room,
    preparation: Arc<Preparation>,
    rejects: RejectFile,
    clock: Clock,
    limits: EngineLimits,
    streams: Arc<Semaphore>,
    drain: CancellationToken,
}

impl Engine {
    /// Joins the parts. The writer's task is the caller's to run; until it runs, nothing is
    /// appended.
    pub async fn new(
        journal: Arc<dyn Journal>,
        preparation: Arc<Preparation>,
        rejects: RejectFile,
        clock: Clock,
        limits: EngineLimits,
    ) -> Result<(Self, Writer), ReadError> {
        let tail = Arc::new(Tail::new(journal.bounds().head, limits.tail_bytes_max));
        let (writer, handle) = Writer::new(
            Arc::clone(&journal),
            Arc::clone(&tail),
            clock.clone(),
            limits.writer,
        )
        .await?;
        telemetry::head(tail.head().get());
        for disposition in Disposition::ALL {
            telemetry::access_left(disposition.name(), 0);
        }
        let subscriptions = Subscriptions::open(
            Arc::clone(&journal),
            Arc::clone(&tail),
            handle.clone(),
            clock.clone(),
            limits.subscriptions,
        )
        .await?;
        let parts = Parts {
            subscriptions,
            journal,
            tail,
            writer: handle,
            read_ahead: ReadAhead::new(limits.read_ahead_bytes_max),
            intake: Room::new(limits.writer.queue_bytes_max),
            preparation,
            rejects,
            clock,
            limits,
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            drain: CancellationToken::new(),
        };
        Ok((Self(Arc::new(parts)), writer))
    }

    /// Which journal this is.
    pub fn journal_id(&self) -> JournalId {
        self.0.journal.id()
    }

    /// The cursor's text of a place.
    pub fn cursor(&self, seq: Seq) -> String {
        Cursor::new(self.journal_id(), seq).to_string()
    }

    pub fn bounds(&self) -> Bounds {
        self.0.journal.bounds()
    }

    /// Ends every stream as planned, and takes no new calls.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Takes events in; answers when those that are accepted are durable.
    ///
    /// # Cancel safety
    /// Events that were read before the call was dropped may be appended all the same.
    pub async fn ingest(
        &self,
        org: &str,
        inputs: impl IntoIterator<Item = Input, IntoIter: ExactSizeIterator> + Send,
        intake: Intake,
    ) -> Result<Vec<Ingested>, IngestError> {
        let events_max = self.0.limits.events_per_call_max;
        let inputs = collect(inputs, events_max)?;
        self.take_in(org, inputs, intake, events_max, true, |_| Vec::new())
            .await
    }

    /// Takes in the body of an event hook's delivery, with the headers that are kept of it. `hooks` is
    /// the org whose hooks' it is, empty for those of any org, as [`Engine::last_delivery`] asks.
    ///
    /// # Cancel safety
    /// As [`Engine::ingest`].
    pub async fn deliver(
        &self,
        org: &str,
        hooks: &str,
        json: Bytes,
        headers: Vec<String>,
        events_max: usize,
    ) -> Result<Vec<Ingested>, IngestError> {
        let input = Input::Delivery { json, headers };
        let now = self.0.clock.now();
        // Said with events alone: what is filtered costs no write.
        let state = |taken: &[Taken]| {
            let is_kept =
                |taken: &Taken| matches!(&taken.outcome, Ok(kept) if kept.prepared.is_some());
            taken
                .iter()
                .any(is_kept)
                .then(|| StateChange {
                    key: hook_key(hooks),
                    value: Some(now.seconds.to_be_bytes().to_vec()),
                })
                .into_iter()
                .collect()
        };
        self.take_in(org, vec![input], Intake::EventHook, events_max, true, state)
            .await
    }

    /// When an event of an org came by its hooks the last time that one was kept.
    pub async fn last_delivery(&self, org: &str) -> Result<Option<Timestamp>, ReadError> {
        let value = self.state_of(&hook_key(org)).await?;
        let seconds = value.and_then(|value| value.try_into().ok().map(i64::from_be_bytes));
        Ok(seconds.map(|seconds| Timestamp { seconds, nanos: 0 }))
    }

    /// Takes in a page of the System Log, and in the same write the state that `state` makes of
    /// its events; also if none of them is kept. What is no event is kept as a reject on the first
    /// try.
    ///
    /// # Cancel safety
    /// As [`Engine::ingest`]; events and state are written together or not at all.
    pub async fn ingest_page(
        &self,
        org: &str,
        body: Bytes,
        is_first_try: bool,
        state: impl FnOnce(&[Taken]) -> Vec<StateChange> + Send,
    ) -> Result<Vec<Ingested>, IngestError> {
        // The page's bytes are bounded: what is in it can't be asked for in smaller pieces.
        let events_max = usize::MAX;
        let input = Input::Json(body);
        let intake = Intake::SystemLog;
        self.take_in(org, vec![input], intake, events_max, is_first_try, state)
            .await
    }

    /// Writes state alone, durably.
    pub async fn keep_state(&self, state: Vec<StateChange>) -> Result<(), AppendError> {
        self.0.writer.append(Vec::new(), state).await.map(drop)
    }

    /// The value of a key of the state.
    pub async fn state_of(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        query::state_of(&*self.0.journal, key).await
    }

    async fn take_in(
        &self,
        org: &str,
        inputs: Vec<Input>,
        intake: Intake,
        events_max: usize,
        is_first_try: bool,
        state: impl FnOnce(&[Taken]) -> Vec<StateChange> + Send,
    ) -> Result<Vec<Ingested>, IngestError> {
        if self.0.drain.is_cancelled() {
            return Err(AppendError::ShuttingDown.into());
        }
        let bytes = inputs.iter().map(Input::bytes).sum();
        let _room = self.0.intake.take(bytes)?;
        let mut span = Trace::current().span("classify");
        let prepared = self.prepare(org, inputs, bytes, intake, events_max).await;
        match &prepared {
            Ok(taken) => span.set_count("provident.events", taken.len()),
            Err(error) => span.failed(error.to_string()),
        }
        drop(span);
        let mut taken = prepared?;
        let state = state(&taken);
        // Before the place of a page is written, behind which nobody looks again.
        let no_events = taken.iter().filter_map(|taken| {
            let rejection = taken.outcome.as_ref().err()?;
            Some((taken.uuid.as_str(), rejection, &taken.raw))
        });
        if is_first_try {
            self.keep_rejects(intake, org, no_events).await;
        }
        let prepared: Vec<_> = taken
            .iter_mut()
            .filter_map(|taken| taken.outcome.as_mut().ok()?.prepared.take())
            .collect();
        let fingerprints: Vec<_> = prepared.iter().map(|event| event.fingerprint).collect();
        let appended = if prepared.is_empty() && state.is_empty() {
            Vec::new()
        } else {
            self.0.writer.append(prepared, state).await?
        };
        let mut appended = appended.into_iter().zip(fingerprints);
        let keep = self.0.preparation.keep;
        let ingested = taken
            .into_iter()
            .map(|taken| {
                let outcome = match taken.outcome {
                    Err(rejection) => Outcome::Rejected(rejection),
                    Ok(Kept { classification, .. }) if !keep.keeps(classification.verdict) => {
                        Outcome::Filtered { classification }
                    }
                    Ok(Kept { classification, .. }) => {
                        let (appended, ours) = appended
                            .next()
                            .expect("one answer for each event that is kept");
                        outcome(appended, ours, classification)
                    }
                };
                Ingested {
                    input_index: taken.input_index,
                    event_index: taken.event_index,
                    uuid: taken.uuid,
                    published: taken.published,
                    raw: taken.raw,
                    outcome,
                }
            })
            .collect::<Vec<_>>();
        for event in &ingested {
            count(intake, &event.outcome);
        }
        let conflicts = ingested.iter().filter_map(|event| match &event.outcome {
            Outcome::Rejected(rejection @ Rejection::Conflict { .. }) => {
                Some((event.uuid.as_str(), rejection, &event.raw))
            }
            _ => None,
        });
        self.keep_rejects(intake, org, conflicts).await;
        Ok(ingested)
    }

    async fn prepare(
        &self,
        org: &str,
        inputs: Vec<Input>,
        bytes: usize,
        intake: Intake,
        events_max: usize,
    ) -> Result<Vec<Taken>, IngestError> {
        let preparation = Arc::clone(&self.0.preparation);
        let call = preparation.orgs.of_call(org)?;
        let now = self.0.clock.now();
        let work = move || {
            preparation
                .prepare(&call, inputs, intake, events_max, now)
                .map_err(|TooManyEvents { events }| IngestError::TooMany { events, events_max })
        };
        if bytes < INLINE_BYTES_MAX {
            return work();
        }
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| {
                if error.is_panic() {
                    tracing::error!(%error, "reading a call's events panicked");
                    Err(IngestError::Internal)
                } else {
                    Err(AppendError::ShuttingDown.into())
                }
            })
    }

    /// Logs and keeps what a hook or a poll brought and was no event: nobody can be told. Who sends by
    /// gRPC is.
    async fn keep_rejects(
        &self,
        intake: Intake,
        org: &str,
        rejected: impl Iterator<Item = (&str, &Rejection, &Bytes)> + Send,
    ) {
        if intake == Intake::Grpc {
            return;
        }
        let time = self.0.clock.now();
        let reject = |(uuid, rejection, raw): (&str, &Rejection, &Bytes)| Reject {
            time,
            intake,
            org: org.to_owned(),
            uuid: uuid.to_owned(),
            field: rejection.field(),
            reason: rejection.to_string(),
            raw: raw.clone(),
        };
        self.0.rejects.keep(rejected.map(reject).collect()).await;
    }

    /// Logs and keeps what was refused as a whole, and does not come again.
    pub async fn reject(&self, intake: Intake, org: &str, reason: String, raw: Bytes) {
        let reject = Reject {
            time: self.0.clock.now(),
            intake,
            org: org.to_owned(),
            uuid: String::new(),
            field: String::new(),
            reason,
            raw,
        };
        self.0.rejects.keep(vec![reject]).await;
    }

    /// The named subscriptions.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.0.subscriptions
    }

    /// Watches whether the journal can still be written; fails when it can't.
    pub fn watch_journal(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let write_timeout = self.0.limits.writer.write_timeout;
        writer::watch(Arc::clone(&self.0.journal), write_timeout, stop)
    }

    /// What removes old events; its task is the caller's to run.
    pub fn retention(&self, policy: RetentionPolicy) -> Retention {
        Retention {
            journal: Arc::clone(&self.0.journal),
            writer: self.0.writer.clone(),
            subscriptions: self.0.subscriptions.clone(),
            clock: self.0.clock.clone(),
            policy,
            said_too_large: false,
        }
    }

    /// Opens a stream.
    ///
    /// # Cancel safety
    /// A dropped call may have thrown off the reader of a subscription.
    pub async fn subscribe(&self, asked: Subscribe) -> Result<EventStream, SubscribeError> {
        if self.0.drain.is_cancelled() {
            return Err(SubscribeError::ShuttingDown);
        }
        let streams_max = self.0.limits.streams_max;
        let place = Arc::clone(&self.0.streams)
            .try_acquire_owned()
            .or(Err(SubscribeError::TooManyStreams { streams_max }))?;
        let wants_all = asked.on_gap == OnGap::Fail;
        let (start, filter, seat) = match asked.reader {
            Reader::Unnamed { start, filter } => {
                let journal = &*self.0.journal;
                let start = places::find(journal, &self.0.tail, &start).await?;
                if wants_all {
                    places::check_kept(journal, start).map_err(PlaceError::from)?;
                }
                (start, filter, None)
            }
            Reader::Subscription { id, session, name } => {
                let seated = self
                    .0
                    .subscriptions
                    .seat(&id, &session, name, wants_all)
                    .await;
                let (seat, filter, start) = seated?;
                (start, filter, Some(seat))
            }
        };
        let options = StreamOptions {
            start,
            filter,
            heartbeat: asked.heartbeat,
            on_gap: asked.on_gap,
            at_head: asked.at_head,
            raw: asked.raw,
            age_max: self.0.limits.stream_age_max,
        };
        Ok(EventStream::new(
            Arc::clone(&self.0.journal),
            Arc::clone(&self.0.tail),
            self.0.read_ahead.clone(),
            self.0.drain.clone(),
            options,
            seat,
            place,
        ))
    }

    /// Gives one page of events.
    pub async fn list(&self, asked: List) -> Result<Page, ReadError> {
        let journal = &*self.0.journal;
        let range = if let Some(rest) = asked.rest {
            rest
        } else {
            let head = self.0.tail.head();
            let before = async |time: Option<Timestamp>, otherwise: Seq| match time {
                Some(time) => query::last_before(journal, AppendTime::from_timestamp(time)).await,
                None => Ok(otherwise),
            };
            QueryRange {
                lowest: before(asked.start, self.bounds().earliest.previous())
                    .await?
                    .next(),
                highest: before(asked.end, head).await?.min(head),
            }
        };
        let options = PageOptions {
            filter: asked.filter,
            direction: asked.direction,
            events_max: asked.events_max,
            scan_records_max: self.0.limits.scan_records_max,
            raw: asked.raw,
        };
        query::read_page(journal, range, &options).await
    }

    /// Gives one event.
    pub async fn get(&self, which: Which) -> Result<StoredEvent, GetError> {
        let journal = &*self.0.journal;
        let seq = match which {
            Which::Cursor(text) => Cursor::parse_for(&text, self.journal_id())?.seq,
            Which::Key { org, uuid } => {
                let orgs = &self.0.preparation.orgs;
                let org = orgs.of_event(&orgs.of_call(&org)?, "")?;
                let key = identity::dedupe_key(&org, &uuid.to_ascii_lowercase());
                let found = journal.find(key).await?;
                found.ok_or(GetError::NotFound)?.0
            }
        };
        // Durable and not shown yet is as good as not there.
        if seq > self.0.tail.head() {
            return Err(GetError::NotFound);
        }
        query::read_one(journal, seq)
            .await?
            .ok_or(GetError::NotFound)
    }
}

/// Takes a call's inputs if they are not too many, before any of them costs anything.
fn collect(
    inputs: impl IntoIterator<Item = Input, IntoIter: ExactSizeIterator>,
    events_max: usize,
) -> Result<Vec<Input>, IngestError> {
    let inputs = inputs.into_iter();
    let events = inputs.len();
    if events > events_max {
        return Err(IngestError::TooMany { events, events_max });
    }
    Ok(inputs.collect())
}

/// Key of the state table: when an event came last by an org's hooks.
fn hook_key(org: &str) -> Vec<u8> {
    [b"hook/", org.as_bytes()].concat()
}

fn outcome(appended: Appended, ours: Fingerprint, classification: Classification) -> Outcome {
    match appended {
        Appended::New(seq) => Outcome::Accepted {
            seq,
            classification,
        },
        Appended::Known { seq, fingerprint } => match identity::conflict(&fingerprint, &ours) {
            None => Outcome::Duplicate {
                seq,
                classification,
            },
            Some(field) => Outcome::Rejected(Rejection::Conflict { field }),
        },
    }
}

fn count(intake: Intake, outcome: &Outcome) {
    let intake = intake.name();
    let status = match outcome {
        Outcome::Accepted { classification, .. } => {
            telemetry::classified(
                classification.verdict.name(),
                classification.category.name(),
                classification.cause.map_or("", Cause::name),
                classification.disposition.name(),
            );
            if classification.verdict == Verdict::Failure {
                let application = classification.application.as_ref();
                telemetry::application_failed(application.map(|found| found.name.as_str()));
            }
            if classification.security_relevant {
                telemetry::access_left(classification.disposition.name(), 1);
            }
            "accepted"
        }
        Outcome::Duplicate { .. } => "duplicate",
        Outcome::Filtered { .. } => "filtered",
        Outcome::Rejected(Rejection::Conflict { .. }) => "conflict",
        Outcome::Rejected(_) => "rejected",
    };
    telemetry::ingested(intake, status, 1);
}
