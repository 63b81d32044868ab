//! Reading: runs of records over generations, and where a key stands.
//!
//! Goes by what was published, never by what fjall shows beyond it. What is read comes without
//! a copy: a slice of fjall's block.

use anyhow::anyhow;

use super::generations::{Generation, Generations, Published};
use super::{is_damage, keys};
use crate::domain::cursor::Seq;
use crate::journal::{DedupeKey, Direction, Fingerprint, ReadError, ReadLimit, Record, may_take};

/// Reads records, as `Journal::read` says.
pub(super) fn read(
    published: &Published,
    from: Seq,
    direction: Direction,
    limit: ReadLimit,
) -> Result<Vec<Record>, ReadError> {
    let Published {
        head,
        ref generations,
    } = *published;
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

/// Where a key stands. Newest first, because what comes twice comes soon after.
pub(super) fn look_up(
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

/// Says of a failed read whether what is stored is damaged or couldn't be read.
pub(super) fn read_error(seq: Seq, error: fjall::Error) -> ReadError {
    if is_damage(&error) {
        let cause = Some(error.into());
        ReadError::Corrupt { seq, cause }
    } else {
        ReadError::Fault(error.into())
    }
}
