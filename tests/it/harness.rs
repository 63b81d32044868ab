//! Runs the server as its users do, and talks to it as they do.
//!
//! A [`Server`] is a process with a data directory of its own, on ports of its own, killed with
//! whatever it left when it is dropped. Waiting is always for something, with a deadline; what a
//! server wrote to its log is shown when a wait fails.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use provident::wire::v1;
use provident::wire::v1::classifier_service_client::ClassifierServiceClient;
use provident::wire::v1::event_service_client::EventServiceClient;
use provident::wire::v1::source_service_client::SourceServiceClient;
use provident::wire::v1::subscribe_response::Message;
use provident::wire::v1::subscription_service_client::SubscriptionServiceClient;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::fixtures::mixed_one;

/// How long anything may take before a test gives up. Far above what is ever needed, because a
/// debug build on a busy machine is slow, and a wait ends as soon as it can.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at something that can't be waited for.
/// A call that has no answer after this long may have been lost within the client.
const LOST_AFTER: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Says something worth reading in a test that passes: counts, seeds, what could not run.
///
/// Straight to standard error, because the test runner swallows what is printed by tests that
/// pass.
pub(crate) fn say(text: &str) {
    // Nobody reads it if standard error is gone, so there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A setting of the tests themselves.
#[expect(
    clippy::disallowed_methods,
    reason = "how much to test is said by the environment; the server's settings are not"
)]
pub(crate) fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.parse().ok();
    assert!(value.is_some(), "{name}={text} is not understood");
    value
}

/// The program under test, without settings of whoever runs the tests.
pub(crate) fn provident() -> Command {
    let binary = setting::<PathBuf>("PROVIDENT_BIN")
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_provident")));
    without_settings(Command::new(binary))
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        // The tests' own settings look like the server's; proxies and authorities are of this machine.
        let is_setting = ["PROVIDENT_", "OTEL_", "SSL_CERT_"]
            .iter()
            .any(|start| text.starts_with(start));
        if is_setting || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
}

/// A directory on the disk that the build is on, gone with the value.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    data_dir: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    through: Vec<String>,
}

impl Launch {
    pub(crate) fn on(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            through: Vec::new(),
        }
    }

    /// Further arguments of `provident serve`.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Variables of its environment, for what may not be an argument.
    pub(crate) fn with_env(mut self, variables: &[(&str, &str)]) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.variables.extend(variables.iter().map(owned));
        self
    }

    /// Starts it through a program that becomes it (`exec`), with arguments of that program.
    pub(crate) fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts the process, and waits for nothing.
    pub(crate) fn spawn(&self) -> Process {
        let mut command = provident();
        if let [program, arguments @ ..] = &self.through[..] {
            let binary = command.get_program().to_owned();
            command = without_settings(Command::new(program));
            command.args(arguments).arg(binary);
        }
        command
            .args(["serve", "--log-format", "json"])
            .args(["--grpc-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .args(["--http-addr", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            // A configuration file of whoever runs the tests must not be found.
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(Log::default()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let writer = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                writer.lock().unwrap().take(line);
            }
        });
        Process {
            child,
            log,
            log_reader: Some(reader),
            started: Instant::now(),
        }
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn start(&self) -> Server {
        self.spawn().serving(self.clone()).await
    }
}

/// What a server wrote to standard error.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    addresses: Option<Addresses>,
}

#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) grpc: String,
    pub(crate) admin: String,
    /// Empty where no event hook is set up.
    pub(crate) http: String,
}

impl Log {
    fn take(&mut self, line: String) {
        if self.addresses.is_none()
            && let Ok(entry) = serde_json::from_str::<serde_json::Value>(&line)
            && entry["fields"]["message"] == "listening"
        {
            let address = |name: &str| entry["fields"][name].as_str().unwrap_or("").to_owned();
            self.addresses = Some(Addresses {
                grpc: address("grpc_addr"),
                admin: address("admin_addr"),
                http: address("http_addr"),
            });
        }
        self.lines.push(line);
    }
}

/// A started server that may not serve yet. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Log>>,
    log_reader: Option<std::thread::JoinHandle<()>>,
    started: Instant,
}

impl Process {
    /// Waits for the log line that says where it listens.
    pub(crate) async fn listening(&mut self) -> Addresses {
        loop {
            if let Some(addresses) = self.log.lock().unwrap().addresses.clone() {
                return addresses;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended: {status}\n{}", self.log_text());
            }
            assert!(
                self.started.elapsed() < PATIENCE,
                "the server does not say where it listens\n{}",
                self.log_text()
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until it says SERVING.
    pub(crate) async fn serving(mut self, launch: Launch) -> Server {
        let addresses = self.until_serving().await;
        let started_in = self.started.elapsed();
        Server {
            channel: connect(&addresses.grpc).await,
            process: self,
            addresses,
            launch,
            started_in,
            own_data_dir: None,
        }
    }

    /// Waits until it says SERVING, or has ended and all that it said was read.
    pub(crate) async fn serving_or_ended(mut self, launch: Launch) -> Result<Server, Self> {
        let mut health = None;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                self.kill();
                return Err(self);
            }
            let addresses = self.log.lock().unwrap().addresses.clone();
            if health.is_none()
                && let Some(addresses) = addresses
                && let Ok(channel) = endpoint(&addresses.grpc).connect().await
            {
                health = Some((HealthClient::new(channel), addresses));
            }
            if let Some((client, addresses)) = &mut health
                && matches!(health_of(client, "").await, Ok(ServingStatus::Serving))
                && let Ok(channel) = endpoint(&addresses.grpc).connect().await
            {
                return Ok(Server {
                    channel,
                    addresses: addresses.clone(),
                    started_in: self.started.elapsed(),
                    process: self,
                    launch,
                    own_data_dir: None,
                });
            }
            assert!(
                self.started.elapsed() < PATIENCE,
                "the server neither serves nor ends\n{}",
                self.log_text()
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until it says SERVING. Dropping this changes nothing.
    pub(crate) async fn until_serving(&mut self) -> Addresses {
        let addresses = self.listening().await;
        let mut health = HealthClient::new(connect(&addresses.grpc).await);
        while !matches!(health_of(&mut health, "").await, Ok(ServingStatus::Serving)) {
            assert!(
                self.started.elapsed() < PATIENCE,
                "the server does not come to serve\n{}",
                self.log_text()
            );
            sleep(LOOK_AGAIN).await;
        }
        addresses
    }

    /// How many files below `directory` it holds open.
    pub(crate) fn open_files(&self, directory: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())) else {
            return 0;
        };
        let below = |path: &PathBuf| path.starts_with(directory);
        entries
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(below)
            .count()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
    }

    /// Memory that it takes, as the kernel counts it.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.parse().ok())
            .expect("a process has memory");
        kib * 1024
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "the server does not end\n{}",
                self.log_text()
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().lines.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            say(&format!("the server's log:\n{}", self.log_text()));
        }
    }
}

/// A server that has said SERVING.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) addresses: Addresses,
    /// From the start of the process to SERVING.
    pub(crate) started_in: Duration,
    channel: Channel,
    launch: Launch,
    /// Held for as long as the server runs, if it is the test's own.
    own_data_dir: Option<Arc<TempDir>>,
}

impl Server {
    /// A server with an empty journal.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with an empty journal and further arguments.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let directory = scratch();
        let launch = Launch::on(&directory.path().join("data")).with(arguments);
        let mut server = launch.start().await;
        server.own_data_dir = Some(Arc::new(directory));
        server
    }

    /// A server with an empty journal and a configuration file.
    pub(crate) async fn start_configured(toml: &str) -> Self {
        Self::start_in(toml, &[]).await
    }

    /// A server with an empty journal, a configuration file and variables of its environment.
    pub(crate) async fn start_in(toml: &str, variables: &[(&str, &str)]) -> Self {
        let directory = scratch();
        let file = directory.path().join("provident.toml");
        std::fs::write(&file, toml).unwrap();
        let launch = Launch::on(&directory.path().join("data"))
            .with(&["--config", file.to_str().unwrap()])
            .with_env(variables);
        let mut server = launch.start().await;
        server.own_data_dir = Some(Arc::new(directory));
        server
    }

    /// SIGKILL, then a new process on the same directory, with further arguments if any.
    pub(crate) async fn restart_with(mut self, arguments: &[&str]) -> Self {
        self.process.kill();
        let directory = self.own_data_dir.take();
        let mut server = self.launch.clone().with(arguments).start().await;
        server.own_data_dir = directory;
        server
    }

    /// SIGKILL, then a new process on the same directory.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(&[]).await
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A connection of its own, for callers that must not share one.
    pub(crate) async fn new_channel(&self) -> Channel {
        connect(&self.addresses.grpc).await
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel())
    }

    pub(crate) fn subscriptions(&self) -> SubscriptionServiceClient<Channel> {
        SubscriptionServiceClient::new(self.channel())
    }

    pub(crate) fn classifier(&self) -> ClassifierServiceClient<Channel> {
        ClassifierServiceClient::new(self.channel())
    }

    pub(crate) async fn health(&self) -> Result<ServingStatus, Status> {
        self.health_of("").await
    }

    /// What the health service says of a name.
    pub(crate) async fn health_of(&self, name: &str) -> Result<ServingStatus, Status> {
        health_of(&mut HealthClient::new(self.channel()), name).await
    }

    /// All metrics, as a scrape has them.
    pub(crate) async fn metrics(&self) -> String {
        let text = reqwest::get(format!("http://{}/metrics", self.addresses.admin));
        within(async { text.await.unwrap().text().await.unwrap() }).await
    }

    /// A metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
    }

    /// The ways in, and how they are.
    pub(crate) async fn sources(&self) -> Vec<v1::Source> {
        let mut client = SourceServiceClient::new(self.channel());
        let answer = within(client.list_sources(v1::ListSourcesRequest {})).await;
        answer.unwrap().into_inner().sources
    }

    /// Where the journal is, and what is beside it.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.launch.data_dir
    }

    /// Ingests System Log entries, one input each, for org `acme.okta.com`.
    pub(crate) async fn ingest<J: Into<Bytes>>(
        &self,
        events: impl IntoIterator<Item = J>,
    ) -> Vec<v1::IngestResult> {
        self.ingest_inputs(events.into_iter().map(json)).await
    }

    /// Ingests inputs for org `acme.okta.com`.
    pub(crate) async fn ingest_inputs(
        &self,
        inputs: impl IntoIterator<Item = v1::IngestInput>,
    ) -> Vec<v1::IngestResult> {
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs: inputs.into_iter().collect(),
        };
        within(self.events().ingest(request))
            .await
            .unwrap()
            .into_inner()
            .results
    }

    /// Makes a subscription, from the earliest event on.
    pub(crate) async fn create_subscription(
        &self,
        id: &str,
        filter: v1::Filter,
    ) -> v1::Subscription {
        let request = v1::CreateSubscriptionRequest {
            subscription_id: id.to_owned(),
            filter: Some(filter),
            start: Some(v1::create_subscription_request::Start::Position(
                v1::Position::Earliest.into(),
            )),
        };
        let made = within(self.subscriptions().create_subscription(request)).await;
        made.unwrap().into_inner().subscription.unwrap()
    }

    /// How a subscription is.
    pub(crate) async fn subscription(&self, id: &str) -> Result<v1::Subscription, Status> {
        let request = v1::GetSubscriptionRequest {
            subscription_id: id.to_owned(),
        };
        let found = within(self.subscriptions().get_subscription(request)).await?;
        Ok(found.into_inner().subscription.unwrap())
    }

    /// Calls Commit.
    pub(crate) async fn commit(&self, id: &str, session: &str, cursor: &str) -> Result<(), Status> {
        let request = commit_request(id, session, cursor);
        within(self.subscriptions().commit(request)).await?;
        Ok(())
    }

    /// Calls Subscribe; the stream's first message is still to come.
    pub(crate) async fn subscribe(&self, request: v1::SubscribeRequest) -> Result<Reader, Status> {
        let stream = within(self.events().subscribe(request)).await?.into_inner();
        Ok(Reader { stream })
    }

    /// Everything in the journal after `start`, of whatever verdict, with the raw JSON.
    pub(crate) async fn read_all(&self, start: Start) -> Vec<v1::StreamedEvent> {
        let request = v1::SubscribeRequest {
            include_raw: true,
            ..to_head(start)
        };
        let mut reader = self.subscribe(request).await.unwrap();
        reader.read_to_end().await.events
    }
}

pub(crate) const ORG: &str = "acme.okta.com";

pub(crate) use v1::subscribe_request::Start;

pub(crate) fn earliest() -> Start {
    Start::Position(v1::Position::Earliest.into())
}

/// Reading as a subscription, from its place on.
pub(crate) fn as_subscription(id: &str, reader: &str) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        start: Some(Start::SubscriptionId(id.to_owned())),
        reader: reader.to_owned(),
        ..v1::SubscribeRequest::default()
    }
}

pub(crate) fn latest() -> Start {
    Start::Position(v1::Position::Latest.into())
}

pub(crate) fn after(cursor: &str) -> Start {
    Start::Cursor(cursor.to_owned())
}

/// A filter that lets every event through.
pub(crate) fn everything() -> v1::Filter {
    v1::Filter {
        verdicts: (1..=5).collect(),
        ..v1::Filter::default()
    }
}

/// Everything from `start` to the head.
pub(crate) fn to_head(start: Start) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        stop_at_head: true,
        ..following(start)
    }
}

/// Everything from `start` on.
pub(crate) fn following(start: Start) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        start: Some(start),
        filter: Some(everything()),
        reader: "outer tests".to_owned(),
        ..v1::SubscribeRequest::default()
    }
}

/// A call of Ingest with the mixed events of some numbers.
pub(crate) fn ingest_request(numbers: impl IntoIterator<Item = u64>) -> v1::IngestRequest {
    v1::IngestRequest {
        org: ORG.to_owned(),
        inputs: numbers
            .into_iter()
            .map(|number| json(mixed_one(number)))
            .collect(),
    }
}

pub(crate) fn commit_request(id: &str, session: &str, cursor: &str) -> v1::CommitRequest {
    v1::CommitRequest {
        subscription_id: id.to_owned(),
        session: session.to_owned(),
        cursor: cursor.to_owned(),
    }
}

pub(crate) fn json(bytes: impl Into<Bytes>) -> v1::IngestInput {
    v1::IngestInput {
        input: Some(v1::ingest_input::Input::Json(bytes.into())),
    }
}

pub(crate) fn typed(event: v1::ProvisioningEvent) -> v1::IngestInput {
    v1::IngestInput {
        input: Some(v1::ingest_input::Input::Event(Box::new(event))),
    }
}

pub(crate) fn card(card: v1::GroupPushFailed) -> v1::IngestInput {
    v1::IngestInput {
        input: Some(v1::ingest_input::Input::GroupPushFailed(Box::new(card))),
    }
}

/// A stream of Subscribe.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Streaming<v1::SubscribeResponse>,
}

/// A stream that came to its end, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) confirmation: v1::Confirmation,
    pub(crate) events: Vec<v1::StreamedEvent>,
    /// How many events each batch had, and its size encoded.
    pub(crate) batches: Vec<(usize, usize)>,
    pub(crate) heartbeats: Vec<v1::Heartbeat>,
    pub(crate) caught_up: Vec<v1::CaughtUp>,
    pub(crate) ending: Option<v1::StreamEnding>,
}

impl Read {
    fn take(&mut self, message: Message) {
        match message {
            Message::Confirmation(confirmation) => self.confirmation = confirmation,
            Message::Batch(batch) => {
                self.batches.push((batch.events.len(), batch.encoded_len()));
                self.events.extend(batch.events);
            }
            Message::Heartbeat(heartbeat) => self.heartbeats.push(heartbeat),
            Message::CaughtUp(caught_up) => self.caught_up.push(caught_up),
            Message::Gap(gap) => panic!("a gap where nothing is lost: {gap:?}"),
            Message::Ending(ending) => {
                assert!(self.ending.replace(ending).is_none(), "two endings");
            }
        }
    }
}

impl Reader {
    /// The next message; `None` at the end with status OK.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Status> {
        let response = within(self.stream.message()).await?;
        Ok(response.map(|response| response.message.expect("a kind that this contract has")))
    }

    pub(crate) async fn confirmation(&mut self) -> v1::Confirmation {
        match self.next().await.unwrap() {
            Some(Message::Confirmation(confirmation)) => confirmation,
            other => panic!("{other:?} where the confirmation belongs"),
        }
    }

    /// Reads to the planned end.
    pub(crate) async fn read_to_end(&mut self) -> Read {
        let mut read = Read {
            confirmation: self.confirmation().await,
            ..Read::default()
        };
        self.rest_into(&mut read).await;
        read
    }

    /// Reads what is left up to the planned end.
    pub(crate) async fn rest_into(&mut self, read: &mut Read) {
        while let Some(message) = self.next().await.unwrap() {
            assert!(read.ending.is_none(), "{message:?} after the ending");
            read.take(message);
        }
        assert!(read.ending.is_some(), "the stream ended without an ending");
    }

    /// Reads until `done` holds of what has been read.
    pub(crate) async fn until(&mut self, read: &mut Read, done: impl Fn(&Read) -> bool) {
        while !done(read) {
            let message = self.next().await.unwrap();
            read.take(message.expect("the stream goes on"));
        }
    }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|error| panic!("{address:?}: {error}"))
        .tcp_nodelay(true)
}

/// Connects, trying again until the patience ends.
async fn connect(address: &str) -> Channel {
    let endpoint = endpoint(address);
    let since = Instant::now();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{address}: {error}"),
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn health_of(
    client: &mut HealthClient<Channel>,
    name: &str,
) -> Result<ServingStatus, Status> {
    let service = name.to_owned();
    let response = within(client.check(HealthCheckRequest { service })).await?;
    Ok(response.into_inner().status())
}

/// Waits for a future, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("an answer before the patience ends")
}

/// Waits for the answer of a call on a connection that may end meanwhile.
///
/// hyper 1.12 can lose a request that is made in the very moment when its connection ends: the
/// queue between them (tokio's unbounded channel) keeps what is pushed while its receiver is
/// dropped, and nobody is told until its senders are gone too. The next call on the channel finds
/// the connection gone and drops them, so that the lost one fails. One that still has no answer
/// then is the server's fault, and fails the test like any other.
pub(crate) async fn answered<T>(
    channel: &Channel,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut call = std::pin::pin!(call);
    if let Ok(answer) = timeout(LOST_AFTER, &mut call).await {
        return answer;
    }
    // Whatever it says.
    let mut health = HealthClient::new(channel.clone());
    let _ = timeout(LOST_AFTER, health.check(HealthCheckRequest::default())).await;
    within(call).await
}

/// Waits until `probe` gives something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Checks an error status of ours: code, and reason with our domain in the details.
///
/// Gives the metadata.
#[track_caller]
pub(crate) fn refused(
    status: &Status,
    code: Code,
    reason: v1::ErrorReason,
) -> std::collections::HashMap<String, String> {
    let reason = reason
        .as_str_name()
        .strip_prefix("ERROR_REASON_")
        .unwrap()
        .to_owned();
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("a status without ErrorInfo: {status:?}"));
    assert_eq!(
        (status.code(), info.reason.as_str(), info.domain.as_str()),
        (code, reason.as_str(), "provident.dev"),
        "{}",
        status.message()
    );
    assert!(!status.message().is_empty(), "{reason} without a sentence");
    info.metadata.clone()
}

/// The fields that a status names as bad.
pub(crate) fn bad_fields(status: &Status) -> Vec<String> {
    status
        .get_error_details()
        .bad_request()
        .map(|bad| {
            bad.field_violations
                .iter()
                .map(|violation| violation.field.clone())
                .collect()
        })
        .unwrap_or_default()
}

/// The statuses of results, by name without their prefix.
pub(crate) fn statuses(results: &[v1::IngestResult]) -> Vec<&'static str> {
    results.iter().map(status_name).collect()
}

fn status_name(result: &v1::IngestResult) -> &'static str {
    result
        .status()
        .as_str_name()
        .strip_prefix("INGEST_STATUS_")
        .unwrap()
}

/// Whether the server went away or is stopping, rather than refused. Where the connection went before
/// the call was on its way, the client's own word for it is CANCELLED.
pub(crate) fn is_gone(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    ) && status
        .get_details_error_info()
        .is_none_or(|info| info.reason == "SHUTTING_DOWN")
}

/// Checks that all were accepted, and gives their sequences.
#[track_caller]
pub(crate) fn accepted(results: &[v1::IngestResult]) -> Vec<u64> {
    let mut wrong = String::new();
    for result in results {
        if result.status() != v1::IngestStatus::Accepted {
            writeln!(wrong, "{} {:?}", status_name(result), result.error).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    results.iter().map(|result| result.sequence).collect()
}

/// Random numbers from a seed that is said, and taken back by `PROVIDENT_SEED` (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The seed of this run, said in the name of `test`.
    pub(crate) fn of_run(test: &str) -> Self {
        let seed =
            setting("PROVIDENT_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 32);
        say(&format!("{test}: PROVIDENT_SEED={seed}"));
        Self(seed)
    }

    /// The numbers of a seed that is part of what is tested.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of some.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap();
        &of[index]
    }

    /// Random numbers of its own for another task.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
