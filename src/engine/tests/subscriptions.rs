//! Named subscriptions against a journal in memory: what is durable when, who may commit what, and
//! who has to go.

use super::*;
use crate::engine::stream::StreamError;
use crate::engine::subscriptions::{ActiveReader, Snapshot, SubscriptionError};

fn named(id: &str, session: &str) -> Subscribe {
    Subscribe {
        reader: Reader::Subscription {
            id: id.to_owned(),
            session: session.to_owned(),
            name: format!("reader {session}"),
        },
        ..from_earliest(AtHead::Follow)
    }
}

/// Three events and a subscription `a` from the earliest on.
async fn with_subscription() -> Running {
    // Without a tail, reading is from the journal, as that of who is far behind.
    let running = start(EngineLimits {
        tail_bytes_max: 0,
        ..LIMITS
    })
    .await;
    ingest(&running.engine, &["x", "y", "z"]).await.unwrap();
    create(&running.engine, "a").await;
    running
}

/// More events than one batch has.
async fn ingest_many(engine: &Engine, count: usize) {
    let uuids: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    let uuids: Vec<_> = uuids.iter().map(String::as_str).collect();
    ingest(engine, &uuids).await.unwrap();
}

pub(super) async fn create(engine: &Engine, id: &str) -> Snapshot {
    let all = Filter::everything();
    let created = engine.subscriptions().create(id, &all, &Start::Earliest);
    created.await.unwrap()
}

async fn committed(engine: &Engine, id: &str) -> u64 {
    let found = engine.subscriptions().get(id).await.unwrap();
    found.stored.committed().get()
}

pub(super) async fn commit(
    engine: &Engine,
    session: &str,
    seq: u64,
) -> Result<(), SubscriptionError> {
    let cursor = engine.cursor(Seq::new(seq));
    engine.subscriptions().commit("a", session, &cursor).await
}

/// Opens a stream and reads all there is.
pub(super) async fn read_up(engine: &Engine, session: &str) -> EventStream {
    let mut stream = engine.subscribe(named("a", session)).await.unwrap();
    while !matches!(next(&mut stream).await, Delivery::CaughtUp { .. }) {}
    stream
}

#[tokio::test]
async fn a_session_commits_what_it_was_sent_and_never_back() {
    let running = with_subscription().await;
    let engine = &running.engine;
    let mut stream = engine.subscribe(named("a", "s1")).await.unwrap();
    assert!(matches!(
        commit(engine, "s1", 1).await,
        Err(SubscriptionError::Ahead { sent: Seq::ZERO })
    ));
    next(&mut stream).await;
    assert!(commit(engine, "s1", 1).await.is_err());
    assert_eq!(sequences(&next(&mut stream).await), [1, 2, 3]);
    commit(engine, "s1", 2).await.unwrap();
    commit(engine, "s1", 2).await.unwrap();
    assert_eq!(committed(engine, "a").await, 2);
    assert!(matches!(
        commit(engine, "s1", 1).await,
        Err(SubscriptionError::Behind { committed }) if committed == Seq::new(2)
    ));
    assert!(matches!(
        commit(engine, "s1", 4).await,
        Err(SubscriptionError::Ahead { sent }) if sent == Seq::new(3)
    ));
    for foreign in ["", "s0"] {
        assert!(matches!(
            commit(engine, foreign, 3).await,
            Err(SubscriptionError::Fenced)
        ));
    }
    // The next reader goes on behind the commit.
    drop(stream);
    let mut stream = engine.subscribe(named("a", "s2")).await.unwrap();
    next(&mut stream).await;
    assert_eq!(sequences(&next(&mut stream).await), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_s_cursor_may_be_committed_though_nothing_matched() {
    let running = start(LIMITS).await;
    let engine = &running.engine;
    let successes = Filter {
        verdicts: vec![Verdict::Success],
        ..Filter::default()
    };
    let subscriptions = engine.subscriptions();
    let created = subscriptions.create("a", &successes, &Start::Latest).await;
    created.unwrap();
    let mut stream = read_up(engine, "s1").await;
    ingest(engine, &["x", "y"]).await.unwrap();
    let heartbeat = next(&mut stream).await;
    let at = Seq::new(2);
    assert_eq!(heartbeat, Delivery::Heartbeat { at, head: at });
    commit(engine, "s1", 2).await.unwrap();
    assert_eq!(committed(engine, "a").await, 2);
}

#[tokio::test]
async fn the_next_reader_takes_over_and_the_one_before_can_do_nothing_more() {
    let running = with_subscription().await;
    let engine = &running.engine;
    let mut first = read_up(engine, "s1").await;
    let mut waiting = Box::pin(first.next());
    assert!(is_pending(&mut waiting).await);
    let mut second = engine.subscribe(named("a", "s2")).await.unwrap();
    assert!(matches!(waiting.await, Some(Err(StreamError::Fenced))));
    assert!(first.next().await.is_none());
    assert!(matches!(
        commit(engine, "s1", 1).await,
        Err(SubscriptionError::Fenced)
    ));
    // That the first one goes for good makes nobody forget the second.
    drop(first);
    let found = engine.subscriptions().get("a").await.unwrap();
    let since = Timestamp {
        seconds: 1000,
        nanos: 0,
    };
    let name = "reader s2".to_owned();
    assert_eq!(found.reader, Some(ActiveReader { name, since }));
    next(&mut second).await;
    assert_eq!(sequences(&next(&mut second).await), [1, 2, 3]);
    commit(engine, "s2", 3).await.unwrap();
    drop(second);
    assert_eq!(engine.subscriptions().get("a").await.unwrap().reader, None);
}

#[tokio::test]
async fn a_fenced_reader_is_sent_nothing_more_of_what_waits() {
    let running = start(LIMITS).await;
    let engine = &running.engine;
    create(engine, "a").await;
    ingest_many(engine, 150).await;
    let mut first = engine.subscribe(named("a", "s1")).await.unwrap();
    next(&mut first).await;
    assert_eq!(sequences(&next(&mut first).await).len(), 100);
    let _second = engine.subscribe(named("a", "s2")).await.unwrap();
    assert!(matches!(first.next().await, Some(Err(StreamError::Fenced))));
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_and_shown_only_when_it_is_durable() {
    let running = with_subscription().await;
    let engine = running.engine.clone();
    let _stream = read_up(&engine, "s1").await;
    running.fault.hold(Hold::BeforeWrite);
    let mut committing = Box::pin(commit(&engine, "s1", 3));
    assert!(is_pending(&mut committing).await);
    assert_eq!(committed(&engine, "a").await, 0);
    running.fault.release();
    committing.await.unwrap();
    assert_eq!(committed(&engine, "a").await, 3);

    running.fault.fail_append(1, AppendFailure::Fault);
    let _stream = engine.subscribe(named("a", "s2")).await;
    assert!(matches!(
        commit(&engine, "s2", 3).await,
        Err(SubscriptionError::Append(_))
    ));
}

#[tokio::test]
async fn a_session_outlives_a_restart_until_the_next_reader() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    let running = start_on(Arc::clone(&memory), LIMITS, 1000).await;
    ingest(&running.engine, &["x", "y", "z"]).await.unwrap();
    create(&running.engine, "a").await;
    let stream = read_up(&running.engine, "s1").await;
    commit(&running.engine, "s1", 1).await.unwrap();
    running.stop.cancel();
    running.writer.await.unwrap().unwrap();
    // Nothing more is written, as by a kill.
    drop(stream);

    let running = start_on(memory, LIMITS, 2000).await;
    let engine = &running.engine;
    assert_eq!(committed(engine, "a").await, 1);
    commit(engine, "s1", 3).await.unwrap();
    // What came since was sent to nobody.
    ingest(engine, &["later"]).await.unwrap();
    assert!(matches!(
        commit(engine, "s1", 4).await,
        Err(SubscriptionError::Ahead { .. })
    ));
    let _stream = read_up(engine, "s2").await;
    assert!(matches!(
        commit(engine, "s1", 4).await,
        Err(SubscriptionError::Fenced)
    ));
    commit(engine, "s2", 4).await.unwrap();
}

#[tokio::test]
async fn another_filter_ends_the_stream_as_planned_and_the_same_one_does_not() {
    let running = with_subscription().await;
    let engine = &running.engine;
    let before = engine.subscriptions().get("a").await.unwrap();
    let mut stream = read_up(engine, "s1").await;
    let same = engine
        .subscriptions()
        .set_filter("a", &Filter::everything(), &before.stored.etag())
        .await
        .unwrap();
    assert_eq!(same.stored.etag(), before.stored.etag());
    let mut waiting = Box::pin(stream.next());
    assert!(is_pending(&mut waiting).await);

    let failures = Filter {
        verdicts: vec![Verdict::Failure],
        ..Filter::default()
    };
    let changed = engine.subscriptions().set_filter("a", &failures, "").await;
    assert_ne!(changed.unwrap().stored.etag(), before.stored.etag());
    let ending = Delivery::Ending {
        at: Seq::new(3),
        reason: Ending::SubscriptionChanged,
    };
    assert_eq!(waiting.await.unwrap().unwrap(), ending);
    // What it was sent may be committed still.
    commit(engine, "s1", 3).await.unwrap();
    let outdated = engine
        .subscriptions()
        .set_filter("a", &Filter::everything(), &before.stored.etag())
        .await;
    assert!(matches!(outdated, Err(SubscriptionError::EtagOutdated)));
    let stream = engine.subscribe(named("a", "s2")).await.unwrap();
    assert_eq!(stream.filter(), &failures);
}

#[tokio::test]
async fn a_filter_that_changes_leaves_out_what_the_old_one_had_chosen() {
    let running = start(LIMITS).await;
    let engine = &running.engine;
    create(engine, "a").await;
    ingest_many(engine, 150).await;
    let mut stream = engine.subscribe(named("a", "s1")).await.unwrap();
    next(&mut stream).await;
    next(&mut stream).await;
    let usual = Filter::default();
    let set = engine.subscriptions().set_filter("a", &usual, "");
    set.await.unwrap();
    // Up to the last one that was sent, not to the last one that was looked at.
    let ending = Delivery::Ending {
        at: Seq::new(100),
        reason: Ending::SubscriptionChanged,
    };
    assert_eq!(next(&mut stream).await, ending);
}

#[tokio::test]
async fn a_seek_moves_the_place_both_ways_and_throws_the_reader_off() {
    let running = with_subscription().await;
    let engine = &running.engine;
    for (session, start, place) in [
        ("s1", Start::Latest, 3),
        ("s2", Start::Cursor(engine.cursor(Seq::new(1))), 1),
        ("s3", Start::Earliest, 0),
    ] {
        let mut stream = read_up(engine, session).await;
        let moved = engine.subscriptions().seek("a", &start).await.unwrap();
        assert_eq!(moved.stored.committed().get(), place);
        assert!(matches!(
            stream.next().await,
            Some(Err(StreamError::Fenced))
        ));
        assert!(matches!(
            commit(engine, session, 3).await,
            Err(SubscriptionError::Fenced)
        ));
    }
}

#[tokio::test]
async fn a_deleted_one_is_gone_and_one_of_the_same_name_is_another() {
    let running = with_subscription().await;
    let engine = &running.engine;
    let before = engine.subscriptions().get("a").await.unwrap();
    let mut stream = read_up(engine, "s1").await;
    running.now.store(1001, Ordering::SeqCst);
    engine.subscriptions().delete("a").await.unwrap();
    assert!(matches!(
        next(&mut stream).await,
        Delivery::Ending {
            reason: Ending::SubscriptionChanged,
            ..
        }
    ));
    let no_name = ["a", "b", "", "A b"];
    for id in no_name {
        let gone = engine.subscriptions().get(id).await;
        assert!(matches!(gone, Err(SubscriptionError::NotFound { .. })));
        let gone = engine.subscriptions().delete(id).await;
        assert!(matches!(gone, Err(SubscriptionError::NotFound { .. })));
    }
    assert!(matches!(
        engine.subscribe(named("a", "s2")).await,
        Err(SubscribeError::Subscription(
            SubscriptionError::NotFound { .. }
        ))
    ));
    create(engine, "a").await;
    assert!(matches!(
        commit(engine, "s1", 3).await,
        Err(SubscriptionError::Fenced)
    ));
    let after = engine.subscriptions().get("a").await.unwrap();
    assert_ne!(after.stored.etag(), before.stored.etag());
    // The stream of the one before goes at last, and takes nothing of the new one with it.
    let _reader = read_up(engine, "s3").await;
    drop(stream);
    let found = engine.subscriptions().get("a").await.unwrap();
    assert!(found.reader.is_some());
}

#[tokio::test]
async fn names_and_limits_are_kept() {
    let running = with_subscription().await;
    let subscriptions = running.engine.subscriptions();
    let all = Filter::everything();
    let again = subscriptions.create("a", &all, &Start::Latest).await;
    assert!(matches!(again, Err(SubscriptionError::Exists { .. })));
    let bad = subscriptions.create("A", &all, &Start::Latest).await;
    assert!(matches!(bad, Err(SubscriptionError::Id(_))));
    let ahead = Start::Cursor(running.engine.cursor(Seq::new(9)));
    let ahead = subscriptions.create("b", &all, &ahead).await;
    assert!(matches!(ahead, Err(SubscriptionError::Place(_))));
    let large = Filter {
        user_ids: vec!["u".repeat(500); 3],
        ..Filter::default()
    };
    let too_large = subscriptions.create("b", &large, &Start::Latest).await;
    assert!(matches!(
        too_large,
        Err(SubscriptionError::FilterTooLarge {
            bytes_max: 1024,
            ..
        })
    ));
    let too_large = subscriptions.set_filter("a", &large, "").await;
    assert!(matches!(
        too_large,
        Err(SubscriptionError::FilterTooLarge { .. })
    ));
    create(&running.engine, "c").await;
    create(&running.engine, "ab").await;
    let full = subscriptions.create("d", &all, &Start::Latest).await;
    assert!(matches!(
        full,
        Err(SubscriptionError::TooMany {
            subscriptions_max: 3
        })
    ));
    let (page, more) = subscriptions.list("", 2).await.unwrap();
    let names: Vec<_> = page.iter().map(|found| found.id.as_str()).collect();
    assert_eq!((names, more), (vec!["a", "ab"], true));
    let (page, more) = subscriptions.list("ab", 2).await.unwrap();
    assert_eq!((page[0].id.as_str(), page.len(), more), ("c", 1, false));
    // `a` is a beginning of `ab`, and another.
    assert_eq!(subscriptions.get("a").await.unwrap().id, "a");
}

#[tokio::test]
async fn what_lies_behind_is_counted_in_events_that_are_kept_and_in_seconds() {
    let running = with_subscription().await;
    let engine = &running.engine;
    running.now.store(1100, Ordering::SeqCst);
    let found = engine.subscriptions().get("a").await.unwrap();
    assert_eq!(
        (found.lag_events, found.lag),
        (3, Some(Duration::from_secs(100)))
    );
    ingest(engine, &["later"]).await.unwrap();
    running.journal.trim(Seq::new(4)).await.unwrap();
    running.now.store(1107, Ordering::SeqCst);
    let found = engine.subscriptions().get("a").await.unwrap();
    assert_eq!(
        (found.lag_events, found.lag),
        (1, Some(Duration::from_secs(7)))
    );
    // Nothing is passed over in silence.
    let refused = engine.subscribe(named("a", "s1")).await;
    assert!(matches!(
        refused,
        Err(SubscribeError::Subscription(SubscriptionError::Read(
            ReadError::Trimmed { .. }
        )))
    ));
    let skip = Subscribe {
        on_gap: OnGap::Skip,
        ..named("a", "s2")
    };
    let mut stream = engine.subscribe(skip).await.unwrap();
    next(&mut stream).await;
    assert!(matches!(next(&mut stream).await, Delivery::Gap { .. }));
    commit(engine, "s2", 3).await.unwrap();
    assert_eq!(sequences(&next(&mut stream).await), [4]);
    commit(engine, "s2", 4).await.unwrap();
    let found = engine.subscriptions().get("a").await.unwrap();
    assert_eq!((found.lag_events, found.lag), (0, Some(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_deleted_and_what_is_read_is_not() {
    let running = with_subscription().await;
    let engine = running.engine.clone();
    create(&engine, "b").await;
    create(&engine, "c").await;
    let _reader = engine.subscribe(named("a", "s1")).await.unwrap();
    drop(engine.subscribe(named("b", "s2")).await.unwrap());
    let sweep = spawn(engine.subscriptions().clone().sweep(running.stop.clone()));
    let names = async |at: i64| {
        running.now.store(at, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let (page, _) = engine.subscriptions().list("", 10).await.unwrap();
        page.into_iter().map(|found| found.id).collect::<Vec<_>>()
    };
    assert_eq!(names(1999).await, ["a", "b", "c"]);
    // The reader of `a` stayed, which was noted; so a restart now would not delete it either.
    let noted = engine.subscriptions().get("a").await.unwrap();
    assert_eq!(noted.stored.activity_time().unwrap().seconds, 1999);
    assert_eq!(names(2000).await, ["a"]);
    assert_eq!(names(9000).await, ["a"]);
    running.stop.cancel();
    sweep.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_service_was_away_is_no_time_of_no_use() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    let before = start_on(Arc::clone(&memory), LIMITS, 1000).await;
    create(&before.engine, "a").await;
    let running = start_on(memory, LIMITS, 50_000).await;
    let subscriptions = running.engine.subscriptions();
    let sweep = spawn(subscriptions.clone().sweep(running.stop.clone()));
    for (at, expected) in [(50_000, 1), (50_999, 1), (51_000, 0)] {
        running.now.store(at, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let (page, _) = subscriptions.list("", 10).await.unwrap();
        assert_eq!(page.len(), expected, "{at}");
    }
    running.stop.cancel();
    sweep.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_damaged_record_hides_no_subscription() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    append_damaged(&memory, 1).await;
    let running = start_on(memory, LIMITS, 1000).await;
    let made = create(&running.engine, "a").await;
    assert_eq!((made.lag_events, made.lag), (1, None));
    let (page, _) = running.engine.subscriptions().list("", 10).await.unwrap();
    assert_eq!(page.len(), 1);
}

#[tokio::test]
async fn a_full_disk_holds_up_no_commit_in_the_same_batch() {
    let running = with_subscription().await;
    let engine = running.engine.clone();
    let _stream = read_up(&engine, "s1").await;
    // All that queues behind this one is one batch.
    running.fault.hold(Hold::BeforeAnswer);
    let other = engine.clone();
    let blocker = spawn(async move { commit(&other, "s1", 1).await });
    running.fault.held(Hold::BeforeAnswer).await;
    running.fault.set_full(true);
    let other = engine.clone();
    let refused = spawn(async move { ingest(&other, &["late"]).await });
    let mut committing = Box::pin(commit(&engine, "s1", 3));
    assert!(is_pending(&mut committing).await);
    running.fault.release();
    blocker.await.unwrap().unwrap();
    committing.await.unwrap();
    assert!(matches!(
        refused.await.unwrap(),
        Err(IngestError::Append(AppendError::StorageFull { .. }))
    ));
    assert_eq!(committed(&engine, "a").await, 3);
}

#[tokio::test]
async fn of_changes_in_one_batch_the_last_one_counts() {
    let running = with_subscription().await;
    let engine = running.engine.clone();
    let _stream = read_up(&engine, "s1").await;
    running.fault.hold(Hold::BeforeAnswer);
    let before = running.fault.appends();
    let commits: Vec<_> = (1..=3)
        .map(|seq| {
            let engine = engine.clone();
            spawn(async move { commit(&engine, "s1", seq).await })
        })
        .collect();
    running.fault.held(Hold::BeforeAnswer).await;
    running.fault.release();
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    assert_eq!(running.fault.appends(), before + 1);
    assert_eq!(committed(&engine, "a").await, 3);
}
