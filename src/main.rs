//! Parses the command line, runs it, tells the error chain once and sets the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use provident::cli::{self, Cli, client};

/// An event is read, classified and encoded in some hundred small allocations on any thread; the
/// system's allocator took a sixth of the processor's time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => client::report(&error),
    }
}
