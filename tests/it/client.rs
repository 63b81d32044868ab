//! The Rust client against the real server: kills, a connection that is dead and does not say so,
//! another reader. What the server can't be made to do is tested beside the client itself.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use provident::client::{Client, ClientError, ClientOptions, EventStream, Item};
use provident::wire::v1;
use provident::wire::v1::create_subscription_request::Start as CreateStart;

use crate::fixtures::mixed;
use crate::harness::{
    Launch, Random, Server, accepted, as_subscription, earliest, eventually, everything, following,
    latest, provident, scratch, within,
};

const TEAM: &str = "team";

/// A way to a server whose port changes, which can stop to carry anything.
#[derive(Debug)]
struct Way {
    url: String,
    upstream: Arc<Mutex<String>>,
    /// Connections up to this one carry nothing any more.
    frozen: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
}

impl Way {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let way = Self {
            url,
            upstream: Arc::new(Mutex::new(server.addresses.grpc.clone())),
            frozen: Arc::default(),
            count: Arc::default(),
        };
        let (upstream, frozen) = (Arc::clone(&way.upstream), Arc::clone(&way.frozen));
        let count = Arc::clone(&way.count);
        // Lasts as long as the test process: nothing waits for it.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let address = upstream.lock().unwrap().clone();
                let Ok(far) = TcpStream::connect(address) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let frozen = Arc::clone(&frozen);
                    std::thread::spawn(move || {
                        carry(from, to, || frozen.load(Ordering::SeqCst) >= number);
                    });
                }
            }
        });
        way
    }

    fn lead_to(&self, server: &Server) {
        server
            .addresses
            .grpc
            .clone_into(&mut self.upstream.lock().unwrap());
    }

    /// Connections that there are carry nothing any more, and stay open.
    fn freeze(&self) {
        let count = self.count.load(Ordering::SeqCst);
        self.frozen.store(count, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_frozen: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if is_frozen() {
            // What is written on either side is read, and goes nowhere.
            continue;
        }
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other side may have ended both already.
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}

/// A client that does not wait long between attempts, so that tests don't either.
fn client(url: &str) -> Client {
    Client::new(url).unwrap().with_options(ClientOptions {
        backoff_max: Duration::from_millis(50),
        commit_interval: Duration::from_millis(20),
        ..ClientOptions::default()
    })
}

async fn ensure_team(client: &Client) {
    let request = v1::CreateSubscriptionRequest {
        subscription_id: TEAM.to_owned(),
        filter: Some(everything()),
        start: Some(CreateStart::Position(v1::Position::Earliest.into())),
    };
    within(client.ensure_subscription(request)).await.unwrap();
}

async fn team(server: &Server) -> v1::Subscription {
    server.subscription(TEAM).await.unwrap()
}

/// Reads until the event with the last sequence, committing each; gives the sequences.
async fn read_to(stream: &mut EventStream, last: u64) -> Vec<u64> {
    let mut read = Vec::new();
    while read.last() != Some(&last) {
        match within(stream.next()).await.unwrap() {
            Some(Item::Events(events)) => {
                for event in &events {
                    read.push(event.sequence);
                    stream.commit(event);
                }
            }
            Some(Item::CaughtUp | Item::Interrupted(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    read
}

#[tokio::test]
async fn kills_of_the_server_lose_nothing_and_repeat_nothing() {
    let mut random = Random::of_run("kills_of_the_server_lose_nothing_and_repeat_nothing");
    let mut server = Server::start().await;
    let way = Way::to(&server);
    let client = client(&way.url);
    ensure_team(&client).await;
    let mut as_team = client.subscribe(as_subscription(TEAM, "outer tests"));
    let mut by_cursor = client.subscribe(following(latest()));
    // From now on nothing may be missed by either.
    within(async {
        for stream in [&mut as_team, &mut by_cursor] {
            while !matches!(stream.next().await.unwrap(), Some(Item::CaughtUp)) {}
        }
    })
    .await;

    let (mut written, mut last) = (0, 0);
    let (mut read_as_team, mut read_by_cursor) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        for _ in 0..=random.below(3) {
            let count = 1 + random.below(150);
            let results = server.ingest(mixed(written, count)).await;
            written += count;
            last = *accepted(&results).last().unwrap();
        }
        if random.once_in(2) {
            read_as_team.extend(read_to(&mut as_team, last).await);
        }
        server = server.restart().await;
        way.lead_to(&server);
    }
    for (stream, read) in [
        (&mut as_team, &mut read_as_team),
        (&mut by_cursor, &mut read_by_cursor),
    ] {
        if read.last() != Some(&last) {
            read.extend(read_to(stream, last).await);
        }
    }
    let all: Vec<u64> = (1..=last).collect();
    assert_eq!(read_as_team, all);
    assert_eq!(read_by_cursor, all);
    within(as_team.close()).await.unwrap();
    assert_eq!(team(&server).await.lag_events, 0);
}

#[tokio::test]
async fn a_dead_connection_that_says_nothing_is_noticed() {
    let server = Server::start().await;
    let way = Way::to(&server);
    let mut stream = client(&way.url).subscribe(v1::SubscribeRequest {
        // The shortest that there is.
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..following(latest())
    });
    let caught_up = within(stream.next()).await.unwrap();
    assert!(matches!(caught_up, Some(Item::CaughtUp)), "{caught_up:?}");
    way.freeze();
    let last = *accepted(&server.ingest(mixed(0, 3)).await).last().unwrap();
    let noticed = within(stream.next()).await.unwrap();
    let Some(Item::Interrupted(ClientError::Silent { after })) = noticed else {
        panic!("{noticed:?}");
    };
    assert_eq!(after, Duration::from_secs(3));
    assert_eq!(read_to(&mut stream, last).await, [1, 2, 3]);
}

#[tokio::test]
async fn another_reader_ends_the_first_for_good() {
    let server = Server::start().await;
    let client = client(&format!("http://{}", server.addresses.grpc));
    ensure_team(&client).await;
    // Of the same name: it stays as it is.
    ensure_team(&client).await;
    let last = *accepted(&server.ingest(mixed(0, 5)).await).last().unwrap();
    let mut first = client.subscribe(as_subscription(TEAM, "first"));
    assert_eq!(read_to(&mut first, last).await.len(), 5);
    within(first.flush()).await.unwrap();

    let mut second = client.subscribe(as_subscription(TEAM, "second"));
    let caught_up = within(second.next()).await.unwrap();
    assert!(matches!(caught_up, Some(Item::CaughtUp)), "{caught_up:?}");
    let error = loop {
        match within(first.next()).await {
            Ok(item) => assert!(matches!(item, Some(Item::CaughtUp)), "{item:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(v1::ErrorReason::Fenced));
    let last = *accepted(&server.ingest(mixed(5, 4)).await).last().unwrap();
    assert_eq!(read_to(&mut second, last).await, [6, 7, 8, 9]);
    let error = within(first.next()).await.unwrap_err();
    assert_eq!(error.reason(), Some(v1::ErrorReason::Fenced));
    assert_eq!(team(&server).await.active_reader.unwrap().reader, "second");
}

#[tokio::test]
async fn a_subscription_that_is_not_there_or_goes_is_told() {
    let server = Server::start().await;
    let client = client(&format!("http://{}", server.addresses.grpc));
    let mut stream = client.subscribe(as_subscription(TEAM, ""));
    let error = within(stream.next()).await.unwrap_err();
    let not_found = Some(v1::ErrorReason::SubscriptionNotFound);
    assert_eq!(error.reason(), not_found);

    ensure_team(&client).await;
    let mut stream = client.subscribe(as_subscription(TEAM, ""));
    let caught_up = within(stream.next()).await.unwrap();
    assert!(matches!(caught_up, Some(Item::CaughtUp)), "{caught_up:?}");
    let request = v1::DeleteSubscriptionRequest {
        subscription_id: TEAM.to_owned(),
    };
    let deleted = within(server.subscriptions().delete_subscription(request)).await;
    deleted.unwrap();
    let error = within(stream.next()).await.unwrap_err();
    assert_eq!(error.reason(), not_found);
}

#[tokio::test]
async fn a_probe_sends_an_event_and_sees_it_come_back() {
    let probe = |server: &Server, org: &[&str]| {
        let mut probe = provident();
        probe.args(["probe", "--round-trip", "--server", &server.addresses.grpc]);
        let output = probe.args(org).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 5)).await);
    for sequence in [6, 7] {
        let (came_back, said) = probe(&server, &[]);
        assert!(came_back, "{said}");
        assert!(said.contains(&format!("sequence {sequence}.")), "{said}");
    }
    // As others are, and each one new.
    assert_eq!(server.read_all(earliest()).await.len(), 7);

    let dir = scratch();
    let orgs = "acme.okta.com,other.okta.com";
    let server = Launch::on(dir.path())
        .with_env(&[("PROVIDENT_KEEP", "failures"), ("PROVIDENT_ORGS", orgs)])
        .start()
        .await;
    let (taken, said) = probe(&server, &["--org", "other.okta.com"]);
    assert!(taken && said.contains("is not kept"), "{said}");
    let (taken, said) = probe(&server, &[]);
    assert!(!taken && said.contains("org"), "{said}");

    let mut nobody = provident();
    nobody.args([
        "probe",
        "--round-trip",
        "--timeout",
        "1200ms",
        "--server",
        "127.0.0.1:1",
    ]);
    let output = nobody.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("gave no answer in 1s 200ms"), "{said}");
}

#[tokio::test]
async fn tail_ends_when_so_many_are_shown_or_says_that_there_are_fewer() {
    let server = Server::start().await;
    let url = format!("http://{}", server.addresses.grpc);
    accepted(&server.ingest(mixed(0, 5)).await);
    for (count, stop_at_head, shown) in [("2", false, 2), ("5", true, 5), ("6", true, 5)] {
        let mut tail = provident();
        tail.args(["tail", "--server", &url, "--from", "earliest"]);
        tail.args(["--all", "--output", "json", "--count", count]);
        let tail = tail.args(stop_at_head.then_some("--stop-at-head"));
        let output = tail.output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(lines.lines().count(), shown);
        assert_eq!(output.status.success(), count != "6");
        let says_why = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            says_why.contains("there are 5 such events, not 6"),
            count == "6"
        );
    }
}

#[tokio::test]
async fn tail_reads_as_a_subscription_and_commits_what_it_printed() {
    let server = Server::start().await;
    let url = format!("http://{}", server.addresses.grpc);
    ensure_team(&client(&url)).await;
    let mut printed = Vec::new();
    for round in 0..2 {
        accepted(&server.ingest(mixed(round * 3, 3)).await);
        let output = provident()
            .args(["tail", "--server", &url, "--subscription", TEAM])
            .args(["--stop-at-head", "--output", "json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        printed.push(lines.lines().count());
    }
    assert_eq!(printed, [3, 3]);
    let lag = eventually("the lag of the last commit", async || {
        Some(team(&server).await.lag_events)
    });
    assert_eq!(lag.await, 0);
}
