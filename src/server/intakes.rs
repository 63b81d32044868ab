//! The ways in that bring events by themselves, made of the configuration: event hooks and pollers.
//!
//! Also whether they are well, looked at again and again and told to health, metrics and the log.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::config::{self, Config};
use crate::domain::catalogue::Catalogue;
use crate::domain::event::Intake;
use crate::engine::Engine;
use crate::engine::clock::Clock;
use crate::engine::poller::{PollOptions, Poller};
use crate::engine::sources::{SourceLimits, SourceState, Sources};
use crate::grpc;
use crate::http::hook::{HookOptions, HookOrg};
use crate::okta::org::Orgs;
use crate::okta::system_log::{LogQuery, SystemLog, filter_of_types};
use crate::shutdown::Tasks;
use crate::telemetry;

/// How often it is looked whether the ways in are well.
const SOURCE_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The tasks that bring events by themselves, which stop before the writer does.
pub(super) struct Intakes {
    stop: CancellationToken,
    /// Held by each of them, and nothing is ever sent: closed when all have ended.
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Intakes {
    pub(super) fn new() -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            stop: CancellationToken::new(),
            alive,
            ended,
        }
    }

    pub(super) fn spawn<F>(
        &self,
        tasks: &mut Tasks,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let alive = self.alive.clone();
        let task = task(self.stop.clone());
        tasks.spawn(name, async move {
            let ended = task.await;
            drop(alive);
            ended
        });
    }

    /// Tells them to stop, waits until they have finished what they have begun, and gives how long
    /// that took; not longer than `patience`.
    pub(super) async fn stop(self, patience: Duration) -> Duration {
        let Self {
            stop,
            alive,
            mut ended,
        } = self;
        let since = std::time::Instant::now();
        stop.cancel();
        drop(alive);
        if tokio::time::timeout(patience, ended.recv()).await.is_err() {
            tracing::warn!("a delivery or a page of the System Log was still under way");
        }
        since.elapsed()
    }
}

/// The ways in that are set up.
pub(super) fn sources(
    config: &Config,
    hooks: Option<&HookOptions>,
    logs: &[(String, SystemLog)],
    clock: Clock,
) -> Sources {
    let hooks = hooks.iter().flat_map(|hooks| &hooks.orgs);
    let all = std::iter::once((Intake::Grpc, String::new()))
        .chain(hooks.map(|hook| (Intake::EventHook, hook.org.clone())))
        .chain(logs.iter().map(|(org, _)| (Intake::SystemLog, org.clone())));
    let silent_after = config.sources.silent_after;
    let limits = SourceLimits {
        failing_after: config.sources.failing_after,
        silent_after: (!silent_after.is_zero()).then_some(silent_after),
    };
    Sources::new(all, limits, clock)
}

/// The orgs whose System Log is polled, each with the client that asks for it.
pub(super) fn system_logs(
    config: &Config,
    orgs: &Orgs,
) -> anyhow::Result<Vec<(String, SystemLog)>> {
    let poll = &config.poll;
    let mut logs = Vec::new();
    for org in &config.orgs {
        if let Some(api) = org.api.clone() {
            let bytes_max = poll.page_bytes_max.as_usize();
            let log = SystemLog::new(api, poll.request_timeout, bytes_max)
                .with_context(|| format!("the System Log of {}", org.name))?;
            logs.push((orgs.resolve(&org.name)?, log));
        }
    }
    Ok(logs)
}

/// The event hook endpoint, if it is set up.
pub(super) fn hook_options(config: &Config, orgs: &Orgs) -> anyhow::Result<Option<HookOptions>> {
    let mut hooks = Vec::new();
    for org in &config.orgs {
        if org.hook.current.is_some() {
            hooks.push(HookOrg {
                org: orgs.resolve(&org.name)?,
                secrets: org.hook.clone(),
            });
        }
    }
    if config.hook_of_any_org.current.is_some() {
        hooks.push(HookOrg {
            org: String::new(),
            secrets: config.hook_of_any_org.clone(),
        });
    }
    let hook = &config.hook;
    let kept = hook.kept_headers.0.iter();
    Ok((!hooks.is_empty()).then(|| HookOptions {
        orgs: hooks,
        header: hook.header.0.clone(),
        kept_headers: kept.map(|name| name.0.to_string()).collect(),
        body_bytes_max: hook.body_bytes_max.as_usize(),
        bodies_bytes_max: config.ingest.queue_bytes_max.as_usize(),
        events_max: hook.events_per_delivery_max as usize,
        answer_timeout: hook.answer_timeout,
    }))
}

/// The pollers of the System Logs.
pub(super) fn pollers(
    config: &Config,
    logs: Vec<(String, SystemLog)>,
    engine: &Engine,
    sources: &Sources,
    clock: &Clock,
) -> Vec<Poller> {
    let poll = &config.poll;
    let filter = if !poll.filter.is_empty() {
        poll.filter.clone()
    } else if config.ingest.keep == config::Keep::All {
        String::new()
    } else {
        let (prefixes, names) = Catalogue::embedded().coverage();
        filter_of_types(prefixes.iter().map(String::as_str), names)
    };
    let poller = |(org, log): (String, SystemLog)| {
        let source = sources
            .find(Intake::SystemLog, &org)
            .expect("the sources were made of the same logs");
        let options = PollOptions {
            org,
            query: LogQuery {
                filter: filter.clone(),
                events_max: poll.page_events_max,
            },
            look_back: poll.look_back,
            interval: poll.interval,
            share_percent: poll.rate_share_percent,
            overlap: poll.overlap,
            retry_delay: poll.retry_delay,
            retry_delay_max: poll.retry_delay_max,
        };
        let random = || uuid::Uuid::new_v4().as_u64_pair().0;
        Poller::new(engine.clone(), log, source, clock.clone(), random, options)
    };
    logs.into_iter().map(poller).collect()
}

/// Lets the hooks' sources go on from what was known before a restart; pollers do so themselves.
pub(super) async fn restore(sources: &Sources, engine: &Engine) -> anyhow::Result<()> {
    for source in sources.all() {
        if source.intake == Intake::EventHook {
            source.restore(engine.last_delivery(&source.org).await?, None);
        }
    }
    Ok(())
}

/// Looks at the sources again and again, and tells health, metrics and the log.
pub(super) fn spawn_source_watch(tasks: &mut Tasks, sources: Sources, health: HealthReporter) {
    let stop = tasks.stop_signal();
    tasks.spawn("source watch", async move {
        let mut tick = tokio::time::interval(SOURCE_WATCH_INTERVAL);
        let mut before = vec![SourceState::Well; sources.all().len()];
        loop {
            // Dropping either branch is safe: a tick that was missed comes again.
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            for (source, before) in sources.all().iter().zip(&mut before) {
                let state = sources.judge(source);
                let (intake, org) = (source.intake.name(), source.org.as_str());
                let status = source.snapshot();
                // Also after a restart, and before the first one has come.
                let last_event = status.last_event.unwrap_or(status.started);
                let is_well = state == SourceState::Well;
                telemetry::source_watched(intake, org, is_well, last_event.seconds);
                if std::mem::replace(before, state) == state {
                    continue;
                }
                let last_error = status.last_error.map(|(_, error)| error);
                match state {
                    SourceState::Well => tracing::info!(intake, org, "a source is well again"),
                    SourceState::Failing => {
                        tracing::error!(intake, org, last_error, "a source is failing");
                    }
                    SourceState::Silent => {
                        tracing::error!(intake, org, last_error, "a source brings no events");
                    }
                }
            }
            let well = before.iter().all(|state| *state == SourceState::Well);
            grpc::set_sources_well(&health, well).await;
        }
    });
}
