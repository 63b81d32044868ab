//! What is committed of a subscription, when, and under which session.
//!
//! - A session commits no more than it was sent: after a reconnection that means only what came
//!   again.
//! - The place only moves on. Cursors are opaque, so the order is that of the events' sequences, and
//!   of the messages that came after them.
//! - One commit is under way at a time; what is noted meanwhile goes with the next.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::stream::Place;
use super::{Backoff, Calls, ClientError, ClientOptions, answered};
use crate::wire::v1;

/// Tells a caller that all that was noted is durable, or why it can't be.
pub(super) type Flush = oneshot::Sender<Result<(), ClientError>>;

/// A commit under way, and its cursor.
type UnderWay = (String, Pin<Box<dyn Future<Output = Outcome> + Send>>);
type Outcome = Result<(), ClientError>;

/// What the caller noted.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    /// How often the stream was read anew: places of different readings have no order.
    pub(super) reading: u64,
    pub(super) place: Place,
}

/// How far a session has come.
#[derive(Debug)]
struct Session {
    /// The server's word for it.
    name: String,
    /// The last event that came in it; everything where it has come past all that was given before.
    sent: u64,
}

pub(super) struct Commits<C> {
    id: String,
    interval: Duration,
    answer_timeout: Duration,
    noted: watch::Receiver<Noted>,
    asked: mpsc::Receiver<Flush>,
    waiting: Vec<Flush>,
    /// See [`Noted`].
    reading: u64,
    /// What is to be committed; only moves on, within one reading.
    target: Place,
    /// A cursor without wanted events since the last one given, whose sequence stands with it: a place
    /// as good as that event's, once that is done with.
    passed: Option<Place>,
    /// The cursor that the server has.
    committed: String,
    session: Option<Session>,
    /// The connection, while there is one.
    calls: Option<C>,
    under_way: Option<UnderWay>,
    /// No commit begins before that.
    due: Instant,
    backoff: Backoff,
}

impl<C: Calls> Commits<C> {
    pub(super) fn new(
        id: String,
        options: &ClientOptions,
        noted: watch::Receiver<Noted>,
        asked: mpsc::Receiver<Flush>,
    ) -> Self {
        Self {
            id,
            interval: options.commit_interval,
            answer_timeout: options.answer_timeout,
            noted,
            asked,
            waiting: Vec::new(),
            reading: 0,
            target: Place::default(),
            passed: None,
            committed: String::new(),
            session: None,
            calls: None,
            under_way: None,
            due: Instant::now(),
            backoff: Backoff::new(options.backoff_first, options.backoff_max),
        }
    }

    /// The connection is gone. The session is still good.
    pub(super) fn suspend(&mut self) {
        self.calls = None;
        self.under_way = None;
    }

    pub(super) fn is_connected(&self) -> bool {
        self.calls.is_some()
    }

    /// Before a stream begins anew: commits what can be under the session before.
    ///
    /// So the new stream repeats less. Above all it is found out here whether another reader has
    /// taken over meanwhile: the stream that would have said so is gone, and subscribing would throw
    /// that reader off.
    pub(super) async fn settle(&mut self, calls: &C) -> Result<(), ClientError> {
        self.look();
        let Some(session) = &self.session else {
            return Ok(());
        };
        let cursor = if self.target.sequence <= session.sent {
            self.target.cursor.clone()
        } else {
            self.committed.clone()
        };
        let call = calls.commit(self.request(session, &cursor));
        done_or_behind(answered(self.answer_timeout, call).await)?;
        self.committed = cursor;
        Ok(())
    }

    /// The server may have heard that a stream is to begin anew: with that the session ends.
    pub(super) fn end_session(&mut self) {
        self.session = None;
    }

    /// What comes from now on is read from another journal, or through another filter: what was
    /// noted says nothing of it.
    pub(super) fn read_anew(&mut self) {
        self.reading += 1;
        self.target = Place::default();
        self.passed = None;
    }

    /// A stream begins: its session, its place, and whether events that were given come again.
    pub(super) fn begin(&mut self, calls: C, session: String, start: String, again: bool) {
        if self.target.cursor.is_empty() {
            self.target.cursor.clone_from(&start);
        }
        let has_all = !again && self.target.cursor == start;
        self.committed = start;
        self.session = Some(Session {
            name: session,
            sent: if has_all { u64::MAX } else { 0 },
        });
        self.calls = Some(calls);
    }

    /// The session was sent everything up to a sequence.
    pub(super) fn sent(&mut self, sequence: u64) {
        if let Some(session) = &mut self.session {
            session.sent = session.sent.max(sequence);
        }
    }

    /// The stream has come to a cursor without wanted events since the last one given: if that is
    /// done with, so is everything up to here.
    pub(super) fn passed(&mut self, last_given: u64, cursor: &str) {
        self.passed = Some(Place {
            sequence: last_given,
            cursor: cursor.to_owned(),
        });
        self.look();
    }

    /// Commits as there is need, until that fails for good; then it has no connection any more.
    ///
    /// # Cancel safety
    /// Safe: a commit that is under way goes on with the next call.
    pub(super) async fn work(&mut self) -> ClientError {
        loop {
            self.look();
            let may_begin = self.under_way.is_none() && self.has_work();
            let under_way = async {
                match &mut self.under_way {
                    Some((_, call)) => call.await,
                    None => std::future::pending().await,
                }
            };
            // Each branch keeps its state outside of what is dropped: the queues, the call, and a
            // point in time.
            tokio::select! {
                outcome = under_way => {
                    if let Err(error) = self.finish(outcome) {
                        return error;
                    }
                }
                Some(flush) = self.asked.recv() => {
                    self.waiting.push(flush);
                    self.due = self.due.min(Instant::now());
                }
                Ok(()) = self.noted.changed() => {}
                () = sleep_until(self.due), if may_begin => self.start(),
            }
        }
    }

    /// Nothing can be committed any more: tells so whoever asks.
    pub(super) async fn refuse(mut self, error: ClientError) {
        for flush in self.waiting.drain(..) {
            // Whoever asked may be gone.
            _ = flush.send(Err(error.clone()));
        }
        while let Some(flush) = self.asked.recv().await {
            _ = flush.send(Err(error.clone()));
        }
    }

    /// Takes what the caller noted, and answers who waits if it is committed.
    fn look(&mut self) {
        let noted = self.noted.borrow_and_update();
        if noted.reading == self.reading && noted.place.sequence > self.target.sequence {
            self.target.clone_from(&noted.place);
        }
        drop(noted);
        if let Some(passed) = self
            .passed
            .take_if(|passed| passed.sequence == self.target.sequence)
        {
            self.target = passed;
        }
        if self.target.cursor == self.committed {
            for flush in self.waiting.drain(..) {
                _ = flush.send(Ok(()));
            }
        }
    }

    fn has_work(&self) -> bool {
        let may = |session: &Session| self.target.sequence <= session.sent;
        self.calls.is_some()
            && self.target.cursor != self.committed
            && self.session.as_ref().is_some_and(may)
    }

    fn start(&mut self) {
        let (Some(calls), Some(session)) = (&self.calls, &self.session) else {
            return;
        };
        let cursor = self.target.cursor.clone();
        let call = calls.commit(self.request(session, &cursor));
        self.under_way = Some((cursor, Box::pin(answered(self.answer_timeout, call))));
        self.due = Instant::now() + self.interval;
    }

    fn finish(&mut self, outcome: Outcome) -> Result<(), ClientError> {
        let under_way = self.under_way.take();
        let outcome = done_or_behind(outcome);
        match (outcome, under_way) {
            (Ok(()), Some((cursor, _))) => {
                self.committed = cursor;
                self.backoff.reset();
                if !self.waiting.is_empty() {
                    self.due = Instant::now();
                }
            }
            (Err(error), _) if error.is_passing() => {
                self.due = Instant::now() + self.backoff.next(error.retry_delay());
            }
            (Err(error), _) => {
                self.suspend();
                return Err(error);
            }
            (Ok(()), None) => {}
        }
        Ok(())
    }

    fn request(&self, session: &Session, cursor: &str) -> v1::CommitRequest {
        v1::CommitRequest {
            subscription_id: self.id.clone(),
            session: session.name.clone(),
            cursor: cursor.to_owned(),
        }
    }
}

/// A later place than the one to commit is committed already: by a call whose answer was lost.
fn done_or_behind(outcome: Outcome) -> Outcome {
    match outcome {
        Err(error) if error.reason() == Some(v1::ErrorReason::CursorBehind) => Ok(()),
        outcome => outcome,
    }
}
