//! `ListEvents` and `GetEvent`: both orders, pages that do not shift, bounds of time, one event.

use provident::wire::v1;
use provident::wire::v1::get_event_request::Event;
use provident::wire::v1::{ErrorReason, ListOrder};
use tonic::{Code, Status};

use crate::fixtures::{self, log_event, mixed, mixed_one};
use crate::harness::{ORG, Server, accepted, bad_fields, earliest, everything, refused, within};

fn all() -> v1::ListEventsRequest {
    v1::ListEventsRequest {
        filter: Some(everything()),
        ..v1::ListEventsRequest::default()
    }
}

async fn page(
    server: &Server,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, Status> {
    Ok(within(server.events().list_events(request))
        .await?
        .into_inner())
}

/// All pages, and how many there were.
async fn pages(server: &Server, request: v1::ListEventsRequest) -> (Vec<v1::StreamedEvent>, usize) {
    let mut events = Vec::new();
    let mut count = 0;
    let mut page_token = String::new();
    loop {
        let request = v1::ListEventsRequest {
            page_token,
            ..request.clone()
        };
        let page = page(server, request).await.unwrap();
        events.extend(page.events);
        count += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (events, count);
        }
    }
}

fn sequences(events: &[v1::StreamedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[tokio::test]
async fn a_list_gives_what_a_stream_gives_in_either_order() {
    let server = Server::start().await;
    assert_eq!(page(&server, all()).await.unwrap().events, []);
    accepted(&server.ingest(mixed(1, 250)).await);
    let stream = server.read_all(earliest()).await;
    for page_size in [7, 100, 249, 250, 1_000, i32::MAX] {
        let request = v1::ListEventsRequest {
            include_raw: true,
            page_size,
            ..all()
        };
        let (events, _) = pages(&server, request.clone()).await;
        assert!(events == stream, "pages of {page_size}");
        let newest_first = v1::ListEventsRequest {
            order: ListOrder::NewestFirst.into(),
            ..request
        };
        let (mut events, _) = pages(&server, newest_first).await;
        events.reverse();
        assert!(events == stream, "pages of {page_size}, newest first");
    }
    let first = page(&server, all()).await.unwrap();
    assert_eq!(first.events.len(), 100, "the page size that is usual");
    assert!(first.events[0].raw_json.is_none());
    let one = v1::ListEventsRequest {
        page_size: 1,
        ..all()
    };
    assert_eq!(page(&server, one).await.unwrap().events.len(), 1);

    let failures = v1::ListEventsRequest {
        filter: None,
        page_size: 1_000,
        ..all()
    };
    let (events, _) = pages(&server, failures).await;
    assert!(!events.is_empty() && events.len() < 250);
    let success = |event: &v1::StreamedEvent| {
        event.classification.as_ref().unwrap().verdict() == v1::Verdict::Success
    };
    assert!(!events.iter().any(success));
}

#[tokio::test]
async fn pages_do_not_shift_when_new_events_come() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 40)).await);
    for order in [ListOrder::OldestFirst, ListOrder::NewestFirst] {
        let before = server.read_all(earliest()).await.len();
        let request = v1::ListEventsRequest {
            order: order.into(),
            page_size: 9,
            ..all()
        };
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListEventsRequest {
                page_token,
                ..request.clone()
            };
            let page = page(&server, request).await.unwrap();
            seen.extend(sequences(&page.events));
            let next = server.read_all(earliest()).await.len() as u64 + 1;
            accepted(&server.ingest(mixed(next, 3)).await);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let mut expected: Vec<_> = (1..=before as u64).collect();
        if order == ListOrder::NewestFirst {
            expected.reverse();
        }
        assert_eq!(seen, expected, "{order:?}");
    }
}

#[tokio::test]
async fn a_page_ends_early_at_a_mebibyte() {
    let server = Server::start().await;
    for number in 1..=12 {
        let mut event = mixed_one(number).value();
        event["displayMessage"] = "z".repeat(300 << 10).into();
        accepted(&server.ingest([event.to_string()]).await);
    }
    let request = v1::ListEventsRequest {
        page_size: 1_000,
        ..all()
    };
    let first = page(&server, request.clone()).await.unwrap();
    assert!(
        (1..=4).contains(&first.events.len()),
        "{}",
        first.events.len()
    );
    let (events, count) = pages(&server, request).await;
    assert_eq!(sequences(&events), (1..=12).collect::<Vec<_>>());
    assert!(count >= 3, "{count} pages");
}

#[tokio::test]
async fn bounds_of_time_take_the_first_and_leave_the_last() {
    let server = Server::start().await;
    for number in 1..=12 {
        accepted(&server.ingest([mixed_one(number)]).await);
    }
    let truth = server.read_all(earliest()).await;
    let key = |time: prost_types::Timestamp| (time.seconds, time.nanos);
    let times: Vec<_> = truth
        .iter()
        .map(|event| event.append_time.unwrap())
        .collect();
    assert!(
        times.is_sorted_by_key(|time| key(*time)),
        "append time goes back"
    );
    for (start, end) in [(0, 11), (3, 7), (5, 5), (7, 3)] {
        let (start, end) = (times[start], times[end]);
        for order in [ListOrder::OldestFirst, ListOrder::NewestFirst] {
            let request = v1::ListEventsRequest {
                start_time: Some(start),
                end_time: Some(end),
                order: order.into(),
                ..all()
            };
            let (events, _) = pages(&server, request).await;
            let mut expected: Vec<_> = truth
                .iter()
                .filter(|event| {
                    let time = key(event.append_time.unwrap());
                    (key(start)..key(end)).contains(&time)
                })
                .map(|event| event.sequence)
                .collect();
            if order == ListOrder::NewestFirst {
                expected.reverse();
            }
            assert_eq!(sequences(&events), expected, "{start:?} {end:?}");
        }
    }
}

#[tokio::test]
async fn a_page_token_belongs_to_its_request() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 30)).await);
    let request = v1::ListEventsRequest {
        page_size: 10,
        ..all()
    };
    let page_token = page(&server, request.clone())
        .await
        .unwrap()
        .next_page_token;
    let with_token = |request: v1::ListEventsRequest| v1::ListEventsRequest {
        page_token: page_token.clone(),
        ..request
    };
    // The page size may change.
    let larger = v1::ListEventsRequest {
        page_size: 15,
        ..with_token(request.clone())
    };
    let second = page(&server, larger).await.unwrap();
    assert_eq!(sequences(&second.events), (11..=25).collect::<Vec<_>>());

    let others = [
        v1::ListEventsRequest {
            filter: None,
            ..with_token(request.clone())
        },
        v1::ListEventsRequest {
            order: ListOrder::NewestFirst.into(),
            ..with_token(request.clone())
        },
        v1::ListEventsRequest {
            start_time: Some(prost_types::Timestamp::default()),
            ..with_token(request.clone())
        },
        v1::ListEventsRequest {
            page_token: "garbage \u{1f600}".to_owned(),
            ..request.clone()
        },
        v1::ListEventsRequest {
            page_token: page_token[1..].to_owned(),
            ..request.clone()
        },
    ];
    for request in others {
        let status = page(&server, request).await.unwrap_err();
        refused(
            &status,
            Code::InvalidArgument,
            ErrorReason::PageTokenInvalid,
        );
    }
    let status = page(
        &server,
        v1::ListEventsRequest {
            page_size: -1,
            ..request
        },
    )
    .await
    .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["page_size"]);
}

#[tokio::test]
async fn one_event_is_found_by_cursor_and_by_name() {
    let server = Server::start().await;
    let results = server.ingest(mixed(1, 5)).await;
    let stream = server.read_all(earliest()).await;
    let get = async |event: Event| {
        let request = v1::GetEventRequest {
            event: Some(event),
            include_raw: true,
        };
        let response = within(server.events().get_event(request)).await?;
        Ok::<_, Status>(response.into_inner().event.unwrap())
    };
    let key = |org: &str, uuid: &str| {
        Event::Key(v1::EventKey {
            org: org.to_owned(),
            uuid: uuid.to_owned(),
        })
    };
    for (result, expected) in results.iter().zip(&stream) {
        let found = get(Event::Cursor(result.cursor.clone())).await.unwrap();
        assert_eq!(found, *expected);
        let found = get(key(ORG, &result.uuid)).await.unwrap();
        assert_eq!(found, *expected);
        let shouted = result.uuid.to_ascii_uppercase();
        let found = get(key("ACME.okta.com", &shouted)).await.unwrap();
        assert_eq!(found, *expected);
    }
    let without_raw = v1::GetEventRequest {
        event: Some(Event::Cursor(results[0].cursor.clone())),
        include_raw: false,
    };
    let found = within(server.events().get_event(without_raw))
        .await
        .unwrap();
    assert_eq!(found.into_inner().event.unwrap().raw_json, None);

    let confirmation = server
        .subscribe(crate::harness::following(earliest()))
        .await
        .unwrap()
        .confirmation()
        .await;
    let unseen = fixtures::uuid(99);
    for event in [
        key(ORG, &unseen),
        key("globex.okta.com", &results[0].uuid),
        key("", &results[0].uuid),
        // Before the first event there is none.
        Event::Cursor(confirmation.start_cursor),
    ] {
        let status = get(event).await.unwrap_err();
        refused(&status, Code::NotFound, ErrorReason::EventNotFound);
    }
    let nothing = v1::GetEventRequest::default();
    let status = within(server.events().get_event(nothing))
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    let status = get(key(ORG, "")).await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
}

#[tokio::test]
async fn a_list_is_the_same_after_a_restart_and_its_token_still_good() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(1, 20)).await);
    accepted(
        &server
            .ingest([log_event(fixtures::Kind::RateLimited, 21)])
            .await,
    );
    let request = v1::ListEventsRequest {
        page_size: 8,
        order: ListOrder::NewestFirst.into(),
        ..all()
    };
    let first = page(&server, request.clone()).await.unwrap();
    let before = server.read_all(earliest()).await;
    let server = server.restart().await;
    assert!(server.read_all(earliest()).await == before);
    let second = page(
        &server,
        v1::ListEventsRequest {
            page_token: first.next_page_token,
            ..request
        },
    )
    .await
    .unwrap();
    assert_eq!(
        sequences(&second.events),
        (6..=13).rev().collect::<Vec<_>>()
    );
}
