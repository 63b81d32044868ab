//! `rules check`: what is wrong with a file of rules, before a server is given it.

use std::path::PathBuf;

use anyhow::anyhow;

use super::output::emit;
use crate::server::{UnusableRules, read_rules};

#[derive(Debug, clap::Subcommand)]
pub enum RulesCommand {
    /// Check a file of rules and tell every mistake with its line
    #[command(after_help = "\
Example of a file:
  version = \"2026-12-01\"
  [words]
  vault = [\"vault\", \"safe\"]
  [[rule]]
  id = \"acme.vault_sealed\"
  phrases = [\"{vault} .. sealed|locked\"]
  applications = [\"Acme Vault\"]
  cause = \"REMOTE_NOT_READY\"
  remediation = \"Ask the vault team to unseal {app}, then retry the task.\"
  source = \"run book, page 7\"
  matches = [\"The vault is currently sealed\"]
  misses = [\"The vault is open\"]

`provident classify --rules FILE --explain` shows what its rules make of an event, and \
`provident serve --rules FILE` runs with them. docs/rules.md tells all that a rule can say.")]
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub(super) fn run(command: &RulesCommand) -> anyhow::Result<()> {
    let RulesCommand::Check { file } = command;
    // To find mistakes is what this is for: they are no wrong usage.
    let classifier = read_rules(file).map_err(|mistakes| match mistakes {
        UnusableRules::Invalid { .. } => anyhow!("{mistakes}"),
        unreadable @ UnusableRules::Unreadable { .. } => unreadable.into(),
    })?;
    let rules = classifier.deployment_rules();
    let noun = if rules.len() == 1 { "rule" } else { "rules" };
    emit(&format!(
        "{}: {} {noun}, each decides its examples; the rule set is {}\n",
        file.display(),
        rules.len(),
        classifier.rule_set_version()
    ))
}
