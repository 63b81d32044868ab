//! `ingest`: files or standard input to `EventService.Ingest`, in batches.
//!
//! Nothing is lost in between: what the server can't take now is sent again until it can, which
//! is safe because a known event is a duplicate. What it refuses is told with its place in the file.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::connection::{ANSWER_BYTES_MAX, CallError, ClientArgs, block_on};
use super::output::{OutputClosed, OutputFormat, emit, json_line, note, plain};
use super::split::{Content, Splitter};
use crate::cli::UsageError;
use crate::client::Backoff;
use crate::wire::v1;
use crate::wire::v1::event_service_client::EventServiceClient;

/// Half of what a server takes by default, so that envelopes with several events fit too.
const BATCH_EVENTS_MAX: usize = 500;

/// A quarter of what a server takes by default; more at once gains nothing.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Just under the server's default for a whole message, envelopes and pages included.
const PIECE_BYTES_MAX: usize = (16 << 20) - (64 << 10);

/// Longer than a full queue takes to drain; then the call is sent again.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  provident ingest system-log.ndjson
  provident ingest --org acme.okta.com page-1.json page-2.json
  provident ingest --rate 1000 last-year.ndjson
  curl -s https://acme.okta.com/api/v1/logs -H \"Authorization: SSWS $TOKEN\" | provident ingest -

The format is detected: one event a line (NDJSON), a JSON array (a page of the System Log), a single \
event or an event hook's envelope, compact or not. Sending something again is harmless: a known \
event is a duplicate and kept once. Events that are refused are told with their place in the file.

Exit code: 0 if all were taken, known or filtered; 1 if any was rejected or could not be sent.")]
pub struct IngestArgs {
    /// Files with events; - or none is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The org that they come from: its Okta host or an alias [default: the one that the server is
    /// configured for]
    #[arg(long, default_value = "", hide_default_value = true)]
    org: String,
    /// Calls under way at a time. With 1, events keep the order of the files; else calls may
    /// overtake each other
    #[arg(long, value_name = "CALLS", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    in_flight: u8,
    /// Events a second at the most, so that a long history leaves room to others
    #[arg(long, value_name = "EVENTS")]
    rate: Option<NonZeroU32>,
    /// How long to keep trying while the server is away or overloaded
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    retry_for: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

/// Where a piece of input stands.
#[derive(Clone, Debug)]
struct Place {
    file: Arc<str>,
    line: u64,
    element: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.element {
            Some(element) => write!(f, " [{element}]"),
            None => Ok(()),
        }
    }
}

/// What is sent in one call, and what was wrong before it could be sent.
#[derive(Debug, Default)]
struct Batch {
    inputs: Vec<v1::IngestInput>,
    places: Vec<Place>,
    bytes: usize,
    refused: Vec<(Place, String)>,
    /// Bytes of the files that lie behind it.
    read_bytes: u64,
}

/// An opened input.
struct Source {
    name: Arc<str>,
    input: Box<dyn Read + Send>,
    /// None for pipes.
    bytes: Option<u64>,
}

pub(super) fn run(args: &IngestArgs) -> anyhow::Result<()> {
    let sources = open(&args.files)?;
    let format = args.client.output.format()?;
    let bar = progress_bar(&sources);
    let mut tally = Tally {
        bar: bar.clone(),
        format,
        inputs: 0,
        accepted: 0,
        duplicate: 0,
        filtered: 0,
        rejected: 0,
    };
    let began = Instant::now();
    let done = block_on(send_all(args, sources, &mut tally));
    bar.finish_and_clear();
    let summary = tally.summary(began.elapsed());
    match (&done, format) {
        (Ok(()), OutputFormat::Text) => emit(&format!("{summary}\n"))?,
        _ if tally.inputs > 0 => note(&summary),
        _ => {}
    }
    done?;
    match tally.rejected {
        0 => Ok(()),
        1 => bail!("1 event was rejected"),
        n => bail!("{n} events were rejected"),
    }
}

/// Opens everything first, so that a misspelt name does not end the work in its middle.
fn open(files: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let stdin = || Source {
        name: "standard input".into(),
        input: Box::new(io::stdin()),
        bytes: None,
    };
    if files.is_empty() {
        if io::stdin().is_terminal() {
            return Err(UsageError(
                "no FILE was given and nothing is piped in; name files, pipe events in, or give - to type them"
                    .to_owned(),
            )
            .into());
        }
        return Ok(vec![stdin()]);
    }
    files
        .iter()
        .map(|path| {
            if path.as_os_str() == "-" {
                return Ok(stdin());
            }
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("can't read {name}"))?;
            let about = file
                .metadata()
                .with_context(|| format!("can't read {name}"))?;
            if about.is_dir() {
                bail!("can't read {name}: it is a directory, name the files in it");
            }
            Ok(Source {
                name: name.into(),
                input: Box::new(file),
                bytes: about.is_file().then_some(about.len()),
            })
        })
        .collect()
}

fn progress_bar(sources: &[Source]) -> ProgressBar {
    let total = sources
        .iter()
        .map(|source| source.bytes)
        .sum::<Option<u64>>();
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:32} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes}, {binary_bytes_per_sec}  {msg}",
        ),
    };
    let style = ProgressStyle::with_template(template).expect("the template is a literal");
    bar.with_style(style)
}

async fn send_all(
    args: &IngestArgs,
    sources: Vec<Source>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let client = EventServiceClient::new(args.client.connect().await?)
        .max_decoding_message_size(ANSWER_BYTES_MAX);
    let sender = Sender {
        client,
        org: args.org.clone(),
        retry_for: args.retry_for,
        bar: tally.bar.clone(),
        inputs_max: AtomicUsize::new(BATCH_EVENTS_MAX),
    };
    // The reader is one batch ahead; more would only fill memory.
    let (batches, received) = mpsc::channel(1);
    let pace = Pace::new(args.rate);
    let reader = tokio::task::spawn_blocking(move || read(sources, pace, &batches));
    let mut answers = ReceiverStream::new(received)
        .map(|batch| sender.send(batch))
        .buffered(args.in_flight.into());
    let mut sent = Ok(());
    while let Some(answer) = answers.try_next().await.transpose() {
        match answer {
            Ok((batch, results)) => tally.take(&batch, results)?,
            Err(error) => {
                sent = Err(error).context(
                    "not all was sent; sending it again is safe, known events are duplicates",
                );
                break;
            }
        }
    }
    // Without its receiver the reader ends at its next batch; on a pipe that may never come.
    drop(answers);
    sent?;
    reader.await.context("the reader of the input broke")?
}

/// Reads all sources in order. Ends quietly when nobody takes the batches any more.
fn read(
    sources: Vec<Source>,
    mut pacing: Pace,
    batches: &mpsc::Sender<Batch>,
) -> anyhow::Result<()> {
    let events_max = pacing.batch_events_max();
    let mut batch = Batch::default();
    let mut read_before = 0;
    for source in sources {
        let mut splitter = Splitter::new(source.input, PIECE_BYTES_MAX);
        loop {
            let next = splitter
                .next()
                .with_context(|| format!("can't read {}", source.name))?;
            batch.read_bytes = read_before + splitter.consumed;
            let Some(piece) = next else {
                break;
            };
            let place = Place {
                file: Arc::clone(&source.name),
                line: piece.line,
                element: piece.element,
            };
            let json = match piece.content {
                Content::Json(json) => json,
                Content::TooLarge { bytes } => {
                    batch.refused.push((
                        place,
                        format!("TOO_LARGE: {bytes} bytes, more than a message can carry ({PIECE_BYTES_MAX})"),
                    ));
                    continue;
                }
                Content::Unclosed => {
                    batch.refused.push((
                        place,
                        "EVENT_MALFORMED: the file ends before its array does, it may have been cut off".to_owned(),
                    ));
                    continue;
                }
            };
            let full =
                batch.inputs.len() == events_max || batch.bytes + json.len() > BATCH_BYTES_MAX;
            if full && !batch.inputs.is_empty() {
                let read_bytes = batch.read_bytes;
                pacing.wait(batch.inputs.len());
                if batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(());
                }
                batch.read_bytes = read_bytes;
            }
            batch.push(json, place);
        }
        read_before = batch.read_bytes;
    }
    pacing.wait(batch.inputs.len());
    // An error here means that nobody waits for the rest.
    _ = batches.blocking_send(batch);
    Ok(())
}

/// When which batch goes.
#[derive(Debug)]
struct Pace {
    rate: Option<NonZeroU32>,
    began: Instant,
    /// Events of the batches before.
    sent: u64,
}

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            rate,
            began: Instant::now(),
            sent: 0,
        }
    }

    /// A second's worth, so that a small rate is not one of bursts.
    fn batch_events_max(&self) -> usize {
        let rate = self.rate.and_then(|rate| rate.get().try_into().ok());
        rate.unwrap_or(BATCH_EVENTS_MAX).min(BATCH_EVENTS_MAX)
    }

    /// Blocks until the next batch goes, which has so many events.
    fn wait(&mut self, events: usize) {
        let due = self.next(events);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }

    /// How long after the begin the next batch goes.
    fn next(&mut self, events: usize) -> Duration {
        let due = self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_micros(self.sent.saturating_mul(1_000_000) / u64::from(rate.get()))
        });
        self.sent += events as u64;
        due
    }
}

impl Batch {
    fn push(&mut self, json: Bytes, place: Place) {
        self.bytes += json.len();
        self.inputs.push(v1::IngestInput {
            input: Some(v1::ingest_input::Input::Json(json)),
        });
        self.places.push(place);
    }
}

/// Sends batches until the server has answered for each event.
struct Sender {
    client: EventServiceClient<Channel>,
    org: String,
    retry_for: Duration,
    bar: ProgressBar,
    /// How many inputs a call may have, as far as the server has shown.
    inputs_max: AtomicUsize,
}

impl Sender {
    async fn send(&self, batch: Batch) -> anyhow::Result<(Batch, Vec<v1::IngestResult>)> {
        let mut results = Vec::with_capacity(batch.inputs.len());
        let all = batch.inputs.len();
        let inputs_max = self.inputs_max.load(Ordering::Relaxed);
        let mut parts: VecDeque<_> = (0..all)
            .step_by(inputs_max)
            .map(|start| start..all.min(start + inputs_max))
            .collect();
        while let Some(part) = parts.pop_front() {
            let inputs = &batch.inputs[part.clone()];
            match self.call(inputs).await {
                Ok(answer) => {
                    let offset = u32::try_from(part.start).expect("a batch is small");
                    results.extend(answer.into_iter().map(|mut result| {
                        result.input_index += offset;
                        result
                    }));
                }
                // The server's limits are lower than ours, or envelopes hold many events.
                Err(error) if is_too_large(&error) && part.len() > 1 => {
                    let half = part.len() / 2;
                    self.inputs_max.fetch_min(half, Ordering::Relaxed);
                    let middle = part.start + half;
                    parts.push_front(middle..part.end);
                    parts.push_front(part.start..middle);
                }
                Err(error) if is_too_large(&error) => results.push(v1::IngestResult {
                    input_index: u32::try_from(part.start).expect("a batch is small"),
                    status: v1::IngestStatus::Rejected.into(),
                    error: Some(v1::IngestError {
                        reason: v1::ErrorReason::TooLarge.into(),
                        message: "more than the server takes in one call".to_owned(),
                        field: String::new(),
                    }),
                    ..v1::IngestResult::default()
                }),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((batch, results))
    }

    async fn call(&self, inputs: &[v1::IngestInput]) -> Result<Vec<v1::IngestResult>, CallError> {
        let began = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let request = v1::IngestRequest {
                org: self.org.clone(),
                inputs: inputs.to_vec(),
            };
            let mut client = self.client.clone();
            let error = match tokio::time::timeout(CALL_TIMEOUT, client.ingest(request)).await {
                Ok(Ok(answer)) => {
                    self.bar.set_message("");
                    return Ok(answer.into_inner().results);
                }
                Ok(Err(status)) => CallError::from(status),
                Err(_elapsed) => CallError::timed_out(CALL_TIMEOUT),
            };
            let wait = backoff.next(error.retry_delay);
            if !error.is_passing() || began.elapsed() + wait > self.retry_for {
                return Err(error);
            }
            let why = match error.reason_name.as_str() {
                "" => "server away".to_owned(),
                reason => reason.to_lowercase().replace('_', " "),
            };
            self.bar.set_message(format!("{why}, trying again"));
            tokio::time::sleep(wait).await;
        }
    }
}

/// Refused for the size of the call as a whole, by Provident or by the transport.
fn is_too_large(error: &CallError) -> bool {
    error.reason_name == "TOO_LARGE"
        || (error.reason_name.is_empty() && error.code == tonic::Code::OutOfRange)
}

/// What became of the events so far.
struct Tally {
    bar: ProgressBar,
    format: OutputFormat,
    inputs: u32,
    accepted: u64,
    duplicate: u64,
    filtered: u64,
    rejected: u64,
}

impl Tally {
    fn take(&mut self, batch: &Batch, results: Vec<v1::IngestResult>) -> anyhow::Result<()> {
        let mut told: Vec<String> = batch
            .refused
            .iter()
            .map(|(place, problem)| format!("{place}: {problem}"))
            .collect();
        self.rejected += batch.refused.len() as u64;
        let mut lines = String::new();
        for mut result in results {
            match result.status() {
                v1::IngestStatus::Accepted => self.accepted += 1,
                v1::IngestStatus::Duplicate => self.duplicate += 1,
                v1::IngestStatus::Filtered => self.filtered += 1,
                v1::IngestStatus::Rejected | v1::IngestStatus::Unspecified => {
                    self.rejected += 1;
                    told.push(refusal(batch, &result));
                }
            }
            if self.format == OutputFormat::Json {
                // Counted over the whole run, as there is no call that the reader knows of.
                result.input_index = result.input_index.saturating_add(self.inputs);
                lines.push_str(&json_line("IngestResult", &result));
            }
        }
        let inputs = u32::try_from(batch.inputs.len()).expect("a batch is small");
        self.inputs = self.inputs.saturating_add(inputs);
        self.bar.set_position(batch.read_bytes);
        let written = self.bar.suspend(|| {
            for line in told {
                note(&line);
            }
            if lines.is_empty() {
                Ok(())
            } else {
                emit(&lines)
            }
        });
        match written {
            // Nobody reads the results any more, but the events are to be sent all the same.
            Err(error) if error.is::<OutputClosed>() => self.format = OutputFormat::Text,
            written => written?,
        }
        Ok(())
    }

    fn summary(&self, took: Duration) -> String {
        let total = self.accepted + self.duplicate + self.filtered + self.rejected;
        format!(
            "{total} events in {:.1} s: {} accepted, {} duplicate, {} filtered, {} rejected",
            took.as_secs_f64(),
            self.accepted,
            self.duplicate,
            self.filtered,
            self.rejected
        )
    }
}

/// A rejected event, its place first, so that editors can jump there.
fn refusal(batch: &Batch, result: &v1::IngestResult) -> String {
    let place = usize::try_from(result.input_index)
        .ok()
        .and_then(|index| batch.places.get(index))
        .map_or_else(|| "?".to_owned(), ToString::to_string);
    let error = result.error.clone().unwrap_or_default();
    let reason = error
        .reason()
        .as_str_name()
        .trim_start_matches("ERROR_REASON_");
    let within = match result.event_index {
        0 => String::new(),
        index => format!(" (event {index} of it)"),
    };
    let uuid = match result.uuid.as_str() {
        "" => String::new(),
        uuid => format!(" (uuid {})", plain(uuid)),
    };
    format!("{place}{within}: {reason}: {}{uuid}", plain(&error.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(texts: &[&'static str]) -> Vec<Batch> {
        let sources = texts
            .iter()
            .map(|text| Source {
                name: "f".into(),
                input: Box::new(text.as_bytes()),
                bytes: None,
            })
            .collect();
        let (sender, mut receiver) = mpsc::channel(100);
        read(sources, Pace::new(None), &sender).unwrap();
        drop(sender);
        let mut batches = Vec::new();
        while let Ok(batch) = receiver.try_recv() {
            batches.push(batch);
        }
        batches
    }

    #[test]
    fn batches_are_bounded_and_lose_nothing() {
        let text: &'static str = "{\"a\":1}\n".repeat(1201).leak();
        let found = batches(&[text, "[{}, {}]"]);
        let sizes: Vec<_> = found.iter().map(|batch| batch.inputs.len()).collect();
        assert_eq!(sizes, [500, 500, 203]);
        let last = found.last().unwrap();
        assert_eq!(last.read_bytes, text.len() as u64 + 8);
        assert_eq!(last.places[202].to_string(), "f:1 [1]");
        let large: &'static str = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20))
            .repeat(2)
            .leak();
        assert_eq!(batches(&[large]).len(), 2);
    }

    #[test]
    fn what_can_not_be_sent_is_told_with_its_place() {
        let found = batches(&["[{}"]);
        let (place, problem) = &found[0].refused[0];
        assert_eq!(place.to_string(), "f:1 [1]");
        assert!(problem.contains("cut off"), "{problem}");
    }

    #[test]
    fn a_refusal_says_where_and_why() {
        let batch = batches(&["{}\n{}"]).remove(0);
        let result = v1::IngestResult {
            input_index: 1,
            event_index: 2,
            uuid: "u1".to_owned(),
            error: Some(v1::IngestError {
                reason: v1::ErrorReason::EventMalformed.into(),
                message: "no `eventType`".to_owned(),
                field: "eventType".to_owned(),
            }),
            ..v1::IngestResult::default()
        };
        assert_eq!(
            refusal(&batch, &result),
            "f:2 (event 2 of it): EVENT_MALFORMED: no `eventType` (uuid u1)"
        );
    }

    #[test]
    fn batches_go_at_their_rate() {
        let mut slow = Pace::new(NonZeroU32::new(50));
        assert_eq!(slow.batch_events_max(), 50);
        let due: Vec<_> = [50, 50, 25, 25]
            .map(|events| slow.next(events).as_millis())
            .into();
        assert_eq!(due, [0, 1000, 2000, 2500]);
        let mut fast = Pace::new(None);
        assert_eq!(fast.batch_events_max(), BATCH_EVENTS_MAX);
        assert_eq!((fast.next(500), fast.next(500)), Default::default());
    }
}
