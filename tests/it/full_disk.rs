//! A full disk: events are refused in words, all else goes on, and so does intake once there is
//! room.
//!
//! The data directory is on a disk of its own in memory, some MiB large, beside a file that fills
//! it. Needs root and mounts; where they are not allowed, the tests say so, and fail if
//! `PROVIDENT_REQUIRE_MOUNT` is 1.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use provident::wire::v1;
use provident::wire::v1::get_event_request::Event;
use provident::wire::v1::subscribe_response::Message;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;

use crate::disk::{Mount, check};
use crate::fixtures;
use crate::harness::{
    self, Launch, ORG, Random, Server, accepted, as_subscription, eventually, everything,
    ingest_request, is_gone, refused, say, setting, within,
};

const DISK_MIB: u64 = 48;

/// Of what the disk has, left to events that come. fjall needs some for tables meanwhile.
const FREE_MIB: u64 = 24;

/// A disk with a data directory and a file that takes room.
struct Disk {
    /// Before the directory that it is mounted in.
    mount: Mount,
    filler: PathBuf,
    launch: Launch,
    _scratch: TempDir,
}

impl Disk {
    /// `None` where mounting is not allowed.
    fn new() -> Option<Self> {
        let scratch = harness::scratch();
        let at = scratch.path().join("disk");
        let mount = match Mount::in_memory(DISK_MIB, &at) {
            Ok(mount) => mount,
            Err(problem) => {
                let required = setting::<u8>("PROVIDENT_REQUIRE_MOUNT") == Some(1);
                say(&format!("full disk: NOT RUN, no mount here: {problem}"));
                assert!(!required, "full disks can't be tested here: {problem}");
                return None;
            }
        };
        let config = scratch.path().join("provident.toml");
        let text = "[journal]\ngeneration_bytes_max = \"1MiB\"\n[storage]\nreserve = \"12MiB\"\n";
        std::fs::write(&config, text).unwrap();
        Some(Self {
            mount,
            filler: at.join("filler"),
            launch: Launch::on(&at.join("data")).with(&["--config", config.to_str().unwrap()]),
            _scratch: scratch,
        })
    }

    /// Takes room, up to all that there is. Gives how many MiB it took.
    fn fill(&self, mib_max: u64) -> u64 {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&self.filler)
            .unwrap();
        let mib = vec![1; 1 << 20];
        let taken = (0..mib_max).take_while(|_| file.write_all(&mib).is_ok());
        u64::try_from(taken.count()).unwrap()
    }

    fn make_room(&self) {
        std::fs::remove_file(&self.filler).unwrap();
    }
}

async fn ingest(server: &Server, numbers: &[u64]) -> Result<Vec<v1::IngestResult>, Status> {
    let request = ingest_request(numbers.iter().copied());
    let answer = within(server.events().ingest(request)).await?;
    Ok(answer.into_inner().results)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_events_until_there_is_room_and_nothing_else() {
    let Some(disk) = Disk::new() else { return };
    disk.fill(DISK_MIB - FREE_MIB);
    let server = disk.launch.start().await;
    server.create_subscription("early", everything()).await;

    let mut known = HashMap::new();
    let mut numbers: Vec<u64> = (0..100).collect();
    let status = loop {
        match ingest(&server, &numbers).await {
            Ok(results) => {
                let sequences = accepted(&results);
                known.extend(numbers.iter().copied().zip(sequences));
            }
            Err(status) => break status,
        }
        for number in &mut numbers {
            *number += 100;
        }
    };
    refused(
        &status,
        Code::ResourceExhausted,
        v1::ErrorReason::StorageFull,
    );
    let details = status.get_error_details();
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");

    // Nothing of a refused call is there, and all that was accepted can be read in every way.
    for _ in 0..3 {
        let status = ingest(&server, &numbers).await.unwrap_err();
        refused(
            &status,
            Code::ResourceExhausted,
            v1::ErrorReason::StorageFull,
        );
    }
    check(&server, &known, &known).await;
    check_single_reads(&server, numbers[0]).await;

    // Places move on, durably.
    server.create_subscription("late", everything()).await;
    let mut places = HashMap::new();
    for id in ["early", "late"] {
        let request = as_subscription(id, "outer tests");
        let mut reader = server.subscribe(request).await.unwrap();
        let session = reader.confirmation().await.session;
        let cursor = loop {
            if let Some(Message::Batch(batch)) = reader.next().await.unwrap() {
                break batch.events.last().unwrap().cursor.clone();
            }
        };
        server.commit(id, &session, &cursor).await.unwrap();
        places.insert(id, cursor);
    }
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);

    // Full, it can be started as well; and without a word from anybody it goes on.
    let mut server = server.restart().await;
    let status = ingest(&server, &numbers).await.unwrap_err();
    refused(
        &status,
        Code::ResourceExhausted,
        v1::ErrorReason::StorageFull,
    );
    disk.make_room();
    let results = eventually("events are taken again", async || {
        ingest(&server, &numbers).await.ok()
    })
    .await;
    known.extend(numbers.iter().copied().zip(accepted(&results)));
    check(&server, &known, &known).await;
    for (id, cursor) in places {
        let place = server.subscription(id).await.unwrap();
        assert_eq!(place.committed_cursor, cursor, "{id}");
    }
    server.process.signal(Signal::TERM);
    assert!(server.process.ended().await.success());
}

/// One event and a page are given, and what was refused is not there.
async fn check_single_reads(server: &Server, refused_number: u64) {
    let get = async |number: u64| {
        let request = v1::GetEventRequest {
            event: Some(Event::Key(v1::EventKey {
                org: ORG.to_owned(),
                uuid: fixtures::uuid(number),
            })),
            ..v1::GetEventRequest::default()
        };
        within(server.events().get_event(request)).await
    };
    let first = get(0).await.unwrap().into_inner().event.unwrap();
    assert_eq!(first.sequence, 1);
    let status = get(refused_number).await.unwrap_err();
    refused(&status, Code::NotFound, v1::ErrorReason::EventNotFound);
    let request = v1::ListEventsRequest {
        filter: Some(everything()),
        page_size: 10,
        ..v1::ListEventsRequest::default()
    };
    let page = within(server.events().list_events(request)).await.unwrap();
    assert_eq!(page.into_inner().events.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_somebody_else_fills_to_the_last_byte_costs_nothing_acknowledged() {
    let Some(disk) = Disk::new() else { return };
    let mut random = Random::of_run("full disk");
    let answered = Arc::new(Mutex::new(HashMap::new()));
    let mut ended = 0;
    for round in 0..3_u64 {
        let mut server = disk.launch.start().await;
        let mut callers = JoinSet::new();
        for caller in 0..4 {
            let server = EventCaller::new(&server, &answered).await;
            callers.spawn(server.call((round * 4 + caller) << 32, 1 + caller * 10));
        }
        let wanted =
            answered.lock().unwrap().len() + 200 + usize::try_from(random.below(1_000)).unwrap();
        eventually("events before the disk is full", async || {
            (answered.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
        assert!(disk.fill(DISK_MIB) < DISK_MIB, "the disk is full");
        // It refuses events, or it ends because a write found no room.
        while let Some(caller) = within(callers.join_next()).await {
            caller.unwrap();
        }
        disk.make_room();
        let process = &mut server.process;
        let status = if let Some(status) = process.has_ended() {
            status
        } else {
            process.signal(Signal::TERM);
            process.ended().await
        };
        process.kill();
        let log = process.log_text();
        assert!(!log.contains("panicked"), "{log}");
        if !status.success() {
            ended += 1;
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.lines().any(|line| line.starts_with("error: ")), "{log}");
        }
        let server = disk.launch.start().await;
        let known = answered.lock().unwrap().clone();
        // With what was kept without an answer.
        *answered.lock().unwrap() = check(&server, &known, &known).await;
    }
    say(&format!(
        "full disk: filled 3 times, {ended} ended by it; {} events, none lost",
        answered.lock().unwrap().len()
    ));
    drop(disk.mount);
}

struct EventCaller {
    client: v1::event_service_client::EventServiceClient<tonic::transport::Channel>,
    answered: Arc<Mutex<HashMap<u64, u64>>>,
}

impl EventCaller {
    async fn new(server: &Server, answered: &Arc<Mutex<HashMap<u64, u64>>>) -> Self {
        Self {
            client: v1::event_service_client::EventServiceClient::new(server.new_channel().await),
            answered: Arc::clone(answered),
        }
    }

    /// Ingests until it is refused.
    async fn call(mut self, mut next: u64, batch: u64) {
        loop {
            let numbers = next..next + batch;
            next += batch;
            let request = ingest_request(numbers.clone());
            match within(self.client.ingest(request)).await {
                Ok(answer) => {
                    let sequences = accepted(&answer.into_inner().results);
                    self.answered.lock().unwrap().extend(numbers.zip(sequences));
                }
                Err(status) => {
                    let codes = [Code::ResourceExhausted, Code::Unavailable];
                    assert!(
                        codes.contains(&status.code()) || is_gone(&status),
                        "{status:?}"
                    );
                    return;
                }
            }
        }
    }
}
