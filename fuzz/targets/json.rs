//! Any bytes are a LogEvent, a page, an envelope, or refused; and both readers of LogEvents agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use provident::domain::classify::classify;
use provident::okta::input;
use provident::okta::log_event::{self, Purpose, RawObject};

fuzz_target!(|bytes: &[u8]| {
    for purpose in [Purpose::Keep, Purpose::Classify] {
        let Ok(found) = input::read(bytes, purpose, 100) else {
            continue;
        };
        for event in found.iter().filter_map(|found| found.event.as_ref().ok()) {
            assert!(!classify(event).summary.is_empty());
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            let tolerant = RawObject::parse(text).and_then(|object| object.into_event(purpose));
            assert_eq!(log_event::parse(text, purpose), tolerant);
        }
    }
});
