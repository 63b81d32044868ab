//! Requests while they arrive: bounded in bytes over all calls, and in time each.
//!
//! A request's bytes are held until its message is whole, so callers that send slowly, or never
//! finish, would hold memory by the number of streams. They hold a budget's bytes at the most, and
//! not for long. Requests of usual calls (health, reading) are too small to be counted, so a budget
//! that is spent refuses large ones alone. What a message costs once it is whole is the engine's
//! affair.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use axum::extract::Request;
use axum::middleware::map_request;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::service::Routes;

use super::status::Refusal;
use crate::wire::v1::ErrorReason;

/// Bytes of a request that are not counted. Of the order of what HTTP/2 itself holds for a stream.
const UNCOUNTED_BYTES: usize = 4096;

/// Bounds requests to all services of a router.
pub fn bounded(routes: Routes, bytes_max: usize, timeout: Duration) -> Routes {
    let budget = Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS)));
    let bound = move |request: Request| {
        let budget = Arc::clone(&budget);
        async move {
            request.map(|body| {
                AxumBody::new(Arriving {
                    body,
                    budget,
                    uncounted: UNCOUNTED_BYTES,
                    held: None,
                    timeout,
                    deadline: None,
                })
            })
        }
    };
    routes.into_axum_router().layer(map_request(bound)).into()
}

/// A request's body. What it holds of the budget goes with it, when the message was read.
#[derive(Debug)]
struct Arriving {
    body: AxumBody,
    budget: Arc<Semaphore>,
    uncounted: usize,
    held: Option<OwnedSemaphorePermit>,
    timeout: Duration,
    /// Set once it had to be waited for, which most requests have not.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// Counts bytes that came; false if the budget has not so many left.
    fn count(&mut self, bytes: usize) -> bool {
        let counted = bytes.saturating_sub(self.uncounted);
        self.uncounted -= bytes - counted;
        let Ok(counted) = u32::try_from(counted) else {
            return false;
        };
        if counted == 0 {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(counted) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        true
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let timeout = self.timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        deadline.as_mut().poll(cx).is_ready()
    }
}

fn overloaded(message: String) -> axum::BoxError {
    Status::from(Refusal::new(ErrorReason::Overloaded, message)).into()
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
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(if this.count(bytes) {
                    Ok(frame)
                } else {
                    let message = "the requests that are arriving are as large as they may be";
                    Err(overloaded(message.to_owned()))
                }))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.is_late(cx) => {
                let message = format!("the request did not arrive within {:?}", this.timeout);
                Poll::Ready(Some(Err(overloaded(message))))
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
