//! Requests while they arrive: bounded in bytes over all calls, and in time each.
//!
//! tonic sets a message's bytes aside as soon as it knows its length, and holds them until the
//! request has ended; so callers that are slow, or never finish, would hold memory by the number of
//! streams. Here they hold a budget's bytes at the most, and not for long. Messages of usual calls
//! (health, reading) are too small to be counted, so a budget that is spent refuses large ones alone.
//! What a message costs once it is whole is the engine's affair.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body as AxumBody;
use axum::extract::Request;
use axum::middleware::map_request;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::service::Routes;

use super::GrpcLimits;
use super::status::Refusal;
use crate::wire::v1::ErrorReason;

/// Bytes of a message that is not counted. Of the order of what HTTP/2 itself holds for a stream.
const UNCOUNTED_BYTES: usize = 4096;

/// What stands before a message: whether it is compressed (1 byte), its length (4, big endian).
const PREFIX_BYTES: usize = 5;

/// Bounds requests to all services of a router.
pub fn bounded(routes: Routes, limits: GrpcLimits) -> Routes {
    let budget = limits.requests_bytes_max.min(Semaphore::MAX_PERMITS);
    let budget = Arc::new(Semaphore::new(budget));
    let bound = move |request: Request| {
        let budget = Arc::clone(&budget);
        async move {
            request.map(|body| {
                AxumBody::new(Arriving {
                    body,
                    budget,
                    limits,
                    prefix: Vec::with_capacity(PREFIX_BYTES),
                    missing: None,
                    held: None,
                    deadline: None,
                })
            })
        }
    };
    routes.into_axum_router().layer(map_request(bound)).into()
}

/// A request's body. What it holds of the budget goes with it, when the request was read.
#[derive(Debug)]
struct Arriving {
    body: AxumBody,
    budget: Arc<Semaphore>,
    limits: GrpcLimits,
    /// As much of a prefix as has come.
    prefix: Vec<u8>,
    /// Bytes of the message that have not come; `None` before the first message.
    missing: Option<usize>,
    held: Option<OwnedSemaphorePermit>,
    /// Set once it had to be waited for, which most requests have not.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// Follows the messages in what came, and counts each as it begins.
    fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let missing = self.missing.unwrap_or(0);
            let of_message = missing.min(data.len());
            data = &data[of_message..];
            self.missing = self.missing.map(|missing| missing - of_message);
            let of_prefix = (PREFIX_BYTES - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..of_prefix]);
            data = &data[of_prefix..];
            let prefix = <[u8; PREFIX_BYTES]>::try_from(self.prefix.as_slice());
            if let Ok([_compressed, length @ ..]) = prefix {
                self.prefix.clear();
                self.missing = Some(self.count(u32::from_be_bytes(length))?);
            }
        }
        Ok(())
    }

    /// Counts a message of that length, and gives it.
    fn count(&mut self, length: u32) -> Result<usize, Status> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        // One that is too large is refused as such, and nothing is set aside for it.
        if bytes <= UNCOUNTED_BYTES || bytes > self.limits.message_bytes_max {
            return Ok(bytes);
        }
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(length) else {
            let message = "the requests that are arriving are as large as they may be together";
            return Err(Refusal::new(ErrorReason::Overloaded, message).into());
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(bytes)
    }

    /// Whether it has to be waited for and has taken too long. A stream of small messages may pause.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let is_due = self.held.is_some() || self.missing != Some(0) || !self.prefix.is_empty();
        if !is_due {
            self.deadline = None;
            return false;
        }
        let timeout = self.limits.request_timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        deadline.as_mut().poll(cx).is_ready()
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = match frame.data_ref() {
                    Some(data) => this.take(data),
                    None => Ok(()),
                };
                Poll::Ready(Some(taken.map(|()| frame).map_err(Into::into)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.is_late(cx) => {
                let timeout = this.limits.request_timeout;
                let message = format!("the request did not arrive within {timeout:?}");
                let status = Status::from(Refusal::new(ErrorReason::Overloaded, message));
                Poll::Ready(Some(Err(status.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const BUDGET: usize = 1 << 20;

    fn arriving() -> Arriving {
        Arriving {
            body: AxumBody::empty(),
            budget: Arc::new(Semaphore::new(BUDGET)),
            limits: GrpcLimits {
                message_bytes_max: BUDGET,
                requests_bytes_max: BUDGET,
                request_timeout: Duration::from_secs(1),
                streams_per_connection_max: 1,
                keepalive_interval: Duration::from_secs(1),
                keepalive_timeout: Duration::from_secs(1),
            },
            prefix: Vec::new(),
            missing: None,
            held: None,
            deadline: None,
        }
    }

    proptest! {
        #[test]
        fn messages_are_counted_wherever_they_are_cut(
            lengths in prop::collection::vec(0_usize..10_000, 1..8),
            cuts in prop::collection::vec(1_usize..5_000, 1..20),
        ) {
            let mut sent = Vec::new();
            for length in &lengths {
                sent.push(0);
                sent.extend(u32::try_from(*length).unwrap().to_be_bytes());
                sent.resize(sent.len() + length, 0xff);
            }
            let mut arriving = arriving();
            let mut rest = sent.as_slice();
            for cut in cuts.iter().cycle() {
                let (data, after) = rest.split_at(rest.len().min(*cut));
                arriving.take(data).unwrap();
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let counted: usize = lengths.iter().filter(|length| **length > UNCOUNTED_BYTES).sum();
            prop_assert_eq!(arriving.budget.available_permits(), BUDGET - counted);
            prop_assert_eq!(arriving.missing, Some(0));
            let budget = Arc::clone(&arriving.budget);
            drop(arriving);
            prop_assert_eq!(budget.available_permits(), BUDGET);
        }
    }

    #[test]
    fn a_message_that_fits_no_more_is_refused_with_its_prefix() {
        let mut first = arriving();
        let half = [&[0], &(1_u32 << 19).to_be_bytes()[..]].concat();
        first.take(&half).unwrap();
        let mut second = arriving();
        second.budget = Arc::clone(&first.budget);
        let whole = [&[0], &(1_u32 << 20).to_be_bytes()[..]].concat();
        let refused = second.take(&whole).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        drop(first);
        let mut third = arriving();
        third.budget = Arc::clone(&second.budget);
        third.take(&whole).unwrap();
    }
}
