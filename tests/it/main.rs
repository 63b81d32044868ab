//! The outer tests: the built binary, real clients over sockets, real files.
//!
//! [`harness`] runs the server and [`fixtures`] makes what Okta would send; each other file tests
//! one feature, and says so in its head. [`tidy`] alone runs nothing: it reads the sources. The
//! tests know the contract (`proto/`) and the command line, and nothing of how the server works.
//! The binary is the one that cargo built, or the one that `PROVIDENT_BIN` names.
#![cfg(test)]

mod disk;
mod fixtures;
mod golden;
mod harness;
mod mock_okta;

mod backup;
mod bad_input;
mod classifier;
mod client;
mod damaged;
mod failing_disk;
mod full_disk;
mod history;
mod hook;
mod ingest;
mod kill;
mod labelled;
mod listing;
mod log_stream;
mod networks;
mod poller;
mod power_cut;
mod proxy;
mod retention;
mod rules;
mod service;
mod soak;
mod subscribe;
mod subscriptions;
mod tidy;
mod tls;
mod wrong_directory;
