//! The way to a server, and what to say when it refuses or can't be reached.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::output::{OutputFormat, plain};
use crate::cli::UsageError;
use crate::client::{Client, ClientError, Refusal};
use crate::config::client_defaults;

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

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
    let connected = client(address)?.connect().await;
    connected.map_err(|error| told(address, error))
}

/// The client of a server.
pub(super) fn client(address: &str) -> anyhow::Result<Client> {
    if address.starts_with("https://") {
        return Err(UsageError(format!(
            "{address}: this version speaks no TLS, use http:// (behind a proxy or a mesh that encrypts)"
        ))
        .into());
    }
    Client::new(address).map_err(|error| told(address, error))
}

/// An error as people are told of it.
pub(super) fn told(address: &str, error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Address { .. } => UsageError(error.to_string()).into(),
        ClientError::Refused(refusal) => CallError(*refusal).into(),
        ClientError::Unreachable { cause } => Unreachable {
            address: address.to_owned(),
            cause,
        }
        .into(),
        ClientError::Silent { .. } | ClientError::BrokenOff | ClientError::Stopping => error.into(),
    }
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

/// A call that failed, with all that the server said about it, and what to do.
#[derive(Clone, Debug)]
pub(super) struct CallError(Refusal);

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self(status.into())
    }
}

impl Deref for CallError {
    type Target = Refusal;

    fn deref(&self) -> &Refusal {
        &self.0
    }
}

impl CallError {
    /// Nothing came for too long.
    pub(super) fn timed_out(after: Duration) -> Self {
        Self(Refusal {
            code: Code::DeadlineExceeded,
            reason_name: String::new(),
            metadata: BTreeMap::new(),
            retry_delay: None,
            message: format!("no answer in {} s", after.as_secs()),
            violations: Vec::new(),
        })
    }

    /// What to do about it.
    fn hint(&self) -> Option<&'static str> {
        Some(match self.reason_name.as_str() {
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
        match self.reason_name.as_str() {
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
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

    use super::*;

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
}
