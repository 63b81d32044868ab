//! What is answered to what is no delivery: verifications, other methods, other paths.

use provident::wire::v1;

use crate::fixtures::{envelope, mixed};
use crate::harness::{ORG, Server};
use crate::hook::{PATH, SECRET, hooked, kept, request, send, url};
use crate::mock_okta::hook_verify;

#[tokio::test]
async fn a_verification_gets_its_challenge_back_on_either_path() {
    let server = hooked("").await;
    for path in [PATH, "/hooks/okta/acme.okta.com"] {
        let verification = hook_verify(&url(&server, path), ("Authorization", SECRET)).await;
        assert!(verification.verified, "{path}: {verification:?}");
        assert_eq!(verification.attempts.len(), 1);
        let challenge = ("X-Okta-Verification-Challenge", "a \"quoted\" \\ text");
        let answer = send(&server, &request("GET", path, &[challenge], "")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["verification"], challenge.1);
        for headers in [&[][..], &[("X-Okta-Verification-Challenge", "caf\u{e9}")]] {
            let answer = send(&server, &request("GET", path, headers, "")).await;
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
            assert!(answer.body.contains("x-okta-verification-challenge"));
        }
    }
}

#[tokio::test]
async fn a_path_at_which_nothing_is_taken_is_not_verified() {
    let server = hooked(&format!("[[orgs]]\nname = '{ORG}'\n")).await;
    let header = ("Authorization", SECRET);
    let good = hook_verify(&url(&server, &format!("{PATH}/{ORG}")), header).await;
    assert!(good.verified);
    let slip = hook_verify(&url(&server, "/hooks/okta/acme.okat.com"), header).await;
    assert!(!slip.verified, "its deliveries would all be refused");
}

#[tokio::test]
async fn other_methods_and_paths_are_told_so() {
    let server = hooked("").await;
    let body = envelope(ORG, &mixed(0, 2));
    let secret = ("Authorization", SECRET);
    for method in ["PUT", "DELETE", "PATCH"] {
        for path in [PATH, "/hooks/okta/acme.okta.com"] {
            let answer = send(&server, &request(method, path, &[secret], "")).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed = answer.header("allow").unwrap_or_default();
            assert!(
                allowed.contains("GET") && allowed.contains("POST"),
                "{allowed}"
            );
        }
    }
    for path in [
        "/",
        "/hooks",
        "/hooks/okta/",
        "/hooks/okta/a/b",
        "/metrics",
        "/livez",
    ] {
        let answer = send(&server, &request("POST", path, &[secret], &body)).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    assert!(kept(&server).await.is_empty());
}

#[tokio::test]
async fn without_a_secret_nothing_listens() {
    let server = Server::start().await;
    assert_eq!(server.addresses.http, "");
    let intakes: Vec<_> = server
        .sources()
        .await
        .iter()
        .map(v1::Source::intake)
        .collect();
    assert_eq!(intakes, [v1::Intake::Grpc]);
}

#[tokio::test]
async fn a_delivery_by_http_1_0_is_taken() {
    let server = hooked("").await;
    let events = mixed(0, 3);
    let body = envelope(ORG, &events);
    let request = format!(
        "POST {PATH} HTTP/1.0\r\nAuthorization: {SECRET}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send(&server, request.as_bytes()).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(kept(&server).await.len(), events.len());
}
