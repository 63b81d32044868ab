//! The service under test: the real binary on a directory of its own, and the load on it.
//!
//! Everything goes over gRPC. Answers are checked: each event ACCEPTED, each sequence in its place.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes};
use prost::encoding::decode_varint;
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::subscribe_response::Message;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::{ProstCodec, ProstEncoder};

use super::events::Events;
use super::{BATCH, CALLERS, CONNECTIONS, Done};

const BINARY: &str = env!("CARGO_BIN_EXE_provident");
const ORG: &str = "acme.okta.com";

/// How long the service may take to say where it listens, or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary's name and version.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = Command::new(BINARY).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    channels: Vec<Channel>,
}

/// What a reader does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Takes messages as bytes, as the peer's client does, and looks only for the sequences.
    Bytes,
    /// The same with the raw JSON: about as many bytes as the peer sends.
    BytesWithRaw,
    /// Decodes every message.
    Decoded,
}

/// When an event was seen by a live subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) after_ok_ms: f64,
    pub(crate) after_sent_ms: f64,
}

impl Service {
    /// Starts the service and returns when it says SERVING.
    pub(crate) async fn start(data: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(BINARY)
            .args(["serve", "--grpc-addr", "127.0.0.1:0"])
            .args(["--admin-addr", "127.0.0.1:0", "--log-format", "json"])
            .arg("--data-dir")
            .arg(data)
            // Nothing of this shell's environment may set the service.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the binary can't be started")?;
        let addr = listening(&mut child)?;
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(endpoint.connect().await?);
        }
        let service = Self { child, channels };
        service.serving().await?;
        Ok(service)
    }

    async fn serving(&self) -> anyhow::Result<()> {
        let mut health = HealthClient::new(self.channels[0].clone());
        let mut changes = health
            .watch(HealthCheckRequest::default())
            .await?
            .into_inner();
        while let Some(change) = changes.message().await? {
            if change.status() == ServingStatus::Serving {
                return Ok(());
            }
        }
        bail!("the service never said SERVING")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        // Else the drain waits for our connections.
        self.channels.clear();
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the service does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn client(&self, caller: usize) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channels[caller % CONNECTIONS].clone())
            .max_decoding_message_size(64 << 20)
    }

    /// Ingests in batches, many callers at a time, until then.
    pub(crate) async fn ingest_until(&self, until: Instant) -> anyhow::Result<Done> {
        self.ingest(move || Instant::now() < until).await
    }

    /// Ingests as many events, by all callers together.
    pub(crate) async fn ingest_count(&self, events: u64) -> anyhow::Result<Done> {
        use std::sync::atomic::{AtomicU64, Ordering};
        let begun = std::sync::Arc::new(AtomicU64::new(0));
        let more = move || begun.fetch_add(BATCH as u64, Ordering::Relaxed) < events;
        self.ingest(more).await
    }

    async fn ingest(
        &self,
        more: impl Fn() -> bool + Clone + Send + 'static,
    ) -> anyhow::Result<Done> {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (mut client, more) = (self.client(caller), more.clone());
            callers.spawn(async move {
                let (mut events, mut done) = (Events::new(), 0);
                while more() {
                    ingest_batch(&mut client, &mut events, BATCH).await?;
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

    /// Ingests one event at a time, and notes how long each took.
    pub(crate) async fn ingest_singly(
        &self,
        until: Instant,
        latencies: &mut Vec<Duration>,
    ) -> anyhow::Result<()> {
        let (mut client, mut events) = (self.client(0), Events::new());
        while Instant::now() < until {
            let sent = Instant::now();
            ingest_batch(&mut client, &mut events, 1).await?;
            latencies.push(sent.elapsed());
        }
        Ok(())
    }

    /// How many events the journal holds, by the head's sequence.
    pub(crate) async fn events(&self) -> anyhow::Result<u64> {
        let (mut client, mut events) = (self.client(0), Events::new());
        ingest_batch(&mut client, &mut events, 1).await
    }

    /// Reads everything from the beginning to the head; there have to be so many events.
    pub(crate) async fn read_all(&self, reading: Reading, events: u64) -> anyhow::Result<Done> {
        let start = Instant::now();
        let request = v1::SubscribeRequest {
            start: Some(v1::subscribe_request::Start::Position(
                v1::Position::Earliest.into(),
            )),
            filter: Some(every_verdict()),
            stop_at_head: true,
            include_raw: reading == Reading::BytesWithRaw,
            reader: "bench".to_owned(),
            ..v1::SubscribeRequest::default()
        };
        let last = match reading {
            Reading::Decoded => read_decoded(self.client(0), request).await?,
            Reading::Bytes | Reading::BytesWithRaw => {
                read_bytes(self.channels[0].clone(), request).await?
            }
        };
        ensure!(last == events, "read {last} events, not {events}");
        Ok(Done {
            events,
            elapsed: start.elapsed(),
        })
    }

    /// Ingests so many events one by one, a little apart, while a subscriber follows.
    pub(crate) async fn watch_live(&self, count: usize) -> anyhow::Result<Vec<Seen>> {
        let request = v1::SubscribeRequest {
            start: Some(v1::subscribe_request::Start::Position(
                v1::Position::Latest.into(),
            )),
            filter: Some(every_verdict()),
            ..v1::SubscribeRequest::default()
        };
        let mut stream = self.client(1).subscribe(request).await?.into_inner();
        let first = stream.message().await?;
        ensure!(
            matches!(
                first.and_then(|first| first.message),
                Some(Message::Confirmation(_))
            ),
            "the first message is no confirmation"
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut seen = HashMap::new();
            while seen.len() < count {
                let message = stream.message().await?.context("the stream ended")?;
                let now = Instant::now();
                if let Some(Message::Batch(batch)) = message.message {
                    seen.extend(batch.events.iter().map(|event| (event.sequence, now)));
                }
            }
            anyhow::Ok(seen)
        });
        let (mut client, mut events) = (self.client(0), Events::new());
        let mut answered = Vec::with_capacity(count);
        for _ in 0..count {
            let sent = Instant::now();
            let sequence = ingest_batch(&mut client, &mut events, 1).await?;
            answered.push((sequence, sent, Instant::now()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seen = tasks.join_next().await.context("there is a reader")???;
        let signed = |from: Instant, to: Instant| {
            let after = to.saturating_duration_since(from).as_secs_f64();
            (after - from.saturating_duration_since(to).as_secs_f64()) * 1e3
        };
        answered
            .into_iter()
            .map(|(sequence, sent, answered)| {
                let seen = *seen.get(&sequence).context("an event was not seen")?;
                Ok(Seen {
                    after_ok_ms: signed(answered, seen),
                    after_sent_ms: signed(sent, seen),
                })
            })
            .collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.kill();
    }
}

/// Waits for the line that says where it listens; what else it writes is read and dropped.
fn listening(child: &mut Child) -> anyhow::Result<SocketAddr> {
    let stderr = child.stderr.take().context("stderr is piped")?;
    let (found, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut before = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let field = |name: &str| json["fields"][name].as_str().or(json[name].as_str());
            if field("message") == Some("listening")
                && let Some(addr) = field("grpc_addr")
            {
                let _ = found.send(Ok(addr.to_owned()));
            }
            before.push(line);
            before.drain(..before.len().saturating_sub(20));
        }
        // Nobody waits any more where it had been listening.
        let _ = found.send(Err(before.join("\n")));
    });
    match told.recv_timeout(PATIENCE) {
        Ok(Ok(addr)) => Ok(addr.parse()?),
        Ok(Err(lines)) => bail!("the service ended:\n{lines}"),
        Err(error) => Err(error).context("the service never said where it listens"),
    }
}

fn every_verdict() -> v1::Filter {
    let verdicts = [
        v1::Verdict::Failure,
        v1::Verdict::Warning,
        v1::Verdict::Success,
        v1::Verdict::Undetermined,
        v1::Verdict::Unrelated,
    ];
    v1::Filter {
        verdicts: verdicts.map(i32::from).to_vec(),
        ..v1::Filter::default()
    }
}

/// Gives the last sequence.
async fn ingest_batch(
    client: &mut EventServiceClient<Channel>,
    events: &mut Events,
    count: usize,
) -> anyhow::Result<u64> {
    let inputs = (0..count)
        .map(|_| v1::IngestInput {
            input: Some(v1::ingest_input::Input::Json(events.next_json())),
        })
        .collect();
    let request = v1::IngestRequest {
        org: ORG.to_owned(),
        inputs,
    };
    let results = client.ingest(request).await?.into_inner().results;
    ensure!(
        results.len() == count,
        "{} results for {count}",
        results.len()
    );
    for result in &results {
        ensure!(
            result.status() == v1::IngestStatus::Accepted,
            "an event was not accepted: {result:?}"
        );
    }
    Ok(results.last().map_or(0, |result| result.sequence))
}

async fn read_decoded(
    mut client: EventServiceClient<Channel>,
    request: v1::SubscribeRequest,
) -> anyhow::Result<u64> {
    let mut stream = client.subscribe(request).await?.into_inner();
    let mut last = 0;
    while let Some(message) = stream.message().await? {
        if let Some(Message::Batch(batch)) = message.message {
            for event in &batch.events {
                last += 1;
                ensure!(event.sequence == last, "{last} is missing");
            }
        }
    }
    Ok(last)
}

async fn read_bytes(channel: Channel, request: v1::SubscribeRequest) -> anyhow::Result<u64> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(64 << 20);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/provident.v1.EventService/Subscribe");
    let answer = grpc
        .server_streaming(Request::new(request), path, BytesCodec)
        .await?;
    let mut stream = answer.into_inner();
    let mut last = 0;
    while let Some(message) = stream.message().await? {
        for sequence in sequences(message)? {
            last += 1;
            ensure!(sequence == last, "{last} is missing");
        }
    }
    Ok(last)
}

/// The sequences in a `SubscribeResponse`; none if it is no batch.
fn sequences(mut message: Bytes) -> anyhow::Result<Vec<u64>> {
    /// `SubscribeResponse.batch`, `EventBatch.events`, `StreamedEvent.sequence`.
    const TAGS: [u8; 3] = [2 << 3 | 2, 1 << 3 | 2, 1 << 3];
    if message.try_get_u8()? != TAGS[0] {
        return Ok(Vec::new());
    }
    decode_varint(&mut message)?;
    let mut found = Vec::with_capacity(BATCH);
    while message.has_remaining() {
        ensure!(message.get_u8() == TAGS[1], "a batch has events alone");
        let length = usize::try_from(decode_varint(&mut message)?)?;
        ensure!(length <= message.len(), "an event is cut short");
        let mut event = message.split_to(length);
        ensure!(
            event.try_get_u8()? == TAGS[2],
            "an event begins with its sequence"
        );
        found.push(decode_varint(&mut event)?);
    }
    Ok(found)
}

/// Sends messages, receives bytes.
#[derive(Debug)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = v1::SubscribeRequest;
    type Decode = Bytes;
    type Encoder = ProstEncoder<v1::SubscribeRequest>;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<v1::SubscribeRequest, ()>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BytesDecoder
    }
}

#[derive(Debug)]
struct BytesDecoder;

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = message.remaining();
        Ok(Some(message.copy_to_bytes(length)))
    }
}
