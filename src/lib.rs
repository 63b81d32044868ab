//! Provident takes in what Okta reports about provisioning, says what each failure means, keeps
//! it durably and streams it over gRPC.

pub mod cli;
pub mod config;
pub mod domain;
pub mod okta;
pub mod server;
pub mod wire;
