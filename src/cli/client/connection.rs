//! The way to a server, and what to say when it refuses or can't be reached.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::output::{OutputFormat, plain};
use crate::cli::UsageError;
use crate::config::client_defaults;

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Longer than a connection takes anywhere on earth, short enough to wait for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Larger than any answer: 500 results, or one event of the default limit with its raw JSON.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which server, and how to write what it says.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// Address of the server [default: http://127.0.0.1:50051] [env: PROVIDENT_SERVER]
    #[arg(long, value_name = "URL")]
    pub(super) server: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// How to write results.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// How results are written: for people, or as JSON (protobuf's mapping), one object a line
    /// [default: text] [env: PROVIDENT_OUTPUT]
    #[arg(
        long,
        short,
        value_enum,
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    output: Option<OutputFormat>,
}

impl OutputArgs {
    pub(super) fn format(&self) -> anyhow::Result<OutputFormat> {
        match (self.output, client_defaults().output) {
            (Some(format), _) => Ok(format),
            (None, None) => Ok(OutputFormat::default()),
            (None, Some(text)) => clap::ValueEnum::from_str(&text, true).map_err(|_no_format| {
                UsageError(format!(
                    "PROVIDENT_OUTPUT must be text or json, here it is {text:?}"
                ))
                .into()
            }),
        }
    }
}

impl ClientArgs {
    /// The server's address: the flag, the variable, or the default.
    pub(super) fn address(&self) -> String {
        let given = self.server.clone().or_else(|| client_defaults().server);
        match given {
            Some(address) if address.contains("://") => address,
            Some(address) => format!("http://{address}"),
            None => DEFAULT_SERVER.to_owned(),
        }
    }

    /// Connects, or says why that can't be.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        connect(&self.address()).await
    }
}

pub(super) async fn connect(address: &str) -> anyhow::Result<Channel> {
    if address.starts_with("https://") {
        return Err(UsageError(format!(
            "{address}: this version speaks no TLS, use http:// (behind a proxy or a mesh that encrypts)"
        ))
        .into());
    }
    let endpoint = Endpoint::from_shared(address.to_owned())
        .ok()
        .filter(|endpoint| {
            endpoint.uri().host().is_some() && endpoint.uri().scheme_str() == Some("http")
        })
        .ok_or_else(|| {
            UsageError(format!(
                "{address:?} is no address of a server, write it as http://HOST:PORT"
            ))
        })?;
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|error| Unreachable {
            address: address.to_owned(),
            cause: innermost(&error),
        })
        .map_err(anyhow::Error::from)
}

/// Nobody answers at the server's address. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't reach {address}: {cause}\nhint: is the server running? start one with `provident serve`, or name another with --server"
)]
pub(super) struct Unreachable {
    address: String,
    cause: String,
}

/// The cause at the bottom: what stands above it says "transport error" only.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// A call that failed, with all that the server said about it.
#[derive(Clone, Debug)]
pub(super) struct CallError {
    pub(super) code: Code,
    /// An `ErrorReason` without its prefix; empty if the error is not Provident's.
    pub(super) reason: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) retry_delay: Option<Duration>,
    message: String,
    violations: Vec<(String, String)>,
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let (reason, metadata) = match info {
            Some(info) => (info.reason, info.metadata),
            None => (String::new(), HashMap::new()),
        };
        let cause = status
            .source()
            .map(innermost)
            .filter(|_| reason.is_empty())
            .filter(|cause| !status.message().contains(cause.as_str()));
        Self {
            code: status.code(),
            reason,
            metadata: metadata.into_iter().collect(),
            retry_delay: status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay),
            message: match cause {
                Some(cause) => format!("{}: {cause}", status.message()),
                None => status.message().to_owned(),
            },
            violations: status
                .get_details_bad_request()
                .map(|bad| {
                    bad.field_violations
                        .into_iter()
                        .map(|violation| (violation.field, violation.description))
                        .collect()
                })
                .unwrap_or_default(),
        }
    }
}

impl CallError {
    /// Nothing came for too long.
    pub(super) fn timed_out(after: Duration) -> Self {
        Self {
            code: Code::DeadlineExceeded,
            reason: String::new(),
            metadata: BTreeMap::new(),
            retry_delay: None,
            message: format!("no answer in {} s", after.as_secs()),
            violations: Vec::new(),
        }
    }

    /// Whether the same call may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        match self.reason.as_str() {
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

    /// What to do about it.
    fn hint(&self) -> Option<&'static str> {
        Some(match self.reason.as_str() {
            "" if self.code == Code::Unavailable => {
                "is the server running? start one with `provident serve`, or name another with --server"
            }
            "" if self.code == Code::Unimplemented => {
                "is that a Provident server, and not an older one?"
            }
            "CURSOR_EXPIRED" => {
                "events after it were removed by retention: go on from the earliest with --from earliest, \
                 or let --on-gap skip tell what is lost"
            }
            "CURSOR_FOREIGN_JOURNAL" => {
                "check --server; if it is right, start anew with --from earliest or a time"
            }
            "CURSOR_AHEAD" | "CURSOR_MALFORMED" => {
                "use a cursor as it was printed, or start with --from earliest, latest or a time"
            }
            "OVERLOADED" | "SHUTTING_DOWN" | "JOURNAL_UNAVAILABLE" | "STORAGE_FAULT" => {
                "try again in a moment"
            }
            "STORAGE_FULL" => "make room on the server's disk, it goes on by itself",
            "RECORD_CORRUPT" => "a stored event is damaged: tell whoever runs the server",
            "INTERNAL" => "this is a bug: the server's diagnostics have the details",
            _ => return None,
        })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = format!("{:?}", self.code);
        match self.reason.as_str() {
            "" => f.write_str(&code)?,
            reason => f.write_str(reason)?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", plain(&self.message))?;
        }
        for (field, problem) in &self.violations {
            if !self.message.contains(problem.as_str()) {
                write!(f, "\n  {}: {}", plain(field), plain(problem))?;
            }
        }
        if let Some(cursor) = self.metadata.get("earliest_cursor") {
            write!(f, "\n  the earliest is {}", plain(cursor))?;
        }
        match self.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallError {}

/// Waits between attempts: longer each time, and never the same for two clients.
#[derive(Debug)]
pub(super) struct Backoff {
    attempt: u32,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            attempt: 0,
            longest,
        }
    }

    /// The next attempt is the first one again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How long to wait, not shorter than the server asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        const SHORTEST: Duration = Duration::from_millis(200);
        let ceiling = SHORTEST
            .saturating_mul(1 << self.attempt.min(16))
            .min(self.longest);
        self.attempt += 1;
        // Every `RandomState` has keys of its own, so this is a random number.
        let random = RandomState::new().hash_one(self.attempt);
        let share = f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        match asked {
            // The server knows better than a guess that grows.
            Some(asked) => asked.max(SHORTEST).mul_f64(1.0 + share / 2.0),
            None => ceiling.mul_f64(0.5 + share / 2.0),
        }
    }
}

/// Runs a client command to its end.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let done = runtime.block_on(work);
    // A read of standard input may never come back.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn failed(code: Code, reason: &str) -> CallError {
        let mut details = ErrorDetails::new();
        if !reason.is_empty() {
            details.set_error_info(reason, "provident.dev", HashMap::new());
        }
        Status::with_error_details(code, "so it is", details).into()
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let check = |code, reason: &str, expected: bool| {
            assert_eq!(
                failed(code, reason).is_passing(),
                expected,
                "{code:?} {reason}"
            );
        };
        check(Code::Unavailable, "", true);
        check(Code::Unknown, "", true);
        check(Code::Unavailable, "OVERLOADED", true);
        check(Code::ResourceExhausted, "STORAGE_FULL", true);
        check(Code::OutOfRange, "CURSOR_EXPIRED", false);
        check(Code::Aborted, "FENCED", false);
        check(Code::DataLoss, "RECORD_CORRUPT", false);
        check(Code::Internal, "INTERNAL", false);
        check(Code::InvalidArgument, "", false);
        check(Code::Unimplemented, "", false);
    }

    #[test]
    fn an_error_names_reason_fields_and_next_step() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "CURSOR_EXPIRED",
            "provident.dev",
            HashMap::from([("earliest_cursor".to_owned(), "abc".to_owned())]),
        );
        details.set_bad_request(vec![FieldViolation::new("start", "too old")]);
        let error = CallError::from(Status::with_error_details(
            Code::OutOfRange,
            "events were trimmed",
            details,
        ));
        let text = error.to_string();
        for part in [
            "CURSOR_EXPIRED: events were trimmed\n",
            "\n  start: too old",
            "\n  the earliest is abc",
            "\nhint: ",
            "--from earliest",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn waits_grow_to_their_bound_and_heed_the_server() {
        let mut backoff = Backoff::new(Duration::from_secs(2));
        let first = backoff.next(None);
        assert!(first >= Duration::from_millis(100) && first <= Duration::from_millis(200));
        for _ in 0..100 {
            assert!(backoff.next(None) <= Duration::from_secs(2));
        }
        assert!(backoff.next(None) >= Duration::from_secs(1));
        let asked = backoff.next(Some(Duration::from_secs(9)));
        assert!(asked >= Duration::from_secs(9) && asked <= Duration::from_secs(14));
    }
}
