//! What clients did to an org, for a test to look at afterwards.
//!
//! An answer is complete when its last piece was given to the connection. Whether anybody read it
//! can't be known from this side: a client that was killed meanwhile may not have.

use jiff::Timestamp;

use super::{Fault, MockOkta};

/// How a request says who it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Nothing,
    Ssws,
    Bearer,
    Other,
}

/// A request to `/api/v1/logs`.
#[derive(Clone, Debug)]
pub(crate) struct LogsRequest {
    pub(crate) at: Timestamp,
    /// The number of the rate limit's window that it was counted in.
    pub(crate) window: u64,
    pub(crate) scheme: Scheme,
    /// As it was sent.
    pub(crate) query: String,
    pub(crate) after: Option<String>,
    /// Where its page starts; `None` if it was refused before that was known.
    pub(crate) position: Option<usize>,
    /// The entries in the answer.
    pub(crate) given: Vec<usize>,
    /// `None` if the connection was cut instead.
    pub(crate) status: Option<u16>,
    /// Whether all of the answer went out.
    pub(crate) complete: bool,
    /// The `after` token of the `next` link, if the answer has one that can be followed.
    pub(crate) next: Option<String>,
    pub(crate) fault: Option<Fault>,
}

impl LogsRequest {
    fn is_complete_page(&self) -> bool {
        self.complete && self.status == Some(200)
    }
}

/// Of one window of the rate limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Requests that really came.
    pub(super) own: u32,
    pub(super) others: u32,
}

/// Where a client that restarts may go on: it knows at least the link that it asked for last, and
/// may have kept the one that came with the last page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastLinks {
    pub(crate) asked: Option<String>,
    pub(crate) handed_out: Option<String>,
}

impl LastLinks {
    /// After these requests.
    pub(crate) fn of(requests: &[LogsRequest]) -> Self {
        Self {
            asked: requests.iter().rev().find_map(|one| one.after.clone()),
            handed_out: requests
                .iter()
                .rev()
                .filter(|one| one.is_complete_page())
                .find_map(|one| one.next.clone()),
        }
    }

    /// Whether a request goes on from here. One without `after` does if there was no link yet.
    pub(crate) fn lead_to(&self, request: &LogsRequest) -> bool {
        match &request.after {
            // A page may have gone out that the client never read, so the old link will do.
            None => self.asked.is_none(),
            after => *after == self.asked || *after == self.handed_out,
        }
    }
}

impl MockOkta {
    /// All requests to `/api/v1/logs`, in the order in which they came.
    pub(crate) fn requests(&self) -> Vec<LogsRequest> {
        self.org().lock().requests.clone()
    }

    /// How many requests came in each window that had any.
    pub(crate) fn requests_in_window(&self) -> Vec<(u64, u32)> {
        let state = self.org().lock();
        let own = |(number, window): (&u64, &Window)| (*number, window.own);
        state.windows.iter().map(own).collect()
    }

    /// The most requests that came in any window.
    pub(crate) fn largest_window(&self) -> u32 {
        let windows = self.requests_in_window();
        windows.iter().map(|(_, own)| *own).max().unwrap_or(0)
    }

    /// How often the page of an `after` token went out whole, with entries.
    pub(crate) fn times_served(&self, after: &str) -> usize {
        self.pages_served(|request| request.after.as_deref() == Some(after))
    }

    /// How often a page that starts at a position went out whole, with entries.
    pub(crate) fn times_served_from(&self, position: usize) -> usize {
        self.pages_served(|request| request.position == Some(position))
    }

    fn pages_served(&self, which: impl Fn(&LogsRequest) -> bool) -> usize {
        let state = self.org().lock();
        let served = |one: &&LogsRequest| one.is_complete_page() && !one.given.is_empty();
        let requests = state.requests.iter().filter(served);
        requests.filter(|one| which(one)).count()
    }

    /// How often each entry was in a page that went out whole.
    pub(crate) fn times_given(&self) -> Vec<usize> {
        let state = self.org().lock();
        let mut times = vec![0; state.entries.len()];
        for request in state.requests.iter().filter(|one| one.is_complete_page()) {
            for entry in &request.given {
                times[*entry] += 1;
            }
        }
        times
    }

    pub(crate) fn last_links(&self) -> LastLinks {
        LastLinks::of(&self.org().lock().requests)
    }

    /// Whether request number `index` goes on from the link that was asked for or handed out last
    /// before it.
    pub(crate) fn goes_on(&self, index: usize) -> bool {
        let state = self.org().lock();
        LastLinks::of(&state.requests[..index]).lead_to(&state.requests[index])
    }

    /// What clients did that a poller must never do.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.org().lock().violations.clone()
    }
}
