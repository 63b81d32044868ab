//! The durable log of events, and the contract that every backend keeps.
//!
//! - `append` answers only when its records survive a power cut.
//! - Sequences only grow and are never reused; a trim drops records, it renumbers nothing.
//! - A key is appended once: a second append of it names the first one's place instead, also
//!   within one batch, after a restart, and when the record itself was trimmed.
//! - What stands in one batch (records, keys, state) is there as a whole or not at all.
//!
//! Backends see records as bytes: they know no gRPC type, and never classify. One task appends
//! at a time (the engine's writer); any number may read meanwhile.

pub mod embedded;
pub mod memory;

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub mod fault;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::cursor::{JournalId, Seq};

/// What an event deduplicates on: a digest of its org and uuid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupeKey(pub [u8; 16]);

impl fmt::Debug for DedupeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What tells two different events of one key apart. The journal keeps it and never reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 17]);

/// A record that is to be appended.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: DedupeKey,
    pub fingerprint: Fingerprint,
    pub record: Bytes,
}

/// A change of the small durable table beside the records (subscriptions, poll cursors).
#[derive(Clone, Debug)]
pub struct StateChange {
    pub key: Vec<u8>,
    /// `None` removes the key.
    pub value: Option<Vec<u8>>,
}

/// What is appended as one: entries in their order, and changes of state with them.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub state: Vec<StateChange>,
}

/// What became of one entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It stands at this place now.
    New(Seq),
    /// The key was there already; nothing was written for it.
    Known { seq: Seq, fingerprint: Fingerprint },
}

/// A record and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub seq: Seq,
    pub bytes: Bytes,
}

/// The range of what can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first place that was not trimmed; `head.next()` where nothing is left.
    pub earliest: Seq,
    /// The last place that was given; `Seq::ZERO` in a new journal.
    pub head: Seq,
}

/// What a journal takes on its disk, and the units in which it can give it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All bytes that it takes, what can't be given back included.
    pub bytes: u64,
    /// The volume that it lies on; `None` where nobody knows.
    pub volume: Option<Volume>,
    /// Units of records, oldest first; never empty. The newest is the one that is written to.
    pub records: Vec<Unit>,
    /// The first sequence of each unit of keys, oldest first; never empty.
    pub keys: Vec<Seq>,
}

/// A volume, whoever takes its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What it holds, without what is set aside for root.
    pub bytes: u64,
    pub free_bytes: u64,
}

/// A unit of records: it goes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub first: Seq,
    pub bytes: u64,
}

/// Of what a new unit begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Records,
    RecordsAndKeys,
}

/// How much one read gives at the most. At least one record is given if there is one.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub records_max: usize,
    pub bytes_max: usize,
}

/// Whether one more record of `next_bytes` fits beside what a read has taken already.
fn may_take(limit: ReadLimit, taken: usize, taken_bytes: usize, next_bytes: usize) -> bool {
    taken == 0
        || (taken < limit.records_max && taken_bytes.saturating_add(next_bytes) <= limit.bytes_max)
}

/// Which way a read goes from its starting place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    OldestFirst,
    NewestFirst,
}

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Too little room is left; nothing was written. Try again when there is room.
    #[error("{free_bytes} bytes are free, {reserve_bytes} are kept in reserve")]
    StorageFull { free_bytes: u64, reserve_bytes: u64 },
    /// Whether the key of an entry is known can't be told: what is stored is damaged. Nothing was
    /// written; a batch without that entry may pass.
    #[error("whether an event is known already can't be told")]
    Damaged {
        /// Its place in the batch, from 0.
        entry: usize,
        #[source]
        cause: ReadError,
    },
    /// A write or flush failed: the batch may be durable or not, and the journal takes no more.
    /// Stop the process; opening the journal again tells what is there.
    #[error("the journal can't write any more")]
    Fault(#[source] anyhow::Error),
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The place was trimmed. Go on from `earliest`.
    #[error("what stood at sequence {asked} was removed by retention, the earliest is {earliest}")]
    Trimmed { asked: Seq, earliest: Seq },
    /// Stored bytes fail their checksum or a record that must be there is not. Call the operator.
    #[error("{} is damaged", what_stands_at(*seq))]
    Corrupt {
        /// `Seq::ZERO` where it is not a record that is damaged, but a key or the table of state.
        seq: Seq,
        #[source]
        cause: Option<anyhow::Error>,
    },
    /// The disk or the backend failed; trying again may help.
    #[error("the journal can't be read")]
    Fault(#[source] anyhow::Error),
}

fn what_stands_at(seq: Seq) -> String {
    if seq == Seq::ZERO {
        "what is stored beside the records".to_owned()
    } else {
        format!("the stored record at sequence {seq}")
    }
}

/// A durable log of records with an index of keys and a small table of state.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Which journal this is; fixed while it is open.
    fn id(&self) -> JournalId;

    /// Whether this can still append, as far as that is known without appending. An error is a
    /// `Fault`.
    async fn check(&self) -> Result<(), AppendError>;

    /// What can be read now. Never names what is not durable.
    fn bounds(&self) -> Bounds;

    /// Appends what is new of a batch, in order, and its state; answers when all of it is on disk.
    ///
    /// The answer has one item for each entry. A batch whose entries are all known still writes
    /// its state.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped call may or may not have appended. Only the writer calls it.
    async fn append(&self, batch: Batch) -> Result<Vec<Appended>, AppendError>;

    /// Reads from `from` on (that place included) in one direction, up to a limit.
    ///
    /// Oldest first, a place before `earliest` is `Trimmed` and one after the head gives nothing.
    /// Newest first, a place after the head reads from the head; what was trimmed ends the read.
    async fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError>;

    /// Where a key stands, if it is known (its record may have been trimmed).
    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError>;

    /// The state's keys with a prefix and their values, in the order of the keys.
    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError>;

    /// Removes records before `before`, as far as whole units of storage allow; never a later one.
    ///
    /// Keys stay known. Gives the earliest place that can be read now.
    async fn trim(&self, before: Seq) -> Result<Seq, AppendError>;

    /// What it takes on its disk.
    async fn usage(&self) -> Result<Usage, ReadError>;

    /// Begins new units with what is appended next, where units are cut by hand and the newest
    /// holds anything; so that what is older can go.
    async fn cut(&self, what: Cut) -> Result<(), AppendError>;

    /// Forgets keys of places before `before`, as far as whole units of storage allow; never those
    /// of later places, nor of records that are there.
    async fn forget(&self, before: Seq) -> Result<(), AppendError>;
}

#[async_trait]
impl<J: Journal + ?Sized> Journal for std::sync::Arc<J> {
    fn id(&self) -> JournalId {
        J::id(self)
    }

    async fn check(&self) -> Result<(), AppendError> {
        J::check(self).await
    }

    fn bounds(&self) -> Bounds {
        J::bounds(self)
    }

    async fn append(&self, batch: Batch) -> Result<Vec<Appended>, AppendError> {
        J::append(self, batch).await
    }

    async fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError> {
        J::read(self, from, direction, limit).await
    }

    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        J::find(self, key).await
    }

    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        J::state(self, prefix).await
    }

    async fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        J::trim(self, before).await
    }

    async fn usage(&self) -> Result<Usage, ReadError> {
        J::usage(self).await
    }

    async fn cut(&self, what: Cut) -> Result<(), AppendError> {
        J::cut(self, what).await
    }

    async fn forget(&self, before: Seq) -> Result<(), AppendError> {
        J::forget(self, before).await
    }
}
