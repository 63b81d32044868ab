//! One input that holds events: a LogEvent, a System Log page, an event hook's envelope.
//!
//! An input is taken apart into its events, each with its own verdict, so one bad event never
//! takes its neighbours along. Only a text that is no JSON, or holds no event, is refused whole.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::json::{each_field, kind_of, text};
use super::log_event::{NotAnEvent, Purpose, RawObject, not_json};
use crate::domain::event::ProvisioningEvent;

/// The `eventType` of an event hook's envelope.
const ENVELOPE_TYPE: &str = "com.okta.event_hook";

/// What an event hook's envelope says beside its events; absent texts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `https://{org}/api/v1/eventHooks/{id}`.
    pub source: String,
    /// One for each delivery request, not for each event.
    pub event_id: String,
    pub event_time: String,
}

/// One event of an input, or why there is none at this place.
#[derive(Debug)]
pub struct Found<'a> {
    /// Exactly what was received of this event.
    pub json: &'a str,
    pub envelope: Option<Arc<Envelope>>,
    pub event: Result<ProvisioningEvent, NotAnEvent>,
}

/// Reads an input that is one LogEvent and nothing else.
pub fn read_one(input: &[u8], purpose: Purpose) -> Result<ProvisioningEvent, NotAnEvent> {
    let object = RawObject::parse(text_of(input)?)?;
    if object.event_type().as_deref() == Some(ENVELOPE_TYPE) {
        return Err(NotAnEvent::NotAnObject {
            found: "an event hook's envelope",
        });
    }
    object.into_event(purpose)
}

fn text_of(input: &[u8]) -> Result<&str, NotAnEvent> {
    match std::str::from_utf8(input) {
        Ok(text) => Ok(text.trim_ascii()),
        Err(error) => Err(NotAnEvent::NotUtf8 {
            offset: error.valid_up_to(),
        }),
    }
}

/// Takes an input apart. An input that is no JSON, or an envelope without events, is one `Found`
/// that says so; an empty page has none.
pub fn read(input: &[u8], purpose: Purpose) -> Vec<Found<'_>> {
    let json = match text_of(input) {
        Ok(json) => json,
        Err(problem) => {
            return vec![Found {
                json: "",
                envelope: None,
                event: Err(problem),
            }];
        }
    };
    if json.starts_with('[') {
        match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(items) => items
                .into_iter()
                .flat_map(|item| read_object(item.get(), purpose))
                .collect(),
            Err(error) => vec![Found {
                json,
                envelope: None,
                event: Err(not_json(&error)),
            }],
        }
    } else {
        read_object(json, purpose)
    }
}

fn read_object(json: &str, purpose: Purpose) -> Vec<Found<'_>> {
    let refused = |problem| {
        vec![Found {
            json,
            envelope: None,
            event: Err(problem),
        }]
    };
    let object = match RawObject::parse(json) {
        Ok(object) => object,
        Err(problem) => return refused(problem),
    };
    let event_type = object.event_type();
    let hooked = object.data.and_then(events_member);
    // Envelopes without `eventType` occur, so what tells one is that it carries events.
    let is_envelope = match event_type.as_deref() {
        Some(name) => name == ENVELOPE_TYPE,
        None => hooked.is_some(),
    };
    if !is_envelope {
        return vec![Found {
            json,
            envelope: None,
            event: object.into_event(purpose),
        }];
    }
    let Some(events) = hooked else {
        return refused(NotAnEvent::Missing {
            field: "data.events",
            hint: ", though its `eventType` is an event hook delivery's".to_owned(),
        });
    };
    let member = |value: Option<&RawValue>| value.and_then(text).unwrap_or_default();
    let envelope = Arc::new(Envelope {
        source: member(object.source),
        event_id: member(object.event_id),
        event_time: member(object.event_time),
    });
    let items: Vec<&RawValue> = match serde_json::from_str(events.get()) {
        Ok(items) => items,
        Err(_not_an_array) => {
            return refused(NotAnEvent::WrongType {
                field: "data.events",
                expected: "an array",
                found: kind_of(events.get()),
            });
        }
    };
    items
        .into_iter()
        .map(|item| Found {
            json: item.get(),
            envelope: Some(Arc::clone(&envelope)),
            event: RawObject::parse(item.get()).and_then(|object| object.into_event(purpose)),
        })
        .collect()
}

fn events_member(data: &RawValue) -> Option<&RawValue> {
    let mut events = None;
    each_field(data.get(), |name, value| {
        if name == "events" {
            events = Some(value);
        }
    })
    .expect("a raw value is valid JSON");
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &[Result<&str, &str>]) {
        let found: Vec<_> = read(input.as_bytes(), Purpose::Keep)
            .into_iter()
            .map(|found| match found.event {
                Ok(event) => Ok(event.uuid),
                Err(problem) => Err(problem.to_string()),
            })
            .collect();
        assert_eq!(found.len(), expected.len(), "{input}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            match (found, expected) {
                (Ok(uuid), Ok(expected)) => assert_eq!(uuid, expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                _ => panic!("{input}: {found:?} instead of {expected:?}"),
            }
        }
    }

    const GOOD: &str = r#"{"eventType":"a","uuid":"U1"}"#;

    #[test]
    fn a_bad_event_harms_no_neighbour() {
        check(GOOD, &[Ok("u1")]);
        check(
            &format!("[{GOOD}, 5, {{}}, {GOOD}]"),
            &[
                Ok("u1"),
                Err("this is a number"),
                Err("`eventType`"),
                Ok("u1"),
            ],
        );
        check("[]", &[]);
        check(&format!("[{GOOD}, {{]"), &[Err("not JSON")]);
    }

    #[test]
    fn an_envelope_is_known_by_its_type_or_its_events() {
        let source = "https://acme.okta.com/api/v1/eventHooks/who1";
        let with = |head: &str, data: &str| {
            format!(r#"{{{head}"source":"{source}","eventId":"d1","data":{data}}}"#)
        };
        let head = r#""eventType":"com.okta.event_hook","#;
        let events = format!(r#"{{"events":[{GOOD},null]}}"#);
        for head in [head, ""] {
            check(&with(head, &events), &[Ok("u1"), Err("this is null")]);
        }
        let json = with(head, &events);
        let found = read(json.as_bytes(), Purpose::Keep);
        assert_eq!(found[0].envelope.as_ref().unwrap().source, source);
        assert_eq!(found[0].json, GOOD);
        check(&with(head, "{}"), &[Err("`data.events`")]);
        check(
            &with(head, r#"{"events":{}}"#),
            &[Err("`data.events` must be")],
        );
        check(
            &format!(r#"{{"eventType":"a","uuid":"x","data":{events}}}"#),
            &[Ok("x")],
        );
    }

    #[test]
    fn bytes_that_are_no_text_say_where() {
        let found = read(b"{\"a\":\"\xff\"}", Purpose::Keep);
        assert_eq!(found[0].event, Err(NotAnEvent::NotUtf8 { offset: 6 }));
    }
}
