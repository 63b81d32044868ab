//! Parses the command line, runs it, tells the error chain once and sets the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use provident::cli::{self, Cli, client};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => client::report(&error),
    }
}
