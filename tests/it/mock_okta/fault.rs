//! What goes wrong between an org and its client: what it is, and when it happens.
//!
//! A fault meets one request. The test queues them one by one, or has them come at random, from
//! random numbers that it gives and can give again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::harness::Random;

/// Something that happens to one request to `/api/v1/logs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 429: other clients spent what was left of the window, which stays spent until it ends.
    RateLimited,
    /// 429 for too many requests at once: limit and rest are 0, and the reset is but a hint.
    ConcurrencyLimited,
    /// 500, the time-out that Okta documents.
    ServerError,
    /// 502 of a proxy, with a page for people.
    BadGateway,
    /// The connection ends within the body.
    Cut,
    /// The connection ends without an answer.
    CutBeforeHeaders,
    /// Nothing comes for so long, then all of it.
    Slow(Duration),
    /// The headers come at once, and the body in pieces over so long.
    SlowBody(Duration),
    /// 200 with a page for people.
    NotJson,
    /// A page without a `next` link.
    NoNextLink,
    /// A page whose `next` link names another host.
    ForeignNextLink,
    /// An empty page whose `next` link is a new one of the same position, though more is there.
    EmptyWithNext,
    /// 401, as if the token were no good.
    Unauthorized,
    /// 403, as if a role were missing.
    Forbidden,
    /// 400: the `after` token of this request is refused, now and later.
    ExpiredCursor,
}

impl Fault {
    /// Those after which the same request succeeds: no configuration is wrong, no place is lost.
    pub(crate) const TRANSIENT: [Self; 9] = [
        Self::ConcurrencyLimited,
        Self::ServerError,
        Self::BadGateway,
        Self::Cut,
        Self::CutBeforeHeaders,
        Self::Slow(Duration::from_millis(20)),
        Self::SlowBody(Duration::from_millis(20)),
        Self::NotJson,
        Self::EmptyWithNext,
    ];

    /// Whether it can happen to a request with or without an `after`.
    fn fits(self, has_after: bool) -> bool {
        has_after || self != Self::ExpiredCursor
    }
}

/// Faults at random: one of `kinds`, once in `once_in` requests.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) random: Random,
    pub(crate) once_in: u64,
    pub(crate) kinds: Vec<Fault>,
}

/// Where the faults of requests come from.
#[derive(Debug, Default)]
pub(super) struct FaultSource {
    queued: VecDeque<Fault>,
    random: Option<Faults>,
}

impl FaultSource {
    pub(super) fn queue(&mut self, fault: Fault) {
        self.queued.push_back(fault);
    }

    pub(super) fn left(&self) -> &VecDeque<Fault> {
        &self.queued
    }

    pub(super) fn set_random(&mut self, faults: Option<Faults>) {
        self.random = faults;
    }

    /// What happens to the next request.
    pub(super) fn next(&mut self, has_after: bool) -> Option<Fault> {
        let queued = self.queued.iter().position(|fault| fault.fits(has_after));
        if let Some(at) = queued {
            return self.queued.remove(at);
        }
        let faults = self.random.as_mut()?;
        let happens = faults.random.once_in(faults.once_in);
        let fault = *faults.random.pick(&faults.kinds);
        (happens && fault.fits(has_after)).then_some(fault)
    }
}
