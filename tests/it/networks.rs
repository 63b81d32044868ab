//! Bad networks: whatever happens between clients and the server, nothing is lost or kept twice, and
//! who is slow, stuck or gone costs the others nothing.
//!
//! [`Proxy`] stands between real clients and the server. `PROVIDENT_NETWORK_ROUNDS` says how many
//! random histories are played, `PROVIDENT_SEED` repeats the choices of a run (not the machine's
//! timing). Memory is what the kernel says of the server's process; what it may be is worked out
//! from the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::fixtures::{self, Given, mixed_one};
use crate::harness::{
    ORG, Random, Server, accepted, after, earliest, eventually, everything, following, json,
    latest, say, setting, to_head, within,
};
use crate::proxy::{Proxy, Way, Weather};

/// So soon that a test can wait for it; far longer than a busy machine keeps a live client silent.
const KEEPALIVE: &str = "[grpc]\nkeepalive_interval = '1s'\nkeepalive_timeout = '2s'\n";

const MIB: u64 = 1024 * 1024;

const READERS: &str = "provident_readers";

/// How long a caller of a history waits for an answer, and a reader for a sign of life.
const SILENCE: Duration = Duration::from_secs(2);

/// A client with a connection of its own that begins with the first call.
fn client(address: &str) -> EventServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .tcp_nodelay(true)
        .connect_timeout(SILENCE);
    EventServiceClient::new(endpoint.connect_lazy())
}

fn ingest_request(events: &[Given]) -> v1::IngestRequest {
    v1::IngestRequest {
        org: ORG.to_owned(),
        inputs: events.iter().map(json).collect(),
    }
}

/// Waits until so many streams are open.
async fn until_readers(server: &Server, count: u32) {
    let count = f64::from(count);
    eventually("as many readers as there should be", async || {
        let open = server.metric(READERS).await;
        ((open - count).abs() < 0.5).then_some(())
    })
    .await;
}

/// A caller of a history: sends, and sends again what was not acknowledged.
struct Caller {
    address: String,
    random: Random,
    /// Number of the next event; each caller has its own numbers.
    next: u64,
    /// What was acknowledged, and where it is.
    acknowledged: BTreeMap<String, u64>,
    /// What was never acknowledged and not sent again either.
    given_up: BTreeSet<String>,
    sent_again: usize,
    duplicates: usize,
}

impl Caller {
    async fn send(&mut self, calls: u64) {
        let mut client = client(&self.address);
        for _ in 0..calls {
            let count = 1 + self.random.below(20);
            let events: Vec<_> = (self.next..self.next + count).map(mixed_one).collect();
            self.next += count;
            let mut failed = false;
            loop {
                let answer = timeout(SILENCE, client.ingest(ingest_request(&events))).await;
                if let Ok(Ok(answer)) = answer {
                    self.take(&events, &answer.into_inner().results, failed);
                    break;
                }
                if let Ok(Err(status)) = answer {
                    is_of_the_network(&status);
                }
                failed = true;
                if self.random.once_in(8) {
                    self.given_up
                        .extend(events.iter().map(|event| event.uuid.clone()));
                    break;
                }
                self.sent_again += 1;
                // The connection may be one that the server knows nothing of any more.
                client = self::client(&self.address);
            }
        }
    }

    fn take(&mut self, events: &[Given], results: &[v1::IngestResult], failed: bool) {
        assert_eq!(results.len(), events.len());
        for (event, result) in events.iter().zip(results) {
            assert_eq!(result.uuid, event.uuid);
            match result.status() {
                v1::IngestStatus::Accepted => {}
                // Only what was on its way before can be there already.
                v1::IngestStatus::Duplicate if failed => self.duplicates += 1,
                other => panic!("{other:?} for {}: {result:?}", event.uuid),
            }
            let before = self
                .acknowledged
                .insert(event.uuid.clone(), result.sequence);
            assert_eq!(before, None);
        }
    }
}

/// A cut call may fail in many ways, but never as if what was asked were wrong.
#[track_caller]
fn is_of_the_network(status: &Status) {
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        ),
        "{status:?}"
    );
}

/// A reader of a history: goes on where it was whenever its stream ends or falls silent.
struct Follower {
    address: String,
    random: Random,
    filter: v1::Filter,
    cursor: Option<String>,
    /// The newest sequence it had when it noted that cursor.
    cursor_covers: u64,
    /// Each sequence once, in the order in which it first came.
    seen: Vec<u64>,
    repeated: usize,
    resumed: usize,
}

impl Follower {
    fn request(&self) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            filter: Some(self.filter.clone()),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..following(self.cursor.as_deref().map_or_else(earliest, after))
        }
    }

    /// Reads through bad weather until it is over, then the rest.
    async fn follow(&mut self, mut over: watch::Receiver<bool>) {
        while !*over.borrow() {
            let mut client = client(&self.address);
            let opened = tokio::select! {
                _ = over.wait_for(|over| *over) => break,
                opened = timeout(SILENCE, client.subscribe(self.request())) => opened,
            };
            match opened {
                Ok(Ok(stream)) => {
                    let stream = stream.into_inner();
                    // What is on its way when it is over comes again after the cursor.
                    tokio::select! {
                        _ = over.wait_for(|over| *over) => break,
                        () = self.read(stream) => {}
                    }
                }
                Ok(Err(status)) => is_of_the_network(&status),
                Err(_silent) => {}
            }
            self.resumed += 1;
        }
        let request = v1::SubscribeRequest {
            stop_at_head: true,
            ..self.request()
        };
        let stream = within(client(&self.address).subscribe(request)).await;
        self.read(stream.unwrap().into_inner()).await;
    }

    async fn read(&mut self, mut stream: Streaming<v1::SubscribeResponse>) {
        let mut last = self.cursor_covers;
        loop {
            let response = match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Err(status)) => return is_of_the_network(&status),
                Ok(Ok(None)) | Err(_) => return,
            };
            let cursor = match response.message.unwrap() {
                Message::Confirmation(confirmation) => confirmation.start_cursor,
                Message::Batch(batch) => {
                    for event in &batch.events {
                        assert!(event.sequence > last, "{} after {last}", event.sequence);
                        last = event.sequence;
                        self.take(last);
                    }
                    let noted = if self.random.once_in(3) {
                        // What comes after it in the batch comes again if the stream ends here.
                        self.random.pick(&batch.events)
                    } else {
                        batch.events.last().unwrap()
                    };
                    self.cursor_covers = noted.sequence;
                    self.cursor = Some(noted.cursor.clone());
                    continue;
                }
                Message::Heartbeat(heartbeat) => heartbeat.cursor,
                Message::CaughtUp(caught_up) => caught_up.cursor,
                Message::Ending(ending) => ending.cursor,
                Message::Gap(gap) => panic!("a gap where nothing is lost: {gap:?}"),
            };
            self.cursor = Some(cursor);
            self.cursor_covers = last;
        }
    }

    fn take(&mut self, sequence: u64) {
        if self.seen.last().is_none_or(|newest| *newest < sequence) {
            self.seen.push(sequence);
        } else {
            assert!(
                self.seen.contains(&sequence),
                "{sequence} was left out before"
            );
            self.repeated += 1;
        }
    }
}

fn filters() -> [v1::Filter; 4] {
    [
        everything(),
        v1::Filter::default(),
        v1::Filter {
            application_ids: vec![fixtures::application_id(2)],
            ..everything()
        },
        v1::Filter {
            expression: "target.id eq \"nobody\"".to_owned(),
            ..everything()
        },
    ]
}

/// Callers and readers through random weather. Gives the number after the last event.
async fn play(server: &Server, random: &mut Random, first: u64) -> u64 {
    /// More than a caller can use up.
    const NUMBERS: u64 = 10_000;
    let proxy = Proxy::start(&server.addresses.grpc, random.fork()).await;
    proxy.set(Weather::Random);
    let (over, is_over) = watch::channel(false);
    let mut readers = JoinSet::new();
    for filter in filters() {
        let mut follower = Follower {
            address: proxy.address.clone(),
            random: random.fork(),
            filter,
            cursor: None,
            cursor_covers: 0,
            seen: Vec::new(),
            repeated: 0,
            resumed: 0,
        };
        let is_over = is_over.clone();
        readers.spawn(async move {
            follower.follow(is_over).await;
            follower
        });
    }
    let mut callers = JoinSet::new();
    for caller in 0..3 {
        let mut caller = Caller {
            address: proxy.address.clone(),
            random: random.fork(),
            next: first + caller * NUMBERS,
            acknowledged: BTreeMap::new(),
            given_up: BTreeSet::new(),
            sent_again: 0,
            duplicates: 0,
        };
        callers.spawn(async move {
            caller.send(25).await;
            caller
        });
    }
    let callers = callers.join_all().await;
    proxy.set(Weather::Fair);
    over.send_replace(true);
    let followers = within(readers.join_all()).await;

    let mut kept = BTreeMap::new();
    for event in server.read_all(earliest()).await {
        let uuid = event.event.unwrap().uuid;
        let again = kept.insert(uuid, event.sequence);
        assert_eq!(again, None, "kept twice");
    }
    for caller in &callers {
        for (uuid, sequence) in &caller.acknowledged {
            assert_eq!(kept.get(uuid), Some(sequence), "{uuid} was acknowledged");
        }
    }
    let known: BTreeSet<_> = callers
        .iter()
        .flat_map(|caller| caller.acknowledged.keys().chain(&caller.given_up))
        .collect();
    let of_this_round = kept
        .keys()
        .filter(|uuid| fixtures::number(uuid) >= first)
        .collect::<BTreeSet<_>>();
    assert!(of_this_round.is_subset(&known), "kept, but never sent");
    for follower in &followers {
        let fresh = v1::SubscribeRequest {
            filter: Some(follower.filter.clone()),
            ..to_head(earliest())
        };
        let fresh = server.subscribe(fresh).await.unwrap().read_to_end().await;
        let fresh: Vec<_> = fresh.events.iter().map(|event| event.sequence).collect();
        assert_eq!(follower.seen, fresh, "{:?}", follower.filter);
    }
    let of_callers = |count: fn(&Caller) -> usize| callers.iter().map(count).sum::<usize>();
    let of_readers = |count: fn(&Follower) -> usize| followers.iter().map(count).sum::<usize>();
    say(&format!(
        "networks: {}; {} events acknowledged, {} calls sent again, {} events known already, {} given \
         up; {} resumes, {} events repeated after one",
        proxy.faults.text(),
        of_callers(|caller| caller.acknowledged.len()),
        of_callers(|caller| caller.sent_again),
        of_callers(|caller| caller.duplicates),
        of_callers(|caller| caller.given_up.len()),
        of_readers(|follower| follower.resumed),
        of_readers(|follower| follower.repeated),
    ));
    first + 3 * NUMBERS
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_kept_twice_whatever_the_network_does() {
    let mut random = Random::of_run("networks");
    let server = Server::start_configured(KEEPALIVE).await;
    let mut first = 0;
    for _ in 0..setting("PROVIDENT_NETWORK_ROUNDS").unwrap_or(2) {
        first = play(&server, &mut random, first).await;
    }
    // What cut connections left behind is gone, too.
    until_readers(&server, 0).await;
}

/// Opens a stream and reads its first message.
async fn open(
    client: &mut EventServiceClient<Channel>,
    request: v1::SubscribeRequest,
) -> Streaming<v1::SubscribeResponse> {
    let mut stream = within(client.subscribe(request))
        .await
        .unwrap()
        .into_inner();
    within(stream.message()).await.unwrap().unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_client_that_vanished_are_given_up() {
    let server = Server::start_configured(KEEPALIVE).await;
    // Its network is well; it only has nothing to say.
    let mut quiet = open(&mut server.events(), following(latest())).await;
    for weather in [Weather::HalfOpen, Weather::Stall(Way::Both)] {
        let proxy = Proxy::start(&server.addresses.grpc, Random::of_run("vanished")).await;
        let mut client = client(&proxy.address);
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(open(&mut client, following(latest())).await);
        }
        until_readers(&server, 4).await;
        proxy.set(weather);
        until_readers(&server, 1).await;
    }
    accepted(&server.ingest([mixed_one(1)]).await);
    loop {
        let message = within(quiet.message()).await.unwrap().unwrap().message;
        if let Some(Message::Batch(batch)) = message {
            assert_eq!(batch.events[0].sequence, 1);
            break;
        }
    }
}

/// An event of some 32 KiB stored, half of which is its raw JSON.
fn large(number: u64) -> Given {
    let mut event = mixed_one(number).value();
    event["debugContext"]["debugData"]["payload"] = "x".repeat(15 * 1024).into();
    Given {
        uuid: fixtures::uuid(number),
        json: event.to_string(),
    }
}

/// Ingests large events by the number, and gives their cursors.
async fn ingest_large(server: &Server, numbers: std::ops::Range<u64>) -> Vec<String> {
    let mut cursors = Vec::new();
    for first in numbers.clone().step_by(20) {
        let events: Vec<_> = (first..numbers.end.min(first + 20)).map(large).collect();
        let results = server.ingest(events).await;
        accepted(&results);
        cursors.extend(results.into_iter().map(|result| result.cursor));
    }
    cursors
}

/// A connection whose streams may be sent so much that nobody has read.
async fn windowed(address: &str, stream: u32, connection: u32) -> EventServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection);
    EventServiceClient::new(within(endpoint.connect()).await.unwrap())
        .max_decoding_message_size(64 << 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_never_read_cost_little_memory_and_nobody_else_anything() {
    const STUCK: u32 = 200;
    const LIVE: u32 = 800;
    const EVENTS: u64 = 200;
    /// What one stream may hold that nobody reads, see `docs/reliability.md`: a chunk read ahead
    /// (256 KiB, or the matches of it), a batch laid out (256 KiB) that waits for room, and
    /// what HTTP/2 has taken (400 KiB, and the end of a batch).
    const STUCK_BYTES_MAX: u64 = (256 + 256 + 400 + 256) * 1024;
    /// The ring, the store's cache and memtables, the 16 MiB of events themselves, and what the
    /// allocator keeps.
    const REST_BYTES_MAX: u64 = 192 * MIB;
    let server = Server::start_configured("[subscribe]\ntail_bytes_max = '4MiB'\n").await;
    let address = server.addresses.grpc.clone();
    let proxy = Proxy::start(&address, Random::of_run("stuck")).await;
    let at_rest = server.process.memory_bytes();

    let cursors = ingest_large(&server, 0..EVENTS).await;
    // Half of them take no more than their windows hold, half are on a connection that is not read.
    let mut narrow = windowed(&address, 65_535, 64 << 20).await;
    let wide = windowed(&proxy.address, 1 << 20, 256 << 20).await;
    proxy.set(Weather::Stall(Way::ToClient));
    let mut stuck = Vec::new();
    let mut opening = JoinSet::new();
    for number in 0..STUCK {
        // Each reads another part of the journal, so what they hold is not shared.
        let from = usize::try_from(number).unwrap() * cursors.len() / 2 / STUCK as usize;
        let request = v1::SubscribeRequest {
            include_raw: true,
            ..following(after(&cursors[from]))
        };
        let first = from as u64 + 2;
        if number % 2 == 0 {
            stuck.push((first, within(narrow.subscribe(request)).await.unwrap()));
        } else {
            let mut wide = wide.clone();
            opening.spawn(async move { (first, wide.subscribe(request).await) });
        }
    }
    until_readers(&server, STUCK).await;

    let last = 2 * EVENTS;
    let mut live = JoinSet::new();
    for number in 0..LIVE {
        // Streams of one connection: as many as it may have.
        if number % 200 == 0 {
            narrow = windowed(&address, 65_535, 64 << 20).await;
        }
        // Most want a few, because this process has to read it all.
        let wants_all = number % 40 == 0;
        let filter = v1::Filter {
            transaction_ids: if wants_all {
                Vec::new()
            } else {
                vec![fixtures::transaction_id(last - 1)]
            },
            ..everything()
        };
        let request = v1::SubscribeRequest {
            filter: Some(filter),
            ..following(latest())
        };
        let mut stream = open(&mut narrow, request).await;
        live.spawn(async move {
            let mut seen = Vec::new();
            while seen.last() != Some(&last) {
                let message = stream.message().await.unwrap().unwrap().message;
                if let Some(Message::Batch(batch)) = message {
                    seen.extend(batch.events.iter().map(|event| event.sequence));
                }
            }
            let first = if wants_all { EVENTS + 1 } else { last - 3 };
            assert_eq!(seen, (first..=last).collect::<Vec<_>>());
        });
    }
    until_readers(&server, STUCK + LIVE).await;
    let open = server.process.memory_bytes();
    ingest_large(&server, EVENTS..last).await;
    within(live.join_all()).await;
    let held = server.process.memory_bytes();
    let bound = REST_BYTES_MAX + u64::from(STUCK) * STUCK_BYTES_MAX;
    say(&format!(
        "stuck: {} MiB at rest, {} MiB with {} streams open, {} MiB after {} MiB of events; {} MiB \
         are allowed",
        at_rest / MIB,
        open / MIB,
        STUCK + LIVE,
        held / MIB,
        EVENTS * 32 * 1024 / MIB,
        bound / MIB
    ));
    assert!(held < bound, "{held} bytes, {bound} are allowed");

    proxy.set(Weather::Fair);
    while let Some(opened) = opening.join_next().await {
        let (first, opened) = opened.unwrap();
        stuck.push((first, opened.unwrap()));
    }
    // All of them would be gigabytes; the others' places are given up.
    for (first, stream) in stuck.into_iter().step_by(10) {
        let mut stream = stream.into_inner();
        let mut next = first;
        while next <= last {
            let message = within(stream.message()).await.unwrap().unwrap().message;
            if let Some(Message::Batch(batch)) = message {
                for event in batch.events {
                    assert_eq!(event.sequence, next);
                    next += 1;
                }
            }
        }
    }
    drop((narrow, wide));
    until_readers(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_closed_and_keep_nobody_out() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let server = Server::start_configured(KEEPALIVE).await;
    let mut silent = Vec::new();
    // As many as there may be connections: nothing, half a greeting, a greeting and no more.
    for number in 0..1_000 {
        let mut stream = within(TcpStream::connect(&server.addresses.grpc))
            .await
            .unwrap();
        let said = [0, PREFACE.len() / 2, PREFACE.len()][number % 3];
        within(stream.write_all(&PREFACE[..said])).await.unwrap();
        silent.push(stream);
    }
    let mut client = client(&server.addresses.grpc);
    let answer = within(client.ingest(ingest_request(&[mixed_one(1)]))).await;
    accepted(&answer.unwrap().into_inner().results);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_over_a_limit_waits_and_nobody_else_does() {
    let limits = "[grpc]\nconnections_max = 3\nstreams_per_connection_max = 2\n";
    // One connection is the harness' own.
    let server = Server::start_configured(limits).await;
    let mut full = client(&server.addresses.grpc);
    let first = open(&mut full, following(latest())).await;
    let _second = open(&mut full, following(latest())).await;
    let mut third = full.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { drop(open(&mut third, following(latest())).await) });
    let mut last = client(&server.addresses.grpc);
    let events = |number| ingest_request(&[mixed_one(number)]);
    accepted(
        &within(last.ingest(events(1)))
            .await
            .unwrap()
            .into_inner()
            .results,
    );
    let mut one_more = client(&server.addresses.grpc);
    let mut later = JoinSet::new();
    later.spawn(async move { one_more.ingest(events(2)).await });
    // Those who were let in are served while the others wait.
    for number in 3..20 {
        let answer = within(last.ingest(events(number))).await.unwrap();
        accepted(&answer.into_inner().results);
    }
    assert!(waiting.try_join_next().is_none() && later.try_join_next().is_none());
    drop(first);
    within(waiting.join_all()).await;
    drop(last);
    let answer = within(later.join_all()).await.remove(0).unwrap();
    accepted(&answer.into_inner().results);
}

/// The start of a call of Ingest whose message lacks its last bytes, for ever.
fn endless_call(bytes: u32) -> tonic::codegen::http::Request<tonic::body::Body> {
    use futures_util::StreamExt as _;
    const PIECE: &[u8] = &[b'x'; 64 * 1024];
    let mut start = vec![0];
    start.extend(bytes.to_be_bytes());
    let pieces = (bytes as usize - 1) / PIECE.len();
    let sent = std::iter::once(Bytes::from(start))
        .chain(std::iter::repeat_n(Bytes::from_static(PIECE), pieces));
    let sent = futures_util::stream::iter(sent).map(|piece| Ok(hyper::body::Frame::data(piece)));
    let body: UnsyncBoxBody<Bytes, Status> =
        UnsyncBoxBody::new(StreamBody::new(sent.chain(futures_util::stream::pending())));
    tonic::codegen::http::Request::post("/provident.v1.EventService/Ingest")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_hold_bounded_memory_and_are_given_up() {
    use tonic::codegen::Service as _;
    const CALLS: u64 = 768;
    const BUDGET: u64 = 16 * MIB;
    let limits = "[grpc]\nmessage_bytes_max = '4MiB'\nrequests_bytes_max = '16MiB'\n\
                  request_timeout = '3s'\n";
    let server = Server::start_configured(limits).await;
    let at_rest = server.process.memory_bytes();
    let mut calls = JoinSet::new();
    for connection in 0..4 {
        let channel = server.new_channel().await;
        for _ in 0..CALLS / 4 {
            let mut channel = channel.clone();
            calls.spawn(async move {
                std::future::poll_fn(|cx| channel.poll_ready(cx))
                    .await
                    .unwrap();
                let answer = channel.call(endless_call(4 << 20)).await;
                let status = answer.map(|answer| {
                    Status::from_header_map(answer.headers()).expect("a refusal has no message")
                });
                (connection, status)
            });
        }
    }
    let mut most = 0;
    let mut refused = BTreeMap::<String, usize>::new();
    while !calls.is_empty() {
        most = most.max(server.process.memory_bytes());
        // Small requests never wait for large ones.
        assert!(server.health().await.is_ok());
        while let Some(answer) = calls.try_join_next() {
            let (_, status) = answer.unwrap();
            let status = status.unwrap();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            *refused.entry(status.message().to_owned()).or_default() += 1;
        }
        tokio::task::yield_now().await;
    }
    say(&format!(
        "endless requests: {} MiB at rest, at most {} MiB with {CALLS} calls of up to 4 MiB; {refused:?}",
        at_rest / MIB,
        most / MIB
    ));
    assert_eq!(refused.len(), 2, "{refused:?}");
    // What is taken in, what HTTP/2 holds for four connections, and as much for the allocator.
    let bound = at_rest + 2 * (BUDGET + 4 * 2 * MIB) + 32 * MIB;
    assert!(most < bound, "{most} bytes, {bound} are allowed");
    accepted(&server.ingest([mixed_one(1)]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickling_caller_is_served_and_holds_nobody_up() {
    let server = Server::start().await;
    let proxy = Proxy::start(&server.addresses.grpc, Random::of_run("trickle")).await;
    proxy.set(Weather::Trickle {
        bytes: 1,
        pause: Duration::from_millis(1),
    });
    let mut slow = client(&proxy.address);
    let mut trickled = JoinSet::new();
    trickled.spawn(async move { slow.ingest(ingest_request(&[mixed_one(0)])).await });
    let mut others = 0;
    let answer = loop {
        others += 1;
        accepted(&server.ingest([mixed_one(others)]).await);
        if let Some(answer) = trickled.try_join_next() {
            break answer.unwrap();
        }
    };
    accepted(&answer.unwrap().into_inner().results);
    say(&format!("trickle: {others} calls of others meanwhile"));
    assert!(others > 1);
}
