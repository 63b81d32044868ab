//! The service beside NATS JetStream: the same bytes, the same machine, one run, by turns.
//!
//! Starts the real binary and real NATS servers, drives all of them from this process, and prints
//! what `docs/benchmarks.md` holds: minimum, median and maximum of each figure, and ours divided
//! by theirs. Whatever is answered is checked, so a fast wrong answer fails the run.
//!
//! The load comes from this process and takes its share of the processors, so absolute figures
//! are lower than what the servers could do alone; only ratios within one run mean something.
//!
//! It must not reach into the server: everything goes over the contract. The library is used for
//! generated types, and to make the bytes that the peer is given.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is set by its environment"
)]
#![expect(clippy::print_stdout, reason = "the report is what a benchmark is for")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures are shown with three digits"
)]

mod events;
mod figures;
mod machine;
mod ours;
mod peer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::figures::{Contest, Figure, grouped, percentile};
use self::machine::Cpu;
use self::ours::{Reading, Service};
use self::peer::{Flush, Nats, Way};

/// Events of one batch, as the figures to reach ask for.
const BATCH: usize = 100;
/// Batches under way at a time.
const CALLERS: usize = 32;
const CONNECTIONS: usize = 4;

/// How much is measured; see `docs/benchmarks.md`.
struct Sizes {
    repeats: usize,
    time: Duration,
    events: u64,
    starts: usize,
    only: Option<String>,
}

impl Sizes {
    fn read() -> anyhow::Result<Self> {
        Ok(Self {
            repeats: number("BENCH_REPEATS", 5)?,
            time: Duration::from_secs(number("BENCH_SECONDS", 3)? as u64),
            events: number("BENCH_EVENTS", 200_000)? as u64,
            starts: number("BENCH_STARTS", 5)?,
            only: std::env::var("BENCH_ONLY").ok(),
        })
    }

    fn wants(&self, part: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.split(',').any(|wanted| wanted == part))
    }
}

fn number(name: &str, usual: usize) -> anyhow::Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} = {text:?}")),
        Err(_) => Ok(usual),
    }
}

fn main() -> anyhow::Result<()> {
    // `cargo test --all-targets` runs benches too, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("run it with `cargo bench --bench against_nats`");
        return Ok(());
    }
    let sizes = Sizes::read()?;
    let nats = nats_server()?;
    let parent = std::env::var("BENCH_DIR").map_or_else(
        |_| PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        PathBuf::from,
    );
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::tempdir_in(&parent)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(&sizes, &nats, dir.path()))
}

/// The peer's binary: the one that is named, or the one that `benches/run` fetched.
fn nats_server() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return Ok(named.into());
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/bin/nats-server");
    anyhow::ensure!(
        fetched.exists(),
        "the peer is missing: run `benches/run`, which fetches it, or name a nats-server 2.14 or \
         later in NATS_SERVER"
    );
    Ok(fetched)
}

async fn run(sizes: &Sizes, nats: &Path, dir: &Path) -> anyhow::Result<()> {
    let records = events::records()?;
    println!("{}", machine::describe(dir)?);
    println!("{}; {}", peer::version(nats)?, ours::version()?);
    println!(
        "events: {} bytes of JSON, {} bytes as stored (mean of {}); the peer is given the stored bytes",
        records.json_bytes,
        records.stored_bytes,
        records.stored.len()
    );
    println!(
        "the load comes from the process that measures, on the same processors; {} repeats by turns",
        sizes.repeats
    );

    let always = Nats::start(nats, &dir.join("nats-always"), Flush::Always).await?;
    let lazy = Nats::start(nats, &dir.join("nats-lazy"), Flush::Lazy).await?;
    let data = dir.join("provident");
    let mut service = Service::start(&data).await?;
    let peers = Peers {
        always,
        lazy,
        records,
    };
    if sizes.wants("ingest") {
        ingest_many(sizes, &service, &peers).await?;
    }
    if sizes.wants("single") {
        ingest_single(sizes, &service, &peers).await?;
    }
    if sizes.wants("live") {
        live(sizes, &service).await?;
    }
    if sizes.wants("start") {
        service = start(sizes, service, &data).await?;
    }
    drop(service);
    std::fs::remove_dir_all(&data)?;
    if sizes.wants("catch-up") {
        catch_up(sizes, &peers, dir).await?;
    }
    Ok(())
}

struct Peers {
    always: Nats,
    lazy: Nats,
    records: events::Records,
}

impl Peers {
    /// Waits until no server works off what an earlier part left, and nothing waits for the disk.
    async fn settle(&self, service: &Service) -> anyhow::Result<()> {
        rustix::fs::sync();
        machine::quiet(&[service.pid(), self.always.pid(), self.lazy.pid()]).await
    }
}

/// What one turn of a load did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
}

impl Done {
    fn rate(self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }
}

/// Puts a turn into the contest: its rate, and the server's processor time per event.
async fn turn(
    figure: &mut Figure,
    pid: u32,
    load: impl Future<Output = anyhow::Result<Done>>,
) -> anyhow::Result<()> {
    let before = Cpu::of(pid)?;
    let done = load.await?;
    figure.add(done.rate());
    figure.add_cpu(Cpu::of(pid)?.since(before), done.events);
    Ok(())
}

async fn ingest_many(sizes: &Sizes, service: &Service, peers: &Peers) -> anyhow::Result<()> {
    let title = format!(
        "1. ingest, batches of {BATCH}, {CALLERS} callers over {CONNECTIONS} connections, events/s"
    );
    let mut contest = Contest::new(
        &title,
        [
            "provident",
            "NATS, flush always",
            "NATS, flush always, atomic batches",
            "NATS, flush always, fast batches",
            "NATS, flush lazy",
            "NATS, flush lazy, atomic batches",
            "NATS, flush lazy, fast batches",
        ],
    );
    for repeat in 0..sizes.repeats {
        for place in contest.order(repeat) {
            peers.settle(service).await?;
            let figure = contest.figure(place);
            let until = Instant::now() + sizes.time;
            let (nats, way) = match place {
                0 => {
                    turn(figure, service.pid(), service.ingest_until(until)).await?;
                    continue;
                }
                1 => (&peers.always, Way::EachMessage),
                2 => (&peers.always, Way::AtomicBatches),
                3 => (&peers.always, Way::FastBatches),
                4 => (&peers.lazy, Way::EachMessage),
                5 => (&peers.lazy, Way::AtomicBatches),
                _ => (&peers.lazy, Way::FastBatches),
            };
            nats.fresh_stream().await?;
            let until = Instant::now() + sizes.time;
            turn(figure, nats.pid(), nats.publish(way, &peers.records, until)).await?;
        }
        println!("  repeat {}: {}", repeat + 1, contest.last());
    }
    for nats in [&peers.always, &peers.lazy] {
        nats.fresh_stream().await?;
    }
    println!("{contest}");
    Ok(())
}

async fn ingest_single(sizes: &Sizes, service: &Service, peers: &Peers) -> anyhow::Result<()> {
    let names = ["provident", "NATS, flush always", "NATS, flush lazy"];
    let mut contest = Contest::new(
        "2. ingest, one caller, one event at a time, events/s",
        names,
    );
    let mut latencies = [const { Vec::new() }; 3];
    for repeat in 0..sizes.repeats {
        for place in contest.order(repeat) {
            peers.settle(service).await?;
            let until = Instant::now() + sizes.time;
            let latencies = &mut latencies[place];
            let figure = contest.figure(place);
            let load = async {
                let before = latencies.len();
                let start = Instant::now();
                match place {
                    0 => service.ingest_singly(until, latencies).await?,
                    1 => {
                        let records = &peers.records;
                        peers
                            .always
                            .publish_singly(records, until, latencies)
                            .await?;
                    }
                    _ => {
                        let records = &peers.records;
                        peers.lazy.publish_singly(records, until, latencies).await?;
                    }
                }
                Ok(Done {
                    events: (latencies.len() - before) as u64,
                    elapsed: start.elapsed(),
                })
            };
            let pid = [service.pid(), peers.always.pid(), peers.lazy.pid()][place];
            turn(figure, pid, load).await?;
        }
        println!("  repeat {}: {}", repeat + 1, contest.last());
    }
    println!("{contest}");
    for (name, latencies) in names.iter().zip(&mut latencies) {
        latencies.sort_unstable();
        println!(
            "  {name:<36} p50 {:.3} ms, p99 {:.3} ms, worst {:.1} ms",
            millis(percentile(latencies, 50)),
            millis(percentile(latencies, 99)),
            millis(percentile(latencies, 100)),
        );
    }
    Ok(())
}

/// From OK to the reader: one caller, one live subscriber, an event about every 2 ms.
async fn live(sizes: &Sizes, service: &Service) -> anyhow::Result<()> {
    let seen = service.watch_live(400 * sizes.repeats).await?;
    let mut after_ok: Vec<f64> = seen.iter().map(|seen| seen.after_ok_ms).collect();
    let mut after_sent: Vec<f64> = seen.iter().map(|seen| seen.after_sent_ms).collect();
    println!(
        "\n3. one event at a time to a live subscriber, {} events, ms",
        seen.len()
    );
    for (name, values) in [
        (
            "OK at the caller to seen (below 0: seen first)",
            &mut after_ok,
        ),
        ("sent by the caller to seen", &mut after_sent),
    ] {
        values.sort_unstable_by(f64::total_cmp);
        println!(
            "  {name:<48} p50 {:.3}, p99 {:.3}, worst {:.3}",
            percentile(values, 50),
            percentile(values, 99),
            percentile(values, 100)
        );
    }
    Ok(())
}

/// From spawn to SERVING on the journal that the ingest left.
async fn start(sizes: &Sizes, mut service: Service, data: &Path) -> anyhow::Result<Service> {
    let events = service.events().await?;
    println!(
        "\n4. start on {} events, {} MiB of data, spawn to SERVING, ms",
        grouped(events as f64),
        machine::disk_bytes(data)? >> 20
    );
    for (name, killed) in [("after kill -9", true), ("after SIGTERM", false)] {
        let mut took = Vec::new();
        for _ in 0..sizes.starts {
            // What is to be replayed is new each time.
            service
                .ingest_until(Instant::now() + Duration::from_millis(300))
                .await?;
            if killed {
                service.kill()?;
            } else {
                service.stop()?;
            }
            let spawned = Instant::now();
            service = Service::start(data).await?;
            took.push(millis(spawned.elapsed()));
        }
        took.sort_unstable_by(f64::total_cmp);
        println!(
            "  {name:<36} min {:.0}, median {:.0}, max {:.0}",
            percentile(&took, 0),
            percentile(&took, 50),
            percentile(&took, 100)
        );
    }
    Ok(service)
}

async fn catch_up(sizes: &Sizes, peers: &Peers, dir: &Path) -> anyhow::Result<()> {
    let events = sizes.events;
    let service = Service::start(&dir.join("provident-catch-up")).await?;
    service.ingest_count(events).await?;
    peers.lazy.fresh_stream().await?;
    peers.lazy.publish_count(&peers.records, events).await?;
    let title = format!(
        "5. one subscriber catching up over {} events, events/s",
        grouped(events as f64)
    );
    let mut contest = Contest::new(
        &title,
        [
            "provident, as bytes",
            "NATS pull, as bytes",
            "provident with raw JSON, as bytes",
            "provident, decoded messages",
            "NATS fetch, as bytes",
        ],
    );
    for repeat in 0..sizes.repeats {
        for place in contest.order(repeat) {
            peers.settle(&service).await?;
            let figure = contest.figure(place);
            let (pid, theirs) = (service.pid(), peers.lazy.pid());
            match place {
                0 => turn(figure, pid, service.read_all(Reading::Bytes, events)).await?,
                1 => turn(figure, theirs, peers.lazy.pull_all(events)).await?,
                2 => turn(figure, pid, service.read_all(Reading::BytesWithRaw, events)).await?,
                3 => turn(figure, pid, service.read_all(Reading::Decoded, events)).await?,
                _ => turn(figure, theirs, peers.lazy.fetch_all(events)).await?,
            }
        }
        println!("  repeat {}: {}", repeat + 1, contest.last());
    }
    println!("{contest}");
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
