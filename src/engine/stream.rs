//! A reader's stream: catch up from the journal, then follow the tail.
//!
//! - In order, no hole: what a filter leaves out is passed over, what retention removed is named.
//! - A heartbeat's cursor moves with the reading and is never ahead of a match that was not sent.
//! - The reader pulls: nothing is read ahead of what it takes, but one chunk. Between two calls the
//!   chunk's rest lies where all streams' rests do, bounded together, and may have to be read
//!   again: a stuck reader costs nobody else anything.
//!
//! Knows nothing of gRPC; the transport asks for one delivery after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::query::{CHUNK, parse, passes};
use super::read_ahead::{ReadAhead, Ticket};
use super::subscriptions::{Seat, Unseated};
use super::tail::Tail;
use crate::domain::cursor::Seq;
use crate::domain::filter::Filter;
use crate::journal::{Direction, Journal, ReadError, ReadLimit};
use crate::telemetry;
use crate::telemetry::trace::{self, Trace};
use crate::wire::record::{RawPart, StoredEvent};

/// Events of one batch at the most, as the contract says.
pub const BATCH_EVENTS_MAX: usize = 100;
/// Bytes of one batch at the most, unless one event is larger. The contract allows four times as
/// much; but the transport holds two batches of a reader that stopped reading, so of 2 000 streams
/// this is 256 MiB.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// What one look into the ring takes: a batch, since the next look costs nothing. It is also what a
/// read takes while there is no room for reading ahead.
const SMALL_CHUNK: ReadLimit = ReadLimit {
    records_max: BATCH_EVENTS_MAX,
    bytes_max: 256 * 1024,
};

/// What to do where events were trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    Fail,
    Skip,
}

/// Whether the stream ends at the head that it found when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtHead {
    Follow,
    Stop,
}

/// What a reader asks for, its starting place found.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Events after this place are sent.
    pub start: Seq,
    pub filter: Filter,
    pub heartbeat: Duration,
    pub on_gap: OnGap,
    pub at_head: AtHead,
    pub raw: RawPart,
    /// When the stream ends by itself; `None`: never.
    pub age_max: Option<Duration>,
}

/// One message to the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Confirmation {
        start: Seq,
        earliest: Seq,
        head: Seq,
    },
    Batch(Vec<StoredEvent>),
    Heartbeat {
        at: Seq,
        head: Seq,
    },
    CaughtUp {
        at: Seq,
    },
    Gap {
        first_lost: Seq,
        last_lost: Seq,
    },
    Ending {
        at: Seq,
        reason: Ending,
    },
}

impl Delivery {
    /// The place that its cursor names: all up to it was sent, or is not wanted.
    fn place(&self) -> Seq {
        match *self {
            Self::Confirmation { start: at, .. }
            | Self::Heartbeat { at, .. }
            | Self::CaughtUp { at }
            | Self::Gap { last_lost: at, .. }
            | Self::Ending { at, .. } => at,
            Self::Batch(ref events) => events.last().expect("a batch is not empty").seq,
        }
    }
}

/// Why a stream ended as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    HeadReached,
    Drain,
    MaxAge,
    SubscriptionChanged,
}

/// Why a stream ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Final: two readers that came back by themselves would throw each other off for ever.
    #[error("another reader took the subscription over, or it was moved")]
    Fenced,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Where a stream stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unconfirmed,
    Reading,
    Over,
}

/// Matches that wait for the next call.
#[derive(Debug)]
struct LeftBehind {
    ticket: Ticket,
    first: Seq,
}

/// A stream of deliveries; it ends after `Ending`, or after an error.
#[derive(Debug)]
pub struct EventStream {
    journal: Arc<dyn Journal>,
    tail: Arc<Tail>,
    head: watch::Receiver<Seq>,
    drain: CancellationToken,
    options: StreamOptions,
    phase: Phase,
    /// Everything up to here was sent, waits in `matches`, or is not wanted.
    at: Seq,
    /// Empty between two calls: then they are in `read_ahead`.
    matches: VecDeque<StoredEvent>,
    read_ahead: ReadAhead,
    left: Option<LeftBehind>,
    chunk: ReadLimit,
    /// What the last chunk keeps in memory as long as one of its matches is there.
    chunk_bytes: usize,
    /// `CaughtUp` was sent since the reader last had to go to the journal.
    told_caught_up: bool,
    stop_at: Seq,
    last_heartbeat: Instant,
    ends: Option<Instant>,
    /// The right to read as a subscription; `None` where nobody's place is kept.
    seat: Option<Seat>,
    /// Of the call that opened it.
    trace: Trace,
    _place: OwnedSemaphorePermit,
    _counted: telemetry::ReaderGuard,
}

impl EventStream {
    pub(super) fn new(
        journal: Arc<dyn Journal>,
        tail: Arc<Tail>,
        read_ahead: ReadAhead,
        drain: CancellationToken,
        options: StreamOptions,
        seat: Option<Seat>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let head = tail.watch();
        let stop_at = tail.head();
        let now = Instant::now();
        Self {
            at: options.start,
            stop_at,
            head,
            journal,
            tail,
            drain,
            phase: Phase::Unconfirmed,
            matches: VecDeque::new(),
            read_ahead,
            left: None,
            chunk: CHUNK,
            chunk_bytes: 0,
            told_caught_up: false,
            last_heartbeat: now,
            ends: options.age_max.map(|age| now + age),
            options,
            seat,
            trace: Trace::current().place(),
            _place: place,
            _counted: telemetry::ReaderGuard::new(),
        }
    }

    /// By which filter it goes.
    pub fn filter(&self) -> &Filter {
        &self.options.filter
    }

    /// The next message; `None` once the stream is over. After an error it is over, too.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call loses nothing, the next one goes on.
    pub async fn next(&mut self) -> Option<Result<Delivery, StreamError>> {
        if self.phase == Phase::Over {
            return None;
        }
        self.fetch();
        let delivery = self.step().await;
        self.leave();
        match &delivery {
            Ok(Delivery::Ending { .. }) | Err(_) => self.phase = Phase::Over,
            Ok(Delivery::Batch(events)) => {
                telemetry::streamed(events.len() as u64);
                self.trace_delivery(events);
            }
            Ok(_) => {}
        }
        if let (Some(seat), Ok(delivery)) = (&self.seat, &delivery) {
            seat.sent(delivery.place());
        }
        Some(delivery)
    }

    /// Ends the way of new events through the service, in the traces that they came in.
    fn trace_delivery(&self, events: &[StoredEvent]) {
        let (Some(first), Some(last), true) = (events.first(), events.last(), trace::is_on())
        else {
            return;
        };
        for traced in self.tail.traced(first.seq, last.seq, trace::now()) {
            let of_trace = |event: &&StoredEvent| (traced.first..=traced.last).contains(&event.seq);
            let count = events.iter().filter(of_trace).count();
            if count == 0 {
                continue;
            }
            let mut span = traced
                .trace
                .span_since(traced.since, "deliver", &self.trace);
            span.set_count("provident.events", count);
            if let Some(seat) = &self.seat {
                span.set("provident.subscription", seat.id().to_string());
            }
        }
    }

    /// Takes back what was left. What is gone is read again, in small pieces at first: there are more
    /// readers than room.
    fn fetch(&mut self) {
        let Some(LeftBehind { ticket, first }) = self.left.take() else {
            return;
        };
        if let Some(events) = ticket.fetch() {
            self.matches = events;
        } else {
            self.at = first.previous();
            self.chunk = SMALL_CHUNK;
        }
    }

    fn leave(&mut self) {
        if let Some(first) = self.matches.front() {
            self.left = Some(LeftBehind {
                first: first.seq,
                ticket: self
                    .read_ahead
                    .leave(std::mem::take(&mut self.matches), self.chunk_bytes),
            });
        }
    }

    async fn step(&mut self) -> Result<Delivery, StreamError> {
        if self.phase == Phase::Unconfirmed {
            self.phase = Phase::Reading;
            return Ok(Delivery::Confirmation {
                start: self.at,
                earliest: self.journal.bounds().earliest.previous(),
                head: self.stop_at,
            });
        }
        loop {
            match self.seat.as_ref().and_then(Seat::unseated) {
                Some(Unseated::Fenced) => return Err(StreamError::Fenced),
                Some(Unseated::Changed) => {
                    // What waits was chosen by a filter that no longer counts.
                    return Ok(Delivery::Ending {
                        at: self.sent_up_to(),
                        reason: Ending::SubscriptionChanged,
                    });
                }
                None => {}
            }
            if self.last_heartbeat.elapsed() >= self.options.heartbeat {
                return Ok(self.heartbeat());
            }
            if let Some(batch) = self.take_batch() {
                return Ok(Delivery::Batch(batch));
            }
            if let Some(reason) = self.planned_end() {
                return Ok(Delivery::Ending {
                    at: self.at,
                    reason,
                });
            }
            let head = *self.head.borrow_and_update();
            if self.at < head {
                if let Some(gap) = self.read_chunk(head).await? {
                    return Ok(gap);
                }
                continue;
            }
            if !self.told_caught_up {
                self.told_caught_up = true;
                return Ok(Delivery::CaughtUp { at: self.at });
            }
            self.wait().await;
        }
    }

    fn planned_end(&self) -> Option<Ending> {
        if self.options.at_head == AtHead::Stop && self.at >= self.stop_at {
            Some(Ending::HeadReached)
        } else if self.drain.is_cancelled() {
            Some(Ending::Drain)
        } else if self.ends.is_some_and(|ends| Instant::now() >= ends) {
            Some(Ending::MaxAge)
        } else {
            None
        }
    }

    /// How far the reading has come, but never past a match that was not sent.
    fn heartbeat(&mut self) -> Delivery {
        self.last_heartbeat = Instant::now();
        Delivery::Heartbeat {
            at: self.sent_up_to(),
            head: *self.head.borrow(),
        }
    }

    /// Everything up to here was sent, or is not wanted.
    fn sent_up_to(&self) -> Seq {
        self.matches
            .front()
            .map_or(self.at, |unsent| unsent.seq.previous())
    }

    /// Waits for something to do.
    async fn wait(&mut self) {
        let heartbeat = self.last_heartbeat + self.options.heartbeat;
        let wake = self.ends.map_or(heartbeat, |ends| ends.min(heartbeat));
        // Dropping any branch is safe: the watches keep their values, the token its state.
        tokio::select! {
            () = Seat::until_unseated(self.seat.as_mut()) => {}
            changed = self.head.changed() => {
                // The sender lives in `self.tail`, so it can't have gone.
                debug_assert!(changed.is_ok());
            }
            () = self.drain.cancelled() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }

    /// Looks at the next events up to `head`; gives a `Gap` where some were trimmed.
    async fn read_chunk(&mut self, head: Seq) -> Result<Option<Delivery>, ReadError> {
        // A filter that wants little may look through a whole ring in one go; others run between.
        tokio::task::consume_budget().await;
        if let Some(events) = self.tail.after(self.at, SMALL_CHUNK) {
            self.chunk_bytes = events.iter().map(StoredEvent::record_bytes).sum();
            for event in events {
                self.consider(event, head)?;
            }
            return Ok(None);
        }
        self.told_caught_up = false;
        let records = match self
            .journal
            .read(self.at.next(), Direction::OldestFirst, self.chunk)
            .await
        {
            Ok(records) => records,
            Err(ReadError::Trimmed { earliest, .. }) if self.options.on_gap == OnGap::Skip => {
                let first_lost = self.at.next();
                self.at = earliest.previous();
                return Ok(Some(Delivery::Gap {
                    first_lost,
                    last_lost: self.at,
                }));
            }
            Err(error) => return Err(error),
        };
        self.chunk_bytes = records.iter().map(|record| record.bytes.len()).sum();
        // Room may have come back.
        self.chunk = ReadLimit {
            records_max: CHUNK.records_max.min(2 * self.chunk.records_max),
            bytes_max: CHUNK.bytes_max.min(2 * self.chunk.bytes_max),
        };
        for record in &records {
            let considered = parse(record).and_then(|event| self.consider(event, head));
            match considered {
                // What lies before the damage is given first; the next look meets it again.
                Err(_damaged) if !self.matches.is_empty() => break,
                considered => considered?,
            }
        }
        Ok(None)
    }

    /// Looks at one event. What is past `head` is durable and not shown to everybody yet: it comes
    /// with the next look, so that no cursor is given that a call would not know.
    fn consider(&mut self, event: StoredEvent, head: Seq) -> Result<(), ReadError> {
        let past_stop = self.options.at_head == AtHead::Stop && event.seq > self.stop_at;
        if past_stop || event.seq > head {
            return Ok(());
        }
        let wanted = passes(&event, &self.options.filter)?;
        self.at = event.seq;
        if wanted {
            self.matches.push_back(event);
        }
        Ok(())
    }

    fn take_batch(&mut self) -> Option<Vec<StoredEvent>> {
        let mut bytes = 0;
        let count = self
            .matches
            .iter()
            .take(BATCH_EVENTS_MAX)
            .take_while(|event| {
                let first = bytes == 0;
                bytes += event.wire_len(self.options.raw);
                first || bytes <= BATCH_BYTES_MAX
            })
            .count();
        (count > 0).then(|| self.matches.drain(..count).collect())
    }
}
