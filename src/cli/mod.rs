//! The command tree, and `serve`.
//!
//! What a command takes is defined beside what it does; here is what there is. Nothing here prints:
//! that is `client`'s alone.

#![expect(
    clippy::doc_markdown,
    reason = "doc comments of arguments are their help, which shows as it stands"
)]

pub mod client;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use self::client::{
    ApplicationsArgs, ClassifyArgs, DescribeArgs, EventTypesArgs, IngestArgs, ProbeArgs, ProtoArgs,
    RulesCommand, SourcesArgs, SubscriptionsCommand, TailArgs,
};
use crate::config::{self, Config, Flag, Flags, TracingConfig};
use crate::telemetry;
use crate::telemetry::trace::{self, TraceOptions, Traces};

/// The command was not used as it is meant; nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Says what Okta provisioning failures mean, keeps them durably and streams them over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "provident",
    version,
    after_help = "\
Try it:
  provident serve                          run it here, on loopback, keeping events in ./data
  provident ingest system-log.ndjson       give it what Okta reported
  provident tail --from earliest           see what that means, and follow
  provident classify event.json            the same for one event, without a server
  provident describe salesforce            what is known of an application or an event type
  provident sources                        whether events come in, and what is wrong if not
  provident subscriptions list             who reads, and how far behind each is
  provident journal new-epoch              after a backup was restored

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(ServeArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Check the configuration and show what is in effect, as TOML
    CheckConfig(CheckConfigArgs),
    /// Work on the journal of a service that is stopped
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Write a script that completes commands in a shell
    #[command(after_help = "\
Examples:
  provident completions bash > /etc/bash_completion.d/provident
  provident completions zsh > ~/.zfunc/_provident")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// After a backup was restored: refuse the cursors that were given before
    #[command(after_help = "\
Example:
  provident journal new-epoch --data-dir /data/journal

A restored journal goes on from where the backup was made: the places behind it get other events than \
those that readers may have seen there. With a new epoch their cursors are refused \
(CURSOR_FOREIGN_JOURNAL), so that nobody goes on behind events that he never got. Named subscriptions \
go on where the backup has them. Stop the service first.")]
    NewEpoch {
        /// TOML file with options [env: PROVIDENT_CONFIG]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory of the embedded journal [default: ./data] [env: PROVIDENT_DATA_DIR]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<OsString>,
    },
}

/// What needs no server of its own.
#[derive(Debug, Subcommand)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, and clap has no boxes"
)]
enum ClientCommand {
    /// Send events from files or standard input
    Ingest(IngestArgs),
    /// Show events as they come, or those that are kept
    Tail(TailArgs),
    /// Say what events mean, without keeping them
    Classify(ClassifyArgs),
    /// Tell what is known of an event type or an application
    Describe(DescribeArgs),
    /// List the event types that are known
    EventTypes(EventTypesArgs),
    /// List the applications that are known
    Applications(ApplicationsArgs),
    /// Show whether events come in: by which ways, when last, and what is wrong
    Sources(SourcesArgs),
    /// Work on named subscriptions: places that readers go on from
    #[command(subcommand)]
    Subscriptions(SubscriptionsCommand),
    /// Work on rules of your own
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Ask a server whether it is serving
    Probe(ProbeArgs),
    /// Write the .proto files, to make clients from
    Proto(ProtoArgs),
}

/// Options that have a flag. Their values are texts, so that all that is wrong is told at once.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Every option can stand in a TOML file (--config) and in the environment: `key` of [section] is the \
variable PROVIDENT_SECTION_KEY. A flag counts over a variable, a variable over the file, the file \
over the default. `provident check-config --explain` lists all options with what they are for.

Examples:
  provident serve
  provident serve --config /etc/provident/provident.toml
  provident serve --grpc-addr 0.0.0.0:50051 --allow-plaintext --data-dir /var/lib/provident

Events from an Okta org:
  PROVIDENT_HOOK_SECRET=...                                  takes its event hooks' deliveries
  PROVIDENT_OKTA_ORG_URL=https://acme.okta.com PROVIDENT_OKTA_API_TOKEN_FILE=token
                                                             polls its System Log
`provident sources` then shows whether they come.")]
struct ServeArgs {
    /// TOML file with options [env: PROVIDENT_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the gRPC server [default: 127.0.0.1:50051] [env: PROVIDENT_GRPC_ADDR]
    #[arg(long, value_name = "IP:PORT")]
    grpc_addr: Option<OsString>,
    /// Address that Okta's event hooks deliver to, once PROVIDENT_HOOK_SECRET or another secret is set
    /// [default: 127.0.0.1:8080] [env: PROVIDENT_HTTP_ADDR]
    #[arg(long, value_name = "IP:PORT")]
    http_addr: Option<OsString>,
    /// Address of metrics and probes [default: 127.0.0.1:9090] [env: PROVIDENT_ADMIN_ADDR]
    #[arg(long, value_name = "IP:PORT")]
    admin_addr: Option<OsString>,
    /// Directory of the embedded journal [default: ./data] [env: PROVIDENT_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<OsString>,
    /// TOML file with rules of your own, which count over the built-in ones [env: PROVIDENT_RULES]
    #[arg(long, value_name = "FILE")]
    rules: Option<OsString>,
    /// Which events are kept: provisioning, failures or all [default: provisioning] [env: PROVIDENT_KEEP]
    #[arg(long, value_name = "WHICH")]
    keep: Option<OsString>,
    /// Let anybody call who reaches an address beyond loopback, unencrypted [env: PROVIDENT_ALLOW_PLAINTEXT]
    #[arg(long)]
    allow_plaintext: bool,
    /// Diagnostics: error, warn, info, debug, trace, also by module [default: info] [env: PROVIDENT_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<OsString>,
    /// Form of diagnostics: text or json [default: text] [env: PROVIDENT_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<OsString>,
}

#[derive(Debug, clap::Args)]
struct CheckConfigArgs {
    /// Say of each option what it is for
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    serve: ServeArgs,
}

impl ServeArgs {
    fn flags(self) -> anyhow::Result<Flags> {
        let plaintext = self.allow_plaintext.then(|| "true".into());
        let flags = [
            ("--grpc-addr", "grpc.addr", self.grpc_addr),
            ("--http-addr", "http.addr", self.http_addr),
            ("--admin-addr", "admin.addr", self.admin_addr),
            ("--data-dir", "journal.data_dir", self.data_dir),
            ("--rules", "classify.rules_file", self.rules),
            ("--keep", "ingest.keep", self.keep),
            ("--allow-plaintext", "grpc.allow_plaintext", plaintext),
            ("--log-level", "log.level", self.log_level),
            ("--log-format", "log.format", self.log_format),
        ];
        let mut given = Vec::new();
        for (name, path, value) in flags {
            let Some(value) = value else { continue };
            let value = value.into_string().map_err(|value| {
                UsageError(format!("{name}: {} is no UTF-8 text", value.display()))
            })?;
            given.push(Flag { name, path, value });
        }
        Ok(Flags {
            config: self.config,
            given,
        })
    }
}

/// Runs the command to its end.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve(args.flags()?),
        Command::Client(command) => client::run(command),
        Command::CheckConfig(args) => client::check_config(args.serve.flags()?, args.explain),
        Command::Journal(JournalCommand::NewEpoch { config, data_dir }) => {
            let args = ServeArgs {
                config,
                data_dir,
                ..ServeArgs::default()
            };
            let config = Config::load(args.flags()?)?.config;
            client::new_epoch(crate::server::begin_epoch(&config)?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "provident", &mut script);
            client::completions(&String::from_utf8(script).context("the script is no text")?)
        }
    }
}

fn serve(flags: Flags) -> anyhow::Result<()> {
    let config = Config::load(flags)?.config;
    let log = telemetry::install_log(
        config.log.level.as_str(),
        match config.log.format {
            config::LogFormat::Text => telemetry::LogFormat::Text,
            config::LogFormat::Json => telemetry::LogFormat::Json,
        },
    )?;
    let metrics = telemetry::install_metrics().context("metrics can't be recorded")?;
    let traces = traces(&config.tracing)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let served = runtime.block_on(crate::server::serve(config, log, metrics));
    // Whatever still runs was given its time; a flush that hangs must not hold the process.
    runtime.shutdown_background();
    if let Some(traces) = traces {
        traces.finish();
    }
    served
}

fn traces(tracing: &TracingConfig) -> anyhow::Result<Option<Traces>> {
    let Some(url) = tracing.endpoint.traces() else {
        return Ok(None);
    };
    let traces = trace::install(TraceOptions {
        url,
        sample_ratio: tracing.sample_ratio.get(),
        export_timeout: tracing.export_timeout,
    });
    Ok(Some(traces.context("traces can't be recorded")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_sets_an_option_that_there_is() {
        let text = |text: &str| Some(OsString::from(text));
        let flags = ServeArgs {
            config: None,
            grpc_addr: text("127.0.0.1:0"),
            http_addr: text("127.0.0.1:0"),
            admin_addr: text("127.0.0.1:0"),
            data_dir: text("/d"),
            rules: text("/rules.toml"),
            keep: text("all"),
            allow_plaintext: true,
            log_level: text("debug"),
            log_format: text("json"),
        }
        .flags()
        .unwrap();
        assert_eq!(flags.given.len(), 9);
        for flag in flags.given {
            assert!(
                Config::keys().any(|key| key.path == flag.path),
                "{}",
                flag.path
            );
        }
    }

    #[test]
    fn help_is_worth_reading_and_names_no_internals() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command.clone().render_long_help().to_string();
            assert!(
                !help.contains("`PROVIDENT") && !help.contains("[`"),
                "{help}"
            );
        }
    }
}
