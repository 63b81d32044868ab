//! Which keyspaces records and keys stand in, when a new one begins, and which a trim drops.
//!
//! Records and keys are cut into generations, because dropping a keyspace gives its disk back at
//! once and row-by-row deletes do not. A new record keyspace begins after
//! `generation_bytes_max` record bytes, or when a trim reaches into the newest one. A new key
//! keyspace begins only together with a record keyspace, once the keys of `key_cut_bytes` record
//! bytes are in the newest one: keys stay when their records go, so their number can't follow
//! that of the records; or when it is asked for, so that old keys can be forgotten. At [`KEY_GENERATIONS_MAX`] none begins any more; `key_cut_bytes` doubles
//! instead, so that a later one, when old keys were dropped, begins at a size that lasts.
//!
//! Nothing here writes: the writer commits a table in the batch that first needs it.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use fjall::{Database, Keyspace};

use super::keys::{self, GenerationTable, Head};
use super::options;
use crate::domain::cursor::Seq;
use crate::journal::Cut;

/// Each look-up of an unknown key asks every key keyspace: 1.3 µs with one, 1.9 with 8, 5.7 with
/// 32 (measured, design.md section 6).
pub(super) const KEY_GENERATIONS_MAX: usize = 16;

/// A keyspace and the first sequence that may stand in it.
#[derive(Clone)]
pub(super) struct Generation {
    pub(super) first: Seq,
    pub(super) keyspace: Keyspace,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyspace.name())
    }
}

/// The keyspaces that are alive, oldest first; never empty. Readers keep one while they read, and
/// a keyspace that was dropped meanwhile stays on disk until the last of them is done.
#[derive(Clone, Debug)]
pub(super) struct Generations {
    pub(super) key_cut_bytes: u64,
    pub(super) records: Vec<Generation>,
    pub(super) keys: Vec<Generation>,
}

impl Generations {
    /// The keyspaces that a table names, or the name of one that is not there.
    pub(super) fn open(
        database: &Database,
        table: &GenerationTable,
    ) -> Result<Result<Self, String>, fjall::Error> {
        let names = (table.records.iter().copied().map(keys::record_keyspace))
            .chain(table.keys.iter().copied().map(keys::key_keyspace));
        for name in names {
            if !database.keyspace_exists(&name) {
                return Ok(Err(name));
            }
        }
        let records = table.records.iter();
        let keys = table.keys.iter();
        Ok(Ok(Self {
            key_cut_bytes: table.key_cut_bytes,
            records: records
                .map(|first| open_records(database, *first))
                .collect::<Result<_, _>>()?,
            keys: keys
                .map(|first| open_keys(database, *first))
                .collect::<Result<_, _>>()?,
        }))
    }

    /// The first generation of a new journal; creates its keyspaces.
    pub(super) fn create(database: &Database, key_cut_bytes: u64) -> Result<Self, fjall::Error> {
        Ok(Self {
            key_cut_bytes,
            records: vec![open_records(database, Seq::FIRST)?],
            keys: vec![open_keys(database, Seq::FIRST)?],
        })
    }

    /// These and a new record keyspace for what follows `head`, and a new key keyspace if the
    /// newest is large enough or one is asked for. Creates the keyspaces; until a table with them is committed, they
    /// are orphans that the next open deletes.
    pub(super) fn cut(
        &self,
        database: &Database,
        head: &mut Head,
        what: Cut,
    ) -> Result<Self, fjall::Error> {
        let first = head.seq.next();
        let mut next = self.clone();
        // Where the newest holds nothing yet, it is the new one.
        if self.newest_records().first < first {
            next.records.push(open_records(database, first)?);
            head.record_bytes = 0;
        }
        let is_due = head.key_bytes >= self.key_cut_bytes;
        if self.newest_keys().first < first && (is_due || what == Cut::RecordsAndKeys) {
            if self.keys.len() < KEY_GENERATIONS_MAX {
                next.keys.push(open_keys(database, first)?);
                head.key_bytes = 0;
            } else if is_due {
                next.key_cut_bytes = self.key_cut_bytes.saturating_mul(2);
            }
        }
        Ok(next)
    }

    /// Takes out the record keyspaces that hold nothing from `before` on; never the newest.
    pub(super) fn trim(&mut self, before: Seq) -> Vec<Generation> {
        let older = self.records[1..]
            .iter()
            .take_while(|next| next.first <= before)
            .count();
        self.records.drain(..older).collect()
    }

    /// Takes out the key keyspaces that hold no key from `before` on, nor of a record that is there;
    /// never the newest.
    pub(super) fn forget(&mut self, before: Seq) -> Vec<Generation> {
        let before = before.min(self.earliest());
        let older = self.keys[1..]
            .iter()
            .take_while(|next| next.first <= before)
            .count();
        self.keys.drain(..older).collect()
    }

    /// Starts flushing what is complete to tables: nothing is written there any more, so fjall
    /// would leave it in memory and keep every journal file since, for its sake.
    pub(super) fn flush_all_but_newest(&self) {
        let older = |all: &[Generation]| all[..all.len() - 1].to_vec();
        for generation in [older(&self.records), older(&self.keys)].concat() {
            // Does nothing where nothing is in memory; doesn't wait for the flush.
            if let Err(error) = generation.keyspace.rotate_memtable() {
                tracing::warn!(?generation, %error, "a flush was put off");
            }
        }
    }

    pub(super) fn table(&self) -> GenerationTable {
        let firsts = |generations: &[Generation]| generations.iter().map(|one| one.first).collect();
        GenerationTable {
            key_cut_bytes: self.key_cut_bytes,
            records: firsts(&self.records),
            keys: firsts(&self.keys),
        }
    }

    pub(super) fn earliest(&self) -> Seq {
        self.records[0].first
    }

    pub(super) fn newest_records(&self) -> &Generation {
        self.records.last().expect("never empty")
    }

    pub(super) fn newest_keys(&self) -> &Generation {
        self.keys.last().expect("never empty")
    }
}

/// Flushes the directory that names a keyspace's own: fjall flushes only what is in it.
pub(super) fn sync_parent(keyspace: &Keyspace) -> std::io::Result<()> {
    let parent = keyspace.path().parent();
    File::open(parent.expect("a keyspace lies within the journal"))?.sync_all()
}

/// What readers go by: the head and the keyspaces of one moment.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) head: Seq,
    pub(super) generations: Arc<Generations>,
}

fn open_records(database: &Database, first: Seq) -> Result<Generation, fjall::Error> {
    let keyspace = database.keyspace(&keys::record_keyspace(first), options::records)?;
    Ok(Generation { first, keyspace })
}

fn open_keys(database: &Database, first: Seq) -> Result<Generation, fjall::Error> {
    let keyspace = database.keyspace(&keys::key_keyspace(first), options::keys)?;
    Ok(Generation { first, keyspace })
}
