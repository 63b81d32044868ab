//! The one task that appends: it takes what has queued while the last flush ran, writes it as one
//! batch, flushes once, shows it to the readers, then answers.
//!
//! - Nobody is answered, and no reader sees an event, before the journal says it is durable.
//! - The queue is bounded in bytes; what does not fit is refused at once, as a whole.
//! - A call that can't be told from a duplicate, because what is stored is damaged, is refused alone.
//! - After a failed write nothing more is taken, and the task ends with the error. [`watch`] finds
//!   what fails beside the writes.
//!
//! The writer does not linger for more, and knows nothing of what is in a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::query;
use super::tail::{Tail, Traced};
use crate::journal::{self, Appended, Batch, DedupeKey, Entry, Fingerprint, Journal, StateChange};
use crate::telemetry;
use crate::telemetry::trace::{self, Span, Trace};
use crate::wire::record::{AppendTime, Draft, StoredEvent};

/// Key of the state table: the newest append time, so that it never goes back, even when the
/// clock does over a restart, or when every event was trimmed.
const APPEND_TIME_KEY: &[u8] = b"append_time";

/// Calls that wait in the queue, whatever their size; their bytes are bounded apart.
const QUEUED_CALLS_MAX: usize = 4096;

/// Short for whoever waits to be told, long for what a look costs (some microseconds).
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Permits are counted in units of this many bytes, since a semaphore counts to 2^32.
const PERMIT_BYTES: usize = 256;

/// An event that is ready to be appended.
#[derive(Debug)]
pub struct Prepared {
    /// For messages.
    pub uuid: String,
    pub key: DedupeKey,
    pub fingerprint: Fingerprint,
    pub draft: Draft,
}

/// Why events were not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Try again later; nothing was written.
    #[error("too many bytes wait to be written")]
    Overloaded,
    /// Make room, then try again; nothing was written.
    #[error(
        "too little room on disk: {free_bytes} bytes are free, {reserve_bytes} are kept in reserve"
    )]
    StorageFull { free_bytes: u64, reserve_bytes: u64 },
    /// Whether an event is known already can't be told, since what is stored is damaged; nothing of
    /// the call was written. A call without that event may pass; call the operator.
    #[error(
        "whether event {uuid} is known already can't be told, as {problem}; nothing of its call was taken"
    )]
    Damaged { uuid: String, problem: String },
    /// The service is stopping; nothing was written.
    #[error("the service is stopping")]
    ShuttingDown,
    /// The write failed or its answer was lost: the events may be durable or not. Send them again
    /// when the service is back.
    #[error("writing failed, the events may be kept or not")]
    OutcomeUnknown,
}

/// Hands events to the writer.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    queue: mpsc::Sender<Call>,
    room: Room,
}

/// What may wait, in bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Room {
    permits: Arc<Semaphore>,
    bytes_max: usize,
}

impl Room {
    pub(super) fn new(bytes_max: usize) -> Self {
        let permits = bytes_max.div_ceil(PERMIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            bytes_max,
        }
    }

    /// Takes room at once or not at all. What is larger than all of it may go alone.
    pub(super) fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        let permits = bytes.min(self.bytes_max).div_ceil(PERMIT_BYTES);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.permits).try_acquire_many_owned(permits);
        taken.or(Err(AppendError::Overloaded))
    }

    /// Tells how much is taken.
    fn tell(&self) {
        let all = self.bytes_max.div_ceil(PERMIT_BYTES);
        let taken = all.saturating_sub(self.permits.available_permits());
        telemetry::queue_bytes(taken * PERMIT_BYTES);
    }
}

#[derive(Debug)]
struct Call {
    events: Vec<Prepared>,
    state: Vec<StateChange>,
    bytes: usize,
    trace: Trace,
    answer: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
    /// Given back when the call was answered.
    room: OwnedSemaphorePermit,
}

impl WriterHandle {
    /// Appends events as one, in order, with changes of state in the same write, and answers when
    /// all of it is durable.
    ///
    /// # Cancel safety
    /// Once queued, all of it is written even if this future is dropped.
    pub async fn append(
        &self,
        events: Vec<Prepared>,
        state: Vec<StateChange>,
    ) -> Result<Vec<Appended>, AppendError> {
        self.enqueue(events, state)?.durable().await
    }

    /// Queues what [`WriterHandle::append`] appends. What is queued first is written first.
    pub fn enqueue(
        &self,
        events: Vec<Prepared>,
        state: Vec<StateChange>,
    ) -> Result<Queued, AppendError> {
        let records = events.iter().map(|event| event.draft.record_bytes());
        let rows = state
            .iter()
            .map(|change| change.key.len() + change.value.as_ref().map_or(0, Vec::len));
        let bytes = records.chain(rows).sum();
        let room = self.room.take(bytes)?;
        self.room.tell();
        let (answer, answered) = oneshot::channel();
        let call = Call {
            events,
            state,
            bytes,
            trace: Trace::current().place(),
            answer,
            room,
        };
        self.queue.try_send(call).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => AppendError::ShuttingDown,
        })?;
        Ok(Queued(answered))
    }
}

/// What was queued; it is written whether or not anybody waits for it.
#[derive(Debug)]
#[must_use = "what is queued is not durable yet"]
pub struct Queued(oneshot::Receiver<Result<Vec<Appended>, AppendError>>);

impl Queued {
    /// Waits until it is durable.
    pub async fn durable(self) -> Result<Vec<Appended>, AppendError> {
        self.0.await.unwrap_or(Err(AppendError::OutcomeUnknown))
    }
}

/// The writer itself; [`Writer::run`] is its task.
#[derive(Debug)]
pub struct Writer {
    journal: Arc<dyn Journal>,
    tail: Arc<Tail>,
    clock: Clock,
    queue: mpsc::Receiver<Call>,
    room: Room,
    batch_bytes_max: usize,
    write_timeout: Duration,
    last_time: AppendTime,
    /// The last batch was refused for want of room.
    full: bool,
}

/// Bounds of the writer's queue and batches.
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// Bytes of records that may wait or be under way.
    pub queue_bytes_max: usize,
    /// Bytes of records after which a batch takes no further call.
    pub batch_bytes_max: usize,
    /// After so long a write is taken for failed: the caller's outcome is unknown by then, and what
    /// hangs may never end.
    pub write_timeout: Duration,
}

impl Writer {
    /// Prepares the writer of a journal; reads from it how far append times have come.
    pub async fn new(
        journal: Arc<dyn Journal>,
        tail: Arc<Tail>,
        clock: Clock,
        limits: WriterLimits,
    ) -> Result<(Self, WriterHandle), journal::ReadError> {
        let last_time = query::state_of(&*journal, APPEND_TIME_KEY)
            .await?
            .and_then(|value| value.try_into().ok().map(i64::from_be_bytes))
            .map_or(AppendTime::default(), AppendTime);
        let (sender, queue) = mpsc::channel(QUEUED_CALLS_MAX);
        let room = Room::new(limits.queue_bytes_max);
        let handle = WriterHandle {
            queue: sender,
            room: room.clone(),
        };
        Ok((
            Self {
                journal,
                tail,
                clock,
                queue,
                room,
                batch_bytes_max: limits.batch_bytes_max,
                write_timeout: limits.write_timeout,
                last_time,
                full: false,
            },
            handle,
        ))
    }

    /// Appends until told to stop, then what has queued by then.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            // Biased, so that a stop closes the queue before more is taken; `recv` loses nothing
            // when it is dropped, and gives what had queued after the close.
            let first = tokio::select! {
                biased;
                () = stop.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
                call = self.queue.recv() => call,
            };
            let Some(first) = first else {
                return Ok(());
            };
            let mut bytes = first.bytes;
            let mut calls = vec![first];
            while bytes < self.batch_bytes_max {
                let Ok(call) = self.queue.try_recv() else {
                    break;
                };
                bytes += call.bytes;
                calls.push(call);
            }
            self.append(calls).await?;
            self.room.tell();
        }
    }

    async fn append(&mut self, calls: Vec<Call>) -> anyhow::Result<()> {
        let time = self
            .last_time
            .max(AppendTime::from_timestamp(self.clock.now()));
        let mut rest: Vec<_> = calls.into_iter().map(|call| call.seal(time)).collect();
        while !rest.is_empty() {
            rest = match self.write(time, rest).await? {
                Written::All => return Ok(()),
                // What brings no events is not held up.
                Written::Full { calls, error } => {
                    let (without_events, with_events): (Vec<_>, Vec<_>) =
                        calls.into_iter().partition(|call| call.entries.is_empty());
                    refuse(with_events, &error);
                    without_events
                }
                // Nor is what came with it.
                Written::Damaged {
                    mut calls,
                    call,
                    error,
                } => {
                    tracing::error!(%error, "a call is refused");
                    refuse(vec![calls.remove(call)], &error);
                    calls
                }
            };
        }
        Ok(())
    }

    /// Writes calls as one batch and answers them, or gives them back unanswered, and nothing of them
    /// was written; after any other failure nobody knows, and everybody is told so.
    async fn write(&mut self, time: AppendTime, calls: Vec<Sealed>) -> anyhow::Result<Written> {
        let mut state = State::default();
        state.set(StateChange {
            key: APPEND_TIME_KEY.to_vec(),
            value: Some(time.0.to_be_bytes().to_vec()),
        });
        let changes = calls.iter().flat_map(|call| &call.state);
        changes.for_each(|change| state.set(change.clone()));
        let entries: Vec<_> = calls
            .iter()
            .flat_map(|call| &call.entries)
            .cloned()
            .collect();
        let records: Vec<_> = entries.iter().map(|entry| entry.record.clone()).collect();
        let started = std::time::Instant::now();
        let state = state.changes();
        let flushes = flushes(&calls);
        let append = self.journal.append(Batch { entries, state });
        let outcome = in_time(self.write_timeout, append).await;
        if let Err(error) = &outcome {
            for span in &flushes {
                span.failed(error.to_string());
            }
        }
        drop(flushes);
        let appended = match outcome {
            Ok(appended) => appended,
            Err(journal::AppendError::StorageFull {
                free_bytes,
                reserve_bytes,
            }) => {
                // Once, not for each of the calls that come again.
                if !std::mem::replace(&mut self.full, true) {
                    tracing::error!(
                        free_bytes,
                        reserve_bytes,
                        "too little room on disk, events are refused"
                    );
                }
                let full = AppendError::StorageFull {
                    free_bytes,
                    reserve_bytes,
                };
                return Ok(Written::Full { calls, error: full });
            }
            Err(journal::AppendError::Damaged { entry, cause }) => {
                let calls_and_uuids = calls.iter().enumerate();
                let mut uuids = calls_and_uuids
                    .flat_map(|(call, sealed)| sealed.uuids.iter().map(move |uuid| (call, uuid)));
                let (call, uuid) = uuids
                    .nth(entry)
                    .expect("the journal names an entry of ours");
                let error = AppendError::Damaged {
                    uuid: uuid.clone(),
                    problem: cause.to_string(),
                };
                return Ok(Written::Damaged { calls, call, error });
            }
            Err(error @ journal::AppendError::Fault(_)) => {
                refuse(calls, &AppendError::OutcomeUnknown);
                return Err(error.into());
            }
        };
        if !records.is_empty() && std::mem::take(&mut self.full) {
            tracing::warn!("there is room on disk again, events are taken");
        }
        self.last_time = time;
        let new: Vec<_> = appended
            .iter()
            .zip(&records)
            .filter_map(|(appended, record)| match appended {
                Appended::New(seq) => Some(StoredEvent::of_sealed(*seq, record)),
                Appended::Known { .. } => None,
            })
            .collect();
        let bytes = new.iter().map(StoredEvent::record_bytes).sum();
        telemetry::flushed(started.elapsed(), new.len(), bytes);
        self.tail.publish(new, traced(&calls, &appended));
        telemetry::head(self.tail.head().get());
        let mut appended = appended.into_iter();
        for call in calls {
            let count = call.entries.len();
            // A caller that has gone needs no answer.
            let _ = call
                .answer
                .send(Ok(appended.by_ref().take(count).collect()));
        }
        Ok(Written::All)
    }
}

/// What became of a batch: all of it is durable, or it is given back and nothing of it was written.
#[derive(Debug)]
enum Written {
    All,
    Full {
        calls: Vec<Sealed>,
        error: AppendError,
    },
    /// The `call`-th of them is to blame.
    Damaged {
        calls: Vec<Sealed>,
        call: usize,
        error: AppendError,
    },
}

/// A call whose records have their time.
#[derive(Debug)]
struct Sealed {
    entries: Vec<Entry>,
    /// Of the entries, in their order.
    uuids: Vec<String>,
    state: Vec<StateChange>,
    trace: Trace,
    answer: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
    /// Given back when the call was answered.
    _room: OwnedSemaphorePermit,
}

impl Call {
    fn seal(self, time: AppendTime) -> Sealed {
        let seal = |event: Prepared| {
            let entry = Entry {
                key: event.key,
                fingerprint: event.fingerprint,
                record: event.draft.seal(time),
            };
            (entry, event.uuid)
        };
        let (entries, uuids) = self.events.into_iter().map(seal).unzip();
        Sealed {
            entries,
            uuids,
            state: self.state,
            trace: self.trace,
            answer: self.answer,
            _room: self.room,
        }
    }
}

/// The flush as a part of each call whose trace is recorded.
fn flushes(calls: &[Sealed]) -> Vec<Span> {
    let recorded = calls.iter().filter(|call| call.trace.is_recorded());
    let begin = |call: &Sealed| {
        let mut span = call.trace.span("flush");
        span.set_count("provident.events", call.entries.len());
        span.set_count("provident.batch.calls", calls.len());
        span
    };
    recorded.map(begin).collect()
}

/// Where the new events of calls whose trace is recorded are.
fn traced(calls: &[Sealed], appended: &[Appended]) -> Vec<Traced> {
    if !calls.iter().any(|call| call.trace.is_recorded()) {
        return Vec::new();
    }
    let since = trace::now();
    let mut appended = appended.iter();
    let placed = calls.iter().filter_map(|call| {
        let of_call = appended.by_ref().take(call.entries.len());
        let mut new = of_call.filter_map(|appended| match appended {
            Appended::New(seq) => Some(*seq),
            Appended::Known { .. } => None,
        });
        let first = new.next()?;
        Some(Traced {
            first,
            last: new.last().unwrap_or(first),
            trace: call.trace.clone(),
            since,
        })
    });
    placed.filter(|traced| traced.trace.is_recorded()).collect()
}

fn refuse(calls: Vec<Sealed>, error: &AppendError) {
    for call in calls {
        let _ = call.answer.send(Err(error.clone()));
    }
}

/// The outcome of a write, or a fault if it takes longer than it may. Dropping it is safe: what goes
/// on is not believed any more.
async fn in_time<T>(
    limit: Duration,
    write: impl Future<Output = Result<T, journal::AppendError>>,
) -> Result<T, journal::AppendError> {
    let outcome = tokio::time::timeout(limit, write).await;
    outcome.unwrap_or_else(|_| {
        Err(journal::AppendError::Fault(anyhow::anyhow!(
            "a write had not ended after {limit:?}"
        )))
    })
}

/// Fails when the journal can't append any more, also while no event comes or while the writer
/// waits for what will never be done.
pub async fn watch(
    journal: Arc<dyn Journal>,
    write_timeout: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Dropping either wait is safe: neither changes anything.
    while stop
        .run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL))
        .await
        .is_some()
    {
        let check = in_time(write_timeout, journal.check());
        if let Some(checked) = stop.run_until_cancelled(check).await {
            checked?;
        }
    }
    Ok(())
}

/// Changes of state of one batch: of those of one key the last one counts, as if they had been
/// written one after the other.
#[derive(Debug, Default)]
struct State(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl State {
    fn set(&mut self, change: StateChange) {
        self.0.insert(change.key, change.value);
    }

    fn changes(self) -> Vec<StateChange> {
        let changes = self.0.into_iter();
        changes
            .map(|(key, value)| StateChange { key, value })
            .collect()
    }
}
