//! The commands that talk to a server, or answer in its place, and all that prints.
//!
//! Results go to standard output, everything else to standard error. Only what is in here writes
//! to either of them.

mod axis;
mod builtin;
mod connection;
mod ingest;
mod knowledge;
mod output;
mod page;
mod rules;
mod sources;
mod split;
mod subscriptions;
mod tail;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use self::connection::{CallError, ClientArgs, block_on};
pub use self::ingest::IngestArgs;
pub use self::knowledge::{ApplicationsArgs, ClassifyArgs, DescribeArgs, EventTypesArgs};
pub use self::output::OutputClosed;
use self::output::{OutputFormat, emit, note};
pub use self::rules::RulesCommand;
pub use self::sources::SourcesArgs;
pub use self::subscriptions::SubscriptionsCommand;
pub use self::tail::TailArgs;
use super::{ClientCommand, UsageError};
use crate::config::{Config, Flags};
use crate::domain::cursor::JournalId;
use crate::server::read_rules;
use crate::wire;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 if the server is SERVING, 1 if it is not or can't be reached. Made for probes of containers.")]
pub struct ProbeArgs {
    /// The service asked for, such as provident.v1.EventService [default: the server as a whole]
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    service: String,
    /// How long to wait for an answer
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub struct ProtoArgs {
    /// Directory to write to, made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs a command to its end.
pub(super) fn run(command: ClientCommand) -> anyhow::Result<()> {
    match command {
        ClientCommand::Ingest(args) => ingest::run(&args),
        ClientCommand::Tail(args) => tail::run(&args),
        ClientCommand::Classify(args) => knowledge::classify(&args),
        ClientCommand::Describe(args) => knowledge::describe(&args),
        ClientCommand::EventTypes(args) => knowledge::event_types(&args),
        ClientCommand::Applications(args) => knowledge::applications(&args),
        ClientCommand::Sources(args) => sources::run(&args),
        ClientCommand::Subscriptions(command) => subscriptions::run(&command),
        ClientCommand::Rules(command) => rules::run(&command),
        ClientCommand::Probe(args) => probe(&args),
        ClientCommand::Proto(args) => proto(&args),
    }
}

/// Shows the configuration that `serve` would run with.
pub(super) fn check_config(flags: Flags, explain: bool) -> anyhow::Result<()> {
    let loaded = Config::load(flags)?;
    if let Some(path) = &loaded.config.classify.rules_file {
        read_rules(path)?;
    }
    for warning in &loaded.config.warnings {
        note(&format!("warning: {warning}"));
    }
    emit(&loaded.to_toml(explain))
}

pub(super) fn new_epoch(id: JournalId) -> anyhow::Result<()> {
    let epoch = id.epoch;
    emit(&format!(
        "The journal is {id} now: cursors of epochs before {epoch} are refused.\n"
    ))
}

pub(super) fn completions(script: &str) -> anyhow::Result<()> {
    emit(script)
}

fn probe(args: &ProbeArgs) -> anyhow::Result<()> {
    let address = args.client.address();
    let ask = async {
        let mut client = HealthClient::new(args.client.connect().await?);
        let request = HealthCheckRequest {
            service: args.service.clone(),
        };
        let answer = client
            .check(request)
            .await
            .map_err(|status| match status.code() {
                tonic::Code::NotFound => {
                    anyhow!("{address} has no service called {:?}", args.service)
                }
                _ => CallError::from(status).into(),
            })?;
        Ok::<_, anyhow::Error>(answer.into_inner().status())
    };
    let answer = block_on(async { Ok(tokio::time::timeout(args.timeout, ask).await) })?;
    match answer {
        Err(_elapsed) => bail!(
            "{address} gave no answer in {}",
            humantime::format_duration(args.timeout)
        ),
        Ok(Err(error)) => Err(error),
        Ok(Ok(ServingStatus::Serving)) => match args.client.output.format()? {
            OutputFormat::Text => emit("SERVING\n"),
            OutputFormat::Json => emit("{\"status\":\"SERVING\"}\n"),
        },
        Ok(Ok(status)) => bail!(
            "{address} says {}: it is starting, stopping or broken",
            status.as_str_name()
        ),
    }
}

fn proto(args: &ProtoArgs) -> anyhow::Result<()> {
    for (name, content) in wire::PROTO_FILES {
        let path = args.dir.join(name);
        let dir = path.parent().expect("a file lies in a directory");
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
        emit(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// Tells why a command failed, once, and gives its exit code: 1 failed, 2 wrong usage.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    let mut causes = error.chain();
    if let Some(first) = causes.next() {
        note(&format!("error: {first}"));
    }
    for cause in causes {
        note(&format!("caused by: {cause}"));
    }
    let usage = error.is::<UsageError>()
        || error.is::<crate::config::InvalidConfig>()
        || error.is::<crate::server::UnusableRules>();
    ExitCode::from(if usage { 2 } else { 1 })
}
