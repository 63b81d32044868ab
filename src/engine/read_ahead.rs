//! Events that were read and that their readers have not come for yet, of all streams together.
//!
//! Reading in large pieces is what makes catching up fast, and a reader that stops in the middle
//! of a piece would hold the rest of it for as long as it likes. So between two calls the rest
//! lies here, bounded in bytes: what has lain longest is dropped when there is no room, and its
//! reader reads it again. A stuck reader thus holds nothing for long, and none is harmed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::wire::record::StoredEvent;

/// What all streams leave between two calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadAhead {
    shelf: Arc<Mutex<Shelf>>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    /// By age: numbers only grow.
    left: BTreeMap<u64, Left>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Left {
    events: VecDeque<StoredEvent>,
    bytes: usize,
}

/// The right to fetch what one stream left. Dropping it throws that away.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    shelf: Arc<Mutex<Shelf>>,
}

impl ReadAhead {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            shelf: Arc::default(),
            bytes_max,
        }
    }

    /// Leaves events until they are fetched, or others need the room. `bytes` is what they keep in
    /// memory, which is more than their own size where they are slices of something larger.
    pub fn leave(&self, events: VecDeque<StoredEvent>, bytes: usize) -> Ticket {
        let mut locked = lock(&self.shelf);
        let number = locked.next;
        locked.next += 1;
        if bytes <= self.bytes_max {
            locked.bytes += bytes;
            locked.left.insert(number, Left { events, bytes });
        }
        let mut dropped = Vec::new();
        while locked.bytes > self.bytes_max {
            let Some((_, oldest)) = locked.left.pop_first() else {
                break;
            };
            locked.bytes -= oldest.bytes;
            dropped.push(oldest);
        }
        // Giving memory back takes time, so nobody waits for it.
        drop(locked);
        drop(dropped);
        Ticket {
            number,
            shelf: Arc::clone(&self.shelf),
        }
    }
}

impl Ticket {
    /// What was left, if it is still there.
    pub fn fetch(self) -> Option<VecDeque<StoredEvent>> {
        self.take().map(|left| left.events)
    }

    fn take(&self) -> Option<Left> {
        let mut locked = lock(&self.shelf);
        let left = locked.left.remove(&self.number)?;
        locked.bytes -= left.bytes;
        Some(left)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.take());
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf
        .lock()
        .expect("nothing panics while it holds the shelf")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(read_ahead: &ReadAhead, bytes: usize) -> Ticket {
        read_ahead.leave(VecDeque::new(), bytes)
    }

    #[test]
    fn what_was_left_longest_makes_room() {
        let read_ahead = ReadAhead::new(100);
        let tickets = [30, 40, 30, 30].map(|bytes| leave(&read_ahead, bytes));
        let found = tickets.map(|ticket| ticket.fetch().is_some());
        assert_eq!(found, [false, true, true, true]);
        assert_eq!(lock(&read_ahead.shelf).bytes, 0);
    }

    #[test]
    fn who_goes_away_leaves_nothing() {
        let read_ahead = ReadAhead::new(100);
        let kept = leave(&read_ahead, 50);
        drop(leave(&read_ahead, 50));
        assert_eq!(lock(&read_ahead.shelf).bytes, 50);
        assert!(kept.fetch().is_some());
    }

    #[test]
    fn what_never_fits_drives_nobody_out() {
        let read_ahead = ReadAhead::new(100);
        let kept = leave(&read_ahead, 50);
        assert!(leave(&read_ahead, 101).fetch().is_none());
        assert!(kept.fetch().is_some());
    }
}
