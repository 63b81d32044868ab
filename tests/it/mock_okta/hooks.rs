//! The sending side of event hooks: what Okta does, with its deadline and its one retry.
//!
//! Okta wants HTTPS; this also takes `http://`, because tests are on the loopback. Nothing here
//! fails: what the receiver did is the result.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::fixtures::Given;
use crate::harness::ORG;

/// How long Okta waits for an answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// No connection is kept, because each belongs to the runtime of one test.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .timeout(DEADLINE)
        .no_proxy()
        .build()
        .unwrap()
});

/// One request to a hook's receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// `None` if there was no answer in time.
    pub(crate) status: Option<u16>,
    pub(crate) took: Duration,
}

/// What became of a delivery.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryOutcome {
    /// The same in both attempts.
    pub(crate) event_id: String,
    /// One or two.
    pub(crate) attempts: Vec<Attempt>,
}

impl DeliveryOutcome {
    /// Of the last attempt.
    pub(crate) fn status(&self) -> Option<u16> {
        self.attempts.last().and_then(|attempt| attempt.status)
    }

    pub(crate) fn delivered(&self) -> bool {
        matches!(self.status(), Some(200 | 204))
    }
}

/// What became of a verification.
#[derive(Clone, Debug)]
pub(crate) struct Verification {
    /// The challenge came back as it has to.
    pub(crate) verified: bool,
    /// One or two.
    pub(crate) attempts: Vec<Attempt>,
}

/// Okta's one GET: asks the receiver to send a challenge back.
pub(crate) async fn hook_verify(url: &str, (header, secret): (&str, &str)) -> Verification {
    let challenge = uuid::Uuid::new_v4().simple().to_string();
    let request = || {
        CLIENT
            .get(url)
            .header(header, secret)
            .header("x-okta-verification-challenge", &challenge)
    };
    let (attempts, body) = send(request).await;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_success = matches!(attempts.last(), Some(one) if one.status == Some(200));
    Verification {
        verified: is_success && answer["verification"] == challenge,
        attempts,
    }
}

/// Delivers events, with at most one retry and not after a refusal.
pub(crate) async fn hook_deliver(
    url: &str,
    (header, secret): (&str, &str),
    events: &[Given],
) -> DeliveryOutcome {
    let event_id = uuid::Uuid::new_v4().to_string();
    let events: Vec<Value> = events.iter().map(Given::value).collect();
    let envelope = json!({
        "eventType": "com.okta.event_hook",
        "eventTypeVersion": "1.0",
        "cloudEventsVersion": "0.1",
        "source": format!("https://{ORG}/api/v1/eventHooks/who1mockhook000x1d7"),
        "eventId": event_id,
        "data": {"events": events},
        "eventTime": format!("{:.3}", Timestamp::now()),
        "contentType": "application/json",
    })
    .to_string();
    let request = || {
        CLIENT
            .post(url)
            .header(header, secret)
            .header(CONTENT_TYPE, "application/json")
            .body(envelope.clone())
    };
    let (attempts, _) = send(request).await;
    DeliveryOutcome { event_id, attempts }
}

/// Sends a request once, and again if it failed in a way that may pass; gives the last body.
async fn send(request: impl Fn() -> RequestBuilder) -> (Vec<Attempt>, Vec<u8>) {
    let mut attempts = Vec::new();
    loop {
        let since = Instant::now();
        let (status, body) = match answer(request()).await {
            Ok((status, body)) => (Some(status), body),
            Err(_) => (None, Vec::new()),
        };
        attempts.push(Attempt {
            status,
            took: since.elapsed(),
        });
        let may_pass = status.is_none_or(|status| status >= 500);
        if !may_pass || attempts.len() == 2 {
            return (attempts, body);
        }
    }
}

async fn answer(request: RequestBuilder) -> reqwest::Result<(u16, Vec<u8>)> {
    let request = request.header(USER_AGENT, "Okta Event Hook");
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, response.bytes().await?.into()))
}
