//! Opening: what is checked, created and repaired before the journal takes a call.
//!
//! Whatever a crash left half done is undone here; whatever doesn't hold together is said, and
//! left as it is.

use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, LsmError, PersistMode};

use super::generations::{Generation, Generations, sync_parent};
use super::keys::{self, Head, STATE_KEYSPACE};
use super::options::{self, EmbeddedOptions};
use super::{directory, is_damage};
use crate::domain::cursor::{JournalId, Seq};

/// Why the journal wasn't opened, and what the operator can do about it. Nothing in a directory that
/// is not ours was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is not a directory: name one with --data-dir", path.display())]
    NotADirectory { path: PathBuf },
    #[error(
        "this process may not read and write {}: give the directory to its user (in Kubernetes: \
         fsGroup), or name another one with --data-dir",
        path.display()
    )]
    NotPermitted {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{} is on a read-only file system: mount it for writing, or name another directory with \
         --data-dir",
        path.display()
    )]
    ReadOnly { path: PathBuf },
    #[error(
        "{} holds something other than a Provident journal, or its file FORMAT is damaged: name \
         an empty directory with --data-dir, or that of a journal",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "{} was written by a later version, in format {found}, and this one knows formats up to \
         {ours}: start that version",
        path.display()
    )]
    NewerFormat {
        path: PathBuf,
        found: u32,
        ours: u32,
    },
    /// Two can't write one journal.
    #[error(
        "{} is in use by another process: stop that one, or name another directory with --data-dir",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "the journal in {} is damaged, {what}: keep it to look at, and restore a backup or start \
         with an empty directory",
        path.display()
    )]
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

/// What stands in `state` at open.
pub(super) struct Opened {
    pub(super) id: JournalId,
    pub(super) state: Keyspace,
    pub(super) head: Head,
    pub(super) generations: Generations,
}

impl Opened {
    /// Reads what the last commit left, and checks that it holds together.
    pub(super) fn read(path: &Path, database: &Database) -> Result<Self, OpenError> {
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
        // All of it, since whoever opens a journal reads it next: here damage gets a sentence.
        for row in state.iter() {
            row.into_inner().map_err(failed)?;
        }
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
        for all in [&generations.records, &generations.keys] {
            if let Some((name, rows, expected)) = too_few_rows(all, head.seq) {
                return Err(damaged(format!(
                    "the keyspace {name} has {rows} rows, and {expected} belong there"
                )));
            }
        }
        Ok(Self {
            id,
            state,
            head,
            generations,
        })
    }
}

/// A generation with fewer rows than sequences: some were in a file of fjall's journal that is gone.
fn too_few_rows(generations: &[Generation], head: Seq) -> Option<(String, u64, u64)> {
    let ends = generations.iter().skip(1).map(|next| next.first);
    let ends = ends.chain([head.next()]);
    generations.iter().zip(ends).find_map(|(generation, end)| {
        // Each row is written once and none is removed, so fjall's count is exact, but for one
        // thing: what is moved from memory to a table while it counts, it counts twice.
        let rows = u64::try_from(generation.keyspace.approximate_len()).unwrap_or(u64::MAX);
        let expected = end.get().saturating_sub(generation.first.get());
        (rows < expected).then(|| (generation.keyspace.name().to_string(), rows, expected))
    })
}

/// Creates fjall's files and the rows of an empty journal under the name of an unfinished one.
pub(super) fn create(options: &EmbeddedOptions) -> Result<(), fjall::Error> {
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
/// interrupted. Gives a number that no row had before this and that all later ones pass.
pub(super) fn repair(database: &Database, opened: &Opened) -> Result<u64, fjall::Error> {
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
    opened.generations.flush_all_but_newest();
    Ok(jump)
}

/// Says of a failed open what the operator can do about it.
pub(super) fn from_fjall(path: &Path, error: fjall::Error) -> OpenError {
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
