//! Our errors → gRPC codes, reasons and details: the one table.
//!
//! Every status that our code makes carries `google.rpc.ErrorInfo` with a reason of the contract's
//! `ErrorReason`; invalid input also carries the fields, and what passes by itself the time to
//! wait. A bug is `INTERNAL` without detail.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::cursor::{Cursor, CursorError, JournalId, Seq};
use crate::engine::intake::Rejection;
use crate::engine::stream::StreamError;
use crate::engine::subscriptions::SubscriptionError;
use crate::engine::writer::AppendError;
use crate::engine::{GetError, IngestError, PlaceError, SubscribeError};
use crate::journal::ReadError;
use crate::okta::group_push_failed::CardError;
use crate::okta::log_event::NotAnEvent;
use crate::okta::org::OrgError;
use crate::telemetry;
use crate::wire::convert::FieldError;
use crate::wire::v1::ErrorReason;

/// `ErrorInfo.domain` of every status we make.
pub const DOMAIN: &str = "provident.dev";

/// How long to wait when a queue is full: a few flushes of a slow disk.
const OVERLOADED_WAIT: Duration = Duration::from_millis(250);
/// How long to wait for room on disk: somebody has to make it.
const STORAGE_FULL_WAIT: Duration = Duration::from_secs(10);

/// A refused call, before it becomes a status.
#[derive(Debug)]
pub struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    field: Option<(String, String)>,
}

impl Refusal {
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            field: None,
        }))
    }

    /// A field of the request that can't be taken.
    pub fn field(reason: ErrorReason, field: &str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let mut refusal = Self::new(reason, format!("{field}: {problem}"));
        refusal.0.field = Some((field.to_owned(), problem));
        refusal
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The status, with another code than the reason usually has.
    pub fn with_code(self, code: Code) -> Status {
        let Parts {
            reason,
            message,
            metadata,
            field,
        } = *self.0;
        let name = reason_name(reason);
        telemetry::refused(name, 1);
        // Messages quote what was sent, and clients take no more than 8 to 16 KiB of trailers.
        let message = cut(message);
        let mut details = ErrorDetails::new();
        details.set_error_info(name, DOMAIN, metadata);
        if let Some((field, problem)) = field {
            details.add_bad_request_violation(cut(field), cut(problem));
        }
        let mut trailers = MetadataMap::new();
        match reason {
            ErrorReason::Overloaded => {
                details.set_retry_info(Some(OVERLOADED_WAIT));
                // What clients with a retry policy read.
                trailers.insert("grpc-retry-pushback-ms", millis(OVERLOADED_WAIT).into());
            }
            ErrorReason::StorageFull => {
                details.set_retry_info(Some(STORAGE_FULL_WAIT));
            }
            _ => {}
        }
        Status::with_error_details_and_metadata(code, message, details, trailers)
    }
}

/// Lets metrics know of every reason before there is a refusal.
pub fn tell_reasons() {
    let numbers = 1..=i32::from(u8::MAX);
    for reason in numbers.filter_map(|number| ErrorReason::try_from(number).ok()) {
        telemetry::refused(reason_name(reason), 0);
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = code_of(refusal.0.reason);
        refusal.with_code(code)
    }
}

/// Bytes of one text in a status. A message stands there twice, plainly and encoded in the
/// details, a violation once: with base64 and percent-encoding under 8 KiB.
const TEXT_BYTES_MAX: usize = 1024;

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

/// The reason's name as it stands in `ErrorInfo`.
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The code of a reason.
fn code_of(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::FieldInvalid
        | ErrorReason::EventMalformed
        | ErrorReason::FilterInvalid
        | ErrorReason::CursorMalformed
        | ErrorReason::PageTokenInvalid
        | ErrorReason::TooLarge
        // These two stand in results of single events; as a status they would be bad input.
        | ErrorReason::EventConflict
        | ErrorReason::OrgMismatch => Code::InvalidArgument,
        ErrorReason::CursorForeignJournal
        | ErrorReason::CursorAhead
        | ErrorReason::CursorBehind => Code::FailedPrecondition,
        ErrorReason::CursorExpired => Code::OutOfRange,
        ErrorReason::EventNotFound
        | ErrorReason::EventTypeUnknown
        | ErrorReason::ApplicationUnknown
        | ErrorReason::SubscriptionNotFound => Code::NotFound,
        ErrorReason::SubscriptionExists => Code::AlreadyExists,
        ErrorReason::Fenced => Code::Aborted,
        ErrorReason::Overloaded
        | ErrorReason::StorageFault
        | ErrorReason::JournalUnavailable
        | ErrorReason::ShuttingDown => Code::Unavailable,
        ErrorReason::LimitReached | ErrorReason::StorageFull => Code::ResourceExhausted,
        ErrorReason::RecordCorrupt => Code::DataLoss,
        ErrorReason::Unauthenticated => Code::Unauthenticated,
        ErrorReason::NotAllowed => Code::PermissionDenied,
        ErrorReason::Unspecified | ErrorReason::Internal => Code::Internal,
    }
}

/// The reason, message and field of an event that is not taken.
pub fn rejection(rejection: &Rejection) -> (ErrorReason, String, String) {
    let reason = match rejection {
        Rejection::NotAnEvent(problem)
        | Rejection::NotAnEventIn { problem, .. }
        | Rejection::Card(CardError::Details(problem)) => match problem {
            NotAnEvent::TooLarge { .. } => ErrorReason::TooLarge,
            _ => ErrorReason::EventMalformed,
        },
        Rejection::Org(OrgError::Mismatch { .. }) => ErrorReason::OrgMismatch,
        Rejection::Card(CardError::Disagrees { .. })
        | Rejection::Org(_)
        | Rejection::Unusable { .. } => ErrorReason::FieldInvalid,
        Rejection::Conflict { .. } => ErrorReason::EventConflict,
    };
    (reason, rejection.to_string(), rejection.field())
}

impl From<&Rejection> for Refusal {
    fn from(rejected: &Rejection) -> Self {
        let (reason, message, field) = rejection(rejected);
        if field.is_empty() {
            Self::new(reason, message)
        } else {
            Self::field(reason, &field, message)
        }
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::field(ErrorReason::FieldInvalid, &error.field, error.problem)
    }
}

/// A bad field of a filter.
pub fn bad_filter(error: FieldError) -> Refusal {
    let refusal = Refusal::field(ErrorReason::FilterInvalid, &error.field, error.problem)
        .with("field", error.field.clone());
    match error.column {
        Some(column) => refusal.with("column", column.to_string()),
        None => refusal,
    }
}

impl From<OrgError> for Refusal {
    fn from(error: OrgError) -> Self {
        Self::field(ErrorReason::FieldInvalid, "org", error.to_string())
    }
}

impl From<IngestError> for Refusal {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Org(error) => error.into(),
            IngestError::TooMany { .. } => {
                Self::field(ErrorReason::TooLarge, "inputs", error.to_string())
            }
            IngestError::Internal => Self::new(ErrorReason::Internal, error.to_string()),
            IngestError::Append(error) => error.into(),
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let reason = match error {
            AppendError::Overloaded => ErrorReason::Overloaded,
            AppendError::StorageFull { .. } => ErrorReason::StorageFull,
            AppendError::ShuttingDown => ErrorReason::ShuttingDown,
            AppendError::Damaged { .. } => ErrorReason::RecordCorrupt,
            // Trying again is safe: org and uuid deduplicate.
            AppendError::OutcomeUnknown => ErrorReason::StorageFault,
        };
        Self::new(reason, error.to_string())
    }
}

/// A cursor that can't be used.
pub fn bad_cursor(error: &CursorError) -> Refusal {
    match error {
        CursorError::Malformed => {
            Refusal::field(ErrorReason::CursorMalformed, "cursor", error.to_string())
        }
        CursorError::ForeignJournal { ours, .. } => {
            Refusal::new(ErrorReason::CursorForeignJournal, error.to_string())
                .with("journal_id", ours.to_string())
        }
    }
}

/// A place that can't be read from.
pub fn bad_place(journal: JournalId, error: PlaceError) -> Refusal {
    match error {
        PlaceError::Cursor(error) => bad_cursor(&error),
        PlaceError::Ahead { .. } => Refusal::new(ErrorReason::CursorAhead, error.to_string()),
        PlaceError::Read(error) => unreadable(journal, error),
    }
}

/// A stream that can't be opened.
pub fn not_opened(journal: JournalId, error: SubscribeError) -> Refusal {
    match error {
        SubscribeError::TooManyStreams { .. } => {
            Refusal::new(ErrorReason::LimitReached, error.to_string())
        }
        SubscribeError::ShuttingDown => Refusal::new(ErrorReason::ShuttingDown, error.to_string()),
        SubscribeError::Place(error) => bad_place(journal, error),
        SubscribeError::Subscription(error) => bad_subscription(journal, error),
    }
}

/// A stream that ended with an error.
pub fn broken_stream(journal: JournalId, error: StreamError) -> Refusal {
    match error {
        StreamError::Fenced => Refusal::new(ErrorReason::Fenced, error.to_string()),
        StreamError::Read(error) => unreadable(journal, error),
    }
}

/// A subscription that can't be used so.
pub fn bad_subscription(journal: JournalId, error: SubscriptionError) -> Refusal {
    let message = error.to_string();
    let cursor = |seq| Cursor::new(journal, seq).to_string();
    match error {
        SubscriptionError::Id(error) => Refusal::field(
            ErrorReason::FieldInvalid,
            "subscription_id",
            error.to_string(),
        ),
        SubscriptionError::NotFound { .. } => {
            Refusal::new(ErrorReason::SubscriptionNotFound, message)
        }
        SubscriptionError::Exists { .. } => Refusal::new(ErrorReason::SubscriptionExists, message),
        SubscriptionError::TooMany { .. } => Refusal::new(ErrorReason::LimitReached, message),
        SubscriptionError::FilterTooLarge { .. } => {
            Refusal::field(ErrorReason::TooLarge, "filter", message)
        }
        SubscriptionError::Filter(error) => bad_filter(error),
        SubscriptionError::EtagOutdated => {
            Refusal::field(ErrorReason::FieldInvalid, "subscription.etag", message)
        }
        SubscriptionError::Fenced => Refusal::new(ErrorReason::Fenced, message),
        SubscriptionError::Cursor(error) => bad_cursor(&error),
        SubscriptionError::Ahead { sent } => {
            Refusal::new(ErrorReason::CursorAhead, message).with("sent_cursor", cursor(sent))
        }
        SubscriptionError::Behind { committed } => Refusal::new(ErrorReason::CursorBehind, message)
            .with("committed_cursor", cursor(committed)),
        SubscriptionError::Place(error) => bad_place(journal, error),
        SubscriptionError::Append(error) => error.into(),
        SubscriptionError::Read(error) => unreadable(journal, error),
    }
}

/// A journal that can't be read, here or for now.
pub fn unreadable(journal: JournalId, error: ReadError) -> Refusal {
    let message = error.to_string();
    match error {
        ReadError::Trimmed { earliest, .. } => {
            let cursor = Cursor::new(journal, earliest.previous()).to_string();
            Refusal::new(ErrorReason::CursorExpired, message).with("earliest_cursor", cursor)
        }
        ReadError::Corrupt { seq, cause } => {
            tracing::error!(sequence = seq.get(), ?cause, "{message}");
            let refusal = Refusal::new(ErrorReason::RecordCorrupt, message);
            if seq == Seq::ZERO {
                return refusal;
            }
            refusal.with("sequence", seq.to_string())
        }
        ReadError::Fault(cause) => {
            tracing::error!(cause = format!("{cause:#}"), "the journal can't be read");
            Refusal::new(ErrorReason::JournalUnavailable, message)
        }
    }
}

/// An event that can't be given.
pub fn not_given(journal: JournalId, error: GetError) -> Refusal {
    match error {
        GetError::Cursor(error) => bad_cursor(&error),
        GetError::Org(error) => error.into(),
        GetError::NotFound => Refusal::new(ErrorReason::EventNotFound, error.to_string()),
        GetError::Read(error) => unreadable(journal, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Seq;

    const JOURNAL: JournalId = JournalId {
        id: [1; 8],
        epoch: 1,
    };

    fn check(refusal: Refusal, code: Code, reason: &str) -> ErrorDetails {
        let status = Status::from(refusal);
        assert_eq!(status.code(), code);
        let details = status.get_error_details();
        let info = details.error_info().expect("every status has ErrorInfo");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (reason, DOMAIN)
        );
        details
    }

    #[test]
    fn what_passes_by_itself_says_how_long_to_wait() {
        let status = Status::from(Refusal::from(AppendError::Overloaded));
        assert_eq!(
            status.metadata().get("grpc-retry-pushback-ms").unwrap(),
            "250"
        );
        let details = check(
            AppendError::Overloaded.into(),
            Code::Unavailable,
            "OVERLOADED",
        );
        assert!(details.retry_info().is_some());
        let full = AppendError::StorageFull {
            free_bytes: 1,
            reserve_bytes: 2,
        };
        let details = check(full.into(), Code::ResourceExhausted, "STORAGE_FULL");
        assert!(details.retry_info().is_some());
    }

    #[test]
    fn an_expired_cursor_names_the_earliest() {
        let error = ReadError::Trimmed {
            asked: Seq::new(3),
            earliest: Seq::new(9),
        };
        let details = check(
            unreadable(JOURNAL, error),
            Code::OutOfRange,
            "CURSOR_EXPIRED",
        );
        let cursor = &details.error_info().unwrap().metadata["earliest_cursor"];
        assert_eq!(Cursor::parse(cursor).unwrap().seq, Seq::new(8));
    }

    #[test]
    fn storage_errors_keep_their_meaning() {
        check(
            AppendError::OutcomeUnknown.into(),
            Code::Unavailable,
            "STORAGE_FAULT",
        );
        check(
            AppendError::ShuttingDown.into(),
            Code::Unavailable,
            "SHUTTING_DOWN",
        );
        let damaged = AppendError::Damaged {
            uuid: "u".to_owned(),
            problem: "it is damaged".to_owned(),
        };
        check(damaged.into(), Code::DataLoss, "RECORD_CORRUPT");
        let damaged = ReadError::Corrupt {
            seq: Seq::new(5),
            cause: None,
        };
        let details = check(
            unreadable(JOURNAL, damaged),
            Code::DataLoss,
            "RECORD_CORRUPT",
        );
        assert_eq!(details.error_info().unwrap().metadata["sequence"], "5");
        let fault = ReadError::Fault(anyhow::anyhow!("EIO"));
        check(
            unreadable(JOURNAL, fault),
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
        );
    }

    #[test]
    fn what_was_sent_is_not_echoed_without_bound() {
        let long = "ä".repeat(100_000);
        let refusal = Refusal::field(ErrorReason::FieldInvalid, &long, long.clone());
        let status = Status::from(refusal.with("nearest", "a"));
        assert!(status.message().len() < 1100 && status.details().len() < 4000);
        assert!(status.get_error_details().error_info().is_some());
    }

    #[test]
    fn bad_fields_are_named() {
        let error = FieldError::new("filter.causes[1]", "unknown");
        let details = check(bad_filter(error), Code::InvalidArgument, "FILTER_INVALID");
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "filter.causes[1]"
        );
    }
}
