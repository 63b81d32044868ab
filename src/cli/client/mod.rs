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
mod probe;
mod rules;
mod sources;
mod split;
mod subscriptions;
mod tail;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

pub use self::ingest::IngestArgs;
pub use self::knowledge::{ApplicationsArgs, ClassifyArgs, DescribeArgs, EventTypesArgs};
pub use self::output::OutputClosed;
use self::output::{emit, note};
pub use self::probe::ProbeArgs;
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
        ClientCommand::Probe(args) => probe::run(&args),
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
