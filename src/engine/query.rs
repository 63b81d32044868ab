//! Reading without a stream: pages of events, one event, and places found by time.
//!
//! A page ends after a bounded amount of reading, matched or not, so no filter makes one call
//! long. A query's upper end is pinned when it begins, so pages don't shift while events come in.

use crate::domain::cursor::Seq;
use crate::domain::filter::Filter;
use crate::journal::{Direction, Journal, ReadError, ReadLimit, Record};
use crate::okta::expression;
use crate::wire::record::{AppendTime, RawPart, RecordError, StoredEvent};

/// Bytes after which a page ends, as the contract says.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of records that one page may hold on to while it is sent, raw JSON that is withheld
/// included, and bytes that it may read to find them.
const HELD_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;
const SCANNED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What one read takes from the journal: a few batches, so that it is worth a hop to another
/// thread, and a stuck reader holds at most this much.
pub(super) const CHUNK: ReadLimit = ReadLimit {
    records_max: 1000,
    bytes_max: 1024 * 1024,
};

/// One record is all that is needed to know a place's time.
const ONE: ReadLimit = ReadLimit {
    records_max: 1,
    bytes_max: 1,
};

/// What is left of a query: from the next place to look at to the last one, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRange {
    pub lowest: Seq,
    pub highest: Seq,
}

impl QueryRange {
    fn is_empty(self) -> bool {
        self.lowest > self.highest
    }
}

/// How a page is read.
#[derive(Clone, Debug)]
pub struct PageOptions {
    pub filter: Filter,
    pub direction: Direction,
    pub events_max: usize,
    pub scan_records_max: usize,
    pub raw: RawPart,
}

/// A page, and what is left after it.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<StoredEvent>,
    pub rest: Option<QueryRange>,
}

/// Reads a page of a range.
pub async fn read_page(
    journal: &dyn Journal,
    mut range: QueryRange,
    options: &PageOptions,
) -> Result<Page, ReadError> {
    let mut events: Vec<StoredEvent> = Vec::new();
    let (mut bytes, mut held) = (0, 0);
    let (mut scanned, mut scanned_bytes) = (0, 0);
    'page: while !range.is_empty()
        && scanned < options.scan_records_max
        && scanned_bytes < SCANNED_BYTES_MAX
    {
        tokio::task::consume_budget().await;
        let from = match options.direction {
            // What was trimmed meanwhile is not there to be listed.
            Direction::OldestFirst => range.lowest.max(journal.bounds().earliest),
            Direction::NewestFirst => range.highest,
        };
        let records = match journal.read(from, options.direction, CHUNK).await {
            Ok(records) => records,
            Err(ReadError::Trimmed { .. }) => continue,
            Err(error) => return Err(error),
        };
        if records.is_empty() {
            return Ok(Page { events, rest: None });
        }
        for record in records {
            if record.seq < range.lowest || record.seq > range.highest {
                return Ok(Page { events, rest: None });
            }
            let looked_at = parse(&record).and_then(|event| {
                let wanted = passes(&event, &options.filter)?;
                Ok((event, wanted))
            });
            let (event, wanted) = match looked_at {
                // What lies before the damage is a page; the next one begins with it.
                Err(_damaged) if !events.is_empty() => break 'page,
                looked_at => looked_at?,
            };
            if wanted {
                let (len, record_bytes) = (event.wire_len(options.raw), event.record_bytes());
                let full = events.len() == options.events_max
                    || (!events.is_empty()
                        && (bytes + len > PAGE_BYTES_MAX || held + record_bytes > HELD_BYTES_MAX));
                if full {
                    break 'page;
                }
                bytes += len;
                held += record_bytes;
                events.push(event);
            }
            scanned += 1;
            scanned_bytes += record.bytes.len();
            match options.direction {
                Direction::OldestFirst => range.lowest = record.seq.next(),
                Direction::NewestFirst if record.seq == Seq::FIRST => {
                    return Ok(Page { events, rest: None });
                }
                Direction::NewestFirst => range.highest = record.seq.previous(),
            }
        }
    }
    Ok(Page {
        events,
        rest: (!range.is_empty()).then_some(range),
    })
}

/// The value of a key of the state table.
pub async fn state_of(journal: &dyn Journal, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let stored = journal.state(key).await?;
    let found = stored.into_iter().find(|(found, _)| found == key);
    Ok(found.map(|(_, value)| value))
}

/// The event at a place; none if it was trimmed or never was.
pub async fn read_one(journal: &dyn Journal, seq: Seq) -> Result<Option<StoredEvent>, ReadError> {
    if seq == Seq::ZERO {
        return Ok(None);
    }
    match first_from(journal, seq).await {
        Ok(found) => Ok(found.filter(|event| event.seq == seq)),
        Err(ReadError::Trimmed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first event from a place on; a journal with holes gives the next one there is.
async fn first_from(journal: &dyn Journal, seq: Seq) -> Result<Option<StoredEvent>, ReadError> {
    let records = journal.read(seq, Direction::OldestFirst, ONE).await?;
    records.first().map(parse).transpose()
}

/// The last place whose event was appended before `time`, or the place before the earliest
/// event. Append times never go back, so halving the range finds it. What is damaged counts as
/// old as the next event that is not.
pub async fn last_before(journal: &dyn Journal, time: AppendTime) -> Result<Seq, ReadError> {
    'again: loop {
        let bounds = journal.bounds();
        // Everything at or below `low` is before `time`, everything above `high` is not.
        let (mut low, mut high) = (bounds.earliest.previous(), bounds.head);
        while low < high {
            let middle = Seq::new(low.get() + (high.get() - low.get()).div_ceil(2));
            let mut place = middle;
            let mut step = 1;
            // Damage must not keep retention from what is older or younger, so the next record that
            // can be read speaks for those before it.
            let found = loop {
                match first_from(journal, place).await {
                    Ok(found) => break found.filter(|event| event.seq <= high),
                    // Retention went past us; the range has changed.
                    Err(ReadError::Trimmed { .. }) => continue 'again,
                    Err(ReadError::Corrupt { .. }) => place = Seq::new(place.get() + step),
                    Err(error) => return Err(error),
                }
                if place > high {
                    break None;
                }
                step *= 2;
            };
            match found {
                Some(event) if event.append_time < time => low = event.seq,
                Some(event) => high = event.seq.previous(),
                None => high = middle.previous(),
            }
        }
        return Ok(low);
    }
}

/// Takes a record apart; damage names its place.
pub(super) fn parse(record: &Record) -> Result<StoredEvent, ReadError> {
    StoredEvent::parse(record.seq, &record.bytes).map_err(|cause| corrupt(record.seq, cause))
}

/// Whether a filter lets an event pass; damage names its place.
pub(super) fn passes(event: &StoredEvent, filter: &Filter) -> Result<bool, ReadError> {
    let passes = event
        .passes(filter)
        .map_err(|cause| corrupt(event.seq, cause))?;
    Ok(passes
        && filter
            .expression
            .as_ref()
            .is_none_or(|expression| expression::holds(expression, event.raw_json())))
}

fn corrupt(seq: Seq, cause: RecordError) -> ReadError {
    ReadError::Corrupt {
        seq,
        cause: Some(cause.into()),
    }
}
