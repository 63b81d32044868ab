//! Event hooks: what Okta delivers is durable when it is answered 204, and nobody else delivers.
//!
//! Deliveries go over sockets to the real binary: by the mock, which does what Okta does, or byte by
//! byte, where what is sent is no delivery of Okta's. What was kept is read by gRPC alone.

mod answers;
mod deliveries;
mod refusals;
mod secrets;
mod sources;

use provident::wire::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixtures::{Given, envelope};
use crate::harness::{ORG, Server, earliest, within};
use crate::mock_okta::hook_deliver;

const SECRET: &str = "only-Okta-knows-4f1d7c";
const OTHER_SECRET: &str = "only-the-other-org-knows-77b0";
const OTHER_ORG: &str = "beta.okta.com";

/// The variable that sets the endpoint's secret.
const WITH_SECRET: [(&str, &str); 1] = [("PROVIDENT_HOOK_SECRET", SECRET)];

const PATH: &str = "/hooks/okta";

/// A server that takes hooks of one secret.
async fn hooked(toml: &str) -> Server {
    Server::start_in(toml, &WITH_SECRET).await
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.addresses.http)
}

/// Delivers as Okta does, and checks that it was taken.
#[track_caller]
fn deliver<'a>(server: &Server, events: &'a [Given]) -> impl Future<Output = ()> + use<'a> {
    let url = url(server, PATH);
    async move {
        let outcome = within(hook_deliver(&url, ("Authorization", SECRET), events)).await;
        assert!(outcome.delivered(), "{outcome:?}");
    }
}

/// The uuids of all events in the journal, in order.
async fn kept(server: &Server) -> Vec<String> {
    let events = server.read_all(earliest()).await;
    events.into_iter().map(|event| body(event).uuid).collect()
}

fn body(event: v1::StreamedEvent) -> v1::ProvisioningEvent {
    event.event.expect("every streamed event has one")
}

fn uuids(events: &[Given]) -> Vec<String> {
    events.iter().map(|given| given.uuid.clone()).collect()
}

/// What was kept as no event, line by line; empty where nothing was.
fn rejects(server: &Server) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(server.data_dir().join("rejects.ndjson"));
    let text = text.unwrap_or_default();
    let line = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A request of HTTP/1.1 whose connection ends with the answer.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: hooks.acme.example\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    if method == "POST" && !request.contains("Transfer-Encoding") {
        request.push_str("Content-Type: application/json\r\nUser-Agent: Okta Event Hook\r\n");
        if !request.contains("Content-Length") {
            request.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
    }
    [request.as_bytes(), b"\r\n", body].concat()
}

/// A delivery of the one org with the right secret, of any body.
fn authentic(body: impl AsRef<[u8]>) -> Vec<u8> {
    request("POST", PATH, &[("Authorization", SECRET)], body)
}

/// A delivery to a path with a secret.
fn delivery(path: &str, secret: &str, host: &str, events: &[Given]) -> Vec<u8> {
    let headers = [("Authorization", secret)];
    request("POST", path, &headers, envelope(host, events))
}

/// A delivery of the one org, as it should be.
fn good(events: &[Given]) -> Vec<u8> {
    authentic(envelope(ORG, events))
}

/// Sends bytes, and reads up to the end of the connection.
async fn send(server: &Server, bytes: &[u8]) -> Answer {
    exchange(&server.addresses.http, bytes).await
}

async fn exchange(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    // A server that refuses a request need not read it to its end, and may close before.
    let _ = within(stream.write_all(bytes)).await;
    read_answer(&mut stream).await.expect("an answer")
}

/// The answer that comes before the connection ends, if one does.
async fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // What was received before a reset counts.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    Some(Answer {
        status,
        headers: headers.collect(),
        body: body.to_owned(),
    })
}
