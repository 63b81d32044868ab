//! One input that holds events: a LogEvent, a System Log page, an event hook's envelope, a log
//! stream's record; an array of them, or one on each line.
//!
//! An input is taken apart into its events, each with its own verdict, so one bad event never
//! takes its neighbours along. Only a text that is no JSON, or holds no event, is refused whole.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::json::{self, each_field, elements, kind_of, text};
use super::log_event::{self, NotAnEvent, Purpose, RawObject, not_json};
use super::usual;
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
    let text = text_of(input)?;
    if let Some(event) = usual::read(text, purpose)
        && event.event_type != ENVELOPE_TYPE
    {
        return Ok(event);
    }
    let object = RawObject::parse(text)?;
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

/// Takes an input apart, if it has at most `events_max` events. An input that is no JSON, or an
/// envelope without events, is one `Found` that says so; an empty page has none.
///
/// # Errors
/// If there are more. They are counted and not read, so a long input costs no memory.
pub fn read(
    input: &[u8],
    purpose: Purpose,
    events_max: usize,
) -> Result<Vec<Found<'_>>, TooManyEvents> {
    let mut found = Finds {
        found: Vec::new(),
        events_max,
    };
    match text_of(input) {
        Err(problem) => found.push("", None, Err(problem))?,
        Ok(text) => match lines(text) {
            Some(lines) => {
                for line in lines {
                    found.read_value(line, purpose)?;
                }
            }
            None => found.read_value(text, purpose)?,
        },
    }
    Ok(found.found)
}

/// The lines of a text that is no single JSON value, but has one on at least one of its lines: then
/// a line that is broken takes no other along.
fn lines(text: &str) -> Option<impl Iterator<Item = &str>> {
    let lines = || text.lines().map(str::trim_ascii);
    let is_value = |text| serde_json::from_str::<&RawValue>(text).is_ok();
    let is_one = !text.contains('\n') || is_value(text);
    (!is_one && lines().any(|line| line.starts_with(['{', '[']) && is_value(line)))
        .then(|| lines().filter(|line| !line.is_empty()))
}

/// More events than a call may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are {events} events or more")]
pub struct TooManyEvents {
    /// As far as they were counted.
    pub events: usize,
}

/// The events found so far, and how many there may be.
struct Finds<'a> {
    found: Vec<Found<'a>>,
    events_max: usize,
}

impl<'a> Finds<'a> {
    fn push(
        &mut self,
        json: &'a str,
        envelope: Option<Arc<Envelope>>,
        event: Result<ProvisioningEvent, NotAnEvent>,
    ) -> Result<(), TooManyEvents> {
        if self.found.len() == self.events_max {
            return Err(self.too_many(1));
        }
        self.found.push(Found {
            json,
            envelope,
            event,
        });
        Ok(())
    }

    fn read_value(&mut self, json: &'a str, purpose: Purpose) -> Result<(), TooManyEvents> {
        if !json.starts_with('[') {
            return self.read_object(json, purpose);
        }
        let rest = self.events_max - self.found.len();
        match elements(json, rest) {
            Ok((items, all)) if all > items.len() => Err(self.too_many(all)),
            Ok((items, _)) => items
                .into_iter()
                .try_for_each(|item| self.read_object(item.get(), purpose)),
            Err(error) => self.push(json, None, Err(not_json(&error))),
        }
    }

    /// The error of `more` events beside those that were found.
    fn too_many(&self, more: usize) -> TooManyEvents {
        TooManyEvents {
            events: self.found.len() + more,
        }
    }

    fn read_object(&mut self, json: &'a str, purpose: Purpose) -> Result<(), TooManyEvents> {
        if let Some(event) = usual::read(json, purpose)
            && event.event_type != ENVELOPE_TYPE
        {
            return self.push(json, None, Ok(event));
        }
        let object = match RawObject::parse(json) {
            Ok(object) => object,
            Err(problem) => return self.push(json, None, Err(problem)),
        };
        let event_type = object.event_type();
        // A log stream's record is known by what it carries: its `detail-type` varies.
        if let (None, Some(detail)) = (&event_type, object.detail) {
            let event = log_event::parse(detail.get(), purpose);
            return self.push(detail.get(), None, event);
        }
        let hooked = object.data.and_then(events_member);
        // Envelopes without `eventType` occur, so what tells one is that it carries events.
        let is_envelope = match event_type.as_deref() {
            Some(name) => name == ENVELOPE_TYPE,
            None => hooked.is_some(),
        };
        if !is_envelope {
            return self.push(json, None, object.into_event(purpose));
        }
        let Some(events) = hooked else {
            let problem = NotAnEvent::Missing {
                field: "data.events",
                hint: ", though its `eventType` is an event hook delivery's".to_owned(),
            };
            return self.push(json, None, Err(problem));
        };
        let Ok((items, all)) = elements(events.get(), self.events_max - self.found.len()) else {
            let found = kind_of(events.get());
            let problem = NotAnEvent::WrongType {
                field: "data.events",
                expected: "an array",
                found,
            };
            return self.push(json, None, Err(problem));
        };
        if all > items.len() {
            return Err(self.too_many(all));
        }
        let member = |value: Option<&RawValue>| value.and_then(text).unwrap_or_default();
        let envelope = Arc::new(Envelope {
            source: member(object.source),
            event_id: member(object.event_id),
            event_time: member(object.event_time),
        });
        for item in items {
            let event = log_event::parse(item.get(), purpose);
            self.push(item.get(), Some(Arc::clone(&envelope)), event)?;
        }
        Ok(())
    }
}

/// The `source` of an event hook's envelope, if it says one.
pub fn envelope_source(input: &[u8]) -> Option<String> {
    let text = text_of(input).ok()?;
    RawObject::parse(text).ok()?.source.and_then(json::text)
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
        let found: Vec<_> = read(input.as_bytes(), Purpose::Keep, 100)
            .unwrap()
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
        let found = read(json.as_bytes(), Purpose::Keep, 100).unwrap();
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
    fn a_log_stream_s_record_carries_the_event_it_is_about() {
        let record = |detail: &str| {
            format!(
                r#"{{"version":"0","id":"r1","detail-type":"SystemLog","source":
                "aws.partner/okta.com/acme/logs","account":"1","resources":[],"detail":{detail}}}"#
            )
        };
        let one = record(GOOD);
        check(&one, &[Ok("u1")]);
        let found = read(one.as_bytes(), Purpose::Keep, 100).unwrap();
        assert_eq!(found[0].json, GOOD);
        check(
            &format!("[{one},{},{one}]", record("{}")),
            &[Ok("u1"), Err("`eventType`"), Ok("u1")],
        );
        check(&record("7"), &[Err("this is a number")]);
        // An event that has a field of that name stays what it is.
        check(
            r#"{"eventType":"a","uuid":"x","detail":{"eventType":"b","uuid":"y"}}"#,
            &[Ok("x")],
        );
    }

    #[test]
    fn each_line_may_be_an_input() {
        let envelope = format!(r#"{{"source":"s","data":{{"events":[{GOOD}]}}}}"#);
        check(
            &format!("{GOOD}\n\n  {envelope}\r\n[{GOOD},{GOOD}]\n"),
            &[Ok("u1"); 4],
        );
        check(
            &format!("{{\"broken\n{GOOD}\n5\n"),
            &[Err("not JSON"), Ok("u1"), Err("this is a number")],
        );
        let pretty = GOOD.replace(',', ",\n");
        check(&pretty, &[Ok("u1")]);
        check(&format!("{pretty}}}"), &[Err("not JSON")]);
        let lines = [GOOD; 4].join("\n");
        let found = read(lines.as_bytes(), Purpose::Keep, 3);
        assert_eq!(found.unwrap_err(), TooManyEvents { events: 4 });
    }

    #[test]
    fn bytes_that_are_no_text_say_where() {
        let found = read(b"{\"a\":\"\xff\"}", Purpose::Keep, 100).unwrap();
        assert_eq!(found[0].event, Err(NotAnEvent::NotUtf8 { offset: 6 }));
    }

    #[test]
    fn more_events_than_a_call_may_have_are_counted_and_not_read() {
        let count = |input: &str| read(input.as_bytes(), Purpose::Keep, 2).map(|found| found.len());
        let envelope = |events: &str| format!(r#"{{"source":"s","data":{{"events":[{events}]}}}}"#);
        assert_eq!(count("[0,0]"), Ok(2));
        assert_eq!(count("[0,0,0,0]"), Err(TooManyEvents { events: 4 }));
        assert_eq!(count(&envelope("0,0,0")), Err(TooManyEvents { events: 3 }));
        let two = envelope("0,0");
        assert_eq!(
            count(&format!("[{two},{two}]")),
            Err(TooManyEvents { events: 4 })
        );
    }
}
