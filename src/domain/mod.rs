//! What Provident knows about provisioning, and nothing of how it is stored or sent.
//!
//! Events, classifications, the catalogue, the filter and places in the journal are defined
//! here as plain values. This module must not name any other module of the crate, nor a crate
//! for I/O, time, tasks, gRPC or storage: what it needs of those comes in as arguments.

pub mod catalogue;
pub mod classification;
pub mod classify;
pub mod cursor;
pub mod event;
pub mod expression;
pub mod filter;
pub mod subscription;
