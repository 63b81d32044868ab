//! How fast an org's System Log may be asked: never more than a share of its rate limit.
//!
//! Windows are the org's: about a minute long, not aligned to the clock, told by the headers of each
//! answer. Requests without an answer count in whichever window they may have fallen. Pure: time
//! comes in as an argument, and what a killed process would forget is a value that the caller
//! keeps: after [`Pace::sent`], before the request goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::system_log::RateLimit;
use crate::domain::event::Timestamp;

/// How much longer than until the window's end is waited, in seconds: both clocks are read to the
/// second.
const MARGIN_SECONDS: i64 = 1;

/// How long a window usually is.
const WINDOW_SECONDS: i64 = 60;

/// No window is longer; a reset further away is a fault of some clock.
const WINDOW_SECONDS_MAX: i64 = 120;

/// What is known of the window and of what we asked in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// Requests in a window; 0: not known yet.
    limit: u32,
    remaining: u32,
    /// The window's end by Okta's clock, in seconds since 1970.
    reset: i64,
    /// By how many seconds Okta's clock is ahead of ours.
    ahead: i64,
    /// Requests of ours that were in the window.
    used: u32,
    /// Requests of ours since the last answer: nobody knows in which window they fell.
    unheard: u32,
}

impl Pace {
    /// How long to wait before the next request, which is to be sent then.
    pub fn wait(&self, share_percent: u32, now: Timestamp) -> Duration {
        let share = u64::from(self.limit) * u64::from(share_percent) / 100;
        // A share below one request is one: else nothing would ever come.
        let share = share.max(1);
        let left = self.reset - (now.seconds + self.ahead);
        let unheard = u64::from(self.unheard);
        let (may_go, seconds) = if self.limit == 0 {
            (true, 0)
        } else if left > -MARGIN_SECONDS {
            let ours = u64::from(self.used) + unheard;
            (self.remaining > 0 && ours < share, left)
        } else {
            // Nothing was heard of the window that has begun: it is as long as usual.
            (unheard < share, WINDOW_SECONDS)
        };
        if may_go {
            return Duration::ZERO;
        }
        let seconds = (seconds + MARGIN_SECONDS).clamp(0, WINDOW_SECONDS_MAX);
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// Counts a request that is to be sent.
    pub fn sent(&mut self) {
        self.unheard = self.unheard.saturating_add(1);
    }

    /// Takes in what an answer said.
    pub fn heard(&mut self, limit: Option<RateLimit>, date: Option<i64>, now: Timestamp) {
        if let Some(date) = date {
            self.ahead = date - now.seconds;
        }
        let Some(RateLimit {
            limit,
            remaining,
            reset,
        }) = limit
        else {
            return;
        };
        let unheard = std::mem::take(&mut self.unheard);
        // Not by another end alone: nodes of a service may round it in their own ways.
        let is_over = now.seconds + self.ahead >= self.reset;
        self.used = if is_over && reset > self.reset + MARGIN_SECONDS {
            // Another window, in which all of them may have been.
            unheard
        } else {
            self.used.saturating_add(unheard)
        };
        self.limit = limit;
        self.remaining = remaining;
        self.reset = self.reset.max(reset);
        // All clients together used no more than this, so neither did we.
        self.used = self.used.min(limit.saturating_sub(remaining));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_770_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds: START + seconds,
            nanos: 0,
        }
    }

    fn said(remaining: u32, reset: i64) -> RateLimit {
        RateLimit {
            limit: 10,
            remaining,
            reset: START + reset,
        }
    }

    /// Sends as many requests as are allowed at once, and gives how many and the wait after.
    fn burst(pace: &mut Pace, remaining: &mut u32, reset: i64, now: i64) -> (u32, Duration) {
        for sent in 0..100 {
            let wait = pace.wait(50, at(now));
            if !wait.is_zero() {
                return (sent, wait);
            }
            pace.sent();
            *remaining -= 1;
            pace.heard(Some(said(*remaining, reset)), Some(START + now), at(now));
        }
        unreachable!("nothing holds the poller back");
    }

    #[test]
    fn no_more_than_the_share_is_used_of_each_window() {
        let mut pace = Pace::default();
        let mut remaining = 10;
        let (sent, wait) = burst(&mut pace, &mut remaining, 60, 0);
        assert_eq!((sent, wait), (5, Duration::from_secs(61)));
        assert_eq!(pace.wait(50, at(40)), Duration::from_secs(21));
        assert_eq!(pace.wait(50, at(61)), Duration::ZERO);
        let mut remaining = 10;
        assert_eq!(burst(&mut pace, &mut remaining, 121, 61).0, 5);
    }

    #[test]
    fn what_others_use_is_not_ours_but_an_empty_bucket_is_waited_for() {
        let mut pace = Pace::default();
        pace.sent();
        pace.heard(Some(said(3, 60)), Some(START), at(0));
        assert_eq!(pace.wait(50, at(0)), Duration::ZERO);
        pace.sent();
        pace.heard(Some(said(0, 60)), Some(START), at(0));
        assert_eq!(pace.wait(50, at(0)), Duration::from_secs(61));
    }

    #[test]
    fn an_end_that_moves_a_little_begins_no_window() {
        let mut pace = Pace::default();
        for sent in 1..=5 {
            assert_eq!(pace.wait(50, at(0)), Duration::ZERO);
            pace.sent();
            let limit = said(10 - sent, 60 + i64::from(sent % 2));
            pace.heard(Some(limit), Some(START), at(0));
        }
        assert_eq!(pace.wait(50, at(0)), Duration::from_secs(62));
        // Also right at the end: another node may say a second more.
        let mut pace = Pace::default();
        for sent in 1..=4 {
            pace.sent();
            pace.heard(Some(said(10 - sent, 60)), Some(START), at(0));
        }
        pace.sent();
        pace.heard(Some(said(5, 61)), Some(START + 60), at(60));
        assert_eq!(pace.wait(50, at(60)), Duration::from_secs(2));
    }

    #[test]
    fn requests_of_a_killed_process_count() {
        let mut pace = Pace::default();
        let mut remaining = 10;
        pace.sent();
        remaining -= 1;
        pace.heard(Some(said(remaining, 60)), Some(START), at(0));
        // Each of two processes sends a request, and dies before it hears.
        for _ in 0..2 {
            pace.sent();
            remaining -= 1;
        }
        assert_eq!(burst(&mut pace, &mut remaining, 60, 1).0, 2);
    }

    #[test]
    fn requests_without_an_answer_count_in_the_window_after() {
        let mut pace = Pace::default();
        pace.sent();
        pace.heard(Some(said(9, 60)), Some(START), at(0));
        for second in 0..5 {
            assert_eq!(pace.wait(50, at(61 + second)), Duration::ZERO);
            pace.sent();
        }
        assert_eq!(pace.wait(50, at(66)), Duration::from_secs(61));
        pace.sent();
        // All six fell into it, which is one more than the share.
        pace.heard(Some(said(4, 181)), Some(START + 127), at(127));
        assert_eq!(pace.wait(50, at(127)), Duration::from_secs(55));
    }

    #[test]
    fn clocks_may_differ() {
        let mut pace = Pace::default();
        pace.sent();
        // Ours is an hour ahead.
        pace.heard(Some(said(0, 60)), Some(START), at(3600));
        assert_eq!(pace.wait(50, at(3600)), Duration::from_secs(61));
        assert_eq!(pace.wait(50, at(3661)), Duration::ZERO);
    }

    #[test]
    fn a_share_below_one_request_is_one() {
        let mut pace = Pace::default();
        pace.sent();
        let one = RateLimit {
            limit: 1,
            remaining: 1,
            reset: START + 60,
        };
        pace.heard(Some(one), Some(START), at(0));
        assert_eq!(pace.wait(10, at(0)), Duration::ZERO);
    }
}
