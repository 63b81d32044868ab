//! What makes two arrivals the same event: org and uuid; and what makes them contradict.
//!
//! The journal keeps both as bytes and never reads them; this is the only place that does.
//! A fingerprint outlives the event itself, so it holds digests and not text.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::domain::event::{ProvisioningEvent, Published};
use crate::journal::{DedupeKey, Fingerprint};

const MISSING: u8 = 0;
const INSTANT: u8 = 1;
const TEXT: u8 = 2;

/// The key that an event deduplicates on. A cryptographic digest, so that nobody who may send
/// events can make one that hides another.
pub fn dedupe_key(org: &str, uuid: &str) -> DedupeKey {
    let digest = Sha256::new()
        .chain_update(org.as_bytes())
        // A byte that neither part has: hosts are ASCII without controls, and JSON text never
        // starts an org.
        .chain_update([0])
        .chain_update(uuid.as_bytes())
        .finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    DedupeKey(key)
}

/// Type and published time of an event.
///
/// | bytes | content |
/// |---|---|
/// | 4 | low half of XXH3-64 of the event type |
/// | 1 | 0 = not published, 1 = an instant, 2 = text that is no time |
/// | 12 | instant: seconds (8) and nanoseconds (4), big endian; text: XXH3-64 and four zeros |
pub fn fingerprint(event: &ProvisioningEvent) -> Fingerprint {
    let mut bytes = [0; 17];
    bytes[..4].copy_from_slice(&xxh3_64(event.event_type.as_bytes()).to_be_bytes()[4..]);
    match &event.published {
        Published::Missing => bytes[4] = MISSING,
        Published::At(time) => {
            bytes[4] = INSTANT;
            bytes[5..13].copy_from_slice(&time.seconds.to_be_bytes());
            bytes[13..].copy_from_slice(&time.nanos.to_be_bytes());
        }
        Published::Text(text) => {
            bytes[4] = TEXT;
            bytes[5..13].copy_from_slice(&xxh3_64(text.as_bytes()).to_be_bytes());
        }
    }
    Fingerprint(bytes)
}

/// Which field of two events with one key contradicts, if one does.
///
/// A missing time contradicts nothing. A time and a text that is no time can't be the same.
pub fn conflict(known: &Fingerprint, new: &Fingerprint) -> Option<&'static str> {
    if known.0[..4] != new.0[..4] {
        return Some("eventType");
    }
    let missing = known.0[4] == MISSING || new.0[4] == MISSING;
    (!missing && known.0[4..] != new.0[4..]).then_some("published")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Timestamp;

    fn event(event_type: &str, published: Published) -> ProvisioningEvent {
        ProvisioningEvent {
            event_type: event_type.into(),
            published,
            ..ProvisioningEvent::default()
        }
    }

    fn check(known: (&str, Published), new: (&str, Published), expected: Option<&str>) {
        let [known, new] = [known, new].map(|(name, time)| fingerprint(&event(name, time)));
        assert_eq!(conflict(&known, &new), expected);
        assert_eq!(conflict(&new, &known), expected);
    }

    #[test]
    fn another_type_or_time_contradicts_and_a_missing_time_does_not() {
        let at = |seconds| Published::At(Timestamp { seconds, nanos: 0 });
        let text = |text: &str| Published::Text(text.into());
        check(("a", at(1)), ("a", at(1)), None);
        check(("a", at(1)), ("b", at(1)), Some("eventType"));
        check(("a", at(1)), ("a", at(2)), Some("published"));
        check(("a", at(1)), ("a", Published::Missing), None);
        check(("a", text("x")), ("a", text("x")), None);
        check(("a", text("x")), ("a", text("y")), Some("published"));
        check(("a", text("x")), ("a", at(0)), Some("published"));
    }

    #[test]
    fn org_and_uuid_do_not_run_together() {
        assert_ne!(dedupe_key("a", "bc"), dedupe_key("ab", "c"));
    }
}
