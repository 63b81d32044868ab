//! Retention on a clock that is turned by days: what goes when, what stays known for how long, and
//! what a journal that is broken on purpose keeps it from.

use tempfile::TempDir;

use super::*;
use crate::engine::retention::{Retention, RetentionPolicy};
use crate::journal::{Batch, Cut, DedupeKey, Entry, contract};

const DAY: Duration = Duration::from_hours(24);

const POLICY: RetentionPolicy = RetentionPolicy {
    age_max: Some(Duration::from_hours(30 * 24)),
    wait_for_subscriptions: Duration::ZERO,
    bytes_max: None,
    volume_percent_max: 100,
    free_bytes_min: 0,
    dedupe_horizon: Some(Duration::from_hours(100 * 24)),
    interval: Duration::from_secs(1),
};

/// An engine on a journal in a directory, the days of its clock, and how to break the journal.
struct Kept {
    engine: Engine,
    journal: Arc<FaultJournal<Arc<dyn Journal>>>,
    retention: Retention,
    fault: FaultControl,
    now: Arc<AtomicI64>,
    stop: CancellationToken,
    writer: JoinHandle<anyhow::Result<()>>,
}

impl Kept {
    async fn open(directory: &TempDir, policy: RetentionPolicy) -> Self {
        // A few events, so that there are many units.
        let journal = contract::embedded_in(directory.path(), 16 * 1024);
        let journal: Arc<dyn Journal> = Arc::new(journal);
        let (journal, fault) = FaultJournal::new(journal);
        let journal = Arc::new(journal);
        let now = Arc::default();
        let on = Arc::<FaultJournal<_>>::clone(&journal);
        let (engine, writer) = engine_on(on, LIMITS, &now).await;
        let stop = CancellationToken::new();
        Self {
            retention: engine.retention(policy),
            engine,
            journal,
            fault,
            now,
            writer: spawn(writer.run(stop.clone())),
            stop,
        }
    }

    /// Lets the journal go, so that it can be opened again.
    async fn close(self) {
        self.stop.cancel();
        self.writer.await.unwrap().unwrap();
    }

    fn set_day(&self, day: u64) {
        let seconds = day * DAY.as_secs();
        self.now
            .store(i64::try_from(seconds).unwrap(), Ordering::SeqCst);
    }

    /// The place of the event of that name, and whether it was new.
    async fn ingest(&self, name: &str) -> (u64, bool) {
        let outcome = ingest(&self.engine, &[name]).await.unwrap().remove(0);
        match outcome.outcome {
            Outcome::Accepted { seq, .. } => (seq.get(), true),
            Outcome::Duplicate { seq, .. } => (seq.get(), false),
            other => panic!("{name}: {other:?}"),
        }
    }

    async fn look(&mut self) {
        self.retention.look().await.unwrap();
    }

    fn earliest(&self) -> u64 {
        self.journal.bounds().earliest.get()
    }
}

#[tokio::test]
async fn a_quiet_year_keeps_thirty_days_of_events_and_a_hundred_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Kept::open(&directory, POLICY).await;
    let mut places = Vec::new();
    // By the tenth by which a unit may be larger, and a day at each end.
    let (slack_events, slack_names) = (3 + 2, 10 + 2);
    for day in 0..365_u64 {
        kept.set_day(day);
        let (place, new) = kept.ingest(&format!("day {day}")).await;
        assert!(new, "day {day}");
        places.push(place);
        kept.look().await;

        let first = places.partition_point(|place| *place < kept.earliest());
        let age = day - u64::try_from(first).unwrap();
        assert!(age >= 30.min(day), "day {day} keeps {age} days of events");
        assert!(
            age <= 30 + slack_events,
            "day {day} keeps {age} days of events"
        );
        if let Some(old) = day.checked_sub(100) {
            // To the day, and it does not make it younger.
            let expected = (places[usize::try_from(old).unwrap()], false);
            assert_eq!(kept.ingest(&format!("day {old}")).await, expected);
        }
        if let Some(older) = day.checked_sub(100 + slack_names) {
            let (_, new) = kept.ingest(&format!("day {older}")).await;
            assert!(new, "day {older} is known on day {day} still");
        }
        let usage = kept.journal.usage().await.unwrap();
        assert!(usage.records.len() <= 14, "{usage:?}");
        assert!(usage.keys.len() <= 14, "{usage:?}");
        if day % 90 == 89 {
            kept.close().await;
            kept = Kept::open(&directory, POLICY).await;
        }
    }
}

#[tokio::test]
async fn keys_whose_age_nobody_noted_are_kept_for_a_whole_horizon() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Kept::open(&directory, POLICY).await;
    // As a journal that was written before retention was there.
    for number in 0..5 {
        kept.ingest(&format!("{number}")).await;
        kept.journal.cut(Cut::RecordsAndKeys).await.unwrap();
    }
    kept.set_day(1000);
    kept.look().await;
    assert_eq!(kept.earliest(), 6);
    kept.set_day(1100);
    kept.look().await;
    for number in 0..5 {
        assert_eq!(kept.ingest(&format!("{number}")).await, (number + 1, false));
    }
    kept.set_day(1101);
    kept.look().await;
    assert_eq!(kept.ingest("0").await, (6, true));
    assert_eq!(kept.ingest("4").await, (7, true));
}

#[tokio::test]
async fn many_looks_at_what_can_not_be_cut_cut_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // As many keyspaces of keys as may be, by size, long before the horizon.
    let policy = RetentionPolicy {
        age_max: None,
        ..POLICY
    };
    let mut kept = Kept::open(&directory, policy).await;
    while kept.journal.usage().await.unwrap().keys.len() < 16 {
        kept.ingest("first of a unit").await;
        kept.journal.cut(Cut::RecordsAndKeys).await.unwrap();
        let number = kept.journal.bounds().head.get();
        kept.ingest(&format!("{number}")).await;
    }
    kept.look().await;
    kept.set_day(50);
    let before = kept.journal.usage().await.unwrap().records.len();
    for number in 0..10 {
        kept.ingest(&format!("on day 50: {number}")).await;
        kept.look().await;
    }
    assert_eq!(kept.journal.usage().await.unwrap().records.len(), before);
}

#[tokio::test]
async fn a_damaged_record_keeps_nothing_but_its_age_from_being_known() {
    let directory = tempfile::tempdir().unwrap();
    let policy = RetentionPolicy {
        bytes_max: Some(32 * 1024),
        ..POLICY
    };
    let mut kept = Kept::open(&directory, policy).await;
    let no_record = Entry {
        key: DedupeKey([7; 16]),
        fingerprint: Fingerprint([7; 17]),
        record: Bytes::from(vec![7; 20 * 1024]),
    };
    let batch = Batch {
        entries: vec![no_record],
        state: Vec::new(),
    };
    kept.journal.append(batch).await.unwrap();
    // The engine's head is that of its start, so it goes on from a new one.
    kept.close().await;
    kept = Kept::open(&directory, policy).await;
    kept.look().await;
    for number in 0..100 {
        kept.ingest(&format!("{number}")).await;
    }
    // fjall moves what was written to files of its own by and by.
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while kept.earliest() == 1 {
        assert!(std::time::Instant::now() < deadline, "size keeps its right");
        kept.look().await;
    }
    assert!(kept.earliest() > 1);
}

#[tokio::test]
async fn a_journal_that_can_not_be_read_for_now_is_looked_at_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Kept::open(&directory, POLICY).await;
    kept.ingest("old").await;
    kept.set_day(40);
    for failure in [ReadFailure::Fault, ReadFailure::Corrupt] {
        kept.fault.fail_reads(Some(failure));
        kept.look().await;
        assert_eq!(kept.earliest(), 1);
    }
    kept.fault.fail_reads(None);
    kept.look().await;
    assert_eq!(kept.earliest(), 2);
}

#[tokio::test]
async fn a_trim_that_fails_ends_the_task() {
    let directory = tempfile::tempdir().unwrap();
    let kept = Kept::open(&directory, POLICY).await;
    kept.ingest("old").await;
    kept.fault.fail_append(1, AppendFailure::Fault);
    let lost = ingest(&kept.engine, &["lost"]).await;
    assert!(lost.is_err());
    kept.set_day(40);
    let run = kept.retention.run(CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await;
    let error = ended.expect("it ends").unwrap_err().to_string();
    assert!(error.contains("can't write"), "{error}");
}

#[tokio::test]
async fn events_wait_for_a_commit_until_it_is_written_and_no_longer_than_they_may() {
    let directory = tempfile::tempdir().unwrap();
    let policy = RetentionPolicy {
        wait_for_subscriptions: 10 * DAY,
        ..POLICY
    };
    let mut kept = Kept::open(&directory, policy).await;
    for number in 0..3 {
        kept.ingest(&format!("{number}")).await;
        kept.journal.cut(Cut::Records).await.unwrap();
    }
    let engine = kept.engine.clone();
    super::subscriptions::create(&engine, "a").await;
    let stream = super::subscriptions::read_up(&engine, "s").await;
    kept.set_day(35);
    kept.look().await;
    assert_eq!(kept.earliest(), 1);

    kept.fault.hold(Hold::BeforeWrite);
    let committing = engine.clone();
    let mut commit = spawn(async move { super::subscriptions::commit(&committing, "s", 1).await });
    kept.fault.held(Hold::BeforeWrite).await;
    let mut look = Box::pin(kept.retention.look());
    // Long enough for one that does not wait.
    let waited = tokio::time::timeout(Duration::from_millis(500), &mut look).await;
    assert!(waited.is_err(), "it went on before the commit was written");
    assert_eq!(kept.journal.bounds().earliest, Seq::FIRST);
    assert!(is_pending(&mut commit).await);
    kept.fault.release();
    look.await.unwrap();
    commit.await.unwrap().unwrap();
    assert_eq!(kept.earliest(), 2);

    drop(stream);
    kept.set_day(41);
    kept.look().await;
    assert_eq!(kept.earliest(), 4);
}
