//! `sources`: whether events come in, through `SourceService.ListSources`.

use std::fmt::Write as _;

use anstyle::Style;
use anyhow::bail;

use super::connection::{CallError, ClientArgs, block_on};
use super::output::{DIM, GREEN, OutputFormat, RED, YELLOW, emit, json_line, plain};
use super::page::shown_time;
use crate::wire::v1;
use crate::wire::v1::source_service_client::SourceServiceClient;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows each way in: when it last brought an event and last worked, how far behind it is, what Okta said \
of its rate limit, the last error, and when it is tried again.

Exit code: 0 if all are well, 1 if one is failing or silent for longer than is set (sources.failing_after, \
sources.silent_after).")]
pub struct SourcesArgs {
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &SourcesArgs) -> anyhow::Result<()> {
    let sources = block_on(async {
        let mut client = SourceServiceClient::new(args.client.connect().await?);
        let answer = client
            .list_sources(v1::ListSourcesRequest {})
            .await
            .map_err(CallError::from)?;
        Ok(answer.into_inner().sources)
    })?;
    let now = jiff::Timestamp::now();
    for source in &sources {
        match args.client.output.format()? {
            OutputFormat::Text => emit(&text(source, now))?,
            OutputFormat::Json => emit(&json_line("Source", source))?,
        }
    }
    let ill = sources
        .iter()
        .filter(|source| source.state() != v1::SourceState::Well)
        .count();
    if ill > 0 {
        bail!("{ill} of {} sources not well", sources.len());
    }
    Ok(())
}

fn text(source: &v1::Source, now: jiff::Timestamp) -> String {
    let name = match source.intake() {
        v1::Intake::Grpc => "gRPC",
        v1::Intake::EventHook => "event hook",
        v1::Intake::SystemLog => "System Log",
        v1::Intake::Unspecified => "unknown",
    };
    let org = match source.org.as_str() {
        "" => "any org",
        org => org,
    };
    // What failed last, if nothing has worked since.
    let seconds =
        |time: &Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    let retrying = seconds(&source.last_error_time) > seconds(&source.last_success_time);
    let is_poller = source.intake() == v1::Intake::SystemLog;
    let (style, state): (Style, &str) = match source.state() {
        v1::SourceState::Well if retrying && is_poller => (YELLOW, "trying again"),
        v1::SourceState::Well if retrying => (YELLOW, "the last one was refused"),
        v1::SourceState::Well if source.last_success_time.is_none() => (DIM, "nothing yet"),
        v1::SourceState::Well => (GREEN, "well"),
        v1::SourceState::Failing => (RED, "FAILING"),
        v1::SourceState::Silent => (RED, "SILENT"),
        v1::SourceState::Unspecified => (DIM, "unknown"),
    };
    let mut text = format!("{name}, {}: {style}{state}{style:#}\n", plain(org));
    let mut line = |name: &str, value: String| {
        // A text of our own takes any text.
        let _ = writeln!(text, "    {DIM}{name:<13}{DIM:#} {}", plain(&value));
    };
    let ago = |time: Option<prost_types::Timestamp>| {
        time.map_or_else(|| "never".to_owned(), |time| relative(time, now))
    };
    line("last event", ago(source.last_event_time));
    line("last success", ago(source.last_success_time));
    if let Some(lag) = source.lag {
        line("lag", duration(lag.seconds));
    }
    if let Some(limit) = &source.rate_limit {
        let until = limit.reset_time.map(|time| relative(time, now));
        let until = until.unwrap_or_default();
        line(
            "rate limit",
            format!(
                "{} of {} requests left, window ends {until}",
                limit.remaining, limit.limit
            ),
        );
    }
    if let Some(time) = source.next_attempt_time {
        line("next attempt", relative(time, now));
    }
    if !source.last_error.is_empty() {
        let at = ago(source.last_error_time);
        line("last error", format!("{} ({at})", source.last_error));
    }
    if let Some(gap) = &source.last_gap {
        let at = ago(gap.detected_time);
        let newest = gap.newest_published_time.map(shown_time);
        line(
            "gap",
            format!(
                "found {at}: Okta no longer took the place after {}; read again from {}",
                newest.unwrap_or_else(|| "the start".to_owned()),
                gap.resume_time.map(shown_time).unwrap_or_default()
            ),
        );
    }
    text
}

/// A time with how long ago it was, or until it is.
pub(super) fn relative(time: prost_types::Timestamp, now: jiff::Timestamp) -> String {
    let away = time.seconds - now.as_second();
    let at = shown_time(time);
    match away.signum() {
        0 => format!("now ({at})"),
        1 => format!("in {} ({at})", duration(away)),
        _ => format!("{} ago ({at})", duration(-away)),
    }
}

pub(super) fn duration(seconds: i64) -> String {
    let seconds = std::time::Duration::from_secs(seconds.max(0).unsigned_abs());
    humantime::format_duration(seconds).to_string()
}
