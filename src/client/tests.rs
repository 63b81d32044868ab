//! The stream against a server that does as it is told, on time that stands still meanwhile.
//!
//! What the real server does is tested from outside; here is what it can't be made to do.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Calls, ClientError, ClientOptions, Dial, EventStream, Item, Messages};
use crate::wire::v1;
use crate::wire::v1::subscribe_request::Start;
use crate::wire::v1::subscribe_response::Message;

const SECOND: Duration = Duration::from_secs(1);

/// What a stream does next.
#[derive(Clone, Debug)]
enum Step {
    Send(Box<Message>),
    Wait(Duration),
    Fail(Status),
    /// Neither sends nor ends.
    Hang,
}

/// What becomes of a connection.
#[derive(Debug)]
enum Scripted {
    Unreachable,
    Refuses(Status),
    /// The call is never answered.
    Mute,
    Streams(Vec<Step>),
}

#[derive(Debug, Default)]
struct Script {
    connections: VecDeque<Scripted>,
    /// What commits are answered with; all further ones with OK.
    commits: VecDeque<Result<(), Status>>,
    /// The calls that came.
    log: Vec<String>,
}

/// A server that does as it is told; after the last connection of its script, none is made.
#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<Script>>);

#[derive(Debug)]
struct Connection {
    server: Server,
    scripted: Mutex<Option<Scripted>>,
}

impl Dial for Server {
    type Calls = Connection;

    async fn dial(&self) -> Result<Connection, ClientError> {
        let scripted = self.0.lock().unwrap().connections.pop_front();
        match scripted {
            None => std::future::pending().await,
            Some(Scripted::Unreachable) => Err(ClientError::Unreachable {
                cause: "refused".to_owned(),
            }),
            scripted => Ok(Connection {
                server: self.clone(),
                scripted: Mutex::new(scripted),
            }),
        }
    }
}

impl Calls for Connection {
    async fn subscribe(&self, request: v1::SubscribeRequest) -> Result<Messages, Status> {
        let start = match request.start {
            Some(Start::Cursor(cursor)) => format!("subscribe after {cursor}"),
            Some(Start::SubscriptionId(id)) => format!("subscribe as {id}"),
            other => format!("subscribe {other:?}"),
        };
        self.server.0.lock().unwrap().log.push(start);
        let scripted = self.scripted.lock().unwrap().take();
        match scripted.expect("one stream for each connection") {
            Scripted::Refuses(status) => Err(status),
            Scripted::Streams(steps) => Ok(Box::pin(
                tokio_stream::iter(steps)
                    .then(|step| async move {
                        match step {
                            Step::Send(message) => Some(Ok(v1::SubscribeResponse {
                                message: Some(*message),
                            })),
                            Step::Fail(status) => Some(Err(status)),
                            Step::Wait(time) => {
                                sleep(time).await;
                                None
                            }
                            Step::Hang => std::future::pending().await,
                        }
                    })
                    .filter_map(|sent| sent),
            )),
            Scripted::Mute | Scripted::Unreachable => std::future::pending().await,
        }
    }

    fn commit(
        &self,
        request: v1::CommitRequest,
    ) -> impl Future<Output = Result<(), Status>> + Send + use<> {
        let mut script = self.server.0.lock().unwrap();
        script
            .log
            .push(format!("commit {} {}", request.session, request.cursor));
        let answer = script.commits.pop_front().unwrap_or(Ok(()));
        async { answer }
    }
}

impl Server {
    fn new(connections: impl IntoIterator<Item = Scripted>) -> Self {
        let server = Self::default();
        server.0.lock().unwrap().connections.extend(connections);
        server
    }

    fn answering_commits(self, answers: impl IntoIterator<Item = Result<(), Status>>) -> Self {
        self.0.lock().unwrap().commits.extend(answers);
        self
    }

    fn subscribe(&self, start: Start) -> EventStream {
        let request = v1::SubscribeRequest {
            start: Some(start),
            ..v1::SubscribeRequest::default()
        };
        EventStream::open(self.clone(), &ClientOptions::default(), request)
    }

    /// Reads from `c0` on.
    fn follow(&self) -> EventStream {
        self.subscribe(Start::Cursor("c0".to_owned()))
    }

    fn read_as_team(&self) -> EventStream {
        self.subscribe(Start::SubscriptionId("team".to_owned()))
    }

    fn log(&self) -> String {
        self.0.lock().unwrap().log.join("\n")
    }
}

fn send(message: Message) -> Step {
    Step::Send(Box::new(message))
}

/// The first message, for a stream that starts after the event `start`.
fn confirmed(start: u64, session: &str) -> Step {
    send(Message::Confirmation(confirmation(start, session)))
}

fn confirmation(start: u64, session: &str) -> v1::Confirmation {
    v1::Confirmation {
        start_cursor: format!("c{start}"),
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        journal_id: "j".to_owned(),
        session: session.to_owned(),
        ..v1::Confirmation::default()
    }
}

/// The same for a stream whose filter was changed.
fn through_another_filter(start: u64, session: &str) -> Step {
    send(Message::Confirmation(v1::Confirmation {
        effective_filter: Some(v1::Filter::default()),
        // The usual one, so that it may be silent for a while.
        heartbeat_interval: None,
        ..confirmation(start, session)
    }))
}

fn batch(sequences: impl IntoIterator<Item = u64>) -> Step {
    let event = |sequence| v1::StreamedEvent {
        sequence,
        cursor: format!("c{sequence}"),
        ..v1::StreamedEvent::default()
    };
    send(Message::Batch(v1::EventBatch {
        events: sequences.into_iter().map(event).collect(),
    }))
}

fn heartbeat(at: u64) -> Step {
    send(Message::Heartbeat(v1::Heartbeat {
        cursor: format!("c{at}"),
        head_cursor: String::new(),
    }))
}

fn caught_up(at: u64) -> Step {
    send(Message::CaughtUp(v1::CaughtUp {
        cursor: format!("c{at}"),
    }))
}

fn gap(first: u64, last: u64) -> Step {
    send(Message::Gap(v1::Gap {
        first_lost_sequence: first,
        last_lost_sequence: last,
        resume_cursor: format!("c{last}"),
        ..v1::Gap::default()
    }))
}

fn ending(at: u64, reason: v1::EndingReason) -> Step {
    send(Message::Ending(v1::StreamEnding {
        cursor: format!("c{at}"),
        reason: reason.into(),
    }))
}

fn refusal(code: Code, reason: &str, delay: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "provident.dev", HashMap::new());
    details.set_retry_info(delay);
    Status::with_error_details(code, "no", details)
}

fn fenced() -> Status {
    refusal(Code::Aborted, "FENCED", None)
}

fn streams(steps: impl IntoIterator<Item = Step>) -> Scripted {
    Scripted::Streams(steps.into_iter().collect())
}

/// What a stream gives, as text.
async fn next(stream: &mut EventStream) -> String {
    let next = timeout(Duration::from_hours(1), stream.next());
    let item = match next.await.expect("something within an hour") {
        Ok(Some(item)) => item,
        Ok(None) => return "end".to_owned(),
        Err(error) => return format!("error {error}"),
    };
    match item {
        Item::Events(events) => {
            let mut text = "events".to_owned();
            for event in events {
                write!(text, " {}", event.sequence).unwrap();
            }
            text
        }
        Item::CaughtUp => "caught up".to_owned(),
        Item::Gap(gap) => format!("gap {} {}", gap.first_lost_sequence, gap.last_lost_sequence),
        Item::Interrupted(why) => format!("interrupted: {why}"),
    }
}

async fn gives(stream: &mut EventStream, expected: &[&str]) {
    for expected in expected {
        assert_eq!(next(stream).await, *expected);
    }
}

/// Awaits the next item, which does not come, for a while.
async fn idle(stream: &mut EventStream, time: Duration) {
    let item = timeout(time, stream.next()).await;
    assert!(item.is_err(), "{item:?}");
}

fn event(sequence: u64) -> v1::StreamedEvent {
    v1::StreamedEvent {
        sequence,
        cursor: format!("c{sequence}"),
        ..v1::StreamedEvent::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_the_last_message_that_was_given() {
    let server = Server::new([
        streams([
            confirmed(0, ""),
            batch([1, 3]),
            Step::Fail(Status::unknown("reset")),
        ]),
        Scripted::Unreachable,
        streams([confirmed(3, ""), heartbeat(5)]),
        streams([confirmed(5, ""), batch([6]), Step::Hang]),
    ]);
    let mut stream = server.follow();
    assert_eq!(stream.cursor(), None);
    gives(&mut stream, &["events 1 3"]).await;
    assert_eq!(stream.cursor(), Some("c3"));
    // Two breaks in a row are told once.
    gives(&mut stream, &["interrupted: Unknown: reset"]).await;
    gives(
        &mut stream,
        &["interrupted: the stream broke off", "events 6"],
    )
    .await;
    assert_eq!(stream.cursor(), Some("c6"));
    assert_eq!(
        server.log(),
        "subscribe after c0\nsubscribe after c3\nsubscribe after c5"
    );
}

#[tokio::test(start_paused = true)]
async fn it_waits_as_long_as_the_server_asks() {
    let overloaded = refusal(Code::Unavailable, "OVERLOADED", Some(7 * SECOND));
    let server = Server::new([
        Scripted::Refuses(overloaded),
        streams([confirmed(0, ""), batch([1]), Step::Hang]),
    ]);
    let began = Instant::now();
    let mut stream = server.follow();
    gives(&mut stream, &["interrupted: OVERLOADED: no", "events 1"]).await;
    let waited = began.elapsed();
    assert!(waited >= 7 * SECOND && waited < 8 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_their_bound_while_nobody_answers() {
    let server = Server::new((0..100).map(|_| Scripted::Unreachable).chain([streams([
        confirmed(0, ""),
        batch([1]),
        Step::Hang,
    ])]));
    let began = Instant::now();
    let mut stream = server.follow();
    let interrupted = "interrupted: can't connect: refused";
    gives(&mut stream, &[interrupted, "events 1"]).await;
    // Half of 15 s each on the average; as many are never all short or all long.
    let waited = began.elapsed();
    let bounds = 200 * SECOND..=1500 * SECOND;
    assert!(bounds.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn three_heartbeats_that_fail_to_come_are_a_dead_connection() {
    let server = Server::new([
        streams([
            confirmed(0, ""),
            Step::Wait(5 * SECOND),
            heartbeat(1),
            Step::Wait(5 * SECOND),
            batch([2]),
            Step::Hang,
        ]),
        streams([confirmed(2, ""), Step::Hang]),
    ]);
    let mut stream = server.follow();
    gives(&mut stream, &["events 2"]).await;
    let began = Instant::now();
    gives(&mut stream, &["interrupted: no sign of life for 6 s"]).await;
    assert_eq!(began.elapsed(), 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_and_a_first_message_that_do_not_come_are_noticed() {
    let server = Server::new([
        Scripted::Mute,
        streams([Step::Hang]),
        streams([]),
        streams([confirmed(0, ""), batch([1]), Step::Hang]),
    ]);
    let began = Instant::now();
    let mut stream = server.follow();
    let interrupted = "interrupted: no sign of life for 10 s";
    gives(&mut stream, &[interrupted, "events 1"]).await;
    let waited = began.elapsed();
    assert!(waited >= 20 * SECOND && waited < 25 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_slow_is_not_taken_for_a_silent_server() {
    let steps = (1..100).flat_map(|at| [Step::Wait(SECOND), batch([at])]);
    let server = Server::new([streams(
        [confirmed(0, "")]
            .into_iter()
            .chain(steps)
            .chain([Step::Hang]),
    )]);
    let mut stream = server.follow();
    for at in 1..100 {
        gives(&mut stream, &[&format!("events {at}")]).await;
        sleep(60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_trying_again_cannot_mend_ends_the_stream_with_the_servers_reason() {
    let finals = [
        (Code::InvalidArgument, "FILTER_INVALID"),
        (Code::OutOfRange, "CURSOR_EXPIRED"),
        (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"),
        (Code::Aborted, "FENCED"),
        (Code::Unauthenticated, "UNAUTHENTICATED"),
        (Code::PermissionDenied, "NOT_ALLOWED"),
        (Code::DataLoss, "RECORD_CORRUPT"),
    ];
    for (code, reason) in finals {
        let status = refusal(code, reason, None);
        let at_once = Server::new([Scripted::Refuses(status.clone()), streams([])]);
        let later = Server::new([streams([confirmed(0, ""), Step::Fail(status)]), streams([])]);
        for server in [at_once, later] {
            let mut stream = server.read_as_team();
            // Also when it is asked again.
            for _ in 0..2 {
                let error = stream.next().await.unwrap_err();
                let name = error.reason().unwrap().as_str_name();
                assert_eq!(name, format!("ERROR_REASON_{reason}"));
            }
            sleep(100 * SECOND).await;
            assert_eq!(server.log(), "subscribe as team");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_planned_ending_is_followed_as_it_says() {
    use v1::EndingReason::{Drain, HeadReached, MaxAge, SubscriptionChanged, Unspecified};
    let server = Server::new([
        streams([confirmed(0, ""), batch([1]), ending(2, MaxAge)]),
        streams([
            confirmed(2, ""),
            caught_up(2),
            ending(3, SubscriptionChanged),
        ]),
        streams([confirmed(3, ""), batch([4]), ending(4, Drain)]),
        streams([confirmed(4, ""), batch([5]), ending(6, Unspecified)]),
        streams([confirmed(6, ""), batch([7]), ending(7, HeadReached)]),
    ]);
    let began = Instant::now();
    let mut stream = server.follow();
    gives(&mut stream, &["events 1", "caught up", "events 4"]).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    let stopping = "interrupted: the server is stopping";
    gives(&mut stream, &[stopping, "events 5", stopping, "events 7"]).await;
    gives(&mut stream, &["end", "end"]).await;
    assert_eq!(
        server.log(),
        "subscribe after c0\nsubscribe after c2\nsubscribe after c3\nsubscribe after c4\n\
         subscribe after c6"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_nothing_but_end_streams_is_not_called_again_at_once() {
    let barren = || streams([confirmed(0, ""), ending(0, v1::EndingReason::MaxAge)]);
    let server = Server::new((0..30).map(|_| barren()).chain([streams([
        confirmed(0, ""),
        batch([1]),
        Step::Hang,
    ])]));
    let began = Instant::now();
    let mut stream = server.follow();
    let stopping = "interrupted: the server is stopping";
    gives(&mut stream, &[stopping, "events 1"]).await;
    assert!(began.elapsed() > 20 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn gaps_are_given_and_never_passed_by() {
    let server = Server::new([
        streams([confirmed(0, ""), gap(1, 4), batch([5, 6])]),
        streams([confirmed(6, ""), gap(7, 9), batch([10]), Step::Hang]),
    ]);
    let mut stream = server.follow();
    gives(&mut stream, &["gap 1 4"]).await;
    assert_eq!(stream.cursor(), Some("c4"));
    gives(
        &mut stream,
        &["events 5 6", "interrupted: the stream broke off"],
    )
    .await;
    gives(&mut stream, &["gap 7 9", "events 10"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_is_dropped_and_committed_only_as_far_as_it_came() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([1, 2, 3, 4]), Step::Wait(SECOND)]),
        streams([
            confirmed(2, "s2"),
            heartbeat(2),
            Step::Wait(SECOND),
            batch([3]),
            Step::Wait(5 * SECOND),
            batch([4, 5]),
            Step::Wait(3 * SECOND),
            caught_up(5),
            Step::Hang,
        ]),
    ]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 2 3 4"]).await;
    stream.commit(&event(2));
    gives(&mut stream, &["interrupted: the stream broke off"]).await;
    idle(&mut stream, SECOND / 2).await;
    // Noted when this session has not yet been sent as much.
    stream.commit(&event(4));
    idle(&mut stream, 3 * SECOND).await;
    assert!(!server.log().contains("commit s2"), "{}", server.log());
    gives(&mut stream, &["events 5"]).await;
    assert_eq!(stream.cursor(), Some("c5"));
    gives(&mut stream, &["caught up"]).await;
    stream.flush().await.unwrap();
    assert_eq!(
        server.log(),
        "subscribe as team\ncommit s1 c2\ncommit s1 c2\nsubscribe as team\ncommit s2 c4"
    );
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_what_was_given_is_no_loss() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([1, 5])]),
        streams([confirmed(0, "s2"), gap(1, 3), batch([5, 6])]),
        streams([confirmed(0, "s3"), gap(1, 9), batch([10]), Step::Hang]),
    ]);
    let broken = "interrupted: the stream broke off";
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 5", broken, "events 6", broken]).await;
    gives(&mut stream, &["gap 7 9", "events 10"]).await;
}

#[tokio::test(start_paused = true)]
async fn commits_go_at_their_interval_and_with_the_highest_place() {
    let server = Server::new([streams([confirmed(0, "s1"), batch(1..=40), Step::Hang])]);
    let mut stream = server.read_as_team();
    next(&mut stream).await;
    for at in 1..=40 {
        stream.commit(&event(at));
        // Nothing is done by a place that lies before.
        stream.commit(&event(1));
        idle(&mut stream, Duration::from_millis(70)).await;
    }
    stream.close().await.unwrap();
    assert_eq!(
        server.log(),
        "subscribe as team\ncommit s1 c1\ncommit s1 c15\ncommit s1 c29\ncommit s1 c40"
    );
}

#[tokio::test(start_paused = true)]
async fn the_place_moves_on_with_heartbeats_once_all_that_was_given_is_done_with() {
    let server = Server::new([streams([
        confirmed(0, "s1"),
        Step::Wait(SECOND),
        heartbeat(3),
        Step::Wait(SECOND),
        batch([4]),
        Step::Wait(SECOND),
        heartbeat(6),
        Step::Wait(3 * SECOND),
        heartbeat(7),
        Step::Wait(SECOND),
        gap(8, 9),
        heartbeat(10),
        Step::Wait(5 * SECOND),
        heartbeat(11),
        Step::Hang,
    ])]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 4"]).await;
    idle(&mut stream, 2 * SECOND).await;
    stream.commit(&event(4));
    // A gap that is not said to be done with comes again after a crash.
    gives(&mut stream, &["gap 8 9"]).await;
    idle(&mut stream, 2 * SECOND).await;
    stream.flush().await.unwrap();
    let before = "subscribe as team\ncommit s1 c3\ncommit s1 c6\ncommit s1 c7";
    assert_eq!(server.log(), before);
    stream.commit(&v1::Gap {
        last_lost_sequence: 9,
        resume_cursor: "c9".to_owned(),
        ..v1::Gap::default()
    });
    idle(&mut stream, 5 * SECOND).await;
    assert_eq!(
        server.log(),
        format!("{before}\ncommit s1 c10\ncommit s1 c11")
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_for_now_is_tried_again() {
    let server = Server::new([streams([confirmed(0, "s1"), batch([1]), Step::Hang])])
        .answering_commits([
            Err(Status::unavailable("away")),
            Err(refusal(Code::Unavailable, "OVERLOADED", Some(2 * SECOND))),
            // The answer before was lost.
            Err(refusal(Code::FailedPrecondition, "CURSOR_BEHIND", None)),
        ]);
    let mut stream = server.read_as_team();
    next(&mut stream).await;
    stream.commit(&event(1));
    stream.flush().await.unwrap();
    assert_eq!(server.log().matches("commit s1 c1").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_ends_the_stream_for_good() {
    let ahead = refusal(Code::FailedPrecondition, "CURSOR_AHEAD", None);
    for refused in [fenced(), ahead] {
        let server = Server::new([
            streams([confirmed(0, "s1"), batch([1]), Step::Hang]),
            streams([]),
        ])
        .answering_commits([Err(refused.clone())]);
        let mut stream = server.read_as_team();
        next(&mut stream).await;
        stream.commit(&event(1));
        let expected = ClientError::from(refused).reason();
        assert_eq!(stream.next().await.unwrap_err().reason(), expected);
        assert_eq!(stream.flush().await.unwrap_err().reason(), expected);
        sleep(100 * SECOND).await;
        let reason = stream.close().await.unwrap_err().reason();
        assert_eq!(reason, expected);
        assert_eq!(server.log(), "subscribe as team\ncommit s1 c1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_took_over_during_a_break_is_not_thrown_off() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([1])]),
        Scripted::Unreachable,
        streams([]),
    ])
    .answering_commits([Err(fenced())]);
    let mut stream = server.read_as_team();
    gives(
        &mut stream,
        &["events 1", "interrupted: the stream broke off"],
    )
    .await;
    gives(&mut stream, &["error FENCED: no", "error FENCED: no"]).await;
    // What it asked was whether its session is still good.
    assert_eq!(server.log(), "subscribe as team\ncommit s1 c0");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_never_told_of_does_not_fence_the_reader_itself() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([1])]),
        // The server has begun a session, and the connection broke before it was said.
        streams([]),
        streams([confirmed(1, "s3"), batch([2]), Step::Hang]),
    ]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1"]).await;
    stream.commit(&event(1));
    gives(
        &mut stream,
        &["interrupted: the stream broke off", "events 2"],
    )
    .await;
    stream.commit(&event(2));
    stream.flush().await.unwrap();
    let log = server.log();
    let (_, after) = log.split_once("commit s1 c1\nsubscribe").unwrap();
    assert_eq!(after, " as team\nsubscribe as team\ncommit s3 c2");
}

#[tokio::test(start_paused = true)]
async fn another_filter_may_let_through_what_lies_before_the_last_event() {
    let server = Server::new([
        streams([
            confirmed(0, "s1"),
            batch([1, 5]),
            ending(5, v1::EndingReason::SubscriptionChanged),
        ]),
        streams([through_another_filter(0, "s2"), batch([3, 5]), Step::Hang]),
    ]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 5", "events 3 5"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_commit_is_bounded_and_what_was_noted_is_committed_later() {
    let server = Server::new(
        [streams([confirmed(0, "s1"), batch([1])])]
            .into_iter()
            .chain((0..20).map(|_| Scripted::Unreachable))
            .chain([streams([confirmed(1, "s2"), Step::Hang])]),
    );
    let mut stream = server.read_as_team();
    gives(
        &mut stream,
        &["events 1", "interrupted: the stream broke off"],
    )
    .await;
    stream.commit(&event(1));
    let began = Instant::now();
    let error = stream.flush().await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert_eq!(began.elapsed(), 10 * SECOND);
    while stream.flush().await.is_err() {}
    assert_eq!(
        server.log(),
        "subscribe as team\ncommit s1 c1\nsubscribe as team"
    );
}

#[tokio::test(start_paused = true)]
async fn commits_go_on_when_all_has_been_given() {
    let server = Server::new([streams([
        confirmed(0, "s1"),
        batch([1, 2]),
        ending(2, v1::EndingReason::HeadReached),
    ])]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 2", "end"]).await;
    stream.commit(&event(2));
    stream.close().await.unwrap();
    assert_eq!(server.log(), "subscribe as team\ncommit s1 c2");
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_is_committed_also_before_the_last_word_is_taken() {
    let ended = |how: Step| streams([confirmed(0, "s1"), batch([1, 2]), how]);
    let whole = ending(2, v1::EndingReason::HeadReached);
    let server = Server::new([ended(whole)]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 2"]).await;
    stream.commit(&event(2));
    stream.flush().await.unwrap();
    gives(&mut stream, &["end"]).await;
    assert_eq!(server.log(), "subscribe as team\ncommit s1 c2");

    // Nor does an error that is final, and still to be taken, hide behind the wait.
    let server = Server::new([ended(Step::Fail(fenced()))]).answering_commits([Err(fenced())]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1 2"]).await;
    stream.commit(&event(2));
    let error = stream.flush().await.unwrap_err();
    assert_eq!(error.reason(), Some(v1::ErrorReason::Fenced));
    gives(&mut stream, &["error FENCED: no"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_passed_counts_also_when_the_event_before_is_noted_later() {
    let server = Server::new([streams([
        confirmed(0, "s1"),
        batch([1]),
        caught_up(7),
        Step::Hang,
    ])]);
    let mut stream = server.read_as_team();
    gives(&mut stream, &["events 1", "caught up"]).await;
    sleep(SECOND).await;
    stream.commit(&event(1));
    stream.close().await.unwrap();
    assert_eq!(server.log(), "subscribe as team\ncommit s1 c7");
}

#[tokio::test(start_paused = true)]
async fn what_was_noted_through_another_filter_is_not_committed_any_more() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([40, 100])]),
        // What was given comes again, so that what is noted now can't be committed yet.
        streams([
            confirmed(0, "s2"),
            batch([40]),
            ending(40, v1::EndingReason::SubscriptionChanged),
        ]),
        streams([
            through_another_filter(0, "s3"),
            batch([45, 50]),
            batch([110]),
            caught_up(110),
            Step::Hang,
        ]),
    ]);
    let mut stream = server.read_as_team();
    gives(
        &mut stream,
        &["events 40 100", "interrupted: the stream broke off"],
    )
    .await;
    stream.commit(&event(100));
    gives(&mut stream, &["events 45 50", "events 110", "caught up"]).await;
    sleep(10 * SECOND).await;
    stream.commit(&event(45));
    stream.flush().await.unwrap();
    let log = server.log();
    let (_, under_new) = log.rsplit_once("subscribe as team\n").unwrap();
    assert_eq!(under_new, "commit s3 c45");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_want_of_room_ends_no_session() {
    let server = Server::new([
        streams([confirmed(0, "s1"), batch([1])]),
        Scripted::Refuses(refusal(Code::ResourceExhausted, "LIMIT_REACHED", None)),
        streams([]),
    ])
    .answering_commits([Ok(()), Err(fenced())]);
    let mut stream = server.read_as_team();
    gives(
        &mut stream,
        &[
            "events 1",
            "interrupted: the stream broke off",
            "error FENCED: no",
        ],
    )
    .await;
    // Asked again whether another reader has come, it throws that one off no more than before.
    assert_eq!(
        server.log(),
        "subscribe as team\ncommit s1 c0\nsubscribe as team\ncommit s1 c0"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_where_the_wait_for_an_item_is_dropped() {
    let connection = |from: u64| {
        let steps = (from + 1..=from + 5)
            .flat_map(|at| [Step::Wait(Duration::from_millis(10)), batch([at])]);
        streams([confirmed(from, "")].into_iter().chain(steps))
    };
    let server = Server::new((0..20).map(|index| connection(index * 5)));
    let mut stream = server.follow();
    let mut last = 0;
    while last < 100 {
        // Shorter than anything that it waits for.
        let Ok(item) = timeout(Duration::from_millis(1), stream.next()).await else {
            continue;
        };
        if let Item::Events(events) = item.unwrap().unwrap() {
            assert_eq!(events.len(), 1);
            assert_eq!(events[0].sequence, last + 1);
            last += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_on_when_the_stream_is_dropped() {
    let hanging = || streams([confirmed(0, "s1"), batch([1]), batch([2]), Step::Hang]);
    let server = Server::new([hanging()]);
    let mut stream = server.read_as_team();
    next(&mut stream).await;
    assert!(Arc::strong_count(&server.0) > 1);
    drop(stream);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&server.0), 1);
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        0
    );
}
