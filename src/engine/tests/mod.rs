//! The engine against journals in memory that are slow, full or broken on purpose, and against a
//! model over random histories.

mod retention;
mod subscriptions;

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::{JoinHandle, JoinSet};

use super::stream::Delivery;
use super::*;
use crate::domain::classification::Verdict;
use crate::domain::classify::Classifier;
use crate::engine::intake::Keep;
use crate::engine::rejects::RejectFile;
use crate::engine::stream::{Ending, StreamError};
use crate::journal::fault::{AppendFailure, FaultControl, FaultJournal, Hold, ReadFailure};
use crate::journal::memory::MemoryJournal;
use crate::journal::{Batch, DedupeKey, Entry};
use crate::okta::org::{DEFAULT_ORG, Orgs};
use crate::telemetry::trace;

const JOURNAL: JournalId = JournalId {
    id: [9; 8],
    epoch: 1,
};

const LIMITS: EngineLimits = EngineLimits {
    writer: WriterLimits {
        queue_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        write_timeout: Duration::from_mins(1),
    },
    tail_bytes_max: 1 << 20,
    read_ahead_bytes_max: 1 << 20,
    subscriptions: SubscriptionLimits {
        subscriptions_max: 3,
        filter_bytes_max: 1024,
        expire_after: Some(Duration::from_secs(1000)),
    },
    streams_max: 100,
    stream_age_max: None,
    scan_records_max: 1000,
    events_per_call_max: 1000,
};

/// An engine whose writer runs, its journal, and how to break that.
struct Running {
    engine: Engine,
    journal: Arc<FaultJournal<Arc<MemoryJournal>>>,
    fault: FaultControl,
    writer: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    now: Arc<AtomicI64>,
}

async fn start(limits: EngineLimits) -> Running {
    start_on(Arc::new(MemoryJournal::new(JOURNAL)), limits, 1_000).await
}

async fn start_on(memory: Arc<MemoryJournal>, limits: EngineLimits, now: i64) -> Running {
    let (journal, fault) = FaultJournal::new(memory);
    let journal = Arc::new(journal);
    let now = Arc::new(AtomicI64::new(now));
    let on = Arc::<FaultJournal<_>>::clone(&journal);
    let (engine, writer) = engine_on(on, limits, &now).await;
    let stop = CancellationToken::new();
    let writer = spawn(writer.run(stop.clone()));
    Running {
        engine,
        journal,
        fault,
        writer,
        stop,
        now,
    }
}

/// An engine whose clock shows `now`, in seconds, and its writer.
async fn engine_on(
    journal: Arc<dyn Journal>,
    limits: EngineLimits,
    now: &Arc<AtomicI64>,
) -> (Engine, Writer) {
    let preparation = Preparation {
        classifier: Classifier::embedded(),
        orgs: Orgs::default(),
        keep: Keep::Provisioning,
        event_bytes_max: 512 * 1024,
    };
    let time = Arc::clone(now);
    let clock = Clock::from_fn(move || Timestamp {
        seconds: time.load(Ordering::SeqCst),
        nanos: 0,
    });
    let preparation = Arc::new(preparation);
    let opened = Engine::new(journal, preparation, RejectFile::none(), clock, limits);
    opened.await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test waits for what it starts")]
fn spawn<F: Future<Output: Send> + Send + 'static>(task: F) -> JoinHandle<F::Output> {
    tokio::spawn(task)
}

fn json(uuid: &str, event_type: &str, result: &str) -> Input {
    let json = format!(
        r#"{{"uuid":"{uuid}","eventType":"{event_type}","outcome":{{"result":"{result}"}}}}"#
    );
    Input::Json(json.into())
}

const PUSH: &str = "application.provision.user.push";

async fn ingest(engine: &Engine, uuids: &[&str]) -> Result<Vec<Ingested>, IngestError> {
    let inputs = uuids.iter().map(|uuid| json(uuid, PUSH, "FAILURE"));
    engine.ingest("", inputs, Intake::Grpc).await
}

fn from_earliest(at_head: AtHead) -> Subscribe {
    Subscribe {
        reader: Reader::Unnamed {
            start: Start::Earliest,
            filter: Filter::everything(),
        },
        heartbeat: Duration::from_secs(10),
        on_gap: OnGap::Fail,
        at_head,
        raw: RawPart::Withheld,
    }
}

async fn next(stream: &mut EventStream) -> Delivery {
    stream.next().await.expect("not over").expect("readable")
}

fn sequences(delivery: &Delivery) -> Vec<u64> {
    match delivery {
        Delivery::Batch(events) => events.iter().map(|event| event.seq.get()).collect(),
        other => panic!("{other:?} instead of a batch"),
    }
}

/// Whether a future has not ended after everything that can run has run.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    futures_util::future::poll_immediate(future).await.is_none()
}

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_or_shown_an_event_before_the_flush() {
    for hold in [Hold::BeforeWrite, Hold::BeforeAnswer] {
        let running = start(LIMITS).await;
        let mut stream = running
            .engine
            .subscribe(from_earliest(AtHead::Follow))
            .await
            .unwrap();
        assert!(matches!(
            next(&mut stream).await,
            Delivery::Confirmation { .. }
        ));
        assert!(matches!(next(&mut stream).await, Delivery::CaughtUp { .. }));

        running.fault.hold(hold);
        let engine = running.engine.clone();
        let mut answer = spawn(async move { ingest(&engine, &["a"]).await });
        running.fault.held(hold).await;
        assert!(
            is_pending(&mut answer).await,
            "answered before the flush ({hold:?})"
        );
        let mut shown = Box::pin(stream.next());
        assert!(
            is_pending(&mut shown).await,
            "shown before the flush ({hold:?})"
        );
        let list = running.engine.list(all()).await.unwrap();
        assert!(list.events.is_empty(), "listed before the flush ({hold:?})");
        let key = Which::Key {
            org: String::new(),
            uuid: "a".into(),
        };
        let got = running.engine.get(key.clone()).await;
        assert!(
            matches!(got, Err(GetError::NotFound)),
            "given before the flush ({hold:?})"
        );

        running.fault.release();
        let answer = answer.await.unwrap().unwrap();
        assert!(matches!(
            answer[0].outcome,
            Outcome::Accepted {
                seq: Seq::FIRST,
                ..
            }
        ));
        assert_eq!(sequences(&shown.await.unwrap().unwrap()), [1]);
        assert_eq!(running.engine.get(key).await.unwrap().seq, Seq::FIRST);
    }
}

fn all() -> List {
    List {
        filter: Filter::everything(),
        start: None,
        end: None,
        direction: Direction::OldestFirst,
        events_max: 100,
        raw: RawPart::Withheld,
        rest: None,
    }
}

#[tokio::test]
async fn what_queues_during_a_flush_is_one_batch() {
    let running = start(LIMITS).await;
    running.fault.hold(Hold::BeforeWrite);
    let mut calls = JoinSet::new();
    for call in 0..20 {
        let engine = running.engine.clone();
        calls.spawn(async move { ingest(&engine, &[&format!("u{call}")]).await.unwrap() });
        if call == 0 {
            running.fault.held(Hold::BeforeWrite).await;
        }
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    running.fault.release();
    assert_eq!(calls.join_all().await.len(), 20);
    assert_eq!(running.fault.appends(), 2);
}

#[tokio::test]
async fn a_full_queue_refuses_the_whole_call_and_takes_the_next() {
    let limits = EngineLimits {
        writer: WriterLimits {
            queue_bytes_max: 1500,
            ..LIMITS.writer
        },
        ..LIMITS
    };
    let running = start(limits).await;
    running.fault.hold(Hold::BeforeWrite);
    let engine = running.engine.clone();
    let first = spawn(async move { ingest(&engine, &["a", "b"]).await });
    running.fault.held(Hold::BeforeWrite).await;
    let refused = ingest(&running.engine, &["c", "d"]).await;
    assert!(
        matches!(refused, Err(IngestError::Append(AppendError::Overloaded))),
        "{refused:?}"
    );
    running.fault.release();
    first.await.unwrap().unwrap();
    let answer = ingest(&running.engine, &["c"]).await.unwrap();
    assert!(
        matches!(answer[0].outcome, Outcome::Accepted { .. }),
        "nothing of it was kept"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_and_intake_goes_on_by_itself() {
    let running = start(LIMITS).await;
    running.fault.set_full(true);
    let refused = ingest(&running.engine, &["a"]).await;
    assert!(matches!(
        refused,
        Err(IngestError::Append(AppendError::StorageFull { .. }))
    ));
    running.fault.set_full(false);
    let answer = ingest(&running.engine, &["a"]).await.unwrap();
    assert!(matches!(
        answer[0].outcome,
        Outcome::Accepted {
            seq: Seq::FIRST,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_append_is_noticed_while_nobody_appends() {
    let running = start(LIMITS).await;
    let watched = || Arc::<FaultJournal<_>>::clone(&running.journal);
    let stop = CancellationToken::new();
    let limit = LIMITS.writer.write_timeout;
    let watch = spawn(super::writer::watch(watched(), limit, stop.clone()));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!watch.is_finished());
    running.fault.fail_append(1, AppendFailure::Fault);
    running.journal.append(Batch::default()).await.unwrap_err();
    watch.await.unwrap().unwrap_err();
    stop.cancel();
    super::writer::watch(watched(), limit, stop).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_does_not_end_is_a_failed_one() {
    for hold in [Hold::BeforeWrite, Hold::BeforeAnswer] {
        let running = start(LIMITS).await;
        running.fault.hold(hold);
        let refused = ingest(&running.engine, &["a"]).await;
        assert!(matches!(
            refused,
            Err(IngestError::Append(AppendError::OutcomeUnknown))
        ));
        let failed = running.writer.await.unwrap().unwrap_err();
        let said = format!("{failed:#}");
        assert!(said.contains("a write had not ended after 60s"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_does_not_answer_is_noticed_while_nobody_appends() {
    let running = start(LIMITS).await;
    let journal = Arc::<FaultJournal<_>>::clone(&running.journal);
    running.fault.hold(Hold::BeforeWrite);
    let limit = LIMITS.writer.write_timeout;
    let watch = super::writer::watch(journal, limit, CancellationToken::new());
    watch.await.unwrap_err();
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_taken_and_the_writer_ends() {
    for failure in [AppendFailure::Fault, AppendFailure::OutcomeUnknown] {
        let running = start(LIMITS).await;
        running.fault.fail_append(1, failure);
        let refused = ingest(&running.engine, &["a"]).await;
        assert!(matches!(
            refused,
            Err(IngestError::Append(AppendError::OutcomeUnknown))
        ));
        running.writer.await.unwrap().unwrap_err();
        let refused = ingest(&running.engine, &["b"]).await;
        assert!(matches!(
            refused,
            Err(IngestError::Append(AppendError::ShuttingDown))
        ));
    }
}

/// The call with an event whose key is damaged is refused; what queued with it, before and after it,
/// is written in its order, and so is what comes later.
#[tokio::test]
async fn a_damaged_key_refuses_its_call_and_holds_up_no_other() {
    let running = start(LIMITS).await;
    running
        .fault
        .damage_key(identity::dedupe_key(DEFAULT_ORG, "damaged"));
    running.fault.hold(Hold::BeforeWrite);
    let calls = [&["a"][..], &["b"], &["c", "damaged"], &["d"]];
    let mut answers = Vec::new();
    for uuids in calls {
        let engine = running.engine.clone();
        answers.push(spawn(async move { ingest(&engine, uuids).await }));
        running.fault.held(Hold::BeforeWrite).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    running.fault.release();
    let mut places = Vec::new();
    for answer in answers {
        match answer.await.unwrap() {
            Ok(ingested) => places.extend(ingested.iter().map(|event| match event.outcome {
                Outcome::Accepted { seq, .. } => seq.get(),
                ref other => panic!("{other:?}"),
            })),
            Err(IngestError::Append(AppendError::Damaged { uuid, .. })) => {
                assert_eq!(uuid, "damaged");
                places.push(0);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(places, [1, 2, 0, 3]);
    // The first alone, the others together, and again without the one to blame.
    assert_eq!(running.fault.appends(), 3);
    let answer = ingest(&running.engine, &["c"]).await.unwrap();
    assert!(
        matches!(answer[0].outcome, Outcome::Accepted { seq, .. } if seq.get() == 4),
        "nothing of the refused call was written"
    );
}

#[tokio::test]
async fn a_stop_writes_what_had_queued() {
    let running = start(LIMITS).await;
    running.fault.hold(Hold::BeforeWrite);
    let calls: Vec<_> = ["a", "b"]
        .map(|uuid| {
            let engine = running.engine.clone();
            spawn(async move { ingest(&engine, &[uuid]).await })
        })
        .into();
    running.fault.held(Hold::BeforeWrite).await;
    running.stop.cancel();
    running.fault.release();
    for call in calls {
        assert!(matches!(
            call.await.unwrap().unwrap()[0].outcome,
            Outcome::Accepted { .. }
        ));
    }
    running.writer.await.unwrap().unwrap();
    let refused = ingest(&running.engine, &["c"]).await;
    assert!(matches!(
        refused,
        Err(IngestError::Append(AppendError::ShuttingDown))
    ));
}

#[tokio::test]
async fn append_times_never_go_back_even_over_a_restart() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    let times = async |running: &Running| {
        let page = running.engine.list(all()).await.unwrap();
        page.events
            .iter()
            .map(|event| event.append_time.to_timestamp().seconds)
            .collect::<Vec<_>>()
    };
    let running = start_on(Arc::clone(&memory), LIMITS, 100).await;
    ingest(&running.engine, &["a"]).await.unwrap();
    running.now.store(50, Ordering::SeqCst);
    ingest(&running.engine, &["b"]).await.unwrap();
    assert_eq!(times(&running).await, [100, 100]);
    let restarted = start_on(memory, LIMITS, 70).await;
    ingest(&restarted.engine, &["c"]).await.unwrap();
    restarted.now.store(170, Ordering::SeqCst);
    ingest(&restarted.engine, &["d"]).await.unwrap();
    assert_eq!(times(&restarted).await, [100, 100, 100, 170]);
    for (time, expected) in [(100, 0), (101, 3), (170, 3), (171, 4)] {
        let time = AppendTime::from_timestamp(Timestamp {
            seconds: time,
            nanos: 0,
        });
        let seq = query::last_before(&*restarted.journal, time).await.unwrap();
        assert_eq!(seq, Seq::new(expected), "{time:?}");
    }
}

/// Appends what is no record.
async fn append_damaged(memory: &MemoryJournal, number: u8) {
    let entry = Entry {
        key: DedupeKey([number; 16]),
        fingerprint: Fingerprint([number; 17]),
        record: Bytes::from_static(b"no record"),
    };
    let entries = vec![entry];
    let state = Vec::new();
    memory.append(Batch { entries, state }).await.unwrap();
}

#[tokio::test]
async fn what_lies_before_a_damaged_record_is_given() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    let before = start_on(Arc::clone(&memory), LIMITS, 100).await;
    ingest(&before.engine, &["a", "b"]).await.unwrap();
    append_damaged(&memory, 1).await;
    let running = start_on(Arc::clone(&memory), LIMITS, 200).await;
    let engine = &running.engine;
    let mut stream = engine.subscribe(from_earliest(AtHead::Stop)).await.unwrap();
    next(&mut stream).await;
    assert_eq!(sequences(&next(&mut stream).await), [1, 2]);
    let damage = stream.next().await.unwrap();
    assert!(matches!(
        damage,
        Err(StreamError::Read(ReadError::Corrupt { seq, .. })) if seq.get() == 3
    ));
    let page = engine.list(all()).await.unwrap();
    assert_eq!(page.events.len(), 2);
    let rest = List {
        rest: page.rest,
        ..all()
    };
    assert!(engine.list(rest).await.is_err());
}

#[tokio::test]
async fn damage_hides_no_place_of_another_time() {
    let memory = Arc::new(MemoryJournal::new(JOURNAL));
    let mut damaged = 0;
    for (time, damaged_after) in [(100, 1), (200, 3), (300, 1)] {
        let running = start_on(Arc::clone(&memory), LIMITS, time).await;
        ingest(&running.engine, &[&format!("at {time}")])
            .await
            .unwrap();
        for _ in 0..damaged_after {
            damaged += 1;
            append_damaged(&memory, damaged).await;
        }
    }
    // Events at 1, 3 and 7; what is damaged before one counts as old as that.
    for (time, expected) in [(100, 0), (101, 1), (200, 1), (201, 3), (300, 3), (301, 7)] {
        let time = AppendTime::from_timestamp(Timestamp {
            seconds: time,
            nanos: 0,
        });
        let seq = query::last_before(&*memory, time).await.unwrap();
        assert_eq!(seq, Seq::new(expected), "{time:?}");
    }
}

#[tokio::test]
async fn a_known_uuid_with_another_type_or_time_is_a_conflict() {
    let running = start(LIMITS).await;
    let inputs = vec![
        json("a", PUSH, "FAILURE"),
        json("A", PUSH, "SUCCESS"),
        json("a", "application.provision.user.deactivate", "FAILURE"),
    ];
    let outcomes = running
        .engine
        .ingest("", inputs, Intake::Grpc)
        .await
        .unwrap();
    let outcomes: Vec<_> = outcomes.iter().map(|ingested| &ingested.outcome).collect();
    assert!(matches!(
        outcomes[0],
        Outcome::Accepted {
            seq: Seq::FIRST,
            ..
        }
    ));
    assert!(matches!(
        outcomes[1],
        Outcome::Duplicate {
            seq: Seq::FIRST,
            ..
        }
    ));
    let conflict = Rejection::Conflict { field: "eventType" };
    assert!(matches!(outcomes[2], Outcome::Rejected(rejection) if *rejection == conflict));
}

#[tokio::test]
async fn what_is_filtered_leaves_no_trace() {
    let running = start(LIMITS).await;
    let outcomes = running
        .engine
        .ingest(
            "",
            vec![json("a", "user.session.start", "SUCCESS")],
            Intake::Grpc,
        )
        .await
        .unwrap();
    assert!(matches!(outcomes[0].outcome, Outcome::Filtered { .. }));
    // Under another type it would be a conflict, had it left one.
    let answer = ingest(&running.engine, &["a"]).await.unwrap();
    assert!(matches!(answer[0].outcome, Outcome::Accepted { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_event_wakes_whoever_waits_for_it() {
    let running = start(LIMITS).await;
    let mut stream = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    while !matches!(next(&mut stream).await, Delivery::CaughtUp { .. }) {}
    for number in 1..=3 {
        let mut waiting = Box::pin(stream.next());
        assert!(is_pending(&mut waiting).await);
        // The clock stands still while anything can run: nobody waits for a heartbeat.
        let begun = tokio::time::Instant::now();
        ingest(&running.engine, &[&number.to_string()])
            .await
            .unwrap();
        let delivery = waiting.await.unwrap().unwrap();
        assert_eq!(sequences(&delivery), [number]);
        assert_eq!(tokio::time::Instant::now(), begun);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_reader_costs_nobody_anything_and_misses_nothing() {
    for read_ahead_bytes_max in [0, 40_000, 1 << 20] {
        // The ring holds a few events only, so the reader has to go back to the journal.
        let running = start(EngineLimits {
            tail_bytes_max: 2000,
            read_ahead_bytes_max,
            ..LIMITS
        })
        .await;
        check_stuck_reader(running).await;
    }
}

async fn check_stuck_reader(running: Running) {
    let mut stuck = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    next(&mut stuck).await;
    let mut lively = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    next(&mut lively).await;
    assert!(matches!(next(&mut lively).await, Delivery::CaughtUp { .. }));
    for round in 0..500 {
        ingest(&running.engine, &[&format!("u{round}")])
            .await
            .unwrap();
        assert_eq!(sequences(&next(&mut lively).await), [round + 1]);
    }
    let mut seen = Vec::new();
    while seen.len() < 500 {
        let batch = sequences(&next(&mut stuck).await);
        assert!(batch.len() <= stream::BATCH_EVENTS_MAX);
        seen.extend(batch);
    }
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
    assert_eq!(
        next(&mut stuck).await,
        Delivery::CaughtUp { at: Seq::new(500) }
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_move_though_nothing_matches() {
    let running = start(LIMITS).await;
    let filter = Filter {
        verdicts: vec![Verdict::Success],
        ..Filter::default()
    };
    let asked = Subscribe {
        reader: Reader::Unnamed {
            start: Start::Earliest,
            filter,
        },
        ..from_earliest(AtHead::Follow)
    };
    let mut stream = running.engine.subscribe(asked).await.unwrap();
    next(&mut stream).await;
    assert_eq!(
        next(&mut stream).await,
        Delivery::CaughtUp { at: Seq::ZERO }
    );
    ingest(&running.engine, &["a", "b"]).await.unwrap();
    let before = tokio::time::Instant::now();
    let heartbeat = next(&mut stream).await;
    assert_eq!(
        heartbeat,
        Delivery::Heartbeat {
            at: Seq::new(2),
            head: Seq::new(2)
        }
    );
    assert_eq!(before.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_while_events_do_and_never_pass_an_unsent_one() {
    // From the journal, a reader takes more than one batch at once: the rest waits unsent.
    let running = start(EngineLimits {
        tail_bytes_max: 0,
        ..LIMITS
    })
    .await;
    let mut stream = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    next(&mut stream).await;
    ingest(&running.engine, &["a"]).await.unwrap();
    let uuids: Vec<_> = (0..150).map(|event| format!("u{event}")).collect();
    ingest(
        &running.engine,
        &uuids.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await
    .unwrap();
    let mut seen = sequences(&next(&mut stream).await);
    tokio::time::advance(Duration::from_secs(10)).await;
    let sent = Seq::new(*seen.last().unwrap());
    assert_eq!(
        next(&mut stream).await,
        Delivery::Heartbeat {
            at: sent,
            head: Seq::new(151)
        }
    );
    seen.extend(sequences(&next(&mut stream).await));
    assert_eq!(seen, (1..=151).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_drain_ends_streams_where_they_are_and_refuses_calls() {
    let running = start(LIMITS).await;
    let mut stream = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    ingest(&running.engine, &["a"]).await.unwrap();
    next(&mut stream).await;
    assert_eq!(sequences(&next(&mut stream).await), [1]);
    running.engine.drain();
    let ending = Delivery::Ending {
        at: Seq::FIRST,
        reason: Ending::Drain,
    };
    assert_eq!(next(&mut stream).await, ending);
    assert!(stream.next().await.is_none());
    let refused = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await;
    assert!(matches!(refused, Err(SubscribeError::ShuttingDown)));
    let refused = ingest(&running.engine, &["b"]).await;
    assert!(matches!(
        refused,
        Err(IngestError::Append(AppendError::ShuttingDown))
    ));
}

#[tokio::test(start_paused = true)]
async fn an_old_stream_ends_as_planned() {
    let age = Some(Duration::from_secs(15));
    let running = start(EngineLimits {
        stream_age_max: age,
        ..LIMITS
    })
    .await;
    let mut stream = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    next(&mut stream).await;
    assert!(matches!(next(&mut stream).await, Delivery::CaughtUp { .. }));
    assert!(matches!(
        next(&mut stream).await,
        Delivery::Heartbeat { .. }
    ));
    let ending = Delivery::Ending {
        at: Seq::ZERO,
        reason: Ending::MaxAge,
    };
    assert_eq!(next(&mut stream).await, ending);
}

#[tokio::test]
async fn a_limit_on_streams_is_given_back() {
    let running = start(EngineLimits {
        streams_max: 1,
        ..LIMITS
    })
    .await;
    let first = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
    let refused = running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await;
    assert!(matches!(
        refused,
        Err(SubscribeError::TooManyStreams { streams_max: 1 })
    ));
    drop(first);
    running
        .engine
        .subscribe(from_earliest(AtHead::Follow))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_retention_removed_is_named_and_never_skipped_in_silence() {
    let running = start(EngineLimits {
        tail_bytes_max: 0,
        ..LIMITS
    })
    .await;
    ingest(&running.engine, &["a", "b", "c", "d"])
        .await
        .unwrap();
    let cursor = Start::Cursor(running.engine.cursor(Seq::FIRST));
    let asked = |on_gap| Subscribe {
        reader: Reader::Unnamed {
            start: cursor.clone(),
            filter: Filter::everything(),
        },
        on_gap,
        ..from_earliest(AtHead::Stop)
    };
    // One stream is open already when its next event goes.
    let mut open = running.engine.subscribe(asked(OnGap::Fail)).await.unwrap();
    next(&mut open).await;
    running.journal.trim(Seq::new(4)).await.unwrap();

    let lost = Seq::new(2);
    let error = open.next().await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        StreamError::Read(ReadError::Trimmed { asked, .. }) if asked == lost
    ));
    assert!(open.next().await.is_none());
    let refused = running.engine.subscribe(asked(OnGap::Fail)).await;
    assert!(matches!(
        refused,
        Err(SubscribeError::Place(PlaceError::Read(
            ReadError::Trimmed { .. }
        )))
    ));

    let mut skipping = running.engine.subscribe(asked(OnGap::Skip)).await.unwrap();
    next(&mut skipping).await;
    let gap = Delivery::Gap {
        first_lost: lost,
        last_lost: Seq::new(3),
    };
    assert_eq!(next(&mut skipping).await, gap);
    assert_eq!(sequences(&next(&mut skipping).await), [4]);
    // Its uuid stays known, and there is nothing to give.
    let answer = ingest(&running.engine, &["a"]).await.unwrap();
    assert!(matches!(
        answer[0].outcome,
        Outcome::Duplicate {
            seq: Seq::FIRST,
            ..
        }
    ));
    let key = Which::Key {
        org: String::new(),
        uuid: "a".into(),
    };
    assert!(matches!(
        running.engine.get(key).await,
        Err(GetError::NotFound)
    ));
}

#[tokio::test]
async fn a_damaged_record_is_named_and_not_served() {
    let running = start(EngineLimits {
        tail_bytes_max: 0,
        ..LIMITS
    })
    .await;
    ingest(&running.engine, &["a"]).await.unwrap();
    running.fault.fail_reads(Some(ReadFailure::Corrupt));
    let mut stream = running
        .engine
        .subscribe(from_earliest(AtHead::Stop))
        .await
        .unwrap();
    next(&mut stream).await;
    assert!(matches!(
        stream.next().await.unwrap(),
        Err(StreamError::Read(ReadError::Corrupt { .. }))
    ));
    assert!(stream.next().await.is_none());
    assert!(matches!(
        running.engine.list(all()).await,
        Err(ReadError::Corrupt { .. })
    ));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// Ingest events; of each its uuid (few, so that some come twice) and whether it failed.
    Ingest(Vec<(u8, bool)>),
    /// The reader takes up to so many messages, then perhaps goes away.
    Read { messages: usize, leave: bool },
    /// Retention removes everything before this share of the journal (in 1/8).
    Trim(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec((any::<u8>(), any::<bool>()), 1..12).prop_map(Step::Ingest),
        4 => (1usize..6, any::<bool>())
            .prop_map(|(messages, leave)| Step::Read { messages, leave }),
        1 => (0u64..6).prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the reader of a random history knows.
#[derive(Default)]
struct Follower {
    stream: Option<EventStream>,
    /// The cursor of the last message.
    at: Seq,
    /// Everything up to here was seen or said to be lost.
    covered: Seq,
}

impl Follower {
    /// Takes messages and checks each against the model: the failed flags by sequence.
    async fn take(&mut self, engine: &Engine, filter: &Filter, model: &[bool], messages: usize) {
        if self.stream.is_none() {
            let asked = Subscribe {
                reader: Reader::Unnamed {
                    start: Start::Cursor(engine.cursor(self.at)),
                    filter: filter.clone(),
                },
                on_gap: OnGap::Skip,
                ..from_earliest(AtHead::Follow)
            };
            self.stream = Some(engine.subscribe(asked).await.unwrap());
            // What comes again is only what came after the cursor that was resumed from.
            self.covered = self.at;
        }
        let wanted =
            |seq: u64| model[usize::try_from(seq - 1).unwrap()] || filter.verdicts.len() > 3;
        let stream = self.stream.as_mut().expect("just opened");
        for _ in 0..messages {
            let delivery = next(stream).await;
            match delivery {
                Delivery::Confirmation { start, .. } => assert_eq!(start, self.at),
                Delivery::Batch(events) => {
                    for event in events {
                        for missed in self.covered.get() + 1..event.seq.get() {
                            assert!(!wanted(missed), "{missed} was passed over");
                        }
                        assert!(event.seq > self.covered, "{} came again", event.seq);
                        assert!(wanted(event.seq.get()), "{} was not asked for", event.seq);
                        self.covered = event.seq;
                        self.at = event.seq;
                    }
                }
                Delivery::CaughtUp { at } | Delivery::Heartbeat { at, .. } => {
                    for missed in self.covered.get() + 1..=at.get() {
                        assert!(
                            !wanted(missed),
                            "the cursor {at} is ahead of unsent {missed}"
                        );
                    }
                    (self.at, self.covered) = (at, self.covered.max(at));
                    let head = u64::try_from(model.len()).unwrap();
                    if at.get() == head {
                        return;
                    }
                }
                Delivery::Gap {
                    first_lost,
                    last_lost,
                } => {
                    assert!(
                        first_lost > self.covered,
                        "{first_lost} was seen and is lost"
                    );
                    for missed in self.covered.get() + 1..first_lost.get() {
                        assert!(!wanted(missed), "{missed} was passed over before the gap");
                    }
                    (self.at, self.covered) = (last_lost, last_lost);
                }
                Delivery::Ending { .. } => panic!("nobody ended the stream"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_gets_every_match_once_in_order_and_is_told_of_every_loss(
        steps in steps(), everything: bool, ring in prop_oneof![Just(0usize), Just(3000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let running = start(EngineLimits { tail_bytes_max: ring, ..LIMITS }).await;
            let filter = if everything { Filter::everything() } else { Filter::default() };
            let mut reader = Follower::default();
            let mut model: Vec<bool> = Vec::new();
            let mut places = std::collections::HashMap::new();
            for step in steps {
                match step {
                    Step::Ingest(events) => {
                        let inputs: Vec<_> = events
                            .iter()
                            .map(|(uuid, failed)| {
                                let result = if *failed { "FAILURE" } else { "SUCCESS" };
                                json(&format!("u{uuid}"), PUSH, result)
                            })
                            .collect();
                        let answers = running.engine.ingest("", inputs, Intake::Grpc).await.unwrap();
                        for ((uuid, failed), answer) in events.iter().zip(answers) {
                            match answer.outcome {
                                Outcome::Accepted { seq, .. } => {
                                    model.push(*failed);
                                    assert_eq!(seq.get(), u64::try_from(model.len()).unwrap());
                                    assert_eq!(places.insert(*uuid, seq), None, "kept twice");
                                }
                                Outcome::Duplicate { seq, .. } => assert_eq!(places[uuid], seq),
                                other => panic!("{other:?}"),
                            }
                        }
                    }
                    Step::Read { messages, leave } => {
                        reader.take(&running.engine, &filter, &model, messages).await;
                        if leave {
                            reader.stream = None;
                        }
                    }
                    Step::Trim(eighths) => {
                        let head = running.engine.bounds().head.get();
                        running.journal.trim(Seq::new(head * eighths / 8)).await.unwrap();
                    }
                }
            }
            // In the end it gets everything that is left.
            reader.take(&running.engine, &filter, &model, usize::MAX).await;
            assert_eq!(reader.covered.get(), u64::try_from(model.len()).unwrap());
        });
    }
}

#[tokio::test]
async fn a_page_and_the_place_after_it_are_one_write() {
    let running = start(LIMITS).await;
    let page = |uuid: &str| {
        Bytes::from(format!(
            r#"[{{"uuid":"{uuid}","eventType":"{PUSH}","published":"2026-01-02T03:04:05.000Z"}},
            {{"uuid":"{uuid}-unrelated","eventType":"user.session.start"}}]"#
        ))
    };
    let place = |value: &str| StateChange {
        key: b"place".to_vec(),
        value: Some(value.as_bytes().to_vec()),
    };
    let mut published = Vec::new();
    let taken = running
        .engine
        .ingest_page("", page("a"), true, |taken| {
            published.extend(taken.iter().map(|event| event.published.is_some()));
            vec![place("one")]
        })
        .await
        .unwrap();
    assert_eq!(taken.len(), 2);
    assert_eq!(published, [true, false]);
    assert_eq!(running.fault.appends(), 1);
    // Nothing of this page is kept, its place is.
    let unrelated = Bytes::from_static(br#"[{"uuid":"b","eventType":"user.session.start"}]"#);
    let ingested = running
        .engine
        .ingest_page("", unrelated, true, |_| vec![place("two")]);
    ingested.await.unwrap();
    let state = running.engine.state_of(b"place").await.unwrap();
    assert_eq!(state.as_deref(), Some(&b"two"[..]));
    // A write that fails leaves neither.
    running.fault.fail_append(1, AppendFailure::StorageFull);
    let refused = running
        .engine
        .ingest_page("", page("c"), true, |_| vec![place("three")]);
    refused.await.unwrap_err();
    let state = running.engine.state_of(b"place").await.unwrap();
    assert_eq!(state.as_deref(), Some(&b"two"[..]));
    assert_eq!(running.engine.bounds().head.get(), 1);
}

#[tokio::test]
async fn the_traces_of_new_events_are_known_as_long_as_they_are_in_memory() {
    // About four events.
    let limits = EngineLimits {
        tail_bytes_max: 2048,
        ..LIMITS
    };
    let running = start(limits).await;
    let engine = &running.engine;
    let mut headers = axum::http::HeaderMap::new();
    headers.insert(
        "traceparent",
        axum::http::HeaderValue::from_static(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    );
    let trace = Trace::of_caller(&headers);
    let seq = |number: u64| Seq::new(number);
    let traced_at = |first: u64, last: u64, now| {
        let traced = engine.0.tail.traced(seq(first), seq(last), now);
        let places = traced
            .iter()
            .map(|traced| (traced.first.get(), traced.last.get()));
        places.collect::<Vec<_>>()
    };
    let traced = |first: u64, last: u64| traced_at(first, last, trace::now());

    trace.within(ingest(engine, &["a", "b"])).await.unwrap();
    ingest(engine, &["c"]).await.unwrap();
    trace.within(ingest(engine, &["a"])).await.unwrap();
    trace.within(ingest(engine, &["a", "d"])).await.unwrap();
    assert_eq!(traced(1, 4), [(1, 2), (4, 4)]);
    assert_eq!(traced(2, 3), [(1, 2)]);
    assert_eq!(traced(3, 3), []);
    assert_eq!(traced_at(1, 4, trace::now() + Duration::from_secs(61)), []);

    for uuid in 0..50 {
        let uuid = uuid.to_string();
        trace.within(ingest(engine, &[&uuid])).await.unwrap();
    }
    let kept = traced(1, 54);
    assert!(!kept.is_empty() && kept.len() < 10, "{kept:?}");
    assert_eq!(kept.last(), Some(&(54, 54)));
}
