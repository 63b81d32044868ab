//! A disk that fails: nothing is promised that is not there, and the server stops for good.
//!
//! The server runs under libfiu, which lets a chosen call of the system fail from a chosen moment
//! on, once, always or now and then, while callers ingest, a reader follows and a subscription
//! commits. Then:
//!
//! - when a flush has failed, no call that begins later is answered ACCEPTED;
//! - who stops says `NOT_SERVING` first, ends the streams in words, and exits with 1 and a reason;
//! - a start without faults finds every accepted event once and in its place, everything that a
//!   reader was shown, the committed place; and what had no answer is taken when it is sent again;
//! - a start with faults serves or says why it doesn't, and changes nothing that the next one needs.
//!
//! Faults hit fjall's threads too (tables, merges, files of the journal that are made and removed):
//! generations are small here. A call that writes (`write`) can't be told from the one by which
//! tokio wakes its own threads, and tokio panics when that fails: such a cycle is counted apart,
//! and only what is on disk is looked at.
//!
//! Needs `fiu-run` (Debian: fiu-utils). Where it is missing, the test says so, and fails if
//! `PROVIDENT_REQUIRE_FIU` is 1. `PROVIDENT_DISK_FAULTS` is how many faults.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use provident::wire::v1::subscription_service_client::SubscriptionServiceClient;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

use crate::disk::{check, run};
use crate::fixtures;
use crate::harness::{
    self, Launch, Process, Random, Reader, Server, answered, as_subscription, commit_request,
    earliest, eventually, everything, following, ingest_request, is_gone, say, setting, within,
};

const CALLERS: u64 = 4;

/// Events after which a fault that was not met is given up: several generations.
const EVENTS_AFTER: usize = 4_000;

const SUBSCRIPTION: &str = "team";

const EIO: u8 = 5;
const ENOSPC: u8 = 28;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Often {
    Once,
    Always,
    Sometimes,
}

/// A call of the system that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    point: &'static str,
    errno: u8,
    often: Often,
    /// The next batch has to meet it.
    is_met: bool,
}

const fn fault(point: &'static str, errno: u8, often: Often) -> Fault {
    Fault {
        point,
        errno,
        often,
        is_met: false,
    }
}

const fn met(fault: Fault) -> Fault {
    Fault {
        is_met: true,
        ..fault
    }
}

const FAULTS: [Fault; 15] = [
    met(fault("posix/io/sync/fdatasync", EIO, Often::Once)),
    fault("posix/io/sync/fsync", EIO, Often::Once),
    fault("posix/io/rw/write", ENOSPC, Often::Once),
    fault("posix/io/rw/pread", EIO, Often::Always),
    met(fault("posix/io/sync/fdatasync", EIO, Often::Always)),
    fault("posix/io/dir/rename", EIO, Often::Once),
    fault("posix/io/rw/write", EIO, Often::Once),
    fault("posix/io/sync/*", EIO, Often::Sometimes),
    met(fault("posix/io/sync/fdatasync", ENOSPC, Often::Once)),
    fault("posix/io/rw/ftruncate", ENOSPC, Often::Always),
    fault("posix/io/rw/pread", EIO, Often::Once),
    fault("posix/io/oc/open", EIO, Often::Once),
    fault("posix/io/sync/fsync", ENOSPC, Often::Always),
    fault("posix/io/dir/unlink", EIO, Often::Always),
    fault("posix/io/oc/open", EIO, Often::Always),
];

impl Fault {
    fn command(self) -> String {
        let Self { point, errno, .. } = self;
        match self.often {
            Often::Once => format!("enable name={point},onetime,failinfo={errno}"),
            Often::Always => format!("enable name={point},failinfo={errno}"),
            Often::Sometimes => {
                format!("enable_random name={point},probability=0.1,failinfo={errno}")
            }
        }
    }

    /// tokio wakes its threads by a write, too.
    fn may_hit_tokio(self) -> bool {
        self.point == "posix/io/rw/write"
    }
}

/// What is known of one cycle.
#[derive(Debug, Default)]
struct Known {
    /// The sequence of each event that was accepted.
    answered: Mutex<HashMap<u64, u64>>,
    unknown: Mutex<Vec<u64>>,
    events: AtomicUsize,
    /// From now on the next flush fails, or one has failed.
    is_failed: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_stops_the_server_and_takes_nothing_back() {
    let required = setting::<u8>("PROVIDENT_REQUIRE_FIU") == Some(1);
    if let Err(problem) = run(Command::new("fiu-run").args(["-x", "-f", "", "true"])) {
        say(&format!("failing disk: NOT RUN, no fiu here: {problem}"));
        assert!(!required, "failing disks can't be tested here: {problem}");
        return;
    }
    let cycles: usize = setting("PROVIDENT_DISK_FAULTS").unwrap_or(4);
    let mut random = Random::of_run("failing disk");
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut accepted = 0;
    for fault in FAULTS.into_iter().cycle().take(cycles) {
        let scratch = harness::scratch();
        let (outcome, count) = cycle(fault, scratch.path(), &mut random).await;
        let Fault {
            point,
            errno,
            often,
            ..
        } = fault;
        let point = point.trim_start_matches("posix/io/");
        *outcomes
            .entry(format!("{point} {errno} {often:?}: {outcome}"))
            .or_default() += 1;
        accepted += count;
    }
    say(&format!(
        "failing disk: {cycles} faults, {accepted} accepted events looked for and found; \
         {outcomes:#?}"
    ));
}

async fn cycle(fault: Fault, scratch: &Path, random: &mut Random) -> (String, usize) {
    let config = scratch.join("provident.toml");
    let text = "[journal]\ngeneration_bytes_max = \"1MiB\"\n[storage]\nreserve = \"1MiB\"\n";
    std::fs::write(&config, text).unwrap();
    let launch = Launch::on(&scratch.join("data")).with(&["--config", config.to_str().unwrap()]);
    let control = scratch.join("fiu");
    let control = control.to_str().unwrap();
    let under_fiu = launch.clone().through(&["fiu-run", "-x", "-f", control]);

    let mut server = under_fiu.start().await;
    let known = Arc::new(Known::default());
    let others = Others::start(&server).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(
            server.new_channel().await,
            Arc::clone(&known),
            caller << 32,
            1 + caller * 6,
        ));
    }
    let before = 300 + usize::try_from(random.below(2_000)).unwrap();
    let events = || known.events.load(Ordering::Relaxed);
    eventually("events before the fault", async || {
        (events() >= before).then_some(())
    })
    .await;
    let pid = server.process.pid().as_raw_nonzero().to_string();
    let enable = run(Command::new("timeout").args([
        "30",
        "fiu-ctrl",
        "-f",
        control,
        "-c",
        &fault.command(),
        &pid,
    ]));
    if fault.is_met && fault.often == Often::Always {
        known.is_failed.store(true, Ordering::Relaxed);
    }
    // The fault may stop the process before the control has its answer.
    let status = eventually("an end, or many events", async || {
        let status = server.process.has_ended();
        (status.is_some() || (!fault.is_met && events() >= before + EVENTS_AFTER))
            .then_some(status)
            .or_else(|| is_void(fault, &server.process).then_some(None))
    })
    .await;
    let outcome = match status {
        _ if is_void(fault, &server.process) => "hit tokio",
        Some(status) => {
            assert_eq!(status.code(), Some(1), "{}", server.process.log_text());
            "stopped"
        }
        None => {
            enable.unwrap();
            server.process.signal(Signal::TERM);
            server.process.ended().await;
            "went on"
        }
    };
    server.process.kill();
    let log = server.process.log_text();
    while let Some(ended) = within(callers.join_next()).await {
        ended.unwrap();
    }
    let others = others.end().await;
    if !is_void(fault, &server.process) {
        assert!(!log.contains("panicked"), "{fault:?}\n{log}");
        let is_told = log.lines().any(|line| line.starts_with("error: "));
        assert_eq!(is_told, status.is_some(), "{fault:?}\n{log}");
        others.check_ends(&format!("{fault:?}\n{log}"));
    }
    drop(server);

    start_with_faults(fault, &launch, control, random).await;
    let server = launch.start().await;
    let answered = known.answered.lock().unwrap().clone();
    let journal = check(&server, &answered, &answered).await;
    others.check_kept(&server, &journal).await;
    let unknown = std::mem::take(&mut *known.unknown.lock().unwrap());
    send_again(&server, &unknown, &journal).await;
    (outcome.to_owned(), answered.len())
}

/// Whether the fault hit what tokio writes rather than what we do.
fn is_void(fault: Fault, process: &Process) -> bool {
    fault.may_hit_tokio() && process.log_text().contains("failed to wake I/O driver")
}

/// Ingests until a call fails.
async fn call(channel: Channel, known: Arc<Known>, mut next: u64, batch: u64) {
    loop {
        let numbers = next..next + batch;
        next += batch;
        let was_failed = known.is_failed.load(Ordering::Relaxed);
        match ingest(&channel, numbers.clone()).await {
            Ok(results) => {
                assert!(!was_failed, "accepted after a failed flush: {results:?}");
                known.events.fetch_add(results.len(), Ordering::Relaxed);
                let mut answered = known.answered.lock().unwrap();
                for (number, result) in numbers.zip(results) {
                    assert_eq!(result.status(), v1::IngestStatus::Accepted, "{result:?}");
                    answered.insert(number, result.sequence);
                }
            }
            Err(status) => {
                // Without a reason it is the connection that broke, when the process was gone.
                let is_ours = status.get_error_details().error_info().is_some();
                let is_told = !is_ours || status.code() == Code::Unavailable;
                assert!(is_told, "{status:?}");
                known.is_failed.store(true, Ordering::Relaxed);
                known.unknown.lock().unwrap().extend(numbers);
                return;
            }
        }
    }
}

async fn ingest(
    channel: &Channel,
    numbers: impl Iterator<Item = u64>,
) -> Result<Vec<v1::IngestResult>, Status> {
    let mut client = EventServiceClient::new(channel.clone());
    let answer = answered(channel, client.ingest(ingest_request(numbers))).await?;
    Ok(answer.into_inner().results)
}

/// What goes on beside the callers.
struct Others {
    follower: JoinSet<Followed>,
    subscriber: JoinSet<Committed>,
    health: JoinSet<Option<ServingStatus>>,
}

/// What a reader saw, and how its stream ended.
#[derive(Debug, Default)]
struct Followed {
    shown: Vec<(u64, String)>,
    ending: Option<v1::StreamEnding>,
    status: Option<Status>,
}

/// Places of a subscription: the last one that was answered, and the last one that was asked for.
#[derive(Debug, Default)]
struct Committed {
    answered: String,
    asked: String,
}

struct Ended {
    followed: Followed,
    committed: Committed,
    health: Option<ServingStatus>,
}

impl Others {
    async fn start(server: &Server) -> Self {
        server.create_subscription(SUBSCRIPTION, everything()).await;
        let follower = server.subscribe(following(earliest())).await.unwrap();
        let subscriber = server
            .subscribe(as_subscription(SUBSCRIPTION, "outer tests"))
            .await
            .unwrap();
        let mut health = HealthClient::new(server.new_channel().await);
        let health = within(health.watch(HealthCheckRequest::default())).await;
        Self {
            follower: alone(follow(follower)),
            subscriber: alone(commit(subscriber, server.channel())),
            health: alone(last_health(health.unwrap().into_inner())),
        }
    }

    async fn end(mut self) -> Ended {
        Ended {
            followed: joined(&mut self.follower).await,
            committed: joined(&mut self.subscriber).await,
            health: joined(&mut self.health).await,
        }
    }
}

fn alone<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    tasks
}

async fn joined<T: 'static>(tasks: &mut JoinSet<T>) -> T {
    within(tasks.join_next()).await.unwrap().unwrap()
}

async fn follow(mut reader: Reader) -> Followed {
    let mut followed = Followed::default();
    loop {
        match reader.next().await {
            Ok(Some(Message::Batch(batch))) => {
                let shown = batch.events.into_iter();
                followed
                    .shown
                    .extend(shown.map(|event| (event.sequence, event.event.unwrap().uuid)));
            }
            Ok(Some(Message::Ending(ending))) => followed.ending = Some(ending),
            Ok(Some(_)) => {}
            Ok(None) => return followed,
            Err(status) => {
                followed.status = Some(status);
                return followed;
            }
        }
    }
}

async fn commit(mut reader: Reader, channel: Channel) -> Committed {
    let mut client = SubscriptionServiceClient::new(channel.clone());
    let session = reader.confirmation().await.session;
    let mut committed = Committed::default();
    while let Ok(Some(message)) = reader.next().await {
        let Message::Batch(batch) = message else {
            continue;
        };
        committed.asked = batch.events.last().unwrap().cursor.clone();
        let request = commit_request(SUBSCRIPTION, &session, &committed.asked);
        if answered(&channel, client.commit(request)).await.is_err() {
            break;
        }
        committed.answered.clone_from(&committed.asked);
    }
    committed
}

async fn last_health(mut watch: Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let mut last = None;
    while let Ok(Some(answer)) = watch.message().await {
        last = Some(answer.status());
    }
    last
}

impl Ended {
    /// The end was told: of the streams in words, of the health before the process was gone.
    fn check_ends(&self, context: &str) {
        let Followed { ending, status, .. } = &self.followed;
        let is_told = match (ending, status) {
            (Some(ending), None) => ending.reason() == v1::EndingReason::Drain,
            (None, Some(status)) => is_gone(status),
            _ => false,
        };
        assert!(is_told, "{ending:?} {status:?} {context}");
        assert_eq!(self.health, Some(ServingStatus::NotServing), "{context}");
    }

    /// What was shown is there, and the subscription stands where it was committed.
    async fn check_kept(&self, server: &Server, journal: &HashMap<u64, u64>) {
        for (sequence, uuid) in &self.followed.shown {
            let number = fixtures::number(uuid);
            assert_eq!(
                journal.get(&number),
                Some(sequence),
                "event {number} was shown as {sequence}"
            );
        }
        let place = server.subscription(SUBSCRIPTION).await.unwrap();
        let Committed { answered, asked } = &self.committed;
        let place = place.committed_cursor;
        assert!(
            answered.is_empty() || &place == answered || &place == asked,
            "it stands at {place}, {answered} was answered and {asked} asked for"
        );
    }
}

/// Starts on a disk that fails now and then: it serves, or says why it doesn't.
async fn start_with_faults(fault: Fault, launch: &Launch, control: &str, random: &mut Random) {
    // What tokio writes can't be told apart.
    if fault.may_hit_tokio() {
        return;
    }
    let chance = *random.pick(&["0.02", "0.1", "0.5"]);
    let point = fault.point;
    let command = format!(
        "enable_random name={point},probability={chance},failinfo={}",
        fault.errno
    );
    let launch = launch
        .clone()
        .through(&["fiu-run", "-x", "-f", control, "-c", &command]);
    match launch.spawn().serving_or_ended(launch.clone()).await {
        Ok(server) => drop(server),
        Err(mut process) => {
            let status = process.ended().await;
            let log = process.log_text();
            assert!(matches!(status.code(), Some(1 | 2)), "{command}\n{log}");
            let is_told = log.lines().any(|line| line.starts_with("error: "));
            assert!(is_told && !log.contains("panicked"), "{command}\n{log}");
        }
    }
}

/// What had no answer is taken, or was kept and is named.
async fn send_again(server: &Server, unknown: &[u64], journal: &HashMap<u64, u64>) {
    for numbers in unknown.chunks(500) {
        let results = ingest(&server.channel(), numbers.iter().copied()).await;
        for (number, result) in numbers.iter().zip(results.unwrap()) {
            let expected = match journal.get(number) {
                Some(sequence) => (v1::IngestStatus::Duplicate, *sequence),
                None => (v1::IngestStatus::Accepted, result.sequence),
            };
            assert_eq!((result.status(), result.sequence), expected);
        }
    }
}
