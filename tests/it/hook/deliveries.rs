//! Deliveries that are taken: durable at the answer, each event once, with what its delivery said.

use std::os::unix::fs::FileTypeExt as _;
use std::process::Stdio;
use std::time::Duration;

use provident::wire::v1;
use provident::wire::v1::{IngestStatus, Intake};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::fixtures::{self, Given, Kind, log_event, mixed};
use crate::harness::{
    Launch, ORG, Random, earliest, eventually, json, provident, scratch, statuses, within,
};
use crate::hook::{
    PATH, SECRET, WITH_SECRET, body, deliver, delivery, exchange, good, hooked, kept, request,
    send, url, uuids,
};
use crate::mock_okta::hook_deliver;

const ONE_ORG: &str = "[[orgs]]\nname = 'acme.okta.com'\naliases = ['login.acme.example']\n";

#[tokio::test]
async fn what_was_answered_204_survives_a_kill_once_and_in_order() {
    // The configuration, the path, the host in the envelope.
    let cases = [
        ("", PATH, "acme.okta.com"),
        ("", "/hooks/okta/ACME.okta.com", "acme.okta.com"),
        (ONE_ORG, PATH, "login.acme.example"),
        (ONE_ORG, "/hooks/okta/login.acme.example", "Acme.Okta.com"),
    ];
    for (toml, path, host) in cases {
        let mut server = hooked(toml).await;
        let (one, many) = (mixed(0, 1), mixed(1, 60));
        for events in [&one, &many] {
            let answer = send(&server, &delivery(path, SECRET, host, events)).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path}");
            server = server.restart().await;
        }
        // Okta did not see the answer, and tries again.
        let answer = send(&server, &delivery(path, SECRET, host, &many)).await;
        assert_eq!(answer.status, 204);
        let events = server.read_all(earliest()).await;
        let given = [one, many].concat();
        assert_eq!(events.len(), given.len(), "{toml} {path}");
        for ((event, given), sequence) in events.into_iter().zip(given).zip(1..) {
            assert_eq!(event.sequence, sequence);
            assert_eq!(event.raw_json.as_deref(), Some(given.json.as_str()));
            let event = body(event);
            assert_eq!(
                (event.uuid.as_str(), event.org.as_str()),
                (given.uuid.as_str(), ORG)
            );
            assert_eq!(event.intake(), Intake::EventHook);
            assert!(event.received_time.is_some());
        }
    }
}

#[tokio::test]
async fn a_delivery_has_as_many_events_as_are_set_and_no_more() {
    let server = hooked("[hook]\nevents_per_delivery_max = 1000\n").await;
    let events = mixed(0, 1001);
    let answer = send(&server, &good(&events)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(kept(&server).await.len(), 0);
    deliver(&server, &events[..1000]).await;
    assert_eq!(kept(&server).await, uuids(&events[..1000]));
    // Okta does not send it again, so it is kept aside.
    let rejects = std::fs::read_to_string(server.data_dir().join("rejects.ndjson")).unwrap();
    let reject: serde_json::Value = serde_json::from_str(rejects.trim()).unwrap();
    assert!(
        reject["reason"].as_str().unwrap().contains("1000"),
        "{reject}"
    );
    let raw = reject["raw"].as_str().unwrap();
    assert!(raw.contains(&events[0].uuid) && raw.len() == 64 * 1024);
}

#[tokio::test]
async fn a_delivered_group_push_that_failed_says_how_it_was_delivered() {
    let server = hooked("[hook]\nkept_headers = 'X-Trace, Authorization, Cookie'\n").await;
    let given = [log_event(Kind::GroupPushFailed, 4)];
    let headers = [
        ("Authorization", SECRET),
        ("Cookie", "session=never-to-be-kept"),
        ("Proxy-Authorization", "never-to-be-kept"),
        ("X-Trace", "trace-1"),
        ("X-Trace", "trace-2"),
        ("X-Other", "not-asked-for"),
    ];
    let envelope = fixtures::envelope(ORG, &given);
    let answer = send(&server, &request("POST", PATH, &headers, &envelope)).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let event = server.read_all(earliest()).await.remove(0);
    let failed = event.group_push_failed.unwrap();
    assert_eq!(
        failed.headers,
        [
            "x-trace: trace-1",
            "x-trace: trace-2",
            "content-type: application/json",
            "user-agent: Okta Event Hook",
        ]
    );
    let envelope: serde_json::Value = serde_json::from_str(&envelope).unwrap();
    assert_eq!(failed.event_id, envelope["eventId"].as_str().unwrap());
    assert_eq!(failed.event_time, envelope["eventTime"].as_str().unwrap());
    assert_eq!(failed.source, envelope["source"].as_str().unwrap());
    assert_eq!(failed.uuid, given[0].uuid);
}

#[tokio::test]
async fn the_secret_s_own_header_is_never_kept_even_if_asked_for() {
    let server = hooked("[hook]\nheader = 'X-Hook-Key'\nkept_headers = 'x-hook-key'\n").await;
    let given = [log_event(Kind::GroupPushFailed, 4)];
    let url = url(&server, PATH);
    let refused = within(hook_deliver(&url, ("Authorization", SECRET), &given)).await;
    assert_eq!(refused.status(), Some(401));
    let outcome = within(hook_deliver(&url, ("x-hook-KEY", SECRET), &given)).await;
    assert!(outcome.delivered(), "{outcome:?}");
    let event = server.read_all(earliest()).await.remove(0);
    let failed = event.group_push_failed.unwrap();
    let expected = [
        "content-type: application/json",
        "user-agent: Okta Event Hook",
    ];
    assert_eq!(failed.headers, expected);
    assert_eq!(failed.event_id, outcome.event_id);
}

/// Events that each come by three ways at once.
const RACED: u64 = 240;

/// Deliveries of so many events.
const RACED_TOGETHER: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_by_three_ways_at_once_is_kept_once() {
    let mut random = Random::of_run("hook race");
    let server = hooked("").await;
    let events = mixed(0, RACED);
    let file = scratch();
    let path = file.path().join("events.ndjson");
    let lines: Vec<_> = events.iter().map(|given| given.json.as_str()).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();

    let mut ways = JoinSet::new();
    let mut child = provident()
        .args(["ingest", "--org", ORG, "--server"])
        .arg(format!("http://{}", server.addresses.grpc))
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for chunk in events.chunks(RACED_TOGETHER) {
        // Each way has an order of its own.
        let shuffled = |random: &mut Random| {
            let mut chunk = chunk.to_vec();
            for last in (1..chunk.len()).rev() {
                let at = usize::try_from(random.below(last as u64 + 1)).unwrap();
                chunk.swap(last, at);
            }
            chunk
        };
        let (url, hooked) = (url(&server, PATH), shuffled(&mut random));
        ways.spawn(async move {
            let outcome = within(hook_deliver(&url, ("Authorization", SECRET), &hooked)).await;
            assert!(outcome.delivered(), "{outcome:?}");
            Vec::new()
        });
        let (mut client, called) = (server.events(), shuffled(&mut random));
        ways.spawn(async move {
            let request = v1::IngestRequest {
                org: ORG.to_owned(),
                inputs: called.iter().map(json).collect(),
            };
            let answer = within(client.ingest(request)).await.unwrap();
            answer.into_inner().results
        });
    }
    let mut answered = Vec::new();
    while let Some(results) = within(ways.join_next()).await {
        answered.extend(results.unwrap());
    }
    let status = eventually("the end of `provident ingest`", async || {
        child.try_wait().unwrap()
    })
    .await;
    assert!(status.success());

    let stored = server.read_all(earliest()).await;
    let mut found: Vec<_> = stored
        .iter()
        .cloned()
        .map(|event| body(event).uuid)
        .collect();
    let place = |uuid: &str| {
        let event = stored
            .iter()
            .find(|event| event.event.as_ref().is_some_and(|event| event.uuid == uuid));
        event.unwrap().sequence
    };
    for result in &answered {
        assert!(
            matches!(
                result.status(),
                IngestStatus::Accepted | IngestStatus::Duplicate
            ),
            "{result:?}"
        );
        assert_eq!(result.sequence, place(&result.uuid));
    }
    found.sort();
    let mut expected = uuids(&events);
    expected.sort();
    assert_eq!(found, expected);

    let server = server.restart().await;
    deliver(&server, &events).await;
    let results = server.ingest(&events).await;
    assert_eq!(statuses(&results), vec!["DUPLICATE"; events.len()]);
    for result in &results {
        assert_eq!(result.sequence, place(&result.uuid));
    }
    assert_eq!(server.read_all(earliest()).await.len(), events.len());
}

#[tokio::test]
async fn a_delivery_before_the_journal_is_open_is_to_come_again() {
    let mut server = hooked("").await;
    deliver(&server, &mixed(0, 2)).await;
    server.process.kill();
    // A file that can be read only once something writes to it keeps the journal from opening.
    let small: Vec<_> = std::fs::read_dir(server.data_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_none())
        .collect();
    let texts: Vec<_> = small
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(!small.is_empty());
    for path in &small {
        std::fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(std::fs::metadata(path).unwrap().file_type().is_fifo());
    }
    let launch = Launch::on(server.data_dir()).with_env(&WITH_SECRET);
    let mut process = launch.spawn();
    let http = process.listening().await.http;

    let events = mixed(2, 3);
    let url = format!("http://{http}{PATH}");
    let verified = within(crate::mock_okta::hook_verify(
        &url,
        ("Authorization", SECRET),
    ))
    .await;
    assert!(verified.verified, "{verified:?}");
    let answer = exchange(&http, &good(&events)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let answer = exchange(&http, &delivery(PATH, "wrong", ORG, &events)).await;
    assert_eq!(answer.status, 401, "who knows no secret is told nothing");

    let writers: Vec<_> = small
        .into_iter()
        .zip(texts)
        .map(|(path, text)| std::thread::spawn(move || std::fs::write(path, text)))
        .collect();
    let server = process.serving(launch).await;
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    deliver(&server, &events).await;
    assert_eq!(kept(&server).await, uuids(&mixed(0, 5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_nothing_that_was_answered_204() {
    let server = hooked("").await;
    let mut callers = JoinSet::new();
    for caller in 0..4_u64 {
        let url = url(&server, PATH);
        callers.spawn(async move {
            let mut taken: Vec<Given> = Vec::new();
            for round in 0.. {
                let events = mixed((caller << 32) + round * 8, 8);
                let outcome = within(hook_deliver(&url, ("Authorization", SECRET), &events)).await;
                match outcome.status() {
                    Some(204) => taken.extend(events),
                    Some(503) | None => break,
                    Some(other) => panic!("{other} at a stop"),
                }
            }
            taken
        });
    }
    eventually("some deliveries", async || {
        (server.read_all(earliest()).await.len() > 100).then_some(())
    })
    .await;
    let mut server = server;
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().await.code(), Some(0));
    let mut taken = Vec::new();
    while let Some(of_caller) = within(callers.join_next()).await {
        taken.extend(uuids(&of_caller.unwrap()));
    }
    let server = server.restart().await;
    let kept = kept(&server).await;
    let distinct: std::collections::HashSet<_> = kept.iter().collect();
    assert_eq!(distinct.len(), kept.len());
    let lost: Vec<_> = taken
        .iter()
        .filter(|uuid| !distinct.contains(uuid))
        .collect();
    assert!(lost.is_empty(), "{lost:?} of {}", taken.len());
}

#[tokio::test]
async fn a_full_disk_is_told_to_okta_which_tries_once_more() {
    let mut server = hooked("[storage]\nreserve = '100TiB'\n").await;
    let events = mixed(0, 3);
    let answer = send(&server, &good(&events)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let outcome = within(hook_deliver(
        &url(&server, PATH),
        ("Authorization", SECRET),
        &events,
    ))
    .await;
    let statuses: Vec<_> = outcome
        .attempts
        .iter()
        .map(|attempt| attempt.status)
        .collect();
    assert_eq!(statuses, [Some(503); 2]);
    assert!(
        outcome
            .attempts
            .iter()
            .all(|attempt| attempt.took < Duration::from_secs(3))
    );
    assert!(kept(&server).await.is_empty());
    server.process.kill();
    let server = Launch::on(server.data_dir())
        .with_env(&WITH_SECRET)
        .start()
        .await;
    assert!(kept(&server).await.is_empty());
    deliver(&server, &events).await;
    assert_eq!(kept(&server).await, uuids(&events));
}
