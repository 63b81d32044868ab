//! The System Log poller against a mock org: everything that Okta reports comes in, once and in its
//! order, whatever goes wrong between them.
//!
//! The mock records what was asked of it, so the tests also say what the poller must not do. Random
//! faults and kills are in `soak`.

use std::time::Duration;

use provident::wire::v1;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fixtures::{self, Given, Kind};
use crate::harness::{Launch, ORG, Server, earliest, eventually, provident, scratch, within};
use crate::mock_okta::{
    API_TOKEN, CLIENT_ID, Fault, KeyPair, LogsRequest, MockOkta, Scheme, Settings, TokenFault,
};

/// A server that polls, and the files that it is set up with.
struct Polling {
    dir: TempDir,
    launch: Launch,
}

impl Polling {
    /// Polls with an API token.
    fn with_token(okta: &MockOkta, more: &str) -> Self {
        let polling = Self::new(okta, "api_token_file", more);
        polling.write_secret(API_TOKEN);
        polling
    }

    /// Polls as a service app.
    fn with_key(okta: &MockOkta, key: &str, more: &str) -> Self {
        let login = format!("client_id = '{CLIENT_ID}'\nprivate_key_file");
        let polling = Self::new(okta, &login, more);
        polling.write_secret(key);
        polling
    }

    fn new(okta: &MockOkta, login: &str, more: &str) -> Self {
        let dir = scratch();
        let secret = dir.path().join("secret");
        let config = format!(
            "[okta]\norg_url = '{}'\n{login} = '{}'\n[[orgs]]\nname = '{ORG}'\n{more}\n{}",
            okta.url(),
            secret.display(),
            if more.contains("[poll]") { "" } else { QUICK },
        );
        let file = dir.path().join("provident.toml");
        std::fs::write(&file, config).unwrap();
        let launch =
            Launch::on(&dir.path().join("data")).with(&["--config", file.to_str().unwrap()]);
        Self { dir, launch }
    }

    fn write_secret(&self, secret: &str) {
        std::fs::write(self.dir.path().join("secret"), secret).unwrap();
    }

    async fn start(&self) -> Server {
        self.launch.start().await
    }
}

/// Waits that suit a test.
const QUICK: &str = "[poll]\ninterval = '20ms'\nretry_delay = '5ms'\nretry_delay_max = '50ms'\n\
                     page_events_max = 10";

fn publish(okta: &MockOkta, events: &[Given]) {
    for event in events {
        okta.publish(event);
    }
}

/// Waits until so many events are there, and gives all of them.
async fn kept(server: &Server, count: usize) -> Vec<v1::StreamedEvent> {
    eventually(&format!("{count} events"), async || {
        let events = server.read_all(earliest()).await;
        (events.len() >= count).then_some(events)
    })
    .await
}

fn uuids(events: &[v1::StreamedEvent]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event.event.as_ref().unwrap().uuid.as_str())
        .collect()
}

fn uuids_of(given: &[Given]) -> Vec<&str> {
    given.iter().map(|event| event.uuid.as_str()).collect()
}

async fn source(server: &Server) -> v1::Source {
    let mut sources = server.sources().await.into_iter();
    sources
        .find(|source| source.intake() == v1::Intake::SystemLog)
        .expect("a poller is a source")
}

async fn sources_health(server: &Server) -> ServingStatus {
    let request = HealthCheckRequest {
        service: "provident.sources".to_owned(),
    };
    let mut client = HealthClient::new(server.channel());
    let answer = within(client.check(request)).await.unwrap();
    answer.into_inner().status()
}

#[tokio::test]
async fn every_event_of_the_log_comes_in_once_and_in_its_order() {
    let okta = MockOkta::start();
    // The log's order is the order in which the org stored them, not that of their times.
    let mut events = fixtures::mixed(0, 35);
    events.reverse();
    publish(&okta, &events);
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    kept(&server, 35).await;
    let late = fixtures::mixed(1000, 7);
    publish(&okta, &late);
    events.extend(late);
    let kept = kept(&server, 42).await;
    assert_eq!(uuids(&kept), uuids_of(&events));
    for (kept, given) in kept.iter().zip(&events) {
        assert_eq!(kept.raw_json.as_ref(), Some(&given.json));
        let event = kept.event.as_ref().unwrap();
        assert_eq!(
            (event.org.as_str(), event.intake()),
            (ORG, v1::Intake::SystemLog)
        );
    }
    assert_eq!(okta.violations(), Vec::<String>::new());
    assert!(okta.times_given().iter().all(|times| *times == 1));
    assert!(okta.requests().iter().all(|one| one.scheme == Scheme::Ssws));
    let source = source(&server).await;
    assert_eq!(source.state(), v1::SourceState::Well);
    assert!(source.last_event_time.is_some() && source.rate_limit.is_some());
}

#[tokio::test]
async fn a_restart_goes_on_from_the_stored_link() {
    let okta = MockOkta::start();
    let events = fixtures::mixed(0, 60);
    publish(&okta, &events[..25]);
    let polling = Polling::with_token(&okta, "");
    let mut server = polling.start().await;
    kept(&server, 25).await;
    server.process.kill();
    let asked = okta.requests().len();
    publish(&okta, &events[25..]);
    let server = polling.start().await;
    let kept = kept(&server, 60).await;
    assert_eq!(uuids(&kept), uuids_of(&events));
    assert!(okta.goes_on(asked), "{:?}", okta.requests().get(asked));
    let source = source(&server).await;
    assert!(source.last_event_time.is_some());
    // A kill between a page and its write may repeat the page.
    let repeated = okta.times_given().into_iter().filter(|times| *times > 1);
    assert!(repeated.count() <= 10);
}

#[tokio::test]
async fn a_page_that_is_kept_is_never_asked_for_again() {
    let okta = MockOkta::start();
    let events = fixtures::mixed(0, 8);
    publish(&okta, &events[..5]);
    // After the page it waits: the place was written with the events, or not at all.
    let polling = Polling::with_token(&okta, "[poll]\ninterval = '1h'");
    let mut server = polling.start().await;
    kept(&server, 5).await;
    server.process.kill();
    let asked = okta.requests().len();
    let handed_out = okta.last_links().handed_out;
    publish(&okta, &events[5..]);
    let server = polling.start().await;
    assert_eq!(uuids(&kept(&server, 8).await), uuids_of(&events));
    assert_eq!(okta.requests()[asked].after, handed_out);
    assert!(okta.times_given().iter().all(|times| *times == 1));
}

#[tokio::test]
async fn whatever_fails_is_tried_again_until_it_works() {
    let okta = MockOkta::start_with(Settings {
        window: Duration::from_secs(2),
        ..Settings::default()
    });
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    let faults: Vec<_> = Fault::TRANSIENT
        .into_iter()
        .chain([
            Fault::RateLimited,
            Fault::NoNextLink,
            Fault::Unauthorized,
            Fault::Forbidden,
        ])
        .collect();
    let mut events = Vec::new();
    for (number, fault) in (0..).zip(faults) {
        okta.queue_fault(fault);
        okta.queue_fault(fault);
        let more = fixtures::mixed(number * 100, 12);
        publish(&okta, &more);
        events.extend(more);
        let kept = kept(&server, events.len()).await;
        assert_eq!(uuids(&kept), uuids_of(&events), "{fault:?}");
        eventually("no fault left", async || {
            okta.faults_left().is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(okta.violations(), Vec::<String>::new());
    let source = source(&server).await;
    assert_eq!(source.state(), v1::SourceState::Well);
    assert!(source.last_error.contains("403"), "{}", source.last_error);
    assert_eq!(source.last_gap, None, "no place was lost");
}

#[tokio::test]
async fn a_link_to_another_host_is_followed_to_our_own_alone() {
    let okta = MockOkta::start();
    let events = fixtures::mixed(0, 30);
    publish(&okta, &events);
    okta.queue_fault(Fault::ForeignNextLink);
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    assert_eq!(uuids(&kept(&server, 30).await), uuids_of(&events));
}

#[tokio::test]
async fn a_place_that_okta_no_longer_knows_is_a_gap_that_is_told_and_read_over() {
    let okta = MockOkta::start();
    let mut events = fixtures::mixed(0, 20);
    publish(&okta, &events);
    let polling = Polling::with_token(&okta, "");
    let mut server = polling.start().await;
    kept(&server, 20).await;
    server.process.kill();
    okta.expire_cursors();
    let more = fixtures::mixed(100, 15);
    publish(&okta, &more);
    events.extend(more);
    let mut server = polling.start().await;
    let kept = kept(&server, 35).await;
    assert_eq!(uuids(&kept), uuids_of(&events));
    let gap = source(&server).await.last_gap.expect("a gap");
    assert!(
        gap.newest_published_time.is_some()
            && gap.resume_time.unwrap().seconds < gap.detected_time.unwrap().seconds
    );
    let log = server.process.log_text();
    assert!(
        log.contains("ERROR") && log.contains("reading begins anew"),
        "{log}"
    );
    assert_eq!(okta.violations(), Vec::<String>::new());
    // It is still known after another restart, in which nothing is lost.
    server.process.kill();
    let server = polling.start().await;
    let restored = eventually("the gap", async || source(&server).await.last_gap).await;
    assert_eq!(restored, gap);
}

#[tokio::test]
async fn a_service_app_logs_in_with_any_form_of_its_key() {
    for pair in [KeyPair::rsa(), KeyPair::ec()] {
        for key in [pair.pem.clone(), pair.jwk.to_string()] {
            let okta = MockOkta::start();
            okta.register(&pair);
            publish(&okta, &fixtures::mixed(0, 3));
            let polling = Polling::with_key(&okta, &key, "");
            let server = polling.start().await;
            kept(&server, 3).await;
            assert_eq!(okta.token_refusals(), Vec::<String>::new());
            assert_eq!(okta.tokens_issued(), 1);
            let is_bearer = |one: &LogsRequest| one.scheme == Scheme::Bearer;
            assert!(okta.requests().iter().all(is_bearer));
        }
    }
}

#[tokio::test]
async fn an_access_token_is_renewed_before_it_ends_and_when_it_is_revoked() {
    let okta = MockOkta::start();
    let key = okta.new_ec_key();
    okta.set_token_life(Duration::from_secs(4));
    let polling = Polling::with_key(&okta, &key.pem, "");
    let server = polling.start().await;
    eventually("a second token", async || {
        (okta.tokens_issued() >= 2).then_some(())
    })
    .await;
    let refused = |one: &LogsRequest| one.status == Some(401);
    assert!(!okta.requests().iter().any(refused), "a token ran out");
    okta.set_token_life(Duration::from_hours(1));
    okta.queue_token_fault(TokenFault::ServerError);
    okta.revoke_tokens();
    publish(&okta, &fixtures::mixed(0, 3));
    kept(&server, 3).await;
}

#[tokio::test]
async fn a_login_that_is_refused_is_told_in_words_and_mended_without_a_restart() {
    let okta = MockOkta::start();
    publish(&okta, &fixtures::mixed(0, 3));
    let key = okta.new_rsa_key();
    let stranger = KeyPair::rsa();
    let polling = Polling::with_key(
        &okta,
        &stranger.pem,
        "[sources]\nfailing_after = '1s'\n[log]\nlevel = 'warn,provident=info'",
    );
    let server = polling.start().await;
    eventually("a failing source", async || {
        (source(&server).await.state() == v1::SourceState::Failing).then_some(())
    })
    .await;
    eventually("health", async || {
        (sources_health(&server).await == ServingStatus::NotServing).then_some(())
    })
    .await;
    let error = source(&server).await.last_error;
    assert!(error.contains("401 invalid_client"), "{error}");
    let shown = provident()
        .args(["sources", "--server", &server.addresses.grpc])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        text.contains("FAILING") && text.contains("invalid_client"),
        "{text}"
    );
    let metrics = server.metrics().await;
    let well = format!("provident_source_well{{intake=\"system_log\",org=\"{ORG}\"}} 0");
    assert!(metrics.contains(&well), "{metrics}");
    assert!(server.process.log_text().contains("a source is failing"));
    // Calls are taken all the same.
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);

    for (secret, problem) in [
        ("no key at all", "neither a PEM file"),
        ("-----BEGIN EC PRIVATE KEY-----", "openssl pkcs8"),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "encrypted"),
        ("{\"kty\":\"oct\"}", "no private JWK"),
    ] {
        polling.write_secret(secret);
        eventually(problem, async || {
            source(&server)
                .await
                .last_error
                .contains(problem)
                .then_some(())
        })
        .await;
    }
    okta.queue_token_fault(TokenFault::UseDpopNonce);
    polling.write_secret(&key.pem);
    kept(&server, 3).await;
    eventually("health", async || {
        (sources_health(&server).await == ServingStatus::Serving).then_some(())
    })
    .await;
    assert!(server.process.log_text().contains("demands DPoP"));
    assert!(!server.process.log_text().contains("PRIVATE KEY-----\\n"));
}

#[tokio::test]
async fn an_api_token_that_was_changed_is_taken_from_its_file() {
    let okta = MockOkta::start();
    publish(&okta, &fixtures::mixed(0, 3));
    let polling = Polling::with_token(&okta, "");
    polling.write_secret("00anotherToken");
    let server = polling.start().await;
    eventually("a refused login", async || {
        source(&server)
            .await
            .last_error
            .contains("401: E0000011")
            .then_some(())
    })
    .await;
    polling.write_secret(API_TOKEN);
    kept(&server, 3).await;
    let log = server.process.log_text();
    assert!(
        !log.contains(API_TOKEN) && !log.contains("00anotherToken"),
        "{log}"
    );
}

#[tokio::test]
async fn what_is_reported_while_the_first_login_fails_is_not_missed() {
    let okta = MockOkta::start();
    let polling = Polling::with_token(
        &okta,
        "[poll]\ninterval = '20ms'\nretry_delay = '5ms'\nretry_delay_max = '50ms'\n\
         look_back = '0s'\noverlap = '0s'",
    );
    polling.write_secret("00wrongToken");
    let mut server = polling.start().await;
    eventually("a refused login", async || {
        (okta.requests().len() > 3).then_some(())
    })
    .await;
    publish(&okta, &fixtures::mixed(0, 3));
    // The beginning is a second of the clock: let some pass, and another start.
    let asked = okta.requests().last().unwrap().at.as_second();
    eventually("some seconds", async || {
        let last = okta.requests().last().unwrap().at.as_second();
        (last > asked + 2).then_some(())
    })
    .await;
    server.process.kill();
    polling.write_secret(API_TOKEN);
    let server = polling.start().await;
    kept(&server, 3).await;
}

#[tokio::test]
async fn no_more_than_the_share_of_the_rate_limit_is_used() {
    let okta = MockOkta::start_with(Settings {
        limit: 12,
        window: Duration::from_secs(2),
        ..Settings::default()
    });
    let events = fixtures::mixed(0, 150);
    publish(&okta, &events);
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    let kept = kept(&server, 150).await;
    assert_eq!(uuids(&kept), uuids_of(&events));
    assert!(okta.requests_in_window().len() >= 3);
    assert_eq!(okta.largest_window(), 6);
}

#[tokio::test]
async fn a_page_that_was_begun_is_finished_at_a_stop() {
    let okta = MockOkta::start();
    let events = fixtures::mixed(0, 8);
    let polling = Polling::with_token(&okta, "");
    let mut server = polling.start().await;
    eventually("a first poll", async || {
        (!okta.requests().is_empty()).then_some(())
    })
    .await;
    okta.queue_fault(Fault::Slow(Duration::from_secs(1)));
    publish(&okta, &events);
    eventually("a slow page", async || {
        okta.faults_left().is_empty().then_some(())
    })
    .await;
    server.process.signal(Signal::TERM);
    assert!(server.process.ended().await.success());
    let server = polling.start().await;
    let kept = kept(&server, 8).await;
    assert_eq!(uuids(&kept), uuids_of(&events));
    assert!(
        okta.times_given().iter().all(|times| *times == 1),
        "asked for again"
    );
}

#[tokio::test]
async fn okta_sends_what_is_kept_and_nothing_else() {
    let okta = MockOkta::start();
    let unrelated = fixtures::log_event(Kind::Unrelated, 1);
    let related = fixtures::log_event(Kind::UnknownOfFamily, 2);
    // Our own feed's health, and a type that is of no family.
    let mut others = Vec::new();
    for (number, name) in (10..).zip([
        "event_hook.delivery",
        "system.log_stream.lifecycle.deactivate",
        "app.app_instance.provision_sync_job.failed",
    ]) {
        let mut event = fixtures::log_event(Kind::AuthenticationFailed, number).value();
        event["eventType"] = json!(name);
        okta.publish_json(&event);
        others.push(fixtures::uuid(number));
    }
    publish(&okta, &[unrelated.clone(), related.clone()]);
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    let events = kept(&server, 4).await;
    let expected: Vec<&str> = others
        .iter()
        .chain([&related.uuid])
        .map(String::as_str)
        .collect();
    assert_eq!(uuids(&events), expected);
    let verdict = |index: usize| events[index].classification.as_ref().unwrap().verdict();
    assert_eq!([verdict(0), verdict(1)], [v1::Verdict::Warning; 2]);
    let given: usize = okta.times_given().into_iter().sum();
    assert_eq!(given, 4, "the unrelated one was sent");
    assert_eq!(okta.violations(), Vec::<String>::new());

    let polling = Polling::with_token(&okta, "[ingest]\nkeep = 'all'");
    let server = polling.start().await;
    assert_eq!(kept(&server, 5).await.len(), 5);

    let filter = "[poll]\ninterval = '20ms'\nfilter = 'eventType eq \"user.session.start\"'\n\
                  [ingest]\nkeep = 'all'";
    let polling = Polling::with_token(&okta, filter);
    let server = polling.start().await;
    assert_eq!(uuids(&kept(&server, 1).await), [unrelated.uuid.as_str()]);
}

#[tokio::test]
async fn a_filter_that_was_changed_goes_on_from_the_newest_event() {
    let okta = MockOkta::start();
    let first = fixtures::log_event(Kind::RateLimited, 1);
    publish(&okta, std::slice::from_ref(&first));
    let polling = Polling::with_token(&okta, "");
    let mut server = polling.start().await;
    kept(&server, 1).await;
    server.process.kill();
    let file = polling.dir.path().join("provident.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        format!("{config}\nfilter = 'eventType sw \"user.\"'\n[ingest]\nkeep = 'all'"),
    )
    .unwrap();
    let second = fixtures::log_event(Kind::Unrelated, 2);
    publish(&okta, std::slice::from_ref(&second));
    let server = polling.start().await;
    assert_eq!(uuids(&kept(&server, 2).await), [first.uuid, second.uuid]);
    assert_eq!(okta.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_event_is_kept_apart_and_holds_nothing_up() {
    let okta = MockOkta::start();
    let good = fixtures::mixed(0, 2);
    okta.publish(&good[0]);
    let mut bad = fixtures::mixed_one(5).value();
    bad["uuid"] = json!(null);
    okta.publish_json(&bad);
    okta.publish(&good[1]);
    let polling = Polling::with_token(&okta, "");
    let server = polling.start().await;
    assert_eq!(uuids(&kept(&server, 2).await), uuids_of(&good));
    let path = polling.dir.path().join("data/rejects.ndjson");
    let rejects = eventually("a reject", async || std::fs::read_to_string(&path).ok()).await;
    let reject: serde_json::Value = serde_json::from_str(rejects.trim()).unwrap();
    assert_eq!(
        (&reject["intake"], &reject["org"]),
        (&json!("system_log"), &json!(ORG))
    );
    assert_eq!(reject["field"], "uuid");
    let raw: serde_json::Value = serde_json::from_str(reject["raw"].as_str().unwrap()).unwrap();
    assert_eq!(raw, bad);
}

#[tokio::test]
async fn without_room_on_the_disk_a_page_waits_and_no_other_is_asked_for() {
    let okta = MockOkta::start();
    publish(&okta, &fixtures::mixed(0, 5));
    let polling = Polling::with_token(&okta, "[storage]\nreserve = '1000TiB'");
    let mut server = polling.start().await;
    eventually("an error", async || {
        let error = source(&server).await.last_error;
        error.contains("too little room on disk").then_some(())
    })
    .await;
    assert_eq!(okta.requests().len(), 1);
    assert!(server.read_all(earliest()).await.is_empty());
    server.process.kill();
    let server = polling
        .launch
        .clone()
        .with_env(&[("PROVIDENT_STORAGE_RESERVE", "64MiB")])
        .start()
        .await;
    kept(&server, 5).await;
}

#[tokio::test]
async fn several_orgs_are_polled_side_by_side() {
    let orgs = [MockOkta::start(), MockOkta::start()];
    let dir = scratch();
    let mut config = String::from(QUICK);
    for (number, okta) in orgs.iter().enumerate() {
        // The same uuid in two orgs is two events.
        publish(okta, &fixtures::mixed(7, 1));
        let token = dir.path().join(format!("token{number}"));
        std::fs::write(&token, API_TOKEN).unwrap();
        let entry = format!(
            "\n[[orgs]]\nname = 'org{number}.okta.com'\nurl = '{}'\napi_token_file = '{}'",
            okta.url(),
            token.display()
        );
        config.push_str(&entry);
    }
    let server = Server::start_configured(&config).await;
    let kept = kept(&server, 2).await;
    let mut from: Vec<_> = kept
        .iter()
        .map(|one| one.event.clone().unwrap().org)
        .collect();
    from.sort();
    assert_eq!(from, ["org0.okta.com", "org1.okta.com"]);
    // One that is away holds up no other.
    for _ in 0..1000 {
        orgs[0].queue_fault(Fault::ServerError);
    }
    publish(&orgs[1], &fixtures::mixed(100, 5));
    eventually("the other's events", async || {
        (server.read_all(earliest()).await.len() == 7).then_some(())
    })
    .await;
}
