//! Builds every part and joins them: the order in which things start, and stop.
//!
//! Start: listen (probes, `Classify` and the hook's verification get an answer), open and recover
//! the journal, say SERVING, then poll.
//! Stop: `NOT_SERVING`, no new calls, finish what hooks and polls have begun, end the streams, drain
//! the writer, close the journal; within one deadline. A second signal ends the process at once. This is the only place that knows
//! which journal runs.

mod intakes;

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::intakes::{
    Intakes, hook_options, pollers, restore, sources, spawn_source_watch, system_logs,
};
use crate::config::{self, Config, JournalConfig};
use crate::domain::classify::Classifier;
use crate::domain::classify::rules::{self, InvalidRules};
use crate::domain::cursor::JournalId;
use crate::engine::clock::Clock;
use crate::engine::intake::{Keep, Preparation};
use crate::engine::rejects::RejectFile;
use crate::engine::retention::RetentionPolicy;
use crate::engine::subscriptions::SubscriptionLimits;
use crate::engine::writer::{Writer, WriterLimits};
use crate::engine::{Engine, EngineLimits, EngineSlot};
use crate::grpc::connection::accept;
use crate::grpc::{self, GrpcLimits};
use crate::http::serve::HttpLimits;
use crate::http::{self, Admin};
use crate::journal::Journal;
use crate::journal::embedded::{EmbeddedJournal, EmbeddedOptions};
use crate::journal::memory::MemoryJournal;
use crate::okta::org::Orgs;
use crate::shutdown::Tasks;
use crate::telemetry::{self, Log, Metrics};

/// How much longer than an answer may take its connection is waited for at a stop.
const HTTP_STOP_MARGIN: Duration = Duration::from_millis(250);

/// How long a last scrape may take after the stop.
const ADMIN_GRACE: Duration = Duration::from_millis(250);

/// Runs the service until it is told to stop, or a part of it fails.
pub async fn serve(config: Config, log: Log, metrics: Metrics) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let preparation = Arc::new(prepare(&config)?);
    let clock = Clock::system();
    let hooks = hook_options(&config, &preparation.orgs)?;
    let logs = system_logs(&config, &preparation.orgs)?;
    let sources = sources(&config, hooks.as_ref(), &logs, clock.clone());
    let grpc_listener = listen("grpc.addr", config.grpc.addr).await?;
    let admin_listener = listen("admin.addr", config.admin.addr).await?;
    let (grpc_addr, admin_addr) = (grpc_listener.local_addr()?, admin_listener.local_addr()?);

    let mut tasks = Tasks::new();
    let stop = tasks.stop_signal();
    let (serving, is_serving) = watch::channel(false);
    spawn_admin(&mut tasks, admin_listener, log, metrics, is_serving);

    let slot = EngineSlot::default();
    let grpc_stop = CancellationToken::new();
    let router = grpc::router(
        Arc::clone(&preparation),
        slot.clone(),
        sources.clone(),
        grpc_limits(&config),
        config.grpc.reflection,
    );
    let (router, mut health) = router.await?;
    let connections_max = config.grpc.connections_max as usize;
    let incoming = accept(
        grpc_listener,
        connections_max,
        config.grpc.keepalive_timeout,
    );
    let served = router.serve_with_incoming_shutdown(incoming, grpc_stop.clone().cancelled_owned());
    tasks.spawn("grpc", async move { Ok(served.await?) });
    let intakes = Intakes::new();
    let http_addr = match hooks {
        Some(options) => {
            let orgs = preparation.orgs.clone();
            let router = http::hook::hooks(options, orgs, slot.clone(), sources.clone());
            Some(spawn_http(&config, router, &intakes, &mut tasks).await?)
        }
        None => None,
    };
    tracing::info!(
        %grpc_addr,
        %admin_addr,
        http_addr = http_addr.map(tracing::field::display),
        "listening"
    );

    // Dropping the opening is safe: it goes on beside and nothing was appended yet.
    let journal = tokio::select! {
        opened = open_journal(&config) => opened?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the journal was open");
            return Ok(());
        }
        () = stop.cancelled() => {
            let failed = tasks.join(ADMIN_GRACE).await;
            return failed.context("a part of the service failed before the journal was open");
        }
    };
    let (engine, writer) = start_engine(&config, journal, preparation, clock.clone()).await?;
    let writer_stop = CancellationToken::new();
    tasks.spawn("writer", writer.run(writer_stop.clone()));
    spawn_upkeep(&mut tasks, &engine, &config);
    restore(&sources, &engine).await?;
    slot.fill(engine.clone());
    grpc::set_serving(&health, true).await;
    serving.send_replace(true);
    spawn_source_watch(&mut tasks, sources.clone(), health.clone());
    for poller in pollers(&config, logs, &engine, &sources, &clock) {
        intakes.spawn(&mut tasks, "poller", |stop| poller.run(stop));
    }
    tell_serving(&engine, grpc_addr);

    let drain_timeout = config.shutdown.drain_timeout;
    // Dropping either branch is safe: signals stay pending, the token keeps its state.
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, ?drain_timeout, "draining"),
        () = stop.cancelled() => tracing::error!("a part of the service failed, stopping"),
    }
    serving.send_replace(false);
    grpc::stop_serving(&mut health).await;
    let drained = async {
        grpc_stop.cancel();
        let left = drain_timeout.saturating_sub(intakes.stop(drain_timeout / 2).await);
        engine.drain();
        // The writer answers what had queued; calls that still come are told to go elsewhere.
        writer_stop.cancel();
        drop(engine);
        stop.cancel();
        tasks.join(left).await
    };
    // Dropping the drain on a second signal is what that signal asks for.
    let result = tokio::select! {
        result = drained => result,
        name = signals.next() => {
            bail!("stopped by a second signal ({name}) before the drain was over");
        }
    };
    tracing::info!("stopped");
    result
}

fn grpc_limits(config: &Config) -> GrpcLimits {
    GrpcLimits {
        message_bytes_max: config.grpc.message_bytes_max.as_usize(),
        requests_bytes_max: config.grpc.requests_bytes_max.as_usize(),
        request_timeout: config.grpc.request_timeout,
        streams_per_connection_max: config.grpc.streams_per_connection_max,
        keepalive_interval: config.grpc.keepalive_interval,
        keepalive_timeout: config.grpc.keepalive_timeout,
    }
}

fn prepare(config: &Config) -> anyhow::Result<Preparation> {
    let orgs = config
        .orgs
        .iter()
        .map(|org| (org.name.as_str(), org.aliases.as_slice()));
    Ok(Preparation {
        classifier: match &config.classify.rules_file {
            Some(path) => read_rules(path)?,
            None => Classifier::embedded(),
        },
        orgs: Orgs::new(orgs).context("orgs")?,
        keep: match config.ingest.keep {
            config::Keep::Provisioning => Keep::Provisioning,
            config::Keep::Failures => Keep::Failures,
            config::Keep::All => Keep::All,
        },
        event_bytes_max: config.ingest.event_bytes_max.as_usize(),
    })
}

/// A rules file that can't be used; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum UnusableRules {
    #[error("can't read the rules file {}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the rules file can't be used{}", list(.path, .problems))]
    Invalid {
        path: PathBuf,
        problems: InvalidRules,
    },
}

fn list(path: &Path, problems: &InvalidRules) -> String {
    let lines = problems.0.iter().map(|problem| {
        let file = path.display();
        format!(
            "\n  {file}:{}",
            problem.to_string().trim_start_matches("line ")
        )
    });
    lines.collect()
}

/// Reads a deployment's rules: once, for as long as the process lives.
pub fn read_rules(path: &Path) -> Result<&'static Classifier, UnusableRules> {
    let unreadable = |source| UnusableRules::Unreadable {
        path: path.to_owned(),
        source,
    };
    let invalid = |problems| UnusableRules::Invalid {
        path: path.to_owned(),
        problems,
    };
    let mut bytes = Vec::new();
    // One byte more than may be, so that what is longer is told and not read.
    let file = File::open(path).map_err(unreadable)?;
    file.take(rules::FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| invalid(InvalidRules::not_utf8(&error)))?;
    let classifier = Classifier::with_rules(&text).map_err(invalid)?;
    Ok(Box::leak(Box::new(classifier)))
}

async fn start_engine(
    config: &Config,
    journal: Arc<dyn Journal>,
    preparation: Arc<Preparation>,
    clock: Clock,
) -> anyhow::Result<(Engine, Writer)> {
    let limits = EngineLimits {
        subscriptions: SubscriptionLimits {
            subscriptions_max: config.subscriptions.subscriptions_max as usize,
            filter_bytes_max: config.subscriptions.filter_bytes_max.as_usize(),
            expire_after: Some(config.subscriptions.expire_after).filter(|after| !after.is_zero()),
        },
        writer: WriterLimits {
            queue_bytes_max: config.ingest.queue_bytes_max.as_usize(),
            batch_bytes_max: config.ingest.batch_bytes_max.as_usize(),
            write_timeout: config.storage.write_timeout,
        },
        tail_bytes_max: config.subscribe.tail_bytes_max.as_usize(),
        read_ahead_bytes_max: config.subscribe.read_ahead_bytes_max.as_usize(),
        streams_max: config.subscribe.streams_max as usize,
        stream_age_max: Some(config.subscribe.stream_age_max).filter(|age| !age.is_zero()),
        scan_records_max: config.list.scan_records_max as usize,
        events_per_call_max: config.ingest.events_per_call_max as usize,
    };
    let rejects = match &config.journal {
        JournalConfig::Embedded { data_dir, .. } => {
            RejectFile::below(data_dir, config.ingest.reject_file_bytes_max.get())
        }
        JournalConfig::Memory {} => RejectFile::none(),
    };
    Engine::new(journal, preparation, rejects, clock, limits)
        .await
        .context("the journal can't be read")
}

/// What goes on by itself: whether the journal can still be written, subscriptions that nobody uses,
/// old events.
fn spawn_upkeep(tasks: &mut Tasks, engine: &Engine, config: &Config) {
    let stop = tasks.stop_signal();
    tasks.spawn("journal", engine.watch_journal(stop.clone()));
    let sweep = engine.subscriptions().clone().sweep(stop.clone());
    tasks.spawn("subscriptions", sweep);
    let retention = engine.retention(retention_policy(config));
    tasks.spawn("retention", retention.run(stop));
}

fn retention_policy(config: &Config) -> RetentionPolicy {
    let limit = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
    let retention = &config.retention;
    // Room for what is written until the next look, or appends would be refused first.
    let unit_bytes = match config.journal {
        JournalConfig::Embedded {
            generation_bytes_max,
            ..
        } => generation_bytes_max.get(),
        JournalConfig::Memory {} => 0,
    };
    RetentionPolicy {
        age_max: limit(retention.age_max),
        wait_for_subscriptions: retention.wait_for_subscriptions,
        bytes_max: Some(retention.bytes_max.get()).filter(|bytes| *bytes > 0),
        volume_percent_max: retention.volume_percent_max.into(),
        free_bytes_min: config.storage.reserve.get().saturating_add(unit_bytes),
        dedupe_horizon: limit(retention.dedupe_horizon),
        interval: retention.interval,
    }
}

/// Begins a new epoch of the configured journal, which no service may have open, and gives its id.
pub fn begin_epoch(config: &Config) -> anyhow::Result<JournalId> {
    let JournalConfig::Embedded { data_dir, .. } = &config.journal else {
        bail!("a journal in memory has one epoch");
    };
    if !EmbeddedJournal::is_in(data_dir) {
        bail!("there is no journal in {}", data_dir.display());
    }
    let journal = EmbeddedJournal::open(EmbeddedOptions::new(data_dir.clone(), new_journal_id()))?;
    Ok(journal.begin_epoch()?)
}

async fn open_journal(config: &Config) -> anyhow::Result<Arc<dyn Journal>> {
    let new_id = new_journal_id();
    match &config.journal {
        JournalConfig::Memory {} => Ok(Arc::new(MemoryJournal::new(JournalId {
            id: new_id,
            epoch: 1,
        }))),
        JournalConfig::Embedded {
            data_dir,
            generation_bytes_max,
            cache_bytes,
        } => {
            let options = EmbeddedOptions {
                reserve_bytes: config.storage.reserve.get(),
                generation_bytes_max: generation_bytes_max.get(),
                cache_bytes: cache_bytes.get(),
                ..EmbeddedOptions::new(data_dir.clone(), new_id)
            };
            telemetry::storage_reserve(options.reserve_bytes);
            let started = std::time::Instant::now();
            let journal = tokio::task::spawn_blocking(move || EmbeddedJournal::open(options))
                .await
                .context("opening the journal panicked")??;
            tracing::info!(
                data_dir = %data_dir.display(),
                took = ?started.elapsed(),
                "journal open"
            );
            Ok(Arc::new(journal))
        }
    }
}

fn new_journal_id() -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..8]);
    id
}

fn tell_serving(engine: &Engine, grpc_addr: SocketAddr) {
    let bounds = engine.bounds();
    tracing::info!(
        journal = %engine.journal_id(),
        earliest = bounds.earliest.get(),
        head = bounds.head.get(),
        "serving"
    );
    tracing::info!(
        "try `provident tail --server http://{grpc_addr}`, and in another terminal \
         `provident ingest --server http://{grpc_addr} FILE`"
    );
}

async fn spawn_http(
    config: &Config,
    router: axum::Router,
    intakes: &Intakes,
    tasks: &mut Tasks,
) -> anyhow::Result<SocketAddr> {
    let listener = listen("http.addr", config.http.addr).await?;
    let addr = listener.local_addr()?;
    let limits = HttpLimits {
        connections_max: config.http.connections_max as usize,
        head_timeout: config.http.head_timeout,
        stop_timeout: config.hook.answer_timeout + HTTP_STOP_MARGIN,
    };
    intakes.spawn(tasks, "event hooks", |stop| async move {
        http::serve::serve(listener, router, limits, stop).await;
        Ok(())
    });
    Ok(addr)
}

async fn listen(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("can't listen on {setting} = {addr}"))
}

fn spawn_admin(
    tasks: &mut Tasks,
    listener: TcpListener,
    log: Log,
    metrics: Metrics,
    serving: watch::Receiver<bool>,
) {
    let admin = Admin {
        metrics: metrics.clone(),
        log,
        serving,
    };
    let stop = tasks.stop_signal();
    tasks.spawn("admin", async move {
        let stopped = stop.clone().cancelled_owned();
        let server = axum::serve(listener, http::admin(admin)).with_graceful_shutdown(stopped);
        // A client that keeps its connection open must not hold the stop up.
        tokio::select! {
            ended = server.into_future() => Ok(ended?),
            () = async { stop.cancelled().await; tokio::time::sleep(ADMIN_GRACE).await } => Ok(()),
        }
    });
    let stop = tasks.stop_signal();
    tasks.spawn("metrics upkeep", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                _ = tick.tick() => metrics.upkeep(),
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
}

/// The signals that mean: stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals can't be listened for");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and gives its name.
    async fn next(&mut self) -> &'static str {
        // Dropping the other branch is safe: its signal stays pending.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
