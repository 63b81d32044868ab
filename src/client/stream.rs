//! What the caller holds of a stream: items come out, places that are done with go in.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::commits::{Commits, Flush, Noted};
use super::driver::{Driver, Word};
use super::{ClientError, ClientOptions, Dial};
use crate::wire::v1;
use crate::wire::v1::subscribe_request::Start;

/// Messages that lie ready while the caller works: one, beside the one in the driver's hand.
const WORDS_READY: usize = 1;

/// Callers of one stream that wait for a commit at one time before further ones queue up.
const FLUSHES_READY: usize = 4;

/// What a stream gives.
#[derive(Clone, Debug)]
pub enum Item {
    /// At least one event, in order. Those of one message of the server.
    Events(Vec<v1::StreamedEvent>),
    /// All that is in the journal has been given; what follows is new. Comes again whenever the
    /// stream had fallen behind.
    CaughtUp,
    /// Events were removed by retention before this stream could read them. Only with
    /// [`v1::OnGap::Skip`], else it is a final error.
    Gap(v1::Gap),
    /// The stream was interrupted by what passes, and goes on by itself. Said once for each
    /// interruption, for logs and metrics; nothing has to be done.
    Interrupted(ClientError),
}

/// A place that is done with: an event, or a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub(super) sequence: u64,
    pub(super) cursor: String,
}

impl From<&v1::StreamedEvent> for Place {
    fn from(event: &v1::StreamedEvent) -> Self {
        Self {
            sequence: event.sequence,
            cursor: event.cursor.clone(),
        }
    }
}

impl From<&v1::Gap> for Place {
    fn from(gap: &v1::Gap) -> Self {
        Self {
            sequence: gap.last_lost_sequence,
            cursor: gap.resume_cursor.clone(),
        }
    }
}

/// A stream of events that resumes by itself.
///
/// Reads at most two messages ahead of the caller. Dropping it ends the connection and everything
/// that runs for it; what was noted by `commit` and not committed yet is then given again to whoever
/// reads as the subscription next. [`close`](Self::close) commits that first.
#[derive(Debug)]
pub struct EventStream {
    words: mpsc::Receiver<Word>,
    noted: watch::Sender<Noted>,
    /// `None` where there is no subscription, so nothing to commit.
    flushes: Option<mpsc::Sender<Flush>>,
    cursor: Option<String>,
    end: Option<Result<(), ClientError>>,
    flush_timeout: Duration,
    /// Holds the driver; dropping it ends the driver.
    _driver: JoinSet<()>,
}

impl EventStream {
    pub(super) fn open<D: Dial>(
        dial: D,
        options: &ClientOptions,
        request: v1::SubscribeRequest,
    ) -> Self {
        let (sender, words) = mpsc::channel(WORDS_READY);
        let (noted, places) = watch::channel(Noted::default());
        let flush_timeout = options.answer_timeout;
        let (flushes, commits) = match &request.start {
            Some(Start::SubscriptionId(id)) => {
                let (flushes, asked) = mpsc::channel(FLUSHES_READY);
                let commits = Commits::new(id.clone(), options, places, asked);
                (Some(flushes), Some(commits))
            }
            _ => (None, None),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Driver::new(dial, options, request, sender, commits).run());
        Self {
            words,
            noted,
            flushes,
            cursor: None,
            end: None,
            flush_timeout,
            _driver: tasks,
        }
    }

    /// The next item. `None` when all is given that was asked for with `stop_at_head`.
    ///
    /// An error is final: nothing follows but the same error. Most of all, do not subscribe again
    /// by yourself after [`v1::ErrorReason::Fenced`], or two readers throw each other off for ever.
    ///
    /// # Cancel safety
    /// Safe: no item is lost if this is dropped before it gives one, and connecting, waiting and
    /// committing go on meanwhile.
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        loop {
            if let Some(end) = &self.end {
                return end.clone().map(|()| None);
            }
            let word = self.words.recv().await;
            match word.expect("the driver says that it ends, and is not dropped before") {
                Word::Item(item, cursor) => {
                    if cursor.is_some() {
                        self.cursor = cursor;
                    }
                    return Ok(Some(item));
                }
                Word::Passed(cursor) => self.cursor = Some(cursor),
                Word::Anew => self.noted.send_modify(|noted| {
                    noted.reading += 1;
                    noted.place = Place::default();
                }),
                Word::End(end) => self.end = Some(end),
            }
        }
    }

    /// Where to go on: all that is wanted up to here has been given. `None` before the server has
    /// said where it starts. Moves on also while the filter lets nothing through, if `next` is awaited.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Notes that everything up to an event, or a [gap](v1::Gap), is done with. Costs next to
    /// nothing: it is committed in the background, at once or after the options' interval.
    ///
    /// A place before one that was noted already changes nothing. When all that was given is noted,
    /// the committed place also moves on over events that the filter leaves out. When the filter is
    /// changed meanwhile, what was noted and not committed yet is forgotten: the new one may have let
    /// through what lies before it. Without a
    /// subscription there is no place to keep, and this does nothing.
    pub fn commit(&self, place: impl Into<Place>) {
        let place = place.into();
        self.noted.send_if_modified(|noted| {
            let is_later = place.sequence > noted.place.sequence;
            if is_later {
                noted.place = place;
            }
            is_later
        });
    }

    /// Waits until all that was noted is committed, which is durable; after a break of the connection
    /// that takes until the stream is back.
    ///
    /// Fails with [`ClientError::Silent`] after the options' `answer_timeout`; what was noted may
    /// then be committed or not, and is still going to be.
    ///
    /// # Cancel safety
    /// Safe: dropping it changes nothing.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let Some(flushes) = &self.flushes else {
            return Ok(());
        };
        let work = async {
            let (flush, done) = oneshot::channel();
            let sent = flushes.send(flush).await;
            sent.expect("the driver goes on answering after the stream's end");
            done.await
                .expect("the driver answers, or is dropped with the stream")
        };
        let after = self.flush_timeout;
        let silent = Err(ClientError::Silent { after });
        timeout(after, work).await.unwrap_or(silent)
    }

    /// Commits what was noted, then ends the stream. The last call of a consumer, also after an error
    /// of `next`, unless that was from committing.
    pub async fn close(self) -> Result<(), ClientError> {
        self.flush().await
    }
}
