//! What only the embedded journal can do: be opened again, be interrupted, be damaged.
//!
//! What every journal has to do is in `journal/contract.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::journal::StateChange;
use crate::journal::memory::MemoryJournal;

const ALL: ReadLimit = ReadLimit {
    records_max: usize::MAX,
    bytes_max: usize::MAX,
};

/// A data directory whose journal cuts a generation after each 64 record bytes.
struct Fixture {
    /// Removed with the fixture.
    _directory: TempDir,
    options: EmbeddedOptions,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = EmbeddedOptions::new(directory.path().join("data"), *b"embedded");
        options.reserve_bytes = 0;
        options.generation_bytes_max = 64;
        Self {
            _directory: directory,
            options,
        }
    }

    fn path(&self) -> &Path {
        &self.options.path
    }

    fn open(&self) -> EmbeddedJournal {
        EmbeddedJournal::open(self.options.clone()).unwrap()
    }

    fn refused(&self) -> OpenError {
        EmbeddedJournal::open(self.options.clone()).unwrap_err()
    }

    /// fjall's database, as nobody but an interrupted process or an operator leaves it.
    fn change_by_hand(&self, change: impl FnOnce(&Database)) {
        let database = options::database(&self.options, directory::JOURNAL)
            .open()
            .unwrap();
        change(&database);
    }
}

fn entry(number: u64, record: Bytes) -> Entry {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let mut fingerprint = [0; 17];
    fingerprint[..8].copy_from_slice(&number.to_be_bytes());
    Entry {
        key: DedupeKey(key),
        fingerprint: Fingerprint(fingerprint),
        record,
    }
}

fn entries(numbers: impl IntoIterator<Item = u64>) -> Batch {
    Batch {
        entries: numbers
            .into_iter()
            .map(|number| entry(number, Bytes::from(format!("{number:010}"))))
            .collect(),
        state: Vec::new(),
    }
}

fn state(key: &[u8], value: &[u8]) -> Batch {
    let change = StateChange {
        key: key.to_vec(),
        value: Some(value.to_vec()),
    };
    Batch {
        entries: Vec::new(),
        state: vec![change],
    }
}

fn new(seq: u64) -> Appended {
    Appended::New(Seq::new(seq))
}

async fn fill(journal: &EmbeddedJournal, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let appended = journal.append(entries([number])).await.unwrap();
        assert_eq!(appended, [new(number)]);
    }
}

/// Every record, after checking that none is missing.
async fn read_all(journal: &impl Journal) -> Vec<Record> {
    let bounds = journal.bounds();
    let read = journal.read(bounds.earliest, Direction::OldestFirst, ALL);
    let records = read.await.unwrap();
    let places: Vec<_> = records.iter().map(|record| record.seq.get()).collect();
    let expected: Vec<_> = (bounds.earliest.get()..=bounds.head.get()).collect();
    assert_eq!(places, expected);
    records
}

#[tokio::test]
async fn all_is_there_after_opening_again() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=20).await;
    journal.append(state(b"cursor", b"20")).await.unwrap();
    journal.trim(Seq::new(9)).await.unwrap();
    let expected = (journal.id(), journal.bounds(), read_all(&journal).await);
    drop(journal);

    for _ in 0..2 {
        let journal = fixture.open();
        let found = (journal.id(), journal.bounds(), read_all(&journal).await);
        assert_eq!(found, expected);
        let state = journal.state(b"cursor").await.unwrap();
        assert_eq!(state, [(b"cursor".to_vec(), b"20".to_vec())]);
        for number in 1..=20 {
            let appended = journal.append(entries([number])).await.unwrap();
            let Appended::Known { seq, fingerprint } = appended[0] else {
                panic!("{number} was appended twice");
            };
            assert_eq!(seq, Seq::new(number));
            assert_eq!(fingerprint, entry(number, Bytes::new()).fingerprint);
        }
    }
    let journal = fixture.open();
    assert_eq!(journal.append(entries([21])).await.unwrap(), [new(21)]);
}

#[tokio::test]
async fn the_id_of_the_creation_stays() {
    let mut fixture = Fixture::new();
    drop(fixture.open());
    fixture.options.new_id = *b"another1";
    let id = JournalId {
        id: *b"embedded",
        epoch: 1,
    };
    assert_eq!(fixture.open().id(), id);
}

#[test]
fn a_second_open_is_refused() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    assert!(matches!(fixture.refused(), OpenError::Locked { .. }));
    drop(journal);
    fixture.open();
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path()).unwrap();
    fs::write(fixture.path().join("thesis.txt"), "the only copy").unwrap();
    assert!(matches!(fixture.refused(), OpenError::Foreign { .. }));
    let names: Vec<_> = fs::read_dir(fixture.path()).unwrap().collect();
    assert_eq!(names.len(), 1);

    fs::remove_file(fixture.path().join("thesis.txt")).unwrap();
    fs::create_dir(fixture.path().join("lost+found")).unwrap();
    drop(fixture.open());
    fs::write(fixture.path().join("FORMAT"), "something else").unwrap();
    assert!(matches!(fixture.refused(), OpenError::Foreign { .. }));
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let format = fixture.path().join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("format 1", "format 17")).unwrap();
    let error = fixture.refused().to_string();
    assert!(
        error.contains("format 17") && error.contains("up to 1"),
        "{error}"
    );
}

#[test]
fn a_file_is_not_a_directory() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path(), "").unwrap();
    assert!(matches!(fixture.refused(), OpenError::NotADirectory { .. }));
    fixture.options.path = fixture.path().join("below");
    assert!(matches!(fixture.refused(), OpenError::NotADirectory { .. }));
}

#[test]
fn a_place_that_takes_no_files_is_named() {
    let mut fixture = Fixture::new();
    // Refused to root as well, unlike a directory without permissions.
    fixture.options.path = PathBuf::from("/sys/provident");
    let error = fixture.refused();
    assert!(matches!(error, OpenError::NotPermitted { .. }), "{error:?}");
    assert!(error.to_string().contains("/sys/provident"));
}

#[tokio::test]
async fn an_interrupted_creation_is_repaired() {
    let check = async |what: &str, interrupt: fn(&Path)| {
        let fixture = Fixture::new();
        interrupt(fixture.path());
        let journal = fixture.open();
        assert_eq!(journal.bounds().head, Seq::ZERO, "{what}");
        fill(&journal, 1..=3).await;
        drop(journal);
        assert_eq!(fixture.open().bounds().head, Seq::new(3), "{what}");
    };
    check("before anything", |path| fs::create_dir(path).unwrap()).await;
    check("before FORMAT", |path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("FORMAT.new"), "Provi").unwrap();
    })
    .await;
    check("before fjall", |path| {
        DataDirectory::open(path).unwrap();
    })
    .await;
    check("within fjall's creation", |path| {
        DataDirectory::open(path).unwrap();
        fs::create_dir_all(path.join("journal.new/keyspaces/0")).unwrap();
        fs::write(path.join("journal.new/0.jnl"), [0; 9]).unwrap();
        fs::write(path.join("journal.new/version"), "").unwrap();
    })
    .await;
    check("before the last rename", |path| {
        DataDirectory::open(path).unwrap();
        open::create(&EmbeddedOptions::new(path.into(), *b"forgotte")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn keyspaces_that_no_table_names_are_deleted() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=6).await;
    let count = journal.shared.database.keyspace_count();
    drop(journal);
    // As cuts that were interrupted before their batch leave them, again and again with nothing
    // appended in between. fjall gives the ids of deleted keyspaces again and forgets what it
    // counted; without the jump in `repair` the records below vanish.
    for round in 0..3_u64 {
        fixture.change_by_hand(|database| {
            for seq in 7..15 {
                let name = keys::record_keyspace(Seq::new(seq));
                let orphan = database.keyspace(&name, options::records).unwrap();
                if round == 1 {
                    orphan
                        .insert(keys::record_key(Seq::new(7)), "left")
                        .unwrap();
                }
            }
        });
        let journal = fixture.open();
        assert_eq!(journal.shared.database.keyspace_count(), count);
        assert_eq!(journal.bounds().head, Seq::new(6));
        drop(journal);
        fixture.change_by_hand(|database| assert_eq!(database.keyspace_count(), count));
    }
    for first in [7, 14, 21] {
        let journal = fixture.open();
        fill(&journal, first..=first + 6).await;
        drop(journal);
        let records = read_all(&fixture.open()).await;
        assert_eq!(records.last().unwrap().seq, Seq::new(first + 6));
    }
}

#[tokio::test]
async fn key_generations_stay_few_and_forget_nothing() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    for batch in 0..40 {
        let appended = journal.append(entries(batch * 6..batch * 6 + 6)).await;
        assert_eq!(appended.unwrap()[5], new(batch * 6 + 6));
    }
    let generations = journal.shared.published().generations;
    assert!(generations.records.len() > 30);
    assert_eq!(generations.keys.len(), generations::KEY_GENERATIONS_MAX);
    assert!(generations.key_cut_bytes > 64);
    drop(generations);
    let appended = journal.append(entries(0..240)).await.unwrap();
    for (number, appended) in (1..).zip(appended) {
        assert!(matches!(appended, Appended::Known { seq, .. } if seq == Seq::new(number)));
    }
}

#[tokio::test]
async fn forgotten_keys_give_their_keyspaces_back_and_stay_forgotten() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    for number in 1..=10 {
        journal.append(entries([number])).await.unwrap();
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
    }
    assert_eq!(journal.trim(Seq::new(11)).await.unwrap(), Seq::new(11));
    let keys = |journal: &EmbeddedJournal| journal.shared.published().generations.keys.len();
    assert_eq!(keys(&journal), 11);
    let before = journal.shared.database.keyspace_count();
    journal.forget(Seq::new(8)).await.unwrap();
    assert_eq!(keys(&journal), 4);
    assert_eq!(journal.shared.database.keyspace_count(), before - 7);
    drop(journal);
    let journal = fixture.open();
    assert_eq!(keys(&journal), 4);
    let appended = journal.append(entries([7, 8])).await.unwrap();
    assert_eq!(appended[0], new(11));
    assert!(matches!(appended[1], Appended::Known { seq, .. } if seq == Seq::new(8)));
}

#[tokio::test]
async fn keys_that_can_not_be_cut_for_their_number_cut_no_records_either() {
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = u64::MAX;
    let journal = fixture.open();
    for number in 1..=40 {
        journal.append(entries([number])).await.unwrap();
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
    }
    let most = generations::KEY_GENERATIONS_MAX;
    let usage = journal.usage().await.unwrap();
    assert_eq!((usage.records.len(), usage.keys.len()), (most, most));
    // As soon as one may begin, both do.
    journal.trim(Seq::new(41)).await.unwrap();
    journal.forget(Seq::new(5)).await.unwrap();
    fill(&journal, 41..=41).await;
    journal.cut(Cut::RecordsAndKeys).await.unwrap();
    let usage = journal.usage().await.unwrap();
    assert_eq!(usage.keys.last(), Some(&Seq::new(42)));
    assert_eq!(usage.records.last().unwrap().first, Seq::new(42));
}

#[tokio::test]
async fn a_crash_between_the_commit_of_a_trim_and_the_deletion_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    for number in 1..=20 {
        journal.append(entries([number])).await.unwrap();
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
    }
    let shared = &journal.shared;
    let keyspaces = shared.database.keyspace_count();
    let committed = shared.write(|writer| {
        let old = shared.published().generations;
        let mut generations = Generations::clone(&old);
        let dropped = generations.trim(Seq::new(15)).len() + generations.forget(Seq::new(9)).len();
        let write = OwnedWriteBatch::with_capacity(shared.database.clone(), 2);
        shared.commit(write, &old, &Arc::new(generations), writer.head)?;
        Ok(dropped)
    });
    let dropped = committed.unwrap();
    assert!(dropped > 20);
    assert_eq!(shared.database.keyspace_count(), keyspaces);
    drop(journal);

    for _ in 0..2 {
        let journal = fixture.open();
        assert_eq!(
            journal.shared.database.keyspace_count(),
            keyspaces - dropped
        );
        assert_eq!(journal.bounds().earliest, Seq::new(15));
        assert_eq!(read_all(&journal).await.len(), 6);
        assert_eq!(journal.usage().await.unwrap().keys[0], Seq::new(9));
        drop(journal);
        let folders = fs::read_dir(fixture.path().join("journal/keyspaces")).unwrap();
        // And the one in which fjall keeps the names.
        assert_eq!(folders.count(), keyspaces - dropped + 1);
    }
}

#[tokio::test]
async fn disk_comes_back_when_nothing_is_written_after_a_trim() {
    const MIB: u64 = 1024 * 1024;
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = 8 * MIB;
    let journal = fixture.open();
    let folder = fixture.path().join("journal");
    let journals = || {
        let files = fs::read_dir(&folder).unwrap().filter_map(Result::ok);
        files
            .filter(|file| file.path().extension().is_some_and(|end| end == "jnl"))
            .count()
    };
    // Below 4 KiB, so that fjall doesn't compress it; so much that it begins a second file, in which
    // the first one's keyspaces are named.
    let record = Bytes::from(vec![7; 4000]);
    let mut next = 0;
    while journals() < 2 {
        let batch = Batch {
            entries: (next..next + 500)
                .map(|number| entry(number, record.clone()))
                .collect(),
            state: Vec::new(),
        };
        journal.append(batch).await.unwrap();
        next += 500;
    }
    wait_until(|| {
        let generations = journal.shared.published().generations;
        let (_, older) = generations.records.split_last().unwrap();
        older.iter().all(|one| one.keyspace.table_count() > 0)
    })
    .await;
    // What is told is what is there; fjall's newest file is told as large as it may become.
    let (told, taken) = (
        journal.usage().await.unwrap().bytes,
        disk_bytes(fixture.path()),
    );
    assert!(
        taken <= told + MIB && told <= taken + 65 * MIB,
        "{told} told, {taken} taken"
    );
    let end = Seq::new(next + 1);
    assert_eq!(journal.trim(end).await.unwrap(), end);
    wait_until(|| journals() == 1 && disk_bytes(&folder.join("keyspaces")) < 3 * MIB).await;
    let told = journal.usage().await.unwrap().bytes;
    assert!(told < 65 * MIB, "{told} told");
}

#[tokio::test]
async fn a_reader_of_what_is_trimmed_ends_before_its_disk_is_given_back() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=20).await;
    let held = journal.shared.published();
    let path = held.generations.records[0].keyspace.path().to_owned();
    journal.trim(Seq::new(15)).await.unwrap();
    assert!(path.join("current").exists());
    let read = read::read(&held, Seq::FIRST, Direction::OldestFirst, ALL).unwrap();
    assert_eq!(read.len(), 20);
    drop(held);
    assert!(!path.exists());
}

#[tokio::test]
async fn many_rounds_of_filling_and_trimming_take_no_more_disk() {
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = 64 * 1024;
    let journal = fixture.open();
    let mut next = 0;
    let mut taken = Vec::new();
    for _ in 0..30 {
        let record = Bytes::from(vec![7; 4096]);
        let batch = Batch {
            entries: (next..next + 64)
                .map(|number| entry(number, record.clone()))
                .collect(),
            state: Vec::new(),
        };
        journal.append(batch).await.unwrap();
        next += 64;
        journal.trim(Seq::new(next)).await.unwrap();
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
        journal.forget(Seq::new(next)).await.unwrap();
        taken.push(journal.shared.database.keyspace_count());
    }
    // One generation that is written to, one before it, and the state.
    assert!(taken.iter().all(|count| *count <= 8), "{taken:?}");
    drop(journal);
    let journal = fixture.open();
    assert_eq!(journal.bounds().head, Seq::new(next));
    let appended = journal.append(entries([next])).await.unwrap();
    assert_eq!(appended, [new(next + 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn state_is_read_as_a_whole_while_keyspaces_are_deleted() {
    const ROWS: u16 = 1000;
    let fixture = Fixture::new();
    let journal = Arc::new(fixture.open());
    let set_all = |number: u64| Batch {
        entries: vec![entry(number, Bytes::from_static(b"record"))],
        state: (0..ROWS)
            .map(|row| StateChange {
                key: row.to_be_bytes().to_vec(),
                value: Some(number.to_be_bytes().to_vec()),
            })
            .collect(),
    };
    journal.append(set_all(0)).await.unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    let trims = async {
        for _ in 0..20 {
            journal.trim(journal.bounds().head.next()).await.unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let appends = async {
        for number in 1.. {
            journal.append(set_all(number)).await.unwrap();
            if is_done() {
                break;
            }
        }
    };
    let reads = async {
        while !is_done() {
            let rows = journal.state(b"").await.unwrap();
            assert_eq!(rows.len(), usize::from(ROWS));
            assert!(
                rows.iter().all(|(_, value)| *value == rows[0].1),
                "half a batch"
            );
        }
    };
    tokio::join!(trims, appends, reads);
}

#[tokio::test]
async fn a_trim_reaches_into_the_newest_generation() {
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = u64::MAX;
    let journal = fixture.open();
    fill(&journal, 1..=10).await;
    // The records before 6 are due, but those after it are in the same keyspace.
    assert_eq!(journal.trim(Seq::new(6)).await.unwrap(), Seq::FIRST);
    fill(&journal, 11..=20).await;
    assert_eq!(journal.trim(Seq::new(10)).await.unwrap(), Seq::FIRST);
    assert_eq!(journal.trim(Seq::new(11)).await.unwrap(), Seq::new(11));
    assert_eq!(read_all(&journal).await.len(), 10);
    assert_eq!(journal.trim(Seq::new(99)).await.unwrap(), Seq::new(21));
    assert_eq!(journal.bounds().head, Seq::new(20));
    drop(journal);
    let journal = fixture.open();
    assert_eq!(journal.bounds().earliest, Seq::new(21));
    fill(&journal, 21..=22).await;
    assert_eq!(read_all(&journal).await.len(), 2);
}

#[tokio::test]
async fn without_room_nothing_but_state_is_written() {
    let mut fixture = Fixture::new();
    fixture.options.reserve_bytes = u64::MAX;
    let journal = fixture.open();
    for _ in 0..2 {
        let error = journal.append(entries([1, 2])).await.unwrap_err();
        assert!(matches!(error, AppendError::StorageFull { .. }));
    }
    journal.append(state(b"position", b"7")).await.unwrap();
    assert_eq!(journal.bounds().head, Seq::ZERO);
    assert_eq!(journal.trim(Seq::new(9)).await.unwrap(), Seq::FIRST);

    // There is room again.
    journal.shared.writer.lock().unwrap().room.reserve_bytes = 0;
    assert_eq!(journal.append(entries([1])).await.unwrap(), [new(1)]);
    assert_eq!(journal.state(b"").await.unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_fault_only_reads_go_on() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=3).await;
    let mut too_long = state(&[0; keys::STATE_KEY_BYTES_MAX + 1], b"");
    too_long.entries = entries([4]).entries;
    let error = journal.append(too_long).await.unwrap_err();
    assert!(matches!(error, AppendError::Fault(_)));
    let error = journal.append(entries([5])).await.unwrap_err();
    assert!(matches!(error, AppendError::Fault(_)));
    let error = journal.trim(Seq::new(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Fault(_)));
    assert_eq!(read_all(&journal).await.len(), 3);
    drop(journal);
    fill(&fixture.open(), 4..=5).await;
}

#[tokio::test]
async fn a_failure_of_fjalls_own_threads_is_noticed_without_a_write() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=3).await;
    journal.check().await.unwrap();
    // The flush of what is in memory finds nowhere to put its table.
    let generations = journal.shared.published().generations;
    let keyspace = &generations.newest_records().keyspace;
    fs::remove_dir_all(keyspace.path()).unwrap();
    assert!(keyspace.rotate_memtable().unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    while journal.check().await.is_ok() {
        assert!(Instant::now() < deadline, "it is never noticed");
    }
    let error = journal.append(entries([4])).await.unwrap_err();
    assert!(matches!(error, AppendError::Fault(_)));
}

#[tokio::test]
async fn a_keyspace_that_is_missing_is_damage() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=3).await;
    drop(journal);
    fixture.change_by_hand(|database| {
        let name = keys::record_keyspace(Seq::FIRST);
        let keyspace = database.keyspace(&name, options::records).unwrap();
        database.delete_keyspace(keyspace).unwrap();
    });
    let error = fixture.refused();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("r-0000"), "{error}");
}

#[tokio::test]
async fn a_record_that_is_missing_is_named() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=5).await;
    drop(journal);
    let remove = |seq| {
        fixture.change_by_hand(|database| {
            let name = keys::record_keyspace(Seq::FIRST);
            let keyspace = database.keyspace(&name, options::records).unwrap();
            keyspace.remove(keys::record_key(Seq::new(seq))).unwrap();
        });
    };
    remove(3);
    let journal = fixture.open();
    let read = journal.read(Seq::FIRST, Direction::OldestFirst, ALL).await;
    assert_eq!(read.unwrap().len(), 2, "what stands before it is given");
    for direction in [Direction::OldestFirst, Direction::NewestFirst] {
        let read = journal.read(Seq::new(3), direction, ALL).await;
        let Err(ReadError::Corrupt { seq, .. }) = read else {
            panic!("{read:?}");
        };
        assert_eq!(seq, Seq::new(3));
    }
    drop(journal);
    remove(5);
    assert!(matches!(fixture.refused(), OpenError::Damaged { .. }));
}

/// Closes a journal once what a keyspace has in memory is in tables; gives their directory.
async fn close_with_tables(journal: EmbeddedJournal, keyspace: Keyspace) -> PathBuf {
    keyspace.rotate_memtable().unwrap();
    wait_until(|| keyspace.table_count() > 0).await;
    drop(journal);
    keyspace.path().join("tables")
}

#[tokio::test]
async fn damage_in_the_table_of_state_is_found_at_the_open() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    // Larger than a block and nothing that packs well. Two of them, so that the second is in a block
    // without the rows that every open looks up.
    let value: Vec<_> = (0..6_000_u64)
        .flat_map(|number| xxhash_rust::xxh3::xxh3_64(&number.to_be_bytes()).to_be_bytes())
        .collect();
    for key in [b"a", b"b"] {
        journal.append(state(key, &value)).await.unwrap();
    }
    let state = journal.shared.state.clone();
    for file in fs::read_dir(close_with_tables(journal, state).await).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2 + find(&bytes[bytes.len() / 2..], &value[40_000..40_016]).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert!(matches!(fixture.refused(), OpenError::Damaged { .. }));
}

#[tokio::test]
async fn rows_that_were_lost_with_a_file_are_missed() {
    for (name, create) in [
        (
            keys::record_keyspace(Seq::FIRST),
            options::records as fn() -> _,
        ),
        (keys::key_keyspace(Seq::FIRST), options::keys),
    ] {
        let fixture = Fixture::new();
        fill(&fixture.open(), 1..=20).await;
        fixture.change_by_hand(|database| {
            let keyspace = database.keyspace(&name, create).unwrap();
            database.delete_keyspace(keyspace).unwrap();
            database.keyspace(&name, create).unwrap();
        });
        let error = fixture.refused().to_string();
        assert!(
            error.contains(&name) && error.contains("has 0 rows"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn bytes_that_fail_their_checksum_are_named() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=20).await;
    drop(journal);
    let keyspace = {
        let journal = fixture.open();
        let generations = journal.shared.published().generations;
        wait_until(|| generations.records[1].keyspace.table_count() > 0).await;
        generations.records[1].keyspace.path().to_path_buf()
    };
    for table in fs::read_dir(keyspace.join("tables")).unwrap() {
        let path = table.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = find(&bytes, b"0000000007").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let journal = fixture.open();
    let error = journal.read(Seq::new(7), Direction::OldestFirst, ALL).await;
    assert!(
        matches!(error, Err(ReadError::Corrupt { seq, cause: Some(_) }) if seq == Seq::new(7)),
        "{error:?}"
    );
    let read = journal
        .read(Seq::new(13), Direction::OldestFirst, ALL)
        .await;
    assert_eq!(read.unwrap().len(), 8);
}

#[tokio::test]
async fn a_key_that_is_damaged_refuses_its_entry_and_no_other() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 1..=20).await;
    let generations = journal.shared.published().generations;
    let keys = generations.newest_keys().keyspace.clone();
    drop(generations);
    for file in fs::read_dir(close_with_tables(journal, keys).await).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // In the block of the rows, which begins the file.
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let journal = fixture.open();
    // Key 20 is in that table, whichever the others are in.
    let refused = journal.append(entries([21, 20, 22])).await.unwrap_err();
    let AppendError::Damaged { entry, .. } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(entry, 1);
    assert_eq!(journal.bounds().head, Seq::new(20), "nothing was written");
    let appended = journal.append(entries([21, 22])).await.unwrap();
    assert_eq!(
        appended,
        [Appended::New(Seq::new(21)), Appended::New(Seq::new(22))]
    );
}

/// A journal of records 1 to 3 in three batches and 4 to 6 in one of about 18 KiB, closed; and
/// where the batches end in its file.
async fn with_a_large_last_batch() -> (Fixture, PathBuf, [usize; 4]) {
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = u64::MAX;
    let journal = fixture.open();
    fill(&journal, 1..=3).await;
    let mut batch = state(b"cursor", b"6");
    for number in 4..=6 {
        // Below 4 KiB, so that fjall doesn't compress it.
        let text = format!("{number:010}").repeat(400);
        batch.entries.push(entry(number, text.into()));
    }
    journal.append(batch).await.unwrap();
    drop(journal);
    let path = fixture.path().join("journal/0.jnl");
    let bytes = fs::read(&path).unwrap();
    let mut ends: Vec<_> = (0..=bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"FJL\x03"))
        .map(|at| at + 4)
        .collect();
    let ends = ends.split_off(ends.len() - 4).try_into().unwrap();
    (fixture, path, ends)
}

#[tokio::test]
async fn a_torn_last_batch_is_gone_as_a_whole() {
    let (fixture, path, [.., begin, end]) = with_a_large_last_batch().await;
    // The power failed before it was closed.
    fs::remove_file(fixture.path().join("MARK")).unwrap();
    let whole = fs::read(&path).unwrap();
    let sector = begin.next_multiple_of(512);
    // Pages reach the disk in any order, and the end may be there without the middle.
    let holes = [
        (begin, end),
        (begin + 1, end),
        (begin, sector),
        (sector, sector + 512),
        (sector + 4096, sector + 8192),
        (end - 20, end),
        (end - 1, end),
    ];
    for (from, to) in holes {
        let mut torn = whole.clone();
        torn[from..to].fill(0);
        fs::write(&path, &torn).unwrap();
        let mended = tail::mend(&fixture.path().join("journal"), false).unwrap();
        assert_eq!(mended, Ok(()), "{from} to {to}");
        let left = fs::read(&path).unwrap();
        assert!(
            left[begin..].iter().all(|byte| *byte == 0),
            "{from} to {to}"
        );
        assert!(left[..begin] == whole[..begin], "{from} to {to}");
    }
    let journal = fixture.open();
    assert_eq!(read_all(&journal).await.len(), 3);
    assert_eq!(journal.state(b"").await.unwrap(), []);
    fill(&journal, 4..=5).await;
    drop(journal);
    assert_eq!(read_all(&fixture.open()).await.len(), 5);
}

/// As a power cut would leave it, but the journal was closed before.
#[tokio::test]
async fn an_end_that_was_lost_after_the_close_is_named_and_nothing_is_changed() {
    let (fixture, path, [.., third, begin, end]) = with_a_large_last_batch().await;
    let whole = fs::read(&path).unwrap();
    let is_damage = |lost: &str| {
        let error = fixture.refused();
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "{lost}: {error:?}"
        );
    };
    for (from, to) in [
        (begin + 1, end),
        (end - 1, end),
        (begin + 4096, begin + 8192),
    ] {
        let mut damaged = whole.clone();
        damaged[from..to].fill(0);
        fs::write(&path, &damaged).unwrap();
        is_damage(&format!("zeros from {from} to {to}"));
        assert!(fs::read(&path).unwrap() == damaged, "it was changed");
    }
    fs::write(&path, &whole[..begin + 100]).unwrap();
    is_damage("cut within a batch");
    fs::remove_file(&path).unwrap();
    is_damage("removed");
    fs::write(&path, &whole).unwrap();
    let journal = fixture.open();
    assert_eq!(read_all(&journal).await.len(), 6);
    drop(journal);

    // fjall cuts what it preallocated when it opens, so these are the bytes that are used.
    let closed = fs::read(&path).unwrap();
    let mark = fixture.path().join("MARK");
    let said = fs::read(&mark).unwrap();
    for at in [begin, third] {
        fs::write(&path, &closed[..at]).unwrap();
        is_damage(&format!("cut after a batch, to {at}"));
        // Again, because the first look must not make it good.
        is_damage(&format!("cut after a batch, to {at}, again"));
        fs::write(&mark, &said).unwrap();
    }
    fs::write(&path, &closed).unwrap();
    let journal = fixture.open();
    journal.append(state(b"cursor", b"7")).await.unwrap();
    let before = fs::read(&path).unwrap().len();
    journal.append(state(b"cursor", b"8")).await.unwrap();
    drop(journal);
    let closed = fs::read(&path).unwrap();
    fs::write(&path, &closed[..before]).unwrap();
    is_damage("a batch of state alone");
    fs::write(&path, &closed).unwrap();
    let rows = fixture.open().state(b"").await.unwrap();
    assert_eq!(rows, [(b"cursor".to_vec(), b"8".to_vec())]);
}

#[tokio::test]
async fn a_mark_that_is_missing_or_damaged_holds_nothing_up() {
    let fixture = Fixture::new();
    fill(&fixture.open(), 1..=20).await;
    let mark = fixture.path().join("MARK");
    fs::write(&mark, "Provident journal, mark 1\nevents 21\n").unwrap();
    assert_eq!(read_all(&fixture.open()).await.len(), 20);
    fs::remove_file(&mark).unwrap();
    assert_eq!(read_all(&fixture.open()).await.len(), 20);
    assert!(mark.exists());
}

#[tokio::test]
async fn what_is_known_of_tables_is_checked_before_fjall_reads_it() {
    let fixture = Fixture::new();
    fill(&fixture.open(), 1..=20).await;
    let keyspaces = fixture.path().join("journal/keyspaces");
    let journal = fixture.open();
    wait_until(|| {
        journal.shared.published().generations.records[0]
            .keyspace
            .table_count()
            > 0
    })
    .await;
    drop(journal);
    let mut checked = 0;
    for keyspace in fs::read_dir(&keyspaces).unwrap() {
        let current = keyspace.unwrap().path().join("current");
        let version = fs::read(&current).unwrap();
        let version = u64::from_le_bytes(version[..8].try_into().unwrap());
        // Beside it may lie an older one, which nobody reads any more.
        let version = current.with_file_name(format!("v{version}"));
        for file in [current, version] {
            let whole = fs::read(&file).unwrap();
            for at in [0, whole.len() / 2, whole.len() - 1] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                fs::write(&file, damaged).unwrap();
                let error = fixture.refused();
                assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
            }
            fs::write(&file, whole).unwrap();
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} files");
    fs::rename(keyspaces.join("0/current"), keyspaces.join("0/gone")).unwrap();
    assert!(matches!(fixture.refused(), OpenError::Damaged { .. }));
    fs::rename(keyspaces.join("0/gone"), keyspaces.join("0/current")).unwrap();
    assert_eq!(read_all(&fixture.open()).await.len(), 20);
}

#[tokio::test]
async fn a_damaged_batch_that_was_acknowledged_is_not_cut_away() {
    let (fixture, path, [first, second, third, end]) = with_a_large_last_batch().await;
    fs::remove_file(fixture.path().join("MARK")).unwrap();
    let whole = fs::read(&path).unwrap();
    for (at, damage) in [
        (first, 0),
        (first + 3, 0xff),
        (second - 1, 0),
        (second + 20, 0xff),
        (third - 9, 0xff),
        (third + 5000, 0xff),
        (end - 9, 0xff),
    ] {
        let mut damaged = whole.clone();
        damaged[at] = damage;
        assert_ne!(damaged[at], whole[at]);
        fs::write(&path, &damaged).unwrap();
        let error = fixture.refused();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(fs::read(&path).unwrap() == damaged, "it was changed");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(read_all(&fixture.open()).await.len(), 6);
}

#[tokio::test]
async fn a_trim_gives_disk_back() {
    const MIB: u64 = 1024 * 1024;
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = MIB;
    let journal = fixture.open();
    let record = |number: u64| Bytes::from(vec![u8::try_from(number % 251).unwrap(); 16 * 1024]);
    for batch in 0..16 {
        let batch = Batch {
            entries: (batch * 32..batch * 32 + 32)
                .map(|number| entry(number, record(number)))
                .collect(),
            state: Vec::new(),
        };
        journal.append(batch).await.unwrap();
    }
    let generations = journal.shared.published().generations;
    let (newest, older) = generations.records.split_last().unwrap();
    assert!(older.len() >= 7);
    wait_until(|| older.iter().all(|one| one.keyspace.table_count() > 0)).await;
    let newest = newest.first;
    drop(generations);

    let full = disk_bytes(fixture.path());
    assert_eq!(journal.trim(newest).await.unwrap(), newest);
    wait_until(|| disk_bytes(fixture.path()) + 6 * MIB < full).await;
    let keyspaces = journal.shared.database.keyspace_count();
    let trimmed = disk_bytes(fixture.path());
    drop(journal);

    let journal = fixture.open();
    assert_eq!(journal.shared.database.keyspace_count(), keyspaces);
    assert!(disk_bytes(fixture.path()) < trimmed + MIB);
    assert_eq!(journal.bounds().earliest, newest);
    read_all(&journal).await;
}

#[tokio::test]
async fn a_trim_of_a_journal_that_rests_gives_its_disk_back_too() {
    const MIB: u64 = 1024 * 1024;
    let mut fixture = Fixture::new();
    fixture.options.generation_bytes_max = 8 * MIB;
    let journal = fixture.open();
    // More than one of fjall's journal files holds.
    for number in 0..160 {
        let record = Bytes::from(vec![u8::try_from(number).unwrap(); 512 * 1024]);
        let batch = Batch {
            entries: vec![entry(number, record)],
            state: Vec::new(),
        };
        journal.append(batch).await.unwrap();
    }
    journal.trim(Seq::new(161)).await.unwrap();
    // What is written to now, and what its own journal file took.
    wait_until(|| disk_bytes(fixture.path()) < 24 * MIB).await;
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u64>, Option<u8>),
    Cut(Cut),
    Trim(u64),
    Forget(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::collection::vec(0..60_u64, 0..8), any::<Option<u8>>())
            .prop_map(|(numbers, state)| Step::Append(numbers, state)),
        1 => prop_oneof![Just(Cut::Records), Just(Cut::RecordsAndKeys)].prop_map(Step::Cut),
        2 => (0..60_u64).prop_map(Step::Trim),
        1 => (0..60_u64).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The model is a journal in memory, which trims and forgets to the place: to where this one,
    /// which does so in whole units, has come.
    #[test]
    fn random_histories_match_the_model(steps in proptest::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut journal = fixture.open();
            let model = MemoryJournal::new(journal.id());
            for step in steps {
                match step {
                    Step::Append(numbers, value) => {
                        let mut batch = entries(numbers);
                        batch.state.extend(value.map(|value| StateChange {
                            key: vec![value % 3],
                            value: (value % 7 > 0).then(|| vec![value]),
                        }));
                        let appended = journal.append(batch.clone()).await.unwrap();
                        assert_eq!(appended, model.append(batch).await.unwrap());
                    }
                    Step::Trim(before) => {
                        let was = journal.bounds().earliest;
                        let earliest = journal.trim(Seq::new(before)).await.unwrap();
                        assert!(was <= earliest && earliest <= was.max(Seq::new(before)));
                        assert_eq!(model.trim(earliest).await.unwrap(), earliest);
                    }
                    Step::Cut(what) => journal.cut(what).await.unwrap(),
                    Step::Forget(before) => {
                        let known_from = async || journal.usage().await.unwrap().keys[0];
                        let was = known_from().await;
                        journal.forget(Seq::new(before)).await.unwrap();
                        let known = known_from().await;
                        let most = was.max(Seq::new(before).min(journal.bounds().earliest));
                        assert!(was <= known && known <= most);
                        model.forget(known).await.unwrap();
                    }
                    Step::Reopen => {
                        drop(journal);
                        journal = fixture.open();
                    }
                }
                assert_eq!(journal.bounds(), model.bounds());
                assert_eq!(read_all(&journal).await, read_all(&model).await);
                assert_eq!(journal.state(b"").await.unwrap(), model.state(b"").await.unwrap());
            }
        });
    }
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it didn't come about in 10 s");
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)))
            .await
            .unwrap();
    }
}

/// What files take on disk; a file's holes take nothing.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        // Removed meanwhile, or a file.
        return fs::metadata(path).map_or(0, |file| file.blocks() * 512);
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| disk_bytes(&entry.path()))
        .sum()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
