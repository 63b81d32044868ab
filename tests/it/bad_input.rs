//! Bad input: what is an Okta event at all is kept, anything else is refused with the reason and
//! the place, and no neighbour is harmed.

use provident::wire::v1;
use provident::wire::v1::{ErrorReason, IngestStatus};
use serde_json::{Value, json as value};

use crate::fixtures::{self, Kind, log_event, mixed_one};
use crate::harness::{Server, accepted, earliest, json};

/// An input that is refused: its bytes, the reason, the field, and what the message speaks of.
type Refused<'a> = (Vec<u8>, ErrorReason, &'a str, &'a str);

fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// What goes between good neighbours.
#[expect(clippy::too_many_lines, reason = "a table")]
fn refused_inputs() -> Vec<Refused<'static>> {
    let malformed = ErrorReason::EventMalformed;
    let of = |text: &str| text.as_bytes().to_vec();
    let ecs = value!({
        "@timestamp": "2026-03-01T10:00:00Z",
        "event": {"action": "application.provision.user.push", "id": fixtures::uuid(1)},
        "okta": {"event_type": "application.provision.user.push"},
    });
    let ocsf = value!({
        "class_uid": 3001, "activity_id": 1, "metadata": {"uid": fixtures::uuid(1)},
    });
    vec![
        (of(""), malformed, "", ""),
        (of(" \n\t"), malformed, "", ""),
        (of("{\"eventType\": \"a\","), malformed, "", "column 18"),
        (of("eventType=a"), malformed, "", "column 1"),
        (
            of("{\"eventType\":\"a\",\"uuid\":\"u\"} trailing"),
            malformed,
            "",
            "column",
        ),
        (
            of("[{\"eventType\":\"a\",\"uuid\":\"u\"}"),
            malformed,
            "",
            "column",
        ),
        (
            b"{\"eventType\":\"\xff\xfe\"}".to_vec(),
            malformed,
            "",
            "14",
        ),
        (of("\u{feff}"), malformed, "", ""),
        (of("null"), malformed, "", "null"),
        (of("true"), malformed, "", "boolean"),
        (of("17"), malformed, "", "number"),
        (of("\"a LogEvent\""), malformed, "", "text"),
        (of("{}"), malformed, "eventType", "eventType"),
        (
            ecs.to_string().into_bytes(),
            malformed,
            "eventType",
            "eventType",
        ),
        (
            ocsf.to_string().into_bytes(),
            malformed,
            "eventType",
            "eventType",
        ),
        (
            of(r#"{"eventType":null,"uuid":"u"}"#),
            malformed,
            "eventType",
            "eventType",
        ),
        (
            of(r#"{"eventType":5,"uuid":"u"}"#),
            malformed,
            "eventType",
            "number",
        ),
        (
            of(r#"{"eventType":"","uuid":"u"}"#),
            malformed,
            "eventType",
            "eventType",
        ),
        (
            of(r#"{"eventtype":"a","uuid":"u"}"#),
            malformed,
            "eventType",
            "eventtype",
        ),
        (of(r#"{"eventType":"a"}"#), malformed, "uuid", "uuid"),
        (
            of(r#"{"eventType":"a","uuid":null}"#),
            malformed,
            "uuid",
            "uuid",
        ),
        (
            of(r#"{"eventType":"a","uuid":7}"#),
            malformed,
            "uuid",
            "number",
        ),
        (
            of(r#"{"eventType":"a","uuid":" "}"#),
            malformed,
            "uuid",
            "uuid",
        ),
        (
            of(r#"{"eventType":"com.okta.event_hook","data":{}}"#),
            malformed,
            "data.events",
            "",
        ),
        (deep(2_000).into_bytes(), malformed, "", "array"),
        (
            value!({"eventType": "a", "uuid": "x".repeat(300)})
                .to_string()
                .into_bytes(),
            malformed,
            "uuid",
            "300",
        ),
        (
            value!({"eventType": Kind::UserPushFailed.event_type(), "uuid": fixtures::uuid(9),
                    "displayMessage": "x".repeat(513 << 10)})
            .to_string()
            .into_bytes(),
            ErrorReason::TooLarge,
            "",
            "",
        ),
    ]
}

#[tokio::test]
async fn what_is_no_event_is_refused_by_reason_and_place_beside_good_neighbours() {
    let server = Server::start().await;
    let cases = refused_inputs();
    let mut inputs = vec![json(mixed_one(100))];
    for ((bytes, ..), number) in cases.iter().zip(101..) {
        inputs.push(json(bytes.clone()));
        inputs.push(json(mixed_one(number)));
    }
    let results = server.ingest_inputs(inputs).await;
    assert_eq!(
        results.len(),
        cases.len() * 2 + 1,
        "one result for each input"
    );
    for (index, result) in (0..).zip(&results) {
        assert_eq!((result.input_index, result.event_index), (index, 0));
    }
    let mut wrong = Vec::new();
    for ((bytes, reason, field, speaks_of), result) in
        cases.iter().zip(results.iter().skip(1).step_by(2))
    {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let Some(error) = &result.error else {
            wrong.push(format!("{shown}: {:?}", result.status()));
            continue;
        };
        let right = result.status() == IngestStatus::Rejected
            && error.reason() == *reason
            && error.field == *field
            && !error.message.is_empty()
            && error.message.contains(speaks_of)
            && error.message.len() < 1_000
            && (result.sequence, result.cursor.as_str()) == (0, "")
            && result.classification.is_none();
        if !right {
            wrong.push(format!("{shown}: {error:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let good: Vec<_> = results.iter().step_by(2).cloned().collect();
    let expected: Vec<u64> = (1..).take(good.len()).collect();
    assert_eq!(accepted(&good), expected);
    assert_eq!(server.read_all(earliest()).await.len(), good.len());
}

#[tokio::test]
async fn a_bad_element_of_a_page_or_delivery_is_refused_alone() {
    let server = Server::start().await;
    let page = value!([mixed_one(1).value(), 5, {"no": "event"}, mixed_one(2).value()]);
    let delivery = value!({
        "eventType": "com.okta.event_hook",
        "source": "https://acme.okta.com/api/v1/eventHooks/who1",
        "data": {"events": [mixed_one(3).value(), null, mixed_one(4).value()]},
    });
    let results = server
        .ingest([page.to_string(), delivery.to_string()])
        .await;
    let seen: Vec<_> = results
        .iter()
        .map(|result| (result.input_index, result.event_index, result.sequence))
        .collect();
    assert_eq!(
        seen,
        [
            (0, 0, 1),
            (0, 1, 0),
            (0, 2, 0),
            (0, 3, 2),
            (1, 0, 3),
            (1, 1, 0),
            (1, 2, 4)
        ]
    );
}

/// An event that is kept, however odd: what is changed of a usual one.
fn odd_events() -> Vec<(&'static str, Value)> {
    let event = |change: fn(&mut Value)| {
        let mut event = log_event(Kind::UserPushFailed, 0).value();
        change(&mut event);
        event
    };
    vec![
        ("no target", event(|event| event["target"] = value!(null))),
        (
            "target is one object",
            event(|event| {
                event["target"] = event["target"][0].clone();
            }),
        ),
        (
            "targets of other kinds",
            event(|event| event["target"] = value!([null, 1, "a", []])),
        ),
        ("no outcome", event(|event| event["outcome"] = value!(null))),
        (
            "outcome is text",
            event(|event| event["outcome"] = value!("FAILURE")),
        ),
        (
            "unknown result",
            event(|event| event["outcome"]["result"] = value!("PONDERING")),
        ),
        (
            "reason is an object",
            event(|event| {
                event["outcome"]["reason"] = value!({"code": 429});
            }),
        ),
        (
            "unknown severity",
            event(|event| event["severity"] = value!("PURPLE")),
        ),
        (
            "version is a number",
            event(|event| event["version"] = value!(0)),
        ),
        (
            "a day that does not exist",
            event(|event| {
                event["published"] = value!("2026-02-30T10:00:00.000Z");
            }),
        ),
        (
            "a time without a zone",
            event(|event| {
                event["published"] = value!("2026-03-01 10:00:00");
            }),
        ),
        (
            "time is a number",
            event(|event| event["published"] = value!(1_770_000_000)),
        ),
        ("no time", event(|event| event["published"] = value!(null))),
        (
            "actor is a list",
            event(|event| event["actor"] = value!(["a"])),
        ),
        (
            "debug data is a list",
            event(|event| {
                event["debugContext"]["debugData"] = value!([1, 2]);
            }),
        ),
        (
            "new fields",
            event(|event| event["brandNew"] = value!({"a": [1, {"b": null}]})),
        ),
        (
            "a new type of a family",
            event(|event| {
                event["eventType"] = value!("application.provision.pigeon.release");
            }),
        ),
        ("nothing but what an event needs", {
            value!({"eventType": "application.provision.user.push"})
        }),
    ]
}

#[tokio::test]
async fn what_is_an_event_at_all_is_kept_as_it_came() {
    let server = Server::start().await;
    let mut sent: Vec<(&str, String)> = odd_events()
        .into_iter()
        .zip(0..)
        .map(|((what, mut event), number)| {
            event["uuid"] = fixtures::uuid(number).into();
            (what, event.to_string())
        })
        .collect();
    let push = Kind::UserPushFailed.event_type();
    sent.push((
        "two thousand levels",
        format!(
            r#"{{"eventType":"{push}","uuid":"deep","debugContext":{{"debugData":{{"d":{}}}}}}}"#,
            deep(2_000)
        ),
    ));
    sent.push((
        "half a character, white space, escapes and a name that occurs twice",
        format!(
            "{{ \"uuid\" : \"odd\", \"eventType\":\"a\",\n\t\"eventType\":\"{push}\", \
             \"displayMessage\": \"cut \\ud83d\", \"x\": \"\\u00e9\\/\u{1f600}\" }}"
        ),
    ));
    let results = server
        .ingest(sent.iter().map(|(_, json)| json.clone()))
        .await;
    for (result, (what, _)) in results.iter().zip(&sent) {
        assert_eq!(
            result.status(),
            IngestStatus::Accepted,
            "{what}: {:?}",
            result.error
        );
    }
    let events = server.read_all(earliest()).await;
    for (event, (what, json)) in events.iter().zip(&sent) {
        assert_eq!(event.raw_json.as_deref(), Some(json.as_str()), "{what}");
        assert_ne!(
            event.classification.as_ref().unwrap().verdict(),
            v1::Verdict::Unrelated,
            "{what}"
        );
    }
    let found = |what: &str| {
        let index = sent.iter().position(|(name, _)| *name == what).unwrap();
        events[index].event.clone().unwrap()
    };
    let no_day = found("a day that does not exist");
    assert_eq!(no_day.published_time, None);
    assert_eq!(no_day.published_text, "2026-02-30T10:00:00.000Z");
    assert_eq!(found("unknown result").outcome.unwrap().result, "PONDERING");
    assert_eq!(found("version is a number").version, "0");
    assert_eq!(found("no target").targets, []);
    assert_eq!(found("no outcome").outcome, None);
}

#[tokio::test]
async fn an_upper_case_uuid_is_kept_in_lower_case() {
    let server = Server::start().await;
    let mut event = mixed_one(1).value();
    event["uuid"] = fixtures::uuid(1).to_ascii_uppercase().into();
    let results = server.ingest([event.to_string()]).await;
    accepted(&results);
    assert_eq!(results[0].uuid, fixtures::uuid(1));
    let kept = server.read_all(earliest()).await.remove(0);
    assert_eq!(kept.event.unwrap().uuid, fixtures::uuid(1));
    assert_eq!(kept.raw_json, Some(event.to_string()), "as it was received");
}
