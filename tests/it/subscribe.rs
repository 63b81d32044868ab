//! Subscribe: every start, every message, every refusal; the filter; live after catching up.

use std::time::Duration;

use provident::domain::cursor::{Cursor, Seq};
use provident::wire::v1;
use provident::wire::v1::ErrorReason;
use provident::wire::v1::subscribe_response::Message;
use tonic::Code;

use crate::fixtures::{self, Kind, MIX, log_event, mixed, mixed_one};
use crate::harness::{
    Read, Reader, Server, Start, accepted, after, bad_fields, earliest, everything, following,
    latest, refused, to_head,
};

fn sequences(events: &[v1::StreamedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

async fn refusal(server: &Server, request: v1::SubscribeRequest) -> tonic::Status {
    match server.subscribe(request).await {
        Err(status) => status,
        // A refusal may come with the first message, too.
        Ok(mut reader) => reader.next().await.unwrap_err(),
    }
}

#[tokio::test]
async fn the_confirmation_says_what_was_understood() {
    let server = Server::start().await;
    let request = v1::SubscribeRequest {
        start: Some(earliest()),
        ..v1::SubscribeRequest::default()
    };
    let empty = server
        .subscribe(request.clone())
        .await
        .unwrap()
        .confirmation()
        .await;
    assert_eq!(empty.start_cursor, empty.head_cursor);
    assert_eq!(empty.start_cursor, empty.earliest_cursor);
    assert_eq!(empty.heartbeat_interval, Some(duration(10, 0)));
    assert_eq!(empty.session, "");
    assert!(!empty.journal_id.is_empty());
    let filter = empty.effective_filter.unwrap();
    let verdicts: Vec<_> = filter.verdicts().collect();
    let usual = [
        v1::Verdict::Failure,
        v1::Verdict::Warning,
        v1::Verdict::Undetermined,
    ];
    assert_eq!(verdicts, usual);

    let results = server.ingest(mixed(1, 5)).await;
    let later = server
        .subscribe(v1::SubscribeRequest {
            heartbeat_interval: Some(duration(60, 0)),
            filter: Some(v1::Filter {
                event_types: vec!["application.provision.*".to_owned()],
                application_names: vec!["Cloudboard 1".to_owned()],
                min_priority: v1::Priority::Medium.into(),
                security_only: true,
                ..everything()
            }),
            ..request
        })
        .await
        .unwrap()
        .confirmation()
        .await;
    assert_eq!(later.start_cursor, empty.start_cursor);
    assert_eq!(later.head_cursor, results[4].cursor);
    assert_eq!(later.heartbeat_interval, Some(duration(60, 0)));
    assert_eq!(later.journal_id, empty.journal_id);
    let filter = later.effective_filter.unwrap();
    assert_eq!(filter.event_types, ["application.provision.*"]);
    assert_eq!(filter.application_names, ["Cloudboard 1"]);
    assert_eq!(filter.min_priority(), v1::Priority::Medium);
    assert!(filter.security_only);
}

#[tokio::test]
async fn every_start_begins_where_it_says() {
    let server = Server::start().await;
    let first = server.ingest(mixed(1, 3)).await;
    let events = server.read_all(earliest()).await;
    // The next event's append time is a later one, so that the two can be told apart.
    let early = events[2].append_time.unwrap();
    let mut number = 4;
    let later = crate::harness::eventually("a later append time", async || {
        let result = server.ingest([mixed_one(number)]).await.remove(0);
        number += 1;
        let event = server
            .read_all(after(&first[2].cursor))
            .await
            .pop()
            .unwrap();
        let time = event.append_time.unwrap();
        ((time.seconds, time.nanos) > (early.seconds, early.nanos)).then_some((result, time))
    })
    .await;
    let head = later.0.sequence;
    let rest = |from: u64| (from..=head).collect::<Vec<_>>();

    let confirmation = server
        .subscribe(following(earliest()))
        .await
        .unwrap()
        .confirmation()
        .await;
    let at = |seconds| Start::Time(prost_types::Timestamp { seconds, nanos: 0 });
    let starts = [
        (earliest(), rest(1)),
        (after(&confirmation.start_cursor), rest(1)),
        (after(&first[0].cursor), rest(2)),
        (after(&first[2].cursor), rest(4)),
        (after(&later.0.cursor), vec![]),
        (latest(), vec![]),
        (at(0), rest(1)),
        (at(9_999_999_999), vec![]),
    ];
    for (start, expected) in starts {
        let mut reader = server.subscribe(to_head(start.clone())).await.unwrap();
        let read = reader.read_to_end().await;
        assert_eq!(sequences(&read.events), expected, "{start:?}");
        let ending = read.ending.unwrap();
        assert_eq!(ending.reason(), v1::EndingReason::HeadReached);
        if !expected.is_empty() {
            assert_eq!(ending.cursor, later.0.cursor);
        }
    }
    // A time means the append time, to the nanosecond, and includes it.
    let by_time = server.read_all(Start::Time(later.1)).await;
    assert!(
        by_time
            .iter()
            .all(|event| event.append_time.unwrap().seconds >= later.1.seconds)
    );
    assert_eq!(by_time.last().unwrap().sequence, head);
    let before = events
        .iter()
        .filter(|event| {
            let time = event.append_time.unwrap();
            (time.seconds, time.nanos) >= (early.seconds, early.nanos)
        })
        .map(|event| event.sequence)
        .next()
        .unwrap();
    let by_time = server.read_all(Start::Time(early)).await;
    assert_eq!(sequences(&by_time), rest(before));
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_by_field() {
    let server = Server::start().await;
    let cases = [
        (v1::SubscribeRequest::default(), "start"),
        (following(Start::Position(0)), "position"),
        (following(Start::Position(99)), "position"),
        (
            following(Start::Time(prost_types::Timestamp {
                seconds: 0,
                nanos: -1,
            })),
            "time",
        ),
        (
            v1::SubscribeRequest {
                heartbeat_interval: Some(duration(0, 999_999_999)),
                ..following(earliest())
            },
            "heartbeat_interval",
        ),
        (
            v1::SubscribeRequest {
                heartbeat_interval: Some(duration(60, 1)),
                ..following(earliest())
            },
            "heartbeat_interval",
        ),
        (
            v1::SubscribeRequest {
                heartbeat_interval: Some(duration(-5, 0)),
                ..following(earliest())
            },
            "heartbeat_interval",
        ),
        (
            v1::SubscribeRequest {
                on_gap: 7,
                ..following(earliest())
            },
            "on_gap",
        ),
    ];
    for (request, field) in cases {
        let shown = format!("{request:?}");
        let status = refusal(&server, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}");
        refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
        assert_eq!(bad_fields(&status), [field], "{shown}");
    }
}

#[tokio::test]
async fn a_cursor_that_names_no_place_here_is_refused_by_kind() {
    let server = Server::start().await;
    let results = server.ingest(mixed(1, 2)).await;
    let head = &results[1].cursor;
    let elsewhere = Server::start().await;
    let foreign = elsewhere.ingest([mixed_one(1)]).await.remove(0).cursor;
    let ours = Cursor::parse(head).unwrap().journal;
    let ahead = Cursor::new(ours, Seq::new(3)).to_string();
    let far_ahead = Cursor::new(ours, Seq::new(u64::MAX)).to_string();
    let cut = head[..head.len() - 1].to_owned();
    let changed = head.chars().rev().collect::<String>();

    let malformed = (Code::InvalidArgument, ErrorReason::CursorMalformed);
    let not_here = (Code::FailedPrecondition, ErrorReason::CursorForeignJournal);
    let beyond = (Code::FailedPrecondition, ErrorReason::CursorAhead);
    let cases = [
        ("", malformed),
        ("5", malformed),
        ("garbage, and plenty of it, \u{1f600}", malformed),
        (cut.as_str(), malformed),
        (changed.as_str(), malformed),
        (foreign.as_str(), not_here),
        (ahead.as_str(), beyond),
        (far_ahead.as_str(), beyond),
    ];
    for (cursor, (code, reason)) in cases {
        let status = refusal(&server, following(after(cursor))).await;
        let metadata = refused(&status, code, reason);
        if reason == ErrorReason::CursorForeignJournal {
            assert!(!metadata["journal_id"].is_empty());
        }
        let request = v1::GetEventRequest {
            event: Some(v1::get_event_request::Event::Cursor(cursor.to_owned())),
            include_raw: false,
        };
        let status = server.events().get_event(request).await.unwrap_err();
        assert_ne!(status.code(), Code::Internal, "{cursor:?}");
        if reason != ErrorReason::CursorAhead {
            refused(&status, code, reason);
        }
    }
}

#[tokio::test]
async fn a_reader_catches_up_and_then_follows() {
    let server = Server::start().await;
    let first = server.ingest(mixed(1, 250)).await;
    let mut reader = server.subscribe(following(earliest())).await.unwrap();
    let mut read = Read {
        confirmation: reader.confirmation().await,
        ..Read::default()
    };
    reader
        .until(&mut read, |read| !read.caught_up.is_empty())
        .await;
    assert_eq!(sequences(&read.events), (1..=250).collect::<Vec<_>>());
    assert_eq!(read.caught_up[0].cursor, first[249].cursor);
    assert!(
        read.batches
            .iter()
            .all(|(count, _)| (1..=100).contains(count))
    );

    for number in 251..=260 {
        let result = server.ingest([mixed_one(number)]).await.remove(0);
        reader
            .until(&mut read, |read| read.events.len() as u64 == number)
            .await;
        let event = read.events.last().unwrap();
        assert_eq!((event.sequence, &event.cursor), (number, &result.cursor));
    }
    assert!(read.ending.is_none());
}

#[tokio::test]
async fn batches_keep_their_bounds() {
    let server = Server::start().await;
    let large = |number: u64, bytes: usize| {
        let mut event = mixed_one(number).value();
        event["displayMessage"] = "y".repeat(bytes).into();
        event.to_string()
    };
    let mut sent = Vec::new();
    for number in 1..=60 {
        sent.push(large(number, 20 << 10));
    }
    sent.push(large(61, 400 << 10));
    sent.extend(mixed(62, 239).into_iter().map(|given| given.json));
    for part in sent.chunks(100) {
        accepted(&server.ingest(part.iter().cloned()).await);
    }
    for include_raw in [false, true] {
        let request = v1::SubscribeRequest {
            include_raw,
            ..to_head(earliest())
        };
        let read = server.subscribe(request).await.unwrap().read_to_end().await;
        assert_eq!(sequences(&read.events), (1..=300).collect::<Vec<_>>());
        for (count, bytes) in &read.batches {
            assert!((1..=100).contains(count), "{count} events");
            assert!(
                *count == 1 || *bytes <= 256 << 10,
                "{count} events, {bytes} bytes"
            );
        }
        // The large ones may come alone, the small ones don't.
        assert!(read.batches.len() < 61 + 239 / 5, "{:?}", read.batches);
        for (event, given) in read.events.iter().zip(&sent) {
            let expected = include_raw.then_some(given);
            assert_eq!(event.raw_json.as_ref(), expected, "{}", event.sequence);
        }
    }
}

#[tokio::test]
async fn raw_json_is_given_only_when_asked_for() {
    let server = Server::start().await;
    let given = log_event(Kind::GroupPushFailed, 1);
    let spaced = given.json.replacen(',', " ,\n ", 3);
    accepted(&server.ingest([spaced.clone()]).await);
    for include_raw in [false, true] {
        let request = v1::SubscribeRequest {
            include_raw,
            ..to_head(earliest())
        };
        let event = server
            .subscribe(request)
            .await
            .unwrap()
            .read_to_end()
            .await
            .events
            .remove(0);
        let card = event.group_push_failed.as_ref().unwrap();
        let expected = include_raw.then_some(spaced.as_str());
        assert_eq!(event.raw_json.as_deref(), expected);
        assert_eq!(card.event_details, expected.unwrap_or_default());
        assert_eq!(event.raw_json_origin(), v1::RawJsonOrigin::Received);
    }
}

#[tokio::test]
async fn a_heartbeat_moves_on_where_the_filter_lets_nothing_through() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 8)).await);
    let request = v1::SubscribeRequest {
        heartbeat_interval: Some(duration(1, 0)),
        filter: Some(v1::Filter {
            event_types: vec!["no.such.type".to_owned()],
            ..everything()
        }),
        ..following(earliest())
    };
    let mut reader = server.subscribe(request).await.unwrap();
    let mut read = Read::default();
    reader
        .until(&mut read, |read| !read.heartbeats.is_empty())
        .await;
    let head = server.ingest(mixed(9, 20)).await.pop().unwrap().cursor;
    let moved = |read: &Read| {
        read.heartbeats
            .last()
            .is_some_and(|heartbeat| heartbeat.cursor == head && heartbeat.head_cursor == head)
    };
    reader.until(&mut read, moved).await;
    assert!(read.events.is_empty());
    // What it stands for is true: nothing is left before it.
    assert_eq!(server.read_all(after(&head)).await.len(), 0);

    // And it comes at least once every interval, also to a reader that gets events.
    let mut busy = server
        .subscribe(v1::SubscribeRequest {
            heartbeat_interval: Some(duration(1, 0)),
            ..following(earliest())
        })
        .await
        .unwrap();
    let since = std::time::Instant::now();
    let mut read = Read::default();
    busy.until(&mut read, |read| read.heartbeats.len() == 2)
        .await;
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn every_cursor_resumes_with_exactly_the_rest() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 130)).await);
    let filter = v1::Filter {
        categories: vec![v1::Category::User.into()],
        ..everything()
    };
    let filtered = |start| v1::SubscribeRequest {
        filter: Some(filter.clone()),
        heartbeat_interval: Some(duration(1, 0)),
        ..to_head(start)
    };
    let all = server
        .subscribe(filtered(earliest()))
        .await
        .unwrap()
        .read_to_end()
        .await;
    let places = sequences(&all.events);
    assert!(places.len() > 30 && places.len() < 130, "{places:?}");

    // Every cursor that a stream gives, with the last sequence that had come when it came.
    let mut live = server
        .subscribe(v1::SubscribeRequest {
            stop_at_head: false,
            ..filtered(earliest())
        })
        .await
        .unwrap();
    let mut given = Vec::new();
    let mut last = 0;
    let mut kinds = std::collections::BTreeSet::new();
    while kinds.len() < 4 {
        let (kind, cursor) = match live.next().await.unwrap().unwrap() {
            Message::Confirmation(confirmation) => ("confirmation", confirmation.start_cursor),
            Message::Batch(batch) => {
                for event in batch.events {
                    last = event.sequence;
                    given.push((event.cursor, last));
                }
                ("batch", given.last().unwrap().0.clone())
            }
            Message::Heartbeat(heartbeat) => ("heartbeat", heartbeat.cursor),
            Message::CaughtUp(caught_up) => ("caught up", caught_up.cursor),
            other => panic!("{other:?}"),
        };
        kinds.insert(kind);
        given.push((cursor, last));
    }
    given.push((all.ending.unwrap().cursor, last));
    for (cursor, last) in given {
        let rest = server
            .subscribe(filtered(after(&cursor)))
            .await
            .unwrap()
            .read_to_end()
            .await;
        let expected: Vec<_> = places.iter().copied().filter(|at| *at > last).collect();
        assert_eq!(sequences(&rest.events), expected, "after {last}");
        assert_eq!(rest.confirmation.start_cursor, cursor);
    }
}

#[tokio::test]
async fn a_reader_during_ingest_misses_nothing_and_sees_nothing_twice() {
    let server = Server::start().await;
    let mut early = server.subscribe(following(earliest())).await.unwrap();
    let mut reads = [Read::default(), Read::default(), Read::default()];
    let total = 1_500;
    let ingest = async {
        for from in (1..=total).step_by(30) {
            accepted(&server.ingest(mixed(from, 30)).await);
        }
    };
    let join_later = async |wait_for: u64, read: &mut Read| {
        let mut watch = server.subscribe(following(earliest())).await.unwrap();
        let mut seen = Read::default();
        watch
            .until(&mut seen, |seen| seen.events.len() as u64 >= wait_for)
            .await;
        let mut reader = server.subscribe(following(earliest())).await.unwrap();
        reader
            .until(read, |read| read.events.len() as u64 >= total)
            .await;
    };
    let [one, two, three] = &mut reads;
    tokio::join!(
        ingest,
        early.until(one, |read| read.events.len() as u64 >= total),
        join_later(100, two),
        join_later(700, three),
    );
    for read in reads {
        assert_eq!(sequences(&read.events), (1..=total).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_the_others_nothing() {
    let server = Server::start().await;
    // Its window fills up, and then it is left alone, on a connection of its own.
    let channel = server.new_channel().await;
    let mut client = v1::event_service_client::EventServiceClient::new(channel);
    let request = v1::SubscribeRequest {
        include_raw: true,
        ..following(earliest())
    };
    let mut stuck = client.subscribe(request).await.unwrap().into_inner();
    let mut reader = server.subscribe(following(earliest())).await.unwrap();
    let mut read = Read::default();
    let total = 3_000;
    for from in (1..=total).step_by(500) {
        accepted(&server.ingest(mixed(from, 500)).await);
    }
    reader
        .until(&mut read, |read| read.events.len() as u64 == total)
        .await;
    assert_eq!(sequences(&read.events), (1..=total).collect::<Vec<_>>());
    // It is neither dropped nor skipped.
    let mut seen = Vec::new();
    while (seen.len() as u64) < total {
        let message = crate::harness::within(stuck.message()).await.unwrap();
        if let Some(Message::Batch(batch)) = message.unwrap().message {
            seen.extend(sequences(&batch.events));
        }
    }
    assert_eq!(seen, (1..=total).collect::<Vec<_>>());
}

/// A filter, and which events of the truth it should let through.
type Wanted = (v1::Filter, Box<dyn Fn(&v1::StreamedEvent) -> bool>);

fn said(event: &v1::StreamedEvent) -> &v1::Classification {
    event.classification.as_ref().unwrap()
}

fn has_target(event: &v1::StreamedEvent, kinds: &[&str], id: &str) -> bool {
    let targets = &event.event.as_ref().unwrap().targets;
    targets
        .iter()
        .any(|target| kinds.contains(&target.r#type.as_str()) && target.id == id)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn filters() -> Vec<Wanted> {
    let number = |event: &v1::StreamedEvent| event.sequence;
    let event_type = |event: &v1::StreamedEvent| event.event.as_ref().unwrap().event_type.clone();
    vec![
        (
            v1::Filter::default(),
            Box::new(|event| {
                !matches!(
                    said(event).verdict(),
                    v1::Verdict::Success | v1::Verdict::Unrelated
                )
            }),
        ),
        (everything(), Box::new(|_| true)),
        (
            v1::Filter {
                verdicts: vec![v1::Verdict::Success.into()],
                ..v1::Filter::default()
            },
            Box::new(|event| said(event).verdict() == v1::Verdict::Success),
        ),
        (
            v1::Filter {
                event_types: vec![
                    Kind::RateLimited.event_type().to_owned(),
                    "application.provision.user.push*".to_owned(),
                ],
                ..everything()
            },
            Box::new(move |event| {
                event_type(event) == Kind::RateLimited.event_type()
                    || event_type(event).starts_with("application.provision.user.push")
            }),
        ),
        (
            v1::Filter {
                categories: vec![
                    v1::Category::GroupPush.into(),
                    v1::Category::RateLimit.into(),
                ],
                ..everything()
            },
            Box::new(|event| {
                matches!(
                    said(event).category(),
                    v1::Category::GroupPush | v1::Category::RateLimit
                )
            }),
        ),
        (
            v1::Filter {
                causes: vec![v1::Cause::RateLimited.into()],
                ..everything()
            },
            Box::new(|event| said(event).cause() == v1::Cause::RateLimited),
        ),
        (
            v1::Filter {
                dispositions: vec![v1::Disposition::SelfHealing.into()],
                ..everything()
            },
            Box::new(|event| said(event).disposition() == v1::Disposition::SelfHealing),
        ),
        (
            v1::Filter {
                responders: vec![v1::Responder::OktaAdmin.into()],
                ..everything()
            },
            Box::new(|event| said(event).responder() == v1::Responder::OktaAdmin),
        ),
        (
            v1::Filter {
                min_priority: v1::Priority::High.into(),
                ..everything()
            },
            Box::new(|event| said(event).priority() >= v1::Priority::High),
        ),
        (
            v1::Filter {
                security_only: true,
                ..everything()
            },
            Box::new(|event| said(event).security_relevant),
        ),
        (
            v1::Filter {
                orgs: vec!["ACME.okta.com".to_owned()],
                ..everything()
            },
            Box::new(|_| true),
        ),
        (
            v1::Filter {
                orgs: vec!["globex.okta.com".to_owned()],
                ..everything()
            },
            Box::new(|_| false),
        ),
        (
            v1::Filter {
                application_ids: vec![fixtures::application_id(3)],
                ..everything()
            },
            Box::new(|event| has_target(event, &["AppInstance"], &fixtures::application_id(3))),
        ),
        (
            v1::Filter {
                application_names: vec!["CLOUDBOARD 3".to_owned()],
                ..everything()
            },
            Box::new(|event| has_target(event, &["AppInstance"], &fixtures::application_id(3))),
        ),
        (
            v1::Filter {
                application_names: vec!["Cloudboard".to_owned()],
                ..everything()
            },
            Box::new(|_| false),
        ),
        (
            v1::Filter {
                group_ids: vec![fixtures::group_id(4)],
                ..everything()
            },
            Box::new(|event| has_target(event, &["UserGroup", "AppGroup"], &fixtures::group_id(4))),
        ),
        (
            v1::Filter {
                user_ids: vec![fixtures::user_id(5)],
                ..everything()
            },
            Box::new(|event| has_target(event, &["User", "AppUser"], &fixtures::user_id(5))),
        ),
        (
            v1::Filter {
                transaction_ids: vec![fixtures::transaction_id(8), fixtures::transaction_id(40)],
                ..everything()
            },
            Box::new(move |event| [8, 9, 10, 11, 40, 41, 42, 43].contains(&(number(event) - 1))),
        ),
        (
            v1::Filter {
                verdicts: vec![v1::Verdict::Failure.into()],
                categories: vec![v1::Category::User.into()],
                application_ids: vec![fixtures::application_id(0), fixtures::application_id(2)],
                ..v1::Filter::default()
            },
            Box::new(|event| {
                said(event).verdict() == v1::Verdict::Failure
                    && said(event).category() == v1::Category::User
                    && [0, 2].iter().any(|app| {
                        has_target(event, &["AppInstance"], &fixtures::application_id(*app))
                    })
            }),
        ),
    ]
}

#[tokio::test]
async fn every_field_of_the_filter_chooses() {
    let server = Server::start().await;
    // Event number 0 gets sequence 1.
    accepted(&server.ingest(mixed(0, 88)).await);
    let truth = server.read_all(earliest()).await;
    assert_eq!(truth.len(), 88);
    let mut live = Vec::new();
    for (filter, wanted) in filters() {
        let expected: Vec<_> = truth
            .iter()
            .filter(|event| wanted(event))
            .map(|event| event.sequence)
            .collect();
        let request = v1::SubscribeRequest {
            filter: Some(filter.clone()),
            ..to_head(earliest())
        };
        let read = server
            .subscribe(request.clone())
            .await
            .unwrap()
            .read_to_end()
            .await;
        assert_eq!(sequences(&read.events), expected, "{filter:?}");
        // Nothing is left out that would make a test of nothing.
        let trivial = expected.is_empty() || expected.len() == truth.len();
        let meant = filter.orgs.is_empty() && filter.application_names != ["Cloudboard"];
        assert!(
            !(trivial && meant) || filter == everything(),
            "{filter:?}: {expected:?}"
        );
        let follow = v1::SubscribeRequest {
            stop_at_head: false,
            start: Some(latest()),
            ..request
        };
        let mut reader = server.subscribe(follow).await.unwrap();
        reader.confirmation().await;
        live.push((reader, filter, wanted));
    }
    // The same for what comes live, which goes another way through the server.
    accepted(&server.ingest(mixed(88, 88)).await);
    let truth = server.read_all(after(&truth[87].cursor)).await;
    for (reader, filter, wanted) in &mut live {
        let by_sequence = filter.transaction_ids.is_empty();
        let expected: Vec<_> = truth
            .iter()
            .filter(|event| by_sequence && wanted(event))
            .map(|event| event.sequence)
            .collect();
        let mut read = Read::default();
        reader
            .until(&mut read, |read| read.events.len() >= expected.len())
            .await;
        assert_eq!(sequences(&read.events), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn the_default_filter_shows_what_went_wrong_of_every_kind() {
    let server = Server::start().await;
    let given: Vec<_> = MIX
        .into_iter()
        .zip(0..)
        .map(|(kind, number)| log_event(kind, number))
        .collect();
    accepted(&server.ingest(&given).await);
    let request = v1::SubscribeRequest {
        filter: None,
        ..to_head(earliest())
    };
    let read = server.subscribe(request).await.unwrap().read_to_end().await;
    let shown: Vec<_> = read
        .events
        .iter()
        .map(|event| event.event.as_ref().unwrap().event_type.as_str())
        .collect();
    let expected: Vec<_> = MIX
        .into_iter()
        .filter(|kind| *kind != Kind::ProfilePushed)
        .map(Kind::event_type)
        .collect();
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_refused_by_field() {
    let server = Server::start().await;
    let everything = v1::Filter::default;
    let cases = [
        (
            v1::Filter {
                verdicts: vec![1, 0],
                ..everything()
            },
            "filter.verdicts[1]",
        ),
        (
            v1::Filter {
                categories: vec![99],
                ..everything()
            },
            "filter.categories[0]",
        ),
        (
            v1::Filter {
                causes: vec![-1],
                ..everything()
            },
            "filter.causes[0]",
        ),
        (
            v1::Filter {
                dispositions: vec![0],
                ..everything()
            },
            "filter.dispositions[0]",
        ),
        (
            v1::Filter {
                responders: vec![77],
                ..everything()
            },
            "filter.responders[0]",
        ),
        (
            v1::Filter {
                min_priority: 9,
                ..everything()
            },
            "filter.min_priority",
        ),
        (
            v1::Filter {
                event_types: vec!["a.*".to_owned(), "a*b".to_owned()],
                ..everything()
            },
            "filter.event_types[1]",
        ),
        (
            v1::Filter {
                event_types: vec![String::new()],
                ..everything()
            },
            "filter.event_types[0]",
        ),
    ];
    for (filter, field) in cases {
        let request = v1::SubscribeRequest {
            filter: Some(filter.clone()),
            ..following(earliest())
        };
        let status = refusal(&server, request).await;
        let metadata = refused(&status, Code::InvalidArgument, ErrorReason::FilterInvalid);
        let named = metadata["field"].clone();
        assert!(
            field.starts_with(&named) || field.ends_with(&named),
            "{named:?} is not {field:?}"
        );
        // The list is refused in the same way.
        let request = v1::ListEventsRequest {
            filter: Some(filter),
            ..v1::ListEventsRequest::default()
        };
        let status = server.events().list_events(request).await.unwrap_err();
        refused(&status, Code::InvalidArgument, ErrorReason::FilterInvalid);
    }
}

#[tokio::test]
async fn an_expression_of_okta_s_log_search_says_which_events_come() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 80)).await);
    let asked = |expression: &str| v1::SubscribeRequest {
        filter: Some(v1::Filter {
            expression: expression.to_owned(),
            ..everything()
        }),
        ..to_head(earliest())
    };
    let expression = r#"eventType eq "APPLICATION.provision.user.push" and
        (target.displayName eq "Cloudboard 0" or debugContext.debugData.attempt eq 1)"#;
    let mut reader = server.subscribe(asked(expression)).await.unwrap();
    let read = reader.read_to_end().await;
    let confirmed = read.confirmation.effective_filter.unwrap();
    assert_eq!(confirmed.expression, expression);
    let numbers: Vec<u64> = read
        .events
        .iter()
        .map(|event| crate::fixtures::number(&event.event.as_ref().unwrap().uuid))
        .collect();
    let fits =
        |number: &u64| number.is_multiple_of(8) && (number.is_multiple_of(5) || number % 3 == 1);
    assert_eq!(numbers, (0..80).filter(fits).collect::<Vec<_>>());

    let status = refusal(
        &server,
        asked("severity eq \"ERROR\" and outcome.result is 1"),
    )
    .await;
    let metadata = refused(&status, Code::InvalidArgument, ErrorReason::FilterInvalid);
    assert_eq!(metadata["field"], "filter.expression");
    assert_eq!(metadata["column"], "40");
    let deep = format!("{}severity pr{}", "(".repeat(50), ")".repeat(50));
    let status = refusal(&server, asked(&deep)).await;
    refused(&status, Code::InvalidArgument, ErrorReason::FilterInvalid);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_forgotten() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 10)).await);
    for _ in 0..200 {
        let reader: Reader = server.subscribe(following(earliest())).await.unwrap();
        drop(reader);
    }
    let read = server.read_all(earliest()).await;
    assert_eq!(read.len(), 10);
}
