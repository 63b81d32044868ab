//! The newest events, held in memory once for all readers, and the signal that there are more.
//!
//! Only what is durable gets in. The ring is bounded in bytes; a reader that falls out of it goes
//! on from the journal. Publishing never waits for a reader.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::domain::cursor::Seq;
use crate::journal::ReadLimit;
use crate::telemetry::trace::Trace;
use crate::wire::record::StoredEvent;

/// Traces that are known of what is in the ring: each takes some hundred bytes that the ring does not
/// count.
const TRACED_MAX: usize = 10_000;

/// How long after events were durable their delivery is still a part of their trace.
const TRACED_AGE_MAX: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Tail {
    ring: Mutex<Ring>,
    head: watch::Sender<Seq>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<StoredEvent>,
    bytes: usize,
    /// Every event after this place is in the ring.
    after: Seq,
    /// In the events' order.
    traced: VecDeque<Traced>,
}

/// Events next to each other that were taken in in one trace.
#[derive(Clone, Debug)]
pub struct Traced {
    pub first: Seq,
    pub last: Seq,
    pub trace: Trace,
    /// When they were durable.
    pub since: SystemTime,
}

impl Tail {
    /// An empty ring behind `head`, which is the last event of the journal.
    pub fn new(head: Seq, bytes_max: usize) -> Self {
        Self {
            ring: Mutex::new(Ring {
                events: VecDeque::new(),
                bytes: 0,
                after: head,
                traced: VecDeque::new(),
            }),
            head: watch::Sender::new(head),
            bytes_max,
        }
    }

    /// The last durable event's place.
    pub fn head(&self) -> Seq {
        *self.head.borrow()
    }

    /// Tells of every new head.
    pub fn watch(&self) -> watch::Receiver<Seq> {
        self.head.subscribe()
    }

    /// Shows events, in order, that have just become durable, with the traces of some.
    pub fn publish(&self, events: Vec<StoredEvent>, traced: Vec<Traced>) {
        let Some(head) = events.last().map(|event| event.seq) else {
            return;
        };
        let mut ring = self.lock();
        for event in events {
            ring.bytes += event.record_bytes();
            ring.events.push_back(event);
        }
        ring.traced.extend(traced);
        let too_many = ring.traced.len().saturating_sub(TRACED_MAX);
        ring.traced.drain(..too_many);
        while ring.bytes > self.bytes_max {
            let Some(oldest) = ring.events.pop_front() else {
                break;
            };
            ring.bytes -= oldest.record_bytes();
            ring.after = oldest.seq;
        }
        let after = ring.after;
        while ring
            .traced
            .pop_front_if(|traced| traced.last <= after)
            .is_some()
        {}
        // With the ring still locked: who finds an event there finds it at or below the head.
        self.head.send_replace(head);
    }

    /// Events after a place, up to a limit; `None` if the ring does not reach back that far.
    pub fn after(&self, place: Seq, limit: ReadLimit) -> Option<Vec<StoredEvent>> {
        let ring = self.lock();
        if place < ring.after {
            return None;
        }
        let start = ring.events.partition_point(|event| event.seq <= place);
        let mut bytes = 0;
        let events = ring
            .events
            .iter()
            .skip(start)
            .take(limit.records_max)
            .take_while(|event| {
                let first = bytes == 0;
                bytes += event.record_bytes();
                first || bytes <= limit.bytes_max
            });
        Some(events.cloned().collect())
    }

    /// The traces of events from `first` to `last` that are new: who reads what is old is no part of how
    /// it came.
    pub fn traced(&self, first: Seq, last: Seq, now: SystemTime) -> Vec<Traced> {
        let is_new = |traced: &&Traced| {
            let age = now.duration_since(traced.since).unwrap_or_default();
            age <= TRACED_AGE_MAX
        };
        let ring = self.lock();
        let start = ring.traced.partition_point(|traced| traced.last < first);
        let traced = ring.traced.iter().skip(start);
        traced
            .take_while(|traced| traced.first <= last)
            .filter(is_new)
            .cloned()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring
            .lock()
            .expect("nothing panics while it holds the ring")
    }
}
