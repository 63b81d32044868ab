//! Ingest: every form of input, once in and once kept, and what is not kept leaves no trace.

use provident::wire::v1;
use provident::wire::v1::{ErrorReason, IngestStatus, RawJsonOrigin};
use serde_json::json as value;
use tokio::task::JoinSet;
use tonic::Code;

use crate::fixtures::{self, Kind, envelope, log_event, mixed, mixed_one, typed_event};
use crate::harness::{
    ORG, Server, accepted, bad_fields, card, earliest, json, refused, statuses, typed, within,
};

#[tokio::test]
async fn every_form_becomes_events_in_order() {
    let server = Server::start().await;
    let page: Vec<_> = mixed(10, 3).iter().map(fixtures::Given::value).collect();
    let details = log_event(Kind::GroupPushFailed, 41);
    let results = server
        .ingest_inputs([
            json(mixed_one(1)),
            json(value!(page).to_string()),
            json(envelope(ORG, &mixed(20, 2))),
            typed(typed_event(30)),
            card(fixtures::card(40)),
            card(v1::GroupPushFailed {
                event_details: details.json.clone(),
                ..v1::GroupPushFailed::default()
            }),
            json("[]"),
            json(mixed_one(50)),
        ])
        .await;

    assert_eq!(accepted(&results), (1..=10).collect::<Vec<u64>>());
    let places: Vec<_> = results
        .iter()
        .map(|result| (result.input_index, result.event_index))
        .collect();
    let expected = [
        (0, 0),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
        (3, 0),
        (4, 0),
        (5, 0),
        (7, 0),
    ];
    assert_eq!(places, expected);
    let numbers = [1, 10, 11, 12, 20, 21, 30, 40, 41, 50];
    let events = server.read_all(earliest()).await;
    assert_eq!(events.len(), numbers.len());
    for ((result, event), number) in results.iter().zip(&events).zip(numbers) {
        assert_eq!(result.uuid, fixtures::uuid(number));
        assert!(result.error.is_none());
        assert_eq!(
            (result.sequence, &result.cursor),
            (event.sequence, &event.cursor)
        );
        assert_eq!(result.classification, event.classification);
        let body = event.event.as_ref().unwrap();
        assert_eq!(
            (body.uuid.as_str(), body.org.as_str()),
            (result.uuid.as_str(), ORG)
        );
        assert_eq!(body.intake(), v1::Intake::Grpc);
        assert!(body.received_time.is_some() && event.append_time.is_some());
        let origin = match number {
            30 => RawJsonOrigin::BuiltFromEvent,
            40 => RawJsonOrigin::BuiltFromGroupPushFailed,
            _ => RawJsonOrigin::Received,
        };
        assert_eq!(event.raw_json_origin(), origin, "event {number}");
        if origin == RawJsonOrigin::Received && number != 41 {
            let given = mixed_one(number);
            assert_eq!(event.raw_json.as_deref(), Some(given.json.as_str()));
        }
    }
    assert_eq!(events[8].raw_json, Some(details.json));
}

#[tokio::test]
async fn a_group_push_that_failed_is_given_as_the_card_has_it() {
    let server = Server::start().await;
    let given = log_event(Kind::GroupPushFailed, 1);
    let hooked = log_event(Kind::GroupPushFailed, 3);
    let results = server
        .ingest_inputs([
            json(&given),
            card(fixtures::card(2)),
            json(envelope(ORG, std::slice::from_ref(&hooked))),
            json(log_event(Kind::DeactivateFailed, 4)),
        ])
        .await;
    accepted(&results);
    let events = server.read_all(earliest()).await;
    assert!(events[3].group_push_failed.is_none());

    let from_log = events[0].group_push_failed.clone().unwrap();
    assert_eq!(from_log.date_time, fixtures::published(1));
    assert_eq!(from_log.message, given.value()["displayMessage"]);
    assert_eq!(from_log.event_type, Kind::GroupPushFailed.event_type());
    assert_eq!(from_log.version, "0");
    assert_eq!(from_log.uuid, given.uuid);
    assert_eq!(from_log.actor.unwrap().display_name, "Okta System");
    let object = |entity: Option<v1::Entity>| entity.map(|entity| (entity.id, entity.r#type));
    assert_eq!(
        object(from_log.okta_application),
        Some((fixtures::application_id(1), "AppInstance".to_owned()))
    );
    assert_eq!(
        object(from_log.group),
        Some((fixtures::group_id(1), "UserGroup".to_owned()))
    );
    assert_eq!(
        object(from_log.group_push_mapping).map(|(_, kind)| kind),
        Some("GroupPushMapping".to_owned())
    );
    assert_eq!(
        from_log.debug_context.unwrap().debug_data["appname"],
        "cloudboard"
    );
    assert_eq!(
        from_log.event_details, given.json,
        "include_raw was asked for"
    );
    let of_envelope = [&from_log.event_id, &from_log.event_time, &from_log.source];
    assert_eq!(of_envelope, [""; 3], "no envelope brought it");

    let from_card = events[1].group_push_failed.clone().unwrap();
    let sent = fixtures::card(2);
    assert_eq!(from_card.event_id, sent.event_id);
    assert_eq!(from_card.source, sent.source);
    assert_eq!(object(from_card.group), object(sent.group));
    assert_eq!(
        from_card.headers,
        ["User-Agent: Okta Event Hook"],
        "no secrets"
    );

    let from_hook = events[2].group_push_failed.clone().unwrap();
    assert_eq!(from_hook.event_id, "d1e71bd0-0000-4000-8000-0dd0c0ffee00");
    assert_eq!(from_hook.event_time, "2026-03-01T10:00:00.000Z");
    assert!(from_hook.source.starts_with("https://acme.okta.com/"));
}

#[tokio::test]
async fn a_card_whose_fields_contradict_its_details_is_refused_by_field() {
    let server = Server::start().await;
    let contradiction = v1::GroupPushFailed {
        event_details: log_event(Kind::GroupPushFailed, 41).json,
        group: Some(v1::Entity {
            id: "00gAnother".to_owned(),
            ..v1::Entity::default()
        }),
        ..v1::GroupPushFailed::default()
    };
    let results = server
        .ingest_inputs([json(mixed_one(1)), card(contradiction), json(mixed_one(2))])
        .await;
    assert_eq!(statuses(&results), ["ACCEPTED", "REJECTED", "ACCEPTED"]);
    let error = results[1].error.as_ref().unwrap();
    assert_eq!(error.reason(), ErrorReason::FieldInvalid, "{error:?}");
    assert_eq!(error.field, "group_push_failed.group.id");
}

#[tokio::test]
async fn without_a_given_org_what_the_event_names_counts() {
    let server = Server::start().await;
    let request = |org: &str| v1::IngestRequest {
        org: org.to_owned(),
        inputs: vec![
            json(mixed_one(1)),
            json(envelope("Globex.okta.com", &mixed(2, 1))),
            typed(typed_event(3)),
        ],
    };
    let open = within(server.events().ingest(request(""))).await.unwrap();
    accepted(&open.into_inner().results);
    let orgs: Vec<_> = server
        .read_all(earliest())
        .await
        .into_iter()
        .map(|event| event.event.unwrap().org)
        .collect();
    assert_eq!(orgs, ["default", "globex.okta.com", ORG]);

    // The same uuids in another org are other events; what names another org is refused.
    let given = within(server.events().ingest(request("https://Initech.okta.com/")))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(statuses(&given), ["ACCEPTED", "REJECTED", "REJECTED"]);
    for result in &given[1..] {
        let error = result.error.as_ref().unwrap();
        assert_eq!(error.reason(), ErrorReason::OrgMismatch, "{error:?}");
        assert!(result.cursor.is_empty() && result.classification.is_none());
    }
    let status = within(server.events().ingest(request("not a host")))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["org"]);
}

#[tokio::test]
async fn a_known_event_is_a_duplicate_within_a_call_across_calls_and_after_a_restart() {
    let server = Server::start().await;
    let one = mixed_one(1);
    let mut shouted = one.value();
    shouted["uuid"] = one.uuid.to_ascii_uppercase().into();
    let shouted = shouted.to_string();

    let first = server
        .ingest([one.json.clone(), mixed_one(2).json, shouted.clone()])
        .await;
    assert_eq!(statuses(&first), ["ACCEPTED", "ACCEPTED", "DUPLICATE"]);
    let place = |result: &v1::IngestResult| (result.sequence, result.cursor.clone());
    assert_eq!(place(&first[2]), place(&first[0]));
    assert_eq!(first[2].uuid, one.uuid, "uuids are given in lower case");
    assert!(first[2].classification.is_some());

    let again = server.ingest([shouted.clone()]).await;
    assert_eq!(statuses(&again), ["DUPLICATE"]);
    assert_eq!(place(&again[0]), place(&first[0]));

    let server = server.restart().await;
    let after = server.ingest([one.json, mixed_one(3).json, shouted]).await;
    assert_eq!(statuses(&after), ["DUPLICATE", "ACCEPTED", "DUPLICATE"]);
    assert_eq!(place(&after[0]), place(&first[0]));
    assert_eq!(after[1].sequence, 3);
    assert_eq!(server.read_all(earliest()).await.len(), 3);
}

#[tokio::test]
async fn of_callers_at_once_with_the_same_events_one_wins_each() {
    let server = Server::start().await;
    let mut callers = JoinSet::new();
    for caller in 0..8_usize {
        let mut events = mixed(1, 40);
        events.rotate_left(caller * 5);
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs: events.iter().map(json).collect(),
        };
        let mut client = server.events();
        callers.spawn(async move { within(client.ingest(request)).await });
    }
    let mut places = std::collections::HashMap::new();
    let mut accepted = 0;
    while let Some(answer) = callers.join_next().await {
        for result in answer.unwrap().unwrap().into_inner().results {
            match result.status() {
                IngestStatus::Accepted => accepted += 1,
                status => assert_eq!(status, IngestStatus::Duplicate, "{result:?}"),
            }
            let first = places.entry(result.uuid).or_insert(result.sequence);
            assert_eq!(*first, result.sequence);
        }
    }
    assert_eq!((accepted, places.len()), (40, 40));
    assert_eq!(server.read_all(earliest()).await.len(), 40);
}

#[tokio::test]
async fn a_known_uuid_on_another_event_is_a_conflict() {
    let server = Server::start().await;
    let event = |uuid: u64, event_type: &str, published: serde_json::Value| {
        value!({"uuid": fixtures::uuid(uuid), "eventType": event_type, "published": published})
            .to_string()
    };
    let push = Kind::UserPushFailed.event_type();
    let time = value!("2026-03-01T10:00:00.000Z");
    let no_time = value!("2026-02-30T10:00:00.000Z");
    let null = value!(null);
    let first = server
        .ingest([
            event(1, push, time.clone()),
            event(2, push, no_time.clone()),
            event(3, push, null.clone()),
        ])
        .await;
    accepted(&first);

    // What is sent again, and what becomes of it.
    let cases = [
        (
            event(1, push, value!("2026-03-01T11:00:00+01:00")),
            "DUPLICATE",
        ),
        (event(1, push, null.clone()), "DUPLICATE"),
        (
            event(1, push, value!("2026-03-01T10:00:00.001Z")),
            "REJECTED",
        ),
        (event(1, push, no_time.clone()), "REJECTED"),
        (
            event(1, Kind::DeactivateFailed.event_type(), time.clone()),
            "REJECTED",
        ),
        (event(2, push, no_time), "DUPLICATE"),
        (
            event(2, push, value!("2026-02-31T10:00:00.000Z")),
            "REJECTED",
        ),
        (event(3, push, time), "DUPLICATE"),
        (
            event(3, Kind::DeactivateFailed.event_type(), null),
            "REJECTED",
        ),
    ];
    let results = server.ingest(cases.clone().map(|(json, _)| json)).await;
    for (result, (sent, expected)) in results.iter().zip(&cases) {
        assert_eq!(
            statuses(std::slice::from_ref(result)),
            [*expected],
            "{sent}"
        );
        if *expected == "REJECTED" {
            let error = result.error.as_ref().unwrap();
            assert_eq!(error.reason(), ErrorReason::EventConflict, "{error:?}");
        }
    }
    // Two different events under one new uuid in one call.
    let results = server
        .ingest([
            event(4, push, value!("2026-03-01T10:00:00.000Z")),
            event(4, push, value!("2026-03-01T10:00:09.000Z")),
        ])
        .await;
    assert_eq!(statuses(&results), ["ACCEPTED", "REJECTED"]);
    // What stood first stands.
    let kept = server.read_all(earliest()).await;
    assert_eq!(kept.len(), 4);
    assert_eq!(kept[0].event.as_ref().unwrap().event_type, push);
}

#[tokio::test]
async fn what_is_filtered_leaves_no_trace_and_may_come_again() {
    let server = Server::start().await;
    let unrelated = log_event(Kind::Unrelated, 2);
    let sent = [
        mixed_one(1),
        unrelated.clone(),
        unrelated.clone(),
        mixed_one(3),
    ];
    let results = server.ingest(&sent).await;
    // Twice filtered, not filtered and then a duplicate.
    assert_eq!(
        statuses(&results),
        ["ACCEPTED", "FILTERED", "FILTERED", "ACCEPTED"]
    );
    assert_eq!((results[1].sequence, results[1].cursor.as_str()), (0, ""));
    let verdict = results[1].classification.as_ref().unwrap().verdict();
    assert_eq!(verdict, v1::Verdict::Unrelated);
    assert_eq!(results[3].sequence, 2, "no place was used up");
    assert_eq!(server.read_all(earliest()).await.len(), 2);
    let request = v1::GetEventRequest {
        event: Some(v1::get_event_request::Event::Key(v1::EventKey {
            org: ORG.to_owned(),
            uuid: unrelated.uuid.clone(),
        })),
        include_raw: false,
    };
    let status = within(server.events().get_event(request))
        .await
        .unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::EventNotFound);

    let wider = crate::harness::scratch();
    let file = wider.path().join("all.toml");
    std::fs::write(&file, "[ingest]\nkeep = \"all\"\n").unwrap();
    let server = server
        .restart_with(&["--config", file.to_str().unwrap()])
        .await;
    let results = server.ingest([unrelated.clone(), unrelated]).await;
    assert_eq!(statuses(&results), ["ACCEPTED", "DUPLICATE"]);
}

#[tokio::test]
async fn only_failures_are_kept_where_the_setting_says_so() {
    let server = Server::start_configured("[ingest]\nkeep = \"failures\"\n").await;
    let results = server
        .ingest([
            log_event(Kind::ProfilePushed, 1),
            log_event(Kind::UserPushFailed, 2),
            log_event(Kind::UnknownOfFamily, 3),
            log_event(Kind::Unrelated, 4),
        ])
        .await;
    assert_eq!(
        statuses(&results),
        ["FILTERED", "ACCEPTED", "ACCEPTED", "FILTERED"]
    );
}

#[tokio::test]
async fn what_the_server_sets_is_not_taken_from_a_caller() {
    let server = Server::start().await;
    let long_ago = Some(prost_types::Timestamp {
        seconds: 1,
        nanos: 0,
    });
    let results = server
        .ingest_inputs([typed(v1::ProvisioningEvent {
            intake: v1::Intake::SystemLog.into(),
            received_time: long_ago,
            ..typed_event(1)
        })])
        .await;
    accepted(&results);
    let event = server.read_all(earliest()).await.remove(0).event.unwrap();
    assert_eq!(event.intake(), v1::Intake::Grpc);
    assert_ne!(event.received_time, long_ago);
    let sent = typed_event(1);
    assert_eq!(event.published_time, sent.published_time);
    assert_eq!((event.outcome, event.targets), (sent.outcome, sent.targets));
}

#[tokio::test]
async fn a_typed_event_without_what_an_event_needs_is_refused_by_field() {
    let server = Server::start().await;
    let results = server
        .ingest_inputs([
            typed(v1::ProvisioningEvent {
                uuid: String::new(),
                ..typed_event(1)
            }),
            typed(v1::ProvisioningEvent {
                event_type: String::new(),
                ..typed_event(2)
            }),
            typed(v1::ProvisioningEvent {
                published_time: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..typed_event(3)
            }),
            card(v1::GroupPushFailed {
                uuid: String::new(),
                ..fixtures::card(4)
            }),
            v1::IngestInput { input: None },
            typed(typed_event(5)),
        ])
        .await;
    let fields: Vec<_> = results[..5]
        .iter()
        .map(|result| result.error.as_ref().unwrap().field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "event.uuid",
            "event.event_type",
            "event.published_time",
            "group_push_failed.uuid",
            "input"
        ]
    );
    assert_eq!(
        results[4].error.as_ref().unwrap().reason(),
        ErrorReason::FieldInvalid
    );
    assert_eq!(accepted(&results[5..]), [1]);
}

#[tokio::test]
async fn a_caller_that_goes_away_harms_nobody() {
    let server = Server::start().await;
    let mut sent = Vec::new();
    for number in 0..20 {
        let mut client = server.events();
        let request = v1::IngestRequest {
            org: ORG.to_owned(),
            inputs: vec![json(mixed_one(number))],
        };
        // Dropped at once or after a moment: the event is kept or not, but never half.
        let call = client.ingest(request);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(number * 200), call).await;
        sent.push(mixed_one(number));
    }
    let results = server.ingest(&sent).await;
    assert!(
        results.iter().all(|result| matches!(
            result.status(),
            IngestStatus::Accepted | IngestStatus::Duplicate
        )),
        "{results:?}"
    );
    let sequences: Vec<_> = server
        .read_all(earliest())
        .await
        .iter()
        .map(|event| event.sequence)
        .collect();
    assert_eq!(sequences, (1..=20).collect::<Vec<u64>>());
}
