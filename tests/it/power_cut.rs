//! The power fails at any moment: what was answered ACCEPTED is on the disk.
//!
//! A kill leaves the page cache, so it says nothing of the flush. Here the server's directory is
//! an ext4 of its own on a loop file, and the power is cut in two ways by turns:
//!
//! - *copy*: the process is held still, the image is copied as it lies on the disk, and the
//!   process goes on. What the kernel had not been told to write is not in the copy. (Held still,
//!   because a copy takes time: without it the copy would hold blocks of different moments, which
//!   is what no disk ever shows.)
//! - *shutdown*: ext4 is told to stop dead (`EXT4_IOC_SHUTDOWN` without a log flush), also in the
//!   middle of a flush. Everything that was answered before has to be there; the server has to end
//!   by itself with an error rather than go on. (What is answered while ext4 shuts down proves
//!   nothing: a plain loop of `pwrite` and `fdatasync` on a preallocated file is then told OK once
//!   for what is not there afterwards, so it is the kernel that does not hold its word.)
//!
//! A reader of a subscription commits meanwhile: what was committed holds, too.
//!
//! Needs root and loop mounts. Where they are not allowed, the test says so, and fails if
//! `PROVIDENT_REQUIRE_POWER_CUT` is 1. `PROVIDENT_POWER_CUTS` is how many cuts.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
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

use crate::disk::{self, Mount, run};
use crate::harness::{
    self, Launch, Random, Server, as_subscription, commit_request, eventually, everything,
    ingest_request, say, setting, within,
};

const CALLERS: u64 = 8;

/// Of the image, most of it a hole. Large enough that retention never sets in.
const IMAGE_BYTES: u64 = 4 << 30;

/// The subscription that is read and committed.
const SUBSCRIPTION: &str = "cut";

fn make_image(image: &Path) -> Result<(), String> {
    let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
    file.set_len(IMAGE_BYTES)
        .map_err(|error| error.to_string())?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))
}

/// Stops ext4 dead: what it has not written is never written.
fn shut_down(mount: &Path) -> Result<(), String> {
    // 0x8004587d is EXT4_IOC_SHUTDOWN, 2 is NOLOGFLUSH. perl, because it belongs to every Debian,
    // and a call of the system from Rust would be unsafe code.
    let script = "open(F,'<',$ARGV[0]) or die $!; my $how=pack('L',2); \
                  ioctl(F,0x8004587d,$how) or die $!";
    run(Command::new("perl").args(["-e", script]).arg(mount))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Copy,
    Shutdown,
}

/// What was answered so far.
#[derive(Clone, Debug, Default)]
struct State {
    /// The sequence of each event.
    events: HashMap<u64, u64>,
    /// Up to where a commit was answered.
    committed: u64,
}

type Answered = Arc<Mutex<State>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_survives_a_power_cut() {
    let required = setting::<u8>("PROVIDENT_REQUIRE_POWER_CUT") == Some(1);
    let cuts: usize = setting("PROVIDENT_POWER_CUTS").unwrap_or(1);
    let directory = harness::scratch();
    let image = directory.path().join("disk.img");
    let mount_at = directory.path().join("disk");
    let mount = match make_image(&image).and_then(|()| Mount::image(&image, &mount_at)) {
        Ok(mount) => mount,
        Err(problem) => {
            say(&format!(
                "power cut: NOT RUN, no loop mount here: {problem}"
            ));
            assert!(!required, "power cuts can't be tested here: {problem}");
            return;
        }
    };
    let mut random = Random::of_run("power cut");
    let mut mount = Some(mount);
    let answered = Answered::default();
    let mut first_number = 0;
    let (mut checked, mut committed) = (0, 0);
    let mut server = launch(&mount_at).start().await;
    server.create_subscription(SUBSCRIPTION, everything()).await;

    for index in 0..cuts {
        let cut = if index % 2 == 0 {
            Cut::Copy
        } else {
            Cut::Shutdown
        };
        let callers = start_callers(&server, &answered, first_number).await;
        first_number += 1 << 24;
        let wanted = answered.lock().unwrap().events.len() + 300 + random_count(&mut random);
        eventually("events before the cut", async || {
            (answered.lock().unwrap().events.len() >= wanted).then_some(())
        })
        .await;
        let certain = match cut {
            Cut::Copy => {
                let copy = directory.path().join("copy.img");
                let certain = answered.lock().unwrap().clone();
                copy_held_still(&server, &image, &copy);
                end(&mut server, callers).await;
                let copy_at = directory.path().join("copy");
                let copy_mount = Mount::image(&copy, &copy_at).unwrap();
                let restarted = launch(&copy_at).start().await;
                let all = answered.lock().unwrap().clone();
                check(&restarted, &certain, &all).await;
                drop(restarted);
                drop(copy_mount);
                std::fs::remove_file(copy).unwrap();
                certain
            }
            Cut::Shutdown => {
                let certain = answered.lock().unwrap().clone();
                shut_down(&mount_at).unwrap();
                let status = server.process.ended().await;
                assert!(
                    !status.success(),
                    "the disk is gone, and it ends with {status}"
                );
                end(&mut server, callers).await;
                mount = None;
                mount = Some(Mount::image(&image, &mount_at).unwrap_or_else(|problem| {
                    panic!("mounting after the cut, {}: {problem}", mount.is_none())
                }));
                certain
            }
        };
        server = launch(&mount_at).start().await;
        let all = answered.lock().unwrap().clone();
        let must_be_there = match cut {
            // The copy was cut, the disk itself lost nothing.
            Cut::Copy => &all,
            Cut::Shutdown => &certain,
        };
        // From now on the journal is what is there, with what was kept without an answer.
        *answered.lock().unwrap() = check(&server, must_be_there, &all).await;
        checked += certain.events.len();
        committed = committed.max(certain.committed);
    }
    say(&format!(
        "power cut: {cuts} cuts, {checked} accepted events looked for and found, {} in the journal, \
         a subscription committed up to {committed}",
        answered.lock().unwrap().events.len()
    ));
    // The process goes before the disk does.
    drop(server);
    drop(mount);
}

fn random_count(random: &mut Random) -> usize {
    usize::try_from(random.below(400)).unwrap()
}

fn launch(mount: &Path) -> Launch {
    // The image is small: the room that is kept free on a real volume is more than it has.
    let settings = mount.with_extension("toml");
    std::fs::write(&settings, "[storage]\nreserve = \"1MiB\"\n").unwrap();
    Launch::on(&mount.join("data")).with(&["--config", settings.to_str().unwrap()])
}

fn copy_held_still(server: &Server, image: &Path, copy: &Path) {
    server.process.signal(rustix::process::Signal::STOP);
    let copied = run(Command::new("cp")
        .args(["--reflink=never", "--sparse=always"])
        .arg(image)
        .arg(copy));
    server.process.signal(rustix::process::Signal::CONT);
    copied.unwrap();
}

async fn start_callers(server: &Server, answered: &Answered, first_number: u64) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let channel = server.new_channel().await;
        let numbers = (caller << 32) + first_number;
        callers.spawn(call(channel, Arc::clone(answered), numbers, 1 + caller * 3));
    }
    callers.spawn(commit(server.new_channel().await, Arc::clone(answered)));
    callers
}

/// Reads as the subscription and commits each batch, until the server is gone.
async fn commit(channel: Channel, answered: Answered) {
    let mut events = EventServiceClient::new(channel.clone());
    let mut subscriptions = SubscriptionServiceClient::new(channel.clone());
    let request = as_subscription(SUBSCRIPTION, "power cut");
    let Ok(stream) = harness::answered(&channel, events.subscribe(request)).await else {
        return;
    };
    let mut stream = stream.into_inner();
    let mut session = String::new();
    while let Ok(Some(response)) = within(stream.message()).await {
        match response.message.unwrap() {
            Message::Confirmation(confirmation) => session = confirmation.session,
            Message::Batch(batch) => {
                let last = batch.events.last().unwrap();
                let request = commit_request(SUBSCRIPTION, &session, &last.cursor);
                if harness::answered(&channel, subscriptions.commit(request))
                    .await
                    .is_err()
                {
                    return;
                }
                answered.lock().unwrap().committed = last.sequence;
            }
            _ => {}
        }
    }
}

/// Ingests until the server is gone.
async fn call(channel: Channel, answered: Answered, mut next: u64, batch: u64) {
    let mut client = EventServiceClient::new(channel.clone());
    loop {
        let numbers = next..next + batch;
        next += batch;
        let request = ingest_request(numbers.clone());
        let Ok(response) = harness::answered(&channel, client.ingest(request)).await else {
            return;
        };
        let mut answered = answered.lock().unwrap();
        for (number, result) in numbers.zip(response.into_inner().results) {
            assert_eq!(result.status(), v1::IngestStatus::Accepted, "{result:?}");
            answered.events.insert(number, result.sequence);
        }
    }
}

async fn end(server: &mut Server, mut callers: JoinSet<()>) {
    // Let it go on for a moment after a copy, so that more is answered than is in the copy.
    sleep(Duration::from_millis(20)).await;
    server.process.kill();
    while let Some(ended) = within(callers.join_next()).await {
        ended.unwrap();
    }
}

/// Checks a journal, and that the subscription stands where it was committed. Gives what there is.
async fn check(server: &Server, certain: &State, answered: &State) -> State {
    let events = disk::check(server, &certain.events, &answered.events).await;
    let found = server.subscription(SUBSCRIPTION).await.unwrap();
    let committed = Cursor::parse(&found.committed_cursor).unwrap().seq.get();
    assert!(
        committed >= certain.committed && committed <= events.len() as u64,
        "committed up to {}, and it is at {committed}",
        certain.committed
    );
    State { events, committed }
}
