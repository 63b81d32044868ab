//! The service for benchmarks of reading: the real binary, events for it, and what it uses.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use provident::wire::v1;
use provident::wire::v1::event_service_client::EventServiceClient;
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Events of one call, and callers at a time.
const BATCH: u64 = 100;
const CALLERS: u64 = 16;

/// Type, severity, result, reason.
const KINDS: [[&str; 4]; 4] = [
    [
        "application.provision.user.push",
        "WARN",
        "FAILURE",
        "Error while creating user: Conflict. Errors reported by remote server: User already exists",
    ],
    [
        "application.provision.user.deactivate",
        "WARN",
        "FAILURE",
        "Error while deactivating user: Service Unavailable. Errors reported by remote server: Try again later",
    ],
    [
        "application.provision.group_membership.add",
        "WARN",
        "FAILURE",
        "Unable to update Group Push mapping target App group: Not Found. Errors reported by remote server: Resource not found",
    ],
    ["application.provision.user.sync", "INFO", "SUCCESS", ""],
];

/// A System Log event of about 1.3 KiB, in the order of members that Okta's have.
fn event(number: u64) -> String {
    let [kind, severity, result, reason] = KINDS[usize::try_from(number % 4).expect("below 4")];
    let mut json = String::with_capacity(1400);
    let written = write!(
        json,
        r#"{{"actor":{{"id":"00u{number:017x}","type":"User","alternateId":"provisioning-{0}@acme.example","displayName":"Provisioning Service {0}","detailEntry":null}},"client":{{"userAgent":null,"zone":null,"device":null,"id":null,"ipAddress":"203.0.113.{0}","geographicalContext":null}},"device":null,"authenticationContext":{{"authenticationProvider":null,"credentialProvider":null,"credentialType":null,"issuer":null,"interface":null,"authenticationStep":0,"rootSessionId":"trs{number:016x}","externalSessionId":"trs{number:016x}"}},"displayMessage":"What Okta says of it","eventType":"{kind}","outcome":{{"result":"{result}","reason":"{reason}"}},"published":"2026-10-01T08:15:00.123Z","securityContext":{{"asNumber":null,"asOrg":null,"isp":null,"domain":null,"isProxy":null}},"severity":"{severity}","debugContext":{{"debugData":{{"appname":"cloudboard","requestId":"{number:024x}","traceId":"{number:032x}"}}}},"legacyEventType":"app.api.error","transaction":{{"type":"JOB","id":"cpb{number:017x}","detail":{{}}}},"uuid":"6f0f4b2e-7d11-4a7e-9a55-{number:012x}","version":"0","request":{{"ipChain":[]}},"target":[{{"id":"0ua{number:017x}","type":"AppUser","alternateId":"user{number}@acme.example","displayName":"User Number {number}","detailEntry":null}},{{"id":"0oa1b2c3d4e5f6g7h00{0}","type":"AppInstance","alternateId":"Cloudboard {0}","displayName":"Cloudboard {0}","detailEntry":null}}]}}"#,
        number % 7,
    );
    written.expect("writing to a string never fails");
    json
}

/// A running service. Dropping it kills it.
pub(crate) struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Starts a binary on a directory, and waits until it serves.
    pub(crate) fn start(binary: &Path, data: &Path) -> Self {
        let mut child = Command::new(binary)
            .args(["serve", "--grpc-addr", "127.0.0.1:0"])
            .args(["--admin-addr", "127.0.0.1:0", "--log-format", "json"])
            .arg("--data-dir")
            .arg(data)
            // Nothing of this shell's environment may set the service.
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = String::new();
        for line in lines.by_ref() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let fields = &line["fields"];
            match fields["message"].as_str() {
                Some("listening") => fields["grpc_addr"]
                    .as_str()
                    .unwrap()
                    .clone_into(&mut address),
                Some("serving") => break,
                _ => {}
            }
        }
        assert!(!address.is_empty(), "the service ended");
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Stops it as an operator would, so that the next start finds everything in its place.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> EventServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
        EventServiceClient::new(channel)
    }

    /// Ingests events by the number.
    pub(crate) async fn ingest(&self, events: u64) {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut client = self.client().await;
            callers.spawn(async move {
                for first in (0..events)
                    .step_by(usize::try_from(BATCH).expect("100"))
                    .filter(|first| first / BATCH % CALLERS == caller)
                {
                    let inputs = (first..events.min(first + BATCH)).map(|number| v1::IngestInput {
                        input: Some(v1::ingest_input::Input::Json(Bytes::from(event(number)))),
                    });
                    let request = v1::IngestRequest {
                        org: "acme.okta.com".to_owned(),
                        inputs: inputs.collect(),
                    };
                    let answer = client.ingest(request).await.unwrap().into_inner();
                    for result in answer.results {
                        assert_eq!(result.status(), v1::IngestStatus::Accepted, "{result:?}");
                    }
                }
            });
        }
        callers.join_all().await;
    }

    /// Seconds of processor time that it has used so far.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15, in
        // ticks of which the kernel's interface has 100 a second.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let ticks = rest.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<f64>().unwrap())
            .sum::<f64>()
            / 100.0
    }

    /// MiB of memory that it takes.
    pub(crate) fn memory(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Least, middle and greatest of some figures.
pub(crate) fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let (least, most) = (figures[0], figures[figures.len() - 1]);
    let middle = figures[figures.len() / 2];
    format!("**{middle:.2}** ({least:.2}–{most:.2})")
}

/// Every verdict, so that only what else is asked for turns events away.
pub(crate) fn everything() -> v1::Filter {
    v1::Filter {
        verdicts: (1..=5).collect(),
        ..v1::Filter::default()
    }
}
