//! Retention: what goes is told and never skipped in silence, what stays is whole, and neither
//! writers nor live readers notice; over kills too.

use std::collections::HashMap;
use std::time::Duration;

use provident::domain::cursor::Cursor;
use provident::wire::v1;
use provident::wire::v1::ErrorReason;
use provident::wire::v1::subscribe_response::Message;
use tonic::Code;

use crate::fixtures::{self, mixed, mixed_one};
use crate::harness::{
    Launch, Random, Server, accepted, after, as_subscription, earliest, eventually, everything,
    following, json, refused, say, scratch, setting, statuses, to_head, within,
};

/// Small units and little room, looked after often.
const SMALL: &str = r#"
[journal]
generation_bytes_max = "1MiB"
[retention]
bytes_max = "3MiB"
interval = "50ms"
[subscribe]
tail_bytes_max = "64KiB"
"#;

/// Events of one call, about 200 KiB.
const CALL: u64 = 100;

/// Where reading can begin now.
async fn earliest_cursor(server: &Server) -> String {
    let mut reader = server.subscribe(following(earliest())).await.unwrap();
    reader.confirmation().await.earliest_cursor
}

fn place(cursor: &str) -> u64 {
    Cursor::parse(cursor).unwrap().seq.get()
}

/// Ingests calls of events from `next` on, until the journal's beginning has passed a place. Gives
/// the next number.
async fn fill_past(server: &Server, mut next: u64, passed: u64) -> u64 {
    while place(&earliest_cursor(server).await) < passed {
        accepted(&server.ingest(mixed(next, CALL)).await);
        next += CALL;
    }
    next
}

#[tokio::test]
async fn who_is_behind_is_told_what_is_gone_and_gets_all_the_rest() {
    let server = Server::start_configured(SMALL).await;
    let create = v1::CreateSubscriptionRequest {
        subscription_id: "late".to_owned(),
        filter: Some(everything()),
        start: Some(v1::create_subscription_request::Start::Position(
            v1::Position::Earliest.into(),
        )),
    };
    server
        .subscriptions()
        .create_subscription(create)
        .await
        .unwrap();
    let mut live = server.subscribe(following(earliest())).await.unwrap();
    live.confirmation().await;
    let first = server.ingest(mixed(0, CALL)).await;
    let old = first[9].cursor.clone();
    let filling = fill_past(&server, CALL, 500);
    let reading = async {
        // Who keeps up notices nothing.
        let mut last = 0;
        while last < 2000 {
            if let Message::Batch(batch) = live.next().await.unwrap().unwrap() {
                for event in batch.events {
                    assert_eq!(event.sequence, last + 1);
                    last = event.sequence;
                }
            }
        }
    };
    let (next, ()) = tokio::join!(
        async {
            let next = filling.await;
            let rest = 2100_u64.saturating_sub(next);
            for call in 0..rest.div_ceil(CALL) {
                accepted(&server.ingest(mixed(next + call * CALL, CALL)).await);
            }
            next + rest.div_ceil(CALL) * CALL
        },
        reading
    );

    let status = server.subscribe(to_head(after(&old))).await.unwrap_err();
    let metadata = refused(&status, Code::OutOfRange, ErrorReason::CursorExpired);
    let rest = server.read_all(after(&metadata["earliest_cursor"])).await;
    assert!(!rest.is_empty());
    assert_eq!(rest.last().unwrap().sequence, next);

    let skipping = v1::SubscribeRequest {
        on_gap: v1::OnGap::Skip.into(),
        ..to_head(after(&old))
    };
    let mut reader = server.subscribe(skipping).await.unwrap();
    reader.confirmation().await;
    let Some(Message::Gap(gap)) = reader.next().await.unwrap() else {
        panic!("no gap");
    };
    assert_eq!(gap.first_lost_sequence, 11);
    assert_eq!(place(&gap.resume_cursor), gap.last_lost_sequence);
    let Some(Message::Batch(batch)) = reader.next().await.unwrap() else {
        panic!("no events");
    };
    assert_eq!(batch.events[0].sequence, gap.last_lost_sequence + 1);

    // A subscription is told as anybody else, and may go on behind the gap.
    let status = server
        .subscribe(as_subscription("late", ""))
        .await
        .unwrap_err();
    refused(&status, Code::OutOfRange, ErrorReason::CursorExpired);
    let skipping = v1::SubscribeRequest {
        on_gap: v1::OnGap::Skip.into(),
        ..as_subscription("late", "")
    };
    let mut reader = server.subscribe(skipping).await.unwrap();
    let session = reader.confirmation().await.session;
    let Some(Message::Gap(gap)) = reader.next().await.unwrap() else {
        panic!("no gap");
    };
    assert_eq!(gap.first_lost_sequence, 1);
    let commit = v1::CommitRequest {
        subscription_id: "late".to_owned(),
        session,
        cursor: gap.resume_cursor,
    };
    within(server.subscriptions().commit(commit)).await.unwrap();

    // What is gone is known still, over a restart too.
    let server = server.restart().await;
    let again = server.ingest([mixed_one(3)]).await.remove(0);
    assert_eq!(again.status(), v1::IngestStatus::Duplicate);
    assert_eq!((again.sequence, &again.cursor), (4, &first[3].cursor));
    let get = v1::GetEventRequest {
        event: Some(v1::get_event_request::Event::Cursor(
            first[3].cursor.clone(),
        )),
        include_raw: false,
    };
    let status = server.events().get_event(get).await.unwrap_err();
    refused(&status, Code::NotFound, ErrorReason::EventNotFound);
}

#[tokio::test]
async fn a_reader_that_is_overtaken_in_its_stream_is_told() {
    let server = Server::start_configured(SMALL).await;
    let calls = 12;
    for call in 0..calls {
        accepted(&server.ingest(mixed(call * CALL, CALL)).await);
    }
    let mut next = calls * CALL;
    for on_gap in [v1::OnGap::Skip, v1::OnGap::Fail] {
        let request = v1::SubscribeRequest {
            on_gap: on_gap.into(),
            include_raw: true,
            ..following(earliest())
        };
        // It has read nothing but the confirmation while its next events go.
        let mut reader = server.subscribe(request).await.unwrap();
        let mut last = place(&reader.confirmation().await.start_cursor);
        next = fill_past(&server, next, last + 1500).await;
        let end = server.ingest(mixed(next, 1)).await.remove(0).sequence;
        next += 1;
        let mut gaps = 0;
        let told = loop {
            match reader.next().await {
                Ok(Some(Message::Batch(batch))) => {
                    for event in batch.events {
                        assert_eq!(event.sequence, last + 1);
                        last = event.sequence;
                    }
                    if last == end {
                        break None;
                    }
                }
                Ok(Some(Message::Gap(gap))) => {
                    assert_eq!(gap.first_lost_sequence, last + 1);
                    last = gap.last_lost_sequence;
                    gaps += 1;
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended"),
                Err(status) => break Some(status),
            }
        };
        if on_gap == v1::OnGap::Skip {
            assert!(told.is_none() && gaps > 0, "{told:?}, {gaps} gaps");
        } else {
            let told = told.expect("it was overtaken");
            refused(&told, Code::OutOfRange, ErrorReason::CursorExpired);
        }
    }
}

#[tokio::test]
async fn what_is_old_goes_and_is_forgotten_behind_the_horizon() {
    let server = Server::start_configured(
        r#"
[retention]
age_max = "1s"
dedupe_horizon = "4s"
interval = "50ms"
"#,
    )
    .await;
    let first = server.ingest(mixed(0, 10)).await;
    accepted(&first);
    // The newest unit is cut by age, or nothing of a quiet journal would ever go.
    eventually("all that is old has gone", async || {
        let begin = place(&earliest_cursor(&server).await);
        (begin == 10).then_some(())
    })
    .await;
    assert_eq!(server.read_all(earliest()).await.len(), 0);
    let kept_again = eventually("it is forgotten", async || {
        let again = server.ingest([mixed_one(3)]).await.remove(0);
        match again.status() {
            v1::IngestStatus::Duplicate => {
                assert_eq!(again.sequence, 4);
                None
            }
            status => Some((status, again.sequence)),
        }
    })
    .await;
    assert_eq!(kept_again, (v1::IngestStatus::Accepted, 11));
    let metrics = reqwest::get(format!("http://{}/metrics", server.addresses.admin));
    let metrics = within(async { metrics.await.unwrap().text().await.unwrap() }).await;
    assert!(
        metrics.contains("provident_trimmed_events_total 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn kills_between_trims_and_cuts_leave_everything_whole() {
    let cycles: u64 = setting("PROVIDENT_RETENTION_KILLS").unwrap_or(3);
    let mut random = Random::of_run("retention");
    let directory = scratch();
    let file = directory.path().join("provident.toml");
    std::fs::write(&file, SMALL).unwrap();
    let launch =
        Launch::on(&directory.path().join("data")).with(&["--config", file.to_str().unwrap()]);
    let mut server = launch.start().await;
    let mut next = 0;
    let mut places: HashMap<u64, u64> = HashMap::new();
    let mut trims = 0;
    let mut begin = 0;
    for _ in 0..cycles {
        let mut client = server.events();
        let kill_after = Duration::from_millis(300 + random.below(1200));
        let ingest = async {
            loop {
                let request = v1::IngestRequest {
                    org: String::new(),
                    inputs: mixed(next, CALL).into_iter().map(json).collect(),
                };
                // Lost with the process: nothing is known of those.
                let sent = next;
                next += CALL;
                let Ok(answer) = client.ingest(request).await else {
                    return;
                };
                let results = answer.into_inner().results;
                assert!(
                    statuses(&results)
                        .iter()
                        .all(|status| *status == "ACCEPTED")
                );
                places.extend((sent..next).zip(results.iter().map(|result| result.sequence)));
            }
        };
        let process = &mut server.process;
        tokio::join!(ingest, async {
            tokio::time::sleep(kill_after).await;
            process.kill();
        });
        server = launch.start().await;
        let events = server.read_all(earliest()).await;
        // Trims go on meanwhile, so the read itself says where it began.
        let mut last = events.first().expect("the newest stay").sequence - 1;
        trims += u64::from(last > begin);
        begin = last;
        for event in &events {
            assert_eq!(event.sequence, last + 1, "a hole");
            last = event.sequence;
            let number = fixtures::number(&event.event.as_ref().unwrap().uuid);
            let known = places.entry(number).or_insert(last);
            assert_eq!(*known, last, "event {number} has moved");
        }
        let newest = places.values().max().copied().unwrap_or(0);
        assert!(last >= newest, "{last}, and {newest} was accepted");
    }
    say(&format!(
        "retention: {cycles} kills, {trims} of them behind a trim; the journal begins after {begin}, \
         {} events were accepted",
        places.len()
    ));
}
