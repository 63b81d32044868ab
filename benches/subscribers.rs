//! What a thousand subscribers cost who have nothing to do, and what they cost after having read.
//!
//! `cargo bench --locked --bench subscribers`. The real binary with its defaults; 1 000 streams on five
//! connections of this process. Memory is what the kernel counts for the process, beyond what it
//! takes without a stream; processor time is taken over 10 s, at the usual heartbeat of 10 s.

#![expect(clippy::print_stdout, reason = "a benchmark shows its figures")]
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

mod service;

use std::path::Path;
use std::time::Duration;

use provident::wire::v1;
use provident::wire::v1::subscribe_response::Message;
use tokio::task::JoinSet;

use self::service::{Service, everything, spread};

const SUBSCRIBERS: usize = 1_000;
const PER_CONNECTION: usize = 200;
const REPEATS: usize = 5;
const IDLE: Duration = Duration::from_secs(10);
/// Some 2.5 MB: several batches for each.
const EVENTS: u64 = 1_000;

/// Opens streams and lets them read to the head; gives them to be kept.
async fn subscribe(service: &Service, position: v1::Position) -> JoinSet<()> {
    let (told, mut caught_up) = tokio::sync::mpsc::channel(SUBSCRIBERS);
    let mut readers = JoinSet::new();
    let mut client = service.client().await;
    for number in 0..SUBSCRIBERS {
        if number % PER_CONNECTION == 0 {
            client = service.client().await;
        }
        let request = v1::SubscribeRequest {
            start: Some(v1::subscribe_request::Start::Position(position.into())),
            filter: Some(everything()),
            ..v1::SubscribeRequest::default()
        };
        let mut stream = client.subscribe(request).await.unwrap().into_inner();
        let told = told.clone();
        readers.spawn(async move {
            while let Some(response) = stream.message().await.unwrap() {
                if let Some(Message::CaughtUp(_)) = response.message {
                    told.send(()).await.unwrap();
                }
            }
        });
    }
    for _ in 0..SUBSCRIBERS {
        caught_up.recv().await.unwrap();
    }
    readers
}

#[tokio::main]
async fn main() {
    // `cargo test --all-targets` runs benches too, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("run it with `cargo bench --bench subscribers`");
        return;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_provident"));
    println!(
        "| {SUBSCRIBERS} subscribers | MiB for them | MiB in all | % of a core |\n|---|---|---|---|"
    );
    for (name, position) in [
        ("who have read nothing", v1::Position::Latest),
        (
            "who have read a thousand events each",
            v1::Position::Earliest,
        ),
    ] {
        let (mut more, mut all, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let service = Service::start(binary, directory.path());
            service.ingest(EVENTS).await;
            let before = service.memory();
            let readers = subscribe(&service, position).await;
            let used = service.cpu();
            tokio::time::sleep(IDLE).await;
            cpu.push((service.cpu() - used) / IDLE.as_secs_f64() * 100.0);
            all.push(service.memory());
            more.push(service.memory() - before);
            drop(readers);
            service.stop();
        }
        println!(
            "| {name} | {} | {} | {} |",
            spread(more),
            spread(all),
            spread(cpu)
        );
    }
}
