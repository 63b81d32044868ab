//! The promises over random histories of many clients, recorded and checked against a model.
//!
//! Clients ingest, read with filters of their own, read as subscriptions and commit, list, go away in
//! the middle, read slowly, and come again with any cursor they were given, while the server is
//! killed and stopped again and again. Every call and answer is recorded; in the end [`model`] says
//! which promise the record breaks. `PROVIDENT_SEED` repeats the choices of a run (not the machine's
//! timing); `PROVIDENT_HISTORY_ROUNDS` is how often the server is started.

mod model;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use provident::domain::cursor::Cursor;
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use provident::wire::v1::subscription_service_client::SubscriptionServiceClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::model::{Commit, Committed, History, Ingest, List, Number, Said, Span, Stream, Wanted};
use crate::fixtures::{self, Kind};
use crate::harness::{
    Launch, Random, Server, Start, after, answered, as_subscription, commit_request, earliest,
    everything, ingest_request, is_gone, say, scratch, setting,
};

const INGESTERS: u64 = 3;
const READERS: usize = 6;
/// Readers of subscriptions: so many for each, which throw each other off.
const RIVALS: usize = 2;
const SUBSCRIPTIONS: [&str; 3] = ["all", "failures", "one-app"];

/// What a client may filter by, and the same said without the service.
fn filters() -> Vec<(v1::Filter, Wanted)> {
    vec![
        (everything(), |_| true),
        // All but the successes.
        (v1::Filter::default(), |number| number % 8 != 1),
        (
            v1::Filter {
                application_ids: vec![fixtures::application_id(2)],
                ..everything()
            },
            |number| number % 5 == 2,
        ),
        (
            v1::Filter {
                event_types: vec!["application.provision.user.*".to_owned()],
                ..everything()
            },
            |number| number % 8 < 3,
        ),
        (
            v1::Filter {
                expression: r#"eventType eq "application.integration.rate_limit_exceeded""#
                    .to_owned(),
                ..everything()
            },
            |number| number % 8 == 5,
        ),
        // None that is ever kept: heartbeats alone.
        (
            v1::Filter {
                event_types: vec![Kind::Unrelated.event_type().to_owned()],
                ..everything()
            },
            |_| false,
        ),
    ]
}

/// What all clients share.
#[derive(Debug, Default)]
struct Recorder {
    tick: AtomicU64,
    history: Mutex<History>,
}

impl Recorder {
    fn now(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    fn record<T>(&self, add: impl FnOnce(&mut History) -> T) -> T {
        add(&mut self.history.lock().unwrap())
    }
}

fn place(cursor: &str) -> u64 {
    Cursor::parse(cursor).unwrap().seq.get()
}

/// One client, over all rounds. Each round it is given a connection, and works until that breaks.
#[derive(Debug)]
enum Client {
    Ingester {
        next: Number,
        /// Sent and not answered, or answered: to be sent again at times.
        old: Vec<Number>,
    },
    Reader {
        filter: usize,
        /// Where it may go on.
        bookmarks: Vec<String>,
    },
    Subscriber {
        subscription: usize,
        name: String,
    },
    Lister {
        filter: usize,
    },
}

/// A client at work.
struct Work {
    channel: Channel,
    recorder: Arc<Recorder>,
    random: Random,
}

/// The connection broke: the round is over.
struct Gone;

impl Work {
    async fn run(mut self, client: &mut Client) {
        while self.step(client).await.is_ok() {}
    }

    async fn step(&mut self, client: &mut Client) -> Result<(), Gone> {
        match client {
            Client::Ingester { next, old } => self.ingest(next, old).await,
            Client::Reader { filter, bookmarks } => self.read(*filter, bookmarks).await,
            Client::Subscriber { subscription, name } => self.subscribe(*subscription, name).await,
            Client::Lister { filter } => self.list(*filter).await,
        }
    }

    fn span(&self, called: u64) -> Span {
        Span {
            called,
            answered: self.recorder.now(),
        }
    }

    async fn pause(&mut self, millis_max: u64) {
        sleep(Duration::from_micros(self.random.below(millis_max * 1000))).await;
    }

    async fn ingest(&mut self, next: &mut Number, old: &mut Vec<Number>) -> Result<(), Gone> {
        let count = 1 + self.random.below(12);
        let mut numbers: Vec<Number> = (*next..*next + count).collect();
        *next += count;
        if !old.is_empty() && self.random.once_in(3) {
            let at = usize::try_from(self.random.below(numbers.len() as u64)).unwrap();
            numbers.insert(at, *self.random.pick(old));
        }
        if self.random.once_in(8) {
            numbers.push(numbers[0]);
        }
        old.extend(&numbers);
        let request = ingest_request(numbers.iter().copied());
        let called = self.recorder.now();
        let mut client = EventServiceClient::new(self.channel.clone());
        let answer = answered(&self.channel, client.ingest(request)).await;
        let span = self.span(called);
        let said = match &answer {
            Ok(answer) => Some(answer.get_ref().results.iter().map(said).collect()),
            Err(status) if is_gone(status) => None,
            Err(status) => panic!("{status:?}"),
        };
        self.recorder.record(|history| {
            history.ingests.push(Ingest {
                span,
                numbers,
                said,
            });
        });
        self.pause(8).await;
        answer.map(drop).or(Err(Gone))
    }

    async fn read(&mut self, filter: usize, bookmarks: &mut Vec<String>) -> Result<(), Gone> {
        let (filter, wanted) = filters().swap_remove(filter);
        let start = if bookmarks.is_empty() || self.random.once_in(10) {
            earliest()
        } else if self.random.once_in(2) {
            after(bookmarks.last().unwrap())
        } else {
            after(self.random.pick::<String>(bookmarks))
        };
        let asked = match &start {
            Start::Cursor(cursor) => place(cursor),
            _ => 0,
        };
        let request = v1::SubscribeRequest {
            start: Some(start),
            filter: Some(filter),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            stop_at_head: self.random.once_in(5),
            ..v1::SubscribeRequest::default()
        };
        self.stream(request, wanted, Some(asked), bookmarks)
            .await
            .map(drop)
    }

    /// Reads a stream for a while and records it. Commits, if it is a subscription's. Gives whether
    /// it was fenced.
    async fn stream(
        &mut self,
        request: v1::SubscribeRequest,
        wanted: Wanted,
        asked: Option<u64>,
        bookmarks: &mut Vec<String>,
    ) -> Result<bool, Gone> {
        let subscription = match &request.start {
            Some(Start::SubscriptionId(id)) => Some(id.clone()),
            _ => None,
        };
        let called = self.recorder.now();
        let mut events = EventServiceClient::new(self.channel.clone());
        let confirmed = answered(&self.channel, async {
            let mut messages = events.subscribe(request).await?.into_inner();
            let first = messages.message().await?;
            Ok::<_, Status>((messages, first))
        })
        .await;
        let span = self.span(called);
        let (mut messages, first) = match confirmed {
            Ok((messages, Some(first))) => (messages, first),
            failed => {
                let status = failed.map(drop).err();
                // A rival came before the first message.
                let fenced = status
                    .as_ref()
                    .is_some_and(|status| status.code() == Code::Aborted);
                assert!(fenced || status.as_ref().is_none_or(is_gone), "{status:?}");
                let span = Span {
                    called,
                    answered: u64::MAX,
                };
                self.recorder.record(|history| {
                    history
                        .attempts
                        .extend(subscription.map(|name| (name, span)));
                });
                return if fenced { Ok(true) } else { Err(Gone) };
            }
        };
        let Some(Message::Confirmation(confirmation)) = first.message else {
            panic!("{first:?} where the confirmation belongs");
        };
        let mut stream = Stream {
            span,
            wanted,
            session: subscription.map(|name| (name, confirmation.session)),
            asked,
            start: place(&confirmation.start_cursor),
            messages: Vec::new(),
        };
        // Its commits may be checked against it, so it is there from the beginning.
        let at = self.recorder.record(|history| {
            history.streams.push(stream.clone());
            history.streams.len() - 1
        });
        let mut sent = Vec::new();
        let mut ended = Ok(false);
        let patience = self.random.below(40);
        for _ in 0..patience {
            // As long as a heartbeat takes, at the most.
            let message = tokio::time::timeout(Duration::from_millis(1200), messages.message());
            let message = match message.await {
                Err(_elapsed) => break,
                Ok(Ok(None)) => break,
                Ok(Ok(Some(message))) => message.message.unwrap(),
                Ok(Err(status)) if status.code() == Code::Aborted => {
                    ended = Ok(true);
                    break;
                }
                Ok(Err(status)) => {
                    assert!(is_gone(&status), "{status:?}");
                    ended = Err(Gone);
                    break;
                }
            };
            let (message, cursors) = taken(message);
            bookmarks.extend(cursors.iter().cloned());
            sent.extend(cursors);
            stream.messages.push(message);
            let session = stream.session.clone();
            if let Some((name, session)) = session
                && !sent.is_empty()
                && self.random.once_in(2)
            {
                // Mostly the newest, at times an older one.
                let cursor = if self.random.once_in(4) {
                    self.random.pick(&sent).clone()
                } else {
                    sent.last().unwrap().clone()
                };
                if let Err(gone) = self.commit(name, session, cursor).await {
                    ended = Err(gone);
                    break;
                }
            }
            if self.random.once_in(6) {
                self.pause(20).await;
            }
        }
        self.recorder.record(|history| history.streams[at] = stream);
        ended
    }

    async fn commit(&mut self, name: String, session: String, cursor: String) -> Result<(), Gone> {
        let request = commit_request(&name, &session, &cursor);
        let called = self.recorder.now();
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let answer = answered(&self.channel, client.commit(request)).await;
        let span = self.span(called);
        let outcome = match &answer {
            Ok(_) => Committed::Done,
            Err(status) if is_gone(status) => Committed::Unknown,
            Err(status) => match status.get_details_error_info().unwrap().reason.as_str() {
                "FENCED" => Committed::Fenced,
                "CURSOR_BEHIND" => Committed::Behind,
                _ => panic!("{status:?}"),
            },
        };
        self.recorder.record(|history| {
            history.commits.push(Commit {
                span,
                subscription: name,
                session,
                place: place(&cursor),
                outcome,
            });
        });
        if outcome == Committed::Unknown {
            return Err(Gone);
        }
        Ok(())
    }

    async fn subscribe(&mut self, subscription: usize, name: &str) -> Result<(), Gone> {
        let request = v1::SubscribeRequest {
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..as_subscription(SUBSCRIPTIONS[subscription], name)
        };
        let wanted = filters()[subscription].1;
        let fenced = self.stream(request, wanted, None, &mut Vec::new()).await?;
        // Rivals that came back at once would let nobody read.
        self.pause(if fenced { 150 } else { 30 }).await;
        Ok(())
    }

    async fn list(&mut self, filter: usize) -> Result<(), Gone> {
        let (filter, wanted) = filters().swap_remove(filter);
        let mut client = EventServiceClient::new(self.channel.clone());
        let called = self.recorder.now();
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListEventsRequest {
                filter: Some(filter.clone()),
                page_size: 50,
                page_token,
                ..v1::ListEventsRequest::default()
            };
            let page = match answered(&self.channel, client.list_events(request)).await {
                Ok(page) => page.into_inner(),
                Err(status) if is_gone(&status) => return Err(Gone),
                Err(status) => panic!("{status:?}"),
            };
            events.extend(page.events.iter().map(numbered));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let span = self.span(called);
        self.recorder.record(|history| {
            history.lists.push(List {
                span,
                wanted,
                events,
            });
        });
        self.pause(100).await;
        Ok(())
    }
}

fn said(result: &v1::IngestResult) -> Said {
    match result.status() {
        v1::IngestStatus::Accepted => Said::Accepted(result.sequence),
        v1::IngestStatus::Duplicate => Said::Duplicate(result.sequence),
        _ => panic!("{result:?}"),
    }
}

fn numbered(event: &v1::StreamedEvent) -> (u64, Number) {
    assert_eq!(place(&event.cursor), event.sequence);
    let uuid = &event.event.as_ref().unwrap().uuid;
    (event.sequence, fixtures::number(uuid))
}

/// A message as the model has it, and the cursors it brought.
fn taken(message: Message) -> (model::Message, Vec<String>) {
    match message {
        Message::Batch(batch) => {
            let cursors = batch.events.iter().map(|event| event.cursor.clone());
            let cursors = cursors.collect();
            let events = batch.events.iter().map(numbered).collect();
            (model::Message::Batch(events), cursors)
        }
        Message::Heartbeat(beat) => (
            model::Message::Heartbeat(place(&beat.cursor)),
            vec![beat.cursor],
        ),
        Message::CaughtUp(there) => (
            model::Message::CaughtUp(place(&there.cursor)),
            vec![there.cursor],
        ),
        Message::Ending(ending) => (
            model::Message::Ending(place(&ending.cursor)),
            vec![ending.cursor],
        ),
        other => panic!("{other:?} where nothing is lost"),
    }
}

fn clients(random: &mut Random) -> Vec<Client> {
    let ingesters = (0..INGESTERS).map(|ingester| Client::Ingester {
        next: ingester << 32,
        old: Vec::new(),
    });
    let readers = (0..READERS).map(|filter| Client::Reader {
        filter,
        bookmarks: Vec::new(),
    });
    let subscribers = (0..SUBSCRIPTIONS.len() * RIVALS).map(|index| Client::Subscriber {
        subscription: index % SUBSCRIPTIONS.len(),
        name: format!("rival {index}"),
    });
    let filter = usize::try_from(random.below(READERS as u64)).unwrap();
    let listers = std::iter::once(Client::Lister { filter });
    ingesters
        .chain(readers)
        .chain(subscribers)
        .chain(listers)
        .collect()
}

async fn create_subscriptions(server: &Server) {
    for (name, (filter, _)) in SUBSCRIPTIONS.into_iter().zip(filters()) {
        server.create_subscription(name, filter).await;
    }
}

/// Reads what is there in the end.
async fn finish(server: &Server, history: &mut History) {
    let events = server.read_all(earliest()).await;
    history.journal = events.iter().map(numbered).collect();
    for name in SUBSCRIPTIONS {
        let found = server.subscription(name).await.unwrap();
        let committed = place(&found.committed_cursor);
        history.committed.insert(name.to_owned(), committed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_over_any_history() {
    let rounds: u64 = setting("PROVIDENT_HISTORY_ROUNDS").unwrap_or(4);
    let mut random = Random::of_run("history");
    let directory = scratch();
    let launch = Launch::on(&directory.path().join("data"));
    let recorder = Arc::new(Recorder::default());
    let mut clients = clients(&mut random);
    let mut server = launch.start().await;
    create_subscriptions(&server).await;
    let (mut kills, mut stops) = (0, 0);
    for _ in 0..rounds {
        let mut working = JoinSet::new();
        for mut client in clients.drain(..) {
            let work = Work {
                channel: server.new_channel().await,
                recorder: Arc::clone(&recorder),
                random: random.fork(),
            };
            working.spawn(async move {
                work.run(&mut client).await;
                client
            });
        }
        // Every third round is long enough for heartbeats.
        let millis = if random.once_in(3) { 2500 } else { 600 };
        sleep(Duration::from_millis(50 + random.below(millis))).await;
        if random.once_in(3) {
            stops += 1;
            server.process.signal(rustix::process::Signal::TERM);
            server.process.ended().await;
        } else {
            kills += 1;
        }
        server.process.kill();
        clients = working.join_all().await;
        server = launch.start().await;
    }
    let mut history = std::mem::take(&mut *recorder.history.lock().unwrap());
    finish(&server, &mut history).await;
    let broken = model::broken(&history);
    assert!(broken.is_empty(), "broken promises:\n{}", broken.join("\n"));
    let messages: usize = history
        .streams
        .iter()
        .map(|stream| stream.messages.len())
        .sum();
    let heartbeats = history.streams.iter().flat_map(|stream| &stream.messages);
    let heartbeats = heartbeats.filter(|message| matches!(message, model::Message::Heartbeat(_)));
    let outcomes = |outcome| {
        let commits = history.commits.iter();
        commits.filter(|commit| commit.outcome == outcome).count()
    };
    say(&format!(
        "history: {rounds} rounds, {kills} kills, {stops} stops; {} calls of Ingest, {} events in the \
         journal; {} streams with {messages} messages, {} of them heartbeats; {} commits done, {} \
         fenced, {} behind, {} without an answer; {} lists: no promise broken",
        history.ingests.len(),
        history.journal.len(),
        history.streams.len(),
        heartbeats.count(),
        outcomes(Committed::Done),
        outcomes(Committed::Fenced),
        outcomes(Committed::Behind),
        outcomes(Committed::Unknown),
        history.lists.len(),
    ));
}
