//! Provident takes in what Okta reports about provisioning, says what each failure means and who
//! has to act, keeps it durably, and streams it over gRPC to the services that need to know.
//!
//! # How an event goes through
//!
//! ```text
//!  event hook ────┐
//!  System Log ────┤
//!  gRPC Ingest ───┴→ okta: read ─→ domain: classify ─→ wire: encode ─→ engine: writer ─→ journal
//!                                                                           │ after the flush
//!                               gRPC Subscribe ←─ engine: readers ←─ tail ←─┘
//!                                                         └────────────────────────←─ journal
//! ```
//!
//! Reading, classifying and encoding happen in parallel, on whichever thread took the call. One
//! writer then appends what has queued as one batch, flushes once, shows the batch to the readers
//! and answers the callers, in this order. An event is encoded once: the bytes that are stored are
//! the bytes that streams send ([`wire::record`]).
//!
//! # What is where, in reading order
//!
//! - [`domain`]: events, classifications, the catalogue, the rules, filters, cursors. Pure.
//! - [`okta`]: what Okta sends, read into the domain, and the client that asks for it. [`wire`]: the
//!   contract's messages and the layout of a record. [`journal`]: the durable log behind one trait.
//!   None of the three names another.
//! - [`engine`]: the calls a transport can make; the writer, the readers, pages; the poller, and how
//!   each way in is.
//! - [`grpc`] and [`http`]: the transports; no rule of the domain is in them.
//! - [`server`] joins the parts and knows which journal runs; [`cli`] is the command line.
//! - [`client`] is what other programs read the stream with. It names [`wire`] alone: without the
//!   feature `server` the crate is these two, for programs that only read.
//! - [`config`], [`shutdown`] and [`telemetry`] name nothing else of ours.
//!
//! # What must never be
//!
//! - An answer `ACCEPTED`, or an event on a stream, before the flush that makes it durable.
//! - A sequence that changes, or is used twice.
//! - A task that dies unseen, a queue without a bound, a lock held across `.await`.
//! - A use of a module further down this list by one further up; a test checks that.

// The map above leads to what is left out then; with the feature its links are checked.
#![cfg_attr(
    not(feature = "server"),
    expect(rustdoc::broken_intra_doc_links, reason = "the server is left out")
)]

#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod journal;
#[cfg(feature = "server")]
pub mod okta;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod shutdown;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod wire;
