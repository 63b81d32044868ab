//! One System Log entry (LogEvent): JSON to a domain event, and back where we build one.
//!
//! An Okta event is an object with text `eventType` and, where it is to be kept, text `uuid`.
//! Everything else may be absent, null or of another type than documented: such a value is read
//! as well as can be, and is no error. A name that occurs twice counts by its last value.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::json::{each_field, is_text, kind_of, text, text_map};
use super::usual;
use crate::domain::event::{Entity, Outcome, ProvisioningEvent, Published, Timestamp, Transaction};

/// Longest `uuid` and `eventType` that are taken. Okta's are 36 and under 120 characters long;
/// the bound keeps keys and error messages small.
pub const NAME_BYTES_MAX: usize = 256;

/// Why something is no Okta event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    #[error("not UTF-8: the first bad byte is at offset {offset}")]
    NotUtf8 { offset: usize },
    #[error("not JSON: {problem}")]
    NotJson { problem: String },
    #[error("an Okta event is one JSON object, this is {found}")]
    NotAnObject { found: &'static str },
    #[error("an Okta event has a text `{field}`, this has none{hint}")]
    Missing { field: &'static str, hint: String },
    #[error("`{field}` must be {expected}, here it is {found}")]
    WrongType {
        field: &'static str,
        expected: &'static str,
        found: &'static str,
    },
    #[error("`{field}` is {bytes} bytes long, at most {NAME_BYTES_MAX} are taken")]
    TooLong { field: &'static str, bytes: usize },
    #[error("the event is {bytes} bytes long, at most {bytes_max} are taken")]
    TooLarge { bytes: usize, bytes_max: usize },
}

impl NotAnEvent {
    /// The field it is about; empty where the whole input is meant.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing { field, .. }
            | Self::WrongType { field, .. }
            | Self::TooLong { field, .. } => field,
            _ => "",
        }
    }
}

/// Whether an event is read to be kept, and so needs a `uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Classify,
    Keep,
}

/// The members of a top-level object that we read, as the JSON they came as.
#[derive(Debug, Default)]
pub struct RawObject<'a> {
    uuid: Option<&'a RawValue>,
    published: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    legacy_event_type: Option<&'a RawValue>,
    version: Option<&'a RawValue>,
    severity: Option<&'a RawValue>,
    display_message: Option<&'a RawValue>,
    outcome: Option<&'a RawValue>,
    actor: Option<&'a RawValue>,
    target: Option<&'a RawValue>,
    transaction: Option<&'a RawValue>,
    client: Option<&'a RawValue>,
    debug_context: Option<&'a RawValue>,
    /// Members of the event hook's envelope.
    pub data: Option<&'a RawValue>,
    pub source: Option<&'a RawValue>,
    pub event_id: Option<&'a RawValue>,
    pub event_time: Option<&'a RawValue>,
    /// The LogEvent in a log stream's record.
    pub detail: Option<&'a RawValue>,
    /// Names that differ from `eventType` or `uuid` only in their spelling.
    lookalikes: Vec<String>,
}

impl<'a> RawObject<'a> {
    /// Reads the top level of a JSON text.
    pub fn parse(json: &'a str) -> Result<Self, NotAnEvent> {
        if !json.trim_ascii_start().starts_with('{') {
            // Valid JSON of another kind is told apart from what is no JSON at all.
            serde_json::from_str::<&RawValue>(json).map_err(|error| not_json(&error))?;
            return Err(NotAnEvent::NotAnObject {
                found: kind_of(json),
            });
        }
        let mut object = RawObject::default();
        each_field(json, |name, value| {
            let slot = match name {
                "uuid" => &mut object.uuid,
                "published" => &mut object.published,
                "eventType" => &mut object.event_type,
                "legacyEventType" => &mut object.legacy_event_type,
                "version" => &mut object.version,
                "severity" => &mut object.severity,
                "displayMessage" => &mut object.display_message,
                "outcome" => &mut object.outcome,
                "actor" => &mut object.actor,
                "target" => &mut object.target,
                "transaction" => &mut object.transaction,
                "client" => &mut object.client,
                "debugContext" => &mut object.debug_context,
                "data" => &mut object.data,
                "source" => &mut object.source,
                "eventId" => &mut object.event_id,
                "eventTime" => &mut object.event_time,
                "detail" => &mut object.detail,
                _ => {
                    if same_spelling(name, "eventType") || same_spelling(name, "uuid") {
                        object.lookalikes.push(name.to_owned());
                    }
                    return;
                }
            };
            *slot = Some(value);
        })
        .map_err(|error| not_json(&error))?;
        Ok(object)
    }

    /// The text of `eventType`, if it is text.
    pub fn event_type(&self) -> Option<String> {
        self.event_type
            .filter(|value| is_text(value))
            .and_then(text)
    }

    /// Takes the object as a LogEvent.
    pub fn into_event(self, purpose: Purpose) -> Result<ProvisioningEvent, NotAnEvent> {
        let event_type = self.name("eventType", self.event_type)?;
        let uuid = match purpose {
            Purpose::Keep => self.name("uuid", self.uuid)?,
            Purpose::Classify => self.uuid.and_then(text).unwrap_or_default(),
        };
        let mut event = ProvisioningEvent {
            uuid: uuid.to_ascii_lowercase(),
            published: self.published.map_or(Published::Missing, published),
            event_type,
            legacy_event_type: self.legacy_event_type.and_then(text).unwrap_or_default(),
            version: self.version.and_then(text).unwrap_or_default(),
            severity: self.severity.and_then(text).unwrap_or_default(),
            display_message: self.display_message.and_then(text).unwrap_or_default(),
            outcome: Outcome::default(),
            actor: self.actor.and_then(entity),
            targets: self.target.map(entities).unwrap_or_default(),
            transaction: Transaction::default(),
            client_ip: String::new(),
            debug_data: BTreeMap::new(),
        };
        members(self.outcome, |name, value| match name {
            "result" => event.outcome.result = text(value).unwrap_or_default(),
            "reason" => event.outcome.reason = text(value).unwrap_or_default(),
            _ => {}
        });
        members(self.transaction, |name, value| match name {
            "id" => event.transaction.id = text(value).unwrap_or_default(),
            "type" => event.transaction.kind = text(value).unwrap_or_default(),
            _ => {}
        });
        members(self.client, |name, value| {
            if name == "ipAddress" {
                event.client_ip = text(value).unwrap_or_default();
            }
        });
        members(self.debug_context, |name, value| {
            if name == "debugData" {
                event.debug_data = text_map(value);
            }
        });
        Ok(event)
    }

    /// A text that an Okta event must have.
    fn name(&self, field: &'static str, value: Option<&RawValue>) -> Result<String, NotAnEvent> {
        let missing = || NotAnEvent::Missing {
            field,
            hint: self
                .lookalikes
                .iter()
                .find(|name| same_spelling(name, field))
                .map_or(String::new(), |name| {
                    format!(" (it has `{name}`, but names are compared with their case)")
                }),
        };
        let value = value
            .filter(|value| value.get() != "null")
            .ok_or_else(missing)?;
        if !is_text(value) {
            let found = kind_of(value.get());
            return Err(NotAnEvent::WrongType {
                field,
                expected: "text",
                found,
            });
        }
        let name = text(value)
            .filter(|name| !name.trim().is_empty())
            .ok_or_else(missing)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(NotAnEvent::TooLong {
                field,
                bytes: name.len(),
            });
        }
        Ok(name)
    }
}

/// Whether two names differ at most in case and underscores.
fn same_spelling(name: &str, known: &str) -> bool {
    let plain = |name: &'_ str| name.replace('_', "").to_ascii_lowercase();
    name.len() <= known.len() + 2 && plain(name) == plain(known)
}

/// Reads one LogEvent.
pub fn parse(json: &str, purpose: Purpose) -> Result<ProvisioningEvent, NotAnEvent> {
    match usual::read(json, purpose) {
        Some(event) => Ok(event),
        None => RawObject::parse(json)?.into_event(purpose),
    }
}

/// Says where the text stops being JSON.
pub fn not_json(error: &serde_json::Error) -> NotAnEvent {
    NotAnEvent::NotJson {
        problem: error.to_string(),
    }
}

/// Members of what is valid JSON already, because it was cut out of a larger text.
fn members<'a>(value: Option<&'a RawValue>, field: impl FnMut(&str, &'a RawValue)) {
    if let Some(value) = value {
        each_field(value.get(), field).expect("a raw value is valid JSON");
    }
}

fn published(value: &RawValue) -> Published {
    text(value).map_or(Published::Missing, published_text)
}

/// What a text in the place of a time says.
pub(super) fn published_text(text: String) -> Published {
    if text.is_empty() {
        return Published::Missing;
    }
    parse_time(&text).map_or(Published::Text(text), Published::At)
}

/// An RFC 3339 time of the years 1 to 9999; `None` without a zone, or for a day or an offset that
/// does not exist.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    // jiff takes offsets of up to 25 hours.
    if let Some((_, offset)) = text.rsplit_once(['+', '-'])
        && offset.get(..2).is_some_and(|hours| hours > "23")
        && !text.ends_with(['Z', 'z'])
    {
        return None;
    }
    // Before 1970 jiff counts both parts down from zero; ours always counts nanoseconds up.
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
    let seconds = i64::try_from(seconds).ok()?;
    Timestamp::SECONDS.contains(&seconds).then_some(Timestamp {
        seconds,
        nanos: u32::try_from(nanos).ok()?,
    })
}

/// A time as Okta writes it: UTC, `Z`, at least milliseconds. `None` outside of years 0 to 9999.
pub fn format_time(time: Timestamp) -> Option<String> {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let time = jiff::Timestamp::from_nanosecond(nanos).ok()?;
    let precise = time.subsec_nanosecond() % 1_000_000 != 0;
    Some(if precise {
        format!("{time:.9}")
    } else {
        format!("{time:.3}")
    })
}

fn entity(value: &RawValue) -> Option<Entity> {
    let mut entity = Entity::default();
    members(Some(value), |name, value| match name {
        "id" => entity.id = text(value).unwrap_or_default(),
        "alternateId" => entity.alternate_id = text(value).unwrap_or_default(),
        "displayName" => entity.display_name = text(value).unwrap_or_default(),
        "type" => entity.kind = text(value).unwrap_or_default(),
        "detailEntry" => entity.detail = text_map(value),
        _ => {}
    });
    (entity != Entity::default()).then_some(entity)
}

fn entities(value: &RawValue) -> Vec<Entity> {
    if value.get().starts_with('[') {
        let items: Vec<&RawValue> =
            serde_json::from_str(value.get()).expect("a raw value is valid JSON");
        items.into_iter().filter_map(entity).collect()
    } else {
        entity(value).into_iter().collect()
    }
}

/// The LogEvent JSON of an event that did not come as JSON. Reading it gives the same event.
pub fn to_json(event: &ProvisioningEvent) -> String {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    set("uuid", text_or_null(&event.uuid));
    set(
        "published",
        match &event.published {
            Published::Missing => Value::Null,
            Published::At(time) => format_time(*time).map_or(Value::Null, Value::String),
            Published::Text(text) => Value::String(text.clone()),
        },
    );
    set("eventType", text_or_null(&event.event_type));
    set("legacyEventType", text_or_null(&event.legacy_event_type));
    set("version", text_or_null(&event.version));
    set("severity", text_or_null(&event.severity));
    set("displayMessage", text_or_null(&event.display_message));
    set(
        "outcome",
        json!({
            "result": text_or_null(&event.outcome.result),
            "reason": text_or_null(&event.outcome.reason),
        }),
    );
    set(
        "actor",
        event.actor.as_ref().map_or(Value::Null, entity_json),
    );
    set("target", event.targets.iter().map(entity_json).collect());
    set(
        "transaction",
        json!({
            "id": text_or_null(&event.transaction.id),
            "type": text_or_null(&event.transaction.kind),
        }),
    );
    set(
        "client",
        json!({ "ipAddress": text_or_null(&event.client_ip) }),
    );
    set("debugContext", json!({ "debugData": event.debug_data }));
    Value::Object(object).to_string()
}

fn entity_json(entity: &Entity) -> Value {
    json!({
        "id": text_or_null(&entity.id),
        "type": text_or_null(&entity.kind),
        "alternateId": text_or_null(&entity.alternate_id),
        "displayName": text_or_null(&entity.display_name),
        "detailEntry": entity.detail,
    })
}

fn text_or_null(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        Value::String(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_refused(json: &str, expected: &str) {
        let error = parse(json, Purpose::Keep).unwrap_err();
        assert!(error.to_string().contains(expected), "{json}: {error}");
    }

    #[test]
    fn what_is_no_okta_event_is_refused_with_its_reason() {
        check_refused("", "not JSON: EOF");
        check_refused("hello", "not JSON: expected value at line 1 column 1");
        check_refused("[1]", "an Okta event is one JSON object, this is an array");
        check_refused("3", "this is a number");
        check_refused(r#"{"a":}"#, "not JSON: expected value at line 1 column 6");
        check_refused(r#"{"eventType":"a"} x"#, "not JSON: trailing characters");
        check_refused(r#"{"uuid":"u"}"#, "has a text `eventType`, this has none");
        check_refused(r#"{"eventType":"a"}"#, "has a text `uuid`, this has none");
        check_refused(
            r#"{"eventType":"a","uuid":null}"#,
            "has a text `uuid`, this has none",
        );
        check_refused(
            r#"{"eventType":7,"uuid":"u"}"#,
            "`eventType` must be text, here it is a number",
        );
        check_refused(
            r#"{"eventType":"  ","uuid":"u"}"#,
            "has a text `eventType`, this has none",
        );
        check_refused(
            r#"{"event_type":"a","uuid":"u"}"#,
            "(it has `event_type`, but",
        );
        check_refused(
            &format!(r#"{{"eventType":"a","uuid":"{}"}}"#, "u".repeat(300)),
            "`uuid` is 300 bytes long",
        );
    }

    #[test]
    fn odd_shapes_are_read_as_well_as_can_be() {
        let event = parse(
            r#"{"eventType":"a.b","uuid":"ABC","published":"2017-09-31T00:00:00Z","version":0,
                "outcome":null,"target":null,"actor":"x","client":[],"debugContext":{"debugData":""},
                "severity":{"a":1},"transaction":{"type":null,"id":5},"x":[[[1]]]}"#,
            Purpose::Keep,
        )
        .unwrap();
        assert_eq!(event.uuid, "abc");
        assert_eq!(
            event.published,
            Published::Text("2017-09-31T00:00:00Z".into())
        );
        assert_eq!(event.version, "0");
        assert_eq!(event.severity, r#"{"a":1}"#);
        assert_eq!(
            event.transaction,
            Transaction {
                id: "5".into(),
                kind: String::new()
            }
        );
        assert_eq!(
            (event.actor, event.targets, event.outcome),
            (None, vec![], Outcome::default())
        );
    }

    #[test]
    fn targets_are_read_whatever_surrounds_them() {
        let event = parse(
            r#"{"eventType":"a","target":[null,1,{"id":"g","type":"UserGroup","displayName":"S",
                "detailEntry":{"n":1,"t":"x","none":null}}]}"#,
            Purpose::Classify,
        )
        .unwrap();
        let group = event.target("UserGroup").unwrap();
        assert_eq!((group.id.as_str(), group.display_name.as_str()), ("g", "S"));
        assert_eq!(
            group
                .detail
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect::<Vec<_>>(),
            [("n", "1"), ("t", "x")]
        );
    }

    #[test]
    fn a_time_needs_a_zone_and_a_day_that_exists() {
        let check = |text: &str, expected: Option<(i64, u32)>| {
            let time = parse_time(text).map(|time| (time.seconds, time.nanos));
            assert_eq!(time, expected, "{text}");
        };
        check("1970-01-01T00:00:01.500Z", Some((1, 500_000_000)));
        check("1969-12-31T23:59:59.500Z", Some((-1, 500_000_000)));
        check("1970-01-01T01:00:00+01:00", Some((0, 0)));
        check("2022-03-22 14:21:53.225", None);
        check("2017-09-31T00:00:00Z", None);
        check("%s", None);
        check("0000-01-01T00:00:00Z", None);
        check("2026-01-01T00:00:00+25:00", None);
        check("2026-01-01T23:59:59-23:59", Some((1_767_398_339, 0)));
        check("2026-11-30T23:59:59Z", Some((1_796_083_199, 0)));
    }

    #[test]
    fn two_thousand_levels_are_one_text() {
        let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
        let json = format!(
            r#"{{"eventType":"a","uuid":"u","debugContext":{{"debugData":{{"deep":{deep}}}}}}}"#
        );
        assert_eq!(
            parse(&json, Purpose::Keep).unwrap().debug_data["deep"],
            deep
        );
    }

    fn any_entity() -> impl Strategy<Value = Entity> {
        (
            "\\PC{0,8}",
            "\\PC{0,8}",
            "\\PC{1,8}",
            prop::collection::btree_map("\\PC{0,4}", "\\PC{0,8}", 0..3),
        )
            .prop_map(|(id, alternate_id, kind, detail)| Entity {
                id,
                alternate_id,
                display_name: "n".into(),
                kind,
                detail,
            })
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_refused(text in "\\PC{0,200}") {
            let _ = parse(&text, Purpose::Keep);
        }

        #[test]
        fn a_built_event_is_read_back_the_same(
            uuid in "[a-z0-9-]{1,36}", reason in "\\PC{0,60}", seconds in -100_000i64..4_000_000_000,
            nanos in 0u32..1_000_000_000, targets in prop::collection::vec(any_entity(), 0..3),
        ) {
            let event = ProvisioningEvent {
                uuid,
                event_type: "a.b".into(),
                published: Published::At(Timestamp { seconds, nanos }),
                outcome: Outcome { result: "FAILURE".into(), reason },
                targets,
                ..ProvisioningEvent::default()
            };
            prop_assert_eq!(parse(&to_json(&event), Purpose::Keep), Ok(event));
        }
    }
}
