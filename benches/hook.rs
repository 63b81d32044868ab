//! How soon an event hook's delivery is answered, beside a bare endpoint that reads it and answers.
//!
//! `cargo bench --locked --bench hook`. The real binary with its defaults and an empty journal, on the
//! disk below `target/`. Deliveries have 5 events of about 1.3 KiB, each new; every answer has to
//! be 204. Three loads, by turns: few connections, many, and many while as many gRPC callers ingest
//! batches of 100. The bare endpoint is axum in this process. Okta gives an endpoint 3 s.

#![expect(clippy::print_stdout, reason = "a benchmark shows its figures")]
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const REPEATS: usize = 5;
const TURN: Duration = Duration::from_secs(3);
const SECRET: &str = "secret of the benchmark";
const EVENTS: u64 = 5;

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    connections: usize,
    /// Callers of `Ingest` beside it.
    ingesting: usize,
}

const LOADS: [Load; 3] = [
    Load {
        name: "4 connections",
        connections: 4,
        ingesting: 0,
    },
    Load {
        name: "64 connections",
        connections: 64,
        ingesting: 0,
    },
    Load {
        name: "64 connections, 16 gRPC callers beside",
        connections: 64,
        ingesting: 16,
    },
];

/// Numbers for events, each used once.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn event(number: u64) -> Value {
    json!({
        "uuid": format!("6f0f4b2e-7d11-4a7e-9a55-{number:012x}"),
        "published": "2026-11-20T08:15:00.123Z",
        "eventType": "application.provision.user.push",
        "version": "0", "severity": "ERROR",
        "displayMessage": "Push new user to external application",
        "outcome": {"result": "FAILURE", "reason": "Unauthorized. Errors reported by remote server: Token is invalid or expired"},
        "actor": {"id": "00u1a2b3c4d5e6f7g8h9", "type": "SystemPrincipal", "alternateId": "system@okta.com", "displayName": "Okta System"},
        "target": [
            {"id": format!("0ua{number:017x}"), "type": "AppUser", "alternateId": "ann.lee@example.com", "displayName": "Ann Lee"},
            {"id": "0oa1a2b3c4d5e6f7g8h9", "type": "AppInstance", "alternateId": "Slack", "displayName": "Slack"}
        ],
        "transaction": {"type": "JOB", "id": format!("puj{number:017x}"), "detail": {}},
        "debugContext": {"debugData": {"appname": "scim2headerauth", "traceId": format!("{number:032x}")}},
        "client": {"userAgent": null, "zone": null, "device": null, "id": null, "ipAddress": null, "geographicalContext": null},
        "authenticationContext": {"authenticationStep": 0, "externalSessionId": "trs8a7b6c5d4e3f2g1h0"},
        "securityContext": {"asNumber": null, "asOrg": null, "isp": null, "domain": null, "isProxy": null}
    })
}

fn delivery() -> String {
    let first = NEXT.fetch_add(EVENTS, Ordering::Relaxed);
    let events: Vec<_> = (first..first + EVENTS).map(event).collect();
    json!({
        "eventType": "com.okta.event_hook", "eventTypeVersion": "1.0", "cloudEventsVersion": "0.1",
        "source": "https://acme.okta.com/api/v1/eventHooks/who1", "eventId": format!("d{first}"),
        "contentType": "application/json", "data": {"events": events}
    })
    .to_string()
}

/// The service, on ports of its own.
struct Service {
    child: Child,
    grpc: String,
    http: String,
    _data: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_provident"))
            .args([
                "serve",
                "--log-format",
                "json",
                "--grpc-addr",
                "127.0.0.1:0",
            ])
            .args(["--admin-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .env("PROVIDENT_HOOK_SECRET", SECRET)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses = None;
        for line in lines.by_ref() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let fields = &line["fields"];
            let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
            match fields["message"].as_str() {
                Some("listening") => addresses = Some((text("grpc_addr"), text("http_addr"))),
                Some("serving") => break,
                _ => {}
            }
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let (grpc, http) = addresses.unwrap();
        Self {
            child,
            grpc,
            http,
            _data: data,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Milliseconds of each delivery of one turn, sorted.
async fn turn(url: &str, connections: usize) -> Vec<f64> {
    let until = Instant::now() + TURN;
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let url = url.to_owned();
        senders.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut times = Vec::new();
            while Instant::now() < until {
                let request = client.post(&url).header("authorization", SECRET);
                let request = request.body(delivery());
                let since = Instant::now();
                let answer = request.send().await.unwrap();
                times.push(since.elapsed().as_secs_f64() * 1e3);
                assert_eq!(answer.status().as_u16(), 204);
            }
            times
        });
    }
    let mut times: Vec<f64> = senders.join_all().await.concat();
    times.sort_by(f64::total_cmp);
    times
}

/// Ingests batches by gRPC until told to stop; a full queue is waited for.
async fn ingest(address: String, stop: Arc<AtomicBool>) {
    let url = format!("http://{address}");
    let mut client = EventServiceClient::connect(url).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let first = NEXT.fetch_add(100, Ordering::Relaxed);
        let inputs = (first..first + 100).map(|number| v1::IngestInput {
            input: Some(v1::ingest_input::Input::Json(Bytes::from(
                event(number).to_string(),
            ))),
        });
        let request = v1::IngestRequest {
            org: "acme.okta.com".to_owned(),
            inputs: inputs.collect(),
        };
        if client.ingest(request).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Of sorted times, the one that so many of a hundred are below.
fn percentile(times: &[f64], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let middle = figures[figures.len() / 2];
    format!(
        "{middle:.2} ({:.2}–{:.2})",
        figures[0],
        figures[figures.len() - 1]
    )
}

#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    worst: Vec<f64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn take(&mut self, times: &[f64]) {
        self.rate.push(times.len() as f64 / TURN.as_secs_f64());
        self.p50.push(percentile(times, 50));
        self.p99.push(percentile(times, 99));
        self.worst.push(times[times.len() - 1]);
    }

    fn show(self, name: &str) {
        println!(
            "| {name} | {} | {} | {} | {} |",
            spread(self.rate),
            spread(self.p50),
            spread(self.p99),
            spread(self.worst)
        );
    }
}

#[tokio::main]
async fn main() {
    let bare = axum::Router::new().route("/", post(async |_: Bytes| StatusCode::NO_CONTENT));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bare_url = format!("http://{}/", listener.local_addr().unwrap());
    let mut peer = JoinSet::new();
    peer.spawn(async move { axum::serve(listener, bare).await });
    let service = Service::start();
    let url = format!("http://{}/hooks/okta", service.http);
    println!("| | deliveries/s | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|");
    for load in LOADS {
        let (mut ours, mut theirs) = (Figures::default(), Figures::default());
        for repeat in 0..REPEATS {
            let stop = Arc::new(AtomicBool::new(false));
            let mut beside = JoinSet::new();
            for _ in 0..load.ingesting {
                beside.spawn(ingest(service.grpc.clone(), Arc::clone(&stop)));
            }
            for turn_of in 0..2 {
                if (turn_of + repeat) % 2 == 0 {
                    ours.take(&turn(&url, load.connections).await);
                } else {
                    theirs.take(&turn(&bare_url, load.connections).await);
                }
            }
            stop.store(true, Ordering::Relaxed);
            beside.join_all().await;
        }
        ours.show(&format!("Provident, {}", load.name));
        theirs.show(&format!("bare endpoint, {}", load.name));
    }
}
