//! Where reading starts: a cursor, a time, an end of the journal, as a place in it.

use super::query;
use super::tail::Tail;
use crate::domain::cursor::{Cursor, CursorError, Seq};
use crate::domain::event::Timestamp;
use crate::journal::{Journal, ReadError};
use crate::wire::record::AppendTime;

/// Where reading starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the place that this text names.
    Cursor(String),
    /// After the last event that was appended earlier.
    Time(Timestamp),
    Earliest,
    Latest,
}

/// Why a place can't be read from.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("the cursor is ahead of the newest event ({head})")]
    Ahead { head: Seq },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The place that reading starts after. It may have been trimmed.
pub(super) async fn find(
    journal: &dyn Journal,
    tail: &Tail,
    start: &Start,
) -> Result<Seq, PlaceError> {
    let head = tail.head();
    match start {
        Start::Earliest => Ok(journal.bounds().earliest.previous()),
        Start::Latest => Ok(head),
        Start::Time(time) => {
            let time = AppendTime::from_timestamp(*time);
            // What is durable but not shown yet is left to the stream.
            Ok(query::last_before(journal, time).await?.min(head))
        }
        Start::Cursor(text) => {
            let seq = Cursor::parse_for(text, journal.id())?.seq;
            if seq > head {
                Err(PlaceError::Ahead { head })
            } else {
                Ok(seq)
            }
        }
    }
}

/// Refuses a place if events after it were trimmed.
pub(super) fn check_kept(journal: &dyn Journal, place: Seq) -> Result<(), ReadError> {
    let asked = place.next();
    let earliest = journal.bounds().earliest;
    if asked < earliest {
        Err(ReadError::Trimmed { asked, earliest })
    } else {
        Ok(())
    }
}
