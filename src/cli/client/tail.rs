//! `tail`: events as they come, or those that are kept, through `EventService.Subscribe`.
//!
//! Goes on by itself when the server restarts, ends the stream as planned or falls silent, so nothing
//! is missed; an event whose printing was cut short comes again. What trying again can't mend ends it
//! with the next step. As a subscription, what has been printed is committed.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::axis::axis;
use super::connection::{ClientArgs, block_on, client, told};
use super::output::{OutputFormat, emit, json_line, note};
use super::page::{Page, streamed};
use crate::client::{ClientError, EventStream, Item};
use crate::domain::classification::{Category, Cause, Disposition, Priority, Responder, Verdict};
use crate::domain::cursor::Cursor;
use crate::okta::log_event::parse_time;
use crate::wire::v1::subscribe_request::Start;
use crate::wire::{convert, v1};
use anyhow::{Context as _, bail};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  provident tail                                     failures and warnings from now on
  provident tail --from 2h --min-priority high       of the last two hours, and on
  provident tail --from earliest --stop-at-head --output json --all > all.ndjson
  provident tail --security-only --application Salesforce
  provident tail --event-type 'application.provision.group_push.*' --cause duplicate,target-not-found
  provident tail --subscription my-team --output json
  provident tail --expression 'outcome.reason co \"timeout\" and actor.id pr'

Values of one option are alternatives; all options given have to hold. Options that take several may \
be repeated or given a list with commas. When interrupted, it says the cursor to go on from.")]
pub struct TailArgs {
    /// Where to begin: earliest, latest, a cursor, a time (RFC 3339) or how long ago (30m, 2h, 7d)
    /// [default: latest; with --stop-at-head: earliest]
    #[arg(long, value_name = "WHERE", value_parser = parse_from)]
    from: Option<From>,
    /// Read as this subscription: what it wants, from its place on, which moves behind what is shown.
    /// Takes over from its reader
    #[arg(long, value_name = "ID", conflicts_with_all = ["from", "FilterArgs"])]
    subscription: Option<String>,
    /// End when all that is kept now has been shown
    #[arg(long)]
    stop_at_head: bool,
    /// End when so many events have been shown; that there are fewer, with --stop-at-head, is an error
    #[arg(long, value_name = "EVENTS")]
    count: Option<NonZeroUsize>,
    /// Give the event's JSON as Okta sent it, too
    #[arg(long)]
    include_raw: bool,
    /// What to do where events were removed by retention before they could be read
    #[arg(long, value_enum, default_value = "fail", value_name = "WHAT")]
    on_gap: OnGapArg,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which events")]
pub(super) struct FilterArgs {
    /// Verdicts [default: failure,warning,undetermined]
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = axis!(Verdict))]
    verdict: Vec<Verdict>,
    /// Every verdict, successes included
    #[arg(long, conflicts_with = "verdict")]
    all: bool,
    /// Event types, whole or as a beginning with * behind it
    #[arg(long, value_delimiter = ',', value_name = "TYPE")]
    event_type: Vec<String>,
    /// Categories
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = axis!(Category))]
    category: Vec<Category>,
    /// Causes
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = axis!(Cause))]
    cause: Vec<Cause>,
    /// Dispositions: whether somebody has to act
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = axis!(Disposition))]
    disposition: Vec<Disposition>,
    /// Responders: who has to act
    #[arg(long, value_delimiter = ',', ignore_case = true, value_parser = axis!(Responder))]
    responder: Vec<Responder>,
    /// The lowest priority
    #[arg(long, ignore_case = true, value_parser = axis!(Priority))]
    min_priority: Option<Priority>,
    /// Only failures to take access away
    #[arg(long)]
    security_only: bool,
    /// Orgs, by their Okta host
    #[arg(long, value_delimiter = ',')]
    org: Vec<String>,
    /// Okta's ids of applications (0oa…)
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    application_id: Vec<String>,
    /// Names of applications, whole; not cut at commas
    #[arg(long, value_name = "NAME")]
    application: Vec<String>,
    /// Okta's ids of groups (00g…)
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    group_id: Vec<String>,
    /// Okta's ids of users (00u…, 0ua…)
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    user_id: Vec<String>,
    /// Okta's ids of transactions
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    transaction_id: Vec<String>,
    /// An expression of Okta's log search over the event's JSON
    #[arg(long, value_name = "EXPR")]
    expression: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OnGapArg {
    /// Say what is lost and go on behind it
    Skip,
    /// End with an error
    Fail,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum From {
    Earliest,
    Latest,
    Cursor(String),
    Time(prost_types::Timestamp),
    Ago(Duration),
}

pub(super) fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "earliest" => return Ok(From::Earliest),
        "latest" | "now" => return Ok(From::Latest),
        _ => {}
    }
    if Cursor::parse(text).is_ok() {
        return Ok(From::Cursor(text.to_owned()));
    }
    if let Some(time) = parse_time(text) {
        return Ok(From::Time(convert::timestamp(time)));
    }
    humantime::parse_duration(text).map(From::Ago).map_err(|_no_duration| {
        "none of earliest, latest, a cursor (32 characters), a time such as 2026-01-31T08:00:00Z, a length of time such as 2h"
            .to_owned()
    })
}

impl From {
    pub(super) fn start(&self, now: jiff::Timestamp) -> Start {
        match self {
            Self::Earliest => Start::Position(v1::Position::Earliest.into()),
            Self::Latest => Start::Position(v1::Position::Latest.into()),
            Self::Cursor(cursor) => Start::Cursor(cursor.clone()),
            Self::Time(time) => Start::Time(*time),
            Self::Ago(ago) => {
                // Longer ago than there is time means from the beginning.
                let seconds = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
                let first = jiff::Timestamp::UNIX_EPOCH.as_second();
                Start::Time(prost_types::Timestamp {
                    seconds: now.as_second().saturating_sub(seconds).max(first),
                    nanos: 0,
                })
            }
        }
    }
}

impl FilterArgs {
    pub(super) fn message(&self) -> v1::Filter {
        fn numbers<T: Copy>(values: &[T], number: fn(T) -> u8) -> Vec<i32> {
            values.iter().map(|value| number(*value).into()).collect()
        }
        let verdicts = if self.all {
            Verdict::ALL
        } else {
            &self.verdict
        };
        v1::Filter {
            verdicts: numbers(verdicts, Verdict::number),
            event_types: self.event_type.clone(),
            categories: numbers(&self.category, Category::number),
            causes: numbers(&self.cause, Cause::number),
            dispositions: numbers(&self.disposition, Disposition::number),
            responders: numbers(&self.responder, Responder::number),
            min_priority: self.min_priority.map_or(0, |value| value.number().into()),
            security_only: self.security_only,
            orgs: self.org.clone(),
            application_ids: self.application_id.clone(),
            application_names: self.application.clone(),
            group_ids: self.group_id.clone(),
            user_ids: self.user_id.clone(),
            transaction_ids: self.transaction_id.clone(),
            expression: self.expression.clone().unwrap_or_default(),
        }
    }
}

pub(super) fn run(args: &TailArgs) -> anyhow::Result<()> {
    let from = match (&args.from, args.stop_at_head) {
        (Some(from), _) => from.clone(),
        (None, true) => From::Earliest,
        (None, false) => From::Latest,
    };
    let (start, filter) = match &args.subscription {
        Some(id) => (Start::SubscriptionId(id.clone()), None),
        None => (
            from.start(jiff::Timestamp::now()),
            Some(args.filter.message()),
        ),
    };
    let request = v1::SubscribeRequest {
        start: Some(start),
        filter,
        heartbeat_interval: None,
        on_gap: match args.on_gap {
            OnGapArg::Skip => v1::OnGap::Skip,
            OnGapArg::Fail => v1::OnGap::Fail,
        }
        .into(),
        stop_at_head: args.stop_at_head,
        include_raw: args.include_raw,
        reader: "provident tail".to_owned(),
    };
    let format = args.client.output.format()?;
    let address = args.client.address();
    let client = client(&address)?;
    block_on(async {
        let mut stream = client.subscribe(request);
        // Dropping the work in between is safe: what was printed is printed whole, and the stream
        // has come no further.
        let done = tokio::select! {
            done = follow(&mut stream, args.count, format, &address) => done,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("can't wait for signals"),
        };
        let cursor = stream.cursor().map(str::to_owned);
        let closed = stream.close().await;
        done?;
        closed
            .map_err(|error| told(&address, error))
            .context("the last of what was shown may come again")?;
        if let Some(cursor) = cursor.filter(|_| !args.stop_at_head && args.subscription.is_none()) {
            note(&format!("to go on from here: --from {cursor}"));
        }
        Ok(())
    })
}

/// Prints what comes, to the end of what was asked for.
async fn follow(
    stream: &mut EventStream,
    count: Option<NonZeroUsize>,
    format: OutputFormat,
    address: &str,
) -> anyhow::Result<()> {
    let count = count.map(NonZeroUsize::get);
    let mut done = 0;
    loop {
        let next = stream.next().await;
        let has_begun = stream.cursor().is_some();
        match next {
            Ok(None) => match count {
                Some(count) => bail!("there are {done} such events, not {count}"),
                None => return Ok(()),
            },
            Ok(Some(Item::Events(mut events))) => {
                events.truncate(count.map_or(usize::MAX, |count| count - done));
                emit(&shown(format, &events))?;
                if let Some(last) = events.last() {
                    stream.commit(last);
                }
                done += events.len();
                if count == Some(done) {
                    return Ok(());
                }
            }
            Ok(Some(Item::CaughtUp)) => {}
            Ok(Some(Item::Gap(gap))) => {
                note(&format!(
                    "lost: events {} to {} were removed before they could be read",
                    gap.first_lost_sequence, gap.last_lost_sequence
                ));
                stream.commit(&gap);
            }
            Ok(Some(Item::Interrupted(why))) if has_begun => {
                let why = match why {
                    ClientError::Refused(refusal) if refusal.reason_name.is_empty() => {
                        "the connection broke".to_owned()
                    }
                    ClientError::Refused(refusal) => {
                        format!("the server says {}", refusal.reason_name)
                    }
                    why => why.to_string(),
                };
                note(&format!("{why}; going on as soon as it can be reached"));
            }
            // Whoever names a server that was never there waits for nothing.
            Ok(Some(Item::Interrupted(why))) => return Err(told(address, why)),
            Err(error) => {
                let expired = error.reason() == Some(v1::ErrorReason::CursorExpired);
                let error = told(address, error);
                return Err(if expired && has_begun {
                    error.context("events were removed by retention before they could be shown")
                } else {
                    error
                });
            }
        }
    }
}

fn shown(format: OutputFormat, events: &[v1::StreamedEvent]) -> String {
    match format {
        OutputFormat::Json => events
            .iter()
            .map(|event| json_line("StreamedEvent", event))
            .collect(),
        OutputFormat::Text => {
            let mut page = Page::default();
            for event in events {
                streamed(&mut page, event);
            }
            page.0
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Probe {
        #[command(flatten)]
        tail: TailArgs,
    }

    fn parsed(args: &[&str]) -> TailArgs {
        let args = ["tail"].iter().chain(args);
        Probe::try_parse_from(args).unwrap().tail
    }

    #[test]
    fn a_beginning_is_a_word_a_cursor_a_time_or_a_length_of_time() {
        assert_eq!(parse_from("earliest"), Ok(From::Earliest));
        assert_eq!(parse_from("2h"), Ok(From::Ago(Duration::from_hours(2))));
        let time = prost_types::Timestamp {
            seconds: 0,
            nanos: 0,
        };
        assert_eq!(
            parse_from("1970-01-01T01:00:00+01:00"),
            Ok(From::Time(time))
        );
        assert!(parse_from("yesterday").is_err());
        assert!(parse_from("").is_err());
    }

    #[test]
    fn names_of_values_are_taken_in_any_spelling() {
        let filter = parsed(&[
            "--cause",
            "rate-limited,TIMEOUT",
            "--cause",
            "REMOTE_ERROR",
            "--min-priority",
            "High",
        ])
        .filter
        .message();
        assert_eq!(filter.causes, [1, 18, 16]);
        assert_eq!(filter.min_priority, 3);
        assert_eq!(parsed(&["--all"]).filter.message().verdicts.len(), 5);
        assert!(Probe::try_parse_from(["tail", "--cause", "bad-luck"]).is_err());
        assert!(Probe::try_parse_from(["tail", "--all", "--verdict", "failure"]).is_err());
        for other in ["--all", "--from=earliest", "--org=acme.okta.com"] {
            let args = ["tail", "--subscription=team", other];
            assert!(Probe::try_parse_from(args).is_err(), "{other}");
        }
        let args = ["tail", "--subscription=team", "--stop-at-head"];
        assert!(Probe::try_parse_from(args).is_ok());
        let filter = parsed(&["--application", "Box, Inc."]).filter.message();
        assert_eq!(filter.application_names, ["Box, Inc."]);
    }
}
