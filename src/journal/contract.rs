//! What every journal has to pass: the same cases for each.
//!
//! A case takes an empty journal and knows nothing of its backend. Where backends may differ (a
//! trim may remove less than was asked for), a case asserts what the contract promises and no
//! more. What only one backend can do is tested beside it.

use std::sync::Arc;

use super::embedded::{EmbeddedJournal, EmbeddedOptions};
use super::fault::{AppendFailure, FaultJournal, Hold, ReadFailure};
use super::memory::MemoryJournal;
use super::*;

const ID: JournalId = JournalId {
    id: *b"contract",
    epoch: 1,
};

/// Small, so that a few records already make several generations.
const GENERATION_BYTES: u64 = 64;

const ALL: ReadLimit = ReadLimit {
    records_max: usize::MAX,
    bytes_max: usize::MAX,
};

macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(super::MemoryJournal::new(super::ID)).await;
                }
            )+
        }
        mod embedded {
            $(
                #[tokio::test]
                async fn $case() {
                    let directory = tempfile::tempdir().unwrap();
                    super::$case(super::embedded_in(directory.path())).await;
                }
            )+
        }
    };
}

contract! {
    a_new_journal_is_empty,
    records_stand_in_the_order_of_their_appending,
    sequences_have_no_holes,
    a_key_twice_in_one_batch_stands_once,
    a_known_key_names_the_first_place,
    a_key_is_known_when_its_record_is_trimmed,
    find_names_the_place_or_nothing,
    state_changes_with_its_batch,
    state_changes_when_all_entries_are_known,
    state_is_given_by_prefix_in_order,
    a_batch_of_nothing_is_appended,
    a_read_before_the_earliest_is_trimmed,
    a_read_after_the_head_is_empty,
    a_limit_is_kept_but_one_record_is_given,
    newest_first_goes_down_to_the_earliest,
    reads_start_in_the_middle,
    a_trim_never_removes_a_later_record,
    a_trim_beyond_the_head_renumbers_nothing,
    trims_are_repeatable,
    usage_names_units_that_begin_with_the_earliest,
    a_cut_changes_nothing_that_is_seen,
    what_is_forgotten_is_older_than_asked_and_gone,
    a_refused_append_leaves_no_gap,
    a_fault_poisons,
    an_append_of_unknown_outcome_is_found_by_a_retry,
    nobody_sees_an_append_that_is_not_flushed,
    readers_never_see_beyond_the_head_while_it_moves,
    failed_reads_are_told_apart,
}

fn embedded_in(path: &std::path::Path) -> EmbeddedJournal {
    let mut options = EmbeddedOptions::new(path.join("data"), ID.id);
    options.reserve_bytes = 0;
    options.generation_bytes_max = GENERATION_BYTES;
    EmbeddedJournal::open(options).unwrap()
}

fn key(number: u64) -> DedupeKey {
    let mut bytes = [0; 16];
    // Spread over the key space, as digests are.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    DedupeKey(bytes)
}

fn entry(number: u64) -> Entry {
    Entry {
        key: key(number),
        fingerprint: Fingerprint([u8::try_from(number % 251).unwrap(); 17]),
        record: record(number),
    }
}

/// 10 bytes: six of them fit into one generation of the embedded journal.
fn record(number: u64) -> Bytes {
    Bytes::from(format!("{number:010}"))
}

fn entries(numbers: impl IntoIterator<Item = u64>) -> Batch {
    Batch {
        entries: numbers.into_iter().map(entry).collect(),
        state: Vec::new(),
    }
}

fn set(key: &[u8], value: &[u8]) -> StateChange {
    StateChange {
        key: key.to_vec(),
        value: Some(value.to_vec()),
    }
}

fn seqs(numbers: impl IntoIterator<Item = u64>) -> Vec<Seq> {
    numbers.into_iter().map(Seq::new).collect()
}

fn places(records: &[Record]) -> Vec<Seq> {
    records.iter().map(|record| record.seq).collect()
}

fn known(number: u64, seq: u64) -> Appended {
    Appended::Known {
        seq: Seq::new(seq),
        fingerprint: entry(number).fingerprint,
    }
}

/// Appends records 1 to `count`, each alone, so that each has its number as its sequence.
async fn fill(journal: &impl Journal, count: u64) {
    for number in 1..=count {
        let appended = journal.append(entries([number])).await.unwrap();
        assert_eq!(appended, [Appended::New(Seq::new(number))]);
    }
}

async fn read_all(journal: &impl Journal) -> Vec<Record> {
    let earliest = journal.bounds().earliest;
    journal
        .read(earliest, Direction::OldestFirst, ALL)
        .await
        .unwrap()
}

async fn a_new_journal_is_empty(journal: impl Journal) {
    let bounds = journal.bounds();
    assert_eq!(bounds.earliest, Seq::FIRST);
    assert_eq!(bounds.head, Seq::ZERO);
    assert_eq!(journal.id(), ID);
    assert_eq!(read_all(&journal).await, []);
    let newest = journal.read(Seq::new(9), Direction::NewestFirst, ALL).await;
    assert_eq!(newest.unwrap(), []);
    assert_eq!(journal.find(key(1)).await.unwrap(), None);
    assert_eq!(journal.state(b"").await.unwrap(), []);
}

async fn records_stand_in_the_order_of_their_appending(journal: impl Journal) {
    journal.append(entries([5, 3, 8])).await.unwrap();
    journal.append(entries(10..25)).await.unwrap();
    journal.append(entries([1])).await.unwrap();
    let expected: Vec<_> = [5, 3, 8].into_iter().chain(10..25).chain([1]).collect();
    let expected: Vec<_> = (1..)
        .zip(expected)
        .map(|(seq, number)| Record {
            seq: Seq::new(seq),
            bytes: record(number),
        })
        .collect();
    assert_eq!(read_all(&journal).await, expected);
    assert_eq!(journal.bounds().head, Seq::new(19));
}

async fn sequences_have_no_holes(journal: impl Journal) {
    fill(&journal, 8).await;
    let appended = journal.append(entries([9, 2, 10, 5, 11])).await.unwrap();
    let new = |seq| Appended::New(Seq::new(seq));
    assert_eq!(
        appended,
        [new(9), known(2, 2), new(10), known(5, 5), new(11)]
    );
    assert_eq!(places(&read_all(&journal).await), seqs(1..=11));
}

async fn a_key_twice_in_one_batch_stands_once(journal: impl Journal) {
    let mut other = entry(1);
    other.record = Bytes::from_static(b"another record of the same key");
    other.fingerprint = Fingerprint([99; 17]);
    let batch = Batch {
        entries: vec![entry(1), other, entry(2), entry(1)],
        state: Vec::new(),
    };
    let appended = journal.append(batch).await.unwrap();
    let new = |seq| Appended::New(Seq::new(seq));
    assert_eq!(appended, [new(1), known(1, 1), new(2), known(1, 1)]);
    let [first, second] = read_all(&journal).await.try_into().unwrap();
    assert_eq!(first.bytes, record(1));
    assert_eq!(second.bytes, record(2));
}

async fn a_known_key_names_the_first_place(journal: impl Journal) {
    fill(&journal, 20).await;
    let mut again = entry(3);
    again.fingerprint = Fingerprint([99; 17]);
    let batch = Batch {
        entries: vec![again, entry(20)],
        state: Vec::new(),
    };
    let appended = journal.append(batch).await.unwrap();
    assert_eq!(appended, [known(3, 3), known(20, 20)]);
    assert_eq!(journal.bounds().head, Seq::new(20));
}

async fn a_key_is_known_when_its_record_is_trimmed(journal: impl Journal) {
    fill(&journal, 20).await;
    let earliest = journal.trim(Seq::new(15)).await.unwrap();
    assert!(earliest > Seq::FIRST, "generations are smaller than that");
    let appended = journal.append(entries([1])).await.unwrap();
    assert_eq!(appended, [known(1, 1)]);
    assert_eq!(
        journal.find(key(1)).await.unwrap(),
        Some((Seq::FIRST, entry(1).fingerprint))
    );
}

async fn find_names_the_place_or_nothing(journal: impl Journal) {
    fill(&journal, 10).await;
    for number in [1, 4, 10] {
        let place = (Seq::new(number), entry(number).fingerprint);
        assert_eq!(journal.find(key(number)).await.unwrap(), Some(place));
    }
    assert_eq!(journal.find(key(11)).await.unwrap(), None);
}

async fn state_changes_with_its_batch(journal: impl Journal) {
    let mut batch = entries([1]);
    batch.state = vec![set(b"a", b"1"), set(b"b", b"2")];
    journal.append(batch).await.unwrap();
    let mut batch = entries([2]);
    let remove = StateChange {
        key: b"a".to_vec(),
        value: None,
    };
    batch.state = vec![remove, set(b"b", b"3"), set(b"c", b"")];
    journal.append(batch).await.unwrap();
    let expected = [(b"b".to_vec(), b"3".to_vec()), (b"c".to_vec(), Vec::new())];
    assert_eq!(journal.state(b"").await.unwrap(), expected);
}

async fn state_changes_when_all_entries_are_known(journal: impl Journal) {
    fill(&journal, 1).await;
    let mut batch = entries([1]);
    batch.state = vec![set(b"cursor", b"after the known page")];
    assert_eq!(journal.append(batch).await.unwrap(), [known(1, 1)]);
    let state = journal.state(b"cursor").await.unwrap();
    assert_eq!(state[0].1, b"after the known page");
    assert_eq!(journal.bounds().head, Seq::FIRST);
}

async fn state_is_given_by_prefix_in_order(journal: impl Journal) {
    let keys: [&[u8]; 6] = [b"sub/b", b"poll/x", b"sub/a", b"sub", b"sub/\xff", b"suc"];
    let batch = Batch {
        entries: Vec::new(),
        state: keys.map(|key| set(key, key)).to_vec(),
    };
    assert_eq!(journal.append(batch).await.unwrap(), []);
    let given: Vec<_> = journal.state(b"sub/").await.unwrap();
    let given: Vec<_> = given.into_iter().map(|(key, _)| key).collect();
    assert_eq!(given, [&b"sub/a"[..], b"sub/b", b"sub/\xff"]);
    assert_eq!(journal.state(b"").await.unwrap().len(), keys.len());
    assert_eq!(journal.state(b"t").await.unwrap(), []);
}

async fn a_batch_of_nothing_is_appended(journal: impl Journal) {
    assert_eq!(journal.append(Batch::default()).await.unwrap(), []);
    assert_eq!(journal.bounds().head, Seq::ZERO);
}

async fn a_read_before_the_earliest_is_trimmed(journal: impl Journal) {
    fill(&journal, 20).await;
    let earliest = journal.trim(Seq::new(12)).await.unwrap();
    assert_eq!(journal.bounds().earliest, earliest);
    for asked in [Seq::ZERO, Seq::FIRST, earliest.previous()] {
        let error = journal.read(asked, Direction::OldestFirst, ALL).await;
        let expected = earliest;
        assert!(
            matches!(error, Err(ReadError::Trimmed { asked: a, earliest })
                if a == asked && earliest == expected),
            "{error:?}"
        );
    }
    let kept = read_all(&journal).await;
    assert_eq!(places(&kept), seqs(earliest.get()..=20));
}

async fn a_read_after_the_head_is_empty(journal: impl Journal) {
    fill(&journal, 7).await;
    for after in [8, 9, u64::MAX] {
        let read = journal.read(Seq::new(after), Direction::OldestFirst, ALL);
        assert_eq!(read.await.unwrap(), []);
    }
}

async fn a_limit_is_kept_but_one_record_is_given(journal: impl Journal) {
    fill(&journal, 20).await;
    let check = async |records_max, bytes_max, expected: usize| {
        let limit = ReadLimit {
            records_max,
            bytes_max,
        };
        let oldest = journal.read(Seq::new(3), Direction::OldestFirst, limit);
        let oldest = oldest.await.unwrap();
        let count = u64::try_from(expected).unwrap();
        assert_eq!(places(&oldest), seqs(3..3 + count));
        let newest = journal.read(Seq::new(17), Direction::NewestFirst, limit);
        let newest = newest.await.unwrap();
        assert_eq!(places(&newest), seqs((18 - count..18).rev()));
    };
    check(5, usize::MAX, 5).await;
    check(9, usize::MAX, 9).await;
    check(usize::MAX, 30, 3).await;
    check(usize::MAX, 39, 3).await;
    check(2, 30, 2).await;
    check(usize::MAX, 1, 1).await;
    check(0, 0, 1).await;
}

async fn newest_first_goes_down_to_the_earliest(journal: impl Journal) {
    fill(&journal, 20).await;
    let earliest = journal.trim(Seq::new(10)).await.unwrap().get();
    for from in [20, 21, u64::MAX] {
        let read = journal.read(Seq::new(from), Direction::NewestFirst, ALL);
        assert_eq!(places(&read.await.unwrap()), seqs((earliest..=20).rev()));
    }
    let trimmed = Seq::new(earliest).previous();
    let read = journal.read(trimmed, Direction::NewestFirst, ALL).await;
    assert_eq!(read.unwrap(), []);
}

async fn reads_start_in_the_middle(journal: impl Journal) {
    fill(&journal, 20).await;
    for from in 1..=20 {
        let read = journal.read(Seq::new(from), Direction::OldestFirst, ALL);
        assert_eq!(places(&read.await.unwrap()), seqs(from..=20));
        let read = journal.read(Seq::new(from), Direction::NewestFirst, ALL);
        assert_eq!(places(&read.await.unwrap()), seqs((1..=from).rev()));
    }
}

async fn a_trim_never_removes_a_later_record(journal: impl Journal) {
    fill(&journal, 20).await;
    for before in 1..=20 {
        let earliest = journal.trim(Seq::new(before)).await.unwrap();
        assert!(earliest <= Seq::new(before));
        assert_eq!(journal.bounds().earliest, earliest);
        assert_eq!(places(&read_all(&journal).await), seqs(earliest.get()..=20));
    }
}

async fn a_trim_beyond_the_head_renumbers_nothing(journal: impl Journal) {
    fill(&journal, 8).await;
    let earliest = journal.trim(Seq::new(1000)).await.unwrap();
    assert!(earliest <= Seq::new(9));
    let appended = journal.append(entries([9])).await.unwrap();
    assert_eq!(appended, [Appended::New(Seq::new(9))]);
    assert_eq!(read_all(&journal).await.last().unwrap().seq, Seq::new(9));
}

async fn trims_are_repeatable(journal: impl Journal) {
    fill(&journal, 20).await;
    let earliest = journal.trim(Seq::new(14)).await.unwrap();
    for before in [14, 3, 0] {
        let again = journal.trim(Seq::new(before)).await.unwrap();
        assert_eq!(again, earliest);
    }
    assert_eq!(journal.trim(Seq::ZERO).await.unwrap(), earliest);
}

async fn usage_names_units_that_begin_with_the_earliest(journal: impl Journal) {
    fill(&journal, 20).await;
    for before in [1, 8, 15, 21] {
        let earliest = journal.trim(Seq::new(before)).await.unwrap();
        let usage = journal.usage().await.unwrap();
        assert_eq!(usage.records[0].first, earliest);
        assert!(
            usage
                .records
                .is_sorted_by(|one, next| one.first < next.first)
        );
        assert!(usage.keys.is_sorted_by(|one, next| one < next));
        assert_eq!(usage.keys[0], Seq::FIRST);
    }
}

async fn a_cut_changes_nothing_that_is_seen(journal: impl Journal) {
    journal.cut(Cut::RecordsAndKeys).await.unwrap();
    for number in 1..=20 {
        let appended = journal.append(entries([number])).await.unwrap();
        assert_eq!(appended, [Appended::New(Seq::new(number))]);
        for what in [Cut::Records, Cut::RecordsAndKeys, Cut::Records] {
            journal.cut(what).await.unwrap();
        }
    }
    assert_eq!(places(&read_all(&journal).await), seqs(1..=20));
    let again = journal.append(entries(1..=20)).await.unwrap();
    assert_eq!(again, (1..=20).map(|at| known(at, at)).collect::<Vec<_>>());
}

async fn what_is_forgotten_is_older_than_asked_and_gone(journal: impl Journal) {
    for number in 1..=20 {
        journal.append(entries([number])).await.unwrap();
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
    }
    // What is there stays known, however old.
    journal.forget(Seq::new(21)).await.unwrap();
    let again = journal.append(entries(1..=20)).await.unwrap();
    assert_eq!(again, (1..=20).map(|at| known(at, at)).collect::<Vec<_>>());

    // Cutting what is empty changes nothing.
    journal.cut(Cut::RecordsAndKeys).await.unwrap();
    let earliest = journal.trim(Seq::new(18)).await.unwrap();
    journal.forget(Seq::new(12)).await.unwrap();
    for number in earliest.get().min(12)..=20 {
        let found = journal.find(key(number)).await.unwrap();
        assert_eq!(found, Some((Seq::new(number), entry(number).fingerprint)));
    }
    // Each one once more, where it is forgotten.
    let mut next = 21;
    for number in 1..=20 {
        let forgotten = journal.find(key(number)).await.unwrap().is_none();
        let appended = journal.append(entries([number])).await.unwrap();
        if forgotten {
            assert_eq!(appended, [Appended::New(Seq::new(next))]);
            next += 1;
        } else {
            assert_eq!(appended, [known(number, number)]);
        }
    }
}

async fn a_refused_append_leaves_no_gap(inner: impl Journal) {
    let (journal, control) = FaultJournal::new(inner);
    control.fail_append(1, AppendFailure::StorageFull);
    let error = journal.append(entries([1])).await.unwrap_err();
    assert!(matches!(error, AppendError::StorageFull { .. }));
    assert_eq!(journal.find(key(1)).await.unwrap(), None);
    let appended = journal.append(entries([2])).await.unwrap();
    assert_eq!(appended, [Appended::New(Seq::FIRST)]);

    control.set_full(true);
    journal.append(entries([3])).await.unwrap_err();
    journal.append(entries([3])).await.unwrap_err();
    control.set_full(false);
    let appended = journal.append(entries([3])).await.unwrap();
    assert_eq!(appended, [Appended::New(Seq::new(2))]);
    assert_eq!(control.appends(), 5);
}

async fn a_fault_poisons(inner: impl Journal) {
    let (journal, control) = FaultJournal::new(inner);
    journal.append(entries([1])).await.unwrap();
    control.fail_append(2, AppendFailure::Fault);
    journal.append(entries([2])).await.unwrap();
    for _ in 0..3 {
        let error = journal.append(entries([3])).await.unwrap_err();
        assert!(matches!(error, AppendError::Fault(_)));
    }
    for error in [
        journal.trim(Seq::new(2)).await.unwrap_err(),
        journal.cut(Cut::Records).await.unwrap_err(),
        journal.forget(Seq::new(2)).await.unwrap_err(),
    ] {
        assert!(matches!(error, AppendError::Fault(_)));
    }
    assert_eq!(places(&read_all(&journal).await), seqs(1..=2));
}

async fn an_append_of_unknown_outcome_is_found_by_a_retry(inner: impl Journal) {
    let inner = Arc::new(inner);
    let (journal, control) = FaultJournal::new(Arc::clone(&inner));
    control.fail_append(1, AppendFailure::OutcomeUnknown);
    let error = journal.append(entries([1])).await.unwrap_err();
    assert!(matches!(error, AppendError::Fault(_)));
    journal.append(entries([2])).await.unwrap_err();
    // As after a restart.
    let appended = inner.append(entries([1, 2])).await.unwrap();
    assert_eq!(appended, [known(1, 1), Appended::New(Seq::new(2))]);
}

async fn nobody_sees_an_append_that_is_not_flushed(inner: impl Journal) {
    let (journal, control) = FaultJournal::new(inner);
    control.hold(Hold::BeforeWrite);
    let append = journal.append(entries([1]));
    let look = async {
        control.held(Hold::BeforeWrite).await;
        assert_eq!(journal.bounds().head, Seq::ZERO);
        assert_eq!(read_all(&journal).await, []);
        assert_eq!(journal.find(key(1)).await.unwrap(), None);
        control.hold(Hold::BeforeAnswer);
        control.held(Hold::BeforeAnswer).await;
        assert_eq!(journal.bounds().head, Seq::FIRST);
        control.release();
    };
    let (appended, ()) = tokio::join!(append, look);
    assert_eq!(appended.unwrap(), [Appended::New(Seq::FIRST)]);
    assert_eq!(places(&read_all(&journal).await), seqs([1]));
}

async fn readers_never_see_beyond_the_head_while_it_moves(journal: impl Journal) {
    const BATCHES: u64 = 30;
    let append = async {
        for batch in 0..BATCHES {
            let numbers = batch * 3..batch * 3 + 3;
            journal.append(entries(numbers)).await.unwrap();
            if batch % 10 == 9 {
                journal.trim(Seq::new(batch)).await.unwrap();
            }
        }
    };
    let look = async || {
        let mut before = Seq::ZERO;
        while before < Seq::new(BATCHES * 3) {
            let head = journal.bounds().head;
            assert_eq!(head.get() % 3, 0, "a batch is seen as a whole");
            let read = journal
                .read(head, Direction::NewestFirst, ALL)
                .await
                .unwrap();
            let after = journal.bounds();
            assert!(before <= head && head <= after.head);
            if let Some(newest) = read.first() {
                assert_eq!(newest.seq, head);
                let oldest = read.last().unwrap().seq.get();
                assert_eq!(places(&read), seqs((oldest..=head.get()).rev()));
            }
            let next = journal.read(head.next(), Direction::OldestFirst, ALL).await;
            match next {
                Ok(read) => assert!(read.len().is_multiple_of(3)),
                Err(ReadError::Trimmed { earliest, .. }) => assert!(earliest > head),
                Err(error) => panic!("{error:?}"),
            }
            before = head;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(append, look(), look());
}

async fn failed_reads_are_told_apart(inner: impl Journal) {
    let (journal, control) = FaultJournal::new(inner);
    journal.append(entries([1])).await.unwrap();
    control.fail_reads(Some(ReadFailure::Corrupt));
    let error = journal.read(Seq::FIRST, Direction::OldestFirst, ALL).await;
    assert!(matches!(
        error,
        Err(ReadError::Corrupt {
            seq: Seq::FIRST,
            ..
        })
    ));
    control.fail_reads(Some(ReadFailure::Fault));
    let error = journal.find(key(1)).await;
    assert!(matches!(error, Err(ReadError::Fault(_))));
    control.fail_reads(None);
    assert_eq!(places(&read_all(&journal).await), seqs([1]));
}
