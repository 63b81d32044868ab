//! The journal in a directory of this machine, on fjall; the default.
//!
//! - A batch is one fjall batch, flushed with `fdatasync` before anybody sees it: records, keys,
//!   state, head and, when a generation begins, the table of generations.
//! - Readers go by what was published after the flush, never by what fjall shows: fjall applies
//!   a batch row by row.
//! - After any failed write this takes no more ([`AppendError::Fault`]); reads go on.
//! - An end that was lost is told by a mark outside of it; fjall's own lists are checked before it
//!   reads them.
//! - What a crash leaves half done is repaired at open: unfinished creations, keyspaces that no
//!   table names and a batch that a power cut tore are removed.
//!
//! Blocking calls of fjall run on tokio's blocking threads. It must not know what a record says.

mod directory;
mod generations;
mod keys;
mod mark;
mod open;
mod options;
mod read;
mod room;
mod tail;
mod trees;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::anyhow;
use async_trait::async_trait;
use fjall::{Database, Keyspace, LsmError, OwnedWriteBatch, PersistMode, Readable};
use tokio::sync::Semaphore;

use self::directory::DataDirectory;
use self::generations::{Generation, Generations, Published};
use self::keys::Head;
use self::mark::{Found, Known, Mark};
pub use self::open::OpenError;
use self::open::Opened;
pub use self::options::EmbeddedOptions;
use self::room::Room;
use super::{
    AppendError, Appended, Batch, Bounds, Cut, DedupeKey, Direction, Entry, Fingerprint, Journal,
    ReadError, ReadLimit, Record, Unit, Usage,
};
use crate::domain::cursor::{JournalId, Seq};

/// The journal in a directory of this machine.
///
/// Dropping it closes it: all that was appended is on disk already. The directory stays locked
/// until the calls that still run are done; the last to go waits for fjall's threads.
pub struct EmbeddedJournal {
    shared: Arc<Shared>,
    /// Turns of those who read.
    reads: Semaphore,
}

/// Reads at one time. More would be no faster, and tokio has one queue for all that blocks: the
/// appends would have to wait behind them, whatever number of callers there is.
const READS_MAX: usize = 32;

/// The order of the fields is the order of closing: the lock goes last.
struct Shared {
    id: JournalId,
    published: RwLock<Published>,
    state: Keyspace,
    writer: Mutex<Writer>,
    database: Database,
    /// After the database, so that it says what fjall's threads left.
    mark: Mark,
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
            open::create(&options).map_err(|error| open::from_fjall(&path, error))?;
            directory.adopt_journal().map_err(at)?;
        }
        let damaged = |what| OpenError::Damaged {
            path: path.clone(),
            what,
            cause: None,
        };
        let journal = path.join(directory::JOURNAL);
        trees::check(&journal).map_err(at)?.map_err(damaged)?;
        let found = Found::read(&path).map_err(at)?.map_err(damaged)?;
        tail::mend(&journal, found.is_closed())
            .map_err(at)?
            .map_err(damaged)?;
        found.reopen(&path).map_err(at)?;
        let database = options::database(&options, directory::JOURNAL)
            .open()
            .map_err(|error| open::from_fjall(&path, error))?;
        let opened = Opened::read(&path, &database)?;
        found
            .check(opened.head.seq, database.seqno())
            .map_err(damaged)?;
        let writes = open::repair(&database, &opened);
        let known = Known {
            head: opened.head.seq,
            writes: writes.map_err(|error| open::from_fjall(&path, error))?,
        };
        let mark = Mark::open(&path, known).map_err(at)?;
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
                mark,
                generation_bytes_max: options.generation_bytes_max,
                _directory: directory,
            }),
            reads: Semaphore::new(READS_MAX),
        })
    }

    /// Whether a directory has a journal, in whatever state.
    pub fn is_in(data_dir: &Path) -> bool {
        data_dir.join(directory::JOURNAL).is_dir()
    }

    /// Begins a new epoch and closes the journal: no cursor that was given before counts any more.
    /// Durable when it returns. Blocks.
    ///
    /// For a journal that a backup took back in time: what comes next stands in places that others
    /// have seen with other events.
    pub fn begin_epoch(self) -> Result<JournalId, AppendError> {
        let shared = &self.shared;
        let id = JournalId {
            epoch: shared.id.epoch + 1,
            ..shared.id
        };
        shared.write(|writer| {
            let generations = shared.published().generations;
            let mut write = OwnedWriteBatch::with_capacity(shared.database.clone(), 2);
            write.insert(&shared.state, keys::META_KEY, keys::meta_value(id));
            shared.commit(write, &generations, &generations, writer.head)
        })?;
        Ok(id)
    }

    /// Runs a read off the async threads.
    async fn reading<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Shared) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let _turn = self.reads.acquire().await.expect("it is never closed");
        self.blocking(call).await.map_err(ReadError::Fault)?
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

    async fn check(&self) -> Result<(), AppendError> {
        // fjall moves rows to tables and merges them in threads of its own. When one of them fails
        // it says so at the next write only: this is a write of nothing.
        self.blocking(|shared| shared.database.persist(PersistMode::Buffer))
            .await
            .map_err(AppendError::Fault)?
            .map_err(|error| fault(error.into()))
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
        self.reading(move |shared| read::read(&shared.published(), from, direction, limit))
            .await
    }

    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        self.reading(move |shared| shared.find(key)).await
    }

    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        let prefix = keys::state_key(prefix);
        self.reading(move |shared| shared.state(&prefix)).await
    }

    async fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        self.blocking(move |shared| shared.trim(before))
            .await
            .map_err(AppendError::Fault)?
    }

    async fn usage(&self) -> Result<Usage, ReadError> {
        self.reading(Shared::usage).await
    }

    async fn cut(&self, what: Cut) -> Result<(), AppendError> {
        self.blocking(move |shared| shared.write(|writer| shared.begin_units(writer, what)))
            .await
            .map_err(AppendError::Fault)?
    }

    async fn forget(&self, before: Seq) -> Result<(), AppendError> {
        self.blocking(move |shared| shared.forget(before))
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
        if matches!(outcome, Err(AppendError::Fault(_))) {
            writer.poisoned = true;
            self.mark.lost();
        }
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
            generations = Arc::new(self.cut(&before, &mut head, Cut::Records)?);
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

    fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        self.drop_units(|writer, old| {
            let mut head = writer.head;
            let before = before.min(head.seq.next());
            let mut generations = Generations::clone(old);
            // Else a journal that fills slowly would keep its records for years.
            if generations.newest_records().first < before {
                generations = self.cut(old, &mut head, Cut::Records)?;
            }
            let dropped = generations.trim(before);
            Ok((generations, head, dropped))
        })?;
        Ok(self.published().generations.earliest())
    }

    fn forget(&self, before: Seq) -> Result<(), AppendError> {
        self.drop_units(|writer, old| {
            let mut generations = Generations::clone(old);
            let dropped = generations.forget(before);
            Ok((generations, writer.head, dropped))
        })
    }

    /// Commits the generations that are left, then drops the others: after a crash in between, the
    /// next open deletes what no table names. Appends wait for the commit alone, not for files that
    /// are removed.
    fn drop_units(
        &self,
        decide: impl FnOnce(
            &Writer,
            &Generations,
        ) -> Result<(Generations, Head, Vec<Generation>), AppendError>,
    ) -> Result<(), AppendError> {
        let dropped = self.write(|writer| {
            let old = self.published().generations;
            let (generations, head, dropped) = decide(writer, &old)?;
            if generations.table() != old.table() {
                let write = OwnedWriteBatch::with_capacity(self.database.clone(), 2);
                self.commit(write, &old, &Arc::new(generations), head)?;
                writer.head = head;
            }
            Ok(dropped)
        })?;
        if dropped.is_empty() {
            return Ok(());
        }
        for generation in dropped {
            self.database
                .delete_keyspace(generation.keyspace)
                .map_err(|error| fault(error.into()))?;
        }
        // Until all that its older journal files hold is flushed, fjall keeps them, and for their sake
        // the files of the keyspaces that have gone. Where little is written that takes long.
        let generations = self.published().generations;
        let newest = [generations.newest_records(), generations.newest_keys()];
        for keyspace in [&newest[0].keyspace, &newest[1].keyspace, &self.state] {
            generations::start_flush(keyspace);
        }
        Ok(())
    }

    fn begin_units(&self, writer: &mut Writer, what: Cut) -> Result<(), AppendError> {
        let old = self.published().generations;
        let mut head = writer.head;
        let generations = Arc::new(self.cut(&old, &mut head, what)?);
        if generations.table() == old.table() {
            return Ok(());
        }
        let write = OwnedWriteBatch::with_capacity(self.database.clone(), 2);
        self.commit(write, &old, &generations, head)?;
        writer.head = head;
        Ok(())
    }

    fn usage(&self) -> Result<Usage, ReadError> {
        let generations = self.published().generations;
        let (written, volume) = {
            let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            (writer.head.record_bytes, writer.room.volume())
        };
        let mut records: Vec<_> = generations
            .records
            .iter()
            .map(|generation| Unit {
                first: generation.first,
                bytes: generation.keyspace.disk_space(),
            })
            .collect();
        // Most of the newest is in memory and in fjall's journal still.
        let newest = records.last_mut().expect("never empty");
        newest.bytes = newest.bytes.max(written);
        let bytes = self.database.disk_space();
        Ok(Usage {
            bytes: bytes.map_err(|error| ReadError::Fault(error.into()))?,
            volume: volume.map_err(|error| ReadError::Fault(error.into()))?,
            records,
            keys: generations.keys.iter().map(|keys| keys.first).collect(),
        })
    }

    /// Generations with a new one. Its keyspaces are on disk, no table names them yet.
    fn cut(
        &self,
        generations: &Generations,
        head: &mut Head,
        what: Cut,
    ) -> Result<Generations, AppendError> {
        let next = generations
            .cut(&self.database, head, what)
            .map_err(|error| fault(error.into()))?;
        // fjall flushes a keyspace's own directory, not the entry that names it.
        generations::sync_parent(&next.newest_records().keyspace)
            .map_err(|error| fault(error.into()))?;
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
        let known = Known {
            head: head.seq,
            writes: self.database.seqno(),
        };
        write
            .durability(Some(PersistMode::SyncData))
            .commit()
            .map_err(|error| fault(error.into()))?;
        self.mark.reached(known);
        self.publish(head.seq, Arc::clone(after));
        if is_cut {
            after.flush_all_but_newest();
        }
        Ok(())
    }

    fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        let Published { head, generations } = self.published();
        let place = read::look_up(&generations, key)?;
        Ok(place.filter(|(seq, _)| *seq <= head))
    }

    fn state(&self, prefix: &[u8]) -> Result<StateRows, ReadError> {
        // A snapshot has each batch as a whole or not at all, a plain range does not. But a keyspace
        // that is deleted (its meta_keyspace.rs, `remove_keyspace`) lets fjall show all that came
        // before, so one that is taken while a batch is applied has half of it.
        let snapshot = {
            let _no_batch = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            self.database.snapshot()
        };
        let rows = snapshot.prefix(&self.state, prefix);
        rows.map(|row| {
            let (key, value) = row
                .into_inner()
                .map_err(|error| read::read_error(Seq::ZERO, error))?;
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
    for (place, entry) in entries.into_iter().enumerate() {
        let known = match in_batch.get(&entry.key) {
            Some(known) => Some(*known),
            None => read::look_up(generations, entry.key).map_err(|error| match error {
                cause @ ReadError::Corrupt { .. } => AppendError::Damaged {
                    entry: place,
                    cause,
                },
                error => fault(error.into()),
            })?,
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

fn bytes_of(record: &bytes::Bytes) -> u64 {
    u64::try_from(record.len()).expect("a length fits 64 bits")
}

fn fault(cause: anyhow::Error) -> AppendError {
    AppendError::Fault(cause)
}

/// Whether what is stored is wrong, rather than out of reach.
fn is_damage(error: &fjall::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => {
            // A file that is cut (so that a seek goes before its begin), or gone.
            matches!(
                error.kind(),
                InvalidData | InvalidInput | NotFound | UnexpectedEof
            )
        }
        fjall::Error::Locked | fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted => false,
        _ => true,
    }
}
