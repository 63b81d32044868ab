//! What can go wrong, and whether it passes by itself.
//!
//! The one place that decides what is tried again.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::wire::v1;

/// Why there is no answer, or no more events.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// Write another address; trying again can't help.
    #[error("{url:?} is no address of a server, write it as http://HOST:PORT")]
    Address { url: String },
    /// Nobody answers at the address. Nothing was sent.
    #[error("can't connect: {cause}")]
    Unreachable { cause: String },
    /// Nothing came for too long: no answer, or no sign of life on a stream.
    #[error("no sign of life for {} s", after.as_secs_f32())]
    Silent { after: Duration },
    /// The stream came to an end that the server had not announced.
    #[error("the stream broke off")]
    BrokenOff,
    /// The server said that it is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The server, or something in between, said no. [`Refusal::reason`] tells what to do.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

impl ClientError {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Address { .. } => false,
            Self::Unreachable { .. } | Self::Silent { .. } | Self::BrokenOff | Self::Stopping => {
                true
            }
            Self::Refused(refusal) => refusal.is_passing(),
        }
    }

    /// How long the server asked to wait.
    pub fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_delay,
            _ => None,
        }
    }

    /// The server's reason, if it is the server that refused, for a reason known to this version.
    pub fn reason(&self) -> Option<v1::ErrorReason> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            _ => None,
        }
    }

    /// Whether the server refused a call to subscribe before it took anything of it in: a session
    /// that there was goes on.
    pub(super) fn is_of_no_effect(&self) -> bool {
        use v1::ErrorReason::{JournalUnavailable, LimitReached};
        matches!(self.reason(), Some(LimitReached | JournalUnavailable))
    }

    pub(super) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable {
            cause: innermost(error),
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status.into()))
    }
}

/// A call that failed, with all that was said about it.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: Code,
    /// An [`v1::ErrorReason`] without its prefix; empty if the error is not Provident's own.
    pub reason_name: String,
    /// Keys as documented at the reason, such as `earliest_cursor`.
    pub metadata: BTreeMap<String, String>,
    /// How long the server asked to wait before the next attempt.
    pub retry_delay: Option<Duration>,
    /// For people.
    pub message: String,
    /// Bad fields of the request, and what is wrong with each.
    pub violations: Vec<(String, String)>,
}

impl Refusal {
    /// Why, if it is for a reason known to this version.
    pub fn reason(&self) -> Option<v1::ErrorReason> {
        v1::ErrorReason::from_str_name(&format!("ERROR_REASON_{}", self.reason_name))
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self.reason_name.as_str() {
            // Not the server's word: the connection broke, in one of the ways that HTTP/2 has.
            "" => matches!(
                self.code,
                Code::Unavailable
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Unknown
                    | Code::Internal
            ),
            "STORAGE_FULL" | "LIMIT_REACHED" => true,
            _ => self.code == Code::Unavailable,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let (reason_name, metadata) = match details.error_info() {
            Some(info) => (info.reason.clone(), info.metadata.clone()),
            None => Default::default(),
        };
        // Where the connection broke, the message alone says next to nothing.
        let cause = status
            .source()
            .map(innermost)
            .filter(|cause| reason_name.is_empty() && !status.message().contains(cause.as_str()));
        let violations = details
            .bad_request()
            .map_or(&[][..], |bad| &bad.field_violations);
        Self {
            code: status.code(),
            message: match cause {
                Some(cause) => format!("{}: {cause}", status.message()),
                None => status.message().to_owned(),
            },
            reason_name,
            metadata: metadata.into_iter().collect(),
            retry_delay: details.retry_info().and_then(|info| info.retry_delay),
            violations: violations
                .iter()
                .map(|violation| (violation.field.clone(), violation.description.clone()))
                .collect(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason_name.as_str() {
            "" => write!(f, "{:?}", self.code)?,
            reason => f.write_str(reason)?,
        }
        match self.message.as_str() {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

impl Error for Refusal {}

/// The cause at the bottom: what stands above it says "transport error" only.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn only_what_passes_is_tried_again() {
        let check = |code, reason: &str, expected: bool| {
            let mut details = ErrorDetails::new();
            if !reason.is_empty() {
                details.set_error_info(reason, "provident.dev", HashMap::new());
            }
            let error = ClientError::from(Status::with_error_details(code, "so it is", details));
            assert_eq!(error.is_passing(), expected, "{code:?} {reason}");
        };
        check(Code::Unavailable, "", true);
        check(Code::Unknown, "", true);
        check(Code::Unavailable, "OVERLOADED", true);
        check(Code::Unavailable, "SHUTTING_DOWN", true);
        check(Code::ResourceExhausted, "STORAGE_FULL", true);
        check(Code::ResourceExhausted, "LIMIT_REACHED", true);
        check(Code::OutOfRange, "CURSOR_EXPIRED", false);
        check(Code::FailedPrecondition, "CURSOR_AHEAD", false);
        check(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", false);
        check(Code::Aborted, "FENCED", false);
        check(Code::DataLoss, "RECORD_CORRUPT", false);
        check(Code::Internal, "INTERNAL", false);
        check(Code::Unauthenticated, "", false);
        check(Code::PermissionDenied, "NOT_ALLOWED", false);
        check(Code::InvalidArgument, "", false);
        check(Code::Unimplemented, "", false);
    }

    #[test]
    fn all_that_the_server_says_is_kept() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "CURSOR_EXPIRED",
            "provident.dev",
            HashMap::from([("earliest_cursor".to_owned(), "abc".to_owned())]),
        );
        details.set_bad_request(vec![FieldViolation::new("start", "too old")]);
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::OutOfRange, "events were trimmed", details);
        let error = ClientError::from(status);
        assert_eq!(error.to_string(), "CURSOR_EXPIRED: events were trimmed");
        assert_eq!(error.reason(), Some(v1::ErrorReason::CursorExpired));
        assert_eq!(error.retry_delay(), Some(Duration::from_secs(3)));
        let ClientError::Refused(refusal) = error else {
            panic!("{error:?}");
        };
        assert_eq!(refusal.metadata["earliest_cursor"], "abc");
        let violation = ("start".to_owned(), "too old".to_owned());
        assert_eq!(refusal.violations, [violation]);
    }
}
