//! `provident probe`: whether a server serves, and whether what goes in comes out.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::connection::{CallError, ClientArgs, Unreachable, block_on};
use super::output::{OutputFormat, emit};
use crate::domain::classification::Verdict;
use crate::engine::clock::Clock;
use crate::okta::log_event::format_time;
use crate::wire::v1::event_service_client::EventServiceClient;
use crate::wire::v1::subscribe_request::Start;
use crate::wire::v1::subscribe_response::Message;
use crate::wire::v1::{self, IngestStatus};

/// How long to wait before a server that can't be reached is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 if the server is SERVING, 1 if it is not or can't be reached. Made for probes of containers.

With --round-trip it is also 1 if the event does not come back. The event is a success of a user's push, \
which readers see only if they ask for more than failures; each one is new, and kept as others are.")]
pub struct ProbeArgs {
    /// The service asked for, such as provident.v1.EventService [default: the server as a whole]
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    service: String,
    /// How long to wait for an answer; with --round-trip also for the server to be reached
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Send an event as well, and wait until a stream brings it
    #[arg(long, conflicts_with = "service")]
    round_trip: bool,
    /// The org that the event is said to come from [default: the only configured one]
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "HOST",
        requires = "round_trip"
    )]
    org: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// What became of the event.
#[derive(Clone, Copy, Debug)]
enum RoundTrip {
    CameBack {
        sequence: u64,
    },
    /// The server keeps no successes.
    Filtered,
}

pub(super) fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let address = args.client.address();
    let ask = async {
        if args.round_trip {
            let channel = reach(&args.client).await?;
            serving(channel.clone(), &address, "").await?;
            Ok(Some(round_trip(channel, &args.org).await?))
        } else {
            serving(args.client.connect().await?, &address, &args.service).await?;
            Ok(None)
        }
    };
    let answer = block_on(async { Ok(tokio::time::timeout(args.timeout, ask).await) })?;
    let made = answer.unwrap_or_else(|_elapsed| {
        Err(anyhow!(
            "{address} gave no answer in {}",
            humantime::format_duration(args.timeout)
        ))
    })?;
    let (text, json) = match made {
        None => (String::new(), String::new()),
        Some(RoundTrip::CameBack { sequence }) => (
            format!("One event went in and came out again: sequence {sequence}.\n"),
            format!(",\"roundTrip\":\"CAME_BACK\",\"sequence\":\"{sequence}\""),
        ),
        Some(RoundTrip::Filtered) => (
            "One event was taken; as a success it is not kept (ingest.keep).\n".to_owned(),
            ",\"roundTrip\":\"FILTERED\"".to_owned(),
        ),
    };
    match args.client.output.format()? {
        OutputFormat::Text => emit(&format!("SERVING\n{text}")),
        OutputFormat::Json => emit(&format!("{{\"status\":\"SERVING\"{json}}}\n")),
    }
}

/// Connects; tries again as long as nobody is there.
async fn reach(client: &ClientArgs) -> anyhow::Result<Channel> {
    loop {
        match client.connect().await {
            Err(error) if error.is::<Unreachable>() => tokio::time::sleep(RETRY_DELAY).await,
            connected => return connected,
        }
    }
}

async fn serving(channel: Channel, address: &str, service: &str) -> anyhow::Result<()> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.map_err(|status| match status.code() {
        tonic::Code::NotFound => anyhow!("{address} has no service called {service:?}"),
        _ => CallError::from(status).into(),
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => bail!(
            "{address} says {}: it is starting, stopping or broken",
            status.as_str_name()
        ),
    }
}

/// Sends a new event, and waits for it as a reader who was there before.
async fn round_trip(channel: Channel, org: &str) -> anyhow::Result<RoundTrip> {
    let mut events = EventServiceClient::new(channel);
    let uuid = Uuid::new_v4().to_string();
    let verdicts = Verdict::ALL.iter().map(|verdict| verdict.number().into());
    let request = v1::SubscribeRequest {
        start: Some(Start::Position(v1::Position::Latest.into())),
        filter: Some(v1::Filter {
            verdicts: verdicts.collect(),
            expression: format!("uuid eq \"{uuid}\""),
            ..v1::Filter::default()
        }),
        ..v1::SubscribeRequest::default()
    };
    let refused = |status| anyhow::Error::from(CallError::from(status));
    let stream = events.subscribe(request).await.map_err(refused)?;
    let mut stream = stream.into_inner();
    let mut sent = None;
    while let Some(answer) = stream.message().await.map_err(refused)? {
        match (answer.message, sent) {
            (Some(Message::CaughtUp(_)), None) => match send(&mut events, org, &uuid).await? {
                Some(sequence) => sent = Some(sequence),
                None => return Ok(RoundTrip::Filtered),
            },
            (Some(Message::Batch(_)), Some(sequence)) => {
                return Ok(RoundTrip::CameBack { sequence });
            }
            _ => {}
        }
    }
    bail!("the stream ended before the event came");
}

/// Sends the event and gives its sequence, or nothing if it is not kept.
async fn send(
    events: &mut EventServiceClient<Channel>,
    org: &str,
    uuid: &str,
) -> anyhow::Result<Option<u64>> {
    let event = serde_json::json!({
        "uuid": uuid,
        "published": format_time(Clock::system().now()),
        "eventType": "application.provision.user.push",
        "severity": "INFO",
        "displayMessage": "Round trip of a probe",
        "outcome": { "result": "SUCCESS" },
    });
    let request = v1::IngestRequest {
        org: org.to_owned(),
        inputs: vec![v1::IngestInput {
            input: Some(v1::ingest_input::Input::Json(event.to_string().into())),
        }],
    };
    let answer = events.ingest(request).await.map_err(CallError::from)?;
    let result = answer.into_inner().results.pop().unwrap_or_default();
    match result.status() {
        IngestStatus::Accepted => Ok(Some(result.sequence)),
        IngestStatus::Filtered => Ok(None),
        status => {
            let error = result.error.unwrap_or_default();
            bail!("the event is {}: {}", status.as_str_name(), error.message)
        }
    }
}
