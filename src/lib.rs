//! Provident.

pub mod config;
pub mod domain;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod journal;
pub mod okta;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod wire;
