//! Reads streams one after the other, so that they look like one without end.
//!
//! What is given is the order of the journal without a repeat: a stream goes on after the last
//! message that was given, and where a subscription's place lies before that, what comes again is
//! known by its sequence. Commits go on while this waits for anything.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use super::commits::Commits;
use super::stream::Item;
use super::{Backoff, Calls, ClientError, ClientOptions, Dial, Messages, answered};
use crate::wire::v1;
use crate::wire::v1::subscribe_request::Start;
use crate::wire::v1::subscribe_response::Message;

/// Heartbeats that may fail to come before a connection counts as dead.
const SILENT_HEARTBEATS: u32 = 3;

/// The interval of a server that does not say it.
const HEARTBEAT_USUAL: Duration = Duration::from_secs(10);

/// What the caller is told.
#[derive(Debug)]
pub(super) enum Word {
    /// Something to see, and the place behind it if that moves.
    Item(Item, Option<String>),
    /// A place that was come to without anything to see.
    Passed(String),
    /// What follows is read from another journal, or through another filter.
    Anew,
    /// The last word.
    End(Result<(), ClientError>),
}

/// How a stream ended that may have a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All that was asked for has been given.
    Done,
    /// Planned, and there is nothing to wait for.
    Again,
    /// Planned, as the server is stopping.
    Stopping,
}

pub(super) struct Driver<D: Dial> {
    dial: D,
    answer_timeout: Duration,
    /// Its start moves on, unless it is a subscription.
    request: v1::SubscribeRequest,
    words: mpsc::Sender<Word>,
    commits: Option<Commits<D::Calls>>,
    backoff: Backoff,
    /// Whether the caller knows of the interruption that there is.
    is_told: bool,
    /// Sequence of the last event or gap that was given.
    given: u64,
    /// Whether what comes now may have been given before.
    is_behind: bool,
    /// What the stream before read: which journal, with which filter.
    read_before: Option<(String, Option<v1::Filter>)>,
}

impl<D: Dial> Driver<D> {
    pub(super) fn new(
        dial: D,
        options: &ClientOptions,
        request: v1::SubscribeRequest,
        words: mpsc::Sender<Word>,
        commits: Option<Commits<D::Calls>>,
    ) -> Self {
        Self {
            dial,
            answer_timeout: options.answer_timeout,
            request,
            words,
            commits,
            backoff: Backoff::new(options.backoff_first, options.backoff_max),
            is_told: false,
            given: 0,
            is_behind: false,
            read_before: None,
        }
    }

    /// Reads to the end, says so, then commits until it is dropped.
    pub(super) async fn run(mut self) {
        let end = self.read().await;
        let failed = end.clone().err();
        let words = self.words;
        let tell = async move {
            // If nobody listens any more, this is dropped in a moment.
            _ = words.send(Word::End(end)).await;
        };
        let commit = async {
            let Some(mut commits) = self.commits else {
                return;
            };
            let error = match failed {
                // Committing failed, or there will be no connection for it any more.
                Some(error) if !commits.is_connected() => error,
                _ => commits.work().await,
            };
            commits.refuse(error).await;
        };
        // Together: the caller may want its commits done before it takes the last word.
        tokio::join!(tell, commit);
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        loop {
            let mut has_begun = false;
            let why = match self.read_stream(&mut has_begun).await {
                Ok(Ended::Done) => return Ok(()),
                // One that ends before it gave anything is called again more slowly.
                Ok(Ended::Again) if has_begun => continue,
                Ok(Ended::Again | Ended::Stopping) => ClientError::Stopping,
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            let wait = self.backoff.next(why.retry_delay());
            if !self.is_told {
                self.is_told = true;
                let item = Item::Interrupted(why);
                self.give(Word::Item(item, None)).await?;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads one stream to its end. `has_begun` says afterwards whether it gave more than its
    /// first message.
    async fn read_stream(&mut self, has_begun: &mut bool) -> Result<Ended, ClientError> {
        let (mut messages, silence_max) = self.begin().await?;
        loop {
            let read = timeout(silence_max, messages.next());
            let message = match meanwhile(&mut self.commits, read).await? {
                Ok(Some(message)) => message?.message,
                Ok(None) => return Err(ClientError::BrokenOff),
                Err(_elapsed) => return Err(ClientError::Silent { after: silence_max }),
            };
            // A kind that a newer server has is passed over.
            let Some(message) = message else { continue };
            if let Some(ended) = self.take(message).await? {
                return Ok(ended);
            }
            self.backoff.reset();
            self.is_told = false;
            *has_begun = true;
        }
    }

    /// Connects and subscribes. Gives the stream behind its first message, and how long it may be
    /// silent.
    async fn begin(&mut self) -> Result<(Messages, Duration), ClientError> {
        if let Some(commits) = &mut self.commits {
            commits.suspend();
        }
        let calls = self.dial.dial().await?;
        if let Some(commits) = &mut self.commits {
            commits.settle(&calls).await?;
        }
        let bound = self.answer_timeout;
        let subscribed = answered(bound, calls.subscribe(self.request.clone())).await;
        if let Some(commits) = &mut self.commits
            && !subscribed.as_ref().is_err_and(ClientError::is_of_no_effect)
        {
            commits.end_session();
        }
        let mut messages = subscribed?;
        let confirmation = match timeout(bound, messages.next()).await {
            Ok(Some(first)) => match first?.message {
                Some(Message::Confirmation(confirmation)) => confirmation,
                // Not a server of this contract, or cut on its way.
                _ => return Err(ClientError::BrokenOff),
            },
            Ok(None) => return Err(ClientError::BrokenOff),
            Err(_elapsed) => return Err(ClientError::Silent { after: bound }),
        };
        let interval = confirmation
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok())
            .filter(|interval| !interval.is_zero())
            .unwrap_or(HEARTBEAT_USUAL);

        // Of another journal, or through another filter, the same sequences are other events.
        let reads = (confirmation.journal_id, confirmation.effective_filter);
        if self
            .read_before
            .as_ref()
            .is_some_and(|before| *before != reads)
        {
            self.given = 0;
            if let Some(commits) = &mut self.commits {
                commits.read_anew();
            }
            self.give(Word::Anew).await?;
        }
        self.read_before = Some(reads);
        let start = confirmation.start_cursor;
        if let Some(commits) = &mut self.commits {
            // The place is where it was committed: that may lie before what was given.
            self.is_behind = self.given > 0;
            commits.begin(calls, confirmation.session, start.clone(), self.is_behind);
        }
        if !self.is_behind {
            self.pass(start).await?;
        }
        Ok((messages, interval.saturating_mul(SILENT_HEARTBEATS)))
    }

    /// Takes one message of a stream.
    async fn take(&mut self, message: Message) -> Result<Option<Ended>, ClientError> {
        match message {
            Message::Confirmation(_) => {}
            Message::Batch(batch) => self.take_batch(batch.events).await?,
            Message::Heartbeat(heartbeat) => self.pass_unless_behind(heartbeat.cursor).await?,
            Message::CaughtUp(caught_up) => {
                // What was given before was in the journal when this stream began.
                self.is_behind = false;
                self.sent(u64::MAX);
                self.passed(&caught_up.cursor);
                self.give_item(Item::CaughtUp, caught_up.cursor).await?;
            }
            Message::Gap(gap) => self.take_gap(gap).await?,
            Message::Ending(ending) => {
                let reason = ending.reason();
                self.pass_unless_behind(ending.cursor).await?;
                return Ok(Some(match reason {
                    v1::EndingReason::HeadReached => Ended::Done,
                    v1::EndingReason::MaxAge | v1::EndingReason::SubscriptionChanged => {
                        Ended::Again
                    }
                    v1::EndingReason::Drain | v1::EndingReason::Unspecified => Ended::Stopping,
                }));
            }
        }
        Ok(None)
    }

    async fn take_batch(&mut self, mut events: Vec<v1::StreamedEvent>) -> Result<(), ClientError> {
        if let Some(last) = events.last() {
            self.sent(last.sequence);
        }
        events.retain(|event| event.sequence > self.given);
        let Some(last) = events.last() else {
            return Ok(());
        };
        self.is_behind = false;
        self.given = last.sequence;
        let cursor = last.cursor.clone();
        self.give_item(Item::Events(events), cursor).await
    }

    async fn take_gap(&mut self, mut gap: v1::Gap) -> Result<(), ClientError> {
        self.sent(gap.last_lost_sequence);
        // What was given is not lost.
        gap.first_lost_sequence = gap.first_lost_sequence.max(self.given + 1);
        if gap.first_lost_sequence > gap.last_lost_sequence {
            return Ok(());
        }
        self.is_behind = false;
        self.given = gap.last_lost_sequence;
        let cursor = gap.resume_cursor.clone();
        self.give_item(Item::Gap(gap), cursor).await
    }

    /// Notes a place that was come to. Behind what was given, a message's place is no news.
    async fn pass_unless_behind(&mut self, cursor: String) -> Result<(), ClientError> {
        if self.is_behind {
            return Ok(());
        }
        self.passed(&cursor);
        self.pass(cursor).await
    }

    async fn pass(&mut self, cursor: String) -> Result<(), ClientError> {
        self.resume_after(&cursor);
        self.give(Word::Passed(cursor)).await
    }

    async fn give_item(&mut self, item: Item, cursor: String) -> Result<(), ClientError> {
        self.resume_after(&cursor);
        self.give(Word::Item(item, Some(cursor))).await
    }

    /// The next stream starts after `cursor`, unless the server keeps the place.
    fn resume_after(&mut self, cursor: &str) {
        if self.commits.is_none() {
            self.request.start = Some(Start::Cursor(cursor.to_owned()));
        }
    }

    fn sent(&mut self, sequence: u64) {
        if let Some(commits) = &mut self.commits {
            commits.sent(sequence);
        }
    }

    fn passed(&mut self, cursor: &str) {
        if let Some(commits) = &mut self.commits {
            commits.passed(self.given, cursor);
        }
    }

    /// Waits until the caller has room for a word.
    async fn give(&mut self, word: Word) -> Result<(), ClientError> {
        match meanwhile(&mut self.commits, self.words.send(word)).await? {
            Ok(()) => Ok(()),
            // Nobody listens any more: this is dropped in a moment.
            Err(_unsent) => std::future::pending().await,
        }
    }
}

/// Does something while commits go on. They end it only if they can't go on.
async fn meanwhile<C: Calls, T>(
    commits: &mut Option<Commits<C>>,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    let Some(commits) = commits else {
        return Ok(work.await);
    };
    // A commit that is under way goes on later; the work is dropped only if all is over.
    tokio::select! {
        done = work => Ok(done),
        error = commits.work() => Err(error),
    }
}
