//! That hooks are sent as Okta sends them: verified once, delivered with one retry or none.
//!
//! The receivers are servers of a few lines, on the test's own runtime.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::uuids;
use crate::fixtures::mixed;
use crate::harness::{ORG, eventually, within};
use crate::mock_okta::{DeliveryOutcome, Verification, hook_deliver, hook_verify};

/// What came to a receiver of hooks: `authorization`, the event id, the uuids.
type Received = Arc<Mutex<Vec<(String, String, Vec<String>)>>>;

/// A receiver that answers with these statuses in turn, and then with 204.
async fn receiver(statuses: &[u16]) -> (JoinSet<()>, String, Received) {
    let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
    let received = Received::default();
    let taken = Arc::clone(&received);
    let deliver = async move |headers: HeaderMap, body: String| {
        let envelope: Value = serde_json::from_str(&body).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let source = text(&envelope["source"]);
        assert!(source.starts_with(&format!("https://{ORG}/api/v1/eventHooks/who")));
        let events = envelope["data"]["events"].as_array().unwrap().iter();
        taken.lock().unwrap().push((
            headers["authorization"].to_str().unwrap().to_owned(),
            text(&envelope["eventId"]),
            events.map(|event| text(&event["uuid"])).collect(),
        ));
        let status = statuses.lock().unwrap().pop_front().unwrap_or(204);
        StatusCode::from_u16(status).unwrap()
    };
    let verify = async |headers: HeaderMap| {
        let challenge = headers["x-okta-verification-challenge"].to_str().unwrap();
        json!({"verification": challenge}).to_string()
    };
    let router = Router::new().route("/hook", post(deliver).get(verify));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let mut served = JoinSet::new();
    served.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (served, url, received)
}

#[tokio::test]
async fn a_hook_is_retried_once_after_a_failure_and_never_after_a_refusal() {
    let secret = ("authorization", "a secret of the hook");
    let events = mixed(0, 2);
    for (statuses, attempts, last) in [
        (&[][..], 1, 204),
        (&[200], 1, 200),
        (&[503], 2, 204),
        (&[503, 500, 204], 2, 500),
        (&[400], 1, 400),
        (&[307], 1, 307),
    ] {
        let (_served, url, received) = receiver(statuses).await;
        let outcome: DeliveryOutcome = within(hook_deliver(&url, secret, &events)).await;
        assert_eq!(outcome.attempts.len(), attempts, "{statuses:?}");
        assert_eq!(outcome.status(), Some(last));
        assert_eq!(outcome.delivered(), last < 300);
        assert!(outcome.attempts[0].took > Duration::ZERO);
        let received = received.lock().unwrap();
        assert_eq!(received.len(), attempts);
        for (authorization, event_id, found) in received.iter() {
            assert_eq!(
                (authorization.as_str(), event_id),
                (secret.1, &outcome.event_id)
            );
            assert_eq!(*found, uuids(0..2));
        }
    }
    let (served, url, _) = receiver(&[]).await;
    assert!(within(hook_verify(&url, secret)).await.verified);
    let wrong: Verification = within(hook_verify(&format!("{url}/elsewhere"), secret)).await;
    assert!(!wrong.verified);
    assert_eq!(wrong.attempts.len(), 1);
    drop(served);
    // Nobody listens any more once the task is gone.
    let outcome = eventually("the receiver's end", async || {
        let outcome = within(hook_deliver(&url, secret, &events)).await;
        outcome.status().is_none().then_some(outcome)
    })
    .await;
    assert_eq!(outcome.attempts.len(), 2);
    assert!(!outcome.delivered());
}
