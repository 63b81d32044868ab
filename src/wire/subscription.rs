//! What is kept of a subscription, as bytes and back.
//!
//! Format 1 is the message [`StoredSubscription`] in protobuf's encoding, so that a later version may
//! add fields; numbers are never given anew. A golden file holds one.

use prost::Message as _;

use super::convert::{self, FieldError};
use super::v1;
use crate::domain::cursor::Seq;
use crate::domain::event::Timestamp;
use crate::domain::filter::Filter;

/// A subscription without its name, which is the key that it is kept under.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredSubscription {
    /// As the contract sends it, checked when it was set.
    #[prost(message, optional, tag = "1")]
    filter: Option<v1::Filter>,
    #[prost(uint64, tag = "2")]
    committed: u64,
    /// The right to commit; empty where nobody has it.
    #[prost(string, tag = "3")]
    pub session: String,
    /// Grows with each other filter.
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(message, optional, tag = "5")]
    create_time: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "6")]
    activity_time: Option<prost_types::Timestamp>,
}

impl StoredSubscription {
    pub fn new(filter: &Filter, committed: Seq, now: Timestamp) -> Self {
        Self {
            filter: Some(convert::filter(filter)),
            committed: committed.get(),
            create_time: Some(convert::timestamp(now)),
            ..Self::default()
        }
    }

    /// Reads what was kept; `None` if the bytes are not a subscription's.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Everything up to here is done with.
    pub fn committed(&self) -> Seq {
        Seq::new(self.committed)
    }

    pub fn set_committed(&mut self, place: Seq) {
        self.committed = place.get();
    }

    /// The filter as the contract sends it.
    pub fn filter_message(&self) -> v1::Filter {
        self.filter.clone().unwrap_or_default()
    }

    /// Bytes of the filter as protobuf.
    pub fn filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, v1::Filter::encoded_len)
    }

    /// The filter, ready to be used. A filter of a later version may hold what this one doesn't
    /// know.
    pub fn filter(&self) -> Result<Filter, FieldError> {
        convert::read_filter("filter", self.filter_message())
    }

    /// Sets another filter; the same one changes nothing. Tells whether it is another.
    pub fn set_filter(&mut self, filter: &Filter) -> bool {
        let filter = Some(convert::filter(filter));
        let is_other = self.filter != filter;
        if is_other {
            self.filter = filter;
            self.revision += 1;
        }
        is_other
    }

    /// Changes with the filter, and with the subscription if one of the same name is made again.
    pub fn etag(&self) -> String {
        let made = self.create_time.unwrap_or_default();
        format!("{:x}-{:x}-{:x}", made.seconds, made.nanos, self.revision)
    }

    pub fn create_time(&self) -> Option<prost_types::Timestamp> {
        self.create_time
    }

    /// When a reader last came, went away or committed; `None` if never.
    pub fn activity_time(&self) -> Option<prost_types::Timestamp> {
        self.activity_time
    }

    pub fn set_activity(&mut self, now: Timestamp) {
        self.activity_time = Some(convert::timestamp(now));
    }

    /// Since when nobody has used it, in seconds of the clock.
    pub fn unused_since(&self) -> i64 {
        self.activity_time
            .or(self.create_time)
            .map_or(0, |time| time.seconds)
    }
}
