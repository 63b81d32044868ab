//! How long to wait before another attempt: longer each time, and never the same for two clients.
//!
//! Exponential with full jitter, so that clients which lost one server don't come back to it in one
//! moment. Waits for nothing itself.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The waits between attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// `first` is the longest that the first wait may be; no wait is longer than `max`, but for what
    /// a server asks for.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempts: 0,
        }
    }

    /// The next attempt is the first one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait now: anything from nothing to the bound, which doubles each time. Where the
    /// server asked for a wait, on top of that.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.attempts.min(20));
        let bound = doubled.min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        // Every `RandomState` has keys of its own, so this is a random number.
        let random = RandomState::new().hash_one(self.attempts);
        let share = f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        asked.unwrap_or_default() + bound.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_differ_and_heed_the_server() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, max);
        assert!(backoff.next(None) <= first);
        let waits: Vec<_> = (0..1000).map(|_| backoff.next(None)).collect();
        assert!(waits.iter().all(|wait| *wait <= max));
        // The whole range is used; that it is not has a chance of one in 2^1000.
        assert!(waits.iter().any(|wait| *wait > max / 2));
        assert!(waits.iter().any(|wait| *wait < max / 2));
        let asked = Duration::from_secs(9);
        let wait = backoff.next(Some(asked));
        assert!(wait >= asked && wait <= asked + max, "{wait:?}");
        backoff.reset();
        assert!(backoff.next(None) <= first);
    }
}
