//! What an event costs that a reader's filter turns away, beside one that it lets through.
//!
//! `cargo bench --locked --bench filter`. The real binary with its defaults on a journal of
//! `BENCH_EVENTS` events (1 000 000), 1.3 KiB of JSON each, made once, on the disk below `target/`.
//! Each turn is one `Subscribe` from the beginning to the head by the real client, and checked: all
//! events, or none. `BENCH_REPEATS` turns (5) of each filter, another one first each time. With
//! `BENCH_BINARIES=before,after` each repeat is done by each binary on the same journal.

#![expect(clippy::print_stdout, reason = "a benchmark shows its figures")]

#[path = "against_nats/events.rs"]
#[expect(dead_code, reason = "the peer's records are not needed")]
mod events;
#[path = "against_nats/machine.rs"]
#[expect(dead_code, reason = "nothing is waited for, and no disk is measured")]
mod machine;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use self::events::Events;
use self::machine::Cpu;

const BATCH: u64 = 100;
const CALLERS: u64 = 16;

/// A filter, and whether it lets everything through or nothing.
struct Case {
    name: &'static str,
    filter: fn() -> v1::Filter,
    matches: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "everything matches",
        filter: every_verdict,
        matches: true,
    },
    Case {
        name: "nothing, by what the header tells (`min_priority`, `security_only`)",
        filter: || v1::Filter {
            min_priority: v1::Priority::Critical.into(),
            security_only: true,
            causes: vec![v1::Cause::SchemaConflict.into()],
            ..every_verdict()
        },
        matches: false,
    },
    Case {
        name: "nothing, by details (`application_ids`)",
        filter: || v1::Filter {
            application_ids: vec!["0oaNotThere0000000d7".to_owned()],
            ..every_verdict()
        },
        matches: false,
    },
    Case {
        name: "nothing, by details (`application_names`)",
        filter: || v1::Filter {
            application_names: vec!["No such application".to_owned()],
            ..every_verdict()
        },
        matches: false,
    },
    Case {
        name: "nothing, by `expression`: `outcome.reason co \"…\"`",
        filter: || expression("outcome.reason co \"no such words\""),
        matches: false,
    },
    Case {
        name: "nothing, by `expression`: `target.id eq \"…\"`",
        filter: || expression("target.id eq \"0oaNotThere0000000d7\""),
        matches: false,
    },
    Case {
        name: "nothing, by `expression` of four conditions, the last of which fails",
        filter: || {
            expression(
                "eventType sw \"app\" and severity pr and published gt \"2000-01-01T00:00:00Z\" \
                 and debugContext.debugData.nothing eq \"x\"",
            )
        },
        matches: false,
    },
];

fn every_verdict() -> v1::Filter {
    v1::Filter {
        verdicts: (1..=5).collect(),
        ..v1::Filter::default()
    }
}

fn expression(text: &str) -> v1::Filter {
    v1::Filter {
        expression: text.to_owned(),
        ..every_verdict()
    }
}

/// A running service. Dropping it kills it.
struct Service {
    child: Child,
    client: EventServiceClient<Channel>,
}

impl Service {
    async fn start(binary: &Path, data: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--log-format", "json"])
            .args(["--grpc-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data)
            // Nothing of this shell's environment may set the service.
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} can't be started", binary.display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            let fields = &line["fields"];
            match fields["message"].as_str() {
                Some("listening") => address = fields["grpc_addr"].as_str().map(str::to_owned),
                Some("serving") => break,
                _ => {}
            }
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.context("the service did not say where it listens")?;
        let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        Ok(Self {
            child,
            client: EventServiceClient::new(channel.connect().await?),
        })
    }

    async fn fill(&self, events: u64) -> anyhow::Result<()> {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut client = self.client.clone();
            let calls = (caller..events / BATCH).step_by(usize::try_from(CALLERS)?);
            callers.spawn(async move {
                let mut events = Events::new();
                for _ in calls {
                    let inputs = (0..BATCH).map(|_| v1::IngestInput {
                        input: Some(v1::ingest_input::Input::Json(events.next_json())),
                    });
                    let request = v1::IngestRequest {
                        org: "acme.okta.com".to_owned(),
                        inputs: inputs.collect(),
                    };
                    let answer = client.ingest(request).await?.into_inner();
                    let accepted = v1::IngestStatus::Accepted;
                    let all = answer.results.iter().all(|one| one.status() == accepted);
                    ensure!(all, "an event was not accepted");
                }
                Ok(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Reads to the head. Gives the number of events.
    async fn read(&self, filter: v1::Filter) -> anyhow::Result<u64> {
        let request = v1::SubscribeRequest {
            start: Some(v1::subscribe_request::Start::Position(
                v1::Position::Earliest.into(),
            )),
            filter: Some(filter),
            stop_at_head: true,
            ..v1::SubscribeRequest::default()
        };
        let mut stream = self.client.clone().subscribe(request).await?.into_inner();
        let (mut count, mut ended) = (0, false);
        while let Some(response) = stream.message().await? {
            match response.message {
                Some(Message::Batch(batch)) => count += batch.events.len() as u64,
                Some(Message::Ending(_)) => ended = true,
                _ => {}
            }
        }
        ensure!(ended, "the stream broke off");
        Ok(count)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one binary reached with one filter.
#[derive(Clone, Default)]
struct Figures {
    rate: Vec<f64>,
    wall_us: Vec<f64>,
    cpu_us: Vec<f64>,
}

/// Median and range.
fn spread(figures: &[f64], digits: usize) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [first, .., last] = sorted[..] else {
        return sorted.first().map_or(String::new(), f64::to_string);
    };
    let median = sorted[sorted.len() / 2];
    format!("**{median:.digits$}** ({first:.digits$}–{last:.digits$})")
}

#[expect(
    clippy::disallowed_methods,
    reason = "how much to measure is said by the environment"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let number = |name: &str, usual: u64| -> anyhow::Result<u64> {
        Ok(setting(name)
            .map(|text| text.parse())
            .transpose()?
            .unwrap_or(usual))
    };
    let repeats = usize::try_from(number("BENCH_REPEATS", 5)?)?;
    let events = number("BENCH_EVENTS", 1_000_000)?.next_multiple_of(BATCH);
    let ours = env!("CARGO_BIN_EXE_provident").to_owned();
    let binaries = setting("BENCH_BINARIES").unwrap_or(ours);
    let binaries: Vec<_> = binaries.split(',').map(Path::new).collect();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let data = directory.path().join("data");
    println!("{}", machine::describe(directory.path())?);
    Service::start(binaries[0], &data)
        .await?
        .fill(events)
        .await?;
    let mut figures = vec![vec![Figures::default(); CASES.len()]; binaries.len()];
    for repeat in 0..repeats {
        for turn in 0..binaries.len() {
            let binary = (turn + repeat) % binaries.len();
            let service = Service::start(binaries[binary], &data).await?;
            // What the last process wrote is merged, and the pages are read once.
            service.read((CASES[1].filter)()).await?;
            for turn in 0..CASES.len() {
                let case = (turn + repeat) % CASES.len();
                let (before, since) = (Cpu::of(service.child.id())?, Instant::now());
                let found = service.read((CASES[case].filter)()).await?;
                let took = since.elapsed().as_secs_f64();
                let cpu = Cpu::of(service.child.id())?.since(before).as_secs_f64();
                let expected = if CASES[case].matches { events } else { 0 };
                ensure!(found == expected, "{found} of {events} events match");
                let of = &mut figures[binary][case];
                of.rate.push(events as f64 / took);
                of.wall_us.push(took * 1e6 / events as f64);
                of.cpu_us.push(cpu * 1e6 / events as f64);
            }
        }
    }
    println!("\n{events} events, {repeats} repeats");
    println!("| | events/s | µs an event | µs of the server's processors |\n|---|---|---|---|");
    for (case, of) in CASES.iter().enumerate() {
        for (binary, figures) in binaries.iter().zip(&figures) {
            let by = if binaries.len() > 1 {
                format!(", {}", binary.display())
            } else {
                String::new()
            };
            println!(
                "| {}{by} | {} | {} | {} |",
                of.name,
                spread(&figures[case].rate, 0),
                spread(&figures[case].wall_us, 2),
                spread(&figures[case].cpu_us, 2),
            );
        }
    }
    Ok(())
}
