//! Events of the usual shape, read in one pass over their JSON.
//!
//! Okta nearly always sends what it documents: texts where texts belong, each name once. Such an
//! event is read here at once. Whatever is odd in any way, or no event at all, is left to
//! [`log_event`](super::log_event), which takes values apart as it needs them and says what is
//! wrong; where this module reads an event, that one reads the same (a test compares them).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::log_event::{NAME_BYTES_MAX, Purpose, published_text};
use crate::domain::event::{Entity, Outcome, ProvisioningEvent, Published, Transaction};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsualEvent {
    event_type: String,
    uuid: Option<String>,
    published: Option<String>,
    legacy_event_type: Option<String>,
    version: Option<String>,
    severity: Option<String>,
    display_message: Option<String>,
    outcome: Option<Object<UsualOutcome>>,
    actor: Option<Object<UsualEntity>>,
    target: Option<Vec<Object<UsualEntity>>>,
    transaction: Option<Object<UsualTransaction>>,
    client: Option<Object<UsualClient>>,
    debug_context: Option<Object<UsualDebugContext>>,
}

#[derive(Deserialize)]
struct UsualOutcome {
    result: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsualEntity {
    id: Option<String>,
    alternate_id: Option<String>,
    display_name: Option<String>,
    r#type: Option<String>,
    detail_entry: Option<Texts>,
}

#[derive(Deserialize)]
struct UsualTransaction {
    id: Option<String>,
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsualClient {
    ip_address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsualDebugContext {
    debug_data: Option<Texts>,
}

/// What is an object in the JSON: serde's structs take arrays as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Texts by name; null members are left out.
#[derive(Default)]
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;
        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    if let Some(value) = value {
                        texts.insert(name, value);
                    }
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(TextsVisitor)
    }
}

impl UsualEntity {
    fn into_entity(self) -> Option<Entity> {
        let entity = Entity {
            id: self.id.unwrap_or_default(),
            alternate_id: self.alternate_id.unwrap_or_default(),
            display_name: self.display_name.unwrap_or_default(),
            kind: self.r#type.unwrap_or_default(),
            detail: self.detail_entry.unwrap_or_default().0,
        };
        (entity != Entity::default()).then_some(entity)
    }
}

/// The event, if its shape is the usual one.
pub(super) fn read(json: &str, purpose: Purpose) -> Option<ProvisioningEvent> {
    let Object(usual): Object<UsualEvent> = serde_json::from_str(json).ok()?;
    let is_name = |name: &str| !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX;
    let has_uuid = usual.uuid.as_deref().is_some_and(is_name);
    if !is_name(&usual.event_type) || (purpose == Purpose::Keep && !has_uuid) {
        return None;
    }
    let (result, reason) = match usual.outcome {
        Some(Object(outcome)) => (outcome.result, outcome.reason),
        None => (None, None),
    };
    let (transaction_id, transaction_kind) = match usual.transaction {
        Some(Object(transaction)) => (transaction.id, transaction.r#type),
        None => (None, None),
    };
    let targets = usual.target.unwrap_or_default();
    Some(ProvisioningEvent {
        uuid: usual.uuid.unwrap_or_default().to_ascii_lowercase(),
        published: usual.published.map_or(Published::Missing, published_text),
        event_type: usual.event_type,
        legacy_event_type: usual.legacy_event_type.unwrap_or_default(),
        version: usual.version.unwrap_or_default(),
        severity: usual.severity.unwrap_or_default(),
        display_message: usual.display_message.unwrap_or_default(),
        outcome: Outcome {
            result: result.unwrap_or_default(),
            reason: reason.unwrap_or_default(),
        },
        actor: usual.actor.and_then(|actor| actor.0.into_entity()),
        targets: targets
            .into_iter()
            .filter_map(|target| target.0.into_entity())
            .collect(),
        transaction: Transaction {
            id: transaction_id.unwrap_or_default(),
            kind: transaction_kind.unwrap_or_default(),
        },
        client_ip: usual
            .client
            .and_then(|client| client.0.ip_address)
            .unwrap_or_default(),
        debug_data: usual
            .debug_context
            .and_then(|context| context.0.debug_data)
            .unwrap_or_default()
            .0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::okta::log_event::RawObject;

    /// Whatever is read here, the tolerant reader reads the same.
    fn check(json: &str, is_usual: Option<bool>) {
        for purpose in [Purpose::Keep, Purpose::Classify] {
            let usual = read(json, purpose);
            if let Some(expected) = is_usual {
                assert_eq!(usual.is_some(), expected, "{json}");
            }
            if let Some(usual) = usual {
                let tolerant = RawObject::parse(json).and_then(|raw| raw.into_event(purpose));
                assert_eq!(Ok(usual), tolerant, "{json}");
            }
        }
    }

    #[test]
    fn usual_events_are_read_and_odd_ones_left() {
        let event = |more: &str| format!(r#"{{"uuid":"U-1","eventType":"a.b"{more}}}"#);
        for usual in [
            "",
            r#","published":"2026-01-02T03:04:05.678Z","version":"0","target":null"#,
            r#","published":"","target":[{}],"actor":{"id":"1","detailEntry":{"a":"b","c":null}}"#,
            r#","debugContext":{"debugData":{"a":"1","a":null,"b":"\u00e4"}},"client":{"zone":[1]}"#,
            r#","outcome":{"result":"FAILURE","reason":null},"transaction":{"id":"t","detail":{}}"#,
        ] {
            check(&event(usual), Some(true));
        }
        for odd in [
            r#","version":0"#,
            r#","eventType":"c""#,
            r#","target":{"id":"1"}"#,
            r#","target":[null]"#,
            r#","outcome":{"reason":"\ud800"}"#,
            r#","outcome":{"\ud800":1}"#,
            r#","\ud800":1"#,
            r#","debugContext":{"debugData":{"n":1}}"#,
            r#","debugContext":{"debugData":"""#,
            r#","outcome":["FAILURE","Unauthorized"]"#,
            r#","client":["1.2.3.4"]"#,
            r#","target":[["0oa1","x","Slack","AppInstance",null]]"#,
            r#","debugContext":[{"a":"b"}]"#,
            "] ",
        ] {
            check(&event(odd), Some(false));
        }
        check(
            r#"["a.b","u",null,null,null,null,null,null,null,null,null,null,null]"#,
            Some(false),
        );
    }

    proptest! {
        #[test]
        fn both_readers_agree(
            members in proptest::collection::vec(
                "\"(uuid|eventType|published|version|target|actor|outcome|client|debugContext|transaction|x)\":(null|0|\"a\"|\"2026-01-02T03:04:05Z\"|\\[\\]|\\[\"a\",\"b\"\\]|\\[\\[\"1\",null,null,\"t\",null\\]\\]|\\[\\{\"id\":\"1\",\"type\":null\\},\\{\"id\":2\\}\\]|\\{\"id\":\"1\",\"debugData\":\\{\"a\":\"b\"\\}\\}|\\{\"result\":\"\\\\ud83d\"\\}|\\{\"detailEntry\":\\{\"k\":[1n\"]\\}\\}|\\{\"\\\\ud800\":1\\})",
                0..8,
            ),
        ) {
            check(&format!("{{{}}}", members.join(",")), None);
            check(&format!("{{\"eventType\":\"a\",\"uuid\":\"b\",{}}}", members.join(",")), None);
        }
    }
}
