//! What a request to the System Log is answered with, and how that goes out.
//!
//! Late, in drips, cut within the body: a fault has its part in both. The record learns that an
//! answer is complete when its last piece goes to the connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::{Fault, Org, error_body};

/// A body that drips comes in at most so many pieces.
const DRIPS: usize = 8;

/// What a proxy says to people.
const HTML: &str = "<!DOCTYPE html>\n<html><body><h1>We will be back</h1></body></html>\n";

/// The numbers of the rate-limit headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    pub(super) reset: i64,
}

/// What a request is answered with.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its number in the record.
    pub(super) request: usize,
    pub(super) rate: Rate,
    pub(super) content: Content,
    pub(super) fault: Option<Fault>,
}

#[derive(Debug)]
pub(super) struct Content {
    pub(super) status: StatusCode,
    pub(super) media_type: &'static str,
    pub(super) body: String,
    /// For a header line each.
    pub(super) links: Vec<String>,
}

impl Content {
    fn error(status: StatusCode, code: &str, summary: &str) -> Self {
        Self {
            status,
            media_type: "application/json",
            body: error_body(code, summary),
            links: Vec::new(),
        }
    }

    fn html(status: StatusCode) -> Self {
        Self {
            status,
            media_type: "text/html",
            body: HTML.to_owned(),
            links: Vec::new(),
        }
    }

    pub(super) fn bad_request(code: &str, summary: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, code, summary)
    }

    pub(super) fn rate_limited() -> Self {
        Self::error(
            StatusCode::TOO_MANY_REQUESTS,
            "E0000047",
            "API call exceeded rate limit due to too many requests.",
        )
    }

    pub(super) fn unauthorized() -> Self {
        Self::error(
            StatusCode::UNAUTHORIZED,
            "E0000011",
            "Invalid token provided",
        )
    }

    /// What a fault answers, whatever was asked by whom.
    pub(super) fn instead_of_a_page(fault: Fault) -> Option<Self> {
        match fault {
            Fault::RateLimited | Fault::ConcurrencyLimited => Some(Self::rate_limited()),
            Fault::ServerError => Some(Self::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "E0000009",
                "Internal Server Error: the query took too long",
            )),
            Fault::BadGateway => Some(Self::html(StatusCode::BAD_GATEWAY)),
            // Of the second nobody sees anything.
            Fault::NotJson | Fault::CutBeforeHeaders => Some(Self::html(StatusCode::OK)),
            Fault::Unauthorized => Some(Self::unauthorized()),
            Fault::Forbidden => Some(Self::error(
                StatusCode::FORBIDDEN,
                "E0000006",
                "You do not have permission to perform the requested action",
            )),
            Fault::Cut
            | Fault::Slow(_)
            | Fault::SlowBody(_)
            | Fault::NoNextLink
            | Fault::ForeignNextLink
            | Fault::EmptyWithNext
            | Fault::ExpiredCursor => None,
        }
    }
}

/// A body on its way.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    Pause(Duration),
    Cut,
}

impl Answer {
    pub(super) fn into_response(self, org: Arc<Org>) -> Response {
        let Rate {
            limit,
            remaining,
            reset,
        } = self.rate;
        let mut response = Response::builder()
            .status(self.content.status)
            .header(CONTENT_TYPE, self.content.media_type)
            .header("x-rate-limit-limit", limit)
            .header("x-rate-limit-remaining", remaining)
            .header("x-rate-limit-reset", reset);
        for link in &self.content.links {
            response = response.header(LINK, link);
        }
        let pieces = pieces(Bytes::from(self.content.body), self.fault);
        let body = stream::unfold((pieces, org), move |(mut pieces, org)| async move {
            loop {
                let sent = match pieces.pop_front()? {
                    Piece::Pause(pause) => {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    Piece::Cut => {
                        // What was sent before goes out while this waits.
                        tokio::task::yield_now().await;
                        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
                    }
                    Piece::Bytes(bytes) => {
                        let last = pieces.is_empty();
                        org.lock().requests[self.request].complete |= last;
                        Ok(bytes)
                    }
                };
                return Some((sent, (pieces, org)));
            }
        });
        response.body(Body::from_stream(body)).unwrap()
    }
}

fn pieces(mut body: Bytes, fault: Option<Fault>) -> VecDeque<Piece> {
    match fault {
        Some(Fault::CutBeforeHeaders) => [Piece::Cut].into(),
        Some(Fault::Cut) => {
            body.truncate(body.len().div_ceil(2));
            [Piece::Bytes(body), Piece::Cut].into()
        }
        Some(Fault::SlowBody(whole)) => {
            let drips = body.chunks(body.len().div_ceil(DRIPS));
            let pause = whole / u32::try_from(drips.len()).unwrap();
            drips
                .flat_map(|drip| [Piece::Pause(pause), Piece::Bytes(body.slice_ref(drip))])
                .collect()
        }
        _ => [Piece::Bytes(body)].into(),
    }
}
