//! Deliveries that are not taken: the right answer to each, and nothing of a neighbour disturbed.

use std::time::Duration;

use serde_json::json as value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::fixtures::{Given, envelope, mixed, mixed_one, published};
use crate::harness::{ORG, PATIENCE, Server, within};
use crate::hook::{
    Answer, OTHER_ORG, PATH, SECRET, authentic, deliver, delivery, good, hooked, kept, read_answer,
    rejects, request, send, url, uuids,
};
use crate::mock_okta::hook_deliver;

/// Bytes of the largest delivery where a test has one that is larger.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// An envelope of some texts, whatever they are.
fn envelope_of(events: &[&str]) -> String {
    let marked = envelope(ORG, &[]);
    let events = format!("\"events\":[{}]", events.join(","));
    assert!(marked.contains("\"events\":[]"), "{marked}");
    marked.replace("\"events\":[]", &events)
}

/// A body that is sent in pieces, and may not be sent to its end.
fn chunked(body: &str, is_whole: bool) -> Vec<u8> {
    let headers = [("Authorization", SECRET), ("Transfer-Encoding", "chunked")];
    let mut bytes = request("POST", PATH, &headers, "");
    for piece in body.as_bytes().chunks(1000) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    if is_whole {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    bytes
}

/// Each bad delivery with its answer, beside a good one that is taken all the same.
#[tokio::test]
async fn a_bad_delivery_gets_its_answer_and_disturbs_no_other() {
    let server = hooked(&format!(
        "[hook]\nbody_bytes_max = '{BODY_BYTES_MAX}B'\n[[orgs]]\nname = '{ORG}'\n"
    ))
    .await;
    let event = &mixed(900, 1);
    let post = |headers: &[(&str, &str)]| request("POST", PATH, headers, envelope(ORG, event));
    let large = format!("{{\"a\":\"{}\"}}", "a".repeat(BODY_BYTES_MAX));
    let declared = [("Authorization", SECRET), ("Content-Length", "99999999")];
    let no_type = envelope(ORG, event).replace("com.okta.event_hook", "com.okta.other");
    let long_secret = "x".repeat(4000);
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("wrong secret", 401, delivery(PATH, "guess", ORG, event)),
        (
            "a part of it",
            401,
            delivery(PATH, &SECRET[..8], ORG, event),
        ),
        (
            "more than it",
            401,
            delivery(PATH, &format!("{SECRET}x"), ORG, event),
        ),
        ("empty", 401, delivery(PATH, "", ORG, event)),
        ("long", 401, delivery(PATH, &long_secret, ORG, event)),
        ("no secret", 401, post(&[])),
        (
            "twice",
            401,
            post(&[("Authorization", SECRET), ("authorization", SECRET)]),
        ),
        (
            "twice, one wrong",
            401,
            post(&[("Authorization", "guess"), ("Authorization", SECRET)]),
        ),
        ("not JSON", 400, authentic("{\"data\":")),
        ("no body", 400, authentic("")),
        ("no text", 400, authentic(b"{\"a\":\"\xff\"}")),
        ("a number", 400, authentic("7")),
        ("an empty object", 400, authentic("{}")),
        ("no envelope", 400, authentic(no_type)),
        (
            "no events",
            400,
            authentic(value!({"eventType": "com.okta.event_hook", "data": {}}).to_string()),
        ),
        (
            "events that are no array",
            400,
            authentic(
                value!({"eventType": "com.okta.event_hook", "data": {"events": 1}}).to_string(),
            ),
        ),
        (
            "bad events alone",
            400,
            authentic(envelope_of(&["5", "{}"])),
        ),
        (
            "too large, and says so",
            413,
            request("POST", PATH, &declared, "{"),
        ),
        ("too large, sent whole", 413, authentic(&large)),
        ("too large, in pieces", 413, chunked(&large, true)),
        ("too large, without an end", 413, chunked(&large, false)),
        (
            "another org's",
            400,
            delivery(PATH, SECRET, OTHER_ORG, event),
        ),
        (
            "unknown org",
            404,
            delivery("/hooks/okta/nobody.okta.com", SECRET, ORG, event),
        ),
        (
            "no host",
            404,
            delivery("/hooks/okta/a%20b", SECRET, ORG, event),
        ),
    ];
    let mut expected = Vec::new();
    for ((what, status, bytes), number) in cases.into_iter().zip(0..) {
        let neighbours = mixed(number * 2, 2);
        let (answer, ()) = tokio::join!(send(&server, &bytes), deliver(&server, &neighbours));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(!answer.body.trim().is_empty(), "{what} without a sentence");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge.is_some(), status == 401, "{what}");
        expected.extend(uuids(&neighbours));
    }
    assert_eq!(kept(&server).await, expected);
}

#[tokio::test]
async fn deliveries_without_events_are_fine() {
    let server = hooked("").await;
    for body in [envelope(ORG, &[]), "[]".to_owned()] {
        let answer = send(&server, &authentic(body)).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    }
    assert!(kept(&server).await.is_empty() && rejects(&server).is_empty());
}

#[tokio::test]
async fn a_bad_event_among_good_ones_is_kept_aside() {
    let server = hooked("").await;
    let events = mixed(0, 3);
    let known = mixed_one(1);
    // The first one stands.
    let changed = known.json.replace(&published(1), &published(999));
    let bad = [
        "{\"uuid\":\"0a0a\",\"published\":\"2026-03-01T10:00:00.000Z\"}",
        "null",
        changed.as_str(),
    ];
    let [first, second, third] = [&events[0], &events[1], &events[2]].map(|one| one.json.as_str());
    let body = envelope_of(&[first, bad[0], second, bad[1], third, bad[2]]);
    let answer = send(&server, &authentic(body)).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(kept(&server).await, uuids(&events));
    let rejects = rejects(&server);
    assert_eq!(rejects.len(), bad.len(), "{rejects:?}");
    for (reject, bad) in rejects.iter().zip(bad) {
        assert_eq!(reject["raw"], bad);
        assert_eq!(reject["bytes"], bad.len());
        assert_eq!(reject["intake"], "event_hook");
        assert!(!reject["reason"].as_str().unwrap().is_empty());
        assert!(reject["time"].as_str().unwrap().starts_with("20"));
    }
    assert_eq!(rejects[2]["uuid"], known.uuid);
}

/// Connections that never end their request's head.
const DRIBBLERS: u64 = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_dribble_keep_no_delivery_out() {
    let server = hooked("[http]\nconnections_max = 4\nhead_timeout = '300ms'\n").await;
    let mut dribblers = tokio::task::JoinSet::new();
    for _ in 0..DRIBBLERS {
        let address = server.addresses.http.clone();
        dribblers.spawn(async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(&address).await else {
                    return;
                };
                let mut pause = interval(Duration::from_millis(20));
                let mut piece = format!("POST {PATH} HTTP/1.1\r\nX-Slow: ");
                while stream.write_all(piece.as_bytes()).await.is_ok() {
                    pause.tick().await;
                    "a".clone_into(&mut piece);
                }
            }
        });
    }
    let mut expected = Vec::new();
    for number in 0..3 {
        let events = mixed(number * 4, 4);
        // The mock's deadline of 3 s is Okta's, and 24 clients at 4 places need less.
        let answer = timeout(PATIENCE, send(&server, &good(&events)))
            .await
            .unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
        expected.extend(uuids(&events));
    }
    assert!(!dribblers.is_empty());
    dribblers.abort_all();
    assert_eq!(kept(&server).await, expected);
}

async fn begin(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = within(TcpStream::connect(&server.addresses.http))
        .await
        .unwrap();
    within(stream.write_all(bytes)).await.unwrap();
    stream
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_before_okta_gives_up() {
    let server = hooked("[hook]\nanswer_timeout = '400ms'\n[http]\nconnections_max = 2\n").await;
    let events = mixed(0, 2);
    let whole = good(&events);
    for stuck in [
        whole[..whole.len() - 1].to_vec(),
        chunked(&envelope(ORG, &events), false),
    ] {
        let since = std::time::Instant::now();
        // Both places are taken, so the good delivery waits for them.
        let mut streams = [begin(&server, &stuck).await, begin(&server, &stuck).await];
        for stream in &mut streams {
            let answer = read_answer(stream).await.expect("an answer");
            assert_eq!(answer.status, 503, "{answer:?}");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        assert!(since.elapsed() >= Duration::from_millis(400));
    }
    assert!(kept(&server).await.is_empty());
    deliver(&server, &events).await;
    assert_eq!(kept(&server).await, uuids(&events));
}

#[tokio::test]
async fn who_knows_no_secret_is_refused_before_the_body_is_read() {
    // Later it would be 503.
    let server = hooked("[hook]\nanswer_timeout = '2900ms'\n").await;
    let whole = delivery(PATH, "guess", ORG, &mixed(0, 2));
    let mut stream = begin(&server, &whole[..whole.len() - 1]).await;
    let answer = read_answer(&mut stream).await.expect("an answer");
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_delivery_that_breaks_off_leaves_nothing() {
    let server = hooked("").await;
    let events = mixed(0, 3);
    let whole = good(&events);
    let body_at = whole
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .unwrap()
        + 4;
    for cut in [1, body_at - 3, body_at, body_at + 1, whole.len() - 1] {
        let mut stream = begin(&server, &whole[..cut]).await;
        within(stream.shutdown()).await.unwrap();
        let answer: Option<Answer> = read_answer(&mut stream).await;
        let status = answer.map(|answer| answer.status);
        assert!(
            matches!(status, None | Some(400 | 503)),
            "{status:?} at {cut}"
        );
    }
    assert!(kept(&server).await.is_empty() && rejects(&server).is_empty());
    deliver(&server, &events).await;
    assert_eq!(kept(&server).await, uuids(&events));
}

#[tokio::test]
async fn a_refusal_is_final_for_okta_and_tells_no_stranger_which_orgs_there_are() {
    let server = hooked(&format!("[[orgs]]\nname = '{ORG}'\n")).await;
    let events: Vec<Given> = mixed(0, 1);
    for (path, secret, status) in [
        (PATH, "guess", 401),
        ("/hooks/okta/nobody.okta.com", "guess", 404),
    ] {
        let url = url(&server, path);
        let outcome = within(hook_deliver(&url, ("Authorization", secret), &events)).await;
        assert_eq!(
            (outcome.status(), outcome.attempts.len()),
            (Some(status), 1)
        );
        let answer = send(&server, &delivery(path, secret, ORG, &events)).await;
        assert!(!answer.body.contains(ORG), "{answer:?}");
    }
}
