//! The journal in a directory of this machine, on fjall; the default.
//!
//! - A batch is one fjall batch, flushed with `fdatasync` before anybody sees it: records, keys,
//!   state, head and, when a generation begins, the table of generations.
//! - Readers go by what was published after the flush, never by what fjall shows: fjall applies
//!   a batch row by row.
//! - After any failed write this takes no more ([`AppendError::Fault`]); reads go on.
//! - What a crash leaves half done is repaired at open: unfinished creations, keyspaces that no
//!   table names and a batch that a power cut tore are removed.
//!
//! Blocking calls of fjall run on tokio's blocking threads. It must not know what a record says.

mod directory;
mod generations;
mod keys;
mod options;
mod tail;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use async_trait::async_trait;
use fjall::{Database, Keyspace, LsmError, OwnedWriteBatch, PersistMode, Readable};

use self::directory::DataDirectory;
use self::generations::{Generation, Generations, Published};
use self::keys::{Head, STATE_KEYSPACE};
pub use self::options::EmbeddedOptions;
use super::{
    AppendError, Appended, Batch, Bounds, DedupeKey, Direction, Entry, Fingerprint, Journal,
    ReadError, ReadLimit, Record, may_take,
};
use crate::domain::cursor::{JournalId, Seq};

/// Why the journal wasn't opened. Nothing in a directory that is not ours was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Name another path.
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    /// Give the service the right to write there (in Kubernetes: `fsGroup`).
    #[error("this process may not read and write {}", path.display())]
    NotPermitted {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Name an empty directory, or one of a Provident journal.
    #[error("{} is not empty and not the directory of a Provident journal", path.display())]
    Foreign { path: PathBuf },
    /// Start the version that wrote it, or a later one.
    #[error("{} is of format {found}, this version knows formats up to {ours}", path.display())]
    NewerFormat {
        path: PathBuf,
        found: u32,
        ours: u32,
    },
    /// Stop the other process; two can't write one journal.
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// Restore a backup, or start with an empty directory; nothing was changed.
    #[error("the journal in {} is damaged: {what}", path.display())]
    Damaged {
        path: PathBuf,
        what: String,
        #[source]
        cause: Option<anyhow::Error>,
    },
    /// The disk failed; trying again may help.
    #[error("{} can't be opened", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The journal in a directory of this machine.
///
/// Dropping it closes it: all that was appended is on disk already. The directory stays locked
/// until the calls that still run are done; the last to go waits for fjall's threads.
pub struct EmbeddedJournal {
    shared: Arc<Shared>,
}

/// The order of the fields is the order of closing: the lock goes last.
struct Shared {
    id: JournalId,
    published: RwLock<Published>,
    state: Keyspace,
    writer: Mutex<Writer>,
    database: Database,
    generation_bytes_max: u64,
    _directory: DataDirectory,
}

/// What only the one who appends or trims may touch.
#[derive(Debug)]
struct Writer {
    head: Head,
    room: Room,
    /// A write failed: what is on disk is unknown until the journal is opened again.
    poisoned: bool,
}

impl fmt::Debug for EmbeddedJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedJournal")
            .field("id", &self.shared.id)
            .field("published", &self.shared.published())
            .finish_non_exhaustive()
    }
}

impl EmbeddedJournal {
    /// Opens the journal in a directory, or creates it. Blocks: for how long depends on what
    /// fjall has to replay, at most about 128 MiB.
    pub fn open(options: EmbeddedOptions) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let directory = DataDirectory::open(&path)?;
        let at = |source| directory::from_io(&path, source);
        if !directory.has_journal().map_err(at)? {
            create(&options).map_err(|error| from_fjall(&path, error))?;
            directory.adopt_journal().map_err(at)?;
        }
        tail::mend(&path.join(directory::JOURNAL))
            .map_err(at)?
            .map_err(|what| OpenError::Damaged {
                path: path.clone(),
                what,
                cause: None,
            })?;
        let database = options::database(&options, directory::JOURNAL)
            .open()
            .map_err(|error| from_fjall(&path, error))?;
        let opened = Opened::read(&path, &database)?;
        repair(&database, &opened).map_err(|error| from_fjall(&path, error))?;
        let Opened {
            id,
            state,
            head,
            generations,
        } = opened;
        Ok(Self {
            shared: Arc::new(Shared {
                id,
                published: RwLock::new(Published {
                    head: head.seq,
                    generations: Arc::new(generations),
                }),
                state,
                writer: Mutex::new(Writer {
                    head,
                    room: Room::new(options.path, options.reserve_bytes),
                    poisoned: false,
                }),
                database,
                generation_bytes_max: options.generation_bytes_max,
                _directory: directory,
            }),
        })
    }

    /// Runs what blocks off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, anyhow::Error> {
        let shared = Arc::clone(&self.shared);
        Ok(tokio::task::spawn_blocking(move || call(&shared)).await?)
    }
}

#[async_trait]
impl Journal for EmbeddedJournal {
    fn id(&self) -> JournalId {
        self.shared.id
    }

    fn bounds(&self) -> Bounds {
        let published = self.shared.published();
        Bounds {
            earliest: published.generations.earliest(),
            head: published.head,
        }
    }

    async fn append(&self, batch: Batch) -> Result<Vec<Appended>, AppendError> {
        self.blocking(move |shared| shared.write(|writer| shared.append(writer, batch)))
            .await
            .map_err(AppendError::Fault)?
    }

    async fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError> {
        self.blocking(move |shared| shared.read(from, direction, limit))
            .await
            .map_err(ReadError::Fault)?
    }

    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        self.blocking(move |shared| shared.find(key))
            .await
            .map_err(ReadError::Fault)?
    }

    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        let prefix = keys::state_key(prefix);
        self.blocking(move |shared| shared.state(&prefix))
            .await
            .map_err(ReadError::Fault)?
    }

    async fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        self.blocking(move |shared| shared.write(|writer| shared.trim(writer, before)))
            .await
            .map_err(AppendError::Fault)?
    }
}

impl Shared {
    fn published(&self) -> Published {
        // Only ever replaced as a whole, so a panic elsewhere leaves nothing half done in it.
        self.published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn publish(&self, head: Seq, generations: Arc<Generations>) {
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Published { head, generations };
    }

    /// Runs a write, and no more after one has failed or panicked.
    fn write<T>(
        &self,
        write: impl FnOnce(&mut Writer) -> Result<T, AppendError>,
    ) -> Result<T, AppendError> {
        let Ok(mut writer) = self.writer.lock() else {
            return Err(AppendError::Fault(anyhow!("an earlier write panicked")));
        };
        if writer.poisoned {
            return Err(AppendError::Fault(anyhow!("an earlier write failed")));
        }
        let outcome = write(&mut writer);
        writer.poisoned = matches!(outcome, Err(AppendError::Fault(_)));
        outcome
    }

    fn append(&self, writer: &mut Writer, batch: Batch) -> Result<Vec<Appended>, AppendError> {
        if let Some(change) = batch
            .state
            .iter()
            .find(|change| change.key.len() > keys::STATE_KEY_BYTES_MAX)
        {
            let length = change.key.len();
            return Err(fault(anyhow!("a key of state has {length} bytes")));
        }
        let mut generations = self.published().generations;
        let mut head = writer.head;
        let Assigned { appended, new } = assign(&generations, head.seq, batch.entries)?;
        if new.is_empty() && batch.state.is_empty() {
            return Ok(appended);
        }
        let record_bytes = new.iter().map(|(_, entry)| bytes_of(&entry.record)).sum();
        if !new.is_empty() {
            // Keys and the rows' overhead are about 100 bytes each.
            let count = u64::try_from(new.len()).expect("a length fits 64 bits");
            writer.room.reserve(record_bytes + count * 100)?;
        }

        let before = Arc::clone(&generations);
        let is_due = head.record_bytes.saturating_add(record_bytes) > self.generation_bytes_max;
        let is_empty = head.seq < before.newest_records().first;
        if is_due && !is_empty && !new.is_empty() {
            generations = Arc::new(self.cut(&before, &mut head)?);
        }

        let mut write = OwnedWriteBatch::with_capacity(
            self.database.clone(),
            2 * new.len() + batch.state.len() + 2,
        );
        let records = &generations.newest_records().keyspace;
        let keys = &generations.newest_keys().keyspace;
        for (seq, entry) in new {
            write.insert(records, keys::record_key(seq), entry.record);
            write.insert(keys, entry.key.0, keys::place_value(seq, entry.fingerprint));
            head.seq = seq;
        }
        head.record_bytes += record_bytes;
        head.key_bytes += record_bytes;
        for change in batch.state {
            let key = keys::state_key(&change.key);
            match change.value {
                Some(value) => write.insert(&self.state, key, value),
                None => write.remove(&self.state, key),
            }
        }
        self.commit(write, &before, &generations, head)?;
        writer.head = head;
        Ok(appended)
    }

    fn trim(&self, writer: &mut Writer, before: Seq) -> Result<Seq, AppendError> {
        let mut head = writer.head;
        let before = before.min(head.seq.next());
        let old = self.published().generations;
        let mut generations = Generations::clone(&old);
        // Else a journal that fills slowly would keep its records for years.
        if generations.newest_records().first < before {
            generations = self.cut(&old, &mut head)?;
        }
        let dropped = generations.trim(before);
        let earliest = generations.earliest();
        if generations.table() == old.table() {
            return Ok(earliest);
        }
        let write = OwnedWriteBatch::with_capacity(self.database.clone(), 2);
        self.commit(write, &old, &Arc::new(generations), head)?;
        writer.head = head;
        // Only now: after a crash in between, the next open deletes what no table names.
        drop(old);
        for generation in dropped {
            self.database
                .delete_keyspace(generation.keyspace)
                .map_err(|error| fault(error.into()))?;
        }
        Ok(earliest)
    }

    /// Generations with a new one. Its keyspaces are on disk, no table names them yet.
    fn cut(&self, generations: &Generations, head: &mut Head) -> Result<Generations, AppendError> {
        let next = generations
            .cut(&self.database, head)
            .map_err(|error| fault(error.into()))?;
        // fjall flushes a keyspace's own directory, not the entry that names it.
        sync_parent(&next.newest_records().keyspace).map_err(|error| fault(error.into()))?;
        Ok(next)
    }

    /// Writes a batch with its head and, if they changed, the generations; then shows all of it.
    fn commit(
        &self,
        mut write: OwnedWriteBatch,
        before: &Generations,
        after: &Arc<Generations>,
        head: Head,
    ) -> Result<(), AppendError> {
        let table = after.table();
        let is_cut = table != before.table();
        if is_cut {
            write.insert(
                &self.state,
                keys::GENERATIONS_KEY,
                keys::generations_value(&table),
            );
        }
        write.insert(&self.state, keys::HEAD_KEY, keys::head_value(head));
        write
            .durability(Some(PersistMode::SyncData))
            .commit()
            .map_err(|error| fault(error.into()))?;
        self.publish(head.seq, Arc::clone(after));
        if is_cut {
            flush_all_but_newest(after);
        }
        Ok(())
    }

    fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError> {
        let Published { head, generations } = self.published();
        let earliest = generations.earliest();
        let span = match direction {
            Direction::OldestFirst if from < earliest => {
                return Err(ReadError::Trimmed {
                    asked: from,
                    earliest,
                });
            }
            Direction::OldestFirst => (from, head),
            Direction::NewestFirst => (earliest, from.min(head)),
        };
        let mut reading = Reading {
            limit,
            records: Vec::new(),
            bytes: 0,
        };
        let ends = generations.records[1..]
            .iter()
            .map(|next| next.first.previous())
            .chain([head]);
        let mut pieces: Vec<_> = generations
            .records
            .iter()
            .zip(ends)
            .map(|(generation, end)| {
                let first = generation.first.max(span.0);
                (generation, first, end.min(span.1))
            })
            .filter(|(_, first, last)| first <= last)
            .collect();
        if direction == Direction::NewestFirst {
            pieces.reverse();
        }
        for (generation, first, last) in pieces {
            match reading.read(generation, first, last, direction) {
                Ok(Goes::On) => {}
                Ok(Goes::NoFurther) => break,
                // What stands before the damage is given first; the next read starts at it.
                Err(_) if !reading.records.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(reading.records)
    }

    fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        let Published { head, generations } = self.published();
        let place = look_up(&generations, key)?;
        Ok(place.filter(|(seq, _)| *seq <= head))
    }

    fn state(&self, prefix: &[u8]) -> Result<StateRows, ReadError> {
        // A snapshot has each batch as a whole or not at all, a plain range does not.
        let rows = self.database.snapshot().prefix(&self.state, prefix);
        rows.map(|row| {
            let (key, value) = row
                .into_inner()
                .map_err(|error| read_error(Seq::ZERO, error))?;
            let key = keys::parse_state_key(&key).ok_or_else(|| ReadError::Corrupt {
                seq: Seq::ZERO,
                cause: Some(anyhow!("a row of state has another prefix")),
            })?;
            Ok((key.to_vec(), value.to_vec()))
        })
        .collect()
    }
}

/// Keys of the table of state, and their values.
type StateRows = Vec<(Vec<u8>, Vec<u8>)>;

/// A read that is under way.
struct Reading {
    limit: ReadLimit,
    records: Vec<Record>,
    bytes: usize,
}

enum Goes {
    On,
    NoFurther,
}

impl Reading {
    /// Reads what stands from `first` to `last` in one generation, from either end.
    fn read(
        &mut self,
        generation: &Generation,
        first: Seq,
        last: Seq,
        direction: Direction,
    ) -> Result<Goes, ReadError> {
        let mut rows = generation
            .keyspace
            .range(keys::record_key(first)..=keys::record_key(last));
        let (mut expected, end) = match direction {
            Direction::OldestFirst => (first, last),
            Direction::NewestFirst => (last, first),
        };
        loop {
            let row = match direction {
                Direction::OldestFirst => rows.next(),
                Direction::NewestFirst => rows.next_back(),
            };
            let missing = ReadError::Corrupt {
                seq: expected,
                cause: None,
            };
            let Some(row) = row else {
                return Err(missing);
            };
            let (key, value) = row
                .into_inner()
                .map_err(|error| read_error(expected, error))?;
            if keys::parse_record_key(&key) != Some(expected) {
                return Err(missing);
            }
            if !may_take(self.limit, self.records.len(), self.bytes, value.len()) {
                return Ok(Goes::NoFurther);
            }
            self.bytes += value.len();
            self.records.push(Record {
                seq: expected,
                bytes: value.into(),
            });
            if expected == end {
                return Ok(Goes::On);
            }
            expected = match direction {
                Direction::OldestFirst => expected.next(),
                Direction::NewestFirst => expected.previous(),
            };
        }
    }
}

/// What is to become of the entries of a batch.
struct Assigned {
    appended: Vec<Appended>,
    new: Vec<(Seq, Entry)>,
}

/// Gives each entry its place.
fn assign(
    generations: &Generations,
    head: Seq,
    entries: Vec<Entry>,
) -> Result<Assigned, AppendError> {
    let mut appended = Vec::with_capacity(entries.len());
    let mut new = Vec::with_capacity(entries.len());
    let mut in_batch = HashMap::with_capacity(entries.len());
    let mut last = head;
    for entry in entries {
        let known = match in_batch.get(&entry.key) {
            Some(place) => Some(*place),
            None => look_up(generations, entry.key).map_err(|error| fault(error.into()))?,
        };
        if let Some((seq, fingerprint)) = known {
            appended.push(Appended::Known { seq, fingerprint });
            continue;
        }
        last = last.next();
        in_batch.insert(entry.key, (last, entry.fingerprint));
        new.push((last, entry));
        appended.push(Appended::New(last));
    }
    Ok(Assigned { appended, new })
}

/// Where a key stands. Newest first, because what comes twice comes soon after.
fn look_up(
    generations: &Generations,
    key: DedupeKey,
) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
    for generation in generations.keys.iter().rev() {
        let value = generation
            .keyspace
            .get(key.0)
            .map_err(|error| read_error(Seq::ZERO, error))?;
        if let Some(value) = value {
            let place = keys::parse_place_value(&value).ok_or_else(|| ReadError::Corrupt {
                seq: Seq::ZERO,
                cause: Some(anyhow!("the place of key {key:?} is no place")),
            })?;
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// How much room is left, asked of the file system no more often than it can matter.
#[derive(Debug)]
struct Room {
    path: PathBuf,
    reserve_bytes: u64,
    asked: Option<(Instant, u64)>,
    written_since: u64,
}

impl Room {
    /// Others may fill the volume too: at 1 GB/s this is 100 MB, well within the reserve.
    const ASK_INTERVAL: Duration = Duration::from_millis(100);
    /// Our own part is known; asking again accounts for what fjall writes besides.
    const ASK_AFTER_BYTES: u64 = 8 * 1024 * 1024;

    fn new(path: PathBuf, reserve_bytes: u64) -> Self {
        Self {
            path,
            reserve_bytes,
            asked: None,
            written_since: 0,
        }
    }

    /// Takes `bytes` of the room, if they and the reserve are free.
    fn reserve(&mut self, bytes: u64) -> Result<(), AppendError> {
        let needed = self.reserve_bytes.saturating_add(bytes);
        if let Some((when, free_bytes)) = self.asked
            && when.elapsed() < Self::ASK_INTERVAL
            && self.written_since < Self::ASK_AFTER_BYTES
            && free_bytes.saturating_sub(self.written_since) >= needed
        {
            self.written_since += bytes;
            return Ok(());
        }
        let volume = rustix::fs::statvfs(&self.path).map_err(|error| fault(error.into()))?;
        let free_bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
        self.asked = Some((Instant::now(), free_bytes));
        self.written_since = 0;
        if free_bytes < needed {
            return Err(AppendError::StorageFull {
                free_bytes,
                reserve_bytes: self.reserve_bytes,
            });
        }
        self.written_since = bytes;
        Ok(())
    }
}

/// What stands in `state` at open.
struct Opened {
    id: JournalId,
    state: Keyspace,
    head: Head,
    generations: Generations,
}

impl Opened {
    /// Reads what the last commit left, and checks that it holds together.
    fn read(path: &Path, database: &Database) -> Result<Self, OpenError> {
        let failed = |error| from_fjall(path, error);
        let damaged = |what: String| OpenError::Damaged {
            path: path.into(),
            what,
            cause: None,
        };
        if !database.keyspace_exists(STATE_KEYSPACE) {
            return Err(damaged("the keyspace of state is missing".into()));
        }
        let state = database
            .keyspace(STATE_KEYSPACE, options::state)
            .map_err(failed)?;
        let row = |key| state.get(key).map_err(failed);
        let no_row =
            |name: &str| damaged(format!("the row of the {name} is missing or unreadable"));

        let id = row(keys::META_KEY)?
            .and_then(|value| keys::parse_meta_value(&value))
            .ok_or_else(|| no_row("journal's id"))?;
        let head = row(keys::HEAD_KEY)?
            .and_then(|value| keys::parse_head_value(&value))
            .ok_or_else(|| no_row("head"))?;
        let table = row(keys::GENERATIONS_KEY)?
            .and_then(|value| keys::parse_generations_value(&value))
            .ok_or_else(|| no_row("generations"))?;
        let generations = Generations::open(database, &table)
            .map_err(failed)?
            .map_err(|name| damaged(format!("the keyspace {name} is missing")))?;

        let newest = generations.newest_records();
        let expected = (head.seq >= newest.first).then_some(head.seq);
        let last = match newest.keyspace.last_key_value() {
            Some(row) => keys::parse_record_key(&row.key().map_err(failed)?),
            None => None,
        };
        if last != expected {
            let head = head.seq;
            return Err(damaged(format!(
                "the head is {head}, but the last record stands elsewhere"
            )));
        }
        Ok(Self {
            id,
            state,
            head,
            generations,
        })
    }
}

/// Creates fjall's files and the rows of an empty journal under the name of an unfinished one.
fn create(options: &EmbeddedOptions) -> Result<(), fjall::Error> {
    let database = options::database(options, directory::JOURNAL_NEW).open()?;
    let state = database.keyspace(STATE_KEYSPACE, options::state)?;
    let generations = Generations::create(&database, options.generation_bytes_max)?;
    sync_parent(&state)?;
    let id = JournalId {
        id: options.new_id,
        epoch: 1,
    };
    let mut write = database.batch().durability(Some(PersistMode::SyncAll));
    write.insert(&state, keys::META_KEY, keys::meta_value(id));
    write.insert(
        &state,
        keys::GENERATIONS_KEY,
        keys::generations_value(&generations.table()),
    );
    write.insert(&state, keys::HEAD_KEY, keys::head_value(Head::default()));
    write.commit()
}

/// Deletes the keyspaces that no table names: begun by a cut or left by a trim that a crash
/// interrupted.
fn repair(database: &Database, opened: &Opened) -> Result<(), fjall::Error> {
    // fjall counts creations and deletions of keyspaces in the sequence of its rows, but recovers
    // that from rows alone (its db.rs, `recover`), and gives a deleted keyspace's id again. A
    // keyspace that is created below the deletion that its id remembers vanishes at the next
    // recovery with all that is in it. So every open jumps over what could have been forgotten,
    // and makes the jump durable before it deletes or creates anything. There can't be a million
    // of them between two of our commits.
    let jump = database.seqno() + 1_000_000;
    database.supervisor.seqno.fetch_max(jump);
    let mut write = database.batch().durability(Some(PersistMode::SyncData));
    write.insert(&opened.state, keys::HEAD_KEY, keys::head_value(opened.head));
    write.commit()?;

    let Generations { records, keys, .. } = &opened.generations;
    let named: Vec<_> = records
        .iter()
        .chain(keys)
        .map(|generation| generation.keyspace.name().clone())
        .collect();
    for name in database.list_keyspace_names() {
        if &*name != STATE_KEYSPACE && !named.contains(&name) {
            let orphan = database.keyspace(&name, options::records)?;
            database.delete_keyspace(orphan)?;
        }
    }
    flush_all_but_newest(&opened.generations);
    Ok(())
}

/// Starts flushing what is complete to tables: nothing is written there any more, so fjall would
/// leave it in memory and keep every journal file since, for their sake.
fn flush_all_but_newest(generations: &Generations) {
    let older = |all: &[Generation]| all[..all.len() - 1].to_vec();
    for generation in [older(&generations.records), older(&generations.keys)].concat() {
        // Does nothing where nothing is in memory; doesn't wait for the flush.
        if let Err(error) = generation.keyspace.rotate_memtable() {
            tracing::warn!(?generation, %error, "a flush was put off");
        }
    }
}

/// Flushes the directory that names a keyspace's own.
fn sync_parent(keyspace: &Keyspace) -> std::io::Result<()> {
    let parent = keyspace.path().parent();
    File::open(parent.expect("a keyspace lies within the journal"))?.sync_all()
}

fn bytes_of(record: &bytes::Bytes) -> u64 {
    u64::try_from(record.len()).expect("a length fits 64 bits")
}

fn fault(cause: anyhow::Error) -> AppendError {
    AppendError::Fault(cause)
}

/// Says of a failed read whether what is stored is damaged or couldn't be read.
fn read_error(seq: Seq, error: fjall::Error) -> ReadError {
    if is_damage(&error) {
        let cause = Some(error.into());
        ReadError::Corrupt { seq, cause }
    } else {
        ReadError::Fault(error.into())
    }
}

/// Says of a failed open what the operator can do about it.
fn from_fjall(path: &Path, error: fjall::Error) -> OpenError {
    let is_damage = is_damage(&error);
    match error {
        fjall::Error::Locked => OpenError::Locked { path: path.into() },
        fjall::Error::Io(source) | fjall::Error::Storage(LsmError::Io(source)) if !is_damage => {
            directory::from_io(path, source)
        }
        other => OpenError::Damaged {
            path: path.into(),
            what: "its files don't hold together".into(),
            cause: Some(other.into()),
        },
    }
}

fn is_damage(error: &fjall::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => {
            // A file that is cut, or gone.
            matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
        }
        fjall::Error::Locked | fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted => false,
        _ => true,
    }
}
