//! The peer: a real NATS server with JetStream, and the same load on it.
//!
//! It gets the bytes that the service stores, and no work beyond keeping them: no reading, no
//! classifying, no deduplication. Every publish is acknowledged before it counts.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::events::Records;
use super::{BATCH, CALLERS, CONNECTIONS, Done};

const STREAM: &str = "EVENTS";
const SUBJECT: &str = "events";

/// What one pull asks for: a run of them, so that the peer is not slowed by asking.
const PULL: usize = 1000;

/// How long an answer may take before the run fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// The server's name and version.
pub(crate) fn version(binary: &Path) -> anyhow::Result<String> {
    let output = Command::new(binary)
        .arg("--version")
        .output()
        .context("nats-server can't be started")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// When the peer flushes to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Before it acknowledges, as the service does.
    Always,
    /// Its default: every two minutes.
    Lazy,
}

/// How the peer is given many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each by itself, acknowledged by itself.
    EachMessage,
    /// In batches that are kept or refused as a whole.
    AtomicBatches,
    /// In batches of which each message is kept as it comes, acknowledged together.
    FastBatches,
}

/// A running NATS server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Nats {
    child: Child,
    clients: Vec<Client>,
    contexts: Vec<jetstream::Context>,
}

impl Nats {
    pub(crate) async fn start(binary: &Path, dir: &Path, flush: Flush) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let sync_interval = match flush {
            Flush::Always => "sync_interval: always",
            Flush::Lazy => "",
        };
        // JSON text is text of the configuration, too.
        let [ports_dir, store_dir] =
            [dir, &dir.join("store")].map(|path| Value::from(path.to_string_lossy()));
        std::fs::write(
            dir.join("nats.conf"),
            format!(
                "host: 127.0.0.1\nport: -1\nports_file_dir: {ports_dir}\nserver_name: bench\n\
                 jetstream {{ store_dir: {store_dir}, max_file: 32GB\n{sync_interval}\n}}\n"
            ),
        )?;
        let child = Command::new(binary)
            .arg("-c")
            .arg(dir.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nats-server can't be started")?;
        let mut server = Self {
            child,
            clients: Vec::new(),
            contexts: Vec::new(),
        };
        let url = Self::url(dir).await?;
        for _ in 0..CONNECTIONS {
            let options = ConnectOptions::new().request_timeout(Some(PATIENCE));
            let client = options.connect(&url).await?;
            server.contexts.push(
                jetstream::context::ContextBuilder::new()
                    .timeout(PATIENCE)
                    .max_ack_inflight(CALLERS * BATCH)
                    .build(client.clone()),
            );
            server.clients.push(client);
        }
        server.create_stream().await?;
        Ok(server)
    }

    async fn url(dir: &Path) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = std::fs::read_dir(dir)?
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|kind| kind == "ports"));
            let ports = written.and_then(|path| std::fs::read(path).ok());
            let ports = ports.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(url) = ports.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
                return Ok(url.to_owned());
            }
            ensure!(Instant::now() < deadline, "nats-server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Empties the stream, so that what it has to carry does not grow from turn to turn.
    pub(crate) async fn fresh_stream(&self) -> anyhow::Result<()> {
        self.contexts[0].delete_stream(STREAM).await?;
        self.create_stream().await
    }

    async fn create_stream(&self) -> anyhow::Result<()> {
        // As JSON, because the client's type knows batches only with a feature.
        let config = json!({
            "name": STREAM,
            "subjects": [SUBJECT],
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
            "allow_atomic": true,
            "allow_batched": true,
        });
        let answer: Value = self.contexts[0]
            .request(format!("STREAM.CREATE.{STREAM}"), &config)
            .await?;
        ensure!(answer["error"].is_null(), "no stream: {answer}");
        Ok(())
    }

    /// Publishes until then, as many messages under way as the service's callers have.
    pub(crate) async fn publish(
        &self,
        way: Way,
        records: &Records,
        until: Instant,
    ) -> anyhow::Result<Done> {
        self.load(way, records, move || Instant::now() < until)
            .await
    }

    /// Publishes as many.
    pub(crate) async fn publish_count(
        &self,
        records: &Records,
        events: u64,
    ) -> anyhow::Result<Done> {
        let begun = Arc::new(AtomicU64::new(0));
        let more = move || begun.fetch_add(BATCH as u64, Ordering::Relaxed) < events;
        self.load(Way::EachMessage, records, more).await
    }

    async fn load(
        &self,
        way: Way,
        records: &Records,
        more: impl Fn() -> bool + Clone + Send + 'static,
    ) -> anyhow::Result<Done> {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut publisher = self.publisher(caller, records).await?;
            let more = more.clone();
            callers.spawn(async move {
                let mut done = 0;
                while more() {
                    match way {
                        Way::EachMessage => publisher.publish_each().await?,
                        Way::AtomicBatches => publisher.publish_atomic().await?,
                        Way::FastBatches => publisher.publish_fast().await?,
                    }
                    done += BATCH as u64;
                }
                anyhow::Ok(done)
            });
        }
        let mut events = 0;
        while let Some(done) = callers.join_next().await {
            events += done??;
        }
        Ok(Done {
            events,
            elapsed: start.elapsed(),
        })
    }

    async fn publisher(&self, caller: usize, records: &Records) -> anyhow::Result<Publisher> {
        let client = self.clients[caller % CONNECTIONS].clone();
        let inbox = uuid::Uuid::new_v4().simple().to_string();
        let answers = client.subscribe(format!("{inbox}.>")).await?;
        Ok(Publisher {
            client,
            context: self.contexts[caller % CONNECTIONS].clone(),
            inbox,
            answers,
            payloads: Arc::clone(&records.stored),
            next: caller * BATCH,
        })
    }

    /// Publishes one event at a time, and notes how long each took.
    pub(crate) async fn publish_singly(
        &self,
        records: &Records,
        until: Instant,
        latencies: &mut Vec<Duration>,
    ) -> anyhow::Result<()> {
        let mut publisher = self.publisher(0, records).await?;
        while Instant::now() < until {
            let sent = Instant::now();
            let payload = publisher.payload();
            publisher.context.publish(SUBJECT, payload).await?.await?;
            latencies.push(sent.elapsed());
        }
        Ok(())
    }

    /// Reads everything by pulls that overlap: the client's fastest way.
    pub(crate) async fn pull_all(&self, events: u64) -> anyhow::Result<Done> {
        let start = Instant::now();
        let consumer = self.consumer().await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(PULL)
            .messages()
            .await?;
        let mut last = 0;
        while last < events {
            let message = messages.next().await.context("the pull ended")??;
            last += 1;
            check_place(&message, last)?;
        }
        Ok(Done {
            events,
            elapsed: start.elapsed(),
        })
    }

    /// Reads everything by one fetch after the other.
    pub(crate) async fn fetch_all(&self, events: u64) -> anyhow::Result<Done> {
        let start = Instant::now();
        let consumer = self.consumer().await?;
        let mut last = 0;
        while last < events {
            let mut messages = consumer.fetch().max_messages(PULL).messages().await?;
            let before = last;
            while let Some(message) = messages.next().await {
                last += 1;
                check_place(&message.map_err(|error| anyhow!(error))?, last)?;
            }
            ensure!(last > before, "the stream ends at {last}");
        }
        Ok(Done {
            events,
            elapsed: start.elapsed(),
        })
    }

    /// One that acknowledges nothing and keeps nothing on disk: the cheapest there is.
    async fn consumer(&self) -> anyhow::Result<jetstream::consumer::Consumer<pull::Config>> {
        let stream = self.contexts[0].get_stream(STREAM).await?;
        let config = pull::Config {
            ack_policy: jetstream::consumer::AckPolicy::None,
            memory_storage: true,
            ..pull::Config::default()
        };
        Ok(stream.create_consumer(config).await?)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check_place(message: &jetstream::Message, expected: u64) -> anyhow::Result<()> {
    let info = message.info().map_err(|error| anyhow!(error))?;
    let found = info.stream_sequence;
    ensure!(found == expected, "{expected} is missing, found {found}");
    Ok(())
}

/// One of those who publish at the same time.
struct Publisher {
    client: Client,
    context: jetstream::Context,
    /// Where the answers to fast batches go.
    inbox: String,
    answers: Subscriber,
    payloads: Arc<[Bytes]>,
    next: usize,
}

impl Publisher {
    fn payload(&mut self) -> Bytes {
        self.next += 1;
        self.payloads[self.next % self.payloads.len()].clone()
    }

    async fn publish_each(&mut self) -> anyhow::Result<()> {
        let mut acks = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let payload = self.payload();
            acks.push(self.context.publish(SUBJECT, payload).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    /// The client has no call for it, so this speaks the protocol (NATS ADR-50) itself: headers
    /// on each message, and an answer to the last one.
    async fn publish_atomic(&mut self) -> anyhow::Result<()> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        for place in 1..=BATCH {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", place.to_string());
            let payload = self.payload();
            if place < BATCH {
                self.client
                    .publish_with_headers(SUBJECT, headers, payload)
                    .await?;
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let answer = self
                .client
                .request_with_headers(SUBJECT, headers, payload)
                .await?;
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            ensure!(answer["count"] == BATCH, "a batch was not taken: {answer}");
        }
        Ok(())
    }

    /// The same for fast batches (NATS 2.14): the reply subject says what is meant, as
    /// `inbox.batch.flow.gap.place.operation.$FI`.
    async fn publish_fast(&mut self) -> anyhow::Result<()> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        for place in 1..=BATCH {
            let operation = match place {
                1 => 0,
                BATCH => 2,
                _ => 1,
            };
            let inbox = &self.inbox;
            let reply = format!("{inbox}.{id}.{BATCH}.fail.{place}.{operation}.$FI");
            let payload = self.payload();
            self.client
                .publish_with_reply(SUBJECT, reply, payload)
                .await?;
        }
        loop {
            let answer = self
                .answers
                .next()
                .await
                .context("the connection is gone")?;
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            ensure!(answer["error"].is_null(), "a batch was not taken: {answer}");
            // Others only say how fast to go on; the last one names the stream.
            if answer["stream"].is_string() {
                ensure!(answer["count"] == BATCH, "a batch was cut: {answer}");
                return Ok(());
            }
        }
    }
}
