//! Keys and values on disk, as bytes and back.
//!
//! Format 1. A layout never changes within a format: a new one is a new `FORMAT` version.
//! Numbers are big endian, so that byte order is number order.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `r-<first seq, 20 digits>` | seq (u64) | the record |
//! | `u-<first seq, 20 digits>` | dedupe key (16 bytes) | seq (u64), fingerprint (17 bytes) |
//! | `state` | `m` | format (u8, 1), journal id (8 bytes), epoch (u32) |
//! | `state` | `h` | head (u64), record bytes in the newest `r-` (u64) and `u-` (u64) |
//! | `state` | `g` | key cut bytes (u64), count (u32) and first seqs (u64 each) of the `r-`, the same of the `u-` |
//! | `state` | `s`, the table's key | the table's value |
//!
//! Parsers take any bytes: what is not exactly of a layout is `None`, which callers report as
//! damage.

use crate::domain::cursor::{JournalId, Seq};
use crate::journal::Fingerprint;

/// The keyspace of everything that is not a record or a dedupe key.
pub(super) const STATE_KEYSPACE: &str = "state";

pub(super) const META_KEY: &[u8] = b"m";
pub(super) const HEAD_KEY: &[u8] = b"h";
pub(super) const GENERATIONS_KEY: &[u8] = b"g";
const STATE_PREFIX: u8 = b's';

/// The longest key of the table of state. fjall writes key lengths as 16 bits and cuts what is
/// longer without a word, and no table key of ours comes near it.
pub(super) const STATE_KEY_BYTES_MAX: usize = 4096;

/// The layout of everything here; also what `FORMAT` says.
pub(super) const FORMAT_VERSION: u8 = 1;

/// What the newest batch left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: Seq,
    /// Record bytes that went to the newest record keyspace.
    pub(super) record_bytes: u64,
    /// Record bytes whose keys went to the newest key keyspace.
    pub(super) key_bytes: u64,
}

/// Which keyspaces are alive, oldest first, by the first sequence of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GenerationTable {
    /// Record bytes after which a key keyspace is followed by a new one.
    pub(super) key_cut_bytes: u64,
    pub(super) records: Vec<Seq>,
    pub(super) keys: Vec<Seq>,
}

pub(super) fn record_keyspace(first: Seq) -> String {
    format!("r-{:020}", first.get())
}

pub(super) fn key_keyspace(first: Seq) -> String {
    format!("u-{:020}", first.get())
}

pub(super) fn record_key(seq: Seq) -> [u8; 8] {
    seq.get().to_be_bytes()
}

pub(super) fn parse_record_key(bytes: &[u8]) -> Option<Seq> {
    Some(Seq::new(u64::from_be_bytes(bytes.try_into().ok()?)))
}

pub(super) fn place_value(seq: Seq, fingerprint: Fingerprint) -> [u8; 25] {
    let mut bytes = [0; 25];
    bytes[..8].copy_from_slice(&seq.get().to_be_bytes());
    bytes[8..].copy_from_slice(&fingerprint.0);
    bytes
}

pub(super) fn parse_place_value(bytes: &[u8]) -> Option<(Seq, Fingerprint)> {
    let mut reader = Reader(bytes);
    let seq = reader.seq()?;
    let fingerprint = Fingerprint(reader.array()?);
    reader.end((seq, fingerprint))
}

pub(super) fn meta_value(id: JournalId) -> [u8; 13] {
    let mut bytes = [0; 13];
    bytes[0] = FORMAT_VERSION;
    bytes[1..9].copy_from_slice(&id.id);
    bytes[9..].copy_from_slice(&id.epoch.to_be_bytes());
    bytes
}

pub(super) fn parse_meta_value(bytes: &[u8]) -> Option<JournalId> {
    let mut reader = Reader(bytes);
    let [format] = reader.array()?;
    let id = reader.array()?;
    let epoch = u32::from_be_bytes(reader.array()?);
    reader.end((format == FORMAT_VERSION).then_some(JournalId { id, epoch })?)
}

pub(super) fn head_value(head: Head) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&head.seq.get().to_be_bytes());
    bytes[8..16].copy_from_slice(&head.record_bytes.to_be_bytes());
    bytes[16..].copy_from_slice(&head.key_bytes.to_be_bytes());
    bytes
}

pub(super) fn parse_head_value(bytes: &[u8]) -> Option<Head> {
    let mut reader = Reader(bytes);
    let head = Head {
        seq: reader.seq()?,
        record_bytes: reader.u64()?,
        key_bytes: reader.u64()?,
    };
    reader.end(head)
}

pub(super) fn generations_value(table: &GenerationTable) -> Vec<u8> {
    let mut bytes = table.key_cut_bytes.to_be_bytes().to_vec();
    for firsts in [&table.records, &table.keys] {
        let count = u32::try_from(firsts.len()).expect("far fewer keyspaces than 2^32");
        bytes.extend(count.to_be_bytes());
        for first in firsts {
            bytes.extend(first.get().to_be_bytes());
        }
    }
    bytes
}

pub(super) fn parse_generations_value(bytes: &[u8]) -> Option<GenerationTable> {
    let mut reader = Reader(bytes);
    let table = GenerationTable {
        key_cut_bytes: reader.u64()?,
        records: reader.firsts()?,
        keys: reader.firsts()?,
    };
    reader.end(table)
}

pub(super) fn state_key(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(STATE_PREFIX);
    bytes.extend(key);
    bytes
}

pub(super) fn parse_state_key(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.split_first() {
        Some((&STATE_PREFIX, key)) => Some(key),
        Some(_) | None => None,
    }
}

/// What is left of bytes that are being read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn seq(&mut self) -> Option<Seq> {
        self.u64().map(Seq::new)
    }

    /// First sequences of keyspaces: at least one, each greater than the one before.
    fn firsts(&mut self) -> Option<Vec<Seq>> {
        let count = u32::from_be_bytes(self.array()?);
        let mut firsts: Vec<Seq> = Vec::new();
        for _ in 0..count {
            let first = self.seq()?;
            if firsts.last().is_some_and(|last| *last >= first) {
                return None;
            }
            firsts.push(first);
        }
        (!firsts.is_empty()).then_some(firsts)
    }

    /// What was read, if nothing is left.
    fn end<T>(self, read: T) -> Option<T> {
        self.0.is_empty().then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Format 1, frozen: a change here breaks every data directory there is.
    #[test]
    fn format_1_is_these_bytes() {
        let table = GenerationTable {
            key_cut_bytes: 3,
            records: vec![Seq::new(5), Seq::new(9)],
            keys: vec![Seq::new(1)],
        };
        assert_eq!(record_keyspace(Seq::new(17)), "r-00000000000000000017");
        assert_eq!(key_keyspace(Seq::new(17)), "u-00000000000000000017");
        assert_eq!(record_key(Seq::new(0x0102)), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(
            generations_value(&table),
            [
                &[0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2][..],
                &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9],
                &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
            ]
            .concat()
        );
        let id = JournalId {
            id: *b"abcdefgh",
            epoch: 2,
        };
        assert_eq!(meta_value(id), *b"\x01abcdefgh\0\0\0\x02");
        assert_eq!(state_key(b"cursor"), b"scursor");
    }

    proptest! {
        #[test]
        fn keys_have_the_order_of_their_sequences(a: u64, b: u64) {
            let [a, b] = [a, b].map(Seq::new);
            prop_assert_eq!(record_key(a).cmp(&record_key(b)), a.cmp(&b));
            prop_assert_eq!(record_keyspace(a).cmp(&record_keyspace(b)), a.cmp(&b));
            prop_assert_eq!(key_keyspace(a).cmp(&key_keyspace(b)), a.cmp(&b));
        }

        #[test]
        fn what_was_written_is_read_back(
            numbers: [u64; 4],
            id: [u8; 8],
            epoch: u32,
            fingerprint: [u8; 17],
            key: Vec<u8>,
            records in proptest::collection::btree_set(any::<u64>(), 1..9),
            keys in proptest::collection::btree_set(any::<u64>(), 1..9),
        ) {
            let seq = Seq::new(numbers[0]);
            prop_assert_eq!(parse_record_key(&record_key(seq)), Some(seq));
            let place = (seq, Fingerprint(fingerprint));
            prop_assert_eq!(parse_place_value(&place_value(place.0, place.1)), Some(place));
            let id = JournalId { id, epoch };
            prop_assert_eq!(parse_meta_value(&meta_value(id)), Some(id));
            let head = Head { seq, record_bytes: numbers[1], key_bytes: numbers[2] };
            prop_assert_eq!(parse_head_value(&head_value(head)), Some(head));
            let in_table = state_key(&key);
            prop_assert_eq!(parse_state_key(&in_table), Some(key.as_slice()));
            let seqs = |firsts: BTreeSet<u64>| firsts.into_iter().map(Seq::new).collect();
            let table = GenerationTable {
                key_cut_bytes: numbers[3],
                records: seqs(records),
                keys: seqs(keys),
            };
            let bytes = generations_value(&table);
            prop_assert_eq!(parse_generations_value(&bytes), Some(table));
        }

        #[test]
        fn any_bytes_are_exactly_a_layout_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(seq) = parse_record_key(&bytes) {
                prop_assert_eq!(&record_key(seq)[..], &bytes);
            }
            if let Some((seq, fingerprint)) = parse_place_value(&bytes) {
                prop_assert_eq!(&place_value(seq, fingerprint)[..], &bytes);
            }
            if let Some(id) = parse_meta_value(&bytes) {
                prop_assert_eq!(&meta_value(id)[..], &bytes);
            }
            if let Some(head) = parse_head_value(&bytes) {
                prop_assert_eq!(&head_value(head)[..], &bytes);
            }
            if let Some(table) = parse_generations_value(&bytes) {
                prop_assert_eq!(&generations_value(&table), &bytes);
            }
            if let Some(key) = parse_state_key(&bytes) {
                prop_assert_eq!(&state_key(key), &bytes);
            }
        }

        #[test]
        fn a_cut_table_is_none(cut in 0..60_usize) {
            let table = GenerationTable {
                key_cut_bytes: 1,
                records: [1, 5, 9].map(Seq::new).to_vec(),
                keys: [1, 5].map(Seq::new).to_vec(),
            };
            let bytes = generations_value(&table);
            if cut < bytes.len() {
                prop_assert_eq!(parse_generations_value(&bytes[..cut]), None);
            }
        }
    }
}
