//! How long reading and classifying one event takes, beside `serde_json` reading it into a `Value`.
//!
//! `cargo bench --locked --bench classify`. Everything alternates, another one first in each repeat;
//! figures are the minimum, median and maximum of the repeats, ratios are of one repeat. The events
//! are failures, whose texts are read in full; successes cost less.

#![expect(clippy::print_stdout, reason = "a benchmark shows its figures")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use provident::domain::classify::Classifier;
use provident::domain::event::ProvisioningEvent;
use provident::okta::log_event::{self, Purpose};
use serde_json::json;

/// As the program allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 9;
const ROUNDS: u32 = 2_000;

/// What Okta says of failures, from short to as long as it writes them.
const REASONS: [&str; 8] = [
    "Read timed out",
    "Unauthorized. Errors reported by remote server: Token is invalid or expired",
    "Not Found. Errors reported by remote server: User not found.",
    "Automatic profile push of user Ann Lee to app AWS IAM Identity Center failed: Error while trying to push profile update for ann.lee@example.com: Bad Request. Errors reported by remote server: Request is unparsable, syntactically incorrect, or violates schema.",
    "Error while creating user Ann Lee: Conflict. Errors reported by remote server: {\"schemas\":[\"urn:ietf:params:scim:api:messages:2.0:Error\"],\"scimType\":\"uniqueness\",\"detail\":\"User with email ann.lee@example.com already exists\",\"status\":\"409\"}",
    "Forbidden. Errors reported by remote server: ご契約のユーザー数を超えるため、これ以上メンバーを追加できません。",
    "Bad Gateway. Errors reported by remote server: Invalid JSON: Unrecognized token 'error' at [Source: java.io.StringReader@4c76ba04; line: 1, column: 6]",
    "Error while deactivating user: the person in charge has to look into this one, code Q-17",
];

/// A LogEvent of about 2.5 KB, as the System Log has them.
fn log_event(index: usize) -> String {
    json!({
        "actor": {"id": "00u1a2b3c4d5e6f7g8h9", "type": "SystemPrincipal", "alternateId": "system@okta.com", "displayName": "Okta System", "detailEntry": null},
        "client": {"userAgent": {"rawUserAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36", "os": "Linux", "browser": "CHROME"}, "zone": "null", "device": "Computer", "id": null, "ipAddress": "203.0.113.7", "geographicalContext": {"city": "Utrecht", "state": "Utrecht", "country": "Netherlands", "postalCode": "3511", "geolocation": {"lat": 52.09, "lon": 5.12}}},
        "device": null,
        "authenticationContext": {"authenticationProvider": null, "credentialProvider": null, "credentialType": null, "issuer": null, "interface": null, "authenticationStep": 0, "rootSessionId": "trs8a7b6c5d4e3f2g1h0", "externalSessionId": "trs8a7b6c5d4e3f2g1h0"},
        "displayMessage": "Push new user to external application",
        "eventType": "application.provision.user.push",
        "outcome": {"result": "FAILURE", "reason": REASONS[index % REASONS.len()]},
        "published": "2026-11-20T08:15:00.123Z",
        "securityContext": {"asNumber": 64496, "asOrg": "example transit", "isp": "example isp", "domain": "example.com", "isProxy": false, "ipDetails": null, "risk": null, "userBehaviors": null},
        "severity": "ERROR",
        "debugContext": {"debugData": {"requestId": "Zk3v9w2J8a1xQpLm4sTn7gAAA", "dtHash": "3f1c77aa0b5e4d2f9c8b7a6958473625140f1e2d3c4b5a697887766554433221", "requestUri": "/api/internal/v1/provisioning/jobs", "url": "/api/internal/v1/provisioning/jobs?", "appname": "scim2headerauth", "traceId": "b7f1c2d3-1111-4222-8333-944455566677"}},
        "legacyEventType": "app.user_management.push_new_user",
        "transaction": {"type": "JOB", "id": "puj1a2b3c4d5e6f7g8h9i0", "detail": {}},
        "uuid": format!("6f0f4b2e-7d11-4a7e-9a55-{index:012x}"),
        "version": "0",
        "request": {"ipChain": [{"ip": "203.0.113.7", "geographicalContext": {"city": "Utrecht", "state": "Utrecht", "country": "Netherlands", "postalCode": "3511", "geolocation": {"lat": 52.09, "lon": 5.12}}, "version": "V4", "source": null}]},
        "target": [
            {"id": "0ua1a2b3c4d5e6f7g8h9", "type": "AppUser", "alternateId": "ann.lee@example.com", "displayName": "Ann Lee", "detailEntry": null},
            {"id": "0oa1a2b3c4d5e6f7g8h9", "type": "AppInstance", "alternateId": "Slack", "displayName": "Slack", "detailEntry": {"signOnModeType": "SAML_2_0"}},
            {"id": "00u9h8g7f6e5d4c3b2a1", "type": "User", "alternateId": "ann.lee@example.com", "displayName": "Ann Lee", "detailEntry": null}
        ]
    })
    .to_string()
}

/// The built-in rules and a thousand more, none of which speaks.
fn many_rules() -> Classifier {
    let mut file = "version = \"many\"\n".to_owned();
    for index in 0..1000 {
        let _ = write!(
            file,
            "[[rule]]\nid = \"more.{index}\"\nphrases = [\"quux{index} .. {{user}}|wibble{index}\"]\ncause = \"SAFEGUARD\"\nsource = \"benchmark\"\nmatches = [\"quux{index} wibble{index}\"]\n"
        );
    }
    Classifier::with_rules(&file).expect("the file is made here")
}

struct Figure {
    name: &'static str,
    micros: Vec<f64>,
}

fn main() {
    let events: Vec<String> = (0..REASONS.len()).map(log_event).collect();
    let bytes = events.iter().map(String::len).sum::<usize>() / events.len();
    let read = |json: &String| log_event::parse(json, Purpose::Keep).expect("it is made here");
    let parsed: Vec<ProvisioningEvent> = events.iter().map(read).collect();
    let built_in = Classifier::embedded();
    let many = many_rules();

    let contestants: [(&'static str, &dyn Fn(usize)); 5] = [
        ("serde_json into a Value", &|at| {
            drop(black_box(serde_json::from_str::<serde_json::Value>(
                &events[at],
            )));
        }),
        ("read and classify", &|at| {
            drop(black_box(built_in.classify(&read(&events[at]))));
        }),
        ("read", &|at| drop(black_box(read(&events[at])))),
        ("classify", &|at| {
            drop(black_box(built_in.classify(&parsed[at])));
        }),
        ("classify, 1000 rules more", &|at| {
            drop(black_box(many.classify(&parsed[at])));
        }),
    ];
    let mut figures: Vec<Figure> = contestants
        .iter()
        .map(|(name, _)| Figure {
            name,
            micros: Vec::new(),
        })
        .collect();
    for repeat in 0..=REPEATS {
        for turn in 0..contestants.len() {
            let place = (turn + repeat) % contestants.len();
            let begun = Instant::now();
            for round in 0..ROUNDS {
                (contestants[place].1)(round as usize % events.len());
            }
            // The first repeat warms up.
            if repeat > 0 {
                let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
                figures[place].micros.push(micros);
            }
        }
    }

    println!(
        "{} failures, {bytes} bytes of JSON each; {REPEATS} repeats by turns",
        events.len()
    );
    println!("µs an event                      min  median     max   ÷ serde_json");
    let ratio = |figure: &Figure, place: usize| figure.micros[place] / figures[0].micros[place];
    for figure in &figures {
        let ratios = (0..REPEATS).map(|place| ratio(figure, place)).collect();
        let (micros, ratios) = (spread(figure.micros.clone()), spread(ratios));
        println!(
            "{:<28}{:>8.2}{:>8.2}{:>8.2}   {:.2} ({:.2}–{:.2})",
            figure.name, micros[0], micros[1], micros[2], ratios[1], ratios[0], ratios[2]
        );
    }
}

/// Minimum, median and maximum.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    ]
}
