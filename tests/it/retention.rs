//! Retention: what goes is told and never skipped in silence, what stays is whole, and neither
//! writers nor live readers notice; over kills too.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use provident::domain::cursor::Cursor;
use provident::wire::v1;
use provident::wire::v1::ErrorReason;
use provident::wire::v1::subscribe_response::Message;
use tonic::Code;

use crate::fixtures::{self, mixed, mixed_one};
use crate::harness::{
    Launch, Random, Read, Server, Start, accepted, after, as_subscription, earliest, eventually,
    everything, following, json, refused, say, scratch, setting, statuses, to_head, within,
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

/// Units are cut, trimmed and forgotten all the time, by size and by age.
const RESTLESS: &str = r#"
[journal]
generation_bytes_max = "1MiB"
[retention]
age_max = "2s"
bytes_max = "2MiB"
dedupe_horizon = "1s"
interval = "5ms"
"#;

/// Events of one call, about 200 KiB.
const CALL: u64 = 100;

/// Where reading can begin now.
async fn earliest_cursor(server: &Server) -> String {
    let mut reader = server.subscribe(following(earliest())).await.unwrap();
    reader.confirmation().await.earliest_cursor
}

/// Waits until nothing more goes: what is still being moved to tables makes units larger, so some may
/// go when nothing is written any more.
async fn at_rest(server: &Server) {
    let mut begin = earliest_cursor(server).await;
    let mut looks = 0;
    // Twenty looks of retention.
    while looks < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = earliest_cursor(server).await;
        looks = if now == begin { looks + 1 } else { 0 };
        begin = now;
    }
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

/// Who asks for an old time or for the earliest is told where that is, and gets these events.
async fn begins_behind(server: &Server, cursor: &str, expected: &[u64]) {
    let old = prost_types::Timestamp::default();
    for start in [earliest(), Start::Time(old)] {
        let mut reader = server.subscribe(to_head(start)).await.unwrap();
        let read = reader.read_to_end().await;
        assert_eq!(read.confirmation.start_cursor, cursor);
        assert_eq!(read.confirmation.earliest_cursor, cursor);
        let sequences = read.events.iter().map(|event| event.sequence);
        assert!(sequences.eq(expected.iter().copied()));
    }
}

#[tokio::test]
async fn who_is_behind_is_told_what_is_gone_and_gets_all_the_rest() {
    let server = Server::start_configured(SMALL).await;
    server.create_subscription("late", everything()).await;
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

    at_rest(&server).await;
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
    // One gap, and exactly the rest.
    let mut read = Read::default();
    reader.rest_into(&mut read).await;
    let sequences: Vec<_> = read.events.iter().map(|event| event.sequence).collect();
    assert!(
        sequences
            .iter()
            .copied()
            .eq(gap.last_lost_sequence + 1..=next)
    );

    begins_behind(&server, &gap.resume_cursor, &sequences).await;

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
    server
        .commit("late", &session, &gap.resume_cursor)
        .await
        .unwrap();

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
    let metrics = server.metrics().await;
    assert!(
        metrics.contains("provident_trimmed_events_total 1"),
        "{metrics}"
    );
}

/// Bytes that files below a directory take; a file's holes take nothing.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        // Removed meanwhile, or a file.
        return std::fs::metadata(path).map_or(0, |file| file.blocks() * 512);
    };
    let entries = entries.filter_map(Result::ok);
    entries.map(|entry| disk_bytes(&entry.path())).sum()
}

#[tokio::test]
async fn age_gives_disk_back_while_writers_and_readers_go_on() {
    const CALLS: u64 = 60;
    let directory = scratch();
    let file = directory.path().join("provident.toml");
    let young = SMALL.replace("bytes_max = \"3MiB\"", "age_max = \"1s\"");
    std::fs::write(&file, young).unwrap();
    let data = directory.path().join("data");
    let server = Launch::on(&data)
        .with(&["--config", file.to_str().unwrap()])
        .start()
        .await;
    let request = v1::SubscribeRequest {
        on_gap: v1::OnGap::Skip.into(),
        include_raw: true,
        ..following(earliest())
    };
    let mut reader = server.subscribe(request).await.unwrap();
    reader.confirmation().await;
    let reading = async {
        // On a machine that is too slow for it, events may be too old: then it is told.
        let (mut last, mut read) = (0, 0);
        while last < CALLS * CALL {
            match reader.next().await.unwrap() {
                Some(Message::Batch(batch)) => {
                    for event in batch.events {
                        assert_eq!(event.sequence, last + 1, "a hole");
                        last = event.sequence;
                        read += 1;
                    }
                }
                Some(Message::Gap(gap)) => {
                    assert_eq!(gap.first_lost_sequence, last + 1);
                    last = gap.last_lost_sequence;
                }
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
        read
    };
    let writing = async {
        for call in 0..CALLS {
            let sequences = accepted(&server.ingest(mixed(call * CALL, CALL)).await);
            assert_eq!(sequences.last(), Some(&((call + 1) * CALL)));
        }
    };
    let (read, ()) = tokio::join!(reading, writing);
    assert!(read > 0);
    // Without fjall's list of keyspaces (0), whose old versions stay until it is opened again: about
    // 100 KiB for each unit that goes.
    let taken = || {
        let keyspaces = std::fs::read_dir(data.join("journal/keyspaces")).unwrap();
        let paths = keyspaces.map(|keyspace| keyspace.unwrap().path());
        let paths = paths.filter(|path| !path.ends_with("0"));
        paths.map(|path| disk_bytes(&path)).sum::<u64>()
    };
    // Of about 12 MiB that were written, the keys stay: some 100 bytes for each event.
    eventually("all that is old has left the disk", async || {
        let gone = place(&earliest_cursor(&server).await) == CALLS * CALL;
        (gone && taken() < 2 << 20).then_some(())
    })
    .await;
    // And it takes what comes next.
    accepted(&server.ingest(mixed(CALLS * CALL, CALL)).await);
}

#[tokio::test]
async fn kills_between_trims_and_cuts_leave_everything_whole() {
    let cycles: u64 = setting("PROVIDENT_RETENTION_KILLS").unwrap_or(3);
    let mut random = Random::of_run("retention");
    let directory = scratch();
    let file = directory.path().join("provident.toml");
    std::fs::write(&file, RESTLESS).unwrap();
    let launch =
        Launch::on(&directory.path().join("data")).with(&["--config", file.to_str().unwrap()]);
    let mut server = launch.start().await;
    let mut next = 0;
    let mut places: HashMap<u64, u64> = HashMap::new();
    let mut begin = 0;
    for _ in 0..cycles {
        let mut client = server.events();
        let kill_after = Duration::from_millis(random.below(500));
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
        let dying = &mut server;
        // Told by one who asks: events have gone, and others go when the kill comes.
        let kill = async {
            let told = eventually("events go", async || {
                let told = place(&earliest_cursor(dying).await);
                (told > begin).then_some(told)
            })
            .await;
            tokio::time::sleep(kill_after).await;
            dying.process.kill();
            told
        };
        let ((), told) = tokio::join!(ingest, kill);
        server = launch.start().await;
        // Trims go on meanwhile, so the reading itself says where it begins and what is gone.
        let request = v1::SubscribeRequest {
            on_gap: v1::OnGap::Skip.into(),
            ..to_head(earliest())
        };
        let mut reader = server.subscribe(request).await.unwrap();
        let mut last = place(&reader.confirmation().await.start_cursor);
        assert!(last >= told, "what went after {last} had gone up to {told}");
        begin = last;
        let mut events = Vec::new();
        loop {
            match reader.next().await.unwrap().expect("an ending comes first") {
                Message::Batch(batch) => events.extend(batch.events),
                Message::Gap(gap) => {
                    assert_eq!(gap.first_lost_sequence, last + 1);
                    last = gap.last_lost_sequence;
                }
                Message::Ending(_) => break,
                _ => {}
            }
            for event in events.drain(..) {
                assert_eq!(event.sequence, last + 1, "a hole");
                last = event.sequence;
                let number = fixtures::number(&event.event.as_ref().unwrap().uuid);
                let known = places.entry(number).or_insert(last);
                assert_eq!(*known, last, "event {number} has moved");
            }
        }
        let newest = places.values().max().copied().unwrap_or(0);
        assert!(last >= newest, "{last}, and {newest} was accepted");
    }
    say(&format!(
        "retention: {cycles} kills, each behind a trim; the journal begins after {begin}, {} events \
         were accepted",
        places.len()
    ));
}

#[tokio::test]
async fn pages_go_on_over_a_trim_with_what_is_kept() {
    let server = Server::start_configured(SMALL).await;
    accepted(&server.ingest(mixed(0, CALL)).await);
    let page = async |order: v1::ListOrder, page_token: String| {
        let request = v1::ListEventsRequest {
            filter: Some(everything()),
            order: order.into(),
            page_size: 60,
            page_token,
            ..v1::ListEventsRequest::default()
        };
        let answer = within(server.events().list_events(request)).await.unwrap();
        answer.into_inner()
    };
    let forwards = page(v1::ListOrder::OldestFirst, String::new()).await;
    assert_eq!(forwards.events.last().unwrap().sequence, 60);
    let next = fill_past(&server, CALL, 500).await;
    let begin = place(&earliest_cursor(&server).await);
    // The end was pinned to what was there, all of which has gone.
    let rest = page(v1::ListOrder::OldestFirst, forwards.next_page_token).await;
    assert!(
        rest.events.is_empty() && rest.next_page_token.is_empty(),
        "{rest:?}"
    );

    for (order, expected) in [
        (
            v1::ListOrder::OldestFirst,
            (begin + 1..=next).collect::<Vec<_>>(),
        ),
        (
            v1::ListOrder::NewestFirst,
            (begin + 1..=next).rev().collect(),
        ),
    ] {
        let mut listed = Vec::new();
        let mut token = String::new();
        loop {
            let page = page(order, token).await;
            listed.extend(page.events.iter().map(|event| event.sequence));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn a_trim_is_told_in_the_log_and_by_metrics() {
    let server = Server::start_configured(SMALL).await;
    fill_past(&server, 0, 1).await;
    let begin = place(&earliest_cursor(&server).await);
    let gauge = |text: &str, name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    };
    #[expect(clippy::cast_precision_loss, reason = "a few thousands")]
    let at_least = begin as f64 + 1.0;
    // Told one by one at the end of the look that trimmed.
    let text = eventually("the figures follow", async || {
        let text = server.metrics().await;
        let earliest = gauge(&text, "provident_journal_earliest_sequence");
        let trimmed = gauge(&text, "provident_trimmed_events_total");
        (earliest >= at_least && (earliest - 1.0 - trimmed).abs() < 0.5).then_some(text)
    })
    .await;
    assert!(gauge(&text, "provident_journal_disk_bytes") > 1e6);
    assert!(gauge(&text, "provident_journal_oldest_event_timestamp_seconds") > 1e9);

    let log = server.process.log_text();
    let line = log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["fields"]["message"] == "events were removed by retention").then_some(line)
    });
    let line = line.expect("a trim is told");
    assert_eq!(line["level"], "INFO");
    let fields = &line["fields"];
    assert_eq!(
        (&fields["first"], &fields["reason"]),
        (&1.into(), &"Size".into())
    );
    assert!(fields["last"].as_u64().is_some() && fields["freed_bytes"].as_u64().is_some());
}
