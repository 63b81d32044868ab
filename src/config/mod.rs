//! File, environment and flags → one checked [`Config`].
//!
//! A flag counts over a variable, a variable over the file, the file over the default. A name
//! that is not known is an error, wherever it stands, and all problems are told at once. Only this
//! module reads the environment. It names nothing else of ours, so each part of the server gets
//! its section by value.
//!
//! An option `key` of `[section]` is the variable `PROVIDENT_SECTION_KEY`; see [`SHORT`] for
//! those that have a shorter one too.

mod orgs;
mod secret;
mod sources;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::orgs::OrgEntry;
pub use self::orgs::{ApiConfig, HookSecrets, LoginConfig, OrgConfig};
pub use self::secret::{Secret, UnreadableSecret};
pub use self::sources::{ClientDefaults, Flag, Flags, client_defaults};
use self::sources::{Given, Origin, Sources};
pub use self::value::{ByteSize, InvalidByteSize};
use self::value::{Value, choice, is_bare, quoted};

/// How long Okta waits for an event hook's answer.
const OKTA_PATIENCE: Duration = Duration::from_secs(3);

/// Variables that are shorter than their option's name makes them.
pub const SHORT: [(&str, &str); 4] = [
    ("PROVIDENT_DATA_DIR", "journal.data_dir"),
    ("PROVIDENT_KEEP", "ingest.keep"),
    ("PROVIDENT_RULES", "classify.rules_file"),
    ("PROVIDENT_ALLOW_PLAINTEXT", "grpc.allow_plaintext"),
];

/// One option: its place in the file, and what its documentation says.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    pub doc: &'static [&'static str],
}

impl Key {
    /// The variable that sets it.
    pub fn variable(self) -> String {
        variable(self.path)
    }
}

fn variable(path: &str) -> String {
    format!("PROVIDENT_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Defines a section: its struct, the list of its keys, and how it is read.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident = $section:literal {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)* }

        impl $name {
            const KEYS: &'static [Key] = &[$(
                Key { path: concat!($section, ".", stringify!($key)), doc: &[$($doc),+] },
            )*];

            fn read(reader: &mut Reader) -> Self {
                Self { $($key: reader.take(concat!($section, ".", stringify!($key)), $default),)* }
            }
        }
    };
}

section! {
    /// The gRPC server, for those who send events and those who read them.
    GrpcConfig = "grpc" {
        /// IP address and port. Default 127.0.0.1:50051. Change it to be reached from other
        /// machines, together with `allow_plaintext`; port 0 takes any free one.
        addr: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051)),
        /// Bytes of the largest message taken in. Default 16MiB. Raise it for larger batches; memory
        /// for it is needed once for each call under way.
        message_bytes_max: ByteSize = ByteSize::mib(16),
        /// Connections at a time. Default 1000. Each costs some tens of kilobytes and a file
        /// descriptor.
        connections_max: u32 = 1000,
        /// Calls under way at a time on one connection, streams included. Default 200.
        streams_per_connection_max: u32 = 200,
        /// How long a connection may be silent before it is asked for a sign of life. Default 30s. Lower
        /// it to be rid of clients that vanished sooner, raise it for clients that pay for traffic.
        keepalive_interval: Duration = Duration::from_secs(30),
        /// How long a connection has to give that sign before it is closed and its streams end, and a
        /// new one to say that it speaks HTTP/2. Default 10s. Raise it where clients pause for long or
        /// the network is slow.
        keepalive_timeout: Duration = Duration::from_secs(10),
        /// Bytes of requests that may be arriving at a time, over all calls; further ones are refused
        /// with OVERLOADED. Default 256MiB. Raise it if bursts are refused and memory is there.
        requests_bytes_max: ByteSize = ByteSize::mib(256),
        /// How long a request may take to arrive before it is refused with OVERLOADED. Default 30s.
        /// Raise it for large batches over slow lines.
        request_timeout: Duration = Duration::from_secs(30),
        /// Whether the reflection service tells clients such as grpcurl what there is to call.
        /// Default true.
        reflection: bool = true,
        /// Whether anybody who reaches an address beyond loopback may call, unencrypted. Default
        /// false. Set it where a mesh or a network policy stands before the service.
        allow_plaintext: bool = false,
    }
}

section! {
    /// The HTTP server that Okta's event hooks deliver to. It listens once a hook's secret is set.
    HttpConfig = "http" {
        /// IP address and port of the event hook endpoint. Default 127.0.0.1:8080. Okta delivers over
        /// HTTPS alone, so put an ingress that speaks it before the address.
        addr: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// Connections at a time; a further one waits until another has gone. Default 256. Okta opens a
        /// few, an ingress keeps some tens.
        connections_max: u32 = 256,
        /// How long a client may take to send a request's head, and a connection may be idle. Default
        /// 2s, so that those who take every connection and send nothing keep Okta out for less than
        /// the 3 s that it waits.
        head_timeout: Duration = Duration::from_secs(2),
    }
}

section! {
    /// Okta event hooks: the way in that is fast, for the 10 event types that Okta sends by it.
    HookConfig = "hook" {
        /// What the header of a delivery must hold, and what switches the endpoint on. Not to be written
        /// in this file: set the variable, or name a file with `secret_file`. Default none. For
        /// the only org; of several, each has its own in `[[orgs]]`.
        secret: Option<Secret> = None,
        /// File with the secret, read again when it changes. Default none.
        secret_file: Option<PathBuf> = None,
        /// The secret before: still valid, so that the one in Okta can be changed at leisure. Not to be
        /// written in this file. Default none.
        previous_secret: Option<Secret> = None,
        /// File with the secret before. Default none.
        previous_secret_file: Option<PathBuf> = None,
        /// Name of the header that holds the secret. Default Authorization.
        header: HeaderName = HeaderName(axum::http::header::AUTHORIZATION),
        /// Names of further headers of a delivery that are kept with failed group pushes, with commas
        /// between. Default none: Content-Type, Date and User-Agent. Never the secret's,
        /// Authorization or Cookie.
        kept_headers: HeaderNames = HeaderNames(Vec::new()),
        /// Bytes of the largest delivery taken. Default 8MiB. Okta documents no limit; its events are a
        /// few kilobytes.
        body_bytes_max: ByteSize = ByteSize::mib(8),
        /// Events in one delivery; Okta does not send those of a larger one again. Default 10000, which
        /// no body of the default size has. Okta documents no limit.
        events_per_delivery_max: u32 = 10_000,
        /// How long a delivery may take before it is answered with 503, so that Okta tries again.
        /// Default 2s. Okta itself waits for 3 s.
        answer_timeout: Duration = Duration::from_secs(2),
    }
}

section! {
    /// The org whose System Log is polled, and how to log in to it. For the only org; of several,
    /// each has its own in `[[orgs]]`.
    OktaConfig = "okta" {
        /// URL of the org, such as `https://acme.okta.com`; switches the System Log poller on. Default
        /// none. Plain HTTP goes to a loopback address alone.
        org_url: String = String::new(),
        /// API token (SSWS) to log in with. Not to be written in this file: set the variable, or name a
        /// file with `api_token_file`. Default none.
        api_token: Option<Secret> = None,
        /// File with the API token, read again when it changes. Default none.
        api_token_file: Option<PathBuf> = None,
        /// Client id of the service app to log in as (OAuth 2.0, `private_key_jwt`), in place of an API
        /// token. Default none. The app needs the scope okta.logs.read and an admin role.
        client_id: String = String::new(),
        /// File with the service app's private key, as PEM or JWK (RSA, or EC on P-256), read again when
        /// it changes. Default none.
        private_key_file: Option<PathBuf> = None,
        /// Key id (`kid`) that Okta shows beside the public key. Default none: a JWK's own. Needed with a
        /// PEM file where the app has more than one key.
        private_key_id: String = String::new(),
    }
}

section! {
    /// Polling the System Log: the way in that is complete.
    PollConfig = "poll" {
        /// How far back the first poll of an org begins. Default 7days. Okta keeps 90 days.
        look_back: Duration = Duration::from_hours(7 * 24),
        /// How long to wait after a page that was not full. Default 10s. Each poll counts against the
        /// org's rate limit (20 to 120 requests a minute).
        interval: Duration = Duration::from_secs(10),
        /// Percent of the org's rate limit for the System Log that is used at the most. Default 50.
        rate_share_percent: u32 = 50,
        /// Events of a page. Default 1000, which is the most that Okta gives.
        page_events_max: u32 = 1000,
        /// Bytes of the largest page taken. Default 64MiB. A full page is usually 2 to 5 MiB.
        page_bytes_max: ByteSize = ByteSize::mib(64),
        /// Filter in Okta's System Log filter language that Okta applies before it sends. Default none:
        /// the event types that concern provisioning, or all of them with ingest.keep = all.
        filter: String = String::new(),
        /// How far before the newest event that was read a poll begins anew when Okta no longer takes the
        /// stored place. Default 10m. What comes twice is kept once.
        overlap: Duration = Duration::from_mins(10),
        /// How long one request may take. Default 1m. Okta itself gives a query up after 30 s.
        request_timeout: Duration = Duration::from_mins(1),
        /// How long to wait after the first failure; doubles with each further one. Default 1s.
        retry_delay: Duration = Duration::from_secs(1),
        /// The longest wait after failures. Default 1m.
        retry_delay_max: Duration = Duration::from_mins(1),
    }
}

section! {
    /// When the ways in count as broken: then `provident.sources` is `NOT_SERVING` in the health
    /// service.
    SourcesConfig = "sources" {
        /// How long a source may fail before it says so. Default 5m.
        failing_after: Duration = Duration::from_mins(5),
        /// How long a source may bring no event before it says so. Default 7days; 0s: for ever. Lower it
        /// where events come all day. Okta also gives empty pages where a service app's role is too
        /// small.
        silent_after: Duration = Duration::from_hours(7 * 24),
    }
}

section! {
    /// Metrics and probes.
    AdminConfig = "admin" {
        /// IP address and port of metrics and probes. Default 127.0.0.1:9090. Change it for a
        /// scraper or a kubelet; never put it behind an ingress.
        addr: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9090)),
    }
}

choice! {
    /// Where events are kept.
    JournalKind {
        /// In files of our own.
        Embedded = "embedded",
        /// In memory: all is lost on stop.
        Memory = "memory",
    }
}

section! {
    JournalSection = "journal" {
        /// `embedded`: on disk, in `data_dir`. `memory`: nowhere, all is lost on stop; for trying things
        /// out. Default embedded.
        kind: JournalKind = JournalKind::Embedded,
        /// Directory of the embedded journal, made if it is not there. Default ./data. Put it on a
        /// volume of its own.
        data_dir: PathBuf = PathBuf::from("./data"),
        /// Bytes of events after which the embedded journal begins a new generation, the unit in
        /// which retention gives disk back. Default 256MiB. Raise it where much is kept for long.
        generation_bytes_max: ByteSize = ByteSize::mib(256),
        /// Bytes of memory that the embedded journal keeps read blocks in. Default 64MiB. Raise it if many
        /// readers are far behind.
        cache_bytes: ByteSize = ByteSize::mib(64),
    }
}

/// Where events are kept. Each kind carries its own options and no others.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalConfig {
    Embedded {
        data_dir: PathBuf,
        generation_bytes_max: ByteSize,
        cache_bytes: ByteSize,
    },
    /// Loses everything on stop.
    Memory {},
}

section! {
    /// The disk under the journal.
    StorageConfig = "storage" {
        /// Bytes that are to stay free on the disk: with less, events are refused until there is
        /// room again. Default 512MiB: moving what was accepted to
        /// its tables, and merging those, takes about 320 MiB for a while. Less than 64MiB
        /// may make the store stop for good when the disk is full.
        reserve: ByteSize = ByteSize::mib(512),
        /// A write that has not ended after so long is taken for failed: the service stops, so that
        /// whoever restarts it does so. Default 1min: a network's disk may stall for half of that.
        write_timeout: Duration = Duration::from_mins(1),
    }
}

section! {
    /// How long events are kept. They go in whole generations (`journal.generation_bytes_max`), the
    /// oldest first; readers that have not come so far are told.
    RetentionConfig = "retention" {
        /// How long events are kept; 0s: for ever. Default 30days. What is kept may be a tenth older.
        age_max: Duration = Duration::from_hours(30 * 24),
        /// Bytes of events that are kept at the most; 0: as many as the volume holds. Default 0.
        bytes_max: ByteSize = ByteSize::bytes(0),
        /// Percent of the volume that the journal takes at the most. Default 80. It also leaves room for
        /// `storage.reserve` and one generation. What other files take there makes no event go.
        volume_percent_max: u32 = 80,
        /// How much longer than `age_max` events wait for a subscription that has not committed them;
        /// 0s: they don't. Default 0s. Limits of size never wait. What is kept may then be older by a
        /// tenth of both together, at most by `age_max`.
        wait_for_subscriptions: Duration = Duration::ZERO,
        /// How long an event is known by its org and uuid, so that it is kept once; 0s: for ever. Default
        /// 100days: Okta keeps 90. Events that are still kept stay known in any case; about 50 bytes
        /// each.
        dedupe_horizon: Duration = Duration::from_hours(100 * 24),
        /// How often it is looked whether something is to go. Default 10s.
        interval: Duration = Duration::from_secs(10),
    }
}

choice! {
    /// Which events are kept.
    Keep {
        /// All that concerns provisioning, whether it failed or not.
        Provisioning = "provisioning",
        /// Failures, warnings and what can't be told.
        Failures = "failures",
        /// Whatever Okta sends.
        All = "all",
    }
}

section! {
    /// Saying what events mean.
    ClassifyConfig = "classify" {
        /// TOML file with rules of your own, which count over the built-in ones. Default none. Check it
        /// with `provident rules check FILE`; with a mistake in it the service does not start.
        rules_file: Option<PathBuf> = None,
    }
}

section! {
    /// Taking events in.
    IngestConfig = "ingest" {
        /// Which events are kept: `provisioning` (all that concerns it), `failures` (failures, warnings
        /// and what can't be told) or `all`. Default provisioning. What is not kept leaves no trace.
        keep: Keep = Keep::Provisioning,
        /// Bytes of the largest event taken, as JSON. Default 512KiB. Okta's are a few kilobytes.
        event_bytes_max: ByteSize = ByteSize::kib(512),
        /// Events in one call of Ingest. Default 1000.
        events_per_call_max: u32 = 1000,
        /// Bytes of events that may wait to be written; further ones are refused with OVERLOADED.
        /// Default 64MiB. Raise it if bursts are refused and memory is there.
        queue_bytes_max: ByteSize = ByteSize::mib(64),
        /// Bytes of events that are written and flushed together. Default 8MiB. Raise it on disks whose
        /// flushes are slow.
        batch_bytes_max: ByteSize = ByteSize::mib(8),
        /// Bytes of the file `rejects.ndjson` in the data directory, in which what a hook or a poll brought
        /// and was no event is kept. Default 16MiB. When it is full, it becomes `rejects.old.ndjson`.
        reject_file_bytes_max: ByteSize = ByteSize::mib(16),
    }
}

section! {
    /// Streams.
    SubscribeConfig = "subscribe" {
        /// Streams at a time; further ones are refused with `LIMIT_REACHED`. Default 2000.
        streams_max: u32 = 2000,
        /// Bytes of the newest events that are held in memory for readers that are up to date.
        /// Default 32MiB. Raise it if many readers often fall a little behind.
        tail_bytes_max: ByteSize = ByteSize::mib(32),
        /// Bytes of events that were read ahead of readers who have not come for them yet, of all streams
        /// together. Default 64MiB. What finds no room is read again when its reader comes; raise it
        /// if more than some sixty readers are behind at a time.
        read_ahead_bytes_max: ByteSize = ByteSize::mib(64),
        /// Age at which a stream is ended as planned, so that load spreads over servers. Default 0s:
        /// never. Clients go on by themselves.
        stream_age_max: Duration = Duration::ZERO,
    }
}

section! {
    /// Named subscriptions.
    SubscriptionsConfig = "subscriptions" {
        /// Subscriptions at a time; further ones are refused with `LIMIT_REACHED`. Default 1000.
        subscriptions_max: u32 = 1000,
        /// How long a subscription may be unused (nobody reads or commits) before it is deleted; 0s: for
        /// ever. Default 90days, long after its next event was removed by retention. Its readers are
        /// then told `SUBSCRIPTION_NOT_FOUND`.
        expire_after: Duration = Duration::from_hours(90 * 24),
        /// Bytes of the largest filter that is kept with a subscription. Default 64KiB. It is written
        /// again with each commit.
        filter_bytes_max: ByteSize = ByteSize::kib(64),
    }
}

section! {
    /// Lists.
    ListConfig = "list" {
        /// Events that one call looks at before it gives an early page. Default 50000. Lower it if
        /// lists with narrow filters take too long.
        scan_records_max: u32 = 50_000,
    }
}

section! {
    /// Stopping.
    ShutdownConfig = "shutdown" {
        /// How long a stop may take before it is forced. Default 20s. Keep it below the pod's
        /// `terminationGracePeriodSeconds`.
        drain_timeout: Duration = Duration::from_secs(20),
    }
}

choice! {
    /// The form of diagnostics.
    LogFormat {
        /// For people.
        Text = "text",
        /// One object a line, for log collectors.
        Json = "json",
    }
}

/// What diagnostics are written: a directive of `tracing_subscriber::EnvFilter`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an HTTP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub axum::http::HeaderName);

impl Value for HeaderName {
    fn read(text: &str) -> Result<Self, String> {
        axum::http::HeaderName::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_no_name| "must be the name of an HTTP header".to_owned())
    }

    fn toml(&self) -> String {
        quoted(self.0.as_str())
    }
}

/// Names of HTTP headers; with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames(pub Vec<HeaderName>);

impl Value for HeaderNames {
    fn read(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(HeaderName::read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn toml(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|name| name.0.as_str()).collect();
        quoted(&names.join(","))
    }
}

impl Value for LogLevel {
    fn read(text: &str) -> Result<Self, String> {
        // A lone word that is no level would be taken as a module's name, and silence the rest.
        let level = |word: &str| {
            let levels = ["off", "error", "warn", "info", "debug", "trace"];
            word.contains('=') || levels.contains(&word.trim().to_ascii_lowercase().as_str())
        };
        let valid =
            text.split(',').all(level) && tracing_subscriber::EnvFilter::try_new(text).is_ok();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "must be error, warn, info, debug or trace, or directives such as \
                 info,provident::engine=debug"
                    .to_owned(),
            )
        }
    }

    fn toml(&self) -> String {
        quoted(&self.0)
    }
}

section! {
    /// Diagnostics, on standard error.
    LogConfig = "log" {
        /// `error`, `warn`, `info`, `debug` or `trace`, also by module: `info,provident::engine=debug`.
        /// Default info.
        level: LogLevel = LogLevel("info".to_owned()),
        /// `text` for people, `json` for log collectors. Default text.
        format: LogFormat = LogFormat::Text,
    }
}

/// URL of an OpenTelemetry collector; empty: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorUrl(String);

impl CollectorUrl {
    /// Where spans are posted to.
    pub fn traces(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| format!("{}/v1/traces", self.0.trim_end_matches('/')))
    }
}

impl Value for CollectorUrl {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let is_collector = |url: &reqwest::Url| {
            matches!(url.scheme(), "http" | "https")
                && is_bare(url)
                && !url.path().trim_end_matches('/').ends_with("/v1/traces")
        };
        let url = reqwest::Url::parse(text).ok().filter(is_collector);
        url.map(|url| Self(url.to_string())).ok_or_else(|| {
            "must be the URL of a collector, such as http://collector:4318, without /v1/traces and \
             without a login, which OTEL_EXPORTER_OTLP_HEADERS may hold"
                .to_owned()
        })
    }

    fn toml(&self) -> String {
        quoted(&self.0)
    }
}

/// A part of all, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Value for Ratio {
    fn read(text: &str) -> Result<Self, String> {
        let ratio = text
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio
            .map(Self)
            .ok_or_else(|| "must be a number from 0 to 1, such as 0.05".to_owned())
    }

    fn toml(&self) -> String {
        format!("{:?}", self.0)
    }
}

section! {
    /// Traces of what calls go through, for an OpenTelemetry collector. OpenTelemetry's own variables
    /// add headers, such as a login (`OTEL_EXPORTER_OTLP_HEADERS`), and attributes
    /// (`OTEL_RESOURCE_ATTRIBUTES`).
    TracingConfig = "tracing" {
        /// URL of a collector that takes OTLP over HTTP, such as `http://collector:4318`; switches traces
        /// on. Default none. `/v1/traces` is put behind it. HTTPS goes by the proxy that `HTTPS_PROXY` names.
        endpoint: CollectorUrl = CollectorUrl::default(),
        /// Which part of the traces that begin here is recorded, 0 to 1. Default 1. For a call that comes
        /// with a trace (W3C `traceparent`) its caller has decided. Lower it where calls that come without
        /// one cost the collector too much: each reader adds a span to a trace.
        sample_ratio: Ratio = Ratio(1.0),
        /// How long the collector may take to answer. Default 10s.
        export_timeout: Duration = Duration::from_secs(10),
    }
}

/// What the orgs' keys are for.
const ORGS_DOC: &[&str] = &[
    " Orgs that events come from: `name` is the Okta host, `aliases` are custom domains and test",
    " addresses that mean it too. Default none: any host is taken as it is. As a variable:",
    " PROVIDENT_ORGS=acme.okta.com=login.acme.com+localhost,other.okta.com",
    " Where there are several, each has its own `hook_secret_file`, `hook_previous_secret_file`, `url`,",
    " `api_token_file`, `client_id`, `private_key_file` and `private_key_id`; see [hook] and [okta].",
];

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub grpc: GrpcConfig,
    pub http: HttpConfig,
    pub hook: HookConfig,
    pub poll: PollConfig,
    pub sources: SourcesConfig,
    pub admin: AdminConfig,
    pub journal: JournalConfig,
    pub storage: StorageConfig,
    pub retention: RetentionConfig,
    pub classify: ClassifyConfig,
    pub ingest: IngestConfig,
    pub subscribe: SubscribeConfig,
    pub subscriptions: SubscriptionsConfig,
    pub list: ListConfig,
    pub shutdown: ShutdownConfig,
    pub log: LogConfig,
    pub tracing: TracingConfig,
    /// The configured orgs, each with what its ways in need.
    pub orgs: Vec<OrgConfig>,
    /// The event hook's secrets where no org is configured.
    pub hook_of_any_org: HookSecrets,
    /// What is allowed but worth a word. The server logs them once at start.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Reader::new(Sources::default())
            .config()
            .expect("a test reads the defaults")
            .config
    }
}

/// A configuration, and where each value of it comes from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    settings: Vec<Effective>,
    orgs: Vec<OrgEntry>,
    orgs_origin: Origin,
}

/// The value of one option that counts.
#[derive(Debug)]
struct Effective {
    key: Key,
    toml: String,
    /// Not to be shown.
    hidden: bool,
    origin: Origin,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file and line, the variable or the flag.
    pub place: String,
    /// The option; empty where there is none.
    pub key: String,
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.problem)
    }
}

/// All that is wrong with a configuration. Nothing has been started.
#[derive(Debug, thiserror::Error)]
pub struct InvalidConfig(pub Vec<Problem>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem")?,
            n => write!(f, "the configuration has {n} problems")?,
        }
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Whether event hooks are set up, so that their endpoint listens.
    pub fn takes_hooks(&self) -> bool {
        let mut of_orgs = self.orgs.iter().map(|org| &org.hook);
        of_orgs.any(|hook| hook.current.is_some()) || self.hook_of_any_org.current.is_some()
    }

    /// Reads the file that flags or environment name, the environment and the flags.
    pub fn load(flags: Flags) -> Result<Loaded, InvalidConfig> {
        Reader::new(Sources::read(flags, sources::environment())).config()
    }

    /// All options but the orgs, in the order in which they are written.
    pub fn keys() -> impl Iterator<Item = Key> {
        [
            GrpcConfig::KEYS,
            HttpConfig::KEYS,
            HookConfig::KEYS,
            OktaConfig::KEYS,
            PollConfig::KEYS,
            SourcesConfig::KEYS,
            AdminConfig::KEYS,
            JournalSection::KEYS,
            StorageConfig::KEYS,
            RetentionConfig::KEYS,
            ClassifyConfig::KEYS,
            IngestConfig::KEYS,
            SubscribeConfig::KEYS,
            SubscriptionsConfig::KEYS,
            ListConfig::KEYS,
            ShutdownConfig::KEYS,
            LogConfig::KEYS,
            TracingConfig::KEYS,
        ]
        .into_iter()
        .flatten()
        .copied()
    }
}

impl Loaded {
    /// The configuration as a file that gives the same, with each value's origin; with `explain`
    /// also what each option is for.
    ///
    /// # Panics
    /// Never: every key is `section.key`.
    pub fn to_toml(&self, explain: bool) -> String {
        let mut lines = Vec::new();
        let mut section = "";
        for Effective {
            key,
            toml,
            hidden,
            origin,
        } in &self.settings
        {
            let (of, name) = key.path.split_once('.').expect("keys are section.key");
            if of != section {
                if !section.is_empty() {
                    lines.push(String::new());
                }
                lines.push(format!("[{of}]"));
                section = of;
            }
            if explain {
                lines.extend(key.doc.iter().map(|line| format!("#{line}")));
            }
            lines.push(if *hidden {
                format!("# {name} is set by {origin}, and not shown")
            } else {
                format!("{name} = {toml} # {origin}")
            });
        }
        if explain {
            lines.push(String::new());
            lines.extend(ORGS_DOC.iter().map(|line| format!("#{line}")));
        }
        for org in &self.orgs {
            lines.push(String::new());
            lines.push(format!("[[orgs]] # {}", self.orgs_origin));
            lines.extend(org.to_toml());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Takes option by option out of what was given, and notes what is wrong.
#[derive(Debug)]
struct Reader {
    sources: Sources,
    settings: Vec<Effective>,
    warnings: Vec<String>,
}

impl Reader {
    fn new(sources: Sources) -> Self {
        Self {
            sources,
            settings: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The option's value; its default also where a problem was noted, so that reading goes on.
    fn take<T: Value>(&mut self, path: &'static str, default: T) -> T {
        let mut origin = Origin::Default;
        let mut taken = default;
        if let Some(Given { text, origin: from }) = self.sources.given.remove(path) {
            match T::read(text.trim()) {
                // What many may read is no place for a secret.
                Ok(value) if value.is_hidden() && !matches!(from, Origin::Variable(_)) => {
                    let variable = variable(path);
                    self.problem(
                        &from,
                        path,
                        format!("is a secret: set {variable}, or name a file with {path}_file"),
                    );
                }
                Ok(value) => {
                    taken = value;
                    origin = from;
                }
                Err(must) => {
                    self.problem(&from, path, format!("{must}, here it is {}", quoted(&text)));
                }
            }
        }
        let key = Config::keys()
            .find(|key| key.path == path)
            .expect("the section lists its keys");
        self.settings.push(Effective {
            key,
            toml: taken.toml(),
            hidden: taken.is_hidden(),
            origin,
        });
        taken
    }

    fn problem(&mut self, origin: &Origin, key: &str, problem: impl Into<String>) {
        self.sources.problems.push(Problem {
            place: match origin {
                Origin::Default => String::new(),
                origin => origin.to_string(),
            },
            key: key.to_owned(),
            problem: problem.into(),
        });
    }

    fn origin(&self, path: &str) -> Origin {
        self.settings
            .iter()
            .find(|setting| setting.key.path == path)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    fn config(mut self) -> Result<Loaded, InvalidConfig> {
        // In the order in which they are written.
        let grpc = GrpcConfig::read(&mut self);
        let http = HttpConfig::read(&mut self);
        let hook = HookConfig::read(&mut self);
        let okta = OktaConfig::read(&mut self);
        let mut config = Config {
            grpc,
            http,
            hook,
            poll: PollConfig::read(&mut self),
            sources: SourcesConfig::read(&mut self),
            admin: AdminConfig::read(&mut self),
            journal: self.journal(),
            storage: StorageConfig::read(&mut self),
            retention: RetentionConfig::read(&mut self),
            classify: ClassifyConfig::read(&mut self),
            ingest: IngestConfig::read(&mut self),
            subscribe: SubscribeConfig::read(&mut self),
            subscriptions: SubscriptionsConfig::read(&mut self),
            list: ListConfig::read(&mut self),
            shutdown: ShutdownConfig::read(&mut self),
            log: LogConfig::read(&mut self),
            tracing: TracingConfig::read(&mut self),
            orgs: Vec::new(),
            hook_of_any_org: HookSecrets::default(),
            warnings: Vec::new(),
        };
        self.join_orgs(&mut config, okta);
        self.check(&config);
        if !self.sources.problems.is_empty() {
            return Err(InvalidConfig(self.sources.problems));
        }
        Ok(Loaded {
            config: Config {
                warnings: self.warnings,
                ..config
            },
            settings: self.settings,
            orgs: self.sources.orgs,
            orgs_origin: self.sources.orgs_origin,
        })
    }

    fn journal(&mut self) -> JournalConfig {
        let section = JournalSection::read(self);
        match section.kind {
            JournalKind::Embedded => JournalConfig::Embedded {
                data_dir: section.data_dir,
                generation_bytes_max: section.generation_bytes_max,
                cache_bytes: section.cache_bytes,
            },
            JournalKind::Memory => {
                for key in &JournalSection::KEYS[1..] {
                    match self.origin(key.path) {
                        Origin::Default => {}
                        // Images set the directory for whoever uses it.
                        Origin::Variable(name) => self
                            .warnings
                            .push(format!("{name} is not used by the journal in memory")),
                        origin => self.problem(
                            &origin,
                            key.path,
                            "belongs to the embedded journal, but journal.kind is \"memory\"",
                        ),
                    }
                }
                self.settings.retain(|setting| {
                    !JournalSection::KEYS[1..]
                        .iter()
                        .any(|key| key.path == setting.key.path)
                });
                self.warnings
                    .push("the journal is in memory: all events are lost on stop".to_owned());
                JournalConfig::Memory {}
            }
        }
    }

    /// What several options have to agree on.
    fn check(&mut self, config: &Config) {
        let grpc = &config.grpc;
        if !grpc.addr.ip().is_loopback() {
            if grpc.allow_plaintext {
                self.warnings.push(format!(
                    "anybody who reaches {} may read and send events, unencrypted (grpc.allow_plaintext)",
                    grpc.addr
                ));
            } else {
                let origin = self.origin("grpc.addr");
                self.problem(
                    &origin,
                    "grpc.addr",
                    format!(
                        "{} can be reached from other machines, and callers are neither encrypted nor known: \
                         stay on 127.0.0.1, or say that the network keeps strangers out with --allow-plaintext \
                         (PROVIDENT_ALLOW_PLAINTEXT=true)",
                        grpc.addr
                    ),
                );
            }
        }
        let mut addresses = vec![("grpc.addr", grpc.addr), ("admin.addr", config.admin.addr)];
        if config.takes_hooks() {
            addresses.push(("http.addr", config.http.addr));
        }
        for (index, (path, addr)) in addresses.iter().copied().enumerate() {
            let same = addresses[..index].iter().find(|(_, other)| *other == addr);
            if let Some((other, _)) = same
                && addr.port() != 0
            {
                let origin = self.origin(path);
                self.problem(&origin, path, format!("is the same as {other}, {addr}"));
            }
        }
        self.at_least(
            "grpc.message_bytes_max",
            grpc.message_bytes_max,
            ByteSize::kib(64),
        );
        self.ordered(
            ("grpc.message_bytes_max", grpc.message_bytes_max),
            ("grpc.requests_bytes_max", grpc.requests_bytes_max),
        );
        // A gRPC message says its length in 32 bits.
        self.ordered(
            ("grpc.message_bytes_max", grpc.message_bytes_max),
            ("what gRPC can carry", ByteSize::bytes(u32::MAX.into())),
        );
        let ingest = &config.ingest;
        self.at_least(
            "ingest.event_bytes_max",
            ingest.event_bytes_max,
            ByteSize::kib(1),
        );
        for (larger, size) in [
            ("grpc.message_bytes_max", grpc.message_bytes_max),
            ("ingest.batch_bytes_max", ingest.batch_bytes_max),
        ] {
            self.ordered(
                ("ingest.event_bytes_max", ingest.event_bytes_max),
                (larger, size),
            );
        }
        self.ordered(
            ("ingest.batch_bytes_max", ingest.batch_bytes_max),
            ("ingest.queue_bytes_max", ingest.queue_bytes_max),
        );
        self.check_intakes(config);
        if let JournalConfig::Embedded {
            generation_bytes_max,
            ..
        } = config.journal
        {
            self.at_least(
                "journal.generation_bytes_max",
                generation_bytes_max,
                ByteSize::mib(1),
            );
        }
        if config.shutdown.drain_timeout.is_zero() {
            let origin = self.origin("shutdown.drain_timeout");
            self.problem(
                &origin,
                "shutdown.drain_timeout",
                "must be longer than nothing, or no stop is a clean one",
            );
        }
    }

    /// What the ways in, and retention, need of their numbers.
    fn check_intakes(&mut self, config: &Config) {
        let answer_timeout = config.hook.answer_timeout;
        if answer_timeout >= OKTA_PATIENCE {
            let origin = self.origin("hook.answer_timeout");
            let problem = "must be shorter than the 3 s that Okta waits";
            self.problem(&origin, "hook.answer_timeout", problem);
        }
        if config.takes_hooks() && !config.http.addr.ip().is_loopback() {
            self.warnings.push(format!(
                "the event hook endpoint at {} speaks plain HTTP: put an ingress with TLS before it",
                config.http.addr
            ));
        }
        for (path, number, most) in [
            (
                "poll.rate_share_percent",
                config.poll.rate_share_percent,
                100,
            ),
            ("poll.page_events_max", config.poll.page_events_max, 1000),
            (
                "retention.volume_percent_max",
                config.retention.volume_percent_max,
                100,
            ),
        ] {
            if number > most {
                let origin = self.origin(path);
                self.problem(&origin, path, format!("must be at most {most}"));
            }
        }
        for (path, duration) in [
            ("grpc.keepalive_interval", config.grpc.keepalive_interval),
            ("grpc.keepalive_timeout", config.grpc.keepalive_timeout),
            ("grpc.request_timeout", config.grpc.request_timeout),
            ("http.head_timeout", config.http.head_timeout),
            ("hook.answer_timeout", config.hook.answer_timeout),
            ("poll.interval", config.poll.interval),
            ("poll.request_timeout", config.poll.request_timeout),
            ("poll.retry_delay", config.poll.retry_delay),
            ("poll.retry_delay_max", config.poll.retry_delay_max),
            ("sources.failing_after", config.sources.failing_after),
            ("retention.interval", config.retention.interval),
            ("tracing.export_timeout", config.tracing.export_timeout),
            ("storage.write_timeout", config.storage.write_timeout),
        ] {
            if duration.is_zero() {
                let origin = self.origin(path);
                self.problem(&origin, path, "must be longer than nothing");
            }
        }
    }

    fn at_least(&mut self, path: &str, size: ByteSize, least: ByteSize) {
        if size < least {
            let origin = self.origin(path);
            self.problem(
                &origin,
                path,
                format!("must be at least {least}, here it is {size}"),
            );
        }
    }

    fn ordered(&mut self, (path, size): (&str, ByteSize), (larger, most): (&str, ByteSize)) {
        if size > most {
            let origin = match self.origin(path) {
                Origin::Default => self.origin(larger),
                origin => origin,
            };
            self.problem(
                &origin,
                path,
                format!("is {size}, more than {larger}, which is {most}"),
            );
        }
    }
}

#[cfg(test)]
mod tests;
