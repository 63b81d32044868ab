//! Whether events come in: `SourceService`, `provident sources` and health say what a hook did.

use std::process::Output;

use provident::wire::v1;
use provident::wire::v1::{Intake, SourceState};
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::fixtures::mixed;
use crate::harness::{ORG, Server, eventually, provident};
use crate::hook::{PATH, SECRET, authentic, deliver, delivery, hooked, send};

const NAME: &str = "provident.sources";

async fn hook_source(server: &Server) -> v1::Source {
    let sources = server.sources().await;
    let found = sources
        .into_iter()
        .find(|one| one.intake() == Intake::EventHook);
    found.expect("the hook is a source")
}

fn command(server: &Server, output: &str) -> Output {
    provident()
        .args(["sources", "--output", output, "--server"])
        .arg(format!("http://{}", server.addresses.grpc))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn a_delivery_shows_in_the_sources() {
    let server = hooked(&format!("[[orgs]]\nname = '{ORG}'\n")).await;
    let before = hook_source(&server).await;
    assert_eq!(
        (before.org.as_str(), before.state()),
        (ORG, SourceState::Well)
    );
    assert!(before.start_time.is_some() && before.last_error.is_empty());
    assert!(before.last_event_time.is_none() && before.last_success_time.is_none());
    assert!(text(&command(&server, "text")).contains("nothing yet"));

    deliver(&server, &[]).await;
    let after_none = hook_source(&server).await;
    assert!(after_none.last_success_time.is_some() && after_none.last_event_time.is_none());

    deliver(&server, &mixed(7_000, 3)).await;
    let after = hook_source(&server).await;
    assert!(after.last_event_time.is_some() && after.last_success_time.is_some());
    let published = after.last_published_time.unwrap();
    let newest = mixed(7_002, 1)[0].value()["published"].clone();
    let newest: jiff::Timestamp = newest.as_str().unwrap().parse().unwrap();
    assert_eq!(published.seconds, newest.as_second());
    let lag = after.lag.unwrap().seconds;
    assert_eq!(
        lag,
        (after.last_event_time.unwrap().seconds - published.seconds).max(0)
    );
    assert_eq!(
        server.health_of(NAME).await.unwrap(),
        ServingStatus::Serving
    );

    let shown = command(&server, "text");
    assert_eq!(shown.status.code(), Some(0));
    let shown = text(&shown);
    assert!(
        shown.contains(&format!("event hook, {ORG}: well")),
        "{shown}"
    );
    assert!(shown.contains("lag"), "{shown}");
    let shown = command(&server, "json");
    assert_eq!(shown.status.code(), Some(0));
    let lines: Vec<Value> = text(&shown)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let intakes: Vec<_> = lines
        .iter()
        .map(|line| line["intake"].as_str().unwrap())
        .collect();
    assert_eq!(intakes, ["INTAKE_GRPC", "INTAKE_EVENT_HOOK"]);
    assert_eq!(lines[1]["org"], ORG);
    assert_eq!(lines[1]["state"], "SOURCE_STATE_WELL");
    for time in ["lastEventTime", "lastSuccessTime", "lag"] {
        assert!(lines[1][time].is_string(), "{time}: {}", lines[1]);
    }
}

/// The configuration and the path that events come by: neither may make a restart forget.
#[tokio::test]
async fn after_a_restart_it_is_known_when_an_event_came_last() {
    let one_org = format!("[[orgs]]\nname = '{ORG}'\naliases = ['login.acme.example']\n");
    for (toml, path) in [
        ("", PATH),
        ("", "/hooks/okta/acme.okta.com"),
        (one_org.as_str(), "/hooks/okta/login.acme.example"),
    ] {
        let server = hooked(toml).await;
        let answer = send(&server, &delivery(path, SECRET, ORG, &mixed(0, 2))).await;
        assert_eq!(answer.status, 204);
        let before = hook_source(&server).await.last_event_time.unwrap().seconds;
        let server = server.restart().await;
        let after = hook_source(&server).await;
        let after = after.last_event_time.map(|time| time.seconds);
        // It was noted when it came, a moment before it was told.
        let near = after.is_some_and(|after| (before - 1..=before).contains(&after));
        assert!(near, "{toml} {path}: {after:?} for {before}");
    }
}

#[tokio::test]
async fn a_delivery_that_comes_to_nothing_is_told_until_one_works() {
    let server = hooked("[sources]\nfailing_after = '1s'\n").await;
    deliver(&server, &mixed(0, 1)).await;
    let answer = send(&server, &authentic("no JSON")).await;
    assert_eq!(answer.status, 400);
    let source = hook_source(&server).await;
    assert!(source.last_error.starts_with("400: "), "{source:?}");
    assert!(source.last_error.contains("JSON"), "{source:?}");
    assert!(source.last_error_time.is_some());

    // One that is bad is not failing: it goes on for as long as is set.
    eventually("a failing source", async || {
        send(&server, &authentic("no JSON")).await;
        let state = hook_source(&server).await.state();
        (state == SourceState::Failing).then_some(())
    })
    .await;
    not_well(&server, SourceState::Failing, "FAILING").await;
    deliver(&server, &mixed(1, 1)).await;
    let source = hook_source(&server).await;
    assert_eq!(source.state(), SourceState::Well);
    assert!(
        !source.last_error.is_empty(),
        "what was wrong last is still told"
    );
    health_becomes(&server, ServingStatus::Serving).await;
    assert_eq!(command(&server, "text").status.code(), Some(0));
}

async fn health_becomes(server: &Server, status: ServingStatus) {
    eventually("the health of the sources", async || {
        (server.health_of(NAME).await.unwrap() == status).then_some(())
    })
    .await;
}

async fn not_well(server: &Server, state: SourceState, word: &str) {
    health_becomes(server, ServingStatus::NotServing).await;
    assert_eq!(hook_source(server).await.state(), state);
    // Whether calls are taken is another matter.
    assert_eq!(server.health().await.unwrap(), ServingStatus::Serving);
    let shown = command(server, "text");
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    assert!(text(&shown).contains(word), "{shown:?}");
    let shown = command(server, "json");
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        text(&shown).contains(&format!("SOURCE_STATE_{word}")),
        "{shown:?}"
    );
}

#[tokio::test]
async fn silence_is_told_until_an_event_comes() {
    let server = hooked("[sources]\nsilent_after = '1s'\n").await;
    not_well(&server, SourceState::Silent, "SILENT").await;
    // It is silent again a second after the event.
    let well = async {
        for number in 0.. {
            deliver(&server, &mixed(number, 1)).await;
            if server.health_of(NAME).await.unwrap() == ServingStatus::Serving {
                break;
            }
        }
    };
    crate::harness::within(well).await;
    not_well(&server, SourceState::Silent, "SILENT").await;
}

#[tokio::test]
async fn a_stranger_s_guess_makes_no_source_ill() {
    let server = hooked("[sources]\nfailing_after = '1s'\n").await;
    let since = std::time::Instant::now();
    eventually("two seconds of guesses", async || {
        let answer = send(&server, &delivery(PATH, "guess", ORG, &mixed(0, 1))).await;
        assert_eq!(answer.status, 401);
        assert_eq!(
            server.health_of(NAME).await.unwrap(),
            ServingStatus::Serving
        );
        (since.elapsed().as_millis() > 2_500).then_some(())
    })
    .await;
    let source = hook_source(&server).await;
    assert_eq!(source.state(), SourceState::Well);
    assert!(source.last_error.starts_with("401: "), "{source:?}");
    assert!(source.last_success_time.is_none());
}
