//! Named subscriptions over the wire: what a reader commits is where the next one goes on, also when
//! the server is killed in between; one reader at a time; each refusal by its reason.

use provident::wire::v1;
use provident::wire::v1::ErrorReason;
use provident::wire::v1::create_subscription_request::Start as CreateStart;
use provident::wire::v1::seek_subscription_request::Start as SeekStart;
use provident::wire::v1::subscribe_response::Message;
use tonic::{Code, Status};

use crate::fixtures::mixed;
use crate::harness::{
    Reader, Server, accepted, as_subscription, bad_fields, eventually, everything, following,
    latest, provident, refused, within,
};

fn from_earliest() -> CreateStart {
    CreateStart::Position(v1::Position::Earliest.into())
}

async fn try_create(
    server: &Server,
    id: &str,
    filter: v1::Filter,
    start: Option<CreateStart>,
) -> Result<v1::Subscription, Status> {
    let request = v1::CreateSubscriptionRequest {
        subscription_id: id.to_owned(),
        filter: Some(filter),
        start,
    };
    let answer = within(server.subscriptions().create_subscription(request)).await?;
    Ok(answer.into_inner().subscription.unwrap())
}

async fn create(server: &Server, id: &str) -> v1::Subscription {
    server.create_subscription(id, everything()).await
}

async fn get(server: &Server, id: &str) -> v1::Subscription {
    server.subscription(id).await.unwrap()
}

/// Opens a stream as a subscription and reads all that is there. Gives the session too.
async fn read_up(server: &Server, id: &str) -> (Reader, String, Vec<v1::StreamedEvent>) {
    let mut reader = server
        .subscribe(as_subscription(id, "pod-0"))
        .await
        .unwrap();
    let session = reader.confirmation().await.session;
    let mut events = Vec::new();
    loop {
        match reader.next().await.unwrap().unwrap() {
            Message::Batch(batch) => events.extend(batch.events),
            Message::CaughtUp(_) => return (reader, session, events),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_reader_goes_on_where_the_last_commit_was_also_after_a_kill() {
    let mut server = Server::start().await;
    create(&server, "slack-alerts").await;
    let mut next = 0;
    let mut committed = 0;
    for round in 0..5 {
        accepted(&server.ingest(mixed(next, 40)).await);
        next += 40;
        let (reader, session, events) = read_up(&server, "slack-alerts").await;
        let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, (committed + 1..=next).collect::<Vec<_>>());
        let done = &events[usize::try_from(7 * round % 40).unwrap()];
        server
            .commit("slack-alerts", &session, &done.cursor)
            .await
            .unwrap();
        committed = done.sequence;
        drop(reader);
        server = server.restart().await;
        let found = get(&server, "slack-alerts").await;
        assert_eq!(found.committed_cursor, done.cursor);
        assert_eq!(found.lag_events, next - committed);
        assert!(found.active_reader.is_none());
        // The session is still the one that may commit.
        let done = &events[usize::try_from(7 * round % 40 + 1).unwrap()];
        server
            .commit("slack-alerts", &session, &done.cursor)
            .await
            .unwrap();
        committed = done.sequence;
    }
}

#[tokio::test]
async fn a_subscription_tells_how_it_is() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 30)).await);
    let made = create(&server, "a").await;
    assert_eq!(made.lag_events, 30);
    assert!(made.last_activity_time.is_none() && made.create_time.is_some());
    let found = v1::Subscription {
        lag_duration: made.lag_duration,
        ..get(&server, "a").await
    };
    assert_eq!(found, made);

    let (reader, session, events) = read_up(&server, "a").await;
    let found = get(&server, "a").await;
    let active = found.active_reader.unwrap();
    assert_eq!(active.reader, "pod-0");
    assert!(active.connect_time.is_some() && found.last_activity_time.is_some());
    server
        .commit("a", &session, &events[29].cursor)
        .await
        .unwrap();
    let found = get(&server, "a").await;
    assert_eq!(
        (found.lag_events, found.lag_duration.unwrap().seconds),
        (0, 0)
    );
    assert_eq!(found.etag, made.etag, "a commit is no change");
    drop(reader);
    eventually("the reader is gone", async || {
        get(&server, "a")
            .await
            .active_reader
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_next_reader_fences_the_one_before() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 30)).await);
    create(&server, "a").await;
    let (mut first, old, events) = read_up(&server, "a").await;
    let (_second, new, again) = read_up(&server, "a").await;
    assert_eq!(events, again, "nothing was committed");
    assert_ne!(old, new);
    let status = first.next().await.unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::Fenced);
    let status = server
        .commit("a", &old, &events[3].cursor)
        .await
        .unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::Fenced);
    server.commit("a", &new, &events[3].cursor).await.unwrap();
    // The session of before a restart is over with the next reader, too.
    let server = server.restart().await;
    let (_third, _, rest) = read_up(&server, "a").await;
    assert_eq!(rest.first().unwrap().sequence, events[4].sequence);
    let status = server
        .commit("a", &new, &events[9].cursor)
        .await
        .unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::Fenced);
}

#[tokio::test]
async fn a_commit_is_refused_by_reason() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 30)).await);
    create(&server, "a").await;
    create(&server, "b").await;
    let (_reader, session, events) = read_up(&server, "a").await;
    server
        .commit("a", &session, &events[9].cursor)
        .await
        .unwrap();
    server
        .commit("a", &session, &events[9].cursor)
        .await
        .unwrap();

    let status = server
        .commit("a", &session, &events[8].cursor)
        .await
        .unwrap_err();
    let metadata = refused(&status, Code::FailedPrecondition, ErrorReason::CursorBehind);
    assert_eq!(metadata["committed_cursor"], events[9].cursor);

    // It exists, and this session was not sent it: its filter and its stream are another's.
    let later = server.ingest(mixed(100, 10)).await;
    let (_other, other, _) = read_up(&server, "b").await;
    let restarted = server.commit("b", &other, &later[9].cursor).await;
    restarted.unwrap();
    let status = server
        .commit("b", &session, &later[9].cursor)
        .await
        .unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::Fenced);

    let status = server.commit("a", "", &events[9].cursor).await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["session"]);
    let status = server.commit("a", &session, "nonsense").await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::CursorMalformed);
    let elsewhere = Server::start().await;
    let foreign = elsewhere.ingest(mixed(0, 1)).await.remove(0).cursor;
    let status = server.commit("a", &session, &foreign).await.unwrap_err();
    refused(
        &status,
        Code::FailedPrecondition,
        ErrorReason::CursorForeignJournal,
    );
    let status = server
        .commit("nobody", &session, &events[9].cursor)
        .await
        .unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::SubscriptionNotFound);
}

#[tokio::test]
async fn no_session_commits_what_it_was_not_sent() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 300)).await);
    create(&server, "a").await;
    let (reader, session, events) = read_up(&server, "a").await;
    drop(reader);
    eventually("the reader is gone", async || {
        let found = get(&server, "a").await;
        found.active_reader.is_none().then_some(())
    })
    .await;
    let never = server.ingest(mixed(300, 1)).await.remove(0).cursor;
    let status = server.commit("a", &session, &never).await.unwrap_err();
    let metadata = refused(&status, Code::FailedPrecondition, ErrorReason::CursorAhead);
    assert_eq!(metadata["sent_cursor"], events[299].cursor);
    server
        .commit("a", &session, &events[299].cursor)
        .await
        .unwrap();
}

#[tokio::test]
async fn another_filter_ends_the_stream_and_the_next_one_goes_by_it() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 40)).await);
    let made = create(&server, "a").await;
    let (mut reader, session, events) = read_up(&server, "a").await;
    server
        .commit("a", &session, &events[9].cursor)
        .await
        .unwrap();
    let pushes = v1::Filter {
        event_types: vec!["application.provision.user.*".to_owned()],
        ..everything()
    };
    let update = |etag: &str, paths: &[&str]| v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            subscription_id: "a".to_owned(),
            filter: Some(pushes.clone()),
            etag: etag.to_owned(),
            ..v1::Subscription::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
    };
    let mut client = server.subscriptions();
    let status = client
        .update_subscription(update(&made.etag, &["committed_cursor"]))
        .await;
    refused(
        &status.unwrap_err(),
        Code::InvalidArgument,
        ErrorReason::FieldInvalid,
    );
    let changed = client
        .update_subscription(update(&made.etag, &["filter"]))
        .await;
    let changed = changed.unwrap().into_inner().subscription.unwrap();
    assert_eq!(changed.committed_cursor, events[9].cursor);
    assert_ne!(changed.etag, made.etag);
    let status = client
        .update_subscription(update(&made.etag, &[]))
        .await
        .unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["subscription.etag"]);

    let Some(Message::Ending(ending)) = reader.next().await.unwrap() else {
        panic!("no ending");
    };
    assert_eq!(ending.reason(), v1::EndingReason::SubscriptionChanged);
    assert_eq!(ending.cursor, events[39].cursor);
    assert!(reader.next().await.unwrap().is_none());
    let (_reader, _, filtered) = read_up(&server, "a").await;
    let is_push = |event: &&v1::StreamedEvent| {
        let event_type = &event.event.as_ref().unwrap().event_type;
        event_type.starts_with("application.provision.user.")
    };
    let expected: Vec<_> = events[10..].iter().filter(is_push).cloned().collect();
    assert!(!expected.is_empty() && expected.len() < 30);
    assert_eq!(filtered, expected);
}

#[tokio::test]
async fn a_seek_moves_the_place_and_fences() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 40)).await);
    create(&server, "a").await;
    let (mut reader, session, events) = read_up(&server, "a").await;
    server
        .commit("a", &session, &events[29].cursor)
        .await
        .unwrap();
    let seek = async |start: SeekStart| {
        let request = v1::SeekSubscriptionRequest {
            subscription_id: "a".to_owned(),
            start: Some(start),
        };
        let answer = within(server.subscriptions().seek_subscription(request)).await?;
        Ok::<_, Status>(answer.into_inner().subscription.unwrap())
    };
    let moved = seek(SeekStart::Cursor(events[4].cursor.clone()))
        .await
        .unwrap();
    assert_eq!(
        (moved.committed_cursor, moved.lag_events),
        (events[4].cursor.clone(), 35)
    );
    refused(
        &reader.next().await.unwrap_err(),
        Code::Aborted,
        ErrorReason::Fenced,
    );
    let status = server
        .commit("a", &session, &events[39].cursor)
        .await
        .unwrap_err();
    refused(&status, Code::Aborted, ErrorReason::Fenced);
    let (_reader, _, again) = read_up(&server, "a").await;
    assert_eq!(again, events[5..]);
    let moved = seek(SeekStart::Position(v1::Position::Latest.into()))
        .await
        .unwrap();
    assert_eq!(moved.lag_events, 0);
    let moved = seek(SeekStart::Time(events[0].append_time.unwrap()))
        .await
        .unwrap();
    assert_eq!(moved.lag_events, 40);
    let status = seek(SeekStart::Cursor("x".into())).await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::CursorMalformed);
}

#[tokio::test]
async fn names_are_made_once_listed_in_order_and_deleted() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 10)).await);
    let wanted = |id: &str| try_create_from(&server, id.to_owned());
    for id in ["c", "a", "b.b", "a-1"] {
        wanted(id).await.unwrap();
    }
    let status = wanted("a").await.unwrap_err();
    refused(
        &status,
        Code::AlreadyExists,
        ErrorReason::SubscriptionExists,
    );
    for id in ["", "A", "-a", "a/b", &"a".repeat(64)] {
        let status = wanted(id).await.unwrap_err();
        refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
        assert_eq!(bad_fields(&status), ["subscription_id"]);
    }
    let status = try_create(&server, "d", everything(), None)
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["start"]);
    let bad_filter = v1::Filter {
        expression: "severity eq".to_owned(),
        ..v1::Filter::default()
    };
    let status = try_create(&server, "d", bad_filter, Some(from_earliest())).await;
    let metadata = refused(
        &status.unwrap_err(),
        Code::InvalidArgument,
        ErrorReason::FilterInvalid,
    );
    assert_eq!(metadata["field"], "filter.expression");

    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSubscriptionsRequest {
            page_size: 3,
            page_token,
        };
        let answer = server.subscriptions().list_subscriptions(request).await;
        let page = answer.unwrap().into_inner();
        names.extend(
            page.subscriptions
                .into_iter()
                .map(|found| found.subscription_id),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "a-1", "b.b", "c"]);
    let request = v1::ListSubscriptionsRequest {
        page_size: 3,
        page_token: "x".to_owned(),
    };
    let status = server
        .subscriptions()
        .list_subscriptions(request)
        .await
        .unwrap_err();
    refused(
        &status,
        Code::InvalidArgument,
        ErrorReason::PageTokenInvalid,
    );

    let (mut reader, ..) = read_up(&server, "a").await;
    let delete = || v1::DeleteSubscriptionRequest {
        subscription_id: "a".to_owned(),
    };
    server
        .subscriptions()
        .delete_subscription(delete())
        .await
        .unwrap();
    assert!(matches!(
        reader.next().await.unwrap(),
        Some(Message::Ending(ending)) if ending.reason() == v1::EndingReason::SubscriptionChanged
    ));
    let server = server.restart().await;
    let status = server
        .subscriptions()
        .delete_subscription(delete())
        .await
        .unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::SubscriptionNotFound);
    let status = server
        .subscribe(as_subscription("a", ""))
        .await
        .unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::SubscriptionNotFound);
    assert_eq!(get(&server, "b.b").await.lag_events, 10);
}

async fn try_create_from(server: &Server, id: String) -> Result<v1::Subscription, Status> {
    try_create(server, &id, everything(), Some(from_earliest())).await
}

#[tokio::test]
async fn a_request_as_a_subscription_has_no_filter_of_its_own() {
    let server = Server::start().await;
    create(&server, "a").await;
    let both = v1::SubscribeRequest {
        filter: Some(v1::Filter::default()),
        ..as_subscription("a", "")
    };
    let status = server.subscribe(both).await.unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::FieldInvalid);
    assert_eq!(bad_fields(&status), ["filter"]);
    let status = server
        .subscribe(as_subscription("a", &"x".repeat(257)))
        .await
        .unwrap_err();
    assert_eq!(bad_fields(&status), ["reader"]);
    // A stream without a subscription has no session.
    let mut reader = server.subscribe(following(latest())).await.unwrap();
    assert!(reader.confirmation().await.session.is_empty());
}

#[tokio::test]
async fn limits_are_settings_and_what_is_unused_goes() {
    let server = Server::start_configured(
        "[subscriptions]\nsubscriptions_max = 2\nexpire_after = \"1s\"\nfilter_bytes_max = \"1KiB\"",
    )
    .await;
    create(&server, "read").await;
    let (_reader, ..) = read_up(&server, "read").await;
    create(&server, "unused").await;
    let status = try_create_from(&server, "third".to_owned())
        .await
        .unwrap_err();
    refused(&status, Code::ResourceExhausted, ErrorReason::LimitReached);
    let large = v1::Filter {
        user_ids: vec!["u".repeat(100); 20],
        ..v1::Filter::default()
    };
    eventually("the unused one has gone", async || {
        let created = try_create_from(&server, "third".to_owned()).await;
        created.ok()
    })
    .await;
    assert!(get(&server, "read").await.active_reader.is_some());
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            subscription_id: "read".to_owned(),
            filter: Some(large),
            ..v1::Subscription::default()
        }),
        update_mask: None,
    };
    let status = server
        .subscriptions()
        .update_subscription(update)
        .await
        .unwrap_err();
    refused(&status, Code::InvalidArgument, ErrorReason::TooLarge);
}

#[tokio::test]
async fn the_command_line_makes_shows_moves_and_deletes() {
    let server = Server::start().await;
    accepted(&server.ingest(mixed(0, 10)).await);
    let run = |arguments: &str| {
        let mut command = provident();
        command
            .args(["subscriptions"])
            .args(arguments.split(' '))
            .args(["--server", &server.addresses.grpc, "--output", "json"]);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, made, _) = run("create a --from earliest --cause timeout,rate-limited");
    assert_eq!(code, Some(0));
    assert!(made.contains(r#""lagEvents":"10""#), "{made}");
    assert!(made.contains("CAUSE_RATE_LIMITED"), "{made}");
    assert_eq!(run("list").1.lines().count(), 1);
    let (_, moved, _) = run("seek a --from latest");
    assert!(!moved.contains("lagEvents"), "{moved}");
    let (code, _, problem) = run("update a --etag outdated --security-only");
    assert_eq!(code, Some(1));
    assert!(problem.contains("changed since it was read"), "{problem}");
    let (_, changed, _) = run("update a --security-only");
    assert!(changed.contains(r#""securityOnly":true"#), "{changed}");
    assert_eq!(run("delete a").0, Some(0));
    let (code, _, problem) = run("get a");
    assert_eq!(code, Some(1));
    assert!(problem.contains("SUBSCRIPTION_NOT_FOUND"), "{problem}");
}
