//! A journal in memory, for tests and demos.
//!
//! Keeps the whole contract but durability: what it holds is gone with the process. It trims and
//! forgets to the record and never runs out of room. Nothing bounds its memory but trims, so it is
//! not for production.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    AppendError, Appended, Batch, Bounds, Cut, DedupeKey, Direction, Fingerprint, Journal,
    ReadError, ReadLimit, Record, Unit, Usage, may_take,
};
use crate::domain::cursor::{JournalId, Seq};

/// Records that usage names as one unit: few enough to trim by size with, and not a unit for each.
const UNIT_RECORDS: usize = 1024;

/// A journal that lives as long as this value.
#[derive(Debug)]
pub struct MemoryJournal {
    id: JournalId,
    contents: Mutex<Contents>,
}

#[derive(Debug)]
struct Contents {
    /// The place of the front of `records`.
    earliest: Seq,
    records: VecDeque<Bytes>,
    keys: HashMap<DedupeKey, (Seq, Fingerprint)>,
    /// The first sequences of the units of keys, as they were asked for; never empty.
    key_units: Vec<Seq>,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryJournal {
    pub fn new(id: JournalId) -> Self {
        Self {
            id,
            contents: Mutex::new(Contents {
                earliest: Seq::FIRST,
                records: VecDeque::new(),
                keys: HashMap::new(),
                key_units: vec![Seq::FIRST],
                state: BTreeMap::new(),
            }),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents
            .lock()
            .expect("nothing panics with the lock held")
    }
}

impl Contents {
    fn bounds(&self) -> Bounds {
        let count = u64::try_from(self.records.len()).expect("a length fits 64 bits");
        Bounds {
            earliest: self.earliest,
            head: Seq::new(self.earliest.get() + count).previous(),
        }
    }

    /// The record at a place within the bounds.
    fn record(&self, seq: Seq) -> Record {
        let at = usize::try_from(seq.get() - self.earliest.get()).expect("as many records fit");
        Record {
            seq,
            bytes: self.records[at].clone(),
        }
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    fn id(&self) -> JournalId {
        self.id
    }

    async fn check(&self) -> Result<(), AppendError> {
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        self.contents().bounds()
    }

    async fn append(&self, batch: Batch) -> Result<Vec<Appended>, AppendError> {
        let mut contents = self.contents();
        let mut appended = Vec::with_capacity(batch.entries.len());
        for entry in batch.entries {
            if let Some(&(seq, fingerprint)) = contents.keys.get(&entry.key) {
                appended.push(Appended::Known { seq, fingerprint });
                continue;
            }
            let seq = contents.bounds().head.next();
            contents.records.push_back(entry.record);
            contents.keys.insert(entry.key, (seq, entry.fingerprint));
            appended.push(Appended::New(seq));
        }
        for change in batch.state {
            match change.value {
                Some(value) => contents.state.insert(change.key, value),
                None => contents.state.remove(&change.key),
            };
        }
        Ok(appended)
    }

    async fn read(
        &self,
        from: Seq,
        direction: Direction,
        limit: ReadLimit,
    ) -> Result<Vec<Record>, ReadError> {
        let contents = self.contents();
        let Bounds { earliest, head } = contents.bounds();
        if direction == Direction::OldestFirst && from < earliest {
            return Err(ReadError::Trimmed {
                asked: from,
                earliest,
            });
        }
        let mut places: Box<dyn Iterator<Item = u64> + Send> = match direction {
            Direction::OldestFirst => Box::new(from.get()..=head.get()),
            Direction::NewestFirst => Box::new((earliest.get()..=from.min(head).get()).rev()),
        };
        let mut records = Vec::new();
        let mut bytes = 0;
        while let Some(seq) = places.next().map(Seq::new) {
            let record = contents.record(seq);
            if !may_take(limit, records.len(), bytes, record.bytes.len()) {
                break;
            }
            bytes += record.bytes.len();
            records.push(record);
        }
        Ok(records)
    }

    async fn find(&self, key: DedupeKey) -> Result<Option<(Seq, Fingerprint)>, ReadError> {
        Ok(self.contents().keys.get(&key).copied())
    }

    async fn state(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        let contents = self.contents();
        let from_prefix_on = contents.state.range(prefix.to_vec()..);
        Ok(from_prefix_on
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn trim(&self, before: Seq) -> Result<Seq, AppendError> {
        let mut contents = self.contents();
        let before = before.min(contents.bounds().head.next());
        while contents.earliest < before {
            contents.records.pop_front();
            contents.earliest = contents.earliest.next();
        }
        Ok(contents.earliest)
    }

    async fn usage(&self) -> Result<Usage, ReadError> {
        let contents = self.contents();
        let bytes_of = |records: &[&Bytes]| {
            let bytes = records.iter().map(|record| record.len()).sum::<usize>();
            u64::try_from(bytes).expect("a length fits 64 bits")
        };
        let all: Vec<_> = contents.records.iter().collect();
        let firsts = (contents.earliest.get()..).step_by(UNIT_RECORDS);
        let mut records: Vec<_> = firsts
            .zip(all.chunks(UNIT_RECORDS))
            .map(|(first, records)| Unit {
                first: Seq::new(first),
                bytes: bytes_of(records),
            })
            .collect();
        if records.is_empty() {
            records.push(Unit {
                first: contents.earliest,
                bytes: 0,
            });
        }
        Ok(Usage {
            bytes: bytes_of(&all),
            volume: None,
            records,
            keys: contents.key_units.clone(),
        })
    }

    async fn cut(&self, what: Cut) -> Result<(), AppendError> {
        let mut contents = self.contents();
        let next = contents.bounds().head.next();
        if what == Cut::RecordsAndKeys && contents.key_units.last() < Some(&next) {
            contents.key_units.push(next);
        }
        Ok(())
    }

    async fn forget(&self, before: Seq) -> Result<(), AppendError> {
        let mut contents = self.contents();
        let before = before.min(contents.earliest);
        contents.keys.retain(|_, (seq, _)| *seq >= before);
        // The unit that holds `before` stays, as do all after it.
        let older = contents.key_units[1..].iter();
        let older = older.take_while(|next| **next <= before).count();
        contents.key_units.drain(..older);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Entry;

    #[tokio::test]
    async fn its_units_can_be_trimmed_by_size_and_forgotten_by_age() {
        let id = JournalId {
            id: [1; 8],
            epoch: 1,
        };
        let journal = MemoryJournal::new(id);
        let entries = (0..2500_u128).map(|number| Entry {
            key: DedupeKey(number.to_be_bytes()),
            fingerprint: Fingerprint([0; 17]),
            record: Bytes::from_static(b"ten bytes."),
        });
        let batch = Batch {
            entries: entries.collect(),
            state: Vec::new(),
        };
        journal.append(batch).await.unwrap();
        let units = async || {
            let usage = journal.usage().await.unwrap();
            let units = usage.records.iter();
            let units: Vec<_> = units.map(|unit| (unit.first.get(), unit.bytes)).collect();
            assert_eq!(
                usage.bytes,
                units.iter().map(|(_, bytes)| bytes).sum::<u64>()
            );
            units
        };
        let expected = [(1, 10_240), (1025, 10_240), (2049, 4520)];
        assert_eq!(units().await, expected);
        journal.trim(Seq::new(1025)).await.unwrap();
        assert_eq!(units().await, expected[1..]);

        let keys = async || journal.usage().await.unwrap().keys;
        journal.cut(Cut::Records).await.unwrap();
        assert_eq!(keys().await, [Seq::FIRST]);
        journal.cut(Cut::RecordsAndKeys).await.unwrap();
        assert_eq!(keys().await, [Seq::FIRST, Seq::new(2501)]);
        journal.trim(Seq::new(2500)).await.unwrap();
        journal.forget(Seq::new(2500)).await.unwrap();
        assert_eq!(keys().await, [Seq::FIRST, Seq::new(2501)]);
        journal.trim(Seq::new(2501)).await.unwrap();
        assert_eq!(units().await, [(2501, 0)]);
        journal.forget(Seq::new(2501)).await.unwrap();
        assert_eq!(keys().await, [Seq::new(2501)]);
    }
}
