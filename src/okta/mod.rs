//! What Okta sends, read into what the domain knows.
//!
//! Okta's schema is not a contract: fields come and go, types vary, order is not fixed. So the
//! readers here take any shape of anything but the two fields that make an Okta event, and what
//! they can't use they leave in the raw JSON. `system_log` and `login` alone speak to Okta; nothing
//! here knows gRPC or storage.

pub mod expression;
pub mod group_push_failed;
pub mod input;
pub mod json;
pub mod log_event;
pub mod login;
pub mod org;
pub mod pace;
pub mod system_log;

mod usual;
